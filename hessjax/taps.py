"""A program run with taps: an array added wherever weights are added into what becomes of the rows.

The derivatives in the taps are per row; with the features beside them they are those in the weights (`forms`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import JaxprEqn, Literal
from jaxtyping import Array, Float, Shaped

from hessjax.jaxprs import among
from hessjax.programs import evaluate, is_affine, run, scan_counts, struct
from hessjax.readings import Level, Reading, Use
from hessjax.separation import FREE

__all__ = ["Tapped", "canonical", "features", "free_part", "tapped", "weights"]


class Tapped(NamedTuple):
    """The results of a program, and what weights were multiplied by at every use: as it is, stacked over loops."""

    results: Sequence[Any]
    others: dict[int, Array]


def tapped(read: Reading, args: Sequence[Any], taps: Mapping[int, Array]) -> Tapped:
    """Runs a program that was read; `taps` by sites.

    Example:
      >>> from hessjax.readings import reading
      >>> program = jax.make_jaxpr(lambda w, x: jnp.sum((x @ w) ** 2))(jnp.ones((3, 2)), jnp.ones((5, 3)))
      >>> read = reading(program, 1, [FREE, 0], 5)
      >>> out = tapped(read, [jnp.ones((3, 2)), jnp.ones((5, 3))], {0: jnp.ones((5, 2))})
      >>> float(out.results[0]), out.others[0].shape
      (160.0, (5, 3))
    """
    return _run(read.uses, read.level, args, taps)


def _run(uses: Sequence[Use], level: Level, args: Sequence[Any], taps: Mapping[int, Array]) -> Tapped:
    others: dict[int, Array] = {}
    numbers = {id(eqn): k for k, eqn in enumerate(level.program.jaxpr.eqns)}

    def step(eqn: JaxprEqn, inputs: Sequence[Any]) -> Sequence[Any]:
        k = numbers[id(eqn)]
        if k in level.inner:
            results, inside = _loop(uses, level.inner[k], eqn, inputs, taps)
            others.update(inside)
            return results
        results = run(eqn, inputs)
        if k in level.uses:
            others[level.uses[k]] = inputs[uses[level.uses[k]].other]
        return [results[0] + taps[level.taps[k]]] if level.taps.get(k) in taps else results

    return Tapped(evaluate(level.program, step, *args), others)


def _loop(uses: Sequence[Use], inner: Level, eqn: JaxprEqn, inputs: Sequence[Any], taps: Mapping[int, Array]):
    consts, carry = scan_counts(eqn)
    own = {site: taps[site] for site in _sites(inner) if site in taps}

    def body(state: list[Any], each: tuple[list[Any], dict[int, Array]]):
        results, others = _run(uses, inner, [*inputs[:consts], *state, *each[0]], each[1])
        return [*results[:carry]], ([*results[carry:]], others)

    options = {name: eqn.params[name] for name in ("length", "reverse", "unroll")}
    over = ([*inputs[consts + carry :]], own)
    last, (stacked, others) = lax.scan(body, [*inputs[consts : consts + carry]], over, **options)
    return [*last, *stacked], others


def _sites(level: Level) -> set[int]:
    return {*level.taps.values()}.union(*map(_sites, level.inner.values()))


# --- forms in loops, whose steps are positions or, where every one has weights of its own, groups ---------------------


def features(use: Use, other: Array) -> Float[Array, "n t h j"]:
    """What the weights of a use are multiplied by."""
    return _over_loops(use, use.form.features, other)


def canonical(use: Use, z: Array) -> Shaped[Array, "n t h i"]:
    """An array of the shape of the use's site, or one with fewer rows."""
    return _over_loops(use, use.form.canonical, z)


def _over_loops(use: Use, function: Callable[[Array], Array], x: Array) -> Shaped[Array, "n t h k"]:
    for _ in use.loops:
        function = jax.vmap(function)
    x = function(x)
    for stepped in reversed(use.loops):  # [..., l, n, t, h, k], the innermost first
        x = jnp.moveaxis(x, -5, -3 if stepped else -4)
        at = x.ndim - (3 if stepped else 4)
        x = x.reshape(*x.shape[:at], x.shape[at] * x.shape[at + 1], *x.shape[at + 2 :])
    return x


def weights(read: Reading, args: Sequence[Any]) -> dict[int, Float[Array, "h j i"]]:
    """The weights of every use, from the program's arguments; only what they are made of is run."""
    return _weights(read.uses, read.level, dict(zip(read.level.program.jaxpr.invars, args, strict=True)), 0, None)


def _weights(
    uses: Sequence[Use], level: Level, known: dict[Any, Any], depth: int, chosen: set[int] | None
) -> dict[int, Array]:
    jaxpr = level.program.jaxpr
    needed = _needed(uses, level, depth, chosen)
    known = dict(zip(jaxpr.constvars, level.program.consts, strict=True)) | known
    read = lambda atom: atom.val if isinstance(atom, Literal) else known[atom]
    found: dict[int, Array] = {}
    for k, eqn in enumerate(jaxpr.eqns):
        if not needed.isdisjoint(eqn.outvars):
            known.update(zip(eqn.outvars, run(eqn, [*map(read, eqn.invars)]), strict=True))
        if k in level.inner:
            found |= _weights_of_loop(uses, level.inner[k], eqn, read, depth, chosen)
    of_this = [n for n in level.uses.values() if chosen is None or n in chosen]
    return found | {n: uses[n].form.arrange(known[uses[n].view]) for n in of_this}


def _weights_of_loop(
    uses: Sequence[Use], inner: Level, eqn: JaxprEqn, read: Callable, depth: int, chosen: set[int] | None
) -> dict[int, Array]:
    consts, _ = scan_counts(eqn)
    every = [n for n in _uses(inner) if chosen is None or n in chosen]
    same, own = ({n for n in every if uses[n].loops[depth] is stepped} for stepped in (False, True))

    def inside(which: set[int]) -> dict[Any, Any]:
        needed = _needed(uses, inner, depth + 1, which)
        return {x: read(outer) for x, outer in zip(inner.program.jaxpr.invars, eqn.invars, strict=True) if x in needed}

    found = _weights(uses, inner, inside(same), depth + 1, same) if same else {}
    if own:
        known, over = inside(own), {*inner.program.jaxpr.invars[consts:]}
        names = [x for x in known if x in over]  # all of them leaves: what else changes with the step is no weight
        at = lambda values: _weights(uses, inner, known | dict(zip(names, values, strict=True)), depth + 1, own)
        stacked = jax.vmap(at)([known[x] for x in names])
        found |= {n: w.reshape(-1, *w.shape[2:]) for n, w in stacked.items()}
    return found


def _uses(level: Level) -> list[int]:
    return [*level.uses.values(), *(n for inner in level.inner.values() for n in _uses(inner))]


def _needed(uses: Sequence[Use], level: Level, depth: int, chosen: set[int] | None) -> set[Any]:
    """The variables of a level that the weights of its uses, and of those in loops inside it, are made of."""
    jaxpr = level.program.jaxpr
    found = {uses[n].view for n in level.uses.values() if chosen is None or n in chosen}
    for k, inner in level.inner.items():
        within = _needed(uses, inner, depth + 1, chosen)
        pairs = zip(inner.program.jaxpr.invars, jaxpr.eqns[k].invars, strict=True)
        found |= {outer for x, outer in pairs if x in within and not isinstance(outer, Literal)}
    for eqn in reversed(jaxpr.eqns):
        if not found.isdisjoint(eqn.outvars):
            found |= {x for x in eqn.invars if not isinstance(x, Literal)}
    return found


# --- what is not of the rows ------------------------------------------------------------------------------------------


def free_part(read: Reading, args: Sequence[Any]) -> Sequence[Any]:
    """The results without the terms that are sums over rows: weight decay and its like.

    Example:
      >>> from hessjax.readings import reading
      >>> loss = lambda w, x: jnp.mean(jnp.tanh(x @ w)) + 3.0 * jnp.sum(w**2)
      >>> args = [jnp.ones((3, 2)), jnp.ones((5, 3))]
      >>> [float(x) for x in free_part(reading(jax.make_jaxpr(loss)(*args), 1, [FREE, 0], 5), args)]
      [18.0]
    """

    def step(eqn: JaxprEqn, inputs: Sequence[Any]) -> Sequence[Any]:
        if not all(x in read.linear and read.spreads[x] != FREE for x in eqn.outvars):
            return run(eqn, inputs)
        if not is_affine(eqn, [x for x in eqn.invars if among(x, read.moving)]):
            return [jnp.zeros(struct(x).shape, struct(x).dtype) for x in eqn.outvars]
        of_rows = [among(x, read.moving) and read.spreads[x] != FREE and x not in read.linear for x in eqn.invars]
        return run(eqn, [jnp.zeros_like(x) if gone else x for x, gone in zip(inputs, of_rows, strict=True)])

    return evaluate(read.level.program, step, *args)
