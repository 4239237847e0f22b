"""One init at one time: every number of its row, from one Hessian or from products with it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from hessjax import stacks, trees
from hessjax.columns import COLUMNS
from hessjax.composition import lower
from hessjax.curvature import Hessian
from hessjax.estimates import mean as probe_mean
from hessjax.krylov import tridiagonals
from hessjax.landscapes.base import Landscape
from hessjax.negative import Fraction, bounds
from hessjax.objective import mean_loss
from hessjax.quadrature import gauss
from hessjax.signature import by_values, with_ends
from hessjax.trees import PRNGKey

__all__ = ["error_rate", "estimate", "measure"]

PIECES = 2**30  # bytes of one init's pieces: the same on every machine, as the way they are added decides the last bits


def measure(
    land: Landscape,
    params: PyTree,
    *,
    tol: float,
    spectrum: bool = True,
    chunk: int | None = None,
    columns: int = COLUMNS,
    pieces: bool = True,
) -> dict[str, Array]:
    """One init at one time: every number of its row.

    Args:
      land: the landscape.
      params: where to measure.
      tol: relative threshold of the counts.
      spectrum: whether all eigenvalues are among the numbers.
      chunk: rows per pass.
      columns: Hessian columns per pass, of the leaves that are columns.
      pieces: whether leaves may be put together from pieces, of up to 1 GiB.

    Example:
      >>> from hessjax.landscapes import get
      >>> land = get("quadratic", eigenvalues=(-1.0, 2.0))
      >>> row = measure(land, jnp.ones(2), tol=1e-5)
      >>> int(row["negative"]), int(row["positive"])
      (1, 1)
    """
    loss, grad = jax.value_and_grad(lambda p: mean_loss(land.loss, p, land.batch))(params)
    op = Hessian(land.loss, params, land.batch, chunk=chunk)
    matrix = lower(op, columns=columns, memory=PIECES if pieces else 1)
    matrix = jnp.where(jnp.isfinite(loss), matrix, jnp.nan)  # a diverged init has no curvature to count
    if spectrum:
        values = stacks.eigvalsh(matrix)
        found, ends = by_values(values, stacks.row_sum_norm(matrix), tol), values[jnp.array([0, -1])]
    else:
        values, (found, ends) = None, with_ends(matrix, tol)
    finite = jnp.all(jnp.isfinite(ends))
    row = {
        **_at(land, params, loss, grad, finite),
        **found._asdict(),
        "trace": jnp.where(finite, jnp.sum(matrix.ravel()[:: len(matrix) + 1]), jnp.nan),
        "min_eigenvalue": ends[0],
        "max_eigenvalue": ends[1],
    }
    if values is not None:
        row["eigenvalues"] = values
    return _in_dtype(row, matrix.dtype)


def estimate(
    land: Landscape,
    params: PyTree,
    key: PRNGKey,
    *,
    tol: float,
    num_steps: int = 64,
    num_probes: int = 8,
    chunk: int | None = None,
) -> dict[str, Array]:
    """One init at one time, from Hessian-vector products: estimates of the counts, trace and density, with errors.

    Args:
      land: the landscape.
      params: where to measure.
      key: of the probes.
      tol: threshold of the counts, relative to the largest |Ritz value|.
      num_steps: Lanczos steps of each probe.
      num_probes: probes.
      chunk: rows per pass.

    Returns:
      `negative`, `positive`: what the probes' Gauss rules have beyond the threshold, in eigenvalues, `zero` the rest;
      `count_error`: one standard error of either over probes; `unresolved`: how far either may be off beside, as so
      many steps bound what is beyond the threshold; `nodes`, `weights`: the quadrature [probes, steps] of the density;
      `trace` and `trace_error`; the smallest and largest Ritz values; the rest as of `measure`.

    Example:
      >>> from hessjax.landscapes import get
      >>> land = get("quadratic", eigenvalues=(-1.0, 2.0, 2.0, 2.0))
      >>> row = estimate(land, jnp.ones(4), jax.random.key(0), tol=1e-5, num_probes=40)
      >>> abs(int(row["negative"]) - 1) <= 3 * float(row["count_error"]) + float(row["unresolved"]) + 0.5
      True

    References: `slq`, `negative_fraction`.
    """
    loss, grad = jax.value_and_grad(lambda p: mean_loss(land.loss, p, land.batch))(params)
    op = Hessian(land.loss, params, land.batch, chunk=chunk)
    t = tridiagonals(op, key, num_steps=num_steps, num_probes=num_probes, full=False)
    quadrature, below = gauss(t, op, num_steps), bounds(t, op, tol)
    above = bounds(t._replace(alphas=-t.alphas), op, tol)
    nodes = jnp.where(jnp.isfinite(loss), quadrature.nodes, jnp.nan)
    weights, bound, probe_sum = quadrature.weights, below.threshold, lambda x: probe_mean(jnp.sum(x, axis=1))
    mean, trace_error = probe_sum(jnp.where(weights > 0, nodes * weights, 0))
    shares = [probe_sum(jnp.where(where, weights, 0)) for where in (nodes < -bound, nodes > bound)]
    finite = jnp.all(jnp.isfinite(nodes))
    negative, positive = (jnp.where(finite, jnp.round(op.size * x), 0).astype(jnp.int32) for x, _ in shares)
    row = {
        **_at(land, params, loss, grad, finite),
        "negative": negative,
        "positive": positive,
        "zero": jnp.where(finite, op.size - negative - positive, 0).astype(jnp.int32),
        "certified": jnp.zeros((), bool),
        "threshold": below.threshold,
        "count_error": op.size * jnp.maximum(shares[0][1], shares[1][1]),
        "unresolved": op.size * jnp.maximum(_doubt(below, shares[0][0]), _doubt(above, shares[1][0])),
        "trace": jnp.where(finite, op.size * mean, jnp.nan),
        "trace_error": op.size * trace_error,
        "min_eigenvalue": jnp.min(nodes),
        "max_eigenvalue": jnp.max(nodes),
        "nodes": nodes,
        "weights": quadrature.weights,
    }
    return _in_dtype(row, trees.scalar_dtype(params))


def _doubt(bounds: Fraction, share: Array) -> Array:
    """How far the bounds of a share are from it."""
    low, high = bounds.value, bounds.value + bounds.unresolved
    return jnp.maximum(jnp.maximum(share - low, high - share), 0)


def _at(land: Landscape, params: PyTree, loss: Array, grad: PyTree, finite: Array) -> dict[str, Array]:
    """What a row has however its curvature was measured."""
    row = {
        "loss": loss,
        "grad_norm": trees.norm(grad),
        "status": jnp.where(jnp.isfinite(loss), jnp.where(finite, 0, 2), 1).astype(jnp.int8),
    }
    if land.classifies:
        row["error"] = jnp.where(jnp.isfinite(loss), error_rate(land, params), jnp.nan)
    return row


def _in_dtype(row: dict[str, Array], dtype: Any) -> dict[str, Array]:
    kept = ("negative", "zero", "positive", "certified", "status")
    return {name: x if name in kept else x.astype(dtype) for name, x in row.items()}


def error_rate(land: Landscape, params: PyTree) -> Float[Array, ""]:
    """Share of rows where argmax of the model's outputs is not the integer target."""
    assert land.model is not None
    inputs, targets = land.batch
    with jax.default_matmul_precision("float32"):
        return jnp.mean(jnp.argmax(land.model(params, inputs), axis=-1) != targets)
