"""Starts of searches: uniform in loss along training, each made again from its number, and those of a sweep's store."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import hessjax as hj
from hessjax import starts
from hessjax.store import StoreError

KEY = jax.random.key(3)
RNG = np.random.default_rng(1)


def bowl(size=2):
    return hj.Landscape("bowl", init=lambda key: 3 + jnp.zeros(size), loss=lambda p: jnp.sum(p**2) / 2)


def test_inits_are_those_of_the_folded_keys():
    land = hj.landscapes.get("autoencoder", inputs=3, hidden=2)
    found = starts.at_random(land, KEY, 3)
    for i in range(3):
        one = land.init(jax.random.fold_in(KEY, i))
        jax.tree.map(lambda many, x, i=i: np.testing.assert_allclose(many[i], x, rtol=1e-6), found, one)


@pytest.mark.parametrize(
    "make",
    [
        lambda n, first: starts.at_random(hj.landscapes.get("quadratic"), KEY, n, first=first),
        lambda n, first: starts.along_training(bowl(), KEY, n, num_steps=20, noise=0.1, first=first),
        lambda n, first: starts.around([jnp.zeros(2), jnp.ones(2)], KEY, n, noise=0.1, first=first),
    ],
)
def test_a_start_depends_on_its_number_alone(make):
    whole, part = make(7, 0), make(3, 4)
    np.testing.assert_allclose(part, whole[4:], rtol=1e-6, atol=1e-7)


def test_starts_along_training_are_uniform_in_loss():
    """On a bowl every trajectory is 3 (1 - lr)^t, so losses of the starts are the levels, but for a step's length."""
    found = starts.along_training(bowl(1), KEY, 400, num_steps=3000, learning_rate=0.001)
    losses = np.asarray(found[:, 0]) ** 2 / 2
    assert scipy.stats.kstest(losses / 4.5, "uniform").pvalue > 0.01
    on_path = np.log(np.asarray(found[:, 0]) / 3) / np.log(0.999)
    np.testing.assert_allclose(on_path, on_path.round(), atol=0.05)


def test_every_second_start_has_noise():
    still = starts.along_training(bowl(), KEY, 200, num_steps=30)
    moved = starts.along_training(bowl(), KEY, 200, num_steps=30, noise=0.1)
    apart = np.asarray(moved - still)
    assert (apart[::2] == 0).all()
    assert abs(apart[1::2].std() - 0.1) < 4 * 0.1 / np.sqrt(2 * 200)


def test_a_trajectory_that_diverges_gives_its_finite_part():
    cliff = hj.Landscape("cliff", init=lambda key: jnp.ones(1), loss=lambda p: jnp.sum(p**4))
    found = starts.along_training(cliff, KEY, 20, num_steps=50, learning_rate=1.0)
    assert np.isfinite(found).all()


def test_around_known_points():
    found = starts.around([np.zeros(2), np.ones(2)], KEY, 1000, noise=0.01)
    assert abs(np.asarray(found[::2]).mean()) < 4 * 0.01 / np.sqrt(1000)
    assert abs(np.asarray(found[1::2]).std() - 0.01) < 0.001


def test_starts_of_a_sweep_are_its_points(tmp_path):
    config = hj.Sweep(landscape="quadratic", num_inits=5, num_steps=8, times=3, learning_rate=0.1, lane_width=2)
    path = hj.sweep(config, tmp_path / "q.zarr", progress=False)
    found = starts.from_sweep(path, KEY, 12)
    land = hj.landscapes.get("quadratic")
    losses = np.asarray(jax.vmap(land.loss)(found))
    stored = hj.open_sweep(path)["loss"].values.ravel()
    assert all(np.isclose(stored, x, rtol=1e-5).any() for x in losses)
    assert len(set(losses.tolist())) > 3
    np.testing.assert_allclose(starts.from_sweep(path, KEY, 4, first=8), found[8:], rtol=1e-6)


def test_stores_that_cannot_be_started_from(tmp_path):
    with pytest.raises(StoreError, match="no store at"):
        starts.from_sweep(tmp_path / "none", KEY, 1)
    small = {"num_inits": 2, "num_steps": 1, "times": 1}
    other = hj.Landscape("mine", init=lambda key: jnp.ones(2), loss=lambda p: jnp.sum(p**2))
    path = hj.sweep(hj.Sweep(landscape=other, **small), tmp_path / "other", progress=False)
    with pytest.raises(StoreError, match="cannot be run again: unknown landscape 'mine'"):
        starts.from_sweep(path, KEY, 1)
    path = hj.sweep(hj.Sweep(landscape=bowl(3), **small), tmp_path / "own", progress=False)
    with pytest.raises(StoreError, match="another landscape of this name: num_params: 3 there, 2 now"):
        starts.from_sweep(path, KEY, 1)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: starts.at_random(bowl(), KEY, 0), "num_starts must be a whole number, at least 1"),
        (lambda: starts.along_training(bowl(), KEY, 1, num_steps=0), "num_steps must be a whole number"),
        (lambda: starts.along_training(bowl(), KEY, 1, noise=-1.0), "noise must be a number from 0 up"),
        (lambda: starts.along_training(bowl(), KEY, 1, optimizer="sdg"), "did you mean 'sgd'"),
        (lambda: starts.around([], KEY, 1, noise=0.0), "points are none"),
        (lambda: starts.around([jnp.ones(2), (jnp.ones(2),)], KEY, 1, noise=0.0), "different structures"),
    ],
)
def test_bad_input_is_refused(call, said):
    with pytest.raises(ValueError, match=said):
        call()


@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_the_nearest_row_is_that_of_the_whole_table(count):
    rows, aims = RNG.standard_normal(count), RNG.uniform(-3, 3, 40)
    assert (starts._nearest(rows, aims) == np.abs(rows[:, None] - aims).argmin(0)).all()


@pytest.mark.parametrize("make", [hj.starts.at_random, hj.starts.along_training])
def test_what_is_no_landscape_is_refused(make, untyped):
    with pytest.raises(TypeError, match=r"land is function, wanted a Landscape, such as"):
        make(lambda x: x, jax.random.key(0), 3)
