"""Directions through a loss surface: random ones to the net's own scale, a plane through points, principal ones."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from hessjax import trees
from hessjax.arguments import check_key
from hessjax.trees import PRNGKey

__all__ = ["Frame", "Trajectory", "filter_normalized", "normalized", "plane_through", "trajectory_plane"]

NORMS = ("filter", "layer", "none")
VECTORS = ("zero", "scaled")
ORIGINS = ("last", "first", "mean")
# Axes that number the filters of leaves that are not laid out [..., inputs, outputs], by the end of their path.
LAYOUTS: dict[str, tuple[int, ...]] = {
    "embedding": (0,),
    **{f"{name}/kernel": (-2, -1) for name in ("query", "key", "value")},
}


class Frame(NamedTuple):
    """A flat part of parameter space: `origin` and k orthonormal `directions` (leading axis).

    Example:
      >>> frame = Frame(jnp.zeros(3), jnp.eye(3)[:2])
      >>> coordinates, distance = frame.project(jnp.array([[3.0, 4.0, 5.0]]))
      >>> coordinates.tolist(), distance.tolist()
      ([[3.0, 4.0]], [5.0])
    """

    origin: PyTree
    directions: PyTree

    @property
    def u(self) -> PyTree:
        """The first direction."""
        return jax.tree.map(lambda x: x[0], self.directions)

    @property
    def v(self) -> PyTree:
        """The second."""
        return jax.tree.map(lambda x: x[1], self.directions)

    def project(self, points: PyTree) -> tuple[Float[Array, "points k"], Float[Array, " points"]]:
        """Coordinates of the nearest points in the plane, and how far off it the points (leading axis) are."""
        away = jax.tree.map(lambda x, o: x - o, points, self.origin)
        coordinates = trees.gram(away, self.directions)
        off = jax.tree.map(lambda a, b: a - b, away, trees.combine(coordinates, self.directions))
        return coordinates, jax.vmap(trees.norm)(off)


class Trajectory(NamedTuple):
    """Points of a trajectory in the plane that they spread most in.

    Attributes:
      frame: the plane; its directions are principal components, largest first.
      coordinates: of every point, [points, k].
      distance: of every point from the plane, [points].
      explained: shares of the points' variance about their mean, of all components, descending; they sum to 1.
    """

    frame: Frame
    coordinates: Float[Array, "points k"]
    distance: Float[Array, " points"]
    explained: Float[Array, " components"]


def filter_normalized(
    key: PRNGKey,
    params: PyTree,
    *,
    norm: str = "filter",
    vectors: str = "zero",
    filters: Mapping[str, int | tuple[int, ...]] | None = None,
) -> PyTree:
    """A random direction whose every filter has the norm of the params' own, so that plots of two nets compare.

    A direction of Gaussian draws, scaled as `normalized` says. Nets whose units can be scaled against each other (ReLU)
    have sharper and flatter copies that compute the same; in these directions they look the same too.

    Args:
      key: of the draws.
      params: where the direction starts.
      norm: "filter", "layer" or "none".
      vectors: "zero" or "scaled", what to do with biases and scales.
      filters: where filters lie, for layouts that are neither flax's nor x @ w.

    Raises:
      ValueError: an unknown norm or word; a pattern of `filters` that matches nothing, or an axis that is not there.
      TypeError: params with leaves that are not floating; key is none.

    Example:
      >>> import hessjax as hj
      >>> params = {"kernel": 3.0 * jnp.ones((4, 2)), "bias": jnp.ones(2)}
      >>> direction = hj.profiles.filter_normalized(jax.random.key(0), params)
      >>> bool(jnp.allclose(jnp.linalg.norm(direction["kernel"], axis=0), 6.0)), direction["bias"].tolist()
      (True, [0.0, 0.0])

    References: Li et al. (2018), arXiv:1712.09913, section 4.
    """
    check_key(key)
    trees.check_params(params)
    drawn = trees.normal_like(key, trees.structs(params))
    return normalized(drawn, params, norm=norm, vectors=vectors, filters=filters)


def normalized(
    direction: PyTree,
    params: PyTree,
    *,
    norm: str = "filter",
    vectors: str = "zero",
    filters: Mapping[str, int | tuple[int, ...]] | None = None,
) -> PyTree:
    """A direction scaled, filter by filter or layer by layer, to the norms of the params.

    A filter is what makes one output of a layer: of a kernel [..., inputs, outputs], as flax keeps them and as x @ w
    means, a slice of the last axis; of an embedding a row; of attention's queries, keys and values a slice of the last
    two. A layer is a leaf.

    Args:
      direction: like params.
      params: whose norms.
      norm: "filter", "layer", or "none": as it is.
      vectors: leaves of at most one axis: "zero", so that the direction leaves them alone, or "scaled" as layers are.
      filters: pattern of `fnmatch` on tree paths -> the axis, or axes, that number the filters: {"*/weight": 0} for
        PyTorch's layout.

    Raises:
      ValueError: an unknown norm or word; a pattern of `filters` that matches nothing, or an axis that is not there.

    Example:
      >>> import hessjax as hj
      >>> hj.profiles.normalized(jnp.ones((4, 1)), 3 * jnp.ones((4, 1)), norm="layer").ravel().tolist()
      [3.0, 3.0, 3.0, 3.0]
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}; got {norm!r}.")
    if vectors not in VECTORS:
        raise ValueError(f"vectors must be one of {', '.join(VECTORS)}; got {vectors!r}.")
    trees.check_params(params)
    given = dict(filters or {})
    paths = [trees.path_str(path) for path, _ in jax.tree.flatten_with_path(params)[0]]
    idle = [pattern for pattern in given if not any(fnmatchcase(path, pattern) for path in paths)]
    if idle:
        raise ValueError(f"filters: {idle[0]!r} matches no leaf; the paths are {', '.join(paths)}.")

    def leaf(path, w, d):
        if norm == "none" and (w.ndim > 1 or vectors == "scaled"):
            return d
        if w.ndim <= 1 and vectors == "zero":
            return jnp.zeros_like(d)
        kept = _filter_axes(trees.path_str(path), w.ndim, given) if norm == "filter" and w.ndim > 1 else ()
        return (d * _ratio(w, d, kept)).astype(d.dtype)

    return jax.tree.map_with_path(leaf, params, trees.conform(direction, params, "direction"))


def _ratio(w: Array, d: Array, kept: tuple[int, ...]) -> Array:
    """Norms of w over those of d, over all axes but those kept; 0 where d is."""
    summed = tuple(axis for axis in range(w.ndim) if axis not in kept)
    wide = jnp.promote_types(w.dtype, jnp.float32)  # squares of half precision overflow
    norm = lambda x: jnp.sqrt(jnp.sum(x.astype(wide) ** 2, axis=summed, keepdims=True))
    below = norm(d)
    return jnp.where(below > 0, norm(w) / jnp.where(below > 0, below, 1), 0)


def _filter_axes(path: str, ndim: int, given: Mapping[str, int | tuple[int, ...]]) -> tuple[int, ...]:
    axes = next((axes for pattern, axes in given.items() if fnmatchcase(path, pattern)), None)
    if axes is None:
        axes = next((axes for end, axes in LAYOUTS.items() if f"/{path}".endswith(f"/{end}")), -1)
        if isinstance(axes, tuple) and len(axes) == ndim:  # no inputs left: another's layout under that name
            axes = -1
    axes = axes if isinstance(axes, tuple) else (axes,)
    if not all(-ndim <= axis < ndim for axis in axes):
        raise ValueError(f"filters: {path!r} has {ndim} axes, no axis {axes}.")
    return tuple(axis % ndim for axis in axes)


def plane_through(a: PyTree, b: PyTree, c: PyTree) -> tuple[Frame, Float[np.ndarray, "3 2"]]:
    """The plane through three points, distances in it those of parameter space, and the points' coordinates.

    `a` is the origin, `b` lies on the first axis, `c` above it.

    Args:
      a: params.
      b: params.
      c: params.

    Raises:
      ValueError: the points lie on one line, to rounding; or are not alike.

    Example:
      >>> import hessjax as hj
      >>> frame, at = hj.profiles.plane_through(jnp.zeros(3), jnp.array([0.0, 2.0, 0.0]), jnp.array([1.0, 1.0, 0.0]))
      >>> at.tolist()
      [[0.0, 0.0], [2.0, 0.0], [1.0, 1.0]]

    References: Garipov et al. (2018), arXiv:1802.10026, appendix.
    """
    a = trees.params_of(a, "a")
    first = jax.tree.map(jnp.subtract, trees.conform(b, a, "b"), a)
    second = jax.tree.map(jnp.subtract, trees.conform(c, a, "c"), a)
    length, reach = trees.norm(first), trees.norm(second)
    u = trees.scale(1 / jnp.where(length > 0, length, 1), first)
    along = trees.dot(u, second)
    rest = trees.axpy(-along, u, second)
    rest = trees.axpy(-trees.dot(u, rest), u, rest)  # once more, for rounding
    height = trees.norm(rest)
    if not float(height) > 100 * trees.eps(a) * float(reach) or not float(length) > 0:
        raise ValueError(f"the three points lie on one line: {float(height):.3g} off it, of {float(reach):.3g}.")
    v = trees.scale(1 / height, rest)
    at = np.array([[0, 0], [float(length), 0], [float(along), float(height)]])
    return Frame(a, jax.tree.map(lambda *x: jnp.stack(x), u, v)), at


def trajectory_plane(points: PyTree, *, origin: str = "last", num_components: int = 2) -> Trajectory:
    """The plane that a trajectory's points spread most in: their first principal components.

    Cost: the inner products of all points, so that parameters may be many; memory is that of the points. Where points
    lie on a line, the directions beside it are any that are orthogonal.

    Args:
      points: params with a leading axis, from first to last.
      origin: what the plane passes through: the "last" point, as for contours around a solution, the "first", or the
        "mean", to which all are nearest.
      num_components: k.

    Raises:
      ValueError: an unknown origin; fewer points, or fewer params, than components want; points that are all the same.

    Example:
      >>> import hessjax as hj
      >>> turn = jnp.linspace(0.0, 6.0, 20)
      >>> found = hj.profiles.trajectory_plane(jnp.stack([3 * jnp.cos(turn), jnp.sin(turn), 0 * turn], axis=1))
      >>> bool(found.explained[0] > 0.8), bool(jnp.abs(found.distance).max() < 1e-5)
      (True, True)

    References: Li et al. (2018), arXiv:1712.09913, section 7.2; projections are orthogonal, not cosines.
    """
    trees.check_params(points, "points")
    if origin not in ORIGINS:
        raise ValueError(f"origin must be one of {', '.join(ORIGINS)}; got {origin!r}.")
    count = trees.num_stacked(points)
    if count <= num_components:
        raise ValueError(f"points are {count}, wanted at least {num_components + 1} for {num_components} components.")
    if trees.size(jax.tree.map(lambda x: x[0], points)) < num_components:
        raise ValueError(f"num_components is {num_components}, more than there are params.")
    # From the last point first: the mean of equal points is not one of them, to rounding.
    moved = jax.tree.map(lambda x: x - x[-1], points)
    middle = jax.tree.map(lambda x: jnp.mean(x, axis=0), moved)
    mean = jax.tree.map(lambda x, m: x[-1] + m, points, middle)
    away = jax.tree.map(jnp.subtract, moved, middle)
    gram = np.asarray(trees.gram(away, away), np.float64)
    if not np.isfinite(gram).all() or not np.trace(gram) > 0:
        raise ValueError("points are all the same, or too large or not finite: there is no plane.")
    values, weights = np.linalg.eigh(gram)
    values, weights = values[::-1].clip(0), weights[:, ::-1]
    directions = _orthonormal(trees.combine(jnp.asarray(weights[:, :num_components].T), away), values[0] ** 0.5)
    at = mean if origin == "mean" else jax.tree.map(lambda x: x[-1 if origin == "last" else 0], points)
    frame = Frame(at, directions)
    return Trajectory(frame, *frame.project(points), jnp.asarray(values[: count - 1] / values.sum()))


def _orthonormal(block: PyTree, largest: float) -> PyTree:
    """Twice Gram-Schmidt, as the components of small variance are far from orthogonal; drawn where one is rounding."""
    rows: list[PyTree] = []
    for k in range(len(jax.tree.leaves(block)[0])):
        row = jax.tree.map(lambda x, k=k: x[k], block)
        if not float(trees.norm(row)) > 100 * trees.eps(row) * largest:
            row = trees.normal_like(jax.random.key(k), trees.structs(row))
        for _ in range(2):
            row = trees.scale(1 / trees.norm(row), row)
            for before in rows:
                row = trees.axpy(-trees.dot(before, row), before, row)
        rows.append(trees.scale(1 / trees.norm(row), row))
    return jax.tree.map(lambda *x: jnp.stack(x), *rows)
