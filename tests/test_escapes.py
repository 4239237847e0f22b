"""Ways away from saddles, straight and curved."""

import jax.numpy as jnp
import numpy as np
import pytest

import hessjax as hj

PEANO = lambda x: (x[0] - x[1] ** 2) * (x[0] - 2 * x[1] ** 2) + x[0] ** 4 + x[1] ** 6


def test_from_a_strict_saddle_along_the_most_negative_eigenvector(float64):
    """(1 - w1 w2)^2 falls along (1, 1) until w1 w2 = 1; steps double, so the end is within a factor of two of it."""
    found = hj.escape(lambda w: (1 - w[0] * w[1]) ** 2, jnp.zeros(2))
    assert found.escaped
    assert found.verdict.kind == "strict saddle"
    assert (found.before, found.loss < 0.5) == (1.0, True)
    assert found.params[0] == pytest.approx(float(found.params[1]))
    assert found.length == pytest.approx(float(jnp.linalg.norm(found.params)))


def test_from_a_saddle_without_negative_eigenvalue_along_a_curve(float64):
    """No straight line leads down from Peano's saddle; x = 3 y^2 / 2 does."""
    ways = np.stack([np.cos(np.linspace(0, 2 * np.pi, 721)), np.sin(np.linspace(0, 2 * np.pi, 721))], axis=1)
    assert all(PEANO(1e-3 * way) > 0 for way in ways)
    found = hj.escape(PEANO, jnp.zeros(2))
    assert found.escaped
    assert found.loss < -1e-4
    assert found.params[0] == pytest.approx(1.5 * float(found.params[1]) ** 2, rel=0.2)


def test_from_a_saddle_of_a_deep_linear_net(float64):
    land = hj.landscapes.get("scalar-linear", depth=4, dtype="float64")
    found = hj.escape(land.loss, jnp.zeros(4))
    assert found.escaped
    assert found.loss < 0.9
    ended = hj.find_critical_points(land.loss, found.params[None], method="saddle-free")
    assert ended.status[0] == 0
    assert ended.loss[0] == pytest.approx(0, abs=1e-12)


def test_from_a_maximum_and_params_of_several_leaves(float64):
    f = lambda p: jnp.cos(p["a"]) + jnp.sum(jnp.cos(p["b"]))
    found = hj.escape(f, {"a": jnp.zeros(()), "b": jnp.zeros(2)})
    assert found.escaped
    assert found.loss < 2
    assert found.params["b"].shape == (2,)


@pytest.mark.parametrize("f", [lambda x: x[0] ** 2 + x[1] ** 2, lambda x: 0 * x[0], lambda x: (x[0] - x[1] ** 2) ** 2])
def test_where_no_way_down_is_known_it_stays(f, float64):
    found = hj.escape(f, jnp.zeros(2))
    assert (found.escaped, found.length, found.loss) == (False, 0.0, found.before)
    assert found.params.tolist() == [0, 0]


def test_from_a_point_that_is_not_critical_it_stays(float64):
    found = hj.escape(lambda x: x[0], jnp.zeros(2))
    assert not found.escaped
    assert found.verdict.kind == "not critical"


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="tol must be a number from 0 up"):
        hj.escape(lambda x: x[0] ** 2, jnp.zeros(2), tol=-1.0)


def test_float32_params_stay_float32_where_x64_is_on(float64):
    found = hj.escape(lambda w: (1 - w[0] * w[1]) ** 2, jnp.zeros(2, jnp.float32))
    assert found.escaped
    assert found.params.dtype == jnp.float32
