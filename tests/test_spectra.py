"""Spectra without a matrix: outliers, bulk, share and trace against the matrix's, as numbers, as a study, on a page."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from browser import BROWSER, Page, visit
from spectra import diagonal, operator, within

import hessjax as hj
from hessjax import panels, plot, single
from hessjax.config import Sweep

KEY = jax.random.key(0)
VALUES = np.r_[[-9.0, 30.0], np.linspace(-1, 1, 198)]
SMALL = {"landscape": "digits-mlp", "options": {"widths": (4,), "rows": 64}, "times": 1, "num_steps": 20}


@pytest.fixture(scope="module")
def found():
    return hj.spectrum(operator(VALUES), KEY, k=2, num_probes=40)


def test_a_spectrum_that_is_not_finite_has_no_density():
    found = hj.spectrum(hj.Matrix(jnp.full((6, 6), jnp.nan)), KEY, k=2, num_steps=4, num_probes=2)
    with pytest.raises(ValueError, match="this spectrum is not finite, nor was a product"):
        found.grid()


def test_spectrum_is_outliers_bulk_and_negative_share(found):
    np.testing.assert_allclose(found.outliers.values, [-9.0, 30.0], atol=1e-3)
    assert found.size == 200
    truth = (-float(found.negative.threshold) > VALUES).mean()
    low, high = found.negative.value, found.negative.value + found.negative.unresolved
    assert low - 4 * found.negative.std_error <= truth <= high + 4 * found.negative.std_error
    assert within(found.trace, VALUES.sum(), slack=1e-3)
    assert int(found.num_matvecs) == int(found.outliers.num_matvecs) + 40 * 64
    grid = found.grid()
    assert np.trapezoid(found.density(grid).value, grid) == pytest.approx(1, abs=1e-3)


def test_the_density_is_the_exact_one_within_its_error(found):
    width = 0.3
    grid = np.r_[np.linspace(-2, 2, 81), np.linspace(-11, -8, 31), np.linspace(28, 32, 41)]
    curve = found.density(grid, width=width)
    exact = np.exp(-((grid[:, None] - VALUES) ** 2) / (2 * width**2)).mean(1) / (width * np.sqrt(2 * np.pi))
    assert (np.abs(curve.value - exact) <= 4.5 * np.asarray(curve.std_error) + 1e-3 * exact.max()).all()


def test_without_outliers_all_is_bulk():
    none = hj.spectrum(operator(VALUES), KEY, k=0)
    assert len(none.outliers.values) == 0
    assert none.size == 200
    assert np.trapezoid(none.density(none.grid()).value, none.grid()) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("values", [[2.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [-1.0, 0.0, 3.0]])
def test_tiny_and_degenerate_operators_are_finite_and_right(values):
    few = hj.spectrum(operator(values), KEY, k=5)  # at most n - 1 are found one by one
    assert len(few.outliers.values) == len(values) - 1
    assert within(few.trace, sum(values), slack=1e-5)
    assert float(few.negative.value) == pytest.approx(np.mean(np.asarray(values) < 0), abs=1e-5)
    assert float(few.negative.unresolved) < 1e-5
    curve = few.density(few.grid())
    assert np.trapezoid(curve.value, few.grid()) == pytest.approx(1, abs=1e-2)


@pytest.mark.parametrize("c", [1e-9, 1e9])
def test_scale_changes_nothing_relative(found, c):
    scaled = hj.spectrum(operator(c * VALUES), KEY, k=2, num_probes=40)
    np.testing.assert_allclose(scaled.outliers.values / c, found.outliers.values, rtol=1e-4)
    assert float(scaled.trace.value) / c == pytest.approx(float(found.trace.value), rel=1e-2)
    assert float(scaled.negative.value) == pytest.approx(float(found.negative.value), abs=1e-3)
    assert scaled.width() / c == pytest.approx(found.width(), rel=1e-3)


def test_it_is_compiled_and_batched():
    one = lambda c: hj.spectrum(diagonal(VALUES) * c, KEY, k=2, num_probes=4)
    many = jax.jit(jax.vmap(one))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(many.outliers.values[1], 2 * many.outliers.values[0], rtol=1e-4)
    np.testing.assert_allclose(many.trace.value[1], 2 * many.trace.value[0], rtol=1e-3)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"k": -1}, "k must be a whole number, at least 0; got -1"),
        ({"tol": -1e-5}, "tol must be at least 0, got -1e-05"),
        ({"num_steps": 0}, "num_steps must be a whole number"),
        ({"num_probes": 0}, "num_probes must be a whole number"),
        ({"rtol": 0.0}, "rtol must be above 0, got 0"),
    ],
)
def test_bad_arguments_are_one_line(given, words):
    with pytest.raises(ValueError, match=words) as caught:
        hj.spectrum(operator(VALUES), KEY, **given)
    assert "\n" not in str(caught.value)


# ---- one network as a study ----


def test_the_estimated_study_is_of_the_same_network_as_the_exact_one():
    exact = single.exact(Sweep(**SMALL), init=1)
    facts, estimate = single.estimated(Sweep(**SMALL), init=1, k=4, num_probes=40)
    assert single.num_params(Sweep(**SMALL)) == facts["num_params"] == len(exact["eigenvalues"])
    for name in ("loss", "error", "grad_norm"):
        assert facts[name] == pytest.approx(float(exact[name]), rel=1e-4)
    values = exact["eigenvalues"]
    largest = np.sort(values[np.argsort(-np.abs(values))[:4]])
    np.testing.assert_allclose(estimate.outliers.values, largest, atol=1e-4 * largest[-1])
    assert within(estimate.trace, float(exact["trace"]))
    share = np.mean(values < -float(estimate.negative.threshold))
    negative = estimate.negative
    assert negative.value - 4 * negative.std_error <= share
    assert share <= negative.value + negative.unresolved + 4 * negative.std_error


def test_another_init_is_another_network():
    losses = [single.estimated(Sweep(**SMALL), init=i, k=1, num_probes=2)[0]["loss"] for i in (0, 1)]
    assert losses[0] != losses[1]
    with pytest.raises(ValueError, match="init must be at least 0, got -1"):
        single.estimated(Sweep(**SMALL), init=-1)


# ---- figures and the page ----


def test_the_panel_has_a_band_within_reach_and_ticks_at_the_outliers(found):
    panel = panels.estimated(found)
    np.testing.assert_allclose(panel.outliers, [-9.0, 30.0], atol=1e-3)
    assert (panel.low <= panel.value).all()
    assert (panel.value <= panel.high).all()
    assert (panel.high - panel.low).max() > 0
    ax = plot.density(found)
    assert ax.get_xlim()[0] < -9 < 30 < ax.get_xlim()[1]
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"95 %", "density", "one by one"}


def test_the_page_says_what_was_found(found, tmp_path):
    path = hj.report(found, tmp_path / "one.html", facts={"landscape": "mine <&>", "loss": "0.5"})
    text = path.read_text(encoding="utf-8")
    assert "mine &lt;&amp;&gt;: its Hessian spectrum, from products alone" in text
    assert "200 parameters" in text
    assert {p.name for p in (tmp_path / "one_figures").iterdir()} == {"density.png", "overview.png"}


@pytest.mark.skipif(BROWSER is None, reason="no chromium, chromium-browser or google-chrome on PATH")
def test_the_page_draws(found, tmp_path):
    seen = visit(hj.report(found, tmp_path / "one.html"), tmp_path / "visit")
    assert list(Page(seen.dom).drawings) == ["density"]
    assert all(count >= 1 for count in Page(seen.dom).drawings.values())


def test_the_trace_of_what_is_all_outliers_has_an_error_of_rounding():
    w = np.random.default_rng(0).standard_normal((100, 3))
    a = jnp.asarray(w @ w.T, "float32")
    a = (a + a.T) / 2
    z = []
    for seed in range(10):
        found = hj.spectrum(hj.Matrix(a), jax.random.key(seed), k=3, num_probes=4, num_steps=8)
        z.append((float(found.trace.value) - np.trace(np.asarray(a, float))) / float(found.trace.std_error))
    assert np.abs(z).max() < 3
    assert 0 < float(found.trace.std_error) < 1e-4 * float(found.trace.value)


def test_bfloat16_outliers_converge_to_what_their_products_tell():
    a = np.diag(np.r_[[9.0, 8.0, 7.0], np.random.default_rng(0).uniform(-1, 1, 97)])
    found = hj.spectrum(hj.Matrix(jnp.asarray(a, "bfloat16")), jax.random.key(0), k=3)
    assert found.outliers.converged.all()
    np.testing.assert_allclose(found.outliers.values, [7, 8, 9], rtol=2e-2)
    assert repr(found) == "Spectrum(100 eigenvalues: 3 one by one, the rest by 8 probes x 64 steps)"
