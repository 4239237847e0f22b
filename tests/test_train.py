"""Training against closed forms and a plain optax loop; cutting it into segments changes nothing."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hessjax.train import Trainer, make_optimizer

X = jnp.asarray(np.random.default_rng(0).standard_normal((20, 3)), "float32")
Y = jnp.asarray(np.random.default_rng(1).standard_normal(20), "float32")


def squared(params, batch):
    return (batch[0] @ params - batch[1]) ** 2


def test_gradient_descent_on_a_quadratic_is_its_closed_form(float64):
    values = jnp.array([1.0, 0.5, -0.25])
    trainer = Trainer(lambda p: 0.5 * jnp.sum(values * p**2), make_optimizer("sgd", 0.2))
    got = trainer.advance(trainer.start(jnp.ones(3)), jax.random.key(0), 0, 17).params
    np.testing.assert_allclose(got, (1 - 0.2 * np.asarray(values)) ** 17, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "options"), [("adam", {}), ("sgd", {"momentum": 0.9}), ("rmsprop", {}), ("adamw", {})]
)
def test_training_is_the_plain_optax_loop(name, options):
    trainer = Trainer(squared, make_optimizer(name, 0.05, options=options), (X, Y))
    got = trainer.advance(trainer.start(jnp.ones(3)), jax.random.key(0), 0, 12).params
    tx, params = getattr(optax, name)(0.05, **options), jnp.ones(3)
    state = tx.init(params)
    for _ in range(12):
        updates, state = tx.update(jax.grad(lambda p: jnp.mean(squared(p, (X, Y))))(params), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(got, params, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("batch_size", [None, 4])
def test_segments_do_not_change_the_run(batch_size):
    trainer = Trainer(squared, make_optimizer("adam", 0.1), (X, Y), batch_size)
    advance, key = jax.jit(trainer.advance), jax.random.key(5)
    whole = advance(trainer.start(jnp.zeros(3)), key, 0, 10)
    cut = trainer.start(jnp.zeros(3))
    for a, b in ((0, 1), (1, 1), (1, 7), (7, 10)):
        cut = advance(cut, key, a, b)
    chex.assert_trees_all_equal(whole, cut)


def test_every_segment_is_one_program():
    chex.clear_trace_counter()
    trainer = Trainer(squared, make_optimizer("sgd", 0.1), (X, Y))
    advance = jax.jit(chex.assert_max_traces(trainer.advance, n=1))
    state = trainer.start(jnp.zeros(3))
    for a, b in ((0, 2), (2, 9), (9, 10)):
        state = advance(state, jax.random.key(0), jnp.int32(a), jnp.int32(b))
    assert jnp.isfinite(state.params).all()


def test_losses_are_those_of_the_run_at_every_step():
    trainer = Trainer(squared, make_optimizer("sgd", 0.1), (X, Y))
    start, key = trainer.start(jnp.ones(3)), jax.random.key(0)
    got = trainer.losses(start, key, 5)
    want = [jnp.mean(squared(trainer.advance(start, key, 0, k).params, (X, Y))) for k in range(6)]
    np.testing.assert_allclose(got, want, rtol=1e-5)
    np.testing.assert_allclose(trainer.losses(start, key, 0), want[:1], rtol=1e-6)


def test_mini_batches_are_drawn_from_all_rows_and_differ_by_step_and_key():
    trainer = Trainer(squared, make_optimizer("sgd", 0.1), (jnp.arange(20.0), jnp.arange(20)), 8)
    draws = [trainer._rows(jax.random.key(k), jnp.int32(step)) for k in range(3) for step in range(20)]
    for x, y in draws:
        np.testing.assert_array_equal(x, y)  # leaves are cut alike
    flat = np.stack([np.asarray(x) for x, _ in draws])
    assert set(np.unique(flat)) == set(range(20))
    assert len(np.unique(flat, axis=0)) == len(flat)
    # 480 draws of 20 values: each count is 24 +- 4.8, so 4 standard errors are 19.
    assert np.abs(np.bincount(flat.astype(int).ravel(), minlength=20) - 24).max() < 20


def test_lbfgs_gets_the_value_function_it_needs():
    trainer = Trainer(squared, make_optimizer("lbfgs", 1.0), (X, Y))
    got = trainer.advance(trainer.start(jnp.zeros(3)), jax.random.key(0), 0, 15).params
    np.testing.assert_allclose(got, np.linalg.lstsq(np.asarray(X), np.asarray(Y), rcond=None)[0], atol=1e-4)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_schedules_end_where_they_say(schedule):
    # With a constant gradient of 1 the total step is the sum of the rates.
    trainer = Trainer(lambda p: p, make_optimizer("sgd", 0.1, schedule=schedule, num_steps=10))
    got = -float(trainer.advance(trainer.start(jnp.array(0.0)), jax.random.key(0), 0, 10).params)
    k = np.arange(10) / 10
    want = {"constant": 1.0, "cosine": np.sum(0.05 * (1 + np.cos(np.pi * k))), "linear": np.sum(0.1 * (1 - k))}
    assert got == pytest.approx(want[schedule], rel=1e-5)


@pytest.mark.parametrize("name", ["adam", "adadelta", "adafactor", "lamb", "radam", "yogi"])
def test_state_keeps_its_dtype(name, dtype):
    trainer = Trainer(
        squared, make_optimizer(name, 0.1, schedule="cosine", num_steps=5), (X.astype(dtype), Y.astype(dtype))
    )
    state = trainer.start(jnp.ones(3, dtype))
    after = trainer.advance(state, jax.random.key(0), 0, 3)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after)
    assert jnp.isfinite(after.params).all()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sgdd", {}, "unknown optimizer 'sgdd'; did you mean 'sgd'"),
        ("apply_updates", {}, "unknown optimizer"),
        ("sgd", {"momentun": 0.9}, "no option 'momentun'. Known: .*momentum"),
    ],
)
def test_unknown_optimizers_and_options_are_named(name, options, words):
    with pytest.raises(ValueError, match=words):
        make_optimizer(name, 0.1, options=options)


@pytest.mark.parametrize("name", ["rprop", "sm3"])
def test_an_optimizer_without_schedules_says_so_at_once(name):
    with pytest.raises(ValueError, match=f"optimizer '{name}' does not work with schedule 'cosine' and options"):
        make_optimizer(name, 0.1, schedule="cosine", num_steps=5)
