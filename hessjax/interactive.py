"""Interactive figures of a sweep: panels.py's records as plotly figures, in plain dicts that are ready for JSON.

Plain dicts, because a page needs only plotly.js: no figure is validated or copied a second time, and arrays travel as
base64 typed arrays (float32), an eighth of the text. Plotly has no scale through zero, so an arcsinh axis is drawn as
u = arcsinh(x / c) with ticks at the true values; hovering always shows true values. Nothing here writes a page.
"""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from hessjax import axes, panels
from hessjax.figures import Axis, ticks
from hessjax.tables import number

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["figure", "figures", "page_layout"]

NO_NAME = "<extra></extra>"
MANY, MOST = 20_000, 40_000  # points: from here WebGL, and the most that one figure holds
_GRID, _FONT = "rgba(0,0,0,0.09)", "system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"


def figures(ds: xr.Dataset) -> dict[str, dict]:
    """Every figure of a sweep by file name, as a plotly dict with `data` and `layout`.

    Example:
        >>> import xarray as xr
        >>> row = lambda *v: xr.DataArray([v], dims=("init", "time"))
        >>> ds = xr.Dataset({"loss": row(2.0, 0.1), "grad_norm": row(1.0, 0.5), "negative": row(3, 1),
        ...                  "positive": row(4, 6)}, {"step": ("time", [0, 9])}, {"landscape": {"num_params": 10}})
        >>> figures(ds)["loss_curves"]["data"][-1]["name"]
        'median'
    """
    return {name: figure(panel) for name, panel in panels.panels(ds).items()}


def figure(panel: panels.Scatter | panels.Curves | panels.Density | panels.Distributions | panels.Estimated) -> dict:
    """One record of panels.py as a plotly dict.

    Example:
        >>> import xarray as xr
        >>> loss = xr.DataArray([[2.0, 0.1]], dims=("init", "time"))
        >>> sorted(figure(panels.curves(xr.Dataset({"loss": loss}, {"step": ("time", [0, 9])}))))
        ['data', 'layout']
    """
    return _BUILD[type(panel)](panel)


def _scatter(panel: panels.Scatter) -> dict:
    if panel.x.size == 0:
        return _nothing(panel.title)
    shown = np.arange(panel.x.size)
    if shown.size > MOST:
        shown = np.sort(np.random.default_rng(0).choice(shown.size, MOST, replace=False))
    kind = "scattergl" if shown.size > MANY else "scatter"
    names = list(panel.columns)
    formats = [",d" if np.asarray(c).dtype.kind in "iu" else ".4~g" for c in panel.columns.values()]
    hover = "<br>".join(f"{n} %{{customdata[{k}]:{f}}}" for k, (n, f) in enumerate(zip(names, formats))) + NO_NAME
    table = np.stack([np.asarray(panel.columns[n], float) for n in names], axis=1)
    data = []
    for t, colour in enumerate(_hex_colours(len(panel.steps))):
        rows = shown[panel.time[shown] == t]
        data.append(
            {
                "type": kind,
                "mode": "markers",
                "name": f"step {panel.steps[t]:,}",
                "x": _array(panel.axes[0].forward(panel.x[rows]) if _drawn(panel.axes[0]) else panel.x[rows]),
                "y": _array(panel.axes[1].forward(panel.y[rows]) if _drawn(panel.axes[1]) else panel.y[rows]),
                "customdata": _array(table[rows]),
                "hovertemplate": hover,
                "marker": {"color": colour, "size": 4 if shown.size > 500 else 7, "opacity": 0.55},
            }
        )
    data += _running(panel, kind)
    layout = page_layout(legend_title="training step")
    layout["xaxis"] = _axis(panel.axes[0], panel.labels[0], panel.x)
    layout["yaxis"] = _axis(panel.axes[1], panel.labels[1], panel.y)
    return {"data": data, "layout": layout}


def _running(panel: panels.Scatter, kind: str) -> list[dict]:
    """The running median and its band, in the points' own kind of trace: plotly draws WebGL above everything else."""
    running = panel.running
    if running.x.size < 3:
        return []
    dashed, halo = {"color": axes.INK, "width": 1.2, "dash": "dash"}, {"color": "white", "width": 6}
    lines = (
        ("halo", running.median, halo),
        ("running median", running.median, {"color": axes.INK, "width": 2.5}),
        ("10 %", running.low, dashed),
        ("90 %", running.high, dashed),
    )
    traces = []
    for name, y, line in lines:
        place = [axis.forward(v) if _drawn(axis) else v for axis, v in zip(panel.axes, (running.x, y))]
        text = f"{name}: %{{customdata[1]:.4~g}} at %{{customdata[0]:.4~g}}" + NO_NAME
        values = _array(np.stack([running.x, y], axis=1))
        trace = {"type": kind, "mode": "lines", "name": name, "line": line, "hovertemplate": text}
        if line is halo:
            trace |= {"showlegend": False, "hoverinfo": "skip", "hovertemplate": ""}
        traces.append(trace | {"x": _array(place[0]), "y": _array(place[1]), "customdata": values})
    return traces


def _density(panel: panels.Density) -> dict:
    if panel.density.size == 0:
        return _nothing(panel.title)
    centres = (panel.edges[1:] + panel.edges[:-1]) / 2
    data = []
    for t, colour in enumerate(_hex_colours(len(panel.steps))):
        step = f"step {panel.steps[t]:,}"
        common: dict[str, Any] = {"type": "scatter", "name": step, "legendgroup": step}
        curve = {
            "mode": "lines",
            "x": _array(centres),
            "y": _array(panel.density[t].clip(panel.floor)),
            "customdata": _array(panel.axis.inverse(centres)),
            "line": {"color": colour, "width": 1.6, "shape": "hvh"},
            "hovertemplate": step + "<br>λ ≈ %{customdata:.3~g}<br>density %{y:.3~g}" + NO_NAME,
        }
        outliers = {
            "mode": "markers",
            "x": _array(panel.axis.forward(panel.outliers[t])),
            "y": [t] * panel.outliers.shape[1],
            "yaxis": "y2",
            "showlegend": False,
            "customdata": _array(panel.outliers[t]),
            "marker": {"symbol": "line-ns-open", "size": 3, "color": colour, "line": {"width": 1.5, "color": colour}},
            "hovertemplate": step + "<br>outlier λ = %{customdata:.4~g} (median)" + NO_NAME,
        }
        data += [common | curve, common | outliers]
    layout = page_layout(legend_title="training step")
    layout["xaxis"] = _axis(panel.axis, "eigenvalue λ", panel.axis.inverse(panel.edges), max_ticks=13) | {
        "anchor": "y2"
    }
    layout["yaxis"] = _axis(Axis("log"), "share per unit of arcsinh(λ/c)", panel.density) | {"domain": [0.2, 1]}
    hidden = {"showticklabels": False, "showgrid": False, "zeroline": False, "fixedrange": True}
    title = {"text": "ten<br>largest", "font": {"size": 11}}
    count = len(panel.steps)
    layout["yaxis2"] = {"domain": [0, 0.17], "range": [count - 0.2, -0.8], "title": title, **hidden}
    edge = float(panel.axis.forward(panel.threshold))
    band = {"type": "rect", "xref": "x", "yref": "paper", "x0": -edge, "x1": edge, "y0": 0, "y1": 1, "layer": "below"}
    layout["shapes"] = [band | {"fillcolor": "rgba(0,0,0,0.07)", "line": {"width": 0}}]
    return {"data": data, "layout": layout}


def _estimated(panel: panels.Estimated) -> dict:
    x = _array(panel.axis.forward(panel.grid))
    low, value, high = (y.clip(panel.floor) for y in (panel.low, panel.value, panel.high))
    common: dict[str, Any] = {"type": "scatter", "mode": "lines", "x": x}
    edge = common | {"line": {"width": 0}, "hoverinfo": "skip", "legendgroup": "band"}
    band = {"fill": "tonexty", "fillcolor": "rgba(59,110,168,0.25)", "name": "95 %"}
    table = np.stack([panel.grid, panel.value, panel.low.clip(0), panel.high], axis=1)
    text = "λ = %{customdata[0]:.4~g}<br>density %{customdata[1]:.3~g}"
    text += "<br>95 %: %{customdata[2]:.3~g} to %{customdata[3]:.3~g}" + NO_NAME
    curve = {"name": "density", "line": {"color": axes.BLUE, "width": 2}, "customdata": _array(table)}
    ticks = {
        "type": "scatter",
        "mode": "markers",
        "name": "one by one",
        "x": _array(panel.axis.forward(panel.outliers)),
        "y": [panel.floor * 1.3] * len(panel.outliers),
        "customdata": _array(panel.outliers),
        "marker": {"symbol": "line-ns-open", "size": 10, "color": axes.INK, "line": {"width": 1.5, "color": axes.INK}},
        "hovertemplate": "λ = %{customdata:.5~g}" + NO_NAME,
    }
    data = [
        edge | {"y": _array(low), "showlegend": False},
        edge | band | {"y": _array(high)},
        common | curve | {"y": _array(value), "hovertemplate": text},
        ticks,
    ]
    layout = page_layout()
    layout["xaxis"] = _axis(panel.axis, "eigenvalue λ", panel.grid[[0, -1]], max_ticks=13)
    layout["yaxis"] = _axis(Axis("log"), "share per unit of λ", np.array([panel.floor, high.max()]))
    return {"data": data, "layout": layout}


def _curves(panel: panels.Curves) -> dict:
    axis = panel.step_axis
    x = _array(axis.forward(panel.steps))
    data, layout = [], page_layout()
    domains = [[0.0, 1.0]] if len(panel.curves) == 1 else [[0.42, 1.0], [0.0, 0.36]]
    for k, (curve, domain) in enumerate(zip(panel.curves, domains)):
        which = "" if k == 0 else str(k + 1)
        values = curve.axis.forward(curve.bands) if _drawn(curve.axis) else curve.bands
        common = {"type": "scatter", "x": x, "yaxis": f"y{which}", "showlegend": k == 0}
        for low, high, fill, name in ((0, 4, 0.16, "5–95 %"), (1, 3, 0.32, "25–75 %")):
            edge = common | {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "legendgroup": name}
            data.append(edge | {"y": _array(values[low]), "showlegend": False})
            shade = {"fill": "tonexty", "fillcolor": f"rgba(59,110,168,{fill})", "name": name}
            data.append(edge | shade | {"y": _array(values[high])})
        table = np.concatenate([panel.steps[None], curve.bands]).T
        text = "step %{customdata[0]:,}<br>median %{customdata[3]:.4~g}"
        text += "<br>25–75 %: %{customdata[2]:.4~g} to %{customdata[4]:.4~g}"
        text += "<br>5–95 %: %{customdata[1]:.4~g} to %{customdata[5]:.4~g}" + NO_NAME
        line = {"mode": "lines+markers", "line": {"color": axes.BLUE, "width": 2.2}, "name": "median"}
        line |= {"legendgroup": "median", "customdata": _array(table), "hovertemplate": text}
        data.append(common | line | {"y": _array(values[2])})
        layout[f"yaxis{which}"] = _axis(curve.axis, curve.label, curve.bands) | {"domain": domain}
    layout["xaxis"] = _axis(axis, "training step", panel.steps) | {"anchor": "y" if len(panel.curves) == 1 else "y2"}
    return {"data": data, "layout": layout}


def _distributions(panel: panels.Distributions) -> dict:
    if not panel.parts:
        return _nothing(panel.title)
    columns = min(len(panel.parts), 3)
    lines = -(-len(panel.parts) // columns)
    data, layout = [], page_layout() | {"showlegend": False, "bargap": 0, "shapes": [], "annotations": []}
    for k, part in enumerate(panel.parts):
        which = "" if k == 0 else str(k + 1)
        row, column = divmod(k, columns)
        left, bottom = column / columns, 1 - (row + 1) / lines
        edges, mass = part.histogram.edges, 100 * part.histogram.mass
        limits = part.axis.inverse(edges)
        data.append(
            {
                "type": "bar",
                "x": _array((edges[1:] + edges[:-1]) / 2),
                "y": _array(mass),
                "width": _array(np.diff(edges)),
                "customdata": _array(np.stack([limits[:-1], limits[1:]], axis=1)),
                "hovertemplate": "%{customdata[0]:.3~g} to %{customdata[1]:.3~g}<br>%{y:.3~g} %" + NO_NAME,
                "marker": {"color": axes.BLUE},
                "xaxis": f"x{which}",
                "yaxis": f"y{which}",
            }
        )
        layout[f"xaxis{which}"] = _axis(
            part.axis, part.label.replace(" (", "\n("), limits, positions=True, max_ticks=5
        ) | {
            "domain": [left, left + 1 / columns - 0.07],
            "anchor": f"y{which}",
        }
        layout[f"yaxis{which}"] = _axis(Axis(), "share of inits (%)" if column == 0 else "", mass) | {
            "domain": [bottom + (0.2 if row < lines - 1 else 0), bottom + 1 / lines - 0.06],
            "anchor": f"x{which}",
        }
        at = float(part.axis.forward(part.median))
        place = {"xref": f"x{which}", "yref": f"y{which} domain"}
        line = {"type": "line", "x0": at, "x1": at, "y0": 0, "y1": 1, "line": {"color": axes.INK, "width": 1.5}}
        layout["shapes"].append(place | line)
        text = {"text": f"median {number(part.median)}", "showarrow": False, "font": {"size": 11, "color": axes.GREY}}
        spot = {"xref": f"x{which} domain", "yref": f"y{which} domain", "x": 1, "y": 1, "yanchor": "bottom"}
        layout["annotations"].append(text | spot | {"xanchor": "right"})
    return {"data": data, "layout": layout}


def _drawn(axis: Axis) -> bool:
    """Whether data must be moved to positions by hand; plotly has linear and log scales of its own."""
    return axis.kind == "arcsinh"


def _axis(axis: Axis, label: str, values: np.ndarray, *, positions: bool = False, max_ticks: int = 9) -> dict:
    """A plotly axis; with `positions`, the data on a log axis are given as positions too."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    look: dict[str, Any] = {
        "title": {"text": escape(label).replace("\n", "<br>"), "standoff": 8},
        "gridcolor": _GRID,
        "zeroline": False,
        "ticks": "outside",
    }
    look |= {"automargin": True, "linecolor": axes.GREY, "showline": True}
    if axis.kind == "log" and not positions:
        narrow = values.size > 0 and values.max() < 3000 * values.min()
        plain = values.size > 0 and values.min() > 1e-4 and values.max() < 1e5
        look |= {"exponentformat": "none" if plain else "power"}
        return look | {"type": "log", "dtick": "D2" if narrow else 1}
    if axis.kind == "linear" or values.size == 0:
        return look | {"nticks": max_ticks}
    at, labels = ticks(axis, float(values.min()), float(values.max()), max_ticks=max_ticks)
    return look | {"tickmode": "array", "tickvals": axis.forward(at).tolist(), "ticktext": labels}


def page_layout(*, legend_title: str = "") -> dict[str, Any]:
    """What all figures of a page share.

    Example:
        >>> page_layout()["hovermode"]
        'closest'
    """
    return {
        "autosize": True,
        "height": 520,
        "margin": {"l": 70, "r": 20, "t": 36, "b": 50},
        "font": {"family": _FONT, "size": 13, "color": axes.INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "hovermode": "closest",
        "legend": {"title": {"text": legend_title}, "itemsizing": "constant"},
    }


def _nothing(why: str) -> dict:
    """An empty figure that says why."""
    text = {"text": escape(why), "showarrow": False, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}
    hidden = {"visible": False}
    layout = page_layout() | {"xaxis": hidden, "yaxis": hidden, "height": 220, "annotations": [text]}
    return {"data": [], "layout": layout}


def _hex_colours(count: int) -> list[str]:
    return ["#" + "".join(f"{round(255 * c):02x}" for c in colour[:3]) for colour in axes.colours(count)]


def _array(values) -> dict:
    """A float32 typed array for plotly.js, in one or two dimensions; NaN is a gap, for which JSON has no number."""
    values = np.asarray(values, dtype="<f4")
    coded: dict[str, Any] = {"dtype": "f4", "bdata": base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()}
    return coded | ({"shape": ", ".join(map(str, values.shape))} if values.ndim > 1 else {})


_BUILD: dict[type, Any] = {
    panels.Scatter: _scatter,
    panels.Density: _density,
    panels.Curves: _curves,
    panels.Distributions: _distributions,
    panels.Estimated: _estimated,
}
