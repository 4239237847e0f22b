"""The numbers behind a figure: running medians, quantile bands, histograms, and axes that carry zero and both signs.

One place, because plot.py (matplotlib) and interactive.py (plotly) must draw the same curve from the same data.
Plain numpy on plain arrays: it knows neither a sweep's variable names (panels.py) nor any plotting library.
An arcsinh axis puts lambda at u = arcsinh(lambda / c): linear within +-c, logarithmic beyond, smooth through zero.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "Axis",
    "Histogram",
    "Running",
    "arcsinh_histogram",
    "choose_axis",
    "histogram",
    "quantile_bands",
    "running_median",
    "scientific",
    "step_axis",
    "ticks",
]

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Axis(NamedTuple):
    """How values are laid out along an axis: ``linear``, ``log``, or ``arcsinh`` with a linear part of +-`width`.

    Example:
        >>> Axis("arcsinh", 0.5).inverse(Axis("arcsinh", 0.5).forward([-2.0, 0.0, 2.0]))
        array([-2., 0., 2.])
    """

    kind: str = "linear"
    width: float = 1.0

    def forward(self, values) -> Any:
        """Positions along the axis, in which equal lengths on paper are equal differences."""
        values = np.asarray(values, dtype=float)
        if self.kind == "log":
            return np.log10(values)
        return np.arcsinh(values / self.width) if self.kind == "arcsinh" else values

    def inverse(self, positions) -> Any:
        """Values at these positions; the inverse of `forward`."""
        positions = np.asarray(positions, dtype=float)
        if self.kind == "log":
            return 10.0**positions
        return self.width * np.sinh(positions) if self.kind == "arcsinh" else positions


_LINEAR = Axis()


class Running(NamedTuple):
    """Quantiles of y in bins of x with about equally many points: bin medians of x, three quantiles of y, bin sizes."""

    x: np.ndarray
    low: np.ndarray
    median: np.ndarray
    high: np.ndarray
    count: np.ndarray


class Histogram(NamedTuple):
    """Share of the values in each bin (`mass`, sums to 1) and that share per unit of axis position (`density`).

    `edges` are positions along the axis, not values: `Axis.inverse(edges)` are the values.
    """

    edges: np.ndarray
    mass: np.ndarray
    density: np.ndarray


def choose_axis(values, *, ratio: float = 10.0) -> Axis:
    """The axis for non-negative quantities such as a loss: log where they span more than `ratio`, else linear.

    Values that reach exactly zero cannot stand on a log axis; where the positive ones span more than ten times `ratio`
    they get an arcsinh axis that is linear below the smallest positive value. Negative values mean a linear axis.

    Example:
        >>> choose_axis([0.05, 2.5]).kind, choose_axis([1.0, 2.5]).kind, choose_axis([0.0, 1e-3, 2.5]).kind
        ('log', 'linear', 'arcsinh')
    """
    values = np.asarray(values, dtype=float)
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    if positive.size == 0 or values.min() < 0:
        return Axis()
    low, high = positive.min(), positive.max()
    if values.min() > 0:
        return Axis("log") if high > ratio * low else Axis()
    return Axis("arcsinh", float(low)) if high > 10 * ratio * low else Axis()


def step_axis(steps) -> Axis:
    """The axis for training steps, which start at 0: linear if evenly spaced or few, else arcsinh from the first step.

    Example:
        >>> step_axis([0, 100, 200]).kind, step_axis([0, 3, 20, 1000])
        ('linear', Axis(kind='arcsinh', width=3.0))
    """
    steps = np.asarray(steps, dtype=float)
    positive = steps[steps > 0]
    if positive.size < 2 or positive.max() <= 30 * positive.min() or np.ptp(np.diff(steps)) <= 1:
        return Axis()
    return Axis("arcsinh", float(positive.min()))


def ticks(axis: Axis, low: float, high: float, *, max_ticks: int = 9) -> tuple[np.ndarray, list[str]]:
    """Round values between `low` and `high`, with labels in one notation; none for a linear axis, which needs no help.

    A log axis gets 1-2-5 steps, 1-3 steps or powers of ten, an arcsinh axis zero and signed powers of ten: the densest
    choice with at most `max_ticks`.

    Example:
        >>> ticks(Axis("log"), 0.03, 2.0)[1]
        ['0.05', '0.1', '0.2', '0.5', '1', '2']
        >>> ticks(Axis("arcsinh", 1e-3), -0.2, 20.0, max_ticks=7)[1]
        ['−0.1', '−0.001', '0', '0.001', '0.1', '10']
    """
    if axis.kind == "linear":
        return np.zeros(0), []
    values = next((v for v in _candidates(axis, low, high) if len(v) <= max_ticks), [])
    plain = all(v == 0 or 0.99e-3 <= abs(v) <= 1.01e4 for v in values)
    return np.array(values), [_label(v, plain) for v in values]


def _candidates(axis: Axis, low: float, high: float):
    """Lists of round values, densest first."""
    if axis.kind == "log":
        exponents = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
        for digits in ((1, 2, 5), (1, 3)):
            yield [d * 10.0**k for k in exponents for d in digits if low <= d * 10.0**k <= high]
        for stride in range(1, len(exponents) + 1):
            yield [10.0**k for k in exponents[::-stride][::-1] if low <= 10.0**k <= high]
        return
    gap = 0.03 * float(np.ptp(axis.forward([low, high]))) + 0.2
    largest = max(abs(low), abs(high), axis.width)
    last, first = math.floor(math.log10(largest) + 1e-9), math.floor(math.log10(axis.width))
    for stride in range(1, last - first + 2):
        powers = [10.0**k for k in range(last, first - 1, -stride) if axis.forward(10.0**k) > gap]
        zero = [0.0] if low <= 0 <= high else []
        yield [-p for p in powers if low <= -p <= high] + zero + [p for p in powers[::-1] if low <= p <= high]


def _label(value: float, plain: bool) -> str:
    sign = "−" if value < 0 else ""
    if plain or value == 0:
        return f"{sign}{abs(value):,.4g}"
    return sign + scientific(abs(value)).removeprefix("1×")


def scientific(value: float, digits: int = 3) -> str:
    """A positive number as mantissa and power of ten.

    Example:
        >>> scientific(1.5e-7), scientific(3e12)
        ('1.5×10⁻⁷', '3×10¹²')
    """
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{float(mantissa):g}×10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def running_median(x, y, *, num_bins: int | None = None, levels=(0.1, 0.5, 0.9), axis: Axis = _LINEAR) -> Running:
    """Quantiles of y in bins of sorted x with about equally many points.

    No bin reaches across a gap in x wider than a twentieth of the axis, since it would mix what lies on either side,
    and points with the same x stay together.

    Args:
        x: Abscissae, [N].
        y: Ordinates, [N].
        num_bins: About how many bins; sqrt(N) / 2.2, at most 40, if None: finer for more points, and steadier too.
        levels: The three quantiles of y.
        axis: How x is laid out, which decides what is a wide gap.

    Returns:
        One entry per bin, ascending in x; empty for N = 0.

    Example:
        >>> running_median([3, 1, 2, 4], [30, 10, 20, 40], num_bins=2).median
        array([15., 35.])
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.size == 0:
        none = np.zeros(0)
        return Running(none, none, none, none, np.zeros(0, int))
    order = np.argsort(x, kind="stable")
    x, y = x[order], y[order]
    ends = _bin_ends(x, axis.forward(x), num_bins or int(np.clip(math.sqrt(x.size) / 2.2, 1, 40)))
    pieces = np.split(np.arange(x.size), ends[:-1])
    low, median, high = np.array([np.quantile(y[i], levels) for i in pieces]).T
    return Running(np.array([np.median(x[i]) for i in pieces]), low, median, high, np.diff(ends, prepend=0))


def _bin_ends(x: np.ndarray, positions: np.ndarray, num_bins: int) -> np.ndarray:
    """Where the bins of sorted x end, as indices; a stretch of fewer than 10 points or a quarter bin joins the next."""
    fewest = max(10, x.size / (4 * num_bins))
    gaps = np.nonzero(np.diff(positions) > 0.05 * np.ptp(positions))[0] + 1
    stretches = [0]
    for gap in gaps:
        if min(gap - stretches[-1], x.size - gap) >= fewest:
            stretches.append(int(gap))
    stretches.append(x.size)
    ends = []
    for start, stop in pairwise(stretches):
        count = max(1, round(num_bins * (stop - start) / x.size))
        ends.append(np.linspace(start, stop, count + 1).round().astype(int)[1:])
    return np.unique(np.searchsorted(x, x[np.concatenate(ends) - 1], side="right"))


def quantile_bands(values, usable=None, *, levels=(0.05, 0.25, 0.5, 0.75, 0.95)) -> np.ndarray:
    """Quantiles over the first axis at each position of the second, over the usable rows only.

    Args:
        values: [init, time].
        usable: bool [init, time]; None takes the finite ones.
        levels: Quantiles wanted.

    Returns:
        [level, time]; NaN at a time without usable rows.

    Example:
        >>> quantile_bands([[1.0, 5.0], [3.0, float("nan")]], levels=(0.5,))
        array([[2., 5.]])
    """
    values = np.asarray(values, dtype=float)
    usable = np.isfinite(values) if usable is None else np.asarray(usable) & np.isfinite(values)
    columns = [values[usable[:, t], t] for t in range(values.shape[1])]
    return np.array([np.quantile(c, levels) if c.size else np.full(len(levels), np.nan) for c in columns]).T


def arcsinh_histogram(
    values, width: float, *, weights=None, limits: tuple[float, float] | None = None, num_bins=None
) -> Histogram:
    """Histogram in u = arcsinh(value / width), with u = 0 at the middle of a bin so that the zero bulk is one peak.

    The density is per unit of u: p(u) = p(lambda) dlambda/du = p(lambda) sqrt(lambda^2 + width^2), so equal areas on an
    arcsinh axis are equal shares of the values. Beyond the linear part, one decade is ln 10 = 2.3 units of u.

    Args:
        values: Any shape.
        width: Half-width c of the linear part.
        weights: What each counts, as many; once if None.
        limits: Values that the bins must cover; the values' own extremes if None.
        num_bins: About how many bins; from the number of values (twice its cube root, 20 to 160) if None.

    Example:
        >>> arcsinh_histogram([-1e-9, 1e-9, 0.0, 5.0], 1e-3, num_bins=5).mass
        array([0.75, 0.  , 0.  , 0.  , 0.  , 0.25])
    """
    positions = Axis("arcsinh", width).forward(np.ravel(values))
    low, high = Axis("arcsinh", width).forward(limits) if limits else (positions.min(), positions.max())
    low, high = min(low, -1.0), max(high, 1.0)
    num_bins = num_bins or int(np.clip(2 * positions.size ** (1 / 3), 20, 160))
    size = (high - low) / num_bins
    edges = size * (np.arange(math.floor(low / size - 0.5), math.ceil(high / size - 0.5) + 1) + 0.5)
    weights = np.ones(positions.size) if weights is None else np.ravel(weights)
    mass = np.histogram(positions.clip(edges[0], edges[-1]), edges, weights=weights)[0] / (weights.sum() or 1)
    return Histogram(edges, mass, mass / size)


def histogram(values, axis: Axis = _LINEAR, *, max_bins: int = 40) -> Histogram:
    """Histogram with equal bins along an axis; values on a lattice (counts, error rates) get whole cells per bin.

    Example:
        >>> histogram([0.0, 0.25, 0.25, 0.5]).mass
        array([0.25, 0.5 , 0.25])
    """
    positions = axis.forward(np.ravel(values))
    distinct = np.unique(positions)
    spread = float(np.ptp(positions))
    if distinct.size == 1:
        half = 0.5 * max(abs(distinct[0]), 1.0) * 0.1
        edges = np.array([distinct[0] - half, distinct[0] + half])
    elif distinct.size <= positions.size / 2 or distinct.size <= 4:
        cell = float(np.diff(distinct).min())
        size = cell * math.ceil(spread / cell / max_bins)
        edges = distinct[0] - cell / 2 + size * np.arange(math.ceil((spread + cell) / size - 1e-6) + 1)
    else:
        num_bins = int(np.clip(2 * positions.size ** (1 / 3), 5, max_bins))
        edges = np.linspace(distinct[0], distinct[-1], num_bins + 1)
    mass = np.histogram(positions, edges)[0] / positions.size
    return Histogram(edges, mass, mass / np.diff(edges))
