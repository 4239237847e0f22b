"""Descent where Taylor coefficients do not tell: curves along which the reduced function falls like a power.

For z in the null space the range is minimised out, phi(z) = min_w f(z + w), by Newton steps with the Hessian there.
phi is then made as low as can be on spheres |z| = r, 2 r, 4 r, ...: where the lowest values fall like -c r^k, k a whole
number from 3, over the three smallest radii that rounding shows, the point is taken for no minimum. That is evidence,
and not proof: a basin smaller than these radii is not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from hessjax import trees
from hessjax.arguments import as_pytree

__all__ = ["Descent", "descent", "settled"]

LARGEST, RADII = 0.25, 8  # of the spheres; each is half the one before
STARTS, STEPS, NEWTON = 24, 60, 6  # directions, how often each is improved, and steps in the range
AGREE, LEAST_ORDER, IN_A_ROW = 0.03, 2.8, 3  # of orders between radii, how low they may be, radii that show one


class Descent(NamedTuple):
    """A curve down: phi is about -scale r^order on it; `points` [radii, n] are on it, nearest to the point first."""

    order: float
    scale: float
    radii: Float[np.ndarray, " k"]
    values: Float[np.ndarray, " k"]
    points: Float[np.ndarray, "k n"]

    def __str__(self) -> str:
        return f"a curve on which the loss falls by {self.scale:.3g} r^{self.order:.2f}, r from {self.radii[0]:.3g} on"


def descent(
    function: Callable[[Any], Array],
    null: Float[Array, "n d"],
    across: tuple[Float[Array, "n m"], Float[Array, " m"]],
    *,
    eps: float,
) -> Descent | None:
    """A curve down from a critical point whose Hessian has no negative eigenvalue, where one is found.

    Args:
      function: of displacements [n] from the point, to a number; compiled once where it is a `Partial` of arrays.
      null: an orthonormal basis of the null space, columns.
      across: one of the range, columns, and the eigenvalues there, above 0.
      eps: of the dtype the function is computed in.

    Example:
      >>> none = jnp.zeros((2, 0)), jnp.zeros(0)
      >>> found = descent(lambda x: x[0] ** 4 - x[1] ** 4, jnp.eye(2), none, eps=1e-7)
      >>> round(found.order, 1), round(found.scale, 1)
      (4.0, 1.0)
    """
    n, d = null.shape
    at_zero = float(function(jnp.zeros(n, null.dtype)))
    units = np.random.default_rng(2).standard_normal((STARTS, d))
    units = np.concatenate([units, np.eye(d)[: STARTS // 2], -np.eye(d)[: STARTS // 2]])
    z = jnp.asarray(units / np.linalg.norm(units, axis=1, keepdims=True), null.dtype)
    radii, found, sizes, drawn = LARGEST * 0.5 ** np.arange(RADII), [], [], z
    for radius in radii:
        z = z / jnp.linalg.norm(z, axis=1, keepdims=True) * radius
        given = as_pytree(function), null, across, at_zero
        sizes.append(float(_largest(*given, radius * drawn)))
        z, value, points = _lowest(*given, z)
        found.append((np.asarray(value, float), np.asarray(points, float)))
    # What rounding makes of values that cancel: where phi is nowhere negative, the lowest that are found are that.
    noise = 1e2 * eps * (abs(at_zero) + float(jnp.max(across[1], initial=0.0)) * radii**2 + np.array(sizes))
    return _best(radii, np.stack([value for value, _ in found]), np.stack([points for _, points in found]), noise)


@jax.jit
def _lowest(function: Partial, null: Any, across: Any, at_zero: Any, z: Any) -> tuple[Any, Any, Any]:
    """From directions [k, d] to the lowest values that they lead to at their radius: there, the values, the points."""
    gradient = jax.grad(function)
    phi = partial(_phi, function, null, across, at_zero)

    def improved(state, _):
        """One turn of a direction on its sphere, if it leads lower; the next is half as far if not."""
        z, value, angle = state
        radius = trees.norm(z)
        slope = null.T @ gradient(settled(gradient, null @ z, across))
        tangent = slope - z * (z @ slope) / jnp.where(radius > 0, radius, 1) ** 2
        length = trees.norm(tangent)
        way = -tangent / jnp.where(length > 0, length, 1)
        tried = jnp.cos(angle) * z + jnp.sin(angle) * radius * way
        tried = tried * radius / trees.norm(tried)  # on a line the tangent is nothing but rounding
        lower = phi(tried)
        better = (lower < value) & (length > 0)
        new = jnp.where(better, tried, z), jnp.where(better, lower, value), jnp.where(better, 1.5 * angle, angle / 2)
        return (new[0], new[1], jnp.minimum(new[2], 1.0)), None

    def lowest(z):
        state = z, phi(z), jnp.full((), 0.3, z.dtype)
        z, value, _ = jax.lax.scan(improved, state, length=STEPS)[0]
        return z, value, settled(gradient, null @ z, across)

    return jax.lax.map(lowest, z)


@jax.jit
def _largest(function: Partial, null: Any, across: Any, at_zero: Any, z: Any) -> Any:
    """|phi| over some z."""
    values = jax.lax.map(partial(_phi, function, null, across, at_zero), z)
    return jnp.max(jnp.where(jnp.isfinite(values), jnp.abs(values), 0))


def _phi(function: Partial, null: Any, across: Any, at_zero: Any, z: Any) -> Any:
    value = function(settled(jax.grad(function), null @ z, across)) - at_zero
    return jnp.where(jnp.isfinite(value), value, jnp.inf)


def settled(
    gradient: Callable[[Any], Array], t: Float[Array, " n"], across: tuple[Float[Array, "n m"], Float[Array, " m"]]
) -> Float[Array, " n"]:
    """A displacement, with the part in the range that the loss is least with, by Newton's steps.

    Example:
      >>> gradient = jax.grad(lambda x: (x[0] - x[1] ** 2) ** 2)
      >>> across = jnp.array([[1.0], [0.0]]), jnp.array([2.0])
      >>> settled(gradient, jnp.array([0.0, 3.0]), across).tolist()
      [9.0, 3.0]
    """
    vectors, values = across
    step = lambda _, w: w - (vectors.T @ gradient(t + vectors @ w)) / values
    return t + vectors @ jax.lax.fori_loop(0, NEWTON, step, jnp.zeros_like(values))


def _best(
    radii: Float[np.ndarray, " r"],
    fell: Float[np.ndarray, "r k"],
    points: Float[np.ndarray, "r k n"],
    noise: Float[np.ndarray, " r"],
) -> Descent | None:
    """Of directions that fall like one power at the smallest radii that rounding shows, the one that falls furthest."""
    found = [made for k in range(fell.shape[1]) if (made := _power_law(radii, fell[:, k], points[:, k], noise))]
    return max(found, key=lambda made: made.scale, default=None)


def _power_law(
    radii: Float[np.ndarray, " r"], fell: Float[np.ndarray, " r"], points: Float[np.ndarray, "r n"], noise: Any
) -> Descent | None:
    shown = np.flatnonzero(~(np.abs(fell) <= noise))
    last = int(shown[-1]) if len(shown) else -1  # radii go down: what is smaller says nothing
    some = slice(last - IN_A_ROW + 1, last + 1)
    if last < IN_A_ROW - 1 or not (fell[some] < -noise[some]).all():
        return None
    orders = np.log2(fell[some][:-1] / fell[some][1:])
    order = float(orders[-1])
    if not (orders > LEAST_ORDER).all() or np.ptp(orders) > AGREE or abs(order - round(order)) > AGREE:
        return None
    scale = float(-fell[last] / radii[last] ** round(order))
    inward = slice(last, last - IN_A_ROW if last >= IN_A_ROW else None, -1)
    return Descent(order, scale, radii[inward], fell[inward], points[inward])
