"""Claim: an init of the main job takes under 30 ms on 2 cores, and at most half of its 8 spectra in plain JAX.

Main job: digits MLP 16-8-10 (P = 226), 512 rows, 300 Adam steps, the full spectrum at 8 times, float32; one lane of
32 inits over all cores, stored. Two numbers first, for one Hessian:

- 40 MFLOP: the sum over 512 rows of products of pieces is P^2 flop a row (two for an entry of one triangle), 26 MFLOP;
  the pieces are products over one linearisation with 18 units, of 1472 flop a row (256 and 160 flop in a product with
  the two kernels, of which it takes 2 and 6), 14 MFLOP.
- 0.24 MB: the matrix and the data pass through memory once; the pieces, 18 x 18 numbers a row and as many as the inputs
  and hidden units, 1 MB, stay in cache.

Beside the 8 Hessians an init needs 152 MFLOP of training (300 x 512 x 992) and 8 x 15 MFLOP (4/3 P^3) of eigenvalues,
half of those in matrix-vector products. `predicted_ms`: the flop at this run's own rate of matrix products.

Rival: `lax.map` over `eigvalsh(jax.hessian(mean loss))`, one init or 8 at a time, on one device a core (shard_map) or
on one device with XLA's own threads; the fastest of the four is `rival`. It answers eigenvalues alone, `measuring`
also loss, error, gradient norm and counts. Eigenvalues 8 at a time on one device a core are left out: jaxlib 0.10.2
hangs (every thread of XLA's pool waits inside a batched LAPACK call for a free thread of that pool).

`ratio` is to `measuring` once. `gradients` is in units of one init's gradient of the mean loss, a step of descent
among 50. Errors are against float64 at the same float32 params.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from benchmarks.harness import Cost, Program, compare, prepare, row
from hessjax import landscapes, records, trees
from hessjax.assembly import dense, eigvalsh
from hessjax.config import Sweep
from hessjax.curvature import Hessian
from hessjax.lanes import Lanes, resolve
from hessjax.objective import mean_loss
from hessjax.store import Store
from hessjax.train import Trainer, make_optimizer

SPECTRUM = "largest |eigenvalue - float64's| / largest |eigenvalue|"
DESCENT = 50  # gradients in one run of the yardstick, so that its time is not that of starting a program
SMOKE = {"num_inits": 4, "num_steps": 5, "times": 2, "options": {"widths": (2,), "pool": 4, "rows": 16}}


def run() -> list[dict[str, Any]]:
    """The rows: the job, its parts, the rivals, the yardsticks; all but the matrix products take turns."""
    smoke = bool(os.environ.get("HESSJAX_SMOKE"))
    rounds, sizes = (2, (64,)) if smoke else (7, (256, 512, 1024))
    config = Sweep(**SMOKE) if smoke else Sweep(num_inits=32)
    lanes, began = Lanes(config, resolve(config)), time.perf_counter()
    steps, pilot_s = lanes.steps(), time.perf_counter() - began
    lanes.compile(steps)
    path = trajectory(lanes)
    programs = measuring(lanes, path[-1]) | rivals(lanes, path[-1]) | gradients(lanes, path[-1])
    with tempfile.TemporaryDirectory() as folder:
        costs = compare(programs | job(lanes, Path(folder)), rounds=rounds)
    products = matrix_products(lanes, sizes)
    speed = compare({name: program for name, (program, _) in products.items()}, rounds=rounds)
    rates = {name: work / speed[name].run_min_s for name, (_, work) in products.items()}
    found = rows(lanes, costs, errors(lanes, path, programs), max(rates.values()), pilot_s)
    for name, rate in rates.items():
        more = {"gflops": 1e-9 * rate, "of_peak": rate / max(rates.values())}
        what = "largest |product - float64's| / largest |entry|"
        found.append(row(name, speed[name], **more, error=_product_error(products[name][0]), error_is=what))
    return found


def trajectory(lanes: Lanes) -> list[Any]:
    """Params of the lane at each measured step; copies, because training gives its state away."""
    inits, now, found = lanes.numbers(0), 0, []
    state = lanes._run_start(inits)
    for step in lanes.times:
        state = lanes._run_advance(state, inits, jnp.int32(now), jnp.int32(step)) if step > now else state
        found.append(jax.tree.map(jnp.copy, state.params))
        now = step
    return found


def job(lanes: Lanes, folder: Path) -> dict[str, Program]:
    """A lane from its numbers to the disk, and the parts of it that come once."""
    inits, last, results = lanes.numbers(0), jnp.int32(lanes.times[-1]), lanes.run(0)
    arrays = records.arrays(lanes, steps=lanes.times)
    store = Store.create(folder / "lane.zarr", arrays, {}, rows="init", unit=lanes.width)
    store.write(0, results)
    assert all(np.array_equal(store.read(name), value) for name, value in results.items())
    start = prepare(lanes._run_start, inits)
    seconds = lanes.compile_s + (start.compile_s or 0.0)
    return {
        "job": Program(lambda: store.write(0, lanes.run(0)), seconds),
        "training": Program(lambda: lanes._run_advance(start.call(), inits, jnp.int32(0), last)),
        "storing": Program(lambda: store.write(0, results)),
    }


def _spread(lanes: Lanes, f: Callable) -> Callable:
    """One init after another, a block of the lane per device: how the library measures."""
    return jax.jit(lanes._sharded(partial(jax.lax.map, f), False))


def measuring(lanes: Lanes, params: Any) -> dict[str, Program]:
    """The library's measurement of the lane at one time, and the two parts that matter."""
    land = lanes.landscape
    one = lambda p: dense(Hessian(land.loss, p, land.batch), columns=lanes.way.columns)
    hessians = prepare(_spread(lanes, one), params)
    return {
        "measuring": Program(lambda: lanes._run_measure(params, lanes.numbers(0))),
        "Hessians": hessians,
        "eigenvalues": prepare(_spread(lanes, eigvalsh), hessians.call()),
    }


def rivals(lanes: Lanes, params: Any) -> dict[str, Program]:
    """What one writes without a library: the Hessian of the mean loss in the flat params, and its eigenvalues."""
    land, devices, here = lanes.landscape, lanes.mesh.size, jax.device_put(params, jax.local_devices()[0])

    def hessian(p):
        flat, unravel = ravel_pytree(p)
        return jax.hessian(lambda x: jnp.mean(land.loss(unravel(x), land.batch)))(flat)

    spectrum = lambda p: jnp.linalg.eigvalsh(hessian(p))
    eight = lambda p: jax.lax.map(jnp.linalg.eigvalsh, jax.lax.map(hessian, p, batch_size=8))
    return {
        f"plain JAX, 1 at a time, {devices} devices": prepare(_spread(lanes, spectrum), params),
        f"plain JAX, Hessians 8 at a time, {devices} devices": prepare(jax.jit(lanes._sharded(eight, False)), params),
        "plain JAX, 1 at a time, 1 device": prepare(jax.jit(partial(jax.lax.map, spectrum)), here),
        "plain JAX, 8 at a time, 1 device": prepare(jax.jit(partial(jax.lax.map, spectrum, batch_size=8)), here),
    }


def gradients(lanes: Lanes, params: Any) -> dict[str, Program]:
    """Gradients of the mean loss for all inits together, as training takes them: steps of descent."""
    land = lanes.landscape
    gradient = jax.grad(lambda p: mean_loss(land.loss, p, land.batch))
    step = lambda _, p: jax.tree.map(lambda x, g: x - 1e-3 * g, p, gradient(p))
    descend = jax.vmap(lambda p: jax.lax.fori_loop(0, DESCENT, step, p))
    return {"gradient": prepare(jax.jit(lanes._sharded(descend, False)), params)}


def matrix_products(lanes: Lanes, sizes: tuple[int, ...]) -> dict[str, tuple[Program, float]]:
    """Squares of square matrices, one device a core and one device with XLA's threads; with their flop."""
    found, devices = {}, lanes.mesh.size
    square = lambda a: jnp.matmul(a, a, precision="float32")
    for n in sizes:
        stack = jax.random.normal(jax.random.key(0), (4 * devices, n, n))
        work = 2.0 * len(stack) * n**3
        found[f"{len(stack)} products of {n}, {devices} devices"] = prepare(_spread(lanes, square), stack), work
        found[f"{len(stack)} products of {n}, 1 device"] = prepare(jax.jit(partial(jax.lax.map, square)), stack), work
    return found


def _product_error(program: Program) -> float:
    stack = jax.random.normal(jax.random.key(0), program.call().shape)
    first = np.asarray(stack[:1], np.float64)
    return _relative(program.call()[:1], first @ first)


def errors(lanes: Lanes, path: list[Any], programs: dict[str, Program]) -> dict[str, float]:
    """How far each program's answers are from float64's; x64 is on in here alone, after everything timed."""
    results, start = lanes.run(0), lanes._run_start(lanes.numbers(0)).params
    answers = {name: program.call() for name, program in programs.items()}
    one = jax.grad(lambda p: mean_loss(lanes.landscape.loss, p, lanes.landscape.batch))
    gradients = jax.jit(jax.vmap(one))(path[-1])
    jax.config.update("jax_enable_x64", True)
    try:
        exact = Float64(lanes)
        matrices = [exact.hessians(params) for params in path]
        trained, exact_gradients = exact.trained_loss(start), exact.gradients(path[-1])
    finally:
        jax.config.update("jax_enable_x64", False)
    spectra = np.stack([np.linalg.eigvalsh(h) for h in matrices], axis=1)  # [init, time, P]
    edge = results["threshold"][..., None]
    same = np.sum(spectra < -edge, axis=-1) == results["negative"]
    same &= np.sum(spectra > edge, axis=-1) == results["positive"]
    computed = np.linalg.eigvalsh(np.asarray(answers["Hessians"], np.float64))
    return {name: _relative(answer, spectra[:, -1]) for name, answer in answers.items() if name.startswith("plain")} | {
        "job": _relative(results["eigenvalues"], spectra),
        "counts": float(1 - same.mean()),
        "measuring": _relative(answers["measuring"]["eigenvalues"], spectra[:, -1]),
        "Hessians": _relative(answers["Hessians"], matrices[-1]),
        "eigenvalues": _relative(answers["eigenvalues"], computed),
        "training": float(np.max(np.abs(results["loss"][:, -1] / trained - 1))),
        "gradient": _relative(_flat(gradients), _flat(exact_gradients)),
        "storing": 0.0,  # read back and compared before it was timed
    }


class Float64:
    """The same problem, on the same float32 params and data, in float64; made and used under x64."""

    def __init__(self, lanes: Lanes):
        self.config = lanes.config
        self.loss = landscapes.get(self.config.landscape, **{**self.config.options, "dtype": "float64"}).loss
        self.batch = trees.cast(lanes.landscape.batch, "float64")

    def hessians(self, params: Any) -> np.ndarray:
        one = lambda p: dense(Hessian(self.loss, p, self.batch))
        return np.asarray(jax.jit(partial(jax.lax.map, one))(trees.cast(params, "float64")))

    def gradients(self, params: Any) -> Any:
        one = jax.grad(lambda p: mean_loss(self.loss, p, self.batch))
        return jax.jit(jax.vmap(one))(trees.cast(params, "float64"))

    def trained_loss(self, start: Any) -> np.ndarray:
        trainer = Trainer(self.loss, make_optimizer(self.config.optimizer, self.config.learning_rate), self.batch)

        def train(params):
            state = trainer.advance(trainer.start(params), jax.random.key(0), 0, self.config.num_steps)
            return mean_loss(self.loss, state.params, self.batch)

        return np.asarray(jax.jit(jax.vmap(train))(trees.cast(start, "float64")))


def _flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.asarray(x, np.float64).reshape(len(x), -1) for x in jax.tree.leaves(tree)], axis=1)


def _relative(found: Any, exact: np.ndarray) -> float:
    """The worst init's largest difference over its largest entry."""
    difference, axes = np.abs(np.asarray(found, np.float64) - exact), tuple(range(1, exact.ndim))
    return float(np.max(np.max(difference, axis=axes) / np.max(np.abs(exact), axis=axes)))


def flops(lanes: Lanes) -> dict[str, float]:
    """Flop of one init, from the shapes; see the docstring."""
    kernels = [lanes._struct[name]["kernel"] for name in ("Dense_0", "Dense_1")]
    first, second = (2 * kernel.shape[0] * kernel.shape[1] for kernel in kernels)
    times, n, count = len(lanes.times), lanes.num_params, len(lanes.landscape.batch[0])
    training = lanes.times[-1] * count * (2 * first + 3 * second)
    units = sum(lanes._struct[name]["kernel"].shape[1] for name in ("Dense_0", "Dense_1"))
    hessians = times * count * (n**2 + units * (2 * first + 6 * second))
    values = times * 4 / 3 * n**3
    parts = {"training": training, "Hessians": hessians, "eigenvalues": values, "measuring": hessians + values}
    return parts | {"job": training + hessians + values}


def rows(
    lanes: Lanes, costs: dict[str, Cost], wrong: dict[str, float], peak: float, pilot_s: float
) -> list[dict[str, Any]]:
    """A row each, in ms an init of the whole job: 8 times what one time costs, where there are 8."""
    runs = {"job": 1, "training": 1, "storing": 1, "gradient": 1 / DESCENT}  # of the program, in one lane's job
    each = {name: runs.get(name, len(lanes.times)) / lanes.width for name in costs}
    gradient, work = costs["gradient"].run_s * each["gradient"], flops(lanes)
    rival = min((name for name in costs if name.startswith("plain")), key=lambda name: costs[name].run_s)
    kinds = {
        "training": "largest relative difference of an init's last loss from float64's",
        "storing": "what is stored is what was computed",
        "Hessians": "largest |entry - float64's| / largest |entry|",
        "gradient": "largest |entry - float64's| / largest |entry|",
        "eigenvalues": f"{SPECTRUM}, of the same matrix",
    }
    found = []
    for name, cost in costs.items():
        seconds = cost.run_s * each[name]
        more: dict[str, Any] = {"ms_per_init": 1e3 * seconds, "gradients": seconds / gradient}
        if name in work:
            rate = work[name] / seconds
            more |= {"predicted_ms": 1e3 * work[name] / peak, "gflops": 1e-9 * rate, "of_peak": rate / peak}
        if name == "job":
            alone = costs[rival].run_s * each[rival]
            more |= {"of_rival": seconds / alone, "pilot_s": pilot_s, "counts_differ": wrong["counts"]}
        more |= {"rival": True} if name == rival else {}
        found.append(row(name, cost, **more, error=wrong[name], error_is=kinds.get(name, SPECTRUM)))
    return sorted(found, key=lambda r: r["what"] != "job")
