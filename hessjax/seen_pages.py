"""Profiles on a report's page: seen_panels.py's records as plotly dicts."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np

from hessjax.seen_panels import Contours, Matrix, Traces, over_columns
from hessjax.seen_views import ON_VIRIDIS, PALETTE, on_surface
from hessjax.tables import number

__all__ = ["CAPTIONS", "seen_figure"]

CAPTIONS = {
    "plane": "Left: contours, with each optimiser's trajectory at its nearest points of the plane and its last point "
    "marked. Right: the same as a surface, which turns. Hovering shows values.",
    "training": "The same inits by every optimiser. Training that is stuck need not be at zero gradient; sharpness "
    "above a dotted line is more than the step size can follow.",
    "from_start": "The loss on the straight line from a start to where training led.",
    "between": "The loss on straight lines between the ends of two optimisers.",
    "separation": "Distance in parameter space between two optimisers' trajectories at the same step.",
    "disagreement": "How many rows of the data two ends decide differently.",
    "barrier": "How far the line between two ends rises above the line between their losses.",
}


def seen_figure(panel: Traces | Contours | Matrix, layout: dict[str, Any]) -> dict[str, Any]:
    """A plotly figure of a record, in a page's layout.

    Example:
      >>> from hessjax.seen_panels import traces
      >>> seen_figure(traces([0, 1], {"loss": {"sgd": [2, 1]}}, x_label="step"), {})["data"][0]["y"]
      [2.0, 1.0]
    """
    make: Any = {Traces: _traces, Contours: _contours, Matrix: _matrix}[type(panel)]
    data, own = make(panel)
    return {"data": data, "layout": layout | own}


def _numbers(values: Any) -> Any:
    """Lists that JSON can hold: null for what is not finite."""
    if isinstance(values, np.ndarray) and values.ndim > 1:
        return [_numbers(row) for row in values]
    return [float(f"{x:.6g}") if np.isfinite(x) else None for x in np.asarray(values, float).tolist()]


def _axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": escape(title)}, "automargin": True, "zeroline": False, "ticks": "outside", **more}


def _traces(panel: Traces) -> tuple[list[dict], dict]:
    rows, columns = over_columns(len(panel.parts))
    data: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"height": 420 * rows, "annotations": []}
    for k, part in enumerate(panel.parts):
        own, (row, column) = "" if k == 0 else str(k + 1), divmod(k, columns)
        left, top = column / columns + 0.03 * (column > 0), 1 - row / rows
        right, bottom = (column + 1) / columns - 0.03, 1 - (row + 1) / rows + 0.16 * (rows > 1)
        scale = {"type": "log", "exponentformat": "power"} if part.axis.kind == "log" else {}
        layout[f"xaxis{own}"] = _axis(panel.x_label, domain=[left, right], anchor=f"y{own}")
        layout[f"yaxis{own}"] = _axis(part.label if k == 0 else "", domain=[bottom, top], anchor=f"x{own}", **scale)
        if k:
            text = {"text": escape(part.label), "x": left, "y": top, "xanchor": "left", "yanchor": "bottom"}
            layout["annotations"].append({"xref": "paper", "yref": "paper", "showarrow": False, **text})
        shown = {"type": "scatter", "xaxis": f"x{own}", "yaxis": f"y{own}"}
        for j, (name, values) in enumerate(part.curves.items()):
            line = {"color": PALETTE[j % len(PALETTE)], "dash": "solid" if j < len(PALETTE) else "dash"}
            label = {"name": escape(name), "legendgroup": name, "showlegend": bool(name) and k == 0}
            xy = {"x": _numbers(panel.x), "y": _numbers(values)}
            data.append({**shown, "mode": "lines", "line": line, **label, **xy})
        for name, level in part.levels.items():
            j = list(part.curves).index(name) if name in part.curves else len(PALETTE) - 1
            line = {"color": PALETTE[j % len(PALETTE)], "dash": "dot", "width": 1.3}
            xy = {"x": _numbers(panel.x[[0, -1]]), "y": [level, level]}
            label = {"name": escape(f"{name}: {number(level)}"), "legendgroup": name, "showlegend": False}
            data.append({**shown, "mode": "lines", "line": line, **label, **xy})
    return data, layout


def _contours(panel: Contours) -> tuple[list[dict], dict]:
    colour = _colours(panel)
    shown = {"x": _numbers(panel.xs), "y": _numbers(panel.ys), "z": _numbers(panel.heights)}
    hover = {"hovertemplate": "%{text}<extra></extra>", "text": _texts(panel)}
    data: list[dict[str, Any]] = [
        {"type": "contour", **shown, **colour, **hover, "ncontours": 28, "line": {"width": 0.4, "color": "white"}},
        {"type": "surface", **shown, "colorscale": "Viridis", "showscale": False, "scene": "scene", **hover},
    ]
    for k, (name, path) in enumerate(panel.paths.items()):
        label = {"name": escape(name), "legendgroup": name}
        line = {"color": ON_VIRIDIS[k % len(ON_VIRIDIS)], "width": 2}
        sizes = [0] * (len(path) - 1) + [9]
        flat = {"x": _numbers(path[:, 0]), "y": _numbers(path[:, 1]), "mode": "lines+markers"}
        marker = {"size": sizes, "color": line["color"], "line": {"color": "black", "width": 1}}
        data.append({"type": "scatter", **flat, **label, "line": line, "marker": marker})
        inside = (path >= [panel.xs[0], panel.ys[0]]).all(1) & (path <= [panel.xs[-1], panel.ys[-1]]).all(1)
        kept = path[inside]
        solid = {"x": _numbers(kept[:, 0]), "y": _numbers(kept[:, 1]), "z": _numbers(on_surface(panel, kept))}
        line = {"color": ON_VIRIDIS[k % len(ON_VIRIDIS)], "width": 6}
        data.append({"type": "scatter3d", **solid, **label, "mode": "lines", "line": line, "showlegend": False})
    for name, (x, y) in panel.marks.items():
        marker = {"symbol": "star", "size": 12, "color": "#ff3030"}
        data.append({"type": "scatter", "mode": "markers", "x": [x], "y": [y], "name": escape(name), "marker": marker})
    scene_axis = lambda title: {"title": {"text": escape(title)}}
    scene = {
        "domain": {"x": [0.56, 1], "y": [0, 1]},
        "aspectratio": {"x": 1, "y": 1, "z": 0.7},
        "xaxis": scene_axis(""),
        "yaxis": scene_axis(""),
        "zaxis": scene_axis("height"),
    }
    legend = {"orientation": "h", "y": -0.18, "bgcolor": "#d8d8d8"}
    ends = lambda grid: [float(grid[0]), float(grid[-1])]
    across = _axis(panel.labels[0], domain=[0, 0.45], range=ends(panel.xs), showgrid=False)
    up = _axis(panel.labels[1], range=ends(panel.ys), showgrid=False)
    return data, {"xaxis": across, "yaxis": up, "scene": scene, "legend": legend, "height": 560}


def _colours(panel: Contours) -> dict[str, Any]:
    """A colour bar with values, also where colours are of other heights."""
    finite = np.isfinite(panel.heights)
    bar: dict[str, Any] = {"title": {"text": escape(panel.label), "side": "right"}, "x": 0.455, "thickness": 14}
    if finite.any() and panel.heights is not panel.values:
        order = np.argsort(panel.heights[finite])
        at = np.linspace(panel.heights[finite].min(), panel.heights[finite].max(), 7)
        values = np.interp(at, panel.heights[finite][order], panel.values[finite][order])
        bar |= {"tickvals": _numbers(at), "ticktext": [number(value) for value in values]}
    return {"colorscale": "Viridis", "colorbar": bar}


def _texts(panel: Contours) -> list[list[str]]:
    said = escape(panel.label)
    return [
        [f"{said} {number(z, 4)}<br>({number(x)}, {number(y)})" for x, z in zip(panel.xs, row, strict=True)]
        for y, row in zip(panel.ys, panel.values, strict=True)
    ]


def _matrix(panel: Matrix) -> tuple[list[dict], dict]:
    names = [escape(name) for name in panel.names]
    texts = [["–" if np.isnan(x) else number(x) for x in row] for row in panel.values]
    data = [
        {"type": "heatmap", "x": names, "y": names, "z": _numbers(panel.values), "text": texts,
         "texttemplate": "%{text}", "colorscale": "Viridis", "hovertemplate": "%{y}, %{x}: %{text}<extra></extra>",
         "colorbar": {"title": {"text": escape(panel.label), "side": "right"}}}
    ]  # fmt: skip
    return data, {"yaxis": _axis("", autorange="reversed", type="category"), "xaxis": _axis("", type="category")}
