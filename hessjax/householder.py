"""Stacks of small symmetric matrices to tridiagonal form, each a lane of vectors.

LAPACK takes a small matrix call by call, and most of its time is calls: with the matrices last in memory, every
reflection of all of them is one product and one update of whole vectors (Golub & Van Loan, 4th ed., algorithm 8.3.1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

__all__ = ["tridiagonal"]

STEPS = 8  # reflections between two cuts of what is done; the rest of a matrix is read whole


def tridiagonal(a: Float[Array, "n n lanes"]) -> tuple[Float[Array, "n lanes"], Float[Array, "m lanes"]]:
    """Diagonals and off-diagonals (m = n - 1) with the eigenvalues of symmetric matrices, to a few eps of their norms.

    Args:
      a: both triangles; the largest |entry| of about one, as squares must not overflow, nor all vanish.

    Example:
      >>> a = jnp.array([[1.0, 3.0, 4.0], [3.0, 0.0, 0.0], [4.0, 0.0, 0.0]])
      >>> diagonal, beside = tridiagonal(a[..., None])
      >>> diagonal[..., 0].tolist(), beside.round(5)[..., 0].tolist()
      ([1.0, 0.0, 0.0], [-5.0, 0.0])
    """
    rows, found = a.shape[0], []
    while rows > 2:
        steps = min(STEPS, rows - 2)
        a, ends = jax.lax.scan(_reflect, a, jnp.arange(steps))
        found.append(ends)
        a, rows = a[steps:, steps:], rows - steps
    found.append((jnp.stack([a[k, k] for k in range(rows)]), a[0, 1:rows]))
    diagonal, beside = (jnp.concatenate(x) for x in zip(*found, strict=True))
    return diagonal, beside


def _reflect(a: Float[Array, "n n lanes"], k: Array) -> tuple[Array, tuple[Array, Array]]:
    """Column k to its diagonal entry and one beside it; rows and columns up to k are left as they fall.

    Each of `v`, `p` and `w` is an array of its own: fused into what reads it, XLA would compute it again, and round it
    otherwise, for every entry of the matrix: thirty times slower, and a digit less.
    """
    n = a.shape[0]
    number = jnp.arange(n)[:, None]
    row, first = a[k], a[k, k + 1]
    tail = jnp.where(number > k + 1, row, 0)
    rest = _dot(tail, tail)
    some = rest > float(jnp.finfo(a.dtype).eps) ** 3  # less is no change of eigenvalues, and its squares lose digits
    norm = jnp.sqrt(first * first + rest)
    beside = jnp.where(some, jnp.where(first > 0, -norm, norm), first)
    shrink = 1 / jnp.where(some, first - beside, 1)
    tau = jnp.where(some, (beside - first) / jnp.where(some, beside, 1), 0)

    v = _alone(some, lambda tail, t: jnp.where(number == k + 1, 1, tail * t), tail, shrink)
    p = _alone(some, lambda v, t: _added([a[:, j] * v[j] for j in range(n)]) * t, v, tau)
    w = _alone(some, lambda p, t: p - (t / 2 * _dot(p, v)) * v, p, tau)
    return a - (v[:, None] * w + w[:, None] * v), (row[k], beside)


def _alone(some: Bool[Array, " lanes"], f: Callable, x: Array, t: Array) -> Array:
    """`f(x, t)`, fused with nothing outside; x t where no lane has anything to reflect: tau is zero then, so w is."""
    return jax.lax.cond(jnp.any(some), f, jnp.multiply, x, t)


def _dot(x: Float[Array, "n lanes"], y: Float[Array, "n lanes"]) -> Float[Array, " lanes"]:
    return _added([x[i] * y[i] for i in range(x.shape[0])])


def _added(terms: Sequence[Array]) -> Array:
    """Their sum, as four sums: quicker than one after another, and rounded less."""
    sums = [sum(terms[i + 4 :: 4], start=terms[i]) for i in range(min(4, len(terms)))]
    return sum(sums[1:], start=sums[0])
