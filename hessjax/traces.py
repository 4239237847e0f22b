"""Trace, diagonal and Frobenius norm from products with random test vectors, each with an honest standard error.

Test vectors are drawn, multiplied and reduced one after another or together, as is fast; sketches.py has the methods
that keep them.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import PyTree

from hessjax import trees
from hessjax.arguments import check_accuracy, check_count
from hessjax.driving import between, ready, repeat, run, space
from hessjax.estimates import Estimate, mean, to_rtol
from hessjax.operators import Operator, check_operand
from hessjax.sketches import hutchpp, rounding, sampled, squared, xtrace
from hessjax.trees import PRNGKey

__all__ = ["diagonal", "frobenius_norm", "trace"]


def trace(
    op: Operator,
    key: PRNGKey,
    *,
    num_probes: int = 40,
    method: str = "xtrace",
    rtol: float | None = None,
    max_matvecs: int = 10_000,
) -> Estimate:
    """The trace, the sum of all eigenvalues.

    Args:
      op: a symmetric operator A.
      key: draws the test vectors.
      num_probes: test vectors, m. They are kept where the method is not "hutchinson": 3 m n numbers.
      method: "xtrace" (2 m products; exact once the vectors span the range of A, best where the spectrum decays),
        "hutch++" (1.5 m products, the same with half the vectors), "hutchinson" (m products, three vectors of memory).
      rtol: repeat with fresh test vectors until the 95 % interval is within rtol |value|.
      max_matvecs: products that rtol may take.

    Returns:
      Value and standard error in the units of A; the error is 0 where the trace is exact (m >= n, but for hutchinson).

    Raises:
      ValueError: num_probes below 1, an unknown method, rtol not above 0.

    Example:
      >>> import hessjax as hj
      >>> found = hj.trace(hj.Matrix(jnp.diag(jnp.array([3.0, 2.0, 1.0]))), jax.random.key(0), num_probes=3)
      >>> float(found.value), float(found.std_error)
      (6.0, 0.0)

    References: Epperly, Tropp & Webber (2024), SIAM J. Matrix Anal. Appl. 45(1), doi:10.1137/23M1548323; Meyer, Musco,
      Musco & Woodruff (2021), arXiv:2010.09649; Girard (1989), doi:10.1007/BF01395775; Hutchinson (1990),
      doi:10.1080/03610919008812866.
    """
    one = _named(TRACES, method)
    return _estimate(one, op, key, num_probes=num_probes, rtol=rtol, max_matvecs=max_matvecs)


def frobenius_norm(
    op: Operator,
    key: PRNGKey,
    *,
    num_probes: int = 40,
    method: str = "hutchinson",
    rtol: float | None = None,
    max_matvecs: int = 10_000,
) -> Estimate:
    """||A||_F, the root of the sum of squared eigenvalues.

    Args:
      op: a symmetric operator A.
      key: draws the test vectors.
      num_probes: test vectors, m.
      method: "hutchinson" (m products; E ||A z||^2 = ||A||_F^2) or "hutch++" (1.5 m products; the range of half the
        vectors exactly, the rest by the other half).
      rtol: as for `trace`.
      max_matvecs: as for `trace`.

    Returns:
      The root of the estimated square, and its standard error to first order.

    Raises:
      ValueError: as `trace`.

    Example:
      >>> import hessjax as hj
      >>> found = hj.frobenius_norm(hj.Matrix(jnp.diag(jnp.array([3.0, 4.0]))), jax.random.key(0), num_probes=50)
      >>> bool(abs(found.value - 5.0) <= 4 * found.std_error + 1e-5)
      True
    """
    check_accuracy("rtol", rtol, num_probes, max_matvecs)  # of what was asked, not of its double
    of_square = None if rtol is None else 2 * rtol  # a root has half the relative error
    one = _named(SQUARES, method)
    return _root(_estimate(one, op, key, num_probes=num_probes, rtol=of_square, max_matvecs=max_matvecs))


def diagonal(
    op: Operator, key: PRNGKey, *, num_probes: int = 40, rtol: float | None = None, max_matvecs: int = 10_000
) -> Estimate:
    """The diagonal: every parameter's own curvature, in the tree of the params.

    Args:
      op: a symmetric operator A.
      key: draws random signs.
      num_probes: test vectors; m products.
      rtol: repeat with fresh test vectors until the 95 % interval is within rtol |value|, both as vectors.
      max_matvecs: products that rtol may take.

    Returns:
      A tree of the means of z * A z, and a tree of their standard errors.

    Raises:
      ValueError: num_probes below 1, rtol not above 0.

    Example:
      >>> import hessjax as hj
      >>> hj.diagonal(hj.Matrix(jnp.diag(jnp.array([3.0, 4.0]))), jax.random.key(0), num_probes=2).value.tolist()
      [3.0, 4.0]

    References: Bekas, Kokiopoulou & Saad (2007), Appl. Numer. Math. 57, doi:10.1016/j.apnum.2007.01.003.
    """
    return _estimate(_diagonal, op, key, num_probes=num_probes, rtol=rtol, max_matvecs=max_matvecs)


def _estimate(one: Any, op: Any, key: Any, *, num_probes: int, rtol: Any, max_matvecs: int) -> Estimate:
    """`one(op, key, num_probes=...)`, as often as rtol asks."""
    check_operand(op)
    check_count("num_probes", num_probes)
    limit = check_accuracy("rtol", rtol, num_probes, max_matvecs)
    if rtol is None:
        return run(one, op, key, num_probes=num_probes)
    return run(to_rtol, op, key, rtol, limit, one=one, num_probes=num_probes)


def _named(methods: dict[str, Any], method: str) -> Any:
    if method not in methods:
        raise ValueError(f"method must be one of {', '.join(methods)}; got {method!r}.")
    return methods[method]


def _signs(domain: Operator, key: PRNGKey) -> PyTree:
    return trees.lift(domain.confine(trees.rademacher_like(key, space(domain))))


def _hutchinson(op: Operator, key: Any, *, num_probes: int, sample: Any = trees.dot) -> Estimate:
    keys = jax.random.split(key, num_probes)
    value, error = mean(sampled(ready(op), Partial(_signs, op.domain()), keys, sample))
    return Estimate(value, jnp.hypot(error, rounding(op, value)), jnp.int32(num_probes))


@jax.jit
def _root(square: Estimate) -> Estimate:
    """The root of an estimated square, taken once: roots of parts of the sample would be too small on average."""
    value = jnp.sqrt(jnp.maximum(square.value, 0))
    error = square.std_error / (2 * jnp.where(value == 0, 1, value))
    return Estimate(value, error, square.num_matvecs)


# Functions of their own, not made at every call: what compiled programs are remembered by.
TRACES: dict[str, Any] = {"xtrace": xtrace, "hutch++": hutchpp, "hutchinson": _hutchinson}
SQUARES: dict[str, Any] = {
    "hutchinson": partial(_hutchinson, sample=squared),
    "hutch++": partial(hutchpp, square=True),
}


class Moving(NamedTuple):
    """Running mean and scatter of the diagonal's samples; `v` is the next vector of signs."""

    v: PyTree
    mean: PyTree
    scatter: PyTree
    domain: Operator
    key: Any


def _diagonal(op: Operator, key: Any, *, num_probes: int) -> Estimate:
    op, domain = ready(op), op.domain()
    zeros, first = trees.zeros_like(space(op)), between(_signs, domain, jax.random.fold_in(key, 0))
    begun = trees.vary_with(Moving(first, zeros, zeros, domain, None), op)._replace(key=key)
    done = repeat(op, _moved, begun, 0, num_probes)
    error = lambda a: jnp.sqrt(a / (num_probes * (num_probes - 1))) if num_probes > 1 else jnp.full_like(a, jnp.nan)
    return Estimate(done.mean, jax.tree.map(error, done.scatter), jnp.int32(num_probes))


def _moved(s: Moving, w: PyTree, i: Any) -> Moving:
    sample = jax.tree.map(jnp.multiply, s.v, w)
    moved = jax.tree.map(lambda m, x: m + (x - m) / (i + 1), s.mean, sample)
    scatter = jax.tree.map(lambda a, x, old, new: a + (x - old) * (x - new), s.scatter, sample, s.mean, moved)
    v = trees.vary_with(_signs(s.domain, jax.random.fold_in(s.key, i + 1)), s.mean)
    return Moving(v, moved, scatter, s.domain, s.key)
