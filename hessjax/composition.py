"""The matrix of any operator from those it is made of: sums, multiples, shifts, blocks, complements, chunks of data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from hessjax import rows, trees
from hessjax.columns import COLUMNS, pass_numbers
from hessjax.convolutions import fast_in_loops
from hessjax.curvature import Curvature
from hessjax.layerwise import KINDS, assembled, choose
from hessjax.matrices import Matrix
from hessjax.operators import Operator, Scaled, Shifted, Sum
from hessjax.projections import Deflated, Restricted
from hessjax.stacks import mirrored

__all__ = ["LeafPlan", "Plan", "lower", "plan", "unit_vectors"]

Keep = tuple[bool, ...] | None


def lower(op: Operator, keep: Keep = None, *, columns: int = COLUMNS, memory: int | None = None) -> Float[Array, "n n"]:
    """A matrix whose lower triangle is the operator's, on the leaves to keep; traced.

    Example:
      >>> lower(Scaled(Matrix(jnp.eye(2)), 3.0)).tolist()
      [[3.0, 0.0], [0.0, 3.0]]
    """
    within = lambda other, keep=keep: lower(other, keep, columns=columns, memory=memory)
    match op:
        case Matrix() if keep is None:
            return mirrored(jnp.asarray(op.a))
        case Sum():
            first = within(op.a)
            return first + within(op.b).astype(first.dtype)
        case Scaled():
            return trees.scale(op.c, within(op.a))
        case Shifted():
            first = within(op.a)
            return first + trees.scale(op.c, jnp.eye(len(first), dtype=first.dtype))
        case Restricted():
            return within(op.a, _composed(op.keep, keep))
        case Deflated() if keep is None:
            return _deflated(within(op.a), jax.vmap(lambda v: trees.ravel(v)[0])(op.vectors))
        case Curvature() if _is_read(op):
            return _over_chunks(op, lambda part: assembled(part, keep, columns=columns, memory=memory))
    return _columns(op if keep is None else Restricted(op, keep), columns)


def _composed(outer: tuple[bool, ...], inner: Keep) -> tuple[bool, ...]:
    """Which leaves are kept of those that were."""
    if inner is None:
        return outer
    left = iter(inner)
    return tuple(kept and next(left) for kept in outer)


def _deflated(a: Float[Array, "n n"], vectors: Float[Array, "k n"]) -> Float[Array, "n n"]:
    whole = mirrored(a)
    for _ in range(2):  # one subtraction leaves rounding of the size of what it took away
        for _ in range(2):
            part = jnp.matmul(vectors, whole, precision="highest")
            whole = (whole - jnp.matmul(vectors.T, part, precision="highest")).T
    return whole


def _is_read(op: Curvature) -> bool:
    """Whether its program is read: not where arrays are tracked as varying over a mesh, which a new trace forgets."""
    return (op.chunk is None or isinstance(op, KINDS)) and not trees.tracks_varying(op)


def _over_chunks(op: Curvature, whole: Callable[[Curvature], Array]) -> Array:
    if op.chunk is None:
        return whole(op)
    wide = trees.scalar_dtype(op.like)
    part = lambda some: rows.num_rows(some) * whole(_with_rows(op, some)).astype(wide)
    return (rows.sum_over_chunks(part, op._data(), op.chunk) / op._num_rows()).astype(op.dtype)


def _with_rows(op: Curvature, some: PyTree) -> Curvature:
    whole: Any = op  # of one of KINDS: a dataclass, whose rows are its batch
    return dataclasses.replace(whole, batch=some, chunk=None)


def _columns(op: Operator, columns: int) -> Float[Array, "n n"]:
    n, linear = op.size, op.linearized()
    unit = unit_vectors(op)
    column = lambda j: trees.ravel(linear.product(unit(j)))[0]
    numbers = pass_numbers(n, columns)
    return jax.lax.map(fast_in_loops(jax.vmap(column)), numbers).reshape(-1, n)[:n]


def unit_vectors(op: Operator) -> Callable[[Array], PyTree]:
    """j -> the j-th unit vector, made where it is used: the identity itself is never stored.

    Example:
      >>> unit_vectors(Matrix(jnp.eye(3)))(1).tolist()
      [0.0, 1.0, 0.0]
    """
    flat, unravel = trees.ravel(trees.zeros_like(op.like))
    return lambda j: unravel((jnp.arange(flat.size) == j).astype(flat.dtype))


# --- what is done -----------------------------------------------------------------------------------------------------


class LeafPlan(NamedTuple):
    """How one leaf's part of a matrix is made.

    `way` is "pieces" or "columns"; `why`: the layers it is a weight of, or why it is columns. `tangents` counts
    derivatives taken (shared with the leaves of the same layer), `flops` operations, `bytes` what is held at once.
    """

    path: str
    size: int
    way: str
    why: str
    tangents: int
    flops: float
    bytes: float


class Plan(NamedTuple):
    """How a matrix is put together; all of it, and leaf by leaf. `matrix`: what it takes itself, and if it fits."""

    leaves: tuple[LeafPlan, ...]
    matrix: str = ""

    @property
    def flops(self) -> float:
        """Operations of all leaves."""
        return sum(leaf.flops for leaf in self.leaves)

    @property
    def bytes(self) -> float:
        """Bytes held at once by the leaf that holds most, beside the matrix."""
        return max((leaf.bytes for leaf in self.leaves), default=0.0)

    def __str__(self) -> str:
        """A table with a line per leaf."""
        head = ("leaf", "size", "way", "tangents", "Mflop", "MiB", "why")
        numbers = lambda x: (str(x.tangents), f"{x.flops / 1e6:.3g}", f"{x.bytes / 2**20:.3g}")
        lines = [head, *((x.path or "(array)", str(x.size), x.way, *numbers(x), x.why) for x in self.leaves)]
        width = [max(len(line[k]) for line in lines) for k in range(len(head))]
        padded = (zip(line, width, strict=True) for line in lines)
        table = ["  ".join(x.ljust(w) for x, w in line).rstrip() for line in padded]
        return "\n".join([*table, self.matrix] if self.matrix else table)


def plan(op: Operator, keep: Keep = None, *, memory: int | None = None) -> Plan:
    """What `lower` does with an operator.

    Example:
      >>> plan(Matrix(jnp.eye(2))).leaves[0].why
      'the matrix is given'
    """
    within = lambda other, keep=keep: plan(other, keep, memory=memory)
    match op:
        case Sum():
            return Plan((*within(op.a).leaves, *within(op.b).leaves))
        case Scaled() | Shifted() | Deflated():
            return within(op.a)
        case Restricted():
            return within(op.a, _composed(op.keep, keep))
        case Curvature() if _is_read(op):
            return _plan_of(op, keep, memory)
    every = [(trees.path_str(path), leaf) for path, leaf in jax.tree.leaves_with_path(op.like)]
    paths = [leaf for k, leaf in enumerate(every) if keep is None or keep[k]]
    given = isinstance(op, Matrix)
    why = "the matrix is given" if given else f"{type(op).__name__} is known by its products"
    count = lambda leaf: 0 if given else leaf.size
    return Plan(tuple(LeafPlan(p, x.size, "columns", why, count(x), 0.0, 0.0) for p, x in paths))


def _plan_of(op: Curvature, keep: Keep, memory: int | None) -> Plan:
    part: Any = op if op.chunk is None else _with_rows(op, rows.take(op._data(), 0, min(op.chunk, op._num_rows())))
    times = 1 if op.chunk is None else op._num_rows() / min(op.chunk, op._num_rows())
    choice = choose(part, keep, memory=memory)
    found = []
    for k, (path, leaf) in enumerate(jax.tree.leaves_with_path(op.like)):
        if keep is None or keep[k]:
            way = "pieces" if k in choice.tapped else "columns"
            numbers = choice.tangents[k], times * choice.flops[k], choice.bytes[k]
            found.append(LeafPlan(trees.path_str(path), leaf.size, way, choice.why[k], *numbers))
    return Plan(tuple(found))
