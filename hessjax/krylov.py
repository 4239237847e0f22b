"""Lanczos tridiagonalisation on pytrees: A Q = Q T + r e', with or without reorthogonalisation.

Without, three vectors are kept and Ritz values may repeat (ghosts); that costs quadrature nothing, for ghosts share
their eigenvalue's weight (Greenbaum 1989). With, the basis is kept: num_steps x n. Knows nothing of losses or data.
Reference: Golub & Van Loan, Matrix Computations, 4th ed., sections 10.1-10.3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PyTree

from hessjax import stacks, trees
from hessjax.arguments import check_count, check_key, is_full
from hessjax.driving import between, over, ready, repeat, run, space
from hessjax.operators import Operator, check_operand
from hessjax.trees import PRNGKey

__all__ = [
    "Ritz",
    "Tridiagonal",
    "cost",
    "eps",
    "lanczos",
    "orthogonalize",
    "ritz",
    "runs",
    "tridiagonals",
    "unit_start",
]

# A residual this many roundings small, relative to ||T||, is rounding: the Krylov space is exhausted.
BREAKDOWN = 8
ROWS = 8  # basis vectors subtracted at once; fewer wasted rows against longer matrix products


class Tridiagonal(NamedTuple):
    """T of a Lanczos run: diagonal `alphas`, and `betas` below it, the last one the norm of the residual.

    `basis` has a leading axis of num_steps on every leaf, or is None. Steps from `num_steps_done` on did not happen
    (the Krylov space was exhausted): zeros.
    """

    alphas: Float[Array, "*lanes m"]
    betas: Float[Array, "*lanes m"]
    basis: PyTree
    num_steps_done: Int[Array, "*lanes"]


class State(NamedTuple):
    """Between two steps: `v` is the vector whose product comes next, `going` whether there is one."""

    v: PyTree
    before: PyTree
    beta: Float[Array, ""]
    norm: Float[Array, ""]
    going: Bool[Array, ""]
    run: Tridiagonal


def lanczos(
    op: Operator,
    key: PRNGKey,
    *,
    num_steps: int,
    reorthogonalize: str = "full",
    start: PyTree = None,
) -> Tridiagonal:
    """T and Q of `num_steps` Lanczos steps: A Q = Q T + beta q e'.

    Args:
      op: a symmetric operator A.
      key: draws the start, unless there is one.
      num_steps: m, at least 1; more than n is fine. Costs m products.
      reorthogonalize: "full" (against all vectors so far, again where that lost digits; keeps the basis, m x n) or
        "none" (keeps three vectors; Ritz values repeat, no basis is returned).
      start: the first vector, any length but zero; None: random, uniform over directions.

    Returns:
      T, in the units of A; the basis; how many steps there were before the space was exhausted.

    Raises:
      ValueError: num_steps below 1, an unknown `reorthogonalize`, a start of another space, or zero.

    Example:
      >>> import hessjax as hj
      >>> t = hj.lanczos(hj.Matrix(jnp.diag(jnp.array([1.0, 2.0, 3.0]))), jax.random.key(0), num_steps=3)
      >>> T = jnp.diag(t.alphas) + jnp.diag(t.betas[:-1], 1) + jnp.diag(t.betas[:-1], -1)
      >>> hj.eigvalsh(T).round(5).tolist()
      [1.0, 2.0, 3.0]

    References: Lanczos (1950), doi:10.6028/jres.045.026; Parlett (1998), The Symmetric Eigenvalue Problem, 6.9 (two
      subtractions are enough); Paige (1972), doi:10.1093/imamat/10.3.373 (the order of the recurrence).
    """
    check_key(key)
    check_operand(op)
    check_count("num_steps", num_steps)
    full = is_full(reorthogonalize)
    if start is not None:
        start = trees.conform(start, space(op), "start")
        if not any(isinstance(x, Tracer) for x in jax.tree.leaves(start)) and not trees.norm(start) > 0:
            raise ValueError("start is zero or not finite, wanted a vector of any other length; or leave it out.")
    return run(_lanczos, op, key, start, num_steps=num_steps, full=full)


def _lanczos(op: Operator, key: Any, start: PyTree, *, num_steps: int, full: bool) -> Tridiagonal:
    steps = min(num_steps, _dimension(op))
    v = unit_start(op, key) if start is None else _unit(op, start)
    done = repeat(ready(op, steps), _step, _begin(op, v, steps, full), 0, steps, ended=_ended, eps=eps(op)).run
    pad = num_steps - steps
    wider = lambda x: jnp.pad(x, [(0, pad)] + [(0, 0)] * (x.ndim - 1))
    return Tridiagonal(wider(done.alphas), wider(done.betas), jax.tree.map(wider, done.basis), done.num_steps_done)


def runs(op: Any, num_steps: Any, num_probes: Any, reorthogonalize: Any) -> dict[str, Any]:
    """What `tridiagonals` is asked for, checked.

    Raises:
      TypeError: `op` is no operator.
      ValueError: num_steps or num_probes below 1, an unknown `reorthogonalize`.
    """
    check_operand(op)
    check_count("num_steps", num_steps)
    check_count("num_probes", num_probes)
    return {"num_steps": num_steps, "num_probes": num_probes, "full": is_full(reorthogonalize)}


def cost(op: Operator, num_steps: int, num_probes: int) -> int:
    """Products that `tridiagonals` takes at most.

    Example:
      >>> from hessjax.matrices import Matrix
      >>> cost(Matrix(jnp.eye(3)), 64, 2)
      6
    """
    return min(num_steps, _dimension(op)) * num_probes


def tridiagonals(op: Operator, key: PRNGKey, *, num_steps: int, num_probes: int, full: bool) -> Tridiagonal:
    """T of independent random starts, [probes, m]; no basis. Full reorthogonalisation also where m reaches n.

    Example:
      >>> from hessjax.matrices import Matrix
      >>> tridiagonals(Matrix(jnp.eye(3)), jax.random.key(0), num_steps=2, num_probes=4, full=False).alphas.shape
      (4, 2)
    """
    steps = min(num_steps, _dimension(op))
    keys, full, op = jax.random.split(key, num_probes), full or steps == _dimension(op), ready(op, steps * num_probes)
    begin = lambda k: _begin(op, unit_start(op, k), steps, full)
    forget = lambda state: state.run._replace(basis=None)
    if op.streamed:  # one pass over the data multiplies the vectors of all probes
        begun = between(_starts, op.domain(), keys, steps=steps, full=full)
        return forget(repeat(op, _step, begun, 0, steps, lanes=True, ended=_ended, eps=eps(op)))
    return over(op, lambda k: forget(repeat(op, _step, begin(k), 0, steps, eps=eps(op))), keys)


def _starts(domain: Operator, keys: Any, *, steps: int, full: bool) -> State:
    return jax.vmap(lambda k: _begin(domain, unit_start(domain, k), steps, full))(keys)


def unit_start(op: Operator, key: PRNGKey) -> PyTree:
    """A random unit vector, uniform over the directions of the operator's space: whatever the basis, tr f is unbiased.

    Example:
      >>> from hessjax.matrices import Matrix
      >>> round(float(trees.norm(unit_start(Matrix(jnp.eye(3)), jax.random.key(0)))), 6)
      1.0
    """
    return _unit(op, trees.normal_like(key, space(op)))


def _unit(op: Operator, v: PyTree) -> PyTree:
    v = trees.vary_with(trees.lift(op.confine(v)), op)
    return _divided(v, trees.norm(v))


def _divided(v: PyTree, length: Float[Array, ""]) -> PyTree:
    """v / length, and zero where the length is."""
    return trees.scale(jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0), v)


def _begin(op: Operator, v: PyTree, steps: int, full: bool) -> State:
    zero = jnp.zeros((), trees.scalar_dtype(v))
    entries = jnp.zeros(steps, zero.dtype)
    basis = trees.zeros_like(v, steps) if full else None
    none = Tridiagonal(entries, entries, basis, jnp.int32(0))
    begun = State(v, trees.zeros_like(v), zero, zero, jnp.bool_(True), none)
    return trees.vary_with(begun, op)


def _ended(s: State) -> Bool[Array, "*lanes"]:
    return ~s.going


def _step(s: State, w: PyTree, i: Int[Array, ""], domain: Operator, *, eps: float) -> State:
    w = trees.axpy(-s.beta, s.before, w)
    alpha = trees.dot(s.v, w)
    # Rounding leads out of a deflated operator's space, and would grow where all eigenvalues are far from zero.
    w = domain.confine(trees.axpy(-alpha, s.v, w))
    basis = s.run.basis
    if basis is not None:
        basis = jax.tree.map(lambda rows, x: rows.at[i].set(x), basis, s.v)
        w = orthogonalize(w, basis, i + 1)
    beta = trees.norm(w)
    norm = jnp.maximum(s.norm, jnp.abs(alpha) + s.beta + beta)
    going = s.going & (beta > BREAKDOWN * eps * norm)
    beta = jnp.where(going, beta, 0)
    run = Tridiagonal(
        s.run.alphas.at[i].set(jnp.where(s.going, alpha, 0)),
        s.run.betas.at[i].set(beta),
        basis,
        s.run.num_steps_done + s.going,
    )
    return State(_divided(w, beta), s.v, beta, norm, going, run)


def orthogonalize(w: PyTree, basis: PyTree, filled: Int[Array, ""] | int) -> PyTree:
    """w less its part in the first `filled` vectors of an orthonormal basis; the rows after them must be zero.

    A second subtraction where the first took more than it left, so that rounding of what was taken does not stay.

    Example:
      >>> orthogonalize(jnp.array([3.0, 4.0]), jnp.array([[1.0, 0.0], [0.0, 0.0]]), 1).tolist()
      [0.0, 4.0]
    """
    count = len(jax.tree.leaves(basis)[0])
    rows = min(ROWS, count)

    def subtract(b, x):
        # The last block may begin early, to end with the basis: subtracting a vector twice takes nothing more away.
        block = jax.tree.map(lambda q: jax.lax.dynamic_slice_in_dim(q, b * rows, rows), basis)
        return jax.tree.map(jnp.subtract, x, trees.combine(trees.dots(block, x), block))

    def once(state):
        x, size, passes = state
        x = jax.lax.fori_loop(0, -(-filled // rows), subtract, x)
        length = trees.norm(x)
        return x, length, jnp.where(length < 0.7 * size, passes + 1, 2)

    size = trees.norm(w)
    return jax.lax.while_loop(lambda state: state[2] < 2, once, (w, size, 0 * size.astype(jnp.int32)))[0]


class Ritz(NamedTuple):
    """Eigenvalues of T ascending, with the squares of the first and the sizes of the last entries of its eigenvectors.

    Slots from num_steps_done on repeat the largest value at weight 0. `residual` is the norm of the run's residual.
    """

    values: Float[Array, "*lanes m"]
    weights: Float[Array, "*lanes m"]
    last: Float[Array, "*lanes m"]
    residual: Float[Array, "*lanes"]


def ritz(t: Tridiagonal, eps: float) -> Ritz:
    """The eigen-decomposition of T as quadrature needs it; NaN throughout where T has one.

    Example:
      >>> t = Tridiagonal(jnp.array([1.0, 0.0]), jnp.array([0.0, 0.0]), None, jnp.int32(1))
      >>> ritz(t, 1e-7).weights.tolist()
      [1.0, 0.0]
    """
    slot, done = jnp.arange(t.alphas.shape[-1]), t.num_steps_done[..., None]
    used, finite = slot < done, jnp.all(jnp.isfinite(t.alphas + t.betas), axis=-1)
    alphas, betas = (jnp.where(finite[..., None], x, 0) for x in (t.alphas, t.betas))
    # Slots not used are given an eigenvalue above all others, so that no eigenvector mixes them with the used ones.
    norm = jnp.max(jnp.abs(alphas) + betas + jnp.roll(betas, 1, axis=-1), axis=-1, keepdims=True)
    diagonal = jnp.where(used, alphas, jnp.where(norm > 0, 2 * norm, 1))
    side = jnp.where(slot < done - 1, betas, 0)[..., :-1]
    values, vectors = stacks.eigh(_matrix(diagonal, side))
    weights = vectors[..., 0, :] ** 2
    # What a residual of rounding size lets through is not mass.
    weights = jnp.where(used & (weights > (4 * BREAKDOWN * eps) ** 2), weights, 0)
    last = jnp.abs(jnp.take_along_axis(vectors, done[..., None] - 1, axis=-2)[..., 0, :])
    top = jnp.take_along_axis(values, done - 1, axis=-1)
    found = Ritz(jnp.where(used, values, top), weights / jnp.sum(weights, axis=-1, keepdims=True), last, betas[..., -1])
    return Ritz(*(jnp.where(finite.reshape(finite.shape + (1,) * (x.ndim - finite.ndim)), x, jnp.nan) for x in found))


def _matrix(diagonal: Float[Array, "*lanes m"], side: Float[Array, "*lanes l"]) -> Float[Array, "*lanes m m"]:
    m = diagonal.shape[-1]
    i = jnp.arange(m)
    matrix = jnp.zeros((*diagonal.shape, m), diagonal.dtype).at[..., i, i].set(diagonal)
    return matrix.at[..., i[1:], i[:-1]].set(side).at[..., i[:-1], i[1:]].set(side)


def eps(op: Operator) -> float:
    """Rounding of the operator's products: that of its dtype, or of float32 for a smaller one computed in float32."""
    return trees.eps(space(op))


def product_eps(op: Operator) -> float:
    """Rounding of a product on its way in and out: that of the least precise dtype of the params."""
    return trees.eps(op.like)


def _dimension(op: Operator) -> int:
    return max(op.size - op.num_deflated, 1)
