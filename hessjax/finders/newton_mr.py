"""Newton-MR: p = -H^+ g by minimum residuals, with the gradient's norm as merit.

References: Roosta, Liu, Xu & Mahoney (2022), doi:10.1080/02331934.2021.2009828; Frye et al. (2021),
doi:10.1162/neco_a_01388.
"""

from __future__ import annotations

from jaxtyping import PyTree

from hessjax import trees
from hessjax.finders.base import Method, Moved, Place, Surface, backtracked, still
from hessjax.finders.curvatures import MOST

__all__ = ["METHOD"]

RTOL, LONGEST = 1e-10, 1e4  # of inner solves, and how long a step may be


def _begin(params: PyTree) -> tuple[()]:
    return ()


def _step(surface: Surface, here: Place, memory: tuple[()]) -> Moved:
    curvature = surface.curvature(here.params)
    found = curvature.solve(here.gradient, rtol=RTOL, max_steps=surface.inner, max_norm=LONGEST, most=MOST)
    direction = trees.scale(-1, found.x)
    slope = trees.dot(curvature.product(direction), here.gradient)
    there, moved, t = backtracked(surface, here, direction, slope)
    going = moved & ~still(here.params, t * trees.norm(direction))
    return Moved(there, memory, going, found.num_matvecs + curvature.cost + 1)


METHOD = Method(_begin, _step)
