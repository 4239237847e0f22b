"""Hessians of losses beyond the conformance table: peers' portable checks, forms, chunks, and bad input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import HESSIANS, Y1, X, arrays, batch_normalised, softmax, squared, squared_scalar

import hessjax as hj


def test_sum_of_squares_in_ragged_batches_is_the_closed_form(float64):
    # curvlinops' documented case: outputs 2, 10 rows, chunks of 3; mean over rows of the sum over outputs.
    rng = np.random.default_rng(1)
    x, y = jnp.asarray(rng.standard_normal((10, 4))), jnp.asarray(rng.standard_normal((10, 2)))
    loss = lambda w, batch: jnp.sum((batch[0] @ w - batch[1]) ** 2, axis=-1)
    op = hj.Hessian(loss, jnp.zeros((4, 2)), (x, y), chunk=3)
    np.testing.assert_allclose(hj.dense(op), np.kron(2 / 10 * x.T @ x, np.eye(2)), atol=1e-12)


@pytest.mark.parametrize("alpha", [1.0, 100.0])
@pytest.mark.parametrize("x", [(1.0, 1.0), (2.5, 0.8)])
def test_rosenbrock_is_its_closed_form(x, alpha, float64):
    f = lambda p: (1 - p[0]) ** 2 + alpha * (p[1] - p[0] ** 2) ** 2
    want = [[2 + 12 * alpha * x[0] ** 2 - 4 * alpha * x[1], -4 * alpha * x[0]], [-4 * alpha * x[0], 2 * alpha]]
    np.testing.assert_allclose(hj.dense(hj.Hessian(f, jnp.array(x))), want, rtol=1e-13)


def test_finite_differences_of_the_gradient_agree(float64):
    # An oracle outside automatic differentiation of second order; central differences at h = 1e-5 err by h^2 |D^4|.
    for case in (HESSIANS[9], HESSIANS[12]):
        op = case.make(1.0, "float64")
        flat, unravel = jax.flatten_util.ravel_pytree(op.params)
        grad = jax.grad(lambda w, op=op, unravel=unravel: jnp.mean(op.loss(unravel(w), op.batch)))
        h = 1e-5
        columns = [(grad(flat.at[j].add(h)) - grad(flat.at[j].add(-h))) / (2 * h) for j in range(flat.size)]
        np.testing.assert_allclose(hj.dense(op), np.stack(columns), atol=1e-7)


def test_operators_compose_with_grad_through_params(float64):
    # d/dw of v.H(w)v for a quartic: H = diag(12 w^2), so the derivative is 24 w v^2.
    v = jnp.array([1.0, 2.0])
    curvature = lambda w: v @ hj.Hessian(lambda p: jnp.sum(p**4), w).mv(v)
    np.testing.assert_allclose(jax.grad(curvature)(jnp.array([3.0, 0.5])), 24 * np.array([3.0, 0.5]) * v**2)


def test_params_may_be_numpy_or_python_scalars():
    assert hj.dense(hj.Hessian(lambda p: p["a"] ** 3, {"a": np.float32(2.0)})).tolist() == [[12.0]]
    assert hj.dense(hj.Hessian(lambda p: p["a"] ** 3, {"a": 2.0})).tolist() == [[12.0]]


def test_bfloat16_params_give_bfloat16_products():
    op = hj.Hessian(squared, jnp.zeros(4, "bfloat16"), arrays("bfloat16", X, Y1))
    assert op.mv(jnp.ones(4)).dtype == jnp.bfloat16
    assert hj.eigvalsh(op).dtype == jnp.float32  # LAPACK has no bfloat16


def test_matmul_precision_is_recorded_in_the_trace():
    op = lambda p: hj.Hessian(squared, jnp.zeros(4), arrays("float32", X, Y1), precision=p)
    text = lambda p: str(jax.make_jaxpr(lambda v: op(p).mv(v))(jnp.ones(4)))
    assert "HIGHEST" in text("float32")
    assert "HIGHEST" not in text("bfloat16")


def test_an_ensemble_is_vmap_over_an_operator_built_inside():
    params = jax.random.normal(jax.random.key(0), (5, 4))
    batch = arrays("float32", X, Y1)
    logit = lambda p, b: jnp.logaddexp(0.0, b[0] @ p)
    spectra = jax.jit(jax.vmap(lambda p: hj.eigvalsh(hj.Hessian(logit, p, batch))))(params)
    for p, spectrum in zip(params, spectra, strict=True):
        want = np.linalg.eigvalsh(jax.hessian(lambda w: jnp.mean(logit(w, batch)))(p))
        np.testing.assert_allclose(spectrum, want, atol=1e-6)


def test_tree_transformations_of_an_operator_are_harmless():
    op = hj.Hessian(squared, jnp.zeros(4), arrays("float32", X, Y1))
    jax.tree.map(lambda leaf: None, op)
    jax.tree.map(lambda leaf: object(), op)
    assert jax.tree.structure(op) == jax.tree.structure(jax.tree.map(lambda leaf: leaf + 1, op))
    assert jax.tree.map(jnp.isfinite, op).params.dtype == bool
    assert jax.eval_shape(lambda a: hj.Matrix(a), jnp.eye(2)).size == 2
    quadratic = jax.grad(lambda m: jnp.ones(2) @ m.mv(jnp.array([1.0, 2.0])))(hj.Matrix(jnp.eye(2)))
    np.testing.assert_allclose(quadratic.a, [[1.0, 2.0], [1.0, 2.0]])  # a cotangent is no symmetric matrix


BATCH = arrays("float32", X, Y1)


def uneven(params, batch):
    return (batch[0] @ params) ** 2 + jnp.sum(batch[1])


def column(params, batch):
    return batch[0] @ params[:, None]


@pytest.mark.parametrize("chunk", [0, -1, 2.0, True, "4"])
def test_chunk_must_be_a_positive_whole_number(chunk, untyped):
    with pytest.raises(ValueError, match="chunk must be a whole number of rows, at least 1"):
        hj.Hessian(squared, jnp.zeros(4), BATCH, chunk=chunk)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: hj.Hessian(squared_scalar, jnp.zeros(4), BATCH, chunk=4), ValueError, "chunk=4 needs a per-example"),
        (lambda: hj.Hessian(lambda p: p @ p, jnp.zeros(4), chunk=4), ValueError, "chunk=4 needs a per-example"),
        (
            lambda: hj.Hessian(column, jnp.zeros(4), BATCH),
            ValueError,
            r"shape \(13, 1\).*\(13,\)",
        ),
        (lambda: hj.Hessian(lambda p, b: p, jnp.zeros(4), BATCH), ValueError, r"shape \(4,\), wanted a scalar or"),
        (lambda: hj.Hessian(lambda p: p, jnp.zeros(4)), ValueError, r"shape \(4,\), wanted a scalar"),
        (lambda: hj.Hessian(lambda p: (p @ p, {}), jnp.zeros(4)), ValueError, "returned tuple, wanted one array"),
        (lambda: hj.Hessian(lambda p: jnp.argmax(p), jnp.zeros(4)), ValueError, "dtype int32"),
        (lambda: hj.Hessian(uneven, jnp.zeros(4), (BATCH[0], BATCH[1][:5])), ValueError, "disagree"),
        (lambda: hj.Hessian(squared, jnp.arange(4), BATCH), TypeError, "int32, wanted a real floating"),
        (lambda: hj.Hessian(squared, {}, BATCH), ValueError, "empty tree"),
    ],
)
def test_bad_losses_params_and_batches_are_one_clear_line(make, error, words):
    with pytest.raises(error, match=words) as caught:
        make().mv(jnp.zeros(4) if "empty" not in words else {})
    assert "\n" not in str(caught.value)


def test_a_vector_of_another_space_is_refused():
    op = hj.Hessian(softmax, {"kernel": jnp.zeros((4, 3))}, BATCH)
    with pytest.raises(ValueError, match=r"'kernel' has shape \(3, 4\), wanted \(4, 3\)"):
        op.mv({"kernel": jnp.zeros((3, 4))})


def test_check_names_the_cause():
    good = hj.Hessian(batch_normalised, jnp.ones(4), BATCH)
    assert hj.check_operator(good, jax.random.key(0)).ok
    counter = iter(range(1000))

    def random_loss(p, b):
        return squared(p, b) * (1 + next(counter))

    def coupled(p, b):
        return squared(p, b) * jnp.mean(b[0])

    @jax.custom_vjp
    def crooked(p):
        return jnp.sum(p**2)

    crooked.defvjp(lambda p: (jnp.sum(p**2), p), lambda p, g: (g * p[::-1] * jnp.arange(4.0) * p,))
    for loss, params, batch, cause in (
        (random_loss, jnp.ones(4), BATCH, "determinism"),
        (lambda p: jnp.sum(jnp.sqrt(p)), jnp.zeros(4), None, "finite"),
        (coupled, jnp.ones(4), BATCH, "per-example"),
    ):
        with pytest.raises(hj.OperatorError, match=f"fails the {cause} check") as caught:
            hj.check_operator(hj.Hessian(loss, params, batch), jax.random.key(0))
        assert not caught.value.report.ok
        assert caught.value.report.defects[cause] > caught.value.report.tol


def test_check_sees_asymmetry_and_batch_statistics_at_any_size():
    from hessjax.operators import Operator, pytree

    @pytree
    @dataclasses.dataclass(frozen=True)
    class Turn(Operator):  # antisymmetric: (x, y) -> (y, -x)
        n: int = dataclasses.field(metadata={"static": True})

        @property
        def like(self):
            return jax.ShapeDtypeStruct((self.n,), jnp.float32)

        def product(self, v):
            x, y = jnp.split(v, 2)
            return jnp.concatenate([y, -x])

    for n in (10, 10**5, 10**6):
        with pytest.raises(hj.OperatorError, match="fails the symmetric check"):
            hj.check_operator(Turn(n), jax.random.key(0))

    def normalised(params, batch):  # per-example in shape, coupled through the batch's mean and variance
        z = batch @ params
        return ((z - jnp.mean(z)) / jnp.sqrt(jnp.var(z) + 1.0) - 1.0) ** 2

    x = jax.random.normal(jax.random.key(1), (512, 2000))
    with pytest.raises(hj.OperatorError, match="fails the per-example check"):
        hj.check_operator(hj.Hessian(normalised, jnp.ones(2000) / 2000**0.5, x), jax.random.key(0))


def test_chunked_low_precision_sums_do_not_saturate():
    loss = lambda p, b: 0.5 * b * p**2  # the Hessian is the mean of b, 1; a bfloat16 running sum stops at 256
    for low, ones in (("bfloat16", jnp.ones(4096, "bfloat16")), ("float16", jnp.full(4096, 100.0, "float16"))):
        op = hj.Hessian(loss, jnp.array(0.0, low), ones, chunk=1)
        assert op.mv(1.0).dtype == low
        assert float(op.mv(1.0)) == float(ones[0])


def test_check_finds_an_asymmetric_and_a_nonlinear_product():
    from hessjax.operators import Operator

    class Raw(Operator):
        def __init__(self, f):
            self.f = f

        @property
        def like(self):
            return jax.ShapeDtypeStruct((3,), jnp.float32)

        def product(self, v):
            return self.f(v)

    tilt = jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    for f, cause in ((lambda v: tilt @ v, "symmetric"), (lambda v: v * jnp.abs(v), "linear")):
        once = Raw(f)
        with pytest.raises((hj.OperatorError, TypeError)) as caught:
            hj.check_operator(register(once), jax.random.key(0))
        assert isinstance(caught.value, hj.OperatorError), caught.value
        assert caught.value.report.defects[cause] > 0.01


def register(op):
    jax.tree_util.register_pytree_node(type(op), lambda o: ((), o), lambda o, _: o) if type(op) not in SEEN else None
    SEEN.add(type(op))
    return op


SEEN: set = set()


def test_an_optax_loop_around_a_hessian_is_newton(float64):
    # One exact Newton step on least squares lands on the minimiser: the gradient there is zero.
    batch = arrays("float64", X, Y1)
    params = jnp.zeros(4)
    gradient = jax.grad(lambda p: jnp.mean(squared(p, batch)))
    step = jnp.linalg.solve(hj.dense(hj.Hessian(squared, params, batch)), gradient(params))
    params = optax.apply_updates(params, -step)
    np.testing.assert_allclose(gradient(params), 0, atol=1e-13)


def test_batch_leaves_of_different_lengths_are_named_where_the_loss_fails_on_them():
    loss = lambda p, batch: (batch["x"] @ p - batch["y"]) ** 2
    op = hj.Hessian(loss, jnp.ones(2), {"x": jnp.ones((6, 2)), "y": jnp.ones(5)})
    for call in (lambda: op.mv(jnp.ones(2)), lambda: hj.eigvalsh(op)):
        with pytest.raises(ValueError, match=r"disagree on the number of rows: .*\(6, 2\).*\(5,\)"):
            call()


def test_a_loss_that_fails_on_a_good_batch_fails_as_it_does():
    op = hj.Hessian(lambda p, x: x @ p, jnp.ones(3), jnp.ones((6, 2)))
    with pytest.raises(TypeError, match="dot_general"):
        op.mv(jnp.ones(3))


def test_float16_sums_over_chunks_do_not_overflow():
    loss, x = lambda p, x: 50 * (x @ p) ** 2, jnp.ones((4096, 1), "float16")
    for chunk in (None, 512, 2048, 4095):
        op = hj.Hessian(loss, jnp.zeros(1, "float16"), x, chunk=chunk)
        assert op.mv(jnp.ones(1, "float16")).tolist() == [100.0]


def test_rows_that_have_no_loss_alone_are_coupled():
    """A row over its own deviation is 0 / 0, though the batch's losses are finite."""
    key = jax.random.key(0)
    x, y = jax.random.normal(key, (8, 3)), jnp.ones(8)
    over_deviation = lambda p, b: ((b[0] - b[0].mean(0)) / b[0].std(0) @ p - b[1]) ** 2
    with pytest.raises(hj.OperatorError, match="the examples are coupled"):
        hj.check_operator(hj.Hessian(over_deviation, jnp.ones(3), (x, y)), key)


def test_a_loss_that_is_not_finite_is_not_taken_for_coupled_examples():
    loss = lambda p, x: jnp.log(-jnp.abs(x @ p))  # NaN, with finite second derivatives
    op = hj.Hessian(loss, jnp.ones(2), jnp.ones((4, 2)))
    with pytest.raises(hj.OperatorError, match="NaN or infinite: the loss is not finite at these params"):
        hj.check_operator(op, jax.random.key(0))
