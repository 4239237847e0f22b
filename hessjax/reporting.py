"""One offline HTML page about a sweep, search, profile or spectrum: what was run, interactive figures, table; and PNGs.

A file to send to a colleague or keep for years: plotly.js is inside, and the page's own policy forbids every request.
It computes nothing: figures come from interactive.py and plot.py, numbers from tables.py. Not a dashboard.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from functools import partial
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from hessjax import interactive, panels, plot
from hessjax.found_pages import CAPTIONS, figure_of, table_of
from hessjax.found_panels import Found, Norms, Outcomes, search_panels
from hessjax.profile_panels import profile_panels, table
from hessjax.seen_pages import CAPTIONS as SEEN
from hessjax.seen_pages import seen_figure
from hessjax.seen_panels import Contours, Matrix, Traces
from hessjax.store import Store, StoreError
from hessjax.tables import SHORT, by_row, done, note, num_params, number, per_time, spectrum_facts, unit, usable

if TYPE_CHECKING:
    import xarray as xr

    from hessjax.spectra import Spectrum

__all__ = ["report"]

_CAPTIONS = {
    "density": "The density of all eigenvalues, each a Gaussian of the kernel's width; the axis is linear within that "
    "width and logarithmic beyond. Ticks: eigenvalues found one by one. Band: 95 % over probes.",
    "negative": "Every initialisation at every measured time is a point: the share of eigenvalues below minus the "
    "threshold, which at a critical point is its index; no point here need be critical: see the gradient norm. "
    "Black: running median; dashed: 10 and 90 %.",
    "positive": "The share of eigenvalues above the threshold: at a strict local minimum it would be 1.",
    "eigenvalue_density": "Eigenvalues of all initialisations pooled at each time: share per unit of arcsinh(λ/c), c "
    "the median threshold, so that equal widths hold equal shares at equal height (one decade is 2.3 units). "
    "The grey band counts as zero. Below: medians by rank of the ten largest, or, where estimated, of the largest.",
    "loss_curves": "Median over initialisations, with the 25–75 % and 5–95 % bands.",
    "gradient_norm": "Training that is stuck need not be at zero gradient. Black: running median; dashed: 10 and 90 %.",
    "final_distribution": "Initialisations at the last measured time. Black: median.",
}


def report(
    store_or_result: str | Path | xr.Dataset | Spectrum, path: str | Path, *, facts: Mapping[str, Any] | None = None
) -> Path:
    """Write one self-contained HTML page about a sweep, search, profile or spectrum, and its figures as PNG beside it.

    Args:
        store_or_result: The store of a sweep, a search or a profile, the Dataset that open_sweep, open_search or
            open_profile returns, or what hj.spectrum returns.
        path: An .html file, or a folder for `report.html`. Missing folders are made, an older report is replaced. The
            pictures are in `<stem>_figures`.
        facts: What a spectrum is of, as rows of a table: {"landscape": ..., "loss": ...}. A sweep knows its own.

    Returns:
        The HTML file.

    Raises:
        ImportError: plotly or matplotlib is missing; the message says what to install.
        OSError: `path` cannot be written.
        TypeError: `store_or_result` is none of these.

    Example:
        >>> import tempfile, xarray as xr
        >>> row = lambda *v: xr.DataArray([v], dims=("init", "time"))
        >>> ds = xr.Dataset({"loss": row(2.0, 0.1), "grad_norm": row(1.0, 0.5), "negative": row(3, 1),
        ...                  "positive": row(4, 6)}, {"step": ("time", [0, 9])}, {"landscape": {"num_params": 10}})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(report(ds, folder).name)
        report.html
    """
    script, path = _plotly_js(), _destination(path)
    if isinstance(store_or_result, tuple) and hasattr(store_or_result, "outliers"):
        found: dict[str, Any] = {"density": panels.estimated(store_or_result)}
        parts, save = _spectrum_parts(store_or_result, found, facts or {}), plot.save
    elif "finder" in (ds := _loaded(_dataset(store_or_result), store_or_result)).dims:
        found = search_panels(ds)
        parts, save = _search_parts(ds), plot.save
    elif "optimizer" in ds.dims:
        found = profile_panels(ds)
        parts, save = _profile_parts(ds), plot.save
    else:
        found = panels.panels(ds)
        parts, save = _sweep_parts(ds, found), partial(plot.save_all, ds)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = path.parent / f"{path.stem}_figures"
        save(folder, found=found)
        _write(path, _page(parts, found, folder.name, script))
    except OSError as err:
        raise OSError(f"cannot write the report {path}: {err.strerror or err}.") from err
    return path


def _plotly_js() -> str:
    """The library itself, unable to end the script element that it is put in."""
    try:
        import matplotlib  # noqa: F401
        from plotly.offline import get_plotlyjs
    except ImportError as err:
        raise ImportError(f"hessjax.report needs plotly and matplotlib: pip install 'hessjax[plot]' ({err}).") from err
    return re.sub(r"</(script)", r"<\\/\1", get_plotlyjs(), flags=re.IGNORECASE)


def _dataset(store_or_result: Any) -> xr.Dataset:
    if isinstance(store_or_result, str | os.PathLike):
        from hessjax.ensemble import open_sweep
        from hessjax.profile_runs import open_profile
        from hessjax.searches import open_search

        path = store_or_result if isinstance(store_or_result, str) else Path(store_or_result)
        return {"search": open_search, "profile": open_profile}.get(_kind(path), open_sweep)(path)
    if not hasattr(store_or_result, "data_vars"):
        got = type(store_or_result).__name__
        raise TypeError(
            f"report wants a sweep's path or the Dataset of open_sweep, got {got}; or hj.spectrum's result."
        )
    return store_or_result


def _loaded(ds: xr.Dataset, source: Any) -> xr.Dataset:
    try:
        return ds.compute()
    except (ValueError, RuntimeError, OSError) as error:  # what zarr says of a torn chunk has no name of it
        where = f"the store {str(source)!r}" if isinstance(source, str | os.PathLike) else "the Dataset"
        raise StoreError(
            f"{where} cannot be read, {str(error).splitlines()[0]}; hessjax verify says where, and with --redo what is "
            "damaged is done again."
        ) from error


def _kind(path: str | Path) -> str:
    try:
        return str(Store.open(path).attributes.get("kind"))
    except StoreError:  # what is wrong with it is said by who opens it
        return ""


def _destination(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        if path.is_file():
            raise OSError(f"cannot write the report into {path}: it is a file; name a folder or an .html file.")
        path = path / "report.html"
    if path.is_dir():
        raise OSError(f"cannot write the report {path}: it is a folder; name a file in it.")
    return path


def _write(path: Path, text: str) -> None:
    """All of it or nothing: written beside the target under another name, then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _page(parts: dict[str, str], found: dict, folder: str, script: str) -> str:
    figures = {name: _interactive(panel) for name, panel in found.items()}
    parts = parts | {
        "FIGURES": "\n".join(_figure(name, panel, folder) for name, panel in found.items()),
        "FOLDER": quote(folder),
        "DATA": _json(figures),
        "PLOTLY": script,
    }
    # One pass, so that nothing inside a part is taken for a placeholder.
    template = resources.files("hessjax").joinpath("page.html").read_text(encoding="utf-8")
    return re.sub(r"@([A-Z]+)@", lambda match: parts[match[1]], template)


def _interactive(panel: Any) -> dict:
    if isinstance(panel, Traces | Contours | Matrix):
        return seen_figure(panel, interactive.page_layout())
    is_found = isinstance(panel, Found | Outcomes | Norms)
    return figure_of(panel, interactive.page_layout()) if is_found else interactive.figure(panel)


def _sweep_parts(ds: xr.Dataset, found: dict) -> dict[str, str]:
    landscape = ds.attrs.get("landscape", {})
    return {
        "TITLE": escape(str(ds.attrs.get("title") or "A sweep of Hessian spectra")),
        "LEAD": escape(_lead(ds, landscape)),
        "RUN": _run(ds, landscape),
        "EXPLAINED": "Median over initialisations at each time; below it, the 5 and 95 % quantiles.",
        "NUMBERS": _numbers(ds),
        "FOOT": escape(" · ".join(f"{k} {v}" for k, v in _foot(ds).items())),
    }


def _spectrum_parts(found: Spectrum, drawn: dict, facts: Mapping[str, Any]) -> dict[str, str]:
    of = f"{facts['landscape']}: its Hessian spectrum" if "landscape" in facts else "A spectrum"
    panel, outliers = drawn["density"], found.outliers
    columns = (np.asarray(x).tolist() for x in (outliers.values, outliers.residuals, outliers.converged))
    body = "".join(
        f"<tr><td>{k}</td><td>{number(value, 6)}</td><td>{number(off)}</td><td>{'yes' if ok else 'no'}</td></tr>"
        for k, (value, off, ok) in enumerate(zip(*columns), start=1)
    )
    head = "<tr><th></th><th>λ</th><th>residual</th><th>converged</th></tr>"
    return {
        "TITLE": escape(f"{of}, from products alone"),
        "LEAD": escape(f"{panel.title} · {found.size:,} parameters"),
        "RUN": f'<div class="grid"><div>{_table(facts)}</div><div>{_table(spectrum_facts(found))}</div></div>',
        "EXPLAINED": "The eigenvalues found one by one, with ‖Av − λv‖; the rest are in the figure.",
        "NUMBERS": f"<table><thead>{head}</thead><tbody>{body}</tbody></table>",
        "FOOT": escape(panel.note),
    }


def _search_parts(ds: xr.Dataset) -> dict[str, str]:
    attrs, landscape = ds.attrs, ds.attrs.get("landscape", {})
    facts = {
        "starts done": f"{attrs.get('num_done', ds.sizes['start']):,} of {ds.sizes['start']:,}",
        "parameters": f"{landscape['num_params']:,}" if landscape.get("num_params") else None,
        "known points": f"{len(attrs['truth']):,} pairs of loss and index" if attrs.get("truth") else None,
        "device": attrs.get("device"),
        "precision": attrs.get("precision"),
        "wall time": f"{number(attrs['wall_s'])} s" if attrs.get("wall_s") else None,
        "fingerprint": attrs.get("fingerprint"),
    }
    return {
        "TITLE": escape(str(attrs.get("title") or "Critical points")),
        "LEAD": escape(f"{ds.sizes['start']:,} starts, {ds.sizes['finder']} methods"),
        "RUN": _ran(ds, facts),
        "EXPLAINED": "Points by what they are; medians of steps and of products with Hessians; how many have the loss "
        "and the index of a known point.",
        "NUMBERS": table_of(ds),
        "FOOT": escape(" · ".join(f"{k} {v}" for k, v in _foot(ds).items())),
    }


def _profile_parts(ds: xr.Dataset) -> dict[str, str]:
    attrs, rows = ds.attrs, table(ds)
    facts = {
        "rows of the plane done": f"{attrs.get('num_done', ds.sizes['y']):,} of {ds.sizes['y']:,}",
        "parameters": f"{num_params(ds):,}",
        "device": attrs.get("device"),
        "precision": attrs.get("precision"),
        "wall time of the plane": f"{number(attrs['wall_s'])} s" if attrs.get("wall_s") else None,
        "fingerprint": attrs.get("fingerprint"),
    }
    cell = lambda x: "–" if x is None else escape(x) if isinstance(x, str) else number(x)
    head = "".join(f"<th>{escape(name)}</th>" for name in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{cell(x)}</td>" for x in row.values()) + "</tr>" for row in rows)
    return {
        "TITLE": escape(str(attrs.get("title") or "The surface around training")),
        "LEAD": escape(f"{num_params(ds):,} parameters · {len(rows)} optimisers · {ds.sizes['init']} inits"),
        "RUN": _ran(ds, facts),
        "EXPLAINED": "What training ended with, medians over inits; on how many of the lines from start to end the "
        "loss only falls.",
        "NUMBERS": f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>",
        "FOOT": escape(" · ".join(f"{k} {v}" for k, v in _foot(ds).items())),
    }


def _json(value: Any) -> str:
    """JSON that can stand inside a script element: no tag, comment or entity can begin in it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _lead(ds: xr.Dataset, landscape: dict) -> str:
    parts = [f"{landscape['name']}" if landscape.get("name") else "", f"{num_params(ds):,} parameters", note(ds)]
    return " · ".join([part for part in parts if part] + [f"{ds.sizes['time']} times"])


def _run(ds: xr.Dataset, landscape: dict) -> str:
    config, attrs = ds.attrs.get("config", {}), ds.attrs
    finished, keep = done(ds), usable(ds)
    lost = (~keep & finished[:, None]).any(1).sum()
    facts = {
        "inits done": f"{finished.sum():,} of {len(finished):,}",
        "inits not finite to the end": f"{lost:,}",
        "parameters": f"{num_params(ds):,}",
        "rows of data": f"{landscape['num_rows']:,}" if landscape.get("num_rows") else None,
        "classes": landscape.get("classes"),
        "device": attrs.get("device"),
        "precision": attrs.get("precision"),
        **{name: f"{number(attrs[key])} s" for key, name in _SECONDS.items() if attrs.get(key) is not None},
        "time per init": _time_per_init(attrs, int(finished.sum())),
        "threshold": _threshold(ds, config),
        "fingerprint": attrs.get("fingerprint"),
    }
    return _ran(ds, facts)


def _ran(ds: xr.Dataset, facts: Mapping[str, Any]) -> str:
    """Notes of the landscape, the configuration, and facts of the run."""
    landscape = ds.attrs.get("landscape", {})
    notes = "".join(f"<li>{escape(str(text))}</li>" for text in landscape.get("notes", ()))
    left = f"<div><h3>Configuration</h3>{_table(ds.attrs.get('config', {}))}</div>"
    right = f"<div><h3>Run</h3>{_table({k: v for k, v in facts.items() if v is not None})}"
    right += f"<h3>Versions</h3>{_table(ds.attrs.get('versions', {}))}</div>"
    return (f'<ul class="notes">{notes}</ul>' if notes else "") + f'<div class="grid">{left}{right}</div>'


_SECONDS = {"wall_s": "wall time", "compile_s": "compile time", "train_s": "training", "measure_s": "measuring"}


def _time_per_init(attrs: dict, num_done: int) -> str | None:
    """Compilation apart, where the store knows it: the time of the units, or of their parts, or what is left of all."""
    known = {key: attrs[key] for key in ("unit_s", "train_s", "measure_s", "wall_s") if attrs.get(key) is not None}
    if {"train_s", "measure_s"} <= set(known):
        seconds, what = known["train_s"] + known["measure_s"], "training and measuring"
    elif "unit_s" in known:
        seconds, what = known["unit_s"], "training and measuring, added over workers"
    else:
        seconds, what = known.get("wall_s", 0) - (attrs.get("compile_s") or 0), "wall time less compile time"
    return f"{number(1000 * seconds / num_done)} ms ({what})" if num_done and seconds > 0 else None


def _threshold(ds: xr.Dataset, config: dict) -> str | None:
    if "threshold" not in ds or not usable(ds).any():
        return None
    used = by_row(ds, "threshold")[usable(ds)]
    norm = "the largest |Ritz value|" if config.get("measure") == "slq" else "the largest absolute row sum"
    tol = f"{number(config['tol'])}·‖H‖" if isinstance(config.get("tol"), float | int) else "tol·‖H‖"
    rule = f"an eigenvalue counts as zero where |λ| ≤ {tol}, with ‖H‖ {norm}"
    return f"{rule}; used: {number(used.min())} to {number(used.max())}"


def _table(items: Mapping[str, Any]) -> str:
    def cell(value) -> str:
        if value is None or value == "":
            return "–"
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)

    rows = (f"<tr><th>{escape(str(k))}</th><td>{escape(cell(v))}</td></tr>" for k, v in dict(items).items())
    return f'<table class="facts">{"".join(rows)}</table>'


def _figure(name: str, panel, folder: str) -> str:
    caption = next(text for start, text in (_CAPTIONS | CAPTIONS | SEEN).items() if name.startswith(start))
    if isinstance(panel, panels.Scatter) and panel.x.size > interactive.MOST:
        caption += f" A random {interactive.MOST:,} of the {panel.x.size:,} points are drawn here; the lines use all."
    picture, note = f"{quote(folder)}/{quote(name)}.png", f"{escape(panel.note)}. " if panel.note else ""
    return (
        f'<figure><h3>{escape(panel.title)}</h3><div class="plot" id="{name}"></div>'
        f'<figcaption>{caption} <span class="note">{note}<a href="{picture}">PNG</a></span>'
        "</figcaption></figure>"
    )


def _numbers(ds: xr.Dataset) -> str:
    names = [name for name in SHORT if name in ds]
    body = []
    for record in per_time(ds):
        cells = [f"{record['step']:,}", f"{record['usable']:,}"]
        cells += [_quantiles(*record[name]) for name in names]
        share = record["certified"]
        cells += ["–" if share is None else f"{number(100 * share)} %", f"{record['lost']:,}"]
        body.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    units = {name: "" if unit(ds, name) == SHORT[name] else escape(unit(ds, name)) for name in names}
    heads = ["step", "inits", *(f"{SHORT[name]}<small>{units[name]}</small>" for name in names)]
    head = "".join(f"<th>{text}</th>" for text in [*heads, "certified", "not finite"])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _quantiles(low: float, median: float, high: float) -> str:
    if median != median:
        return "–"
    return f"{number(median)}<small>{number(low, 2)} … {number(high, 2)}</small>"


def _foot(ds: xr.Dataset) -> dict:
    versions = ds.attrs.get("versions", {})
    return {"hessjax": versions.get("hessjax", ""), "fingerprint": ds.attrs.get("fingerprint", "–")}
