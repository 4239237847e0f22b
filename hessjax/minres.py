"""MINRES-QLP: the shortest of all x that bring A x nearest to b, for symmetric A of any signs and any rank.

Lanczos' T = Q R by reflections from the left, as in MINRES; R P = L by reflections from the right, so that a last
diagonal entry of zero (a singular A and a b outside its range) leaves a solution instead of an infinity. Seven vectors
are kept whatever the number of steps.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from hessjax import trees
from hessjax.arguments import check_count
from hessjax.driving import between, product, run, space, until
from hessjax.krylov import BREAKDOWN, eps
from hessjax.operators import Operator, check_operand

__all__ = ["Solution", "minres_qlp", "solved"]


class Solution(NamedTuple):
    """x, and how near it is.

    `residual` is ||A x - b|| / (||A|| ||x|| + ||b||), small where b is in the range; `normal_residual` is
    ||A r|| / (||A|| ||r||) of r = A x - b, small where x is a least-squares solution, with ||A|| as the run saw it.
    """

    x: PyTree
    residual: Float[Array, "*lanes"]
    normal_residual: Float[Array, "*lanes"]
    converged: Bool[Array, "*lanes"]
    num_matvecs: Int[Array, "*lanes"]


class _Scalars(NamedTuple):
    """Of step k, before it: numbers of T, of the last left reflection, and the end of L u = tau.

    Rows of L are named by how far they are behind k, then columns: `l13` is L[k - 1, k - 3].
    """

    beta: Any
    c: Any
    s: Any
    dbar: Any  # above the diagonal in column k, not yet reflected
    epsilon: Any  # two above it
    phi: Any  # ||r|| of MINRES
    l24: Any
    l23: Any
    l22: Any
    l13: Any
    l12: Any
    l11: Any
    tau2: Any
    tau1: Any
    u4: Any
    u3: Any
    b_norm: Any
    length: Any  # ||x|| of what is settled
    x_norm: Any
    left: Any  # ||r|| of x, which may leave out a direction
    norm: Any  # ||A||, so far
    normal: Any  # ||A r|| / (||A|| ||r||)


class _State(NamedTuple):
    v: PyTree
    before: PyTree
    older: PyTree  # columns k - 2 and k - 1 of V P
    old: PyTree
    settled: PyTree  # the part of x that no later step changes
    x: PyTree
    at: _Scalars
    step: Any
    going: Any
    converged: Any


def minres_qlp(
    op: Operator,
    b: PyTree,
    *,
    rtol: float = 1e-6,
    max_steps: int | None = None,
    max_norm: float = math.inf,
    max_condition: float | None = None,
) -> Solution:
    """The least-squares solution of A x = b of least length, by products alone.

    Args:
      op: a symmetric operator A, of any signs, singular or not.
      b: a vector of its space; need not be in its range.
      rtol: ends when `residual` is at most this, or `normal_residual` at most this and the root of eps, the least that
        short recurrences reach.
      max_steps: products at most; None: 4 n.
      max_norm: of x; the first x longer than this is not taken, and ends the run.
      max_condition: directions in which A is smaller than ||A|| / max_condition are left out of x as far as the run has
        found them; None: 1 / (1000 eps). A run that ends by `normal_residual` leaves out what is smaller than 2 rtol,
        or twice the root of eps, of ||A||.

    Returns:
      Solution; `converged` is False where steps ran out, or x grew too long.

    Raises:
      TypeError: `op` is no operator.
      ValueError: `b` is of another space; rtol below 0, max_steps below 1, max_norm or max_condition not above 0.

    Example:
      >>> import hessjax as hj
      >>> a = hj.Matrix(jnp.diag(jnp.array([2.0, -1.0, 0.0])))
      >>> found = hj.minres_qlp(a, jnp.array([2.0, 3.0, 5.0]))
      >>> jnp.abs(found.x).round(4).tolist(), bool(found.residual > 0.1), bool(found.normal_residual < 1e-6)
      ([1.0, 3.0, 0.0], True, True)

    References: Choi, Paige & Saunders (2011), doi:10.1137/100787921.
    """
    check_operand(op)
    if max_steps is not None:
        check_count("max_steps", max_steps)
    if not rtol >= 0:
        raise ValueError(f"rtol must be a number from 0 up, got {rtol!r}.")
    for name, value in (("max_norm", max_norm), ("max_condition", max_condition)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value!r}.")
    b = trees.conform(b, space(op), "b")
    most = 1 / (1000 * eps(op)) if max_condition is None else max_condition
    limits = {"rtol": float(rtol), "max_steps": max_steps or 4 * op.size, "max_norm": float(max_norm), "most": most}
    return run(_within, op, b, limits)


def _within(op: Operator, b: PyTree, limits: dict[str, Any]) -> Solution:
    return solved(op, b, **limits)


def solved(
    op: Operator, b: PyTree, *, rtol: Any, max_steps: Any, max_norm: Any, most: Any, norm: Any = 0.0
) -> Solution:
    """`minres_qlp` of checked arguments, traced or streamed; all of them can be traced.

    `norm` is ||A|| where more of it is known than the Krylov space of b shows: b may be in the null space.

    Example:
      >>> from hessjax.matrices import Matrix
      >>> solved(Matrix(2 * jnp.eye(2)), jnp.ones(2), rtol=1e-6, max_steps=9, max_norm=1e9, most=1e6).x.tolist()
      [0.5, 0.5]
    """
    limits = {"rtol": rtol, "max_steps": max_steps, "max_norm": max_norm, "most": most, "eps": eps(op)}
    advance = lambda s: between(_step, s, product(op, s.v), op.domain(), limits)
    last = until(op, lambda s: ~s.going, advance, _begun(op, trees.vary_with(op.confine(b), op), norm))
    residual = last.at.left / _or_one(last.at.norm * last.at.x_norm + last.at.b_norm)
    return Solution(last.x, residual, last.at.normal, last.converged, last.step)


def _begun(op: Operator, b: PyTree, norm: Any) -> _State:
    length = trees.norm(b)
    zero = 0 * length  # varies as b does
    scalars = _Scalars(*[zero] * len(_Scalars._fields))._replace(
        c=zero - 1, phi=length, b_norm=length, norm=zero + norm
    )
    none = trees.scale(0, b)
    going = length > 0
    begun = _State(_divided(b, length), none, none, none, none, none, scalars, jnp.int32(0) * going, going, length <= 0)
    return trees.vary_with(begun, op)


def _divided(v: PyTree, length: Any) -> PyTree:
    return trees.scale(jnp.where(length > 0, 1 / _or_one(length), 0), v)


def _or_one(x: Any) -> Any:
    return jnp.where(x == 0, 1, x)


def _reflection(a: Any, b: Any) -> tuple[Any, Any, Any]:
    """c, s and r such that c a + s b = r >= 0 and s a - c b = 0; the identity but for a sign where both are zero."""
    r = jnp.hypot(a, b)
    return jnp.where(r > 0, a / _or_one(r), 1), b / _or_one(r), r


def _step(state: _State, w: PyTree, domain: Operator, limits: dict[str, Any]) -> _State:
    at, rtol, eps = state.at, limits["rtol"], limits["eps"]
    # Lanczos.
    w = trees.axpy(-at.beta, state.before, w)
    alpha = trees.dot(state.v, w)
    w = domain.confine(trees.axpy(-alpha, state.v, w))
    beta = trees.norm(w)
    norm = jnp.maximum(at.norm, jnp.hypot(jnp.hypot(at.beta, alpha), beta))
    beta = jnp.where(beta > BREAKDOWN * eps * norm, beta, 0)
    # The left reflection of the step before, and what it says of the residual before.
    delta, gbar = at.c * at.dbar + at.s * alpha, at.s * at.dbar - at.c * alpha
    epsilon, dbar = at.s * beta, -at.c * beta
    normal = jnp.hypot(gbar, dbar) / _or_one(norm)
    flat = jnp.maximum(rtol, eps**0.5)  # without reorthogonalisation no less is reached
    solved_before = normal <= flat
    # This step's.
    gamma = jnp.hypot(gbar, beta)
    c, s = jnp.where(gamma > 0, gbar / _or_one(gamma), 0), jnp.where(gamma > 0, beta / _or_one(gamma), 1)
    tau, phi = c * at.phi, s * at.phi
    # Two from the right: column k with k - 2, then with k - 1.
    c1, s1, l22 = _reflection(at.l22, at.epsilon)
    l12, delta = c1 * at.l12 + s1 * delta, s1 * at.l12 - c1 * delta
    l02, gamma = s1 * gamma, -c1 * gamma
    c2, s2, l11 = _reflection(at.l11, delta)
    l01, l00 = s2 * gamma, -c2 * gamma
    older, new = _mixed(c1, s1, state.older, state.v)
    old, new = _mixed(c2, s2, state.old, new)
    # L u = tau, where what is as small as rounding is left out.
    least = norm / limits["most"]
    over = lambda a, d: jnp.where(jnp.abs(d) > least, a / _or_one(d), 0)
    u2 = over(at.tau2 - at.l24 * at.u4 - at.l23 * at.u3, l22)
    u1 = over(at.tau1 - at.l13 * at.u3 - l12 * u2, l11)
    # Where the residual was orthogonal to the range already, a column of this size is the null space's.
    least = jnp.where(solved_before & (beta > 0), jnp.maximum(least, 2 * flat * norm), least)
    u0 = over(tau - l02 * u2 - l01 * u1, l00)
    settled = trees.axpy(u2, older, state.settled)
    x = trees.axpy(u1, old, trees.axpy(u0, new, settled))
    length = jnp.hypot(at.length, u2)  # no entry is too large to be squared
    x_norm = jnp.hypot(jnp.hypot(length, u1), u0)
    taken = (x_norm <= limits["max_norm"]) & jnp.isfinite(x_norm)
    left = jnp.where(jnp.abs(l00) > least, phi, at.phi)
    near = left <= rtol * (norm * x_norm + at.b_norm)
    exhausted = beta == 0
    ended = jnp.where(jnp.abs(l00) > least, 0, jnp.abs(l00) / _or_one(norm))  # of an x that has all the space gives
    kept = lambda new, old: jax.tree.map(lambda a, b: jnp.where(taken, a, b), new, old)
    normal = jnp.where(exhausted & taken, ended, normal)
    scalars = _Scalars(
        beta, c, s, dbar, epsilon, phi, at.l13, l12, l11, l02, l01, l00, at.tau1, tau, at.u3, u2,
        at.b_norm, length, kept(x_norm, at.x_norm), kept(left, at.left), norm, normal,
    )  # fmt: skip
    step = state.step + 1
    converged = taken & (solved_before | near | exhausted)
    going = taken & ~(solved_before | near | exhausted) & (step < limits["max_steps"])
    v = _divided(w, beta)
    return _State(v, state.v, old, new, settled, kept(x, state.x), scalars, step, going, converged)


def _mixed(c: Any, s: Any, a: PyTree, b: PyTree) -> tuple[PyTree, PyTree]:
    first = jax.tree.map(lambda x, y: (c * x + s * y).astype(x.dtype), a, b)
    return first, jax.tree.map(lambda x, y: (s * x - c * y).astype(x.dtype), a, b)
