"""ReLU nets with bad minima: the published points, every critical point of one unit, and rates with their intervals."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import lsq_linear, minimize, root
from scipy.stats import binomtest

import hessjax as hj
from hessjax.kinks import kinks
from hessjax.landscapes import relu, relu_points, relu_starts
from hessjax.landscapes.relu import jellyfish, relu_five_points, xor
from hessjax.landscapes.relu_starts import PUBLISHED_RATES, dead_share, dead_unit_probability, success_rates, wilson

EPS = float(np.finfo(float).eps)
PRINTED = 5e-7  # half a unit of the last published digit


def line(data):
    points = np.array(relu.POINTS[data])
    return points[:, :1], points[:, 1]


def on_device(point):
    return jax.tree.map(jnp.asarray, point)


def measured(land, point):
    """Loss, largest entry of the gradient, spectrum and kinks at a point, by autodiff of the loss."""
    point = on_device(point)
    value, gradient = jax.value_and_grad(land.loss)(point, land.batch)
    spectrum = np.asarray(hj.eigvalsh(hj.Hessian(land.loss, point, land.batch)))
    largest = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(gradient))
    return float(value), largest, spectrum, kinks(land.loss, point, land.batch)


def published(land, name):
    return next(p for p in land.facts["published"] if p["name"] == name)


# --- the propositions -------------------------------------------------------------------------------------------------


def test_the_local_minimum_of_proposition_1_has_one_point_on_the_kink(float64):
    land = relu_five_points(data="D1", dtype="float64")
    value, gradient, spectrum, found = measured(land, published(land, "local")["point"])
    assert (value, gradient) == (18.0, 0.0)
    np.testing.assert_allclose(spectrum, [0, 0.455208, 5.815282, 99.729511], atol=PRINTED)
    assert found.num_tied == 1
    assert [site.positions for site in found.sites] == [[(2, 0)]]
    assert published(land, "local")["kinks"] == (2,)


def test_the_spectrum_there_depends_on_what_is_taken_for_the_derivative_at_zero(float64):
    land = relu_five_points(data="D1", dtype="float64")

    def loss(p):  # the same net, with relu'(0) = 1
        z = land.batch[0] @ p["w"] + p["b"]
        return jnp.sum((jnp.where(z >= 0, z, 0) @ p["v"] + p["c"] - land.batch[1]) ** 2)

    point = on_device(published(land, "local")["point"])
    np.testing.assert_allclose(hj.eigvalsh(hj.Hessian(loss, point)), [0, 2, 4.415280, 119.584720], atol=PRINTED)


def test_the_better_minimum_of_proposition_1_has_no_kink_and_its_spectrum_is_known(float64):
    land = relu_five_points(data="D1", dtype="float64")
    fact = published(land, "better")
    value, gradient, spectrum, found = measured(land, fact["point"])
    assert (value, gradient) == (14.0, 0.0)
    np.testing.assert_allclose(spectrum, [0, 0, 7.055728, 24.944272], atol=PRINTED)
    np.testing.assert_allclose(fact["eigenvalues"], spectrum, atol=100 * EPS * spectrum.max())
    assert found.smooth
    assert found.margin == 3.0  # the pre-activation of x = -1 is 3, of x = 1 it is -11
    assert land.facts["lower_bound"] == 14.0


@pytest.mark.parametrize(("data", "hidden", "name"), [("D1", 1, "local"), ("D2", 2, "local"), ("D3", 2, "local")])
def test_nothing_near_a_local_minimum_is_below_it(data, hidden, name):
    x, y = line(data)
    fact = published(relu_five_points(data=data, hidden=hidden), name)
    rng = np.random.default_rng(0)
    lowest = min(
        relu_points.loss({k: v + 1e-3 * rng.standard_normal(v.shape) for k, v in fact["point"].items()}, x, y)
        for _ in range(2000)
    )
    assert fact["loss"] - 1e-12 < lowest < fact["loss"] + 0.1


def test_proposition_2_holds_with_its_second_weight_turned_and_not_as_printed(float64):
    land = relu_five_points(data="D2", hidden=2, dtype="float64")
    for name, loss, tied in (("local", 8 / 3, [(3, 1)]), ("global", 0.0, [])):
        value, gradient, spectrum, found = measured(land, published(land, name)["point"])
        assert value == pytest.approx(loss, abs=1e-13)
        assert gradient < 1e-12
        assert spectrum[0] > -1e-12 * spectrum[-1]
        assert [at for site in found.sites for at in site.positions] == tied
    for fact, loss in zip(land.facts["misprinted"], (23 / 3, 29.0), strict=True):
        value, gradient, _, _ = measured(land, fact["point"])
        assert value == pytest.approx(loss, abs=1e-13) == pytest.approx(fact["loss"], abs=1e-13)
        assert gradient > 1.0


def test_proposition_3_has_a_smooth_local_minimum_that_is_not_global(float64):
    land = relu_five_points(data="D3", hidden=2, dtype="float64")
    for name, loss, nullity in (("local", 5 / 6, 3), ("global", 1 / 6, 2)):
        fact = published(land, name)
        value, gradient, spectrum, found = measured(land, fact["point"])
        assert value == pytest.approx(loss, abs=1e-13)
        assert gradient < 1e-12
        assert found.smooth
        counts = hj.inertia(jnp.asarray(spectrum[None] * np.eye(7)), tol=1e-10)
        assert (int(counts.negative), int(counts.zero)) == (fact["index"], fact["nullity"]) == (0, nullity)
    assert land.facts["lower_bound"] == pytest.approx(1 / 6)


@pytest.mark.parametrize(("data", "hidden"), [("D1", 1), ("D1", 3), ("D2", 2)])
def test_all_units_dead_is_flat_but_for_one_eigenvalue(data, hidden, float64):
    land = relu_five_points(data=data, hidden=hidden, dtype="float64")
    rng = np.random.default_rng(hidden)
    w, b = rng.standard_normal((1, hidden)), -30 - rng.random(hidden)
    point = {"w": w, "b": b, "v": rng.standard_normal(hidden), "c": np.asarray(7.0)}
    gradient = jax.grad(land.loss)(on_device(point), land.batch)
    assert not any(np.asarray(gradient[name]).any() for name in "wbv")
    y = line(data)[1]
    value, largest, spectrum, found = measured(land, point | {"c": np.asarray(y.mean())})
    assert value == pytest.approx(np.sum((y - y.mean()) ** 2))
    assert largest < 1e-13
    np.testing.assert_allclose(spectrum, [*[0] * (3 * hidden), 2 * len(y)], atol=1e-12)
    assert (found.dead[0].num_units, found.dead[0].num_dead) == (hidden, hidden)
    assert data != "D1" or value == pytest.approx(21.2)


# --- every critical point of one unit ---------------------------------------------------------------------------------


def random_line(seed, rows):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, 1)), rng.standard_normal(rows)


LINES = {data: line(data) for data in relu.POINTS} | {f"random {k}": random_line(k, 3 + k) for k in range(4)}
# At v = 0 the mean of all targets is the best line of the rows that are on: no saddle, a degenerate minimum.
LINES["flat"] = np.array([[-1.0], [0.0], [1.0], [5.0]]), np.array([1.0, -2.0, 1.0, 0.0])
LINES["repeated"] = np.array([[0.0], [0.0], [1.0], [2.0], [2.0]]), np.array([1.0, 2.0, -1.0, 0.5, 3.0])


def sum_of_squares(x, y):
    return lambda p: jnp.sum((relu.network(p, jnp.asarray(x)) - jnp.asarray(y)) ** 2)


@pytest.mark.parametrize("name", LINES)
def test_the_points_listed_are_critical_and_what_they_are_said_to_be(name, float64):
    x, y = LINES[name]
    loss = sum_of_squares(x, y)
    value_and_gradient, hessian = jax.jit(jax.value_and_grad(loss)), jax.jit(jax.hessian(loss_of_flat(loss)))
    for fact in relu_points.critical_points(x, y):
        point = on_device(fact["point"])
        value, gradient = value_and_gradient(point)
        h = np.asarray(hessian(jnp.concatenate([jnp.ravel(point[k]) for k in "bcvw"])))
        size = np.abs(h).sum()
        assert float(value) == pytest.approx(fact["loss"], abs=100 * EPS * size)
        assert max(float(jnp.abs(g).max()) for g in gradient.values()) < 1000 * EPS * size
        np.testing.assert_allclose(np.linalg.eigvalsh(h), fact["eigenvalues"], atol=100 * EPS * size)
        counts = hj.inertia(jnp.asarray(h), tol=1e-9)
        assert (int(counts.negative), int(counts.zero)) == (fact["index"], fact["nullity"])
        assert fact["nullity"] >= 1  # rescaling
        z = x[:, 0] * fact["point"]["w"][0, 0] + fact["point"]["b"][0]
        assert np.abs(z).min() > 1e-8


def loss_of_flat(loss):
    return lambda flat: loss({"b": flat[:1], "c": flat[1], "v": flat[2:3], "w": flat[3:].reshape(1, 1)})


@pytest.mark.parametrize("name", LINES)
def test_no_smooth_critical_point_is_missing(name):
    x, y = LINES[name]
    flat = lambda g: np.concatenate([np.ravel(g[k]) for k in "bcvw"])
    known = np.array([fact["loss"] for fact in relu_points.critical_points(x, y)])
    rng, found = np.random.default_rng(0), 0
    params = lambda p: {"b": p[:1], "c": p[1], "v": p[2:3], "w": p[3:].reshape(1, 1)}
    scale = np.abs(y).max() * (1 + np.abs(x).max())
    for start in rng.standard_normal((60, 4)) * np.array([np.abs(x).max(), np.abs(y).max(), 1.0, 1.0]):
        solved = root(lambda p: flat(relu_points.gradient(params(p), x, y)), start, method="lm", tol=1e-14)
        end = params(solved.x)
        z = x[:, 0] * end["w"][0, 0] + end["b"][0]
        if np.abs(flat(relu_points.gradient(end, x, y))).max() < 1e-9 * scale and np.abs(z).min() > 1e-5:
            found += 1
            value = relu_points.loss(end, x, y)
            assert np.abs(known - value).min() < 1e-7 * np.sum(y**2), value
    assert found >= 10


@pytest.mark.parametrize("name", LINES)
def test_the_best_of_the_minima_is_the_best_fit_by_hinges(name):
    x, y = LINES[name]
    listed = [*relu_points.critical_points(x, y), *relu_points.kinked_minima(x, y)]
    assert relu_points.global_minimum(x, y, 1) == pytest.approx(min(p["loss"] for p in listed), rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_the_best_fit_of_two_units_is_the_best_in_any_pair_of_cones(seed):
    x, y = random_line(seed, 5)
    places, centred = np.unique(x), lambda a: a - a.mean(axis=0)
    cones = [
        sign * centred(np.stack([np.maximum(side * (x[:, 0] - t), 0) for t in ends], axis=1))
        for ends, side, sign in itertools.product(itertools.pairwise(places), (1, -1), (1, -1))
    ]
    fits = [
        lsq_linear(np.hstack(pair), centred(y), bounds=(0, np.inf), method="bvls").cost * 2
        for pair in itertools.combinations(cones, 2)
    ]
    assert relu_points.global_minimum(x, y, 2) == pytest.approx(min(fits), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", LINES)
def test_kinked_minima_are_at_a_row_and_nothing_near_is_below_them(name):
    x, y = LINES[name]
    rng = np.random.default_rng(1)
    for fact in relu_points.kinked_minima(x, y):
        p = fact["point"]
        z = x[:, 0] * p["w"][0, 0] + p["b"][0]
        assert set(np.flatnonzero(np.abs(z) < 1e-9)) == set(fact["kinks"]) != set()
        near = [{k: v + 1e-4 * rng.standard_normal(v.shape) for k, v in p.items()} for _ in range(300)]
        assert min(relu_points.loss(q, x, y) for q in near) > fact["loss"] - 1e-12 * np.sum(y**2)


@pytest.mark.parametrize(("data", "hidden", "starts"), [("D1", 1, 200), ("D2", 1, 60), ("D2", 2, 100), ("D3", 2, 100)])
def test_no_descent_ends_below_the_global_minimum_and_some_end_at_it(data, hidden, starts):
    x, y = line(data)
    h = hidden
    params = lambda p: {"b": p[:h], "c": p[h], "v": p[h + 1 : 2 * h + 1], "w": p[2 * h + 1 :].reshape(1, h)}

    def value_and_gradient(p):
        gradient = relu_points.gradient(params(p), x, y)
        return relu_points.loss(params(p), x, y), np.concatenate([np.ravel(gradient[k]) for k in "bcvw"])

    rng = np.random.default_rng(0)
    spread = np.concatenate([np.full(h, np.abs(x).max()), [3.0], np.full(2 * h, 1.5)])
    ends = [
        minimize(value_and_gradient, rng.standard_normal(3 * h + 1) * spread, jac=True, method="L-BFGS-B").fun
        for _ in range(starts)
    ]
    bound = relu_five_points(data=data, hidden=hidden).facts["lower_bound"]
    assert min(ends) > bound - 1e-10
    assert min(ends) < bound + 1e-3


@pytest.mark.parametrize("hidden", [1, 2, 5])
@pytest.mark.parametrize("data", ["D1", "D3"])
def test_derivatives_in_closed_form_are_those_of_the_loss(data, hidden, float64):
    land = relu_five_points(data=data, hidden=hidden, dtype="float64")
    for seed in range(3):
        params = land.init(jax.random.key(seed))
        host = jax.tree.map(np.asarray, params)
        wanted = jax.grad(land.loss)(params, land.batch)
        h = np.asarray(hj.dense(hj.Hessian(land.loss, params, land.batch)))
        for name, g in land.facts["gradient"](host).items():
            np.testing.assert_allclose(g, wanted[name], atol=100 * EPS * np.abs(h).sum())
        np.testing.assert_allclose(land.facts["hessian"](host), h, atol=100 * EPS * np.abs(h).sum())


# --- four points of the plane -----------------------------------------------------------------------------------------


def test_two_relu_units_compute_xor(dtype):
    land = xor(dtype=dtype)
    weights = {"w": [[1.0, 1.0], [1.0, 1.0]], "b": [0.0, -1.0], "v": [1.0, -2.0], "c": -0.5}
    params = {name: jnp.asarray(x, dtype) for name, x in weights.items()}
    outputs = land.model(params, land.batch[0])
    np.testing.assert_array_equal(outputs, [[0, -0.5], [0, -0.5], [0, 0.5], [0, 0.5]])
    assert (jnp.argmax(outputs, axis=-1) == land.batch[1]).all()
    assert outputs.dtype == land.loss(params, land.batch).dtype == dtype


def test_two_relu_units_compute_the_jellyfish():
    land = jellyfish()
    # -0.7 x - y is -0.7 and -0.74 in class 1, between -1 and -0.62 of class 0: a tent over it.
    weights = {"w": [[-0.7, -0.7], [-1.0, -1.0]], "b": [1.0, 0.7], "v": [1.0, -10.0], "c": -0.13}
    params = {name: jnp.asarray(x, "float32") for name, x in weights.items()}
    assert (jnp.argmax(land.model(params, land.batch[0]), axis=-1) == land.batch[1]).all()


@pytest.mark.parametrize("make", [xor, jellyfish])
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh", "softplus", "leaky-relu", "linear"])
def test_the_loss_is_that_of_the_two_logits(make, activation, float64):
    land = make(hidden=3, activation=activation, dtype="float64")
    params = land.init(jax.random.key(0))
    x, y = (np.asarray(a) for a in land.batch)
    cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels(land.model(params, x), land.batch[1])
    np.testing.assert_allclose(land.loss(params, land.batch), cross_entropy, rtol=1e-12)
    squared = make(hidden=3, activation=activation, loss="squared", dtype="float64").loss(params, land.batch)
    np.testing.assert_allclose(squared, (land.model(params, x)[:, 1] - (2 * y - 1)) ** 2, rtol=1e-12)
    assert land.classifies
    assert hj.Hessian(land.loss, params, land.batch).size == 13


@pytest.mark.parametrize("make", [xor, jellyfish])
@pytest.mark.parametrize("loss", ["cross-entropy", "squared"])
@pytest.mark.parametrize("hidden", [2, 5])
def test_dead_nets_of_the_plane_are_as_their_facts_say(make, loss, hidden, float64):
    land = make(hidden=hidden, loss=loss, dtype="float64")
    (fact,) = land.facts["critical_points"]
    point = on_device(fact["point"])
    mean = lambda p: jnp.mean(land.loss(p, land.batch))
    assert float(mean(point)) == pytest.approx(fact["loss"])
    assert all(float(jnp.abs(g).max()) < 1e-15 for g in jax.tree.leaves(jax.grad(mean)(point)))
    spectrum = hj.eigvalsh(hj.Hessian(land.loss, point, land.batch))
    np.testing.assert_allclose(spectrum, fact["eigenvalues"], atol=1e-14)
    assert fact["nullity"] == 4 * hidden
    assert kinks(land.loss, point, land.batch).dead[0].num_dead == hidden


def test_starts_have_the_mean_and_spread_of_their_options():
    params = xor(hidden=4000, init_mean=0.5, init_scale=2.0).init(jax.random.key(0))
    for x in (params["w"], params["b"], params["v"]):
        assert abs(float(x.mean()) - 0.5) < 4 * 2 / x.size**0.5
        assert abs(float(x.std()) - 2.0) < 4 * 2 / (2 * x.size) ** 0.5


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (relu_five_points, {"data": "D4"}, r"unknown data 'D4'; did you mean 'D1'|unknown data 'D4'"),
        (relu_five_points, {"hidden": 0}, "hidden must be a whole number"),
        (relu_five_points, {"dtype": "float16"}, "dtype must be 'float32' or 'float64'"),
        (relu_five_points, {"dtype": "float64"}, "dtype float64 needs x64"),
        (xor, {"activation": "rule"}, "unknown activation 'rule'"),
        (xor, {"loss": "hinge"}, "unknown loss 'hinge'"),
        (jellyfish, {"hidden": 1.5}, "hidden must be a whole number"),
        (jellyfish, {"init_scale": 0.0}, "init_scale above 0"),
        (jellyfish, {"init_mean": math.nan}, "init_mean must be finite"),
        (success_rates, {"key": 0, "problem": "xnor"}, "unknown problem 'xnor'; did you mean 'xor'"),
        (success_rates, {"key": 0, "optimizer": "sgd"}, "unknown optimizer 'sgd'"),
        (success_rates, {"key": 0, "num_starts": 0}, "num_starts must be a whole number"),
        (success_rates, {"key": 0, "num_steps": -1}, "num_steps must be a whole number"),
        (success_rates, {"key": 0, "learning_rate": 0.0}, "learning_rate must be above 0"),
        (dead_share, {"key": 0, "widths": (3, 0)}, "widths must be a whole number"),
        (dead_share, {"key": 0, "widths": ()}, "widths must be one or more"),
        (dead_share, {"key": 0, "std": 0.0}, "std above 0"),
        (dead_share, {"key": 0, "std": "glorot"}, "std above 0"),
        (dead_share, {"key": 0, "mean": math.inf}, "mean must be finite"),
        (dead_share, {"key": 0, "inputs": "xnor"}, "unknown inputs 'xnor'"),
        (dead_share, {"key": 0, "inputs": np.ones(3)}, r"inputs must be \[rows, inputs\], got shape \(3,\)"),
        (dead_unit_probability, {"x": []}, "x must be finite numbers"),
        (dead_unit_probability, {"x": [1.0], "std": -1.0}, "std above 0"),
    ],
)
def test_bad_options_are_answered_in_one_line(untyped, make, options, words):
    with pytest.raises(ValueError, match=words) as caught:
        make(**options)
    assert "\n" not in str(caught.value)


# --- rates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "total"), [(0, 10), (3, 10), (10, 10), (57, 300)])
def test_wilson_is_the_score_interval(count, total):
    wanted = binomtest(count, total).proportion_ci(method="wilson")
    assert wilson(count, total) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_more_units_solve_xor_more_often_and_the_same_key_gives_the_same_answer():
    rate = lambda hidden: success_rates(
        jax.random.key(0), hidden=hidden, num_starts=200, num_steps=1000, learning_rate=0.03
    )
    few, many, again = rate(2), rate(7), rate(2)
    assert few.high < many.low
    np.testing.assert_array_equal(few.loss, again.loss)
    assert few.rate == few.solved.mean() == again.rate
    assert (few.low, few.high) == wilson(int(few.solved.sum()), 200)


@pytest.mark.parametrize(("problem", "optimizer", "rate"), [("jellyfish", "adam", 0.03), ("xor", "gd", 0.5)])
def test_solved_nets_have_lower_losses_than_any_that_fails(problem, optimizer, rate):
    found = success_rates(
        jax.random.key(1),
        problem=problem,
        hidden=4,
        optimizer=optimizer,
        num_starts=50,
        num_steps=1500,
        learning_rate=rate,
    )
    assert 0 < found.rate < 1
    # Where a point is on the wrong side its loss is log 2 at least, a quarter of it in the mean.
    assert (np.asarray(found.loss)[~np.asarray(found.solved)] >= math.log(2) / 4).all()


def test_nets_that_cannot_solve_it_never_do():
    rates = [
        success_rates(jax.random.key(0), activation="linear", num_starts=30, num_steps=300).rate,
        success_rates(jax.random.key(0), init_mean=-5.0, init_scale=0.1, num_starts=30, num_steps=300).rate,
    ]
    assert rates == [0.0, 0.0]


def test_the_published_rates_are_of_what_can_be_run_here():
    assert all(len(row) == 6 and all(0 <= r <= 100 for r in row) for row in PUBLISHED_RATES.values())
    for problem, activation, optimizer in PUBLISHED_RATES:
        assert problem in relu_starts.PROBLEMS
        assert activation in relu.ACTIVATIONS
        assert optimizer in relu_starts.OPTIMIZERS
    assert PUBLISHED_RATES["xor", "relu", "adam"] == (28, 52, 68, 81, 91, 97)


# --- dead starts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ends", [(-1.0, 1.0), (0.5, 2.0), (-3.0, 0.1), (1.0, 1.0)])
def test_a_units_chance_of_being_dead_is_an_angle_where_the_mean_is_zero(ends):
    low, high = ends
    cosine = (1 + low * high) / math.sqrt((1 + low**2) * (1 + high**2))
    wanted = 0.25 + math.asin(min(1.0, cosine)) / (2 * math.pi)
    for std in (0.1, 1.0, 3.0):
        got = dead_unit_probability([low, 0.3 * low + 0.7 * high, high], std=std)
        assert got == pytest.approx(wanted, abs=1e-11 if low < high else 1e-8)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.5, 1.0), (0.7, 2.0), (-2.0, 0.3)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_units_chance_of_being_dead_is_the_share_of_units_drawn(mean, std, bias):
    for x in (np.array([-1.0, 0.2, 2.0]), np.array([0.1, 3.0])):
        p = dead_unit_probability(x, mean=mean, std=std, bias=bias)
        w, b = mean + std * np.random.default_rng(0).standard_normal((2, 200_000))
        share = np.mean(np.all(x[:, None] * w + (b if bias else 0.0) < 0, axis=0))
        assert abs(share - p) <= 4 * math.sqrt(p * (1 - p) / 200_000) + 1e-9


@pytest.mark.parametrize(("width", "mean"), [(1, 0.0), (2, -0.5), (3, -1.0)])
def test_a_layer_is_dead_as_often_as_all_its_units_are(width, mean):
    x = np.array([[-0.5], [0.2], [1.0]])
    p = dead_unit_probability(x, mean=mean)
    found = dead_share(jax.random.key(2), widths=(width,), mean=mean, std=1.0, num_starts=4000, inputs=x)
    assert abs(found.share - p**width) <= 4 * math.sqrt(p**width * (1 - p**width) / 4000)
    assert abs(float(found.units[0]) - p) <= 4 * math.sqrt(p * (1 - p) / (4000 * width))
    assert (found.low, found.high) == wilson(int(found.dead.sum()), 4000)


def test_on_data_without_negative_numbers_a_lower_mean_kills_every_start_that_a_higher_one_does():
    dead = [
        np.asarray(dead_share(jax.random.key(0), widths=(3,), mean=mean, std=1.0, num_starts=500).dead)
        for mean in (0.5, 0.0, -0.5, -1.0)
    ]
    for higher, lower in itertools.pairwise(dead):
        assert (lower >= higher).all()
    assert dead[0].mean() < dead[-1].mean()


def test_dead_starts_are_those_where_a_layer_is_below_zero_for_all_rows():
    key, x = jax.random.key(5), np.random.default_rng(0).standard_normal((6, 3))
    found = dead_share(key, widths=(2, 2), mean=-0.6, num_starts=40, inputs=x)
    assert 0 < found.share < 1
    assert found.units.shape == (2,)
    for k, dead in zip(jax.random.split(key, 40), found.dead, strict=True):
        h, layers = x, []
        for layer in jax.random.split(k, 2):
            draw = -0.6 + np.asarray(jax.random.normal(layer, (h.shape[1] + 1, 2))) / math.sqrt(h.shape[1])
            z = h @ draw[:-1] + draw[-1]
            layers.append(bool((z < 0).all()))
            h = np.maximum(z, 0)
        assert bool(dead) == any(layers)


def test_a_row_of_zeros_without_biases_keeps_every_start_alive():
    assert dead_share(jax.random.key(0), mean=-3.0, num_starts=50, bias=False).share == 0.0  # XOR has (0, 0)
