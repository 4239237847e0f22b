"""Lanczos: the decomposition it makes, where it ends, and that scale and precision do not matter."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import HESSIANS
from spectra import matrix, operator, rounding

import hessjax as hj
from hessjax.krylov import orthogonalize

KEY = jax.random.key(0)
SPREAD = np.linspace(-1.0, 3.0, 40)


def tridiagonal(t, steps=None):
    steps = int(t.num_steps_done) if steps is None else steps
    a, b = np.asarray(t.alphas, float)[:steps], np.asarray(t.betas, float)[: max(steps - 1, 0)]
    return np.diag(a) + np.diag(b, 1) + np.diag(b, -1)


@pytest.mark.parametrize("m", [1, 5, 11])
def test_steps_satisfy_the_decomposition(m, dtype):
    # matfree's case: 12 x 12, eigenvalues 1 + i/12, start (12, ..., 1).
    a = matrix(1 + np.arange(12) / 12)
    t = hj.lanczos(hj.Matrix(jnp.asarray(a, dtype)), KEY, num_steps=m, start=jnp.arange(12.0, 0.0, -1.0, dtype=dtype))
    q, residual = np.asarray(t.basis, float), np.zeros(12)
    left = a @ q.T - q.T @ tridiagonal(t)
    np.testing.assert_allclose(left[:, :-1], 0, atol=rounding(dtype, a))
    residual = left[:, -1]
    assert np.linalg.norm(residual) == pytest.approx(float(t.betas[-1]), abs=rounding(dtype, a))
    np.testing.assert_allclose(q @ residual, 0, atol=rounding(dtype, a))
    np.testing.assert_allclose(q @ q.T, np.eye(m), atol=rounding(dtype, np.eye(12)))


@pytest.mark.parametrize("c", [1e-20, 1e-9, 1.0, 1e9])
def test_full_krylov_space_recovers_the_spectrum_at_any_scale(c, dtype):
    t = hj.lanczos(operator(c * SPREAD, dtype), KEY, num_steps=40)
    np.testing.assert_allclose(np.linalg.eigvalsh(tridiagonal(t) / c), SPREAD, atol=rounding(dtype, SPREAD))


def test_hilberts_basis_is_orthogonal_in_float32():
    i = np.arange(10)
    a = 1.0 / (i[:, None] + i + 1)
    t = hj.lanczos(hj.Matrix(jnp.asarray(a, "float32")), KEY, num_steps=9)
    q = np.asarray(t.basis)[: int(t.num_steps_done)]
    np.testing.assert_allclose(q @ q.T, np.eye(len(q)), atol=3.5e-3)  # matfree's bound


EXHAUSTED = {
    "rank 3": (np.r_[[3.0, 2.0, 1.0], np.zeros(57)], [0.0, 1.0, 2.0, 3.0]),
    "zero": (np.zeros(60), [0.0]),
    "identity": (np.ones(60), [1.0]),
    "two points": (np.r_[np.ones(30), np.full(30, 5.0)], [1.0, 5.0]),
}


@pytest.mark.parametrize("c", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("name", EXHAUSTED)
def test_an_exhausted_space_ends_the_run(name, c, dtype):
    values, found = EXHAUSTED[name]
    t = hj.lanczos(operator(c * values, dtype), KEY, num_steps=50)
    done = int(t.num_steps_done)
    assert len(found) <= done <= len(found) + 1  # in a rounded matrix the space may have one more direction
    assert np.isfinite(tridiagonal(t)).all()
    np.testing.assert_array_equal(t.alphas[done:], 0)
    np.testing.assert_array_equal(t.betas[done - 1 :], 0)
    ritz = np.linalg.eigvalsh(tridiagonal(t)) / c
    assert np.abs(ritz[:, None] - found).min(axis=1).max() < rounding(dtype, values)
    assert ritz.min() > -rounding(dtype, values)


def test_more_steps_than_dimensions_are_zeros():
    t = hj.lanczos(operator(np.arange(1.0, 6.0)), KEY, num_steps=9)
    assert int(t.num_steps_done) == 5
    assert t.alphas.shape == t.betas.shape == (9,)
    np.testing.assert_array_equal(t.alphas[5:], 0)
    np.testing.assert_allclose(np.linalg.eigvalsh(tridiagonal(t)), np.arange(1.0, 6.0), rtol=1e-5)


def test_without_reorthogonalisation_no_basis_is_kept_and_the_first_steps_agree():
    full = hj.lanczos(operator(SPREAD), KEY, num_steps=8)
    none = hj.lanczos(operator(SPREAD), KEY, num_steps=8, reorthogonalize="none")
    assert none.basis is None
    np.testing.assert_allclose(none.alphas, full.alphas, atol=1e-5)
    np.testing.assert_allclose(none.betas, full.betas, atol=1e-5)


def test_trees_are_their_flat_arrays(float64):
    op = HESSIANS[9].make(1.0, "float64")  # a nested tree
    flat, unravel = jax.flatten_util.ravel_pytree(op.params)
    start = jax.random.normal(KEY, flat.shape)
    tree = hj.lanczos(op, KEY, num_steps=6, start=unravel(start))
    array = hj.lanczos(hj.Matrix(hj.dense(op)), KEY, num_steps=6, start=start)
    chex.assert_trees_all_close(tree[:2], array[:2], atol=1e-12)


def test_legacy_keys_and_jit_are_the_same_and_params_do_not_retrace():
    f = jax.jit(chex.assert_max_traces(lambda op: hj.lanczos(op, jax.random.PRNGKey(0), num_steps=3).alphas, n=1))
    for scale in (1.0, 2.0):
        np.testing.assert_allclose(f(operator(scale * SPREAD)), scale * f(operator(SPREAD)), rtol=1e-4)


def test_the_second_subtraction_is_taken_where_it_is_needed():
    basis = jnp.eye(3, 100)
    nearly = jnp.eye(100)[0] + 1e-6 * jnp.eye(100)[50]
    left = orthogonalize(nearly, basis, 3)
    assert float(jnp.abs(left[:3]).max()) == 0.0
    assert float(left[50]) == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_steps": 0}, "num_steps must be a whole number, at least 1; got 0"),
        ({"num_steps": 2.5}, "num_steps must be a whole number"),
        ({"num_steps": 2, "reorthogonalize": "half"}, 'reorthogonalize must be "full" or "none", got \'half\''),
        ({"num_steps": 2, "start": jnp.ones(3)}, "start leaf .* has shape"),
    ],
)
def test_bad_arguments_are_one_line(given, words, untyped):
    with pytest.raises(ValueError, match=words):
        hj.lanczos(operator(SPREAD), KEY, **given)


def test_what_is_no_operator_is_told_what_to_wrap(untyped):
    with pytest.raises(TypeError, match=r"wanted an operator such as hj\.Matrix\(a\)"):
        hj.lanczos(jnp.eye(3), KEY, num_steps=2)
