"""Nodes and weights: exact where the rule is, right on degenerate spectra, honest of resolution and cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import SIGNS, X, arrays, logistic
from spectra import Count, Counted, diagonal, operator, rounding, within

import hessjax as hj
from hessjax import krylov

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
OUTLIERS = np.r_[[-0.5, 20.0, 100.0], np.linspace(0.0, 1.0, 197)]


@pytest.mark.parametrize("c", [1e-20, 1.0, 1e9])
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
    q = hj.slq(operator(c * values, dtype), KEY, num_steps=50, num_probes=20)
    used = np.asarray(q.weights) > 0
    assert used.sum(1).max() <= len(found)
    assert np.isfinite(q.nodes).all()
    np.testing.assert_allclose(q.weights.sum(1), 1, rtol=1e-5)
    nodes = np.asarray(q.nodes, float)[used] / c
    assert np.abs(nodes[:, None] - found).min(1).max() < rounding(dtype, values)
    assert int(q.num_matvecs) <= 1000
    share = np.where(np.abs(np.asarray(q.nodes, float) / c - found[-1]) < 0.1, q.weights, 0).sum(1)
    exact = (values == found[-1]).mean()  # a probe's share of an eigenspace is a beta variable
    assert np.abs(share - exact).max() <= 4 * np.sqrt(2 * exact * (1 - exact) / 62) + 1e-6


def test_more_steps_than_dimensions_leave_slots_unused_and_are_exact(dtype):
    values = np.array([1.0, 2.0, 4.0])
    q = hj.slq(operator(values, dtype), KEY, num_steps=64, num_probes=4)
    assert q.nodes.shape == (4, 64)
    assert (np.asarray(q.weights)[:, 3:] == 0).all()
    np.testing.assert_allclose(q.nodes[:, :3], np.tile(values, (4, 1)), atol=rounding(dtype, values))
    assert float(q.resolution) == 0.0
    assert int(q.num_matvecs) == 12


def test_resolution_is_the_range_over_the_steps_and_zero_where_exact():
    q = hj.slq(diagonal(np.linspace(0, 10, 200)), KEY, num_steps=80, num_probes=12)
    assert float(q.resolution) == pytest.approx(10 / 80, rel=0.02)
    assert float(hj.slq(operator(np.ones(60)), KEY, num_steps=50, num_probes=20).resolution) == 0.0


def test_products_taken_are_products_counted():
    count = Count()
    q = hj.slq(Counted(diagonal(np.linspace(-1, 1, 300)), count), KEY, num_steps=7, num_probes=5)
    jax.effects_barrier()
    assert int(q.num_matvecs) == count.number == 35


def test_two_chebyshev_moments_come_from_each_product():
    count = Count()
    q = hj.kpm(Counted(diagonal(np.linspace(-1, 1, 300)), count), KEY, num_moments=9, num_probes=3)
    jax.effects_barrier()
    assert q.weights.shape == (3, 9)
    assert int(q.num_matvecs) == count.number == 32 + 3 * 4  # 32 bound the spectrum


def test_without_reorthogonalisation_integrals_are_the_same(dtype):
    # 80 steps on outliers lose all orthogonality, and the rule loses nothing by it.
    op = diagonal(OUTLIERS, dtype)
    full, none = (hj.slq(op, KEY, num_steps=80, num_probes=12, reorthogonalize=r) for r in ("full", "none"))
    eps = float(jnp.finfo(dtype).eps)
    for f in (lambda x: x, lambda x: x**2, lambda x: x**5, lambda x: jnp.exp(x / 50), lambda x: jnp.exp(-(x**2))):
        one, other = (np.sum(np.asarray(f(q.nodes) * q.weights, float), 1) for q in (full, none))
        np.testing.assert_allclose(other, one, rtol=1e3 * eps)
    np.testing.assert_allclose(none.weights.sum(1), 1, rtol=80 * eps)


@pytest.mark.parametrize("make", [lambda op: hj.slq(op, KEY, num_probes=40), lambda op: hj.kpm(op, KEY, num_probes=40)])
def test_moments_are_those_of_the_spectrum_within_the_error(make, float64):
    values = np.random.default_rng(2).uniform(-1, 2, 200)
    q = make(diagonal(values, "float64"))
    for k in (1, 2):
        # Jackson's kernel widens every eigenvalue, by the resolution at most.
        found = hj.spectral_function(q, lambda x, k=k: x**k)
        assert within(found, np.mean(values**k), slack=float(q.resolution) ** 2)
    assert (np.asarray(q.weights) >= 0).all()
    np.testing.assert_allclose(q.weights.sum(1), 1, rtol=1e-12)


def test_kpm_is_the_damped_chebyshev_series_of_its_probes(float64):
    # Weisse et al. (2006), eq. (71): the kernel's damping, and the probe's own moments by arccos.
    values, m = np.random.default_rng(2).uniform(-1, 2, 200), 32
    op = diagonal(values, "float64")
    q = hj.kpm(op, KEY, num_moments=m, num_probes=3)
    angles = np.pi * (np.arange(m)[::-1] + 0.5) / m
    radius = float(q.nodes[0, -1] - q.nodes[0, 0]) / 2 / np.cos(angles[-1])
    centre = float(q.nodes[0, -1] + q.nodes[0, 0]) / 2
    np.testing.assert_allclose(q.nodes, np.tile(centre + radius * np.cos(angles), (3, 1)), atol=1e-12)
    assert centre - radius < values.min()
    assert values.max() < centre + radius < values.max() + 0.2
    k, p = np.arange(m), np.pi / (m + 1)
    g = ((m - k + 1) * np.cos(p * k) + np.sin(p * k) / np.tan(p)) / (m + 1)
    chebyshev = np.cos(np.outer(k, np.arccos((values - centre) / radius)))
    for row, key in enumerate(jax.random.split(jax.random.split(KEY)[1], 3)):
        v = np.asarray(krylov.unit_start(op, key))
        series = (2 - (k == 0)) * g * (chebyshev @ v**2)
        np.testing.assert_allclose(q.weights[row], np.cos(np.outer(angles, k)) @ series / m, atol=1e-12)
    assert float(q.resolution) == pytest.approx(np.pi / m * radius)


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(200),
        np.ones(200),
        np.r_[[9.0], np.zeros(199)],
        1e-9 * np.arange(200.0),
        1e9 * OUTLIERS,
        np.r_[np.linspace(-1, 1, 199), 1.05],
        RNG.standard_normal(200),
    ],
)
def test_chebyshev_points_enclose_any_spectrum(values, dtype):
    q = hj.kpm(diagonal(values, dtype), KEY, num_moments=32, num_probes=2)
    assert np.isfinite(q.weights).all()
    np.testing.assert_allclose(q.weights.sum(1), 1, rtol=1e-5)
    edge = (float(q.nodes.max()) - float(q.nodes.min())) * (1 / np.cos(np.pi / 64) - 1) / 2  # to the interval's end
    slack = rounding(dtype, values, c=0.1)
    assert float(q.nodes.min()) - edge <= values.min() + slack
    assert float(q.nodes.max()) + edge >= values.max() - slack


def test_two_clusters_and_a_uniform_spectrum_look_it():
    # hessian-eigenthings' cases.
    clusters = hj.slq(operator(np.r_[np.ones(30), np.full(30, 5.0)]), KEY, num_steps=50, num_probes=20)
    grid = jnp.linspace(-2, 12, 561)
    curve = np.asarray(hj.density(clusters, grid, width=0.1).value)
    assert np.trapezoid(curve[grid < 3], grid[grid < 3]) == pytest.approx(0.5, abs=0.15)
    assert float(grid[np.argmax(np.where(grid < 3, curve, 0))]) == pytest.approx(1.0, abs=0.02)
    assert float(grid[np.argmax(np.where(grid > 3, curve, 0))]) == pytest.approx(5.0, abs=0.02)
    flat = hj.slq(diagonal(np.linspace(0, 10, 200)), KEY, num_steps=80, num_probes=12)
    curve = hj.density(flat, grid, width=0.3).value
    inside = curve[(grid > 1) & (grid < 9)]
    assert float(inside.min() / inside.max()) > 0.5
    assert float(jnp.trapezoid(curve, grid)) == pytest.approx(1, abs=1e-3)


def test_papyans_spectrum_is_near_in_wasserstein_distance():
    # Three outliers on a Wishart bulk, n = 2000 (Papyan 2019, figure 15a).
    rng = np.random.default_rng(3)
    z = rng.standard_normal((2000, 1000)).astype("float32")
    a = z @ z.T / 2000
    a[:3, :3] += np.diag([5.0, 4.0, 3.0]).astype("float32")
    exact = np.linalg.eigvalsh(a)
    steps, probes = 32, 10
    q = hj.slq(hj.Matrix(jnp.asarray((a + a.T) / 2)), KEY, num_steps=steps, num_probes=probes)
    grid = np.linspace(exact[0] - 0.1, exact[-1] + 0.1, 4001)
    truth = np.searchsorted(exact, grid, side="right") / 2000
    distance = np.trapezoid(np.abs(np.asarray(hj.cdf(q, grid).value) - truth), grid)
    # A rule of degree 2m - 1 is within pi/(4m) of the range of its measure (Jackson's theorem); the mean of the
    # probes' measures has at each point the deviation sqrt(2 F (1 - F) / (n probes)).
    rule = np.pi / (4 * steps) * (exact[-1] - exact[0])
    chance = np.trapezoid(np.sqrt(2 * truth * (1 - truth) / (2000 * probes)), grid)
    assert distance < rule + 4 * chance
    for value in exact[-3:]:  # each outlier is a node, of weight 1/n in the mean
        near = np.abs(np.asarray(q.nodes) - value) < 1e-3
        assert near.any(1).all()
        share = np.where(near, q.weights, 0).sum(1)
        assert abs(share.mean() - 1 / 2000) < 4 * np.sqrt(2 / probes) / 2000


def test_bfloat16_params_have_float32_recurrences():
    params = jnp.zeros(4, "bfloat16")
    q = hj.slq(hj.Hessian(logistic, params, arrays("bfloat16", X, SIGNS)), KEY, num_steps=4, num_probes=40)
    assert q.nodes.dtype == jnp.float32
    found = hj.spectral_function(q, lambda x: x)
    assert within(found, np.mean(X**2) / 4, slack=0.02)  # bfloat16 has 8 bits


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("make", [hj.slq, hj.kpm])
def test_what_is_not_finite_has_no_weights(make, value):
    q = make(diagonal(np.r_[np.ones(199), value]), KEY, num_probes=2)
    assert np.isnan(q.weights).all()
    assert np.isnan(hj.spectral_function(q, jnp.ones_like).value)
    assert np.isnan(hj.logdet(diagonal(np.r_[np.ones(199), value]), KEY, num_probes=2).value)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda op: hj.slq(op, KEY, num_steps=0), "num_steps must be a whole number, at least 1; got 0"),
        (lambda op: hj.slq(op, KEY, num_probes=0), "num_probes must be a whole number, at least 1; got 0"),
        (lambda op: hj.slq(op, KEY, reorthogonalize="some"), 'reorthogonalize must be "full" or "none"'),
        (lambda op: hj.kpm(op, KEY, num_moments=1), "num_moments must be a whole number, at least 2; got 1"),
        (lambda op: hj.kpm(op, KEY, num_probes=-1), "num_probes must be a whole number, at least 1; got -1"),
    ],
)
def test_bad_arguments_are_one_line(call, words, untyped):
    with pytest.raises(ValueError, match=words):
        call(diagonal(np.ones(5)))
    with pytest.raises(TypeError, match=r"wanted an operator such as hj\.Matrix\(a\)"):
        call(jnp.eye(5))


def test_nested_trees_have_the_nodes_of_their_matrix(float64):
    loss = lambda p: jnp.sum(jnp.tanh(p["a"] @ p["b"]) ** 2) + p["c"] ** 4
    op = hj.Hessian(loss, {"a": jnp.asarray(RNG.standard_normal((3, 4))), "b": jnp.ones(4) / 2, "c": jnp.array(0.3)})
    q, exact = hj.slq(op, KEY, num_steps=18, num_probes=40), np.asarray(hj.eigvalsh(op))
    assert within(hj.spectral_function(q, lambda x: x), exact.mean())
    used = np.asarray(q.nodes)[np.asarray(q.weights) > 0]
    assert np.abs(used[:, None] - exact).min(1).max() < 1e-9


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("width", [0.0, 1e-6, 1e-5])
def test_kpm_of_a_spectrum_as_narrow_as_rounding_is_finite(width, dtype):
    values = 3.3 * (1 + width * np.random.default_rng(0).standard_normal(50))
    for seed in range(3):
        q = hj.kpm(diagonal(values, dtype), jax.random.key(seed))
        np.testing.assert_allclose(q.weights.sum(1), 1, rtol=1e-5)
        mean = np.sum(np.asarray(q.nodes) * np.asarray(q.weights), 1)
        np.testing.assert_allclose(mean, 3.3, atol=3 * float(q.resolution))


def test_float16_is_not_asked_for_what_it_has_no_digits_for():
    q = hj.slq(diagonal(np.full(10**6, 1e-4), "float16"), KEY, num_steps=4, num_probes=2)
    seen = np.asarray(q.nodes)[np.asarray(q.weights) > 0]
    np.testing.assert_allclose(seen, float(jnp.float16(1e-4)), rtol=5e-3)
