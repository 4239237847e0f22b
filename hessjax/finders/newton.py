"""Newton's method as the textbook has it, p = -H^+ g, whole or damped by backtracking on the gradient's norm.

The whole step need not come nearer to anything; it is here to be seen.

Reference: Nocedal & Wright (2006), Numerical Optimization, 2nd ed., section 3.3.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import PyTree

from hessjax import trees
from hessjax.finders.base import Method, Moved, Place, Surface, ahead, backtracked, still

__all__ = ["DAMPED", "WHOLE"]


def _begin(params: PyTree) -> tuple[()]:
    return ()


def _direction(surface: Surface, here: Place) -> tuple[PyTree, int]:
    curvature = surface.curvature(here.params)
    modes = curvature.modes(here.gradient)
    kept = modes.kept()
    parts = jnp.where(kept, modes.parts / jnp.where(kept, modes.values, 1), 0)
    return modes.combined(-parts), curvature.cost + modes.num_matvecs


def _whole(surface: Surface, here: Place, memory: tuple[()]) -> Moved:
    direction, cost = _direction(surface, here)
    to = ahead(here.params, 1, direction)
    return Moved(Place(to, surface.gradient(to)), memory, ~still(here.params, trees.norm(direction)), cost)


def _damped(surface: Surface, here: Place, memory: tuple[()]) -> Moved:
    direction, cost = _direction(surface, here)
    slope = trees.dot(surface.products(here.params).product(direction), here.gradient)
    there, moved, t = backtracked(surface, here, direction, slope)
    return Moved(there, memory, moved & ~still(here.params, t * trees.norm(direction)), cost + 1)


WHOLE = Method(_begin, _whole)
DAMPED = Method(_begin, _damped)
