"""eigsh: any end, any multiplicity, residuals that are true, and failure that is a field."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg
from spectra import matrix, operator

import hessjax as hj

KEY = jax.random.key(1)
RNG = np.random.default_rng(0)
SPECTRA = {
    "outliers": np.r_[[100.0, 50.0, 20.0], RNG.uniform(0, 1, 297)],
    "repeated": np.r_[[5.0, 5, 5, 5, 4, 4, -3, -3], RNG.uniform(-1, 1, 292)],
    "identity": np.ones(300),
    "zero": np.zeros(300),
    "rank 3": np.r_[[3.0, 2.0, 1.0], np.zeros(297)],
    "two points": np.r_[np.ones(150), np.full(150, 5.0)],
}


def wanted(values, k, which):
    v = np.sort(values)
    if which == "LA":
        return v[len(v) - k :]
    if which == "SA":
        return v[:k]
    if which == "LM":
        return np.sort(v[np.argsort(-np.abs(v), kind="stable")[:k]])
    return np.r_[v[: k // 2], v[len(v) - (k - k // 2) :]]


def check(found, a, want, rtol, size):
    assert np.asarray(found.converged).all()
    np.testing.assert_allclose(found.values, want, atol=2 * rtol * size)
    v = np.asarray(found.vectors, float)
    np.testing.assert_allclose(v @ v.T, np.eye(len(v)), atol=1e-4 if found.values.dtype == jnp.float32 else 1e-10)
    residuals = np.linalg.norm(a @ v.T - v.T * np.asarray(found.values, float), axis=0)
    np.testing.assert_allclose(found.residuals, residuals, atol=1e-5 * size)
    assert residuals.max() <= 1.1 * rtol * size + 1e-30


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
@pytest.mark.parametrize("name", SPECTRA)
def test_pairs_are_those_of_the_matrix_multiplicities_counted(name, which, k, dtype):
    values, a = SPECTRA[name], matrix(SPECTRA[name])
    found = hj.eigsh(hj.Matrix(jnp.asarray(a, dtype)), KEY, k=k, which=which)
    check(found, a, wanted(values, k, which), 1e-5, np.abs(values).max())


@pytest.mark.parametrize("c", [1e-9, 1e9])
def test_scale_changes_nothing_relative(c):
    values = c * SPECTRA["repeated"]
    found = hj.eigsh(operator(values), KEY, k=5)
    check(found, matrix(values), wanted(values, 5, "LA"), 1e-5, np.abs(values).max())


def test_three_outliers_are_three_in_float32():
    # PEERS 17: 51 and 10 in the rivals' recurrences.
    values = np.r_[[100.0, 50.0, 20.0], np.random.default_rng(21).uniform(0, 1, 1997)]
    found = hj.eigsh(operator(values), KEY, k=6)
    assert (np.asarray(found.values) > 10).sum() == 3


@pytest.mark.parametrize("n", [1, 2, 6])
def test_all_of_a_small_matrix(n, dtype):
    values = np.array([1.0, 1.0, 2.0, 3.0, 3.0, -1.0])[:n]
    check(hj.eigsh(operator(values, dtype), KEY, k=n), matrix(values), np.sort(values), 1e-5, np.abs(values).max())


def test_scipy_agrees_through_the_export(float64):
    op = operator(np.random.default_rng(22).standard_normal(200), "float64")
    theirs = scipy.sparse.linalg.eigsh(op.to_scipy(), k=4, which="BE", return_eigenvectors=False)
    np.testing.assert_allclose(hj.eigsh(op, KEY, k=4, which="BE", rtol=1e-9).values, np.sort(theirs), atol=1e-8)


def test_lobpcg_agrees(float64):
    from jax.experimental.sparse.linalg import lobpcg_standard

    a = jnp.asarray(matrix(np.random.default_rng(23).standard_normal(200)))
    theirs, _, _ = lobpcg_standard(a, jax.random.normal(KEY, (200, 4)), m=200)
    np.testing.assert_allclose(hj.eigsh(hj.Matrix(a), KEY, k=4).values, np.sort(theirs), atol=1e-5)


def test_lineax_takes_the_export():
    lineax = pytest.importorskip("lineax")
    op, v = operator(np.arange(1.0, 6.0)), jnp.ones(5)
    np.testing.assert_allclose(op.to_lineax().mv(v), op.mv(v), rtol=1e-6)
    assert lineax.is_symmetric(op.to_lineax())


def test_a_budget_that_is_too_small_is_a_field():
    found = hj.eigsh(operator(np.random.default_rng(24).uniform(0, 1, 400)), KEY, k=5, max_matvecs=40, rtol=1e-7)
    assert not np.asarray(found.converged).all()
    assert int(found.num_matvecs) <= 40
    assert np.isfinite(found.values).all()


def test_nan_ends_soon_and_is_a_field():
    op = jax.tree.map(lambda a: a * jnp.nan, operator(np.arange(100.0)))
    found = hj.eigsh(op, KEY, k=2)
    assert np.isnan(found.values).all()
    assert not np.asarray(found.converged).any()
    assert int(found.num_matvecs) < 100


def test_what_is_deflated_is_not_found_again():
    op = operator(SPECTRA["repeated"])
    first = hj.eigsh(op, KEY, k=3)
    second = hj.eigsh(hj.deflate(op, first), KEY, k=3)
    np.testing.assert_allclose(np.r_[second.values, first.values], wanted(SPECTRA["repeated"], 6, "LA"), atol=1e-4)
    with pytest.raises(ValueError, match="k must be at most 297"):
        hj.eigsh(hj.deflate(op, first), KEY, k=298)


def test_an_ensemble_is_a_loop():
    ops = jnp.stack([jnp.asarray(matrix(c * SPECTRA["outliers"][:60]), "float32") for c in (1.0, -2.0, 0.5)])
    top = lambda a: hj.eigsh(jax.tree.map(lambda _: a, operator(np.ones(60))), KEY, k=2).values
    np.testing.assert_allclose(jax.jit(jax.vmap(top))(ops), [top(a) for a in ops], rtol=1e-4)


@pytest.mark.parametrize(("theta", "overlap"), [(2.0, 0.75), (3.0, 8 / 9)])
def test_the_outlier_of_a_spiked_wigner_matrix(theta, overlap, float64):
    # Fact R9 (Baik, Ben Arous & Peche): theta + 1/theta, squared overlap 1 - 1/theta^2.
    g = np.random.default_rng(7).standard_normal((1000, 1000))
    u = np.ones(1000) / 1000**0.5
    a = (g + g.T) / (2 * 1000) ** 0.5 + theta * np.outer(u, u)
    found = hj.eigsh(hj.Matrix(jnp.asarray(a)), KEY, k=1)
    assert float(found.values[0]) == pytest.approx(theta + 1 / theta, abs=0.06)
    assert float(found.vectors[0] @ u) ** 2 == pytest.approx(overlap, abs=0.03)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"k": 0}, "k must be a whole number, at least 1"),
        ({"k": 11}, "k must be at most 10"),
        ({"k": 1, "which": "SM"}, "which must be one of LA, SA, LM, BE; got 'SM'"),
        ({"k": 1, "rtol": 0.0}, "rtol must be above 0"),
        ({"k": 3, "max_matvecs": 3}, "max_matvecs must be a whole number, at least 8"),
    ],
)
def test_bad_arguments_are_one_line(given, words):
    with pytest.raises(ValueError, match=words):
        hj.eigsh(operator(np.ones(10)), KEY, **given)
