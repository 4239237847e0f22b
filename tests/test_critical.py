"""Critical points found from many starts, against closed forms: which are found, how they are judged, what it costs."""

import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessjax as hj
from hessjax import critical
from hessjax.finders.methods import METHODS
from hessjax.landscapes import surfaces

RNG = np.random.default_rng(1)
SADDLE = lambda x: 5 * x[0] ** 2 - x[1] ** 2
MONKEY = lambda x: x[0] ** 3 - 3 * x[0] * x[1] ** 2
WELLS = lambda x: jnp.sum((x**2 - 1) ** 2) / 4  # 9 critical points of two params: each entry is -1, 0 or 1


def named(points):
    return [hj.STATUSES[s] for s in points.status]


def along_descent(land, count, seed=0):
    """The published starts: uniform in loss along gradient descent, every second one with noise."""
    key, mean = jax.random.key(seed), lambda p: jnp.mean(land.loss(p, land.batch))

    def path(key):
        down = lambda p, _: (jax.tree.map(lambda a, b: a - 0.01 * b, p, jax.grad(mean)(p)), (p, mean(p)))
        return jax.lax.scan(down, land.init(key), length=600)[1]

    walked, losses = jax.jit(jax.vmap(path))(jax.random.split(key, 4))
    each = count // 4
    aims = jnp.linspace(losses.max(1), losses.min(1), each, axis=1)
    at = jnp.argmin(jnp.abs(losses[:, None] - aims[..., None]), axis=2)
    starts = jax.tree.map(lambda x: jax.vmap(lambda y, i: y[i])(x, at).reshape(-1, *x.shape[2:]), walked)
    noisy = lambda x: x + 0.1 * RNG.standard_normal(x.shape) * (np.arange(count) % 2).reshape(-1, *[1] * (x.ndim - 1))
    return jax.tree.map(noisy, starts)


def index(land, params):
    values = jax.vmap(lambda p: hj.eigvalsh(hj.dense(hj.Hessian(land.loss, p, land.batch))))(params)
    return np.asarray(values < -1e-5).sum(1)


def only(points, which):
    return jax.tree.map(lambda x: x[which], points.params)


# Methods


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_a_minimum_it_begins_near(method, float64):
    starts = jnp.asarray(RNG.uniform(0.8, 1.2, (6, 2)))
    found = hj.find_critical_points(WELLS, starts, method=method)
    assert named(found) == ["critical"] * 6
    np.testing.assert_allclose(found.params, 1.0, atol=1e-5)
    assert (found.loss < 1e-10).all()
    assert (found.num_steps < 200).all()
    assert (found.num_matvecs > 0).all()


@pytest.mark.parametrize("method", ["newton-mr", "trust-region", "newton", "damped-newton", "gradient-norm"])
def test_methods_on_the_gradient_find_saddles_and_maxima_as_well(method, float64):
    starts = jnp.asarray([[0.1, 0.2], [0.1, 0.9], [1.1, -0.1]])
    found = hj.find_critical_points(WELLS, starts, method=method)
    assert named(found) == ["critical"] * 3
    np.testing.assert_allclose(found.params, [[0, 0], [0, 1], [1, 0]], atol=1e-4)


def test_newton_ends_on_a_quadratic_after_one_step(float64):
    """Fact T4, one."""
    found = hj.find_critical_points(SADDLE, jnp.array([[1.0, 2.0]]), method="newton", max_steps=1)
    np.testing.assert_allclose(found.params, [[0, 0]], atol=1e-12)


def test_newton_halves_the_way_to_a_monkey_saddle(float64):
    """Fact T4, two: exactly half, as the loss is homogeneous of degree three."""
    found = hj.find_critical_points(MONKEY, jnp.array([[1.0, 1.0], [0.3, -2.0]]), method="newton", max_steps=1)
    np.testing.assert_allclose(found.params, [[0.5, 0.5], [0.15, -1.0]], atol=1e-12)


def test_saddle_free_newton_leaves_saddles(float64):
    """Fact T4, three and four: (a, b) to (0, 2 b), and on the monkey saddle a step of half the distance."""
    found = hj.find_critical_points(SADDLE, jnp.array([[1.0, 2.0]]), method="saddle-free", max_steps=1)
    np.testing.assert_allclose(found.params, [[0, 4]], atol=1e-12)
    starts = jnp.array([[1.0, 1.0], [0.3, -2.0]])
    found = hj.find_critical_points(MONKEY, starts, method="saddle-free", max_steps=1)
    np.testing.assert_allclose(found.params[0], [1, 1 + math.sqrt(0.5)], atol=1e-12)
    steps = np.linalg.norm(found.params - np.asarray(starts), axis=1)
    np.testing.assert_allclose(steps, np.linalg.norm(starts, axis=1) / 2, atol=1e-12)


@pytest.mark.parametrize("method", ["newton-mr", "trust-region"])
def test_points_of_autoencoders_are_the_analytic_ones(method, float64):
    """Fact L8 at 6-2: at least 45 % succeed, and every one has a loss and an index of the closed form."""
    land = hj.landscapes.get("autoencoder", inputs=6, hidden=2, dtype="float64")
    found = hj.find_critical_points(land.loss, along_descent(land, 40), land.batch, method=method)
    done = found.status == 0
    assert done.mean() >= 0.45
    assert not (found.status == 3).any()
    known = {(round(c["loss"], 5), c["index"]) for c in land.facts["critical_points"]}
    pairs = set(zip(np.round(found.loss[done], 5).tolist(), index(land, only(found, done)).tolist(), strict=True))
    assert pairs <= known
    assert len(pairs) >= 4
    assert np.median(found.grad_norm_sq[done]) < 1e-25  # to the end, not to the cut-off


@pytest.mark.parametrize("method", ["newton-mr", "trust-region", "damped-newton"])
def test_without_a_matrix_it_finds_the_same_kinds_of_points(method, float64, monkeypatch):
    monkeypatch.setattr(critical, "DENSE", 0)
    land = hj.landscapes.get("autoencoder", inputs=4, hidden=2, dtype="float64")
    found = hj.find_critical_points(land.loss, along_descent(land, 12), land.batch, method=method)
    done = found.status == 0
    known = {(round(c["loss"], 5), c["index"]) for c in land.facts["critical_points"]}
    pairs = set(zip(np.round(found.loss[done], 5).tolist(), index(land, only(found, done)).tolist(), strict=True))
    assert done.sum() >= 4
    assert pairs <= known


# How points are judged


@pytest.mark.parametrize("method", METHODS)
def test_flat_points_of_the_quartic_are_never_critical_and_its_minimum_always_is(method, float64):
    """(+-sqrt 2, 0) has a gradient of about 3 and 15 in the null space of H; (-3, 0) is the one critical point."""
    land = surfaces.gradient_flat(dtype="float64")
    starts = np.concatenate([RNG.uniform(-4, 4, (30, 2)), [[math.sqrt(2), 0], [-math.sqrt(2), 0], [-3, 0]]])
    found = hj.find_critical_points(land.loss, jnp.asarray(starts), method=method)
    for params, status in zip(found.params, named(found), strict=True):
        if status == "critical":
            np.testing.assert_allclose(params, [-3, 0], atol=1e-5)
        if np.linalg.norm(params - [-3, 0]) < 1e-7:
            assert status == "critical"
    assert named(found)[-1] == "critical"


def test_the_flat_points_themselves_are_flat(float64):
    land = surfaces.gradient_flat(dtype="float64")
    starts = jnp.array([[math.sqrt(2), 0.0], [-math.sqrt(2), 0.0], [1.0, 1.0]])
    found = hj.find_critical_points(land.loss, starts, max_steps=0)
    assert named(found) == ["gradient-flat", "gradient-flat", "unfinished"]
    np.testing.assert_allclose(found.flatness[:2], 1, atol=1e-7)
    assert (found.flatness_h[:2] < 1e-7).all()
    assert found.num_steps.tolist() == [0, 0, 0]
    np.testing.assert_allclose(found.grad_norm_sq, [np.sum(np.square(land.facts["gradient"](x))) for x in starts])


def test_flatness_is_the_published_formula(float64):
    """Of a matrix of full rank, whose least-squares solution is inner-solved to 5e-4: r is at most that."""
    a = RNG.standard_normal((6, 6))
    a = a + a.T
    found = hj.find_critical_points(lambda x: x @ jnp.asarray(a) @ x / 2, jnp.asarray(RNG.standard_normal((3, 6))))
    assert named(found) == ["critical"] * 3
    still = hj.find_critical_points(
        lambda x: x @ jnp.asarray(a) @ x / 2, jnp.asarray(RNG.standard_normal((3, 6))), max_steps=0
    )
    assert (still.flatness <= 5e-4).all()
    # A gradient with a part g0 in the null space: r = |g0| / (|H|_F |p| + |g|), whatever the rest.
    h, slope = jnp.diag(jnp.array([2.0, -1.0, 0.0])), jnp.array([1.0, 1.0, 2.0])
    found = hj.find_critical_points(lambda x: x @ h @ x / 2 + slope @ x, jnp.zeros((1, 3)), max_steps=0)
    expected = 2 / (math.sqrt(5) * math.hypot(0.5, 1) + math.sqrt(6))
    np.testing.assert_allclose(found.flatness, expected, rtol=1e-3)


def test_a_run_that_leaves_the_numbers_is_diverged_and_harms_no_other(float64):
    f = lambda x: jnp.sum(x * jnp.arctan(x) - jnp.log(1 + x**2) / 2)  # whose slope is arctan: Newton's example
    found = hj.find_critical_points(f, jnp.array([[2.0], [0.5], [jnp.nan]]), method="newton")
    assert named(found) == ["diverged", "critical", "diverged"]


def test_float32_says_that_rounding_holds_points_back():
    f = lambda x: 1e3 * jnp.sum(jnp.cosh(x - 1.234)) + 300 * jnp.sum(jnp.sin(x))
    with pytest.warns(UserWarning, match=r"of 3 points are not critical by grad_norm_sq_tol=1e-10, and cannot be"):
        found = hj.find_critical_points(f, jnp.asarray(RNG.uniform(0, 2, (3, 4)), jnp.float32))
    assert (found.floor > 1e-10).all()
    assert (found.grad_norm_sq < 100 * found.floor).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = hj.find_critical_points(f, found.params, grad_norm_sq_tol=1e-3)
    assert named(again) == ["critical"] * 3


def test_points_as_they_come_are_judged_alike_by_every_method(float64):
    starts = jnp.asarray(RNG.uniform(-1.5, 1.5, (5, 2)))
    rows = [hj.find_critical_points(WELLS, starts, method=m, max_steps=0) for m in METHODS]
    for row in rows[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), row, rows[0])


# Lanes


def test_params_of_several_leaves_and_rows_of_data(float64):
    x, y = jnp.asarray(RNG.standard_normal((20, 3))), jnp.asarray(RNG.standard_normal(20))
    loss = lambda p, rows: (rows[0] @ p["w"] + p["b"] - rows[1]) ** 2
    starts = {"w": jnp.asarray(RNG.standard_normal((3, 3))), "b": jnp.zeros(3)}
    found = hj.find_critical_points(loss, starts, (x, y))
    best = np.linalg.lstsq(np.c_[x, np.ones(20)], y, rcond=None)[0]
    np.testing.assert_allclose(np.c_[found.params["w"], found.params["b"]], np.tile(best, (3, 1)), atol=1e-9)
    assert found.loss.shape == (3,)
    assert found.status.dtype == np.int8


@pytest.mark.parametrize("method", METHODS)
def test_params_of_two_dtypes_and_of_no_axes(method, float64):
    loss = lambda p: jnp.sum((p["a"] ** 2 - 1) ** 2) + (p["b"] - 2) ** 2
    starts = {"a": jnp.full((2, 2), 1.1, jnp.float32), "b": jnp.ones(2)}
    found = hj.find_critical_points(loss, starts, method=method, grad_norm_sq_tol=1e-8)
    assert named(found) == ["critical"] * 2
    assert (found.params["a"].dtype, found.params["b"].dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(found.params["b"], 2, atol=1e-3)


def test_a_start_leads_to_the_same_point_whatever_runs_beside_it(float64):
    starts = jnp.asarray(RNG.uniform(-1.5, 1.5, (21, 2)))
    together = hj.find_critical_points(WELLS, starts)
    for k in (0, 7, 20):
        alone = hj.find_critical_points(WELLS, starts[k : k + 1])
        np.testing.assert_allclose(alone.params[0], together.params[k], atol=1e-9)
        assert alone.num_steps[0] == together.num_steps[k]


def test_programs_are_few_and_kept(float64):
    """At most log2(starts) + 1 for the segments, one or two more to begin and to judge, none for a second run."""
    f = lambda x: jnp.sum((x**2 - 1) ** 2) + x[0] ** 3 * x[1]
    starts = jnp.asarray(RNG.uniform(-2, 2, (20, 2)))
    programs = getattr(critical._over_lanes, "_cache_size")  # noqa: B009 -- jax's types do not have it
    before = programs()
    hj.find_critical_points(f, starts, method="gradient-norm")
    made = programs() - before
    assert made <= math.log2(32) + 1 + 2
    hj.find_critical_points(f, starts + 0.01, method="gradient-norm", grad_norm_sq_tol=1e-8)
    so_far = programs()
    hj.find_critical_points(f, starts, method="gradient-norm", max_steps=7)  # other steps are no other program
    assert programs() == so_far
    assert programs() <= before + math.log2(32) + 1 + 2


def test_steps_are_those_asked_for(float64):
    found = hj.find_critical_points(lambda x: jnp.sum(x**4), jnp.ones((2, 2)), method="newton", max_steps=73)
    assert found.num_steps.tolist() == [73, 73]  # by a third each, over a segment's end
    np.testing.assert_allclose(found.params, (2 / 3) ** 73, rtol=1e-9)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"method": "newton_mr"}, ValueError, "did you mean 'newton-mr'"),
        ({"max_steps": -1}, ValueError, "max_steps must be a whole number, at least 0"),
        ({"grad_norm_sq_tol": -1.0}, ValueError, "grad_norm_sq_tol must be a number from 0 up"),
        ({"starts": jnp.ones((2, 2), jnp.bfloat16)}, TypeError, "widen them"),
        ({"starts": jnp.ones((2, 2), jnp.int32)}, TypeError, "wanted a real floating array"),
        ({"starts": jnp.float32(1.0)}, ValueError, "leading axis of starts"),
        ({"starts": {"a": jnp.ones((2, 2)), "b": jnp.ones((3, 2))}}, ValueError, "leading axis of starts"),
        ({"starts": jnp.ones((0, 2))}, ValueError, "holds no scalars"),
    ],
)
def test_bad_input_is_refused(given, error, said):
    with pytest.raises(error, match=said):
        hj.find_critical_points(WELLS, **{"starts": jnp.ones((2, 2)), **given})


def test_a_loss_that_does_not_take_a_start_is_told_what_a_start_is():
    """One point given as starts is as many starts without an axis."""
    with pytest.raises(IndexError) as caught:
        hj.find_critical_points(lambda x: x[0] ** 2 + x[1] ** 2, jnp.array([1.0, 2.0]))
    last = caught.value.__notes__[-1]  # jax adds its own
    assert last.endswith("called loss(params), as batch is None, with one start; params have shapes ().")
