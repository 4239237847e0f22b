"""Equations of a traced program replaced by those of a function, for modules that rewrite programs for a compiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend.core import JaxprEqn, Literal

from hessjax import trees

__all__ = ["may_rewrite", "spliced", "struct"]


def may_rewrite() -> bool:
    """Whether programs are compiled for a CPU, outside `jax.shard_map`: a traced program there forgets what varies.

    Example:
      >>> may_rewrite() == (jax.default_backend() == "cpu")
      True
    """
    return jax.default_backend() == "cpu" and not trees.in_shard_map()


def spliced(function: Callable, inputs: Sequence[Any], outputs: Sequence[Any]) -> list[JaxprEqn]:
    """The equations of `function`, which must close over no arrays, from and to the variables of another program.

    Example:
      >>> import jax.numpy as jnp
      >>> [eqn] = jax.make_jaxpr(jnp.sin)(1.0).eqns
      >>> [e.primitive.name for e in spliced(lambda x: -jnp.cos(x), eqn.invars, eqn.outvars)]
      ['cos', 'neg']
    """
    traced = jax.make_jaxpr(function)(*map(struct, inputs)).jaxpr
    same = dict(zip((*traced.invars, *traced.outvars), (*inputs, *outputs), strict=True))
    renamed = lambda atoms: [atom if isinstance(atom, Literal) else same.get(atom, atom) for atom in atoms]
    return [eqn.replace(invars=renamed(eqn.invars), outvars=renamed(eqn.outvars)) for eqn in traced.eqns]


def struct(atom: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a variable or literal.

    Example:
      >>> struct(jax.make_jaxpr(lambda x: x)(1.0).jaxpr.invars[0])
      ShapeDtypeStruct(shape=(), dtype=float32)
    """
    return jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype)
