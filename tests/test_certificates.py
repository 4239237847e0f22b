"""Certificates against points known exactly, and constants against differences of Hessians."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import hessjax as hj

RNG = np.random.default_rng(1)
WITH_CONSTANTS = {
    "bowl": {},
    "rosenbrock": {"dimension": 3},
    "gradient-flat": {},
    "monkey-saddle": {},
    "peano": {},
    "quadratic": {},
    "autoencoder": {"inputs": 4, "hidden": 2},
    "deep-linear": {"widths": (3, 2, 3, 2)},
}


@pytest.mark.parametrize("name", WITH_CONSTANTS)
def test_constants_of_landscapes_bound_differences_of_hessians(name, float64):
    land = hj.landscapes.get(name, dtype="float64", **WITH_CONSTANTS[name])
    hessian = jax.jit(lambda p: hj.dense(hj.Hessian(land.loss, p, land.batch)))
    tightest = 0.0
    for k in range(40):
        params = jax.tree.map(lambda x, k=k: x * (0.3, 1.0, 3.0)[k % 3], land.init(jax.random.key(k)))
        at, unravel = ravel_pytree(params)
        radius = 10.0 ** RNG.uniform(-3, 0.5)
        bound = land.facts["hessian_lipschitz"](params, radius)
        ways = RNG.standard_normal((2, len(at)))
        a, b = (at + radius * RNG.uniform() * way / np.linalg.norm(way) for way in ways)
        apart = np.linalg.norm(hessian(unravel(a)) - hessian(unravel(b)), 2)
        assert apart <= bound * np.linalg.norm(a - b) * (1 + 1e-9) + 1e-12 * (1 + radius)
        tightest = max(tightest, apart / (bound * np.linalg.norm(a - b)) if bound else 1.0)
    assert tightest > 0.01  # no bound that is met by being enormous


def test_a_point_beside_a_minimum_is_certified_within_the_radius_it_says(float64):
    land = hj.landscapes.get("gradient-flat", dtype="float64")
    for apart in (1e-2, 1e-4, 1e-8):
        way = RNG.standard_normal(2)
        point = jnp.asarray([-3.0, 0.0] + apart * way / np.linalg.norm(way))
        found = hj.certify_point(land.loss, point, lipschitz=land.facts["hessian_lipschitz"])
        assert (found.certified, found.holds, found.index, found.nullity) == (True, True, 0, 0)
        assert apart <= found.radius < 3 * apart + 1e-12
        assert found.unique > 0.1


def test_far_away_and_at_flat_points_nothing_is_certified(float64):
    land = hj.landscapes.get("gradient-flat", dtype="float64")
    k = land.facts["hessian_lipschitz"]
    for point in ([-1.5, 0.0], [1.42, 0.0], [0.3, 2.0], [2.5, 0.1]):
        found = hj.certify_point(land.loss, jnp.array(point), lipschitz=k)
        assert not found.holds
        assert found.kantorovich > 0.5
        assert math.isnan(found.radius)


def test_the_criterion_is_kantorovichs(float64):
    """On x^3 / 3 - x from x = 1 + d: H = 2 x, K = 2, s = (x^2 - 1) / (2 x); the roots' distances are closed form."""
    x = 1.3
    found = hj.certify_point(lambda p: p[0] ** 3 / 3 - p[0], jnp.array([x]), lipschitz=2.0)
    s = (x**2 - 1) / (2 * x)
    assert found.step == pytest.approx(s, rel=1e-9)
    assert found.kantorovich == pytest.approx(2 * s / (2 * x), rel=1e-9)
    assert found.radius == pytest.approx(x - 1, rel=1e-9)  # exact, as for every quadratic equation
    assert found.unique == pytest.approx(x + 1, rel=1e-9)
    just = hj.certify_point(lambda p: p[0] ** 3 / 3 - p[0], jnp.array([1e-3]), lipschitz=2.0)
    assert not just.holds


def test_saddles_have_their_index(float64):
    land = hj.landscapes.get("saddle", dtype="float64")
    found = hj.certify_point(land.loss, jnp.array([1e-6, 0.0]), lipschitz=land.facts["hessian_lipschitz"])
    assert (found.certified, found.index, found.lipschitz) == (True, 1, 0.0)
    assert found.unique == math.inf


def test_without_a_constant_it_is_estimated_and_never_certified(float64):
    f = lambda x: x[0] ** 3 / 3 - x[0] + x[1] ** 2
    found = hj.certify_point(f, jnp.array([1.0 + 1e-6, 0.0]))
    assert (found.certified, found.holds, found.index) == (False, True, 0)
    assert found.lipschitz == pytest.approx(2 * 2.0, rel=1e-6)  # the third derivative is 2 along x alone
    assert any("times the largest third derivative" in note for note in found.notes)


def test_third_derivatives_are_found_in_more_dimensions(float64):
    """The largest of a symmetric tensor sum a_i u_i^3 is max |a_i|, in any rotation."""
    q = jnp.asarray(np.linalg.qr(RNG.standard_normal((5, 5)))[0])
    a = jnp.array([1.0, -4.0, 2.0, 0.5, 3.0])
    f = lambda x: jnp.sum(a * (q @ x) ** 3) / 6 + x @ x
    found = hj.certify_point(f, jnp.zeros(5))
    assert found.lipschitz == pytest.approx(8.0, rel=1e-3)


def test_singular_hessians_have_a_gap_and_no_certificate(float64):
    land = hj.landscapes.get("autoencoder", inputs=4, hidden=2, dtype="float64")
    fact = land.facts["critical_points"][-1]
    point = jax.tree.map(jnp.asarray, fact["point"])
    found = hj.certify_point(land.loss, point, land.batch, lipschitz=land.facts["hessian_lipschitz"])
    assert (found.certified, found.index, found.nullity) == (False, fact["index"], fact["nullity"])
    assert found.gap > 1e6
    assert found.step < 1e-12
    assert any("nothing is proved" in note for note in found.notes)


def test_kinks_and_dead_units_are_named_and_nothing_is_certified_at_one(float64):
    f = lambda x: jax.nn.relu(x[0]) ** 2 / 2 + x[0] ** 2 + x[1] ** 2 + jnp.abs(x[1]) * 0
    found = hj.certify_point(f, jnp.zeros(2), lipschitz=1.0)
    assert not found.certified
    assert any("at a kink" in note for note in found.notes)
    x = jnp.array([[1.0], [2.0]])
    g = lambda w, rows: (jax.nn.relu(rows @ w[:1] - 5) + w[1] - 1) ** 2 + w[0] ** 2
    found = hj.certify_point(g, jnp.array([0.0, 1.0]), x)
    assert any("dead units" in note for note in found.notes)


def test_what_is_not_finite_is_said(float64):
    found = hj.certify_point(lambda x: jnp.log(x[0]), jnp.array([-1.0]))
    assert (found.certified, found.holds) == (False, False)
    assert "not finite" in found.notes[0]


@pytest.mark.parametrize("given", [{"lipschitz": -1.0}, {"lipschitz": math.nan}, {"tol": -1.0}])
def test_bad_input_is_refused(given):
    with pytest.raises(ValueError, match="from 0 up"):
        hj.certify_point(lambda x: x[0] ** 2, jnp.zeros(1), **given)


def test_no_other_point_is_within_the_radius_without_others(float64):
    """x^2 / 2 - x^4 / 4 is critical at 0 and at 1 and -1."""
    land = hj.landscapes.get("polynomial", terms=((0.5, (2,)), (-0.25, (4,))), dtype="float64")
    found = hj.certify_point(land.loss, jnp.array([1e-6]), lipschitz=land.facts["hessian_lipschitz"])
    assert found.certified
    assert 0.05 < found.unique < 1


def test_a_kink_within_reach_certifies_nothing_whatever_constant_is_given(float64):
    f = lambda x: x[0] ** 2 / 2 + 10 * jax.nn.relu(x[0] + 0.5)
    assert not hj.certify_point(f, jnp.array([-1.0]), lipschitz=0.0).certified
