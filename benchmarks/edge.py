"""Claim: TODO

TODO
"""  # noqa: E501 -- the claim is one line

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import hessjax as hj
from benchmarks.harness import once, prepare, row
from benchmarks.tracking import exact, trained
from hessjax.objective import mean_loss

ERROR = "|last tracked curvature - float64's of ARPACK at the same params| / float64's"
FULL = {"widths": (50, 50), "rows": 500, "pool": 1, "activation": "tanh", "loss": "squared"}
SMOKE = FULL | {"widths": (4,), "rows": 32}
WITHIN = 0.05


class Case(NamedTuple):
    """An optimiser, and the curvature above which it diverges on a quadratic form; `adam`: of the preconditioned one."""

    optimizer: Any
    threshold: float
    adam: bool = False


def cases(smoke: bool) -> dict[str, Case]:
    """Gradient descent with steps from a control's up, Polyak's momentum, Adam."""
    at = lambda *args, **more: float(hj.tracking.stability_threshold(*args, **more))
    found = {f"step {rate}": Case(optax.sgd(rate), at(rate)) for rate in ((0.2,) if smoke else (0.1, 0.2, 0.25))}
    found["momentum 0.9, step 0.4"] = Case(optax.sgd(0.4, momentum=0.9), at(0.4, momentum=0.9))
    for rate in (0.003,) if smoke else (0.001, 0.003):
        found[f"Adam, step {rate}"] = Case(optax.adam(rate), at(rate, momentum=0.9, kind="adam"), adam=True)
    return found


def run() -> list[dict[str, Any]]:
    """A row for each optimiser, and one for gradient descent that nobody watches."""
    smoke = bool(os.environ.get("HESSJAX_SMOKE"))
    every, count = (10, 4) if smoke else (20, 150)
    options = SMOKE if smoke else FULL
    return [_row(name, case, options, every, count) for name, case in cases(smoke).items()]


def _row(name: str, case: Case, options: dict[str, Any], every: int, count: int) -> dict[str, Any]:
    land = hj.landscapes.get("digits-mlp", **options)
    start, key = land.init(jax.random.key(0)), jax.random.key(1)
    gradient = lambda params, _: jax.value_and_grad(partial(mean_loss, land.loss))(params, land.batch)
    make = hj.measures.preconditioned_sharpness if case.adam else hj.measures.extremes
    measure = make(land.loss, key, land.batch)
    watched = hj.track(measure, every, inner=case.optimizer)
    program = prepare(jax.jit(partial(trained, watched, gradient, every=every, count=count)), (start, watched.init(start)))
    cpu, began = time.process_time(), time.perf_counter()
    found = jax.block_until_ready(program.call())
    wall = time.perf_counter() - began
    cost = once(wall, cores=(time.process_time() - cpu) / wall, compile_s=program.compile_s)
    values = np.asarray(found.values.values)[:, 0]
    params, state = jax.tree.map(np.asarray, jax.tree.map(lambda x: x[-1], (found.params, found.states)))
    true = exact(options, params, _scale(state) if case.adam else None)
    numbers = passing(values, case.threshold, every) | {
        "products": float(np.mean(np.asarray(found.values.num_matvecs)[1:])),
        "loss": float(found.losses[-1]),
    }
    return row(name, cost, error=abs(values[-1] / true - 1), error_is=ERROR, threshold=case.threshold, **numbers)


def passing(values: np.ndarray, threshold: float, every: int) -> dict[str, Any]:
    """Where a threshold is first passed; from there the median of values over it, and the share of them near it."""
    ratios = values / threshold
    numbers: dict[str, Any] = {"largest": float(np.nanmax(values)), "passed_at": None, "median": None, "near": None}
    if not (ratios > 1).any():
        return numbers
    first = int((ratios > 1).argmax())
    near = np.abs(ratios[first:] - 1) <= WITHIN
    return numbers | {"passed_at": first * every, "median": float(np.median(ratios[first:])), "near": float(near.mean())}


def _scale(inner: Any) -> Any:
    """What Adam's gradients are multiplied by, square-rooted."""
    adam = next(x for x in inner if hasattr(x, "nu"))
    bias = 1 - 0.999 ** float(adam.count)
    return jax.tree.map(lambda nu: (np.sqrt(np.asarray(nu, np.float64) / bias) + 1e-8) ** -0.5, adam.nu)
