"""The report in a real browser: it draws, is silent on the console, asks nobody for anything, and resists injection."""

import base64
import html
import json
import re
import sys
import types

import numpy as np
import pytest
from browser import BROWSER, Page, visit
from fake_sweep import fake_sweep
from numpy.testing import assert_allclose
from test_plot import ODD, odd

from hessjax import interactive, panels, reporting, tables
from hessjax.reporting import report

needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH")
EVIL = "</script><script>console.error('owned')</script><img src=x onerror=\"console.error('owned')\"> & $x_{"
EVIL_TAG = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def ds():
    return fake_sweep(300, 6, 60, num_diverged=4, num_pending=7)


@pytest.fixture(scope="module")
def page(ds, tmp_path_factory):
    return report(ds, tmp_path_factory.mktemp("report") / "sweep.html")


@pytest.fixture(scope="module")
def seen(page, tmp_path_factory):
    return visit(page, tmp_path_factory.mktemp("browser") / "visit")


@pytest.fixture
def small():
    return fake_sweep(4, 2, 6, num_diverged=0)


@pytest.fixture
def quick(monkeypatch):
    """Without pictures, which take longest."""
    from hessjax import plot

    monkeypatch.setattr(plot, "save_all", lambda ds, folder, found=None: folder.mkdir(exist_ok=True))


# ---- in the browser ----


@needs_browser
def test_every_figure_draws(ds, seen):
    drawings = Page(seen.dom).drawings
    assert list(drawings) == list(panels.panels(ds))
    assert all(count >= 1 for count in drawings.values()), drawings
    assert f'data-drawn="{len(drawings)}"' in seen.dom[:400]
    dots = len(re.findall(r'<path class="point\b', seen.dom))
    assert dots >= 4 * tables.usable(ds).sum()  # four scatter figures, every init and time a point


@needs_browser
def test_the_page_looks_like_something(seen):
    picture = seen.picture[..., :3]
    assert picture.shape[:2] == (6400, 1200)
    inked = (picture.min(-1) < 0.5).reshape(32, 200, 1200).mean((1, 2))
    assert (inked > 0.001).sum() >= 26, inked  # text or figures in nearly every strip
    coloured = np.ptp(picture, axis=-1) > 0.25
    assert coloured.mean() > 0.005


@needs_browser
def test_the_console_is_silent_and_nobody_is_asked_for_anything(seen):
    assert seen.console == []
    assert seen.requests == []
    assert Page(seen.dom).outside == []


@needs_browser
def test_no_button_sends_the_figure_anywhere(seen):
    bars = re.findall(r'<(?:a|button)[^>]*class="modebar-btn[^>]*>', seen.dom)
    buttons = {title for bar in bars for title in re.findall(r'data-title="([^"]*)"', bar)}
    assert {"zoom", "pan"} < {title.lower() for title in buttons}
    assert not [b for b in buttons if re.search("(?i)share|cloud|chart studio|edit|produced", b)]


@needs_browser
def test_the_checker_can_fail(page, tmp_path):
    # The same page with its policy removed and one thing wrong of each kind.
    text = page.read_text(encoding="utf-8")
    text = re.sub(r"<meta http-equiv[^>]*>", "", text)
    wrong = '<img src="https://example.com/x.png"><script>console.error("broken")</script>'
    text = text.replace("</header>", wrong + "</header>").replace('"type":"scatter"', '"type":"nonsense","x0":{')
    bad = tmp_path / "bad.html"
    bad.write_text(text, encoding="utf-8")
    found = visit(bad, tmp_path / "visit", size=(600, 400))
    assert any("broken" in line for line in found.console)
    assert "https://example.com/x.png" in found.requests
    assert Page(found.dom).outside == ["https://example.com/x.png"]
    assert not any(Page(found.dom).drawings.values())  # its JSON is broken, so nothing is drawn


@needs_browser
def test_the_policy_alone_stops_a_request(page, tmp_path):
    bad = tmp_path / "bad.html"
    text = page.read_text(encoding="utf-8")
    bad.write_text(text.replace("</header>", '<img src="https://example.com/x.png"></header>'), encoding="utf-8")
    found = visit(bad, tmp_path / "visit", size=(600, 400))
    assert found.requests == []
    assert any("Content Security Policy" in line for line in found.console)


@needs_browser
def test_hovering_shows_the_true_numbers_of_the_point(ds, page, tmp_path):
    # Time 2, third usable init: curve 2, point 2 of the scatter.
    hover = (
        "<script>setTimeout(() => Plotly.Fx.hover(document.getElementById('negative_against_loss'),"
        " [{curveNumber: 2, pointNumber: 2}]), 3000)</script>"
    )
    hovered = tmp_path / "hover.html"
    hovered.write_text(page.read_text(encoding="utf-8").replace("</body>", hover + "</body>"), encoding="utf-8")
    dom = visit(hovered, tmp_path / "visit").dom
    shown = re.search(r'<g class="hovertext".*?</g>', dom, re.DOTALL)[0]
    lines = html.unescape(re.sub("<[^>]+>", "\n", shown)).split("\n")
    init = np.nonzero(tables.usable(ds)[:, 2])[0][2]
    assert f"init {init}" in lines
    assert f"step {ds.step.values[2]}" in lines
    assert f"loss {ds.loss.values[init, 2]:.4g}" in lines
    assert f"negative {ds.negative.values[init, 2]}" in lines


@needs_browser
def test_hostile_names_are_only_text(ds, tmp_path):
    attrs = dict(ds.attrs, title=EVIL, device=EVIL, precision=EVIL, fingerprint=EVIL)
    attrs["config"] = {**ds.attrs["config"], "landscape": EVIL, "options": {EVIL: [EVIL]}, EVIL: EVIL}
    attrs["landscape"] = {**ds.attrs["landscape"], "name": EVIL, "notes": [EVIL], "classes": EVIL}
    attrs["versions"] = {EVIL: EVIL}
    hostile = ds.assign_attrs(attrs)
    for name in ("loss", "error", "grad_norm", "max_eigenvalue"):
        hostile[name] = hostile[name].assign_attrs(long_name=EVIL_TAG, units=EVIL)
    path = report(hostile, tmp_path / "a <b> & 'c' \"d\" #e?.html")
    parsed = Page(path.read_text(encoding="utf-8"))
    assert parsed.text.count(EVIL) >= 12
    assert parsed.tags.count("script") == 3
    assert parsed.tags.count("img") == 0
    found = visit(path, tmp_path / "visit")
    assert found.console == []
    assert found.requests == []
    assert all(Page(found.dom).drawings.values())
    title = re.search(r'<g class="g-xtitle">.*?</g>', found.dom)[0]
    assert EVIL_TAG in html.unescape(re.sub("<[^>]+>", "", title))


@needs_browser
def test_many_points_draw_with_webgl(tmp_path):
    many = fake_sweep(6000, 4, 8)
    path = report(many, tmp_path / "many.html")
    assert path.stat().st_size < 16e6
    found = visit(path, tmp_path / "visit", size=(1000, 6000))
    assert [line for line in found.console if "WebGL" not in line and "GL Driver" not in line] == []
    assert all(Page(found.dom).drawings.values())
    assert '<canvas class="gl-canvas' in found.dom


# ---- the file ----


def test_the_page_is_one_file_of_reasonable_size_that_refers_to_nothing(ds, page):
    parsed = Page(page.read_text(encoding="utf-8"))
    assert parsed.outside == []
    assert parsed.addresses == []
    assert sum("plotly.js v" in script for script in parsed.scripts) == 1
    assert page.stat().st_size < 7e6


def test_the_demo_stays_below_12_megabytes(monkeypatch, tmp_path):
    from hessjax import plot

    monkeypatch.setattr(plot, "save_all", lambda *args, **kwargs: [])
    assert report(fake_sweep(), tmp_path / "demo.html").stat().st_size < 12e6


def test_the_page_says_what_was_run(ds, page):
    text = Page(page.read_text(encoding="utf-8")).text
    config = ds.attrs["config"]
    assert all(str(key) in text for key in config)
    assert all(str(value) in text for value in config.values() if isinstance(value, str | int))
    for said in ("512 fixed rows of the 1,797 digits", "cpu (2 cores)", "0.10.2", "293 of 300", "83.2 s", "6.1 s"):
        assert said in text
    assert f"{1000 * (21.4 + 54.9) / 293:.3g} ms (training and measuring)" in text
    assert "|λ| ≤ 1×10⁻⁶·‖H‖, with ‖H‖ the largest absolute row sum" in text
    assert tables.note(ds) in text


def test_the_table_holds_the_numbers_of_each_time(ds, page):
    text = page.read_text(encoding="utf-8")
    body = re.search(r'<div class="scroll">.*?<tbody>(.*?)</tbody>', text, re.DOTALL)[1]
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall("<tr>(.*?)</tr>", body)]
    keep = tables.usable(ds)
    assert [row[0] for row in rows] == [f"{step:,}" for step in ds.step.values]
    for t, row in enumerate(rows):
        loss = ds.loss.values[keep[:, t], t]
        assert row[1] == str(keep[:, t].sum())
        low, median, high = np.quantile(loss, [0.05, 0.5, 0.95])
        assert row[2] == f"{median:.3g}<small>{low:.2g} … {high:.2g}</small>"
        assert row[5].startswith(f"{np.median(ds.negative.values[keep[:, t], t]):.3g}<")
        assert row[-1] == str((~keep & ds.done.values[:, None])[:, t].sum())


def test_json_cannot_end_or_open_an_element():
    value = {"</script>": "<!-- <script> & ]]>", "x": [1.5, None]}
    text = reporting._json(value)
    assert not set("<>&") & set(text)
    assert json.loads(text) == value


def decoded(array):
    values = np.frombuffer(base64.b64decode(array["bdata"]), "<f4")
    return values.reshape([int(n) for n in array["shape"].split(",")]) if "shape" in array else values


def test_interactive_points_are_those_of_the_static_figure(ds):
    found, figures = panels.panels(ds), interactive.figures(ds)
    assert list(found) == list(figures)
    for name in ("negative_against_loss", "negative_against_error", "gradient_norm_against_loss"):
        for t, trace in enumerate(figures[name]["data"][:6]):
            rows = found[name].time == t
            assert_allclose(decoded(trace["x"]), found[name].x[rows], rtol=1e-6)
            assert_allclose(decoded(trace["y"]), found[name].y[rows], rtol=1e-6)
            assert_allclose(decoded(trace["customdata"])[:, 0], found[name].init[rows])
        median = next(trace for trace in figures[name]["data"] if trace["name"] == "running median")
        assert_allclose(decoded(median["y"]), found[name].running.median, rtol=1e-6)
    density = found["eigenvalue_density"]
    for t, trace in enumerate(figures["eigenvalue_density"]["data"][::2]):
        assert_allclose(decoded(trace["y"]), density.density[t].clip(density.floor), rtol=1e-6)
        assert_allclose(density.axis.forward(decoded(trace["customdata"])), decoded(trace["x"]), rtol=1e-4, atol=1e-5)


def test_ticks_of_an_arcsinh_axis_stand_at_their_values(ds):
    axis = interactive.figures(ds)["eigenvalue_density"]["layout"]["xaxis"]
    width = panels.density(ds).axis.width
    assert_allclose(np.sinh(axis["tickvals"][axis["ticktext"].index("10⁻¹")]) * width, 0.1)
    assert axis["tickvals"][axis["ticktext"].index("0")] == 0


@pytest.mark.parametrize("case", ODD)
def test_every_sweep_makes_figures_that_plotly_accepts(case):
    import plotly.graph_objects as go

    def plain(value):
        if isinstance(value, dict):
            return decoded(value) if "bdata" in value else {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, list) else value

    for name, figure in interactive.figures(odd(case)).items():
        json.dumps(figure, allow_nan=False)
        go.Figure(plain(figure))  # raises on an unknown property
        assert figure["data"] or figure["layout"]["annotations"], name


@pytest.mark.parametrize("case", ODD)
def test_every_sweep_can_be_reported(case, quick, tmp_path):
    path = report(odd(case), tmp_path)
    assert path == tmp_path / "report.html"
    assert Page(path.read_text(encoding="utf-8")).drawings == dict.fromkeys(panels.panels(odd(case)), 0)


def test_the_pictures_lie_beside_the_page(ds, page):
    pictures = {path.stem for path in (page.parent / "sweep_figures").glob("*.png")}
    assert pictures == {*panels.panels(ds), "overview"}
    links = re.findall(r'<a href="(sweep_figures/[^"]*)"', page.read_text(encoding="utf-8"))
    assert {page.parent / link for link in links} == set((page.parent / "sweep_figures").iterdir())


# ---- the path ----


def test_a_store_is_opened(small, quick, tmp_path, monkeypatch):
    asked = []
    fake = types.SimpleNamespace(open_sweep=lambda path: asked.append(path) or small)
    monkeypatch.setitem(sys.modules, "hessjax.ensemble", fake)
    assert report(tmp_path / "run.zarr", tmp_path / "x.html").is_file()
    assert report("run.zarr", str(tmp_path / "y.htm")).is_file()
    assert asked == [tmp_path / "run.zarr", "run.zarr"]


def test_an_older_report_is_replaced_and_nothing_is_left_behind(small, quick, tmp_path):
    path = tmp_path / "deep" / "report.html"
    assert report(small, path.parent) == report(small, path) == path
    assert sorted(p.name for p in path.parent.iterdir()) == ["report.html", "report_figures"]


def test_a_failed_write_leaves_the_older_report_whole(small, quick, tmp_path, monkeypatch):
    path = report(small, tmp_path / "x.html")
    before = path.read_text(encoding="utf-8")

    def full(self, text, **kwargs):
        with open(self, "w") as file:
            file.write(text[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match=r"cannot write the report .*x\.html: No space left on device"):
        report(small, path)
    monkeypatch.undo()
    assert path.read_text(encoding="utf-8") == before
    monkeypatch.setattr("pathlib.Path.replace", lambda self, target: full(self, "torn"))
    with pytest.raises(OSError, match="No space left on device"):
        report(small.assign_attrs(title="newer"), path)
    monkeypatch.undo()
    assert path.read_text(encoding="utf-8") == before
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_paths_that_cannot_be_written_are_refused_in_one_line(small, quick, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    (tmp_path / "folder.html").mkdir()
    for path, why in [
        (file, "it is a file; name a folder or an .html file"),
        (file / "x.html", "Not a directory|File exists"),
        (tmp_path / "folder.html", "it is a folder"),
        ("/proc/nowhere/x.html", "cannot write the report"),
    ]:
        with pytest.raises(OSError, match=why) as caught:
            report(small, path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert file.read_text() == "mine"


def test_something_else_than_a_sweep_is_refused(tmp_path):
    with pytest.raises(TypeError, match="wants a sweep's path or the Dataset of open_sweep, got dict"):
        report({}, tmp_path)


@pytest.mark.parametrize("missing", ["plotly.offline", "matplotlib"])
def test_without_the_plot_extra_one_line_says_what_to_install(small, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"pip install 'hessjax\[plot\]'"):
        report(small, tmp_path)
    assert list(tmp_path.iterdir()) == []
