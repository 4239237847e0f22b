"""What a linear program multiplies its terms by, entry by entry: sums of products of constants.

A variable that is a sum of others, each times arrays that the program keeps, is a dictionary: term -> `Mask`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn, Literal
from jaxtyping import Array

from hessjax.jaxprs import among
from hessjax.programs import struct

__all__ = ["ONE", "Mask", "Numbers", "Terms", "combined", "values"]

# Of a mask as a sum of products: terms, and factors in all; one with more is not told.
MAX_TERMS, MAX_FACTORS = 32, 256


@dataclass(frozen=True)
class Mask:
    """A factor: the sum of products that it is, by which it is compared, and how its value is made of others'.

    `make(kept, *values of the parts)`, where a value is a pair: the factor, and where it is not left out by a `where`,
    in whose stead anything may stand, infinities among it.
    """

    terms: frozenset[tuple[tuple[str, ...], int]]  # of (sorted factors, coefficient)
    make: Callable[..., tuple[Any, Any]] = field(compare=False)
    parts: tuple[Mask, ...] = field(compare=False, default=())

    def __add__(self, other: Mask) -> Mask:
        terms = Counter(dict(self.terms))
        terms.update(dict(other.terms))
        make = lambda kept, a, b: (a[0] + b[0], jnp.logical_or(a[1], b[1]))
        return Mask(frozenset(terms.items()), make, (self, other))

    def __neg__(self) -> Mask:
        terms = frozenset((product, -count) for product, count in self.terms)
        return Mask(terms, lambda kept, a: (-a[0], a[1]), (self,))

    def times(self, factor: Callable[[Mapping[Any, Array]], Any], name: str) -> Mask:
        return Mask(self._with(name), lambda kept, a: (a[0] * factor(kept), a[1]), (self,))

    def where(self, chosen: Callable[[Mapping[Any, Array]], Any], name: str) -> Mask:
        make = lambda kept, a: (jnp.where(chosen(kept), a[0], 0), jnp.logical_and(chosen(kept), a[1]))
        return Mask(self._with(name), make, (self,))

    def _with(self, name: str) -> frozenset[tuple[tuple[str, ...], int]]:
        return frozenset((tuple(sorted((*product, name))), count) for product, count in self.terms)


ONE = Mask(frozenset({((), 1)}), lambda kept: (1.0, True))
Terms = dict[Any, Mask]
Numbers = Mapping[Any, int]


def values(mask: Mask, kept: Mapping[Any, Array]) -> tuple[Any, Any]:
    """A mask's factor, and where it counts; every part is computed once, however often it is part of others.

    Example:
      >>> double = ONE.times(lambda kept: 2.0, "2")
      >>> values(double + double, {})[0]
      4.0
    """
    found: dict[int, tuple[Any, Any]] = {}
    waiting = [mask]
    while waiting:
        last = waiting[-1]
        missing = [part for part in last.parts if id(part) not in found]
        if missing:
            waiting += missing
        else:
            found[id(last)] = last.make(kept, *(found[id(part)] for part in last.parts))
            waiting.pop()
    return found[id(mask)]


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
      >>> mask.terms, values(mask, {k: kept})[0].tolist()
      (frozenset({(('#0',), -1)}), [-2.0, -3.0])
    """
    shape = struct(eqn.outvars[0]).shape if len(eqn.outvars) == 1 else None
    moving = [among(x, linear) for x in eqn.invars]
    if any(struct(x).shape != shape for x, moves in zip(eqn.invars, moving, strict=True) if moves):
        return None
    out = _combined(eqn, moving, number, terms)
    return None if out is None or any(map(_is_long, out.values())) else out


def _is_long(mask: Mask) -> bool:
    return len(mask.terms) > MAX_TERMS or sum(len(product) for product, _ in mask.terms) > MAX_FACTORS


def _combined(eqn: JaxprEqn, moving: list[bool], number: Numbers, terms: Callable[[Any], Terms]) -> Terms | None:
    fixed = [x for x, moves in zip(eqn.invars, moving, strict=True) if not moves]
    parts = [terms(x) if moves else {} for x, moves in zip(eqn.invars, moving, strict=True)]
    known = bool(fixed) and (np.size(fixed[0].val) == 1 if isinstance(fixed[0], Literal) else fixed[0] in number)
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
    chosen = lambda kept: value(kept) == jnp.asarray(k, struct(predicate).dtype)
    return _each(terms, lambda mask: mask.where(chosen, f"{name}={k}"))


def _read(x: Any, number: Numbers) -> tuple[Callable[[Mapping[Any, Array]], Any], str]:
    if isinstance(x, Literal):
        return lambda kept: x.val, np.asarray(x.val).tobytes().hex()
    return lambda kept: kept[x], f"#{number[x]}"


def _each(terms: Terms, function: Callable[[Mask], Mask]) -> Terms:
    return {term: function(mask) for term, mask in terms.items()}


def _sum(all_terms: list[Terms]) -> Terms:
    out: Terms = {}
    for terms in all_terms:
        for term, mask in terms.items():
            out[term] = out[term] + mask if term in out else mask
    return out
