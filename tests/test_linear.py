"""Deep linear networks: closed forms against autodiff, every critical point against its Hessian, the theorems."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import hessjax as hj
from hessjax.landscapes.linear import autoencoder, deep_linear, generic_ranks, linear_network
from hessjax.landscapes.linear_points import Regression, count_classes, critical_points, kawaguchi, layer_names

EPS = np.finfo(float).eps
C = 64  # of rounding: a few operations deep, each of a few terms
SHAPES = [(3, 2), (3, 4, 2), (3, 4, 2, 5), (4, 1, 3), (2, 3, 1, 3, 2), (1, 1, 1, 1), (5, 2, 2, 2, 2, 3)]


def mean_loss(land):
    return lambda params: jnp.mean(land.loss(params, land.batch))


def autodiff(land, point):
    """Gradient and Hessian of the mean loss, flat, in ravel_pytree order."""
    flat, unravel = ravel_pytree(jax.tree.map(jnp.asarray, point))
    mean = lambda w: mean_loss(land)(unravel(w))
    return tuple(np.asarray(a) for a in jax.jit(lambda w: (jax.grad(mean)(w), jax.hessian(mean)(w)))(flat))


def counts(h):
    """Numbers of negative and zero eigenvalues, of a problem of order 1; and that none is too near zero to say."""
    values = np.linalg.eigvalsh(h)
    unclear = values[(np.abs(values) > 1e-11) & (np.abs(values) < 1e-5)]
    assert unclear.size == 0, unclear
    return int(np.sum(values < -1e-8)), int(np.sum(np.abs(values) < 1e-8))


def start(land, seed=0):
    return jax.tree.map(lambda w: np.asarray(w, float), land.init(jax.random.key(seed)))


# The closed forms.


@pytest.mark.parametrize("loss", ["squared", "log-cosh"])
@pytest.mark.parametrize("rows", [2, 7])  # 2: fewer than inputs, so that X is rank-deficient
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_l1_gradient_and_hessian_are_those_of_the_loss(widths, rows, loss, float64):
    land = deep_linear(widths=widths, rows=rows, loss=loss, dtype="float64")
    point = start(land)
    gradient, hessian = autodiff(land, point)
    tol = C * EPS * hessian.shape[0] * np.abs(hessian).max()
    np.testing.assert_allclose(ravel_pytree(land.facts["gradient"](point))[0], gradient, atol=tol)
    np.testing.assert_allclose(land.facts["hessian"](point), hessian, atol=tol)


@pytest.mark.parametrize("loss", ["squared", "log-cosh"])
def test_the_parts_of_the_hessian_are_gauss_newton_and_residual(loss, float64):
    land = deep_linear(widths=(3, 4, 2, 5), rows=7, loss=loss, dtype="float64")
    params = land.init(jax.random.key(1))
    value = {"squared": lambda z: 0.5 * z**2, "log-cosh": lambda z: jnp.log(jnp.cosh(z))}[loss]
    per_row = lambda outputs, targets: jnp.sum(value(outputs - targets), -1)
    parts = {"outer_product": hj.GaussNewton, "functional": hj.Residual}
    for fact, operator in parts.items():
        oracle = np.asarray(hj.dense(operator(land.model, per_row, params, land.batch)))
        tol = C * EPS * len(oracle) * np.abs(land.facts["hessian"](params)).max()
        np.testing.assert_allclose(land.facts[fact](params), oracle, atol=tol)


def test_log_cosh_is_smooth_at_zero_residual_and_finite_far_out(float64):
    land = linear_network(np.ones((1, 1)), np.zeros((1, 1)), hidden=(), loss="log-cosh", dtype="float64")
    at = lambda w: {"W1": np.full((1, 1), w)}
    gradient, hessian = autodiff(land, at(0.0))
    assert (gradient, hessian) == (0.0, 1.0)
    assert land.facts["hessian"](at(0.0)) == 1.0
    assert float(land.loss(at(1e4), land.batch)[0]) == pytest.approx(1e4 - math.log(2), rel=C * EPS)


def test_the_operators_hessian_is_the_fact_in_either_precision(dtype):
    land = deep_linear(widths=(3, 4, 2), dtype=dtype)
    params = land.init(jax.random.key(0))
    exact = land.facts["hessian"](params)
    found = hj.dense(hj.Hessian(land.loss, params, land.batch))
    assert found.dtype == jnp.dtype(dtype)
    np.testing.assert_allclose(found, exact, atol=C * float(jnp.finfo(dtype).eps) * np.abs(exact).max())


@pytest.mark.parametrize("depth", [1, 9, 10, 11, 100])
def test_layers_are_ravelled_from_input_to_output_at_any_depth(depth):
    params = {name: jnp.full((1, 1), k, "float32") for k, name in enumerate(layer_names(depth))}
    assert ravel_pytree(params)[0].tolist() == list(range(depth))
    land = deep_linear(widths=(1,) * (depth + 1), rows=1)
    assert jax.eval_shape(land.init, jax.random.key(0)).keys() == params.keys()


def test_the_network_is_the_product_of_its_layers_at_eleven_too(float64):
    land = deep_linear(widths=(2,) * 12, rows=5, dtype="float64")
    point = start(land)
    w = np.linalg.multi_dot([point[name] for name in reversed(layer_names(11))])
    x, y = (np.asarray(a) for a in land.batch)
    np.testing.assert_allclose(land.model(point, x), x @ w.T, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(land.loss(point, land.batch), 0.5 * ((x @ w.T - y) ** 2).sum(1), rtol=1e-12)
    _, hessian = autodiff(land, point)
    np.testing.assert_allclose(land.facts["hessian"](point), hessian, atol=C * EPS * 44 * np.abs(hessian).max())


@pytest.mark.parametrize("widths", [(3, 4, 2), (4, 3, 2, 5), (2, 1, 2, 3)], ids=str)
def test_q7_a_layers_block_is_a_product_and_so_are_its_eigenvalues(widths, float64):
    land = deep_linear(widths=widths, rows=9, dtype="float64")
    point = start(land)
    _, hessian = autodiff(land, point)
    x, ws, first = np.asarray(land.batch[0]), list(point.values()), 0
    for k, w in enumerate(ws):
        a = np.linalg.multi_dot([np.eye(widths[-1]), *reversed(ws[k + 1 :]), np.eye(widths[k + 1])])
        b = np.linalg.multi_dot([np.eye(widths[k]), *reversed(ws[:k]), np.eye(widths[0])])
        left, right = a.T @ a, b @ x.T @ x @ b.T / len(x)
        block = hessian[first : first + w.size, first : first + w.size]
        products = np.sort(np.outer(np.linalg.eigvalsh(left), np.linalg.eigvalsh(right)).ravel())
        size = np.abs(products).max()
        np.testing.assert_allclose(block, np.kron(left, right), atol=1e-10 * size)
        np.testing.assert_allclose(np.linalg.eigvalsh(block), products, atol=1e-10 * size)
        first += w.size


def test_a_losss_function_makes_the_landscape_that_its_name_does(float64):
    own = lambda outputs, targets: 0.5 * jnp.sum((outputs - targets) ** 2, axis=-1)
    mine, named = (deep_linear(loss=loss, dtype="float64") for loss in (own, "squared"))
    params = named.init(jax.random.key(0))
    np.testing.assert_array_equal(mine.loss(params, mine.batch), named.loss(params, named.batch))
    assert mine.facts.keys() == {"notes"}


# Ranks.


@pytest.mark.parametrize(
    ("inputs", "hidden", "outputs", "rows", "ranks"),
    [
        (25, (5, 10), 10, 50, (150, 175, 250)),
        (6, (3,), 4, 20, (21, 24, 30)),
        (4, (6, 6), 3, 12, (12, 63, 66)),
        (8, (3, 3, 3, 3), 2, 20, (16, 36, 48)),
        (10, (12,), 10, 40, (100, 240, 240)),
    ],
)
def test_l2_ranks_are_the_published_ones(inputs, hidden, outputs, rows, ranks, float64):
    land = deep_linear(widths=(inputs, *hidden, outputs), rows=rows, dtype="float64")
    known = land.facts["ranks"]
    assert (known["outer_product"], known["functional"], known["hessian"]) == ranks
    assert measured_ranks(land) == ranks


@pytest.mark.parametrize("loss", ["squared", "log-cosh"])
@pytest.mark.parametrize(
    "options",
    [
        {"widths": (4, 3), "rows": 20},
        {"widths": (4, 3), "rows": 20, "rank": 2},
        {"widths": (6, 4, 5), "rows": 20, "rank": 3},
        {"widths": (6, 4, 5), "rows": 2},
        {"widths": (5, 1, 4, 3), "rows": 12, "rank": 4},
    ],
    ids=str,
)
def test_ranks_hold_for_inputs_of_any_rank_and_both_losses(options, loss, float64):
    land = deep_linear(**options, loss=loss, dtype="float64")
    known = land.facts["ranks"]
    assert known["inputs"] == np.linalg.matrix_rank(np.asarray(land.batch[0]))
    assert measured_ranks(land) == (known["outer_product"], known["functional"], known["hessian"])


def measured_ranks(land):
    # At 1e-11 of the largest, as published; the weights are those of the default start.
    values = [
        np.abs(np.linalg.eigvalsh(land.facts[k](start(land)))) for k in ("outer_product", "functional", "hessian")
    ]
    return tuple(int(np.sum(v > 1e-11 * v.max())) for v in values)


def test_one_layer_has_no_functional_part():
    assert generic_ranks((4, 3), 2) == {"inputs": 2, "outer_product": 6, "functional": 0, "hessian": 6}


# Critical points.


def spectral(eigenvalues, inputs, hidden, *, rank=None, rows=12, seed=0):
    """A regression whose Sigma has these eigenvalues, on `inputs` inputs of the given rank."""
    draw = np.random.default_rng(seed)
    orthonormal = lambda n, m: np.linalg.qr(draw.standard_normal((n, m)))[0]
    rank = inputs if rank is None else rank
    p, q, u = orthonormal(rows, rank), orthonormal(inputs, rank), orthonormal(len(eigenvalues), len(eigenvalues))
    sigma = np.zeros((len(eigenvalues), rank))
    np.fill_diagonal(sigma, np.sqrt(eigenvalues))
    noise = draw.standard_normal((rows, len(eigenvalues)))
    noise -= p @ (p.T @ noise)  # out of the inputs' reach
    x = p * draw.uniform(0.5, 2, rank) @ q.T * rows**0.5
    return linear_network(x, rows**0.5 * p @ sigma.T @ u.T + noise, hidden=hidden, dtype="float64")


PROBLEMS = {
    "square": lambda: spectral((3, 2, 1), 3, (2,)),
    "more inputs": lambda: spectral((3, 2, 1), 5, (2,)),
    "more outputs": lambda: spectral((4, 3, 0, 0), 2, (3,)),
    "wider than both": lambda: spectral((2, 1), 3, (4,)),
    "hidden wider than the rank": lambda: spectral((3, 1, 0), 4, (3,)),
    "ties": lambda: spectral((2, 2, 1, 1), 4, (2,)),
    "all tied": lambda: spectral((1, 1, 1), 4, (2,)),
    "zeros": lambda: spectral((2, 0, 0), 4, (2,)),
    "ties and zeros, few inputs": lambda: spectral((2, 2, 0, 0), 3, (2,)),
    "rank-deficient inputs": lambda: spectral((3, 2, 1), 5, (2,), rank=3),
    "inputs of lower rank than outputs": lambda: spectral((3, 2, 0), 4, (2,), rank=2),
    "targets out of reach": lambda: spectral((0, 0), 3, (2,)),
    "one unit": lambda: spectral((3, 2), 2, (1,)),
    "one layer": lambda: spectral((3, 2, 1), 4, ()),
    "one layer, rank-deficient": lambda: spectral((3, 2, 0), 4, (), rank=2),
    "three layers": lambda: spectral((3, 2, 1), 4, (2, 3)),
    "three layers, ties and zeros": lambda: spectral((2, 2, 0), 3, (2, 2)),
    "three layers, more outputs": lambda: spectral((3, 1, 0), 2, (4, 3)),
    "three layers, rank-deficient": lambda: spectral((3, 2, 0), 4, (3, 2), rank=2),
    "four layers": lambda: spectral((2, 1), 3, (2, 3, 2)),
    "scalar, three layers": lambda: spectral((1,), 1, (1, 1)),
    "scalar, six layers": lambda: spectral((1,), 1, (1,) * 5),
    "random": lambda: deep_linear(widths=(5, 3, 4), rows=30, dtype="float64"),
    "autoencoder": lambda: autoencoder(inputs=5, hidden=2, dtype="float64"),
    "deep autoencoder": lambda: autoencoder(inputs=4, hidden=2, depth=4, dtype="float64"),
    "autoencoder with ties and zeros": lambda: autoencoder(
        inputs=5, hidden=3, eigenvalues=(0, 0, 1, 1, 2), dtype="float64"
    ),
}
problems = pytest.mark.parametrize("make", PROBLEMS.values(), ids=PROBLEMS.keys())


@problems
def test_every_critical_point_has_the_loss_index_and_nullity_it_says(make, float64):
    land = make()
    x, y = (np.asarray(a) for a in land.batch)
    scale = float(np.sum(y**2)) / len(y)
    gradient = jax.jit(jax.grad(mean_loss(land)))
    facts = land.facts["critical_points"]
    for fact in facts:
        point = fact["point"]
        assert float(mean_loss(land)(point)) == pytest.approx(fact["loss"], abs=C * EPS * scale)
        flat = np.concatenate([np.ravel(g) for g in jax.tree.leaves(gradient(point))])
        np.testing.assert_allclose(flat, 0, atol=C * EPS * (1 + scale) * len(x))
        assert counts(land.facts["hessian"](point)) == (fact["index"], fact["nullity"]), fact["name"]
        assert fact["strict"] == (fact["index"] > 0)
        between = list(point.values())[1:-1]
        assert fact["hidden_rank"] == (
            np.linalg.matrix_rank(product(between)) if between else land.facts["problem"].bottleneck
        )
    assert len({fact["subset"] for fact in facts}) == land.facts["classes"]


def product(ws):
    found = ws[0]
    for w in ws[1:]:
        found = w @ found
    return found


@problems
def test_kinds_are_by_loss_and_index(make, float64):
    land = make()
    for fact in land.facts["critical_points"]:
        least = fact["loss"] <= land.facts["lower_bound"] + 1e-9
        if fact["index"]:
            assert (fact["kind"], least) == ("strict saddle", False)
        elif least:
            assert fact["kind"] == ("degenerate minimum" if fact["nullity"] else "minimum")
        else:
            assert fact["kind"] == "degenerate saddle"


@pytest.mark.parametrize(("k", "p", "classes"), [(2, 1, 3), (5, 2, 16), (5, 7, 32), (6, 3, 42)])
def test_l4_the_autoencoders_critical_points_are_all_subsets(k, p, classes, float64):
    land = autoencoder(inputs=k, hidden=p, dtype="float64")
    gradient = jax.jit(jax.grad(mean_loss(land)))
    facts = land.facts["critical_points"]
    assert len(facts) == land.facts["classes"] == classes
    for fact in facts:
        inside = sorted(k - j for j in fact["subset"])  # eigenvalues are 1..k, subsets count from the largest
        outside = sorted(set(range(1, k + 1)) - set(inside))
        m = len(inside)
        index = (p - m) * (k - m) + sum(j > i for i in inside for j in outside)
        nullity = m**2 + 2 * m * (p - m)
        assert (fact["index"], fact["nullity"]) == (index, nullity)
        assert fact["loss"] == pytest.approx((k * (k + 1) / 2 - sum(inside)) / k, abs=1e-12)
        point = fact["point"]
        assert float(mean_loss(land)(point)) == pytest.approx(fact["loss"], abs=1e-12)
        assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient(point))) < 1e-12
        values = np.linalg.eigvalsh(land.facts["hessian"](point))
        assert (np.sum(values < -1e-8), np.sum(np.abs(values) < 1e-8)) == (index, nullity)
        u = np.eye(k)[:, ::-1][:, list(fact["subset"])]
        np.testing.assert_allclose(point["W2"] @ point["W1"], u @ u.T, atol=1e-14)


@pytest.mark.parametrize("widths", [(4, 2, 3), (3, 2, 4), (3, 2, 2, 3), (4, 5, 3)], ids=str)
def test_the_lower_bound_is_the_best_matrix_of_low_rank_and_descent_reaches_it(widths, float64):
    from scipy.linalg import sqrtm
    from scipy.optimize import minimize

    land = deep_linear(widths=widths, rows=15, dtype="float64")
    x, y = (np.asarray(a) for a in land.batch)
    root = np.real(sqrtm(x.T @ x))
    best = y.T @ x @ np.linalg.inv(x.T @ x)
    unreachable = np.sum((x @ best.T - y) ** 2)
    tail = np.linalg.svd(best @ root)[1][min(widths[1:-1]) :]
    assert land.facts["lower_bound"] == pytest.approx((unreachable + np.sum(tail**2)) / 30, rel=1e-12)
    flat, unravel = ravel_pytree(land.init(jax.random.key(0)))
    value = jax.jit(jax.value_and_grad(lambda w: mean_loss(land)(unravel(w))))
    found = minimize(value, flat, jac=True, method="L-BFGS-B", options={"ftol": 0, "gtol": 1e-9, "maxiter": 5000})
    assert found.fun == pytest.approx(land.facts["lower_bound"], abs=1e-12)


@pytest.mark.parametrize("width", [1, 3, 5])
def test_l6_one_hidden_layer_has_plus_and_minus_the_singular_values_at_the_origin(width, float64):
    land = deep_linear(widths=(4, width, 3), rows=20, dtype="float64")
    origin = jax.tree.map(np.zeros_like, start(land))
    x, y = (np.asarray(a) for a in land.batch)
    sigma = np.linalg.svd(y.T @ x / 20)[1]
    expected = np.sort([*np.repeat(sigma, width), *np.repeat(-sigma, width), *np.zeros(width)])
    _, hessian = autodiff(land, origin)
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian), expected, atol=1e-12 * sigma[0])
    fact = land.facts["critical_points"][0]
    assert (fact["subset"], fact["index"], fact["nullity"]) == ((), 3 * width, width)


@pytest.mark.parametrize("depth", [3, 4, 6])
def test_l6_deeper_nets_are_flat_at_the_origin_and_fall_at_the_order_of_their_depth(depth, float64):
    land = deep_linear(widths=(3, *[2] * (depth - 1), 4), rows=20, dtype="float64")
    origin = jax.tree.map(np.zeros_like, start(land))
    gradient, hessian = autodiff(land, origin)
    assert not gradient.any()
    assert not hessian.any()
    flat = [f for f in land.facts["critical_points"] if f["subset"] == () and f["hidden_rank"] == 0]
    assert [(f["index"], f["nullity"], f["kind"]) for f in flat] == [(0, hessian.shape[0], "degenerate saddle")]
    way, (x, y) = start(land, 3), (np.asarray(a) for a in land.batch)
    slope = -np.sum(product(list(way.values())) * (y.T @ x)) / len(x)
    if slope > 0:
        way["W1"], slope = -way["W1"], -slope
    at = lambda t: float(mean_loss(land)(jax.tree.map(lambda w: t * w, way)))
    end = product(list(way.values())) @ x.T
    for t in (0.3, 0.2, 0.1):
        assert at(t) < at(0.0)
        quadratic = t ** (2 * depth) * np.sum(end**2) / (2 * len(x))
        assert at(t) - at(0.0) == pytest.approx(t**depth * slope + quadratic, abs=C * EPS * at(0.0))


@pytest.mark.parametrize("name", ["three layers", "three layers, ties and zeros", "four layers", "scalar, six layers"])
def test_a_degenerate_saddle_comes_with_a_way_down_of_known_profile(name, float64):
    land = PROBLEMS[name]()
    problem = land.facts["problem"]
    flat = [f for f in land.facts["critical_points"] if f["kind"] == "degenerate saddle"]
    assert flat
    for fact in flat:
        j = min(set(range(len(problem.eigenvalues))) - set(fact["subset"]))
        for t in (-0.7, 0.1, 0.5, 1.0, 1.5):
            at = {k: w + t * fact["descent"][k] for k, w in fact["point"].items()}
            s = t**problem.depth
            expected = fact["loss"] - problem.scale * problem.eigenvalues[j] * (s - s**2 / 2)
            assert float(mean_loss(land)(at)) == pytest.approx(expected, abs=C * EPS * (1 + s**2) * problem.variance)


def test_l7_twenty_starts_of_a_log_cosh_net_reach_the_convex_optimum(float64):
    # Laurent & von Brecht, hidden widths 5 and 4 at least min(inputs, outputs) = 3.
    optimum = lowest(deep_linear(widths=(4, 3), rows=30, loss="log-cosh", dtype="float64"), seeds=[0])
    found = lowest(deep_linear(widths=(4, 5, 4, 3), rows=30, loss="log-cosh", dtype="float64"), seeds=range(20))
    np.testing.assert_allclose(found, optimum[0], atol=1e-9)


def lowest(land, seeds):
    from scipy.optimize import minimize

    unravel = ravel_pytree(land.init(jax.random.key(0)))[1]
    value = jax.jit(jax.value_and_grad(lambda w: mean_loss(land)(unravel(w))))
    starts = [ravel_pytree(land.init(jax.random.key(seed)))[0] for seed in seeds]
    options = {"ftol": 0, "gtol": 1e-9, "maxiter": 5000}
    return [minimize(value, w, jac=True, method="L-BFGS-B", options=options).fun for w in starts]


# Kawaguchi's statements.

GENERIC = [
    *("square", "more inputs", "rank-deficient inputs", "one unit", "random", "autoencoder", "ties"),
    *("three layers", "three layers, ties and zeros", "four layers", "scalar, six layers", "deep autoencoder"),
]


@pytest.mark.parametrize("name", GENERIC)
def test_kawaguchis_statements_hold(name, float64):
    land = PROBLEMS[name]()
    problem, points = land.facts["problem"], land.facts["critical_points"]
    statements = kawaguchi(problem, points)
    assert {k: s.holds for k, s in statements.items()} == dict.fromkeys(statements, True)
    flat = {i for i, p in enumerate(points) if p["kind"] == "degenerate saddle"}
    assert set(statements["strictness"].witnesses) == flat
    assert bool(flat) == (problem.depth > 2)
    minima = {i for i, p in enumerate(points) if p["kind"].endswith("minimum")}
    assert set(statements["local minima are global"].witnesses) == minima
    assert set(statements["others are saddles"].witnesses) == set(range(len(points))) - minima
    down, up = statements["non-convex and non-concave"].witnesses
    assert np.linalg.eigvalsh(land.facts["hessian"](points[down]["point"]))[0] < -1e-8
    assert np.linalg.eigvalsh(land.facts["hessian"](points[up]["point"]))[-1] > 1e-8


def test_a_statement_that_is_false_of_the_points_is_said_to_be(float64):
    problem = PROBLEMS["three layers"]().facts["problem"]
    points = list(critical_points(problem))
    saddle = next(p for p in points if p["kind"] == "degenerate saddle")
    trapped = {k: v for k, v in saddle.items() if k != "descent"}  # as if no way down were known
    found = kawaguchi(problem, [*points, trapped])
    assert not found["local minima are global"].holds
    assert found["local minima are global"].witnesses[-1] == len(points)
    assert not found["others are saddles"].holds
    uphill = {**saddle, "descent": {**saddle["descent"], "W1": -saddle["descent"]["W1"]}}
    assert not kawaguchi(problem, [*points, uphill])["local minima are global"].holds
    strict = [p for p in points if p["kind"] != "degenerate saddle"]
    assert not kawaguchi(problem, strict)["strictness"].holds
    assert not kawaguchi(problem, [p for p in strict if not p["index"]])["non-convex and non-concave"].holds


def test_one_layer_is_convex_and_the_theorem_does_not_speak_of_it():
    problem = Regression(np.eye(2), np.eye(2))
    assert [(p["kind"], p["index"], p["nullity"]) for p in critical_points(problem)] == [("minimum", 0, 0)]
    with pytest.raises(ValueError, match="depth 1, wanted 2 or more"):
        kawaguchi(problem, [])


def test_points_are_yielded_one_by_one_where_they_are_too_many_to_list():
    land = autoencoder(inputs=40, hidden=20)
    assert "critical_points" not in land.facts
    problem = land.facts["problem"]
    assert land.facts["classes"] == count_classes(problem) == sum(math.comb(40, i) for i in range(21))
    assert [p["subset"] for p in itertools.islice(critical_points(problem), 3)] == [(), (0,), (1,)]


# Data.


@pytest.mark.parametrize("rows", [None, 6, 50])
def test_the_exact_autoencoders_second_moments_are_its_eigenvalues(rows, float64):
    values = (5.0, 0.0, 2.0, 2.0, 1.0, 7.0)
    land = autoencoder(eigenvalues=values, rows=rows, dtype="float64")
    x = np.asarray(land.batch[0])
    assert x.shape == (rows or 6, 6)
    np.testing.assert_allclose(x.T @ x / len(x), np.diag(values), atol=C * EPS * 7)
    np.testing.assert_allclose(land.facts["problem"].eigenvalues, sorted(values, reverse=True), atol=C * EPS * 7)
    np.testing.assert_array_equal(*land.batch)


def test_the_published_autoencoder_is_sampled_and_centred_with_2517_classes(float64):
    land = autoencoder(inputs=16, hidden=4, sampled=True, dtype="float64")
    x = np.asarray(land.batch[0])
    assert x.shape == (10_000, 16)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-13)
    # A sample variance of n rows has relative standard deviation sqrt(2 / n).
    assert np.abs(x.var(axis=0) / np.arange(1, 17) - 1).max() < 4 * (2 / 10_000) ** 0.5
    moments = np.linalg.eigvalsh(x.T @ x / 10_000)[::-1]
    np.testing.assert_allclose(land.facts["problem"].eigenvalues, moments, rtol=1e-12)
    facts = land.facts["critical_points"]
    assert len(facts) == land.facts["classes"] == 1 + 16 + 120 + 560 + 1820
    assert land.facts["lower_bound"] == pytest.approx(moments[4:].sum() / 16, rel=1e-12)
    gradient = jax.jit(jax.value_and_grad(mean_loss(land)))
    for fact in facts[::97]:
        value, slopes = gradient(fact["point"])
        assert float(value) == pytest.approx(fact["loss"], rel=1e-12)
        assert sum(float(jnp.sum(g**2)) for g in jax.tree.leaves(slopes)) < 1e-26
        assert counts(land.facts["hessian"](fact["point"])) == (fact["index"], fact["nullity"])


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_inputs_have_the_rank_asked_for(rank):
    land = deep_linear(widths=(4, 3, 2), rows=9, rank=rank, dtype="float32")
    assert land.facts["ranks"]["inputs"] == rank == np.linalg.matrix_rank(np.asarray(land.batch[0]), rtol=1e-5)


def test_data_depend_on_their_seed_alone():
    for make in (
        deep_linear,
        lambda **o: autoencoder(sampled=True, rows=20, **o),
        lambda **o: autoencoder(rows=9, **o),
    ):
        one, again, other = (np.asarray(make(data_seed=s).batch[0]) for s in (1, 1, 2))
        np.testing.assert_array_equal(one, again)
        assert not np.array_equal(one, other)


def test_weights_have_the_spread_their_scale_says(dtype):
    land = deep_linear(widths=(100, 50, 80), rows=2, init_scale=3.0, dtype=dtype)
    for name, fan_in in (("W1", 100), ("W2", 50)):
        w = land.init(jax.random.key(0))[name]
        assert w.dtype == jnp.dtype(dtype)
        assert float(w.std()) == pytest.approx(3 / fan_in**0.5, rel=4 / (2 * w.size) ** 0.5)
    many = jax.jit(jax.vmap(land.init))(jax.random.split(jax.random.key(1), 3))
    assert many["W2"].shape == (3, 80, 50)


# Refusals.


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (deep_linear, {"widths": (3,)}, "widths must be a sequence of 2 or more whole numbers"),
        (deep_linear, {"widths": (3, 0, 2)}, "widths must be a whole number, at least 1; got 0"),
        (deep_linear, {"widths": 3}, "widths must be a sequence of 2 or more whole numbers"),
        (deep_linear, {"rows": 0}, "rows must be a whole number"),
        (deep_linear, {"rank": 4}, r"rank must be 1\.\.3 .* or 'full'; got 4"),
        (deep_linear, {"rank": "half"}, "rank must be .* got 'half'"),
        (deep_linear, {"loss": "log-cos"}, "unknown loss 'log-cos'; did you mean 'log-cosh'"),
        (deep_linear, {"init_scale": 0.0}, "init_scale must be above 0"),
        (autoencoder, {"inputs": 0}, "inputs must be a whole number"),
        (autoencoder, {"hidden": True}, "hidden must be a whole number"),
        (autoencoder, {"depth": 1}, "depth must be a whole number, at least 2; got 1"),
        (autoencoder, {"rows": 5}, "rows must be a whole number, at least 6; got 5"),
        (autoencoder, {"eigenvalues": (1.0, 2.0)}, r"eigenvalues must be 6 numbers from 0 up, .* got \(1\.0, 2\.0\)"),
        (autoencoder, {"inputs": 2, "eigenvalues": (1.0, -2.0)}, "eigenvalues must be 2 numbers from 0 up"),
        (autoencoder, {"inputs": 2, "eigenvalues": (0.0, 0.0)}, "not all 0"),
        (autoencoder, {"inputs": 1, "eigenvalues": (float("nan"),)}, "eigenvalues must be 1 numbers"),
        (linear_network, {"x": np.zeros((3, 2)), "y": np.ones((3, 1))}, "x not all zero"),
        (linear_network, {"x": np.ones((3, 2)), "y": np.full((3, 1), np.nan)}, "must be finite"),
        (linear_network, {"x": np.ones((3, 2)), "y": np.ones((4, 1))}, r"shapes \(3, 2\) and \(4, 1\)"),
        (linear_network, {"x": np.ones((3, 2)), "y": np.ones((3, 1)), "hidden": (0,)}, "hidden must be"),
        (linear_network, {"x": np.ones((3, 2)), "y": np.ones((3, 1)), "hidden": 4}, "hidden must be a sequence"),
    ],
)
def test_bad_options_are_answered_in_one_line(make, options, words, untyped):
    with pytest.raises(ValueError, match=words) as caught:
        make(**options)
    assert "\n" not in str(caught.value)


def test_condensed_rows_make_the_same_mean_loss(float64):
    options = {"inputs": 5, "hidden": 2, "sampled": True, "rows": 300, "dtype": "float64"}
    whole, short = autoencoder(**options), autoencoder(condensed=True, **options)
    assert (len(whole.batch[0]), len(short.batch[0])) == (300, 5)
    for seed in range(3):
        params = whole.init(jax.random.key(seed))
        values = [jnp.mean(land.loss(params, land.batch)) for land in (whole, short)]
        assert values[0] == pytest.approx(float(values[1]), rel=1e-12)
    classes = [[(c["index"], round(c["loss"], 9)) for c in land.facts["critical_points"]] for land in (whole, short)]
    assert classes[0] == classes[1]
