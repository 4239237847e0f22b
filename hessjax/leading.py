"""What the reduced function does near a critical point, as far as its Taylor coefficients prove it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from hessjax import quartics
from hessjax.arguments import as_pytree
from hessjax.reduced import cubic_and_quartic, reduced_series

__all__ = ["Leading", "largest_coefficient", "leading_form"]

ORDER = 6  # of the last coefficient that is read where the null space is a line
MAX_FITTED = 6  # dimensions of the null space up to which the whole quartic form is fitted: 126 coefficients
ZERO = 1e3  # eps: what rounding makes of a coefficient that is zero, beside the others
PROBES = 12  # directions in which a form that vanishes in all is taken for zero


class Leading(NamedTuple):
    """What the reduced function does near the point, as far as proved: goes down or up somewhere, or everywhere."""

    note: str
    down: bool = False
    up: bool = False
    direction: Any = None  # down
    only_up: bool = False
    only_down: bool = False


def leading_form(function: Callable, null: Any, regular: tuple, least: float, eps: float) -> Leading:
    """By the first coefficient that is not zero on a line, by the cubic and the quartic form in more dimensions.

    Args:
      function: of displacements from the point; compiled once where it is a `Partial` of arrays.
      null: an orthonormal basis of the null space, columns.
      regular: one of the range, columns, and the eigenvalues there, above 0.
      least: above it a coefficient is not zero.
      eps: a coefficient below `least` is zero where it is below 1000 eps of the largest that the null space shows; in
        between, nothing is decided.

    Example:
      >>> none = jnp.zeros((1, 0)), jnp.zeros(0)
      >>> leading_form(lambda x: -x[0] ** 4, jnp.eye(1), none, 1e-6, 1e-7).only_down
      True
    """
    return (_on_a_line if null.shape[1] == 1 else _on_a_space)(function, null, regular, least, eps)


def largest_coefficient(function: Callable, n: int, dtype: Any) -> float:
    """The largest of third and fourth order met in random directions, or how far the function goes at distance 1.

    The last, as where all coefficients are zero those that are computed are the rounding of something else.

    Example:
      >>> largest_coefficient(lambda x: 3 * x[0] ** 4, 1, jnp.float32)
      3.0
    """
    nothing = jnp.zeros((n, 0), dtype), jnp.zeros(0, dtype)
    units = np.random.default_rng(0).standard_normal((PROBES, n))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    function, units = as_pytree(function), jnp.asarray(units, dtype)
    probed = np.abs(np.asarray(_probed(function, nothing, units), float)).max(initial=0.0)
    apart = np.abs(np.asarray(_apart(function, units), float))
    return float(max(probed, np.max(apart[np.isfinite(apart)], initial=0.0)))


@jax.jit
def _probed(function: Partial, regular: tuple, units: Any) -> Any:
    return jax.lax.map(cubic_and_quartic(function, *regular), units)


@jax.jit
def _apart(function: Partial, units: Any) -> Any:
    return jax.lax.map(function, units) - function(jnp.zeros_like(units[0]))


def _on_a_line(function: Callable, null: Any, regular: tuple, least: float, eps: float) -> Leading:
    u, (vectors, values) = null[:, 0], regular
    coefficients = np.asarray(reduced_series(function, u, vectors, values, ORDER)[0], float)
    zero = ZERO * eps * float(np.abs(coefficients[2:]).max())
    for k in range(3, ORDER + 1):
        a = coefficients[k]
        if not np.isfinite(a):
            return Leading(f"the derivative of order {k} is not finite")
        if abs(a) > least:
            note = f"reduced function {a:.6g} s^{k} to lowest order"
            odd = k % 2 == 1
            down, up = odd or a < 0, odd or a > 0
            return Leading(note, down, up, -u if odd and a > 0 else u, only_up=not down, only_down=not up)
        if abs(a) > zero:
            return Leading(f"a coefficient of order {k}, {a:.3g}, is small and not known to be zero")
    return Leading(f"reduced function zero to order {ORDER}")


def _on_a_space(function: Callable, null: Any, regular: tuple, least: float, eps: float) -> Leading:
    d = null.shape[1]
    count = max(PROBES, 2 * len(quartics.monomials(d))) if d <= MAX_FITTED else PROBES * d
    units = np.random.default_rng(1).standard_normal((count, d))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    probed = _probed(as_pytree(function), regular, jnp.asarray(units, null.dtype) @ null.T)
    cubic, quartic = np.asarray(probed, float).T
    if not np.isfinite([cubic, quartic]).all():
        return Leading("derivatives beyond the Hessian are not finite")
    largest = int(np.argmax(np.abs(cubic)))
    if np.abs(cubic[largest]) > least:
        way = -np.sign(cubic[largest]) * (null @ jnp.asarray(units[largest], null.dtype))
        return Leading(f"reduced function with a cubic form, {abs(cubic[largest]):.6g}", True, True, way)
    if np.abs(cubic[largest]) > ZERO * eps * max(float(np.abs(quartic).max()), float(np.abs(cubic).max())):
        return Leading(f"a cubic form, {abs(cubic[largest]):.3g}, is small and not known to be zero")
    if d > MAX_FITTED:
        lowest, where, highest = float(quartic.min()), units[np.argmin(quartic)], float(quartic.max())
        at_least, at_most = -math.inf, math.inf
    else:
        form = quartics.fit(units, quartic)
        lowest, where, highest = quartics.extremes(form, d)
        at_least = quartics.proved_at_least(form, d) if lowest > least else -math.inf
        at_most = -quartics.proved_at_least(-form, d) if highest < -least else math.inf
    note = f"reduced function with a quartic form from {lowest:.6g} to {highest:.6g}"
    if max(abs(lowest), abs(highest)) <= least:
        note = "reduced function zero to order 4"
    way = null @ jnp.asarray(where, null.dtype)
    return Leading(note, lowest < -least, highest > least, way, at_least > least, at_most < -least)
