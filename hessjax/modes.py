"""Solutions compared: barriers between them, curves that join them, how wide their basins are, where they disagree.

>>> import hessjax as hj
>>> two_wells = lambda w: (w[0] ** 2 - 1) ** 2 + w[1] ** 2
>>> path = hj.profiles.line(two_wells, jnp.array([-1.0, 0.0]), jnp.array([1.0, 0.0]), np.linspace(0, 1, 21))
>>> hj.modes.barrier(path.ts, path.values).height
1.0
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from hessjax import rows, trees
from hessjax.arguments import check_count, check_key, check_tolerance, hashable
from hessjax.objective import mean_loss
from hessjax.profiles import along, combinations
from hessjax.trees import PRNGKey

__all__ = ["Barrier", "Connection", "barrier", "connect", "disagreement", "widths"]

BRACKETS = 64  # distances at which a ray is looked at before the crossing is narrowed down
HALVINGS = 30


class Barrier(NamedTuple):
    """How far a path rises above the straight line between its ends' losses.

    Attributes:
      height: the most by which it does; 0 where it never does, NaN where a loss is.
      at: where, in [0, 1]; NaN without one.
      peak: the largest loss on the path.
    """

    height: float
    at: float
    peak: float


class Connection(NamedTuple):
    """A curve that joins two points: (1 - t)^2 a + 2 t (1 - t) bend + t^2 b.

    Attributes:
      bend: params.
      ts: where it was looked at, [points], 0 to 1.
      loss: along it, [points].
      straight: loss along the straight line, [points].
      barrier: of the curve.
      straight_barrier: of the line.
      training: estimates of the mean loss over the curve while it was searched for, [steps].
    """

    bend: PyTree
    ts: Float[np.ndarray, " points"]
    loss: Float[np.ndarray, " points"]
    straight: Float[np.ndarray, " points"]
    barrier: Barrier
    straight_barrier: Barrier
    training: Float[np.ndarray, " steps"]


def barrier(ts: Any, losses: Any) -> Barrier:
    """The barrier of losses along a path, above the line between the losses of its ends.

    Args:
      ts: ascending; the ends of the path are the first and the last.
      losses: there, [points].

    Raises:
      ValueError: fewer than two points, not ascending, or not as many losses.

    Example:
      >>> import hessjax as hj
      >>> hj.modes.barrier([0.0, 0.25, 1.0], [1.0, 3.0, 2.0])
      Barrier(height=1.75, at=0.25, peak=3.0)

    References: Entezari et al. (2021), arXiv:2110.06296, definition 2.1; Frankle et al. (2020), arXiv:1912.05671, take
      the mean of the ends' losses instead of the line between them.
    """
    ts, losses = np.asarray(ts, float), np.asarray(losses, float)
    if ts.ndim != 1 or len(ts) < 2 or losses.shape != ts.shape or not (np.diff(ts) > 0).all():
        raise ValueError(f"ts must ascend and losses be as many; got shapes {ts.shape} and {losses.shape}.")
    if np.isnan(losses).any() or not np.isfinite(losses[[0, -1]]).all():
        return Barrier(np.nan, np.nan, float(np.max(losses)))
    share = (ts - ts[0]) / (ts[-1] - ts[0])
    above = losses - ((1 - share) * losses[0] + share * losses[-1])
    above[[0, -1]] = 0
    at = int(np.argmax(above))
    return Barrier(float(above[at]), float(ts[at]) if above[at] > 0 else np.nan, float(losses.max()))


def connect(
    loss: Callable,
    a: PyTree,
    b: PyTree,
    key: PRNGKey,
    batch: PyTree = None,
    *,
    num_steps: int = 1000,
    optimizer: optax.GradientTransformation | None = None,
    batch_size: int | None = None,
    points_per_step: int = 4,
    num: int = 61,
) -> Connection:
    """A curve of low loss between two solutions, if there is one: a quadratic Bezier curve whose bend is trained.

    The loss is averaged over t, uniform in [0, 1], one draw from each of `points_per_step` equal parts at every step.

    Args:
      loss: `loss(params, batch)`, per example or scalar.
      a: params.
      b: params.
      key: of the draws.
      batch: data.
      num_steps: of the search.
      optimizer: of the bend, an optax transformation; None: Adam, from .03 down by a cosine.
      batch_size: rows drawn for each step; None: all.
      points_per_step: draws of t.
      num: points of the two profiles that are returned.

    Raises:
      ValueError: b is not like a; numbers below 1; batch_size without a batch.
      TypeError: params with leaves that are not floating; key is none.

    Example:
      >>> import hessjax as hj
      >>> ring = lambda w: (jnp.sum(w**2) - 1) ** 2
      >>> a, b = jnp.array([1.0, 0.0]), jnp.array([-0.6, 0.8])
      >>> found = hj.modes.connect(ring, a, b, jax.random.key(0), num_steps=300)
      >>> found.straight_barrier.height > 0.5, found.barrier.height < 0.1
      (True, True)

    References: Garipov et al. (2018), arXiv:1802.10026, equation 4.
    """
    check_key(key)
    a = trees.params_of(a, "a")
    for name, value, least in (("num_steps", num_steps, 1), ("points_per_step", points_per_step, 1), ("num", num, 3)):
        check_count(name, value, least)
    if batch_size is not None:
        check_count("batch_size", batch_size)
        if batch is None:
            raise ValueError("batch_size was given and no batch.")
    ends = jax.tree.map(lambda x, y: jnp.stack([jnp.asarray(x), y]), a, trees.conform(b, a, "b"))
    optimizer = optimizer or _cosine(num_steps)
    sizes = (num_steps, points_per_step, batch_size)
    bend, training = _bent(hashable(loss), optimizer, sizes, ends, key, batch)
    ts = np.linspace(0, 1, num)
    three = jax.tree.map(lambda e, m: jnp.stack([e[0], m, e[1]]), ends, bend)
    over = lambda points, weights: np.asarray(combinations(loss, points, weights, batch=batch), float)
    curve, straight = over(three, _bezier(ts, np)), over(ends, np.stack([1 - ts, ts], 1))
    return Connection(bend, ts, curve, straight, barrier(ts, curve), barrier(ts, straight), np.asarray(training))


@lru_cache(maxsize=64)  # the same transformation each time, or every call would compile anew
def _cosine(num_steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.schedules.cosine_decay_schedule(0.03, num_steps))


def _bezier(t: Any, numbers: Any) -> Any:
    return numbers.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2], -1)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _bent(
    loss: Callable, optimizer: Any, sizes: tuple, ends: PyTree, key: PRNGKey, batch: PyTree
) -> tuple[PyTree, Array]:
    num_steps, points_per_step, batch_size = sizes

    def step(state, number):
        bend, memory = state
        draw, pick = jax.random.split(jax.random.fold_in(key, number))
        dtype = trees.scalar_dtype(ends)
        ts = (jnp.arange(points_per_step) + jax.random.uniform(draw, (points_per_step,), dtype)) / points_per_step
        some = rows.drawn(batch, pick, batch_size)

        def mean(bend):
            three = jax.tree.map(lambda e, m: jnp.stack([e[0], m, e[1]]), ends, bend)
            one = lambda t: mean_loss(loss, trees.combine(_bezier(t, jnp), three), some)
            return jnp.mean(jax.lax.map(jax.checkpoint(one), ts))

        value, grad = jax.value_and_grad(mean)(bend)
        more = {"value": value, "grad": grad, "value_fn": mean}
        updates, memory = optax.with_extra_args_support(optimizer).update(grad, memory, bend, **more)
        moved = (optax.apply_updates(bend, updates), memory)
        return jax.tree.map(lambda new, old: new.astype(old.dtype), moved, state), value

    bend = jax.tree.map(lambda x: x.mean(0), ends)
    (bend, _), training = jax.lax.scan(step, (bend, optimizer.init(bend)), jnp.arange(num_steps))
    return bend, training


def widths(
    f: Callable,
    origin: PyTree,
    directions: PyTree,
    *,
    rise: Any,
    most: Any = 100.0,
    batch: PyTree = None,
) -> Float[np.ndarray, "directions 2"]:
    """How far one can go from a point, to either side along each direction, until f has risen by so much.

    Distances are in parameter space, whatever the lengths of the directions; random ones of `filter_normalized` and
    eigenvectors can be told apart by them. Each ray is looked at from most / 10^4 to most, and its first crossing
    narrowed down; a crossing and return between two of the 64 distances is not seen.

    Args:
      f: `f(params)`, a number; or, with `batch`, a loss.
      origin: params.
      directions: like origin, or each leaf with a leading axis more.
      rise: above 0, in the units of f.
      most: the distance to look to.
      batch: data of a loss.

    Returns:
      Distances backwards and forwards, of a single direction one row; inf where f does not rise so much within `most`.
      What is not finite has risen; NaN where f is not finite at the origin.

    Raises:
      ValueError: rise or most not above 0; directions are not like params; a direction is zero.

    Example:
      >>> import hessjax as hj
      >>> f = lambda w: w[0] ** 2 + 4 * w[1] ** 2
      >>> hj.modes.widths(f, jnp.zeros(2), 3 * jnp.eye(2), rise=1.0).round(4).tolist()
      [[1.0, 1.0], [0.5, 0.5]]
    """
    for name, value in (("rise", rise), ("most", most)):
        check_tolerance(name, value)
        if not value > 0:
            raise ValueError(f"{name} must be above 0, got {value!r}.")
    origin = trees.params_of(origin, "origin")
    directions, _ = trees.block_of(directions, origin, "directions")
    lengths = jax.vmap(trees.norm)(directions)
    if not np.all(np.asarray(lengths) > 0):
        raise ValueError("directions: one is zero, or not finite.")
    unit = jax.vmap(lambda d, s: trees.scale(1 / s, d))(directions, lengths)
    both = jax.tree.map(lambda d: jnp.concatenate([-d, d]), unit)
    ts = np.concatenate([[0.0], np.geomspace(1e-4 * most, most, BRACKETS)])
    values = np.asarray(along(f, origin, both, ts, batch=batch).values, float)
    above = ~(values <= values[:, :1] + rise)
    above[:, 0] = False
    first = np.where(above.any(1), above.argmax(1), 0)
    low, high = ts[np.maximum(first - 1, 0)], ts[first]
    block = jax.tree.map(lambda o, d: jnp.concatenate([jnp.asarray(o)[None], d]), origin, both)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        weights = np.concatenate([np.ones((len(middle), 1)), np.diag(middle)], 1)
        beyond = ~(np.asarray(combinations(f, block, weights, batch=batch), float) <= values[:, 0] + rise)
        low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
    found = np.where(first > 0, (low + high) / 2, np.inf)
    found = np.where(np.isfinite(values[:, 0]), found, np.nan)
    return found.reshape(2, -1).T


def disagreement(
    model: Callable, points: PyTree, inputs: PyTree, *, decide: Callable | None = None
) -> Float[np.ndarray, "points points"]:
    """The share of rows for which two solutions decide differently, of every pair.

    A solution with an output that is NaN decides nothing: its pairs are NaN.

    Args:
      model: `model(params, inputs) -> outputs`, rows first.
      points: params with a leading axis.
      inputs: rows to decide on.
      decide: outputs -> whole numbers, one a row; None: the largest of several outputs, the sign of a single one.

    Raises:
      ValueError: points are not stacked; decisions are not one a row.
      TypeError: params with leaves that are not floating.

    Example:
      >>> import hessjax as hj
      >>> hj.modes.disagreement(lambda w, x: x * w, jnp.array([1.0, 2.0, -1.0]), jnp.array([-1.0, 0.5])).tolist()
      [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]

    References: Im et al. (2016), arXiv:1612.04010, on solutions of different optimisers.
    """
    trees.check_params(points, "points")
    trees.num_stacked(points)
    found = _decisions(hashable(model), hashable(decide or _largest), points, inputs)
    made, decided = (np.asarray(x) for x in found)
    if made.ndim != 2:
        raise ValueError(f"decisions have shape {made.shape[1:]}, wanted one a row.")
    apart = np.array([[np.mean(one != other) for other in made] for one in made])
    return np.where(decided[:, None] & decided, apart, np.nan)


@partial(jax.jit, static_argnums=(0, 1))
def _decisions(model: Callable, decide: Callable, points: PyTree, inputs: PyTree) -> tuple[Array, Array]:
    def one(params: PyTree) -> tuple[Array, Array]:
        outputs = model(params, inputs)
        lost = [jnp.any(jnp.isnan(x)) for x in jax.tree.leaves(outputs) if jnp.issubdtype(x.dtype, jnp.inexact)]
        return decide(outputs), ~jnp.any(jnp.array(lost, bool))

    return jax.lax.map(one, points)


def _largest(outputs: Float[Array, "rows ..."]) -> Int[Array, " rows"] | Bool[Array, " rows"]:
    if outputs.ndim == 1 or outputs.shape[-1] == 1:
        return outputs.reshape(len(outputs)) > 0
    return jnp.argmax(outputs, axis=-1)
