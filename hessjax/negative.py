"""The share of negative eigenvalues of an operator too large for a matrix, with what is not resolved kept apart.

A Gauss rule bounds how much of a probe's mass lies below a point; the bounds hold for every probe, and their
distance is reported, not averaged away.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from hessjax.arguments import check_accuracy, check_key
from hessjax.driving import between, ready, run
from hessjax.estimates import Estimate, interval, mean, to_accuracy
from hessjax.krylov import Ritz, Tridiagonal, cost, eps, product_eps, ritz, runs, tridiagonals
from hessjax.operators import Operator
from hessjax.trees import PRNGKey

__all__ = ["Fraction", "bounds", "negative_fraction"]


class Fraction(NamedTuple):
    """A share of eigenvalues: the truth lies in [value, value + unresolved], up to the standard error at either end.

    `threshold` is the absolute one, tol times the largest |Ritz value|.
    """

    value: Float[Array, ""]
    std_error: Float[Array, ""]
    unresolved: Float[Array, ""]
    threshold: Float[Array, ""]
    num_matvecs: Int[Array, ""]

    def interval(self, num_probes: int) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """What the share is between, in 95 % of runs with `num_probes` probes: unresolved mass and errors together.

        Example:
          >>> share = Fraction(*map(jnp.float32, (0.25, 0.01, 0.5, 1e-3)), jnp.int32(64))
          >>> low, high = share.interval(num_probes=40)
          >>> round(float(low), 4), round(float(high), 4)
          (0.2304, 0.7696)
        """
        return interval(self.value, self.value + self.unresolved, self.std_error, num_probes)


def negative_fraction(
    op: Operator,
    key: PRNGKey,
    *,
    tol: float,
    num_steps: int = 64,
    num_probes: int = 8,
    reorthogonalize: str = "none",
    atol: float | None = None,
    max_matvecs: int = 10_000,
) -> Fraction:
    """The share of eigenvalues below -tol ||A||, bounded from both sides.

    Each probe's Gauss rule bounds its mass below the threshold: by the inequalities of Chebyshev, Markov and
    Stieltjes (the nodes on either side of the threshold are in doubt, the others are not; and no more than a measure
    with these moments can have at the threshold itself, which in a gap falls exponentially with the steps), and by
    the residuals of the Ritz vectors. The narrowest holds.

    Args:
      op: a symmetric operator A.
      key: draws the probes.
      tol: relative to ||A||, here the largest |Ritz value|; at least 0. At 0 the mass within rounding of zero is
        unresolved.
      num_steps: as for `slq`; more steps resolve more of the mass.
      num_probes: as for `slq`; more probes lower the standard error.
      reorthogonalize: as for `slq`.
      atol: repeat with fresh probes, at the threshold of the first, until the 95 % interval is within +-atol; what is
        `unresolved` only more steps resolve.
      max_matvecs: products that atol may take; whether it was reached, 1.96 std_error tells.

    Returns:
      `value`: the mean lower bound; `unresolved`: how far the mean upper bound is above it.

    Raises:
      ValueError: tol negative; counts below 1; atol not above 0.

    Example:
      >>> import hessjax as hj
      >>> A = hj.Matrix(jnp.diag(jnp.array([-1.0, 1.0, 2.0, 3.0])))
      >>> found = hj.negative_fraction(A, jax.random.key(0), tol=1e-3, num_probes=200)
      >>> bool(abs(found.value - 0.25) < 3 * found.std_error), bool(found.unresolved < 1e-6)
      (True, True)

    References: Golub & Meurant (2010), Matrices, Moments and Quadrature, section 3; Szego (1939), section 3.41; Parlett
      (1998), section 11.7 (Ritz vectors and gaps).
    """
    check_key(key)
    options = runs(op, num_steps, num_probes, reorthogonalize)
    if not tol >= 0:
        raise ValueError(f"tol must be at least 0, got {tol}; it is relative to the largest |Ritz value|.")
    limit = check_accuracy("atol", atol, num_probes, max_matvecs)
    if atol is None:
        return run(_negative_fraction, op, key, tol, **options)
    return run(_to_accuracy, op, key, tol, atol, limit, **options)


def _negative_fraction(op: Operator, key: Any, tol: Any, *, num_steps: int, num_probes: int, full: bool) -> Fraction:
    return bounds(tridiagonals(op, key, num_steps=num_steps, num_probes=num_probes, full=full), op, tol)


def _to_accuracy(op: Operator, key: Any, tol: Any, atol: Any, max_matvecs: Any, **options: Any) -> Fraction:
    op = ready(op, cost(op, options["num_steps"], options["num_probes"]))
    first = _negative_fraction(op, jax.random.fold_in(key, 0), tol, **options)

    def estimate(one: Fraction) -> Estimate:
        return Estimate((one.value, one.unresolved), one.std_error, one.num_matvecs)

    def batch(k: Any) -> Estimate:
        return estimate(bounds(tridiagonals(op, k, **options), op, tol, threshold=first.threshold))

    num_steps, num_probes = options["num_steps"], options["num_probes"]
    each = cost(op, num_steps, num_probes)
    bars = {"num_probes": num_probes, "atol": atol, "each": each, "max_matvecs": max_matvecs}
    found = to_accuracy(op, key, batch, first=estimate(first), **bars)
    value, unresolved = found.value
    return Fraction(value, found.std_error, unresolved, first.threshold, found.num_matvecs)


def bounds(
    t: Tridiagonal, op: Operator, tol: Any, known: Float[Array, " k"] | None = None, threshold: Any = None
) -> Fraction:
    """The share below the threshold (None: theirs) from Lanczos runs on `op`, and from eigenvalues known beside."""
    return between(_bounds, t, op.domain(), tol, known, threshold)


def _bounds(t: Tridiagonal, op: Operator, tol: Any, known: Any, threshold: Any) -> Fraction:
    found = ritz(t, eps(op))
    norm = jnp.max(jnp.abs(found.values))
    if known is not None:
        norm = jnp.maximum(norm, jnp.max(jnp.abs(known)))
    threshold = (tol * norm).astype(found.values.dtype) if threshold is None else threshold
    # How far Ritz values of products in this precision are from eigenvalues.
    slack = max(32 * eps(op), 4 * product_eps(op)) * norm
    low = jax.vmap(lambda r: _below(r, -threshold - slack)[0])(found)
    high = jax.vmap(lambda r: _below(r, -threshold + slack)[1])(found)
    value, error = mean(low)
    upper, upper_error = mean(high)
    unresolved = jnp.maximum(upper - value, 0)
    parts = jnp.stack([value, jnp.maximum(error, upper_error), unresolved])
    parts = jnp.where(norm == 0, 0, parts)  # the zero operator has no negative eigenvalue at any threshold
    if known is not None:
        parts = parts * (1 - len(known) / op.size)
        parts = parts.at[0].add(jnp.sum(known < -threshold) / op.size)
    return Fraction(parts[0], parts[1], parts[2], threshold, jnp.sum(t.num_steps_done))


def _below(r: Ritz, x: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Bounds of the mass of a probe's measure below x."""
    mass, above = jnp.cumsum(r.weights), r.values > x
    count = jnp.sum(~above)  # nodes at or below x
    at = lambda k: jnp.where(k <= 0, 0, mass[jnp.clip(k - 1, 0, len(mass) - 1)])
    whole = at(count)
    ended = r.residual == 0
    low = jnp.where(ended, whole, at(count - 1))
    high = jnp.where(ended, whole, at(count + 1))
    # v is the sum of sqrt(w) y over Ritz vectors y; of each, the part on the wrong side of x is at most its residual
    # over its distance from x.
    stray = jnp.sqrt(r.weights) * r.last * r.residual / jnp.maximum(jnp.abs(r.values - x), jnp.finfo(x.dtype).tiny)
    over, under = jnp.sum(jnp.where(above, stray, 0)), jnp.sum(jnp.where(above, 0, stray))
    root = lambda y: jnp.sqrt(jnp.clip(y, 0, None))
    at_least = jnp.clip(root(whole - under**2) - over, 0, None) ** 2
    at_most = (root(whole) + over) ** 2
    above_least = jnp.clip(root(1 - whole - over**2) - under, 0, None) ** 2
    above_most = (root(1 - whole) + under) ** 2
    low = jnp.maximum(low, jnp.maximum(at_least, 1 - above_most))
    high = jnp.minimum(high, jnp.minimum(at_most, 1 - above_least))
    # Rule and measure agree in 2 m - 1 moments, so below x their masses differ by no more than could stand at x.
    atom = jnp.where(ended, 0, _christoffel(r, x))
    low, high = jnp.maximum(low, whole - atom), jnp.minimum(high, whole + atom)
    return jnp.minimum(low, whole), jnp.maximum(high, whole)


def _christoffel(r: Ritz, x: Float[Array, ""]) -> Float[Array, ""]:
    """The largest mass at x of a measure with these moments, 1 / sum_k p_k(x)^2 over k < m; tiny in a gap.

    The orthonormal polynomials p_k(x) of T solve (T - x) p = -beta p_m(x) e_m with p_0 = 1, so they follow from first
    and last entries of its eigenvectors; the products of these alternate in sign, for T has no negative beta.
    """
    distance = r.values - x
    least = jnp.finfo(x.dtype).eps * jnp.max(jnp.abs(r.values)) + jnp.finfo(x.dtype).tiny
    distance = jnp.where(jnp.abs(distance) < least, least, distance)
    part = jnp.min(jnp.abs(distance)) / distance * r.last
    sign = 1 - 2 * (jnp.arange(len(part)) % 2)
    return jnp.sum(sign * jnp.sqrt(r.weights) * part) ** 2 / jnp.sum(part**2)
