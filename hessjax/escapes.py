"""Away from a saddle: along the most negative eigenvector, or the curve on which the loss falls where there is none."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from hessjax import trees
from hessjax.arguments import check_tolerance, hashable
from hessjax.assembly import eigh
from hessjax.curvature import Hessian
from hessjax.descents import settled
from hessjax.objective import mean_loss
from hessjax.points import Verdict, classify_point

__all__ = ["Escape", "escape"]

SHORTEST, GROWTH, LENGTHS = 1e-5, 2.0, 40  # of the steps tried: the first in units of 1 + |x|, and how they grow


class Escape(NamedTuple):
    """Where the loss is lower: `params`, the loss there and `before`, the straight distance `length`, and the verdict.

    `escaped` is False where no direction down is known; params are then the point.
    """

    params: PyTree
    loss: float
    before: float
    length: float
    escaped: bool
    verdict: Verdict


def escape(
    loss: Callable[..., Any],
    point: PyTree,
    batch: PyTree = None,
    *,
    tol: float = 1e-8,
    grad_norm_sq_tol: float = 1e-10,
) -> Escape:
    """Leaves a saddle or a maximum by its direction down, as far as the loss keeps falling.

    The direction is that of `hj.classify_point`: the most negative eigenvector, or what the reduced function falls
    along, with what the range adds as it goes. Both ways of it are followed, by steps that double, and the lower end is
    taken; from there any descent goes on, e.g. `hj.find_critical_points(loss, starts, method="saddle-free")`.

    Args:
      loss: `loss(params, batch) -> [N]` or scalar; `loss(params)` where batch is None. Its mean over rows is meant.
      point: a critical point; any pytree of floating arrays.
      batch: any pytree, or None.
      tol: as of `hj.classify_point`.
      grad_norm_sq_tol: as of `hj.classify_point`.

    Raises:
      TypeError, ValueError: as `hj.classify_point`.

    Example:
      >>> import hessjax as hj
      >>> found = hj.escape(lambda x: (1 - x[0] * x[1]) ** 2, jnp.zeros(2))
      >>> found.escaped, found.before, found.loss < 0.1
      (True, 1.0, True)
    """
    check_tolerance("tol", tol)
    verdict = classify_point(loss, point, batch, tol=tol, grad_norm_sq_tol=grad_norm_sq_tol)
    before = float(_value(hashable(loss), point, batch))
    if verdict.direction is None:
        return Escape(point, before, before, 0.0, False, verdict)
    size = float(trees.norm(point))
    lengths = jnp.asarray(SHORTEST * (1 + size) * GROWTH ** np.arange(LENGTHS))
    across = _across(hashable(loss), point, batch, verdict)
    ends = [_followed(hashable(loss), point, verdict.direction, batch, s * lengths, across) for s in (1.0, -1.0)]
    params, lowest = min(ends, key=lambda end: float(end[1]))
    if not float(lowest) < before:
        return Escape(point, before, before, 0.0, False, verdict)
    length = float(trees.norm(trees.axpy(-1, point, params)))
    return Escape(params, float(lowest), before, length, True, verdict)


def _across(loss: Callable, point: PyTree, batch: PyTree, verdict: Verdict) -> tuple[Any, Any]:
    """Where the way down is a curve, the directions that it bends to and their eigenvalues; none of a strict saddle."""
    values, vectors = eigh(Hessian(loss, point, batch))
    used = np.asarray(values) > (math.inf if verdict.index else verdict.threshold)
    return vectors[:, used], values[used]


@partial(jax.jit, static_argnums=0)
def _value(loss: Callable, params: PyTree, batch: PyTree) -> Float[Array, ""]:
    return mean_loss(loss, params, batch)


@partial(jax.jit, static_argnums=0)
def _followed(
    loss: Callable, point: PyTree, direction: PyTree, batch: PyTree, lengths: Float[Array, " k"], across: tuple
) -> tuple[PyTree, Float[Array, ""]]:
    """The last of growing steps before one that does not lead lower than the one before it."""
    at, unravel = ravel_pytree(point)
    way = ravel_pytree(direction)[0]
    lengths, across = lengths.astype(at.dtype), jax.tree.map(lambda x: x.astype(at.dtype), across)
    value = lambda t: mean_loss(loss, unravel(at + t), batch)
    nowhere = jnp.zeros_like(at)
    begun = value(nowhere)

    def further(state, length):
        step, lowest, going = state
        tried = settled(jax.grad(value), length * way, across)
        there = value(tried)
        # The first steps may fall by less than rounding shows; they lead nowhere, and longer ones are tried.
        kept, falling = going & (there < lowest), (there < lowest) | ~(lowest < begun)
        return (jnp.where(kept, tried, step), jnp.where(kept, there, lowest), going & falling), None

    step, lowest, _ = jax.lax.scan(further, (nowhere, begun, jnp.bool_(True)), lengths)[0]
    return unravel(at + step), lowest
