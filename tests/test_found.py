"""Figures, page and command of a search: what they show is what is stored, whatever is missing."""

import json
import re

import matplotlib.axes
import numpy as np
import pytest
import xarray as xr

import hessjax as hj
from hessjax import cli, found_pages, found_panels, plot

ROWS = {  # start by finder: two methods, of which the first finds two known points, a flat one and diverges once
    "loss": [[1.0, 1.0], [2.0, 5.0], [3.0, 3.0], [np.nan, 3.0]],
    "grad_norm_sq": [[1e-30, 1e-28], [1e-20, 1e-5], [1e-3, 1e-2], [np.nan, 1e-1]],
    "status": [[0, 0], [0, 0], [1, 2], [3, 2]],
    "negative": [[0, 0], [1, 1], [2, 2], [0, 1]],
    "zero": [[1, 1], [1, 1], [1, 1], [0, 1]],
    "positive": [[3, 3], [2, 2], [1, 1], [0, 2]],
    "num_steps": [[5, 4], [7, 8], [9, 500], [3, 500]],
    "num_matvecs": [[50, 40], [70, 80], [90, 5000], [30, 5000]],
    "floor": [[1e-31, 1e-31]] * 4,
}


@pytest.fixture
def ds():
    made = xr.Dataset({k: (("start", "finder"), np.array(v)) for k, v in ROWS.items()})
    config = {"grad_norm_sq_tol": 1e-10, "methods": ["newton-mr", "newton"]}
    return made.assign_coords(finder=config["methods"]).assign_attrs(
        config=config, truth=[[1.0, 0, 1], [2.0, 1, 1], [4.0, 2, 1]], title="<b>points</b>"
    )


def test_points_by_what_they_are(ds):
    panel = found_panels.found(ds)
    assert [(group.name, len(group.x)) for group in panel.groups] == [
        ("unfinished", 2),
        ("gradient-flat", 1),
        ("critical", 4),
    ]
    critical = panel.groups[-1]
    assert critical.y.tolist() == [0, 0, 0.25, 0.25]
    assert critical.shade.tolist() == [-30, -28, -20, -5]
    assert panel.truth.tolist() == [[1, 0], [2, 0.25], [4, 0.5]]
    assert panel.title == "50 % critical, 3 of 4 of them known points"


def test_another_cut_off_calls_others_critical(ds):
    loose = found_panels.found(ds, cutoff=1.0)
    assert [(group.name, len(group.x)) for group in loose.groups] == [("critical", 7)]
    assert loose.title == "87.5 % critical, 3 of 7 of them known points"
    assert "below a squared gradient norm of 1" in loose.note
    strict = found_panels.found(ds, cutoff=1e-25)
    assert [(group.name, len(group.x)) for group in strict.groups] == [("unfinished", 5), ("critical", 2)]


def test_matching_needs_both_loss_and_index(ds):
    assert found_panels.matched(ds) == (3, 4)
    assert found_panels.matched(ds.assign(negative=ds["negative"] + 1)) == (0, 4)
    assert found_panels.matched(ds.assign_attrs(truth=[])) == (0, 4)


def test_outcomes_norms_and_summary(ds):
    assert found_panels.outcomes(ds).shares.tolist() == [[0.5, 0.25, 0, 0.25], [0.5, 0, 0.5, 0]]
    norms = found_panels.norms(ds)
    assert norms.values[0].tolist() == [1e-30, 1e-20, 1e-3]
    assert (norms.cutoff, norms.floor) == (1e-10, 1e-31)
    assert norms.title.startswith(f"{100 / 7:.3g} % of points between the cut-off and 0.0001")
    first, second = found_panels.summary(ds)
    assert (first["critical"], first["diverged"], first["steps"], first["known"]) == (2, 1, 6.0, 2)
    assert (second["unfinished"], second["products"], second["known"]) == (2, 2540.0, 1)
    assert (first["index 0"], "above the bound" in first) == (1, False)
    of_bound = found_panels.summary(ds.assign_attrs(lower_bound=0.5))
    assert [row["above the bound"] for row in of_bound] == [1, 1]
    assert [row["above the bound"] for row in found_panels.summary(ds.assign_attrs(lower_bound=1.0))] == [0, 0]


@pytest.mark.parametrize("draw", [plot.critical_points, plot.outcomes, plot.gradient_norms])
def test_figures_of_rows_that_are_not_done_say_so(ds, draw):
    empty = ds.assign(status=ds["status"] * 0 - 1, loss=ds["loss"] * np.nan, grad_norm_sq=ds["grad_norm_sq"] * np.nan)
    for rows in (ds, empty, empty.assign_attrs(truth=[], config={})):
        assert isinstance(draw(rows), matplotlib.axes.Axes)


def test_flatness_can_be_the_colour(ds):
    flat = ds.assign(flatness=ds["status"] * 0.5, flatness_h=ds["status"] * 0.0)
    assert found_panels.found(flat, colour="flatness").groups[1].shade.tolist() == [0.5]
    ax = plot.critical_points(flat, colour="flatness")
    assert "flatness r" in [other.get_ylabel() for other in ax.figure.axes]
    with pytest.raises(ValueError, match="colour must be one of grad_norm_sq, flatness; got 'loss'"):
        plot.critical_points(ds, colour="loss")


def test_a_law_is_drawn_beside_the_points(ds):
    ax = plot.critical_points(ds, law=[[1.0, 0.0], [4.0, 0.5]], law_name="a law")
    assert "a law" in [text.get_text() for text in ax.get_legend().get_texts()]


def test_the_law_of_the_landscape_is_drawn_as_far_as_the_points_go(ds):
    """Points have losses from 1 to 5 here."""
    own = ds.assign_attrs(law={"name": "its own", "curve": [[0.0, 0.0], [4.0, 0.4], [8.0, 0.4]]})
    panel = found_panels.found(own)
    assert panel.law_name == "its own"
    np.testing.assert_allclose(panel.law, [[1, 0.1], [4, 0.4], [5, 0.4]])
    assert "its own" in [text.get_text() for text in plot.critical_points(own).get_legend().get_texts()]
    assert found_panels.found(own, law=[[1.0, 0.0]], law_name="a law").law.tolist() == [[1, 0]]
    json.dumps(found_pages.figure_of(panel, {}), allow_nan=False)


def test_the_page_shows_what_is_stored(ds, tmp_path):
    text = hj.report(ds, tmp_path).read_text()
    assert "&lt;b&gt;points&lt;/b&gt;" in text
    assert "<b>points" not in text
    assert "<td>newton-mr</td><td>2</td><td>1</td><td>0</td><td>1</td>" in text
    assert sorted(path.name for path in (tmp_path / "report_figures").iterdir()) == [
        "gradient_norms.png",
        "outcomes.png",
        "overview.png",
        "points.png",
    ]
    json.dumps(found_pages.figure_of(found_panels.found(ds), {}), allow_nan=False)
    for name in ("points", "outcomes", "gradient_norms"):
        assert f'id="{name}"' in text


def test_without_counts_there_are_no_indices(ds, tmp_path):
    rows = ds.drop_vars(["negative", "zero", "positive"])
    assert list(found_panels.search_panels(rows)) == ["outcomes", "gradient_norms"]
    assert hj.report(rows, tmp_path).exists()


SEARCH = ["critical", "--options", "inputs=3", "hidden=2", "--num-starts", "4", "--num-steps", "50", "--no-progress"]


@pytest.fixture
def in_folder(tmp_path, monkeypatch, float64):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_searches_and_reports(in_folder, capsys):
    assert cli.main([*SEARCH, "--methods", "trust-region", "newton-mr", "--report"]) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"trust-region +4 starts: \d critical, 0 gradient-flat, \d unfinished, 0 diverged; of the critical \d have",
        said,
    )
    assert "report  " in said
    assert (in_folder / "critical-report.html").exists()
    assert hj.open_search("critical.zarr")["status"].shape == (4, 2)
    assert cli.main(["report", "critical.zarr", "--output", "again.html"]) == 0


def test_the_command_starts_from_a_sweep(in_folder, capsys):
    given = ["--landscape", "autoencoder", "--options", "inputs=3", "hidden=2", "--num-inits", "2", "--num-steps", "9"]
    assert cli.main(["sweep", *given, "--times", "2", "--no-progress"]) == 0
    assert cli.main(["critical", "--from", "sweep.zarr", "--num-starts", "3", "--no-progress"]) == 0
    ds = hj.open_search("critical.zarr")
    assert ds.attrs["config"]["starts"] == "sweep"
    assert ds.attrs["config"]["options"] == {"inputs": 3, "hidden": 2}
    assert "3 starts: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["critical", "--from", "none.zarr"], "no store at"),
        (["critical", "--methods", "newton_mr"], "newton_mr"),
        (["critical", "--num-starts", "0"], "num_starts must be a whole number, at least 1"),
        (["critical", "--landscape", "autoencodre", "--no-progress"], "did you mean 'autoencoder'"),
        (["critical", "--starts", "sweep"], "sweep is the store of starts='sweep'"),
    ],
)
def test_mistakes_are_answered_in_one_line(words, said, in_folder, capsys):
    assert cli.main(words) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
