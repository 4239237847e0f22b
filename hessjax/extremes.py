"""Extreme eigenpairs by thick-restart Lanczos with locking, at either end, both, or largest in magnitude.

A Krylov space of one start holds one vector of every eigenspace, so a repeated eigenvalue would be found once. When
all pairs wanted have converged they are locked and the search begins again from a fresh random vector orthogonal to
them, until it has run long enough that a hidden one would have shown (Kuczynski & Wozniakowski).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from hessjax import stacks, trees
from hessjax.arguments import MOST, check_count, check_key
from hessjax.devices import memory_available
from hessjax.driving import between, products, ready, repeat, run, space, until
from hessjax.krylov import BREAKDOWN, eps, orthogonalize, unit_start
from hessjax.operators import Operator, check_operand
from hessjax.projections import Eigenpairs
from hessjax.trees import PRNGKey

__all__ = ["ENDS", "eigsh", "fresh", "rank"]

ENDS = ("LA", "SA", "LM", "BE")
MISSED = 1e-3  # probability with which an eigenvalue as extreme as those found may go unseen


class Search(NamedTuple):
    """Between two products. Rows of `basis`: `locked` eigenvectors, kept Ritz vectors, Krylov vectors, zeros.

    `t` is the operator projected on the rows; `v` is the next row, coupled to the last one by `beta`. A cycle fills the
    rows up to `stop`. `since` counts products since the last fresh start.
    """

    v: PyTree
    basis: PyTree
    t: Float[Array, "m m"]
    beta: Float[Array, ""]
    norm: Float[Array, ""]
    filled: Int[Array, ""]
    locked: Int[Array, ""]
    stop: Int[Array, ""]
    since: Int[Array, ""]
    num_matvecs: Int[Array, ""]
    finished: Bool[Array, ""]
    key: Any


class Rows(NamedTuple):
    """Rayleigh-Ritz on the filled rows: locked first, then ascending. `rank` is the place among those wanted."""

    values: Float[Array, " m"]
    rotation: Float[Array, "m m"]
    coupling: Float[Array, " m"]
    rank: Int[Array, " m"]
    locked: Bool[Array, " m"]
    active: Bool[Array, " m"]
    close: Bool[Array, " m"]


def eigsh(
    op: Operator,
    key: PRNGKey,
    *,
    k: int,
    which: str = "LA",
    rtol: float = 1e-5,
    max_matvecs: int | None = None,
    num_steps: int | None = None,
) -> Eigenpairs:
    """k extreme eigenvalues with eigenvectors, multiplicities counted.

    Args:
      op: a symmetric operator A.
      key: draws starting vectors.
      k: eigenpairs wanted, 1 to n.
      which: "LA" largest, "SA" smallest (most negative), "LM" largest in magnitude, "BE" from both ends in turn,
        beginning at the top.
      rtol: a pair has converged where ||A v - lambda v|| <= rtol ||A||, ||A|| the largest |Ritz value|. The eigenvalue
        is then within that of a true one, and usually within its square over the gap. Products of float32 params
        reach about 1e-6, of bfloat16 ones 1e-2.
      max_matvecs: products to take at most; None: 50 num_steps.
      num_steps: vectors kept, num_steps x n numbers; None: max(2 k + 16, 32), fewer where memory is short. More need
        fewer products.

    Returns:
      Values ascending, unit vectors with leading axis k, measured residuals, which converged, products taken. A pair
      that did not converge is the best approximation found.

    Raises:
      ValueError: k outside 1..n, an unknown `which`, rtol not above 0, max_matvecs below 2 k + 4 or num_steps k + 4.

    Example:
      >>> import hessjax as hj
      >>> found = hj.eigsh(hj.Matrix(jnp.diag(jnp.array([-4.0, 1.0, 2.0, 2.0]))), jax.random.key(0), k=2)
      >>> found.values.round(4).tolist(), found.converged.tolist()
      ([2.0, 2.0], [True, True])

    References: Wu & Simon (2000), SIAM J. Matrix Anal. Appl. 22(2), doi:10.1137/S0895479898334605 (thick restart);
      Kuczynski & Wozniakowski (1992), SIAM J. Matrix Anal. Appl. 13(4), doi:10.1137/0613066, theorem 3 (random start).
    """
    check_key(key)
    check_operand(op)
    size = op.size - op.num_deflated
    check_count("k", k)
    if k > size:
        raise ValueError(f"k must be at most {size}, the dimension of the operator's space; got {k}.")
    if which not in ENDS:
        raise ValueError(f"which must be one of {', '.join(ENDS)}; got {which!r}.")
    if not rtol > 0:
        raise ValueError(f"rtol must be above 0, got {rtol!r}; float32 reaches about 1e-6, bfloat16 1e-2.")
    rows = _rows(op, k, size, num_steps)
    limit = 50 * rows if max_matvecs is None else max_matvecs
    check_count("max_matvecs", limit, min(2 * k + 4, size + k))
    limit = min(int(limit), MOST)
    rows = min(rows, limit - k)
    return run(_eigsh, op, key, rtol, limit, k=k, which=which, rows=rows)


def _rows(op: Operator, k: int, size: int, asked: int | None) -> int:
    if asked is not None:
        check_count("num_steps", asked, min(k + 4, size))  # two to go on with, two to see what is hidden
        return min(asked, size)
    each = sum(x.size * jnp.dtype(x.dtype).itemsize for x in jax.tree.leaves(space(op)))
    # A restart holds the basis twice for a moment. In eights: a size that varies with every byte would compile anew.
    fits = memory_available() // (3 * each) // 8 * 8
    return min(max(min(max(2 * k + 16, 32), fits), k + 4), size)


def _eigsh(op: Operator, key: Any, rtol: Any, limit: Any, *, k: int, which: str, rows: int) -> Eigenpairs:
    op, rounding, domain = ready(op, rows), eps(op), op.domain()
    tol = jnp.maximum(rtol / 2, 4 * rounding)  # half, so that what is measured in the end is within rtol

    def cycle(s: Search) -> Search:
        s = repeat(op, _expand, s, s.filled, s.stop, rounding=rounding)
        return between(_turn, s, domain, tol, k=k, which=which)

    def over(s: Search) -> Bool[Array, ""]:
        return s.finished | (s.num_matvecs + s.stop - s.filled + k > limit) | ~jnp.isfinite(s.norm)

    begun = between(_begin, domain, key, rows=rows)
    begun = trees.vary_with(begun._replace(key=None), op)._replace(key=begun.key)
    found = until(op, over, cycle, begun)
    vectors = between(_best, found, k=k, which=which)
    return between(_measured, vectors, products(op, vectors), found.norm, rtol, found.num_matvecs)


def _begin(domain: Operator, key: Any, *, rows: int) -> Search:
    used, key = jax.random.split(key)
    v = unit_start(domain, used)
    zero, none = jnp.zeros((), trees.scalar_dtype(v)), jnp.int32(0)
    t, basis = jnp.zeros((rows, rows), zero.dtype), trees.zeros_like(v, rows)
    return Search(v, basis, t, zero, zero, none, none, jnp.int32(rows), none, none, jnp.bool_(False), key)


def _expand(s: Search, w: PyTree, j: Int[Array, ""], domain: Operator, *, rounding: float) -> Search:
    """Row j is `v`; the next vector is what A v adds to the space, or a fresh one where that is only rounding."""
    basis = jax.tree.map(lambda rows, x: rows.at[j].set(x), s.basis, s.v)
    alpha = trees.dot(s.v, w)
    w = orthogonalize(domain.confine(trees.axpy(-alpha, s.v, w)), basis, j + 1)
    beta = trees.norm(w)
    norm = jnp.maximum(s.norm, jnp.abs(alpha) + beta)
    exhausted = beta <= BREAKDOWN * rounding * norm
    key, used = jax.random.split(s.key)
    v = jax.lax.cond(exhausted, lambda _: fresh(domain, used, basis, j + 1), trees.unit, w)
    beta = jnp.where(exhausted, 0, beta)
    # The last row has no row after it: "drop" leaves its coupling to `beta`.
    t = s.t.at[j, j].set(alpha).at[j, j + 1].set(beta, mode="drop").at[j + 1, j].set(beta, mode="drop")
    counts = {"filled": j + 1, "since": s.since + 1, "num_matvecs": s.num_matvecs + 1}
    return s._replace(v=v, basis=basis, t=t, beta=beta, norm=norm, key=key, **counts)


def fresh(domain: Operator, key: Any, basis: PyTree, filled: Int[Array, ""] | int) -> PyTree:
    """A random unit vector of the operator's space, orthogonal to the rows of a basis.

    Example:
      >>> from hessjax.matrices import Matrix
      >>> jnp.abs(fresh(Matrix(jnp.eye(2)), jax.random.key(0), jnp.array([[1.0, 0.0]]), 1)).tolist()
      [0.0, 1.0]
    """
    v = trees.vary_with(unit_start(domain, key), basis)
    return trees.unit(orthogonalize(v, basis, filled))


def _turn(s: Search, domain: Operator, tol: Any, *, k: int, which: str) -> Search:
    return _restart(s, _rayleigh_ritz(s, tol, k, which), domain, k, which)


def _rayleigh_ritz(s: Search, tol: Any, k: int, which: str) -> Rows:
    place, rows = jnp.arange(len(s.t)), len(s.t)
    locked, filled = place < s.locked, place < s.filled
    # Locked rows are moved below all others and empty ones above, each to a place of its own: sorting leaves them where
    # they are, and no eigenvector mixes them with others.
    t = jnp.where(jnp.isfinite(s.norm), s.t, 0)
    t = jnp.where(filled[:, None] & filled[None, :], t, 0)
    bound = jnp.max(jnp.sum(jnp.abs(t), axis=1))
    bound, diagonal = jnp.where(bound > 0, bound, 1), jnp.diagonal(t)
    below, above = -bound * (3 - place / rows), bound * (2 + place / rows)
    moved = jnp.where(locked, below, jnp.where(filled, diagonal, above))
    values, rotation = stacks.eigh(t + jnp.diag(moved - diagonal))
    values, active = jnp.where(locked, diagonal, values), filled & ~locked
    coupling = jnp.where(active, s.beta * rotation[s.filled - 1], 0)
    norm = jnp.maximum(s.norm, jnp.max(jnp.where(filled, jnp.abs(values), 0)))
    places = rank(values, which, locked, filled, tol * norm)
    return Rows(values, rotation, coupling, places, locked, active, filled & (jnp.abs(coupling) <= tol * norm))


def rank(
    values: Float[Array, " m"], which: str, locked: Bool[Array, " m"], filled: Bool[Array, " m"], slack: Any
) -> Int[Array, " m"]:
    """Place of each value among those wanted, 0 first; a locked one stays before others within `slack` of it."""
    ahead = jnp.where(locked, slack, 0)
    place = lambda badness: _place(jnp.where(filled, badness, jnp.inf))
    if which == "LM":
        return place(-jnp.abs(values) - ahead)
    from_high, from_low = place(-values - ahead), place(values - ahead)
    if which != "BE":
        return from_high if which == "LA" else from_low
    return place(jnp.minimum(2 * from_high, 2 * from_low + 1).astype(values.dtype))


def _place(x: Array) -> Int[Array, " m"]:
    """Where each entry would be sorted to, equal ones in their order; by counting, for a sort is slow to compile."""
    i = jnp.arange(len(x))
    before = (x[None, :] < x[:, None]) | ((x[None, :] == x[:, None]) & (i[None, :] < i[:, None]))
    return jnp.sum(before, axis=1, dtype=jnp.int32)


def _order(x: Array) -> Int[Array, " m"]:
    """The permutation that sorts x."""
    return jnp.argmax(_place(x)[None, :] == jnp.arange(len(x))[:, None], axis=1)


def _restart(s: Search, r: Rows, domain: Operator, k: int, which: str) -> Search:
    """Locks what has converged; then ends, begins afresh beside it, or goes on from the best half of the rest."""
    rows, size = len(s.t), domain.size - domain.num_deflated
    everything = rows == size
    now = (r.rank < k) & r.close & r.active
    now &= jnp.cumsum(now, dtype=jnp.int32) <= (rows if everything else rows - 2) - s.locked
    locked = s.locked + jnp.sum(now, dtype=jnp.int32)
    complete = jnp.all((r.rank >= k) | r.locked | now)
    steps, settled = _hidden(s, r, k, which, size)
    finished = everything | (complete & ((~jnp.any(now) & settled) | (locked >= rows - 2)))
    afresh = complete & jnp.any(now) & ~finished
    spare = jnp.where(afresh, 0, jnp.clip(jnp.maximum((rows - locked) // 2, k + 1 - locked), 1, rows - locked - 1))
    order = _order(jnp.where(r.locked, -2, jnp.where(now, -1, jnp.where(r.active, r.rank, rows))))
    filled = jnp.where(finished, s.filled, jnp.minimum(locked + spare, s.filled))
    taken, held = jnp.arange(rows) < filled, jnp.arange(rows) < locked
    basis = trees.combine(jnp.where(taken[:, None], r.rotation[:, order].T, 0), s.basis)
    coupling = jnp.where(taken & ~held, r.coupling[order], 0)
    t = jnp.diag(jnp.where(taken, r.values[order], 0))
    t = t.at[filled].set(coupling, mode="drop").at[:, filled].set(coupling, mode="drop")
    key, used = jax.random.split(s.key)
    v = jax.lax.cond(afresh, lambda _: fresh(domain, used, basis, rows), lambda x: x, s.v)
    stop = jnp.where(afresh, jnp.minimum(locked + steps, rows), rows).astype(jnp.int32)
    return s._replace(
        v=v, basis=basis, t=t, filled=filled, locked=locked, stop=stop, since=jnp.where(afresh, 0, s.since), key=key,
        finished=finished,
    )  # fmt: skip


def _hidden(s: Search, r: Rows, k: int, which: str, size: int) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """Steps after which an eigenvalue beyond those found would have shown, and whether there were as many.

    From a random start j steps leave the largest Ritz value more than a share e of the spread below the largest
    eigenvalue with probability at most 1.648 sqrt(n) exp(-sqrt(e) (2j - 1)).
    """
    wanted, filled = (r.rank < k) & (r.locked | r.active), r.locked | r.active
    largest = lambda x, where: jnp.max(jnp.where(where, x, -jnp.inf))
    spread = largest(r.values, filled) + largest(-r.values, filled)

    def end(values, found):
        """The upper end of `values`: steps needed, and whether its best remaining Ritz value has converged."""
        top, least = largest(values, r.active), -largest(-found, wanted)
        share = jnp.clip((least - top) / jnp.where(spread > 0, spread, 1), 1e-9, 1)
        steps = 0.5 + 0.5 * jnp.log(1.648 * size**0.5 / MISSED) / jnp.sqrt(share)
        return jnp.ceil(steps), jnp.any(r.close & r.active & (values == top)) | ~jnp.any(r.active)

    found = jnp.abs(r.values) if which == "LM" else r.values
    ends = []
    if which != "SA":
        ends.append(end(r.values, jnp.where(r.rank % 2 == 0, found, jnp.inf) if which == "BE" else found))
    if which == "SA" or which == "LM" or (which == "BE" and k > 1):
        mirrored = found if which == "LM" else -r.values
        ends.append(end(-r.values, jnp.where(r.rank % 2 == 1, mirrored, jnp.inf) if which == "BE" else mirrored))
    steps = jnp.max(jnp.stack([steps for steps, _ in ends]))
    settled = jnp.all(jnp.stack([(s.since >= steps) | converged for steps, converged in ends]))
    return steps, settled


def _best(s: Search, *, k: int, which: str) -> PyTree:
    """The k best vectors of what was locked or kept."""
    filled = jnp.arange(len(s.t)) < s.filled
    best = _order(rank(jnp.diagonal(s.t), which, filled, filled, 0.0))[:k]
    return jax.tree.map(lambda q: q[best], s.basis)


def _measured(vectors: PyTree, images: PyTree, norm: Any, rtol: Any, num_matvecs: Any) -> Eigenpairs:
    """Values and residuals from one more product each."""
    values = jax.vmap(trees.dot)(vectors, images)
    ascending = _order(values)
    values, vectors, images = jax.tree.map(lambda x: x[ascending], (values, vectors, images))
    off = lambda value, v, image: trees.norm(trees.axpy(-value, v, image))
    residuals = jax.vmap(off)(values, vectors, images)
    norm = jnp.maximum(norm, jnp.max(jnp.abs(values)))
    return Eigenpairs(values, vectors, residuals, residuals <= rtol * norm, num_matvecs + len(values))
