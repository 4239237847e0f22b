"""What of a program's values matters to its results: their derivatives, or only where they jump.

Of what a step reads only jumps matter: `floor(abs(x))` has no kink at 0, `floor(sign(x))` has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

from jax.extend.core import Jaxpr, JaxprEqn, Literal

from hessjax.programs import CALLS, closed, inner_program
from hessjax.taylor import is_real

__all__ = ["COMPARISONS", "Use", "matters"]

COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge", "eq_to", "lt_to", "le_to"}
# Results without a derivative: what they are computed from matters where they switch, and nowhere else.
FLAT = {"stop_gradient", "sign", "floor", "ceil", "round", "is_finite", "argmax", "argmin", *COMPARISONS}
ENDS = {"stop_gradient", "is_finite"}  # those that pass no jumps on either; what is not finite is told apart


class Use(IntEnum):
    """What of a value matters to a result: nothing, where it jumps, or its derivatives too."""

    NONE = 0
    JUMPS = 1
    ALL = 2


def matters(jaxpr: Jaxpr, wanted: Sequence[Use]) -> dict[Any, Use]:
    """What of each variable the wanted results depend on, for those of which anything matters.

    Derivatives end at a `stop_gradient` or a step; jumps, at a `stop_gradient`. Booleans and integers matter as
    much as what is made of them. Loops and branches are taken to use all they are given.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> loss = lambda x, y, z: x + jax.lax.stop_gradient(jnp.sin(y)) + jnp.floor(z)
      >>> jaxpr = jax.make_jaxpr(loss)(1.0, 2.0, 3.0).jaxpr
      >>> found = matters(jaxpr, [Use.ALL])
      >>> [found.get(x, Use.NONE).name for x in jaxpr.invars]
      ['ALL', 'NONE', 'JUMPS']
    """
    found: dict[Any, Use] = {}

    def note(atoms: Sequence[Any], uses: Sequence[Use]) -> None:
        for x, use in zip(atoms, uses, strict=True):
            if use and not isinstance(x, Literal):
                found[x] = max(use, found.get(x, Use.NONE))

    note(jaxpr.outvars, wanted)
    for eqn in reversed(jaxpr.eqns):
        results = [found.get(x, Use.NONE) for x in eqn.outvars]
        if any(results):
            note(eqn.invars, _inputs_used(eqn, results))
    return found


def _inputs_used(eqn: JaxprEqn, results: Sequence[Use]) -> list[Use]:
    inner, name = inner_program(eqn), eqn.primitive.name
    if inner is not None and name in CALLS:
        jaxpr = closed(inner).jaxpr
        found = matters(jaxpr, results)
        return [found.get(x, Use.NONE) for x in jaxpr.invars]
    if inner is not None or "branches" in eqn.params or "body_jaxpr" in eqn.params:
        return [max(results)] * len(eqn.invars)
    derivatives = [use for x, use in zip(eqn.outvars, results, strict=True) if is_real(x.aval) and name not in FLAT]
    of_real = Use.NONE if name in ENDS else max([Use.JUMPS, *derivatives])
    return [of_real if is_real(x.aval) else max(results) for x in eqn.invars]
