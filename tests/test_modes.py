"""Barriers, curves, widths and disagreement against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import hessjax as hj
from hessjax import modes
from hessjax.train import Trainer

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def ring(w):
    """Zero on the unit circle, and 1 at its centre."""
    return (jnp.sum(w**2) - 1) ** 2


def test_barriers_are_above_the_line_between_the_ends():
    ts = np.linspace(0, 2, 201)
    bump = modes.barrier(ts, 1 + ts + np.sin(np.pi * ts / 2))
    assert_allclose([bump.height, bump.at], [1, 1], atol=1e-12)
    assert_allclose(bump.peak, (1 + ts + np.sin(np.pi * ts / 2)).max())
    bowl = modes.barrier(ts, (ts - 1) ** 2)
    assert bowl.height == 0
    assert np.isnan(bowl.at)
    slope = modes.barrier(ts, 3 * ts)
    assert slope.height < 1e-12
    lost = modes.barrier([0, 1, 2], [0.0, np.nan, 1.0])
    assert np.isnan([lost.height, lost.peak]).all()
    wall = modes.barrier([0, 1, 2], [0.0, np.inf, 1.0])
    assert wall.height == np.inf
    assert np.isnan(modes.barrier([0, 1, 2], [np.inf, 0.0, 1.0]).height)


def test_any_optimiser_bends_a_curve_and_the_usual_one_is_compiled_once():
    a, b = jnp.array([1.0, 0.0]), jnp.array([-0.6, 0.8])
    before = modes._bent._cache_size()
    for key in (0, 1):
        found = modes.connect(ring, a, b, jax.random.key(key), num_steps=77)
    assert modes._bent._cache_size() == before + 1
    by_search = modes.connect(ring, a, b, KEY, num_steps=77, optimizer=optax.lbfgs())
    for one in (found, by_search):
        assert one.barrier.height < 0.1 * one.straight_barrier.height


def test_widths_at_a_point_that_is_not_finite_are_nan():
    f = lambda w: jnp.where(w[0] > 0, jnp.nan, jnp.sum(w**2))
    found = modes.widths(f, jnp.array([1.0, 0.0]), jnp.eye(2), rise=1.0)
    assert np.isnan(found).all()


@pytest.mark.parametrize(("ts", "losses"), [([0], [1]), ([0, 0], [1, 2]), ([0, 1], [1, 2, 3]), ([1, 0], [1, 2])])
def test_paths_without_order_are_refused(ts, losses):
    with pytest.raises(ValueError, match="ts must ascend and losses be as many"):
        modes.barrier(ts, losses)


@pytest.mark.parametrize("dtype", ["float32", "float64"], indirect=True)
def test_a_curve_is_found_where_the_straight_line_is_barred(dtype):
    """From (1, 0) to (0, 1) on a circle. The best quadratic's loss is found by scanning its one free number."""
    a, b = jnp.array([1.0, 0.0], dtype), jnp.array([0.0, 1.0], dtype)
    found = modes.connect(ring, a, b, KEY, num_steps=600)
    assert found.bend.dtype == dtype
    assert_allclose(found.straight_barrier.height, 0.25, rtol=1e-3)  # |(1/2, 1/2)|^2 = 1/2
    assert_allclose(found.straight_barrier.at, 0.5)
    t = np.linspace(0, 1, 2001)
    curve = lambda c: np.stack([(1 - t) ** 2 + 2 * t * (1 - t) * c, t**2 + 2 * t * (1 - t) * c], -1)
    mean = lambda c: np.mean((np.sum(curve(c) ** 2, -1) - 1) ** 2)
    best = min(np.linspace(0.8, 1.4, 601), key=mean)
    assert_allclose(found.bend, [best, best], atol=0.03)
    assert_allclose(np.trapezoid(found.loss, found.ts), mean(best), atol=0.1 * 0.25)
    assert found.barrier.height < 0.1 * found.straight_barrier.height
    assert found.training.shape == (600,)
    assert found.training[-100:].mean() < 0.1 * found.training[0]
    assert_allclose([found.loss[0], found.loss[-1]], 0, atol=1e-6)


def test_a_search_of_one_step_and_rows_drawn_is_the_optimisers_step(float64):
    x = jnp.asarray(RNG.normal(size=(5, 2)))
    loss = lambda w, rows: rows @ w  # its gradient is the mean of the rows drawn, whatever t, times the bend's share
    found = modes.connect(loss, jnp.zeros(2), jnp.zeros(2), KEY, x, num_steps=1, optimizer=optax.sgd(1.0), num=3)
    share = np.asarray(-found.bend) / np.asarray(x.mean(0))
    assert_allclose(share[0], share[1])
    assert 0.25 < share[0] < 0.4  # 2 t (1 - t) has the mean 1/3
    one = modes.connect(loss, jnp.zeros(2), jnp.zeros(2), KEY, x, num_steps=1, optimizer=optax.sgd(1.0), batch_size=1)
    direction = -one.bend / jnp.linalg.norm(one.bend)
    rows = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    assert_allclose(jnp.max(rows @ direction), 1)


@pytest.mark.parametrize(
    ("given", "said"),
    [({"num_steps": 0}, "num_steps"), ({"points_per_step": 0}, "points_per_step"), ({"num": 2}, "num must be"),
     ({"batch_size": 3}, "batch_size was given and no batch"), ({"b": jnp.ones(3)}, "b")],
)  # fmt: skip
def test_searches_that_make_no_sense_are_refused(given, said):
    b = given.pop("b", jnp.ones(2))
    with pytest.raises(ValueError, match=said):
        modes.connect(ring, jnp.ones(2), b, KEY, **given)


def test_widths_of_a_bowl_are_the_roots_of_its_rise(float64):
    """Along eigenvectors of a quadratic form with eigenvalues l the rise r is at sqrt(2 r / l)."""
    values = np.array([0.5, 2.0, 8.0, 1e4])
    q, _ = np.linalg.qr(RNG.normal(size=(4, 4)))
    a = jnp.asarray(q * values @ q.T)
    f = lambda p: 0.5 * p["w"] @ a @ p["w"]
    found = modes.widths(f, {"w": jnp.zeros(4)}, {"w": jnp.asarray(3 * q.T)}, rise=0.1)
    assert_allclose(found, np.sqrt(0.2 / values)[:, None] * np.ones(2), rtol=1e-7)


def test_widths_tell_sides_apart_and_directions_that_never_rise():
    f = lambda w: jnp.where(w[0] > 0, w[0], -2 * w[0]) + 0 * w[1]
    found = modes.widths(f, jnp.zeros(2), jnp.eye(2), rise=1.0)
    assert_allclose(found[0], [0.5, 1.0], rtol=1e-5)
    assert_array_equal(found[1], np.inf)
    assert_allclose(modes.widths(lambda w: jnp.log(1 - w[0]), jnp.zeros(1), jnp.eye(1), rise=3.0)[0, 1], 1, rtol=1e-5)
    assert_allclose(modes.widths(f, jnp.zeros(2), jnp.eye(2), rise=1.0, most=0.9)[0], [0.5, np.inf], rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "said"),
    [({"rise": 0.0}, "rise must be above 0"), ({"rise": 1.0, "most": 0.0}, "most must be above 0"),
     ({"rise": "some"}, "rise must be a number"), ({"rise": 1.0, "directions": jnp.zeros((1, 2))}, "one is zero")],
)  # fmt: skip
def test_widths_of_nothing_are_refused(given, said):
    directions = given.pop("directions", jnp.eye(2))
    with pytest.raises(ValueError, match=said):
        modes.widths(ring, jnp.zeros(2), directions, **given)


def test_a_single_direction_is_one_row_of_widths():
    f = lambda p: jnp.sum(p["w"] ** 2) + p["b"] ** 4
    at, along_b = {"w": jnp.zeros(2), "b": jnp.zeros(())}, {"w": jnp.zeros(2), "b": jnp.array(2.0)}
    assert_allclose(modes.widths(f, at, along_b, rise=1.0), [[1.0, 1.0]], rtol=1e-5)


def test_solutions_that_are_not_stacked_are_told_how():
    a, b = ({"w": jnp.ones((3, 2)), "v": jnp.ones(2)} for _ in range(2))
    with pytest.raises(ValueError, match=r"one leading axis for all leaves, such as jax\.tree\.map"):
        modes.disagreement(lambda p, x: x @ p["w"] + p["v"], [a, b], jnp.ones((4, 3)))
    with pytest.raises(ValueError, match="one leading axis"):
        modes.disagreement(lambda p, x: x * p, jnp.ones(()), jnp.ones(4))


def test_disagreement_is_the_share_of_rows_decided_otherwise():
    points, x = jnp.asarray(RNG.normal(size=(4, 3, 5)), "float32"), jnp.asarray(RNG.normal(size=(50, 3)), "float32")
    found = modes.disagreement(lambda w, x: x @ w, points, x)
    chosen = np.argmax(np.einsum("ni,kio->kno", x, points), -1)
    assert_allclose(found, (chosen[:, None] != chosen[None]).mean(-1))
    assert_array_equal(np.diag(found), 0)
    assert 0 < found[0, 1] < 1
    single = modes.disagreement(lambda w, x: x @ w[:, :1], points, x)
    signs = np.einsum("ni,kio->kno", x, points)[..., 0] > 0
    assert_allclose(single, (signs[:, None] != signs[None]).mean(-1))
    parity = modes.disagreement(lambda w, x: x @ w, points, x, decide=lambda z: jnp.argmax(z, -1) % 2)
    assert_allclose(parity, (chosen[:, None] % 2 != chosen[None] % 2).mean(-1))
    with pytest.raises(ValueError, match="wanted one a row"):
        modes.disagreement(lambda w, x: x @ w, points, x, decide=lambda z: z > 0)
    lost = modes.disagreement(lambda w, x: x @ w, points.at[2, 0, 0].set(jnp.nan), x)
    assert np.isnan(lost[2]).all()
    kept = np.array([0, 1, 3])
    assert_array_equal(lost[np.ix_(kept, kept)], found[np.ix_(kept, kept)])


def test_independent_solutions_of_the_digits_are_barred_and_joined():
    """Barriers between independently trained nets are positive; along the curve that is found nearly none is left."""
    land = hj.landscapes.get("digits-mlp", widths=(16,), rows=256)
    trainer = Trainer(land.loss, optax.adam(0.02), land.batch)
    solve = jax.jit(lambda key: trainer.advance(trainer.start(land.init(key)), key, 0, 300).params)
    a, b = solve(jax.random.key(0)), solve(jax.random.key(1))
    found = modes.connect(land.loss, a, b, KEY, land.batch, num_steps=400)
    assert found.loss[[0, -1]].max() < 0.02
    assert found.straight_barrier.height > 0.3
    assert found.barrier.height < 0.1 * found.straight_barrier.height
    apart = modes.disagreement(land.model, jax.tree.map(lambda *x: jnp.stack(x), a, b), land.batch[0])
    assert apart[0, 1] < 0.02  # of rows that both were trained on
