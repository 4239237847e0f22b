"""Steepest descent on half the squared gradient norm, whose gradient is H g; with backtracking.

Ends wherever that has a minimum, which need not be a critical point of the loss.

Reference: Frye et al. (2021), doi:10.1162/neco_a_01388.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from hessjax import trees
from hessjax.finders.base import Method, Moved, Place, Surface, backtracked, still

__all__ = ["METHOD"]

# Of the decrease that the slope promises. A step begins with twice the last: with a small share, one from side to side
# of a valley would be taken again and again; with this, errors of a quadratic fall by .4 or more.
SUFFICIENT = 0.3


def _begin(params: PyTree) -> Float[Array, ""]:
    return jnp.ones((), trees.scalar_dtype(params))


def _step(surface: Surface, here: Place, memory: Float[Array, ""]) -> Moved:
    direction = trees.scale(-1, surface.products(here.params).product(here.gradient))
    slope = -trees.dot(direction, direction)
    there, moved, t = backtracked(surface, here, direction, slope, first=memory, sufficient=SUFFICIENT)
    going = moved & ~still(here.params, t * trees.norm(direction))
    return Moved(there, 2 * t, going, 1)


METHOD = Method(_begin, _step)
