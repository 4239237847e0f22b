"""Kinds of points against those proved by hand, and against the closed forms of landscapes."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessjax as hj
from hessjax import descents, leading, points, quartics
from hessjax.reduced import cubic_and_quartic, reduced_series, taylor

AT_ZERO = {
    "bowl": (lambda x: x[0] ** 2 + 3 * x[1] ** 2, "minimum"),
    "hill": (lambda x: -(x[0] ** 2) - x[1] ** 2, "maximum"),
    "saddle": (lambda x: -(x[0] ** 2) + 3 * x[1] ** 2, "strict saddle"),
    "quartic valley": (lambda x: x[0] ** 2 + x[1] ** 4, "degenerate minimum"),
    "quartic saddle": (lambda x: x[0] ** 2 - x[1] ** 4, "degenerate saddle"),
    "quartic hill": (lambda x: -(x[0] ** 4) - x[1] ** 4, "degenerate maximum"),
    "quartic bowl": (lambda x: x[0] ** 4 + x[1] ** 4, "degenerate minimum"),
    "monkey": (lambda x: x[0] ** 3 - 3 * x[0] * x[1] ** 2, "degenerate saddle"),
    "zero": (lambda x: 0.0 * jnp.sum(x), "undecided"),
    "peano": (lambda x: (x[0] - x[1] ** 2) * (x[0] - 2 * x[1] ** 2), "degenerate saddle"),
    "a valley without slope": (lambda x: (x[0] - x[1] ** 2) ** 2, "undecided"),
    "bent quartic": (lambda x: (x[0] - x[1] ** 2) ** 2 + x[1] ** 4, "degenerate minimum"),
    "sixth order": (lambda x: x[0] ** 2 + x[1] ** 6, "degenerate minimum"),
    "bent sixth order": (lambda x: (x[0] - x[1] ** 2 - x[1] ** 3) ** 2 - x[1] ** 6, "degenerate saddle"),
    "cubic": (lambda x: x[0] ** 2 + x[1] ** 3, "degenerate saddle"),
    "fifth order": (lambda x: x[0] ** 2 + x[1] ** 5, "degenerate saddle"),
    "down, and flat": (lambda x: -(x[0] ** 2) - x[1] ** 4, "degenerate maximum"),
    "down, and up": (lambda x: -(x[0] ** 2) + x[1] ** 4, "strict saddle"),
    "down, and nothing": (lambda x: -(x[0] ** 2) + 0 * x[1], "undecided"),
    "both signs, and flat": (lambda x: x[0] ** 2 - x[1] ** 2 + x[2] ** 4, "strict saddle"),
    "quartic of both signs": (
        lambda x: x[0] ** 2 + x[1] ** 4 - 3 * (x[1] * x[2]) ** 2 + x[2] ** 4,
        "degenerate saddle",
    ),
    "quartic, nowhere down": (lambda x: x[0] ** 2 + (x[1] ** 2 - x[2] ** 2) ** 2, "undecided"),
    "three quartics": (lambda x: x[0] ** 2 + jnp.sum(x[1:] ** 4), "degenerate minimum"),
    "one of three down": (lambda x: x[0] ** 2 + x[1] ** 4 + x[2] ** 4 - x[3] ** 4, "degenerate saddle"),
    "saved by the range": (lambda x: (x[0] - x[1] * x[2]) ** 2 - x[1] ** 2 * x[2] ** 2 / 2, "degenerate saddle"),
    "transcendental": (lambda x: jnp.cosh(x[0]) - jnp.cos(x[1]) - x[1] ** 2 / 2, "degenerate saddle"),
    "no rule for jets": (lambda x: x[0] ** 2 + jax.nn.softplus(x[1]) - x[1] / 2 - x[1] ** 2 / 8, "degenerate saddle"),
}
AT_ZERO |= {
    "eighth order": (lambda x: x[0] ** 2 - x[1] ** 8, "degenerate saddle"),
    "eighth order, up": (lambda x: x[0] ** 2 + x[1] ** 8, "undecided"),
    "eighth order, bent": (lambda x: (x[0] - x[1] ** 2 - x[1] ** 3) ** 2 - x[1] ** 8, "degenerate saddle"),
    "eighth before tenth": (lambda x: x[0] ** 2 + 1e-3 * x[1] ** 8 - x[1] ** 10, "undecided"),
    "two of sixth order": (lambda x: x[0] ** 6 - x[1] ** 6, "degenerate saddle"),
    "two of sixth order, down": (lambda x: -(x[0] ** 6) - x[1] ** 6, "undecided"),
    "a quartic of nine, one down": (lambda x: x[0] ** 2 + jnp.sum(x[1:9] ** 4) - 2 * x[9] ** 4, "degenerate saddle"),
    "a product of five": (lambda x: (1 - jnp.prod(x)) ** 2, "degenerate saddle"),
    "up beside a kink": (lambda x: jax.nn.relu(x[0]) + x[1] ** 2, "undecided"),
}
CURVED = ("peano", "bent sixth order", "eighth order, bent", "saved by the range")  # where the way down is no line
SIZES = {"both signs, and flat": 3, "quartic of both signs": 3, "quartic, nowhere down": 3, "saved by the range": 3}
SIZES |= {"three quartics": 4, "one of three down": 4, "a quartic of nine, one down": 10, "a product of five": 5}


def rotated(f, n, seed):
    """The same function in other coordinates, its point elsewhere."""
    rng = np.random.default_rng(seed)
    q, at = np.linalg.qr(rng.standard_normal((n, n)))[0], rng.standard_normal(n)
    return (lambda x: f(jnp.asarray(q) @ (x - jnp.asarray(at)))), jnp.asarray(at)


@pytest.mark.parametrize("name", AT_ZERO)
def test_the_kind_of_a_point_is_that_proved_by_hand(name, float64):
    f, kind = AT_ZERO[name]
    n = SIZES.get(name, 2)
    plain = hj.classify_point(f, jnp.zeros(n))
    assert plain.kind == kind in hj.KINDS
    turned, at = rotated(f, n, seed=len(name))
    elsewhere = hj.classify_point(lambda x: 1e3 * turned(x), at)
    assert (elsewhere.kind, elsewhere.index, elsewhere.nullity) == (kind, plain.index, plain.nullity)
    if kind.endswith("saddle"):
        down = np.asarray(plain.direction)
        assert np.linalg.norm(down) == pytest.approx(1)
        radii = np.array([0.1, 0.05, 0.025])
        if name not in CURVED:
            assert all(f(jnp.asarray(r * down)) < f(jnp.zeros(n)) for r in radii)


def test_a_value_at_its_lower_bound_is_a_minimum(float64):
    f = lambda x: (x[0] - x[1] ** 2) ** 2
    verdict = hj.classify_point(f, jnp.zeros(2), lower_bound=0.0)
    assert verdict.kind == "degenerate minimum"
    assert any("its lower bound" in note for note in verdict.notes)
    assert hj.classify_point(lambda x: f(x) + 1.0, jnp.zeros(2), lower_bound=0.0).kind == "undecided"
    zero = hj.landscapes.get("zero", dtype="float64")
    assert hj.classify_point(zero.loss, jnp.zeros(2)).kind == "undecided"


def test_known_points_of_landscapes_are_of_their_kinds(float64):
    for name in (
        "bowl",
        "saddle",
        "quartic-valley",
        "quartic-saddle",
        "quartic-hill",
        "monkey-saddle",
        "peano",
        "rosenbrock",
    ):
        land = hj.landscapes.get(name, dtype="float64")
        for fact in land.facts["critical_points"]:
            verdict = hj.classify_point(land.loss, jnp.asarray(fact["point"]), land.batch)
            assert (verdict.kind, verdict.index, verdict.nullity) == (fact["kind"], fact["index"], fact["nullity"])


@pytest.mark.parametrize(
    ("options", "classes", "expected"),
    [
        ({"inputs": 6, "hidden": 3}, 42, {"strict saddle", "degenerate minimum"}),  # subsets of at most 3
        ({"inputs": 4, "hidden": 2, "depth": 3}, 11, {"strict saddle", "degenerate saddle", "degenerate minimum"}),
    ],
)
def test_every_class_of_points_of_an_autoencoder_is_of_its_kind(options, classes, expected, float64):
    land = hj.landscapes.get("autoencoder", dtype="float64", **options)
    assert len({tuple(fact["subset"]) for fact in land.facts["critical_points"]}) == classes
    kinds = set()
    for fact in land.facts["critical_points"]:
        point = jax.tree.map(jnp.asarray, fact["point"])
        verdict = hj.classify_point(land.loss, point, land.batch, lower_bound=land.facts["lower_bound"])
        assert (verdict.kind, verdict.index, verdict.nullity) == (fact["kind"], fact["index"], fact["nullity"])
        kinds.add(verdict.kind)
    assert kinds == expected


def test_a_saddle_of_a_linear_net_without_negative_eigenvalues_is_found(float64):
    """Kawaguchi (2016): from three layers on there are; the origin of one has no second order at all."""
    land = hj.landscapes.get("deep-linear", widths=(2, 2, 2, 2), rows=9, dtype="float64")
    origin = jax.tree.map(jnp.zeros_like, land.init(jax.random.key(0)))
    verdict = hj.classify_point(land.loss, origin, land.batch)
    assert (verdict.kind, verdict.index, verdict.nullity) == ("degenerate saddle", 0, 12)
    mean = jax.jit(lambda r: jnp.mean(land.loss(jax.tree.map(lambda d: r * d, verdict.direction), land.batch)))
    drops = np.array([float(mean(r) - mean(0.0)) for r in (0.04, 0.02, 0.01)])
    assert (drops < 0).all()
    np.testing.assert_allclose(drops[:-1] / drops[1:], 8, rtol=0.1)  # as r^3


def test_where_the_gradient_is_not_zero_nothing_is_critical(float64):
    land = hj.landscapes.get("gradient-flat", dtype="float64")
    flat = hj.classify_point(land.loss, jnp.array([math.sqrt(2), 0.0]))
    assert flat.kind == "not critical"
    assert hj.classify_point(land.loss, jnp.array([-3.0, 0.0])).kind == "minimum"
    assert hj.classify_point(lambda x: x @ x, jnp.full(2, 1e-6)).kind == "minimum"  # 8e-12 is within the cut-off
    assert hj.classify_point(lambda x: x @ x, jnp.full(2, 1e-6), grad_norm_sq_tol=1e-14).kind == "not critical"


def test_lines_where_the_loss_is_smooth_prove_a_saddle_at_a_kink(float64):
    f = lambda x: jax.nn.relu(x[0]) + x[1] ** 2 - x[2] ** 2
    verdict = hj.classify_point(f, jnp.zeros(3))
    assert (verdict.kind, np.abs(verdict.direction).tolist()) == ("strict saddle", [0, 0, 1])
    assert any("at a kink" in note for note in verdict.notes)
    only_down = hj.classify_point(lambda x: jax.nn.relu(x[0]) - x[1] ** 2, jnp.zeros(2))
    assert only_down.kind == "undecided"
    assert any("no minimum" in note for note in only_down.notes)
    # The line down crosses the kink, which outweighs it close to the point: a minimum there, and not told.
    crossed = hj.classify_point(lambda x: jax.nn.relu(jnp.abs(x[1])) * 1e-6 + x[0] ** 2 - x[1] ** 2, jnp.zeros(2))
    assert crossed.kind == "undecided"


def test_at_a_kink_the_kind_is_undecided(float64):
    land = hj.landscapes.get("relu-five-points", dtype="float64")
    kinked, smooth = land.facts["published"][:2]
    at = lambda fact: jax.tree.map(jnp.asarray, fact["point"])
    first = hj.classify_point(land.loss, at(kinked), land.batch)
    assert first.kind == "undecided"
    assert any("at a kink" in note for note in first.notes)
    second = hj.classify_point(land.loss, at(smooth), land.batch)
    assert (second.kind, second.index) == ("undecided", 0)  # rescaling leaves two flat directions
    assert not any("at a kink" in note for note in second.notes)


def test_a_float32_point_says_no_more_than_its_rounding():
    assert hj.classify_point(lambda x: x[0] ** 2 - x[1] ** 4, jnp.zeros(2)).kind == "degenerate saddle"
    assert hj.classify_point(lambda x: x[0] ** 2 + 1e-5 * x[1] ** 4, jnp.zeros(2)).kind == "undecided"


def test_on_a_valley_of_minima_no_point_is_called_a_saddle(float64):
    """(1 - w_1 w_2)^2 near w_1 w_2 = 1: 1e-7 beside the valley, as a finder leaves its points."""
    land = hj.landscapes.get("scalar-linear", depth=2, dtype="float64")
    for seed in range(6):
        rng = np.random.default_rng(seed)
        a = rng.uniform(0.5, 2.0)
        point = jnp.asarray([a, 1 / a] + 1e-7 * rng.standard_normal(2))
        point = jax.tree.unflatten(jax.tree.structure(land.init(jax.random.key(0))), [point])
        plain = hj.classify_point(land.loss, point, land.batch, tol=1e-6)
        assert (plain.kind, plain.nullity) == ("undecided", 1)
        known = hj.classify_point(land.loss, point, land.batch, tol=1e-6, lower_bound=0.0)
        assert known.kind == "degenerate minimum"


A = jnp.array
NOT_SO = {
    "a minimum under a cubic": (lambda x: x[0] ** 2 / 2 + (5e-5 * x[1] + x[1] ** 2) ** 2 / 2, [0, 0]),
    "beside a quartic": (lambda x: x[0] ** 2 + x[1] ** 4, [0, 2e-5]),
    "beside a sixth power": (lambda x: x[0] ** 2 + x[1] ** 6, [0, 3e-3]),
    "beside two quartics": (lambda x: x[0] ** 2 + x[1] ** 4 + x[2] ** 4, [0, 2e-5, 1e-5]),
    "beside a quartic hill": (lambda x: -(x[0] ** 2) - x[1] ** 4, [0, 2e-5]),
    "beside a cubic": (lambda x: x[0] ** 2 + x[1] ** 3, [0, 1e-6]),
    "no critical point at all": (lambda x: 1e-6 * jnp.exp(x[0]), [0]),
    "beside a kink": (lambda x: x[0] ** 2 + x[1] * jnp.abs(x[1]), [0, 1e-9]),
    "signs change with the polish": (lambda x: x[0] ** 2 / 2 + (x[0] - 1e-6) * x[1] ** 2 + x[1] ** 4, [1e-6, 0]),
    "and back": (lambda x: x[0] ** 2 / 2 - (x[0] - 1e-6) * x[1] ** 2 - x[1] ** 4, [1e-6, 0]),
    "a small negative eigenvalue": (lambda x: 1e6 * x[0] ** 2 - 4e-3 * x[1] ** 2 + x[1] ** 4, [0, 0]),
    "at a kink": (lambda x: x[0] ** 2 - x[1] ** 2 + 9e-6 * jnp.abs(x[1]), [0, 0]),
    "nowhere negative, with cancelling terms": (  # Motzkin's form, which is no sum of squares
        lambda x: x[0] ** 4 * x[1] ** 2 + x[0] ** 2 * x[1] ** 4 - 3 * (x[0] * x[1] * x[2]) ** 2 + x[2] ** 6,
        [0, 0, 0],
    ),
    "a square written out": (  # of x^3 - 2 x^2 y + y^3
        lambda x: 1e3 * (
            x[0] ** 6 - 4 * x[0] ** 5 * x[1] + 4 * x[0] ** 4 * x[1] ** 2 + 2 * x[0] ** 3 * x[1] ** 3
            - 4 * x[0] ** 2 * x[1] ** 4 + x[1] ** 6
        ),
        [0, 0],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_SO)
def test_what_the_numbers_at_hand_do_not_prove_is_not_claimed(name, float64):
    """Each was, or could be, called what it is not: a minimum a saddle, a saddle a minimum."""
    f, at = NOT_SO[name]
    assert hj.classify_point(f, jnp.array(at, float)).kind == "undecided"


def test_a_small_cubic_beside_a_large_curvature_decides(float64):
    f = lambda x: x[0] ** 2 + 1e6 * x[0] ** 4 - 9e-4 * x[1] ** 3 + 2e-2 * x[1] ** 4
    assert hj.classify_point(f, jnp.zeros(2)).kind == "degenerate saddle"


def test_a_loss_above_its_bound_is_not_at_it_and_a_wrong_bound_is_refused(untyped):
    plateau = lambda x: x[0] ** 2 + 1e-3 * (1 + x[1] ** 3) ** 2
    assert hj.classify_point(plateau, jnp.zeros(2), lower_bound=0.0).kind != "degenerate minimum"
    with pytest.raises(ValueError, match="the loss at the point is below it"):
        hj.classify_point(lambda x: x[0] ** 2 - 5 - x[1] ** 4, jnp.zeros(2), lower_bound=0.0)
    with pytest.raises(ValueError, match="lower_bound must be finite"):
        hj.classify_point(plateau, jnp.zeros(2), lower_bound=math.nan)
    with pytest.raises(TypeError, match="narrower than float32"):
        hj.classify_point(plateau, jnp.zeros(2, "bfloat16"))


@pytest.mark.parametrize("seed", range(4))
def test_a_net_at_its_teacher_is_never_a_saddle(seed, float64):
    x = jnp.linspace(-1, 1, 20)
    net = lambda p: jnp.tanh(x[:, None] * p["a"] + p["b"]) @ p["c"]
    rng = np.random.default_rng(seed)
    teacher = {k: A(rng.standard_normal(3)) for k in "abc"}
    labels = net(teacher)
    loss = lambda p: (net(p) - labels) ** 2 @ jnp.ones(20)
    for tol in (1e-8, 1e-6):
        assert hj.classify_point(loss, teacher, tol=tol).kind in ("minimum", "undecided")
        known = hj.classify_point(loss, teacher, tol=tol, lower_bound=0.0)
        assert known.kind in ("minimum", "degenerate minimum")


def test_params_are_trees_and_losses_have_rows(float64):
    loss = lambda p, x: (x @ p["w"]) ** 2 - p["b"] ** 4
    point = {"w": jnp.zeros(2), "b": jnp.zeros(())}
    verdict = hj.classify_point(loss, point, jnp.eye(2))
    assert verdict.kind == "degenerate saddle"
    assert jax.tree.structure(verdict.direction) == jax.tree.structure(point)
    assert abs(float(verdict.direction["b"])) == pytest.approx(1)
    assert verdict.min_eigenvalue == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("order", [1, 3, 6])
def test_taylor_coefficients_are_the_series_with_and_without_jets(order, float64):
    found = taylor(lambda s: jnp.stack([jnp.exp(s), 1 / (1 - s)]), order)
    wanted = [[1 / math.factorial(k), 1.0] for k in range(order + 1)]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    softplus = taylor(jax.nn.softplus, order)
    np.testing.assert_allclose(softplus, [math.log(2), 1 / 2, 1 / 8, 0, -1 / 192, 0, 1 / 2880][: order + 1], atol=1e-12)


def test_the_reduced_function_is_the_minimum_over_the_range(float64):
    """Of polynomials whose minimum over the other variables is known: y^2 z - y z^3 under a parabola bent in both."""
    bend = lambda y: 2 * y**2 - y**3
    f = lambda x: 3 * (x[0] - bend(x[1])) ** 2 + x[1] ** 3 - 2 * x[1] ** 4 + 5 * x[1] ** 6
    across = jnp.array([[1.0], [0.0]])
    found, curve = reduced_series(f, jnp.array([0.0, 1.0]), across, jnp.array([6.0]), 6)
    np.testing.assert_allclose(found, [0, 0, 0, 1, -2, 0, 5], atol=1e-10)
    np.testing.assert_allclose(curve, [[0, 1], [2, 0], [-1, 0]], atol=1e-12)
    both = cubic_and_quartic(f, across, jnp.array([6.0]))(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(both, [1, -2], atol=1e-12)


@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_quartic_forms_are_proved_definite_by_their_least_value(d):
    """sum u_i^4 is at least 1/d on the sphere, and at most 1."""
    rng = np.random.default_rng(d)
    points = rng.standard_normal((3 * len(quartics.monomials(d)), d))
    q = np.linalg.qr(rng.standard_normal((d, d)))[0]
    form = quartics.fit(points, np.sum((points @ q) ** 4, axis=1))
    least, where, most = quartics.extremes(form, d)
    assert (least, most) == (pytest.approx(1 / d), pytest.approx(1))
    assert np.sum((where @ q) ** 4) == pytest.approx(least)
    proved = quartics.proved_at_least(form, d)
    assert least - 1e-3 <= proved <= least + 1e-9


def test_a_form_that_is_nowhere_negative_and_no_sum_of_squares_is_not_proved():
    """Choi and Lam's: at least 0, yet no sum of squares (doi:10.1007/BF01360024)."""
    monomials = quartics.monomials(4)
    form = np.zeros(len(monomials))
    for which, value in (
        ((0, 0, 1, 1), 1),
        ((1, 1, 2, 2), 1),
        ((0, 0, 2, 2), 1),
        ((3, 3, 3, 3), 1),
        ((0, 1, 2, 3), -4),
    ):
        form[monomials.index(which)] = value
    assert quartics.extremes(form, 4)[0] == pytest.approx(0, abs=1e-9)
    assert quartics.proved_at_least(form, 4) < -1e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tol": -1.0}, "tol must be a number from 0 up"),
        ({"grad_norm_sq_tol": "x"}, "grad_norm_sq_tol must be a number"),
    ],
)
def test_bad_options_are_answered_in_one_line(options, words, untyped):
    with pytest.raises(ValueError, match=words):
        hj.classify_point(lambda x: x @ x, jnp.zeros(2), **options)


def test_all_units_dead_is_said_and_is_no_minimum_that_is_claimed(float64):
    """The gradient is zero, and the Hessian but for one eigenvalue, the 2 of (c - y)^2; nothing else is known."""
    x, y = jnp.array([-1.0, 1.0, 3.0, 4.0, 5.0]), jnp.array([3.0, -3.0, 0.0, 1.0, 2.0])
    loss = lambda p, rows: (p[0] * jax.nn.relu(p[1] * rows[0] + p[2]) + p[3] - rows[1]) ** 2
    verdict = hj.classify_point(loss, jnp.array([1.0, -1.0, -9.0, 0.6]), (x, y))
    assert (verdict.kind, verdict.index, verdict.nullity) == ("undecided", 0, 3)
    assert any("1 dead units" in note for note in verdict.notes)
    op = hj.Hessian(loss, jnp.array([1.0, -1.0, -9.0, 0.6]), (x, y))
    np.testing.assert_allclose(hj.eigvalsh(op), [0, 0, 0, 2], atol=1e-12)


ROUNDED = {  # counterexamples: coefficients that are nothing but rounding, or that something larger hides; and slopes
    "a cosh less its series": (lambda x: jnp.sum(jnp.cosh(x) - 1 - x**2 / 2 - x**4 / 24 - x**6 / 720), [0.0]),
    "two of them": (lambda x: jnp.sum(jnp.cosh(x) - 1 - x**2 / 2 - x**4 / 24 - x**6 / 720), [0.0, 0.0]),
    "a small cubic": (lambda x: x[0] ** 2 + 1e6 * x[0] ** 4 + 1e-6 * x[1] ** 3 + x[1] ** 4, [0.0, 0.0]),
    "a small quartic": (lambda x: x[0] ** 2 + 1e6 * x[0] ** 4 + 1e-6 * x[1] ** 4 - x[1] ** 6, [0.0, 0.0]),
    "a small basin": (lambda x: x[0] ** 2 + 1e-4 * x[1] ** 8 - x[1] ** 10, [0.0, 0.0]),
    "far from zero": (
        lambda x: (x[0] - 1000) ** 2 + x[1] ** 2 * x[2] ** 2 + x[1] ** 6 + x[2] ** 6 - 4 * x[1] ** 8,
        [1000.0, 0.0, 0.0],
    ),
    "a small slope": (lambda x: 5e3 * (x[0] - 100) ** 2 + 2e-7 * x[1] + 5e-4 * x[1] ** 2 + x[1] ** 3, [100.0, 0.0]),
    "a small slope, hidden": (lambda x: x[0] ** 2 + 1e6 * x[0] ** 4 + 1e-7 * x[1] + x[1] ** 3, [0.0, 0.0]),
    "a kink that is a slope": (
        lambda x: x[0] ** 2 - x[1] ** 2 + jax.nn.relu(x[2]) - jax.nn.relu(-x[2]),
        [0.0, 0.0, 0.0],
    ),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_what_rounding_could_have_made_is_undecided(name, float64):
    f, at = ROUNDED[name]
    assert hj.classify_point(f, jnp.array(at)).kind == "undecided"


def test_a_product_written_out_is_not_called_a_saddle(float64):
    p = lambda y: sum(math.comb(6, i) * (-1) ** (6 - i) * y**i for i in range(7))  # (y - 1)^6
    assert hj.classify_point(lambda x: jnp.sum(p(x)), jnp.ones(2)).kind in ("undecided", "degenerate minimum")


def test_a_loss_a_little_above_its_bound_is_not_at_it():
    f = lambda x: x[0] ** 2 + 1 + 1e-4 * (1 + x[1] ** 3)
    assert hj.classify_point(f, jnp.zeros(2, jnp.float32), lower_bound=1.0).kind != "degenerate minimum"


def test_plain_numbers_are_params_too(float64):
    assert hj.classify_point(lambda p: p["a"] ** 2, {"a": 0.0}).kind == "minimum"


def test_a_second_degenerate_point_compiles_nothing(float64):
    """Of the programs that read beyond the Hessian: kept from one point, and one loss without a hash, to the next."""

    @dataclasses.dataclass  # with an __eq__ and so no hash
    class Quartic:
        scale: float

        def __call__(self, x):
            return self.scale * (x[0] - x[1] ** 2) * (x[0] - 2 * x[1] ** 2) + x[2] ** 4

    loss = Quartic(2.0)
    sizes = lambda: [getattr(f, "_cache_size")() for f in (leading._probed, descents._lowest, points._second)]  # noqa: B009
    kinds = [hj.classify_point(loss, jnp.zeros(3)).kind]
    made = sizes()
    kinds.append(hj.classify_point(loss, jnp.array([0.0, 0.0, 1e-9])).kind)
    assert kinds == ["degenerate saddle"] * 2
    assert sizes() == made
