"""Vector algebra on pytrees: what Krylov methods need, without ravelling.

A vector is any pytree of real floating arrays; a flat array is a pytree of one leaf, so shardings survive.
Scalars are accumulated in at least float32. Knows nothing of losses, operators or data.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Key, PyTree, UInt32

__all__ = [
    "PRNGKey",
    "add",
    "axpy",
    "block_of",
    "cast",
    "check_params",
    "combine",
    "conform",
    "dot",
    "dots",
    "eps",
    "gram",
    "in_shard_map",
    "lift",
    "norm",
    "normal_like",
    "nudged",
    "num_stacked",
    "params_of",
    "path_str",
    "rademacher_like",
    "ravel",
    "scalar_dtype",
    "scale",
    "size",
    "structs",
    "tracks_varying",
    "unit",
    "vary_like",
    "vary_with",
    "zeros_like",
]

PRNGKey = Key[Array, ""] | UInt32[Array, "2"]  # typed or legacy


def path_str(path: tuple[Any, ...]) -> str:
    """A tree path in the form "a/b/kernel".

    Example:
      >>> path_str(jax.tree.flatten_with_path({"a": {"kernel": 1.0}})[0][0][0])
      'a/kernel'
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def structs(tree: PyTree) -> PyTree:
    """The shapes and dtypes of a tree, as `jax.ShapeDtypeStruct` leaves."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), tree)


def size(tree: PyTree) -> int:
    """Number of scalars in a tree.

    Example:
      >>> size({"a": jnp.zeros((2, 3)), "b": jnp.zeros(4)})
      10
    """
    return sum(int(leaf.size) for leaf in jax.tree.leaves(structs(tree)))


def eps(tree: PyTree) -> float:
    """The rounding of the coarsest leaf: arrays, or shapes with dtypes.

    Example:
      >>> eps({"a": jnp.zeros(2, jnp.bfloat16), "b": jnp.zeros(2)})
      0.0078125
    """
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(tree))


def scalar_dtype(tree: PyTree) -> jnp.dtype:
    """The dtype in which scalars of `tree` are accumulated: float64 where x64 is on, else its own or float32."""
    least = jnp.float64 if jax.config.read("jax_enable_x64") else jnp.float32
    return jnp.promote_types(jnp.result_type(*jax.tree.leaves(tree)), least)


def num_stacked(points: PyTree, what: str = "points") -> int:
    """How many points a tree holds, along the leading axis of its leaves; a ValueError where that is not one.

    Example:
      >>> num_stacked({"a": jnp.zeros((5, 3)), "b": jnp.zeros(5)})
      5
    """
    counts = {jnp.shape(x)[:1] for x in jax.tree.leaves(points)}
    if len(counts) != 1 or () in counts:
        raise ValueError(
            f"{what} must be params with one leading axis for all leaves, such as "
            "jax.tree.map(lambda *x: jnp.stack(x), a, b)."
        )
    return counts.pop()[0]


def check_params(tree: PyTree, what: str = "params") -> None:
    """Refuses trees that are not vectors of real floating numbers.

    Raises:
      ValueError: the tree has no leaves, or no scalars.
      TypeError: a leaf is not a real floating array; the message says how to partition it off.
    """
    leaves = jax.tree.flatten_with_path(tree)[0]
    if not leaves:
        raise ValueError(f"{what} is an empty tree: there is nothing to differentiate; pass a pytree of float arrays.")
    for path, leaf in leaves:
        dtype = getattr(leaf, "dtype", None)
        if dtype is None and isinstance(leaf, int | float) and not isinstance(leaf, bool):
            dtype = jnp.result_type(leaf)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            got = type(leaf).__name__ if dtype is None else str(dtype)
            raise TypeError(
                f"{_named(what, path)} is {got}, wanted a real floating array. Partition it off: "
                "keep it in batch, or close over it, e.g. loss = lambda p, batch: full_loss({**p, **fixed}, batch)."
            )
    if size(tree) == 0:
        raise ValueError(f"{what} holds no scalars: every leaf has size 0.")


def params_of(tree: PyTree, what: str = "params") -> PyTree:
    """Params as arrays, refused where they cannot be differentiated.

    Raises:
      TypeError: as `check_params`.
      ValueError: as `check_params`.

    Example:
      >>> params_of({"w": 1.0})["w"].shape
      ()
    """
    check_params(tree, what)
    return jax.tree.map(jnp.asarray, tree)


def _named(what: str, path: Any) -> str:
    """A leaf of a tree, which may be all of it."""
    return f"{what} leaf {path_str(path)!r}" if path else what


def conform(v: PyTree, like: PyTree, what: str = "v") -> PyTree:
    """`v` as a vector of the space of `like`, cast to its dtypes.

    Raises:
      ValueError: structure or shapes differ; the message names the first leaf that does.
    """
    want, got = jax.tree.structure(like), jax.tree.structure(v)
    if want != got:
        raise ValueError(f"{what} has tree structure {got}, wanted that of the operator's params, {want}.")

    def leaf(path, x, struct):
        if jnp.shape(x) != struct.shape:
            raise ValueError(f"{_named(what, path)} has shape {jnp.shape(x)}, wanted {struct.shape}.")
        return jnp.asarray(x, struct.dtype)

    return jax.tree.map_with_path(leaf, v, like)


def in_shard_map() -> bool:
    """Whether what is traced here runs inside `jax.shard_map`.

    Example:
      >>> in_shard_map()
      False
    """
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def tracks_varying(tree: PyTree) -> bool:
    """Whether arrays are marked as varying over axes of a mesh: in `jax.shard_map`, unless without check_vma.

    Example:
      >>> tracks_varying(jnp.ones(2))
      False
    """

    def axes(x: Any) -> Any:
        kind = jax.typeof(x)
        return getattr(kind, "vma", None) or getattr(getattr(kind, "mat", None), "varying", None)  # renamed in 0.10

    return in_shard_map() and any(axes(x) for x in jax.tree.leaves(tree))


def vary_like(v: PyTree, like: PyTree) -> PyTree:
    """`v`, marked as varying over the mesh axes that `like` varies over; the identity outside `jax.shard_map`.

    A select takes the union of its operands' axes on every version of jax (the names for saying it have changed
    twice), keeps NaN in `like` out, and is folded away when compiled.
    """
    if not in_shard_map():
        return v
    return jax.tree.map(lambda x, other: jnp.where(False, other, x), v, like)


def vary_with(tree: PyTree, other: Any) -> PyTree:
    """`tree`, marked as varying over every mesh axis that any array of `other` varies over: what a loop starts from.

    As `vary_like`, for another tree; the compiler drops it, and no array of `other` is moved.
    """
    if not in_shard_map():
        return tree
    floating = lambda x: hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating) and jnp.size(x)
    for anchor in filter(floating, jax.tree.leaves(other)):
        first = jnp.asarray(anchor).ravel()[0]
        tree = jax.tree.map(lambda x, a=first: jnp.where(False, a.astype(x.dtype), x), tree)
    return tree


def zeros_like(like: PyTree, *leading: int) -> PyTree:
    """Zeros in the shapes of `like`, with `leading` axes before them."""
    return jax.tree.map(lambda s: jnp.zeros((*leading, *s.shape), s.dtype), like)


def lift(tree: PyTree) -> PyTree:
    """Leaves of less than float32 as float32: what a recurrence is computed in. Arrays or shapes."""
    wide = lambda x: jnp.promote_types(x.dtype, jnp.float32)
    shapes = lambda x: jax.ShapeDtypeStruct(x.shape, wide(x))
    return jax.tree.map(lambda x: shapes(x) if isinstance(x, jax.ShapeDtypeStruct) else x.astype(wide(x)), tree)


def dot(u: PyTree, v: PyTree) -> Float[Array, ""]:
    """The inner product u . v, accumulated in at least float32.

    Example:
      >>> float(dot({"a": jnp.ones(3)}, {"a": jnp.arange(3.0)}))
      3.0
    """
    dtype = scalar_dtype(u)
    leaf = lambda a, b: jnp.sum(a.astype(dtype) * b.astype(dtype))
    return sum(jax.tree.leaves(jax.tree.map(leaf, u, v)), start=jnp.zeros((), dtype))


def norm(v: PyTree) -> Float[Array, ""]:
    """The Euclidean norm of v, in at least float32; no entry is too small or too large to be squared.

    Example:
      >>> float(norm(jnp.array([3e-30, 4e-30]))) / 5e-30 > 0.999
      True
    """
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=0.0) for x in jax.tree.leaves(v)]))
    usable = jnp.isfinite(largest) & (largest > 0)
    unit = jnp.where(usable, largest, 1).astype(scalar_dtype(v))
    squares = lambda x: jnp.sum((x.astype(unit.dtype) / unit) ** 2)
    return unit * jnp.sqrt(sum(map(squares, jax.tree.leaves(v)), start=jnp.zeros((), unit.dtype)))


def _contract(a: Array, b: Array, axes: Any) -> Array:
    # Over the axes as they are (a reshape would gather a sharded leaf); accelerators would multiply float32 at less.
    return jnp.tensordot(a, b, axes=axes, precision="highest")


def block_of(vectors: PyTree, like: PyTree, what: str) -> tuple[PyTree, bool]:
    """Vectors with a leading axis, and whether they had it; a ValueError where one is not like `like`.

    Example:
      >>> block_of(jnp.ones(3), jnp.zeros(3), "directions")[0].shape
      (1, 3)
    """
    found = jax.tree.leaves(vectors), jax.tree.leaves(like)
    several = len(found[0]) == len(found[1]) and all(jnp.ndim(v) == jnp.ndim(x) + 1 for v, x in zip(*found))
    rows = vectors if several else jax.tree.map(lambda x: jnp.asarray(x)[None], vectors)
    conform(jax.tree.map(lambda x: x[0], rows), like, what)
    return rows, several


def dots(block: PyTree, v: PyTree) -> Float[Array, " k"]:
    """Inner products of the k vectors of a block (leading axis) with v.

    Example:
      >>> dots(jnp.eye(2), jnp.array([3.0, 4.0])).tolist()
      [3.0, 4.0]
    """
    leaf = lambda q, x: _contract(q, x, (tuple(range(1, q.ndim)), tuple(range(x.ndim))))
    return sum(jax.tree.leaves(jax.tree.map(leaf, block, v)))  # pyright: ignore[reportReturnType]


def gram(a: PyTree, b: PyTree) -> Float[Array, "j k"]:
    """Inner products of every vector of one block with every vector of another.

    Example:
      >>> gram(jnp.eye(2), jnp.ones((1, 2))).tolist()
      [[1.0], [1.0]]
    """
    leaf = lambda x, y: _contract(x, y, (tuple(range(1, x.ndim)), tuple(range(1, y.ndim))))
    return sum(jax.tree.leaves(jax.tree.map(leaf, a, b)))  # pyright: ignore[reportReturnType]


def combine(c: Float[Array, "*m k"], block: PyTree) -> PyTree:
    """Linear combinations of the k vectors of a block: one vector for c of shape [k], a block for [m, k].

    Example:
      >>> combine(jnp.array([2.0, 3.0]), jnp.eye(2)).tolist()
      [2.0, 3.0]
    """
    return jax.tree.map(lambda q: _contract(c.astype(q.dtype), q, 1), block)


def axpy(c: Any, x: PyTree, y: PyTree) -> PyTree:
    """c x + y, in the dtype of y."""
    return jax.tree.map(lambda a, b: (c * a + b).astype(b.dtype), x, y)


def add(u: PyTree, v: PyTree) -> PyTree:
    """u + v, leaf by leaf."""
    return jax.tree.map(jnp.add, u, v)


def unit(v: PyTree) -> PyTree:
    """v at length 1; zero where it is.

    Example:
      >>> unit(jnp.array([0.0, 4.0])).tolist()
      [0.0, 1.0]
    """
    length = norm(v)
    return scale(jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0), v)


def scale(c: Any, v: PyTree) -> PyTree:
    """c v, in the dtype of v."""
    return jax.tree.map(lambda leaf: (c * leaf).astype(leaf.dtype), v)


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """Floating leaves in `dtype`; every other leaf (integers, keys, booleans) as it is."""

    def leaf(x):
        floating = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)
        return jnp.asarray(x, dtype) if floating or isinstance(x, float) else x

    return jax.tree.map(leaf, tree)


APART = 2**20  # scalars from which a leaf is drawn by itself: one array for all would be replicated where it is sharded


def draw_like(draw: Callable, key: PRNGKey, like: PyTree) -> PyTree:
    """A random tree shaped like `like`: `draw(key, shape, dtype)` for all small leaves at once and per large shape.

    A generator is what takes longest to compile, so there are few; the barrier keeps it from being fused, and run
    again, into everything that reads it.
    """
    leaves, structure = jax.tree.flatten(like)
    groups: dict[Any, list[int]] = {}
    for i, x in enumerate(leaves):
        groups.setdefault((x.dtype, x.shape if x.size > APART else None), []).append(i)
    drawn: dict[int, Array] = {}
    for k, ((dtype, shape), members) in zip(jax.random.split(key, len(groups)), groups.items(), strict=True):
        sizes = [leaves[i].size for i in members]
        whole = (len(members), *shape) if shape else (sum(sizes),)
        values = jax.lax.optimization_barrier(draw(k, whole, dtype))
        ends = [sum(sizes[: n + 1]) for n in range(len(sizes))]
        for n, i in enumerate(members):
            drawn[i] = values[n] if shape else values[ends[n] - sizes[n] : ends[n]].reshape(leaves[i].shape)
    return structure.unflatten([drawn[i] for i in range(len(leaves))])


def normal_like(key: PRNGKey, like: PyTree) -> PyTree:
    """Independent standard normals shaped like `like`."""
    return draw_like(jax.random.normal, key, like)


def rademacher_like(key: PRNGKey, like: PyTree) -> PyTree:
    """Independent random signs shaped like `like`."""
    return draw_like(jax.random.rademacher, key, like)


def nudged(key: PRNGKey, tree: PyTree) -> PyTree:
    """The tree with every number moved by its rounding, up or down: what shows how far rounding moves a function of it.

    Zeros, and what is small, are moved by the rounding of the largest of their leaf, or of 1 where all are zero.
    """

    def leaf(x, sign):
        largest = jnp.max(jnp.abs(x))
        return x + eps(tree) * sign * jnp.where(largest > 0, largest, 1)

    return jax.tree.map(leaf, tree, rademacher_like(key, tree))


def ravel(tree: PyTree) -> tuple[Float[Array, " n"], Callable[[Array], PyTree]]:
    """The tree as one flat array, in `ravel_pytree` order, and the way back; for dense code only."""
    return ravel_pytree(tree)
