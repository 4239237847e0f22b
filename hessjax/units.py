"""Units of a network in its program: the axes along which weights differ, and where `max(x, 0)` and the like are off.

A unit is dead where it is off for all data. What a value's numbers do not tell, whether it comes of weights or of data
and which of its axes are units, is kept beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Literal

from hessjax.programs import run, struct
from hessjax.taylor import Series

__all__ = ["Entry", "any_alive", "constant", "entry_of", "two_sided", "weight_axes", "where_off"]

POSITIVE = {"exp", "logistic"}
MOVES_ENTRIES = {"broadcast_in_dim", "reshape", "squeeze", "transpose", "slice", "copy", "rev", "expand_dims"}
KEEPS_SIGN = MOVES_ENTRIES | {"add", "mul", "reduce_sum", "reduce_max", "concatenate", "convert_element_type", "sqrt"}


class Below(NamedTuple):
    """Of a boolean: where something is below zero, and what the boolean is there."""

    where: Any
    value: bool


@dataclass(frozen=True)
class Entry:
    """A value of the program, and what is known of it without its numbers."""

    series: Series
    data: bool = False  # computed from data or from constant arrays, among others
    units: tuple[int, ...] | None = None  # axes along which weights differ
    sign: int | None = None  # by construction: 1 above zero, 0 zero itself
    below: Below | None = None

    @property
    def moves(self) -> bool:
        """Whether it depends on params."""
        return self.series.moves


def constant(literal: Any) -> Entry:
    """Of a number written in the program.

    Example:
      >>> import jax
      >>> [eqn] = jax.make_jaxpr(lambda x: x + 2.0)(1.0).eqns
      >>> found = constant(eqn.invars[1])
      >>> found.sign, found.moves
      (1, False)
    """
    real = np.ndim(literal.val) == 0 and np.asarray(literal.val).dtype.kind in "fiu"
    sign = {0.0: 0, 1.0: 1}.get(float(np.sign(literal.val))) if real else None
    return Entry(Series(jnp.asarray(literal.val, struct(literal).dtype)), sign=sign)


def entry_of(eqn: JaxprEqn, inputs: list[Entry], result: Series) -> Entry:
    """A result of an equation, with what its inputs tell of it."""
    name = eqn.primitive.name
    weights = [x.moves and not x.data for x in inputs]
    units = weight_axes(eqn, weights, [x.units for x in inputs]) if len(eqn.outvars) == 1 else None
    signs = {x.sign for x in inputs}
    sign = 1 if name in POSITIVE else signs.pop() if name in KEEPS_SIGN and len(signs) == 1 else None
    return Entry(result, any(x.data for x in inputs), units, sign, _below(eqn, inputs))


def _below(eqn: JaxprEqn, inputs: list[Entry]) -> Below | None:
    """Of a comparison with zero, its negation, rearrangement, or one of several such."""
    name, first = eqn.primitive.name, inputs[0].below if inputs else None
    if name in ("gt", "ge", "lt", "le") and [x.moves for x in inputs].count(True) == 1:
        moving = 0 if inputs[0].moves else 1
        if inputs[1 - moving].sign != 0:
            return None
        return Below(inputs[moving].series.value < 0, (name in ("lt", "le")) == (moving == 0))
    if name in ("and", "or"):  # one of them decides alone
        return next((x.below for x in inputs if x.below is not None and x.below.value == (name == "or")), None)
    if first is not None and name == "not":
        return Below(first.where, not first.value)
    if first is not None and name in MOVES_ENTRIES:
        [where] = run(eqn, [first.where])
        return Below(where, first.value)
    return None


def two_sided(eqns: Sequence[JaxprEqn]) -> list[JaxprEqn]:
    """The maxima of what a minimum is taken of too: with both, an activation has no off side (celu)."""
    of = lambda name: [eqn for eqn in eqns if eqn.primitive.name == name]
    lower = [x for eqn in of("min") for x in eqn.invars if not isinstance(x, Literal)]
    return [eqn for eqn in of("max") if any(x is y for x in eqn.invars for y in lower)]


def where_off(name: str, inputs: list[Entry]) -> Any:
    """Where an operand is below zero and the result therefore zero; None of an equation that has no such side."""
    if name == "max" and [x.moves for x in inputs].count(True) == 1:
        x, other = sorted(inputs, key=lambda one: not one.moves)
        return x.series.value < 0 if other.sign == 0 else None
    if name == "select_n" and len(inputs) == 3 and inputs[0].below is not None:
        where, value = inputs[0].below
        return where if inputs[2 if value else 1].sign == 0 else None
    return None


def any_alive(off: Any, inputs: list[Entry], rows: int | None) -> Any:
    """Whether a unit is on for any row and position; None where it cannot be told what the units are."""
    known = [x.units for x in inputs if x.units is not None and x.series.value.shape == off.shape]
    if not known and (off.ndim == 0 or off.shape[0] != rows):
        return None
    units = known[0] if known else range(1, off.ndim)
    return ~off.all([axis for axis in range(off.ndim) if axis not in units])


def weight_axes(
    eqn: JaxprEqn, weights: Sequence[bool], axes: Sequence[tuple[int, ...] | None]
) -> tuple[int, ...] | None:
    """The axes of an equation's result along which different weights were used: its units; None where that is lost.

    Args:
      eqn: with one result.
      weights: of every input, whether it depends on params and on no data.
      axes: of every input, its own such axes where they are known.

    Example:
      >>> import jax
      >>> [eqn] = jax.make_jaxpr(lambda x, w: x @ w)(jnp.ones((5, 7, 2)), jnp.ones((2, 3))).eqns
      >>> weight_axes(eqn, [False, True], [None, None])
      (2,)
    """
    name, shape = eqn.primitive.name, struct(eqn.outvars[0]).shape
    if name == "dot_general":
        return _product_axes(eqn, weights)
    if name == "conv_general_dilated":
        return (eqn.params["dimension_numbers"].out_spec[1],) if list(weights) == [False, True] else None
    if name == "transpose" and axes[0] is not None:
        return tuple(sorted(eqn.params["permutation"].index(axis) for axis in axes[0]))
    same = (known for x, known in zip(eqn.invars, axes, strict=True) if known is not None and struct(x).shape == shape)
    return next(same, None)


def _product_axes(eqn: JaxprEqn, weights: Sequence[bool]) -> tuple[int, ...] | None:
    """Of a product's result, the axes of the operand that is weights; those that both operands share are among them."""
    if sum(weights) != 1:
        return None
    contracted, (shared, _) = eqn.params["dimension_numbers"]
    free = [struct(x).ndim - len(axes) - len(shared) for x, axes in zip(eqn.invars, contracted, strict=True)]
    start = len(shared) + (free[0] if weights[1] else 0)
    return (*range(len(shared)), *range(start, start + free[weights.index(True)]))
