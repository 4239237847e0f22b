"""Where the weights of a loss meet the rows of its data, read from its traced program.

A leaf of the params is *tapped* where every place at which it meets the data is one of `forms`, on the way from a leaf
to which only affine operations lie (transposes, slices, casts, constants). What enters the loss beside the rows, such
as weight decay, is told apart. Any other leaf is named with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from hessjax.forms import Form, View, form_of
from hessjax.jaxprs import among, linear_in
from hessjax.programs import is_affine, scan_counts, struct
from hessjax.separation import COUPLED, FREE, TOTAL, Spread, entering_scan, is_rows, separated

__all__ = ["Level", "Reading", "Site", "Use", "reading"]


class Use(NamedTuple):
    """One place where weights meet the data: its equation, its form, and whether each loop about it has its own."""

    eqn: int
    form: Form
    view: Any
    other: int  # of the equation's inputs
    leaves: frozenset[int]
    loops: tuple[bool, ...]  # outermost first: whether the weights are other ones at every step
    lengths: tuple[int, ...]
    site: int


class Site(NamedTuple):
    """An array that weights are added into: what a tap is added to, stacked over the loops about it."""

    shape: tuple[int, ...]
    dtype: Any
    lengths: tuple[int, ...]


class Level(NamedTuple):
    """A program, or a loop's body: numbers of uses and of taps at its equations, and the bodies inside it."""

    program: ClosedJaxpr
    uses: dict[int, int]
    taps: dict[int, int]
    inner: dict[int, Level]


class Reading(NamedTuple):
    """What is known of a program.

    `whole` says what the results are to the rows; `free`: equations in which terms without data join those of rows;
    `linear`: variables that the result is linear in.
    """

    level: Level
    uses: list[Use]
    sites: dict[int, Site]
    tapped: frozenset[int]
    reasons: dict[int, str]  # why leaves are not tapped
    spreads: dict[Any, Spread]
    linear: set[Any]
    moving: set[Any]
    free: bool


def reading(program: ClosedJaxpr, num_leaves: int, arguments: Sequence[Spread], num_rows: int) -> Reading:
    """Reads a program whose first arguments are the leaves of the params; `arguments` are theirs and of the others.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> loss = lambda w, b, x: jnp.mean(jnp.tanh(x @ w + b)) + jnp.sum(w**2)
      >>> program = jax.make_jaxpr(loss)(jnp.ones((3, 2)), jnp.ones(2), jnp.ones((5, 3)))
      >>> read = reading(program, 2, [FREE, FREE, 0], 5)
      >>> sorted(read.tapped), [use.form.kind for use in read.uses], len(read.sites), read.free
      ([0, 1], ['dense', 'bias'], 1, True)
    """
    jaxpr = program.jaxpr
    spreads = separated(jaxpr, arguments, num_rows)
    moving = linear_in(jaxpr.invars[:num_leaves], jaxpr.eqns)
    reader = _Reader(num_rows, [], [], {}, set())
    leaves = {x: frozenset({k}) for k, x in enumerate(jaxpr.invars[:num_leaves])}
    views = {x: _Affine(leaves[x], ()) for x in leaves}
    whole = [FREE if isinstance(x, Literal) else spreads[x] for x in jaxpr.outvars]
    linear = _linear(jaxpr, moving) if whole == [TOTAL] else set()
    if COUPLED in whole:
        reader.refuse(range(num_leaves), "rows of the data meet before the loss is summed over them")
        level = Level(program, {}, {}, {})
    else:
        level = reader.level(program, spreads, leaves, views, set(), linear, ())
    seen = frozenset().union(*(use.leaves for use in reader.uses))
    if TOTAL not in whole and not any(map(is_rows, whole)):
        reader.refuse(range(num_leaves), "no rows of the data are in the loss")
    tapped = frozenset(k for k in seen if k not in reader.reasons)
    sites = {use.site: reader.sites[use.site] for use in reader.uses}
    rest = {k: reader.reasons.get(k, "it meets no rows of the data") for k in range(num_leaves) if k not in tapped}
    return Reading(level, reader.uses, sites, tapped, rest, spreads, linear, moving, bool(reader.joined))


class _Affine(NamedTuple):
    """A variable without data that is affine in leaves; of each loop about it, whether it is another one every step."""

    leaves: frozenset[int]
    loops: tuple[bool, ...]


class _Reader(NamedTuple):
    num_rows: int
    uses: list[Use]
    sites: list[Site]
    reasons: dict[int, str]
    joined: set[Any]

    def refuse(self, leaves: Any, reason: str) -> None:
        for k in leaves:
            self.reasons.setdefault(k, reason)

    def level(
        self,
        program: ClosedJaxpr,
        spreads: dict[Any, Spread],
        leaves: dict[Any, frozenset[int]],
        views: dict[Any, _Affine],
        stepping: set[Any],
        linear: set[Any],
        lengths: tuple[int, ...],
    ) -> Level:
        """Reads one level, adding to `leaves` and `views` of its arguments; `stepping` changes as a loop goes on."""
        found = Level(program, {}, {}, {})
        made = {x: eqn for eqn in program.jaxpr.eqns for x in eqn.outvars}
        spread = lambda x: FREE if isinstance(x, Literal) else spreads[x]
        for number, eqn in enumerate(program.jaxpr.eqns):
            of = {x: leaves[x] for x in eqn.invars if among(x, leaves) and spread(x) == FREE}
            if all(spread(x) == FREE for x in eqn.outvars):
                self._without_data(eqn, of, leaves, views, stepping)
            elif not of:
                continue
            elif eqn.primitive.name == "scan":
                found.inner[number] = self._loop(eqn, [*map(spread, eqn.invars)], leaves, views, lengths)
            elif all(x in linear for x in (*of, *eqn.outvars)):
                self.joined.update(eqn.outvars)
            elif not self._used(found, number, [*map(spread, eqn.invars)], views, made, lengths):
                reason = f"it meets the data in {eqn.primitive.name!r}, of which no form is known"
                self.refuse(frozenset().union(*of.values()), reason)
        self._share_sites(found)
        return found

    def _without_data(self, eqn: JaxprEqn, of: dict, leaves: dict, views: dict, stepping: set[Any]) -> None:
        """What an equation among weights alone makes: of which leaves it is, and whether it is affine in them."""
        if not of:
            return
        every = frozenset().union(*of.values())
        leaves |= dict.fromkeys(eqn.outvars, every)
        steady = not any(among(x, stepping) for x in eqn.invars)
        if steady and all(x in views for x in of) and is_affine(eqn, [*of]) and len({views[x].loops for x in of}) == 1:
            views |= dict.fromkeys(eqn.outvars, _Affine(every, views[next(iter(of))].loops))

    def _used(
        self, found: Level, number: int, spreads: list, views: dict, made: dict, lengths: tuple[int, ...]
    ) -> bool:
        eqn = found.program.jaxpr.eqns[number]
        weights = [k for k, x in enumerate(eqn.invars) if among(x, views) and spreads[k] == FREE]
        if len(weights) != 1 or len(eqn.outvars) != 1:
            return False
        [k] = weights
        view, affine = _view(eqn.invars[k], eqn, views, made), views[eqn.invars[k]]
        form = form_of(eqn, k, view, spreads, self.num_rows)
        if form is None:
            return False
        out = struct(eqn.outvars[0])
        found.uses[number], found.taps[number] = len(self.uses), len(self.sites)
        self.uses.append(Use(number, form, view.var, 1 - k, affine.leaves, affine.loops, lengths, len(self.sites)))
        self.sites.append(Site((*lengths, *out.shape), out.dtype, lengths))
        return True

    def _loop(self, eqn: JaxprEqn, spreads: list, leaves: dict, views: dict, lengths: tuple[int, ...]) -> Level:
        consts, carry = scan_counts(eqn)
        body = eqn.params["jaxpr"]
        entering = entering_scan(eqn, spreads, self.num_rows)
        inside_leaves, inside_views = {}, {}
        for k, (x, inner) in enumerate(zip(eqn.invars, body.jaxpr.invars, strict=True)):
            if not among(x, leaves) or spreads[k] != FREE:
                continue
            inside_leaves[inner] = leaves[x]
            if consts <= k < consts + carry:
                if entering[k] != FREE:
                    self.refuse(leaves[x], "it is the state that a loop over the data begins with")
            elif x in views:
                inside_views[inner] = _Affine(leaves[x], (*views[x].loops, k >= consts))
        self._carried(body, consts, carry, inside_leaves)
        found = separated(body.jaxpr, entering, self.num_rows)
        changing = [x for x in body.jaxpr.invars[consts:] if x not in inside_views]
        stepping = linear_in(changing, body.jaxpr.eqns)
        more = (*lengths, int(eqn.params["length"]))
        return self.level(body, found, inside_leaves, inside_views, stepping, set(), more)

    def _carried(self, body: ClosedJaxpr, consts: int, carry: int, leaves: dict) -> None:
        """Leaves that a loop's state without data comes to depend on, at any step."""
        states = body.jaxpr.invars[consts : consts + carry]
        while True:
            before, reach = dict(leaves), dict(leaves)
            for eqn in body.jaxpr.eqns:
                every = frozenset().union(*(reach[x] for x in eqn.invars if among(x, reach)))
                if every:
                    reach |= dict.fromkeys(eqn.outvars, every)
            for state, out in zip(states, body.jaxpr.outvars[:carry], strict=True):
                if among(out, reach):
                    leaves[state] = leaves.get(state, frozenset()) | reach[out]
            if leaves == before:
                return

    def _share_sites(self, found: Level) -> None:
        """A product whose one use is the sum with a bias is tapped where the bias is."""
        jaxpr = found.program.jaxpr
        readers: dict[Any, list[int]] = {}
        for number, eqn in enumerate(jaxpr.eqns):
            for x in eqn.invars:
                if not isinstance(x, Literal):
                    readers.setdefault(x, []).append(number)
        for x in jaxpr.outvars:
            if not isinstance(x, Literal):
                readers.setdefault(x, []).append(-1)
        for number in sorted(found.uses, reverse=True):
            eqn, use = jaxpr.eqns[number], self.uses[found.uses[number]]
            [out] = eqn.outvars
            [after] = readers.get(out, [-1])[:1]
            if readers.get(out) != [after] or after not in found.uses:
                continue
            sum_use = self.uses[found.uses[after]]
            plus = jaxpr.eqns[after].primitive.name != "sub" or jaxpr.eqns[after].invars[0] is out
            if sum_use.form.kind == "bias" and plus and sum_use.form.shape == use.form.shape:
                self.uses[found.uses[number]] = use._replace(site=sum_use.site)
                del found.taps[number]


def _view(x: Any, eqn: JaxprEqn, views: dict[Any, _Affine], made: dict[Any, JaxprEqn]) -> View:
    """The weight that an equation spreads over its result, before it is spread."""
    shape = struct(eqn.outvars[0]).shape
    own = struct(x).ndim
    axes = tuple(range(own)) if own == len(shape) else ()
    while x in made and made[x].primitive.name == "broadcast_in_dim" and among(made[x].invars[0], views) and axes:
        axes = tuple(axes[to] for to in made[x].params["broadcast_dimensions"])
        x = made[x].invars[0]
    return View(x, axes)


def _linear(jaxpr: Any, moving: set[Any]) -> set[Any]:
    """The variables that a program's results are linear in, whatever constants and data multiply them."""
    found = {x for x in jaxpr.outvars if not isinstance(x, Literal)}
    curved: set[Any] = set()
    for eqn in reversed(jaxpr.eqns):
        keeps = all(x in found and x not in curved for x in eqn.outvars)
        used = any(x in found or x in curved for x in eqn.outvars)
        weights = [x for x in eqn.invars if among(x, moving)]
        good = keeps and is_affine(eqn, weights)
        if used:
            (found if good else curved).update(x for x in eqn.invars if not isinstance(x, Literal))
    return found - curved
