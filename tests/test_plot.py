"""Static figures: what is drawn equals the data, and no sweep is too odd to draw."""

import io
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from fake_sweep import fake_sweep
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from hessjax import panels, plot, rmt, tables
from hessjax.free_laws import FreeLaw

DRAW = {
    "index": plot.index_against_loss,
    "index-error": lambda ds, **k: plot.index_against_loss(ds, against="error", **k),
    "index-positive": lambda ds, **k: plot.index_against_loss(ds, sign="positive", **k),
    "gradient": plot.gradient_norm_against_loss,
    "density": plot.eigenvalue_density,
    "curves": plot.loss_curves,
    "final": plot.final_distribution,
}


def odd(name):
    """Sweeps with something missing or degenerate."""
    ds = fake_sweep(30, 4, 25, num_diverged=2)
    status, nan = ds.status, float("nan")
    cases = {
        "usual": lambda: ds,
        "no-error": lambda: fake_sweep(30, 4, 25, error=False),
        "no-eigenvalues": lambda: fake_sweep(30, 4, 25, eigenvalues=False),
        "no-extremes": lambda: ds.drop_vars(["min_eigenvalue", "max_eigenvalue", "trace", "eigenvalues"]),
        "no-status": lambda: ds.drop_vars(["status", "done", "certified", "threshold"]),
        "no-attrs": lambda: ds.drop_attrs(),
        "one-time": lambda: fake_sweep(30, 1, 25),
        "one-init": lambda: fake_sweep(1, 4, 25, num_diverged=0),
        "one-row": lambda: fake_sweep(1, 1, 25, num_diverged=0),
        "one-parameter": lambda: fake_sweep(30, 4, 1),
        "many-times": lambda: fake_sweep(5, 60, 12),
        "all-diverged": lambda: ds.assign(status=status * 0 + 1, loss=ds.loss * nan, eigenvalues=ds.eigenvalues * nan),
        "none-done": lambda: fake_sweep(30, 4, 25, num_pending=30),
        "last-time-lost": lambda: ds.assign(status=status.where(ds.time_index < 3, 1)),
        "constant-loss": lambda: ds.assign(loss=ds.loss * 0 + 0.7),
        "zero-loss": lambda: ds.assign(loss=ds.loss.where(ds.loss > 0.6, 0.0)),
        "negative-loss": lambda: ds.assign(loss=-ds.loss),
        "zero-gradient": lambda: ds.assign(grad_norm=ds.grad_norm * 0),
        "some-zero-gradients": lambda: ds.assign(grad_norm=ds.grad_norm.where(ds.loss > 0.6, 0.0)),
        "zero-hessian": lambda: ds.assign({k: ds[k] * 0 for k in ("eigenvalues", "threshold", "negative", "positive")}),
        "tiny-hessian": lambda: ds.assign(eigenvalues=ds.eigenvalues * 1e-20, threshold=ds.threshold * 1e-20),
        "all-positive": lambda: ds.assign(eigenvalues=abs(ds.eigenvalues) + 1.0),
        "missing-errors": lambda: ds.assign(error=ds.error * nan),
    }
    ds["time_index"] = ("time", np.arange(ds.sizes["time"]))
    return cases[name]()


ODD = [
    *("usual", "no-error", "no-eigenvalues", "no-extremes", "no-status", "no-attrs", "one-time", "one-init", "one-row"),
    *("one-parameter", "many-times", "all-diverged", "none-done", "last-time-lost", "constant-loss", "zero-loss"),
    *("negative-loss", "zero-gradient", "some-zero-gradients", "zero-hessian", "tiny-hessian", "all-positive"),
    "missing-errors",
]


def render(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=40, format="png")
    return len(buffer.getvalue())


@pytest.fixture(scope="module")
def ds():
    return fake_sweep(200, 5, 40, num_diverged=3, num_pending=4)


@pytest.mark.parametrize("case", ODD)
def test_every_sweep_can_be_drawn(case):
    ds = odd(case)
    for draw in DRAW.values():
        draw(ds)
    figure = plot.overview(ds)
    figure.set_layout_engine("none")  # half the time, and the layout has tests of its own
    assert render(figure) > 1000


@pytest.mark.parametrize("name", DRAW)
def test_every_figure_can_be_rendered_alone(ds, name):
    assert render(DRAW[name](ds).figure) > 1000


@pytest.mark.parametrize("case", ["all-diverged", "none-done"])
def test_an_empty_figure_says_so(case):
    for draw in DRAW.values():
        axes = draw(odd(case)).figure.findobj(matplotlib.axes.Axes)
        assert "nothing to show" in {text.get_text() for ax in axes for text in ax.texts}
    assert panels.index(odd(case)).title == "No usable rows"


def points(ax):
    return np.array(sorted(map(tuple, ax.collections[0].get_offsets().data)))


@pytest.mark.parametrize("against", ["loss", "error"])
@pytest.mark.parametrize("sign", ["negative", "positive"])
def test_every_usable_row_is_a_point(ds, against, sign):
    ax = plot.index_against_loss(ds, against=against, sign=sign)
    keep = tables.usable(ds)
    rows = np.stack([ds[against].values[keep], ds[sign].values[keep] / 40], axis=1)
    assert_allclose(points(ax), np.array(sorted(map(tuple, rows))))


def test_gradient_points_are_the_data(ds):
    ax = plot.gradient_norm_against_loss(ds)
    keep = tables.usable(ds)
    rows = np.stack([ds.loss.values[keep], ds.grad_norm.values[keep]], axis=1)
    assert_allclose(points(ax), np.array(sorted(map(tuple, rows))))
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_points_of_one_time_have_one_colour_of_their_own(ds):
    cloud = plot.index_against_loss(ds).collections[0]
    colours, offsets = cloud.get_facecolors(), cloud.get_offsets().data
    of_time = {}
    for t in range(5):
        losses = ds.loss.values[tables.usable(ds)[:, t], t]
        of_time[t] = {tuple(c) for c, (x, _) in zip(colours, offsets) if x in losses}
    assert all(len(found) == 1 for found in of_time.values())
    assert len(set.union(*of_time.values())) == 5


def test_the_drawn_median_is_the_running_median(ds):
    line = plot.index_against_loss(ds).lines[0]
    running = panels.index(ds).running
    assert_allclose(line.get_xydata(), np.stack([running.x, running.median], axis=1))


def test_the_density_is_drawn_at_true_eigenvalues(ds):
    ax, panel = plot.eigenvalue_density(ds), panels.density(ds)
    assert ax.get_xscale() == "asinh"
    assert ax.xaxis.get_transform().linear_width == panel.axis.width
    for t, patch in enumerate(ax.patches[-5:]):
        heights, edges, _ = patch.get_data()
        assert_allclose(edges, panel.axis.width * np.sinh(panel.edges))
        assert_allclose(heights, np.maximum(panel.density[t], panel.floor))


def test_the_loss_curve_is_the_median(ds):
    ax = plot.loss_curves(ds)
    keep = tables.usable(ds)
    medians = [np.median(ds.loss.values[keep[:, t], t]) for t in range(5)]
    assert_allclose(ax.lines[0].get_xydata(), np.stack([ds.step, medians], axis=1))
    error = next(other for other in ax.figure.findobj(matplotlib.axes.Axes) if "error" in other.get_ylabel())
    medians = [np.median(ds.error.values[keep[:, t], t]) for t in range(5)]
    assert_allclose(error.lines[0].get_ydata(), medians)


def test_the_final_histograms_hold_all_inits(ds):
    ax = plot.final_distribution(ds)
    assert len(ax.child_axes) == 6
    for child in ax.child_axes:
        assert_allclose(child.patches[0].get_data().values.sum(), 100)


@pytest.mark.parametrize("name", DRAW)
def test_axes_that_are_given_are_used(ds, name):
    figure = Figure(figsize=(12, 4))
    left, right = figure.subplots(1, 2)
    drawn = DRAW[name](ds, ax=right)
    assert drawn.figure is figure
    assert drawn is right or drawn in right.child_axes
    assert not left.has_data()
    assert render(figure) > 1000


def test_units_are_on_the_axes_and_dollars_are_dollars(ds):
    assert plot.index_against_loss(ds).get_xlabel() == "training loss (nats)"
    assert plot.gradient_norm_against_loss(ds).get_ylabel() == "gradient norm (nats / parameter)"
    priced = ds.assign(loss=ds.loss.assign_attrs(long_name="$loss_{", units="$"))
    ax = plot.index_against_loss(priced.assign_attrs(title="1$ a_{run"))
    assert render(ax.figure) > 1000
    assert render(plot.overview(priced.assign_attrs(title="1$ a_{run"))) > 1000


def test_spectrum_counts_and_colours_the_signs():
    values = np.array([3.0, -0.5, 0.0, 1e-9, -1e-9, 2.0, 1.0])
    ax = plot.spectrum(values, threshold=1e-6)
    assert ax.get_title(loc="left") == "1 negative, 3 zero, 3 positive of 7 eigenvalues"
    drawn = {line.get_label(): line.get_xydata() for line in ax.lines}
    assert_allclose(drawn["negative"], [[1, -0.5]])
    assert_allclose(drawn["zero"], [[2, -1e-9], [3, 0], [4, 1e-9]])
    assert_allclose(drawn["positive"], [[5, 1], [6, 2], [7, 3]])


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [1.0], [float("nan"), 1.0, -2.0], np.full(5, 1e-30), [[1.0, 2.0]]])
def test_spectrum_draws_anything(values):
    ax = plot.spectrum(values)
    assert render(ax.figure) > 1000
    if np.isnan(values).any():
        assert "1 not finite, left out" in ax.texts[0].get_text()


def test_the_threshold_of_a_spectrum_scales_with_it():
    values = np.array([1.0, 1e-3, -1e-3, 1e-9])
    titles = {plot.spectrum(scale * values).get_title(loc="left") for scale in (1.0, 1e-9, 1e9)}
    assert titles == {"1 negative, 1 zero, 2 positive of 4 eigenvalues"}


def test_save_all_writes_every_figure_at_150_dpi(ds, tmp_path):
    paths = plot.save_all(ds, tmp_path / "new" / "folder")
    assert [p.stem for p in paths] == [*panels.panels(ds), "overview"]
    for path in paths:
        image = matplotlib.image.imread(path)
        size = (14, 8.2) if path.stem == "overview" else (6.8, 4.8)
        assert_allclose(image.shape[1::-1], 150 * np.array(size), atol=1)
        assert np.ptp(image[..., :3]) > 0.5  # not blank


def test_drawing_touches_no_global_state():
    code = (
        "import sys, hessjax.plot\n"
        "assert not {'matplotlib', 'plotly', 'xarray'} & set(sys.modules), 'import is not lazy'\n"
        "import matplotlib; before = matplotlib.rcParams.copy()\n"
        "hessjax.plot.spectrum([-1.0, 0.0, 2.0]).figure.savefig(__import__('io').BytesIO())\n"
        "assert matplotlib.rcParams.copy() == before\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_without_matplotlib_one_line_says_what_to_install(ds, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'hessjax\[plot\]'"):
        plot.index_against_loss(ds)


LAWS = {
    "atom": rmt.marchenko_pastur(2.5),
    "infinite at its edge": rmt.marchenko_pastur(1.0),
    "two bands": FreeLaw(jumps=(4.0,), rates=(0.25,), variance=0.01),
    "semicircle": rmt.semicircle(2.0),
}


@pytest.mark.parametrize("name", LAWS)
def test_a_law_is_drawn_over_what_is_measured(name):
    law = LAWS[name]
    values = np.append(law.sample(2000, seed=0), [100.0, np.nan])
    ax = plot.law(law, values)
    curve = ax.lines[0].get_xydata()
    inside = np.isfinite(curve[:, 1])
    assert_allclose(curve[inside, 1], law.density(curve[inside, 0]))
    assert curve[inside, 0].min() == pytest.approx(law.edges()[0], abs=1e-12)
    assert curve[inside, 0].max() == pytest.approx(law.edges()[1], rel=1e-12)
    [measured] = ax.patches
    heights, edges, _ = measured.get_data()
    assert np.sum(heights * np.diff(edges)) == pytest.approx(2000 / 2001)
    # Every bin against the law's own share of it, atom included: the spectrum of 2000 rows is rigid.
    assert_allclose(heights * np.diff(edges), np.diff(law.cdf(edges)), atol=5e-3)
    assert len(ax.lines) == (2 if law.atom else 1)
    said = " ".join(text.get_text() for text in ax.texts)
    assert "1 beyond the axis; 1 not finite" in said
    ax.figure.canvas.draw()


def test_a_law_without_eigenvalues_is_its_density_and_no_law_is_refused(untyped):
    ax = plot.law(rmt.semicircle())
    assert ax.get_title(loc="left") == "50.0% below 0 by the law"
    assert not ax.patches
    with pytest.raises(TypeError, match="law is float, wanted one that"):
        plot.law(0.5)
