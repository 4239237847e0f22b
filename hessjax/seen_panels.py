"""What figures of profiles and of training show: curves beside each other, planes with paths, matrices of pairs.

Numbers only: seen_views.py draws these records with matplotlib, seen_pages.py for a page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from hessjax.figures import Axis, choose_axis

__all__ = ["Contours", "Matrix", "Part", "Traces", "contours", "heights", "over_columns", "pairs", "traces"]


class Part(NamedTuple):
    """One of several axes over the same x: named curves, and levels that are drawn dashed."""

    label: str
    axis: Axis
    curves: dict[str, Float[np.ndarray, " x"]]
    levels: dict[str, float]


class Traces(NamedTuple):
    """Curves over the same x, in parts side by side."""

    title: str
    note: str
    x: Float[np.ndarray, " x"]
    x_label: str
    parts: list[Part]


class Contours(NamedTuple):
    """Values over a plane; `heights` are what colour and surface show, `paths` and `marks` lie in it."""

    title: str
    note: str
    xs: Float[np.ndarray, " nx"]
    ys: Float[np.ndarray, " ny"]
    values: Float[np.ndarray, "ny nx"]
    heights: Float[np.ndarray, "ny nx"]
    label: str
    labels: tuple[str, str]
    paths: dict[str, Float[np.ndarray, "points 2"]]
    marks: dict[str, tuple[float, float]]


class Matrix(NamedTuple):
    """A number of every pair of named things."""

    title: str
    note: str
    names: tuple[str, ...]
    values: Float[np.ndarray, "names names"]
    label: str


def traces(
    x: Any,
    parts: Mapping[str, Mapping[str, Any]],
    *,
    x_label: str,
    title: str = "",
    note: str = "",
    levels: Mapping[str, Mapping[str, float]] | None = None,
) -> Traces:
    """Curves by the label of their axes and their name; logarithmic where they span two decades.

    Raises:
      ValueError: a curve is not as long as x.

    Example:
      >>> found = traces([0, 1], {"loss": {"sgd": [1.0, 0.001]}}, x_label="step", levels={"loss": {"noise": 0.01}})
      >>> found.parts[0].axis.kind, found.parts[0].levels
      ('log', {'noise': 0.01})
    """
    x, made = np.asarray(x, float), []
    for label, curves in parts.items():
        found = {name: np.asarray(values, float) for name, values in curves.items()}
        for name, values in found.items():
            if values.shape != x.shape:
                raise ValueError(f"{label} of {name!r} has shape {values.shape}, wanted {x.shape}, that of {x_label}.")
        lines = dict((levels or {}).get(label, {}))
        shown = np.concatenate([*(values[np.isfinite(values)] for values in found.values()), [*lines.values()]])
        made.append(Part(label, choose_axis(shown, ratio=100.0), found, lines))
    return Traces(title, note, x, x_label, made)


def contours(
    xs: Any,
    ys: Any,
    values: Any,
    *,
    label: str = "loss",
    labels: tuple[str, str] = ("x", "y"),
    title: str = "",
    note: str = "",
    paths: Mapping[str, Any] | None = None,
    marks: Mapping[str, Any] | None = None,
) -> Contours:
    """A plane's values, its heights, and what lies in it.

    Raises:
      ValueError: values are not [ny, nx].

    Example:
      >>> found = contours([0, 1], [0, 1, 2], np.ones((3, 2)), paths={"sgd": [(0, 0), (1, 2)]})
      >>> found.heights.shape, found.paths["sgd"].shape
      ((3, 2), (2, 2))
    """
    xs, ys, values = (np.asarray(x, float) for x in (xs, ys, values))
    if values.shape != (len(ys), len(xs)):
        raise ValueError(f"values have shape {values.shape}, wanted {(len(ys), len(xs))}: a number for each (y, x).")
    shown, said = heights(values, label)
    note = "; ".join(text for text in (note, said if said != label else "") if text)
    lines = {name: np.asarray(path, float)[:, :2] for name, path in (paths or {}).items()}
    points = {name: (float(p[0]), float(p[1])) for name, p in (marks or {}).items()}
    return Contours(title, note, xs, ys, values, shown, label, labels, lines, points)


def heights(values: np.ndarray, label: str) -> tuple[np.ndarray, str]:
    """Values as drawn: as they are, or, where the largest would hide all else, on an arcsinh scale above the lowest.

    Example:
      >>> heights(np.array([[0.0, 1.0, 1000.0]]), "loss")[1]
      'heights: arcsinh of loss above its lowest, over the median'
    """
    finite = values[np.isfinite(values)]
    low, middle, top = (finite.min(), np.median(finite), finite.max()) if finite.size else (0.0, 0.0, 0.0)
    if top - low > 20 * (middle - low) > 0:
        said = f"heights: arcsinh of {label} above its lowest, over the median"
        return np.arcsinh((values - low) / (middle - low)), said
    return values, label


def over_columns(count: int) -> tuple[int, int]:
    """Rows and columns of so many axes, at most three beside each other.

    Example:
      >>> over_columns(4), over_columns(3)
      ((2, 2), (1, 3))
    """
    columns = count if count <= 3 else 2 if count == 4 else 3
    return -(-count // columns), columns


def pairs(names: Sequence[str], values: Any, *, label: str, title: str = "", note: str = "") -> Matrix:
    """A matrix of pairs.

    Raises:
      ValueError: values are not as many as names, squared.

    Example:
      >>> pairs(["a", "b"], [[0, 1], [1, 0]], label="distance").values.shape
      (2, 2)
    """
    values = np.asarray(values, float)
    if values.shape != (len(names), len(names)):
        raise ValueError(f"values have shape {values.shape}, wanted a matrix of {len(names)} names.")
    return Matrix(title, note, tuple(map(str, names)), values, label)
