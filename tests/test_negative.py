"""Negative fraction: bounds that hold for every probe, and a share that is what it says it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spectra import Count, Counted, diagonal, operator

import hessjax as hj
from hessjax import krylov, negative

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SPECTRA = {
    "a gap": np.r_[RNG.uniform(-2, -0.5, 40), RNG.uniform(0.5, 5, 160)],
    "no gap": RNG.standard_normal(200),
    "a bulk at zero": np.r_[RNG.uniform(-1, -0.5, 20), 1e-9 * RNG.standard_normal(150), RNG.uniform(0.5, 5, 30)],
    "outliers": np.r_[[-30.0, -8.0, 40.0, 100.0], RNG.uniform(-1, 1, 196)],
    "decades": np.sign(RNG.standard_normal(200)) * 10.0 ** RNG.uniform(-6, 2, 200),
}
POINTS = np.r_[np.linspace(-2.1, 2.1, 13), [-35.0, -1e-3, 1e-3, 45.0, 120.0]]


@pytest.mark.parametrize("steps", [2, 10, 90])
@pytest.mark.parametrize("reorthogonalize", ["full", "none"])
def test_bounds_hold_for_every_probe_and_every_point(reorthogonalize, steps, dtype):
    # In the eigenbasis a probe's measure is the squares of its entries. 90 steps without reorthogonalisation have
    # ghosts of every outlier, and the bounds hold of them too.
    eps = float(jnp.finfo(dtype).eps)

    @jax.jit
    def bounds(d, start, x, slack):
        t = hj.lanczos(diagonal(d, dtype), KEY, num_steps=steps, start=start, reorthogonalize=reorthogonalize)
        r = krylov.ritz(t, eps)
        return jax.vmap(lambda y: (negative._below(r, y - slack)[0], negative._below(r, y + slack)[1]))(x)

    many = jax.jit(jax.vmap(bounds, (None, 0, None, None)))
    for values in SPECTRA.values():
        d = np.asarray(jnp.asarray(values, dtype), float)
        starts = np.random.default_rng(1).standard_normal((5, 200)).astype(dtype).astype(float)
        slack = 32 * eps * np.abs(d).max()
        low, high = many(d.astype(dtype), starts.astype(dtype), POINTS.astype(dtype), jnp.asarray(slack, dtype))
        mass = starts**2 / (starts**2).sum(1, keepdims=True)
        exact = mass @ (d[:, None] <= POINTS)
        assert (np.asarray(low) <= exact + 10 * eps).all()
        assert (exact <= np.asarray(high) + 10 * eps).all()


def test_the_mass_at_a_point_is_at_most_the_christoffel_number(float64):
    # By the polynomials themselves, orthonormal to the probe's measure: 1 / sum_k p_k(x)^2.
    d, v = SPECTRA["a gap"], np.random.default_rng(1).standard_normal(200)
    v /= np.linalg.norm(v)
    t = hj.lanczos(diagonal(d, "float64"), KEY, num_steps=10, start=jnp.asarray(v))
    found = jax.jit(krylov.ritz, static_argnums=1)(t, 2.3e-16)
    a, b, x = np.asarray(t.alphas), np.asarray(t.betas), np.r_[-3.0, -1.2, 0.0, 2.2, 7.0]
    p = [0 * x, 1 + 0 * x]
    for k in range(9):
        p.append(((x - a[k]) * p[-1] - (b[k - 1] if k else 0) * p[-2]) / b[k])
    got = jax.jit(jax.vmap(negative._christoffel, (None, 0)))(found, jnp.asarray(x))
    np.testing.assert_allclose(got, 1 / np.sum(np.square(p), 0), rtol=1e-6)
    at_node = negative._christoffel(found, found.values[3])
    assert float(at_node) == pytest.approx(float(found.weights[3]), rel=1e-6)


def test_in_a_gap_nothing_is_unresolved(float64):
    values = np.r_[np.linspace(-2, -1.5, 20), np.linspace(5, 6, 180)]
    found = hj.negative_fraction(diagonal(values, "float64"), KEY, tol=1e-3, num_steps=32, num_probes=40)
    assert float(found.unresolved) < 1e-9  # though Ritz values on their way stand in the gap
    assert abs(float(found.value) - 0.1) < 4 * float(found.std_error)
    assert int(found.num_matvecs) == 32 * 40


def test_two_clusters_are_exact_for_every_probe(dtype):
    found = hj.negative_fraction(operator(np.r_[-np.ones(10), np.ones(30)], dtype), KEY, tol=1e-3, num_probes=60)
    assert float(found.unresolved) < 1e-12
    assert abs(float(found.value) - 0.25) < 4 * float(found.std_error)
    spread = np.sqrt(2 * 0.25 * 0.75 / 42 / 60)  # of a beta variable with 10/2 and 30/2, over 60 probes
    assert float(found.std_error) == pytest.approx(spread, rel=0.3)


@pytest.mark.parametrize("name", SPECTRA)
def test_the_truth_lies_between_the_bounds(name, dtype):
    found = hj.negative_fraction(diagonal(SPECTRA[name], dtype), KEY, tol=1e-3, num_steps=32, num_probes=40)
    truth = (SPECTRA[name] < -float(found.threshold)).mean()
    slack = 4 * float(found.std_error)
    assert float(found.value) - slack <= truth <= float(found.value + found.unresolved) + slack
    low, high = found.interval(40)
    assert float(high - low) == pytest.approx(float(found.unresolved + 2 * 1.96 * found.std_error), abs=1e-6)
    assert float(low + high) == pytest.approx(float(2 * found.value + found.unresolved), abs=1e-6)
    assert float(found.threshold) == pytest.approx(1e-3 * np.abs(SPECTRA[name]).max(), rel=1e-3)


def test_a_bulk_within_the_threshold_is_kept_apart_and_more_steps_resolve_more(float64):
    op = diagonal(SPECTRA["a bulk at zero"], "float64")
    found = hj.negative_fraction(op, KEY, tol=1e-3, num_steps=32, num_probes=40)
    assert float(found.unresolved) < 1e-3  # -1e-3 ||A|| is in a gap
    at_zero = hj.negative_fraction(op, KEY, tol=0.0, num_steps=32, num_probes=40)
    assert abs(float(at_zero.value) - float(found.value)) < float(found.std_error)
    assert abs(float(at_zero.unresolved) - 0.75) < 4 * np.sqrt(2 * 0.75 * 0.25 / 200 / 40)  # nobody knows its sign
    coarse = hj.negative_fraction(diagonal(SPECTRA["no gap"], "float64"), KEY, tol=1e-3, num_steps=8, num_probes=40)
    fine = hj.negative_fraction(diagonal(SPECTRA["no gap"], "float64"), KEY, tol=1e-3, num_steps=32, num_probes=40)
    assert float(fine.unresolved) < float(coarse.unresolved) / 2


def test_what_is_within_rounding_of_zero_is_unresolved_at_tol_zero(dtype):
    values = np.r_[-np.ones(10), np.zeros(20), np.ones(10)]
    found = hj.negative_fraction(operator(values, dtype), KEY, tol=0.0, num_probes=60)
    assert abs(float(found.value) - 0.25) < 4 * float(found.std_error)
    assert abs(float(found.unresolved) - 0.5) < 4 * np.sqrt(2 * 0.25 / 42 / 60)
    assert float(found.threshold) == 0.0


@pytest.mark.parametrize("tol", [0.0, 1e-3])
def test_the_zero_operator_has_no_negative_eigenvalue(tol):
    found = hj.negative_fraction(operator(np.zeros(40)), KEY, tol=tol, num_probes=60)
    assert (float(found.value), float(found.unresolved), float(found.std_error)) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("c", [1e-20, 1e-9, 1e9])
def test_scale_changes_nothing(c, dtype):
    options = {"tol": 1e-3, "num_steps": 32, "num_probes": 40}
    one, other = (hj.negative_fraction(diagonal(x * SPECTRA["a gap"], dtype), KEY, **options) for x in (1.0, c))
    for field in ("value", "std_error", "unresolved"):
        assert float(getattr(other, field)) == pytest.approx(float(getattr(one, field)), abs=1e-3)
    assert float(other.threshold) == pytest.approx(c * float(one.threshold), rel=1e-3)


def test_a_negative_operator_is_all_negative_and_its_negation_none():
    for sign, share in ((-1, 1.0), (1, 0.0)):
        found = hj.negative_fraction(
            diagonal(sign * np.linspace(1, 2, 200)), KEY, tol=1e-3, num_steps=32, num_probes=40
        )
        assert float(found.value) == pytest.approx(share, abs=1e-6)
        assert float(found.std_error) == pytest.approx(0, abs=1e-6)
        assert float(found.unresolved) == pytest.approx(0, abs=1e-6)


def test_a_shift_moves_the_threshold_through_the_spectrum(float64):
    # The share below x is the negative fraction of A - x.
    op = diagonal(SPECTRA["a gap"], "float64")
    for x in (-1.0, 2.0):
        found = hj.negative_fraction(hj.shift(op, -x), KEY, tol=0.0, num_steps=32, num_probes=40)
        truth, slack = (SPECTRA["a gap"] < x).mean(), 4 * float(found.std_error)
        assert float(found.value) - slack <= truth <= float(found.value + found.unresolved) + slack


def test_one_probe_has_no_error_bar_and_what_is_not_finite_no_value():
    one = hj.negative_fraction(diagonal(SPECTRA["a gap"]), KEY, tol=1e-3, num_steps=8, num_probes=1)
    assert np.isnan(one.std_error)
    assert 0 <= float(one.value) <= float(one.value + one.unresolved) <= 1
    bad = hj.negative_fraction(diagonal(np.r_[np.nan, np.ones(199)]), KEY, tol=1e-3, num_steps=8, num_probes=1)
    assert all(np.isnan(x) for x in bad[:4])


def test_products_taken_are_products_counted():
    count = Count()
    op = Counted(diagonal(np.linspace(-1, 1, 300)), count)
    found = hj.negative_fraction(op, KEY, tol=1e-3, num_steps=5, num_probes=3)
    jax.effects_barrier()
    assert int(found.num_matvecs) == count.number == 15


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tol": -1.0}, "tol must be at least 0, got -1.0; it is relative to the largest"),
        ({"tol": np.nan}, "tol must be at least 0, got nan"),
        ({"tol": 0.0, "num_steps": 0}, "num_steps must be a whole number, at least 1"),
        ({"tol": 0.0, "num_probes": 0}, "num_probes must be a whole number, at least 1"),
        ({"tol": 0.0, "reorthogonalize": "half"}, 'reorthogonalize must be "full" or "none"'),
    ],
)
def test_bad_arguments_are_one_line(given, words):
    with pytest.raises(ValueError, match=words):
        hj.negative_fraction(operator(np.ones(3)), KEY, **given)


def test_intervals_cover_the_truth_as_often_as_they_say(float64):
    keys = jax.random.split(jax.random.key(5), 300)
    values = np.r_[np.linspace(-2, -1.5, 20), np.linspace(5, 6, 80)]
    share = lambda k: hj.negative_fraction(diagonal(values, "float64"), k, tol=1e-3, num_steps=14, num_probes=40)
    found = jax.jit(jax.vmap(share))(keys)
    low, high = found.value - 1.96 * found.std_error, found.value + found.unresolved + 1.96 * found.std_error
    assert 0.90 <= float(jnp.mean((low <= 0.2) & (high >= 0.2))) <= 0.99
    assert float(found.unresolved.max()) < float(found.std_error.min()) / 10


def test_atol_repeats_at_the_first_threshold_until_the_error_bar_is_met():
    values = SPECTRA["no gap"]
    op, exact = diagonal(values), np.mean(values < 0)
    once = hj.negative_fraction(op, jax.random.fold_in(KEY, 0), tol=1e-3, num_steps=24, num_probes=10)
    found = hj.negative_fraction(op, KEY, tol=1e-3, num_steps=24, num_probes=10, atol=0.01)
    assert 1.96 * found.std_error <= 0.01 < 1.96 * once.std_error
    assert found.num_matvecs > 240
    assert found.num_matvecs % 240 == 0
    assert found.threshold == once.threshold
    assert found.value - 0.02 <= exact <= found.value + found.unresolved + 0.02
    capped = hj.negative_fraction(op, KEY, tol=1e-3, num_steps=24, num_probes=10, atol=1e-6, max_matvecs=700)
    assert capped.num_matvecs == 480
    assert 1.96 * capped.std_error > 1e-6
    with pytest.raises(ValueError, match=r"atol must be above 0, got 0\.0"):
        hj.negative_fraction(op, KEY, tol=1e-3, atol=0.0)


def test_bfloat16_products_leave_their_rounding_unresolved():
    # Positive semi-definite, 280 zeros: at 4e-3 a product says nothing of their sign.
    x = jax.random.normal(jax.random.key(3), (20, 300)).astype("bfloat16")
    op = hj.Hessian(squares, jnp.ones(300, "bfloat16"), x)
    for steps in (32, 64):
        found = hj.negative_fraction(op, KEY, tol=1e-5, num_probes=40, num_steps=steps)
        assert float(found.value) <= 3 * float(found.std_error) + 1e-6
        assert float(found.value + found.unresolved) >= 0.9


def squares(params, rows):
    return 0.5 * (rows @ params) ** 2
