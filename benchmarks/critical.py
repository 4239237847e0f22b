"""Claim: 1024 starts on the published 16-4 linear autoencoder take at most 5 minutes on two cores, by Newton-MR and by a trust region; every point called critical is an analytic one, and a trust region finds one from 95 % of starts.

Problem: 10,000 Gaussian rows of 16 inputs with variances 1 to 16, centred, condensed to 16 rows of the same second moments
(the same mean loss); 128 weights, float64; starts uniform in loss along gradient descent, half with noise; 500 steps
at most. The published runs took 20 minutes to 1 h 45 for each success (Frye et al. 2021, doi:10.1162/neco_a_01388), with
success from about 80 % of starts.

Two numbers of a step: Newton-MR takes up to 64 products with a matrix of 128 rows, 2.1 MFLOP, which with others of its
group fits in the second cache; a trust region its eigenvectors, about 9 n^3 = 19 MFLOP, and a few gradients.

Rival: MINPACK's Levenberg-Marquardt (`scipy.optimize.root`) on the gradient with the assembled Hessian, both compiled, from
the first 64 of the same starts, one after another with both cores' BLAS. `success` is the share of starts that end below
a squared gradient norm of 1e-10, `per_success_s` the time over their number. `matched` is the share of them with loss and
index in the analytic set. Error: 1 - matched.
"""  # noqa: E501 -- the claim is one line

from __future__ import annotations

import os
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.flatten_util import ravel_pytree

import hessjax as hj
from benchmarks.harness import Program, measure, row

CUT, NEGATIVE = 1e-10, -1e-5  # published: of the squared gradient norm, and of an eigenvalue that counts


def run() -> list[dict[str, Any]]:
    """Rows: two methods from all starts, then both and the rival from a few."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    try:
        return _rows(*((4, 2, 16, 4, 30) if os.environ.get("HESSJAX_SMOKE") else (16, 4, 1024, 64, 500)))
    finally:
        jax.config.update("jax_enable_x64", before)


def _rows(inputs: int, hidden: int, many: int, few: int, steps: int) -> list[dict[str, Any]]:
    shape = {"inputs": inputs, "hidden": hidden, "sampled": True, "condensed": True, "dtype": "float64"}
    land = hj.landscapes.get("autoencoder", **shape)
    starts = hj.starts.along_training(land, jax.random.key(0), many, num_steps=1000, noise=0.1)
    found = []
    for count in (many, few):
        some = jax.tree.map(lambda x, n=count: x[:n], starts)
        for method in ("newton-mr", "trust-region"):
            search = partial(hj.find_critical_points, land.loss, some, land.batch, method=method, max_steps=steps)
            found.append(_row(land, f"{count} starts: {method}", count, search))
    some = jax.tree.map(lambda x: x[:few], starts)
    found.append(_row(land, f"{few} starts: Levenberg-Marquardt of MINPACK", few, lambda: minpack(land, some, steps)))
    return found


def _row(land: Any, what: str, count: int, search: Any) -> dict[str, Any]:
    kept = {}

    def once() -> None:
        kept["points"] = search()

    once()  # compiles
    cost = measure(Program(once), rounds=1)
    points = kept["points"]
    done = np.asarray(points.grad_norm_sq) < CUT
    matched = _matched(land, points, done)
    success = float(done.mean())
    return row(
        what, cost, error=1 - matched, error_is="share of critical points that are no analytic ones", success=success,
        matched=matched, per_success_s=cost.run_s / max(count * success, 1),
        distinct=len({round(float(x), 6) for x in np.asarray(points.loss)[done]}),
        grad_norm_sq=float(np.median(points.grad_norm_sq)),
    )  # fmt: skip


def _matched(land: Any, points: Any, done: np.ndarray) -> float:
    truth = np.array([(fact["loss"], fact["index"]) for fact in land.facts["critical_points"]])
    ends = jax.tree.map(lambda x: jnp.asarray(x)[np.flatnonzero(done)], points.params)
    spectra = jax.lax.map(lambda p: hj.eigvalsh(hj.dense(hj.Hessian(land.loss, p, land.batch))), ends)
    pairs = zip(np.asarray(points.loss)[done], np.asarray(spectra < NEGATIVE).sum(axis=1), strict=True)
    right = [((abs(truth[:, 0] - loss) < 1e-6 * truth[:, 0].max()) & (truth[:, 1] == n)).any() for loss, n in pairs]
    return float(np.mean(right)) if right else float("nan")


def minpack(land: Any, starts: Any, steps: int) -> Any:
    """The rival: roots of the gradient, one start after another; its evaluations are bounded, not its steps."""
    unravel = ravel_pytree(jax.tree.map(lambda x: x[0], starts))[1]
    mean = lambda x: jnp.mean(land.loss(unravel(x), land.batch))
    gradient = jax.jit(jax.grad(mean))
    hessian = jax.jit(lambda x: hj.dense(hj.Hessian(land.loss, unravel(x), land.batch)))
    ends, squares, losses = [], [], []
    for k in range(len(jax.tree.leaves(starts)[0])):
        x = ravel_pytree(jax.tree.map(lambda s, k=k: s[k], starts))[0]
        options = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 0.0, "maxiter": steps}
        found = scipy.optimize.root(
            lambda x: np.asarray(gradient(x)), x, jac=lambda x: np.asarray(hessian(x)), method="lm", options=options
        ).x
        ends.append(unravel(jnp.asarray(found)))
        squares.append(float(jnp.sum(gradient(found) ** 2)))
        losses.append(float(mean(found)))
    none = np.zeros(len(ends))
    params = jax.tree.map(lambda *x: jnp.stack(x), *ends)
    return hj.CriticalPoints(params, np.array(losses), np.array(squares), none, none, none, none, none, none)
