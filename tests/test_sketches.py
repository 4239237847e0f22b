"""Sketched traces against the papers, line by line in NumPy: a QR decomposition for every vector left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spectra import matrix

import hessjax as hj
from hessjax import sketches
from hessjax.estimates import normal_equivalent

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
N, M = 30, 6
SPECTRA = {
    "random signs": RNG.standard_normal(N),
    "decaying": 0.6 ** np.arange(N),
    "outliers": np.r_[[100.0, -50.0], RNG.uniform(0, 1, N - 2)],
}


def leave_out(a, w, i, out):
    """XTrace's estimate from vector i with the sketch of all vectors but `out`; the residual at its expected length."""
    n, kept = len(a), [j for j in range(w.shape[1]) if j not in out]
    q = np.linalg.qr(a @ w[:, kept])[0]
    mu = w[:, i] - q @ (q.T @ w[:, i])
    return np.trace(q.T @ a @ q) + (n - len(kept)) / (mu @ mu) * (mu @ a @ mu)


@pytest.fixture(scope="module")
def left_out():
    """One compiled program for every matrix."""
    return jax.jit(lambda op: sketches._leave_out(sketches._sketch(op, KEY, M), N))


def vectors(op, count):
    return np.asarray(sketches._normals(op.domain(), KEY, count=count)).T


@pytest.mark.parametrize("name", SPECTRA)
def test_leaving_one_and_two_out_is_the_naive_computation(name, left_out, float64):
    a = matrix(SPECTRA[name])
    op, w = hj.Matrix(jnp.asarray(a)), vectors(hj.Matrix(jnp.asarray(a)), M)
    samples, pairs = left_out(op)
    size = np.abs(SPECTRA[name]).max()
    for i in range(M):
        assert float(samples[i]) == pytest.approx(leave_out(a, w, i, {i}), rel=1e-9)
        assert float(pairs[i, i]) == 0.0
        for j in set(range(M)) - {i}:
            want = leave_out(a, w, i, {i}) - leave_out(a, w, i, {i, j})
            assert float(pairs[i, j]) == pytest.approx(want, rel=1e-7, abs=1e-9 * size)


def test_matfrees_samples_are_the_same(float64):
    matfree = pytest.importorskip("matfree.stochtrace")
    if not hasattr(matfree, "leave_one_out_xtrace"):
        pytest.skip("this matfree has no XTrace")
    a = jnp.asarray(matrix(SPECTRA["random signs"]))
    op, w = hj.Matrix(a), vectors(hj.Matrix(a), M).T
    theirs = matfree.leave_one_out_xtrace()(lambda v: a @ v, jnp.asarray(w))
    samples, _ = jax.jit(lambda op: sketches._leave_out(sketches._sketch(op, KEY, M), N))(op)
    np.testing.assert_allclose(samples, theirs, rtol=1e-9)


def test_xtrace_is_the_mean_of_its_samples_with_the_covariance_of_their_pairs(left_out, float64):
    op = hj.Matrix(jnp.asarray(matrix(SPECTRA["random signs"])))
    found, (samples, pairs) = hj.trace(op, KEY, num_probes=M), left_out(op)
    covariance = max(np.sum(np.asarray(pairs) * np.asarray(pairs).T) / (M * (M - 1)), 0)
    assert float(found.value) == pytest.approx(float(samples.mean()), rel=1e-12)
    assert float(found.std_error) == pytest.approx(np.sqrt(np.var(samples, ddof=1) / M + covariance), rel=1e-9)
    assert int(found.num_matvecs) == 2 * M


def test_hutchpp_is_the_papers_with_residuals_at_their_expected_length(float64):
    # Meyer et al. (2021), algorithm 1: tr(Q'AQ) + the mean of Hutchinson on (I - QQ').
    a = matrix(SPECTRA["random signs"])
    w = vectors(hj.Matrix(jnp.asarray(a)), 9)
    q = np.linalg.qr(a @ w[:, :4])[0]
    rest = w[:, 4:] - q @ (q.T @ w[:, 4:])
    rest *= np.sqrt(N - 4) / np.linalg.norm(rest, axis=0)
    samples = np.sum(rest * (a @ rest), 0)
    found = hj.trace(hj.Matrix(jnp.asarray(a)), KEY, num_probes=9, method="hutch++")
    assert float(found.value) == pytest.approx(np.trace(q.T @ a @ q) + samples.mean(), rel=1e-10)
    error = samples.std(ddof=1) / 5**0.5 * normal_equivalent(5, 9)
    assert float(found.std_error) == pytest.approx(error, rel=1e-9)
    assert int(found.num_matvecs) == 2 * 4 + 5


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_a_basis_of_dependent_vectors_is_orthonormal_on_their_span(scale, dtype):
    # Six vectors in a space of three: three rows are unit vectors, three are zero, and the span is held.
    eps, rng = float(jnp.finfo(dtype).eps), np.random.default_rng(0)
    block = rng.standard_normal((6, 3)) @ rng.standard_normal((3, 40))
    q = np.asarray(sketches._orthonormal(jnp.asarray(scale * block, dtype), rounding=eps), float)
    lengths = np.linalg.norm(q, axis=1)
    assert np.sum(np.abs(lengths - 1) < 10 * eps) == 3
    assert np.sum(lengths == 0) == 3
    held = q[lengths > 0.5]
    np.testing.assert_allclose(held @ held.T, np.eye(3), atol=20 * eps)
    np.testing.assert_allclose(block - block @ held.T @ held, 0, atol=200 * eps * np.abs(block).max())


def test_nearly_dependent_vectors_are_orthogonal_to_rounding():
    block = jnp.ones((4, 50)) + 1e-4 * jax.random.normal(KEY, (4, 50))
    q = np.asarray(sketches._orthonormal(block, rounding=2.0**-23), float)
    np.testing.assert_allclose(q @ q.T, np.eye(4), atol=1e-6)
