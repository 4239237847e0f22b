"""The error surface seen: any function of params along lines, over planes, and over meshes between solutions.

`f(params)` may return anything (a loss, an error, extreme eigenvalues, predictions), so a map of curvature is a plane
like any other. With `batch=` it is a loss, `f(params, batch)`, and its mean over rows is taken. Points are evaluated
in one compiled program, as many at a time as the cache (on an accelerator, the memory) holds, spread over local
devices; that program is kept for as long as `f` is the same function. These are calls for the host: not under jit.

>>> import hessjax as hj
>>> saddle = lambda w: w[0] ** 2 - w[1] ** 2
>>> hj.profiles.plane(saddle, jnp.zeros(2), *jnp.eye(2), xs=[-1, 0, 1], ys=[0, 2]).values.tolist()
[[1.0, 0.0, 1.0], [-3.0, -4.0, -3.0]]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, PyTree

from hessjax import trees
from hessjax.arguments import check_count, hashable
from hessjax.devices import batch_bytes, lane_mesh, measuring_bytes
from hessjax.directions import Frame, Trajectory, filter_normalized, normalized, plane_through, trajectory_plane
from hessjax.objective import mean_loss
from hessjax.programs import traced

__all__ = [
    "Frame",
    "Line",
    "Mesh",
    "Plane",
    "Trajectory",
    "along",
    "barycentric",
    "bilinear",
    "combinations",
    "filter_normalized",
    "line",
    "normalized",
    "plane",
    "plane_through",
    "trajectory_plane",
]

MOST = 256  # points at a time; more are no quicker, and take longer to compile for


class Line(NamedTuple):
    """Values along a line, or along several from one point.

    Attributes:
      ts: where, [points].
      values: what f returned there, every leaf [points, ...]; of several lines [lines, points, ...].
      length: distance in parameter space from t = 0 to t = 1; of several lines [lines].
    """

    ts: Float[np.ndarray, " points"]
    values: PyTree
    length: Any


class Plane(NamedTuple):
    """Values over a plane: at origin + xs[i] u + ys[j] v in row j and column i, as contour plots take them.

    Attributes:
      xs: [nx].
      ys: [ny].
      values: what f returned, every leaf [ny, nx, ...].
    """

    xs: Float[np.ndarray, " nx"]
    ys: Float[np.ndarray, " ny"]
    values: PyTree


class Mesh(NamedTuple):
    """Values at mixtures of points.

    Attributes:
      weights: of the points, [mixtures, points]; they sum to 1.
      values: what f returned, every leaf [mixtures, ...].
    """

    weights: Float[np.ndarray, "mixtures points"]
    values: PyTree


def line(f: Callable, a: PyTree, b: PyTree, ts: Any, *, batch: PyTree = None, at_once: int | None = None) -> Line:
    """Values at (1 - t) a + t b: from a start to a solution, between two solutions, beyond either.

    Between two nets with BatchNorm let their statistics move along or be taken anew (`adapters.linen(statistics=...)`):
    frozen ones are a's everywhere, also at b.

    Args:
      f: `f(params)`, any pytree of arrays; or, with `batch`, a loss.
      a: params at t = 0.
      b: params at t = 1.
      ts: where, [points]; outside [0, 1] too.
      batch: data of a loss.
      at_once: points at a time; None: planned.

    Raises:
      ValueError: ts are not a line of numbers; b is not like a; a loss of the wrong shape.
      TypeError: params with leaves that are not floating: give statistics that move along as floats, partition others.

    Example:
      >>> import hessjax as hj
      >>> surface = lambda w: (1 - w[0] * w[1]) ** 2
      >>> hj.profiles.line(surface, jnp.array([1.0, 0.0]), jnp.array([2.0, 0.5]), [0, 1, 2]).values.tolist()
      [1.0, 0.0, 4.0]

    References: Goodfellow et al. (2014), arXiv:1412.6544.
    """
    a = trees.params_of(a, "a")
    ts = _numbers("ts", ts)
    ends = _stacked(a, trees.conform(b, a, "b"))
    length = float(trees.norm(jax.tree.map(lambda x: x[1] - x[0], ends)))
    return Line(ts, combinations(f, ends, np.stack([1 - ts, ts], 1), batch=batch, at_once=at_once), length)


def along(
    f: Callable, origin: PyTree, directions: PyTree, ts: Any, *, batch: PyTree = None, at_once: int | None = None
) -> Line:
    """Values at origin + t direction; of several directions (a leading axis: eigenvectors, draws) in one call.

    Args:
      f: as in `line`.
      origin: params at t = 0.
      directions: like params, or each leaf with a leading axis more, such as `hj.eigsh(...).vectors`.
      ts: where, [points].
      batch: data of a loss.
      at_once: points at a time; None: planned.

    Raises:
      ValueError: as `line`.
      TypeError: as `line`.

    Example:
      >>> import hessjax as hj
      >>> found = hj.profiles.along(lambda w: jnp.sum(w**2), jnp.zeros(2), jnp.eye(2), [-1.0, 0.0, 2.0])
      >>> found.values.tolist(), found.length.tolist()
      ([[1.0, 0.0, 4.0], [1.0, 0.0, 4.0]], [1.0, 1.0])
    """
    origin = trees.params_of(origin, "origin")
    ts, (rows, several) = _numbers("ts", ts), trees.block_of(directions, origin, "directions")
    count = len(jax.tree.leaves(rows)[0])
    block = jax.tree.map(lambda o, d: jnp.concatenate([jnp.asarray(o)[None], d]), origin, rows)
    which = np.repeat(np.eye(count), len(ts), axis=0)
    weights = np.concatenate([np.ones((len(which), 1)), which * np.tile(ts, count)[:, None]], 1)
    values = combinations(f, block, weights, batch=batch, at_once=at_once)
    length = np.asarray(jax.vmap(trees.norm)(rows), float)
    if not several:
        return Line(ts, values, float(length[0]))
    return Line(ts, jax.tree.map(lambda x: x.reshape(count, len(ts), *x.shape[1:]), values), length)


def plane(
    f: Callable,
    origin: PyTree,
    u: PyTree,
    v: PyTree,
    xs: Any,
    ys: Any,
    *,
    batch: PyTree = None,
    at_once: int | None = None,
) -> Plane:
    """Values at origin + x u + y v.

    The directions are taken as they are: orthonormal ones from `plane_through` or `trajectory_plane`, eigenvectors of
    `hj.eigsh`, random ones of `filter_normalized`.

    Args:
      f: as in `line`; of extreme eigenvalues, say, for a map of curvature.
      origin: params at (0, 0).
      u: like params.
      v: like params.
      xs: [nx].
      ys: [ny].
      batch: data of a loss.
      at_once: points at a time; None: planned.

    Raises:
      ValueError: as `line`.
      TypeError: as `line`.

    Example:
      >>> import hessjax as hj
      >>> found = hj.profiles.plane(lambda w: w[0] + 10 * w[1], jnp.zeros(2), *jnp.eye(2), [0, 1, 2], [0, 1])
      >>> found.values.tolist()
      [[0.0, 1.0, 2.0], [10.0, 11.0, 12.0]]

    References: Li et al. (2018), arXiv:1712.09913; Im et al. (2016), arXiv:1612.04010.
    """
    origin = trees.params_of(origin, "origin")
    xs, ys = _numbers("xs", xs), _numbers("ys", ys)
    block = _stacked(origin, trees.conform(u, origin, "u"), trees.conform(v, origin, "v"))
    x, y = np.meshgrid(xs, ys)
    weights = np.stack([np.ones(x.size), x.ravel(), y.ravel()], 1)
    values = combinations(f, block, weights, batch=batch, at_once=at_once)
    return Plane(xs, ys, jax.tree.map(lambda z: z.reshape(len(ys), len(xs), *z.shape[1:]), values))


def barycentric(
    f: Callable, a: PyTree, b: PyTree, c: PyTree, num: int, *, batch: PyTree = None, at_once: int | None = None
) -> Mesh:
    """Values at mixtures of three points: a triangle whose sides have `num` points.

    Args:
      f: as in `line`.
      a: params.
      b: params.
      c: params.
      num: points of a side, at least 2; num (num + 1) / 2 in all.
      batch: data of a loss.
      at_once: points at a time; None: planned.

    Raises:
      ValueError: as `line`; num below 2.
      TypeError: as `line`.

    Example:
      >>> import hessjax as hj
      >>> found = hj.profiles.barycentric(lambda w: w @ jnp.array([1.0, 10.0, 100.0]), *jnp.eye(3), 3)
      >>> sorted(found.values.tolist())
      [1.0, 5.5, 10.0, 50.5, 55.0, 100.0]

    References: Im et al. (2016), arXiv:1612.04010.
    """
    check_count("num", num, 2)
    a = trees.params_of(a, "a")
    block = _stacked(a, trees.conform(b, a, "b"), trees.conform(c, a, "c"))
    i, j = (x.ravel() for x in np.meshgrid(np.arange(num), np.arange(num)))
    inside = i + j < num
    weights = np.stack([num - 1 - i - j, i, j], 1)[inside] / (num - 1)
    return Mesh(weights, combinations(f, block, weights, batch=batch, at_once=at_once))


def bilinear(
    f: Callable,
    corners: Sequence[PyTree],
    xs: Any,
    ys: Any,
    *,
    batch: PyTree = None,
    at_once: int | None = None,
) -> Plane:
    """Values at mixtures of four points, which need not lie in a plane: those of a unit square's corners.

    Args:
      f: as in `line`.
      corners: params at (x, y) = (0, 0), (1, 0), (0, 1) and (1, 1).
      xs: [nx].
      ys: [ny].
      batch: data of a loss.
      at_once: points at a time; None: planned.

    Raises:
      ValueError: as `line`; not four corners.
      TypeError: as `line`.

    Example:
      >>> import hessjax as hj
      >>> hj.profiles.bilinear(lambda w: w, (0.0, 1.0, 2.0, 7.0), [0, 1], [0, 0.5, 1]).values.tolist()
      [[0.0, 1.0], [1.0, 4.0], [2.0, 7.0]]

    References: Im et al. (2016), arXiv:1612.04010.
    """
    if len(corners) != 4:
        raise ValueError(f"corners are {len(corners)}, wanted four: at (0, 0), (1, 0), (0, 1) and (1, 1).")
    xs, ys = _numbers("xs", xs), _numbers("ys", ys)
    first = trees.params_of(corners[0], "corners[0]")
    rest = [trees.conform(corner, first, f"corners[{k + 1}]") for k, corner in enumerate(corners[1:])]
    x, y = (grid.ravel() for grid in np.meshgrid(xs, ys))
    weights = np.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], 1)
    values = combinations(f, _stacked(first, *rest), weights, batch=batch, at_once=at_once)
    return Plane(xs, ys, jax.tree.map(lambda z: z.reshape(len(ys), len(xs), *z.shape[1:]), values))


def combinations(f: Callable, points: PyTree, weights: Any, *, batch: PyTree = None, at_once: int | None = None) -> Any:
    """Values at linear combinations of points: what lines, planes and meshes are made of.

    Args:
      f: as in `line`.
      points: params with a leading axis, of k points or directions.
      weights: [combinations, k].
      batch: data of a loss.
      at_once: combinations at a time; None: planned.

    Returns:
      What f returned, every leaf [combinations, ...].

    Raises:
      ValueError: as `line`; weights are not a matrix of k columns.
      TypeError: as `line`.

    Example:
      >>> import hessjax as hj
      >>> hj.profiles.combinations(lambda w: w.sum(), jnp.eye(2), [[1.0, 2.0], [0.0, 5.0]]).tolist()
      [3.0, 5.0]
    """
    trees.check_params(points, "points")
    weights = np.asarray(weights, float)
    counts = {len(x) if jnp.ndim(x) else 0 for x in jax.tree.leaves(points)}
    if weights.ndim != 2 or not len(weights) or counts != {weights.shape[1]}:
        raise ValueError(
            f"weights have shape {weights.shape}, wanted [combinations, k] for points of {sorted(counts)}."
        )
    if at_once is not None:
        check_count("at_once", at_once)
    f = hashable(f)
    mesh = _mesh(len(weights), points, batch)
    count = 1 if mesh is None else mesh.size
    share = -(-len(weights) // count)
    at_once = min(share, at_once or _planned(f, points, batch, count))
    padded = np.concatenate([weights, np.repeat(weights[-1:], share * count - len(weights), axis=0)])
    weights_in = jnp.asarray(padded, trees.scalar_dtype(points))
    if mesh is not None:  # also what was put on one device
        points, batch = jax.device_put((points, batch), NamedSharding(mesh, PartitionSpec()))
    values = _evaluated(f, points, weights_in, batch, mesh=mesh, at_once=at_once)
    return jax.tree.map(lambda x: x[: len(weights)], values)


def _mesh(count: int, points: PyTree, batch: PyTree) -> Any:
    """The devices that points are spread over; None where arrays are spread themselves, or put on another kind."""
    arrays = [x for x in jax.tree.leaves((points, batch)) if isinstance(x, jax.Array)]
    where = [x.sharding.device_set for x in arrays if not isinstance(x, Tracer)]
    mesh = lane_mesh(count)
    kind = mesh.devices.flat[0].platform
    apart = any(len(devices) > 1 or next(iter(devices)).platform != kind for devices in where)
    return None if apart or mesh.size == 1 or len(where) < len(arrays) else mesh


@partial(jax.jit, static_argnames=("f", "mesh", "at_once"))
def _evaluated(f: Callable, points: PyTree, weights: Array, batch: PyTree, *, mesh: Any, at_once: int) -> Any:
    def some(weights: Array, points: PyTree, batch: PyTree) -> Any:
        one = lambda w: _value(f, _mixture(w, points), batch)
        return jax.lax.map(one, weights, batch_size=at_once if at_once > 1 else None)

    if mesh is None:
        return some(weights, points, batch)
    lane, same = PartitionSpec("lane"), PartitionSpec()
    spread = jax.shard_map(some, mesh=mesh, in_specs=(lane, same, same), out_specs=lane, check_vma=False)
    return spread(weights, points, batch)


def _mixture(weights: Array, points: PyTree) -> PyTree:
    """In float32 at the least: half precision has too few digits for a place between two points."""
    wide = jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), points)
    return jax.tree.map(lambda x, like: x.astype(like.dtype), trees.combine(weights, wide), points)


def _value(f: Callable, params: PyTree, batch: PyTree) -> Any:
    return f(params) if batch is None else mean_loss(f, params, batch)


def _planned(f: Callable, points: PyTree, batch: PyTree, num_devices: int) -> int:
    """As many points at a time as fit, were no intermediate result of theirs ever freed."""
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), points)
    rest = jax.eval_shape(lambda x: x, batch)
    leaves, structure = jax.tree.flatten((one, rest))
    made = _bytes_made(f, structure, tuple(leaves), jax.config.read("jax_enable_x64"))
    return int(np.clip(batch_bytes(measuring_bytes(num_devices), num_devices) // max(made, 1), 1, MOST))


@lru_cache(maxsize=256)
def _bytes_made(f: Callable, structure: Any, leaves: tuple, _x64: bool) -> int:
    """Bytes of all results at one point. Tracing takes longer than a small profile, so that it is done once."""
    one, batch = jax.tree.unflatten(structure, leaves)
    program, _ = traced(lambda params, batch: _value(f, params, batch), one, batch)
    return sum(var.aval.size * var.aval.dtype.itemsize for eqn in program.jaxpr.eqns for var in eqn.outvars)


def _stacked(*points: PyTree) -> PyTree:
    return jax.tree.map(lambda *x: jnp.stack([jnp.asarray(leaf) for leaf in x]), *points)


def _numbers(name: str, values: Any) -> Float[np.ndarray, " points"]:
    try:
        found = np.asarray(values, float)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a line of numbers, got {type(values).__name__}.") from error
    if found.ndim != 1 or not found.size or not np.isfinite(found).all():
        raise ValueError(f"{name} must be a line of finite numbers, got shape {found.shape}: {values!r}.")
    return found
