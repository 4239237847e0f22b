"""Searches as studies: what is stored is what the library call finds; resumed, refused, started from sweeps."""

import dataclasses
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessjax as hj
from hessjax import StoreError, searches
from hessjax.config import MethodName
from hessjax.finders.methods import METHODS
from hessjax.store import Store

SMALL = {"options": {"inputs": 3, "hidden": 2}, "num_starts": 6, "num_steps": 100, "max_steps": 60}
CONFIG = hj.Search(methods=("newton-mr", "trust-region"), **SMALL)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    try:
        return hj.search(CONFIG, tmp_path_factory.mktemp("search") / "s.zarr", unit=4, progress=False)
    finally:
        jax.config.update("jax_enable_x64", before)


def test_rows_are_what_the_library_finds(path, float64):
    ds = hj.open_search(path)
    land = hj.landscapes.get("autoencoder", dtype="float64", **CONFIG.options)
    training = {"num_steps": 100, "noise": 0.1, "optimizer": "sgd", "learning_rate": 0.01}
    starts = hj.starts.along_training(land, jax.random.key(0), 6, **training)
    np.testing.assert_allclose(ds["start_loss"], [jnp.mean(land.loss(p, land.batch)) for p in unstacked(starts)])
    for method in CONFIG.methods:
        found = hj.find_critical_points(land.loss, starts, land.batch, method=method, max_steps=60)
        rows = ds.sel(finder=method)
        assert rows["status"].values.tolist() == found.status.tolist()
        critical = found.status == 0
        assert critical.sum() >= 2
        np.testing.assert_allclose(rows["loss"][critical], found.loss[critical], rtol=1e-9)
        for k in np.flatnonzero(critical):
            one = jax.tree.map(lambda x, k=k: x[k], found.params)
            values = hj.eigvalsh(hj.Hessian(land.loss, one, land.batch))
            np.testing.assert_allclose(rows["eigenvalues"][k], values, atol=1e-5)
            assert int(rows["negative"][k]) == int((values < -1e-5).sum())


def unstacked(params):
    return [jax.tree.map(lambda x, k=k: x[k], params) for k in range(len(jax.tree.leaves(params)[0]))]


def test_every_critical_point_of_an_autoencoder_is_in_the_truth(path):
    ds = hj.open_search(path)
    truth = [(round(loss, 6), index) for loss, index, _ in ds.attrs["truth"]]
    assert len(truth) == 7  # subsets of 3 with at most 2
    done = ds["status"].values == 0
    pairs = zip(np.round(ds["loss"].values[done], 6).tolist(), ds["negative"].values[done].tolist(), strict=True)
    assert set(pairs) <= set(truth)


def test_what_a_store_says(path):
    ds = hj.open_search(path)
    assert dict(ds.sizes) == {"start": 6, "finder": 2, "eigenvalue": 12, "parameter": 12}
    assert ds["finder"].values.tolist() == ["newton-mr", "trust-region"]
    assert (ds.attrs["num_done"], bool(ds["done"].all())) == (6, True)
    assert ds.attrs["config"]["max_steps"] == 60
    assert ds.attrs["lower_bound"] == pytest.approx(1 / 3)
    assert all("long_name" in ds[name].attrs for name in ds.data_vars)
    assert hj.Search.from_dict(ds.attrs["config"]) == CONFIG
    assert ds.attrs["wall_s"] > 0


def test_float32_searches_are_kept_as_such_under_x64(tmp_path, float64):
    """Sums over float32 params are float64 there."""
    config = hj.Search(landscape="bowl", num_starts=2, starts="random", max_steps=5, dtype="float32")
    ds = hj.open_search(hj.search(config, tmp_path / "s.zarr", progress=False))
    assert {str(ds[name].dtype) for name in ("loss", "grad_norm_sq", "flatness", "floor", "params")} == {"float32"}
    assert (ds["status"] == 0).all()


@pytest.mark.parametrize(
    ("name", "options", "known"),
    [
        # phi = 1/4: none negative below the critical energy .0275 (Pennington & Bahri 2017); losses are 4 times it.
        ("memorization", {"widths": (4,), "inputs": 4, "outputs": 4, "rows": 32}, {0.1: 0.0}),
        ("p-spin", {"size": 5, "order": 3}, {0.0: 0.4}),  # by symmetry half of the 4 tangent directions of 5
        ("gaussian-field", {"dimension": 3}, {0.0: 0.5}),
    ],
)
def test_points_are_compared_with_the_law_of_their_landscape(name, options, known, tmp_path):
    config = hj.Search(landscape=name, options=options, num_starts=1, starts="random", max_steps=1, dtype="float32")
    law = hj.open_search(hj.search(config, tmp_path / "s.zarr", progress=False)).attrs["law"]
    losses, shares = np.array(law["curve"]).T
    for loss, share in known.items():
        assert np.interp(loss, losses, shares) == pytest.approx(share, abs=1e-9)
    assert (np.diff(shares) >= 0).all()
    assert 0 <= shares[0] < shares[-1] <= 1


def test_it_resumes_where_it_was_left(path, tmp_path, float64, capsys):
    part = hj.search(CONFIG, tmp_path / "part", unit=4, worker=(1, 2), progress=False)
    assert Store.open(part).done().tolist() == [False, True]
    assert hj.open_search(part)["status"].values[:4].tolist() == [[-1, -1]] * 4
    hj.search(CONFIG, part, progress=False)
    for name, whole in hj.open_search(path).data_vars.items():
        np.testing.assert_array_equal(hj.open_search(part)[name], whole, err_msg=name)
    hj.search(CONFIG, part)
    assert "nothing left to do here, 6/6 are done" in capsys.readouterr().err


def test_another_configuration_is_refused(path, float64):
    with pytest.raises(StoreError, match="seed: 0 there, 1 asked for"):
        hj.search(dataclasses.replace(CONFIG, seed=1), path, progress=False)


@pytest.mark.parametrize("kind", ["random", "known"])
def test_other_starts(kind, tmp_path, float64):
    config = hj.Search(landscape="gradient-flat", starts=kind, num_starts=5, noise=0.01)
    ds = hj.open_search(hj.search(config, tmp_path / "s", progress=False))
    if kind == "known":
        np.testing.assert_allclose(ds["params"].values[:, 0], [[-3, 0]] * 5, atol=1e-6)
        assert (ds["status"] == 0).all()
    assert np.isfinite(ds["start_loss"]).all()


def test_starts_of_a_sweep(tmp_path, float64):
    options = {"inputs": 3, "hidden": 2}
    sweep = hj.Sweep(landscape="autoencoder", options=options, num_inits=3, num_steps=20, times=3)
    store = hj.sweep(sweep, tmp_path / "sweep", progress=False)
    config = hj.Search(options=options, starts="sweep", sweep=str(store), num_starts=4, noise=0.0)
    ds = hj.open_search(hj.search(config, tmp_path / "s", progress=False))
    stored = hj.open_sweep(store)["loss"].values.ravel()
    assert all(np.isclose(stored, x, rtol=1e-4).any() for x in ds["start_loss"].values)
    missing = dataclasses.replace(config, sweep=str(tmp_path / "none"))
    with pytest.raises(StoreError, match="no store at"):
        hj.search(missing, tmp_path / "other", progress=False)
    assert not (tmp_path / "other").exists()


def test_large_models_have_no_eigenvalues(tmp_path, float64, monkeypatch):
    monkeypatch.setattr(searches, "EXACT", 1)
    config = hj.Search(landscape="bowl", starts="random", num_starts=2)
    ds = hj.open_search(hj.search(config, tmp_path / "s", progress=False))
    assert "negative" not in ds
    assert "eigenvalues" not in ds
    assert (ds["status"] == 0).all()


def test_methods_of_configurations_are_those_there_are():
    assert get_args(MethodName) == tuple(METHODS)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_starts": 0}, "num_starts must be a whole number, at least 1"),
        ({"methods": ("newton", "newton")}, "each once"),
        ({"methods": ()}, "methods must be one or more of newton-mr"),
        ({"methods": "sgd"}, "methods must be one or more of newton-mr"),
        ({"starts": "sweep"}, "sweep is the store of starts='sweep'"),
        ({"sweep": "a"}, "sweep is the store of starts='sweep'"),
        ({"noise": -1}, "noise must be"),
        ({"learning_rate": 0}, "learning_rate must be"),
        ({"starts": "somewhere"}, "starts must be one of training, random, known, sweep"),
    ],
)
def test_bad_configurations_are_refused(given, said, untyped):
    with pytest.raises(ValueError, match=said):
        hj.Search(**given)


def test_bad_calls_are_refused(tmp_path, float64):
    config = hj.Search(landscape="bowl", starts="random", num_starts=2)
    with pytest.raises(ValueError, match="unit must be at least 1 start"):
        hj.search(config, tmp_path / "a", unit=0)
    with pytest.raises(ValueError, match="worker must be"):
        hj.search(config, tmp_path / "a", worker=(2, 2))
    with pytest.raises(ValueError, match="no known critical points"):
        hj.search(hj.Search(landscape="mlp", starts="known", num_starts=1), tmp_path / "a", progress=False)
    assert not (tmp_path / "a").exists()
