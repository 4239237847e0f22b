"""Claim: trained on all rows, a tanh net's sharpness rises to 2 / step and stays: from where it first passes it, its median is 1.00 to 1.01 times that, of momentum 1.00 times (2 + 2 beta) / step, of Adam's preconditioned sharpness .98 to .99 times its bound; a control whose bound is out of reach passes where the others stop.

Problem: 64-50-50-10 tanh network, half the squared distance from one-hot targets, 500 digits (8 x 8, not pooled), P =
6,310, float32, one start, 3000 steps of full-batch gradient descent (step .1, the control, .2 and .25, whose bound 8 is
below the sharpness at the start), Polyak's momentum .9 and Adam (Cohen et al. 2021, arXiv:2103.00065; 2022,
arXiv:2207.14484). Curvature is tracked every 20 steps to a relative residual of 1e-3. Two numbers first: a gradient
takes 500 x 6 x 6,310 = 19 MFLOP, 3000 of them .06 TFLOP, and 150 measurements of ten to twenty products with the Hessian about
as much again; params, batch and activations are under 1 MB.

`passed_at`: the first measured step above `threshold`; `median` of what is measured from there over it, `near` the
share of that within .95 to 1.05; `largest` of all; `products` of a measurement. A run is timed once, for it is the same
each time.

Error: against ARPACK on float64's products at the params of the last measurement, for Adam with its preconditioner
there.
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
from benchmarks.harness import Cost, once, row
from benchmarks.tracking import Blocks, exact, trained
from hessjax.objective import mean_loss

ERROR = "|last tracked curvature - float64's of ARPACK at the same params| / float64's"
FULL = {"widths": (50, 50), "rows": 500, "pool": 1, "activation": "tanh", "loss": "squared"}
SMOKE = FULL | {"widths": (4,), "rows": 32}
WITHIN = 0.05


class Kind(NamedTuple):
    """An optimiser for a step, the steps, and what `stability_threshold` takes; one program for all steps."""

    optimizer: Callable[[Any], Any]
    rates: tuple[float, ...]
    threshold: dict[str, Any]


KINDS = {
    "gradient descent": Kind(optax.sgd, (0.1, 0.2, 0.25), {}),
    "momentum": Kind(partial(optax.sgd, momentum=0.9), (0.4,), {"momentum": 0.9}),
    "adam": Kind(optax.adam, (0.001, 0.003), {"momentum": 0.9, "kind": "adam"}),
}


def run() -> list[dict[str, Any]]:
    """A row for each optimiser and step."""
    smoke = bool(os.environ.get("HESSJAX_SMOKE"))
    kinds = ("gradient descent", "adam") if smoke else KINDS
    return [found for name in kinds for found in _rows(name, smoke)]


def _rows(name: str, smoke: bool) -> list[dict[str, Any]]:
    kind, options = KINDS[name], SMOKE if smoke else FULL
    every, count = (10, 4) if smoke else (20, 150)
    land = hj.landscapes.get("digits-mlp", **options)
    gradient = lambda params, _: jax.value_and_grad(partial(mean_loss, land.loss))(params, land.batch)
    make = hj.measures.preconditioned_sharpness if name == "adam" else hj.measures.extremes
    measure = make(land.loss, jax.random.key(1), land.batch)

    def watched(rate, params):
        optimizer = hj.track(measure, every, inner=kind.optimizer(rate))
        return trained(optimizer, gradient, (params, optimizer.init(params)), every=every, count=count)

    rates, start = jnp.asarray(kind.rates), land.init(jax.random.key(0))
    began = time.perf_counter()
    run = jax.jit(watched).lower(rates[0], start).compile()
    compile_s = time.perf_counter() - began
    rows = []
    for k, rate in enumerate(kind.rates[:1] if smoke else kind.rates):
        cpu, began = time.process_time(), time.perf_counter()
        found = jax.block_until_ready(run(rates[k], start))
        wall = time.perf_counter() - began
        cost = once(wall, cores=(time.process_time() - cpu) / wall, compile_s=compile_s)
        threshold = float(hj.tracking.stability_threshold(rate, **kind.threshold))
        rows.append(_row(f"{name}, step {rate}", cost, found, threshold, every, options))
    return rows


def _row(what: str, cost: Cost, found: Blocks, threshold: float, every: int, options: dict[str, Any]) -> dict[str, Any]:
    values = np.asarray(found.values.values, float)[:, 0]
    params, state = jax.tree.map(lambda x: np.asarray(x[-1]), (found.params, found.states))
    true = exact(options, params, _scale(state))
    numbers = {"threshold": threshold, **passing(values, threshold, every)}
    numbers["products"] = float(np.mean(np.asarray(found.values.num_matvecs)[1:]))
    numbers["loss"] = float(found.losses[-1])
    return row(what, cost, error=abs(float(values[-1]) / true - 1), error_is=ERROR, **numbers)


def passing(values: np.ndarray, threshold: float, every: int) -> dict[str, Any]:
    """Where a threshold is first passed; from there the median of values over it, and the share of them near it."""
    ratios = values / threshold
    numbers: dict[str, Any] = {"largest": float(np.nanmax(values)), "passed_at": None, "median": None, "near": None}
    if not (ratios > 1).any():
        return numbers
    first = int((ratios > 1).argmax())
    near = np.abs(ratios[first:] - 1) <= WITHIN
    return numbers | {
        "passed_at": first * every,
        "median": float(np.median(ratios[first:])),
        "near": float(near.mean()),
    }


def _scale(inner: Any) -> Any:
    """The root of what Adam's gradients are multiplied by; of other optimisers None."""
    adam = next((x for x in inner if hasattr(x, "nu")), None)
    if adam is None:
        return None
    bias = 1 - 0.999 ** float(adam.count)
    return jax.tree.map(lambda nu: (np.sqrt(np.asarray(nu, np.float64) / bias) + 1e-8) ** -0.5, adam.nu)
