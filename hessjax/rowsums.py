"""Where a linear program spreads an array over rows, and where it sums rows: products with a matrix that is kept.

A broadcast is a product with ones, and so is a plain sum.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from jax import lax
from jax.extend.core import JaxprEqn

from hessjax.jaxprs import among
from hessjax.masks import Numbers
from hessjax.programs import struct

__all__ = ["Factor", "Sink", "Source", "sink_of", "source_of"]


class Factor(NamedTuple):
    """What is kept as a matrix [rows, columns]: a variable and its axes, or ones [rows, 1] where that is None."""

    var: Any
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    @property
    def width(self) -> int:
        return 1 if self.var is None else math.prod(struct(self.var).shape[axis] for axis in self.columns)


class Source(NamedTuple):
    """`matrix @ s`: a smaller array spread over rows. The axes `inner` of s go with the matrix's columns."""

    matrix: Factor
    s: Any
    inner: tuple[int, ...]
    rows: tuple[int, ...]  # axes of the result
    flops: float


class Sink(NamedTuple):
    """`matrix.T @ u`: rows summed. The axes of the result are the matrix's columns before u's, or after them."""

    matrix: Factor
    u: Any
    rows: tuple[int, ...]  # axes of u
    columns_first: bool
    flops: float


def source_of(eqn: JaxprEqn, number: Numbers, linear: set[Any]) -> Source | None:
    """The source that an equation is; `number` is of what is kept.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> program = jax.make_jaxpr(lambda s: jnp.ones((7, 3)) @ s)(jnp.ones((3, 5))).jaxpr
      >>> product, kept = program.eqns[-1], program.eqns[0].outvars[0]
      >>> source = source_of(product, {kept: 0}, {*program.invars})
      >>> source.matrix.rows, source.matrix.columns, source.inner, source.rows, source.flops
      ((0,), (1,), (0,), (0,), 210.0)
    """
    if eqn.primitive.name == "broadcast_in_dim" and among(eqn.invars[0], linear):
        [s], out = eqn.invars, struct(eqn.outvars[0])
        placed = tuple(map(int, eqn.params["broadcast_dimensions"]))
        inner = tuple(axis for axis, to in enumerate(placed) if struct(s).shape[axis] != out.shape[to])
        rows = tuple(axis for axis in range(out.ndim) if axis not in placed or placed.index(axis) in inner)
        return Source(Factor(None, (), ()), s, inner, rows, 0.0)
    product = _product(eqn, number, linear)
    if product is None:
        return None
    columns, inner = zip(*sorted(product.pairs), strict=True) if product.pairs else ((), ())
    start = 0 if product.first else struct(product.other).ndim - len(inner)
    rows = tuple(range(start, start + len(product.free)))
    return Source(Factor(product.matrix, product.free, columns), product.other, inner, rows, product.flops)


def sink_of(eqn: JaxprEqn, number: Numbers, linear: set[Any]) -> Sink | None:
    """The sink that an equation is.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> program = jax.make_jaxpr(lambda u: jnp.sum(u, 0))(jnp.ones((7, 5))).jaxpr
      >>> sink_of(program.eqns[0], {}, {*program.invars}).rows
      (0,)
    """
    if eqn.primitive.name == "reduce_sum" and among(eqn.invars[0], linear):
        return Sink(Factor(None, (), ()), eqn.invars[0], tuple(sorted(eqn.params["axes"])), True, 0.0)
    product = _product(eqn, number, linear)
    if product is None or not product.pairs:
        return None
    rows, matrix_rows = zip(*sorted(pair[::-1] for pair in product.pairs), strict=True)
    return Sink(Factor(product.matrix, matrix_rows, product.free), product.other, rows, product.first, product.flops)


class Product(NamedTuple):
    """A product of something kept: it, the other operand, their axes that are contracted, the axes of it that stay."""

    matrix: Any
    other: Any
    pairs: list[tuple[int, int]]
    free: tuple[int, ...]
    first: bool  # whether it is the left operand, whose axes come first in the result
    flops: float


def _product(eqn: JaxprEqn, number: Numbers, linear: set[Any]) -> Product | None:
    if eqn.primitive is not lax.dot_general_p or eqn.params.get("out_sharding") is not None:
        return None
    contracted, batch = eqn.params["dimension_numbers"]
    dtypes = {struct(x).dtype for x in (*eqn.invars, *eqn.outvars)}
    kept, moves = ([among(x, which) for x in eqn.invars] for which in (number, linear))
    if any(batch) or len(dtypes) != 1 or sum(kept) != 1 or sum(moves) != 1:
        return None
    k = kept.index(True)
    shape, axes = struct(eqn.invars[k]).shape, contracted[k]
    free = tuple(axis for axis in range(len(shape)) if axis not in axes)
    flops = 2.0 * math.prod(struct(eqn.outvars[0]).shape) * math.prod(shape[axis] for axis in axes)
    pairs = list(zip(axes, contracted[1 - k], strict=True))
    return Product(eqn.invars[k], eqn.invars[1 - k], pairs, free, k == 0, flops)
