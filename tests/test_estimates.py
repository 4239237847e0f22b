"""Means, their errors, and stopping at an accuracy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from spectra import diagonal

from hessjax import arguments
from hessjax.estimates import Estimate, half_width, mean, normal_equivalent, to_accuracy

KEY = jax.random.key(0)
OP = diagonal(np.ones(2))


@pytest.mark.parametrize("c", [1e-30, 1.0, 1e30])
def test_mean_and_standard_error_are_scipys_at_any_scale(c, dtype):
    samples = c * np.random.default_rng(0).standard_normal((12, 3)).astype(dtype).astype(float)
    value, error = mean(jnp.asarray(samples, dtype))
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(value, samples.mean(0), rtol=50 * eps)
    np.testing.assert_allclose(error, stats.sem(samples, axis=0), rtol=50 * eps)


def test_equal_samples_have_no_error_and_one_sample_an_unknown_one():
    assert [float(x) for x in mean(jnp.full(5, 2.0))] == [2.0, 0.0]
    value, error = mean(jnp.array([[1.0, 2.0]]))
    assert value.tolist() == [1.0, 2.0]
    assert np.isnan(error).all()
    assert all(np.isnan(x) for x in mean(jnp.array([1.0, jnp.nan])))


@pytest.mark.parametrize(("probes", "width"), [(40, 1.96), (1000, 1.96), (8, stats.t.ppf(0.975, 7)), (2, 12.706)])
def test_an_interval_is_students(probes, width):
    error = {"a": jnp.array([0.5, 0.0, jnp.nan]), "b": jnp.float32(2.0)}
    value = {"a": jnp.array([1.0, 2.0, 3.0]), "b": jnp.float32(-1.0)}
    low, high = Estimate(value, error, jnp.int32(1)).interval(probes)
    for end, sign in ((low, -1), (high, 1)):
        np.testing.assert_allclose(end["a"], [1 + sign * width / 2, 2, np.nan], rtol=1e-4)
        np.testing.assert_allclose(end["b"], -1 + sign * width * 2, rtol=1e-4)


def test_one_probe_has_an_interval_only_where_it_is_exact():
    one = lambda error: Estimate(jnp.float32(1.0), jnp.float32(error), jnp.int32(1)).interval(1)
    assert [float(x) for x in one(0.0)] == [1.0, 1.0]
    assert all(bool(jnp.isnan(x)) for x in one(jnp.nan))


@pytest.mark.parametrize(("samples", "probes"), [(2, 4), (5, 10), (20, 40), (50, 100), (3, 3)])
def test_the_normal_equivalent_is_the_ratio_of_quantiles(samples, probes):
    t = lambda count: stats.t.ppf(0.975, count - 1)
    want = t(samples) / (1.96 if probes >= 40 else t(probes))
    assert normal_equivalent(samples, probes) == pytest.approx(want, rel=1e-9)
    assert normal_equivalent(1, probes) == np.inf


@pytest.mark.parametrize(("probes", "count"), [(2, 1), (8, 1), (8, 3), (39, 1)])
def test_few_samples_have_students_interval(probes, count):
    assert half_width(probes, count) == pytest.approx(stats.t.ppf(0.975, count * (probes - 1)), rel=1e-9)
    assert half_width(probes, -(-40 // probes)) == 1.96


def batches(errors):
    """Estimates 1, 2, 3, ... with given standard errors, told apart by their keys, at 3 products each."""
    keys = jnp.stack([jax.random.key_data(jax.random.fold_in(KEY, i)) for i in range(len(errors))])

    def batch(key):
        i = jnp.argmax(jnp.all(keys == jax.random.key_data(key), axis=1))
        return Estimate(i + 1.0, jnp.asarray(errors)[i], jnp.int32(3))

    return batch


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ({"atol": 2.0, "max_matvecs": 100}, 1),  # 1.96 of the first's error is enough
        ({"atol": 1.2, "max_matvecs": 100}, 3),  # 1.96 sqrt(3) / 3 = 1.13; of two, 1.39
        ({"rtol": 0.6, "max_matvecs": 100}, 3),  # the mean is 2
        ({"rtol": 0.3, "atol": 0.6, "max_matvecs": 100}, 3),
        ({"atol": 2.4, "max_matvecs": 100, "num_probes": 8}, 1),  # t of 7: 2.36
        ({"atol": 1.51, "max_matvecs": 100, "num_probes": 8}, 3),  # of 14: 2.145 / sqrt(2) = 1.517
        ({"atol": 1.52, "max_matvecs": 100, "num_probes": 8}, 2),
        ({"atol": 1.96, "max_matvecs": 100, "num_probes": 20}, 2),  # t of 19: 2.09; 40 samples: 1.39
        ({"atol": 1e-9, "max_matvecs": 14}, 4),  # a fifth would break the budget
        ({"atol": 1e-9, "max_matvecs": 15}, 5),
        ({"atol": 1e-9, "max_matvecs": 0}, 1),  # at least one
    ],
)
def test_batches_are_taken_until_the_error_bar_is_met_or_the_budget_spent(given, count):
    found = to_accuracy(OP, KEY, batches([1.0] * 8), each=3, **given)
    assert int(found.num_matvecs) == 3 * count
    assert float(found.value) == pytest.approx((count + 1) / 2)
    assert float(found.std_error) == pytest.approx(count**-0.5, rel=1e-6)


def test_no_spread_of_fewer_than_eight_samples_is_believed():
    few = to_accuracy(OP, KEY, batches([1e-9] * 8), rtol=0.1, num_probes=2, each=3, max_matvecs=100)
    assert int(few.num_matvecs) == 4 * 3
    spent = to_accuracy(OP, KEY, batches([1e-9] * 8), rtol=0.1, num_probes=2, each=3, max_matvecs=6)
    assert int(spent.num_matvecs) == 6


@pytest.mark.parametrize(
    ("atol", "budget", "count"), [(0.6, 100, 3), (0.1, 100, 3 + 10), (0.1, 18, 3), (0.1, 19, 3 + 10)]
)
def test_an_exact_answer_is_taken_where_it_is_cheaper_and_affordable(atol, budget, count):
    """10 products say it without error; three batches of 3 fit before them."""
    exact = Estimate(jnp.float32(7.0), jnp.float32(0.0), jnp.int32(10))
    options = {"atol": 1.96 * atol, "each": 3, "max_matvecs": budget, "exact": (lambda: exact, 10)}
    found = to_accuracy(OP, KEY, batches([1.0] * 8), **options)
    assert int(found.num_matvecs) == (9 if count == 3 else 9 + 10)
    assert (float(found.std_error) == 0) == (count > 3)
    assert float(found.value) == (7.0 if count > 3 else 2.0)


def test_an_interval_is_of_one_probe_or_more():
    with pytest.raises(ValueError, match="num_probes must be a whole number, at least 1; got 0"):
        Estimate(jnp.float32(1.0), jnp.float32(0.1), jnp.int32(1)).interval(0)


def test_an_unknown_error_stops_at_once():
    found = to_accuracy(OP, KEY, batches([np.nan] * 8), rtol=0.1, each=3, max_matvecs=100)
    assert int(found.num_matvecs) == 3
    assert np.isnan(found.std_error)


def test_errors_whose_squares_vanish_still_count():
    found = to_accuracy(OP, KEY, batches([1e-30] * 8), atol=1.5e-30, each=3, max_matvecs=100)
    assert int(found.num_matvecs) == 6
    assert float(found.std_error) == pytest.approx(1e-30 / 2**0.5, rel=1e-5)


def test_an_exact_estimate_is_enough():
    found = to_accuracy(OP, KEY, batches([0.0] * 8), rtol=1e-9, each=3, max_matvecs=100)
    assert (float(found.value), float(found.std_error), int(found.num_matvecs)) == (1.0, 0.0, 3)


def test_accuracy_is_static_in_no_part_of_it():
    traces = []

    @jax.jit
    def run(rtol, budget):
        traces.append(1)
        return to_accuracy(OP, KEY, batches([1.0] * 8), rtol=rtol, each=3, max_matvecs=budget).num_matvecs

    assert [int(run(0.6, 100)), int(run(0.3, 100)), int(run(0.3, 9))] == [9, 15, 9]
    assert len(traces) == 1


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_an_accuracy_that_cannot_be_reached_is_refused(value):
    with pytest.raises(ValueError, match="rtol must be above 0, got"):
        arguments.check_accuracy("rtol", value, 10, 100)
    assert arguments.check_accuracy("rtol", None, 1, 100) == 100


def test_one_probe_has_no_error_bar_to_stop_at():
    with pytest.raises(ValueError, match="rtol needs num_probes of at least 2, for one has no error bar; got 1"):
        arguments.check_accuracy("rtol", 0.1, 1, 100)


@pytest.mark.parametrize("budget", [0, -3, 2.5, "many", True])
def test_a_budget_is_a_whole_number_of_products_and_may_be_huge(budget):
    with pytest.raises(ValueError, match="max_matvecs must be a whole number, at least 1; got"):
        arguments.check_accuracy("rtol", 0.1, 10, budget)
    assert arguments.check_accuracy("rtol", 0.1, 10, 10**12) == 2**30
