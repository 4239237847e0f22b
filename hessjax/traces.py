"""Trace, diagonal and Frobenius norm from products with random test vectors, each with an honest standard error.

Test vectors are drawn, multiplied and reduced one after another or together, as is fast; sketches.py has the methods
that keep them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, PyTree

from hessjax import trees
from hessjax.arguments import check_accuracy, check_count, check_key
from hessjax.driving import ready, repeat, run, space, together
from hessjax.estimates import Estimate, mean, to_accuracy, to_rtol
from hessjax.operators import Operator, check_operand
from hessjax.sketches import (
    along_axes,
    exact_square,
    exact_trace,
    hutchpp,
    hutchpp_cost,
    hutchpp_square,
    image_length,
    mean_square,
    rounding,
    sampled,
    xtrace,
)
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
      rtol: repeat with fresh test vectors until the 95 % interval is within rtol |value|; before more than n products
        are taken for that, n that give the trace exactly.
      max_matvecs: products that rtol may take; whether it was reached, the result's `interval` tells.

    Returns:
      Value and standard error in the units of A; the error is 0 where the trace is exact (m >= n, but for hutchinson).
      Of the methods `jax.grad` goes through "hutchinson" alone.

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
    check_key(key)
    one, cost = _named(TRACES, method)
    limit = _limit(op, num_probes, rtol, max_matvecs, least=3 if method == "hutch++" else 2)
    if rtol is None:
        return run(one, op, key, num_probes=num_probes)
    options = {"num_probes": num_probes, "each": cost(num_probes), "exact": _affordable(exact_trace, op, limit)}
    return run(to_rtol, op, key, rtol, limit, one=one, **options)


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
    check_key(key)
    one, cost = _named(SQUARES, method)
    limit = _limit(op, num_probes, rtol, max_matvecs, least=3 if method == "hutch++" else 2)
    if rtol is None:
        return run(_norm, op, key, one=one, num_probes=num_probes)
    options = {"num_probes": num_probes, "each": cost(num_probes), "exact": _affordable(exact_square, op, limit)}
    return run(_norm_to_rtol, op, key, rtol, limit, one=one, **options)


def diagonal(
    op: Operator, key: PRNGKey, *, num_probes: int = 40, rtol: float | None = None, max_matvecs: int = 10_000
) -> Estimate:
    """The diagonal: every parameter's own curvature, in the tree of the params.

    Args:
      op: a symmetric operator A.
      key: draws random signs.
      num_probes: test vectors; m products.
      rtol: repeat with fresh test vectors until the 95 % interval is within rtol |value|, both as vectors; or exactly,
        as `trace`.
      max_matvecs: products that rtol may take; whether it was reached, the result's `interval` tells.

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
    check_key(key)
    limit = _limit(op, num_probes, rtol, max_matvecs)
    if rtol is None:
        return run(_diagonal, op, key, num_probes=num_probes)
    options = {"num_probes": num_probes, "each": num_probes, "exact": _affordable(_exact_diagonal, op, limit)}
    return run(to_rtol, op, key, rtol, limit, one=_diagonal, **options)


def _named(methods: dict[str, Any], method: str) -> Any:
    if method not in methods:
        raise ValueError(f"method must be one of {', '.join(methods)}; got {method!r}.")
    return methods[method]


def _limit(op: Any, num_probes: Any, rtol: Any, max_matvecs: Any, *, least: int = 2) -> int:
    """The products that rtol may take; an error bar needs `least` test vectors."""
    check_operand(op)
    check_count("num_probes", num_probes)
    limit = check_accuracy("rtol", rtol, num_probes, max_matvecs)
    if rtol is not None and num_probes < least:
        raise ValueError(f"rtol with hutch++ needs num_probes of at least {least}, for an error bar; got {num_probes}.")
    return limit


def _affordable(exact: Callable, op: Operator, limit: int) -> Callable | None:
    """What n products say exactly, where so many may be taken."""
    return exact if op.size <= limit else None


def _signs(domain: Operator, key: PRNGKey) -> PyTree:
    return trees.lift(domain.confine(trees.rademacher_like(key, space(domain))))


def _hutchinson(op: Operator, key: Any, *, num_probes: int) -> Estimate:
    keys = jax.random.split(key, num_probes)
    samples, sizes = sampled(ready(op, num_probes), Partial(_signs, op.domain()), keys, _dot_and_size)
    value, error = mean(samples)
    return Estimate(value, jnp.hypot(error, rounding(op, jnp.mean(sizes))), jnp.int32(num_probes))


def _dot_and_size(z: PyTree, az: PyTree) -> tuple[Array, Array]:
    """z . A z, and the sum of the sizes of its terms."""
    return trees.dot(z, az), trees.dot(*(jax.tree.map(jnp.abs, x) for x in (z, az)))


def _hutchinson_square(op: Operator, key: Any, *, num_probes: int, unit: Any = None) -> tuple[Estimate, Array]:
    """||A||_F^2 in units of unit^2, and the unit, chosen where None is given."""
    keys = jax.random.split(key, num_probes)
    lengths = sampled(ready(op, num_probes), Partial(_signs, op.domain()), keys, image_length)
    value, error, unit = mean_square(lengths, unit)
    return Estimate(value, jnp.hypot(error, rounding(op, value)), jnp.int32(num_probes)), unit


def _norm(op: Operator, key: Any, *, one: Any, num_probes: int) -> Estimate:
    return _root(*one(op, key, num_probes=num_probes))


def _norm_to_rtol(
    op: Operator, key: Any, rtol: Any, limit: Any, *, one: Any, num_probes: int, each: int, exact: Any
) -> Estimate:
    op = ready(op, each)
    first, unit = one(op, jax.random.fold_in(key, 0), num_probes=num_probes)
    more = lambda k: one(op, k, num_probes=num_probes, unit=unit)[0]
    bars = {"num_probes": num_probes, "rtol": 2 * rtol, "each": each, "max_matvecs": limit}  # a root errs by half
    if exact is not None:
        bars["exact"] = (lambda: exact(op, unit)[0]), op.size
    return _root(to_accuracy(op, key, more, first=first, **bars), unit)


def _root(square: Estimate, unit: Any) -> Estimate:
    """The root of an estimated square, taken once: roots of parts of the sample would be too small on average."""
    value = jnp.sqrt(jnp.maximum(square.value, 0))
    error = square.std_error / (2 * jnp.where(value == 0, 1, value))
    return Estimate(unit * value, unit * error, square.num_matvecs)


# Functions of their own, not made at every call: what compiled programs are remembered by; with the products of one.
TRACES: dict[str, Any] = {
    "xtrace": (xtrace, lambda num_probes: 2 * num_probes),
    "hutch++": (hutchpp, hutchpp_cost),
    "hutchinson": (_hutchinson, lambda num_probes: num_probes),
}
SQUARES: dict[str, Any] = {
    "hutchinson": (_hutchinson_square, lambda num_probes: num_probes),
    "hutch++": (hutchpp_square, hutchpp_cost),
}


class Moving(NamedTuple):
    """Running mean and scatter (root of summed squares) of the diagonal's samples; `v` is the next vector of signs."""

    v: PyTree
    mean: PyTree
    scatter: PyTree
    key: Any


def _exact_diagonal(op: Operator) -> Estimate:
    """From n unit vectors."""
    flat, unravel = trees.ravel(trees.zeros_like(space(op)))
    value = unravel(along_axes(op, trees.dot).astype(flat.dtype))
    return Estimate(value, jax.tree.map(lambda x: 0 * x, value), jnp.int32(op.size))  # of NaN, nothing is known


def _diagonal(op: Operator, key: Any, *, num_probes: int) -> Estimate:
    op, domain = ready(op, num_probes), op.domain()
    if op.streamed or together(op, num_probes) == num_probes:  # in one pass over the data, or at once
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num_probes))
        samples = sampled(op, Partial(_signs, domain), keys, _times)
        value, error = (jax.tree.map(lambda x, part=part: mean(x)[part], samples) for part in (0, 1))
        return Estimate(value, error, jnp.int32(num_probes))
    zeros, first = trees.zeros_like(space(op)), _signs(domain, jax.random.fold_in(key, 0))
    begun = trees.vary_with(Moving(first, zeros, zeros, None), op)._replace(key=key)
    done = repeat(op, _moved, begun, 0, num_probes)
    unknown = jnp.nan if num_probes == 1 else 1 / math.sqrt(num_probes * (num_probes - 1))
    return Estimate(done.mean, trees.scale(unknown, done.scatter), jnp.int32(num_probes))


def _times(z: PyTree, az: PyTree) -> PyTree:
    return jax.tree.map(jnp.multiply, z, az)


def _moved(s: Moving, w: PyTree, i: Any, domain: Operator) -> Moving:
    def scatter(a, x, old, new):
        # Its square grows by (x - old) (x - new), which is not negative but could vanish.
        return jnp.hypot(a, jnp.sqrt(jnp.abs(x - old)) * jnp.sqrt(jnp.abs(x - new)))

    sample = _times(s.v, w)
    moved = jax.tree.map(lambda m, x: m + (x - m) / (i + 1), s.mean, sample)
    v = trees.vary_with(_signs(domain, jax.random.fold_in(s.key, i + 1)), s.mean)
    return Moving(v, moved, jax.tree.map(scatter, s.scatter, sample, s.mean, moved), s.key)
