"""Kinks of a loss at a point, and units that are off for all data: where its Hessian says less than it seems to.

A ReLU network's loss is smooth but where a pre-activation is exactly zero, a pool has two largest entries, an absolute
value vanishes. There the Hessian depends on what autodiff takes for the derivative, and next to it the point may be a
minimum of two pieces and critical in neither. The places are found in the traced program, not told by its author.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from hessjax import trees
from hessjax.arguments import check_tolerance, hashable
from hessjax.switches import Reading, Scope, walk
from hessjax.taylor import Series, filled
from hessjax.units import Entry
from hessjax.uses import Use

__all__ = ["Dead", "Kinks", "Site", "is_smooth_along", "kinks"]

MAX_LISTED = 64  # positions listed of a site, the first in order; all are counted
PRECISION = "float32"  # of matrix products, as for Hessians


class Site(NamedTuple):
    """An equation of the program that may switch between smooth pieces."""

    primitive: str
    function: str  # of jax's own that it is in, such as "relu"; "" in the user's
    source: str  # file:line (function)
    shape: tuple[int, ...]  # of its entries; in a scan, steps first
    num_tied: int
    positions: list[tuple[int, ...]]  # of the first tied entries
    margin: float  # distance of the nearest entry to a tie

    def __str__(self) -> str:
        at = f" at {_listed(self.positions, self.num_tied)}" if self.num_tied else f", nearest {self.margin:.3g}"
        return f"{_name(self[:3])}: {self.num_tied} of {math.prod(self.shape)} tied{at}"


class Dead(NamedTuple):
    """The units of an equation like max(x, 0), and those below zero for every row and position."""

    primitive: str
    function: str
    source: str
    shape: tuple[int, ...]  # of the units: without rows, and without positions that share weights
    num_units: int
    num_dead: int
    positions: list[tuple[int, ...]]

    def __str__(self) -> str:
        at = f" at {_listed(self.positions, self.num_dead)}" if self.num_dead else ""
        return f"{_name(self[:3])}: {self.num_dead} of {self.num_units} units dead{at}"


class Kinks(NamedTuple):
    """Where a loss may not be twice differentiable, and how far that is.

    `num_tied` entries tie at `sites`; `margin` is the distance of the nearest: 0 where one ties, infinite where there
    is no site, NaN where an operand is not a number. `dead` has one record an equation like max(x, 0). `unread` names
    equations that may have kinks of their own. `finite`: the loss and its first two derivatives along a line are, which
    those of a root or of a norm at 0 are not. `smooth`: none ties, no margin is NaN, all is read and finite.
    """

    sites: list[Site]
    num_tied: int
    margin: float
    dead: list[Dead]
    smooth: bool
    unread: Sequence[str] = ()
    finite: bool = True

    def __str__(self) -> str:
        if not self.sites and self.smooth:
            return "smooth: the program has no kinks that params reach"
        head = f"{self.num_tied} tied: perhaps not twice differentiable" if self.num_tied else "no tie"
        lines = [
            f"{head}; {len(self.sites)} site{'s' * (len(self.sites) != 1)}, nearest tie at distance {self.margin:.3g}"
        ]
        lines += ["  the loss or a derivative of it is not finite"] * (not self.finite)
        lines += [f"  not read: {name}" for name in self.unread]
        lines += [f"  {site}" for site in self.sites if site.num_tied]
        lines += [f"  {layer}" for layer in self.dead if layer.num_dead]
        return "\n".join(lines)


def kinks(loss: Callable[..., Any], params: PyTree, batch: PyTree = None, *, tol: float = 0.0) -> Kinks:
    """Kinks of a loss at a point, found in its program, and dead units.

    An entry of max, min, abs, clamp, sign, floor, ceil, round, rem, sort, top_k, of a cumulative, windowed or scattered
    extremum, of a conversion to integers, or of a comparison that chooses (`where`, `cond`, `while`), ties where
    |a - b| <= tol for its operands a and b; so does a singular value with 0 and with the next. It counts where a and b
    differ to second order as functions of params: along one fixed random direction, in value, slope or curvature. So
    ties of constants, of padding, of units that are off, and under `stop_gradient`, are none; and without a tie, and
    `finite`, the loss is twice differentiable. A tie that counts is where it may not be: |x|^2 written with `abs` is
    smooth and is reported.

    It is the loss as it is differentiated: functions with rules of their own count as their rules say, so that a
    surrogate's steps are none. Not seen: slopes and curvatures that agree to 64 eps (4 eps of narrow dtypes), and ties
    that rounding moves, for which there is `tol`. Not read, and said so in `unread`: equations that hold other programs
    (`jax.shard_map`, `lax.reduce` by a user's function, kernels), numbers taken as their bits (`jnp.signbit`), and
    complex functions of many branches but log, sqrt and powers.

    A unit is dead where an equation like max(x, 0) has x < 0 for every row. Units are the axes along which weights
    differ (features of a product with a matrix of params, channels of a convolution); where the program does not tell
    them, all axes but the leading one, if that is as long as the batch; else the layer has no record.

    Args:
      loss: `loss(params, batch) -> [N]` or scalar; `loss(params)` where batch is None. Traced and compiled once for its
        shapes, and read with its calls, loops, branches and linear solves. Arrays that it closes over are those of the
        first call.
      params: any pytree of floating arrays, with their values: not under `jax.jit`.
      batch: any pytree, or None.
      tol: absolute, in the units of the operands; 0: exact ties alone.

    Returns:
      Kinks: the sites, numbers tied, distance to the nearest, dead units; `print` it for a summary.

    Raises:
      TypeError: loss is not callable; params are not floating, or are traced; loss returns no floating array.
      ValueError: params are empty; tol is not a number from 0 up.
      NotImplementedError: jax has no derivative of a primitive that params reach.

    Example:
      >>> loss = lambda w, x: jax.nn.relu(x @ w) ** 2
      >>> found = kinks(loss, jnp.array([1.0, -1.0]), jnp.array([[1.0, 1.0], [3.0, 1.0]]))
      >>> found.num_tied, found.sites[0].positions, found.smooth
      (1, [(0,)], False)
      >>> kinks(lambda w: jnp.sum(jax.nn.softplus(w)), jnp.zeros(2)).smooth
      True

    References: Griewank et al. (2018), arXiv:1701.04368, on programs that are piecewise smooth.
    """
    if not callable(loss):
        raise TypeError(f"loss is {type(loss).__name__}, wanted a function loss(params, batch).")
    trees.check_params(params)
    if any(isinstance(x, Tracer) for x in jax.tree.leaves((params, batch))):
        raise TypeError("params or batch are traced: kinks reads values; call it outside jax.jit, vmap and grad.")
    check_tolerance("tol", tol)
    line = trees.normal_like(jax.random.key(0), params)
    readings, finite = _walked(hashable(loss), params, line, batch, float(tol))
    sites, dead, unread = _told(readings)
    num_tied = sum(site.num_tied for site in sites)
    margin = float(np.min([math.inf, *(site.margin for site in sites)]))
    smooth = num_tied == 0 and not math.isnan(margin) and not unread and bool(finite)
    return Kinks(sites, num_tied, margin, dead, smooth, unread, bool(finite))


def is_smooth_along(loss: Callable[..., Any], params: PyTree, direction: PyTree, batch: PyTree = None) -> bool:
    """Whether the loss is twice differentiable on a line through a point, be there kinks beside it.

    A tie counts here where its operands differ, to second order, along this direction.

    Args:
      loss: as of `kinks`.
      params: the point.
      direction: of the line, like params, not zero.
      batch: any pytree, or None.

    Example:
      >>> loss = lambda x: jnp.abs(x[0]) + x[1] ** 2
      >>> at = jnp.zeros(2)
      >>> is_smooth_along(loss, at, jnp.array([0.0, 1.0])), is_smooth_along(loss, at, jnp.array([1.0, 1.0]))
      (True, False)
    """
    readings, finite = _walked(hashable(loss), params, trees.conform(direction, params), batch, 0.0)
    sites, _, unread = _told(readings)
    tied = any(site.num_tied or math.isnan(site.margin) for site in sites)
    return not tied and not unread and bool(finite)


@partial(jax.jit, static_argnums=0)
def _walked(
    loss: Callable, params: PyTree, line: PyTree, batch: PyTree, tol: Any
) -> tuple[list[tuple[Reading, Any]], Any]:
    args = (params,) if batch is None else (params, batch)
    with jax.default_matmul_precision(PRECISION):
        program, shape = jax.make_jaxpr(loss, return_shape=True)(*args)
    _check_result(shape)
    moving = [Entry(Series(x, dx, jnp.zeros_like(x))) for x, dx in zip(*map(jax.tree.leaves, (params, line)))]
    inputs = [*moving, *(Entry(Series(x), data=True) for x in jax.tree.leaves(batch))]
    [result], readings = walk(program, inputs, [Use.ALL], Scope(_rows(batch), tol))
    finite = jnp.array([jnp.isfinite(x).all() for x in filled(result.series)]).all()
    return [(x, None if x.tied is None else jnp.sum(x.tied)) for x in readings], finite


def _check_result(shape: Any) -> None:
    if not (hasattr(shape, "dtype") and jnp.issubdtype(shape.dtype, jnp.floating)):
        raise TypeError(f"loss returned {getattr(shape, 'dtype', type(shape).__name__)}, wanted one floating array.")


def _rows(batch: PyTree) -> int | None:
    lengths = {jnp.shape(x)[0] for x in jax.tree.leaves(batch) if jnp.ndim(x)}
    return lengths.pop() if len(lengths) == 1 else None


def _told(readings: list[tuple[Reading, Any]]) -> tuple[list[Site], list[Dead], list[str]]:
    """On the host; sites where nothing moves are left out, and which entries tie is fetched where any does."""
    sites, dead, unread = [], [], []
    stuck = any(reading.stuck for reading, _ in readings if reading.stuck is not None)
    for reading, num_tied in readings:
        if reading.before_step and not stuck:
            continue
        if num_tied is not None and reading.margin != math.inf:
            tied = np.flatnonzero(reading.tied)[:MAX_LISTED] if num_tied else np.empty(0, int)
            listed = _positions(tied, reading.shape)
            sites.append(Site(*reading.names, reading.shape, int(num_tied), listed, float(reading.margin)))
        if reading.alive is not None:
            off, shape = np.flatnonzero(~reading.alive), reading.alive.shape
            listed = _positions(off[:MAX_LISTED], shape)
            dead.append(Dead(*reading.names, shape, math.prod(shape), len(off), listed))
        if reading.unread is not None and reading.unread:
            unread.append(_name(reading.names))
    return sites, dead, unread


def _positions(flat: np.ndarray, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [tuple(map(int, at)) for at in zip(*np.unravel_index(flat, shape))] if shape else [()] * len(flat)


def _name(names: tuple[str, str, str]) -> str:
    primitive, function, source = names
    return f"{primitive} in {function}, {source}" if function else f"{primitive}, {source}"


def _listed(positions: list[tuple[int, ...]], count: int) -> str:
    few = ", ".join(map(str, positions[:4]))
    return few if count <= 4 else f"{few}, ... ({count})"
