"""One-hidden-layer ReLU nets under the sum of squares, on the host: derivatives, and all critical points of one unit.

f(x) = sum_j v_j relu(x . w_j + b_j) + c,  L = sum_i (f(x_i) - y_i)^2.

Where no pre-activation is zero, f is bilinear in (w, b) and v; for one unit on a line L is then a convex quadratic of
(v w, v b, c), and what is critical is found by least squares, one set of rows that the unit is on for after another.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from hessjax.landscapes.base import critical_point

__all__ = ["at_point", "critical_points", "dead_state", "global_minimum", "gradient", "hessian", "kinked_minima"]
__all__ += ["loss", "point"]

Point = dict[str, np.ndarray]
Inputs = Float[np.ndarray, "rows inputs"]
PerRow = Float[np.ndarray, " rows"]
Rows = Bool[np.ndarray, " rows"]

ROUNDING = 1e-10  # of pre-activations, relative to the targets: closer to zero, a row is at the kink


def point(w: Any, b: Any, v: Any, c: Any) -> Point:
    """Params of a net of one input, in float64; w, b and v have one number a unit.

    Example:
      >>> {name: x.shape for name, x in point([1.0, 2.0], [0.0, 0.0], [1.0, 1.0], 0.0).items()}
      {'b': (2,), 'c': (), 'v': (2,), 'w': (1, 2)}
    """
    w, b, v = (np.atleast_1d(np.asarray(x, float)) for x in (w, b, v))
    return {"b": b, "c": np.asarray(c, float), "v": v, "w": w[None, :]}


def loss(p: Point, x: Inputs, y: PerRow) -> float:
    """The sum of squares.

    Example:
      >>> loss(point(1.0, 0.0, 1.0, 0.0), np.array([[-1.0], [2.0]]), np.array([1.0, 1.0]))
      2.0
    """
    return float(np.sum(_residual(p, x, y) ** 2))


def _residual(p: Point, x: Inputs, y: PerRow) -> PerRow:
    return np.maximum(x @ p["w"] + p["b"], 0) @ p["v"] + p["c"] - y


def _jacobian(p: Point, x: Inputs) -> Float[np.ndarray, "rows size"]:
    """Of f at every row, in the order b, c, v, w of `ravel_pytree`; relu'(0) = 0, as autodiff has it."""
    z = x @ p["w"] + p["b"]
    of_b = (z > 0) * p["v"]
    of_w = (x[:, :, None] * of_b[:, None, :]).reshape(len(x), -1)
    return np.concatenate([of_b, np.ones((len(x), 1)), np.maximum(z, 0), of_w], axis=1)


def gradient(p: Point, x: Inputs, y: PerRow) -> Point:
    """2 J' r, as params.

    Example:
      >>> float(gradient(point(1.0, 0.0, 1.0, 0.0), np.array([[2.0]]), np.array([1.0]))["v"][0])
      4.0
    """
    h = p["b"].size
    b, c, v, w = np.split(2 * _jacobian(p, x).T @ _residual(p, x, y), [h, h + 1, 2 * h + 1])
    return {"b": b, "c": c.reshape(()), "v": v, "w": w.reshape(p["w"].shape)}


def hessian(p: Point, x: Inputs, y: PerRow) -> Float[np.ndarray, "size size"]:
    """2 (J' J + sum_i r_i D^2 f_i); D^2 f has only what v_j shares with (w_j, b_j): (x, 1) where unit j is on.

    Example:
      >>> hessian(point(1.0, 0.0, 1.0, 0.0), np.array([[2.0]]), np.array([1.0]))[2].tolist()
      [6.0, 4.0, 8.0, 12.0]
    """
    jacobian, h = _jacobian(p, x), p["b"].size
    weighted = (x @ p["w"] + p["b"] > 0) * _residual(p, x, y)[:, None]
    out = jacobian.T @ jacobian
    for j in range(h):
        of_v, of_b, of_w = h + 1 + j, j, 2 * h + 1 + j + h * np.arange(x.shape[1])
        places, shared = np.append(of_w, of_b), np.append(x.T @ weighted[:, j], weighted[:, j].sum())
        out[places, of_v] += shared
        out[of_v, places] += shared
    return 2 * out


def dead_state(x: Inputs, y: PerRow, hidden: int) -> dict[str, Any]:
    """All units off: f is c = mean(y), and the one eigenvalue that is not zero is 2 N.

    Example:
      >>> fact = dead_state(np.array([[0.0], [1.0]]), np.array([1.0, 3.0]), hidden=1)
      >>> fact["loss"], fact["nullity"], fact["eigenvalues"].tolist()
      (2.0, 3, [0.0, 0.0, 0.0, 4.0])
    """
    inputs, size = x.shape[1], hidden * (x.shape[1] + 2) + 1
    where = {"b": -np.ones(hidden), "c": np.asarray(y.mean()), "v": np.ones(hidden), "w": np.zeros((inputs, hidden))}
    spectrum = np.append(np.zeros(size - 1), 2.0 * len(y))
    return critical_point(where, np.sum((y - y.mean()) ** 2), spectrum, "degenerate minimum", name="dead: no row on")


def at_point(p: Point, x: Inputs, y: PerRow, nullity: int, name: str) -> dict[str, Any]:
    """A critical point whose nullity is known: so many eigenvalues, those nearest to zero, are exactly that.

    Example:
      >>> fact = at_point(point(2.0, 1.0, 1.0, 0.0), np.array([[0.0], [1.0]]), np.array([1.0, 3.0]), 2, "fits")
      >>> fact["loss"], fact["index"], fact["nullity"], fact["kind"]
      (0.0, 0, 2, 'degenerate minimum')
    """
    spectrum = np.linalg.eigvalsh(hessian(p, x, y))
    spectrum[np.argsort(np.abs(spectrum))[:nullity]] = 0.0
    kind = "strict saddle" if (spectrum < 0).any() else "degenerate minimum"
    return critical_point(p, loss(p, x, y), spectrum, kind, name=name)


# --- one unit on a line -----------------------------------------------------------------------------------------------


def critical_points(x: Inputs, y: PerRow) -> list[dict[str, Any]]:
    """Every smooth critical point of one unit on a line, one of each family (v -> v / a, (w, b) -> a (w, b), a > 0).

    With v = +-1: v relu(w x + b) + c is the least-squares line of the rows that are on, and c the mean of the others;
    there sum_i r_i D^2 f_i = 0, so H = 2 J' J and all are minima. With v = 0: c is the mean of all targets, (w, b) is
    orthogonal to q = (sum of r x, sum of r) over the rows that are on, and just one eigenvalue is negative; for q = 0
    any (w, b) will do, and it is a minimum.

    Args:
      x: one input a row, two different ones at least.
      y: targets.

    Example:
      >>> facts = critical_points(np.array([[0.0], [1.0], [2.0]]), np.array([0.0, 1.0, 0.0]))
      >>> [(fact["name"], round(fact["loss"], 6), fact["index"]) for fact in facts][:2]
      [('dead: no row on', 0.666667, 0), ('rows 0 on', 0.5, 0)]

    References: Swirszcz, Czarnecki & Pascanu (2016), arXiv:1611.06310, has one such minimum, its proposition 1.
    """
    found = [dead_state(x, y, 1)]
    for on in _patterns(x[:, 0]):
        found += [*_minima(x, y, on), *_saddles(x, y, on)]
    return found


def _patterns(x: PerRow) -> Iterator[Rows]:
    """The sets of rows that one unit can be on for: all up to one, all from one on, and all."""
    places = np.unique(x)
    yield from (x <= at for at in places[:-1])
    yield from (x >= at for at in places[1:])
    yield np.ones(len(x), bool)


def _is_on_just_for(z: PerRow, on: Rows, scale: float) -> bool:
    return bool(np.all(np.where(on, z, -z) > ROUNDING * scale))


def _minima(x: Inputs, y: PerRow, on: Rows) -> Iterator[dict[str, Any]]:
    distinct = len(np.unique(x[on]))
    nullity = 4 - min(2, distinct) - int(not on.all())  # 4 less the rank of J
    for slope, height, c in _fits(x[:, 0], y, on):
        for v in (1.0, -1.0):
            if _is_on_just_for(v * (slope * x[:, 0] + height - c), on, np.abs(y).max()):
                yield at_point(point(v * slope, v * (height - c), v, c), x, y, nullity, _name(on))


def _fits(x: PerRow, y: PerRow, on: Rows) -> list[tuple[float, float, float]]:
    """Slope and height of the least-squares line of the rows that are on, and c: the mean of the others.

    With all rows on any c on one side of the line will do, one on either side is given; with one place on, any line
    through it that meets c before the next row, and that which does so half-way is given.
    """
    if on.all():
        slope, height = map(float, np.polyfit(x, y, 1))
        line = slope * x + height
        return [(slope, height, float(line.min()) - 1.0), (slope, height, float(line.max()) + 1.0)]
    c = float(y[~on].mean())
    if len(np.unique(x[on])) > 1:
        slope, height = map(float, np.polyfit(x[on], y[on], 1))
        return [(slope, height, c)]
    w, b = _half_way(x, on)
    slope = float((y[on].mean() - c) / (w * x[on][0] + b))
    return [(slope * w, slope * b + c, c)]


def _half_way(x: PerRow, on: Rows) -> tuple[float, float]:
    """A unit that is on just for some rows, and turns half-way to the next, or one before all."""
    if on.all():
        return 1.0, 1.0 - float(x.min())
    w = 1.0 if x[on].max() > x[~on].max() else -1.0
    return w, -((w * x[on]).min() + (w * x[~on]).max()) / 2


def _saddles(x: Inputs, y: PerRow, on: Rows) -> Iterator[dict[str, Any]]:
    r = y.mean() - y
    q = np.array([r[on] @ x[on, 0], r[on].sum()])
    flat = np.abs(q).sum() <= ROUNDING * np.abs(y).sum() * (1 + np.abs(x).max())
    w, b = np.array(_half_way(x[:, 0], on)) if flat else np.array([q[1], -q[0]]) / np.linalg.norm(q)
    for sign in (1.0,) if flat else (1.0, -1.0):
        if _is_on_just_for(sign * (w * x[:, 0] + b), on, 1.0):
            yield at_point(point(sign * w, sign * b, 0.0, y.mean()), x, y, 2 if flat else 1, f"v = 0, {_name(on)}")


def _name(on: Rows) -> str:
    return f"rows {', '.join(map(str, np.flatnonzero(on)))} on"


def kinked_minima(x: Inputs, y: PerRow) -> list[dict[str, Any]]:
    """Local minima of one unit on a line that turn exactly at a row: point, loss and the rows that tie.

    f = c + s (x - t)_+ or c + s (t - x)_+ with t at a row, s and c by least squares; a minimum where L falls with t to
    neither side: on either L is convex in (s, s t, c). Some are the ends of families of smooth minima.

    Example:
      >>> x, y = np.array([[-1.0], [1.0], [3.0], [4.0], [5.0]]), np.array([3.0, -3.0, 0.0, 1.0, 2.0])
      >>> [(round(fact["loss"], 2), fact["kinks"]) for fact in kinked_minima(x, y)]
      [(14.0, (1,)), (18.0, (2,)), (21.17, (4,))]
    """
    found = []
    for at, side in itertools.product(np.unique(x), (1.0, -1.0)):
        ahead = side * (x[:, 0] - at)
        if np.any(ahead > 0):
            reach = np.maximum(ahead, 0)
            s, c = np.polyfit(reach, y, 1)
            r = s * reach + c - y
            # dL/dt / 2 as the turn moves on (the row at t is off) and back (it is on).
            on, back = -s * r[ahead > 0].sum(), -s * r[ahead >= 0].sum()
            rounding = ROUNDING * np.abs(s) * np.abs(y).sum()
            turns = np.abs(s) * reach.max() > ROUNDING * np.abs(y).max()
            if turns and on >= -rounding and back <= rounding:
                p = point(side * np.abs(s), -side * np.abs(s) * at, np.sign(s), c)
                rows = tuple(map(int, np.flatnonzero(ahead == 0)))
                found.append({"point": p, "loss": loss(p, x, y), "kinks": rows})
    return found


def global_minimum(x: Inputs, y: PerRow, hidden: int) -> float:
    """The least sum of squares of `hidden` units on a line, exactly, by least squares on sets of hinges.

    On the rows, (x - t)_+ with t between neighbouring rows a and b is a convex combination of the hinges (x - a)_+ and
    (x - b)_+: what one unit can add is a cone of two neighbours, of either side and sign. L is least on some set of
    independent hinges, at their least-squares fit; a fit counts where its signs need no more units than there are.

    Example:
      >>> round(global_minimum(np.array([[0.0], [1.0], [2.0]]), np.array([0.0, 1.0, 0.0]), hidden=1), 12)
      0.5
    """
    places, centred = np.unique(x), lambda a: a - a.mean()  # c is free
    sides = {1.0: range(len(places) - 1), -1.0: range(1, len(places))}
    hinges = [(side, k) for side, turns in sides.items() for k in turns]
    columns = {(side, k): centred(np.maximum(side * (x[:, 0] - places[k]), 0)) for side, k in hinges}
    best = float(np.sum(centred(y) ** 2))
    for size in range(1, 2 * hidden + 1):
        for chosen in itertools.combinations(hinges, size):
            matrix = np.stack([columns[hinge] for hinge in chosen], axis=1)
            weights = np.linalg.lstsq(matrix, centred(y), rcond=None)[0]
            if _units_needed(dict(zip(chosen, np.sign(weights), strict=True))) <= hidden:
                best = min(best, float(np.sum((matrix @ weights - centred(y)) ** 2)))
    return best


def _units_needed(signs: dict[tuple[float, int], float]) -> int:
    """One for every two neighbouring hinges of the same side and sign."""
    units, run = 0, 0
    for (side, k), sign in sorted(signs.items()):
        run = run + 1 if signs.get((side, k - 1)) == sign else 1
        units += run % 2
    return units
