"""A loss's program, read at one point for where it may switch from one smooth piece to another.

The program is run equation by equation on values along a random line in the space of params (`taylor`). Two operands
tie where they are equal, and are a kink where they are not the same function to second order: a tie of constants, of
units that are off, or of one number with itself is none.

Functions with derivatives of their own (`jax.nn.relu`, `jax.nn.softplus`) are read in their rules: what is
differentiated has the kinks. In their bodies only steps are, and only where the value decides: before another step, and
within another's rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal
from jax.extend.source_info_util import summarize

from hessjax.programs import CALLS, closed, evaluate, inner_program, run, scan_counts, struct
from hessjax.taylor import Series, along, filled, is_real, jvp_of_vjp
from hessjax.ties import hides, is_step, operands
from hessjax.units import Entry, any_alive, constant, entry_of, two_sided, where_off
from hessjax.uses import COMPARISONS, Use, matters

__all__ = ["Reading", "Scope", "walk"]

MAX_DEPTH = 2  # of rules within rules: that of logaddexp has logaddexp in it, and is smooth at every depth
LIBRARY = str(Path(jax.__file__).parent)
HIGH_LEVEL = "call_hi_primitive"  # from jax 0.12, such as searchsorted: it has a program when asked for one


@dataclass(frozen=True)
class Scope:
    """Where the walk is: rows of the batch, tolerance, and the function and line for what a library does."""

    rows: int | None
    tol: Any
    depth: int = MAX_DEPTH
    function: str = ""
    source: str = ""


NUMBERS, NAMES = ["tied", "margin", "alive", "stuck", "unread"], ["names", "shape", "before_step"]


@partial(jax.tree_util.register_dataclass, data_fields=NUMBERS, meta_fields=NAMES)
@dataclass(frozen=True)
class Reading:
    """One site: which entries tie, how far the nearest is from a tie; of units that may be off, which are on."""

    names: tuple[str, str, str]  # primitive, function, source line
    shape: tuple[int, ...]
    tied: Any = None
    margin: Any = None
    alive: Any = None
    stuck: Any = None  # of a step: whether operands tie that move alike, perhaps for a kink before it
    unread: Any = None  # of an equation that cannot be read: whether the program has been there
    before_step: bool = False  # a kink of which only jumps are used: counted where any step of the loss is stuck

    def merged(self, other: Reading) -> Reading:
        """Of the same site at another step."""
        either = lambda a, b: None if a is None else a | b
        margin = None if self.margin is None else jnp.minimum(self.margin, other.margin)
        now = {name: either(getattr(self, name), getattr(other, name)) for name in ("tied", "alive", "stuck", "unread")}
        return replace(self, margin=margin, **now)

    def over_steps(self, layers: bool) -> Reading:
        """Of readings along a leading axis, that of all. Entries keep their step; units do where steps are layers."""
        ever = lambda x, *axes: None if x is None else x.any(*axes)
        alive = self.alive if layers else ever(self.alive, 0)
        now = replace(self, alive=alive, stuck=ever(self.stuck), unread=ever(self.unread))
        if self.tied is None:
            return now
        return replace(now, shape=self.tied.shape, margin=jnp.min(self.margin, initial=jnp.inf))

    def blank(self) -> Reading:
        """That of a site where the program has not been."""
        off = lambda x: None if x is None else jnp.zeros(x.shape, bool)
        margin = None if self.margin is None else jnp.full(self.margin.shape, jnp.inf, self.margin.dtype)
        now = {name: off(getattr(self, name)) for name in ("tied", "alive", "stuck", "unread")}
        return replace(self, margin=margin, **now)


Found = tuple[list[Entry], list[Reading]]


def walk(program: ClosedJaxpr, inputs: Sequence[Entry], wanted: Sequence[Use], scope: Scope) -> Found:
    """The program's results, and a reading of every site that the wanted ones depend on.

    Example:
      >>> program = jax.make_jaxpr(lambda x: jnp.abs(x))(jnp.zeros(2))
      >>> line = Series(jnp.array([0.0, 2.0]), jnp.ones(2), jnp.zeros(2))
      >>> _, [site] = walk(program, [Entry(line)], [Use.ALL], Scope(rows=None, tol=0.0))
      >>> site.names[0], site.tied.tolist(), float(site.margin)
      ('abs', [True, False], 0.0)
    """
    jaxpr = program.jaxpr
    live = matters(jaxpr, wanted)
    both_ways = two_sided(jaxpr.eqns)
    known = {x: Entry(Series(value), data=np.ndim(value) > 0) for x, value in zip(jaxpr.constvars, program.consts)}
    known |= dict(zip(jaxpr.invars, inputs, strict=True))
    read = lambda atom: constant(atom) if isinstance(atom, Literal) else known[atom]
    seen: set[Any] = set()
    readings: list[Reading] = []
    for eqn in jaxpr.eqns:
        uses = [live.get(x, Use.NONE) for x in eqn.outvars]
        results, found = _step(eqn, [*map(read, eqn.invars)], uses, scope)
        known |= dict(zip(eqn.outvars, results, strict=True))
        if eqn.primitive.name in COMPARISONS and any(uses):  # programs repeat them
            found, seen = [] if _identity(eqn) in seen else found, seen | {_identity(eqn)}
        readings += [replace(x, alive=None) if eqn in both_ways else x for x in found]
    return [*map(read, jaxpr.outvars)], readings


def _identity(eqn: JaxprEqn) -> Any:
    """What identifies an equation among those of its program without parameters."""
    return eqn.primitive, *(np.asarray(x.val).tobytes() if isinstance(x, Literal) else x for x in eqn.invars)


def _step(eqn: JaxprEqn, inputs: list[Entry], live: list[Use], scope: Scope) -> Found:
    name, moves = eqn.primitive.name, any(x.moves for x in inputs)
    if name in CALLS and (moves or any(x.below for x in inputs)):
        program = closed(inner_program(eqn))
        return walk(program, inputs, live, _inside(program, eqn, scope))
    if name == HIGH_LEVEL and moves:
        program = _expanded(eqn)
        return walk(program, inputs, live, _inside(program, eqn, scope))
    if name in PROGRAMS and moves:
        results, readings = PROGRAMS[name](eqn, inputs, live, scope)
        return results, readings if any(live) else []
    if name.startswith(("custom_jvp_call", "custom_vjp_call")) and moves:
        return _own_derivative(eqn, inputs, max(live), scope)
    if name == "stop_gradient":  # what moves it is nobody's business from here on
        return [Entry(Series(x.series.value), data=x.data) for x in inputs], []
    results = along(partial(_run, eqn), _series(inputs))
    readings = _readings(eqn, inputs, scope, max(live)) if any(live) else []
    return [entry_of(eqn, inputs, y) for y in results], readings


def _expanded(eqn: JaxprEqn) -> ClosedJaxpr:
    primitive = eqn.params["_prim"]
    function = lambda *flat: jax.tree.leaves(primitive.expand(*jax.tree.unflatten(primitive.in_tree, flat)))
    return jax.make_jaxpr(function)(*map(struct, eqn.invars))


def _run(eqn: JaxprEqn, *values: Any) -> Sequence[Any]:
    return run(eqn, values)


def _series(entries: Sequence[Entry]) -> list[Series]:
    return [x.series for x in entries]


def _inside(program: ClosedJaxpr, eqn: JaxprEqn, scope: Scope) -> Scope:
    """In a function of jax's own, whose program may be another call's, the line is that of the call."""
    function, _, file = str(getattr(program.jaxpr.debug_info, "func_src_info", "")).partition(" at ")
    return replace(scope, function=function, source=_line(eqn, scope)) if file.startswith(LIBRARY) else scope


def _line(eqn: JaxprEqn, scope: Scope) -> str:
    return scope.source or summarize(eqn.source_info)


# --- one equation -----------------------------------------------------------------------------------------------------


def _readings(eqn: JaxprEqn, inputs: list[Entry], scope: Scope, use: Use) -> list[Reading]:
    name = eqn.primitive.name
    step = is_step(eqn)
    names = (name, scope.function, _line(eqn, scope))
    off = where_off(name, inputs)
    alive = None if off is None else any_alive(off, inputs, scope.rows)
    function, axes = operands(eqn) or (None, ())
    if function is None and hides(eqn) and any(x.moves for x in inputs):
        return [Reading(names, (), unread=jnp.bool_(True))]
    pair = [] if function is None else along(function, _series(inputs))
    if not any(x.moves for x in pair) or (name in ("abs", "sign") and inputs[0].sign == 1):
        return [] if alive is None else [Reading(names, alive.shape, alive=alive)]
    gap, alike = _gap(pair)
    near = gap <= scope.tol
    tied = (near & ~alike).any(axes)
    same_number = len(eqn.invars) == 2 and eqn.invars[0] is eqn.invars[1]  # as in isnan
    stuck = (near & alike).any() if step and not same_number else None
    margin = jnp.min(gap, initial=jnp.inf, where=~alike)
    before = use < Use.ALL and not step
    return [Reading(names, tied.shape, tied, margin, alive, stuck, before_step=before)]


def _gap(pair: list[Series]) -> tuple[Any, Any]:
    """The distance of the operands, and where they are the same function to second order but for a constant."""
    a, b = map(filled, pair)
    eps = float(jnp.finfo(a.value.dtype).eps)
    rounding = min(64 * eps, max(4 * eps, 1e-4))  # 64 eps of bfloat16 is a half

    def same(p: Any, q: Any) -> Any:
        return (jnp.abs(p - q) <= rounding * (jnp.abs(p) + jnp.abs(q))) & jnp.isfinite(p - q)

    return jnp.abs(a.value - b.value), same(a.slope, b.slope) & same(a.curvature, b.curvature)


# --- programs inside equations ----------------------------------------------------------------------------------------


def _own_derivative(eqn: JaxprEqn, inputs: list[Entry], live: Use, scope: Scope) -> Found:
    """A function with a rule of its own: its results move as the rule says, and the rule's program is read.

    Its body is read for jumps: where only those matter, and within a rule, whose value is a derivative of the loss.
    """
    in_reverse = eqn.primitive.name.startswith("custom_vjp")
    results = _pushed_in_reverse(eqn, inputs, scope) if in_reverse else along(partial(_run, eqn), _series(inputs))
    entries = [entry_of(eqn, inputs, y) for y in results]
    if not live:
        return entries, []
    body = closed(inner_program(eqn))
    inside = _inside(body, eqn, scope)
    jumps: list[Reading] = []
    if live == Use.JUMPS or scope.depth < MAX_DEPTH:
        jumps = walk(body, inputs, [Use.JUMPS] * len(eqn.outvars), inside)[1]
    if live == Use.JUMPS or not scope.depth:
        return entries, jumps
    moving = [k for k, x in enumerate(inputs) if x.moves]
    program = jax.make_jaxpr(partial(_rule, eqn, inputs, in_reverse))(*(inputs[k].series.value for k in moving))
    inside = replace(inside, depth=scope.depth - 1, source=_line(eqn, scope))
    wanted = [live] * len(program.jaxpr.outvars)
    return entries, jumps + walk(program, [inputs[k] for k in moving], wanted, inside)[1]


def _pushed_in_reverse(eqn: JaxprEqn, inputs: list[Entry], scope: Scope) -> list[Series]:
    """By the transpose of its reverse rule; by the body where that is not linear, as one that clips gradients."""
    try:
        return along(partial(_run, eqn), _series(inputs), jvp_of_vjp)
    except (AssertionError, NotImplementedError, TypeError, ValueError):
        body = closed(inner_program(eqn))
        return _series(walk(body, inputs, [Use.NONE] * len(eqn.outvars), scope)[0])


def _rule(eqn: JaxprEqn, inputs: list[Entry], in_reverse: bool, *moving: Any) -> list[Any]:
    """The derivative of an equation's results in a fixed direction, as a function of its moving inputs."""

    def function(*values: Any) -> list[Any]:
        rest = iter(values)
        return [y for y in run(eqn, [next(rest) if x.moves else x.series.value for x in inputs]) if is_real(y)]

    if in_reverse:
        results, back = jax.vjp(function, *moving)
        return list(back(jax.tree.map(jnp.ones_like, results)))
    return jax.jvp(function, moving, tuple(map(jnp.ones_like, moving)))[1]


def _scan(eqn: JaxprEqn, inputs: list[Entry], live: list[Use], scope: Scope) -> Found:
    """Step by step; a scan over weights, rather than with them, is one over layers."""
    num_consts, num_carry = scan_counts(eqn)
    consts, start, slices = inputs[:num_consts], inputs[num_consts:][:num_carry], inputs[num_consts + num_carry :]
    body = closed(eqn.params["jaxpr"])

    def step(carry: list[Series], xs: list[Series]) -> tuple[list[Series], Any]:
        now = [*consts, *map(_carried, carry), *(Entry(x, data=s.data) for x, s in zip(xs, slices, strict=True))]
        results, readings = walk(body, now, [*[max(live)] * num_carry, *live[num_carry:]], scope)
        outs = [filled(y.series) for y in results]
        return outs[:num_carry], (outs[num_carry:], readings)

    last, (stacked, readings) = lax.scan(
        step,
        [filled(x.series) for x in start],
        _series(slices),
        length=eqn.params["length"],
        reverse=eqn.params["reverse"],
    )
    layers = any(x.moves and not x.data for x in slices)
    return [*map(_carried, [*last, *stacked])], [x.over_steps(layers) for x in readings]


def _carried(x: Series) -> Entry:
    return Entry(x, data=True)


def _while(eqn: JaxprEqn, inputs: list[Entry], live: list[Use], scope: Scope) -> Found:
    """Readings of all steps as one; the condition's too, for where it is met the number of steps may change."""
    most = max(live)  # what one step leaves unused, the next may use
    of_condition, of_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    condition, body = closed(eqn.params["cond_jaxpr"]), closed(eqn.params["body_jaxpr"])
    asked, consts, start = inputs[:of_condition], inputs[of_condition:][:of_body], inputs[of_condition + of_body :]

    def ask(carry: list[Series]) -> list[Reading]:
        return walk(condition, [*asked, *map(_carried, carry)], [most], scope)[1]

    def step(carry: list[Series]) -> tuple[list[Series], list[Reading]]:
        results, readings = walk(body, [*consts, *map(_carried, carry)], [most] * len(carry), scope)
        return [filled(y.series) for y in results], [*ask(carry), *readings]

    def answers(carry: list[Series]) -> Any:
        """One, or under vmap one a lane: lanes that have ended stay, and are read where they ended."""
        (found,) = evaluate(condition, run, *(x.series.value for x in asked), *(x.value for x in carry))
        return found

    def goes_on(state: Any) -> Any:
        return answers(state[0]).any()

    def advance(state: Any) -> Any:
        carry, readings = step(state[0])
        on = answers(state[0])
        if on.ndim:
            kept = lambda new, old: jnp.where(on.reshape(on.shape + (1,) * (new.ndim - on.ndim)), new, old)
            carry = jax.tree.map(kept, carry, state[0])
        return carry, [before.merged(now) for before, now in zip(state[1], readings, strict=True)]

    first = [filled(x.series) for x in start]
    blanks = [x.blank() for x in jax.eval_shape(step, first)[1]]
    last, readings = lax.while_loop(goes_on, advance, (first, blanks))
    final = ask(last)
    readings[: len(final)] = [before.merged(now) for before, now in zip(readings, final)]
    return [*map(_carried, last)], readings


def _cond(eqn: JaxprEqn, inputs: list[Entry], live: list[Use], scope: Scope) -> Found:
    """The branch that is taken; sites of the others are blank."""
    which, *args = inputs

    def branch(program: ClosedJaxpr) -> Any:
        def taken(series: list[Series]) -> tuple[list[Series], list[Reading]]:
            now = [replace(x, series=one) for x, one in zip(args, series, strict=True)]
            results, readings = walk(program, now, live, scope)
            return [filled(y.series) for y in results], readings

        return taken

    branches = [branch(closed(program)) for program in eqn.params["branches"]]
    given = _series(args)
    blanks = [[x.blank() for x in jax.eval_shape(taken, given)[1]] for taken in branches]

    def among(k: int) -> Any:
        def padded(series: list[Series]) -> tuple[list[Series], list[Reading]]:
            results, readings = branches[k](series)
            return results, [x for j, blank in enumerate(blanks) for x in (readings if j == k else blank)]

        return padded

    results, readings = lax.switch(which.series.value, [among(k) for k in range(len(branches))], given)
    return [*map(_carried, results)], readings


def _solve(eqn: JaxprEqn, inputs: list[Entry], live: list[Use], scope: Scope) -> Found:
    """The linear map whose system is solved, at the solution; that moves as its rule says."""
    consts, matvec = inputs[: eqn.params["const_lengths"].matvec], eqn.params["jaxprs"].matvec
    results = [entry_of(eqn, inputs, y) for y in along(partial(_run, eqn), _series(inputs))]
    solution = results[: len(matvec.jaxpr.outvars)]  # what a solver tells beside it follows
    return results, walk(matvec, [*consts, *solution], [max(live)] * len(solution), scope)[1]


PROGRAMS = {"scan": _scan, "while": _while, "cond": _cond, "custom_linear_solve": _solve}
