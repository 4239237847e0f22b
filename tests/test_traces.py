"""Traces, norms, diagonals: exact where they must be, covered where they are random, repeated where asked."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from spectra import Count, Counted, cover, diagonal, matrix, operator, within

import hessjax as hj
from hessjax import driving, sketches

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
METHODS = ("xtrace", "hutch++", "hutchinson")
SIGNED = matrix(RNG.standard_normal(60))


@pytest.mark.parametrize("c", [1e-20, 1e-9, 1.0, 1e9])
@pytest.mark.parametrize("method", ["xtrace", "hutch++"])
def test_low_rank_is_exact_at_any_scale(method, c, dtype):
    found = hj.trace(diagonal(c * np.r_[[3.0, 2.0, 1.0], np.zeros(57)], dtype), KEY, num_probes=20, method=method)
    eps = float(jnp.finfo(dtype).eps)
    assert float(found.value) == pytest.approx(6 * c, rel=100 * eps)
    assert float(found.std_error) < 1e3 * eps * 6 * c
    assert within(found, 6 * c)


@pytest.mark.parametrize("method", ["xtrace", "hutch++"])
@pytest.mark.parametrize("probes", [8, 20])
def test_as_many_vectors_as_dimensions_are_exact(method, probes):
    values = np.arange(-2.0, 6.0)
    found = hj.trace(operator(values), KEY, num_probes=probes, method=method)
    assert float(found.value) == pytest.approx(values.sum(), rel=1e-5)
    assert float(found.std_error) == 0.0
    assert int(found.num_matvecs) == 8


@pytest.mark.parametrize("values", [np.zeros(60), np.ones(60)], ids=["zero", "identity"])
@pytest.mark.parametrize("method", METHODS)
def test_zero_and_identity_are_exact(values, method, dtype):
    found = hj.trace(diagonal(values, dtype), KEY, num_probes=20, method=method)
    eps = float(jnp.finfo(dtype).eps)
    assert float(found.value) == pytest.approx(values.sum(), abs=100 * eps * values.sum())
    assert float(found.std_error) <= 100 * eps * values.sum()
    assert within(found, values.sum())


def test_the_portable_decays(float64):
    # matfree's: .7^k, n = 1000, 35 samples; a step, 60 samples: mean relative error over 10 keys below 1e-5.
    for values, m in ((0.7 ** np.arange(1000), 35), (np.r_[np.ones(50), np.full(950, 1e-3)], 60)):
        run = jax.jit(jax.vmap(lambda k, d=values, m=m: hj.trace(diagonal(d, "float64"), k, num_probes=m).value))
        errors = np.abs(np.asarray(run(jax.random.split(KEY, 10))) / values.sum() - 1)
        assert errors.mean() < 1e-5


def test_hutchpp_beats_hutchinson_at_equal_cost():
    # hessian-eigenthings' case, 60 products over 30 seeds; and 99 vectors would be more than n.
    values = 1 / (1 + np.arange(80.0))
    op, keys = operator(values), jax.random.split(KEY, 30)
    error = lambda method, m: np.abs(
        np.asarray(jax.vmap(lambda k: hj.trace(op, k, num_probes=m, method=method).value)(keys)) - values.sum()
    )
    assert error("hutch++", 40).mean() < 0.5 * error("hutchinson", 60).mean()
    assert float(hj.trace(op, KEY, num_probes=99, method="hutch++").value) == pytest.approx(values.sum(), rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_one_vector_says_nothing_of_its_error(method):
    found = hj.trace(operator(np.arange(9.0)), KEY, num_probes=1, method=method)
    assert np.isnan(found.std_error)
    assert np.isfinite(found.value)


@pytest.mark.parametrize(
    ("method", "probes", "products"),
    [("xtrace", 7, 14), ("hutch++", 8, 12), ("hutch++", 9, 13), ("hutchinson", 7, 7)],
)
def test_products_taken_are_products_counted(method, probes, products):
    count = Count()
    found = hj.trace(Counted(diagonal(np.arange(50.0)), count), KEY, num_probes=probes, method=method)
    jax.effects_barrier()
    assert int(found.num_matvecs) == count.number == products


COVERED = {
    "flat": 1 + RNG.uniform(0, 1, 100),
    "random signs": RNG.standard_normal(100),
    "decaying": 1 / np.arange(1, 101.0),
    "outliers": np.r_[[100.0, 50.0, 20.0], RNG.uniform(0, 1, 97)],
}
MANY = {(p, m): jax.jit(jax.vmap(lambda op, k, p=p, m=m: hj.trace(op, k, num_probes=p, method=m), in_axes=(None, 0)))
        for p in (10, 40) for m in METHODS}  # fmt: skip


@pytest.mark.parametrize("name", COVERED)
@pytest.mark.parametrize("method", METHODS)
def test_intervals_cover_the_trace_as_often_as_they_say(method, name, float64):
    found = MANY[40, method](operator(COVERED[name], "float64"), jax.random.split(jax.random.key(1), 300))
    assert 0.90 <= cover(found.value, found.std_error, COVERED[name].sum()) <= 0.99
    if name == "flat":  # and on average the error is what it is said to be
        assert np.sqrt(np.mean(np.square(found.std_error))) == pytest.approx(np.std(np.asarray(found.value)), rel=0.12)


@pytest.mark.parametrize("method", METHODS)
def test_with_few_vectors_students_interval_covers(method, float64):
    t = stats.t.ppf(0.975, 9) / 1.96
    for name in ("flat", "random signs"):
        found = MANY[10, method](operator(COVERED[name], "float64"), jax.random.split(jax.random.key(3), 300))
        assert 0.90 <= cover(found.value, t * found.std_error, COVERED[name].sum()) <= 0.995


def test_without_the_covariance_xtraces_interval_would_be_too_narrow(float64):
    # The published error takes leave-one-out samples for independent; on a flat spectrum they are not.
    @jax.jit
    @jax.vmap
    def published(key):
        samples, _ = sketches._leave_out(sketches._sketch(op, key, 40), 100)
        return jnp.mean(samples), jnp.std(samples, ddof=1) / 40**0.5

    op, keys = operator(COVERED["flat"], "float64"), jax.random.split(jax.random.key(1), 300)
    value, error = published(keys)
    ours = MANY[40, "xtrace"](op, keys)
    np.testing.assert_allclose(value, ours.value, rtol=1e-9)
    assert cover(value, error, COVERED["flat"].sum()) < 0.90 <= cover(value, ours.std_error, COVERED["flat"].sum())


@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
def test_intervals_cover_the_norm_as_often_as_they_say(method, float64):
    norm = jax.jit(jax.vmap(lambda op, k: hj.frobenius_norm(op, k, num_probes=40, method=method), in_axes=(None, 0)))
    for name in ("flat", "random signs"):
        found = norm(operator(COVERED[name], "float64"), jax.random.split(jax.random.key(2), 300))
        assert 0.90 <= cover(found.value, found.std_error, np.linalg.norm(COVERED[name])) <= 0.99


def test_a_repeated_norm_is_not_the_mean_of_small_samples_norms(float64):
    # The root of a mean of two squares is 11 % too small on average here; the repeats are averaged before the root.
    # One direction of so many that no run of about 1,500 products has it exactly.
    u = jnp.asarray(np.random.default_rng(0).standard_normal(4000))
    op = hj.Hessian(lambda p: 0.5 * jnp.vdot(u, p) ** 2 / jnp.vdot(u, u), jnp.zeros(4000))
    norm = lambda k: hj.frobenius_norm(op, k, num_probes=2, rtol=0.05)
    found = jax.jit(jax.vmap(norm))(jax.random.split(KEY, 100))
    assert (1.96 * found.std_error <= 0.05 * found.value + 1e-12).all()
    assert abs(float(jnp.mean(found.value)) - 1) < 4 * 0.05 / 1.96 / 100**0.5 + 0.005
    assert cover(found.value, found.std_error, 1.0) >= 0.88


@pytest.mark.parametrize("c", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
def test_norms_scale(method, c):
    found = hj.frobenius_norm(hj.Matrix(jnp.asarray(c * SIGNED, "float32")), KEY, num_probes=20, method=method)
    assert within(found, c * np.linalg.norm(SIGNED))
    zero = hj.frobenius_norm(hj.Matrix(jnp.zeros((60, 60))), KEY, num_probes=20, method=method)
    assert (float(zero.value), float(zero.std_error)) == (0.0, 0.0)


def test_the_diagonal_is_within_its_errors(float64):
    found = hj.diagonal(hj.Matrix(jnp.asarray(SIGNED)), KEY, num_probes=60)
    z = (np.asarray(found.value) - np.diag(SIGNED)) / np.asarray(found.std_error)
    assert np.abs(z).max() < 4.5
    assert np.std(z) == pytest.approx(1, abs=0.3)
    assert int(found.num_matvecs) == 60
    # Var of z_i (A z)_i is the sum of a_ij^2 over the others.
    exact = np.sqrt((np.sum(SIGNED**2, 1) - np.diag(SIGNED) ** 2) / 60)
    np.testing.assert_allclose(found.std_error, exact, rtol=0.4)


def test_the_diagonal_has_the_tree_of_the_params_and_no_error_where_the_matrix_is_diagonal():
    op = hj.Hessian(
        lambda p: jnp.sum(p["w"]["k"] ** 4) / 12 + p["b"] ** 2,
        {"w": {"k": jnp.arange(6.0).reshape(2, 3)}, "b": jnp.array(1.0)},
    )
    found = hj.diagonal(op, KEY, num_probes=3)
    np.testing.assert_allclose(found.value["w"]["k"], jnp.arange(6.0).reshape(2, 3) ** 2, rtol=1e-6)
    assert float(found.value["b"]) == pytest.approx(2.0)
    assert max(float(jnp.max(x)) for x in jax.tree.leaves(found.std_error)) < 1e-5
    one = hj.diagonal(op, KEY, num_probes=1)
    assert all(np.isnan(x).all() for x in jax.tree.leaves(one.std_error))


def test_a_diagonals_rtol_is_of_the_whole_vector(float64):
    a = matrix(5 + np.random.default_rng(4).standard_normal(200))
    exact, op = np.diag(a), hj.Matrix(jnp.asarray(a))
    found = hj.diagonal(op, KEY, num_probes=10, rtol=0.1)
    error = np.linalg.norm(found.std_error)
    assert 1.96 * error <= 0.1 * np.linalg.norm(found.value)
    assert np.linalg.norm(found.value - exact) <= 3 * error
    fewer = hj.diagonal(op, KEY, num_probes=10, rtol=0.1, max_matvecs=int(found.num_matvecs) - 1)
    assert fewer.num_matvecs == found.num_matvecs - 10
    assert 1.96 * np.linalg.norm(fewer.std_error) > 0.1 * np.linalg.norm(fewer.value)
    with pytest.raises(ValueError, match=r"rtol must be above 0, got -0\.1"):
        hj.diagonal(op, KEY, rtol=-0.1)


# Of a 60 x 60 matrix, what asks for an accuracy that random vectors reach only with many more than 60 products.
EXACT = {
    "trace": (lambda op, **more: hj.trace(op, KEY, num_probes=8, **more), np.trace),
    "hutchinson": (lambda op, **more: hj.trace(op, KEY, num_probes=8, method="hutchinson", **more), np.trace),
    "hutch++": (lambda op, **more: hj.trace(op, KEY, num_probes=8, method="hutch++", **more), np.trace),
    "norm": (lambda op, **more: hj.frobenius_norm(op, KEY, num_probes=8, **more), np.linalg.norm),
    "diagonal": (lambda op, **more: hj.diagonal(op, KEY, num_probes=8, **more), np.diag),
}


@pytest.mark.parametrize("name", EXACT)
def test_an_accuracy_for_which_n_products_are_cheaper_is_had_exactly(name, float64):
    estimate, truth = EXACT[name]
    a = matrix(np.random.default_rng(7).standard_normal(60))
    found = estimate(hj.Matrix(jnp.asarray(a)), rtol=1e-3)
    np.testing.assert_allclose(found.value, truth(a), rtol=1e-10, atol=1e-10)
    assert np.all(found.std_error == 0)
    assert 60 < int(found.num_matvecs) <= 2 * 60
    budget = 60 + 8  # not enough for the batches before and n more
    capped = estimate(hj.Matrix(jnp.asarray(a)), rtol=1e-3, max_matvecs=budget)
    assert int(capped.num_matvecs) <= budget
    assert np.all(capped.std_error > 0) or int(capped.num_matvecs) == budget
    rough = estimate(hj.Matrix(jnp.asarray(a + 50 * np.eye(60))), rtol=0.5)
    assert int(rough.num_matvecs) <= 16
    deflated = hj.deflate(hj.Matrix(jnp.asarray(a)), hj.eigsh(hj.Matrix(jnp.asarray(a)), KEY, k=2, rtol=1e-10))
    np.testing.assert_allclose(estimate(deflated, rtol=1e-3).value, truth(hj.dense(deflated)), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_rtol_repeats_until_the_error_bar_is_met(method):
    op = operator(COVERED["outliers"])
    found = hj.trace(op, KEY, num_probes=10, method=method, rtol=0.02)
    assert 1.96 * float(found.std_error) <= 0.02 * float(found.value)
    assert within(found, COVERED["outliers"].sum(), slack=1e-6 * COVERED["outliers"].sum())  # it may be exact
    again = hj.trace(op, KEY, num_probes=10, method=method, rtol=0.5)
    assert int(again.num_matvecs) <= int(found.num_matvecs)


def test_the_budget_is_never_exceeded():
    op = operator(COVERED["outliers"])
    for budget, spent in ((45, 40), (50, 50), (5, 10)):  # at least one batch
        capped = hj.trace(op, KEY, num_probes=10, method="hutchinson", rtol=1e-6, max_matvecs=budget)
        assert int(capped.num_matvecs) == spent


@pytest.mark.parametrize(("probes", "rtol"), [(2, 0.02), (4, 0.02), (8, 0.012)])
def test_the_accuracy_asked_for_is_met_as_often_as_said_by_few_probes_too(probes, rtol, float64):
    a = operator(np.linspace(0.5, 1.5, 200), "float64")
    run = jax.jit(jax.vmap(lambda k: hj.trace(a, k, num_probes=probes, method="hutchinson", rtol=rtol)))
    found = run(jax.random.split(jax.random.key(3), 500))
    met = np.abs(np.asarray(found.value) - 200) <= rtol * np.asarray(found.value)
    assert 0.92 <= met.mean() <= 0.99


def test_repeated_estimates_cover_too(float64):
    op = operator(COVERED["flat"], "float64")
    run = jax.jit(jax.vmap(lambda k: hj.trace(op, k, num_probes=20, method="hutchinson", rtol=0.01)))
    found = run(jax.random.split(jax.random.key(6), 200))
    assert (1.96 * found.std_error <= 0.01 * found.value).all()
    assert cover(found.value, found.std_error, COVERED["flat"].sum()) >= 0.89  # stopping looks at the error bar


@pytest.mark.parametrize("method", METHODS)
def test_a_deflated_trace_leaves_the_eigenvalues_out(method):
    values = COVERED["outliers"]
    vectors = jnp.eye(3, 100)
    some = hj.Eigenpairs(jnp.asarray(values[:3], "float32"), vectors, jnp.zeros(3), jnp.ones(3, bool), jnp.int32(0))
    rest = hj.deflate(diagonal(values), some)
    assert within(hj.trace(rest, KEY, method=method), values[3:].sum())
    if method != "hutchinson":  # as many vectors as dimensions left
        exact = hj.trace(rest, KEY, num_probes=97, method=method)
        assert float(exact.value) == pytest.approx(values[3:].sum(), rel=1e-5)
        assert float(exact.std_error) == 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_has_neither_value_nor_error(value):
    op = diagonal(np.r_[value, np.ones(59)])
    found = [hj.trace(op, KEY, num_probes=20, method=m) for m in METHODS]
    found += [hj.frobenius_norm(op, KEY, num_probes=20, method=m) for m in ("hutchinson", "hutch++")]
    for estimate in found:
        assert not np.isfinite(estimate.value)
        assert not np.isfinite(estimate.std_error)


def test_bfloat16_params_are_traced_in_float32():
    found = hj.trace(hj.Hessian(lambda p: jnp.sum(3 * p**2), jnp.ones(50, "bfloat16")), KEY, num_probes=10)
    assert found.value.dtype == found.std_error.dtype == jnp.float32
    assert float(found.value) == pytest.approx(300, rel=0.01)


@pytest.mark.parametrize(
    ("call", "given", "words"),
    [
        (hj.trace, {"num_probes": 0}, "num_probes must be a whole number, at least 1"),
        (hj.trace, {"method": "lucky"}, "method must be one of xtrace, hutch\\+\\+, hutchinson; got 'lucky'"),
        (hj.trace, {"rtol": 0.0}, "rtol must be above 0, got 0.0"),
        (hj.frobenius_norm, {"rtol": -1.0}, "rtol must be above 0, got -1.0"),
        (hj.frobenius_norm, {"method": "xtrace"}, "method must be one of hutchinson, hutch\\+\\+; got 'xtrace'"),
        (hj.diagonal, {"num_probes": 1.5}, "num_probes must be a whole number"),
    ],
)
def test_bad_arguments_are_one_line(call, given, words, untyped):
    with pytest.raises(ValueError, match=words):
        call(operator(np.ones(3)), KEY, **given)
    with pytest.raises(TypeError, match=r"wanted an operator such as hj\.Matrix\(a\)"):
        call(jnp.eye(3), KEY)


@pytest.mark.parametrize("c", [1e-30, 1e-20, 1e18, 1e30])
@pytest.mark.parametrize("method", METHODS)
def test_estimates_scale_with_the_matrix_as_far_as_float32_goes(method, c):
    a = SIGNED @ SIGNED
    one, scaled = (hj.Matrix(jnp.asarray(s * a, "float32")) for s in (1.0, c))
    for estimate in (hj.trace, hj.frobenius_norm):
        if estimate is hj.frobenius_norm and method == "xtrace":
            continue
        want, got = (estimate(op, KEY, num_probes=20, method=method) for op in (one, scaled))
        assert float(got.value) / c == pytest.approx(float(want.value), rel=1e-4)
        assert float(got.std_error) / c == pytest.approx(float(want.std_error), rel=1e-2)
    want, got = (hj.diagonal(op, KEY, num_probes=20) for op in (one, scaled))
    np.testing.assert_allclose(np.asarray(got.std_error) / c, want.std_error, rtol=1e-3)


def test_a_diagonal_one_vector_after_another_is_that_of_all_at_once(monkeypatch):
    op = hj.Matrix(jnp.asarray(SIGNED, "float32"))
    at_once = hj.diagonal(op, KEY, num_probes=7)
    monkeypatch.setattr(driving, "CPU_SCALARS", 0)
    jax.clear_caches()
    one_by_one = hj.diagonal(op, KEY, num_probes=7)
    np.testing.assert_allclose(one_by_one.value, at_once.value, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(one_by_one.std_error, at_once.std_error, rtol=1e-4)


def test_a_rounding_bar_is_of_the_size_of_rounding():
    # bfloat16: products rounded one by one; float32: terms that cancel.
    a = np.random.default_rng(7).standard_normal((512, 512)) / 512**0.5
    half = jnp.asarray(a @ a.T, "bfloat16")
    half = jnp.triu(half) + jnp.triu(half, 1).T
    run = jax.jit(jax.vmap(lambda k: hj.trace(hj.Matrix(half), k, method="hutchinson")))
    found = run(jax.random.split(KEY, 50))
    exact = np.trace(np.asarray(half, float))
    assert cover(found.value, found.std_error, exact) >= 0.9
    assert float(found.std_error.mean()) < 3 * np.std(found.value)
    d = np.r_[np.full(2048, 1e6), np.full(2048, -1e6)].astype("float32")
    d[0] += 3
    found = hj.trace(diagonal(d), KEY, method="hutchinson")
    assert abs(float(found.value) - 3.0) <= 2 * float(found.std_error) < 1e6


@pytest.mark.parametrize("estimate", [hj.trace, partial(hj.frobenius_norm, method="hutch++"), hj.diagonal])
def test_of_nan_no_error_is_known(estimate):
    found = estimate(diagonal([1.0, np.nan, 2.0]), KEY, num_probes=8)
    assert np.isnan(np.asarray(found.std_error)).any()


def test_two_vectors_of_hutchpp_have_no_error_bar_to_stop_at():
    with pytest.raises(ValueError, match=r"rtol with hutch\+\+ needs num_probes of at least 3"):
        hj.trace(diagonal(np.ones(9)), KEY, method="hutch++", num_probes=2, rtol=0.1)


def test_hutchinsons_trace_has_a_gradient():
    trace = lambda d: hj.trace(diagonal(d), KEY, num_probes=4, method="hutchinson").value
    np.testing.assert_allclose(jax.grad(trace)(jnp.ones(3)), np.ones(3), rtol=1e-5)
