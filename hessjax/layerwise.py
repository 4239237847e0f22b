"""Which leaves of a curvature are put together from pieces and which are columns; and the whole of it.

The program of the loss is traced and read; what either way would cost is counted in operations, leaf by leaf.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from hessjax import trees
from hessjax.columns import COLUMNS, column_blocks
from hessjax.curvature import Curvature, Hessian
from hessjax.devices import memory_available
from hessjax.gauss_newton import GaussNewton, ModelCurvature, Residual
from hessjax.jaxprs import among
from hessjax.objective import mean_loss
from hessjax.programs import traced
from hessjax.pushes import Push
from hessjax.readings import Reading, reading
from hessjax.separation import FREE, TOTAL, is_rows, separated
from hessjax.structured import Slopes, add_block, contraction, group_shapes, tap_blocks
from hessjax.taps import free_part, tapped

__all__ = ["KINDS", "Choice", "assembled", "choose"]

KINDS = (Hessian, GaussNewton, Residual)
GAIN = 1.2  # by which columns must cost more in operations than pieces, whose smaller products take longer a piece


class Choice(NamedTuple):
    """How a curvature is assembled: leaves of pieces; by leaf forms or reasons, tangents, operations and bytes."""

    tapped: frozenset[int]
    why: dict[int, str]
    tangents: dict[int, int]
    flops: dict[int, float]
    bytes: dict[int, float]


class _Known(NamedTuple):
    """A curvature over some rows, as read: programs in the taps and in the params."""

    read: Reading | None
    args: list[Any]
    leaves: list[Array]
    slopes: Slopes | None
    push: Push
    order: list[int]


def assembled(
    op: Curvature, keep: Sequence[bool] | None = None, *, columns: int = COLUMNS, memory: int | None = None
) -> Float[Array, "n n"]:
    """The lower triangle, in `ravel_pytree` order, of a curvature without chunks; traced. `keep`: which leaves.

    Example:
      >>> loss = lambda w, x: jnp.tanh(x @ w) ** 2
      >>> H = Hessian(loss, jnp.zeros(2), jnp.array([[1.0, 0.0], [0.0, 2.0]]))
      >>> assembled(H).tolist()
      [[1.0, 0.0], [0.0, 4.0]]
    """
    known = _known(op)
    chosen = _choice(known, keep, memory)
    kept = [k for k in range(len(known.leaves)) if keep is None or keep[k]]
    blocks: dict[tuple[int, int], Array] = {}
    if chosen.tapped and known.read is not None and known.slopes is not None:
        read = known.read._replace(tapped=chosen.tapped)
        own = {k: known.leaves[k] for k in sorted(chosen.tapped)}
        blocks = tap_blocks(read, known.args, known.slopes, own)
        if read.free:
            _add_free(blocks, read, known.args, own, columns)
    order = [k for k in known.order if k in kept and k not in chosen.tapped]
    if order:
        blocks |= column_blocks(known.push, known.leaves, order, sorted(chosen.tapped), columns)
    return _joined(blocks, [known.leaves[k] for k in kept], kept)


def _joined(blocks: dict[tuple[int, int], Array], leaves: list[Array], kept: list[int]) -> Float[Array, "n n"]:
    """Blocks as one matrix; above the diagonal whatever is cheapest."""
    dtype = jnp.result_type(*leaves)
    block = lambda a, b: blocks.get((kept[a], kept[b]), jnp.zeros((leaves[a].size, leaves[b].size))).astype(dtype)
    above = lambda a: jnp.zeros((leaves[a].size, sum(x.size for x in leaves[a + 1 :])), dtype)
    lines = [[*(block(a, b) for b in range(a + 1)), above(a)] for a in range(len(leaves))]
    return jnp.concatenate([jnp.concatenate(line, axis=1) for line in lines])


def _add_free(blocks: dict, read: Reading, args: list[Any], own: dict[int, Array], columns: int) -> None:
    """Adds second derivatives of what is not a sum over rows."""
    value = lambda tapped: free_part(read, [tapped.get(k, x) for k, x in enumerate(args)])[0]
    names, leaves = [*own], [*own.values()]
    slope = lambda values: [*jax.grad(value)(dict(zip(names, values, strict=True))).values()]
    push = Push.of(jax.linearize(slope, leaves)[1], leaves)
    alone = [_entry_by_entry(push, k) for k in range(len(leaves))]
    for k, x in enumerate(leaves):
        if alone[k]:
            found = push({k: jnp.ones_like(x)}, [k])[k]
            if found is not None:
                add_block(blocks, (names[k], names[k]), jnp.diag(found.ravel()))
    rest = [k for k in range(len(leaves)) if not alone[k]]
    for (a, b), block in column_blocks(push, leaves, rest, [], columns).items():
        add_block(blocks, (names[a], names[b]), block)


def _entry_by_entry(push: Push, k: int) -> bool:
    reaches = push.reaches(k)
    return not any(hit for n, hit in enumerate(reaches) if n != k) and (push.entrywise(k)[k] or not reaches[k])


# --- reading ----------------------------------------------------------------------------------------------------------


def _known(op: Curvature) -> _Known:
    """Traces and reads it; without slopes where nothing is tapped."""
    leaves, structure = jax.tree.flatten(op._arrays())
    linear: Any = op.linearized()
    product = lambda values: jax.tree.leaves(linear.product(structure.unflatten(values)))
    push = Push.of(product, leaves)
    data, shape = jax.tree.flatten(op.batch[0] if isinstance(op, ModelCurvature) else op.batch)
    number = _rows_in_common(op.batch)
    if not isinstance(op, KINDS) or not any(map(jnp.ndim, data)) or number is None:
        return _Known(None, leaves, leaves, None, push, [*range(len(leaves))])
    arrays = [*map(jnp.asarray, data)]
    spreads = [0 if x.ndim and x.shape[0] == number else FREE for x in arrays]
    count = len(leaves)

    def function(*args: Any) -> Any:
        params, some = structure.unflatten(args[:count]), shape.unflatten(args[count:])
        if isinstance(op, ModelCurvature):
            return op._outputs(params, some)
        return mean_loss(op._objective, params, some, precision=op.precision)

    program, results = traced(function, *leaves, *arrays)
    read = reading(program, count, [FREE] * count + spreads, number)
    args = [*leaves, *arrays]
    order = _order(program, count)
    if isinstance(op, ModelCurvature) and not _separates(op, read, results, number):
        meet = dict.fromkeys(range(count), "rows of the outputs meet in the loss")
        read = read._replace(tapped=frozenset(), reasons=meet | read.reasons)
    if not read.tapped:
        return _Known(read, args, leaves, None, push, order)
    return _Known(read, args, leaves, _slopes(op, read, args, jax.tree.structure(results)), push, order)


def _rows_in_common(batch: PyTree) -> int | None:
    """How many rows all data have; None where they do not agree, as a scalar loss may have them."""
    counts = {jnp.shape(x)[0] for x in jax.tree.leaves(batch) if jnp.ndim(x)}
    return counts.pop() if len(counts) == 1 else None


def _order(program: Any, count: int) -> list[int]:
    """The leaves as the program comes to use them."""
    own, found = {x: k for k, x in enumerate(program.jaxpr.invars[:count])}, []
    for eqn in program.jaxpr.eqns:
        found += [own[x] for x in eqn.invars if among(x, own) and own[x] not in found]
    return [*found, *(k for k in range(count) if k not in found)]


def _separates(op: ModelCurvature, read: Reading, results: PyTree, number: int) -> bool:
    """Whether the loss of a model's outputs is a sum over rows, as its outputs are rows."""
    outputs, structure = jax.tree.flatten(results)
    spreads = [read.spreads.get(x, FREE) for x in read.level.program.jaxpr.outvars]
    if not all(map(is_rows, spreads)):
        return False
    targets, shape = jax.tree.flatten(op.batch[1])
    arrays = [*map(jnp.asarray, targets)]

    def value(*args: Any) -> Array:
        some = op.batch[0], shape.unflatten(args[len(outputs) :])
        return jnp.mean(op._values(structure.unflatten(args[: len(outputs)]), some))

    program, _ = traced(value, *outputs, *arrays)
    entering = [*spreads, *(0 if x.ndim and x.shape[0] == number else FREE for x in arrays)]
    [out] = program.jaxpr.outvars
    return separated(program.jaxpr, entering, number).get(out, FREE) == TOTAL


def _slopes(op: Curvature, read: Reading, args: list[Any], structure: Any) -> Slopes:
    sites = sorted({use.site for use in read.uses if use.leaves & read.tapped})
    zeros = [jnp.zeros(read.sites[site].shape, read.sites[site].dtype) for site in sites]
    run = lambda taps: tapped(read, args, dict(zip(sites, taps, strict=True)))
    first = run(zeros)
    moves = lambda n: jnp.issubdtype(first.others[n].dtype, jnp.floating) and read.uses[n].form.kind != "bias"
    moving = [n for n in first.others if moves(n)]
    outputs = lambda taps: structure.unflatten(run(taps).results)
    value = lambda results: results  # a loss

    if isinstance(op, GaussNewton):
        z, forward = jax.linearize(outputs, zeros)
        slope = jax.grad(lambda z: jnp.mean(op._values(z, op.batch)))
        back = jax.linear_transpose(forward, zeros)
        curved = jax.linearize(slope, z)[1]
        push = Push.of(lambda taps: back(curved(forward(taps)))[0], zeros)
        return Slopes({}, first.others, push, sites, [])
    if isinstance(op, Residual):
        z = structure.unflatten(first.results)
        held = jax.grad(lambda z: jnp.mean(op._values(z, op.batch)))(z)
        value = lambda results: trees.dot(held, results)

    def with_others(taps: list[Array]) -> tuple[Array, list[Array]]:
        out = run(taps)
        return value(structure.unflatten(out.results)), [out.others[n] for n in moving]

    (gradients, _), push = jax.linearize(jax.grad(with_others, has_aux=True), zeros)
    return Slopes(dict(zip(sites, gradients, strict=True)), first.others, Push.of(push, zeros), sites, moving)


# --- choosing ---------------------------------------------------------------------------------------------------------


def choose(op: Curvature, keep: Sequence[bool] | None = None, *, memory: int | None = None) -> Choice:
    """How `assembled` does it; traced, nothing is computed.

    Example:
      >>> H = Hessian(lambda w, x: jnp.tanh(x @ w) ** 2, jnp.zeros(8), jnp.zeros((100, 8)))
      >>> choose(H).why
      {0: 'dense'}
    """
    found: list[Choice] = []

    def trace(op: Curvature) -> Array:
        found.append(_choice(_known(op), keep, memory))
        return jnp.zeros(())

    jax.eval_shape(trace, op)
    return found[0]


def _choice(known: _Known, keep: Sequence[bool] | None, memory: int | None) -> Choice:
    leaves = range(len(known.leaves))
    kept = [k for k in leaves if keep is None or keep[k]]
    sizes = [x.size for x in known.leaves]
    order = [k for k in known.order if k in kept]
    after = lambda k: order[order.index(k) :]
    column = {k: sizes[k] * known.push.flops([k], after(k)) for k in kept}
    reasons = {} if known.read is None else known.read.reasons
    why = {k: reasons.get(k, "no data to separate") for k in kept}
    widest = {k: 4.0 * min(sizes[k], COLUMNS) * sum(sizes) for k in kept}
    choice = Choice(frozenset(), why, {k: sizes[k] for k in kept}, column, widest)
    read, slopes = known.read, known.slopes
    if read is None or slopes is None:
        return choice
    candidates = read.tapped & {*kept}
    read = read._replace(tapped=candidates)
    shapes, limit = group_shapes(read, slopes), memory_available() / 4 if memory is None else memory
    for parts in _components(read, candidates):
        uses = [use for use in read.uses if use.leaves & parts]
        sites = sorted({use.site for use in uses})
        cost = contraction(read, slopes, shapes, sites)
        ours, theirs = cost.flops, sum(column[k] for k in parts)
        forms = ", ".join(dict.fromkeys(use.form.kind for use in uses))
        if cost.bytes > limit:
            choice.why.update(dict.fromkeys(parts, f"pieces ({forms}) would take {cost.bytes / 2**20:.3g} MiB"))
            continue
        if GAIN * ours > theirs:
            reason = f"pieces ({forms}) would take {ours:.2g} operations, columns {theirs:.2g}"
            choice.why.update(dict.fromkeys(parts, reason))
            continue
        total = sum(sizes[k] for k in parts)
        share = lambda k, x, total=total: x * sizes[k] / total
        choice = choice._replace(tapped=choice.tapped | parts)
        choice.why.update(dict.fromkeys(parts, forms))
        choice.tangents.update(dict.fromkeys(parts, cost.tangents))
        choice.flops.update({k: share(k, ours) for k in parts})
        choice.bytes.update({k: share(k, cost.bytes) for k in parts})
    return choice


def _components(read: Reading, leaves: frozenset[int]) -> list[frozenset[int]]:
    """Leaves that share sites, which are tapped together or not at all."""
    found: list[tuple[set[int], set[int]]] = []
    for use in read.uses:
        own = ({*(use.leaves & leaves)}, {use.site})
        if not own[0]:
            continue
        touching = [part for part in found if part[0] & own[0] or part[1] & own[1]]
        found = [part for part in found if part not in touching]
        found.append((own[0].union(*(p[0] for p in touching)), own[1].union(*(p[1] for p in touching))))
    return [frozenset(part) for part, _ in found]
