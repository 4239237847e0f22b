"""Claim: a dense Hessian put together from pieces takes at most 1/5 of plain JAX's time on a small tanh net, 1/7 on digits, and less for conv and RNN.

Problems, float32, a random init each: `net`, tanh 16-16-16 without biases, 128 rows, half the squared error (P = 512);
`digits`, tanh 64-16-16-10, cross-entropy, 1797 rows (P = 1482); `conv`, two 3 x 3 convolutions of 4 and 6 channels and
a dense layer on 128 digits (P = 644); `rnn`, tanh over 12 steps (P = 400), 64 rows.

Two numbers first: the sum over rows of products of pieces is N P^2 flop (two for an entry of one triangle), `floor_ms` at
this run's own rate of matrix products; the matrix is written once, 4 P^2 bytes, 1 MB for `net`.

`pieces` is `hj.dense`; `lower triangle` is what counts and sweeps take of it, not mirrored.
Rival: `jax.hessian` of the mean loss in the flat params, one init or 8 at a time (not where that takes a GiB). All: one init after another on one
device a core, each matrix times a vector. `ratio` is to the first row's own round; `of_rival` a problem's time over its fastest rival's.
"""  # noqa: E501 -- the claim is one line

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec

import hessjax as hj
from benchmarks.harness import compare, prepare, row
from hessjax.assembly import dense
from hessjax.composition import lower

cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels
SMOKE = bool(os.environ.get("HESSJAX_SMOKE"))
LOWER = "lower triangle"
WIDTH = 2 if SMOKE else 64  # inits of a run: so many that starting it is nothing


class Problem(NamedTuple):
    """A loss per example, its data, and a draw of its params."""

    init: Callable[[Any], Any]
    loss: Callable[[Any, Any], Any]
    batch: Any
    width: int = WIDTH

    @property
    def num_rows(self) -> int:
        return len(jax.tree.leaves(self.batch)[0])


def net() -> Problem:
    """The reference problem of dense ensembles."""
    x, y = jax.random.normal(jax.random.key(0), (2, 128, 16))

    def loss(params, batch):
        return jnp.sum((jnp.tanh(batch[0] @ params["v"]) @ params["w"] - batch[1]) ** 2, axis=-1) / 2

    return Problem(_normal({"v": (16, 16), "w": (16, 16)}), loss, (x, y))


def digits() -> Problem:
    """Two hidden layers on all digits."""
    pixels, labels = hj.landscapes.get("digits-mlp", pool=1, rows=64 if SMOKE else 1797).batch
    shapes = {"a": (64, 16), "b": (16, 16), "c": (16, 10), "x": (16,), "y": (16,), "z": (10,)}

    def loss(p, batch):
        hidden = jnp.tanh(jnp.tanh(batch[0] @ p["a"] + p["x"]) @ p["b"] + p["y"])
        return cross_entropy(hidden @ p["c"] + p["z"], batch[1])

    return Problem(_normal(shapes), loss, (pixels, labels), min(WIDTH, 16))


def conv() -> Problem:
    """Two convolutions and a dense layer on digits."""
    pixels, labels = hj.landscapes.get("digits-mlp", pool=1, rows=16 if SMOKE else 128).batch
    shapes = {"a": (3, 3, 1, 4), "b": (3, 3, 4, 6), "c": (24, 16), "x": (8,)}

    def loss(p, batch):
        layer = partial(jax.lax.conv_general_dilated, padding="SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        hidden = jnp.tanh(layer(batch[0].reshape(-1, 8, 8, 1), p["a"], window_strides=(2, 2)))
        hidden = jnp.tanh(layer(hidden, p["b"], window_strides=(2, 2)))
        return cross_entropy(hidden.reshape(len(hidden), -1) @ p["c"] + jnp.pad(p["x"], (0, 8)), batch[1])

    return Problem(_normal(shapes), loss, (pixels, labels), min(WIDTH, 16))


def rnn() -> Problem:
    """A recurrent net over 12 steps."""
    x = jax.random.normal(jax.random.key(0), (64, 12, 6))
    y = jax.random.randint(jax.random.key(1), (64,), 0, 4)
    shapes = {"a": (6, 14), "b": (14, 14), "c": (14, 8), "x": (8,)}

    def loss(p, batch):
        step = lambda h, x: (jnp.tanh(x @ p["a"] + h @ p["b"]), None)
        last = jax.lax.scan(step, jnp.zeros((len(batch[0]), 14)), jnp.swapaxes(batch[0], 0, 1))[0]
        return cross_entropy(last @ p["c"] + p["x"], batch[1])

    return Problem(_normal(shapes), loss, (x, y))


def _normal(shapes: dict[str, tuple[int, ...]]) -> Callable[[Any], Any]:
    def init(key):
        keys = jax.random.split(key, len(shapes))
        scale = {name: np.prod(shape[:-1]) ** -0.5 for name, shape in shapes.items()}
        return {name: scale[name] * jax.random.normal(k, shapes[name]) for name, k in zip(shapes, keys, strict=True)}

    return init


PROBLEMS = {"net": net, "digits": digits, "conv": conv, "rnn": rnn}


def run() -> list[dict[str, Any]]:
    """A row for each problem and way, those of a problem by turns; the rate of matrix products first."""
    rate, found = product_rate(), []
    for name, make in PROBLEMS.items():
        problem = make()
        params = inits(problem)
        programs = {
            way: prepare(spread(partial(f, _product), problem.width), params) for way, f in ways(problem).items()
        }
        # A gigabyte of workspace given back and taken again also slows what runs after it, and never won.
        large = [way for way, x in programs.items() if way != "plain" and (x.temp_bytes or 0) > 2**30]
        costs = compare({way: x for way, x in programs.items() if way not in large}, rounds=2 if SMOKE else 7)
        wrong = errors(problem, params)
        ms = {way: 1e3 * cost.run_s / problem.width for way, cost in costs.items()}
        fastest = min((way for way in ms if way.startswith("plain")), key=lambda way: ms[way])
        size = sum(x[0].size for x in jax.tree.leaves(params))
        floor = 1e3 * problem.num_rows * size**2 / rate
        for way, cost in costs.items():
            more = {"size": size, "ms": ms[way], "of_rival": ms[way] / ms[fastest], "floor_ms": floor}
            more |= {"of_floor": ms[way] / floor, "gflops": 1e-9 * rate}
            what = "largest |entry - float64's| / largest |entry|"
            found.append(row(f"{name}: {way}", cost, **more, error=wrong[way], error_is=what))
    return found


def inits(problem: Problem) -> Any:
    """Params of so many inits, a block of them on each device."""
    return placed(jax.vmap(problem.init)(jax.random.split(jax.random.key(1), problem.width)), problem.width)


def ways(problem: Problem) -> dict[str, Callable]:
    """The library, and what one writes without it, one or 8 at a time: of a block of inits, `then` of each matrix."""
    plain = partial(plain_hessian, problem)
    ours = lambda p: hj.Hessian(problem.loss, p, problem.batch)

    def block(matrix: Callable, then: Callable, some: Any, **how: Any) -> Any:
        return jax.lax.map(lambda p: then(matrix(p)), some, **how)

    return {
        "pieces": partial(block, lambda p: dense(ours(p))),
        LOWER: partial(block, lambda p: lower(ours(p))),
        "plain": partial(block, plain),
        "plain, 8 at a time": partial(block, plain, batch_size=8),
    }


def _product(matrix: Any) -> Any:
    """All of a matrix is used and none of it kept: what is timed is not the making of pages for an output."""
    return jnp.matmul(matrix, jnp.ones(len(matrix)), precision="highest")


def devices(width: int) -> jax.sharding.Mesh:
    """The most local devices that divide so many inits."""
    local = jax.local_devices()
    count = max(k for k in range(1, len(local) + 1) if width % k == 0)
    return jax.sharding.Mesh(np.array(local[:count]), ("lane",))


def placed(stack: Any, width: int) -> Any:
    """A stack with a block of it on each device."""
    return jax.device_put(stack, jax.sharding.NamedSharding(devices(width), PartitionSpec("lane")))


def spread(f: Callable, width: int) -> Callable:
    """`f` of the block of a stack that each device has."""
    lane = PartitionSpec("lane")
    return jax.jit(jax.shard_map(f, mesh=devices(width), in_specs=lane, out_specs=lane, check_vma=False))


def plain_hessian(problem: Problem, params: Any) -> Any:
    """What one writes without a library."""
    flat, tree = ravel_pytree(params)
    return jax.hessian(lambda p: jnp.mean(problem.loss(tree(p), problem.batch)))(flat)


def product_rate() -> float:
    """Flop a second of float32 matrix products on all devices at once, the best of several sizes."""
    rates = []
    for n in (64,) if SMOKE else (256, 512, 1024):
        program = prepare(
            spread(lambda a: jax.lax.map(lambda x: x @ x, a), WIDTH), placed(jnp.ones((WIDTH, n, n)), WIDTH)
        )
        rates.append(WIDTH * 2 * n**3 / compare({"": program}).popitem()[1].run_min_s)
    return max(rates)


def errors(problem: Problem, params: Any) -> dict[str, float]:
    """The first init's worst entry by every way, against `jax.hessian` in float64 at the same params and data."""
    answers = {
        way: np.asarray(spread(partial(f, lambda a: a), problem.width)(params)[0], np.float64)
        for way, f in ways(problem).items()
    }
    answers[LOWER] = np.tril(answers[LOWER]) + np.tril(answers[LOWER], -1).T
    exact = in_float64(problem, jax.tree.map(lambda x: x[:1], params))[0]
    return {way: float(np.abs(a - exact).max() / np.abs(exact).max()) for way, a in answers.items()}


def in_float64(problem: Problem, params: Any) -> np.ndarray:
    """`jax.hessian` in float64 of each init, at the same params and data; x64 is on in here alone."""
    params = jax.tree.map(np.asarray, params)
    jax.config.update("jax_enable_x64", True)
    try:
        wide = lambda x: jnp.asarray(x, "float64") if jnp.issubdtype(x.dtype, jnp.floating) else x
        exact = partial(plain_hessian, problem._replace(batch=jax.tree.map(wide, problem.batch)))
        return np.asarray(jax.jit(partial(jax.lax.map, exact))(jax.tree.map(wide, params)))
    finally:
        jax.config.update("jax_enable_x64", False)
