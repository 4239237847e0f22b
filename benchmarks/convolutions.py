"""Claim: on a CPU, SLQ of a convolutional network takes at most 1.25 x its isolated Hessian-vector products, where a plain JAX loop of products takes more than 10 x.

Problem: two 3 x 3 convolutions (16 channels; 32, stride 2), ReLU, a dense layer, cross-entropy, 512 digits (8 x 8),
P = 9,930, float32, at a random init; 32 steps x 2 probes. The plain loop is what one writes without a library: the
product in `jax.lax.scan`. XLA's CPU compiler transposes convolutions into the layout it is fast at only outside loops;
what is above 1 are these transposes, of activations too, which stay the same and could be kept.
`ratio` is over as many isolated products, a jitted call each, of the same round; `ms` is for one product.

Errors: a probe's v'Hv and v'HHv by its Gauss rule against float64's products; of a product, its distance from float64's.
"""  # noqa: E501 -- the claim is one line

from __future__ import annotations

import os
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import hessjax as hj
from benchmarks.harness import Program, compare, prepare, row
from hessjax import trees
from hessjax.krylov import unit_start
from hessjax.objective import PRECISION

ISOLATED, OURS, PLAIN = "isolated products", "hj.slq", "plain JAX loop of products"
cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels


class Net(nn.Module):
    """Convolutions without normalisation, a dense layer."""

    channels: tuple[int, int]

    @nn.compact
    def __call__(self, x):
        for channels, stride in zip(self.channels, (1, 2)):
            x = nn.relu(nn.Conv(channels, (3, 3), strides=stride, precision=PRECISION)(x))
        return nn.Dense(10, precision=PRECISION)(x.reshape(len(x), -1))


def problem(*, channels: tuple[int, int], rows: int) -> hj.Hessian:
    """The Hessian at a random init."""
    pixels, labels = hj.landscapes.get("digits-mlp", pool=1, rows=rows).batch
    images = jnp.reshape(pixels, (-1, 8, 8, 1))
    net = Net(channels)
    model, params = hj.adapters.linen(net, net.init(jax.random.key(0), images))
    return hj.Hessian(hj.adapters.per_example(model, cross_entropy), params, (images, labels))


def run() -> list[dict[str, Any]]:
    """The rows: SLQ, as many isolated products, as many in a plain loop."""
    smoke = bool(os.environ.get("HESSJAX_SMOKE"))
    op = problem(channels=(2, 4), rows=32) if smoke else problem(channels=(16, 32), rows=512)
    steps, probes = (4, 2) if smoke else (32, 2)
    key, count = jax.random.key(1), steps * probes
    starts = jax.vmap(partial(unit_start, op))(jax.random.split(key, probes))  # those of slq with this key
    v = jax.tree.map(lambda x: x[0], starts)
    product = prepare(jax.jit(lambda op, v: op.mv(v)), op, v)
    programs = {
        ISOLATED: product._replace(call=partial(_calls, product, count)),
        OURS: prepare(jax.jit(partial(hj.slq, num_steps=steps, num_probes=probes)), op, key),
        PLAIN: prepare(jax.jit(partial(_plain, count)), op, v),
    }
    costs = compare(programs, rounds=2 if smoke else 7)
    wrong = _errors(op, starts, {name: program.call() for name, program in programs.items()}, count)
    ms = lambda cost: 1e3 * cost.run_s / count
    return [row(name, costs[name], ms=ms(costs[name]), **wrong[name]) for name in (OURS, ISOLATED, PLAIN)]


def _calls(product: Program, count: int) -> Any:
    for _ in range(count - 1):
        jax.block_until_ready(product.call())
    return product.call()


def _plain(count: int, op: hj.Hessian, v: Any) -> Any:
    """The last of `count` products of one vector in a scan, each dependent on the one before, lest it be moved out."""
    gradient = jax.grad(lambda p: jnp.mean(op.loss(p, op.batch)))

    def step(w, _):
        u = jax.tree.map(lambda x, y: x + 0 * y, v, w)
        return jax.jvp(gradient, (op.params,), (u,))[1], None

    return jax.lax.scan(step, v, length=count)[0]


def _errors(op: hj.Hessian, starts: Any, answers: dict[str, Any], count: int) -> dict[str, dict[str, Any]]:
    jax.config.update("jax_enable_x64", True)
    try:
        params, (images, labels) = trees.cast(op.params, "float64"), op.batch
        exact = hj.Hessian(op.loss, params, (trees.cast(images, "float64"), labels))
        multiply = jax.jit(lambda op, v: op.mv(v))
        vectors = [trees.cast(jax.tree.map(lambda x, k=k: x[k], starts), "float64") for k in range(2)]
        images_of = [multiply(exact, v) for v in vectors]
        q = jax.tree.map(lambda x: jnp.asarray(x, "float64"), answers[OURS])
        moments = jnp.stack([jnp.sum(q.weights * q.nodes**k, axis=1) for k in (1, 2)], axis=1)
        truth = jnp.asarray([[trees.dot(v, w), trees.dot(w, w)] for v, w in zip(vectors, images_of)])
        far = lambda found: float(
            trees.norm(trees.add(found, trees.scale(-1, images_of[0]))) / trees.norm(images_of[0])
        )
        of_product = {"error_is": "||difference from float64|| / ||float64||"}
        return {
            OURS: {
                "error": float(jnp.max(jnp.abs(moments / truth - 1))),
                "error_is": "largest relative difference of a probe's v'Hv or v'HHv from float64's product",
            },
            ISOLATED: {"error": far(answers[ISOLATED]), **of_product},
            PLAIN: {"error": far(answers[PLAIN]), **of_product},
        }
    finally:
        jax.config.update("jax_enable_x64", False)
