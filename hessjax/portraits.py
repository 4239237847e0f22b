"""What a landscape looks like: its named points with their spectra, and its loss over a plane through them.

Two parameters are their own plane; of more, a slice along the directions of the smallest and the largest eigenvalue at
one point. Numbers only; plot.py draws them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from hessjax import profiles, trees
from hessjax.assembly import dense
from hessjax.curvature import Hessian
from hessjax.extremes import eigsh
from hessjax.landscapes.base import Landscape
from hessjax.objective import mean_loss
from hessjax.signature import inertia

__all__ = ["DENSE", "Plane", "Portrait", "Shown", "portrait"]

DENSE = 2000  # parameters up to which all eigenvalues of a point are taken
SHOWN = 6  # points that have a spectrum drawn; more cannot be told apart


class Shown(NamedTuple):
    """A point as measured: counts at `tol` ||H||, None where the matrix is too large; `said` is what the facts say."""

    name: str
    kind: str
    loss: float
    grad_norm: float
    negative: int | None
    zero: int | None
    positive: int | None
    eigenvalues: Float[np.ndarray, " k"]  # ascending: all, or the two ends
    said: tuple[float, int, int] | None  # loss, index and nullity


class Plane(NamedTuple):
    """Mean losses on a grid of a plane (one row for a landscape of one parameter); marks are points in it."""

    xs: Float[np.ndarray, " nx"]
    ys: Float[np.ndarray, " ny"]
    loss: Float[np.ndarray, "ny nx"]
    labels: tuple[str, str]
    marks: list[tuple[str, float, float]]


class Portrait(NamedTuple):
    """A landscape's name, notes, size, points and plane; `num_points` is how many critical points are known."""

    name: str
    notes: list[str]
    size: int
    num_points: int
    points: list[Shown]
    plane: Plane


def portrait(
    land: Landscape, key: Key[Array, ""], *, resolution: int = 81, extent: float | None = None, tol: float | None = None
) -> Portrait:
    """Points, spectra and a plane of a landscape; without known critical points, of an init.

    Args:
      land: the landscape; losses are taken in the dtype of its params.
      key: of the init that is measured, and, of large landscapes, of the search for extreme eigenvalues.
      resolution: points a side of the plane.
      extent: half the side of the plane, in units of the params; None: what the points or their size suggest.
      tol: zero is |eigenvalue| <= tol ||H||; None: 1e-8 in float64, 1e-5 in narrower params.

    Raises:
      ValueError: resolution is below 2, or extent not above 0; a critical point is of another structure than params.

    Example:
      >>> import hessjax as hj
      >>> found = portrait(hj.landscapes.get("saddle"), jax.random.key(0), resolution=5, tol=1e-6)
      >>> [(p.name, p.negative, p.zero, p.positive) for p in found.points], found.plane.loss.shape
      ([('strict saddle', 1, 0, 1)], (5, 5))
    """
    if resolution < 2:
        raise ValueError(f"resolution must be at least 2 points, got {resolution}.")
    if extent is not None and not 0 < extent < np.inf:
        raise ValueError(f"extent must be above 0 and finite, got {extent}.")
    start = jax.jit(land.init)(key)
    facts = _chosen(_checked(land.facts.get("critical_points", []), start))
    if tol is None:
        tol = 1e-8 if jnp.result_type(*jax.tree.leaves(start)) == jnp.float64 else 1e-5
    cast = lambda point: jax.tree.map(lambda s, x: jnp.asarray(x, s.dtype), start, point)
    places = [(fact.get("name") or fact["kind"], cast(fact["point"]), fact) for fact in facts] or [("init", start, {})]
    shown = [_measured(land, place, key, tol) for place in places]
    plane = _plane(land, places, key, resolution, extent)
    notes = land.facts.get("notes", [])
    notes = [notes] if isinstance(notes, str) else list(notes)
    total = len(land.facts.get("critical_points", []))
    return Portrait(land.name, notes, trees.size(start), total, shown, plane)


def _checked(facts: Sequence[dict[str, Any]], like: Any) -> Sequence[dict[str, Any]]:
    for number, fact in enumerate(facts):
        if jax.tree.structure(fact["point"]) != jax.tree.structure(like):
            raise ValueError(f"critical point {number} is not of the structure of params, {jax.tree.structure(like)}.")
    return facts


def _chosen(facts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One of every kind first, then the others as they come."""
    first = {fact["kind"]: k for k, fact in reversed(list(enumerate(facts)))}
    order = sorted(range(len(facts)), key=lambda k: (k not in first.values(), k))
    return [facts[k] for k in sorted(order[:SHOWN])]


def _measured(land: Landscape, place: tuple[str, Any, dict], key: Key[Array, ""], tol: float) -> Shown:
    name, params, fact = place
    op = Hessian(land.loss, params, land.batch)
    loss, gradient = jax.jit(jax.value_and_grad(lambda p: mean_loss(land.loss, p, land.batch)))(params)
    counts: tuple[int | None, ...] = (None, None, None)
    if op.size <= DENSE:
        matrix = jax.jit(dense)(op)
        values = np.linalg.eigvalsh(np.asarray(matrix, np.float64))
        found = inertia(matrix, tol)
        counts = int(found.negative), int(found.zero), int(found.positive)
    else:
        values = np.asarray(jax.jit(lambda o: eigsh(o, key, k=2, which="BE").values)(op), np.float64)
    said = (float(fact["loss"]), fact["index"], fact["nullity"]) if fact else None
    return Shown(name, fact.get("kind", ""), float(loss), float(trees.norm(gradient)), *counts, values, said)


def _plane(land: Landscape, places: list, key: Key[Array, ""], resolution: int, extent: float | None) -> Plane:
    """The plane of two params, or a slice through the first point."""
    flat = [np.asarray(trees.ravel(params)[0], np.float64) for _, params, _ in places]
    _, unravel = trees.ravel(places[0][1])
    size = flat[0].size
    if size <= 2:
        marks = [*flat, *(np.ravel(p) for p in land.facts.get("flat_points", []))]
        names = [name for name, _, _ in places] + ["gradient-flat"] * (len(marks) - len(flat))
        origin, labels = np.mean([np.min(marks, 0), np.max(marks, 0)], axis=0), ("x", "y")
        reach = extent or max(1.5, 1.5 * float(np.max(np.ptp(marks, axis=0))) / 2 + 0.5)
        axes = np.eye(size)
    else:
        axes, labels = _directions(land, places[0][1], key)
        origin, marks, names = flat[0], flat[:1], [places[0][0]]
        reach = extent or max(1.5, float(np.linalg.norm(flat[0])))
    span = np.linspace(-reach, reach, resolution)
    second = span if len(axes) > 1 else np.zeros(1)
    loss = _grid(land, unravel, origin, axes, span, second)
    at = [(axes @ (mark - origin)) if size > 2 else mark for mark in marks]
    shift = np.zeros(2) if size > 2 else np.resize(origin, 2) * [1, size > 1]
    places_in_it = [(name, float(a[0]), float(a[1]) if len(a) > 1 else 0.0) for name, a in zip(names, at, strict=True)]
    return Plane(span + shift[0], second + shift[1], loss, labels, places_in_it)


def _directions(land: Landscape, params: Any, key: Key[Array, ""]) -> tuple[np.ndarray, tuple[str, str]]:
    """Eigenvectors of the smallest and of the largest eigenvalue; of a Hessian that is zero, two random directions."""
    op = Hessian(land.loss, params, land.batch)
    if op.size <= DENSE:
        values, vectors = np.linalg.eigh(np.asarray(jax.jit(dense)(op), np.float64))
        axes = vectors.T[[0, -1]]
    else:
        found = jax.jit(lambda o: eigsh(o, key, k=2, which="BE"))(op)
        rows = jax.vmap(lambda v: trees.ravel(v)[0])(found.vectors)
        values, axes = np.asarray(found.values), np.asarray(rows, np.float64)
    if not np.any(values):
        seed = np.asarray(jax.random.normal(key, (op.size, 2)), np.float64)
        return np.linalg.qr(seed)[0].T, ("a random direction", "another")
    ends = [0.0 if abs(v) < 1e-12 * np.abs(values).max() else v for v in (values[0], values[-1])]
    return axes, (f"eigenvector of λ = {ends[0]:.3g}", f"eigenvector of λ = {ends[1]:.3g}")


def _grid(
    land: Landscape, unravel: Callable, origin: np.ndarray, axes: np.ndarray, xs: np.ndarray, ys: np.ndarray
) -> Float[np.ndarray, "ny nx"]:
    second = axes[1] if len(axes) > 1 else np.zeros_like(origin)
    at, u, v = (unravel(jnp.asarray(x)) for x in (origin, axes[0], second))
    return np.asarray(profiles.plane(land.loss, at, u, v, xs, ys, batch=land.batch).values, np.float64)
