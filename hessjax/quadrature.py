"""Quadrature of the eigenvalue density, (1/n) sum_i delta(lambda - lambda_i): by Lanczos (`slq`) or Chebyshev (`kpm`).

Either way a few hundred products become nodes and weights, a row per random probe; densities, distribution functions
and traces of functions are then arithmetic on them (functionals.py), with the spread over probes as their error.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from hessjax import trees
from hessjax.arguments import check_count, check_key
from hessjax.driving import between, over, ready, repeat, run
from hessjax.krylov import Tridiagonal, eps, product_eps, ritz, runs, tridiagonals, unit_start
from hessjax.operators import Operator, check_operand
from hessjax.trees import PRNGKey

__all__ = ["Quadrature", "gauss", "kpm", "slq"]


class Quadrature(NamedTuple):
    """Nodes and weights of the eigenvalue density, a row per probe.

    Args:
      nodes: Ritz values or Chebyshev points, in the units of the operator.
      weights: at least 0; sum to 1 along each row; 0 in slots not used.
      resolution: about the spacing of the nodes; details of the density finer than this are not resolved. 0 where
        every probe's measure is exact.
      num_matvecs: products the rules rest on, of those taken: none after a probe's space was exhausted.
      left_out: the share of the n eigenvalues that is not represented: k / n of an operator with k deflated.
    """

    nodes: Float[Array, "probes steps"]
    weights: Float[Array, "probes steps"]
    resolution: Float[Array, ""]
    num_matvecs: Int[Array, ""]
    left_out: Float[Array, ""] | float = 0.0


def slq(
    op: Operator, key: PRNGKey, *, num_steps: int = 64, num_probes: int = 8, reorthogonalize: str = "none"
) -> Quadrature:
    """Stochastic Lanczos quadrature of the eigenvalue density: a Gauss rule per random probe.

    Args:
      op: a symmetric operator of any size.
      key: draws the probes, uniform over directions, so that tr f(A) / n is unbiased in any basis.
      num_steps: Lanczos steps per probe; a polynomial of degree 2 num_steps - 1 is integrated exactly. More than n is
        fine: slots not used weigh 0.
      num_probes: independent probes; the error falls with their root.
      reorthogonalize: "none" keeps three vectors, and quadrature needs no more: Ritz values that repeat share their
        eigenvalue's weight. "full" keeps the basis, num_steps x n.

    Returns:
      Nodes in the units of the operator; nodes closer than rounding are one.

    Costs num_steps x num_probes products.

    Raises:
      ValueError: num_steps or num_probes below 1, an unknown `reorthogonalize`.

    Example:
      >>> import hessjax as hj
      >>> q = hj.slq(hj.Matrix(jnp.diag(jnp.array([1.0, 1.0, 5.0, 5.0]))), jax.random.key(0), num_steps=8, num_probes=2)
      >>> q.nodes[0, :3].round(4).tolist(), q.weights[0, 2:].tolist()
      ([1.0, 5.0, 5.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0])

    References: Lin, Saad & Yang (2016), SIAM Review 58(1), doi:10.1137/130934283; Golub & Meurant (2010), chapter 6;
      without reorthogonalisation: Greenbaum (1989), doi:10.1016/0024-3795(89)90285-1; Chen, Trogdon & Ubaru (2021),
      arXiv:2105.06595.
    """
    check_key(key)
    return run(_slq, op, key, **runs(op, num_steps, num_probes, reorthogonalize))


def _slq(op: Operator, key: PRNGKey, *, num_steps: int, num_probes: int, full: bool) -> Quadrature:
    return gauss(tridiagonals(op, key, num_steps=num_steps, num_probes=num_probes, full=full), op, num_steps)


def gauss(t: Tridiagonal, op: Operator, num_steps: int) -> Quadrature:
    """The Gauss rules of Lanczos runs, nodes closer than rounding made one, in num_steps slots."""
    # In no more memory than the probes' vectors take, which where the operator is streamed are there all at once.
    rules = between(_rules, t, eps=eps(op)) if op.streamed else over(op, partial(_rule, eps=eps(op)), t)
    wider = [(0, 0), (0, num_steps - rules.nodes.shape[1])]
    nodes, weights = jnp.pad(rules.nodes, wider, mode="edge"), jnp.pad(rules.weights, wider)
    return Quadrature(nodes, weights, jnp.max(rules.resolution), jnp.sum(t.num_steps_done), _left_out(op))


def _rule(t: Tridiagonal, *, eps: float) -> _Rule:
    """The Gauss rule of one run; its resolution is that of the nodes, or 0 where the probe's measure is exact."""
    found = ritz(t, eps)
    ended = found.residual == 0  # an exhausted Krylov space
    resolution = jnp.where(ended, 0, (found.values[-1] - found.values[0]) / t.num_steps_done)
    norm = jnp.max(jnp.abs(found.values))
    return _Rule(*_merged(found.values, found.weights, 32 * eps * norm), resolution)


def _rules(t: Tridiagonal, *, eps: float) -> _Rule:
    return jax.vmap(partial(_rule, eps=eps))(t)


class _Rule(NamedTuple):
    nodes: Float[Array, "*probes m"]
    weights: Float[Array, "*probes m"]
    resolution: Float[Array, "*probes"]


def _left_out(op: Operator) -> Float[Array, ""]:
    return jnp.asarray(op.num_deflated / op.size, trees.scalar_dtype(op.like))


def _merged(
    nodes: Float[Array, " m"], weights: Float[Array, " m"], width: Float[Array, ""]
) -> tuple[Float[Array, " m"], Float[Array, " m"]]:
    """Ascending nodes, those within `width` of each other made one at their mean; slots left over weigh 0."""

    def label(carry, slot):
        first, number = carry
        node, weight = slot
        new = (node - first > width) & (weight > 0)  # what weighs nothing begins no cluster
        carry = jnp.where(new, node, first), number + new
        return carry, carry[1]

    begun = -jnp.inf + 0 * nodes[0], 0 * nodes[0].astype(jnp.int32) - 1
    number = jax.lax.scan(label, begun, (nodes, weights))[1]
    member = (number == jnp.arange(len(nodes))[:, None]) * weights
    mass = jnp.sum(member, axis=1)
    # As a mean of offsets, which are small: a weighted sum of the values themselves would round them.
    anchor = jnp.max(jnp.where(member > 0, nodes, -jnp.inf), axis=1)
    anchor = jnp.where(mass > 0, anchor, nodes[-1])
    offset = jnp.sum(member * (nodes - anchor[:, None]), axis=1) / jnp.where(mass > 0, mass, 1)
    order = jnp.argsort(mass == 0, stable=True)  # clusters without mass go last
    failed = jnp.isnan(nodes[0])  # and then nothing is known of the probe's measure, its mass least of all
    return jnp.where(failed, nodes, (anchor + offset)[order]), jnp.where(failed, nodes, mass[order])


class Moments(NamedTuple):
    """Between two Chebyshev steps: T_k and T_{k-1} of the scaled operator on the probe, and what they have given."""

    v: PyTree
    before: PyTree
    moments: Float[Array, " num_moments"]
    centre: Float[Array, ""]
    radius: Float[Array, ""]


BOUND_STEPS = 32  # Lanczos steps that bound the spectrum before it is scaled into [-1, 1]


def kpm(op: Operator, key: PRNGKey, *, num_moments: int = 128, num_probes: int = 8) -> Quadrature:
    """Kernel polynomial method: Chebyshev moments of the density, damped by Jackson's kernel.

    Smoother than `slq` and of even resolution over the whole range; `slq` finds outliers and edges more sharply.

    Args:
      op: a symmetric operator of any size.
      key: draws the probes, uniform over directions.
      num_moments: Chebyshev moments; two come from each product.
      num_probes: independent probes.

    Returns:
      num_moments Chebyshev points over a safe enclosure of the spectrum (from a short Lanczos run), and weights, at
      least 0. `resolution` is the kernel's largest standard deviation, pi / num_moments of half the range. NaN
      weights where the moments show that the enclosure was none.

    Raises:
      ValueError: num_moments below 2, num_probes below 1.

    Example:
      >>> import hessjax as hj
      >>> q = hj.kpm(hj.Matrix(jnp.diag(jnp.array([1.0, 1.0, 5.0, 5.0]))), jax.random.key(0), num_probes=4)
      >>> q.nodes.shape, bool((q.weights >= 0).all()), q.weights.sum(1).round(4).tolist()
      ((4, 128), True, [1.0, 1.0, 1.0, 1.0])

    References: Weisse, Wellein, Alvermann & Fehske (2006), Rev. Mod. Phys. 78, doi:10.1103/RevModPhys.78.275, eqs.
      (35), (71), (82).
    """
    check_key(key)
    check_operand(op)
    check_count("num_moments", num_moments, 2)
    check_count("num_probes", num_probes)
    return run(_kpm, op, key, num_moments=num_moments, num_probes=num_probes)


def _kpm(op: Operator, key: PRNGKey, *, num_moments: int, num_probes: int) -> Quadrature:
    for_bounds, for_probes = jax.random.split(key)
    op = ready(op, BOUND_STEPS + num_moments // 2 * num_probes)
    centre, radius, num_bound = _enclosure(op, for_bounds, num_moments)
    keys, steps = jax.random.split(for_probes, num_probes), num_moments // 2

    begin = lambda k: trees.vary_with(_first(op.domain(), k, centre, radius, steps), op)
    if op.streamed:
        begun = between(_firsts, op.domain(), keys, centre, radius, steps=steps)
        moments = repeat(op, _chebyshev, begun, 0, steps, lanes=True).moments
    else:
        moments = over(op, lambda k: repeat(op, _chebyshev, begin(k), 0, steps).moments, keys)
    nodes, weights = between(_damped, moments[:, :num_moments], centre, radius)
    spent = num_bound + num_probes * steps
    return Quadrature(nodes, weights, jnp.pi / num_moments * radius, spent, _left_out(op))


def _first(domain: Operator, key: Any, centre: Any, radius: Any, steps: int) -> Moments:
    v = unit_start(domain, key)
    none = jnp.zeros(2 * steps + 2, centre.dtype)
    return Moments(v, v, none.at[0].set(trees.dot(v, v)), centre, radius)


def _firsts(domain: Operator, keys: Any, centre: Any, radius: Any, *, steps: int) -> Moments:
    return jax.vmap(lambda k: _first(domain, k, centre, radius, steps))(keys)


def _damped(moments: Float[Array, "probes m"], centre: Any, radius: Any) -> tuple[Array, Array]:
    """Nodes and weights of Chebyshev moments; NaN weights of moments that no measure on the enclosure has."""
    moments = moments / moments[:, :1]
    nodes, weights = _jackson(moments)
    sound = jnp.all(jnp.abs(moments) < 1.01, axis=1, keepdims=True)  # outside [-1, 1] they grow exponentially
    weights = jnp.where(sound, weights, jnp.nan)
    return jnp.broadcast_to(centre + radius * nodes, weights.shape), weights


def _enclosure(op: Operator, key: PRNGKey, num_moments: int) -> tuple[Array, Array, Array]:
    """Centre and radius of an interval around the spectrum: Ritz values and twice their residuals, and 2 % more.

    No narrower than what products round by in all steps: about a spectrum narrower than that nothing can be said.
    """
    t = tridiagonals(op, key, num_steps=BOUND_STEPS, num_probes=1, full=False)
    return between(_reached, t, rounding=eps(op), least=4 * num_moments * product_eps(op))


def _reached(t: Tridiagonal, *, rounding: float, least: float) -> tuple[Array, Array, Array]:
    found = ritz(t, rounding)
    reach = 2 * found.residual[0] * found.last[0]
    low, high = jnp.min(found.values[0] - reach), jnp.max(found.values[0] + reach)
    radius = 1.02 * (high - low) / 2 + least * jnp.maximum(jnp.abs(low), jnp.abs(high))
    return (low + high) / 2, jnp.where(radius > 0, radius, 1), jnp.sum(t.num_steps_done)


def _chebyshev(s: Moments, w: PyTree, i: Int[Array, ""], domain: Operator) -> Moments:
    """From T_i to T_{i+1}: moments 2i + 1 and 2i + 2 by the product formula."""
    w = domain.confine(trees.scale(1 / s.radius, trees.axpy(-s.centre, s.v, w)))
    after = jax.tree.map(lambda a, b: jnp.where(i == 0, a, 2 * a - b), w, s.before)
    zeroth, first = s.moments[0], jnp.where(i == 0, trees.dot(after, s.v), s.moments[1])
    odd = jnp.where(i == 0, first, 2 * trees.dot(after, s.v) - first)
    moments = s.moments.at[2 * i + 1].set(odd).at[2 * i + 2].set(2 * trees.dot(after, after) - zeroth)
    return Moments(after, s.v, moments, s.centre, s.radius)


def _jackson(moments: Float[Array, "probes m"]) -> tuple[Float[Array, " m"], Float[Array, "probes m"]]:
    """Chebyshev points of [-1, 1] ascending, and the mass the damped expansion has around each."""
    m, dtype = moments.shape[1], moments.dtype
    k, q = np.arange(m), np.pi / (m + 1)
    damping = ((m - k + 1) * np.cos(q * k) + np.sin(q * k) / np.tan(q)) / (m + 1)
    angles = np.pi * (np.arange(m)[::-1] + 0.5) / m
    series = damping[:, None] * np.cos(np.outer(k, angles)) * np.where(k == 0, 1, 2)[:, None] / m
    weights = jnp.maximum(jnp.matmul(moments, jnp.asarray(series, dtype), precision="highest"), 0)
    return jnp.asarray(np.cos(angles), dtype), weights / jnp.sum(weights, axis=1, keepdims=True)
