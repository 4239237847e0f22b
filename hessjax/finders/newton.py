"""Newton's method as the textbook has it, p = -H^+ g, whole or damped by backtracking on the gradient's norm.

The whole step need not come nearer to anything; it is here to be seen.

Reference: Nocedal & Wright (2006), Numerical Optimization, 2nd ed., section 3.3.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import PyTree

from hessjax import trees
from hessjax.finders.base import Method, Moved, Place, Surface, backtracked, still
from hessjax.finders.curvatures import Curvature

__all__ = ["DAMPED", "WHOLE"]


def _begin(params: PyTree) -> tuple[()]:
    return ()


def _direction(curvature: Curvature, here: Place) -> tuple[PyTree, int]:
    modes = curvature.modes(here.gradient)
    kept = modes.kept()
    parts = jnp.where(kept, modes.parts / jnp.where(kept, modes.values, 1), 0)
    return modes.combined(-parts), curvature.cost + modes.num_matvecs


def _whole(surface: Surface, here: Place, memory: tuple[()]) -> Moved:
    direction, cost = _direction(surface.curvature(here.params), here)
    to = trees.add(here.params, direction)
    return Moved(Place(to, surface.gradient(to)), memory, ~still(here.params, trees.norm(direction)), cost)


def _damped(surface: Surface, here: Place, memory: tuple[()]) -> Moved:
    curvature = surface.curvature(here.params)
    direction, cost = _direction(curvature, here)
    slope = trees.dot(curvature.product(direction), here.gradient)
    there, moved, t = backtracked(surface, here, direction, slope)
    return Moved(there, memory, moved & ~still(here.params, t * trees.norm(direction)), cost + 1)


WHOLE = Method(_begin, _whole)
DAMPED = Method(_begin, _damped)
