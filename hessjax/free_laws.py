"""Limiting eigenvalue laws of sums of free random matrices: a shift, a Wigner matrix, Wishart matrices of either sign.

With G the Stieltjes transform and w = 1/G, such a law is one rational function,

    z(w) = shift + w + variance / w + sum_j rate_j jump_j w / (w - jump_j),

the inverse of w(z) (Voiculescu's R-transform, plus w). All here follows from it without integration: in the upper half
plane Im z = Im w (1 - K(w)), K(w) = variance / |w|^2 + sum_j rate_j jump_j^2 / |w - jump_j|^2, so that a real z has at
most one w there, on the curve K = 1; bands end where K = 1 on the real line; the logarithmic potential, whose imaginary
part is the distribution function, is elementary in w. Host side, NumPy float64.

References: Voiculescu (1986), doi:10.1016/0022-1236(86)90062-5; Biane (1997), doi:10.1512/iumj.1997.46.1467;
Bercovici & Pata (1999), doi:10.2307/121080 (laws of this kind are the freely infinitely divisible ones).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

__all__ = ["FreeLaw", "Numbers", "Outlier"]

Numbers: TypeAlias = Any  # one, or an array of them of any kind

NEWTON = 4  # steps from the roots of a companion matrix, which are off by some hundred eps, to rounding


@dataclass(frozen=True)
class Outlier:
    """The eigenvalue that a rank-one perturbation splits off, and what its eigenvector shares with the perturbation's.

    value: the eigenvalue; where none splits off the upper edge, or for a negative perturbation the lower one.
    overlap: the squared cosine of the two vectors; 0 where none splits off.
    """

    value: float
    overlap: float


@dataclass(frozen=True)
class FreeLaw:
    """The law of shift + Wigner + sum_j jump_j Wishart_j, all free of each other.

    Args:
      shift: added to every eigenvalue.
      variance: of the Wigner part, a semicircle of radius 2 sqrt(variance).
      jumps: c of the parts c X X' / n, X of n rows and rate n columns of standard normal numbers; either sign.
      rates: as many numbers above 0.

    Example:
      >>> law = FreeLaw(jumps=(0.25,), rates=(4.0,))      # Marchenko-Pastur of ratio 1/4
      >>> law.edges(), round(float(law.cdf(1.0)), 6)
      ((0.25, 2.25), 0.55339)
    """

    shift: float = 0.0
    variance: float = 0.0
    jumps: tuple[float, ...] = ()
    rates: tuple[float, ...] = ()

    @property
    def atom(self) -> float:
        """Share of eigenvalues that are exactly `shift`: what Wishart parts of few columns leave, alone."""
        return 0.0 if self.variance > 0 else max(0.0, 1.0 - sum(self.rates))

    def __post_init__(self) -> None:
        """Refuses what is no law.

        Raises:
          ValueError: a number is not finite, the variance is negative, a rate not above 0 or a jump 0.
        """
        numbers = np.array([self.shift, self.variance, *self.jumps, *self.rates], float)
        if len(self.jumps) != len(self.rates) or not np.isfinite(numbers).all():
            raise ValueError(f"a law takes finite numbers and as many rates as jumps; got {self.jumps}, {self.rates}.")
        if self.variance < 0 or 0 in self.jumps or min(self.rates, default=1.0) <= 0:
            raise ValueError(f"variance must be at least 0, rates above 0 and jumps not 0; got {self}.")

    def edges(self) -> tuple[float, float]:
        """Smallest and largest number of the continuous part; `shift` twice where all is one atom.

        Example:
          >>> FreeLaw(variance=1.0).edges()
          (-2.0, 2.0)
        """
        bands = self.bands()
        return (float(bands[0, 0]), float(bands[-1, 1])) if len(bands) else (self.shift, self.shift)

    def bands(self) -> Float[np.ndarray, "bands 2"]:
        """Ascending intervals that carry the continuous part.

        Example:
          >>> FreeLaw(jumps=(4.0,), rates=(0.25,), variance=0.01).bands().round(2).tolist()   # zeros, spread; the rest
          [[-0.17, 0.17], [1.01, 9.0]]
        """
        return self._z(self.curve_ends)

    def density(self, x: Numbers) -> Float[np.ndarray, "*shape"]:
        """Of the continuous part, at any numbers; its integral is 1 - `atom`.

        Example:
          >>> float(FreeLaw(variance=1.0).density(0.0).round(6))      # 1 / pi
          0.31831
        """
        x = np.asarray(x, np.float64)
        w = self._w(x)
        return np.where(np.isnan(x), np.nan, np.where(self._inside(x), np.abs(np.imag(1 / w)) / np.pi, 0.0))

    def cdf(self, x: Numbers) -> Float[np.ndarray, "*shape"]:
        """Share of eigenvalues that are at most x.

        Example:
          >>> FreeLaw(variance=1.0).cdf([-2.0, 0.0, 3.0]).round(9).tolist()
          [0.0, 0.5, 1.0]
        """
        x = np.asarray(x, np.float64)
        return np.where(np.isnan(x), np.nan, self._below(x) + self.atom * (x == self.shift))

    def negative_fraction(self) -> float:
        """Share of eigenvalues below 0.

        Example:
          >>> round(FreeLaw(shift=1.0, variance=1.0).negative_fraction(), 6)      # 1/3 - sqrt(3) / (4 pi)
          0.195501
        """
        return float(self._below(np.zeros(())))

    def moments(self, k: Numbers) -> Float[np.ndarray, "*shape"]:
        """The mean k-th power of an eigenvalue, for k = 0, 1, 2, ...

        Raises:
          ValueError: k is not a whole number, or below 0.

        Example:
          >>> FreeLaw(variance=1.0).moments([2, 4, 6]).tolist()      # Catalan's numbers
          [1.0, 2.0, 5.0]

        References: Speicher (1994), doi:10.1007/BF01459754 (free cumulants).
        """
        orders = np.asarray(k)
        if orders.dtype.kind not in "iu" or (orders < 0).any():
            raise ValueError(f"k must be whole numbers, at least 0; got {k!r}.")
        return np.asarray(_moments(self._cumulant, int(orders.max(initial=0)))[orders])

    def outlier(self, theta: float) -> Outlier:
        """What a rank-one perturbation theta u u', u in general position, splits off: beyond all bands, or into a gap.

        Example:
          >>> FreeLaw(variance=1.0).outlier(2.0)      # theta + 1 / theta, 1 - 1 / theta^2
          Outlier(value=2.5, overlap=0.75)

        References: Benaych-Georges & Nadakuditi (2011), doi:10.1016/j.aim.2011.02.007, theorems 2.1 and 2.2.
        """
        ends = self.curve_ends
        if not ends.size:
            return Outlier(self.shift + theta, 1.0)
        if np.any((ends[:, 0] <= theta) & (theta <= ends[:, 1])):
            return Outlier(self.edges()[0 if theta < 0 else 1], 0.0)
        return Outlier(float(self._z(theta)), float(1 - self._k(theta)))

    def sample(self, n: int, seed: int) -> Float[np.ndarray, " n"]:
        """Ascending eigenvalues of one random matrix with n rows; rates are rounded to whole columns.

        Example:
          >>> law = FreeLaw(variance=1.0)
          >>> bool(abs(law.sample(500, 0).max() - 2) < 0.1)
          True
        """
        rng = np.random.default_rng(seed)
        matrix = self.shift * np.eye(n)
        if self.variance > 0:
            wigner = rng.standard_normal((n, n))
            matrix += np.sqrt(self.variance / (2 * n)) * (wigner + wigner.T)
        for jump, rate in zip(self.jumps, self.rates, strict=True):
            root = _wishart_root(rng, n, round(rate * n))
            matrix += jump / n * (root @ root.T)
        return np.linalg.eigvalsh(matrix)

    def _z(self, w: Numbers) -> Numbers:
        terms = sum((c * r * (1 + c / (w - c)) for c, r in self._parts()), start=0.0)
        return self.shift + w + terms + (self.variance / w if self.variance else 0.0)

    def _k(self, w: Numbers) -> Numbers:
        return sum((weight / np.abs(w - pole) ** 2 for pole, weight in self._poles()), start=0.0)

    def _parts(self) -> list[tuple[float, float]]:
        return list(zip(self.jumps, self.rates, strict=True))

    def _poles(self) -> list[tuple[float, float]]:
        """Poles of K and their weights, ascending."""
        wigner = [(0.0, self.variance)] if self.variance else []
        return sorted(wigner + [(c, r * c**2) for c, r in self._parts()])

    def _cumulant(self, k: int) -> float:
        wigner = self.variance if k == 2 else 0.0
        return (self.shift if k == 1 else 0.0) + wigner + sum(r * c**k for c, r in self._parts())

    @functools.cached_property
    def curve_ends(self) -> Float[np.ndarray, "bands 2"]:
        """w at the ends of bands: K is convex between two poles, so it passes 1 there twice or never."""
        poles = self._poles()
        if not poles:
            return np.zeros((0, 2))
        spread = np.sqrt(sum(weight for _, weight in poles))
        excess = lambda w: float(self._k(w)) - 1
        ends = [_crossing(excess, poles[0][0] - spread, poles[0][0] - np.sqrt(poles[0][1]))]
        for (left, a), (right, b) in itertools.pairwise(poles):
            ends += _gap(excess, (left, np.sqrt(a)), (right, np.sqrt(b)))
        ends.append(_crossing(excess, poles[-1][0] + spread, poles[-1][0] + np.sqrt(poles[-1][1])))
        return np.reshape(ends, (-1, 2))

    def _inside(self, x: np.ndarray) -> Numbers:
        bands = self.bands()
        return np.any((x[..., None] > bands[:, 0]) & (x[..., None] < bands[:, 1]), axis=-1)

    def _w(self, x: np.ndarray) -> Numbers:
        """w in the upper half plane, for x within a band."""
        inside = self._inside(x)
        x = np.where(inside, x, self.bands().mean() if len(self.bands()) else self.shift)  # any other number would do
        w = _upper_root(self._polynomial(np.asarray(x - self.shift)))
        for _ in range(NEWTON):
            slope = 1 - sum(weight / (w - pole) ** 2 for pole, weight in self._poles())
            step = (self._z(w) - x) / np.where(slope == 0, np.inf, slope)
            w = np.where(np.abs(step) < 0.1 * np.abs(w.imag), w - step, w)  # at an edge two roots meet
        lost = inside & ~((w.imag > 0) & (np.abs(self._z(w) - x) <= 1e-9 * np.abs(w)))
        return self._traced(x, w, lost) if np.any(lost) else w

    def _traced(self, x: np.ndarray, w: np.ndarray, lost: np.ndarray) -> np.ndarray:
        """Those that rounding lost, by bisection along K = 1, on which z rises from one end of a band to the other."""
        x, w = np.atleast_1d(x), np.atleast_1d(w).copy()
        for (low, high), (left, right) in zip(self.bands(), self.curve_ends, strict=True):
            here = np.atleast_1d(lost) & (low < x) & (x < high)
            a, b = np.full(here.sum(), left), np.full(here.sum(), right)
            for _ in range(60):
                middle = (a + b) / 2
                below = np.real(self._z(middle + 1j * self._height(middle))) < x[here]
                a, b = np.where(below, middle, a), np.where(below, b, middle)
            w[here] = (a + b) / 2 + 1j * self._height((a + b) / 2)
        return w.reshape(np.shape(lost))

    def _height(self, u: np.ndarray) -> np.ndarray:
        """The imaginary part of w where K = 1 above u."""
        a, b = np.zeros_like(u), np.full_like(u, np.sqrt(sum(weight for _, weight in self._poles())))
        for _ in range(60):
            middle = (a + b) / 2
            above = self._k(u + 1j * middle) > 1
            a, b = np.where(above, middle, a), np.where(above, b, middle)
        return (a + b) / 2

    def _polynomial(self, x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape degree"]:
        """Coefficients, the highest first, of w prod_j (w - jump_j) (z(w) - x); without that w if no term is over w."""
        whole = np.atleast_1d(np.poly(self.jumps))
        others = [
            np.atleast_1d(np.poly([c for i, c in enumerate(self.jumps) if i != j])) for j in range(len(self.jumps))
        ]
        found = np.polymul([1.0, 0.0], whole) + np.zeros((*x.shape, len(whole) + 1))
        found[..., 1:] -= x[..., None] * whole
        for (c, r), other in zip(self._parts(), others, strict=True):
            found[..., 1 : len(other) + 1] += r * c * other  # r c w / (w - c), its w against the factor taken out
        if not self.variance:
            return found
        found = np.concatenate([found, np.zeros((*x.shape, 1))], axis=-1)
        found[..., 2:] += self.variance * whole
        return found

    def _below(self, x: np.ndarray) -> Numbers:
        """Share of eigenvalues below x."""
        bands, ends = self.bands(), self.curve_ends
        w = np.where(self._inside(x), self._w(x), 0)
        found = np.where(self._inside(x), 1 - self._potential(w).imag / np.pi, 0.0)
        for (_, high), (_, end) in zip(bands, ends, strict=True):  # between bands: as at the end of the last one below
            found = np.where(self._inside(x) | (x < high), found, 1 - self._potential(complex(end)).imag / np.pi)
        last = np.max(np.where(bands[:, 1] <= x[..., None], bands[:, 1], -np.inf), axis=-1, initial=-np.inf)
        over_atom = ~self._inside(x) & (last < self.shift) & (self.shift < x)
        return np.clip(np.asarray(found + self.atom * over_atom), 0.0, 1.0)

    def _potential(self, w: Numbers) -> Numbers:
        """The mean of log(z - eigenvalue), up to its real part: 1 - cdf is its imaginary part over pi."""
        w = np.where(w == 0, 1j, w)
        found = 1j * np.angle(w) + self.variance / (2 * w**2)
        for c, r in self._parts():
            turn = np.copysign(np.angle(1 - c / w), c)  # of w - c against w; a zero's sign is lost in c / w
            found = found + r * (1j * turn + c / (w - c))
        return found


def _upper_root(coefficients: Float[np.ndarray, "*shape degree"]) -> Numbers:
    """The root with the largest imaginary part, of monic polynomials."""
    degree = coefficients.shape[-1] - 1
    companion = np.zeros((*coefficients.shape[:-1], degree, degree))
    companion[..., 1:, :-1] = np.eye(degree - 1)
    companion[..., 0, :] = -coefficients[..., 1:]
    roots = np.linalg.eigvals(companion).astype(complex)
    best = np.argmax(np.imag(roots), axis=-1)
    return np.take_along_axis(roots, best[..., None], axis=-1)[..., 0]


def _crossing(excess: Callable[[float], float], outside: float, inside: float) -> float:
    """Where K - 1 changes its sign, between a place where it is at most 0 and one nearer to a pole."""
    from scipy.optimize import brentq

    if excess(outside) >= 0 or excess(inside) <= 0:  # one pole alone: the two places are one
        return inside if abs(excess(inside)) < abs(excess(outside)) else outside
    found: Any = brentq(excess, outside, inside, xtol=1e-300, rtol=4 * np.finfo(float).eps, maxiter=2000)
    return float(found)


def _gap(excess: Callable, left: tuple[float, float], right: tuple[float, float]) -> list[float]:
    """Both places between two poles where K passes 1, or none; within sqrt(weight) of a pole it is above 1."""
    from scipy.optimize import minimize_scalar

    low, high = left[0] + left[1], right[0] - right[1]
    if not low < high:
        return []
    options = {"xatol": 1e-12 * (high - low)}
    found: Any = minimize_scalar(excess, bounds=(low, high), method="bounded", options=options)
    lowest = float(found.x)
    if excess(lowest) >= 0:
        return []
    return [_crossing(excess, lowest, low), _crossing(excess, lowest, high)]


def _moments(cumulant: Callable[[int], float], order: int) -> Float[np.ndarray, " k"]:
    """Moments 0 to order from free cumulants: m_n = sum_s kappa_s [t^(n-s)] M(t)^s, M their generating function."""
    moments = np.zeros(order + 1)
    moments[0] = 1
    for n in range(1, order + 1):
        power = np.zeros(n)
        power[0] = 1
        for s in range(1, n + 1):
            power = np.convolve(power, moments[:n])[:n]
            moments[n] += cumulant(s) * power[n - s]
    return moments


def _wishart_root(rng: np.random.Generator, n: int, columns: int) -> Float[np.ndarray, "n k"]:
    """X with X X' a Wishart matrix; of more columns than rows as its triangular factor (Bartlett), so never large."""
    if columns <= n:
        return rng.standard_normal((n, columns))
    root = np.tril(rng.standard_normal((n, n)), -1)
    return root + np.diag(np.sqrt(rng.chisquare(columns - np.arange(n))))
