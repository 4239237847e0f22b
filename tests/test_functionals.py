"""Densities, distribution functions, traces of functions: arithmetic on nodes against NumPy, errors that cover."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spectra import Count, Counted, cover, diagonal, matrix, within

import hessjax as hj
from hessjax import krylov

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
OUTLIERS = np.r_[[-0.5, 20.0, 100.0], np.linspace(0.0, 1.0, 197)]
NORMAL = np.random.default_rng(3).standard_normal(200)
# Two probes by hand: shares of 1, 2 and 4, and a slot that is not used, at a node where log has no value.
NODES, WEIGHTS = (
    np.array([[1.0, 2.0, 4.0, 0.0], [1.0, 2.0, 4.0, 0.0]]),
    np.array([[0.5, 0.5, 0, 0], [0.25, 0, 0.75, 0]]),
)
GRID = np.linspace(-8, 12, 2001)


def by_hand(dtype="float32", left_out=0.0, resolution=0.0):
    nodes, weights = jnp.asarray(NODES, dtype), jnp.asarray(WEIGHTS, dtype)
    return hj.Quadrature(nodes, weights, jnp.asarray(resolution), jnp.int32(8), left_out)


def gaussians(values, grid, width):
    return np.exp(-((grid[:, None] - values) ** 2) / (2 * width**2)).mean(1) / (width * np.sqrt(2 * np.pi))


def mixture(weights, grid, width):
    return np.exp(-((grid[:, None] - NODES[0]) ** 2) / (2 * width**2)) @ weights / (width * np.sqrt(2 * np.pi))


def pairs(values, n):
    """Eigenpairs of a diagonal matrix: unit vectors, as many as there are values."""
    values = jnp.asarray(values)
    k, dtype = len(values), values.dtype
    return hj.Eigenpairs(values, jnp.eye(k, n, dtype=dtype), jnp.zeros(k, dtype), jnp.ones(k, bool), jnp.int32(0))


def test_density_is_the_mixture_of_gaussians_at_the_nodes(float64):
    curve = hj.density(by_hand("float64"), GRID, width=0.7)
    each = np.stack([mixture(w, GRID, 0.7) for w in WEIGHTS])
    np.testing.assert_allclose(curve.value, each.mean(0), atol=1e-14)
    np.testing.assert_allclose(curve.std_error, each.std(0, ddof=1) / np.sqrt(2), atol=1e-14)
    assert np.trapezoid(curve.value, GRID) == pytest.approx(1, abs=1e-12)


def test_cdf_is_monotone_from_zero_to_one_and_counts_the_point_itself(dtype):
    x = jnp.asarray([-jnp.inf, 0.999, 1.0, 2.0, 3.9, 4.0, jnp.inf], dtype)
    curve = hj.cdf(by_hand(dtype), x)
    np.testing.assert_allclose(curve.value, [0, 0, 0.375, 0.625, 0.625, 1, 1], atol=1e-7)
    np.testing.assert_allclose(curve.std_error, np.array([0, 0, 0.125, 0.375, 0.375, 0, 0]), atol=1e-7)


def test_functions_see_no_slot_that_is_not_used():
    found = hj.spectral_function(by_hand(), jnp.log)
    each = np.log(2) * np.array([0.5, 1.5])
    assert float(found.value) == pytest.approx(each.mean(), rel=1e-6)
    assert float(found.std_error) == pytest.approx(each.std(ddof=1) / 2**0.5, rel=1e-6)
    assert int(found.num_matvecs) == 8
    assert not np.isfinite(hj.spectral_function(by_hand(), lambda x: 1 / (x - 2)).value)  # 2 has weight in one probe


def test_one_probe_has_no_error_bar():
    one = jax.tree.map(lambda x: x[:1] if x.ndim else x, by_hand()._replace(left_out=jnp.float32(0)))
    assert np.isnan(hj.density(one, GRID[:3], width=1.0).std_error).all()
    assert np.isnan(hj.spectral_function(one, jnp.exp).std_error)
    assert float(hj.spectral_function(one, jnp.log).value) == pytest.approx(np.log(2) / 2)


@pytest.mark.parametrize("make", [hj.slq, hj.kpm])
def test_density_and_cdf_are_within_their_errors_of_the_exact_ones(make, float64):
    q = make(diagonal(NORMAL, "float64"), KEY, num_probes=40)
    grid = np.linspace(-3, 3, 31)
    # Jackson's kernel adds its own variance to the Gaussian's, to second order in the resolution.
    bias = 0 if make is hj.slq else float(q.resolution) ** 2 / (2 * 0.3**2) * gaussians(NORMAL, NORMAL, 0.3).max()
    curve = hj.density(q, grid, width=0.3)
    assert (np.abs(curve.value - gaussians(NORMAL, grid, 0.3)) <= 4.5 * np.asarray(curve.std_error) + bias).all()
    steps = hj.cdf(q, grid)
    assert (np.diff(steps.value) >= 0).all()
    truth = (grid[:, None] >= NORMAL).mean(1)
    node = np.asarray(q.weights).max()  # a step stands where a node does
    assert (np.abs(steps.value - truth) <= 4.5 * np.asarray(steps.std_error) + node).all()


def test_a_width_below_the_resolution_warns_on_concrete_values_alone():
    q = by_hand(resolution=0.5)
    with pytest.warns(UserWarning, match=r"width 0\.1 is below the quadrature's resolution 0\.5"):
        hj.density(q, GRID[:1], width=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.jit(lambda q: hj.density(q, GRID[:1], width=0.1))(q)
        jax.jit(lambda width: hj.density(q, GRID[:1], width=width))(0.1)
        hj.density(q, GRID[:1], width=0.5)


@pytest.mark.parametrize("width", [0.0, -1.0, np.nan])
def test_a_width_that_is_none_is_refused(width):
    with pytest.raises(ValueError, match="width must be above 0, in units of the eigenvalues; got"):
        hj.density(by_hand(), GRID[:1], width=width)


def test_everything_is_compiled_and_batched():
    curves = lambda q: (hj.density(q, GRID[:5], width=1.0), hj.cdf(q, GRID[:5]), hj.spectral_function(q, jnp.exp))
    many = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 3), by_hand())
    together = jax.jit(jax.vmap(curves))(many)
    for one, three in zip(jax.tree.leaves(curves(by_hand())), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(three, np.stack([one] * 3), rtol=1e-6, atol=1e-7)


def test_outliers_and_bulk_recombine_at_their_masses(float64):
    op = diagonal(OUTLIERS, "float64")
    atoms = hj.eigsh(op, KEY, k=2, which="LA")
    q = hj.slq(hj.deflate(op, atoms), KEY, num_probes=40)
    assert float(q.left_out) == pytest.approx(2 / 200)
    assert float(np.abs(q.nodes).max()) < 1.1  # the outliers are gone
    grid = np.linspace(-2, 102, 4001)
    curve = hj.density(q, grid, width=0.2, atoms=atoms)
    exact = gaussians(OUTLIERS, grid, 0.2)
    assert np.trapezoid(curve.value, grid) == pytest.approx(1, abs=1e-9)
    far = grid > 10  # atoms' mass is 1/n each, without error
    np.testing.assert_allclose(curve.value[far], exact[far], atol=1e-6)
    assert float(curve.std_error[far].max()) == 0.0
    assert np.trapezoid(curve.value[far], grid[far]) == pytest.approx(2 / 200, abs=1e-6)
    assert (np.abs(curve.value - exact) <= 4.5 * np.asarray(curve.std_error) + 1e-6).all()
    steps = hj.cdf(q, jnp.array([-1.0, 10.0, 50.0, 200.0]), atoms=atoms).value
    np.testing.assert_allclose(steps, [0, 198 / 200, 199 / 200, 1], atol=1e-9)
    for f in (lambda x: x, lambda x: x**2):
        assert within(hj.spectral_function(q, f, atoms=atoms), f(OUTLIERS).mean(), slack=1e-6)
    bulk = hj.spectral_function(q, lambda x: x)  # without atoms: the mean over the n - k eigenvalues left
    assert within(bulk, np.sort(OUTLIERS)[:198].mean(), slack=1e-6)


def test_atoms_that_were_not_deflated_are_refused():
    for left_out, count in ((0.0, 2), (2 / 200, 3), (2 / 200, 1)):
        with pytest.raises(ValueError, match=r"take it of the deflated operator: slq\(deflate\(op, atoms\), key\)"):
            hj.density(
                by_hand(left_out=jnp.float32(left_out)), GRID[:3], width=1.0, atoms=pairs([9.0, 8.0, 7.0][:count], 200)
            )
    hj.density(by_hand(left_out=jnp.float32(2 / 200)), GRID[:3], width=1.0, atoms=pairs([9.0, 8.0], 200))


def test_a_full_rule_is_the_quadratic_form(float64):
    # matfree's case: v' log(A) v with eigenvalues 1 .. 50, m = 49.
    values, v = np.arange(1.0, 51), np.random.default_rng(5).standard_normal(50)
    v /= np.linalg.norm(v)
    a = matrix(values)
    exact = (np.linalg.eigh(a)[1].T @ v) ** 2 @ np.log(values)
    t = hj.lanczos(hj.Matrix(jnp.asarray(a)), KEY, num_steps=49, start=jnp.asarray(v))
    found = jax.jit(krylov.ritz, static_argnums=1)(t, 2.3e-16)
    assert float(found.weights @ np.log(found.values)) == pytest.approx(exact, rel=1e-9)


def test_logdet_of_a_portable_case_and_of_what_is_not_positive(float64):
    values = np.r_[1 + np.arange(30) / 200, np.full(170, 1e-3)]  # matfree's
    found = hj.logdet(diagonal(values, "float64"), KEY, num_steps=10, num_probes=40)
    assert within(found, np.log(values).sum())
    assert float(found.value) == pytest.approx(np.log(values).sum(), rel=1e-2)
    shifted = hj.logdet(diagonal(-values, "float64"), KEY, shift=2.0, num_steps=10, num_probes=40)
    assert within(shifted, np.log(2 - values).sum())
    assert np.isnan(hj.logdet(diagonal(-values, "float64"), KEY, num_steps=10, num_probes=40).value)


def test_logdet_takes_a_moving_shift_and_leaves_out_what_is_deflated(float64):
    values = np.r_[50.0, RNG.uniform(1, 2, 199)]
    op = hj.deflate(diagonal(values, "float64"), pairs([50.0], 200))
    f = jax.jit(lambda c: hj.logdet(op, KEY, shift=c, num_steps=20, num_probes=40))
    for c in (0.0, 1.0):
        assert within(f(c), np.log(values[1:] + c).sum())


def test_intervals_cover_as_often_as_they_say(float64):
    values, grid = np.random.default_rng(1).uniform(0.5, 3, 150), jnp.array([0.8, 1.5, 2.9])
    rule = jax.jit(jax.vmap(lambda k: hj.slq(diagonal(values, "float64"), k, num_steps=16, num_probes=40)))
    many = rule(jax.random.split(jax.random.key(4), 300))
    curve = jax.vmap(lambda q: hj.density(q._replace(resolution=0.0), grid, width=0.25))(many)
    for k, truth in enumerate(gaussians(values, np.asarray(grid), 0.25)):
        assert 0.90 <= cover(curve.value[:, k], curve.std_error[:, k], truth) <= 0.99
    for f, truth in ((jnp.log, np.log(values).mean()), (jnp.square, (values**2).mean())):
        found = jax.vmap(lambda q, f=f: hj.spectral_function(q, f))(many)
        assert 0.90 <= cover(found.value, found.std_error, truth) <= 0.99


def test_a_log_determinants_rtol_is_met():
    values = np.linspace(0.1, 4, 100)
    exact = np.sum(np.log(values + 1))
    found = hj.logdet(diagonal(values), KEY, shift=1.0, num_probes=4, num_steps=16, rtol=0.01)
    assert 1.96 * found.std_error <= 0.01 * found.value
    assert int(found.num_matvecs) > 64
    assert within(found, exact)
    capped = hj.logdet(diagonal(values), KEY, shift=1.0, num_probes=4, num_steps=16, rtol=1e-5, max_matvecs=200)
    assert int(capped.num_matvecs) == 192
    with pytest.raises(ValueError, match="rtol must be above 0, got 0"):
        hj.logdet(diagonal(values), KEY, shift=1.0, rtol=0.0)


def test_an_outlier_of_ten_million_eigenvalues_has_its_mass():
    n = 10**7
    op = diagonal(np.r_[[1e6], np.ones(n - 1)])
    axis = jnp.zeros((1, n)).at[0, 0].set(1.0)
    top = hj.Eigenpairs(jnp.array([1e6]), axis, jnp.zeros(1), jnp.array([True]), jnp.int32(1))
    q = hj.slq(hj.deflate(op, top), KEY, num_steps=2, num_probes=2)
    found = hj.spectral_function(q, lambda x: x, atoms=top)
    assert float(found.value) * n == pytest.approx(1e6 + n - 1, rel=1e-6)
    peak = hj.density(q, jnp.array([1e6]), width=1.0, atoms=top)
    assert float(peak.value[0]) * n == pytest.approx((2 * np.pi) ** -0.5, rel=1e-5)


def test_a_budget_counts_the_products_of_a_whole_batch_though_spaces_are_exhausted():
    op, count = diagonal(np.r_[[3.0, 2.0], np.zeros(500)]), Count()
    found = hj.logdet(Counted(op, count), KEY, shift=1.0, num_probes=4, rtol=1e-9, max_matvecs=1000)
    jax.effects_barrier()
    assert count.number == 3 * 64 * 4  # a fourth batch would not fit
    assert int(found.num_matvecs) < 200  # no more than the rules rest on
