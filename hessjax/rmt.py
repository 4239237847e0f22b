"""Random-matrix predictions of Hessian spectra: what a spectrum would be if it were that of a random matrix.

Formulas only, on the host in float64; a law is a `FreeLaw`. In Pennington & Bahri (2017), PMLR 70:2798-2806, a
Hessian is a Wishart matrix (Gauss-Newton) and, free of it, a Wigner matrix (or, of one hidden ReLU layer, a product) as
large as the residuals. phi is parameters / (samples x outputs); eps is the energy, half the squared residual, its mean
over samples and over outputs. With losses that are summed over outputs, divide both loss and Hessian by their number.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from hessjax.free_laws import FreeLaw, Numbers, Outlier

__all__ = [
    "FreeLaw",
    "Odds",
    "Outlier",
    "coin_flip",
    "critical_energy",
    "goe_odds",
    "index_curve",
    "index_law",
    "index_law_coefficient",
    "marchenko_pastur",
    "mean_spacing_ratio",
    "minimizer_energy",
    "semicircle",
    "spacing_ratio_density",
    "spacing_ratios",
    "spiked_covariance",
    "wishart_plus_relu",
    "wishart_plus_wigner",
]

Model = Literal["wigner", "relu"]
Ensemble = Literal["poisson", "goe", "gue", "gse"]
BETA = {"goe": 1, "gue": 2, "gse": 4}
INVISIBLE = 1e-200  # a variance that spreads zeros by nothing that could be seen, and whose square root has a square
RARE = 60  # rows from which on the odds are below the smallest number
NODES = 300  # of the quadrature for definiteness; polynomials of some fifty degrees times a Gaussian are resolved


class Odds(NamedTuple):
    """Probabilities that a random critical point is a minimum, a maximum, a saddle."""

    minimum: float
    maximum: float
    saddle: float


def semicircle(sigma: float = 1.0) -> FreeLaw:
    """Wigner's law of symmetric matrices with entries of variance sigma^2 / n: a half disc of radius 2 sigma.

    Raises:
      ValueError: sigma is negative or not finite; so for the arguments of the laws below.

    Example:
      >>> law = semicircle(2.0)
      >>> law.edges(), float(law.moments(2)), law.negative_fraction()
      ((-4.0, 4.0), 4.0, 0.5)
    """
    return FreeLaw(variance=_number("sigma", sigma) ** 2)


def marchenko_pastur(phi: float) -> FreeLaw:
    """Eigenvalues of X X' / m, X of phi m rows and m columns of independent numbers, mean 0, variance 1.

    Beyond phi = 1 a share 1 - 1 / phi of them is exactly 0 (`law.atom`).

    Example:
      >>> law = marchenko_pastur(4.0)
      >>> law.edges(), law.atom, law.moments([1, 2]).tolist()
      ((1.0, 9.0), 0.75, [1.0, 5.0])

    References: Marchenko & Pastur (1967), doi:10.1070/SM1967v001n04ABEH001994.
    """
    return wishart_plus_wigner(phi, 0.0)


def wishart_plus_wigner(phi: float, eps: float, *, wishart: float = 1.0, wigner: float = 1.0) -> FreeLaw:
    """The free sum of Pennington & Bahri: J J' / m and a Wigner matrix of variance 2 eps, each with a weight.

    Example:
      >>> law = wishart_plus_wigner(0.25, 0.5)
      >>> law.moments([1, 2, 3, 4]).tolist()
      [1.0, 2.25, 4.8125, 11.890625]
      >>> round(law.negative_fraction(), 6)
      0.225349
    """
    phi, weight = _number("phi", phi), float(wishart)
    variance = 2 * _number("eps", eps) * float(wigner) ** 2
    if variance > 0:
        variance = max(variance, INVISIBLE)
    if phi == 0:  # infinitely many samples: J J' / m is the identity
        return FreeLaw(shift=weight, variance=variance)
    if weight == 0:
        return FreeLaw(variance=variance)
    return FreeLaw(variance=variance, jumps=(phi * weight,), rates=(1 / phi,))


def wishart_plus_relu(phi: float, eps: float) -> FreeLaw:
    """The refined model of one hidden ReLU layer: residuals enter as [[0, C], [C', 0]], C a product of Gaussian ones.

    R-transform of that part: eps phi z / (2 - eps phi^2 z^2), which is that of Wishart matrices with jumps
    +-phi sqrt(eps / 2), 1 / (2 phi) columns a row each.

    Example:
      >>> wishart_plus_relu(0.25, 0.5).moments([1, 2, 3]).tolist()
      [1.0, 1.3125, 2.0]
    """
    phi, jump = _number("phi", phi), _number("phi", phi) * np.sqrt(_number("eps", eps) / 2)
    if phi == 0:
        return FreeLaw(shift=1.0)
    if jump == 0:
        return marchenko_pastur(phi)
    return FreeLaw(jumps=(phi, float(jump), -float(jump)), rates=(1 / phi, 0.5 / phi, 0.5 / phi))


def critical_energy(phi: Numbers, model: Model = "wigner") -> Float[np.ndarray, "*shape"]:
    """The energy from which on there are negative eigenvalues; 0 from phi = 1 on.

    With t^2 = 1 + 8 phi it is (3 - t)^3 (1 + t) / 128, which is how the published polynomial factors; for ReLU the same
    with t^2 = 1 + 16 phi - 8 phi^2, over phi (1 - phi)^3 / 4.

    Raises:
      ValueError: phi is negative or NaN, or the model unknown.

    Example:
      >>> critical_energy([0.25, 0.5, 2.0]).round(6).tolist(), round(float(critical_energy(0.25, "relu")), 6)
      ([0.04351, 0.011271, 0.0], 0.627417)
    """
    phi = _numbers("phi", phi)
    _check("model", model, ("wigner", "relu"))
    inner = np.minimum(phi, 1.0)
    if model == "wigner":
        t = np.sqrt(1 + 8 * inner)
        return np.asarray(4 * (1 - inner) ** 3 * (1 + t) / (3 + t) ** 3)
    t = np.sqrt(1 + 16 * inner - 8 * inner**2)
    with np.errstate(divide="ignore"):
        return np.asarray(16 * (1 - inner) ** 3 * (1 + t) / (inner * (3 + t) ** 3))


def index_law_coefficient(phi: Numbers, model: Model = "wigner") -> Float[np.ndarray, "*shape"]:
    """alpha_0 of `index_law`; NaN from phi = 1 on, where there is no critical energy (and for ReLU at 0).

    From the square root at the lower edge: (2 / (3 pi)) sqrt(2 / |z''|) (eps_c dz/deps)^(3/2) / w^2, at that edge's w.

    Example:
      >>> round(float(index_law_coefficient(0.5)), 6)
      0.033501
    """
    phi = _numbers("phi", phi)
    eps = critical_energy(phi, model)
    one = np.vectorize(lambda p, e: _coefficient(p, e, model) if 0 < e < np.inf else np.nan, otypes=[np.float64])
    return np.asarray(one(phi, eps))


def _coefficient(phi: float, eps: float, model: Model) -> float:
    law = _law(phi, eps, model)
    w = law.curve_ends[0, 0]
    bend = 2 * law.variance / w**3 + sum(2 * r * c**2 / (w - c) ** 3 for c, r in zip(law.jumps, law.rates, strict=True))
    speed = 2 / w if model == "wigner" else 2 * phi * w**3 / (2 * w**2 - eps * phi**2) ** 2  # dz / deps at that w
    return float(2 / (3 * np.pi) * np.sqrt(2 / abs(bend)) * abs(eps * speed) ** 1.5 / w**2)


def index_law(eps: Numbers, phi: Numbers, model: Model = "wigner") -> Float[np.ndarray, "*shape"]:
    """The share of negative eigenvalues just above the critical energy: alpha_0 ((eps - eps_c) / eps_c)^(3/2).

    0 below eps_c, NaN from phi = 1 on. The leading term only; `index_curve` is the whole.

    Example:
      >>> index_law([0.01, 0.02], 0.5).round(6).tolist(), index_curve([0.01, 0.02], 0.5).round(6).tolist()
      ([0.0, 0.022831], [0.0, 0.01485])
    """
    phi, eps = np.broadcast_arrays(_numbers("phi", phi), _numbers("eps", eps))
    start = critical_energy(phi, model)
    with np.errstate(divide="ignore", invalid="ignore"):
        above = np.where(start > 0, np.maximum(eps - start, 0) / start, np.nan)
    return np.asarray(index_law_coefficient(phi, model) * above**1.5)


def index_curve(eps: Numbers, phi: Numbers, model: Model = "wigner") -> Float[np.ndarray, "*shape"]:
    """The share of negative eigenvalues at any energy and ratio, exactly that of the law: 1/2 as the energy grows.

    Example:
      >>> index_curve([0.0, 0.5, 1e6], 0.25).round(3).tolist()
      [0.0, 0.225, 0.5]
    """
    _check("model", model, ("wigner", "relu"))
    one = np.vectorize(lambda e, p: _law(p, e, model).negative_fraction(), otypes=[np.float64])
    return np.asarray(one(_numbers("eps", eps), _numbers("phi", phi)))


def minimizer_energy(phi: Numbers) -> Float[np.ndarray, "*shape"]:
    """Energy of minimisers of a net that memorises noise, (1 - phi)^2 / 2; 0 from phi = 1 on.

    Example:
      >>> float(minimizer_energy(0.5))
      0.125
    """
    return np.asarray(np.maximum(1 - _numbers("phi", phi), 0) ** 2 / 2)


def spiked_covariance(spike: float, gamma: float) -> Outlier:
    """The largest eigenvalue of a sample covariance whose population has the eigenvalue `spike` once, and else 1.

    Args:
      spike: at least 1.
      gamma: dimension / samples. An outlier splits off from spike = 1 + sqrt(gamma) on.

    Example:
      >>> spiked_covariance(3.0, 0.25)
      Outlier(value=3.375, overlap=0.8333333333333334)

    References: Baik, Ben Arous & Péché (2005), doi:10.1214/009117905000000233; Paul (2007), Statistica Sinica 17:1617.
    """
    spike, gamma = _number("spike", spike), _number("gamma", gamma)
    if spike < 1:
        raise ValueError(f"spike must be at least 1, the rest of the population; got {spike}.")
    if spike <= 1 + np.sqrt(gamma):
        return Outlier(float((1 + np.sqrt(gamma)) ** 2), 0.0)
    ratio = gamma / (spike - 1)
    return Outlier(spike * (1 + ratio), (1 - ratio / (spike - 1)) / (1 + ratio))


def coin_flip(n: int) -> Odds:
    """A critical point whose n eigenvalues have independent fair signs.

    Example:
      >>> coin_flip(2)
      Odds(minimum=0.25, maximum=0.25, saddle=0.5)
    """
    return _odds(0.5 ** _size(n))


def goe_odds(n: int) -> Odds:
    """A critical point whose Hessian is a Gaussian orthogonal matrix: repulsion makes minima far rarer than coins do.

    Exactly, by de Bruijn's Pfaffian over Mehta's integral; about 3^(-n^2 / 4) as n grows.

    Example:
      >>> [round(goe_odds(n).minimum, 6) for n in (1, 2, 3)]      # 1/2, (2 - sqrt 2) / 4, (pi - 2 sqrt 2) / (4 pi)
      [0.5, 0.146447, 0.024921]

    References: de Bruijn (1955), J. Indian Math. Soc. 19; Dean & Majumdar (2006), doi:10.1103/PhysRevLett.97.160201.
    """
    from scipy.special import gammaln

    n = _size(n)
    if n > RARE:
        return _odds(0.0)
    ordered = _log_pfaffian_of_the_half_line(n)
    orders = np.arange(1, n + 1)
    whole = n / 2 * np.log(2 * np.pi) + np.sum(gammaln(1 + orders / 2) - gammaln(1.5))
    return _odds(float(np.exp(ordered + gammaln(n + 1) - whole)))


def _log_pfaffian_of_the_half_line(n: int) -> float:
    """log of the integral of prod_{i<j} (x_j - x_i) prod exp(-x_i^2 / 2) over 0 < x_1 < ... < x_n."""
    from numpy.polynomial import legendre

    end = 12 + 2.5 * np.sqrt(2 * n)
    nodes, weights = legendre.leggauss(NODES)
    x, weights = (nodes + 1) * end / 2, weights * end / 2
    weight = np.exp(-(x**2) / 2)
    basis, log_norms = _orthonormal(x, weights * weight**2, n)  # what is paired is p times the weight
    values = basis * weight
    series = (legendre.legvander(nodes, NODES - 1) * weights[:, None]).T @ values.T * (np.arange(NODES)[:, None] + 0.5)
    integrals = legendre.legval(nodes, legendre.legint(series, lbnd=-1))  # from 0 to x, times 2 / end twice
    cross = (integrals * weights) @ values.T
    skew = cross - cross.T
    if n % 2:
        mean = values @ weights
        skew = np.block([[skew, mean[:, None]], [-mean[None], np.zeros((1, 1))]])
    return float(np.linalg.slogdet(skew)[1] / 2 + np.sum(log_norms))


def _orthonormal(x: np.ndarray, weights: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal polynomials at the nodes, and the logs of the monic ones' norms (Stieltjes' procedure)."""
    rows, logs, before, log = [], [], np.zeros_like(x), 0.0
    row, beta = np.ones_like(x), 0.0
    for _ in range(n):
        norm = np.sqrt(np.sum(weights * row**2))
        row, log = row / norm, log + np.log(norm)
        rows.append(row)
        logs.append(log)
        following = (x - np.sum(weights * x * row**2)) * row - (norm if len(rows) > 1 else beta) * before
        before, row = row, following
    return np.array(rows), np.array(logs)


def spacing_ratios(eigenvalues: Numbers) -> Float[np.ndarray, " k"]:
    """min(s, s') / max(s, s') of neighbouring gaps s, s' of one spectrum: it needs no unfolding.

    Equal gaps of zero count as 1.

    Raises:
      ValueError: fewer than three eigenvalues, more than one axis, or one that is not finite.

    Example:
      >>> spacing_ratios([0.0, 1.0, 3.0, 4.0]).tolist()
      [0.5, 0.5]

    References: Oganesyan & Huse (2007), doi:10.1103/PhysRevB.75.155111.
    """
    if np.iscomplexobj(eigenvalues):
        raise ValueError("eigenvalues are complex, wanted those of a symmetric matrix.")
    values = np.sort(np.asarray(eigenvalues, np.float64))
    if values.ndim != 1 or values.size < 3 or not np.isfinite(values).all():
        raise ValueError(f"eigenvalues must be three or more finite numbers in one axis, got shape {values.shape}.")
    gaps = np.diff(values)
    small, large = np.minimum(gaps[1:], gaps[:-1]), np.maximum(gaps[1:], gaps[:-1])
    return np.where(large > 0, small / np.where(large > 0, large, 1), 1.0)


def spacing_ratio_density(ratio: Numbers, ensemble: Ensemble = "goe") -> Float[np.ndarray, "*shape"]:
    """Density of `spacing_ratios` on [0, 1]: exact for uncorrelated levels, else that of 3 x 3 matrices.

    Example:
      >>> spacing_ratio_density([0.0, 1.0], "poisson").tolist()
      [2.0, 0.5]

    References: Atas, Bogomolny, Giraud & Roux (2013), doi:10.1103/PhysRevLett.110.084101, equation 7.
    """
    _check("ensemble", ensemble, ("poisson", *BETA))
    r = np.asarray(ratio, np.float64)
    if ensemble == "poisson":
        found = 2 / (1 + r) ** 2
    else:
        beta = BETA[ensemble]
        constant = {1: 8 / 27, 2: 4 * np.pi / (81 * np.sqrt(3)), 4: 4 * np.pi / (729 * np.sqrt(3))}[beta]
        found = 2 * (r + r**2) ** beta / (1 + r + r**2) ** (1 + 1.5 * beta) / constant
    return np.where((r >= 0) & (r <= 1), found, np.where(np.isnan(r), np.nan, 0.0))


def mean_spacing_ratio(ensemble: Ensemble = "goe") -> float:
    """The mean of `spacing_ratio_density`; of large random matrices it is .5307, .5996 and .6744 (table I there).

    Example:
      >>> [round(mean_spacing_ratio(e), 4) for e in ("poisson", "goe", "gue", "gse")]
      [0.3863, 0.5359, 0.6027, 0.6762]
    """
    _check("ensemble", ensemble, ("poisson", *BETA))
    root = np.sqrt(3)
    means = {"poisson": 2 * np.log(2) - 1, "goe": 4 - 2 * root, "gue": 2 * root / np.pi - 0.5}
    return float(means.get(ensemble, 32 * root / (15 * np.pi) - 0.5))


def _law(phi: float, eps: float, model: Model) -> FreeLaw:
    return wishart_plus_wigner(phi, eps) if model == "wigner" else wishart_plus_relu(phi, eps)


def _odds(definite: float) -> Odds:
    return Odds(definite, definite, 1 - 2 * definite)


def _size(n: int) -> int:
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise ValueError(f"n must be a whole number, at least 1; got {n!r}.")
    return int(n)


def _numbers(name: str, value: Numbers) -> Float[np.ndarray, "*shape"]:
    found = np.asarray(value, np.float64)
    if not (found >= 0).all() or np.isinf(found).any():
        raise ValueError(f"{name} must be finite and at least 0, got {value!r}.")
    return found


def _number(name: str, value: float) -> float:
    found = _numbers(name, value)
    if found.ndim:
        raise ValueError(f"{name} must be one number, got shape {found.shape}.")
    return float(found)


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}.")
