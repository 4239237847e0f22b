"""Traced programs, for modules that rewrite them for a compiler: what a linearisation keeps, equations replaced."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun
from jaxtyping import Array, PyTree

from hessjax import trees
from hessjax.programs import struct, traced

__all__ = ["Kept", "among", "fresh", "linear_in", "linearized_once", "may_rewrite", "spliced"]


def may_rewrite() -> bool:
    """Whether programs are compiled for a CPU, outside `jax.shard_map`: a traced program there forgets what varies.

    Example:
      >>> may_rewrite() == (jax.default_backend() == "cpu")
      True
    """
    return jax.default_backend() == "cpu" and not trees.in_shard_map()


def linearized_once(function: Callable[[PyTree], PyTree], v: PyTree) -> Callable[[PyTree], PyTree]:
    """What `jax.linearize(function, v)[1]` is, with arrays that are computed twice kept once, where `may_rewrite`.

    Example:
      >>> twice = lambda x: (jnp.sin(x), jnp.sin(x))
      >>> [len(jax.tree.leaves(push)) for push in (jax.linearize(twice, 1.0)[1], linearized_once(twice, 1.0))]
      [2, 1]
    """
    if not may_rewrite():
        return jax.linearize(function, v)[1]
    structures = []

    def residuals(v: PyTree) -> list[Array]:
        leaves, structure = jax.tree.flatten(jax.linearize(function, v)[1])
        structures.append(structure)
        return [*map(jnp.asarray, leaves)]

    closed = jax.make_jaxpr(residuals)(v)
    names = _representatives(closed.jaxpr)
    arrays = jaxpr_as_fun(closed)(*jax.tree.leaves(v))
    first: dict[Any, Array] = {}
    once = [
        x if isinstance(var, Literal) else first.setdefault(names.get(var, var), x)
        for var, x in zip(closed.jaxpr.outvars, arrays, strict=True)
    ]
    return Kept.of(structures[0].unflatten(once), v).function()


def _representatives(jaxpr: Jaxpr) -> dict[Any, Any]:
    """Of every variable that is computed as an earlier one is, that one."""
    names: dict[Any, Any] = {}
    seen: dict[Any, list[Any]] = {}
    for eqn in jaxpr.eqns:
        inputs = tuple(_name(atom, names) for atom in eqn.invars)
        key = (eqn.primitive, tuple(sorted(eqn.params.items())), inputs)
        if eqn.effects or not _hashable(key):
            continue
        names |= dict(zip(eqn.outvars, seen.setdefault(key, eqn.outvars), strict=True))
    return names


def _name(atom: Any, names: dict[Any, Any]) -> Any:
    if not isinstance(atom, Literal):
        return names.get(atom, atom)
    return (str(atom.aval), np.asarray(atom.val).tobytes())  # -0.0 is not 0.0


def _hashable(key: Any) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True


class Kept(NamedTuple):
    """A linear function as a program: equations from the variables it keeps, with their arrays, and its arguments.

    `template` has its arguments and results.
    """

    template: Jaxpr
    kept: dict[Any, Array]
    eqns: list[JaxprEqn]
    structure: Any  # of the result

    @classmethod
    def of(cls, push: Callable[[PyTree], PyTree], v: PyTree) -> Kept:
        """The program of `push` at vectors like `v`, without compiled functions inside it or implicit broadcasts."""
        if isinstance(push, jax.tree_util.Partial) and isinstance(push.func, _Program):  # rewritten before
            return push.func.with_kept(push.args[0])
        closed, shape = traced(push, v)
        kept = dict(zip(closed.jaxpr.constvars, map(jnp.asarray, closed.consts), strict=True))
        linear = linear_in(closed.jaxpr.invars, closed.jaxpr.eqns)
        eqns = [whole for eqn in closed.jaxpr.eqns for whole in _whole(eqn, linear)]
        template = closed.jaxpr.replace(constvars=[], eqns=[])
        return cls(template, kept, eqns, jax.tree.structure(shape))

    def function(self) -> Callable[[PyTree], PyTree]:
        """It as a function, a pytree whose leaves are what it uses of what is kept."""
        eqns, used = _live(self.eqns, self.template.outvars)
        kept = {var: x for var, x in self.kept.items() if var in used}
        return jax.tree_util.Partial(_Program(self.template, [*kept], eqns, self.structure), [*kept.values()])


@dataclass(frozen=True, eq=False)
class _Program:
    """A program without its constants, static where operators are pytrees: equal to itself alone."""

    template: Jaxpr
    names: list[Any]  # of what is kept
    eqns: list[JaxprEqn]
    structure: Any

    def __call__(self, consts: list[Array], v: PyTree) -> PyTree:
        jaxpr = self.template.replace(constvars=self.names, eqns=self.eqns)
        return self.structure.unflatten(jaxpr_as_fun(ClosedJaxpr(jaxpr, consts))(*jax.tree.leaves(v)))

    def with_kept(self, consts: list[Array]) -> Kept:
        return Kept(self.template, dict(zip(self.names, consts, strict=True)), self.eqns, self.structure)


def _live(all_eqns: list[JaxprEqn], results: Sequence[Any]) -> tuple[list[JaxprEqn], set[Any]]:
    """The equations that results depend on, and all variables in use."""
    used = {x for x in results if not isinstance(x, Literal)}
    eqns = []
    for eqn in reversed(all_eqns):
        if eqn.effects or not used.isdisjoint(eqn.outvars):
            eqns.insert(0, eqn)
            used |= {x for x in eqn.invars if not isinstance(x, Literal)}
    return eqns, used


def _whole(eqn: JaxprEqn, linear: set[Any]) -> list[JaxprEqn]:
    """An elementwise equation with the broadcasts of its variable arguments, which it may imply, written out."""
    if eqn.primitive.name not in ("add", "sub", "mul", "div"):
        return [eqn]
    [shape], inputs, before = (struct(x).shape for x in eqn.outvars), list(eqn.invars), []
    for k, x in enumerate(inputs):
        if among(x, linear) and struct(x).shape != shape:
            broadcast = partial(lax.broadcast_in_dim, shape=shape, broadcast_dimensions=range(struct(x).ndim))
            inputs[k] = fresh(jax.ShapeDtypeStruct(shape, struct(x).dtype))
            before += spliced(broadcast, [x], [inputs[k]])
    return [*before, eqn.replace(invars=inputs)]


def among(atom: Any, variables: Container[Any]) -> bool:
    """Whether it is one of some variables; literals are none, nor can they be looked up.

    Example:
      >>> jaxpr = jax.make_jaxpr(lambda x: x + 1.0)(1.0).jaxpr
      >>> [among(atom, {*jaxpr.invars}) for atom in jaxpr.eqns[0].invars]
      [True, False]
    """
    return not isinstance(atom, Literal) and atom in variables


def fresh(like: Any) -> Any:
    """A new variable of the shape and dtype of `like`.

    Example:
      >>> fresh(jax.ShapeDtypeStruct((2,), "float32")).aval.shape
      (2,)
    """
    return jax.make_jaxpr(lambda x: x)(like).jaxpr.invars[0]


def linear_in(arguments: Sequence[Any], eqns: list[JaxprEqn]) -> set[Any]:
    """The variables of a program that its arguments are part of; all others are constant.

    Example:
      >>> jaxpr = jax.make_jaxpr(lambda x: jnp.stack([jnp.zeros(2), 2.0 * x])[1])(jnp.ones(2)).jaxpr
      >>> found = linear_in(jaxpr.invars, jaxpr.eqns)
      >>> [eqn.primitive.name for eqn in jaxpr.eqns if found.isdisjoint(eqn.outvars)][0]
      'broadcast_in_dim'
    """
    found = {*arguments}
    for eqn in eqns:
        if not found.isdisjoint(x for x in eqn.invars if not isinstance(x, Literal)):
            found |= {*eqn.outvars}
    return found


def spliced(function: Callable, inputs: Sequence[Any], outputs: Sequence[Any]) -> list[JaxprEqn]:
    """The equations of `function`, which must close over no arrays, from and to the variables of another program.

    Example:
      >>> [eqn] = jax.make_jaxpr(jnp.sin)(1.0).eqns
      >>> [e.primitive.name for e in spliced(lambda x: -jnp.cos(x), eqn.invars, eqn.outvars)]
      ['cos', 'neg']
    """
    traced = jax.make_jaxpr(function)(*map(struct, inputs)).jaxpr
    same = dict(zip((*traced.invars, *traced.outvars), (*inputs, *outputs), strict=True))
    renamed = lambda atoms: [atom if isinstance(atom, Literal) else same.get(atom, atom) for atom in atoms]
    return [eqn.replace(invars=renamed(eqn.invars), outvars=renamed(eqn.outvars)) for eqn in traced.eqns]
