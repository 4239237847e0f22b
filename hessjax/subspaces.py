"""Extreme eigenpairs from a subspace that nearly holds them: what training has moved is found again in a few products.

Rayleigh and Ritz on the last vectors and on a Krylov space beside them, which begins with what their residuals point to
and a random vector, so that what is new is seen too. From scratch `eigsh` needs fewer products and less luck.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from hessjax import stacks, trees
from hessjax.extremes import fresh, rank
from hessjax.krylov import BREAKDOWN, eps, orthogonalize
from hessjax.operators import Operator
from hessjax.projections import Eigenpairs
from hessjax.trees import PRNGKey

__all__ = ["matvecs", "refined", "width"]

# Products between two looks. Of 200,000 params, a new top of twice the bulk is then found at once; with 4, never.
GROWTH = 6
SHARE = 0.03  # of the random vector in what the Krylov space begins with: more keeps residuals from falling
ROOM = 16  # rows beside twice those kept, before the space is cut back to half of its rows


class Space(NamedTuple):
    """Orthonormal rows, zeros from `filled` on, and what A makes of them. `v` is what the next row is made from.

    Of the last look, best first: Ritz values with the `rotation` of rows that makes their vectors; of the k wanted how
    far off they are. `norm` is the largest |Ritz value|.
    """

    basis: PyTree
    images: PyTree
    v: PyTree
    filled: Int[Array, ""]
    num_matvecs: Int[Array, ""]
    values: Float[Array, " m"]
    rotation: Float[Array, "m m"]
    residuals: Float[Array, " k"]
    converged: Bool[Array, " k"]
    norm: Float[Array, ""]
    key: Any


def width(k: int, size: int) -> int:
    """Vectors that are kept for k eigenpairs of an operator of that size: beside those wanted the next one."""
    return min(k + 1, size)


def matvecs(kept: int) -> int:
    """The least number of products that so many kept vectors are made up to date with.

    Example:
      >>> matvecs(width(1, 100))
      8
    """
    return kept + GROWTH


def refined(
    op: Operator, block: PyTree, key: PRNGKey, *, k: int, which: str, rtol: float, max_matvecs: int
) -> tuple[Eigenpairs, PyTree]:
    """k extreme eigenpairs, and the block to begin with the next time.

    Keeps 2 (2 (k + 1) + 16) vectors.

    Args:
      op: a symmetric operator that a program can hold.
      block: `width(k, n)` vectors: the last block, or random ones; zeros are drawn anew.
      key: draws vectors, others at every call.
      k: eigenpairs wanted.
      which: as `eigsh` takes it.
      rtol: ends where every ||A v - lambda v|| <= rtol ||A||, ||A|| the largest |Ritz value|.
      max_matvecs: or where more products would be taken; `matvecs` are at the least.

    Example:
      >>> import hessjax as hj
      >>> A, key = hj.Matrix(jnp.diag(jnp.arange(9.0))), jax.random.key(0)
      >>> near = jnp.eye(9)[-2:] + 0.01
      >>> found, _ = refined(A, near, key, k=1, which="LA", rtol=1e-4, max_matvecs=200)
      >>> found.values.round(3).tolist()
      [8.0]

    References: Parlett (1998), doi:10.1137/1.9781611971163, chapters 11 and 13.
    """
    kept = len(jax.tree.leaves(block)[0])
    rows = min(2 * kept + ROOM, op.size)

    def over(s: Space) -> Bool[Array, ""]:
        spent = s.num_matvecs + GROWTH > max_matvecs
        return s.converged.all() | spent | ~jnp.isfinite(s.norm) | ((s.filled >= rows) & (rows == op.size))

    def turn(s: Space) -> Space:
        s = jax.lax.cond(s.filled >= rows, _cut, lambda s: s, s)
        stop = jnp.where(s.filled == 0, matvecs(kept), s.filled + GROWTH)
        s = jax.lax.fori_loop(s.filled, jnp.minimum(stop, rows), lambda j, s: _grown(op, s, j, kept), s)
        return _looked(s, k, which, rtol)

    s = jax.lax.while_loop(lambda s: (s.filled == 0) | ~over(s), turn, _begun(op, block, key, rows, k))
    up = jnp.argsort(s.values[:k])
    values = jnp.where(jnp.isinf(s.residuals), jnp.nan, s.values[:k])
    vectors = trees.combine(s.rotation[:k][up], s.basis)
    found = Eigenpairs(values[up], vectors, s.residuals[up], s.converged[up], s.num_matvecs)
    return found, trees.combine(s.rotation[:kept], s.basis)


def _begun(op: Operator, block: PyTree, key: Any, rows: int, k: int) -> Space:
    """The block's vectors are the first rows, though `filled` counts none: what A makes of them is still unknown."""
    block = _orthonormal(block, eps(op))
    basis = jax.tree.map(lambda x: jnp.zeros((rows, *x.shape[1:]), x.dtype).at[: len(x)].set(x), block)
    like = jax.tree.map(lambda x: x[0], basis)
    zero, none = jnp.zeros((), trees.scalar_dtype(block)), jnp.int32(0)
    known = jnp.zeros(rows, zero.dtype), jnp.zeros((rows, rows), zero.dtype), jnp.zeros(k, zero.dtype)
    images, v = trees.zeros_like(like, rows), trees.zeros_like(like)
    s = Space(basis, images, v, none, none, *known, jnp.zeros(k, bool), zero, None)
    return trees.vary_with(s, op)._replace(key=key)


def _grown(op: Operator, s: Space, j: Int[Array, ""], kept: int) -> Space:
    """One row more: the block's own; then what A adds, at first with a random vector; that alone if A adds nothing."""
    domain, rows = op.domain(), len(jax.tree.leaves(s.basis)[0])
    key, used = jax.random.split(s.key)
    clean = lambda v: orthogonalize(v, s.basis, rows)  # of rows of the block that are still to come, too
    drawn = lambda: fresh(domain, used, s.basis, rows)
    own = jax.tree.map(lambda x: x[j], s.basis)
    is_own = (s.num_matvecs < kept) & (trees.norm(own) > 0.5)

    def added(v: PyTree) -> PyTree:
        rest = clean(v)
        new = trees.norm(rest) > BREAKDOWN * eps(op) * trees.norm(v)
        first = s.num_matvecs == kept
        both = lambda: trees.unit(clean(trees.axpy(SHARE, drawn(), trees.unit(rest))))
        known = lambda: jax.lax.cond(first, both, lambda: trees.unit(rest))
        return jax.lax.cond(new & (s.num_matvecs >= kept), known, drawn)

    v = jax.lax.cond(is_own, lambda _: own, added, s.v)
    image = domain.confine(op.product(v))
    put = lambda block, x: jax.tree.map(lambda q, y: q.at[j].set(y.astype(q.dtype)), block, x)
    # What A makes of the vectors wanted, less the block, is what their residuals point to.
    before, now = s.num_matvecs < kept, (s.num_matvecs < len(s.residuals)) | (s.num_matvecs >= kept)
    following = jax.tree.map(lambda x, y: jnp.where(before, x, 0) + jnp.where(now, y, 0).astype(x.dtype), s.v, image)
    counts = {"filled": j + 1, "num_matvecs": s.num_matvecs + 1}
    return s._replace(basis=put(s.basis, v), images=put(s.images, image), v=following, key=key, **counts)


def _looked(s: Space, k: int, which: str, rtol: float) -> Space:
    """Rayleigh-Ritz on the rows that are filled, and how far off the pairs wanted are."""
    filled = jnp.arange(len(s.values)) < s.filled
    t = trees.gram(s.basis, s.images)
    t = jnp.where(filled[:, None] & filled[None, :], t, 0)
    finite = jnp.all(jnp.isfinite(t))
    values, rotation = _ritz(jnp.where(finite, (t + t.T) / 2, 0), filled)
    place = rank(values, which, jnp.zeros_like(filled), filled, 0.0)  # filled ones come first in `values`
    best = jnp.argsort(jnp.where(filled, place, len(place)))
    values, rotation = jnp.where(filled, values[best], 0), rotation[:, best].T
    norm = jnp.where(finite, jnp.max(jnp.abs(values)), jnp.nan)
    vectors, moved = (trees.combine(rotation[:k], x) for x in (s.basis, s.images))
    off = lambda value, v, image: trees.norm(trees.axpy(-value, v, image))
    residuals = jnp.where(filled[:k], jax.vmap(off)(values[:k], vectors, moved), jnp.inf)
    values = jnp.where(finite, values, jnp.nan)
    looked = {"values": values, "rotation": rotation, "residuals": residuals, "norm": norm}
    return s._replace(**looked, converged=residuals <= rtol * norm)


def _cut(s: Space) -> Space:
    """The better half of the Ritz vectors, to go on from what is wrong with those wanted."""
    half, k = len(s.values) // 2, len(s.residuals)
    basis, images = (
        jax.tree.map(lambda x, new: jnp.zeros_like(x).at[:half].set(new), x, trees.combine(s.rotation[:half], x))
        for x in (s.basis, s.images)
    )
    wrong = jax.vmap(lambda value, v, image: trees.unit(trees.axpy(-value, v, image)))
    some = lambda x: jax.tree.map(lambda y: y[:k], x)
    away = wrong(s.values[:k], some(basis), some(images))
    v = trees.combine(jnp.where(s.converged, 0, 1).astype(s.values.dtype), away)
    return s._replace(basis=basis, images=images, v=v, filled=jnp.int32(half))


def _ritz(t: Float[Array, "m m"], filled: Bool[Array, " m"]) -> tuple[Float[Array, " m"], Float[Array, "m m"]]:
    """Eigenvalues of the filled rows; empty ones, all zero, are moved above the others."""
    bound = 1 + 2 * jnp.max(jnp.sum(jnp.abs(t), axis=1))
    return stacks.eigh(t + jnp.diag(jnp.where(filled, 0, bound)))


def _orthonormal(block: PyTree, rounding: float) -> PyTree:
    """The orthonormal rows that are nearest to those of a block; zeros for those that depend on others."""
    for _ in range(2):
        block = jax.vmap(trees.unit)(block)
        values, vectors = stacks.eigh(trees.gram(block, block))
        shrunk = jnp.where(values > 1e3 * rounding, 1 / jnp.sqrt(jnp.maximum(values, rounding)), 0)
        block = trees.combine((vectors @ (shrunk[:, None] * vectors.T)).astype(values.dtype), block)
    whole = jax.vmap(trees.norm)(block) > 0.9
    return jax.vmap(trees.scale)(jnp.where(whole, 1, 0), block)
