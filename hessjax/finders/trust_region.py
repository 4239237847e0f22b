"""A trust region on the gradient's norm: the p within a radius that makes the linear model g + H p shortest.

The model's minimiser is -H (H^2 + c I)^-1 g with the c >= 0 that its length asks for (Levenberg 1944).

Reference: Nocedal & Wright (2006), Numerical Optimization, 2nd ed., sections 4.1 and 11.2.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from hessjax import trees
from hessjax.finders.base import HALVINGS, Method, Moved, Place, Surface, chosen, still
from hessjax.finders.curvatures import Modes

__all__ = ["METHOD"]

FIRST = 1.0  # radius
ACCEPTED, POOR, GOOD = 1e-4, 0.25, 0.75  # shares of the promised decrease
BISECTIONS = 60


def _begin(params: PyTree) -> Float[Array, ""]:
    return jnp.full((), FIRST, trees.scalar_dtype(params))


def _step(surface: Surface, here: Place, memory: Float[Array, ""]) -> Moved:
    """`memory` is the radius."""
    curvature = surface.curvature(here.params)
    modes = curvature.modes(here.gradient)
    square = lambda g: trees.dot(g, g)
    begun = square(here.gradient)

    def tried(state):
        radius, count, _, _ = state
        parts, length = _within(modes, radius)
        g = surface.gradient(trees.add(here.params, modes.combined(parts)))
        promised = begun - jnp.sum((modes.parts + modes.values * parts) ** 2)
        share = (begun - square(g)) / jnp.where(promised > 0, promised, 1)
        share = jnp.where((promised > 0) & jnp.isfinite(share), share, -1)
        at_edge = length > 0.99 * radius
        wider = jnp.where((share > GOOD) & at_edge, 2 * radius, radius)
        return jnp.where(share < POOR, length / 4, wider), count + 1, g, share > ACCEPTED

    # The radius that a step was found with is needed again after the loop, and is not the one it leaves.
    def body(state):
        return (*tried(state[:4]), state[0])

    start = (memory, jnp.int32(0), trees.scale(0, here.gradient), begun != begun, memory)
    radius, _, gradient, found, used = jax.lax.while_loop(lambda s: ~s[3] & (s[1] < HALVINGS), body, start)
    direction = modes.combined(_within(modes, used)[0])
    there = chosen(found, Place(trees.add(here.params, direction), gradient), here)
    going = found & ~still(here.params, trees.norm(direction))
    return Moved(there, radius, going, curvature.cost + modes.num_matvecs)


def _within(modes: Modes, radius: Any) -> tuple[Float[Array, " k"], Any]:
    """Components of the model's minimiser within the radius, and its length."""
    squares, pull, kept = modes.values**2, modes.values * modes.parts, modes.kept()
    at = lambda c: -jnp.where(kept | (c > 0), pull / jnp.where(squares + c > 0, squares + c, 1), 0)
    length = lambda c: jnp.linalg.norm(at(c))
    # ||p(c)|| <= ||H g|| / c, so c is below this; halved in its logarithm.
    high = jnp.log(jnp.linalg.norm(pull) / radius + jnp.finfo(pull.dtype).tiny)
    low = high - 2 * jnp.log(1 / jnp.finfo(pull.dtype).eps)

    def halve(_, bounds):
        a, b = bounds
        middle = (a + b) / 2
        inside = length(jnp.exp(middle)) <= radius
        return jnp.where(inside, a, middle), jnp.where(inside, middle, b)

    c = jnp.exp(jax.lax.fori_loop(0, BISECTIONS, halve, (low, high))[1])
    c = jnp.where(length(0.0) <= radius, 0, c)
    return at(c), length(c)


METHOD = Method(_begin, _step)
