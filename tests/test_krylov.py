"""Lanczos: the decomposition it makes, where it ends, and that scale, precision and the tree do not matter."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import HESSIANS, LABELS, X, arrays, softmax
from spectra import diagonal, matrix, operator, rounding, tridiagonal

import hessjax as hj
from hessjax import krylov

KEY = jax.random.key(0)
RITZ = jax.jit(krylov.ritz, static_argnums=1)
SPREAD = np.linspace(-1.0, 3.0, 40)
CLUSTERED = np.r_[[100.0, 50.0, 49.999], 1.0 + 1e-4 * np.arange(147), np.zeros(150)]


def check_decomposition(a, t, atol):
    """A Q = Q T + beta q e' with orthonormal Q, the residual orthogonal to it and as long as the last beta."""
    q = np.asarray(t.basis, float)[: int(t.num_steps_done)]
    left = a @ q.T - q.T @ tridiagonal(t)
    np.testing.assert_allclose(left[:, :-1], 0, atol=atol)
    assert np.linalg.norm(left[:, -1]) == pytest.approx(float(t.betas[-1]), abs=atol)
    np.testing.assert_allclose(q @ left[:, -1], 0, atol=atol)
    np.testing.assert_allclose(q @ q.T, np.eye(len(q)), atol=atol / np.abs(a).sum(1).max())


@pytest.mark.parametrize("m", [1, 5, 11])
def test_steps_satisfy_the_decomposition(m, dtype):
    # matfree's case: 12 x 12, eigenvalues 1 + i/12, start (12, ..., 1).
    a = matrix(1 + np.arange(12) / 12)
    t = hj.lanczos(hj.Matrix(jnp.asarray(a, dtype)), KEY, num_steps=m, start=jnp.arange(12.0, 0.0, -1.0, dtype=dtype))
    check_decomposition(a, t, rounding(dtype, a))


def test_a_full_basis_diagonalises(dtype):
    a = matrix(1 + np.arange(12) / 12)
    t = hj.lanczos(hj.Matrix(jnp.asarray(a, dtype)), KEY, num_steps=12)
    q = np.asarray(t.basis, float)
    np.testing.assert_allclose(q.T @ tridiagonal(t) @ q, a, atol=rounding(dtype, a))


def test_the_basis_is_orthogonal_to_rounding_on_clusters(dtype):
    # 60 steps on 5 clusters: without reorthogonalisation the basis of float32 has lost all orthogonality.
    a = np.diag(np.asarray(jnp.asarray(CLUSTERED, dtype), float))
    t = hj.lanczos(diagonal(CLUSTERED, dtype), KEY, num_steps=60)
    eps = float(jnp.finfo(dtype).eps)
    q = np.asarray(t.basis, float)[: int(t.num_steps_done)]
    assert np.abs(q @ q.T - np.eye(len(q))).max() < 10 * eps
    left = a @ q.T - q.T @ tridiagonal(t)
    np.testing.assert_allclose(left[:, :-1], 0, atol=30 * eps * 100)


@pytest.mark.parametrize("c", [1e-20, 1e-9, 1.0, 1e9])
def test_full_krylov_space_recovers_the_spectrum_at_any_scale(c, dtype):
    t = hj.lanczos(operator(c * SPREAD, dtype), KEY, num_steps=40)
    np.testing.assert_allclose(np.linalg.eigvalsh(tridiagonal(t) / c), SPREAD, atol=rounding(dtype, SPREAD))


def test_three_steps_on_one_two_three(float64):
    # google/spectral-density's case.
    a = np.diag([1.0, 2.0, 3.0])
    t = hj.lanczos(hj.Matrix(jnp.asarray(a)), KEY, num_steps=3)
    q = np.asarray(t.basis)
    np.testing.assert_allclose(q.T @ tridiagonal(t) @ q, a, atol=1e-12)


@pytest.mark.parametrize("n", [10, 15])
def test_wishart_extremes_are_those_of_the_matrix(n):
    m = np.random.default_rng(n).standard_normal((n, n))
    t = hj.lanczos(hj.Matrix(jnp.asarray(m @ m.T, "float32")), KEY, num_steps=n)
    ends = np.linalg.eigvalsh(tridiagonal(t))[[0, -1]]
    np.testing.assert_allclose(ends, np.linalg.eigvalsh(m @ m.T)[[0, -1]], atol=1e-5 * np.linalg.norm(m, 2) ** 2)


def test_hilberts_basis_is_orthogonal_in_float32():
    i = np.arange(10)
    a = 1.0 / (i[:, None] + i + 1)
    t = hj.lanczos(hj.Matrix(jnp.asarray(a, "float32")), KEY, num_steps=9)
    q = np.asarray(t.basis, float)[: int(t.num_steps_done)]
    assert np.abs(q @ q.T - np.eye(len(q))).max() < 2e-6  # matfree asks for 3.5e-3


def test_matfree_agrees():
    decomp = pytest.importorskip("matfree.decomp")
    a, start = jnp.asarray(matrix(SPREAD), "float32"), jax.random.normal(KEY, (40,))
    theirs = decomp.tridiag_sym(8)(lambda v: a @ v, start).J_small
    t = hj.lanczos(hj.Matrix(a), KEY, num_steps=8, start=start)
    np.testing.assert_allclose(tridiagonal(t), theirs, atol=rounding("float32", SPREAD))


EXHAUSTED = {
    "rank 3": (np.r_[[3.0, 2.0, 1.0], np.zeros(57)], [0.0, 1.0, 2.0, 3.0]),
    "zero": (np.zeros(60), [0.0]),
    "identity": (np.ones(60), [1.0]),
    "two points": (np.r_[np.ones(30), np.full(30, 5.0)], [1.0, 5.0]),
}


@pytest.mark.parametrize("c", [1e-20, 1.0, 1e9])
@pytest.mark.parametrize(
    ("name", "reorthogonalize"), [(name, "full") for name in EXHAUSTED] + [("identity", "none"), ("two points", "none")]
)
def test_an_exhausted_space_ends_the_run(name, c, reorthogonalize, dtype):
    values, found = EXHAUSTED[name]
    t = hj.lanczos(operator(c * values, dtype), KEY, num_steps=50, reorthogonalize=reorthogonalize)
    done = int(t.num_steps_done)
    # A matrix that is rounded has no exact invariant space: one direction more may look like one, never a second.
    assert len(found) <= done <= len(found) + 1
    assert np.isfinite(tridiagonal(t)).all()
    np.testing.assert_array_equal(t.alphas[done:], 0)
    np.testing.assert_array_equal(t.betas[done - 1 :], 0)
    if t.basis is not None:
        np.testing.assert_array_equal(t.basis[done:], 0)
    ritz = np.linalg.eigvalsh(tridiagonal(t)) / c
    assert np.abs(ritz[:, None] - found).min(axis=1).max() < rounding(dtype, values, c=10)
    assert ritz.min() > -rounding(dtype, values, c=1)
    for value in found[1:]:  # no duplicates but of zero, whose second copy is the rounding of the rest
        assert np.sum(np.abs(ritz - value) < 1e-3) == 1


def test_a_start_in_an_invariant_space_stays_there():
    t = hj.lanczos(diagonal([1.0, 2.0, 3.0, 4.0]), KEY, num_steps=4, start=jnp.array([0.0, 3.0, 0.0, 0.0]))
    assert int(t.num_steps_done) == 1
    assert t.alphas.tolist() == [2.0, 0.0, 0.0, 0.0]
    assert t.betas.tolist() == [0.0] * 4


def test_the_length_of_the_start_does_not_matter(dtype):
    op, start = operator(SPREAD, dtype), jax.random.normal(KEY, (40,), dtype)
    runs = [hj.lanczos(op, KEY, num_steps=8, start=c * start) for c in (1.0, 1e-25, 1e25)]
    for run in runs[1:]:
        chex.assert_trees_all_close(run[:2], runs[0][:2], atol=rounding(dtype, SPREAD))


def test_more_steps_than_dimensions_are_zeros():
    t = hj.lanczos(operator(np.arange(1.0, 6.0)), KEY, num_steps=9)
    assert int(t.num_steps_done) == 5
    assert t.alphas.shape == t.betas.shape == (9,)
    assert t.basis.shape == (9, 5)
    np.testing.assert_array_equal(t.alphas[5:], 0)
    np.testing.assert_array_equal(t.basis[5:], 0)
    np.testing.assert_allclose(np.linalg.eigvalsh(tridiagonal(t)), np.arange(1.0, 6.0), rtol=1e-5)


def test_without_reorthogonalisation_no_basis_is_kept_and_the_first_steps_agree():
    full = hj.lanczos(operator(SPREAD), KEY, num_steps=8)
    none = hj.lanczos(operator(SPREAD), KEY, num_steps=8, reorthogonalize="none")
    assert none.basis is None
    np.testing.assert_allclose(none.alphas, full.alphas, atol=1e-5)
    np.testing.assert_allclose(none.betas, full.betas, atol=1e-5)


def test_trees_are_their_flat_arrays(float64):
    op = HESSIANS[9].make(1.0, "float64")  # nested dicts
    flat, unravel = jax.flatten_util.ravel_pytree(op.params)
    start = jax.random.normal(KEY, flat.shape)
    tree = hj.lanczos(op, KEY, num_steps=6, start=unravel(start))
    array = hj.lanczos(hj.Matrix(hj.dense(op)), KEY, num_steps=6, start=start)
    chex.assert_trees_all_close(tree[:2], array[:2], atol=1e-12)
    chex.assert_trees_all_close(jax.vmap(lambda q: jax.flatten_util.ravel_pytree(q)[0])(tree.basis), array.basis)


def test_scalar_leaves_and_bfloat16_params_are_iterated_in_float32():
    loss = lambda p: (p["a"]["x"] ** 2 + 3 * p["b"] ** 2) / 2
    params = {"a": {"x": jnp.bfloat16(1.0)}, "b": jnp.bfloat16(2.0)}
    t = hj.lanczos(hj.Hessian(loss, params), KEY, num_steps=3)
    assert t.alphas.dtype == jnp.float32
    chex.assert_trees_all_equal_structs(t.basis, {"a": {"x": 0}, "b": 0})
    assert {(x.shape, x.dtype) for x in jax.tree.leaves(t.basis)} == {((3,), jnp.dtype("float32"))}
    assert int(t.num_steps_done) <= 3
    np.testing.assert_allclose(np.linalg.eigvalsh(tridiagonal(t))[[0, -1]], [1.0, 3.0], atol=0.05)  # bfloat16: 8 bits


def test_legacy_keys_are_the_same_and_params_do_not_retrace():
    f = jax.jit(chex.assert_max_traces(lambda op: hj.lanczos(op, jax.random.PRNGKey(0), num_steps=3).alphas, n=1))
    for scale in (1.0, 2.0):
        want = scale * hj.lanczos(operator(SPREAD), KEY, num_steps=3).alphas
        np.testing.assert_allclose(f(operator(scale * SPREAD)), want, rtol=1e-4)


def test_the_second_subtraction_is_taken_where_it_is_needed():
    basis = jnp.eye(3, 100)
    nearly = jnp.eye(100)[0] + 1e-6 * jnp.eye(100)[50]
    left = krylov.orthogonalize(nearly, basis, 3)
    assert float(jnp.abs(left[:3]).max()) == 0.0
    assert float(left[50]) == pytest.approx(1e-6)


@pytest.mark.parametrize("filled", [0, 1, 8, 9, 20])
def test_orthogonalising_takes_the_part_in_any_number_of_rows(filled, float64):
    # Blocks of 8 rows, the last one ending with the basis: every vector once or twice, none more than wholly.
    q = np.linalg.qr(np.random.default_rng(0).standard_normal((50, 20)))[0].T
    held, w = jnp.asarray(q * (np.arange(20)[:, None] < filled)), np.random.default_rng(1).standard_normal(50)
    want = w - q[:filled].T @ (q[:filled] @ w)
    np.testing.assert_allclose(krylov.orthogonalize(jnp.asarray(w), held, filled), want, atol=1e-14)


def test_ritz_is_the_eigendecomposition_of_t(float64):
    t = hj.lanczos(hj.Matrix(jnp.asarray(matrix(SPREAD))), KEY, num_steps=8)
    found, (values, vectors) = RITZ(t, 2.3e-16), np.linalg.eigh(tridiagonal(t))
    np.testing.assert_allclose(found.values, values, atol=1e-13)
    np.testing.assert_allclose(found.weights, vectors[0] ** 2, atol=1e-13)
    np.testing.assert_allclose(found.last, np.abs(vectors[-1]), atol=1e-13)
    assert float(found.residual) == float(t.betas[-1])


def test_ritz_gives_steps_not_taken_no_weight_and_failed_runs_nan():
    alphas, betas = jnp.array([[2.0, -2.0, 0.0, 0.0]] * 2), jnp.array([[1.0, 0.0, 0.0, 0.0]] * 2)
    t = krylov.Tridiagonal(alphas.at[1, 0].set(jnp.nan), betas, None, jnp.array([2, 2]))
    found = RITZ(t, 1.2e-7)
    np.testing.assert_allclose(found.values[0], np.sqrt(5) * np.array([-1, 1, 1, 1]), rtol=1e-6)
    np.testing.assert_allclose(found.weights[0].sum(), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(found.weights[0, 2:], 0.0)
    assert all(np.isnan(x[1]).all() for x in found)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"num_steps": 0}, "num_steps must be a whole number, at least 1; got 0"),
        ({"num_steps": 2.5}, "num_steps must be a whole number"),
        ({"num_steps": True}, "num_steps must be a whole number, at least 1; got True"),
        ({"num_steps": 2, "reorthogonalize": "half"}, 'reorthogonalize must be "full" or "none", got \'half\''),
        ({"num_steps": 2, "start": jnp.ones(3)}, "start has shape"),
        ({"num_steps": 2, "start": {"a": jnp.ones(40)}}, "start has tree structure"),
    ],
)
def test_bad_arguments_are_one_line(given, words, untyped):
    with pytest.raises(ValueError, match=words):
        hj.lanczos(operator(SPREAD), KEY, **given)


def test_what_is_no_operator_is_told_what_to_wrap(untyped):
    with pytest.raises(TypeError, match=r"wanted an operator such as hj\.Matrix\(a\)"):
        hj.lanczos(jnp.eye(3), KEY, num_steps=2)
    with pytest.raises(TypeError, match=r"wanted an operator such as hj\.Hessian\(loss, params, batch\)"):
        hj.lanczos(softmax, KEY, num_steps=2)


def test_a_losss_hessian_has_its_ritz_values(float64):
    op = hj.Hessian(softmax, {"kernel": jnp.zeros((4, 3))}, arrays("float64", X, LABELS))
    t = hj.lanczos(op, KEY, num_steps=12)
    exact = hj.eigvalsh(op)  # three eigenvalues are the softmax's null directions, four of them: found once
    ritz = np.linalg.eigvalsh(tridiagonal(t))
    assert np.abs(ritz[:, None] - exact).min(1).max() < 1e-12


def test_a_start_of_no_direction_is_refused():
    for start in (np.zeros(4), np.full(4, np.nan)):
        with pytest.raises(ValueError, match="start is zero or not finite"):
            hj.lanczos(diagonal(np.ones(4)), KEY, num_steps=2, start=jnp.asarray(start, "float32"))
