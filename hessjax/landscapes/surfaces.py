"""Surfaces in closed form: their critical points and Hessians are facts, and the tests' oracles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hessjax.landscapes.base import Landscape, critical_point
from hessjax.landscapes.data import check_dtype, check_whole

__all__ = [
    "bowl",
    "gradient_flat",
    "monkey_saddle",
    "peano",
    "polynomial",
    "quadratic",
    "quartic_hill",
    "quartic_saddle",
    "quartic_valley",
    "rosenbrock",
    "saddle",
    "zero",
]

Terms = Sequence[tuple[float | int, Sequence[int]]]
Point = Float[np.ndarray, " n"]


def quadratic(
    *,
    eigenvalues: Sequence[float | int] = (-2.0, -1.0, 0.0, 0.5, 1.0, 4.0),
    rotation_seed: int = 0,
    dtype: str = "float32",
) -> Landscape:
    """The quadratic form x'Ax/2 with the given eigenvalues in a random orthonormal basis; starts standard normal.

    Args:
      eigenvalues: the spectrum of A, at least one number.
      rotation_seed: seed of the basis, drawn uniformly from the orthogonal group.
      dtype: of params.

    Raises:
      ValueError: no eigenvalues, or one that is not finite.

    Example:
      >>> import hessjax as hj, numpy as np
      >>> land = hj.landscapes.get("quadratic", eigenvalues=(-1.0, 2.0))
      >>> spectrum = hj.eigvalsh(hj.Hessian(land.loss, land.init(jax.random.key(0))))
      >>> np.round(np.asarray(spectrum), 5).tolist()
      [-1.0, 2.0]
    """
    values = np.sort(np.asarray(eigenvalues, dtype=float).reshape(-1))
    if values.size == 0 or not np.isfinite(values).all():
        raise ValueError(f"eigenvalues must be one or more finite numbers, got {eigenvalues!r}.")
    q, r = np.linalg.qr(np.random.default_rng(rotation_seed).standard_normal((values.size, values.size)))
    q = q * np.sign(np.diag(r))  # Haar: the sign convention of QR is not (Mezzadri 2007, arXiv:math-ph/0609050)
    exact = (q * values) @ q.T
    a = jnp.asarray((exact + exact.T) / 2, dtype)
    index, nullity = int((values < 0).sum()), int((values == 0).sum())
    return Landscape(
        name="quadratic",
        init=lambda key: jax.random.normal(key, (values.size,), dtype),
        loss=lambda x: 0.5 * jnp.dot(x, jnp.matmul(a, x, precision="float32"), precision="float32"),
        facts={
            "critical_points": [
                {
                    "point": np.zeros(values.size),
                    "loss": 0.0,
                    "index": index,
                    "nullity": nullity,
                    "kind": _kind(values),
                }
            ],
            "gradient": lambda x: exact @ x,
            "hessian": lambda x: exact,
            "hessian_lipschitz": lambda x, radius: 0.0,
            "eigenvalues": values,
            "lower_bound": 0.0 if index == 0 else -np.inf,
            "notes": [f"x'Ax/2 in {values.size} dimensions, eigenvalues {values.min():g} to {values.max():g}"],
        },
    )


def _kind(values: np.ndarray) -> str:
    """What a quadratic form is at 0, in the words of `hj.KINDS`: with no higher order, the null space decides nothing
    where all other eigenvalues agree in sign, and the constant function is both a minimum and a maximum.
    """
    if (values > 0).any() and (values < 0).any():
        return "strict saddle"
    if not values.any():
        return "undecided"
    prefix = "degenerate " if (values == 0).any() else ""
    return prefix + ("minimum" if values.max() > 0 else "maximum")


def polynomial(*, terms: Terms = ((1.0, (2, 0)), (3.0, (0, 2))), dtype: str = "float32") -> Landscape:
    """A polynomial in any number of variables; starts standard normal.

    Args:
      terms: (coefficient, (power of x1, power of x2, ...)), powers whole and at least 0, as many in every term.
      dtype: of params.

    Raises:
      ValueError: no terms, powers of different number, or one that is not a whole number of at least 0.

    Example:
      >>> import hessjax as hj
      >>> land = hj.landscapes.get("polynomial", terms=((1.0, (2, 0)), (-1.0, (0, 4))))
      >>> land.facts["hessian"](np.array([1.0, 2.0])).tolist()
      [[2.0, 0.0], [0.0, -48.0]]
    """
    checked = _checked(terms)
    return _surface("polynomial", checked, [], {"notes": [f"polynomial {_written(checked)}"]}, dtype)


def bowl(*, dtype: str = "float32") -> Landscape:
    """x^2 + 3 y^2: a minimum at 0, Hessian diag(2, 6) everywhere."""
    return _deck("bowl", ((1, (2, 0)), (3, (0, 2))), "minimum", 0.0, dtype)


def saddle(*, across: float = -1.0, along: float = 3.0, dtype: str = "float32") -> Landscape:
    """across x^2 + along y^2: by default -x^2 + 3 y^2, a strict saddle at 0; 5 x^2 - y^2 is Dauphin et al.'s.

    Args:
      across: of x^2.
      along: of y^2, of the other sign.
      dtype: of params.

    Raises:
      ValueError: the coefficients are not of opposite sign.

    Example:
      >>> saddle(across=5.0, along=-1.0).facts["critical_points"][0]["eigenvalues"].tolist()
      [-2.0, 10.0]

    References: Dauphin et al. (2014), arXiv:1406.2572, figure 2.
    """
    if not across * along < 0 or not np.isfinite([across, along]).all():
        raise ValueError(
            f"across and along must be finite and of opposite sign for a saddle, got {across} and {along}."
        )
    return _deck("saddle", ((across, (2, 0)), (along, (0, 2))), "strict saddle", -np.inf, dtype)


def quartic_valley(*, dtype: str = "float32") -> Landscape:
    """x^2 + y^4: a minimum that its Hessian diag(2, 0) does not prove."""
    return _deck("quartic-valley", ((1, (2, 0)), (1, (0, 4))), "degenerate minimum", 0.0, dtype)


def quartic_saddle(*, dtype: str = "float32") -> Landscape:
    """x^2 - y^4: a saddle with the Hessian of `quartic_valley`, diag(2, 0)."""
    return _deck("quartic-saddle", ((1, (2, 0)), (-1, (0, 4))), "degenerate saddle", -np.inf, dtype)


def quartic_hill(*, dtype: str = "float32") -> Landscape:
    """-x^4 - y^4: a maximum with no second order at all."""
    return _deck("quartic-hill", ((-1, (4, 0)), (-1, (0, 4))), "degenerate maximum", -np.inf, dtype)


def zero(*, dtype: str = "float32") -> Landscape:
    """The zero function: every point is a minimum and a maximum, and no derivative tells."""
    return _deck("zero", ((0, (0, 0)),), "undecided", 0.0, dtype)


def monkey_saddle(*, dtype: str = "float32") -> Landscape:
    """x^3 - 3 x y^2: three ways down and three up, Hessian [[6 x, -6 y], [-6 y, -6 x]], zero at 0.

    Example:
      >>> monkey_saddle().facts["hessian"](np.array([1.0, 2.0])).tolist()
      [[6.0, -12.0], [-12.0, -6.0]]
    """
    return _deck("monkey-saddle", ((1, (3, 0)), (-3, (1, 2))), "degenerate saddle", -np.inf, dtype)


def peano(*, dtype: str = "float32") -> Landscape:
    """(x - y^2) (x - 2 y^2): a saddle that is a minimum along every line through 0, and 2 y^4 on its null space."""
    return _deck("peano", ((1, (2, 0)), (-3, (1, 2)), (2, (0, 4))), "degenerate saddle", -np.inf, dtype)


def gradient_flat(*, dtype: str = "float32") -> Landscape:
    """x^4/4 - 3 x^2 + 9 x + .9 y^4 + 5 y^2 + 40: at (+-sqrt 2, 0) the gradient is in the Hessian's null space.

    Newton's method and minimisation of the squared gradient stop there, though only (-3, 0) is critical. Those points
    are the fact "flat_points".

    Example:
      >>> land = gradient_flat()
      >>> flat = land.facts["flat_points"][0]
      >>> bool(abs(land.facts["hessian"](flat) @ land.facts["gradient"](flat)).max() < 1e-13)
      True

    References: Frye et al. (2021), doi:10.1162/neco_a_01388.
    """
    terms = ((0.25, (4, 0)), (-3, (2, 0)), (9, (1, 0)), (0.9, (0, 4)), (5, (0, 2)), (40, (0, 0)))
    points = [critical_point(np.array([-3.0, 0.0]), 6.25, np.array([10.0, 21.0]), "minimum")]
    flat = [np.array([sign * np.sqrt(2), 0.0]) for sign in (1, -1)]
    notes = ["gradient-flat, not critical, at (+-sqrt 2, 0)"]
    return _surface("gradient-flat", terms, points, {"lower_bound": 6.25, "flat_points": flat, "notes": notes}, dtype)


def rosenbrock(*, dimension: int = 2, steepness: float = 100.0, dtype: str = "float32") -> Landscape:
    """sum_i steepness (x_{i+1} - x_i^2)^2 + (1 - x_i)^2: a curved valley with its minimum at (1, ..., 1).

    From 4 dimensions on there is another local minimum, of loss near 4; it is not among the facts.

    Args:
      dimension: number of params, at least 2.
      steepness: of the valley's walls, above 0.
      dtype: of params.

    Raises:
      ValueError: dimension is below 2, or steepness not above 0.

    Example:
      >>> rosenbrock().facts["hessian"](np.ones(2)).tolist()
      [[802.0, -400.0], [-400.0, 200.0]]

    References: Rosenbrock (1960), doi:10.1093/comjnl/3.3.175; Kok & Sandrock (2009), doi:10.1162/evco.2009.17.3.437.
    """
    check_whole("dimension", dimension, 2)
    if not 0 < steepness < np.inf:
        raise ValueError(f"steepness must be above 0 and finite, got {steepness!r}.")
    unit = lambda i, power: tuple(power * (j == i) for j in range(dimension))
    terms: list = [(float(dimension - 1), unit(0, 0))]
    for i in range(dimension - 1):
        both = tuple(2 * (j == i) + (j == i + 1) for j in range(dimension))
        terms += [(steepness, unit(i + 1, 2)), (-2 * steepness, both), (steepness, unit(i, 4))]
        terms += [(-2.0, unit(i, 1)), (1.0, unit(i, 2))]
    values = np.linalg.eigvalsh(_hessian(terms, np.ones(dimension)))
    points = [critical_point(np.ones(dimension), 0.0, values, "minimum")]
    facts = {"lower_bound": 0.0, "notes": [f"Rosenbrock's valley in {dimension} dimensions"]}
    return _surface("rosenbrock", terms, points, facts, dtype, loss=lambda x: _valley(x, steepness))


def _valley(x: Float[Array, " n"], steepness: float) -> Float[Array, ""]:
    return jnp.sum(steepness * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def _deck(name: str, terms: Terms, kind: str, lower_bound: float, dtype: str) -> Landscape:
    """A surface in two variables whose critical point is 0."""
    values = np.linalg.eigvalsh(_hessian(terms, np.zeros(2)))
    facts = {"lower_bound": lower_bound, "notes": [f"f(x, y) = {_written(terms)}"]}
    return _surface(name, terms, [critical_point(np.zeros(2), 0.0, values, kind)], facts, dtype)


def _surface(
    name: str, terms: Terms, points: list, facts: Mapping[str, Any], dtype: str, loss: Callable | None = None
) -> Landscape:
    check_dtype(dtype)
    size = len(terms[0][1])
    closed = {
        "critical_points": points,
        "gradient": lambda x: _gradient(terms, np.asarray(x, float)),
        "hessian": lambda x: _hessian(terms, np.asarray(x, float)),
        "hessian_lipschitz": lambda x, radius: _third(terms, np.abs(np.asarray(x, float)) + radius),
    }
    init = lambda key: jax.random.normal(key, (size,), dtype)
    return Landscape(name, init, loss or (lambda x: _value(terms, x)), facts=closed | dict(facts))


def _value(terms: Terms, x: Any) -> Any:
    """Whole powers, as their derivatives are exact at 0."""
    total = 0 * x[0]
    for coefficient, powers in terms:
        factor = coefficient * jnp.ones_like(x[0])
        for i, power in enumerate(powers):
            factor = factor * x[i] ** power if power else factor
        total = total + factor
    return total


def _derivative(terms: Terms, i: int) -> Terms:
    lower = lambda powers: tuple(p - (j == i) for j, p in enumerate(powers))
    return [(c * powers[i], lower(powers)) for c, powers in terms if powers[i]]


def _host(terms: Terms, x: Point) -> float:
    return float(sum(c * np.prod(x ** np.array(powers)) for c, powers in terms))


def _gradient(terms: Terms, x: Point) -> Point:
    return np.array([_host(_derivative(terms, i), x) for i in range(len(x))])


def _hessian(terms: Terms, x: Point) -> Float[np.ndarray, "n n"]:
    rows = [_derivative(terms, i) for i in range(len(x))]
    return np.array([[_host(_derivative(row, j), x) for j in range(len(x))] for row in rows])


def _third(terms: Terms, reach: Point) -> float:
    """The Frobenius norm of bounds on all third derivatives where |x_i| <= reach_i."""
    absolute = [(abs(c), powers) for c, powers in terms]
    bounds = [_hessian(_derivative(absolute, i), reach) for i in range(len(reach))]
    return float(np.linalg.norm(np.array(bounds)))


def _checked(terms: Terms) -> Terms:
    try:
        found = [(float(c), tuple(powers)) for c, powers in terms]
    except (TypeError, ValueError):
        raise ValueError(f"terms must be pairs like (1.0, (2, 0)), for x^2; got {terms!r}.") from None
    if not all(np.isfinite(c) for c, _ in found):
        raise ValueError(f"coefficients must be finite, got {[c for c, _ in found]}.")
    if not found or len({len(powers) for _, powers in found}) != 1 or not found[0][1]:
        raise ValueError(f"terms must be one or more (coefficient, powers), as many powers in each; got {terms!r}.")
    for _, powers in found:
        if any(isinstance(p, bool) or not isinstance(p, int | np.integer) or p < 0 for p in powers):
            raise ValueError(f"powers must be whole numbers, at least 0; got {powers!r}.")
    return found


def _written(terms: Terms) -> str:
    """As one writes it: x, y, or x1, x2, ... of more."""
    size = len(terms[0][1])
    names = ("x", "y")[:size] if size <= 2 else tuple(f"x{k + 1}" for k in range(size))
    parts = []
    for c, powers in terms:
        factors = [name if p == 1 else f"{name}^{p}" for name, p in zip(names, powers, strict=True) if p]
        parts.append(" ".join(([] if abs(c) == 1 and factors else [f"{abs(c):g}"]) + factors))
    signs = ["-" if c < 0 else "+" for c, _ in terms]
    first = parts[0] if signs[0] == "+" else f"-{parts[0]}"
    return " ".join([first, *(f"{sign} {part}" for sign, part in zip(signs[1:], parts[1:], strict=True))])
