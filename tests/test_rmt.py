"""Random-matrix laws against closed forms, a fixed point that knows nothing of them, and random matrices."""

import numpy as np
import pytest
from scipy import integrate

from hessjax import rmt
from hessjax.free_laws import FreeLaw

EPS = float(np.finfo(float).eps)
# Both ends of both arguments, zeros of either, more parameters than data, and a gap between two bands.
PAIRS = [(1e-9, 0.5), (1e-3, 0.0), (0.25, 0.5), (0.25, 1e-9), (0.5, 100.0), (1.0, 0.0), (1.0, 1e-6), (2.0, 1e-3),
         (2.0, 0.3), (50.0, 0.1), (0.0, 0.5), (3.0, 0.0)]  # fmt: skip
LAWS = [rmt.wishart_plus_wigner(*pair) for pair in PAIRS]
LAWS += [
    rmt.wishart_plus_relu(phi, eps) for phi, eps in [(0.25, 0.5), (0.9, 1e-4), (3.0, 0.5), (0.01, 3.0), (0.5, 50.0)]
]
LAWS += [rmt.semicircle(0.3), rmt.wishart_plus_wigner(0.5, 0.1, wishart=-2.0, wigner=0.5)]
laws = pytest.mark.parametrize("law", LAWS, ids=str)


def nodes(law, count=400):
    """Points and weights for integrals over the continuous part: x = cos of an angle takes the edges' roots away."""
    angle, weight = np.polynomial.legendre.leggauss(count)
    angle, weight = (angle + 1) * np.pi / 2, weight * np.pi / 2
    bands = law.bands()
    x = np.concatenate([(a + b) / 2 - (b - a) / 2 * np.cos(angle) for a, b in bands])
    return x, np.concatenate([(b - a) / 2 * np.sin(angle) * weight for a, b in bands])


@laws
def test_the_density_and_the_atom_are_all_the_mass_and_have_the_moments_of_the_free_cumulants(law):
    x, w = nodes(law, 1500)
    mass = w * law.density(x)
    assert mass.sum() + law.atom == pytest.approx(1, abs=1e-9)
    for k in range(1, 6):
        size = np.sum(mass * np.abs(x) ** k) + law.atom * abs(law.shift) ** k
        assert np.sum(mass * x**k) + law.atom * law.shift**k == pytest.approx(law.moments(k), abs=1e-9 * size)


@laws
def test_the_distribution_function_is_the_integral_of_the_density(law):
    bands = law.bands()
    for low, high in bands:
        for share in (0.01, 0.3, 0.8):
            a, b = low + share * (high - low), low + (share + 0.15) * (high - low)
            mass, error = integrate.quad(lambda x: float(law.density(x)), a, b, epsabs=1e-11, epsrel=1e-11, limit=200)
            assert law.cdf(b) - law.cdf(a) == pytest.approx(mass, abs=1e-10 + 10 * error)
    low, high = law.edges()
    assert law.cdf([low - 1, high + 1]).tolist() == [0.0, 1.0]
    assert (np.diff(law.cdf(np.linspace(low - 0.1, high + 0.1, 1001))) >= -100 * EPS).all()


def test_the_distribution_is_level_in_a_gap_and_steps_at_an_atom():
    law = rmt.wishart_plus_relu(3.0, 0.5)  # bands on either side of an atom at 0
    (_, a), (b, _) = law.bands()
    assert a < 0 < b
    assert law.atom == pytest.approx(1 / 3)
    below, above = law.cdf(a), law.cdf(b)
    np.testing.assert_allclose(law.cdf([a / 2, -1e-9]), below, atol=1e-12)
    np.testing.assert_allclose(law.cdf([0.0, b / 2]), above, atol=1e-12)
    assert above - below == pytest.approx(law.atom, abs=1e-12)
    # Each band of this one is the image of as many columns: 1 / (2 phi) of negative jumps.
    assert law.negative_fraction() == pytest.approx(1 / 6, abs=1e-12)


@pytest.mark.parametrize("sigma", [1e-3, 1.0, 40.0])
def test_the_semicircle_is_the_closed_form(sigma):
    law, x = rmt.semicircle(sigma), np.linspace(-2, 2, 801)
    np.testing.assert_allclose(law.density(sigma * x) * sigma, np.sqrt(4 - x**2) / (2 * np.pi), atol=1e-12)
    exact = 0.5 + x * np.sqrt(4 - x**2) / (4 * np.pi) + np.arcsin(x / 2) / np.pi
    np.testing.assert_allclose(law.cdf(sigma * x), exact, atol=1e-12)
    np.testing.assert_allclose(law.edges(), (-2 * sigma, 2 * sigma), rtol=4 * EPS)


@pytest.mark.parametrize("phi", [1e-9, 1e-4, 0.25, 1.0, 4.0, 1e3])
def test_marchenko_pastur_is_the_closed_form(phi):
    law, a, b = rmt.marchenko_pastur(phi), (1 - phi**0.5) ** 2, (1 + phi**0.5) ** 2
    x = a + (b - a) * np.linspace(0.001, 0.999, 500)
    exact = np.sqrt((b - x) * (x - a)) / (2 * np.pi * phi * x)
    # Edges of a narrow law are known to eps of its place, not of its width.
    np.testing.assert_allclose(law.density(x), exact, atol=exact.max() * (1e-10 + 100 * EPS / (b - a)))
    np.testing.assert_allclose(law.edges(), (a, b), atol=8 * EPS * b)
    assert law.atom == pytest.approx(max(0.0, 1 - 1 / phi), abs=1e-12)
    assert float(law.cdf(0.0)) == pytest.approx(law.atom, abs=1e-12)
    assert law.negative_fraction() == 0.0


@pytest.mark.parametrize(("phi", "eps"), [(0.25, 0.5), (0.5, 0.02), (2.0, 0.3), (0.9, 3.0)])
def test_wishart_plus_wigner_solves_its_fixed_point(phi, eps):
    # G(z) = G_MP(z - 2 eps G(z)) (Pastur), iterated above the axis, where it contracts; the density is smeared by Im z.
    def stieltjes_of_mp(z):
        root = np.sqrt(z - (1 + phi**0.5) ** 2) * np.sqrt(z - (1 - phi**0.5) ** 2)
        return (z + phi - 1 - root) / (2 * phi * z)

    law, height = rmt.wishart_plus_wigner(phi, eps), 0.05
    x = np.linspace(*law.edges(), 7)
    z, g = x + 1j * height, np.full(7, -1j)
    for _ in range(3000):
        g = 0.5 * g + 0.5 * stieltjes_of_mp(z - 2 * eps * g)
    points, weights = nodes(law, 1500)
    mass = weights * law.density(points)
    np.testing.assert_allclose(np.sum(mass / (z[:, None] - points), axis=1), g, atol=1e-8)


def test_r2_published_moments_of_wishart_plus_wigner():
    for phi, eps in PAIRS:
        r = phi + 2 * eps
        want = [1, 1 + r, phi**2 + 3 * r + 1, phi**3 + 4 * phi**2 + 2 * r**2 + 6 * r + 1]
        np.testing.assert_allclose(rmt.wishart_plus_wigner(phi, eps).moments([1, 2, 3, 4]), want, rtol=1e-12)


@pytest.mark.parametrize("index", [2, 8, 12, 13, -2, -1])
def test_a_random_matrix_follows_its_law_to_a_few_of_its_eigenvalues(index):
    n = 800
    values = LAWS[index].sample(n, seed=3)
    # Counts of such matrices vary by about log(n) / pi^2 < 1, and finite sizes shift edges: 4 eigenvalues of 800.
    assert np.abs(LAWS[index].cdf(values) - (np.arange(n) + 0.5) / n).max() < 4 / n
    np.testing.assert_array_equal(values, LAWS[index].sample(n, seed=3))


def test_the_relu_model_is_its_block_matrix():
    # [[0, C], [C', 0]], C = A B' over Gaussian A, B, is free of the Wishart part, as the model has it.
    rng, n, phi, eps = np.random.default_rng(5), 1200, 0.5, 0.4
    half, p = n // 2, int(n // 2 / phi)
    c = rng.standard_normal((half, p)) @ rng.standard_normal((p, half)) / p * np.sqrt(eps * phi / 2 * p / half)
    j = rng.standard_normal((n, int(n / phi)))
    h = j @ j.T * phi / n
    h[:half, half:] += c
    h[half:, :half] += c.T
    law = rmt.wishart_plus_relu(phi, eps)
    assert np.abs(law.cdf(np.linalg.eigvalsh(h)) - (np.arange(n) + 0.5) / n).max() < 6 / n


PUBLISHED = {0.1: 0.0834345884812358, 0.25: 0.0435095264191645, 0.5: 0.0112712429686843, 2 / 3: 0.00310315465477947,
             0.9: 7.66589858261983e-5}  # fmt: skip


@pytest.mark.parametrize("phi", PUBLISHED)
def test_r1_the_critical_energy_is_published_and_is_where_the_lower_edge_is_zero(phi):
    eps = float(rmt.critical_energy(phi))
    assert eps == pytest.approx(PUBLISHED[phi], rel=1e-13)
    assert eps == pytest.approx((1 - 20 * phi - 8 * phi**2 + (1 + 8 * phi) ** 1.5) / 16, abs=1e-14)
    relu, chi = float(rmt.critical_energy(phi, "relu")), 1 + 16 * phi - 8 * phi**2
    assert relu == pytest.approx((27 - 18 * chi - chi**2 + 8 * chi**1.5) / (32 * phi * (1 - phi) ** 3), rel=1e-9)
    for model, start, law in (("wigner", eps, rmt.wishart_plus_wigner), ("relu", relu, rmt.wishart_plus_relu)):
        assert law(phi, start).edges()[0] == pytest.approx(0, abs=1e-12)
        assert float(rmt.index_curve(start * 0.999, phi, model)) == 0.0
        assert float(rmt.index_curve(start * 1.001, phi, model)) > 0.0


def test_there_is_no_critical_energy_beyond_as_many_parameters_as_data():
    for model in ("wigner", "relu"):
        assert rmt.critical_energy([1.0, 1.5, 1e6], model).tolist() == [0.0, 0.0, 0.0]
        assert np.isnan(rmt.index_law_coefficient([1.0, 7.0], model)).all()
    assert np.isnan(rmt.index_law([0.0, 0.5], 1.5)).all()
    # A vanishing Wigner part spreads the zeros evenly to both sides.
    assert float(rmt.index_curve(1e-12, 4.0)) == pytest.approx(0.75 / 2, abs=1e-6)
    assert float(rmt.critical_energy(0.0)) == pytest.approx(1 / 8)  # 1 + a semicircle of radius 2 sqrt(2 eps)


@pytest.mark.parametrize("phi", [1e-6, 0.1, 0.5, 0.9])
def test_the_index_law_is_the_published_coefficient_and_the_curves_leading_term(phi):
    eps = float(rmt.critical_energy(phi))
    g = (4 * phi - 1 + np.sqrt(1 + 8 * phi)) / (4 * phi * (1 - phi))
    bend = abs(2 * phi**2 / (1 + phi * g) ** 3 - 2 / g**3)
    published = 2 / (3 * np.pi) * np.sqrt(2 / bend) * (2 * g * eps) ** 1.5
    assert float(rmt.index_law_coefficient(phi)) == pytest.approx(published, rel=1e-8)
    for model in ("wigner", "relu"):
        start = float(rmt.critical_energy(phi, model))
        for above in (1e-2, 1e-3):
            ratio = float(
                rmt.index_curve(start * (1 + above), phi, model) / rmt.index_law(start * (1 + above), phi, model)
            )
            assert ratio == pytest.approx(1, abs=2 * above)  # the next term is of relative order eps - eps_c
    assert rmt.index_law([0.0, eps], phi).tolist() == [0.0, 0.0]


def test_the_index_curve_rises_to_one_half():
    curve = rmt.index_curve(np.linspace(0, 5, 60), 0.25)
    assert (np.diff(curve) >= 0).all()
    # At large energies H is Wigner around its mean 1: one half less density at 0 times 1.
    eps = 1e8
    assert float(rmt.index_curve(eps, 0.25)) == pytest.approx(0.5 - 1 / (np.pi * np.sqrt(2 * eps)), abs=1e-7)


def test_r9_outliers_are_those_of_baik_ben_arous_and_peche():
    law = rmt.semicircle(1.0)
    for theta in (1.5, 2.0, 3.0):
        value, overlap = law.outlier(theta).value, law.outlier(theta).overlap
        assert (value, overlap) == pytest.approx((theta + 1 / theta, 1 - 1 / theta**2), rel=1e-12)
        assert law.outlier(-theta).value == pytest.approx(-value, rel=1e-12)
    assert law.outlier(0.9) == rmt.Outlier(2.0, 0.0)
    assert law.outlier(-0.9) == rmt.Outlier(-2.0, 0.0)


@pytest.mark.parametrize(("law", "theta"), [
    (rmt.wishart_plus_wigner(4.0, 1e-3), 0.5),
    (FreeLaw(jumps=(-1.0,), rates=(0.25,), variance=1e-3), -0.3),
])  # fmt: skip
def test_an_outlier_may_split_off_into_a_gap(law, theta):
    n, rng = 800, np.random.default_rng(5)
    j, w = rng.standard_normal((n, n // 4)), rng.standard_normal((n, n))
    h = law.jumps[0] / n * (j @ j.T) + np.sqrt(law.variance / (2 * n)) * (w + w.T)
    h[0, 0] += theta
    values, vectors = np.linalg.eigh(h)
    found = law.outlier(theta)
    nearest = np.abs(values - found.value).argmin()
    assert values[nearest] == pytest.approx(found.value, abs=4 * abs(theta) / n**0.5)
    assert vectors[0, nearest] ** 2 == pytest.approx(found.overlap, abs=4 / n**0.5)
    still = FreeLaw(jumps=law.jumps, rates=law.rates, variance=1e-12).outlier(theta)
    none = FreeLaw(jumps=law.jumps, rates=law.rates).outlier(theta)
    assert (still.value, still.overlap) == pytest.approx((none.value, none.overlap), abs=1e-6)


@pytest.mark.parametrize("law", [rmt.wishart_plus_relu(1e8, 1e-16), rmt.wishart_plus_relu(1e12, 1.0)], ids=str)
def test_distribution_functions_rise_at_the_most_extreme_ratios(law):
    for low, high in law.bands():
        x = (low + high) / 2 - (high - low) / 2 * np.cos(np.linspace(0, np.pi, 801))
        assert (np.diff(law.cdf(x)) >= -1e-7).all()


def test_numbers_that_are_none_are_not_an_exception():
    law = rmt.semicircle()
    np.testing.assert_array_equal(law.cdf([np.nan, -np.inf, np.inf, 1e200]), [np.nan, 0, 1, 1])
    np.testing.assert_array_equal(law.density([np.nan, -np.inf, 1e200]), [np.nan, 0, 0])
    assert np.isnan(rmt.spacing_ratio_density(np.nan))
    assert float(rmt.index_curve(1e-120, 4.0)) == pytest.approx(0.375, abs=1e-9)
    assert rmt.wishart_plus_wigner(100.0, 1e-300).negative_fraction() == pytest.approx(0.495, abs=1e-9)


def test_outliers_of_other_laws_are_those_of_random_matrices():
    n, law, theta = 1500, rmt.wishart_plus_wigner(0.25, 0.1), 2.5
    rng = np.random.default_rng(1)
    j, w = rng.standard_normal((n, 4 * n)), rng.standard_normal((n, n))
    h = j @ j.T / (4 * n) + np.sqrt(0.2 / (2 * n)) * (w + w.T)
    h[0, 0] += theta
    values, vectors = np.linalg.eigh(h)
    found = law.outlier(theta)
    assert values[-1] == pytest.approx(found.value, abs=4 * 2 * theta / n**0.5)  # Gaussian of order 1 / sqrt(n)
    assert vectors[0, -1] ** 2 == pytest.approx(found.overlap, abs=4 / n**0.5)
    assert values[-2] == pytest.approx(law.edges()[1], abs=5 * n ** (-2 / 3))  # Tracy-Widom


def test_a_spiked_covariance_is_sampled_as_predicted():
    rng, n, samples, spike = np.random.default_rng(2), 400, 1600, 3.0
    x = rng.standard_normal((n, samples))
    x[0] *= spike**0.5
    values, vectors = np.linalg.eigh(x @ x.T / samples)
    found = rmt.spiked_covariance(spike, n / samples)
    assert values[-1] == pytest.approx(found.value, abs=4 * spike * (2 / samples) ** 0.5)
    assert vectors[0, -1] ** 2 == pytest.approx(found.overlap, abs=0.05)
    assert rmt.spiked_covariance(1.4, 0.25) == rmt.Outlier(2.25, 0.0)


def test_t6_definiteness_odds_are_the_closed_forms():
    exact = [1 / 2, (2 - 2**0.5) / 4, (np.pi - 2 * 2**0.5) / (4 * np.pi)]
    np.testing.assert_allclose([rmt.goe_odds(n).minimum for n in (1, 2, 3)], exact, rtol=1e-11)
    for n in (1, 2, 10):
        assert rmt.coin_flip(n) == (0.5**n, 0.5**n, 1 - 0.5 ** (n - 1))
    assert rmt.goe_odds(2).minimum < rmt.coin_flip(2).minimum  # eigenvalues repel


def test_t6_definiteness_odds_are_those_of_random_matrices():
    rng, draws = np.random.default_rng(0), 400_000
    for n in (3, 4):
        g = rng.standard_normal((draws, n, n))
        positive = np.ones(draws, bool)  # by leading minors: no eigenvalues of so many
        g = g + g.transpose(0, 2, 1)
        for k in range(1, n + 1):
            positive &= np.linalg.det(g[:, :k, :k]) > 0
        p = rmt.goe_odds(n).minimum
        assert positive.mean() == pytest.approx(p, abs=4 * (p / draws) ** 0.5)


def test_definiteness_falls_at_the_rate_of_dean_and_majumdar():
    logs = np.log([rmt.goe_odds(n).minimum for n in (19, 20, 21)])
    # log P = -(log 3 / 4) n^2 + ...: second differences, to the 1 / n^2 of the next terms.
    assert logs[0] - 2 * logs[1] + logs[2] == pytest.approx(-np.log(3) / 2, abs=2e-3)
    # By de Bruijn's Pfaffian in arithmetic of 120 digits.
    for n, exact in ((30, 3.781e-113), (40, 2.567e-198), (50, 2.433e-307)):
        assert rmt.goe_odds(n).minimum == pytest.approx(exact, rel=2e-4)
    assert [rmt.goe_odds(n).minimum for n in (61, 300)] == [0.0, 0.0]


def test_spacing_ratios_tell_correlated_levels_from_others():
    rng, n = np.random.default_rng(0), 400
    free = rmt.spacing_ratios(rng.uniform(size=20_000))
    assert free.mean() == pytest.approx(rmt.mean_spacing_ratio("poisson"), abs=4 * free.std() / len(free) ** 0.5)
    bulk = np.concatenate([rmt.spacing_ratios(rmt.semicircle().sample(n, seed)[100:300]) for seed in range(40)])
    # .5307 of large matrices (Atas et al., table I); neighbours' ratios are correlated, so twice the error of as many.
    assert bulk.mean() == pytest.approx(0.5307, abs=8 * bulk.std() / len(bulk) ** 0.5)
    assert rmt.spacing_ratios([0.0, 0.0, 0.0]).tolist() == [1.0]


@pytest.mark.parametrize("ensemble", ["poisson", "goe", "gue", "gse"])
def test_spacing_ratio_densities_have_mass_one_and_their_means(ensemble):
    density = lambda r: float(rmt.spacing_ratio_density(r, ensemble))
    assert integrate.quad(density, 0, 1)[0] == pytest.approx(1, abs=1e-10)
    assert integrate.quad(lambda r: r * density(r), 0, 1)[0] == pytest.approx(
        rmt.mean_spacing_ratio(ensemble), abs=1e-10
    )
    assert rmt.spacing_ratio_density([-0.1, 1.1], ensemble).tolist() == [0.0, 0.0]


def test_three_by_three_ratios_follow_the_surmise():
    g = np.random.default_rng(4).standard_normal((20_000, 3, 3))
    values = np.linalg.eigvalsh(g + g.transpose(0, 2, 1))
    ratios = np.sort([rmt.spacing_ratios(v)[0] for v in values])
    grid = np.linspace(0, 1, 2001)
    density = rmt.spacing_ratio_density(grid)
    cdf = np.interp(ratios, grid, integrate.cumulative_trapezoid(density, grid, initial=0))
    assert np.abs(cdf - np.arange(20_000) / 20_000).max() < 1.95 / 20_000**0.5  # Kolmogorov-Smirnov, one in a thousand


def test_laws_take_arrays_of_any_shape_and_give_them_back():
    law = rmt.wishart_plus_wigner(0.25, 0.5)
    assert law.density(np.zeros((2, 3))).shape == law.cdf(np.zeros((2, 3))).shape == (2, 3)
    assert law.density(0.0).shape == law.moments(2).shape == ()
    assert law.moments(np.arange(6).reshape(2, 3)).shape == (2, 3)
    assert rmt.index_law(np.ones((2, 1)), np.full(3, 0.5)).shape == (2, 3)
    assert FreeLaw(shift=2.0).edges() == (2.0, 2.0)
    assert FreeLaw(shift=2.0).cdf([1.9, 2.0]).tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rmt.semicircle(-1.0), "sigma must be finite and at least 0, got -1.0"),
        (lambda: FreeLaw(variance=-1.0), "variance must be at least 0"),
        (lambda: FreeLaw(jumps=(1.0,), rates=()), "as many rates as jumps"),
        (lambda: FreeLaw(jumps=(0.0,), rates=(1.0,)), "jumps not 0"),
        (lambda: rmt.wishart_plus_wigner(0.5, 0.5, wishart=float("nan")), "finite numbers"),
        (lambda: rmt.marchenko_pastur([0.5, 0.2]), "phi must be one number"),
        (lambda: rmt.spacing_ratios([1.0, 2.0j, 3.0]), "complex"),
        (lambda: rmt.marchenko_pastur(float("nan")), "phi must be finite"),
        (lambda: rmt.wishart_plus_wigner(0.5, -0.1), "eps must be finite and at least 0"),
        (lambda: rmt.wishart_plus_relu(float("inf"), 0.1), "phi must be finite"),
        (lambda: rmt.critical_energy([0.5, -1.0]), "phi must be finite and at least 0"),
        (lambda: rmt.critical_energy(0.5, "tanh"), "model must be one of wigner, relu; got 'tanh'"),
        (lambda: rmt.index_curve(0.5, 0.5, "tanh"), "model must be one of"),
        (lambda: rmt.goe_odds(0), "n must be a whole number, at least 1; got 0"),
        (lambda: rmt.coin_flip(2.5), "n must be a whole number"),
        (lambda: rmt.spacing_ratios([1.0, 2.0]), "three or more finite numbers"),
        (lambda: rmt.mean_spacing_ratio("gxe"), "ensemble must be one of poisson, goe, gue, gse"),
        (lambda: rmt.spiked_covariance(0.5, 0.2), "spike must be at least 1"),
        (lambda: rmt.semicircle().moments(-1), "k must be whole numbers, at least 0"),
        (lambda: rmt.semicircle().moments(1.5), "k must be whole numbers"),
    ],
)
def test_bad_arguments_are_answered_in_one_line(call, words, untyped):
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
