"""eigsh: any end, any multiplicity, residuals that are true, and failure that is a field."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg
from problems import TWO_LAYER, Y2, X, arrays, scaled, two_layer
from spectra import Count, Counted, diagonal, matrix, operator, wanted

import hessjax as hj
from hessjax import trees

KEY = jax.random.key(1)
RNG = np.random.default_rng(0)
SPECTRA = {
    "outliers": np.r_[[100.0, 50.0, 20.0], RNG.uniform(0, 1, 197)],
    "repeated": np.r_[[5.0, 5, 5, 5, 4, 4, -3, -3], RNG.uniform(-1, 1, 192)],
    "clusters": np.r_[[5.0, 4.9999, 4.9998], -4 + 1e-4 * np.arange(3), RNG.uniform(-1, 1, 194)],
    "identity": np.ones(200),
    "zero": np.zeros(200),
    "rank 3": np.r_[[3.0, 2.0, 1.0], np.zeros(197)],
    "two points": np.r_[np.ones(100), np.full(100, 5.0)],
    "of both signs": np.r_[3.0, -3.0, np.linspace(-1, 0.9, 198)],
}


def check(found, a, want, rtol, size):
    """Right values, orthonormal vectors, residuals that are those of the matrix and within the tolerance."""
    eps = float(jnp.finfo(found.values.dtype).eps)
    assert np.asarray(found.converged).all()
    assert (np.diff(found.values) >= 0).all()
    np.testing.assert_allclose(found.values, want, atol=2 * rtol * size)
    v = np.asarray(found.vectors, float)
    np.testing.assert_allclose(v @ v.T, np.eye(len(v)), atol=200 * eps)
    residuals = np.linalg.norm(a @ v.T - v.T * np.asarray(found.values, float), axis=0)
    np.testing.assert_allclose(found.residuals, residuals, atol=20 * eps * size)
    assert residuals.max() <= 1.01 * rtol * size + 20 * eps * size


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
@pytest.mark.parametrize("name", SPECTRA)
def test_pairs_are_those_of_the_matrix_multiplicities_counted(name, which, k, dtype):
    values, a = SPECTRA[name], matrix(SPECTRA[name])
    found = hj.eigsh(hj.Matrix(jnp.asarray(a, dtype)), KEY, k=k, which=which)
    want = wanted(values, k, which)
    if name == "of both signs" and which == "LM" and k == 1:  # 3 and -3 are as large
        want = np.sign(found.values[:1]) * 3
    check(found, a, want, 1e-5, np.abs(values).max())


@pytest.mark.parametrize("k", [2, 3, 4])
def test_any_number_of_pairs(k):
    found = hj.eigsh(diagonal(SPECTRA["repeated"]), KEY, k=k, which="BE")
    check(found, np.diag(SPECTRA["repeated"]), wanted(SPECTRA["repeated"], k, "BE"), 1e-5, 5.0)


@pytest.mark.parametrize("c", [1e-20, 1e-9, 1e9])
def test_scale_changes_nothing_relative(c):
    values = c * SPECTRA["repeated"]
    found = hj.eigsh(operator(values), KEY, k=5)
    check(found._replace(values=found.values / c, residuals=found.residuals / c), matrix(values / c),
          wanted(values / c, 5, "LA"), 1e-5, 5.0)  # fmt: skip


@pytest.mark.parametrize("n", [1, 2, 6])
def test_all_of_a_small_matrix(n, dtype):
    values = np.array([1.0, 1.0, 2.0, 3.0, 3.0, -1.0])[:n]
    check(hj.eigsh(operator(values, dtype), KEY, k=n), matrix(values), np.sort(values), 1e-5, np.abs(values).max())


def test_five_copies_are_found_from_every_start():
    # A copy missed more often than from one start in a hundred would show.
    values = np.r_[[3.0] * 5, RNG.uniform(-1, 1, 195)]
    top = jax.jit(jax.vmap(lambda k: hj.eigsh(diagonal(values), k, k=5).values))
    found = top(jax.random.split(jax.random.key(0), 300))
    np.testing.assert_allclose(found, np.full((300, 5), 3.0), rtol=2e-5)


def test_hessian_eigenthings_wishart_and_its_shift():
    g = np.random.default_rng(3).standard_normal((40, 40))
    a = g.T @ g / 40
    exact = np.linalg.eigvalsh(a)
    op = hj.Matrix(jnp.asarray((a + a.T) / 2, "float32"))
    top = hj.eigsh(op, KEY, k=5, which="LM")
    np.testing.assert_allclose(top.values, exact[-5:], rtol=1e-5)
    gram = np.asarray(top.vectors) @ np.asarray(top.vectors).T
    np.testing.assert_allclose(gram, np.eye(5), atol=2e-6)
    shifted = hj.shift(op, -0.5)
    np.testing.assert_allclose(hj.eigsh(shifted, KEY, k=4).values, exact[-4:] - 0.5, atol=1e-5 * exact[-1])
    np.testing.assert_allclose(hj.eigsh(shifted, KEY, k=3, which="SA").values, exact[:3] - 0.5, atol=1e-5 * exact[-1])


def test_scipy_agrees_through_the_export(float64):
    op = operator(RNG.standard_normal(200), "float64")
    theirs = scipy.sparse.linalg.eigsh(op.to_scipy(), k=5, which="BE", return_eigenvectors=False)
    np.testing.assert_allclose(hj.eigsh(op, KEY, k=5, which="BE").values, np.sort(theirs), atol=1e-8)


def test_matfree_and_lobpcg_agree(float64):
    from jax.experimental.sparse.linalg import lobpcg_standard

    a = jnp.asarray(matrix(RNG.standard_normal(200)))
    ours = hj.eigsh(hj.Matrix(a), KEY, k=5).values
    theirs, _, _ = lobpcg_standard(a, jax.random.normal(KEY, (200, 5)), m=200)
    np.testing.assert_allclose(ours, np.sort(theirs), atol=1e-5)
    decomp = pytest.importorskip("matfree.decomp")
    t = decomp.tridiag_sym(120)(lambda v: a @ v, jnp.ones(200)).J_small
    np.testing.assert_allclose(ours, np.linalg.eigvalsh(t)[-5:], atol=1e-8)


def test_lineax_takes_the_export():
    lineax = pytest.importorskip("lineax")
    op, v = operator(np.arange(1.0, 6.0)), jnp.ones(5)
    np.testing.assert_allclose(op.to_lineax().mv(v), op.mv(v), rtol=1e-6)
    assert lineax.is_symmetric(op.to_lineax())


def test_vectors_have_the_tree_of_the_params(float64):
    op = hj.Hessian(two_layer, scaled(TWO_LAYER, 1.0, "float64"), arrays("float64", X, Y2))
    found = hj.eigsh(op, KEY, k=3, which="BE", rtol=1e-8)
    values, vectors = np.linalg.eigh(np.asarray(hj.dense(op)))
    np.testing.assert_allclose(found.values, values[[0, -2, -1]], atol=1e-12)
    flat = np.asarray(jax.vmap(lambda q: trees.ravel(q)[0])(found.vectors))
    np.testing.assert_allclose(np.abs(np.sum(flat.T * vectors[:, [0, -2, -1]], 0)), 1, atol=1e-12)


def test_bfloat16_params_are_iterated_in_float32():
    c = jnp.arange(1.0, 41.0, dtype="bfloat16")
    found = hj.eigsh(hj.Hessian(lambda p: jnp.sum(c * p**2) / 2, jnp.ones(40, "bfloat16")), KEY, k=2, rtol=1e-2)
    assert found.values.dtype == jax.tree.leaves(found.vectors)[0].dtype == jnp.float32
    np.testing.assert_allclose(found.values, [39, 40], atol=0.5)  # 8 bits


def test_products_taken_are_products_counted_restarts_and_all():
    count = Count()
    found = hj.eigsh(Counted(diagonal(SPECTRA["repeated"]), count), KEY, k=5, num_steps=12)
    jax.effects_barrier()
    assert int(found.num_matvecs) == count.number > 3 * 12
    assert np.asarray(found.converged).all()


def test_a_budget_that_is_too_small_is_a_field():
    values = RNG.uniform(0, 1, 200)
    found = hj.eigsh(operator(values), KEY, k=5, max_matvecs=40, rtol=1e-7)
    assert not np.asarray(found.converged).all()
    assert int(found.num_matvecs) <= 40
    v = np.asarray(found.vectors, float)
    residuals = np.linalg.norm(matrix(values) @ v.T - v.T * np.asarray(found.values, float), axis=0)
    np.testing.assert_allclose(found.residuals, residuals, atol=1e-5)  # honest all the same
    least = hj.eigsh(operator(values), KEY, k=5, max_matvecs=14)
    assert int(least.num_matvecs) <= 14
    assert np.isfinite(least.values).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_ends_soon_and_is_a_field(value):
    found = hj.eigsh(diagonal(np.r_[np.ones(199), value]), KEY, k=4, which="BE")
    assert np.isnan(found.values).all()
    assert not np.asarray(found.converged).any()
    assert int(found.num_matvecs) < 100


def test_what_is_deflated_is_not_found_again():
    op = operator(SPECTRA["repeated"])
    first = hj.eigsh(op, KEY, k=3)
    second = hj.eigsh(hj.deflate(op, first), KEY, k=3)
    np.testing.assert_allclose(np.r_[second.values, first.values], wanted(SPECTRA["repeated"], 6, "LA"), atol=1e-4)
    overlap = np.asarray(first.vectors) @ np.asarray(second.vectors).T
    np.testing.assert_allclose(overlap, 0, atol=2e-6)
    with pytest.raises(ValueError, match="k must be at most 197"):
        hj.eigsh(hj.deflate(op, first), KEY, k=198)


def test_an_ensemble_is_a_loop():
    d = jnp.asarray(np.stack([c * SPECTRA["outliers"] for c in (1.0, -2.0, 0.5)]), "float32")
    top = lambda x: hj.eigsh(diagonal(x), KEY, k=2)[:4]
    together, alone = jax.jit(jax.vmap(top))(d), [top(x) for x in d]
    for k, one in enumerate(alone):
        np.testing.assert_allclose(together[0][k], one[0], rtol=1e-5)
        assert np.asarray(together[3][k]).all()
        assert np.asarray(one[3]).all()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"k": 0}, "k must be a whole number, at least 1"),
        ({"k": 11}, "k must be at most 10"),
        ({"k": 1, "which": "SM"}, "which must be one of LA, SA, LM, BE; got 'SM'"),
        ({"k": 1, "rtol": 0.0}, "rtol must be above 0"),
        ({"k": 3, "max_matvecs": 3}, "max_matvecs must be a whole number, at least 10"),
        ({"k": 3, "num_steps": 4}, "num_steps must be a whole number, at least 7"),
    ],
)
def test_bad_arguments_are_one_line(given, words):
    with pytest.raises(ValueError, match=words):
        hj.eigsh(operator(np.ones(10)), KEY, **given)
