"""A search for critical points on a report's page: found_panels.py's records as plotly dicts, and its table."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from hessjax import axes
from hessjax.critical import STATUSES
from hessjax.found_panels import Found, Norms, Outcomes, summary
from hessjax.found_views import COLOURS

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["CAPTIONS", "figure_of", "table_of"]

CAPTIONS = {
    "points": "Every start's end, by loss and index; the colour is the squared gradient norm. Squares: points known in "
    "closed form. Points that are not critical have no index in the sense of the theory, whatever they look like.",
    "outcomes": "Critical: squared gradient norm below the cut-off. Gradient-flat: the gradient lies in the null space "
    "of the Hessian. Unfinished: neither, when the steps ran out or led nowhere.",
    "gradient_norms": "Where a cut-off is put decides what is called critical.",
}
SYMBOLS = {"critical": "circle", "gradient-flat": "triangle-up", "unfinished": "x-thin-open"}


def figure_of(panel: Found | Outcomes | Norms, layout: dict[str, Any]) -> dict[str, Any]:
    """A plotly figure of a record, in a page's layout.

    Example:
      >>> figure_of(Outcomes("", "", ["newton"], np.array([[1.0, 0, 0, 0]])), {})["data"][0]["x"]
      [1.0]
    """
    make: Any = {Found: _found, Outcomes: _outcomes, Norms: _norms}[type(panel)]
    data, own = make(panel)
    return {"data": data, "layout": layout | own}


def _axis(title: str, **more: Any) -> dict[str, Any]:
    return {"title": {"text": escape(title)}, "automargin": True, "zeroline": False, "ticks": "outside", **more}


def _found(panel: Found) -> tuple[list[dict], dict]:
    data: list[dict[str, Any]] = []
    if len(panel.truth):
        mark = {"symbol": "square-open", "size": 11, "color": axes.GREY}
        x, y = panel.truth.T.tolist()
        data.append({"type": "scatter", "mode": "markers", "name": "known", "x": x, "y": y, "marker": mark})
    if len(panel.law):
        x, y = panel.law.T.tolist()
        line = {"color": axes.INK, "width": 1.5}
        data.append({"type": "scatter", "mode": "lines", "name": escape(panel.law_name), "x": x, "y": y, "line": line})
    scale = {"cmin": panel.limits[0], "cmax": panel.limits[1], "colorscale": "Viridis", "reversescale": True}
    for k, group in enumerate(panel.groups):
        names = list(group.columns)
        hover = "<br>".join(f"{name} %{{customdata[{j}]:.4~g}}" for j, name in enumerate(names)) + "<extra></extra>"
        marker = {
            "symbol": SYMBOLS[group.name],
            "size": 8,
            "color": [None if v != v else v for v in group.shade.tolist()],
            **scale,
        }
        if k == len(panel.groups) - 1:
            marker |= {
                "showscale": True,
                "colorbar": {"title": {"text": escape(panel.shade), "side": "right"}, "x": 1.18},
            }
        table = np.stack([np.asarray(group.columns[name], float) for name in names], axis=1)
        table = [[None if value != value else value for value in row] for row in table.tolist()]
        data.append(
            {"type": "scatter", "mode": "markers", "name": f"{group.name} ({len(group.x)})", "x": group.x.tolist(),
             "y": group.y.tolist(), "customdata": table, "hovertemplate": hover, "marker": marker}
        )  # fmt: skip
    return data, {"xaxis": _axis(panel.labels[0]), "yaxis": _axis(panel.labels[1])}


def _outcomes(panel: Outcomes) -> tuple[list[dict], dict]:
    data = [
        {"type": "bar", "orientation": "h", "name": status, "y": [escape(name) for name in panel.finders],
         "x": panel.shares[:, k].tolist(), "marker": {"color": COLOURS[status]}}
        for k, status in enumerate(STATUSES)
    ]  # fmt: skip
    own = {"barmode": "stack", "xaxis": _axis("share of starts", range=[0, 1]), "height": 160 + 60 * len(panel.finders)}
    return data, own | {"yaxis": _axis("", autorange="reversed")}


def _norms(panel: Norms) -> tuple[list[dict], dict]:
    data: list[dict[str, Any]] = []
    for name, values in zip(panel.finders, panel.values, strict=True):
        shares = (np.arange(1, len(values) + 1) / max(len(values), 1)).tolist()
        line = {"shape": "hv"}
        x = np.maximum(values, 1e-36).tolist()
        data.append({"type": "scatter", "mode": "lines", "name": escape(name), "x": x, "y": shares, "line": line})
    lines = [
        {"type": "line", "xref": "x", "yref": "paper", "x0": place, "x1": place, "y0": 0, "y1": 1,
         "line": {"color": axes.GREY, "dash": dash, "width": 1}}
        for place, dash in ((panel.cutoff, "dash"), (panel.floor, "dot"))
        if place > 0
    ]  # fmt: skip
    x = _axis("squared gradient norm", type="log", exponentformat="power")
    return data, {"xaxis": x, "yaxis": _axis("share of points at or below", range=[0, 1.02]), "shapes": lines}


def table_of(ds: xr.Dataset) -> str:
    """HTML of the methods' outcomes.

    Example:
      >>> import xarray as xr
      >>> row = lambda *v: xr.DataArray([[x] for x in v], dims=("start", "finder"))
      >>> ds = xr.Dataset({"status": row(0, 2), "num_steps": row(3, 5), "num_matvecs": row(6, 8)})
      >>> ds = ds.assign_coords(finder=["newton"])
      >>> "<td>newton</td><td>1</td>" in table_of(ds)
      True
    """
    rows = summary(ds)
    heads = "".join(f"<th>{escape(name)}</th>" for name in (rows[0] if rows else {}))
    cell = lambda value: escape(f"{value:,.4g}" if isinstance(value, float) else f"{value}")
    body = "".join("<tr>" + "".join(f"<td>{cell(v)}</td>" for v in row.values()) + "</tr>" for row in rows)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
