"""Exact dense second derivatives put together from per-layer pieces.

A weight w meets the data in z = a w (`forms`). With g = d loss / d z and M = d^2 loss / dz dz', both per row of the
data, the second derivatives in the weights are

    H[w, w'] = sum over rows of  a a' M  +  g (da / dz') a'  +  its transpose where w' is downstream of w.

M takes a tangent for every unit of a layer, where columns take one for every weight, and the sums over rows are plain
matrix products. `taps` give z, `pushes` the tangents that are not zero. Leaves of which this is not known, or which it
does not pay for, are columns: Hessian-vector products with unit vectors, of which only the part that other leaves have
not given is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hessjax.forms import Form
from hessjax.pushes import Push
from hessjax.readings import Reading, Use
from hessjax.taps import canonical, features, weights

__all__ = ["Cost", "Slopes", "add_block", "contraction", "group_shapes", "tap_blocks"]

Blocks = dict[tuple[int, int], Array]  # (leaf, leaf at most it) -> [its size, the other's size]


class Slopes(NamedTuple):
    """First derivatives at zero taps, and their derivatives in the taps as a linear program.

    `gradients` by site, None where they are not wanted; `others` by use; arguments of `push` are the taps of `sites`,
    its results the derivatives of `gradients` at `sites`, then of `others` of `moving`.
    """

    gradients: dict[int, Array]
    others: dict[int, Array]
    push: Push
    sites: list[int]
    moving: list[int]


class Group(NamedTuple):
    """Uses at one site whose positions, groups and units are the same: one array of features for all."""

    uses: list[int]
    use: Use  # any of them
    features: Float[Array, "n t h j"]
    widths: list[int]


def tap_blocks(read: Reading, args: Sequence[Any], slopes: Slopes, leaves: dict[int, Array]) -> Blocks:
    """Second derivatives between all leaves that are tapped, from the sources of all sites."""
    groups = _groups(read, slopes)
    pulls = _Pulls.of(read, args, leaves)
    blocks: Blocks = {}
    add = partial(_add, blocks, pulls)
    for k, site in enumerate(slopes.sites):
        if groups[site]:
            near = _near_uses(read, slopes, k, groups[site])
            moved = _moved(read, slopes, groups, k, near)
            for source in groups[site]:
                _add_curvature(read, slopes, groups, k, source, moved, add)
                _add_bends(read, slopes, source, moved, add)
                _add_near_bends(read, slopes, k, near, source, add)
    return blocks


def _groups(read: Reading, slopes: Slopes) -> dict[int, list[Group]]:
    found: dict[int, list[Group]] = {site: [] for site in slopes.sites}
    alike: dict[Any, list[int]] = {}
    for n, use in enumerate(read.uses):
        if use.site in found and use.leaves & read.tapped:
            alike.setdefault((use.site, _layout(use.form), use.loops), []).append(n)
    for (site, *_), members in alike.items():
        parts = [features(read.uses[n], slopes.others[n]) for n in members]
        widths = [part.shape[-1] for part in parts]
        whole = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
        found[site].append(Group(members, read.uses[members[0]], whole, widths))
    return found


def _layout(form: Form) -> tuple[Any, ...]:
    return form.rows, form.positions, form.groups, form.units, form.num_groups


# --- tangents of taps -------------------------------------------------------------------------------------------------


class Moved(NamedTuple):
    """Derivatives in the taps of one site, [its entries without rows, ...]: of gradients by site, of others by use."""

    gradients: dict[int, Array]
    others: dict[int, Array]


def _moved(read: Reading, slopes: Slopes, groups: dict[int, list[Group]], k: int, near: Sequence[int]) -> Moved:
    """Tangents from a tap of every entry, at all rows at once; those of gradients that no earlier site gave."""
    later = [n for n in range(k, len(slopes.sites)) if groups[slopes.sites[n]]]
    bent = [m for m, n in enumerate(slopes.moving) if read.uses[n].leaves & read.tapped and n not in near]
    first, site = len(slopes.sites), read.sites[slopes.sites[k]]
    alone = _one_row(read, groups[slopes.sites[k]][0].use)
    units = jnp.eye(math.prod(alone), dtype=site.dtype).reshape(-1, *alone)
    basis = jnp.broadcast_to(units, (len(units), *site.shape))
    results = jax.vmap(lambda tangent: slopes.push({k: tangent}, [*later, *(first + m for m in bent)]))(basis)
    gradients = {slopes.sites[n]: x for n in later if (x := results[n]) is not None}
    return Moved(gradients, {slopes.moving[m]: x for m in bent if (x := results[first + m]) is not None})


def _one_row(read: Reading, use: Use) -> tuple[int, ...]:
    """The shape of a use's site with one row."""
    shape, axis = read.sites[use.site].shape, len(use.loops) + use.form.rows
    return (*shape[:axis], 1, *shape[axis + 1 :])


def _by_source(read: Reading, use: Use, x: Array) -> Array:
    """Tangents [entries, ...] of a use's site as [t, h, i, ...], its positions, groups and units."""
    alone = _one_row(read, use)
    with jax.ensure_compile_time_eval():
        order = np.asarray(canonical(use, jnp.arange(math.prod(alone)).reshape(alone)))[0]
    entries = order.ravel()
    x = x if np.array_equal(entries, np.arange(entries.size)) else x[entries]
    return x.reshape(*order.shape, *x.shape[1:])


def _add_curvature(
    read: Reading, slopes: Slopes, groups: dict, k: int, source: Group, moved: Moved, add: Callable
) -> None:
    """The terms a a' M of a source with every site that no earlier source gave."""
    own = groups[slopes.sites[k]]
    for site, tangents in moved.gradients.items():
        # Of groups at one site each pair once.
        for target in own[own.index(source) :] if groups[site] is own else groups[site]:
            m = _by_source(read, source.use, jax.vmap(partial(canonical, target.use))(tangents))
            block = _contracted(target.features, m, source.features)
            _add_members(block, target, source, add, within=target is source)


def _sizes(read: Reading, group: Group) -> tuple[int, int, int, int]:
    n, t, h, _ = group.features.shape
    site = read.sites[group.use.site]
    return n, t, h, math.prod(site.shape) // (n * t * h)


def _add_members(block: Array, target: Group, source: Group, add: Callable, *, within: bool) -> None:
    """The block of two groups as those of their uses; within one, those of a use with itself and with later ones."""
    ends, starts = np.cumsum(target.widths).tolist(), np.cumsum(source.widths).tolist()
    for a, (u, end, width) in enumerate(zip(target.uses, ends, target.widths, strict=True)):
        for b, (w, stop, size) in enumerate(zip(source.uses, starts, source.widths, strict=True)):
            if not within or a >= b:
                add(u, w, block[:, end - width : end, :, :, stop - size : stop, :], alone=within and a == b)


def _contracted(a: Array, m: Array, b: Array) -> Float[Array, "h j i g q p"]:
    """sum over n, t, s of a[n, t, h, j] m[s, g, p, n, t, h, i] b[n, s, g, q]."""
    n, t, h, j = a.shape
    s, g, p, *_, i = m.shape
    q = b.shape[-1]
    if t == h == s == g == 1:  # one matrix product, of all pairs of features with all pairs of units
        pairs = (a.reshape(n, j, 1) * b.reshape(n, 1, q)).reshape(n, j * q)
        block = _product(pairs, m.reshape(p, n, i)).reshape(j, q, p, i)
        return block.transpose(0, 3, 1, 2)[None, :, :, None]
    spread = jnp.einsum("sgpnthi,nsgq->nthigqp", m, b, precision="highest")
    return jnp.einsum("nthj,nthigqp->hjigqp", a, spread, precision="highest")


def _product(pairs: Float[Array, "n k"], m: Float[Array, "p n i"]) -> Float[Array, "k p i"]:
    return jax.lax.dot_general(pairs, m, (((0,), (1,)), ((), ())), precision="highest")


def _add_bends(read: Reading, slopes: Slopes, source: Group, moved: Moved, add: Callable) -> None:
    """The terms g (da / dz') a' of a source with every use whose features it moves."""
    for n, tangents in moved.others.items():
        use = read.uses[n]
        bends = _by_source(read, source.use, jax.vmap(partial(features, use))(tangents))
        block = _contracted(canonical(use, slopes.gradients[use.site]), bends, source.features)
        _add_bent(block.transpose(0, 2, 1, 3, 4, 5), n, source, add)


def _near_uses(read: Reading, slopes: Slopes, k: int, sources: list[Group]) -> list[int]:
    """The uses whose inputs are the units of a site, one by one, with nothing else that is not a row.

    One tangent moves all of their features; a layer after an elementwise activation is one.
    """
    plain, site = slopes.push.entrywise(k), read.sites[slopes.sites[k]]
    single = all(s.features.shape[1:3] == (1, 1) and not s.use.loops for s in sources) and len(site.shape) == 2
    flat = lambda use: use.form.kind == "dense" and not use.loops and bool(use.leaves & read.tapped)
    found = [n for m, n in enumerate(slopes.moving) if plain[len(slopes.sites) + m] and flat(read.uses[n])]
    return found if single else []


def _add_near_bends(read: Reading, slopes: Slopes, k: int, near: Sequence[int], source: Group, add: Callable) -> None:
    site = read.sites[source.use.site]
    places = [len(slopes.sites) + slopes.moving.index(n) for n in near]
    along = slopes.push({k: jnp.ones(site.shape, site.dtype)}, places) if near else []
    for n, at in zip(near, places, strict=True):
        use, tangent = read.uses[n], along[at]
        assert tangent is not None  # as it is a multiple of the tap
        block = _near(features(use, tangent), canonical(use, slopes.gradients[use.site]), source.features)
        _add_bent(block, n, source, add)


def _near(bend: Array, g: Array, b: Array) -> Float[Array, "h j i g q p"]:
    """`_contracted` where the input j moves with the unit p = j alone."""
    n, _, _, j = bend.shape
    i, q = g.shape[-1], b.shape[-1]
    pairs = (g.reshape(n, i, 1) * b.reshape(n, 1, q)).reshape(n, i * q)
    sums = jax.lax.dot_general(bend.reshape(n, j), pairs, (((0,), (0,)), ((), ())), precision="highest")
    block = sums.reshape(j, i, q, 1) * jnp.eye(j, dtype=sums.dtype)[:, None, None, :]
    return block[None, :, :, None]


def _add_bent(block: Array, n: int, source: Group, add: Callable) -> None:
    stops = np.cumsum(source.widths).tolist()
    for w, stop, size in zip(source.uses, stops, source.widths, strict=True):
        add(n, w, block[:, :, :, :, stop - size : stop, :], alone=False)


# --- what it costs ----------------------------------------------------------------------------------------------------


class Cost(NamedTuple):
    """Tangents, operations and the bytes held at once of some sources."""

    tangents: int
    flops: float
    bytes: float


Shapes = dict[int, list[tuple[tuple[int, int, int, int], int]]]  # by site, of its groups: [n, t, h, i], features


def group_shapes(read: Reading, slopes: Slopes) -> Shapes:
    """Rows, positions, groups, units, and number of features, by site."""
    groups = _groups(read, slopes)
    return {site: [(_sizes(read, g), g.features.shape[-1]) for g in some] for site, some in groups.items() if some}


def contraction(read: Reading, slopes: Slopes, shapes: Shapes, sites: Sequence[int]) -> Cost:
    """What the sources of some sites cost: their tangents, and the sums over rows with all leaves that are tapped."""
    total = Cost(0, 0.0, 0.0)
    for site in sites:
        k = slopes.sites.index(site)
        tangents = math.prod(shapes[site][0][0][1:])
        wanted = [n for n in range(k, len(slopes.sites)) if slopes.sites[n] in shapes]
        flops, numbers = tangents * slopes.push.flops([k], wanted), 0.0
        for source in shapes[site]:
            for target in (group for n in wanted for group in shapes[slopes.sites[n]]):
                more, held = _sum_over_rows(target, source)
                flops, numbers = flops + more, numbers + held
        itemsize = jnp.dtype(read.sites[site].dtype).itemsize
        total = Cost(total.tangents + tangents, total.flops + flops, max(total.bytes, numbers * itemsize))
    return total


def _sum_over_rows(target: Any, source: Any) -> tuple[float, float]:
    """Operations of `_contracted`, and numbers held by it."""
    ((n, t, h, i), j), ((_, s, g, p), q) = target, source
    inner, outer = float(n * t * h * i * s * g * p), float(n * t * h * i * g * q * p)
    if t == h == s == g == 1:
        return 2.0 * outer * j, inner + n * j * q
    return 2.0 * inner * q + 2.0 * outer * j, inner + outer


# --- from arranged weights to leaves ----------------------------------------------------------------------------------


class _Pulls(NamedTuple):
    """For every use, its leaves and the transpose of what makes its weights of them."""

    leaves: list[list[int]]
    pull: list[Callable[[Array], list[Array]]]

    @classmethod
    def of(cls, read: Reading, args: Sequence[Any], leaves: dict[int, Array]) -> _Pulls:
        def arranged(tapped: dict[int, Array]) -> dict[int, Array]:
            return weights(read, [tapped.get(k, x) for k, x in enumerate(args)])

        whole, push = jax.linearize(arranged, leaves)
        zeros = {k: jnp.zeros_like(x) for k, x in leaves.items()}
        own = [sorted(use.leaves & leaves.keys()) for use in read.uses]

        def pull(n: int) -> Callable[[Array], list[Array]]:
            some = lambda values: push(zeros | dict(zip(own[n], values, strict=True)))[n]
            back = jax.linear_transpose(some, [leaves[k] for k in own[n]])
            return lambda block: back(block.astype(whole[n].dtype))[0]  # products may be kept wider than weights

        return cls(own, [pull(n) if own[n] else lambda block: [] for n in range(len(read.uses))])


def _add(blocks: Blocks, pulls: _Pulls, u: int, w: int, block: Array, *, alone: bool) -> None:
    """Adds second derivatives of use u with use w, and their transpose unless they are all there is of one use."""
    rows, columns = block.shape[:3], block.shape[3:]
    left = jax.vmap(pulls.pull[u], in_axes=-1)(block.reshape(*rows, -1))
    for a, part in zip(pulls.leaves[u], left, strict=True):
        size = part[0].size
        right = jax.vmap(pulls.pull[w])(part.reshape(-1, size).T.reshape(size, *columns))
        for b, piece in zip(pulls.leaves[w], right, strict=True):
            whole = piece.reshape(size, -1)
            if alone and a < b:  # its transpose is there too
                continue
            if a == b and not alone:
                whole = whole + whole.T
            key, whole = ((a, b), whole) if a >= b else ((b, a), whole.T)
            add_block(blocks, key, whole)


def add_block(blocks: Blocks, key: tuple[int, int], block: Array) -> None:
    """Adds to the block of two leaves, which may be the first.

    Example:
      >>> blocks = {}
      >>> add_block(blocks, (0, 0), jnp.ones((1, 1))), add_block(blocks, (0, 0), jnp.ones((1, 1)))
      (None, None)
      >>> blocks[0, 0].tolist()
      [[2.0]]
    """
    blocks[key] = blocks[key] + block if key in blocks else block
