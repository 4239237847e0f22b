"""Where a linear program spreads an array over rows, and where it sums rows: products with a matrix that is kept.

A broadcast is a product with ones, and so is a plain sum.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from jax import lax
from jax.extend.core import JaxprEqn, Literal

from hessjax.jaxprs import struct
from hessjax.masks import Numbers

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
    if eqn.primitive.name == "broadcast_in_dim" and _moves(eqn.invars[0], linear):
        [s], out = eqn.invars, struct(eqn.outvars[0])
        placed = tuple(map(int, eqn.params["broadcast_dimensions"]))
        inner = tuple(axis for axis, to in enumerate(placed) if struct(s).shape[axis] != out.shape[to])
        rows = tuple(axis for axis in range(out.ndim) if axis not in placed or placed.index(axis) in inner)
        return Source(Factor(None, (), ()), s, inner, rows, 0.0)
    product = _product(eqn, number, linear)
    if product is None:
        return None
    operand, axes, others = product
    matrix, s = eqn.invars[operand], eqn.invars[1 - operand]
    order = sorted(range(len(axes)), key=axes.__getitem__)
    free = tuple(axis for axis in range(struct(matrix).ndim) if axis not in axes)
    start = 0 if operand == 0 else struct(s).ndim - len(axes)
    inner, rows = tuple(others[k] for k in order), tuple(range(start, start + len(free)))
    return Source(Factor(matrix, free, tuple(sorted(axes))), s, inner, rows, _flops(eqn, axes, operand))


def sink_of(eqn: JaxprEqn, number: Numbers, linear: set[Any]) -> Sink | None:
    """The sink that an equation is.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> program = jax.make_jaxpr(lambda u: jnp.sum(u, 0))(jnp.ones((7, 5))).jaxpr
      >>> sink_of(program.eqns[0], {}, {*program.invars}).rows
      (0,)
    """
    if eqn.primitive.name == "reduce_sum" and _moves(eqn.invars[0], linear):
        return Sink(Factor(None, (), ()), eqn.invars[0], tuple(sorted(eqn.params["axes"])), True, 0.0)
    product = _product(eqn, number, linear)
    if product is None:
        return None
    operand, axes, others = product
    matrix, u = eqn.invars[operand], eqn.invars[1 - operand]
    order = sorted(range(len(axes)), key=others.__getitem__)
    free = tuple(axis for axis in range(struct(matrix).ndim) if axis not in axes)
    matrix = Factor(matrix, tuple(axes[k] for k in order), free)
    return Sink(matrix, u, tuple(sorted(others)), operand == 0, _flops(eqn, axes, operand))


def _product(eqn: JaxprEqn, number: Numbers, linear: set[Any]) -> tuple[int, tuple[int, ...], tuple[int, ...]] | None:
    """Of a matrix product with something kept: which operand that is, its contracted axes, those of the other."""
    if eqn.primitive is not lax.dot_general_p or eqn.params.get("out_sharding") is not None:
        return None
    kept = [not isinstance(x, Literal) and x in number for x in eqn.invars]
    contracted, batch = eqn.params["dimension_numbers"]
    dtypes = {struct(x).dtype for x in (*eqn.invars, *eqn.outvars)}
    if any(batch) or sum(kept) != 1 or len(dtypes) != 1 or not _moves(eqn.invars[1 - kept.index(True)], linear):
        return None
    operand = kept.index(True)
    return operand, tuple(contracted[operand]), tuple(contracted[1 - operand])


def _moves(x: Any, linear: set[Any]) -> bool:
    return not isinstance(x, Literal) and x in linear


def _flops(eqn: JaxprEqn, axes: tuple[int, ...], operand: int) -> float:
    return 2.0 * math.prod(struct(eqn.outvars[0]).shape) * math.prod(struct(eqn.invars[operand]).shape[k] for k in axes)
