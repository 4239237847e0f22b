"""Portraits: what is measured at a landscape's points, the plane through them, and the figure of both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessjax as hj
from hessjax import portraits
from hessjax.portraits import portrait

KEY = jax.random.key(0)


def test_two_parameters_are_their_own_plane(float64):
    land = hj.landscapes.get("gradient-flat", dtype="float64")
    found = portrait(land, KEY, resolution=7)
    (point,) = found.points
    assert (point.kind, point.loss, point.grad_norm, point.said) == ("minimum", 6.25, 0.0, (6.25, 0, 0))
    assert (point.negative, point.zero, point.positive) == (0, 0, 2)
    np.testing.assert_allclose(point.eigenvalues, [10, 21])
    plane = found.plane
    for i, y in enumerate(plane.ys):
        for j, x in enumerate(plane.xs):
            assert plane.loss[i, j] == pytest.approx(float(land.loss(jnp.array([x, y]))), rel=1e-12)
    assert plane.marks == [("minimum", -3.0, 0.0), ("gradient-flat", 2**0.5, 0.0), ("gradient-flat", -(2**0.5), 0.0)]
    assert plane.xs[0] < -3 < 2**0.5 < plane.xs[-1]


def test_a_slice_has_the_curvature_of_its_two_eigenvectors(float64):
    land = hj.landscapes.get("quadratic", eigenvalues=(-2.0, 0.5, 1.0, 4.0), dtype="float64")
    plane = portrait(land, KEY, resolution=21, extent=1.0).plane
    x, y = np.meshgrid(plane.xs, plane.ys)
    np.testing.assert_allclose(plane.loss, (-2 * x**2 + 4 * y**2) / 2, atol=1e-12)
    assert plane.labels == ("eigenvector of λ = -2", "eigenvector of λ = 4")


def test_without_matrices_the_two_ends_are_found(float64, monkeypatch):
    monkeypatch.setattr(portraits, "DENSE", 3)
    land = hj.landscapes.get("quadratic", eigenvalues=(-2.0, 0.5, 1.0, 4.0), dtype="float64")
    found = portrait(land, KEY, resolution=5, extent=1.0)
    assert found.points[0].negative is None
    np.testing.assert_allclose(found.points[0].eigenvalues, [-2, 4], rtol=1e-5)
    x, y = np.meshgrid(found.plane.xs, found.plane.ys)
    np.testing.assert_allclose(found.plane.loss, (-2 * x**2 + 4 * y**2) / 2, atol=1e-4)


def test_a_landscape_without_known_points_shows_an_init():
    land = hj.landscapes.get("digits-mlp", widths=(2,), rows=20)
    found = portrait(land, KEY, resolution=3, tol=1e-5)
    (point,) = found.points
    params = land.init(KEY)
    exact = hj.inertia(hj.Hessian(land.loss, params, land.batch), tol=1e-5)
    assert (point.name, point.said, found.num_points) == ("init", None, 0)
    assert (point.negative, point.positive) == (int(exact.negative), int(exact.positive))
    assert found.plane.loss[1, 1] == pytest.approx(float(jnp.mean(land.loss(params, land.batch))), rel=1e-5)


@pytest.mark.parametrize("name", ["scalar-linear", "zero"])
def test_every_kind_of_point_comes_before_another_of_its_kind(name, float64):
    land = hj.landscapes.get(name, dtype="float64", **({"depth": 5} if name == "scalar-linear" else {}))
    found = portrait(land, KEY, resolution=3)
    kinds = {fact["kind"] for fact in land.facts["critical_points"]}
    assert {point.kind for point in found.points} == kinds
    assert all(point.said == (pytest.approx(point.loss), point.negative, point.zero) for point in found.points)
    assert np.isfinite(found.plane.loss).all()


@pytest.mark.parametrize(
    ("name", "options", "panels"), [("peano", {}, 4), ("scalar-linear", {"depth": 1}, 2), ("zero", {}, 3)]
)
def test_the_figure_has_a_panel_for_plane_surface_and_spectra(name, options, panels):
    """And a bar for the plane's colours, where there are several."""
    found = portrait(hj.landscapes.get(name, **options), KEY, resolution=5, tol=1e-6)
    figure = hj.plot.portrait(found)
    assert len(figure.axes) == panels
    assert found.name in figure.get_suptitle()
    figure.canvas.draw()  # all of it can be laid out


@pytest.mark.parametrize(
    ("fact", "words"),
    [
        (
            {"point": np.zeros(2), "loss": 0.0, "index": 0, "kind": "minimum"},
            "'mine': critical point 0 has no 'nullity'",
        ),
        ("origin", "critical point 0 has no 'point'"),
        ({"point": {}, "loss": 0.0, "index": 0, "nullity": 0, "kind": "minimum"}, "not of the structure of params"),
    ],
)
def test_facts_that_are_none_are_answered_in_one_line(fact, words):
    made = lambda: hj.Landscape("mine", lambda key: jnp.ones(2), lambda p: p @ p, facts={"critical_points": [fact]})
    with pytest.raises(ValueError, match=words) as caught:
        portrait(made(), KEY, resolution=3)
    assert "\n" not in str(caught.value)


def test_a_plane_without_a_finite_loss_is_drawn_empty():
    plane = portraits.Plane(np.arange(3.0), np.arange(3.0), np.full((3, 3), np.nan), ("x", "y"), [("init", 1.0, 1.0)])
    point = portraits.Shown("init", "", np.nan, np.nan, 0, 0, 0, np.zeros(2), None)
    flat, *_ = hj.plot.portrait(portraits.Portrait("nowhere", [], 2, 0, [point], plane)).axes
    assert len(flat.lines) == 1  # the mark
    assert not flat.collections


def test_a_minimum_far_down_the_list_is_shown_and_default_tolerances_suit_the_dtype():
    found = portrait(hj.landscapes.get("autoencoder"), KEY, resolution=3)  # 22 points, the minimum the ninth
    assert [point.kind for point in found.points].count("degenerate minimum") == 1
    assert all(point.said[1:] == (point.negative, point.zero) for point in found.points)
    assert (found.num_points, len(found.points)) == (22, 6)


@pytest.mark.parametrize(
    ("given", "words"), [({"resolution": 1}, "resolution must be at least 2"), ({"extent": 0.0}, "extent")]
)
def test_bad_sizes_are_answered_in_one_line(given, words):
    with pytest.raises(ValueError, match=words):
        portrait(hj.landscapes.get("bowl"), KEY, **given)
