"""What a linear program multiplies its terms by, entry by entry: sums of products of constants.

A variable that is a sum of others, each times arrays that the program keeps, is a dictionary: term -> `Mask`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Literal
from jaxtyping import Array

from hessjax.jaxprs import struct

__all__ = ["ONE", "Mask", "combined"]

MAX_TERMS = 32  # of a mask as a sum of products; one with more is not told


@dataclass(frozen=True)
class Mask:
    """A factor: its value given what is kept, and the sum of products that it is, by which it is compared."""

    value: Callable[[Mapping[Any, Array]], Any] = field(compare=False)
    terms: frozenset[tuple[tuple[str, ...], int]]  # of (sorted factors, coefficient)

    def __add__(self, other: Mask) -> Mask:
        terms = Counter(dict(self.terms))
        terms.update(dict(other.terms))
        return Mask(lambda kept: self.value(kept) + other.value(kept), frozenset(terms.items()))

    def times(self, factor: Callable[[Mapping[Any, Array]], Any], name: str) -> Mask:
        terms = frozenset((tuple(sorted((*product, name))), count) for product, count in self.terms)
        return Mask(lambda kept: self.value(kept) * factor(kept), terms)

    def where(self, chosen: Callable[[Mapping[Any, Array]], Any], name: str) -> Mask:
        """Times one or zero; what is not chosen may be infinite."""
        terms = self.times(chosen, name).terms
        return Mask(lambda kept: jnp.where(chosen(kept), self.value(kept), 0), terms)

    def __neg__(self) -> Mask:
        return Mask(lambda kept: -self.value(kept), frozenset((product, -count) for product, count in self.terms))


ONE = Mask(lambda kept: 1.0, frozenset({((), 1)}))
Terms = dict[Any, Mask]
Numbers = Mapping[Any, int]


def combined(eqn: JaxprEqn, linear: set[Any], number: Numbers, terms: Callable[[Any], Terms]) -> Terms | None:
    """The terms of an elementwise equation's result; None where it is anything else, or too long to be told.

    `number` is of what is kept, `terms` of a variable. The program is linear: what it adds that is constant is zero.

    Example:
      >>> import jax
      >>> kept = jnp.array([2.0, 3.0])
      >>> program = jax.make_jaxpr(lambda x: -(kept * x))(jnp.ones(2))
      >>> jaxpr, [x], [k] = program.jaxpr, program.jaxpr.invars, program.jaxpr.constvars
      >>> terms = {x: {x: ONE}}
      >>> for eqn in jaxpr.eqns:
      ...     terms[eqn.outvars[0]] = combined(eqn, {x, *terms}, {k: 0}, terms.__getitem__)
      >>> [mask] = terms[jaxpr.outvars[0]].values()
      >>> mask.terms, mask.value({k: kept}).tolist()
      (frozenset({(('#0',), -1)}), [-2.0, -3.0])
    """
    shape = struct(eqn.outvars[0]).shape if len(eqn.outvars) == 1 else None
    moving = [not isinstance(x, Literal) and x in linear for x in eqn.invars]
    if any(struct(x).shape != shape for x, moves in zip(eqn.invars, moving, strict=True) if moves):
        return None
    out = _combined(eqn, moving, number, terms)
    return None if out is None or any(len(mask.terms) > MAX_TERMS for mask in out.values()) else out


def _combined(eqn: JaxprEqn, moving: list[bool], number: Numbers, terms: Callable[[Any], Terms]) -> Terms | None:
    fixed = [x for x, moves in zip(eqn.invars, moving, strict=True) if not moves]
    parts = [terms(x) if moves else {} for x, moves in zip(eqn.invars, moving, strict=True)]
    known = bool(fixed) and (isinstance(fixed[0], Literal) or fixed[0] in number)
    match eqn.primitive.name:
        case "add" | "add_any":
            return _sum(parts)
        case "sub":
            return _sum([parts[0], _each(parts[1], Mask.__neg__)])
        case "neg":
            return _each(parts[0], Mask.__neg__)
        case "mul" if known and len(fixed) == 1:
            value, name = _read(fixed[0], number)
            return _each(_sum(parts), lambda mask: mask.times(value, name))
        case "div" if known and moving == [True, False]:
            value, name = _read(fixed[0], number)
            return _each(parts[0], lambda mask: mask.times(lambda kept: 1 / value(kept), f"1/{name}"))
        case "select_n" if known and not moving[0]:  # by its predicate; other constants are zero
            return _sum([_case(fixed[0], k, part, number) for k, part in enumerate(parts[1:])])
    return None


def _case(predicate: Any, k: int, terms: Terms, number: Numbers) -> Terms:
    value, name = _read(predicate, number)
    return _each(terms, lambda mask: mask.where(lambda kept: jnp.equal(value(kept), k), f"{name}={k}"))


def _read(x: Any, number: Numbers) -> tuple[Callable[[Mapping[Any, Array]], Any], str]:
    if isinstance(x, Literal):
        return lambda kept: x.val, str(x.val)
    return lambda kept: kept[x], f"#{number[x]}"


def _each(terms: Terms, function: Callable[[Mask], Mask]) -> Terms:
    return {term: function(mask) for term, mask in terms.items()}


def _sum(all_terms: list[Terms]) -> Terms:
    out: Terms = {}
    for terms in all_terms:
        for term, mask in terms.items():
            out[term] = out[term] + mask if term in out else mask
    return out
