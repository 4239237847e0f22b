"""Extreme eigenpairs from a subspace that nearly holds them: what training has moved is found again in a few products.

Rayleigh and Ritz on the last vectors, a random one, and what two products add to them: a block Krylov space, begun
anew from its best vectors until the residuals are small. From scratch `eigsh` needs fewer products and less luck.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from hessjax import stacks, trees
from hessjax.extremes import rank
from hessjax.krylov import eps, unit_start
from hessjax.operators import Operator
from hessjax.projections import Eigenpairs
from hessjax.trees import PRNGKey

__all__ = ["matvecs", "refined", "width"]

DEPTH = 2  # products of a block before it begins anew


def width(k: int, size: int) -> int:
    """Vectors that are kept for k eigenpairs of an operator of that size: beside those wanted the next one."""
    return min(k + 1, size)


def matvecs(kept: int) -> int:
    """Products that a round takes from so many vectors and a random one, which sees what is new.

    Example:
      >>> matvecs(width(1, 100))
      9
    """
    return (kept + 1) * (DEPTH + 1)


def refined(
    op: Operator, block: PyTree, key: PRNGKey, *, k: int, which: str, rtol: float, max_matvecs: int
) -> tuple[Eigenpairs, PyTree]:
    """k extreme eigenpairs, and the block to begin with the next time.

    Args:
      op: a symmetric operator that a program can hold.
      block: `width(k, n)` vectors: the last block, or random ones.
      key: draws a vector a round.
      k: eigenpairs wanted.
      which: as `eigsh` takes it.
      rtol: rounds end where every ||A v - lambda v|| <= rtol ||A||, ||A|| the largest |Ritz value|.
      max_matvecs: or where one more would take more products; there is one at least.

    Example:
      >>> import hessjax as hj
      >>> A, key = hj.Matrix(jnp.diag(jnp.arange(9.0))), jax.random.key(0)
      >>> near = jnp.eye(9)[-2:] + 0.01
      >>> found, _ = refined(A, near, key, k=1, which="LA", rtol=1e-4, max_matvecs=200)
      >>> found.values.round(3).tolist()
      [8.0]
    """
    each = matvecs(len(jax.tree.leaves(block)[0]))

    def again(state):
        (_, found), _ = state
        return ~found.converged.all() & (found.num_matvecs + each <= max_matvecs) & jnp.isfinite(found.values).all()

    def turn(state):
        (block, found), number = state
        block, more = _round(op, block, jax.random.fold_in(key, number), k=k, which=which, rtol=rtol)
        return (block, more._replace(num_matvecs=found.num_matvecs + each)), number + 1

    first = _round(op, block, jax.random.fold_in(key, 0), k=k, which=which, rtol=rtol)
    (block, found), _ = jax.lax.while_loop(again, turn, (first, jnp.int32(1)))
    return found._replace(values=jnp.where(jnp.isinf(found.residuals), jnp.nan, found.values)), block


def _round(op: Operator, block: PyTree, key: PRNGKey, *, k: int, which: str, rtol: float) -> tuple[PyTree, Eigenpairs]:
    kept = len(jax.tree.leaves(block)[0])
    fresh = jax.tree.map(lambda x: x[None], unit_start(op.domain(), key))
    added = _orthonormal(_joined(block, fresh), None, eps(op))
    basis, images = added, op.products(added)
    for _ in range(DEPTH):
        added = _orthonormal(jax.tree.map(lambda w: w[-kept - 1 :], images), basis, eps(op))
        basis, images = _joined(basis, added), _joined(images, op.products(added))
    filled = jax.vmap(trees.norm)(basis) > 0.5
    t = trees.gram(basis, images)
    finite = jnp.all(jnp.isfinite(t))
    values, rotation, filled = _ritz(jnp.where(finite, (t + t.T) / 2, 0), filled)
    nothing = jnp.zeros_like(filled)
    place = rank(values, which, nothing, filled, 0.0)
    best = jnp.argsort(jnp.where(filled, place, len(place)))[:kept]
    norm = jnp.max(jnp.where(filled, jnp.abs(values), 0))
    block = trees.combine(rotation[:, best].T, basis)
    wanted = best[:k][jnp.argsort(values[best[:k]])]
    vectors, moved = (trees.combine(rotation[:, wanted].T, x) for x in (basis, images))
    off = lambda value, v, image: trees.norm(trees.axpy(-value, v, image))
    # A place that no vector fills has no eigenvalue: of a block of zeros, as after a step that was not finite.
    residuals = jnp.where(filled[wanted], jax.vmap(off)(values[wanted], vectors, moved), jnp.inf)
    values = jnp.where(finite, values[wanted], jnp.nan)
    return block, Eigenpairs(values, vectors, residuals, residuals <= rtol * norm, jnp.int32(matvecs(kept)))


def _ritz(
    t: Float[Array, "m m"], filled: Bool[Array, " m"]
) -> tuple[Float[Array, " m"], Float[Array, "m m"], Bool[Array, " m"]]:
    """Eigenvalues of the filled rows; empty ones, all zero, are moved above the others and told apart there."""
    bound = 1 + 2 * jnp.max(jnp.sum(jnp.abs(t), axis=1))
    values, rotation = stacks.eigh(t + jnp.diag(jnp.where(filled, 0, bound)))
    return values, rotation, jnp.arange(len(t)) < jnp.sum(filled)


def _joined(a: PyTree, b: PyTree) -> PyTree:
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), a, b)


def _orthonormal(block: PyTree, basis: PyTree | None, rounding: float) -> PyTree:
    """Orthonormal rows that span a block, less what a basis spans; zeros for rows that add nothing but rounding."""
    for least in (100 * rounding, 0.5):  # twice is enough: what is left then is new, or was in the basis
        block = _scaled(block, 0.0)
        if basis is not None:
            for _ in range(2):
                block = jax.tree.map(jnp.subtract, block, trees.combine(trees.gram(block, basis), basis))
                block, least = _scaled(block, least), 0.5
        values, vectors = stacks.eigh(trees.gram(block, block))
        shrunk = jnp.where(values > 1e3 * rounding, 1 / jnp.sqrt(jnp.maximum(values, rounding)), 0)
        block = trees.combine((shrunk[:, None] * vectors.T).astype(values.dtype), block)
    return block


def _scaled(block: PyTree, least: float) -> PyTree:
    """Rows at unit length, those no longer than `least` as zeros."""
    lengths = jax.vmap(trees.norm)(block)
    kept = lengths > least
    return jax.vmap(trees.scale)(jnp.where(kept, 1 / jnp.where(kept, lengths, 1), 0), block)
