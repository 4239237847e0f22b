"""Gauss-Newton and residual parts beyond the conformance table: known identities, large vocabularies, bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import (
    BITS,
    KERNEL,
    LABELS,
    TWO_LAYER,
    Y2,
    X,
    arrays,
    cross_entropy,
    derivatives,
    half_squares,
    linear_model,
    mean_cross_entropy,
    probabilities,
    scaled,
    two_layer_model,
)

import hessjax as hj

PARAMS = scaled(TWO_LAYER, 1.0, "float32")
BATCH = arrays("float32", X, BITS[:, 0])
LINEAR = {"kernel": jnp.asarray(KERNEL, "float32")}
SOFTMAX = (linear_model, cross_entropy, LINEAR, arrays("float32", X, LABELS))


def hessian(model, loss, params, batch, **options):
    return hj.Hessian(lambda p, rows: loss(model(p, rows[0]), rows[1]), params, batch, **options)


def test_it_is_the_mean_of_outer_products_of_class_gradients(float64):
    # G = Ave_i sum_c g_ic g_ic' with g_ic = sqrt(p_ic) J_i' (e_c - p_i), of rank at most N (C - 1).
    rows, params = 4, scaled(TWO_LAYER, 1.0, "float64")
    op = hj.GaussNewton(two_layer_model, cross_entropy, params, arrays("float64", X[:rows], BITS[:rows, 0]))
    z, jac, _ = (a[:rows] for a in derivatives(two_layer_model, TWO_LAYER, 1.0))
    p = probabilities(z)
    g = np.sqrt(p)[..., None] * np.einsum("nkc,nki->nci", np.eye(2) - p[..., None], jac)
    np.testing.assert_allclose(hj.dense(op), np.einsum("nci,ncj->ij", g, g) / rows, atol=1e-14)
    counts = hj.inertia(op, tol=1e-10)
    assert int(counts.negative) == 0
    assert int(counts.positive) <= rows * (2 - 1)


@pytest.mark.parametrize(("loss", "targets"), [(cross_entropy, BITS[:, 0]), (half_squares, Y2)])
@pytest.mark.parametrize("chunk", [None, 4])
def test_it_and_the_residual_add_up_to_the_hessian(loss, targets, chunk, float64):
    problem = two_layer_model, loss, scaled(TWO_LAYER, 1.0, "float64"), arrays("float64", X, targets)
    parts = hj.GaussNewton(*problem, chunk=chunk) + hj.Residual(*problem, chunk=chunk)
    np.testing.assert_allclose(hj.dense(parts), hj.dense(hessian(*problem)), atol=1e-14)


@pytest.mark.parametrize("chunk", [None, 5])
def test_at_an_exact_fit_the_residual_is_exactly_zero(chunk, float64):
    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0, -1.0])}  # small whole numbers: outputs without rounding
    model = lambda p, x: p["b"] * (x @ p["a"])[:, None] ** 2
    x = jnp.asarray(np.arange(26).reshape(13, 2) % 5, "float64")
    problem = model, half_squares, params, (x, model(params, x))
    assert not hj.dense(hj.Residual(*problem, chunk=chunk)).any()
    np.testing.assert_array_equal(hj.dense(hj.GaussNewton(*problem)), hj.dense(hessian(*problem)))
    assert int(hj.inertia(hj.GaussNewton(*problem), tol=1e-10).negative) == 0


@pytest.mark.parametrize("alpha", [1.0, 100.0])
@pytest.mark.parametrize("x", [(1.0, 1.0), (2.5, 0.8)])
def test_rosenbrock_as_a_sum_of_squares_is_its_closed_form(x, alpha, float64):
    residuals = lambda p, inputs: jnp.stack([1 - p[0], alpha**0.5 * (p[1] - p[0] ** 2)])
    problem = residuals, lambda r, targets: jnp.sum(r**2), jnp.array(x), (None, None)
    want = 2 * np.array([[1 + 4 * alpha * x[0] ** 2, -2 * alpha * x[0]], [-2 * alpha * x[0], alpha]])
    np.testing.assert_allclose(hj.dense(hj.GaussNewton(*problem)), want, rtol=1e-13)
    curved = [[4 * alpha * (x[0] ** 2 - x[1]), 0.0], [0.0, 0.0]]
    np.testing.assert_allclose(hj.dense(hj.Residual(*problem)), curved, rtol=1e-13, atol=1e-13 * alpha)


@pytest.mark.parametrize("operator", [hj.GaussNewton, hj.Residual])
def test_no_block_of_classes_by_classes_is_formed(operator):
    rows, classes = 8, 50_000
    struct = jax.ShapeDtypeStruct((4, classes), jnp.float32)
    batch = jnp.ones((rows, 4)), jnp.zeros(rows, int)
    product = lambda kernel, v: operator(linear_model, cross_entropy, {"kernel": kernel}, batch).mv({"kernel": v})
    compiled = jax.jit(product).lower(struct, struct).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 20 * rows * classes * 4 < classes**2 * 4 / 100


@pytest.mark.parametrize("operator", [hj.GaussNewton, hj.Residual])
def test_bfloat16_params_give_bfloat16_products_and_sums_do_not_saturate(operator):
    # z = exp(p) at p = 0 with loss z^2 has both parts 2; a bfloat16 running sum over 4096 rows stops at 512.
    ones = jnp.ones(4096, "bfloat16")
    op = operator(lambda p, x: x * jnp.exp(p), lambda z, y: y * z**2, jnp.array(0.0, "bfloat16"), (ones, ones), chunk=1)
    assert op.mv(1.0).dtype == jnp.bfloat16
    assert float(op.mv(1.0)) == 2.0


@pytest.mark.parametrize("operator", [hj.GaussNewton, hj.Residual, hessian])
def test_params_may_be_of_mixed_dtypes_and_unused(operator):
    model = lambda p, x: x @ p["low"].astype("float32") * p["scale"]
    params = {"low": jnp.ones(4, "bfloat16"), "scale": jnp.array(2.0), "unused": jnp.ones(3)}
    op = operator(model, lambda z, y: 0.5 * (z - y) ** 2, params, (BATCH[0], BATCH[0][:, 0]))
    for same in (op, op.linearized()):
        got = same.mv(jax.tree.map(jnp.ones_like, params))
        assert got["low"].dtype == jnp.bfloat16
        assert float(jnp.abs(got["scale"])) > 0
        assert got["unused"].tolist() == [0.0, 0.0, 0.0]


def test_matmul_precision_is_recorded_in_the_trace():
    text = lambda p: str(jax.make_jaxpr(hj.GaussNewton(*SOFTMAX, precision=p).mv)(LINEAR))
    assert "HIGHEST" in text("float32")
    assert "HIGHEST" not in text("bfloat16")


@pytest.mark.parametrize("operator", [hj.GaussNewton, hj.Residual])
def test_linearised_at_other_params_does_not_retrace(operator):
    op = operator(two_layer_model, cross_entropy, PARAMS, BATCH)
    moved = dataclasses.replace(op, params=jax.tree.map(lambda p: 2 * p, PARAMS))
    assert jax.tree.structure(op.linearized()) == jax.tree.structure(moved.linearized())
    chunked = dataclasses.replace(op, chunk=4)
    assert chunked.linearized() is chunked


def test_check_finds_examples_coupled_in_the_model():
    normalised = lambda p, x: linear_model(p, x - jnp.mean(x, axis=0))
    op = hj.GaussNewton(normalised, *SOFTMAX[1:])
    with pytest.raises(hj.OperatorError, match="fails the per-example check"):
        hj.check_operator(op, jax.random.key(0))


BAD = [
    ({"batch": BATCH[0]}, ValueError, r"batch is .* of 13, wanted a pair \(inputs, targets\)"),
    ({"batch": (*BATCH, BATCH[1])}, ValueError, "batch is tuple of 3, wanted a pair"),
    ({"batch": {"inputs": BATCH[0], "targets": BATCH[1]}}, ValueError, "batch is dict of 2, wanted a pair"),
    ({"batch": None}, ValueError, "batch is NoneType, wanted a pair"),
    ({"batch": (BATCH[0], BATCH[1][:5])}, ValueError, "disagree on the number of rows"),
    ({"model": "net"}, TypeError, r"model is str, wanted a function model\(params, inputs\) -> outputs"),
    ({"loss": None}, TypeError, r"loss is NoneType, wanted a function loss\(outputs, targets\)"),
    ({"chunk": 0}, ValueError, "chunk must be a whole number of rows, at least 1"),
    ({"chunk": 4, "loss": mean_cross_entropy}, ValueError, "chunk=4 needs a per-example loss"),
    ({"loss": lambda z, y: z}, ValueError, r"loss returned shape \(13, 2\), wanted a scalar or one number per row"),
    ({"params": {"kernel": jnp.arange(8).reshape(4, 2)}}, TypeError, "int32, wanted a real floating"),
    ({"params": {}}, ValueError, "empty tree"),
    (
        {"model": lambda p, x: {"z": linear_model(p, x), "n": jnp.arange(3)}},
        TypeError,
        "model output 'n' is int32, wanted real floating arrays",
    ),
]


@pytest.mark.parametrize("operator", [hj.GaussNewton, hj.Residual])
@pytest.mark.parametrize(("bad", "error", "words"), BAD)
def test_bad_input_is_one_clear_line(operator, bad, error, words, untyped):
    good = {"model": linear_model, "loss": cross_entropy, "params": {"kernel": jnp.zeros((4, 2))}, "batch": BATCH}
    given = good | bad
    with pytest.raises(error, match=words) as caught:
        operator(**given).mv(given["params"])
    assert "\n" not in str(caught.value)
