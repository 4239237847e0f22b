"""Where primitives switch between smooth pieces.

`max(a, b)` is smooth but where a = b; so is every primitive here, each with two operands of its own that then tie. A
comparison that chooses (a `where`, a `cond`, the end of a `while`) counts as one, and so do steps such as `floor`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from hessjax.programs import run, struct
from hessjax.taylor import is_real
from hessjax.uses import COMPARISONS

__all__ = ["hides", "is_step", "operands"]

Operands = Callable[..., Sequence[Any]]  # of an equation's inputs, to the two arrays

CHOSEN = {"select_and_scatter_add", "select_and_gather_add"}  # derivatives of windowed extrema: what is chosen moves
WINDOWED = {"reduce_window_max", "reduce_window_min", *CHOSEN}
STEPS = {"sign", "floor", "ceil", "round", "rem", "atan2", *CHOSEN}
CUT = {"log", "sqrt", "rsqrt", "pow"}  # of complex numbers: they jump across the negative axis
CONTINUE = {"is_finite", "lu"}  # what their booleans and integers choose among agrees where they change
CUT_ELSEWHERE = {"log1p", "acos", "asin", "atan", "acosh", "asinh", "atanh", "cbrt"}
SCATTERS = {"scatter_add", "scatter_sub", "scatter_mul", "scatter_max", "scatter_min"}


def operands(eqn: JaxprEqn) -> tuple[Operands, tuple[int, ...]] | None:
    """What ties in an equation: a function of its inputs to the two arrays, and the axes over which any tie counts.

    None where its primitive is smooth wherever it is finite. For extrema of many, the first array has all of them, the
    second the one taken: entries other than that tie with it.

    Example:
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
    if name in WINDOWED:
        return lambda *inputs: _windowed(inputs[-1], eqn), (-1,)
    if _plain(name) in ("scatter_max", "scatter_min"):
        return lambda *inputs: _scattered(eqn, *inputs), ()
    if name in ("cummax", "cummin"):
        running = lax.cummax if name == "cummax" else lax.cummin
        return lambda x: _running(x, running, params["axis"], params["reverse"]), ()
    if name == "sort":
        return lambda *keys: _sorted(keys, params["num_keys"], params["dimension"]), (0,)
    if name == "top_k":
        return lambda x: _top(x, params.get("axis", x.ndim - 1), params["k"]), ()
    if name == "approx_top_k":
        turned = 1 if params["is_max_k"] else -1
        return lambda x: _top(turned * x, params["reduction_dimension"] % x.ndim, params["k"]), ()
    if name == "svd":
        return _singular_values, ()
    if name == "clamp":
        return _clamped, (0,)
    if name in CUT and _is_complex(eqn):
        return lambda x, *_: _across_the_cut(x.imag, x.real), ()
    if name == "convert_element_type" and is_real(eqn.invars[0].aval) and not is_real(eqn.outvars[0].aval):
        return _of_conversion(eqn), ()
    return (ONE_SIDED[name], ()) if name in ONE_SIDED else None


def is_step(eqn: JaxprEqn) -> bool:
    """Whether a result may jump where operands tie: sorted numbers, for one, do not, but what is sorted by them does.

    Example:
      >>> [eqn] = jax.make_jaxpr(lambda x: lax.abs(x))(3.0).eqns
      >>> is_step(eqn)
      False
    """
    several = eqn.primitive.name in ("sort", "svd") and len(eqn.outvars) > 1  # singular vectors change places
    return several or eqn.primitive.name in STEPS or any(not is_real(x.aval) for x in eqn.outvars)


def hides(eqn: JaxprEqn) -> bool:
    """Whether an equation may switch where nothing here tells.

    It holds a program, makes integers of numbers in a way of its own, such as from their bits, or is a function of
    complex numbers with several branches.

    Example:
      >>> reduced = lambda x: lax.reduce(x, 0.0, lambda a, b: jnp.maximum(a, 2 * b), (0,))
      >>> [eqn] = jax.make_jaxpr(reduced)(jnp.ones(3)).eqns
      >>> hides(eqn)
      True
    """
    if _plain(eqn.primitive.name) in SCATTERS:
        return False
    cut = eqn.primitive.name in CUT_ELSEWHERE and _is_complex(eqn)
    chooses = any(is_real(x.aval) for x in eqn.invars) and any(not is_real(x.aval) for x in eqn.outvars)
    return (
        cut
        or (chooses and eqn.primitive.name not in CONTINUE)
        or any(isinstance(x, Jaxpr | ClosedJaxpr) for x in jax.tree.leaves([*eqn.params.values()]))
    )


def _is_complex(eqn: JaxprEqn) -> bool:
    return jnp.issubdtype(struct(eqn.invars[0]).dtype, jnp.complexfloating)


def _across_the_cut(y: Any, x: Any) -> tuple[Any, Any]:
    """Of numbers x + iy, for functions that jump across the negative axis."""
    return y, jnp.where(x < 0, 0, y)


def _of_conversion(eqn: JaxprEqn) -> Operands:
    """To booleans, whether a number is 0; to integers, its whole part, which is 0 on both sides of 0."""
    if struct(eqn.outvars[0]).dtype == bool:
        return lambda x: (x, jnp.zeros_like(x))
    return lambda x: (x, _nearest_multiple(x, jnp.ones_like(x)))


def _clamped(low: Any, x: Any, high: Any) -> tuple[Any, Any]:
    """With both bounds, along a new leading axis."""
    return jnp.stack([x, x]), jnp.stack([jnp.broadcast_to(bound, x.shape) for bound in (low, high)])


def _plain(name: str) -> str:
    return name.replace("-", "_")


ONE_SIDED: dict[str, Operands] = {
    "abs": lambda x: (x, jnp.zeros_like(x)),
    "bessel_i0e": lambda x: (x, jnp.zeros_like(x)),  # exp(-|x|) is in both
    "bessel_i1e": lambda x: (x, jnp.zeros_like(x)),
    "sign": lambda x: (x, jnp.zeros_like(x)),
    "floor": lambda x: (x, jnp.round(x)),
    "ceil": lambda x: (x, jnp.round(x)),
    "round": lambda x: (x, jnp.floor(x) + 0.5),
    "rem": lambda x, y: (x, _nearest_multiple(x, y)),
    "atan2": lambda y, x: _across_the_cut(y, x),
}


def _nearest_multiple(x: Any, y: Any) -> Any:
    """Of y, other than 0: there x stays what is left of it."""
    times = jnp.round(x / y)
    return jnp.where(times == 0, jnp.where(x * y < 0, -1, 1), times) * y


def _extremum(x: Any, axes: Sequence[int], taken: Callable) -> tuple[Any, Any]:
    """All entries, and the one that is taken of each group: entries along `axes`."""
    if x.size == 0:
        return x, x
    rest = [axis for axis in range(x.ndim) if axis not in {axis % x.ndim for axis in axes}]
    order = (*rest, *(axis % x.ndim for axis in axes))
    groups = jnp.transpose(x, order).reshape(*(x.shape[axis] for axis in rest), -1)
    one = jnp.take_along_axis(groups, taken(groups, axis=-1, keepdims=True), axis=-1)
    kept = one.reshape(*(1 if axis not in rest else x.shape[axis] for axis in range(x.ndim)))
    return x, jnp.broadcast_to(kept, x.shape)


def _windowed(x: Any, eqn: JaxprEqn) -> tuple[Any, Any]:
    """Of an extremum over windows, or of a derivative of one: what is chosen of is the last input."""
    largest = eqn.primitive.name == "reduce_window_max" or eqn.params.get("select_prim") is lax.ge_p
    taken, padding = (jnp.argmax, -np.inf) if largest else (jnp.argmin, np.inf)
    return _extremum(_windows(x, eqn.params, padding), (-1,), taken)


def _windows(x: Any, params: dict[str, Any], padding: float) -> Any:
    """The entries of every window, along a new last axis."""
    sizes, ones = params["window_dimensions"], (1,) * x.ndim
    dilations = params.get("window_dilation", ones)
    edges = [(*pair, base - 1) for pair, base in zip(params["padding"], params.get("base_dilation", ones), strict=True)]
    x = lax.pad(x, jnp.asarray(padding, x.dtype), edges)
    for axis in range(x.ndim):  # an axis of windows becomes two, the places in a window the last of all
        last, step = dilations[axis] * (sizes[axis] - 1), params["window_strides"][axis]
        places = [(start, x.shape[axis] - last + start) for start in range(0, last + 1, dilations[axis])]
        x = jnp.stack([lax.slice_in_dim(x, start, stop, step, axis) for start, stop in places], axis=-1)
    return x.reshape(*x.shape[: len(sizes)], math.prod(sizes))


def _running(x: Any, running: Callable, axis: int, reverse: bool) -> tuple[Any, Any]:
    """Every entry, and the extremum of those before it; of the first, itself."""
    whole, length = running(x, axis=axis, reverse=reverse), x.shape[axis]
    if reverse:
        parts = [lax.slice_in_dim(whole, 1, length, axis=axis), lax.slice_in_dim(x, length - 1, length, axis=axis)]
    else:
        parts = [lax.slice_in_dim(x, 0, 1, axis=axis), lax.slice_in_dim(whole, 0, length - 1, axis=axis)]
    return x, lax.concatenate(parts, axis)


def _sorted(keys: Sequence[Any], num_keys: int, axis: int) -> Sequence[Any]:
    """Next to one another in order, every real key of the two; where an earlier key decides, one number with itself."""
    ordered = lax.sort([*keys], dimension=axis, num_keys=num_keys)[:num_keys]
    undecided, pairs = True, []
    for key in ordered:
        after, before = _neighbours(key, axis)
        if is_real(key):
            pairs.append((after, jnp.where(undecided, before, after)))
        undecided &= after == before
    if not pairs:
        return jnp.zeros(0), jnp.zeros(0)
    real = jnp.result_type(*(x for x, _ in pairs))
    return [jnp.stack([x.astype(real) for x in side]) for side in zip(*pairs, strict=True)]


def _scattered(eqn: JaxprEqn, operand: Any, indices: Any, updates: Any) -> tuple[Any, Any]:
    """All updates, and the number taken at the place of each; of that one, what was there before.

    Of equal ones what was there is taken, then the first of the updates.
    """
    [result] = run(eqn, [operand, indices, updates])
    # The place of each update: scatter-add, transposed, of the places' numbers, in two digits that float32 holds.
    options = {name: eqn.params[name] for name in ("indices_are_sorted", "unique_indices", "mode")}
    add = lambda x: lax.scatter_add(
        jnp.zeros(operand.shape, jnp.float32), indices, x, eqn.params["dimension_numbers"], **options
    )
    numbers = 1 + jnp.arange(operand.size).reshape(operand.shape)
    back = jax.linear_transpose(add, jnp.zeros(updates.shape, jnp.float32))
    digits = [back(x.astype(jnp.float32))[0].astype(int).reshape(-1) for x in (numbers % 4096, numbers // 4096)]
    place = digits[0] + 4096 * digits[1] - 1  # -1: outside, dropped
    values = jnp.concatenate([operand.reshape(-1), updates.reshape(-1)])
    attained = values == result.reshape(-1)[jnp.concatenate([jnp.arange(operand.size), place])]
    order = jnp.where(attained, jnp.arange(values.size), values.size)
    first = order[: operand.size].at[jnp.where(place < 0, operand.size, place)].min(order[operand.size :], mode="drop")
    own = operand.size + jnp.arange(updates.size)
    taken = jnp.minimum(first[place], values.size - 1)
    other = jnp.where(place < 0, own, jnp.where(taken == own, place, taken))
    return updates, values[other].reshape(updates.shape)


def _singular_values(x: Any) -> tuple[Any, Any]:
    """Each, and 0, for it is an absolute value; then next to one another in order."""
    found = jnp.linalg.svd(x, compute_uv=False)
    larger, smaller = (found[..., :-1], found[..., 1:]) if found.shape[-1] else (found, found)
    return jnp.concatenate([found, larger], -1), jnp.concatenate([jnp.zeros_like(found), smaller], -1)


def _neighbours(x: Any, axis: int) -> tuple[Any, Any]:
    length = x.shape[axis]
    return lax.slice_in_dim(x, 1, length, axis=axis), lax.slice_in_dim(x, 0, length - 1, axis=axis)


def _top(x: Any, axis: int, k: int) -> tuple[Any, Any]:
    """The k largest and, of each, the next one; with k of all entries there is no next one of the last."""
    after, before = _neighbours(lax.rev(lax.sort(x, dimension=axis), (axis,)), axis)
    stop = min(k, after.shape[axis])
    return lax.slice_in_dim(before, 0, stop, axis=axis), lax.slice_in_dim(after, 0, stop, axis=axis)
