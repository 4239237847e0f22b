"""Critical points from many starts: methods run in lanes, a segment of steps at a time, until they lead nowhere.

Between segments the lanes that still move are gathered and padded to a power of two, so an ended lane costs at most
the segment that it ended in, and there are few programs. What a lane has found is judged afterwards, once for all
methods: stopping at a cut-off would leave points further from critical ones than they need be (Frye et al. 2021).
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Int8, PyTree

from hessjax import trees
from hessjax.arguments import MOST as MOST_STEPS
from hessjax.arguments import check_count, check_tolerance, hashable
from hessjax.devices import lane_mesh
from hessjax.finders.base import Method, Place, Surface
from hessjax.finders.curvatures import MOST
from hessjax.finders.methods import METHODS
from hessjax.objective import mean_loss

__all__ = ["STATUSES", "CriticalPoints", "find_critical_points"]

STATUSES = ("critical", "gradient-flat", "unfinished", "diverged")
FLAT, FLAT_H = 0.9, 5e-4  # of the published definition of a gradient-flat point
SEGMENT = 50  # steps
DENSE = 1024  # parameters up to which inner solves are on a matrix
# Bytes of the matrices of lanes that a device has at once: on two cores 8 MiB take .83 of the time of 16, and .88 of 2.
CPU_STACK, STACK = 2**23, 2**28
WIDEST = 256  # lanes
FEWEST, FURTHEST = 25, 100  # products of an inner solve
HELD = 100  # times its floor: a squared gradient norm that rounding keeps from falling further


class CriticalPoints(NamedTuple):
    """Where every start led, judged; arrays with an axis of starts, params one with it on every leaf.

    `flatness` is r = ||H p + g|| / (||H||_F ||p|| + ||g||) of p = -H^+ g, 1 where the gradient lies in the null space
    of H, and `flatness_h` r_H = ||H (H p + g)|| / (||H||_F ||H p + g||); p is solved for until r or r_H is at most
    5e-4, as published: where the curvature is below some 1e-3 ||H||_F, a gradient counts as lying in the null space.
    `status` is a number into `hj.STATUSES`, decided in the order diverged (not finite), critical (grad_norm_sq below
    the cut-off), gradient-flat (r > 0.9 and r_H < 5e-4), unfinished. `num_matvecs` are products with Hessians, n for
    one assembled; gradients of line searches are not counted. `floor` is how far rounding of the params by their eps
    moves the gradient, squared: less than that is not to be had in their dtype.
    """

    params: PyTree
    loss: Float[np.ndarray, " starts"]
    grad_norm_sq: Float[np.ndarray, " starts"]
    flatness: Float[np.ndarray, " starts"]
    flatness_h: Float[np.ndarray, " starts"]
    status: Int8[np.ndarray, " starts"]
    num_steps: Int[np.ndarray, " starts"]
    num_matvecs: Int[np.ndarray, " starts"]
    floor: Float[np.ndarray, " starts"]


class _Lane(NamedTuple):
    place: Place
    memory: Any
    going: Bool[Array, "*lanes"]
    num_steps: Int[Array, "*lanes"]
    num_matvecs: Int[Array, "*lanes"]


class _Task(NamedTuple):
    """What is compiled for; everything static."""

    loss: Callable
    method: Method
    dense: bool
    inner: int

    def surface(self, batch: PyTree) -> Surface:
        return Surface(self.loss, batch, self.dense, self.inner)


def find_critical_points(
    loss: Callable[..., Any],
    starts: PyTree,
    batch: PyTree = None,
    *,
    method: str = "newton-mr",
    max_steps: int = 500,
    grad_norm_sq_tol: float = 1e-10,
) -> CriticalPoints:
    """Runs a method from every start until it leads nowhere, and says what was found there.

    newton-mr, gradient-norm and trust-region make the gradient shorter, whatever the loss does, so they find saddles
    and maxima as well as minima; and they may end where the gradient is not zero but flat, which is told apart.
    saddle-free makes the loss lower and finds minima. newton (whole steps) and damped-newton are for comparison.

    Args:
      loss: `loss(params, batch) -> [N]` or scalar; `loss(params)` where batch is None. Its mean over rows is meant.
        Compiled once: what it closes over is that of the first call.
      starts: params with a leading axis of starts on every leaf (a list of points is not that: stack them); float32 or
        float64. The gradient of float32 params
        seldom falls below the usual cut-off, which is warned of.
      batch: any pytree, or None.
      method: newton-mr, gradient-norm, trust-region, saddle-free, newton or damped-newton.
      max_steps: of each start.
      grad_norm_sq_tol: absolute, of the squared gradient norm of the mean loss; below it a point is critical.

    Returns:
      CriticalPoints, on the host. A start that diverges is a row with its status.

    Raises:
      ValueError: unknown method; starts without a common leading axis, or none; max_steps or grad_norm_sq_tol below 0.
      TypeError: a leaf of starts is not floating, or narrower than float32.

    Example:
      >>> import hessjax as hj
      >>> saddle = lambda x: x[0] ** 3 / 3 - x[0] + x[1] ** 2
      >>> found = hj.find_critical_points(saddle, jnp.array([[-2.0, 1.0], [3.0, 1.0]]), grad_norm_sq_tol=1e-9)
      >>> found.params.round(3).tolist(), [hj.STATUSES[s] for s in found.status]
      ([[-1.0, 0.0], [1.0, 0.0]], ['critical', 'critical'])

    References: Frye et al. (2021), doi:10.1162/neco_a_01388 (methods, cut-off and flatness).
    """
    if method not in METHODS:
        close = difflib.get_close_matches(str(method), METHODS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"unknown method {method!r}{hint} Known: {', '.join(METHODS)}.")
    check_count("max_steps", max_steps, 0)
    check_tolerance("grad_norm_sq_tol", grad_norm_sq_tol)
    starts = jax.tree.map(np.asarray, starts)
    count = _num_starts(starts)
    _check_loss(loss, starts, batch)
    size = trees.size(jax.tree.map(lambda x: x[0], starts))
    inner = min(size, max(FEWEST, min(FURTHEST, -(-size // 2))))
    task = _Task(hashable(loss), METHODS[method], size <= DENSE, inner)
    width = _width(size, jnp.result_type(*jax.tree.leaves(starts)), count)
    shared = batch, jnp.int32(min(max_steps, MOST_STEPS))
    lanes = _in_groups(_begun, task, starts, shared, np.arange(count), width)
    while (live := np.flatnonzero(lanes.going)).size:
        moved = _in_groups(_segment, task, lanes, shared, live, width)
        jax.tree.map(lambda whole, part, live=live: _put(whole, live, part), lanes, moved)
    judged = _in_groups(_judged, task, lanes.place, shared, np.arange(count), width)
    points = CriticalPoints(
        params=lanes.place.params,
        **judged,
        status=_status(judged, grad_norm_sq_tol),
        num_steps=lanes.num_steps,
        num_matvecs=lanes.num_matvecs,
    )
    _warn(points, grad_norm_sq_tol)
    return points


def _put(whole: np.ndarray, where: np.ndarray, part: np.ndarray) -> None:
    whole[where] = part


def _num_starts(starts: PyTree) -> int:
    trees.check_params(starts, "starts")
    shapes = {trees.path_str(p) or "starts": x.shape for p, x in jax.tree.leaves_with_path(starts)}
    counts = {shape[:1] for shape in shapes.values()}
    if len(counts) > 1 or () in counts:
        raise ValueError(f"starts need a leading axis of starts on every leaf, the same of all; got shapes {shapes}.")
    narrow = [x.dtype for x in jax.tree.leaves(starts) if x.dtype.itemsize < 4]
    if narrow:
        raise TypeError(f"starts are {narrow[0]}, in which no gradient is near zero; widen them to float32 or float64.")
    return next(iter(counts))[0]


def _check_loss(loss: Callable, starts: PyTree, batch: PyTree) -> None:
    """Whether the loss takes one start; what it raises says what it was given."""
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), starts)
    try:
        jax.eval_shape(lambda p: mean_loss(loss, p, batch), one)
    except Exception as error:
        called = "loss(params), as batch is None," if batch is None else "loss(params, batch)"
        shapes = jax.tree.map(lambda x: x.shape, one)
        error.add_note(f"find_critical_points called {called} with one start; params have shapes {shapes}.")
        raise


def _width(size: int, dtype: Any, count: int) -> int:
    """Lanes of the widest program: a power of two, as many as there are starts or as matrices fit."""
    each = size**2 * dtype.itemsize if size <= DENSE else FURTHEST * size * dtype.itemsize
    stack = CPU_STACK if jax.default_backend() == "cpu" else STACK
    fitting = max(1, min(WIDEST, stack // each))
    return min(_power(count), _devices() << (fitting.bit_length() - 1))


def _power(count: int) -> int:
    """The least power of two that is no less.

    Example:
      >>> [_power(n) for n in (1, 2, 3, 8, 9)]
      [1, 2, 4, 8, 16]
    """
    return 1 << (count - 1).bit_length()


def _in_groups(function: Callable, task: _Task, xs: PyTree, shared: PyTree, rows: np.ndarray, width: int) -> Any:
    """`function(task, shared, x)` of the rows chosen, `width` at a time, the last ones padded to a power of two."""
    parts = []
    for first in range(0, len(rows), width):
        some = rows[first : first + width]
        padded = np.concatenate([some, np.repeat(some[-1:], _power(len(some)) - len(some))])
        mesh = lane_mesh(len(padded), most=_devices())
        found = _over_lanes(function, task, mesh, shared, jax.tree.map(lambda x, p=padded: x[p], xs))
        parts.append(jax.tree.map(lambda x, some=some: np.array(x)[: len(some)], found))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def _devices() -> int:
    """Local devices that lanes are spread over: a power of two, as widths are."""
    return _power(jax.local_device_count() + 1) // 2


@partial(jax.jit, static_argnums=(0, 1, 2))
def _over_lanes(function: Callable, task: _Task, mesh: Any, shared: PyTree, xs: PyTree) -> Any:
    lane = PartitionSpec("lane")
    one = jax.vmap(partial(function, task), in_axes=(None, 0))
    spread = jax.shard_map(one, mesh=mesh, in_specs=(PartitionSpec(), lane), out_specs=lane, check_vma=False)
    return spread(shared, xs)


def _begun(task: _Task, shared: tuple[PyTree, Any], params: PyTree) -> _Lane:
    batch, max_steps = shared
    gradient = task.surface(batch).gradient(params)
    none = jnp.int32(0)
    return _Lane(Place(params, gradient), task.method.begin(params), max_steps > 0, none, none)


def _segment(task: _Task, shared: tuple[PyTree, Any], lane: _Lane) -> _Lane:
    """Up to so many steps; a lane that ends stays as it is."""
    batch, max_steps = shared
    surface = task.surface(batch)

    def step(state):
        lane, count = state
        moved = task.method.step(surface, lane.place, lane.memory)
        steps = lane.num_steps + 1
        finite = jnp.isfinite(trees.dot(moved.to.gradient, moved.to.gradient))
        going = moved.going & finite & (steps < max_steps)
        matvecs = (lane.num_matvecs + moved.num_matvecs).astype(lane.num_matvecs.dtype)
        return _Lane(moved.to, moved.memory, going, steps, matvecs), count + 1

    return jax.lax.while_loop(lambda s: s[0].going & (s[1] < SEGMENT), step, (lane, jnp.int32(0)))[0]


def _judged(task: _Task, shared: tuple[PyTree, Any], place: Place) -> dict[str, Any]:
    surface, (params, g) = task.surface(shared[0]), place
    curvature = surface.curvature(params)
    norm, length = curvature.frobenius(), trees.norm(g)
    p = trees.scale(
        -1, curvature.solve(g, rtol=FLAT_H, max_steps=4 * surface.inner, max_norm=np.inf, most=MOST, norm=norm).x
    )
    rest = trees.add(curvature.product(p), g)
    left = trees.norm(rest)
    ratio = lambda a, b: jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)
    moved = trees.axpy(-1, g, surface.gradient(trees.nudged(jax.random.key(0), params)))
    return {
        "loss": surface.value(params),
        "grad_norm_sq": length**2,
        "flatness": ratio(left, norm * trees.norm(p) + length),
        "flatness_h": ratio(trees.norm(curvature.product(rest)), norm * left),
        "floor": trees.dot(moved, moved),
    }


def _status(judged: dict[str, np.ndarray], tol: float) -> np.ndarray:
    finite = np.isfinite(judged["loss"]) & np.isfinite(judged["grad_norm_sq"])
    flat = (judged["flatness"] > FLAT) & (judged["flatness_h"] < FLAT_H)
    found = [~finite, judged["grad_norm_sq"] < tol, flat]
    return np.select(found, [3, 0, 1], 2).astype(np.int8)


def _warn(points: CriticalPoints, tol: float) -> None:
    """Says so where rounding, and not the method, keeps points from being critical."""
    held = (points.status != 0) & (points.floor > tol) & (points.grad_norm_sq < HELD * points.floor)
    if held.any():
        dtype, worst = jnp.result_type(*jax.tree.leaves(points.params)), float(np.median(points.floor[held]))
        warnings.warn(
            f"{held.sum()} of {len(held)} points are not critical by grad_norm_sq_tol={tol:g}, and cannot be: rounding "
            f"of {dtype} params moves their squared gradient norms by {worst:.2g}. Use float64, or a larger cut-off.",
            stacklevel=3,
        )
