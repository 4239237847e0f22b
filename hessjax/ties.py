"""Where primitives switch between smooth pieces, what of a program can matter there, and which axes are units.

`max(a, b)` is smooth but where a = b; so is every primitive here, each with two operands of its own that then tie. A
comparison that chooses (a `where`, a `cond`, the end of a `while`) counts as one, and so do steps such as `floor`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from hessjax.programs import CALLS, closed, inner_program, struct
from hessjax.taylor import is_real

__all__ = ["COMPARISONS", "matters", "operands", "weight_axes"]

Operands = Callable[..., Sequence[Any]]  # of an equation's inputs, to the two arrays

COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge", "eq_to", "lt_to", "le_to"}
# Results without a derivative: what they are computed from matters where they switch, and nowhere else.
FLAT = {"stop_gradient", "sign", "floor", "ceil", "round", "is_finite", "argmax", "argmin", *COMPARISONS}


def operands(eqn: JaxprEqn) -> tuple[Operands, tuple[int, ...]] | None:
    """What ties in an equation: a function of its inputs to the two arrays, and the axes over which any tie counts.

    None where its primitive is smooth wherever it is finite. For extrema of many, the first array has all of them, the
    second the one taken: entries other than that tie with it.

    Example:
      >>> import jax
      >>> [eqn] = jax.make_jaxpr(lambda x: lax.abs(x))(3.0).eqns
      >>> pair, axes = operands(eqn)
      >>> [float(x) for x in pair(3.0)], axes
      ([3.0, 0.0], ())
    """
    name, params = eqn.primitive.name, eqn.params
    if name in COMPARISONS or name in ("max", "min"):
        return jnp.broadcast_arrays, ()
    if name in ("reduce_max", "reduce_min", "argmax", "argmin"):
        taken = jnp.argmax if name.endswith("max") else jnp.argmin
        return lambda x: _extremum(x, params["axes"], taken), tuple(params["axes"])
    if name in ("reduce_window_max", "reduce_window_min"):
        taken, padding = (jnp.argmax, -np.inf) if name.endswith("max") else (jnp.argmin, np.inf)
        return lambda x: _extremum(_windows(x, params, padding), (-1,), taken), (-1,)
    if name in ("cummax", "cummin"):
        running = lax.cummax if name == "cummax" else lax.cummin
        return lambda x: _running(x, running, params["axis"], params["reverse"]), ()
    if name == "sort" and params["num_keys"] == 1:
        return lambda x, *_: _neighbours(lax.sort(x, dimension=params["dimension"]), params["dimension"]), ()
    if name == "top_k":
        return lambda x: _top(x, params.get("axis", x.ndim - 1), params["k"]), ()
    return (ONE_SIDED[name], ()) if name in ONE_SIDED else None


ONE_SIDED: dict[str, Operands] = {
    "abs": lambda x: (x, jnp.zeros_like(x)),
    "sign": lambda x: (x, jnp.zeros_like(x)),
    "floor": lambda x: (x, jnp.round(x)),
    "ceil": lambda x: (x, jnp.round(x)),
    "round": lambda x: (x, jnp.floor(x) + 0.5),
    "rem": lambda x, y: (x, _nearest_multiple(x, y)),
    "clamp": lambda low, x, high: (x, jnp.where(jnp.abs(x - low) <= jnp.abs(high - x), low, high)),
}


def _nearest_multiple(x: Any, y: Any) -> Any:
    """Of y, other than 0: there x stays what is left of it."""
    times = jnp.round(x / y)
    return jnp.where(times == 0, jnp.where(x * y < 0, -1, 1), times) * y


def _extremum(x: Any, axes: Sequence[int], taken: Callable) -> tuple[Any, Any]:
    """All entries, and the one that is taken of each group: entries along `axes`."""
    rest = [axis for axis in range(x.ndim) if axis not in {axis % x.ndim for axis in axes}]
    order = (*rest, *(axis % x.ndim for axis in axes))
    groups = jnp.transpose(x, order).reshape(*(x.shape[axis] for axis in rest), -1)
    one = jnp.take_along_axis(groups, taken(groups, axis=-1, keepdims=True), axis=-1)
    kept = one.reshape(*(1 if axis not in rest else x.shape[axis] for axis in range(x.ndim)))
    return x, jnp.broadcast_to(kept, x.shape)


def _windows(x: Any, params: dict[str, Any], padding: float) -> Any:
    """The entries of every window, along a new last axis."""
    dilations, sizes = params["window_dilation"], params["window_dimensions"]
    edges = [(*pair, base - 1) for pair, base in zip(params["padding"], params["base_dilation"], strict=True)]
    padded = lax.pad(x, jnp.asarray(padding, x.dtype), edges)
    spans = tuple(d * (n - 1) + 1 for d, n in zip(dilations, sizes, strict=True))
    places = np.lib.stride_tricks.sliding_window_view(np.arange(padded.size).reshape(padded.shape), spans)
    starts = tuple(slice(None, None, step) for step in params["window_strides"])
    inside = tuple(slice(None, None, step) for step in dilations)
    places = places[(*starts, *inside)]
    return padded.reshape(-1)[places.reshape(*places.shape[: x.ndim], math.prod(sizes))]


def _running(x: Any, running: Callable, axis: int, reverse: bool) -> tuple[Any, Any]:
    """Every entry, and the extremum of those before it; of the first, itself."""
    whole, length = running(x, axis=axis, reverse=reverse), x.shape[axis]
    if reverse:
        parts = [lax.slice_in_dim(whole, 1, length, axis=axis), lax.slice_in_dim(x, length - 1, length, axis=axis)]
    else:
        parts = [lax.slice_in_dim(x, 0, 1, axis=axis), lax.slice_in_dim(whole, 0, length - 1, axis=axis)]
    return x, lax.concatenate(parts, axis)


def _neighbours(x: Any, axis: int) -> tuple[Any, Any]:
    length = x.shape[axis]
    return lax.slice_in_dim(x, 1, length, axis=axis), lax.slice_in_dim(x, 0, length - 1, axis=axis)


def _top(x: Any, axis: int, k: int) -> tuple[Any, Any]:
    """The k largest and, of each, the next one; with k of all entries there is no next one of the last."""
    after, before = _neighbours(lax.rev(lax.sort(x, dimension=axis), (axis,)), axis)
    stop = min(k, after.shape[axis])
    return lax.slice_in_dim(before, 0, stop, axis=axis), lax.slice_in_dim(after, 0, stop, axis=axis)


def matters(jaxpr: Jaxpr, wanted: Sequence[bool]) -> set[Any]:
    """The variables that the wanted results' derivatives depend on: not what a `stop_gradient` or a step ends.

    Booleans and integers matter where they choose among what matters. Loops and branches are taken to use all they
    are given.

    Example:
      >>> import jax
      >>> jaxpr = jax.make_jaxpr(lambda x, y: x + lax.stop_gradient(jnp.sin(y)))(1.0, 2.0).jaxpr
      >>> found = matters(jaxpr, [True])
      >>> [x in found for x in jaxpr.invars]
      [True, False]
    """
    found = {x for x, want in zip(jaxpr.outvars, wanted, strict=True) if want and not isinstance(x, Literal)}
    for eqn in reversed(jaxpr.eqns):
        results = [x in found for x in eqn.outvars]
        if any(results):
            used = _inputs_used(eqn, results)
            found |= {x for x, use in zip(eqn.invars, used, strict=True) if use and not isinstance(x, Literal)}
    return found


def _inputs_used(eqn: JaxprEqn, results: Sequence[bool]) -> list[bool]:
    inner = inner_program(eqn)
    if inner is not None and eqn.primitive.name in CALLS:
        jaxpr = closed(inner).jaxpr
        found = matters(jaxpr, results)
        return [x in found for x in jaxpr.invars]
    if inner is not None or "branches" in eqn.params or "body_jaxpr" in eqn.params:
        return [True] * len(eqn.invars)
    smooth = any(use and is_real(x.aval) for x, use in zip(eqn.outvars, results, strict=True))
    return [(smooth and eqn.primitive.name not in FLAT) or not is_real(x.aval) for x in eqn.invars]


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
