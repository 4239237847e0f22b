"""How a weight meets the rows of the data in one equation of a program, in one form for all kinds of layers:

    z[n, t, h, i] = sum_j a[n, t, h, j] w[h, j, i]

n: row, t: position (pixel, token), h: group, j: input, i: unit. Matrix products, convolutions (a: patches), biases
(a: one), scales (every unit a group), embeddings (a: indicators of the index).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn
from jaxtyping import Array

from hessjax.programs import struct
from hessjax.separation import Spread, is_rows, separated_result

__all__ = ["Form", "View", "form_of"]


class View(NamedTuple):
    """A weight as an equation takes it: a variable, and to which axis of the result each axis of it goes."""

    var: Any
    axes: tuple[int, ...]


class Form(NamedTuple):
    """Axes of z by what they are, and how a and w are brought into the form."""

    kind: str
    shape: tuple[int, ...]  # of z
    rows: int
    positions: tuple[int, ...]
    groups: tuple[int, ...]
    units: tuple[int, ...]
    num_groups: int
    features: Callable[[Any], Array]  # the other operand -> [n, t, h, j]
    arrange: Callable[[Array], Array]  # the weight -> [h, j, i]

    def canonical(self, z: Array) -> Array:
        """z, or anything with fewer rows, as [n, t, h, i]."""
        order = (self.rows, *self.positions, *self.groups, *self.units)
        sizes = _sizes(self.shape, self.positions), self.num_groups
        return z.transpose(order).reshape(z.shape[self.rows], *sizes, -1)


def _sizes(shape: Sequence[int], axes: Sequence[int]) -> int:
    return math.prod(shape[axis] for axis in axes)


def form_of(eqn: JaxprEqn, k: int, view: View, spreads: Sequence[Spread], num_rows: int) -> Form | None:
    """The form of an equation whose input `k` is a weight; None where it has none.

    Example:
      >>> program = jax.make_jaxpr(lambda w, x: x @ w)(jnp.ones((3, 2)), jnp.ones((5, 3))).jaxpr
      >>> form = form_of(program.eqns[0], 1, View(program.invars[0], (0, 1)), [0, "free"], 5)
      >>> form.kind, form.rows, form.units, form.features(jnp.ones((5, 3))).shape, form.arrange(jnp.ones((3, 2))).shape
      ('dense', 0, (1,), (5, 1, 1, 3), (1, 3, 2))
    """
    maker = MAKERS.get(eqn.primitive.name)
    others = [s for n, s in enumerate(spreads) if n != k]
    rows = separated_result(eqn, spreads, num_rows)
    if maker is None or not is_rows(rows) or len([s for s in others if is_rows(s)]) != 1:
        return None
    return maker(eqn, k, view, int(rows))


def _dense(eqn: JaxprEqn, k: int, view: View, rows: int) -> Form | None:
    contracted, batch = eqn.params["dimension_numbers"]
    other, shape = struct(eqn.invars[1 - k]), struct(eqn.outvars[0]).shape
    free = [
        [x for x in range(struct(v).ndim) if x not in (*contracted[n], *batch[n])] for n, v in enumerate(eqn.invars)
    ]
    first = len(batch[0])
    places = [range(first, first + len(free[0])), range(first + len(free[0]), len(shape))]
    if rows not in places[1 - k]:
        return None
    along = free[1 - k][places[1 - k].index(rows)]
    rest = [x for x in free[1 - k] if x != along]
    groups, inputs = _sizes(other.shape, batch[1 - k]), _sizes(other.shape, contracted[1 - k])

    def features(a: Array) -> Array:
        order = (along, *rest, *batch[1 - k], *contracted[1 - k])
        return a.transpose(order).reshape(a.shape[along], -1, groups, inputs)

    def arrange(w: Array) -> Array:
        return w.transpose(*batch[k], *contracted[k], *free[k]).reshape(groups, inputs, -1)

    positions = tuple(x for x in places[1 - k] if x != rows)
    return Form("dense", shape, rows, positions, tuple(range(first)), tuple(places[k]), groups, features, arrange)


def _varying(eqn: JaxprEqn, k: int, view: View, rows: int) -> tuple[int, ...] | None:
    """The axes of a result along which a weight, spread over it entry by entry, is not the same; None with rows."""
    shape, own = struct(eqn.outvars[0]).shape, struct(view.var).shape
    axes = tuple(to for axis, to in enumerate(view.axes) if own[axis] == shape[to] and own[axis] > 1)
    return None if rows in axes else axes


def _squeezed(view: View, axes: tuple[int, ...]) -> Callable[[Array], Array]:
    """A weight spread over a result, without the axes along which it is the same, in the result's order."""
    kept = [n for _, n in sorted((to, n) for n, to in enumerate(view.axes) if to in axes)]
    return lambda w: w.transpose(*kept, *(n for n in range(w.ndim) if n not in kept)).reshape(-1)


def _scale(eqn: JaxprEqn, k: int, view: View, rows: int) -> Form | None:
    shape, groups = struct(eqn.outvars[0]).shape, _varying(eqn, k, view, rows)
    if groups is None:
        return None
    positions = tuple(x for x in range(len(shape)) if x not in (rows, *groups))
    flat, count = _squeezed(view, groups), _sizes(shape, groups)

    def features(a: Array) -> Array:
        whole = jnp.broadcast_to(a, shape).transpose(rows, *positions, *groups)
        return whole.reshape(shape[rows], -1, count, 1)

    arrange = lambda w: flat(w).reshape(count, 1, 1)
    return Form("scale", shape, rows, positions, groups, (), count, features, arrange)


def _bias(eqn: JaxprEqn, k: int, view: View, rows: int) -> Form | None:
    shape, units = struct(eqn.outvars[0]).shape, _varying(eqn, k, view, rows)
    if units is None or struct(eqn.invars[1 - k]).shape != shape:
        return None
    positions, flat = tuple(x for x in range(len(shape)) if x not in (rows, *units)), _squeezed(view, units)
    sign, dtype = (-1 if eqn.primitive.name == "sub" and k == 1 else 1), struct(eqn.outvars[0]).dtype
    features = lambda a: jnp.full((shape[rows], _sizes(shape, positions), 1, 1), sign, dtype)
    return Form("bias", shape, rows, positions, (), units, 1, features, lambda w: flat(w).reshape(1, 1, -1))


def _embedding(eqn: JaxprEqn, k: int, view: View, rows: int) -> Form | None:
    d, table, shape = eqn.params["dimension_numbers"], struct(eqn.invars[0]), struct(eqn.outvars[0]).shape
    if k != 0 or len(d.start_index_map) != 1 or d.collapsed_slice_dims != d.start_index_map or d.operand_batching_dims:
        return None
    [axis], units = d.start_index_map, tuple(d.offset_dims)
    count, clips = table.shape[axis], "CLIP" in str(eqn.params["mode"])
    if any(size != table.shape[n] for n, size in enumerate(eqn.params["slice_sizes"]) if n != axis):
        return None
    of_indices = [n for n in range(len(shape)) if n not in units]

    def features(index: Array) -> Array:
        index = jnp.moveaxis(index[..., 0], of_indices.index(rows), 0).reshape(shape[rows], -1)
        index = jnp.clip(index, 0, count - 1) if clips else index
        return jax.nn.one_hot(index, count, dtype=table.dtype)[:, :, None, :]

    positions = tuple(x for x in of_indices if x != rows)
    arrange = lambda w: jnp.moveaxis(w, axis, 0).reshape(1, count, -1)
    return Form("embedding", shape, rows, positions, (), units, 1, features, arrange)


def _convolution(eqn: JaxprEqn, k: int, view: View, rows: int) -> Form | None:
    p, numbers = eqn.params, eqn.params["dimension_numbers"]
    if k != 1 or p["batch_group_count"] != 1:
        return None
    kernel, shape, groups = struct(eqn.invars[1]), struct(eqn.outvars[0]).shape, p["feature_group_count"]
    window = [kernel.shape[axis] for axis in numbers.rhs_spec[2:]]
    options = {name: p[name] for name in ("window_strides", "padding", "lhs_dilation", "rhs_dilation")}

    def features(a: Array) -> Array:
        whole = lax.conv_general_dilated_patches(
            a.transpose(numbers.lhs_spec), window, precision=lax.Precision.HIGHEST, **options
        )  # [n, channel and place in the window, *space]
        whole = whole.reshape(whole.shape[0], groups, whole.shape[1] // groups, -1)
        return whole.transpose(0, 3, 1, 2)

    def arrange(w: Array) -> Array:
        w = w.transpose(numbers.rhs_spec)
        return w.reshape(groups, w.shape[0] // groups, -1).transpose(0, 2, 1)

    _, units, *space = numbers.out_spec
    return Form("convolution", shape, rows, tuple(space), (), (units,), groups, features, arrange)


MAKERS: dict[str, Callable[[JaxprEqn, int, View, int], Form | None]] = {
    "dot_general": _dense,
    "mul": _scale,
    "add": _bias,
    "add_any": _bias,
    "sub": _bias,
    "gather": _embedding,
    "conv_general_dilated": _convolution,
}
