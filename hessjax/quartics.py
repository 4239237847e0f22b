"""Quartic forms in a few variables: fitted from values, their extremes on the sphere, and a proof that one is definite.

Host float64. The proof is a sum of squares: where q(u) - c |u|^4 = z(u)' G z(u) with G positive semidefinite and z the
products of two variables, q is at least c on the sphere.
"""

from __future__ import annotations

import itertools

import numpy as np
from jaxtyping import Float
from scipy import optimize

__all__ = ["extremes", "fit", "monomials", "proved_at_least"]


def monomials(d: int) -> list[tuple[int, ...]]:
    """The products of four of d variables, as sorted tuples of their numbers.

    Example:
      >>> monomials(2)
      [(0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 1), (0, 1, 1, 1), (1, 1, 1, 1)]
    """
    return list(itertools.combinations_with_replacement(range(d), 4))


def fit(points: Float[np.ndarray, "m d"], values: Float[np.ndarray, " m"]) -> Float[np.ndarray, " k"]:
    """Coefficients of the form with these values, by least squares; exact for at least as many points as monomials.

    Example:
      >>> points = np.random.default_rng(0).standard_normal((9, 2))
      >>> np.allclose(fit(points, points[:, 0] ** 4 - points[:, 1] ** 4), [1, 0, 0, 0, -1])
      True
    """
    return np.linalg.lstsq(_products(points), values, rcond=None)[0]


def extremes(coefficients: Float[np.ndarray, " k"], d: int) -> tuple[float, Float[np.ndarray, " d"], float]:
    """The least value found on the unit sphere, where it is, and the greatest; of two variables they are the extremes.

    Of more, the best of 64 descents each; an upper bound of the minimum, a lower one of the maximum.

    Example:
      >>> least, where, most = extremes(np.array([1.0, 0.0, 0.0, 0.0, -1.0]), 2)
      >>> least, abs(where).tolist(), most
      (-1.0, [0.0, 1.0], 1.0)
    """
    value = lambda u: _products(u[None])[0] @ coefficients / (u @ u) ** 2
    if d == 1:
        return coefficients[0], np.ones(1), coefficients[0]
    if d == 2:
        candidates = [np.array([1.0, 0.0]), np.array([0.0, 1.0])]
        candidates += [np.array([1.0, t]) for t in _stationary(coefficients)]
    else:
        starts = np.random.default_rng(0).standard_normal((64, d))
        candidates = [optimize.minimize(lambda u, s=s: s * value(u), u).x for s in (1, -1) for u in starts]
    units = [u / np.linalg.norm(u) for u in candidates]
    found = [float(value(u)) for u in units]
    least = int(np.argmin(found))
    return found[least], units[least], max(found)


def _stationary(c: Float[np.ndarray, " 5"]) -> Float[np.ndarray, " k"]:
    """t where p(t) / (1 + t^2)^2 has slope 0, p(t) = q(1, t)."""
    p = np.polynomial.Polynomial(c)
    roots = (p.deriv() * np.polynomial.Polynomial([1, 0, 1]) - 4 * np.polynomial.Polynomial([0, 1]) * p).roots()
    return roots[np.abs(roots.imag) <= 1e-6 * (1 + np.abs(roots))].real


def _products(points: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m k"]:
    return np.stack([np.prod(points[:, list(which)], axis=1) for which in monomials(points.shape[1])], axis=1)


def proved_at_least(coefficients: Float[np.ndarray, " k"], d: int) -> float:
    """The largest c found for which q(u) - c |u|^4 is a sum of squares; in up to three variables, the minimum.

    Every form in two or three variables that is nowhere negative is a sum of squares (Hilbert 1888,
    doi:10.1007/BF01443605), in more variables not every.

    Example:
      >>> bool(abs(proved_at_least(np.array([1.0, 0.0, 0.0, 0.0, 1.0]), 2) - 0.5) < 1e-6)    # x^4 + y^4
      True
    """
    if d == 1:
        return float(coefficients[0])
    gram, free = _grams(coefficients, d)
    if not len(free):
        return float(np.linalg.eigvalsh(gram)[0])
    at = np.zeros(len(free))
    scale = float(np.abs(gram).max()) or 1.0
    for sharpness in (10.0, 100.0, 1000.0, 10_000.0):  # of a smooth least eigenvalue, which is below the true one
        at = optimize.minimize(_soft, at, args=(gram / scale, free, sharpness), jac=True, method="BFGS").x
    return scale * float(np.linalg.eigvalsh(gram / scale + np.tensordot(at, free, 1))[0])


def _soft(at: np.ndarray, gram: np.ndarray, free: np.ndarray, sharpness: float) -> tuple[float, np.ndarray]:
    """Minus a smooth least eigenvalue of gram + sum_k at_k free_k, and its gradient."""
    values, vectors = np.linalg.eigh(gram + np.tensordot(at, free, 1))
    weights = np.exp(-sharpness * (values - values[0]))
    level = values[0] - np.log(weights.sum()) / sharpness
    matrix = (vectors * (weights / weights.sum())) @ vectors.T
    return -level, -np.tensordot(free, matrix, 2)


def _grams(coefficients: np.ndarray, d: int) -> tuple[np.ndarray, np.ndarray]:
    """A Gram matrix of the form, and a basis of what can be added to one; |z(u)|^2 = |u|^4."""
    pairs = list(itertools.combinations_with_replacement(range(d), 2))
    weight = np.array([1.0 if i == j else np.sqrt(2.0) for i, j in pairs])  # so that |z|^2 = (sum u_i^2)^2
    places: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for a, b in itertools.combinations_with_replacement(range(len(pairs)), 2):
        places.setdefault(tuple(sorted(pairs[a] + pairs[b])), []).append((a, b))
    gram, free = np.zeros((len(pairs),) * 2), []
    for which, coefficient in zip(monomials(d), coefficients, strict=True):
        entries = [_entry(len(pairs), a, b, weight) for a, b in places[which]]
        gram += coefficient * sum(entries) / len(entries)
        free += [entries[0] - other for other in entries[1:]]
    return gram, np.array(free)


def _entry(size: int, a: int, b: int, weight: np.ndarray) -> np.ndarray:
    """The matrix M with z' M z = u_i u_j u_k u_l for the pairs a = (i, j), b = (k, l)."""
    made = np.zeros((size, size))
    made[a, b] = made[b, a] = (1.0 if a == b else 0.5) / (weight[a] * weight[b])
    return made
