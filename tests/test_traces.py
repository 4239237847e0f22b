"""Traces, norms, diagonals: against the paper line by line, exact where they must be, covered where they are random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spectra import matrix, operator

import hessjax as hj
from hessjax import sketches

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
METHODS = ("xtrace", "hutch++", "hutchinson")


def leave_out(a, w, i, out):
    """XTrace's estimate from vector i with the sketch of all vectors but `out`, as the paper has it."""
    n, kept = len(a), [j for j in range(w.shape[1]) if j not in out]
    q = np.linalg.qr(a @ w[:, kept])[0]
    mu = w[:, i] - q @ (q.T @ w[:, i])
    return np.trace(q.T @ a @ q) + (n - len(kept)) / (mu @ mu) * (mu @ a @ mu)


def test_leaving_one_and_two_out_is_the_naive_computation(float64):
    a = matrix(np.random.default_rng(11).standard_normal(30))
    op, m = hj.Matrix(jnp.asarray(a)), 6
    w = np.asarray(sketches._normals(op, KEY, m)).T
    samples, pairs = sketches._leave_out(sketches._sketch(op, KEY, m), 30)
    for i in range(m):
        assert float(samples[i]) == pytest.approx(leave_out(a, w, i, {i}), rel=1e-9)
        for j in set(range(m)) - {i}:
            want = leave_out(a, w, i, {i}) - leave_out(a, w, i, {i, j})
            assert float(pairs[i, j]) == pytest.approx(want, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("c", [1e-20, 1e-9, 1.0, 1e9])
@pytest.mark.parametrize("method", ["xtrace", "hutch++"])
def test_low_rank_is_exact_at_any_scale(method, c, dtype):
    op = hj.Matrix(jnp.asarray(c * np.diag(np.r_[[3.0, 2.0, 1.0], np.zeros(57)]), dtype))
    found = hj.trace(op, KEY, num_probes=20, method=method)
    assert float(found.value) == pytest.approx(6 * c, rel=100 * float(jnp.finfo(dtype).eps))
    assert float(found.std_error) < 1e3 * float(jnp.finfo(dtype).eps) * 6 * c
    assert abs(float(found.value) - 6 * c) <= 4 * float(found.std_error)


@pytest.mark.parametrize("method", ["xtrace", "hutch++"])
@pytest.mark.parametrize("probes", [8, 20])
def test_as_many_vectors_as_dimensions_are_exact(method, probes):
    values = np.arange(-2.0, 6.0)
    found = hj.trace(operator(values), KEY, num_probes=probes, method=method)
    assert float(found.value) == pytest.approx(values.sum(), rel=1e-5)
    assert float(found.std_error) == 0.0
    assert int(found.num_matvecs) == 8


def test_the_portable_decays(float64):
    # matfree's: Q diag(.7^k) Q', n = 1000, 35 samples; a step, 60 samples: relative error below 1e-5.
    for values, m in ((0.7 ** np.arange(1000), 35), (np.r_[np.ones(50), np.full(950, 1e-3)], 60)):
        op = operator(values, "float64")
        run = jax.jit(jax.vmap(lambda k, op=op, m=m: hj.trace(op, k, num_probes=m).value))
        errors = np.abs(np.asarray(run(jax.random.split(KEY, 10))) / values.sum() - 1)
        assert errors.mean() < 1e-5


def test_hutchpp_beats_hutchinson_at_equal_cost():
    values = 1 / (1 + np.arange(80.0))
    op, keys = operator(values), jax.random.split(KEY, 30)
    error = lambda method, m: np.abs(
        np.asarray(jax.vmap(lambda k: hj.trace(op, k, num_probes=m, method=method).value)(keys)) - values.sum()
    )
    assert error("hutch++", 40).mean() < 0.5 * error("hutchinson", 60).mean()


@pytest.mark.parametrize("method", METHODS)
def test_one_vector_says_nothing_of_its_error(method):
    assert np.isnan(hj.trace(operator(np.arange(9.0)), KEY, num_probes=1, method=method).std_error)


def test_hutchinsons_variance_is_the_formula(float64):
    # Fact Q4: Var = 2 (||A||_F^2 - sum a_ii^2), which the standard error must tell.
    a = matrix(np.random.default_rng(12).standard_normal(12) * 3)
    found = hj.trace(hj.Matrix(jnp.asarray(a)), KEY, num_probes=200_000, method="hutchinson")
    variance = 2 * (np.linalg.norm(a) ** 2 - (np.diag(a) ** 2).sum())
    assert float(found.std_error) ** 2 * 200_000 == pytest.approx(variance, rel=0.02)
    assert abs(float(found.value) - np.trace(a)) < 4 * float(found.std_error)


COVERED = {
    "flat": 1 + RNG.uniform(0, 1, 100),
    "random signs": RNG.standard_normal(100),
    "decaying": 1 / np.arange(1, 201.0),
    "outliers": np.r_[[100.0, 50.0, 20.0], RNG.uniform(0, 1, 197)],
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", COVERED)
def test_intervals_cover_the_trace_as_often_as_they_say(name, method, float64):
    op, keys = operator(COVERED[name], "float64"), jax.random.split(jax.random.key(1), 300)
    found = jax.jit(jax.vmap(lambda k: hj.trace(op, k, num_probes=40, method=method)))(keys)
    off = np.abs(np.asarray(found.value) - COVERED[name].sum())
    assert 0.90 <= np.mean(off <= 1.96 * np.asarray(found.std_error)) <= 0.99


def test_without_the_covariance_xtraces_interval_would_be_too_narrow(float64):
    values, keys = COVERED["flat"], jax.random.split(jax.random.key(1), 300)
    op = operator(values, "float64")

    def both(key):
        samples, _ = sketches._leave_out(sketches._sketch(op, key, 40), 100)
        return jnp.mean(samples), jnp.std(samples, ddof=1) / 40**0.5, hj.trace(op, key).std_error

    value, published, ours = (np.asarray(x) for x in jax.jit(jax.vmap(both))(keys))
    covers = lambda error: np.mean(np.abs(value - values.sum()) <= 1.96 * error)
    assert covers(published) < 0.90 <= covers(ours)
    assert np.sqrt(np.mean(ours**2)) == pytest.approx(np.std(value), rel=0.12)


@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
def test_intervals_cover_the_norm_as_often_as_they_say(method, float64):
    values = COVERED["flat"]
    op, keys = operator(values, "float64"), jax.random.split(jax.random.key(2), 300)
    found = jax.jit(jax.vmap(lambda k: hj.frobenius_norm(op, k, num_probes=40, method=method)))(keys)
    off = np.abs(np.asarray(found.value) - np.linalg.norm(values))
    assert 0.90 <= np.mean(off <= 1.96 * np.asarray(found.std_error)) <= 0.99


def test_the_diagonals_intervals_cover_as_often_as_they_say(float64):
    a = matrix(np.random.default_rng(5).standard_normal(60))
    diagonal = jax.jit(jax.vmap(lambda key: hj.diagonal(hj.Matrix(jnp.asarray(a)), key, num_probes=60)))
    found = diagonal(jax.random.split(KEY, 100))
    z = (np.asarray(found.value) - np.diag(a)) / np.asarray(found.std_error)
    assert 0.93 <= np.mean(np.abs(z) < 1.96) <= 0.97  # of 6000 entries
    assert set(found.num_matvecs.tolist()) == {60}


def test_rtol_repeats_until_the_error_bar_is_met_or_the_budget_spent():
    op = operator(COVERED["outliers"])
    found = hj.trace(op, KEY, num_probes=10, method="hutchinson", rtol=0.02)
    assert 1.96 * float(found.std_error) <= 0.02 * float(found.value)
    assert abs(float(found.value) - COVERED["outliers"].sum()) < 4 * float(found.std_error)
    capped = hj.trace(op, KEY, num_probes=10, method="hutchinson", rtol=1e-6, max_matvecs=45)
    assert int(capped.num_matvecs) == 40


def test_a_deflated_trace_leaves_the_eigenvalues_out():
    op = operator(COVERED["outliers"])
    rest = hj.deflate(op, hj.eigsh(op, KEY, k=3))
    for method in METHODS:
        found = hj.trace(rest, KEY, method=method)
        assert abs(float(found.value) - COVERED["outliers"][3:].sum()) < 4 * float(found.std_error)


def test_blocks_traces_sum_to_the_trace(float64):
    # Fact Q7.
    h = hj.Hessian(lambda p: jnp.sum(jnp.tanh(p["a"] @ p["b"]) ** 2), {"a": jnp.ones((3, 4)) / 3, "b": jnp.ones(4) / 2})
    total = sum(float(hj.trace(hj.restrict(h, name), KEY, num_probes=20).value) for name in ("a", "b"))
    assert total == pytest.approx(float(jnp.trace(hj.dense(h))), rel=1e-9)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_probes": 0}, "num_probes must be a whole number, at least 1"),
        ({"method": "lucky"}, "method must be one of xtrace, hutch\\+\\+, hutchinson; got 'lucky'"),
        ({"rtol": 0.0}, "rtol must be above 0"),
    ],
)
def test_bad_arguments_are_one_line(given, words):
    with pytest.raises(ValueError, match=words):
        hj.trace(operator(np.ones(3)), KEY, **given)
