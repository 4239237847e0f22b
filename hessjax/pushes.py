"""A linear program run with most of its arguments zero: what they are part of is skipped, not computed.

The derivative of a gradient takes tangents at many places and gives results at as many; a tangent at one of them
reaches some of the equations. Zeros are known before anything is compiled, and so is what stays an argument's entries
each times a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.extend.core import JaxprEqn, Literal
from jaxtyping import Array, PyTree

from hessjax.jaxprs import Kept, among, linear_in
from hessjax.programs import flops, run, struct

__all__ = ["Push"]

SUMS = {"add", "add_any", "sub"}


class Push(NamedTuple):
    """A linear program: equations, values of what it keeps, variables of its arguments and results."""

    eqns: list[JaxprEqn]
    kept: dict[Any, Array]
    arguments: Sequence[Any]
    results: Sequence[Any]

    @classmethod
    def of(cls, push: Callable[[PyTree], PyTree], v: PyTree) -> Push:
        """The program of `push` at vectors like `v`.

        Example:
          >>> push = Push.of(lambda v: (2.0 * v[0], v[0] + v[1]), [jnp.ones(2), jnp.ones(2)])
          >>> [x if x is None else x.tolist() for x in push({1: jnp.ones(2)})]
          [None, [1.0, 1.0]]
        """
        program = Kept.of(push, v)
        return cls(program.eqns, program.kept, program.template.invars, program.template.outvars)

    def reaches(self, k: int) -> tuple[bool, ...]:
        """Which results argument `k` is part of."""
        found = linear_in([self.arguments[k]], self.eqns)
        return tuple(among(x, found) for x in self.results)

    def entrywise(self, k: int) -> tuple[bool, ...]:
        """Which results are argument `k`, entry by entry, times something that does not depend on it."""
        argument = self.arguments[k]
        found, shape = {argument}, struct(argument).shape
        reached = linear_in([argument], self.eqns)
        for eqn in self.eqns:
            moving = [x for x in eqn.invars if among(x, reached)]
            plain = eqn.primitive.name in (*SUMS, "neg", "mul", "div", "convert_element_type", "select_n", "copy")
            if moving and plain and all(x in found for x in moving) and struct(eqn.outvars[0]).shape == shape:
                found |= {*eqn.outvars}
        return tuple(among(x, found) for x in self.results)

    def flops(self, chosen: Iterable[int], wanted: Iterable[int]) -> float:
        """Operations of a run with these arguments for these results."""
        return flops(self._on_the_way(chosen, wanted))

    def __call__(self, tangents: Mapping[int, Array], wanted: Iterable[int] | None = None) -> list[Array | None]:
        """The results where the arguments are `tangents` by their numbers, the rest zero; None where they are zero.

        Those that are not among `wanted` are None too.
        """
        wanted = range(len(self.results)) if wanted is None else [*wanted]
        moved: dict[Any, Array] = {self.arguments[k]: tangent for k, tangent in tangents.items()}
        fixed: dict[Any, Any] = dict(self.kept)
        every = linear_in(self.arguments, self.eqns)
        for eqn in self._on_the_way(tangents, wanted):
            if not any(among(x, moved) for x in eqn.invars):
                inputs = [x.val if isinstance(x, Literal) else fixed[x] for x in eqn.invars]
                fixed.update(zip(eqn.outvars, run(eqn, inputs), strict=True))
                continue
            zero = [among(x, every) and x not in moved for x in eqn.invars]
            if eqn.primitive.name in SUMS and any(zero):
                [x] = [x for x, gone in zip(eqn.invars, zero, strict=True) if not gone]
                out = -moved[x] if eqn.primitive.name == "sub" and zero[0] else moved[x]
                moved[eqn.outvars[0]] = jnp.broadcast_to(out, struct(eqn.outvars[0]).shape)
                continue
            inputs = [_value(x, moved, fixed, gone) for x, gone in zip(eqn.invars, zero, strict=True)]
            moved.update(zip(eqn.outvars, run(eqn, inputs), strict=True))
        return [moved[x] if n in wanted and among(x, moved) else None for n, x in enumerate(self.results)]

    def _on_the_way(self, chosen: Iterable[int], wanted: Iterable[int]) -> list[JaxprEqn]:
        """The equations between some arguments and some results, and those of constants among them, in order."""
        some = [self.arguments[k] for k in chosen]
        reached, every = linear_in(some, self.eqns), linear_in(self.arguments, self.eqns)
        needed = {self.results[n] for n in wanted if among(self.results[n], reached)}
        found = []
        for eqn in reversed(self.eqns):
            moves = not reached.isdisjoint(eqn.outvars)
            constant = every.isdisjoint(eqn.outvars)
            if (moves or constant) and not needed.isdisjoint(eqn.outvars):
                found.append(eqn)
                needed |= {x for x in eqn.invars if not isinstance(x, Literal)}
        return found[::-1]


def _value(x: Any, moved: dict[Any, Array], fixed: dict[Any, Any], zero: bool) -> Any:
    if isinstance(x, Literal):
        return x.val
    if zero:
        return jnp.zeros(struct(x).shape, struct(x).dtype)
    return moved[x] if x in moved else fixed[x]
