"""Draws a portrait (its plane as contours and as a surface, the spectra at its points), and a law over eigenvalues."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from hessjax import axes
from hessjax.figures import Axis
from hessjax.seen_panels import contours
from hessjax.seen_views import MARKERS, draw_contours, draw_surface

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hessjax.free_laws import FreeLaw
    from hessjax.portraits import Portrait

__all__ = ["draw_law", "draw_portrait"]

TAILS = 0.002, 0.998  # quantiles of the eigenvalues between which they are drawn, where the law ends inside them


def draw_portrait(found: Portrait) -> Figure:
    """Contours, surface and spectra side by side; a curve and spectra for a landscape of one parameter."""
    figure = axes.figure((15, 4.9))
    note = ""
    if len(found.plane.ys) > 1:
        flat, solid, spectra = (
            figure.add_subplot(131),
            figure.add_subplot(132, projection="3d"),
            figure.add_subplot(133),
        )
        plane = found.plane
        marks = {name: (x, y) for name, x, y in plane.marks}
        panel = contours(plane.xs, plane.ys, plane.loss, labels=plane.labels, title="Loss", marks=marks)
        note = panel.note or "heights: loss"
        draw_contours(panel._replace(note=""), flat)
        draw_surface(panel, solid)
    else:
        flat, spectra = figure.add_subplot(121), figure.add_subplot(122)
        _line(flat, found)
    _spectra(spectra, found)
    figure.suptitle(axes.plain(f"{found.name}: {found.size:,} parameter{'s' * (found.size > 1)}"), x=0.01, ha="left",
                    fontsize=14, fontweight="bold")  # fmt: skip
    said = [*found.notes, note] if note else found.notes
    figure.supxlabel(
        axes.plain("\n".join(textwrap.wrap("; ".join(said), 190))),
        fontsize=8,
        color=axes.GREY,
        x=0.99,
        ha="right",
    )
    return figure


def _line(ax: Axes, found: Portrait) -> None:
    plane = found.plane
    axes.frame(ax, "Loss", "")
    axes.label(ax, plane.labels[0], "loss")
    ax.plot(plane.xs, plane.loss[0], color=axes.BLUE, linewidth=1.6)
    for (name, x, _), point in zip(plane.marks, found.points):
        ax.plot(x, point.loss, "o", color="#b2182b", label=name)
    ax.legend(fontsize=8, frameon=False)


def _spectra(ax: Axes, found: Portrait) -> None:
    axes.frame(ax, "Hessian spectra at its points", "")
    axes.label(ax, "rank / number of eigenvalues", "eigenvalue λ")
    values = np.concatenate([point.eigenvalues for point in found.points])
    largest = float(np.abs(values).max()) if values.size else 1.0
    if largest > 0:
        axes.scale(ax, "y", Axis("arcsinh", 1e-3 * largest), (min(values.min(), 0), max(values.max(), 0)))
    for k, (point, colour) in enumerate(zip(found.points, axes.colours(len(found.points)))):
        rank = (np.arange(len(point.eigenvalues)) + 0.5) / len(point.eigenvalues)
        style = MARKERS[k % len(MARKERS)] if len(rank) <= 60 else "."
        ax.plot(rank, point.eigenvalues, style, color=colour, markersize=5, label=_counts(point), alpha=0.85)
    ax.axhline(0, color=axes.GREY, linewidth=0.7)
    ax.set_xlim(0, 1)
    ax.legend(fontsize=7.5, loc="best", framealpha=0.85)


def _counts(point: Any) -> str:
    if point.negative is None:
        return f"{point.name}: both ends"
    return f"{point.name}: {point.negative} −, {point.zero} zero, {point.positive} +"


def draw_law(law: FreeLaw, eigenvalues: np.ndarray, ax: Axes) -> Axes:
    """The law's density over a histogram of the eigenvalues that are finite; an atom is a dashed line."""
    values = eigenvalues[np.isfinite(eigenvalues)]
    left, right = law.edges()
    ends = np.quantile(values, TAILS) if values.size else np.array([left, right])
    low, high = min(left, ends[0]), max(right, ends[1])
    margin = 0.04 * (high - low) or 1.0
    grid = np.union1d(np.linspace(low - margin, high + margin, 800), law.bands())
    outside = int(((values < grid[0]) | (values > grid[-1])).sum())
    zero = 1e-6 * max(-left, right, 0.0)  # rounding of float32, below which a sign means nothing
    title = f"{law.negative_fraction():.1%} below 0 by the law"
    title += f", {(values < -zero).mean():.1%} measured" if values.size else ""
    lost = [f"{outside:,} beyond the axis"] * (outside > 0)
    lost += [f"{eigenvalues.size - values.size:,} not finite"] * (values.size < eigenvalues.size)
    axes.frame(ax, title, f"{values.size:,} eigenvalues" + "".join(f"; {x}" for x in lost) if eigenvalues.size else "")
    axes.label(ax, "eigenvalue λ", "density")
    if values.size:
        bins = np.linspace(grid[0], grid[-1], int(np.clip(2 * values.size ** (1 / 3), 12, 120)))
        heights = np.histogram(values, bins)[0] / (values.size * (bins[1] - bins[0]))
        ax.stairs(heights, bins, fill=True, color=axes.GREY, alpha=0.45, label="measured")
    inside = (grid >= left) & (grid <= right) & (left < right)
    density = np.full(grid.shape, np.nan)
    density[inside] = law.density(grid[inside])
    ax.plot(grid, density, color=axes.BLUE, linewidth=1.6, label="law")
    if law.atom:
        label = f"law: {law.atom:.1%} at {law.shift:g}"
        ax.axvline(law.shift, color=axes.BLUE, linewidth=1.2, linestyle="--", label=label)
    finite = density[np.isfinite(density)]
    top = np.quantile(finite, 0.98) if finite.size else 1.0
    tallest = heights.max() if values.size else 0.0
    ax.set_ylim(0, max(1.15 * tallest, 1.3 * top))
    ax.set_xlim(grid[0], grid[-1])
    ax.legend(fontsize=8, frameon=False)
    return ax
