"""Surfaces in closed form: what the lecture says of each, and scalar linear nets of every depth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessjax as hj

# f, Hessian at 0, index, nullity, kind: items 11 to 16 of the lecture.
DECK = {
    "bowl": ([[2, 0], [0, 6]], 0, 0, "minimum"),
    "saddle": ([[-2, 0], [0, 6]], 1, 0, "strict saddle"),
    "quartic-valley": ([[2, 0], [0, 0]], 0, 1, "degenerate minimum"),
    "quartic-saddle": ([[2, 0], [0, 0]], 0, 1, "degenerate saddle"),
    "quartic-hill": ([[0, 0], [0, 0]], 0, 2, "degenerate maximum"),
    "zero": ([[0, 0], [0, 0]], 0, 2, "undecided"),
    "monkey-saddle": ([[0, 0], [0, 0]], 0, 2, "degenerate saddle"),
}
VALUES = {
    "bowl": lambda x, y: x**2 + 3 * y**2,
    "saddle": lambda x, y: -(x**2) + 3 * y**2,
    "quartic-valley": lambda x, y: x**2 + y**4,
    "quartic-saddle": lambda x, y: x**2 - y**4,
    "quartic-hill": lambda x, y: -(x**4) - y**4,
    "zero": lambda x, y: 0 * x,
    "monkey-saddle": lambda x, y: x**3 - 3 * x * y**2,
    "peano": lambda x, y: (x - y**2) * (x - 2 * y**2),
    "gradient-flat": lambda x, y: x**4 / 4 - 3 * x**2 + 9 * x + 0.9 * y**4 + 5 * y**2 + 40,
    "rosenbrock": lambda x, y: 100 * (y - x**2) ** 2 + (1 - x) ** 2,
}


@pytest.mark.parametrize("name", VALUES)
def test_a_surface_is_the_function_its_name_says(name, float64):
    land = hj.landscapes.get(name, dtype="float64")
    for x, y in np.random.default_rng(0).standard_normal((20, 2)) * 2:
        assert float(land.loss(jnp.array([x, y]))) == pytest.approx(VALUES[name](x, y), rel=1e-13, abs=1e-13)


@pytest.mark.parametrize("name", DECK)
def test_t1_hessians_at_the_origin_are_exact_in_every_dtype(name, dtype):
    land = hj.landscapes.get(name, dtype=dtype)
    matrix, index, nullity, kind = DECK[name]
    (fact,) = land.facts["critical_points"]
    assert (fact["index"], fact["nullity"], fact["kind"]) == (index, nullity, kind)
    origin = jnp.zeros(2, dtype)
    np.testing.assert_array_equal(hj.dense(hj.Hessian(land.loss, origin)), matrix)
    np.testing.assert_array_equal(jax.grad(land.loss)(origin), 0)
    np.testing.assert_array_equal(land.facts["hessian"](np.zeros(2)), matrix)


@pytest.mark.parametrize("name", [*DECK, "peano"])
def test_t1_values_on_a_small_circle_decide_what_the_hessian_does_not(name, float64):
    land = hj.landscapes.get(name, dtype="float64")
    angle = np.linspace(0, 2 * np.pi, 3600, endpoint=False) + 1e-3
    values = np.asarray(jax.vmap(land.loss)(0.1 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1)))
    kind = land.facts["critical_points"][0]["kind"].split()[-1]
    descents = int(np.sum((values < 0) & ~(np.roll(values, 1) < 0)))
    if name == "zero":
        assert not values.any()
    else:
        assert kind == ("minimum" if (values > 0).all() else "maximum" if (values < 0).all() else "saddle")
    if name == "monkey-saddle":
        assert descents == 3
    if name == "peano":  # down only between two parabolas, which no line through 0 stays in
        assert descents == 2
        for t in (0.3, 1.2, np.pi / 2):
            line = lambda s, t=t: float(land.loss(s * jnp.array([jnp.cos(t), jnp.sin(t)])))
            assert line(1e-4) > 0 < line(-1e-4)


@pytest.mark.parametrize("point", [(1.0, 1.0), (-0.3, 2.0), (5.0, -4.0)])
def test_t4_newton_and_saddle_free_newton_on_the_two_saddles(point, float64):
    def steps(land):
        g, h = jax.grad(land.loss)(jnp.array(point)), hj.dense(hj.Hessian(land.loss, jnp.array(point)))
        values, vectors = np.linalg.eigh(np.asarray(h))
        free = vectors @ ((vectors.T @ np.asarray(g)) / np.abs(values))
        return np.array(point) - np.linalg.solve(h, g), np.array(point) - free

    newton, free = steps(hj.landscapes.get("saddle", across=5.0, along=-1.0, dtype="float64"))
    np.testing.assert_allclose(newton, 0, atol=1e-12)
    np.testing.assert_allclose(free, (0, 2 * point[1]), atol=1e-12)
    newton, free = steps(hj.landscapes.get("monkey-saddle", dtype="float64"))
    np.testing.assert_allclose(newton, np.array(point) / 2, atol=1e-12)  # homogeneous of degree 3: half way
    assert np.linalg.norm(free - point) == pytest.approx(np.linalg.norm(point) / 2, abs=1e-12)
    if point == (1.0, 1.0):
        np.testing.assert_allclose(free, (1, 1 + 0.5**0.5), atol=1e-8)


def test_the_gradient_flat_quartic_has_one_critical_point_and_two_that_look_it(float64):
    land = hj.landscapes.get("gradient-flat", dtype="float64")
    (fact,) = land.facts["critical_points"]
    assert (fact["point"].tolist(), fact["loss"], fact["kind"]) == ([-3.0, 0.0], 6.25, "minimum")
    for flat in land.facts["flat_points"]:
        g, h = land.facts["gradient"](flat), land.facts["hessian"](flat)
        assert np.linalg.norm(g) > 3
        np.testing.assert_allclose(h @ g, 0, atol=1e-13)
    # x^3 - 6 x + 9 = (x + 3) (x^2 - 3 x + 3), the second of negative discriminant.
    assert [r.real for r in np.roots([1, 0, -6, 9]) if abs(r.imag) < 1e-12] == pytest.approx([-3.0])


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 7])
@pytest.mark.parametrize(("inputs", "target"), [(1.0, 1.0), (-0.5, 2.0)])
def test_scalar_linear_nets_have_the_spectra_the_lecture_says(depth, inputs, target, float64):
    land = hj.landscapes.get("scalar-linear", depth=depth, inputs=inputs, target=target, dtype="float64")
    points = {p["name"]: p for p in land.facts["critical_points"]}
    assert land.loss(jnp.asarray(points["global"]["point"])) == pytest.approx(0, abs=1e-15)
    assert points["global"]["nullity"] == depth - 1
    if depth > 1:
        assert points["origin"]["loss"] == target**2
        assert points["origin"]["eigenvalues"].tolist() == (
            [-2 * abs(inputs * target), 2 * abs(inputs * target)] if depth == 2 else [0.0] * depth
        )
    assert {"two zeros", "three zeros"} & set(points) == {
        name for name, least in (("two zeros", 3), ("three zeros", 4)) if depth >= least
    }


def test_t2_the_two_weight_net_off_and_on_its_minima():
    land = hj.landscapes.get("scalar-linear")
    for a, b in [(0.3, -1.2), (2.0, 0.5), (-1.5, -2 / 3)]:
        h = land.facts["hessian"](np.array([a, b]))
        np.testing.assert_allclose(h, [[2 * b**2, 4 * a * b - 2], [4 * a * b - 2, 2 * a**2]], rtol=1e-12)
        if a * b == pytest.approx(1):
            np.testing.assert_allclose(np.linalg.eigvalsh(h), [0, 2 * (a**2 + b**2)], atol=1e-12)
            np.testing.assert_allclose(h @ [a, -b], 0, atol=1e-12)


def test_the_three_weight_net_at_0_0_k_has_minus_2_k_beside_the_diagonal():
    for k in (1.0, -2.5):
        h = hj.landscapes.get("scalar-linear", depth=3).facts["hessian"](np.array([0.0, 0.0, k]))
        np.testing.assert_array_equal(h, [[0, -2 * k, 0], [-2 * k, 0, 0], [0, 0, 0]])


def test_v1_a_line_through_the_two_weight_net_is_its_polynomial(float64):
    loss, a = hj.landscapes.get("scalar-linear", dtype="float64").loss, jnp.linspace(0, 2, 101)
    start, end = jnp.array([0.5, -0.4]), jnp.array([2.0, 0.5])
    values = jax.vmap(lambda t: loss(start + t * (end - start)))(a)
    exact = 729 * a**4 / 400 - 81 * a**3 / 200 - 1287 * a**2 / 400 + 9 * a / 25 + 36 / 25
    np.testing.assert_allclose(values, exact, atol=1e-12)


def test_rosenbrocks_second_minimum_in_four_dimensions_is_where_it_is_published(float64):
    land = hj.landscapes.get("rosenbrock", dimension=4, dtype="float64")
    point = np.array([-0.77565923, 0.61309337, 0.38206285, 0.14597202])  # Kok & Sandrock (2009)
    hessian = land.facts["hessian"](point)
    np.testing.assert_allclose(land.facts["gradient"](point), 0, atol=1e-8 * np.abs(hessian).sum(1).max())
    assert np.linalg.eigvalsh(hessian)[0] > 0
    assert float(land.loss(jnp.asarray(point))) == pytest.approx(3.70143, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("polynomial", {"terms": ()}, "one or more"),
        ("polynomial", {"terms": "x^2"}, "terms must be pairs like"),
        ("polynomial", {"terms": ((1.0, (2, 0)), (1.0, (1,)))}, "as many powers in each"),
        ("polynomial", {"terms": ((1.0, (2, -1)),)}, "powers must be whole numbers"),
        ("polynomial", {"terms": ((1.0, (2, 0.5)),)}, "powers must be whole numbers"),
        ("saddle", {"across": 1.0}, "opposite sign"),
        ("rosenbrock", {"dimension": 1}, "dimension must be a whole number, at least 2; got 1"),
        ("rosenbrock", {"steepness": 0.0}, "steepness must be above 0"),
        ("bowl", {"dtype": "float64"}, "dtype float64 needs x64"),
        ("scalar-linear", {"dtype": "float64"}, "dtype float64 needs x64"),
        ("scalar-linear", {"depth": 0}, "depth must be a whole number, at least 1; got 0"),
        ("scalar-linear", {"target": 0.0}, "finite and not 0"),
    ],
)
def test_bad_options_are_answered_in_one_line(name, options, words, untyped):
    with pytest.raises(ValueError, match=words) as caught:
        hj.landscapes.get(name, **options)
    assert "\n" not in str(caught.value)
