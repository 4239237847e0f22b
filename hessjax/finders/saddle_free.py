"""Saddle-free Newton: p = -|H|^-1 g, which goes down where Newton's step goes up; it ends in minima.

Damped as Levenberg and Marquardt do: from (|H| + d I)^-1 g the first d that lets the loss go down, beginning with 0.

Reference: Dauphin et al. (2014), arXiv:1406.2572.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from hessjax import trees
from hessjax.finders.base import HALVINGS, Method, Moved, Place, Surface, chosen, still

__all__ = ["METHOD"]

LEAST, FACTOR = 1e-6, 4.0  # the first damping after none, of the largest |eigenvalue|, and what it grows by
SUFFICIENT = 1e-4


def _begin(params: PyTree) -> Float[Array, ""]:
    return jnp.zeros((), trees.scalar_dtype(params))


def _step(surface: Surface, here: Place, memory: Float[Array, ""]) -> Moved:
    """`memory` is the damping of the last step, relative to the largest |eigenvalue|."""
    curvature = surface.curvature(here.params)
    modes = curvature.modes(here.gradient)
    sizes, kept, value = jnp.abs(modes.values), modes.kept(), surface.value(here.params)

    def parts(damping):
        bent = sizes + damping * jnp.max(sizes)
        return -jnp.where(kept | (damping > 0), modes.parts / jnp.where(bent > 0, bent, 1), 0)

    def tried(state):
        damping, count, _ = state
        step = parts(damping)
        down = surface.value(trees.add(here.params, modes.combined(step)))
        enough = down <= value + SUFFICIENT * (step @ modes.parts)
        return jnp.where(enough, damping, jnp.maximum(FACTOR * damping, LEAST)), count + 1, enough

    start = (memory, jnp.int32(0), value != value)
    damping, _, found = jax.lax.while_loop(lambda s: ~s[2] & (s[1] < HALVINGS), tried, start)
    direction = modes.combined(parts(damping))
    to = trees.add(here.params, direction)
    there = chosen(found, Place(to, surface.gradient(to)), here)
    less = jnp.where(damping > LEAST * FACTOR, damping / FACTOR, 0)
    going = found & ~still(here.params, trees.norm(direction))
    return Moved(there, less, going, curvature.cost + modes.num_matvecs)


METHOD = Method(_begin, _step)
