"""Convolutions in the one layout that XLA's CPU compiler is fast at inside a loop.

Outside loops it transposes operands into that layout itself; in a loop's body it does not, and a convolution of another
layout, as every derivative of one has, becomes a plain nest of loops: 10 to 50 times slower
(https://github.com/jax-ml/jax/issues/12868). Products are taken in loops, so the transposes are written out here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, jaxpr_as_fun
from jaxtyping import Array, PyTree

from hessjax.jaxprs import may_rewrite, spliced

__all__ = ["fast_in_loops"]

CONVOLUTION = lax.conv_general_dilated_p
# Primitives whose programs are rewritten too; any other with a convolution inside is left as it is.
CALLS = {"jit", "pjit", "scan", "while", "cond", "checkpoint", "remat2", "closed_call"}


def fast_in_loops(function: Callable[[PyTree], PyTree]) -> Callable[[PyTree], PyTree]:
    """`function`, with its convolutions transposed into channels-last where `may_rewrite`.

    Example:
      >>> import jax.numpy as jnp
      >>> square = lambda w: jnp.sum(lax.conv(jnp.ones((1, 1, 4)), w, (1,), "VALID") ** 2)
      >>> fast_in_loops(jax.grad(square))(jnp.ones((1, 1, 2))).ravel().tolist()
      [12.0, 12.0]
    """

    def rewritten(x: PyTree) -> PyTree:
        if not may_rewrite():
            return function(x)
        closed, shape = jax.make_jaxpr(function, return_shape=True)(x)
        out = jaxpr_as_fun(_rewritten(closed))(*jax.tree.leaves(x))  # as it was traced, convolutions or not: once
        return jax.tree.unflatten(jax.tree.structure(shape), out)

    return rewritten


def _convolves(program: ClosedJaxpr | Jaxpr) -> bool:
    return any(eqn.primitive is CONVOLUTION or any(map(_convolves, _inner(eqn))) for eqn in program.eqns)


def _inner(eqn: JaxprEqn) -> list[ClosedJaxpr | Jaxpr]:
    """The programs among an equation's parameters."""
    programs = (p for value in eqn.params.values() for p in (value if isinstance(value, tuple | list) else [value]))
    return [p for p in programs if isinstance(p, ClosedJaxpr | Jaxpr)]


def _rewritten(value: Any) -> Any:
    """A program, or a parameter that is or holds some, with every convolution and what calls one rewritten."""
    if isinstance(value, tuple | list):
        return type(value)(map(_rewritten, value)) if any(isinstance(p, ClosedJaxpr | Jaxpr) for p in value) else value
    if isinstance(value, ClosedJaxpr) and value.jaxpr is not value:  # from jax 0.12 they are one class
        return ClosedJaxpr(_rewritten(value.jaxpr), value.consts)
    if not isinstance(value, Jaxpr) or not _convolves(value):
        return value
    eqns = []
    for eqn in value.eqns:
        if eqn.primitive is CONVOLUTION:
            eqns += spliced(partial(_channels_last, **eqn.params), eqn.invars, eqn.outvars)
        elif eqn.primitive.name in CALLS:
            eqns.append(eqn.replace(params={name: _rewritten(inner) for name, inner in eqn.params.items()}))
        else:
            eqns.append(eqn)
    return value.replace(eqns=eqns)


def _channels_last(
    x: Array, kernel: Array, *, window_strides: Any, padding: Any, dimension_numbers: Any, **options: Any
) -> Array:
    """The same convolution with batch first and channels last, kernels [*window, in, out]."""
    batch, channels, *space = dimension_numbers.lhs_spec
    filters, inputs, *window = dimension_numbers.rhs_spec
    n = len(space)
    ahead = (0, n + 1, *range(1, n + 1))
    layout = lax.ConvDimensionNumbers(lhs_spec=ahead, rhs_spec=(n + 1, n, *range(n)), out_spec=ahead)
    names = ("lhs_dilation", "rhs_dilation", "feature_group_count", "batch_group_count", "precision")
    out = lax.conv_general_dilated(
        x.transpose(batch, *space, channels),
        kernel.transpose(*window, inputs, filters),
        window_strides,
        padding,
        dimension_numbers=layout,
        preferred_element_type=options["preferred_element_type"],
        **{name: options[name] for name in names},
    )
    batch, channels, *space = dimension_numbers.out_spec
    return out.transpose(np.argsort((batch, *space, channels)))
