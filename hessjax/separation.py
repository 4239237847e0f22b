"""Which axis of every array of a program runs over the rows of the data, and whether rows ever meet.

A loss separates where each row's part of it depends on that row alone: then second derivatives are sums over rows of
small ones. The proof follows the row axis from the data to the loss, one equation at a time; what no rule is known of,
couples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from hessjax.programs import CALLS, closed, inner_program, is_affine, run, scan_counts, struct

__all__ = ["COUPLED", "FREE", "TOTAL", "Spread", "entering_scan", "is_rows", "separated", "separated_result"]

# What an array is to the rows, where it has no axis of them: independent of the data; a sum over rows, in which what
# follows is linear; or anything else.
FREE, TOTAL, COUPLED = "free", "total", "coupled"
Spread = int | str

ELEMENTWISE = frozenset(
    """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bitcast_convert_type bessel_i0e bessel_i1e
    cbrt ceil clamp clz convert_element_type copy copy_p cos cosh digamma div eq eq_to erf erf_inv erfc exp
    exp2 expm1 floor ge gt igamma igammac is_finite le le_to lgamma log log1p logistic lt lt_to max min mul
    ne neg nextafter not or polygamma population_count pow integer_pow random_fold_in random_wrap
    random_unwrap real reduce_precision regularized_incomplete_beta rem round rsqrt select_n shift_left
    shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh
    threefry2x32 xor
    """.split()  # noqa: SIM905
)


def is_rows(spread: Spread) -> bool:
    """Whether it is an axis.

    Example:
      >>> is_rows(0), is_rows(TOTAL)
      (True, False)
    """
    return isinstance(spread, int | np.integer)


def separated(jaxpr: Jaxpr, arguments: Sequence[Spread], num_rows: int) -> dict[Any, Spread]:
    """What every variable of a program is to the rows, from what its arguments are.

    Example:
      >>> import jax.numpy as jnp
      >>> program = jax.make_jaxpr(lambda w, x: jnp.sum(jnp.tanh(x @ w)))(jnp.ones((3, 2)), jnp.ones((5, 3))).jaxpr
      >>> [separated(program, [FREE, 0], 5)[eqn.outvars[0]] for eqn in program.eqns]
      [0, 0, 'total']
    """
    found: dict[Any, Spread] = dict.fromkeys(jaxpr.constvars, FREE)
    found |= dict(zip(jaxpr.invars, arguments, strict=True))
    reader = _Reader(num_rows, {}, {})
    for eqn in jaxpr.eqns:
        spreads = [FREE if isinstance(x, Literal) else found[x] for x in eqn.invars]
        out = reader.read(eqn, spreads)
        if len(out) == 1:
            out = out * len(eqn.outvars)
        found |= {
            x: spread if not is_rows(spread) or _has_axis(x, spread, num_rows) else COUPLED
            for x, spread in zip(eqn.outvars, out, strict=True)
        }
        reader.note(eqn)
    return found


def _has_axis(x: Any, axis: Spread, num_rows: int) -> bool:
    shape = getattr(x.aval, "shape", ())
    return isinstance(axis, int) and axis < len(shape) and shape[axis] == num_rows


def separated_result(eqn: JaxprEqn, spreads: Sequence[Spread], num_rows: int) -> Spread:
    """What the first result of one equation is to the rows, where its inputs do not tell about indices."""
    return _Reader(num_rows, {}, {}).read(eqn, [*spreads])[0]


def entering_scan(eqn: JaxprEqn, spreads: Sequence[Spread], num_rows: int) -> list[Spread]:
    """What the arguments of a scan's body are to the rows, at every step."""
    return _scanned(eqn, spreads, num_rows)[0]


class _Reader(NamedTuple):
    """The rules, with the values and equations that indices come from."""

    num_rows: int
    known: dict[Any, np.ndarray]  # integers that depend on no argument
    made: dict[Any, JaxprEqn]

    def read(self, eqn: JaxprEqn, spreads: list[Spread]) -> list[Spread]:
        name = eqn.primitive.name
        if all(s == FREE for s in spreads):
            return [FREE]
        if COUPLED in spreads:
            return [COUPLED]
        if name == "scan":
            return _scanned(eqn, spreads, self.num_rows)[1]
        if TOTAL in spreads:
            totals = [x for x, s in zip(eqn.invars, spreads, strict=True) if s == TOTAL]
            return [TOTAL if {*spreads} <= {FREE, TOTAL} and is_affine(eqn, totals) else COUPLED]
        if name in CALLS or name in ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"):
            inner = closed(inner_program(eqn)).jaxpr
            found = separated(inner, spreads, self.num_rows)
            return [FREE if isinstance(x, Literal) else found[x] for x in inner.outvars]
        if name == "cond":
            return self._branches(eqn, spreads)
        if name == "gather":
            return [_gathered(eqn, spreads, self)]
        axes = {s for s in spreads if is_rows(s)}
        if name in ELEMENTWISE:
            same = [x for x, s in zip(eqn.invars, spreads, strict=True) if is_rows(s)]
            whole = all(_ndim(x) == _ndim(eqn.outvars[0]) or name.startswith("random") for x in same)
            return [axes.pop() if len(axes) == 1 and whole else COUPLED]
        rule = RULES.get(name) or next((r for start, r in FAMILIES.items() if name.startswith(start)), None)
        found = None if rule is None else rule(eqn, spreads)
        return [COUPLED if found is None else int(found) if is_rows(found) else found]

    def _branches(self, eqn: JaxprEqn, spreads: list[Spread]) -> list[Spread]:
        if spreads[0] != FREE:
            return [COUPLED]
        outs = []
        for branch in eqn.params["branches"]:
            found = separated(branch.jaxpr, spreads[1:], self.num_rows)
            outs.append([FREE if isinstance(x, Literal) else found[x] for x in branch.jaxpr.outvars])
        return [_joined(*each) for each in zip(*outs, strict=True)]

    def note(self, eqn: JaxprEqn) -> None:
        """Keeps whole numbers that are the same whatever the arguments, and where indices were put together."""
        self.made.update(dict.fromkeys(eqn.outvars, eqn))
        if len(eqn.outvars) != 1 or getattr(eqn.outvars[0].aval, "size", math.inf) > 2**22:
            return
        values = [x.val if isinstance(x, Literal) else self.known.get(x) for x in eqn.invars]
        whole = [str(getattr(x.aval, "dtype", "")) for x in (*eqn.invars, *eqn.outvars)]
        plain = inner_program(eqn) is None and eqn.primitive.name != "cond"
        whole_numbers = all(t.startswith(("int", "uint", "bool")) for t in whole)
        if plain and whole_numbers and all(v is not None for v in values):
            with jax.ensure_compile_time_eval():
                self.known[eqn.outvars[0]] = np.asarray(run(eqn, values)[0])

    def counts_rows(self, indices: Any, column: int) -> int | None:
        """The axis of the indices along which this column of theirs is 0, 1, 2, ...; None without one."""
        whole = self.known.get(indices)
        part = None if whole is None else whole[..., column : column + 1]
        if part is None and indices in self.made and self.made[indices].primitive.name == "concatenate":
            eqn, left = self.made[indices], column
            for x in eqn.invars if eqn.params["dimension"] == _ndim(indices) - 1 else ():
                width = struct(x).shape[-1]
                if 0 <= left < width and x in self.known:
                    part = self.known[x][..., left : left + 1]
                left -= width
        if part is None:
            return None
        for axis in range(part.ndim - 1):
            shape = [1] * part.ndim
            shape[axis] = self.num_rows
            if part.shape[axis] == self.num_rows and np.all(part == np.arange(self.num_rows).reshape(shape)):
                return axis
        return None


def _ndim(x: Any) -> int:
    """Number of axes of a variable or literal."""
    return len(getattr(x.aval, "shape", ()))


def _joined(*spreads: Spread) -> Spread:
    kinds = {s for s in spreads if s != FREE}
    return FREE if not kinds else kinds.pop() if len(kinds) == 1 else COUPLED


def _scanned(eqn: JaxprEqn, spreads: Sequence[Spread], num_rows: int) -> tuple[list[Spread], list[Spread]]:
    """Of a scan: what its body's arguments are, whatever the step, and its results."""
    consts, carry = scan_counts(eqn)
    body = eqn.params["jaxpr"].jaxpr
    inside = [*spreads[: consts + carry], *(_without_axis(s, 0) for s in spreads[consts + carry :])]
    for _ in range(2 * carry + 2):
        found = separated(body, inside, num_rows)
        outs = [FREE if isinstance(x, Literal) else found[x] for x in body.outvars]
        after = [_joined(a, b) for a, b in zip(inside[consts : consts + carry], outs[:carry], strict=True)]
        if after == inside[consts : consts + carry]:
            break
        inside[consts : consts + carry] = after
    stacked = [s + 1 if isinstance(s, int) else s for s in outs[carry:]]
    return inside, [*after, *stacked]


def _without_axis(spread: Spread, axis: int) -> Spread:
    """After that axis is taken out."""
    if not isinstance(spread, int):
        return COUPLED if spread == TOTAL else spread
    return COUPLED if spread == axis else spread - (spread > axis)


# --- rules: equation, spreads -> spread of the result, None where rows meet -------------------------------------------

Rule = Callable[[JaxprEqn, Sequence[Spread]], Spread | None]


def _only(spreads: Sequence[Spread]) -> int:
    """The axis of the first operand that has one."""
    return next(int(s) for s in spreads if isinstance(s, int))


def _first_alone(rule: Rule) -> Rule:
    """Only the first operand may have rows."""
    return lambda eqn, s: rule(eqn, s) if isinstance(s[0], int) and all(x == FREE for x in s[1:]) else None


def _broadcast(eqn: JaxprEqn, s: Sequence[Spread]) -> Spread | None:
    return int(eqn.params["broadcast_dimensions"][_only(s)])


def _reshaped(eqn: JaxprEqn, s: Sequence[Spread]) -> Spread | None:
    before, after, axis = struct(eqn.invars[0]).shape, struct(eqn.outvars[0]).shape, _only(s)
    ahead = math.prod(before[:axis])
    places = [k for k, size in enumerate(after) if size == before[axis] and math.prod(after[:k]) == ahead]
    return places[0] if places and eqn.params.get("dimensions") is None else None


def _transposed(eqn: JaxprEqn, s: Sequence[Spread]) -> Spread | None:
    return tuple(eqn.params["permutation"]).index(_only(s))


def _squeezed(eqn: JaxprEqn, s: Sequence[Spread]) -> Spread | None:
    axis, gone = _only(s), {*eqn.params["dimensions"]}
    return None if axis in gone else axis - sum(int(g < axis) for g in gone)


def _reduced(eqn: JaxprEqn, s: Sequence[Spread]) -> Spread | None:
    axis, gone = _only(s), {*eqn.params["axes"]}
    if axis in gone:
        return TOTAL if eqn.primitive.name == "reduce_sum" else None
    return axis - sum(int(g < axis) for g in gone)


def _along(name: str) -> Rule:
    def rule(eqn: JaxprEqn, s: Sequence[Spread]) -> Spread | None:
        axes = {x for x in s if isinstance(x, int)}
        return axes.pop() if len(axes) == 1 and eqn.params[name] not in axes else None

    return rule


def _padded(eqn: JaxprEqn, s: Sequence[Spread]) -> Spread | None:
    return _only(s) if tuple(eqn.params["padding_config"][_only(s)]) == (0, 0, 0) else None


def _sliced(eqn: JaxprEqn, s: Sequence[Spread]) -> Spread | None:
    axis, strides = _only(s), eqn.params["strides"]  # of all rows, as the shape tells
    return axis if strides is None or strides[axis] == 1 else None


def _reversed(eqn: JaxprEqn, s: Sequence[Spread]) -> Spread | None:
    return None if _only(s) in eqn.params["dimensions"] else _only(s)


def _updated(eqn: JaxprEqn, s: Sequence[Spread]) -> Spread | None:
    axes = {x for x in s[:2] if isinstance(x, int)}
    update = struct(eqn.invars[1]).shape
    whole = len(axes) == 1 and update[min(axes)] == struct(eqn.outvars[0]).shape[min(axes)]
    return min(axes) if whole and all(x == FREE for x in s[2:]) else None


def _windowed(eqn: JaxprEqn, s: Sequence[Spread]) -> Spread | None:
    axis, p = _only(s), eqn.params
    one = all(p.get(name) is None or p[name][axis] == 1 for name in ("window_dimensions", "window_strides"))
    one &= all(p.get(name) is None or p[name][axis] == 1 for name in ("base_dilation", "window_dilation"))
    return axis if one and tuple(p["padding"][axis]) == (0, 0) else None


def _last_axis_apart(eqn: JaxprEqn, s: Sequence[Spread]) -> Spread | None:
    return _only(s) if _only(s) < _ndim(eqn.invars[0]) - 1 else None


def _multiplied(eqn: JaxprEqn, s: Sequence[Spread]) -> Spread | None:
    contracted, batch = eqn.params["dimension_numbers"]
    sides = [k for k in (0, 1) if isinstance(s[k], int)]
    for pairs, result in ((contracted, TOTAL), (batch, None)):
        where = [tuple(pairs[k]).index(s[k]) if s[k] in pairs[k] else None for k in sides]
        if any(w is not None for w in where):
            return None if len({*where}) != 1 else result if result is not None else where[0]
    if len(sides) == 2:
        return None  # every row with every other
    ndim, k = _ndim(eqn.invars[0]), sides[0]
    free = [x for x in range(_ndim(eqn.invars[k])) if x not in (*contracted[k], *batch[k])]
    ahead = len(batch[0]) + (0 if k == 0 else ndim - len(contracted[0]) - len(batch[0]))
    return ahead + free.index(_only(s))


def _convolved(eqn: JaxprEqn, s: Sequence[Spread]) -> Spread | None:
    numbers = eqn.params["dimension_numbers"]
    alone = s[1] == FREE and s[0] == numbers.lhs_spec[0] and eqn.params["batch_group_count"] == 1
    return numbers.out_spec[0] if alone else None


def _gathered(eqn: JaxprEqn, s: Sequence[Spread], reader: _Reader) -> Spread:
    d, (operand, indices) = eqn.params["dimension_numbers"], eqn.invars
    of_indices = [k for k in range(_ndim(eqn.outvars[0])) if k not in d.offset_dims]  # results' axes, in order
    if s[0] == FREE:
        return of_indices[s[1]] if isinstance(s[1], int) and s[1] < _ndim(indices) - 1 else COUPLED
    axis = s[0]
    assert isinstance(axis, int)
    paired = [*d.operand_batching_dims]
    if axis in paired:
        at = d.start_indices_batching_dims[paired.index(axis)]
        return of_indices[at] if s[1] in (FREE, at) else COUPLED
    if axis in d.collapsed_slice_dims:
        at = reader.counts_rows(indices, [*d.start_index_map].index(axis)) if axis in d.start_index_map else None
        return of_indices[at] if at is not None and s[1] in (FREE, at) else COUPLED
    apart = s[1] == FREE or reader.num_rows == 1
    if not apart or eqn.params["slice_sizes"][axis] != reader.num_rows:
        return COUPLED
    kept = [k for k in range(_ndim(operand)) if k not in (*d.collapsed_slice_dims, *paired)]
    return d.offset_dims[kept.index(axis)]


RULES: dict[str, Rule] = {
    "broadcast_in_dim": _first_alone(_broadcast),
    "reshape": _first_alone(_reshaped),
    "transpose": _first_alone(_transposed),
    "squeeze": _first_alone(_squeezed),
    "slice": _first_alone(_sliced),
    "dynamic_slice": _first_alone(lambda eqn, s: _only(s)),  # of all rows, as the shape tells
    "dynamic_update_slice": _updated,
    "rev": _first_alone(_reversed),
    "pad": _first_alone(_padded),
    "concatenate": _along("dimension"),
    "sort": _along("dimension"),
    "split": _along("axis"),
    "top_k": _first_alone(_last_axis_apart),
    "dot_general": _multiplied,
    "conv_general_dilated": _convolved,
    "random_bits": _first_alone(lambda eqn, s: _only(s)),
    "random_split": _first_alone(lambda eqn, s: _only(s)),
}
# By how names begin: sums and maxima over windows, sums along an axis, reductions.
FAMILIES: dict[str, Rule] = {
    "reduce_window": _first_alone(_windowed),
    "cum": _along("axis"),
    "reduce_": _first_alone(_reduced),
    "arg": _first_alone(_reduced),
}
