"""What the field has published, as checks of the matrix-free estimators: quadrature (Q) and random matrices (R).

Facts Q7 (blocks) are in test_projections.py, G (Gauss-Newton) in test_gauss_newton.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spectra import diagonal, matrix, tridiagonal, within

import hessjax as hj

KEY = jax.random.key(0)
# n = 2000 with the outliers of Q1 and Q3; a random start sees no difference between a diagonal matrix and another.
VALUES = np.r_[[-0.5, 1.0, 2.0, 5.0, 20.0, 100.0], np.random.default_rng(0).uniform(0, 1, 1994)]


def test_q1_a_gauss_rule_is_exact_to_degree_2m_minus_1(float64):
    v = np.random.default_rng(1).standard_normal(2000)
    v /= np.linalg.norm(v)
    t = hj.lanczos(diagonal(VALUES, "float64"), KEY, num_steps=12, start=jnp.asarray(v))
    nodes, vectors = np.linalg.eigh(tridiagonal(t))
    for k in range(24):
        assert vectors[0] ** 2 @ nodes**k == pytest.approx(v**2 @ VALUES**k, rel=1e-10)


def test_q3_ghosts_are_copies_of_an_outlier_and_share_its_weight(dtype):
    op = diagonal(VALUES, dtype)
    runs = {r: hj.lanczos(op, KEY, num_steps=150, reorthogonalize=r) for r in ("full", "none")}
    copies = {r: int(np.sum(np.linalg.eigvalsh(tridiagonal(t)) > 50)) for r, t in runs.items()}
    assert copies["full"] == 1
    assert copies["none"] > 10  # 22 in float64 and 35 in float32 were seen
    q = np.asarray(runs["full"].basis, float)
    assert np.abs(q @ q.T - np.eye(150)).max() < 10 * float(jnp.finfo(dtype).eps)
    full, none = (hj.slq(op, KEY, num_steps=150, num_probes=2, reorthogonalize=r) for r in ("full", "none"))
    above = lambda rule: np.where(np.asarray(rule.nodes) > 50, rule.weights, 0).sum(1)
    np.testing.assert_allclose(above(none), above(full), atol=1e-6)
    assert np.sum((np.asarray(full.nodes) > 50) & (np.asarray(full.weights) > 0), 1).tolist() == [1, 1]


def test_three_outliers_are_three_in_float32():
    # Rivals count 10 to 51 Ritz values above 10 in 80 steps.
    values = np.r_[[100.0, 50.0, 20.0], np.random.default_rng(0).uniform(0, 1, 1997)]
    t = hj.lanczos(diagonal(values), KEY, num_steps=80)
    assert np.sum(np.linalg.eigvalsh(tridiagonal(t)) > 10) == 3
    found = hj.eigsh(diagonal(values), KEY, k=5)
    assert np.sum(np.asarray(found.values) > 10) == 3
    np.testing.assert_allclose(found.values[2:], [20, 50, 100], rtol=1e-5)


def test_q4_hutchinsons_variance_is_the_formula_and_the_error_says_it(float64):
    a = matrix(np.random.default_rng(0).standard_normal(12) * 3)
    found = hj.trace(hj.Matrix(jnp.asarray(a)), KEY, num_probes=200_000, method="hutchinson")
    variance = 2 * (np.linalg.norm(a) ** 2 - (np.diag(a) ** 2).sum())
    assert float(found.std_error) ** 2 * 200_000 == pytest.approx(variance, rel=0.02)
    assert within(found, np.trace(a))


def test_q6_spectral_densitys_kernel_is_a_width(float64):
    # google/spectral-density: sigma_squared = 1e-5 is the variance over the range, the grid ends .01 beyond the nodes.
    one = jnp.ones((2, 1))
    q = hj.Quadrature(jnp.array([[0.0], [1.0]]), one, jnp.asarray(0.0), jnp.int32(2))  # T = 0 and T = 1, a draw each
    grid, width = np.linspace(-0.01, 1.01, 10_000), np.sqrt(1e-5 * 1.0)
    curve = np.asarray(hj.density(q, grid, width=width).value)
    total = np.sum(curve) * (grid[1] - grid[0])
    assert total == pytest.approx(0.9992, abs=1e-4)  # of which the tails outside are 7.8e-4; they renormalise
    for centre in (0.0, 1.0):
        assert grid[np.argmax(np.where(np.abs(grid - centre) < 0.5, curve, 0))] == pytest.approx(centre, abs=1e-4)
        peak = 1 / (2 * width * np.sqrt(2 * np.pi))
        shape = peak * np.exp(-((grid - centre) ** 2) / (2 * width**2))
        np.testing.assert_allclose(curve[np.abs(grid - centre) < 0.5], shape[np.abs(grid - centre) < 0.5], atol=1e-9)
    wide = np.linspace(-0.05, 1.05, 10_000)
    assert np.sum(hj.density(q, wide, width=width).value) * (wide[1] - wide[0]) == pytest.approx(1, abs=1e-6)


def test_r2_the_moments_of_wishart_plus_wigner(float64):
    # Pennington & Bahri (2017): H = (1/m) J J' + Wigner of variance 2 eps, phi = n / m.
    rng, n, phi, eps = np.random.default_rng(0), 1500, 0.25, 0.5
    j, w = rng.standard_normal((n, int(n / phi)), "float32"), rng.standard_normal((n, n), "float32")
    h = np.float64(j @ j.T) * phi / n + np.sqrt(eps / n) * np.float64(w + w.T)
    r = phi + 2 * eps
    formulas = [1, 1 + r, phi**2 + 3 * r + 1, phi**3 + 4 * phi**2 + 2 * r**2 + 6 * r + 1]
    np.testing.assert_allclose(formulas, [1, 2.25, 4.8125, 11.890625])
    h2 = h @ h
    exact = [np.trace(h) / n, np.trace(h2) / n, np.sum(h * h2) / n, np.sum(h2 * h2) / n]
    np.testing.assert_allclose(exact, formulas, rtol=3e-3)
    q = hj.slq(hj.Matrix(jnp.asarray((h + h.T) / 2)), KEY, num_steps=8, num_probes=40)
    for k, moment in enumerate(exact, start=1):
        found = hj.spectral_function(q, lambda x, k=k: x**k)
        assert within(found, moment)
        assert float(found.std_error) < 0.02 * moment


@pytest.mark.parametrize(("theta", "overlap"), [(2.0, 0.75), (3.0, 8 / 9), (0.5, None)])
def test_r9_the_outlier_of_a_spiked_wigner_matrix(theta, overlap):
    # Baik, Ben Arous & Peche: theta + 1/theta and squared overlap 1 - 1/theta^2 above theta = 1; the bulk's edge below.
    g = np.random.default_rng(7).standard_normal((1000, 1000))
    u = np.ones(1000) / 1000**0.5
    a = (g + g.T) / (2 * 1000) ** 0.5 + theta * np.outer(u, u)
    found = hj.eigsh(hj.Matrix(jnp.asarray(a, "float32")), KEY, k=1)
    assert bool(found.converged[0])
    assert float(found.values[0]) == pytest.approx(2 if overlap is None else theta + 1 / theta, abs=0.06)
    squared = float(found.vectors[0] @ jnp.asarray(u, "float32")) ** 2
    assert squared < 0.1 if overlap is None else squared == pytest.approx(overlap, abs=0.03)
