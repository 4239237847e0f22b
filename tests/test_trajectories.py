"""The same inits trained in several ways, against training by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import hessjax as hj
from hessjax import trajectories
from hessjax.train import Trainer

KEY = jax.random.key(0)


def keys_of(count):
    """Keys of the inits and of the rows drawn, which share none."""
    return list(zip(*(jax.random.split(jax.random.fold_in(KEY, use), count) for use in (0, 1)), strict=True))


@pytest.fixture(scope="module")
def land():
    return hj.landscapes.get("digits-mlp", widths=(4,), rows=64)


@pytest.fixture(scope="module")
def found(land):
    ways = {
        "sgd": optax.sgd(0.3), "adam": optax.adam(0.02), "first sgd": [(0, optax.sgd(0.3)), (25, optax.adam(0.02))],
    }  # fmt: skip
    return hj.compare_optimizers(land, ways, KEY, num_steps=60, times=5, num_inits=2, batch_size=16, resolution=11)


def test_trajectories_are_those_of_training_each_alone(land, found):
    assert found.names == ("sgd", "adam", "first sgd")
    assert_array_equal(found.steps, [0, 15, 30, 45, 60])
    for i, (begin, key) in enumerate(keys_of(2)):
        start = land.init(begin)
        for k, optimizer in enumerate((optax.sgd(0.3), optax.adam(0.02))):
            trainer = Trainer(land.loss, optimizer, land.batch, 16)
            state = jax.jit(lambda s, t=trainer, key=key: t.advance(s, key, 0, 45))(trainer.start(start))
            at = jax.tree.map(lambda x, k=k, i=i: x[k, i, 3], found.params)
            jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-5), at, state.params)


def test_a_switch_is_the_first_optimiser_until_it_and_the_second_from_there(land, found):
    for i, (begin, key) in enumerate(keys_of(2)):
        first = Trainer(land.loss, optax.sgd(0.3), land.batch, 16)
        state = first.advance(first.start(land.init(begin)), key, 0, 25)
        second = Trainer(land.loss, optax.adam(0.02), land.batch, 16)
        state = second.advance(second.start(state.params), key, 25, 60)
        at = jax.tree.map(lambda x, i=i: x[2, i, 4], found.params)
        jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-4), at, state.params)
    assert (found.distance[:, 1, 0, 2] == 0).all()  # before the switch
    assert (found.distance[:, 2, 0, 2] > 0.01).all()


def test_every_number_is_the_call_it_is_named_after(land, found):
    at = lambda k, i, t: jax.tree.map(lambda x: x[k, i, t], found.params)
    for k, i, t in ((0, 0, 0), (1, 1, 4), (2, 0, 3)):
        params = at(k, i, t)
        H = hj.Hessian(land.loss, params, land.batch)
        values = np.asarray(hj.eigvalsh(H))
        assert_allclose(found.loss[k, i, t], jnp.mean(land.loss(params, land.batch)), rtol=1e-5)
        assert_allclose(found.sharpness[k, i, t], values[-1], rtol=1e-4)
        assert_allclose(found.negative[k, i, t], hj.inertia(H, tol=1e-5).negative / H.size, atol=2 / H.size)
        flat = [hj.trees.ravel(at(j, i, t))[0] for j in range(3)]
        for j in range(3):
            assert_allclose(found.distance[i, t, k, j], np.linalg.norm(flat[k] - flat[j]), atol=1e-5)
    assert_allclose(found.loss[:, :, 0], found.loss[:1, :, 0] * np.ones((3, 1)))  # all begin at the same inits
    line = hj.profiles.line(land.loss, at(0, 1, 4), at(1, 1, 4), np.linspace(0, 1, 11), batch=land.batch)
    assert_allclose(found.barrier[1, 0, 1], hj.modes.barrier(line.ts, line.values).height, atol=1e-4)
    assert_allclose(found.barrier, np.swapaxes(found.barrier, 1, 2))
    last = jax.tree.map(lambda x: x[:, 1, 4], found.params)
    assert_allclose(found.disagreement[1], hj.modes.disagreement(land.model, last, land.batch[0]))


def test_large_nets_are_measured_by_products(land, found, monkeypatch):
    monkeypatch.setattr(trajectories, "DENSE", 10)
    ways = {"sgd": optax.sgd(0.3)}
    some = hj.compare_optimizers(land, ways, KEY, num_steps=60, times=2, num_inits=2, batch_size=16, resolution=3)
    assert_allclose(some.sharpness[0], found.sharpness[0][:, [0, 4]], rtol=5e-3)
    assert (some.negative <= found.negative[:1, :, [0, 4]] + 0.1).all()  # what is surely below


@pytest.mark.parametrize("name", trajectories.OPTIMIZERS)
def test_optimisers_known_by_name_train(name):
    land = hj.landscapes.get("scalar-linear", depth=2)
    some = hj.compare_optimizers(land, [name], KEY, num_steps=20, times=2)
    assert some.loss[0, 0, 1] < some.loss[0, 0, 0]
    assert some.disagreement is None
    assert_array_equal(some.barrier, np.zeros((1, 1, 1)))


@pytest.mark.parametrize(
    ("ways", "error", "said"),
    [
        ({}, ValueError, "optimizers are {}, wanted at least one"),
        (["sdg"], ValueError, "unknown optimizer 'sdg'. Known: sgd, momentum"),
        ("sgd", ValueError, "optimizers are 'sgd'"),
        ({"a": 0.1}, TypeError, "optimizer 'a' is float, wanted an optax transformation"),
        ({"a": [(1, optax.sgd(0.1))]}, ValueError, r"optimizer 'a' switches at steps \[1\], wanted 0 first"),
        ({"a": [(0, optax.sgd(0.1)), (9, optax.sgd(0.1))]}, ValueError, "ascending, below 5"),
        ({"a": []}, TypeError, "optimizer 'a' is list"),
    ],
)
def test_ways_that_make_no_sense_are_refused(ways, error, said):
    with pytest.raises(error, match=said):
        hj.compare_optimizers(hj.landscapes.get("scalar-linear", depth=2), ways, KEY, num_steps=5)
