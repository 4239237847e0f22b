"""Negative fraction: bounds that hold for every probe, and a share that is what it says it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spectra import matrix, operator

import hessjax as hj
from hessjax.krylov import Ritz, ritz
from hessjax.negative import _below

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)
SPECTRA = {
    "a gap": np.r_[RNG.uniform(-2, -0.5, 40), RNG.uniform(0.5, 5, 160)],
    "no gap": RNG.standard_normal(200),
    "a bulk at zero": np.r_[RNG.uniform(-1, -0.5, 20), 1e-9 * RNG.standard_normal(150), RNG.uniform(0.5, 5, 30)],
}


@pytest.mark.parametrize("steps", [3, 10, 40])
@pytest.mark.parametrize("name", SPECTRA)
def test_bounds_hold_for_every_probe_and_every_point(name, steps, float64):
    values, n = SPECTRA[name], 200
    starts = np.random.default_rng(1).standard_normal((5, n))
    starts /= np.linalg.norm(starts, axis=1, keepdims=True)
    for v in starts:  # in the eigenbasis the probe's measure is the squares of its entries
        t = hj.lanczos(hj.Matrix(jnp.diag(jnp.asarray(values))), KEY, num_steps=steps, start=jnp.asarray(v))
        r = Ritz(*ritz(t, 2.3e-16))
        for x in (-1.7, -0.4, -1e-3, 0.1, 2.0):
            low, high = _below(r, jnp.asarray(x))
            exact = v[values <= x] @ v[values <= x]
            assert low - 1e-10 <= exact <= high + 1e-10


def test_in_a_gap_less_is_unresolved_than_the_probes_scatter(float64):
    values = np.r_[np.linspace(-2, -1.5, 20), np.linspace(5, 6, 80)]
    found = hj.negative_fraction(operator(values, "float64"), KEY, tol=1e-3, num_probes=40)
    assert float(found.unresolved) < float(found.std_error)  # a Ritz value on its way may stand in the gap
    assert abs(float(found.value) - 0.2) < 4 * float(found.std_error)


def test_two_clusters_are_exact_for_every_probe(dtype):
    found = hj.negative_fraction(operator(np.r_[-np.ones(10), np.ones(30)], dtype), KEY, tol=1e-3, num_probes=60)
    assert float(found.unresolved) < 1e-12
    assert abs(float(found.value) - 0.25) < 4 * float(found.std_error)


@pytest.mark.parametrize("name", SPECTRA)
def test_the_truth_lies_between_the_bounds(name, dtype):
    found = hj.negative_fraction(operator(SPECTRA[name], dtype), KEY, tol=1e-3, num_probes=40)
    truth = (SPECTRA[name] < -float(found.threshold)).mean()
    slack = 4 * float(found.std_error)
    assert float(found.value) - slack <= truth <= float(found.value + found.unresolved) + slack
    assert float(found.threshold) == pytest.approx(1e-3 * np.abs(SPECTRA[name]).max(), rel=1e-3)


def test_what_is_within_rounding_of_zero_is_unresolved_at_tol_zero():
    values = np.r_[-np.ones(10), np.zeros(30), np.ones(10)]
    found = hj.negative_fraction(operator(values), KEY, tol=0.0, num_probes=40)
    assert abs(float(found.value) - 0.2) < 4 * float(found.std_error)
    assert abs(float(found.unresolved) - 0.6) < 4 * float(found.std_error)


@pytest.mark.parametrize("tol", [0.0, 1e-3])
def test_the_zero_operator_has_no_negative_eigenvalue(tol):
    found = hj.negative_fraction(operator(np.zeros(20)), KEY, tol=tol)
    assert (float(found.value), float(found.unresolved), float(found.std_error)) == (0.0, 0.0, 0.0)


def test_scale_changes_nothing():
    one, small = (hj.negative_fraction(operator(c * SPECTRA["a gap"]), KEY, tol=1e-3) for c in (1.0, 1e-9))
    assert float(small.value) == pytest.approx(float(one.value), abs=1e-4)
    assert float(small.threshold) == pytest.approx(1e-9 * float(one.threshold), rel=1e-3)


def test_a_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match="tol must be at least 0, got -1"):
        hj.negative_fraction(operator(np.ones(3)), KEY, tol=-1.0)


def test_intervals_cover_the_truth_as_often_as_they_say(float64):
    values = SPECTRA["a gap"]
    op, keys = hj.Matrix(jnp.asarray(matrix(values))), jax.random.split(jax.random.key(5), 300)
    found = jax.jit(jax.vmap(lambda k: hj.negative_fraction(op, k, tol=1e-3, num_probes=40)))(keys)
    low, high = found.value - 1.96 * found.std_error, found.value + found.unresolved + 1.96 * found.std_error
    assert 0.90 <= float(jnp.mean((low <= 0.2) & (high >= 0.2))) <= 0.995
    assert float(found.unresolved.max()) < 0.05
