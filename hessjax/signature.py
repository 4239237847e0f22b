"""Certified inertia of stacks of symmetric matrices: how many eigenvalues lie below, within and above a threshold.

Counting takes no eigenvalues. Where `stacks.is_counted`, reflections take a matrix to tridiagonal form once, and a
pass over that form counts for every threshold (Sturm). Unlike elimination of the matrix itself, of any pivoting,
reflections do not let entries grow, so one error bound serves every matrix and no lane needs a second method.
A count at tau is certified by equal counts at tau - eta and tau + eta, eta bounding the error of both steps: by Weyl
no eigenvalue of the matrix given then lies on another side of tau than counted. Elsewhere eigenvalues are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hessjax import stacks
from hessjax.tridiagonals import bisected, count_below

__all__ = ["Inertia", "aligned", "by_pivots", "by_values", "checked", "error_bound", "inertia", "with_ends"]


class Inertia(NamedTuple):
    """How many eigenvalues lie below -threshold, within it, and above it; one row per matrix of the stack.

    `certified`: no eigenvalue lies within the method's own error of +-threshold, so the counts are those of the
    exact eigenvalues of the matrix given (of its lower triangle, where the two differ by rounding). A matrix with NaN
    or inf: counts 0, certified False, threshold NaN. Entries below the normal range of the dtype are zero, as to most
    processors.
    """

    negative: Int[Array, "*batch"]
    zero: Int[Array, "*batch"]
    positive: Int[Array, "*batch"]
    certified: Bool[Array, "*batch"]
    threshold: Float[Array, "*batch"]


def inertia(a: Float[Array, "*batch n n"], tol: float | Sequence[float]) -> Inertia:
    """Counts of every matrix of a symmetric stack at thresholds tol ||A||; several of them share the work.

    Lower triangles are read, here and below. Counts do not vary: nothing here has a derivative.

    Example:
      >>> found = inertia(jnp.diag(jnp.array([-2.0, 0.0, 1e-3, 5.0])), [1e-6, 1e-2])
      >>> found.negative.tolist(), found.zero.tolist(), found.positive.tolist()
      ([1, 1], [1, 2], [2, 1])
    """
    a = jax.lax.stop_gradient(a)
    if stacks.is_counted():
        return by_pivots(stacks.reduced(a), tol)
    return by_values(stacks.eigvalsh(a), stacks.row_sum_norm(a), tol)


def with_ends(a: Float[Array, "*batch n n"], tol: float) -> tuple[Inertia, Float[Array, "*batch two"]]:
    """`inertia`, and the smallest and the largest eigenvalue, NaN where not finite.

    Example:
      >>> found, ends = with_ends(jnp.diag(jnp.array([-2.0, 0.0, 5.0])), 1e-6)
      >>> int(found.negative), ends.round(5).tolist()
      (1, [-2.0, 5.0])
    """
    a, which = jax.lax.stop_gradient(a), jnp.array([0, a.shape[-1] - 1])
    if stacks.is_counted():
        reduced = stacks.reduced(a)
        return by_pivots(reduced, tol), bisected(reduced.t, which) * reduced.scale[..., None]
    values = stacks.eigvalsh(a)
    return by_values(values, stacks.row_sum_norm(a), tol), values[..., which]


def error_bound(n: int, dtype: Any) -> float:
    """How far computed eigenvalues, or the thresholds that counts belong to, are off, in units of ||A||_2.

    (8 + 2 sqrt(n)) eps: the backward error of reflections and of a tridiagonal method is a modest multiple of eps
    (Golub & Van Loan, 4th ed., sections 8.3 and 8.4); a model, to which the tests hold the methods where they run. The
    worst of 120,000 matrices each (of low rank, mostly): 7.3 eps for n = 3, 7.6 for 5, 7.9 for 16, 8.4 for 24. So
    a threshold below some 1e-6 in float32 certifies no zero.
    """
    return (8 + 2 * n**0.5) * float(jnp.finfo(dtype).eps)


def by_pivots(reduced: stacks.Reduced, tol: float | Sequence[float]) -> Inertia:
    """`inertia` from tridiagonal forms; exactly zero matrices are certain.

    Example:
      >>> a = jnp.diag(jnp.array([-2.0, 5.0]))
      >>> found = by_pivots(stacks.reduced(a), 0.0)
      >>> int(found.negative), int(found.positive), bool(found.certified)
      (1, 1, True)
    """
    t = reduced.t
    n, dtype = t.diagonal.shape[-1], t.diagonal.dtype
    relative = _relative(tol, dtype)
    low, high = t.bounds()
    size = jnp.maximum(-low, high)[..., None]  # at least ||T||_2, at most thrice
    error = error_bound(n, dtype) * size
    # What is nearer to zero than half an eps of the largest is zero for all that is known.
    edge = jnp.maximum(relative * (reduced.norm / reduced.scale)[..., None], float(jnp.finfo(dtype).eps) / 2 * size)
    above = jnp.nextafter(edge, jnp.full_like(edge, jnp.inf))  # at most edge is below this
    # In turn about the lower and about the upper threshold; all three counts of either must agree.
    shifts = jnp.concatenate([-edge, above, -edge - error, edge - error, -edge + error, edge + error], axis=-1)
    below = jnp.stack(jnp.split(count_below(t, shifts), 6, axis=-1))
    below = jnp.where(size > 0, below, jnp.array([0, n, 0, n, 0, n], below.dtype).reshape(6, *[1] * size.ndim))
    found = Inertia(
        negative=below[0],
        zero=below[1] - below[0],
        positive=n - below[1],
        certified=jnp.all(below[::2] == below[0], axis=0) & jnp.all(below[1::2] == below[1], axis=0),
        threshold=relative * reduced.norm[..., None],
    )
    return _only(_like(tol, found), jnp.isfinite(reduced.scale))


def by_values(values: Float[Array, "*batch n"], norm: Float[Array, "*batch"], tol: float | Sequence[float]) -> Inertia:
    """`inertia` from eigenvalues, NaN where there are none, and the row-sum norms of their matrices.

    At threshold 0 only an exactly zero matrix's zeros are certain.
    """
    ok = jnp.all(jnp.isfinite(values), axis=-1)
    threshold = _relative(tol, values.dtype) * norm[..., None]
    edge, values = threshold[..., None], values[..., None, :]
    count = lambda mask: jnp.sum(mask, axis=-1, dtype=jnp.int32)
    error = error_bound(values.shape[-1], values.dtype) * jnp.max(jnp.abs(values), axis=-1, keepdims=True)
    near = (jnp.abs(jnp.abs(values) - edge) <= error) & (error > 0)
    found = Inertia(
        negative=count(values < -edge),
        zero=count(jnp.abs(values) <= edge),
        positive=count(values > edge),
        certified=~jnp.any(near, axis=-1),
        threshold=threshold,
    )
    return _only(_like(tol, found), ok)


def aligned(x: Array, found: Inertia) -> Array:
    """What is said of each matrix, beside counts that may have a last axis of thresholds."""
    return x[..., None] if found.threshold.ndim > x.ndim else x


def checked(tol: Any) -> float | tuple[float, ...]:
    """Relative thresholds as Python's numbers.

    Raises:
      TypeError: not numbers, or traced ones.
      ValueError: negative, NaN, infinite, none, or of more than one axis.

    Example:
      >>> checked(np.array([0.0, 1e-3]))
      (0.0, 0.001)
    """
    try:
        found = np.asarray(tol, np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"tol is {type(tol).__name__}, wanted a number or a sequence of them, known before anything is traced."
        ) from None
    if found.ndim > 1 or not found.size:
        raise ValueError(f"tol has shape {np.shape(tol)}, wanted a number or a sequence of them.")
    if not (found >= 0).all():
        raise ValueError(f"tol must be at least 0, got {tol}; it is relative to the largest absolute row sum.")
    if not np.isfinite(found).all():
        raise ValueError(f"tol must be finite, got {tol}; it is relative to the largest absolute row sum.")
    return tuple(found.tolist()) if found.ndim else float(found)


def _relative(tol: float | Sequence[float], dtype: Any) -> Float[Array, " k"]:
    return jnp.atleast_1d(jnp.asarray(checked(tol), dtype))


def _like(tol: Any, found: Inertia) -> Inertia:
    """Without the last axis, of thresholds, where one number was given."""
    return found if np.ndim(tol) else Inertia(*(x[..., 0] for x in found))


def _only(found: Inertia, ok: Bool[Array, "*batch"]) -> Inertia:
    """Counts 0 and nothing certain where a matrix, or its threshold, is not finite."""
    ok = aligned(ok, found) & jnp.isfinite(found.threshold)
    counts = (jnp.where(ok, x, 0) for x in found[:3])
    return Inertia(*counts, certified=found.certified & ok, threshold=jnp.where(ok, found.threshold, jnp.nan))
