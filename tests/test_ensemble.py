"""Sweeps: the same rows whatever the unit, the workers and the interruptions, and a store that says what it holds."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import landscape_module_for_tests as user
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from stored_rows import interrupted, rows, units_done

import hessjax as hj
from hessjax import Landscape, StoreError, Sweep, ensemble, lanes, runs
from hessjax.ensemble import open_sweep, sweep
from hessjax.lanes import Lanes
from hessjax.single import exact
from hessjax.store import Store

CLOUDS = "landscape_module_for_tests:clouds"
HERE = Path(__file__).parent


def config_of(**given):
    return Sweep(**({"landscape": CLOUDS, "num_inits": 7, "num_steps": 3, "times": 2, "lane_width": 2} | given))


def run(config, path, **how):
    return sweep(config, path, **({"progress": False} | how))


def contents(path):
    """Every array of a store, as bytes that compare NaN equal to itself."""
    names = sorted(p.parent.name for p in Path(path).glob("*/zarr.json"))
    return {name: (Store.open(path).read(name).tobytes(), str(Store.open(path).read(name).dtype)) for name in names}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One uninterrupted sweep of seven inits in four units of one lane."""
    return run(config_of(), tmp_path_factory.mktemp("whole") / "a.zarr")


# -------------------------------------------------------------------------------------- the same rows, however made


@pytest.mark.parametrize("unit", [3, 100])
def test_the_unit_changes_no_bit(whole, tmp_path, unit):
    path = run(config_of(), tmp_path / "b.zarr", unit=unit)
    assert Store.open(path).unit == {3: 4, 100: 100}[unit]  # whole lanes of 2
    assert rows(path) == rows(whole)


def test_workers_in_any_order_change_no_bit_and_share_the_units(whole, tmp_path):
    path = tmp_path / "b.zarr"
    run(config_of(), path, worker=(1, 2))
    assert open_sweep(path).attrs["num_done"] == 3
    assert units_done(path) == [1, 3]
    run(config_of(), path, worker=(0, 2))
    assert units_done(path) == [1, 3, 0, 2]
    assert contents(path) == contents(whole)
    run(config_of(), path, worker=(2, 3))  # more workers than before, nothing left to do
    assert units_done(path) == [1, 3, 0, 2]


def test_an_interrupted_sweep_resumes_without_recomputing_or_losing_a_unit(whole, tmp_path, monkeypatch):
    path = tmp_path / "b.zarr"
    interrupted(monkeypatch, 2, lambda: run(config_of(), path))
    partial = open_sweep(path)
    assert partial["done"].values.tolist() == [True] * 4 + [False] * 3
    assert partial.attrs["num_done"] == 4
    assert np.isnan(partial["eigenvalues"][4:]).all()
    assert np.isfinite(partial["eigenvalues"][:4]).all()
    for name in ("negative", "zero", "positive", "status"):  # what is not known is neither a count nor "ok"
        assert (partial[name][4:] == -1).all()
        assert (partial[name][:4] >= 0).all()
    before = {p: p.stat().st_mtime_ns for p in path.glob("*/c/[01]*") if p.is_file()}
    before |= {p: p.stat().st_mtime_ns for p in path.glob("*/c/[01]/**/*") if p.is_file()}
    run(config_of(), path)
    assert contents(path) == contents(whole)
    assert units_done(path) == [0, 1, 2, 3]
    assert before == {p: p.stat().st_mtime_ns for p in before}
    assert len(before) > 20  # two chunks of each array, but for those that are all fill value


def test_a_finished_sweep_compiles_and_writes_nothing(whole, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("a finished sweep has nothing to do")

    monkeypatch.setattr(Lanes, "compile", fail)
    monkeypatch.setattr(Store, "write", fail)
    before = contents(whole)
    assert run(config_of(), whole) == whole
    assert contents(whole) == before


def test_init_i_depends_on_the_seed_and_i_alone(whole, tmp_path):
    """Four inits of the seven, and seven of another seed."""
    few = open_sweep(run(config_of(num_inits=4, times=(0, 3)), tmp_path / "few.zarr"))
    all_seven, other = open_sweep(whole), open_sweep(run(config_of(seed=1), tmp_path / "other.zarr"))
    for name in ("loss", "eigenvalues", "trace", "negative"):
        assert_array_equal(few[name].values, all_seven[name].values[:4])
    assert not np.isclose(other["loss"].values, all_seven["loss"].values).any()


KILLED = {"num_inits": 40, "num_steps": 15_000, "times": 2, "spacing": "linear", "lane_width": 1, "optimizer": "sgd"}


def start_slow_sweep(path):
    """A sweep in a process of its own, about a tenth of a second a unit, seen to have finished two units."""
    words = ["--landscape", CLOUDS, "--output", str(path), "--learning-rate", "1e-3", "--no-progress"]
    for name, value in KILLED.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background has it ignored
    process = subprocess.Popen(
        [sys.executable, "-m", "hessjax", "sweep", *words], cwd=HERE, stderr=subprocess.PIPE, text=True, env=env
    )
    signal.signal(signal.SIGINT, before)
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if path.exists() and len(units_done(path)) >= 2:
            return process
        time.sleep(0.01)
    raise AssertionError(process.communicate())


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_killed_or_interrupted_in_the_middle_it_resumes_to_the_same_bits(killed_reference, tmp_path, sent):
    path = tmp_path / "b.zarr"
    process = start_slow_sweep(path)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    if sent != signal.SIGKILL:
        assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[sent], err
        assert not path.with_name("b.zarr.claims").exists()
        assert err == "interrupted: finished units are kept; run the same command again to resume.\n"
    else:
        assert process.returncode == -signal.SIGKILL
    finished = np.flatnonzero(Store.open(path).done()).tolist()
    assert 2 <= len(finished) < 10
    stamps = {u: (path / "loss" / "c" / str(u) / "0").stat().st_mtime_ns for u in finished}
    logged = len(units_done(path))
    run(config_of(**KILLED, learning_rate=1e-3), path)
    assert contents(path) == contents(killed_reference)
    assert sorted(set(range(KILLED["num_inits"])) - set(finished)) == units_done(path)[logged:]
    assert stamps == {u: (path / "loss" / "c" / str(u) / "0").stat().st_mtime_ns for u in finished}


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="dispatch waits: signals are met at a lane's end")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_met_within_a_lane_that_takes_hours(tmp_path, sent):
    """A scheduler waits a minute at most. The unit is dropped, and the device's work is not waited for."""
    path = tmp_path / "b.zarr"
    words = ["--landscape", CLOUDS, "--output", str(path), "--num-inits", "4", "--num-steps", "2000000000", "--times"]
    words += ["2", "--spacing", "linear", "--optimizer", "sgd", "--learning-rate", "1e-3", "--no-progress"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)}
    command = [sys.executable, "-m", "hessjax", "sweep", *words]
    process = subprocess.Popen(command, cwd=HERE, stderr=subprocess.PIPE, text=True, env=env)
    signal.signal(signal.SIGINT, before)
    try:
        until = time.monotonic() + 120
        while not path.with_name("b.zarr.claims").exists() and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(sent)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[sent], err
    assert not path.with_name("b.zarr.claims").exists()
    assert not Store.open(path).done().any()


@pytest.fixture(scope="module")
def killed_reference(tmp_path_factory):
    return run(config_of(**KILLED, learning_rate=1e-3), tmp_path_factory.mktemp("reference") / "a.zarr")


def test_a_landscape_is_the_same_as_an_object_by_name_and_from_a_module(whole, tmp_path, monkeypatch):
    as_object = run(config_of(landscape=user.clouds()), tmp_path / "object.zarr")
    monkeypatch.setattr(hj.landscapes.base, "_registered", {})
    hj.landscapes.register("my-clouds", user.clouds)
    by_name = run(config_of(landscape="my-clouds"), tmp_path / "name.zarr")
    assert rows(as_object) == rows(whole)
    assert rows(by_name) == rows(whole)
    assert open_sweep(as_object).attrs["config"]["landscape"] == "clouds"


def test_spectrum_is_the_sweeps_last_row(whole):
    row, stored = exact(config_of(), init=5), open_sweep(whole)
    n, norm = 3, float(stored["max_eigenvalue"][5].max())
    tolerance = 64 * np.finfo("float32").eps * n * norm
    for name in ("loss", "grad_norm", "eigenvalues", "trace", "threshold"):
        assert_allclose(row[name], stored[name].values[5, -1], atol=tolerance, rtol=0)
    for name in ("negative", "zero", "positive", "status"):
        assert row[name] == stored[name].values[5, -1]
    with pytest.raises(ValueError, match="init must be at least 0, got -1"):
        exact(config_of(), init=-1)


def test_mini_batches_are_a_matter_of_seed_init_and_step_alone(tmp_path):
    """Measuring more often cuts the training into other segments, and changes nothing."""
    often = config_of(batch_size=2, num_steps=4, times=(0, 1, 2, 4), num_inits=3)
    seldom = config_of(batch_size=2, num_steps=4, times=(0, 4), num_inits=3)
    a, b = (open_sweep(run(c, tmp_path / f"{i}.zarr")) for i, c in enumerate((often, seldom)))
    whole_batches = open_sweep(run(config_of(num_steps=4, times=(0, 4), num_inits=3), tmp_path / "w.zarr"))
    assert_array_equal(a["eigenvalues"].values[:, [0, 3]], b["eigenvalues"].values)
    assert_array_equal(a["loss"].values[:, [0, 3]], b["loss"].values)
    assert not np.isclose(whole_batches["loss"].values[:, 1], b["loss"].values[:, 1], rtol=1e-6).any()


# ----------------------------------------------------------------------------------------------- what a store holds


def test_a_quadratic_form_is_measured_in_closed_form(tmp_path):
    """Eigenvalues as given at every step, and gradient descent's loss sum d (1 - rate d)^2t x0^2 / 2."""
    config = Sweep(
        landscape="quadratic", options={"eigenvalues": (-1.0, 0.0, 2.0)}, num_inits=3, num_steps=4, times=(0, 4),
        optimizer="sgd", learning_rate=0.1,
    )  # fmt: skip
    ds = open_sweep(run(config, tmp_path / "q.zarr"))
    eps = np.finfo("float32").eps
    assert_allclose(ds["eigenvalues"].values, np.broadcast_to([-1.0, 0.0, 2.0], (3, 2, 3)), atol=16 * 3 * 2 * eps)
    assert_allclose(ds["trace"].values, 1.0, atol=16 * 3 * 2 * eps)
    for name in ("negative", "zero", "positive"):
        assert (ds[name].values == 1).all()
    gained = ds["loss"].values[:, 1] - ds["loss"].values[:, 0]
    assert (gained < 0).all()  # gradient descent goes down along both curvatures
    assert ds["certified"].values.all()
    assert (ds["status"].values == 0).all()
    assert "error" not in ds


def test_open_sweep_has_dimensions_units_configuration_and_versions(whole):
    ds = open_sweep(whole)
    assert dict(ds.sizes) == {"init": 7, "time": 2, "eigenvalue": 3}
    assert set(ds.coords) == {"init", "step", "done"}
    assert ds["step"].dims == ("time",)
    assert ds["step"].values.tolist() == [0, 3]
    assert ds["init"].values.tolist() == list(range(7))
    assert ds["eigenvalues"].dims == ("init", "time", "eigenvalue")
    units = {"loss": "loss", "grad_norm": "loss / parameter", "negative": "1", "eigenvalues": "loss / parameter^2"}
    assert {name: ds[name].attrs["units"] for name in units} == units
    for name in (*ds.data_vars, "init", "step"):
        assert ds[name].attrs["long_name"], name
    kinds = {"negative": "int32", "certified": "bool", "status": "int8", "loss": "float32", "eigenvalues": "float32"}
    assert {name: str(ds[name].dtype) for name in kinds} == kinds
    assert Sweep.from_dict(ds.attrs["config"]) == config_of()
    assert ds.attrs["fingerprint"] == config_of().fingerprint
    assert {"python", "jax", "hessjax", "numpy"} <= set(ds.attrs["versions"])
    assert "float32" in ds.attrs["precision"]
    assert "cpu" in ds.attrs["device"]
    assert ds.attrs["landscape"]["num_params"] == 3
    assert (ds.attrs["num_done"], ds.attrs["num_inits"]) == (7, 7)
    assert ds.attrs["wall_s"] >= ds.attrs["unit_s"] > 0
    assert ds.attrs["compile_s"] > 0
    assert "hessjax_store" not in ds.attrs


def test_how_rows_are_measured_is_recorded_and_resumed(monkeypatch, tmp_path):
    width = 2 * len(jax.devices())
    config = config_of(num_inits=2 * width, lane_width=width)
    all_of_it, parts = run(config, tmp_path / "a.zarr"), tmp_path / "b.zarr"
    run(config, parts, worker=(0, 2))
    recorded = Store.open(parts).attributes
    assert recorded["together"] == Store.open(all_of_it).attributes["together"] > 1
    monkeypatch.setattr(lanes, "batch_bytes", lambda *_: 0)  # a new store would be measured one at a time
    run(config, parts)
    for name in ("eigenvalues", "loss", "negative"):
        assert_array_equal(Store.open(parts).read(name), Store.open(all_of_it).read(name))


def test_whoever_finds_a_store_made_meanwhile_measures_as_it_records(monkeypatch, tmp_path):
    """Tasks of an array begin at once: one that saw no store compiles its own way, and another's store wins."""
    config, path, here = config_of(num_inits=4, lane_width=2), tmp_path / "a.zarr", []
    create, run_lane = ensemble.Store.create, Lanes.begin

    def beaten(where, arrays, attributes, **how):
        return create(where, arrays, {**attributes, "together": 2}, **how)

    def begin(self, first):
        here.append(self.way.together)
        return run_lane(self, first)

    monkeypatch.setattr(ensemble.Store, "create", beaten)
    monkeypatch.setattr(Lanes, "begin", begin)
    run(config, path)
    assert set(here) == {2}


def test_a_way_that_does_not_fit_here_is_said_and_logged(monkeypatch, tmp_path, capsys):
    path = run(config_of(), tmp_path / "a.zarr", worker=(0, 2))
    change = json.loads((path / "zarr.json").read_text())
    change["attributes"]["together"] = 2
    (path / "zarr.json").write_text(json.dumps(change))
    workspace = Lanes._workspace
    monkeypatch.setattr(Lanes, "_workspace", lambda self: 2**60 if self.way.together > 1 else workspace(self))
    run(config_of(), path)
    assert "memory does not suffice for Way(" in capsys.readouterr().err
    assert [e["together"] for e in Store.open(path).events() if e["event"] == "way"] == [1]


def test_another_number_of_devices_is_said(tmp_path, capsys):
    """Their share of a lane decides the last bits, and nothing in the rows shows it."""
    path = run(config_of(), tmp_path / "a.zarr", worker=(0, 2))
    log = Store.open(path).log_path
    log.write_text(log.read_text().replace('"num_devices": 8', '"num_devices": 2'))
    run(config_of(), path, progress=True)
    assert "clouds: begun on 2 devices, going on with 8: alike to rounding, not to the bit" in capsys.readouterr().err


def test_a_last_part_shorter_than_a_lane_has_lanes_of_the_whole(tmp_path):
    same = {"lane_width": 4, "spacing": "linear"}
    path = run(config_of(num_inits=2, first_init=4, **same), tmp_path / "a.zarr")
    assert (Store.open(path).read("lane_width") == 4).all()


def test_inertia_stores_no_eigenvalues_and_the_same_counts(whole, tmp_path):
    ds, full = open_sweep(run(config_of(measure="inertia"), tmp_path / "b.zarr")), open_sweep(whole)
    assert "eigenvalues" not in ds
    assert "eigenvalue" not in ds.dims
    for name in ("negative", "zero", "positive"):
        assert_array_equal(ds[name].values, full[name].values)


def test_estimates_are_stored_resumed_checked_and_reported(whole, tmp_path):
    config = config_of(measure="slq", num_probes=4, lanczos_steps=3)
    path = run(config, tmp_path / "b.zarr", worker=(0, 2))
    run(config, path)
    assert contents(path) == contents(run(config, tmp_path / "c.zarr"))
    ds = open_sweep(path)
    assert ds["nodes"].dims == ("init", "time", "probe", "node")
    assert "eigenvalues" not in ds
    assert_allclose(ds["max_eigenvalue"], open_sweep(whole)["max_eigenvalue"], rtol=1e-4)
    assert hj.verify(path) == []
    assert hj.report(path, tmp_path / "r.html").is_file()


def test_the_digits_classify_and_their_error_is_stored(tmp_path):
    options = {"widths": (), "rows": 32}
    ds = open_sweep(run(config_of(landscape="digits-mlp", options=options, num_inits=2), tmp_path / "d.zarr"))
    assert ds["error"].attrs["units"] == "1"
    assert ((ds["error"] >= 0) & (ds["error"] <= 1)).all()
    assert_allclose(ds["error"].values * 32, np.round(ds["error"].values * 32), atol=1e-5)  # 32 rows
    # Softmax regression is convex, and adding one vector to all classes' weights changes nothing: 17 flat directions.
    assert (ds["negative"].values == 0).all()
    assert ds.sizes["eigenvalue"] == 170
    assert (ds["zero"].values >= 17).all()


def test_a_diverged_init_is_a_row_of_the_store(tmp_path):
    config = config_of(landscape=user.quartic("nan"), num_inits=8, lane_width=4, spacing="linear")
    ds = open_sweep(run(config, tmp_path / "nan.zarr"))
    bad = ds["status"].values[:, -1] == 1
    assert 1 <= bad.sum() < 8
    assert np.isnan(ds["eigenvalues"].values[bad]).all()
    assert np.isfinite(ds["eigenvalues"].values[~bad]).all()
    assert not ds["positive"].values[bad].any()
    assert ds["done"].values.all()  # not to be taken for rows that are still to do


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 9}, "seed: 0 there, 9 asked for"),
        ({"tol": 1e-3, "num_inits": 8}, "num_inits: 7 there, 8 asked for; tol: 1e-05 there, 0.001 asked for"),
        ({"lane_width": 4}, "lane_width: 2 there, 4 asked for"),
        ({"times": (0, 3)}, r"times: 2 there, \[0, 3\] asked for"),
        ({"options": {"scalar": True}}, r"options: \{\} there, \{'scalar': True\} asked for"),
    ],
)
def test_a_store_of_another_configuration_is_refused_naming_the_fields(whole, changed, words):
    before = contents(whole)
    with pytest.raises(StoreError, match=words) as caught:
        run(config_of(**changed), whole)
    assert "\n" not in str(caught.value)
    assert str(whole) in str(caught.value)
    assert contents(whole) == before


def test_other_data_or_another_loss_under_the_same_name_is_refused(tmp_path):
    path = run(config_of(landscape=user.clouds(), num_inits=2), tmp_path / "a.zarr")
    moved = user.clouds(user.CENTRES + 0.1)
    other = Landscape("clouds", moved.init, lambda x, b: 2 * user.clouds().loss(x, b), user.clouds().batch)
    for land, words in ((moved, "landscape data: "), (other, "loss of init 0: ")):
        with pytest.raises(StoreError, match=words):
            run(config_of(landscape=land, num_inits=2), path)
    assert run(config_of(landscape=user.clouds(), num_inits=2), path) == path


def test_a_store_whose_attributes_are_no_configuration_is_refused(tmp_path):
    path = run(config_of(num_inits=2), tmp_path / "a.zarr")
    group = json.loads((path / "zarr.json").read_text())
    for strange in (None, 3, [], "seed"):
        group["attributes"] |= {"config": strange, "landscape": strange}
        (path / "zarr.json").write_text(json.dumps(group))
        with pytest.raises(StoreError, match="another configuration"):
            run(config_of(num_inits=2), path)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"worker": (2, 2)}, r"worker must be \(i, n\) with 0 <= i < n, got \(2, 2\)"),
        ({"worker": (0, 2), "workers": 2}, "not both"),
        ({"unit": 0}, "unit must be at least 1 init, got 0"),
        ({"unit": -3}, "unit must be at least 1 init, got -3"),
        ({"memory": "lots"}, "memory must be a positive size such as '4GiB'"),
        ({"memory": 1}, "over the bound of"),
    ],
)
def test_a_wrong_choice_of_execution_is_refused(tmp_path, how, words):
    with pytest.raises(ValueError, match=words) as caught:
        run(config_of(num_inits=2), tmp_path / "a.zarr", **how)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [2])
def test_a_landscape_of_this_process_is_refused_to_workers_before_anything_is_made(tmp_path, workers):
    for land in (user.bowl(), "registered-here-only"):
        with pytest.raises(ValueError, match=r"workers=2 needs a landscape other processes can make"):
            run(config_of(landscape=land), tmp_path / "a.zarr", workers=workers)
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_no_store_can_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    config = Sweep(landscape=user.bowl(), num_inits=1, num_steps=0, times=1)
    for path, words in ((tmp_path / "file", "is a file"), (tmp_path / "file" / "a.zarr", "part of that path")):
        with pytest.raises(StoreError, match=words):
            run(config, path)
    with pytest.raises(StoreError, match="no store at"):
        open_sweep(tmp_path / "absent.zarr")


def test_a_full_disk_in_the_middle_is_one_line_and_the_sweep_resumes(whole, tmp_path, monkeypatch):
    opened = Store._array

    def full(self, name):
        if name == "trace" and opened(self, "done").read().result().sum() == 2:
            raise OSError(28, "No space left on device")
        return opened(self, name)

    with monkeypatch.context() as during:
        during.setattr(Store, "_array", full)
        with pytest.raises(StoreError, match="the disk is full") as caught:
            run(config_of(), tmp_path / "b.zarr")
    assert "\n" not in str(caught.value)
    assert Store.open(tmp_path / "b.zarr").done().tolist() == [True, True, False, False]
    assert contents(run(config_of(), tmp_path / "b.zarr")) == contents(whole)


def test_a_random_loss_is_refused_before_a_store_is_made(tmp_path):
    with pytest.raises(hj.OperatorError, match="determinism"):
        run(config_of(landscape=user.restless(), spacing="linear"), tmp_path / "a.zarr")
    assert list(tmp_path.iterdir()) == []


def test_reading_without_xarray_says_what_to_install(whole, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=r"pip install 'hessjax\[io\]'"):
        open_sweep(whole)


def test_progress_goes_to_standard_error_and_shows_the_median_loss_even_when_all_diverge(tmp_path, capsys):
    land = Landscape("falls", lambda key: jnp.ones(2), lambda x: -jnp.sum(x**4))
    config = Sweep(landscape=land, num_inits=2, num_steps=40, times=2, optimizer="sgd", learning_rate=1.0)
    ds = open_sweep(sweep(config, tmp_path / "a.zarr"))
    out, err = capsys.readouterr()
    assert out == ""
    assert "falls: 2/2 inits" in err
    assert err.rstrip().endswith("loss nan")
    assert ds["status"].values.tolist() == [[0, 1], [0, 1]]


def test_the_log_tells_runs_workers_and_seconds(whole):
    events = Store.open(whole).events()
    assert events[0]["event"] == "start"
    assert [e["event"] for e in events if e["event"] != "unit"][-1] == "end"
    assert {e["pid"] for e in events} == {os.getpid()}
    assert all(e["seconds"] >= 0 for e in events if e["event"] == "unit")
    assert runs.run_attrs([]) == {"wall_s": 0.0, "compile_s": 0.0, "unit_s": 0.0}


def test_wall_time_counts_workers_at_work_together_once_and_interrupted_runs_to_their_last_unit():
    event = lambda kind, run, t, **more: {"event": kind, "run": run, "t": t, **more}
    events = [
        event("start", "a", 0.0, compile_s=2.0),
        event("start", "b", 1.0, compile_s=2.0),
        event("unit", "a", 5.0, seconds=3.0),
        event("unit", "b", 7.0, seconds=4.0),  # killed here: no end
        event("end", "a", 6.0),
        event("start", "c", 100.0, compile_s=1.0),  # resumed later
        event("unit", "c", 104.0, seconds=3.0),
        event("end", "c", 105.0),
    ]
    assert runs.run_attrs(events) == {"wall_s": 12.0, "compile_s": 5.0, "unit_s": 10.0}


def test_a_store_made_again_where_one_was_deleted_counts_its_own_seconds(tmp_path):
    path = run(config_of(), tmp_path / "a.zarr")
    before = len(Store.open(path).events())
    shutil.rmtree(path)
    store = Store.open(run(config_of(), path))
    assert len(store.events()) == before


@pytest.mark.parametrize("outputs", ["one logit", "no class axis"])
def test_outputs_without_classes_have_no_error(tmp_path, outputs):
    model = lambda p, x: x @ p if outputs == "no class axis" else (x @ p)[:, None]
    loss = lambda p, batch: jnp.logaddexp(0.0, (1 - 2 * batch[1]) * (batch[0] @ p))
    land = Landscape("logit", lambda key: jnp.ones(2), loss, (jnp.ones((4, 2)), jnp.arange(4) % 2), model)
    config = Sweep(landscape=land, num_inits=1, num_steps=0, times=1)
    assert "error" not in open_sweep(run(config, tmp_path / "a.zarr"))


def test_a_batch_whose_targets_are_no_array_does_not_classify():
    land = Landscape("auto", lambda key: jnp.ones(2), lambda p, b: (b[0] @ p) ** 2, (jnp.ones((4, 2)), None), print)
    assert not land.classifies
