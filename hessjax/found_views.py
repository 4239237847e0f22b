"""Draws found_panels.py's records with matplotlib. No number is computed here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hessjax import axes
from hessjax.critical import STATUSES
from hessjax.found_panels import Found, Norms, Outcomes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["COLOURS", "MARKERS", "draw_found"]

MARKERS = {"critical": "o", "gradient-flat": "^", "unfinished": "x"}
COLOURS = {"critical": "#2a7f62", "gradient-flat": "#d59a1a", "unfinished": "#9aa0a6", "diverged": "#b3382c"}


def draw_found(panel: Found | Outcomes | Norms, ax: Axes | None = None) -> Axes:
    """One record on the axes given, or on those of a new figure.

    Example:
      >>> draw_found(Outcomes("", "", ["newton"], np.array([[0.5, 0.0, 0.5, 0.0]]))).get_xlabel()
      'share of starts'
    """
    ax = axes.given(ax)
    axes.frame(ax, panel.title, panel.note)
    draw: Any = {Found: _found, Outcomes: _outcomes, Norms: _norms}[type(panel)]
    return draw(panel, ax)


def _found(panel: Found, ax: Axes) -> Axes:
    axes.label(ax, *panel.labels)
    if not panel.groups and not len(panel.truth):
        return axes.empty(ax)
    if len(panel.truth):
        ax.plot(*panel.truth.T, "s", mfc="none", mec=axes.GREY, mew=0.6, ms=6, label="known", zorder=1)
    if len(panel.law):
        ax.plot(*panel.law.T, color=axes.INK, linewidth=1.2, label=panel.law_name or "law", zorder=1)
    points = None
    for group in panel.groups:
        filled = group.name != "unfinished"
        style: dict[str, Any] = {"edgecolors": "white", "linewidths": 0.4} if filled else {"linewidths": 1.0}
        points = ax.scatter(
            group.x, group.y, s=26, c=group.shade, cmap="viridis_r", vmin=panel.limits[0], vmax=panel.limits[1],
            marker=MARKERS[group.name], label=f"{group.name} ({len(group.x):,})", zorder=3, **style,
        )  # fmt: skip
    if points is not None:
        bar = ax.figure.colorbar(points, ax=ax, pad=0.02)
        bar.set_label(panel.shade, fontsize=9)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    return ax


def _outcomes(panel: Outcomes, ax: Axes) -> Axes:
    axes.label(ax, "share of starts", "")
    left = np.zeros(len(panel.finders))
    rows = np.arange(len(panel.finders))[::-1]
    for k, status in enumerate(STATUSES):
        ax.barh(rows, panel.shares[:, k], left=left, color=COLOURS[status], height=0.6, label=status)
        left = left + panel.shares[:, k]
    ax.set_yticks(rows.tolist(), labels=panel.finders)
    ax.set_xlim(0, 1)
    ax.legend(frameon=False, fontsize=8, ncols=4, loc="lower center", bbox_to_anchor=(0.5, -0.32))
    return ax


def _norms(panel: Norms, ax: Axes) -> Axes:
    axes.label(ax, "squared gradient norm", "share of points at or below")
    if not any(len(values) for values in panel.values):
        return axes.empty(ax)
    for name, values in zip(panel.finders, panel.values, strict=True):
        if len(values):
            ax.step(np.maximum(values, 1e-36), np.arange(1, len(values) + 1) / len(values), where="post", label=name)
    for place, style in ((panel.cutoff, "--"), (panel.floor, ":")):
        if place > 0:
            ax.axvline(place, color=axes.GREY, linestyle=style, linewidth=1)
    ax.set_xscale("log")
    ax.set_ylim(0, 1.02)
    ax.legend(frameon=False, fontsize=8, loc="best")
    return ax
