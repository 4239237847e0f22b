"""The surface around training as a study: planes against closed forms, kills, shared stores, reports."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from browser import BROWSER, visit
from numpy.testing import assert_allclose, assert_array_equal

import hessjax as hj
from hessjax import profile_runs, trees
from hessjax.profile_panels import profile_panels, table
from hessjax.store import Store, StoreError

FORM = (-1.0, 2.0, 3.0)
SMALL = {"landscape": "quadratic", "options": {"eigenvalues": FORM}, "num_steps": 20, "times": 6, "resolution": 7}
NET = {"landscape": "digits-mlp", "options": {"widths": (4,), "rows": 32}, "num_steps": 12, "times": 4}


@functools.cache
def made(plane="trajectories", measure="curvature", optimizers=("sgd", "momentum", "adam"), num_inits=1, **given):
    import tempfile

    config = hj.Profile(
        **SMALL | given, plane=plane, measure=measure, optimizers=optimizers, num_inits=num_inits, batch_size=None
    )
    return hj.profile(config, tempfile.mkdtemp() + "/p.zarr", progress=False)


def points(ds):
    """The params at every point of the plane, [y, x, parameter]."""
    u, v = ds["directions"].values.astype(float)
    x, y = ds["x"].values.astype(float), ds["y"].values.astype(float)
    return ds["origin"].values + x[None, :, None] * u + y[:, None, None] * v


@pytest.mark.parametrize("plane", ["trajectories", "solutions", "eigenvectors", "random"])
def test_planes_of_a_quadratic_form_are_its_closed_form(plane):
    """Loss, gradient and curvature at 49 points of every kind of plane."""
    ds = hj.open_profile(made(plane))
    land = hj.landscapes.get("quadratic", eigenvalues=FORM)
    matrix = np.asarray(hj.dense(hj.Hessian(land.loss, land.init(jax.random.key(0)), land.batch)), float)
    at = points(ds)
    middle = np.asarray(jax.grad(lambda p: land.loss(p))(jnp.zeros(3)), float)  # 0 for a form about the origin
    want = np.einsum("yxi,ij,yxj->yx", at, matrix, at) / 2 + at @ middle + float(land.loss(jnp.zeros(3)))
    assert_allclose(ds["loss"], want, atol=2e-5 * np.abs(want).max())
    gradient = np.linalg.norm(at @ matrix + middle, axis=-1)
    assert_allclose(ds["grad_norm"], gradient, atol=2e-5 * gradient.max())
    assert (ds["negative"] == 1).all()
    assert_allclose(ds["min_eigenvalue"], -1, rtol=1e-5)
    assert_allclose(ds["max_eigenvalue"], 3, rtol=1e-5)


def test_three_ends_lie_in_their_plane():
    ds = hj.open_profile(made("solutions"))
    assert_allclose(ds["off_plane"][:, -1], 0, atol=1e-5)
    assert_allclose(ds["coordinates"][0, -1], 0, atol=1e-5)  # the first is its origin
    assert abs(float(ds["coordinates"][1, -1, 1])) < 1e-5  # the second on its first axis
    assert (ds["coordinates"][:, -1] >= [float(ds["x"][0]), float(ds["y"][0])]).all()


def test_directions_of_the_top_eigenvalues_begin_with_the_largest():
    ds = hj.open_profile(made("eigenvectors"))
    matrix = np.diag(FORM)
    land = hj.landscapes.get("quadratic", eigenvalues=FORM)
    matrix = np.asarray(hj.dense(hj.Hessian(land.loss, land.init(jax.random.key(0)), land.batch)))
    u, v = ds["directions"].values
    assert_allclose([u @ matrix @ u, v @ matrix @ v, u @ matrix @ v], [3, 2, 0], atol=1e-4)


def test_random_directions_have_the_nets_own_scale(tmp_path):
    config = hj.Profile(**NET, optimizers=("sgd",), plane="random", resolution=3)
    ds = hj.open_profile(hj.profile(config, tmp_path / "p.zarr", progress=False))
    land = hj.landscapes.get("digits-mlp", widths=(4,), rows=32)
    unravel = trees.ravel(land.init(jax.random.key(0)))[1]
    origin, u = (unravel(jnp.asarray(x)) for x in (ds["origin"].values, ds["directions"].values[0]))
    for one, other in zip(jax.tree.leaves(origin), jax.tree.leaves(u), strict=True):
        if one.ndim > 1:
            assert_allclose(jnp.linalg.norm(other, axis=0), jnp.linalg.norm(one, axis=0), rtol=1e-5)
        else:
            assert not other.any()
    assert_allclose([ds["x"][0], ds["x"][-1]], [-1, 1])
    assert {"error", "loss"} <= set(ds)
    assert "grad_norm" not in ds


def test_trajectories_and_lines_are_those_of_the_comparison():
    ds = hj.open_profile(made())
    assert_allclose(ds["run_loss"][:, :, 0], np.broadcast_to(ds["run_loss"][0, :, 0], (3, 1)))
    t = ds["t"].values
    assert_allclose(ds["line_loss"][:, :, np.argmin(abs(t))], ds["run_loss"][:, :, 0], rtol=1e-4, atol=1e-5)
    assert_allclose(ds["line_loss"][:, :, np.argmin(abs(t - 1))], ds["run_loss"][:, :, -1], rtol=1e-4, atol=1e-5)
    even = (t > -0.26) & (t < 1.26)  # about the middle of the line
    assert_allclose(ds["between_loss"][0, 1, 2][even], ds["between_loss"][0, 2, 1][even][::-1], rtol=1e-4, atol=1e-5)
    assert float(ds["explained"].sum()) <= 1 + 1e-6
    assert_allclose(ds.attrs["thresholds"]["sgd"], 20.0)  # 2 / 0.1
    assert "adam" not in ds.attrs["thresholds"]


def test_a_study_that_is_interrupted_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    config = hj.Profile(**SMALL, optimizers=("sgd", "adam"))
    whole = hj.open_profile(hj.profile(config, tmp_path / "a.zarr", unit=2, progress=False)).load()
    write, written = Store.write, []

    def dies(self, unit, values):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(unit)
        write(self, unit, values)

    monkeypatch.setattr(Store, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        hj.profile(config, tmp_path / "b.zarr", unit=2, progress=False)
    monkeypatch.setattr(Store, "write", write)
    half = hj.open_profile(tmp_path / "b.zarr")
    assert 0 < half.attrs["num_done"] < 7
    assert np.isnan(half["loss"].values[~half["done"].values]).all()
    calls = []
    monkeypatch.setattr(profile_runs, "compare_optimizers", lambda *a, **k: calls.append(a))
    again = hj.open_profile(hj.profile(config, tmp_path / "b.zarr", progress=False)).load()
    assert calls == []  # what was found on the way is read back
    for name in ("loss", "status", "coordinates", "directions", "line_loss"):
        assert_array_equal(whole[name], again[name], err_msg=name)


def test_workers_share_the_rows_and_a_last_unit_may_be_short(tmp_path):
    config = hj.Profile(**SMALL, optimizers=("sgd", "adam"))
    for index in (0, 1):
        hj.profile(config, tmp_path / "a.zarr", unit=3, worker=(index, 2), progress=False)
    ds = hj.open_profile(tmp_path / "a.zarr")
    assert ds.attrs["num_done"] == 7
    assert (ds["status"] == 0).all()
    status = hj.store_status(tmp_path / "a.zarr")
    assert (status.what, status.num_rows, status.num_units, status.outcomes) == ("profile", 7, 3, {"finite": 7})


def test_another_study_is_refused_and_an_old_one_is_not_a_sweep(tmp_path):
    path = made()
    with pytest.raises(StoreError, match="resolution: 7 there, 9 asked for"):
        hj.profile(hj.Profile(**SMALL | {"resolution": 9}, measure="curvature", optimizers=("sgd", "momentum", "adam")),
                   path, progress=False)  # fmt: skip
    with pytest.raises(StoreError, match="is of a profile; sweeps are what can be merged"):
        hj.merge([path], tmp_path / "m.zarr")


def test_stores_of_other_kinds_say_how_they_are_read():
    path = made()
    for read in (hj.open_sweep, hj.open_search):
        with pytest.raises(StoreError, match=r"is of a profile, wanted a s\w+; read it with hj.open_profile"):
            read(path)


def test_a_store_that_names_other_optimizers_than_it_holds_is_refused(tmp_path):
    import json

    path = hj.profile(hj.Profile(**SMALL, optimizers=("sgd", "adam")), tmp_path / "p.zarr", progress=False)
    for words in (["sgd"], "sgd", None, {"sgd": 1}):
        said = json.loads((path / "zarr.json").read_text())
        said["attributes"]["config"]["optimizers"] = words
        (path / "zarr.json").write_text(json.dumps(said))
        with pytest.raises(StoreError, match="does not name its optimizers"):
            hj.open_profile(path)


def test_verify_finds_rows_that_are_gone_and_numbers_that_are_not_finite(tmp_path):
    path = hj.profile(hj.Profile(**SMALL, optimizers=("sgd",)), tmp_path / "p.zarr", unit=2, progress=False)
    assert hj.verify(path) == []
    store = Store.open(path)
    rows = {name: store.part(name, 1) for name in store.by_row if name != "y"}
    rows["loss"] = rows["loss"].copy()
    rows["loss"][0, 0] = np.nan
    store.write(1, rows)
    assert [(d.unit, d.array) for d in hj.verify(path)] == [(1, "loss")]
    (chunk,) = [f for f in (path / "status").rglob("*") if f.is_file() and f.name == "2"]
    chunk.unlink()
    assert {(d.unit, d.array) for d in hj.verify(path, redo=True)} == {(1, "loss"), (2, "status")}
    hj.profile(hj.Profile(**SMALL, optimizers=("sgd",)), path, progress=False)
    assert hj.verify(path) == []


def test_a_run_that_diverges_leaves_its_row_and_the_plane_of_the_others(tmp_path, monkeypatch):
    monkeypatch.setitem(profile_runs.OPTIMIZERS, "wild", ("sgd", 1e30, {}))
    config = hj.Profile(**SMALL | {"num_steps": 60}, optimizers=("momentum", "wild"))
    ds = hj.open_profile(hj.profile(config, tmp_path / "p.zarr", progress=False))
    assert not np.isfinite(ds["run_loss"].sel(optimizer="wild")[0, -1])
    assert np.isfinite(ds["x"]).all()
    assert np.isfinite(ds["loss"][:, 3]).any()
    assert len(table(ds)) == 2
    assert np.isfinite(ds["line_loss"].sel(optimizer="momentum")).all()  # what diverged is no part of the others' lines
    assert np.isfinite(ds["between_loss"].sel(optimizer="momentum", other="momentum")).all()
    assert profile_panels(ds)["plane_loss"].paths["wild"].shape == (6, 2)


@pytest.mark.parametrize("rate", [1e30, 3.0])  # not finite, and large
@pytest.mark.parametrize("given", [{}, {"extent": 2.0}, {"plane": "random"}, {"plane": "eigenvectors"}])
def test_planes_are_laid_without_what_diverged(tmp_path, monkeypatch, rate, given):
    monkeypatch.setitem(profile_runs.OPTIMIZERS, "wild", ("sgd", rate, {}))
    config = hj.Profile(**SMALL | {"num_steps": 60}, optimizers=("momentum", "wild"), **given)
    ds = hj.open_profile(hj.profile(config, tmp_path / "p.zarr", progress=False))
    assert np.isfinite(ds["x"]).all()
    assert np.isfinite(ds["y"]).all()
    assert np.isfinite(ds["directions"]).all()


@pytest.mark.parametrize(
    ("plane", "optimizers", "said"),
    [
        ("trajectories", ("wild",), "all diverged at once"),
        ("solutions", ("wild", "sgd", "momentum"), "fewer than three ends of training are finite"),
        ("random", ("wild", "sgd"), "'wild' diverged, and the plane is around its end; put another first"),
        ("eigenvectors", ("wild", "sgd"), "'wild' diverged"),
    ],
)
def test_planes_of_what_diverged_are_refused(tmp_path, monkeypatch, plane, optimizers, said):
    monkeypatch.setitem(profile_runs.OPTIMIZERS, "wild", ("sgd", 1e30, {}))
    config = hj.Profile(**SMALL, optimizers=optimizers, plane=plane)
    with pytest.raises(ValueError, match=said):
        hj.profile(config, tmp_path / "p.zarr", progress=False)
    assert not (tmp_path / "p.zarr").exists()


def test_a_trajectory_of_two_points_is_refused_before_training():
    with pytest.raises(ValueError, match="goes through three points at least; got one optimizer and times=2"):
        hj.Profile(**SMALL | {"times": 2}, optimizers=("sgd",))
    assert hj.Profile(**SMALL | {"times": 2}, optimizers=("sgd", "adam")).times == 2


def test_a_path_that_cannot_be_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setattr(profile_runs, "compare_optimizers", lambda *_, **__: pytest.fail("trained"))
    (tmp_path / "file").write_text("")
    with pytest.raises(hj.StoreError, match="file"):
        hj.profile(hj.Profile(**SMALL), tmp_path / "file" / "p.zarr", progress=False)


def test_a_store_of_another_kind_is_told_by_its_kind(tmp_path):
    sweep = hj.Sweep(landscape="quadratic", num_inits=2, num_steps=2, times=2)
    hj.sweep(sweep, tmp_path / "s.zarr", progress=False)
    with pytest.raises(hj.StoreError, match="holds a sweep, not a profile; choose another path"):
        hj.profile(hj.Profile(**SMALL), tmp_path / "s.zarr", progress=False)
    hj.profile(hj.Profile(**SMALL), tmp_path / "p.zarr", progress=False)
    with pytest.raises(hj.StoreError, match="holds a profile, not a sweep; choose another path"):
        hj.sweep(sweep, tmp_path / "p.zarr", progress=False)


def test_one_parameter_has_no_plane(tmp_path):
    config = hj.Profile(**SMALL | {"landscape": "quadratic", "options": {"eigenvalues": (2.0,)}})
    with pytest.raises(ValueError, match=r"has one parameter: .* hj\.profiles\.line"):
        hj.profile(config, tmp_path / "p.zarr", progress=False)


def test_names_that_are_alike_at_first_are_told_apart(tmp_path):
    names = ("adadelta+momentum@10+sgd@12", "adadelta+momentum@10+sgd@13")
    ds = hj.open_profile(hj.profile(hj.Profile(**SMALL, optimizers=names), tmp_path / "p.zarr", progress=False))
    matrix = profile_panels(ds)["barrier"]
    assert len(set(matrix.names)) == 2


def test_a_switch_of_optimisers_follows_the_first_until_it_switches(tmp_path):
    config = hj.Profile(**SMALL, optimizers=("adam", "adam+sgd@12"))
    ds = hj.open_profile(hj.profile(config, tmp_path / "p.zarr", progress=False))
    apart = ds["separation"].sel(optimizer="adam", other="adam+sgd@12").values[0]
    assert_array_equal(apart[ds["step"].values <= 12], 0)
    assert apart[-1] > 0
    assert ds.attrs["thresholds"] == {"adam+sgd@12": pytest.approx(20.0)}


def test_several_inits_are_medians_and_the_plane_is_of_the_first(tmp_path):
    ds = hj.open_profile(made(num_inits=3))
    assert ds.sizes["init"] == 3
    panels = profile_panels(ds)
    assert panels["training"].note.startswith("median of 3 inits")
    want = np.median(ds["run_loss"].values, axis=1)
    assert_allclose([panels["training"].parts[0].curves[name] for name in ds["optimizer"].values], want)
    assert_allclose(panels["barrier"].values, np.median(ds["barrier"].values, axis=0))
    assert_array_equal(panels["plane_loss"].paths["sgd"], ds["coordinates"].values[0].astype(float))


def test_the_page_has_every_figure_and_its_picture(tmp_path):
    page = hj.report(made(), tmp_path)
    text = page.read_text()
    ds = hj.open_profile(made())
    for name in profile_panels(ds):
        assert f'id="{name}"' in text
        assert (tmp_path / "report_figures" / f"{name}.png").stat().st_size > 5000
    assert "three" not in table(ds)[0]
    for name in ds["optimizer"].values:
        assert f"<td>{name}</td>" in text


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH")
def test_a_browser_draws_the_page_and_is_asked_for_nothing_else(tmp_path):
    page = hj.report(made(), tmp_path / "r")
    seen = visit(page, tmp_path / "visit")
    assert seen.dom.count("could not be drawn") == 1  # in the script itself
    assert f'data-drawn="{len(profile_panels(hj.open_profile(made())))}"' in seen.dom
    assert seen.requests == []
    assert [line for line in seen.console if "ERROR" in line and "WebGL" not in line and "GPU" not in line] == []


def test_plotly_takes_every_figure():
    graph_objects = pytest.importorskip("plotly.graph_objects")
    from hessjax.interactive import page_layout
    from hessjax.seen_pages import seen_figure

    panels = profile_panels(hj.open_profile(made()))
    drawn = [graph_objects.Figure(seen_figure(panel, page_layout())) for panel in panels.values()]  # checks properties
    assert len(drawn) > 5
    assert all(figure.data for figure in drawn)
    plane = drawn[list(panels).index("plane_loss")].data
    flat, solid = (
        {x.name: x.line.color for x in plane if x.type == kind and x.name} for kind in ("scatter", "scatter3d")
    )
    assert solid == flat


def test_the_command_runs_resumes_and_reports(process_of_a_command, tmp_path, capsys):
    from hessjax import cli

    words = ["profile", "--landscape", "quadratic", "--num-steps", "9", "--times", "4", "--resolution", "5"]
    words += ["--optimizers", "sgd", "adam", "--output", str(tmp_path / "p.zarr"), "--no-progress", "--report"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "sgd " in said
    assert "(stable to 20)" in said
    assert (tmp_path / "p-report.html").exists()
    assert cli.main(words) == 0
    assert cli.main(["status", str(tmp_path / "p.zarr")]) == 0
    assert "5 rows of the plane" in capsys.readouterr().out
    assert cli.main(["verify", str(tmp_path / "p.zarr")]) == 0


def test_what_decides_the_numbers_is_stored_and_named():
    config = hj.Profile(**SMALL, optimizers=("sgd", "adam"))
    assert hj.Profile.from_dict(config.to_dict()) == config
    assert dataclasses.replace(config, resolution=8).fingerprint != config.fingerprint
