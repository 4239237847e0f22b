"""Traced programs as lists of equations to be read and run one by one: calls inlined, loops kept.

What a module does to a program it does in Python, between equations, so that no rewritten program has to be built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun

__all__ = ["CALLS", "closed", "evaluate", "flops", "inlined", "inner_program", "is_affine", "run", "scan_counts"]
__all__ += ["struct", "traced"]

CALLS = {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2", "remat"}
CONVOLUTION = lax.conv_general_dilated_p
# Affine in all inputs together; in what is chosen of, not in what chooses; in either of two, the other being constant.
AFFINE = {"add", "add_any", "sub", "neg", "convert_element_type", "copy", "copy_p", "reshape", "squeeze", "reduce_sum"}
AFFINE |= {"broadcast_in_dim", "transpose", "reduce_precision", "concatenate", "pad", "slice", "rev", "cumsum", "split"}
BY_INDEX = {"gather", "dynamic_slice", "select_n"}
BILINEAR = {"mul", "dot_general", "conv_general_dilated"}


def traced(function: Callable, *args: Any) -> tuple[ClosedJaxpr, Any]:
    """The program of `function` at such arguments, calls inlined, and the tree of its results' shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> program, shape = traced(jax.jit(lambda x: {"y": jnp.sin(x)}), 1.0)
      >>> [eqn.primitive.name for eqn in program.jaxpr.eqns], [*shape]
      (['sin'], ['y'])
    """
    program, shape = jax.make_jaxpr(function, return_shape=True)(*args)
    return inlined(program), shape


def inlined(program: ClosedJaxpr) -> ClosedJaxpr:
    """The program without calls, also inside its loops; functions with derivatives of their own stay whole."""
    return jax.make_jaxpr(partial(evaluate, program, _inline))(*map(struct, program.jaxpr.invars))


def _inline(eqn: JaxprEqn, inputs: Sequence[Any]) -> Sequence[Any]:
    if eqn.primitive.name in CALLS:
        return evaluate(closed(inner_program(eqn)), _inline, *inputs)
    if eqn.primitive.name == "scan":
        eqn = eqn.replace(params={**eqn.params, "jaxpr": inlined(eqn.params["jaxpr"])})
    return run(eqn, inputs)


def inner_program(eqn: JaxprEqn) -> Any:
    """The program that an equation of a call, a loop or a function with its own derivatives holds; None without one."""
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if isinstance(eqn.params.get(name), ClosedJaxpr | Jaxpr):
            return eqn.params[name]
    return None


def scan_counts(eqn: JaxprEqn) -> tuple[int, int]:
    """How many constants a scan has and how many carries, which come before what it runs over.

    Example:
      >>> import jax.numpy as jnp
      >>> eqns = jax.make_jaxpr(lambda a, x: lax.scan(lambda c, t: (a * c + t, None), 0.0, x))(2.0, jnp.ones(3)).eqns
      >>> scan_counts(eqns[-1])
      (1, 1)
    """
    if "num_consts" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carry, _ = map(len, eqn.params["ft_in"].unpack())  # from jax 0.12
    return consts, carry


def closed(program: ClosedJaxpr | Jaxpr) -> ClosedJaxpr:
    """A program with its constants, of which a plain one has none."""
    return program if isinstance(program, ClosedJaxpr) else ClosedJaxpr(program, [])


def evaluate(
    program: ClosedJaxpr, step: Callable[[JaxprEqn, Sequence[Any]], Sequence[Any]], *args: Any
) -> Sequence[Any]:
    """The results of a program each of whose equations is run by `step(equation, inputs)`.

    Example:
      >>> program = jax.make_jaxpr(lambda x: 2.0 * x + 1.0)(3.0)
      >>> [float(x) for x in evaluate(program, run, 3.0)]
      [7.0]
    """
    jaxpr = program.jaxpr
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*program.consts, *args), strict=True))
    read = lambda atom: atom.val if isinstance(atom, Literal) else known[atom]
    for eqn in jaxpr.eqns:
        known.update(zip(eqn.outvars, step(eqn, [*map(read, eqn.invars)]), strict=True))
    return [*map(read, jaxpr.outvars)]


def run(eqn: JaxprEqn, inputs: Sequence[Any]) -> Sequence[Any]:
    """The results of one equation at the values of its inputs.

    Example:
      >>> [eqn] = jax.make_jaxpr(lambda x: x * x)(3.0).eqns
      >>> [float(x) for x in run(eqn, [3.0, 3.0])]
      [9.0]
    """
    values = {x: value for x, value in zip(eqn.invars, inputs, strict=True) if not isinstance(x, Literal)}
    alone = _nothing().replace(constvars=[*values], outvars=[*eqn.outvars], eqns=[eqn])
    return jaxpr_as_fun(ClosedJaxpr(alone, [*values.values()]))()


@cache
def _nothing() -> Jaxpr:
    return jax.make_jaxpr(lambda: ())().jaxpr


def is_affine(eqn: JaxprEqn, weights: list[Any]) -> bool:
    """Whether an equation's results are affine in those of its inputs, jointly.

    Example:
      >>> program = jax.make_jaxpr(lambda w, x: w * x)(1.0, 2.0).jaxpr
      >>> [eqn], (w, x) = program.eqns, program.invars
      >>> is_affine(eqn, [w]), is_affine(eqn, [w, x])
      (True, False)
    """
    name = eqn.primitive.name
    if inner_program(eqn) is not None:
        return False
    if name in BILINEAR:
        return len(weights) == 1 and sum(x is weights[0] for x in eqn.invars) == 1
    if name == "div":
        return weights == [eqn.invars[0]] and eqn.invars[1] is not weights[0]
    if name in BY_INDEX:
        chosen = eqn.invars[1:] if name == "select_n" else eqn.invars[:1]
        return all(any(x is w for x in chosen) for w in weights) and not any(
            any(x is w for w in weights) for x in eqn.invars if not any(x is c for c in chosen)
        )
    return name in AFFINE


def flops(eqns: Iterable[JaxprEqn]) -> float:
    """Operations of some equations: two a product and sum of matrices, one a number of anything else's results.

    Example:
      >>> import jax.numpy as jnp
      >>> flops(jax.make_jaxpr(lambda a, b: -(a @ b))(jnp.ones((2, 3)), jnp.ones((3, 4))).eqns)
      56.0
    """
    return float(sum(map(_flops, eqns)))


def _flops(eqn: JaxprEqn) -> float:
    inner, results = (
        inner_program(eqn),
        sum(math.prod(struct(x).shape) for x in eqn.outvars if hasattr(x.aval, "shape")),
    )
    if inner is not None:
        return float(eqn.params.get("length", 1)) * flops(closed(inner).jaxpr.eqns)
    if eqn.primitive is lax.dot_general_p:
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return 2.0 * results * math.prod(struct(eqn.invars[0]).shape[axis] for axis in contracted)
    if eqn.primitive is CONVOLUTION:
        _, inputs, *window = eqn.params["dimension_numbers"].rhs_spec
        return 2.0 * results * math.prod(struct(eqn.invars[1]).shape[axis] for axis in (inputs, *window))
    return float(results)


def struct(atom: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of a variable or literal.

    Example:
      >>> struct(jax.make_jaxpr(lambda x: x)(1.0).jaxpr.invars[0])
      ShapeDtypeStruct(shape=(), dtype=float32)
    """
    return jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype)
