"""Index laws: how many directions go down at a critical point of a random surface, given its value.

At a critical point of a spherical p-spin glass or of an isotropic Gaussian field the Hessian is a Gaussian matrix plus
a multiple of the identity that the value sets. As the dimension grows, the share of negative eigenvalues is a function
of the value: what a semicircle has below a point. Formulas only, on the host in float64; the surfaces are in glass.py.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

__all__ = ["bray_dean_index", "ground_state_energy", "p_spin_index", "threshold_energy"]


def threshold_energy(order: int) -> float:
    """Energy per site at which the Hessian of a spherical p-spin glass first has no negative eigenvalue, as N grows.

        -E_inf = -2 sqrt((p - 1) / p)

    Args:
      order: p, at least 2.

    Returns:
      The energy per site, in units in which H has variance N. Critical points above it are saddles of extensive index;
      for p >= 3 the local minima fill the band from `ground_state_energy` up to it.

    Raises:
      ValueError: the order is not a whole number of at least 2.

    References: Auffinger, Ben Arous & Cerny (2013), doi:10.1002/cpa.21422.

    Example:
      >>> threshold_energy(4) == -(3**0.5)
      True
    """
    _check_order(order)
    return -2 * math.sqrt((order - 1) / order)


def ground_state_energy(order: int) -> float:
    """The least energy per site of a spherical p-spin glass, as N grows.

    -E_0 = -E_inf cosh(a), where a >= 0 makes the number of critical points neither grow nor shrink exponentially,

        log(p - 1) / 2 = (p - 2)/p cosh(a)^2 + sinh(a) cosh(a) - a

    Args:
      order: p, at least 2.

    Returns:
      The energy per site, in units in which H has variance N; -sqrt(2) for p = 2.

    Raises:
      ValueError: the order is not a whole number of at least 2.

    References: Auffinger, Ben Arous & Cerny (2013), doi:10.1002/cpa.21422, with the energy written as E_inf cosh(a).

    Example:
      >>> round(ground_state_energy(3), 3)
      -1.657
    """
    from scipy.optimize import root_scalar

    _check_order(order)
    entropy = 0.5 * math.log(order - 1)
    cost = lambda a: (order - 2) / order * math.cosh(a) ** 2 + math.sinh(a) * math.cosh(a) - a
    # sinh(a) cosh(a) - a is at least 2 a^3 / 3, so the root is not above this.
    highest = (1.5 * entropy) ** (1 / 3)
    root = root_scalar(lambda a: cost(a) - entropy, bracket=(0.0, highest), xtol=1e-14).root if order > 2 else 0.0
    return threshold_energy(order) * math.cosh(root)


def p_spin_index(energy: float | int | ArrayLike, order: int) -> Float[np.ndarray, "*shape"]:
    """Share of negative eigenvalues at a critical point of a spherical p-spin glass, as N grows.

    At energy e per site, N times the Riemannian Hessian is a Gaussian orthogonal matrix, whose semicircle has radius
    2 sqrt(p(p-1)), plus -p e times the identity. What lies below 0 is the semicircle law up to e / E_inf of its radius,

        (t - sin(t) cos(t)) / pi,   cos(t) = -e / E_inf,   E_inf = 2 sqrt((p - 1) / p)

    At finite N, and away from the threshold, the index of single points scatters about N times that with a standard
    deviation of sqrt(log N) / pi eigenvalues.

    Args:
      energy: H/N, in units in which H has variance N; any shape.
      order: p, at least 2.

    Returns:
      The share among the N - 1 tangent directions, float64, in the shape of energy; 0 from the threshold down.

    Raises:
      ValueError: the order is not a whole number of at least 2.

    References: Auffinger, Ben Arous & Cerny (2013), doi:10.1002/cpa.21422; the scatter, Majumdar, Nadal,
      Scardicchio & Vivo (2009), doi:10.1103/PhysRevLett.103.220603.

    Example:
      >>> p_spin_index([-1.7, 0.0, 1.7], 3).tolist()
      [0.0, 0.5, 1.0]
    """
    return _semicircle_below(np.asarray(energy, float) / -threshold_energy(order))


def bray_dean_index(
    value: float | int | ArrayLike,
    *,
    kernel: tuple[float | int, float | int, float | int] = (1.0, -1.0, 1.0),
    confinement: float | int = 0.0,
) -> Float[np.ndarray, "*shape"]:
    """Share of negative eigenvalues at a critical point of an isotropic Gaussian field on R^N, as N grows.

    Let E[V(x) V(y)] = N f(|x - y|^2 / (2N)). At one point V and its Hessian are independent of the gradient, and
    Cov(V, V_ij) = f'(0) delta_ij, so that given V = N value, the Hessian has the mean (f'(0) / f(0)) value I and the
    semicircle radius 2 sqrt(f''(0)), as off-diagonal entries have variance f''(0)/N. What lies below 0 is

        (t - sin(t) cos(t)) / pi,   cos(t) = (f'(0)/f(0) value + confinement) / (2 sqrt(f''(0)))

    At finite N all eigenvalues share a shift of variance (f''(0) - f'(0)^2/f(0)) / N, which spreads the index of single
    points by O(1/sqrt(N)); it is 0 for the squared exponential, where the spread is O(1/N).

    Args:
      value: V/N at the critical point, without the confinement; any shape.
      kernel: f(0), f'(0) and f''(0); by default those of f(z) = exp(-z).
      confinement: curvature of a parabola added to V.

    Returns:
      The share, float64, in the shape of value; it grows with the value.

    Raises:
      ValueError: a kernel that no field has in all dimensions, or a confinement that is not finite.

    References: Bray & Dean (2007), doi:10.1103/PhysRevLett.98.150201; Fyodorov (2004),
      doi:10.1103/PhysRevLett.92.240601.

    Example:
      >>> bray_dean_index([-2.0, 0.0, 2.0]).tolist()
      [0.0, 0.5, 1.0]
    """
    variance, slope, curvature = kernel
    # f is a mixture of exponentials exp(-cz) (Schoenberg 1938, doi:10.2307/1968466), whence Cauchy's inequality.
    if not (variance > 0 and slope < 0 and math.inf > curvature * variance >= slope**2 * (1 - 1e-12)):
        raise ValueError(f"kernel must be f(0) > 0, f'(0) < 0, f''(0) >= f'(0)^2 / f(0), got {kernel!r}.")
    if not math.isfinite(confinement):
        raise ValueError(f"confinement must be a finite number, got {confinement!r}.")
    shift = slope / variance * np.asarray(value, float) + confinement
    return _semicircle_below(-shift / (2 * math.sqrt(curvature)))


def _semicircle_below(x: np.ndarray | float) -> Float[np.ndarray, "*shape"]:
    """The distribution function of the semicircle of radius 1, with no digits lost at its lower edge."""
    angle = np.arccos(np.clip(-x, -1, 1))
    return np.asarray((angle - np.sin(angle) * np.cos(angle)) / np.pi)


def _check_order(order: int) -> None:
    if isinstance(order, bool) or not isinstance(order, int | np.integer) or order < 2:
        raise ValueError(f"order must be a whole number, at least 2; got {order!r}.")
