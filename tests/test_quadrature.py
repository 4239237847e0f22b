"""Quadrature and what it says: exactness, masses, degenerate spectra, densities within their error."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from problems import SIGNS, X, arrays, logistic
from spectra import operator, rounding

import hessjax as hj

KEY = jax.random.key(0)
OUTLIERS = np.r_[[-0.5, 20.0, 100.0], np.linspace(0.0, 1.0, 197)]


def gaussians(values, grid, width):
    return np.exp(-((grid[:, None] - values) ** 2) / (2 * width**2)).mean(1) / (width * np.sqrt(2 * np.pi))


def test_a_gauss_rule_is_exact_to_degree_2m_minus_1(float64):
    # Fact Q1: n = 2000, m = 12; the moments are of the very vector the rule began with.
    values = np.r_[[-0.5, 1.0, 2.0, 5.0, 20.0, 100.0], np.random.default_rng(0).uniform(0, 1, 1994)]
    v = np.random.default_rng(1).standard_normal(2000)
    v /= np.linalg.norm(v)
    t = hj.lanczos(hj.Matrix(jnp.diag(jnp.asarray(values))), KEY, num_steps=12, start=jnp.asarray(v))
    nodes, vectors = np.linalg.eigh(np.diag(t.alphas) + np.diag(t.betas[:-1], 1) + np.diag(t.betas[:-1], -1))
    for k in range(24):
        assert vectors[0] ** 2 @ nodes**k == pytest.approx(v**2 @ values**k, rel=1e-10)


def test_ghosts_share_their_eigenvalues_weight(dtype):
    # Fact Q3: without reorthogonalisation many Ritz values stand for one outlier, with the weight of one.
    op = operator(OUTLIERS, dtype)
    full = hj.slq(op, KEY, num_steps=90, num_probes=2, reorthogonalize="full")
    none = hj.slq(op, KEY, num_steps=90, num_probes=2)
    above = lambda q: np.where(np.asarray(q.nodes) > 50, q.weights, 0).sum(1)
    np.testing.assert_allclose(above(none), above(full), atol=1e3 * float(jnp.finfo(dtype).eps))
    assert ((np.asarray(full.nodes) > 50) & (np.asarray(full.weights) > 0)).sum(1).tolist() == [1, 1]


@pytest.mark.parametrize("c", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize(
    ("values", "found"),
    [
        (np.r_[[3.0, 2.0, 1.0], np.zeros(57)], [0.0, 1.0, 2.0, 3.0]),
        (np.zeros(60), [0.0]),
        (np.ones(60), [1.0]),
        (np.r_[np.ones(30), np.full(30, 5.0)], [1.0, 5.0]),
    ],
    ids=["rank 3", "zero", "identity", "two points"],
)
def test_degenerate_spectra_have_the_right_nodes_and_empty_slots(values, found, c, dtype):
    q = hj.slq(operator(c * values, dtype), KEY, num_steps=50, num_probes=3)
    used = np.asarray(q.weights) > 0
    assert used.sum(1).max() <= len(found)
    assert np.isfinite(q.nodes).all()
    np.testing.assert_allclose(q.weights.sum(1), 1, rtol=1e-5)
    nodes = np.asarray(q.nodes, float)[used] / c
    assert np.abs(nodes[:, None] - found).min(1).max() < rounding(dtype, values)
    assert int(q.num_matvecs) <= 150


def test_more_steps_than_dimensions_leave_slots_unused_and_are_exact(dtype):
    values = np.array([1.0, 2.0, 4.0])
    q = hj.slq(operator(values, dtype), KEY, num_steps=64, num_probes=4)
    assert q.nodes.shape == (4, 64)
    assert (np.asarray(q.weights)[:, 3:] == 0).all()
    np.testing.assert_allclose(q.nodes[:, :3], np.tile(values, (4, 1)), atol=rounding(dtype, values))
    assert float(q.resolution) == 0.0
    assert int(q.num_matvecs) == 12


def test_resolution_is_the_range_over_the_steps():
    q = hj.slq(operator(np.linspace(0, 10, 300)), KEY, num_steps=20, num_probes=2)
    assert float(q.resolution) == pytest.approx(10 / 20, rel=0.1)
    assert int(q.num_matvecs) == 40


@pytest.mark.parametrize("make", [lambda op: hj.slq(op, KEY, num_probes=40), lambda op: hj.kpm(op, KEY, num_probes=40)])
def test_moments_are_those_of_the_spectrum_within_the_error(make, float64):
    values = np.random.default_rng(2).uniform(-1, 2, 150)
    q = make(operator(values, "float64"))
    for k in (1, 2):
        found = hj.spectral_function(q, lambda x, k=k: x**k)
        # Jackson's kernel widens every eigenvalue, by the resolution at most.
        assert abs(float(found.value) - np.mean(values**k)) < 4 * float(found.std_error) + float(q.resolution) ** 2
    assert (np.asarray(q.weights) >= 0).all()
    np.testing.assert_allclose(q.weights.sum(1), 1, rtol=1e-12)


@pytest.mark.parametrize("values", [np.zeros(30), np.ones(30), np.r_[[9.0], np.zeros(29)], 1e-9 * np.arange(30.0)])
def test_chebyshev_points_enclose_any_spectrum(values, dtype):
    q = hj.kpm(operator(values, dtype), KEY, num_moments=32, num_probes=2)
    assert np.isfinite(q.weights).all()
    slack = rounding(dtype, values) if values.any() else 1.0
    assert float(q.nodes.min()) <= values.min() + slack + float(q.resolution)
    assert float(q.nodes.max()) >= values.max() - slack - float(q.resolution)


def test_two_clusters_and_a_uniform_spectrum_look_it():
    # hessian-eigenthings' cases.
    clusters = hj.slq(operator(np.r_[np.ones(30), np.full(30, 5.0)]), KEY, num_steps=50, num_probes=20)
    assert abs(float(hj.cdf(clusters, jnp.array([3.0])).value[0]) - 0.5) < 0.15
    grid = jnp.linspace(-2, 12, 561)
    flat = hj.slq(operator(np.linspace(0, 10, 200)), KEY, num_steps=80, num_probes=12)
    curve = hj.density(flat, grid, width=0.3).value
    inside = curve[(grid > 1) & (grid < 9)]
    assert float(inside.min() / inside.max()) > 0.5
    assert float(jnp.trapezoid(curve, grid)) == pytest.approx(1, abs=1e-3)


def test_density_is_within_its_error_of_the_exact_one(float64):
    values = np.random.default_rng(3).standard_normal(300)
    grid = np.linspace(-3, 3, 31)
    curve = hj.density(hj.slq(operator(values, "float64"), KEY, num_probes=40), grid, width=0.3)
    z = (np.asarray(curve.value) - gaussians(values, grid, 0.3)) / np.asarray(curve.std_error)
    assert np.abs(z).max() < 4.5  # of 31 correlated points


def test_one_probe_has_no_error_bar():
    q = hj.slq(operator(OUTLIERS), KEY, num_probes=1)
    assert np.isnan(hj.density(q, jnp.array([0.5]), width=5.0).std_error).all()


def test_a_width_below_the_resolution_warns_on_concrete_values_alone():
    q = hj.slq(operator(OUTLIERS), KEY, num_steps=10, num_probes=2)
    with pytest.warns(UserWarning, match="below the quadrature's resolution"):
        hj.density(q, jnp.zeros(1), width=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.jit(lambda q: hj.density(q, jnp.zeros(1), width=0.1))(q)
        hj.density(q, jnp.zeros(1), width=20.0)
    with pytest.raises(ValueError, match="width must be above 0"):
        hj.density(q, jnp.zeros(1), width=0.0)


def test_outliers_and_bulk_recombine_at_their_masses(float64):
    op = operator(OUTLIERS, "float64")
    atoms = hj.eigsh(op, KEY, k=3, which="LM")
    q = hj.slq(hj.deflate(op, atoms), KEY, num_probes=40)
    assert float(q.mass) == pytest.approx(197 / 200)
    assert float(np.abs(q.nodes).max()) < 1.1  # -0.5 is the fourth largest at most: the outliers are gone
    grid = np.linspace(-2, 102, 4001)
    curve = hj.density(q, grid, width=0.2, atoms=atoms)
    assert np.trapezoid(curve.value, grid) == pytest.approx(1, abs=1e-6)
    far = grid > 10
    np.testing.assert_allclose(np.asarray(curve.value)[far], gaussians(OUTLIERS, grid, 0.2)[far], atol=1e-6)
    assert np.abs(np.asarray(curve.value) - gaussians(OUTLIERS, grid, 0.2)).max() < 0.05
    last = hj.cdf(q, jnp.array([-1.0, 50.0, 200.0]), atoms=atoms).value
    np.testing.assert_allclose(last, [0, 199 / 200, 1], atol=1e-9)
    with pytest.raises(ValueError, match=r"take it of the deflated operator"):
        hj.density(hj.slq(op, KEY), grid, width=5.0, atoms=atoms)


def test_functions_of_the_spectrum_are_exact_where_the_rule_is(float64):
    values = np.array([0.5, 1.0, 3.0])
    q = hj.slq(operator(values, "float64"), KEY, num_steps=8, num_probes=400)
    found = hj.spectral_function(q, jnp.log)
    assert abs(float(found.value) - np.log(values).mean()) < 4 * float(found.std_error)


def test_logdet_of_a_portable_case_and_of_what_is_not_positive(float64):
    values = np.r_[1 + np.arange(30) / 200, np.full(170, 1e-3)]  # matfree's
    found = hj.logdet(operator(values, "float64"), KEY, num_steps=10, num_probes=10)
    assert float(found.value) == pytest.approx(np.log(values).sum(), rel=1e-2)
    shifted = hj.logdet(operator(values, "float64"), KEY, shift=1.0, num_probes=40)
    assert abs(float(shifted.value) - np.log(values + 1).sum()) < 4 * float(shifted.std_error)
    assert np.isnan(hj.logdet(operator(-values, "float64"), KEY).value)


def test_an_ensemble_is_a_loop_and_devices_are_one():
    params, batch = jax.random.normal(KEY, (8, 4)), arrays("float32", X, SIGNS)
    rule = lambda p: hj.slq(hj.Hessian(logistic, p, batch), KEY, num_steps=3, num_probes=2)
    alone = [rule(p) for p in params]
    together = jax.jit(jax.vmap(rule))(params)
    mesh = Mesh(np.array(jax.devices()), ("init",), axis_types=(AxisType.Auto,))
    lane = PartitionSpec("init")
    one = lambda p: jax.tree.map(lambda x: jnp.asarray(x)[None], rule(p[0]))
    for check in (True, False):
        spread = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=lane, out_specs=lane, check_vma=check))(params)
        for k in range(8):
            np.testing.assert_allclose(spread.nodes[k], alone[k].nodes, atol=2e-5)
            np.testing.assert_allclose(together.nodes[k], alone[k].nodes, atol=2e-5)
            np.testing.assert_allclose(together.weights[k], alone[k].weights, atol=1e-4)


def test_params_and_data_over_devices_are_one_device():
    x, y = jax.random.normal(KEY, (64, 16)), jnp.ones(64)
    loss = lambda p, b: jnp.logaddexp(0.0, -b[1] * (jnp.tanh(b[0] @ p["w"]) @ p["v"]))
    params = {"w": jax.random.normal(KEY, (16, 8)), "v": jnp.ones(8)}
    mesh = Mesh(np.array(jax.devices()), ("d",), axis_types=(AxisType.Auto,))
    at = lambda tree, *axes: jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*axes)))
    spread = {"w": at(params["w"], None, "d"), "v": at(params["v"], "d")}
    rule = lambda p, b: hj.slq(hj.Hessian(loss, p, b), KEY, num_steps=6, num_probes=2)
    want, got = rule(params, (x, y)), rule(spread, (at(x, "d"), at(y, "d")))
    np.testing.assert_allclose(got.nodes, want.nodes, atol=1e-4 * float(np.abs(want.nodes).max()))


def test_the_random_matrix_moments_of_pennington_and_bahri(float64):
    # Fact R2: H = (1/m) J J' + Wigner, phi = n/m = .25, eps = .5: m1..m4 = 1, 2.25, 4.8125, 11.8906.
    rng, n, m, eps = np.random.default_rng(0), 1500, 6000, 0.5
    j, w = rng.standard_normal((n, m)), rng.standard_normal((n, n))
    h = j @ j.T / m + np.sqrt(2 * eps / n) * (w + w.T) / np.sqrt(2)
    q = hj.slq(hj.Matrix(jnp.asarray(h)), KEY, num_steps=8, num_probes=40)
    for k, want in ((1, 1.0), (2, 2.25), (3, 4.8125), (4, 11.8906)):
        found = hj.spectral_function(q, lambda x, k=k: x**k)
        assert abs(float(found.value) - want) < 0.003 * want + 4 * float(found.std_error)


def test_bfloat16_params_have_float32_recurrences():
    params = jnp.zeros(4, "bfloat16")
    q = hj.slq(hj.Hessian(logistic, params, arrays("bfloat16", X, SIGNS)), KEY, num_steps=4, num_probes=40)
    assert q.nodes.dtype == jnp.float32
    found = hj.spectral_function(q, lambda x: x)
    assert abs(float(found.value) - np.mean(X**2) / 4) < 4 * float(found.std_error) + 0.02  # bfloat16 has 8 bits


def test_spectrum_is_outliers_bulk_and_negative_share(float64):
    values = np.r_[[-9.0, 30.0], np.linspace(-1, 1, 198)]
    found = hj.spectrum(operator(values, "float64"), KEY, k=2, num_probes=40)
    np.testing.assert_allclose(found.outliers.values, [-9.0, 30.0], atol=1e-4)
    assert found.size == 200
    truth = (values < -float(found.negative.threshold)).mean()
    low, high = found.negative.value, found.negative.value + found.negative.unresolved
    assert low - 4 * found.negative.std_error <= truth <= high + 4 * found.negative.std_error
    assert abs(float(found.trace.value) - values.sum()) < 4 * float(found.trace.std_error)
    grid = found.grid()
    assert np.trapezoid(found.density(grid).value, grid) == pytest.approx(1, abs=1e-3)
    none = hj.spectrum(operator(values, "float64"), KEY, k=0)
    assert len(none.outliers.values) == 0
    assert none.size == 200
    assert np.trapezoid(none.density(none.grid()).value, none.grid()) == pytest.approx(1, abs=1e-3)
