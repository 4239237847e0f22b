"""Claim: TODO

TODO
"""  # noqa: E501 -- the claim is one line

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import hessjax as hj
from benchmarks.harness import Program, compare, prepare, row
from hessjax import profiles
from hessjax.objective import mean_loss

ERROR = "largest |loss - float64's| / largest |loss|, over some points that were computed"
BATCH = 128  # rows, as the published code evaluates by default
CHECKED = 60  # points that float64 computes too


class Problem(NamedTuple):
    """A trained net, two directions, and where along them."""

    land: hj.landscapes.Landscape
    origin: Any
    u: Any
    v: Any
    ends: np.ndarray  # along both, [points of a side]
    activation: str

    @property
    def grid(self) -> np.ndarray:
        """All points, as the plane orders them: [points, 2]."""
        x, y = np.meshgrid(self.ends, self.ends)
        return np.stack([x.ravel(), y.ravel()], 1)


def run() -> list[dict[str, Any]]:
    """Rows: ways to a plane of a small net, then of a wide one."""
    smoke = bool(os.environ.get("HESSJAX_SMOKE"))
    rows, small, wide = (64, 9, 5) if smoke else (None, 201, 31)
    widths = (4, 4) if smoke else (256, 256)
    tanh, relu = problem(small, "tanh", (16, 16), rows), problem(wide, "relu", widths, rows)
    rounds = 2 if smoke else 5
    found = _rows("", tanh, {"a call a point": 4000, "a row a call": 40_401, "weights overwritten": 250}, rounds)
    return found + _rows("wide: ", relu, {"a call a point": 200, "weights overwritten": 40}, rounds)


def problem(side: int, activation: str, widths: tuple[int, int], rows: int | None, num_steps: int = 200) -> Problem:
    """Where Adam ends from a random start, and two filter-normalised directions from there."""
    land = hj.landscapes.get("digits-mlp", widths=widths, activation=activation, pool=1, rows=rows)
    adam = optax.adam(0.01)

    @jax.jit
    def trained(params):
        def step(carry, _):
            params, state = carry
            updates, state = adam.update(jax.grad(partial(mean_loss, land.loss))(params, land.batch), state)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, adam.init(params)), length=num_steps)[0][0]

    origin = trained(land.init(jax.random.key(0)))
    u, v = (profiles.filter_normalized(jax.random.key(k), origin) for k in (1, 2))
    return Problem(land, origin, u, v, np.linspace(-1, 1, side), activation)


def _rows(label: str, problem: Problem, few: dict[str, int], rounds: int) -> list[dict[str, Any]]:
    """`few`: of the slow ways, how many points, spread over the plane."""
    grid = problem.grid
    spread = {name: grid[np.linspace(0, len(grid) - 1, min(n, len(grid))).astype(int)] for name, n in few.items()}
    points = {"plane": grid, "one device": grid} | spread
    calls = {
        "plane": partial(_plane, problem),
        "one device": partial(_one_device, problem),
        "a call a point": partial(_calls, problem, points["a call a point"]),
        "a row a call": partial(_vmapped, problem),
        "weights overwritten": _overwritten(problem, points["weights overwritten"]),
    }
    programs, first = {}, {}
    for name in points:
        began = time.perf_counter()
        calls[name]()
        programs[name], first[name] = Program(calls[name]), time.perf_counter() - began
    costs = compare(programs, rounds=rounds)
    found = []
    for name, cost in costs.items():
        of_plane = cost.ratio * len(grid) / len(points[name])
        numbers = {"points": len(points[name]), "points_per_s": len(points[name]) / cost.run_s, "of_plane": of_plane}
        error = _error(problem, points[name], np.ravel(calls[name]()))
        cost = cost._replace(compile_s=max(first[name] - cost.run_s, 0.0))
        found.append(row(label + name, cost, error=error, error_is=ERROR, **numbers))
    return found


def _plane(problem: Problem) -> np.ndarray:
    land, origin, u, v, ends, _ = problem
    return np.asarray(profiles.plane(land.loss, origin, u, v, ends, ends, batch=land.batch).values)


def _one_device(problem: Problem) -> np.ndarray:
    """The same program on one of the devices, whose products use all cores."""
    land, origin, u, v, *_ = problem
    points = jax.tree.map(lambda *x: jnp.stack(x), origin, u, v)
    weights = jnp.asarray(np.insert(problem.grid, 0, 1, axis=1), "float32")
    at_once = profiles._planned(land.loss, points, land.batch, 1)
    return np.asarray(profiles._evaluated(land.loss, points, weights, land.batch, mesh=None, at_once=at_once))


@partial(jax.jit, static_argnames="loss")
def _at(loss: Callable, origin: Any, u: Any, v: Any, x: Any, y: Any, batch: Any) -> jax.Array:
    return jnp.mean(loss(jax.tree.map(lambda o, u, v: o + x * u + y * v, origin, u, v), batch))


def _calls(problem: Problem, points: np.ndarray) -> np.ndarray:
    """A jitted call a point; none waits for the one before."""
    land, origin, u, v, *_ = problem
    points = points.astype("float32")
    return np.asarray(jax.device_get([_at(land.loss, origin, u, v, x, y, land.batch) for x, y in points]))


_row = jax.jit(jax.vmap(_at, in_axes=(None, None, None, None, 0, None, None)), static_argnums=0)


def _vmapped(problem: Problem) -> np.ndarray:
    """All points of a row side by side, a call a row."""
    land, origin, u, v, ends, _ = problem
    ends = ends.astype("float32")
    return np.concatenate([_row(land.loss, origin, u, v, ends, y, land.batch) for y in ends])


def _overwritten(problem: Problem, points: np.ndarray) -> Callable[[], np.ndarray]:
    """As the published code does it: one model, whose weights are overwritten; a loss is read after every batch."""
    land = problem.land
    origin, u, v = (jax.tree.map(np.array, x) for x in problem[1:4])
    model = jax.tree.map(np.array, origin)
    inputs, labels = (np.asarray(x) for x in land.batch)
    batches = [(inputs[k : k + BATCH], labels[k : k + BATCH]) for k in range(0, len(inputs), BATCH)]
    mean = jax.jit(lambda params, batch: jnp.mean(land.loss(params, batch)))
    wanted = points.astype("float32")

    def moved(w, o, u, v, x, y):
        w[...] = o + x * u + y * v

    def losses() -> np.ndarray:
        found = []
        for x, y in wanted:
            jax.tree.map(lambda w, *frame, x=x, y=y: moved(w, *frame, x, y), model, origin, u, v)
            found.append(sum(float(mean(model, batch)) * len(batch[1]) for batch in batches) / len(labels))
        return np.asarray(found)

    return losses


def _error(problem: Problem, points: np.ndarray, found: np.ndarray) -> float:
    some = np.linspace(0, len(points) - 1, min(CHECKED, len(points))).astype(int)
    true = np.array([_float64(problem, *points[k]) for k in some])
    return float(np.abs(found[some] - true).max() / np.abs(true).max())


def _float64(problem: Problem, x: float, y: float) -> float:
    """The loss in NumPy."""
    wide = lambda tree: jax.tree.map(lambda a: np.asarray(a, np.float64), tree)
    params = jax.tree.map(lambda o, u, v: o + x * u + y * v, *(wide(t) for t in problem[1:4]))
    z, labels = np.asarray(problem.land.batch[0], np.float64), np.asarray(problem.land.batch[1])
    for k in range(len(params)):
        layer = params[f"Dense_{k}"]
        z = z @ layer["kernel"] + layer["bias"]
        if k < len(params) - 1:
            z = np.tanh(z) if problem.activation == "tanh" else np.maximum(z, 0)
    top = z.max(1)
    return float(np.mean(top + np.log(np.exp(z - top[:, None]).sum(1)) - z[np.arange(len(z)), labels]))
