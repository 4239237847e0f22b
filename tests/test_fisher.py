"""Fisher information beyond the conformance table: what it equals, what it estimates, which losses it is not of."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from problems import (
    BITS,
    KEY,
    TWO_LAYER,
    Y2,
    X,
    arrays,
    cross_entropy,
    half_squares,
    linear_model,
    logistic_loss,
    mean_cross_entropy,
    scaled,
    two_layer_model,
)

import hessjax as hj
from hessjax import trees

PARAMS = scaled(TWO_LAYER, 1.0, "float32")
LOSSES = {
    "categorical": (cross_entropy, BITS[:, 0]),
    "bernoulli": (logistic_loss, BITS),
    "gaussian": (half_squares, Y2),
}
likelihoods = pytest.mark.parametrize("likelihood", LOSSES)


def fisher(likelihood, dtype="float32", **options):
    loss, targets = LOSSES[likelihood]
    batch = arrays(dtype, X, targets)
    return hj.Fisher(two_layer_model, loss, scaled(TWO_LAYER, 1.0, dtype), batch, likelihood=likelihood, **options)


@likelihoods
def test_exact_is_the_gauss_newton_matrix_of_its_negative_log_likelihood(likelihood, float64):
    op = fisher(likelihood, "float64")
    gauss_newton = hj.GaussNewton(op.model, op.loss, op.params, op.batch)
    np.testing.assert_allclose(hj.dense(op), hj.dense(gauss_newton), atol=1e-14)


@likelihoods
def test_the_mean_over_draws_is_the_exact_one(likelihood):
    exact = np.asarray(hj.dense(fisher(likelihood)))
    draw = lambda key: hj.dense(fisher(likelihood, kind="sampled", key=key))
    draws = np.asarray(jax.jit(lambda keys: jax.lax.map(draw, keys))(jax.random.split(jax.random.key(1), 1000)))
    error = draws.std(axis=0, ddof=1) / len(draws) ** 0.5
    assert (np.abs(draws.mean(axis=0) - exact) <= 4 * error + 1e-6).all()


@likelihoods
@pytest.mark.parametrize("chunk", [1, 5, 13])
def test_chunks_change_no_draw(likelihood, chunk):
    whole = fisher(likelihood, kind="sampled", key=KEY)
    np.testing.assert_allclose(hj.dense(dataclasses.replace(whole, chunk=chunk)), hj.dense(whole), atol=2e-6)


@likelihoods
def test_neither_do_the_dtype_and_the_kind_of_key(likelihood, float64):
    one, legacy = (fisher(likelihood, kind="sampled", key=key) for key in (KEY, jax.random.key_data(KEY)))
    np.testing.assert_array_equal(hj.dense(one), hj.dense(legacy))
    double = fisher(likelihood, "float64", kind="sampled", key=KEY)
    np.testing.assert_allclose(hj.dense(one), hj.dense(double), atol=2e-6)


def test_draws_over_eight_devices_are_those_of_one():
    x, y = (jnp.concatenate([a] * 8) for a in arrays("float32", X, BITS[:, 0]))
    op = hj.Fisher(two_layer_model, cross_entropy, PARAMS, (x, y), kind="sampled", key=KEY, chunk=20)
    mesh = Mesh(np.array(jax.devices()), ("data",), axis_types=(AxisType.Auto,))
    spread = jax.device_put(op.batch, NamedSharding(mesh, PartitionSpec("data")))
    v = trees.normal_like(jax.random.key(3), op.like)
    chex.assert_trees_all_close(dataclasses.replace(op, batch=spread).mv(v), op.mv(v), atol=1e-5)


def test_outputs_may_be_trees_whose_leaves_are_independent():
    model = lambda p, x: {"a": x @ p["a"], "b": x @ p["b"]}
    loss = lambda z, y: half_squares(z["a"], y["a"]) + half_squares(z["b"], y["b"])
    params = {"a": jnp.ones((4, 2)), "b": jnp.ones((4, 3))}
    x = jnp.asarray(X, "float32")
    batch = x, {"a": jnp.zeros((13, 2)), "b": jnp.zeros((13, 3))}
    op = hj.Fisher(model, loss, params, batch, likelihood="gaussian")
    np.testing.assert_allclose(hj.dense(op), hj.dense(hj.GaussNewton(model, loss, params, batch)), atol=1e-6)
    assert hj.check_operator(op, jax.random.key(0)).ok
    sampled = dataclasses.replace(op, kind="sampled", key=KEY)
    assert int(hj.inertia(sampled, tol=1e-5).positive) <= 13
    across = sampled.mv({"a": params["a"], "b": jnp.zeros((4, 3))})["b"]
    assert float(jnp.max(jnp.abs(across))) > 1e-2  # one gradient a row, of all its leaves


@pytest.mark.parametrize("options", [{}, {"kind": "sampled", "key": KEY}, {"kind": "empirical"}], ids=str)
def test_no_block_of_classes_by_classes_or_gradient_of_every_row_is_formed(options):
    rows, classes = 8, 50_000
    struct = jax.ShapeDtypeStruct((4, classes), jnp.float32)
    batch = jnp.ones((rows, 4)), jnp.zeros(rows, int)
    product = lambda w, v: hj.Fisher(linear_model, cross_entropy, {"kernel": w}, batch, **options).mv({"kernel": v})
    compiled = jax.jit(product).lower(struct, struct).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 20 * rows * classes * 4 < classes**2 * 4 / 100


@likelihoods
@pytest.mark.parametrize("options", [{}, {"kind": "sampled", "key": KEY}, {"kind": "empirical"}], ids=str)
def test_bfloat16_params_give_bfloat16_products(likelihood, options):
    op = fisher(likelihood, "bfloat16", **options)
    got = op.mv(jax.tree.map(jnp.ones_like, PARAMS))
    assert {x.dtype for x in jax.tree.leaves(got)} == {jnp.dtype("bfloat16")}
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(got))


def test_certain_predictions_keep_their_information(float64):
    # s (1 - s) at a logit of 40 is e^-40; written as a difference of probabilities it would be zero.
    batch = jnp.ones(1), jnp.ones(1)
    op = hj.Fisher(lambda p, x: x * p, lambda z, y: jnp.logaddexp(0.0, z) - y * z, jnp.array(40.0), batch,
                   likelihood="bernoulli")  # fmt: skip
    np.testing.assert_allclose(op.mv(1.0), np.exp(-40.0), rtol=1e-12)


def squares(outputs, targets):
    return jnp.sum((outputs - targets) ** 2, axis=-1)


@pytest.mark.parametrize("options", [{}, {"kind": "sampled", "key": KEY}], ids=str)
@pytest.mark.parametrize(
    ("loss", "targets", "likelihood"),
    [(squares, Y2, "gaussian"), (half_squares, Y2, "categorical"), (cross_entropy, BITS[:, 0], "bernoulli")],
)
def test_check_finds_a_loss_that_is_not_the_likelihood(loss, targets, likelihood, options):
    batch = arrays("float32", X, targets)
    op = hj.Fisher(two_layer_model, loss, PARAMS, batch, likelihood=likelihood, **options)
    words = f"fails the likelihood check.*not that of the {likelihood} negative log likelihood"
    with pytest.raises(hj.OperatorError, match=words):
        hj.check_operator(op, jax.random.key(0))
    assert hj.check_operator(dataclasses.replace(op, kind="empirical"), jax.random.key(0)).ok


def test_the_likelihood_check_takes_scalar_losses_and_certain_models():
    batch = arrays("float32", X, BITS[:, 0])
    scalar = hj.Fisher(two_layer_model, mean_cross_entropy, PARAMS, batch)
    certain = hj.Fisher(two_layer_model, cross_entropy, scaled(TWO_LAYER, 8.0, "float32"), batch)
    for op in (scalar, certain):
        assert hj.check_operator(op, jax.random.key(0)).defects["likelihood"] < 1e-5


BATCH = arrays("float32", X, BITS[:, 0])


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"kind": "true"}, "kind is 'true', wanted one of 'exact', 'sampled', 'empirical'"),
        ({"likelihood": "poisson"}, "likelihood is 'poisson', wanted one of 'categorical', 'bernoulli', 'gaussian'"),
        ({"kind": "sampled"}, "needs a key"),
        ({"kind": "empirical", "loss": mean_cross_entropy}, "kind='empirical' needs a per-example loss"),
        ({"chunk": 4, "loss": mean_cross_entropy}, "chunk=4 needs a per-example loss"),
        ({"batch": BATCH[0]}, "wanted a pair"),
        (
            {"model": lambda p, x: linear_model(p, x)[:, 0]},
            r"shape \(13,\), wanted .*\(13, ..., classes\); .*bernoulli",
        ),
        ({"model": lambda p, x: linear_model(p, x).T}, r"shape \(2, 13\), wanted one row per example"),
    ],
)
def test_bad_input_is_one_clear_line(bad, words, untyped):
    good = {"model": linear_model, "loss": cross_entropy, "params": {"kernel": jnp.zeros((4, 2))}, "batch": BATCH}
    given = good | bad
    with pytest.raises(ValueError, match=words) as caught:
        hj.Fisher(**given).mv(given["params"])
    assert "\n" not in str(caught.value)
