"""The loss near a critical point with a singular Hessian, with its regular directions minimised out.

Where H has the null space N and the range R, the splitting lemma says that the loss is, after a smooth change of
coordinates, 1/2 w' H_R w plus a reduced function of u in N alone, whose derivatives begin at third order. What kind of
point it is, that function decides; the loss restricted to N does not: (x - y^2) (x - 2 y^2) is 2 y^4 on its null space
and -y^4 / 4 reduced.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import jet
from jaxtyping import Array, Float

__all__ = ["cubic_and_quartic", "curve_at", "reduced_series", "taylor"]


def taylor(function: Callable[[Any], Array], order: int) -> Float[Array, "*series"]:
    """Taylor coefficients at 0 of a function of one number, from the value to the given order.

    By `jax.experimental.jet` where it has a rule for every primitive, else by nested forward derivatives, which cost
    2^order times the function.

    Example:
      >>> [round(float(c), 3) for c in taylor(lambda s: jnp.exp(2 * s), 3)]
      [1.0, 2.0, 2.0, 1.333]
    """
    try:
        found = _by_jet(function, order)
    except Exception:  # what jet raises where it has no rule is not documented, and differs by primitive
        return _nested(function, order)
    # Powers that are no literal integers, for one, have rules that divide by the argument.
    return found if bool(jnp.isfinite(found).all()) else _nested(function, order)


def _by_jet(function: Callable[[Any], Array], order: int) -> Float[Array, "*series"]:
    zero = jnp.zeros(())
    value, series = jet.jet(function, (zero,), ([jnp.ones(()), *[zero] * (max(order, 1) - 1)],))
    factorials = [float(math.factorial(k)) for k in range(order + 1)]
    return jnp.stack(
        [jnp.asarray(x) / factor for x, factor in zip([value, *series][: order + 1], factorials, strict=True)]
    )


def _nested(function: Callable[[Any], Array], order: int) -> Float[Array, "*series"]:
    found, derivative, factorial = [function(jnp.zeros(()))], function, 1.0
    for k in range(1, order + 1):
        derivative, factorial = _derivative(derivative), factorial * k
        found.append(derivative(jnp.zeros(())) / factorial)
    return jnp.stack(found)


def _derivative(function: Callable[[Any], Array]) -> Callable[[Any], Array]:
    return lambda s: jax.jvp(function, (s,), (jnp.ones_like(s),))[1]


def curve_at(coefficients: Float[Array, "m n"], s: Any) -> Float[Array, " n"]:
    """sum_k coefficients[k - 1] s^k: a curve through 0.

    Example:
      >>> curve_at(jnp.array([[1.0, 0.0], [0.0, 3.0]]), 2.0).tolist()
      [2.0, 12.0]
    """
    total = jnp.zeros_like(coefficients[0])
    for coefficient in coefficients[::-1]:
        total = s * (total + coefficient)
    return total


def reduced_series(
    function: Callable[[Any], Array],
    direction: Float[Array, " n"],
    vectors: Float[Array, "n m"],
    values: Float[Array, " m"],
    order: int,
) -> tuple[Float[Array, " terms"], Float[Array, "half n"]]:
    """Taylor coefficients of the reduced function along a direction of the null space, and the curve that has them.

    The curve is s u + s^2 w_2 + ... with w_k in the range, so that the gradient has no part in the range up to that
    order; with terms up to order / 2 the loss along it has the coefficients of the reduced function up to `order`.

    Args:
      function: of displacements [n] from the critical point, to a number; x64 tells small coefficients from rounding.
      direction: u, in the null space.
      vectors: an orthonormal basis of the range, columns.
      values: the Hessian's eigenvalues there, none of them 0.
      order: of the last coefficient.

    Returns:
      Coefficients of s^0 to s^order, and the curve's, of s^1 to s^(order // 2).

    Example:
      >>> peano = lambda x: (x[0] - x[1] ** 2) * (x[0] - 2 * x[1] ** 2)
      >>> u, across = jnp.array([0.0, 1.0]), jnp.array([[1.0], [0.0]])
      >>> found, curve = reduced_series(peano, u, across, jnp.array([2.0]), 4)
      >>> [round(float(c), 3) for c in found], [round(float(c), 3) for c in curve[1]]
      ([0.0, 0.0, 0.0, 0.0, -0.25], [1.5, 0.0])

    References: Gromoll & Meyer (1969), doi:10.1016/0040-9383(69)90022-6 (the splitting lemma).
    """
    curve = direction[None]
    gradient = jax.grad(function)
    for k in range(2, order // 2 + 1):
        rest = taylor(lambda s, curve=curve: gradient(curve_at(curve, s)), k)[k]
        curve = jnp.concatenate([curve, -(vectors @ ((rest @ vectors) / values))[None]])
    return taylor(lambda s: function(curve_at(curve, s)), order), curve


def cubic_and_quartic(
    function: Callable[[Any], Array], vectors: Float[Array, "n m"], values: Float[Array, " m"]
) -> Callable[[Float[Array, " n"]], Float[Array, " 2"]]:
    """The third and the fourth coefficient of the reduced function along u, as a function of u; it can be traced.

    a_3 = D^3 f[u, u, u] / 6, and a_4 = D^4 f[u, u, u, u] / 24 - c' H_R^-1 c / 2, where c = D^3 f[u, u, .] / 2 on the
    range.

    Example:
      >>> peano = lambda x: (x[0] - x[1] ** 2) * (x[0] - 2 * x[1] ** 2)
      >>> of = cubic_and_quartic(peano, jnp.array([[1.0], [0.0]]), jnp.array([2.0]))
      >>> of(jnp.array([0.0, 1.0])).tolist()
      [0.0, -0.25]
    """
    gradient = jax.grad(function)

    def of(u: Float[Array, " n"]) -> Float[Array, " 2"]:
        second = _derivative(_derivative(lambda s: gradient(s * u)))
        third, fourth = jax.jvp(second, (jnp.zeros(()),), (jnp.ones(()),))
        c = third @ vectors / 2
        return jnp.stack([third @ u / 6, fourth @ u / 24 - c @ (c / values) / 2])

    return of
