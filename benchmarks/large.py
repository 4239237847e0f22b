"""Claim: SLQ of a 100-million-parameter decoder fits 24 GiB in float32 on a CPU.

Problem: GPT-2's shape, 12 pre-norm layers of width 768 with 12 heads, learned positions, the token embedding also the
output, 50,257 tokens: P = 124,439,808; random weights, 2 sequences of 32 random tokens, mean cross-entropy of the next
one. A vector is 0.46 GiB; Lanczos without a basis keeps three, a product needs a few more and its residuals. Layers
are scanned and rematerialised, so that those of one layer are alive at a time.

`peak_gib` is the most the process has held, compilation included; above 24 the benchmark fails. `ms` is for one step,
product or gradient, `ratio` over one isolated product. With few steps the draw of the probe is a large part of SLQ: it
has a row. Errors: the Gauss rule's first moment is v'Hv of its probe v, compared with the second derivative along v
taken forward over forward, which shares no reverse pass with the products; its second, `square_error`, is v'HHv.
"""

from __future__ import annotations

import os
import resource
import sys
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import hessjax as hj
from benchmarks.harness import compare, prepare, row
from hessjax import trees
from hessjax.krylov import unit_start
from hessjax.objective import mean_loss

LIMIT = 24  # GiB
OURS, PRODUCT, GRADIENT, DRAW = "hj.slq", "isolated product", "gradient", "draw of a probe"


class Shape(NamedTuple):
    """Sizes of a decoder and of its batch."""

    layers: int = 12
    width: int = 768
    heads: int = 12
    tokens: int = 50257
    positions: int = 1024
    rows: int = 2
    length: int = 32


SMOKE = Shape(layers=2, width=16, heads=2, tokens=50, positions=8, rows=2, length=8)


def init(key: jax.Array, shape: Shape) -> dict[str, Any]:
    """Weights as GPT-2 starts them; those of all layers stacked."""
    keys, wide, deep = jax.random.split(key, 6), shape.width, shape.layers
    draw = lambda k, *sizes, scale=0.02: scale * jax.random.normal(keys[k], sizes, jnp.float32)
    ends = 0.02 / np.sqrt(2 * deep)  # into the residual stream
    norm = lambda *sizes: {"scale": jnp.ones((*sizes, wide)), "bias": jnp.zeros((*sizes, wide))}
    dense = lambda k, a, b, scale=0.02: {"kernel": draw(k, deep, a, b, scale=scale), "bias": jnp.zeros((deep, b))}
    blocks = {
        "norm_1": norm(deep),
        "attention_in": dense(2, wide, 3 * wide),
        "attention_out": dense(3, wide, wide, ends),
        "norm_2": norm(deep),
        "mlp_in": dense(4, wide, 4 * wide),
        "mlp_out": dense(5, 4 * wide, wide, ends),
    }
    embeddings = {"tokens": draw(0, shape.tokens, wide), "positions": draw(1, shape.positions, wide)}
    return {**embeddings, "blocks": blocks, "norm": norm()}


def normalized(p: dict[str, Any], x: jax.Array) -> jax.Array:
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]


def linear(p: dict[str, Any], x: jax.Array) -> jax.Array:
    return x @ p["kernel"] + p["bias"]


def attention(p: dict[str, Any], x: jax.Array, heads: int) -> jax.Array:
    """Causal self-attention over [rows, length, width]."""
    split = lambda t: t.reshape(*t.shape[:2], heads, -1)
    q, k, v = map(split, jnp.split(linear(p["attention_in"], x), 3, axis=-1))
    scores = jnp.einsum("nqhd,nkhd->nhqk", q, k) / np.sqrt(q.shape[-1])
    past = np.tril(np.ones((x.shape[1], x.shape[1]), bool))
    mixed = jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(jnp.where(past, scores, -1e30)), v)
    return linear(p["attention_out"], mixed.reshape(x.shape))


def block(heads: int, x: jax.Array, p: dict[str, Any]) -> tuple[jax.Array, None]:
    x = x + attention(p, normalized(p["norm_1"], x), heads)
    return x + linear(p["mlp_out"], jax.nn.gelu(linear(p["mlp_in"], normalized(p["norm_2"], x)))), None


def loss(shape: Shape, params: dict[str, Any], sequences: jax.Array) -> jax.Array:
    """Mean cross-entropy of the next token, a number per sequence of [rows, length + 1]."""
    inputs, targets = sequences[:, :-1], sequences[:, 1:]
    x = params["tokens"][inputs] + params["positions"][: inputs.shape[1]]
    x, _ = jax.lax.scan(jax.checkpoint(partial(block, shape.heads)), x, params["blocks"])
    scores = jax.nn.log_softmax(normalized(params["norm"], x) @ params["tokens"].T)
    return -jnp.mean(jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0], axis=1)


def run() -> list[dict[str, Any]]:
    """The rows: SLQ, one product, one gradient, the draw of a probe, which take turns.

    Raises:
      MemoryError: the process has held more than 24 GiB.
    """
    smoke = bool(os.environ.get("HESSJAX_SMOKE"))
    shape, num_steps = (SMOKE, 2) if smoke else (Shape(), 4)
    params, key = init(jax.random.key(0), shape), jax.random.key(1)
    batch = jax.random.randint(jax.random.key(2), (shape.rows, shape.length + 1), 0, shape.tokens)
    per_row = partial(loss, shape)
    hessian, start = hj.Hessian(per_row, params, batch), jax.random.split(key, 1)[0]  # the key of slq's one probe
    draw = prepare(jax.jit(unit_start), hessian, start)
    v = draw.call()
    programs = {
        PRODUCT: prepare(jax.jit(lambda op, v: op.mv(v)), hessian, v),
        OURS: prepare(jax.jit(partial(hj.slq, num_steps=num_steps, num_probes=1)), hessian, key),
        GRADIENT: prepare(jax.jit(jax.grad(partial(mean_loss, per_row))), params, batch),
        DRAW: draw,
    }
    costs = compare(programs, rounds=2 if smoke else 5)
    answers = {name: program.call() for name, program in programs.items()}
    wrong = errors(hessian, answers)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 2**30
    if peak > LIMIT:
        raise MemoryError(f"SLQ of {hessian.size:,} parameters took {peak:.1f} GiB, more than {LIMIT}.")
    wrong[OURS] |= {"params": hessian.size, "num_steps": num_steps, "peak_gib": peak}
    each = {name: cost.run_s / (num_steps if name == OURS else 1) for name, cost in costs.items()}
    found = [
        row(name, cost, ms=1e3 * each[name], gradients=each[name] / each[GRADIENT], **wrong[name])
        for name, cost in costs.items()
    ]
    return sorted(found, key=lambda r: r["what"] != OURS)


def errors(hessian: hj.Hessian, answers: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By program: its error, and what that is."""
    v, w, gradient = (answers[name] for name in (DRAW, PRODUCT, GRADIENT))
    slope, curvature = map(float, jax.jit(_along)(hessian, v))
    nodes, weights = (np.asarray(x, np.float64) for x in answers[OURS][:2])
    first, second, square = np.sum(weights * nodes), np.sum(weights * nodes**2), _dot(w, w)
    return {
        OURS: {
            "error": abs(first - curvature) / np.sqrt(square),
            "error_is": "|first moment - v'Hv taken forward over forward| / ||Hv||",
            "square_error": abs(second / square - 1),
            "finite": bool(np.all(np.isfinite(nodes)) and np.all(np.isfinite(weights))),
        },
        PRODUCT: {
            "error": abs(_dot(v, w) - curvature) / np.sqrt(square),
            "error_is": "|v'Hv - the same taken forward over forward| / ||Hv||",
        },
        GRADIENT: {
            "error": abs(_dot(v, gradient) - slope) / np.sqrt(_dot(gradient, gradient)),
            "error_is": "|v'g - the same taken forward| / ||g||",
        },
        DRAW: {"error": abs(_dot(v, v) - 1), "error_is": "| ||v||^2 - 1 |"},
    }


def _along(op: hj.Hessian, v: Any) -> tuple[jax.Array, jax.Array]:
    """The first and second derivative of the mean loss along v."""
    slope = lambda t: jax.jvp(lambda s: mean_loss(op.loss, trees.axpy(s, v, op.params), op.batch), (t,), (1.0,))[1]
    return jax.jvp(slope, (0.0,), (1.0,))


def _dot(a: Any, b: Any) -> float:
    products = (np.multiply(x, y).sum(dtype=np.float64) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    return float(sum(products))
