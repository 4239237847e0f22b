"""The numbers behind figures, against brute force and closed forms."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from hessjax.figures import (
    Axis,
    arcsinh_histogram,
    choose_axis,
    histogram,
    quantile_bands,
    running_median,
    scientific,
    step_axis,
    ticks,
)


def test_running_median_is_the_median_of_each_block_of_sorted_points():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=1000), rng.normal(size=1000)
    found = running_median(x, y, num_bins=10)
    blocks = np.argsort(x).reshape(10, 100)
    assert_array_equal(found.count, 100)
    assert_allclose(found.x, np.median(x[blocks], axis=1))
    assert_allclose(found.median, np.median(y[blocks], axis=1))
    assert_allclose(found.low, np.quantile(y[blocks], 0.1, axis=1))
    assert_allclose(found.high, np.quantile(y[blocks], 0.9, axis=1))


def test_running_median_keeps_points_of_equal_x_in_one_bin():
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 7, 500).astype(float), rng.normal(size=500)
    found = running_median(x, y, num_bins=50)
    assert_array_equal(found.x, np.arange(7))
    assert_array_equal(found.count, np.bincount(x.astype(int)))
    assert_allclose(found.median, [np.median(y[x == k]) for k in range(7)])


def test_no_bin_of_the_running_median_reaches_across_a_gap():
    # Two clusters of unlike y, the second with too few points for whole bins of its own.
    x = np.r_[np.linspace(0.05, 0.1, 130), np.linspace(0.5, 0.6, 70)]
    y = np.where(x < 0.3, 0.0, 1.0)
    found = running_median(x, y, num_bins=7)
    assert_array_equal(found.low, found.high)
    assert set(found.median) == {0.0, 1.0}
    assert found.count.sum() == 200
    # A lone outlier is no cluster.
    assert running_median(np.r_[x, 9.0], np.r_[y, 1.0], num_bins=7).count.min() > 5
    # On a log axis the same gap is a wide one where on a linear axis it is not.
    x = np.r_[np.linspace(1e-4, 2e-4, 50), np.linspace(1e-2, 1.0, 50)]
    split = running_median(x, np.zeros(100), num_bins=3, axis=Axis("log")).count
    assert 50 in np.cumsum(split)


def test_running_median_does_not_depend_on_the_order_of_points():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=300), rng.normal(size=300)
    order = rng.permutation(300)
    for a, b in zip(running_median(x, y), running_median(x[order], y[order])):
        assert_allclose(a, b)


@pytest.mark.parametrize("count", [0, 1, 2, 19, 41])
def test_running_median_counts_every_point_once(count):
    found = running_median(np.arange(count), np.ones(count))
    assert found.count.sum() == count
    assert len(found.x) == min(count, max(1, int(count**0.5 / 2.2)))


def test_quantile_bands_match_numpy_and_leave_unusable_rows_out():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(50, 4))
    usable = rng.random((50, 4)) < 0.7
    usable[:, 3] = False
    values[~usable] = 1e9
    bands = quantile_bands(values, usable)
    for t in range(3):
        assert_allclose(bands[:, t], np.quantile(values[usable[:, t], t], [0.05, 0.25, 0.5, 0.75, 0.95]))
    assert np.isnan(bands[:, 3]).all()


@pytest.mark.parametrize("width", [1e-9, 1e-3, 2.0])
def test_arcsinh_histogram_holds_every_value_once(width):
    rng = np.random.default_rng(4)
    values = rng.choice([-1, 1], 5000) * 10 ** rng.uniform(-10, 1, 5000)
    found = arcsinh_histogram(values, width)
    assert_allclose(found.mass.sum(), 1)
    assert_allclose((found.density * np.diff(found.edges)).sum(), 1)
    edges = width * np.sinh(found.edges)
    brute = [np.mean((values >= a) & (values < b)) for a, b in pairwise(edges)]
    assert_allclose(found.mass, brute, atol=1.01 / 5000)  # one value may sit on a rounded edge


def test_arcsinh_histogram_gives_the_density_in_u_of_a_uniform_density_in_lambda():
    # p(u) = p(lambda) sqrt(lambda^2 + c^2), integrated over each bin: [c sinh u] / 2 for lambda uniform on [-1, 1].
    width, count = 0.05, 200_000
    values = (np.arange(count) + 0.5) / count * 2 - 1
    found = arcsinh_histogram(values, width, num_bins=40)
    exact = np.diff((width * np.sinh(found.edges)).clip(-1, 1)) / 2
    assert_allclose(found.mass, exact, atol=2 / count)
    centre = len(found.mass) // 2
    assert_allclose(found.density[centre], width / 2, rtol=0.01)  # at lambda = 0


def test_arcsinh_histogram_puts_zero_in_the_middle_of_a_bin_and_covers_its_limits():
    for limits in [(-3.0, 10.0), (0.5, 10.0), (-4.0, -0.1)]:
        found = arcsinh_histogram([limits[0], limits[1]], 1e-4, limits=limits)
        centres = (found.edges[1:] + found.edges[:-1]) / 2
        assert np.abs(centres).min() < 1e-9
        assert found.edges[0] <= np.arcsinh(limits[0] / 1e-4)
        assert found.edges[-1] >= np.arcsinh(limits[1] / 1e-4)
        assert_allclose(found.mass.sum(), 1)


def test_histogram_on_a_lattice_gives_every_bin_the_same_number_of_cells():
    # Flat counts 0..99 of 226: bins that cut cells unevenly would show spikes that are not there.
    values = np.repeat(np.arange(100), 3) / 226
    found = histogram(values, max_bins=30)
    assert_allclose(found.mass.sum(), 1)
    assert_allclose(found.mass, 4 / 100, atol=1e-12)


@pytest.mark.parametrize("values", [[0.0], [2.5, 2.5], [-1e-12], [0.1, 0.2, 5.0], np.linspace(-3, 8, 1001)])
@pytest.mark.parametrize("axis", [Axis(), Axis("arcsinh", 0.1)])
def test_histogram_holds_every_value_once(values, axis):
    found = histogram(values, axis)
    assert_allclose(found.mass.sum(), 1)
    assert_allclose((found.density * np.diff(found.edges)).sum(), 1)
    assert len(found.mass) <= 41


def test_histogram_on_a_log_axis_has_equal_bins_in_the_logarithm():
    found = histogram(np.geomspace(1e-3, 10, 800), Axis("log"))
    assert_allclose(np.diff(found.edges), np.diff(found.edges)[0])
    assert_allclose([found.edges[0], found.edges[-1]], [-3, 1])
    assert_allclose(found.mass, found.mass[0], rtol=0.1)


@pytest.mark.parametrize("axis", [Axis(), Axis("arcsinh", 1e-6)])
def test_inverse_undoes_forward(axis):
    values = np.array([-20.0, -1e-7, 0.0, 1e-9, 3e-2, 10.0])
    assert_allclose(axis.inverse(axis.forward(values)), values, rtol=1e-12)


def test_choose_axis_is_log_only_where_every_value_can_stand_on_it():
    assert choose_axis([0.05, 2.5]) == Axis("log")
    assert choose_axis([2.0, 2.5]) == Axis()
    assert choose_axis([0.0, 1e-3, 2.5]) == Axis("arcsinh", 1e-3)
    assert choose_axis([-1.0, 2.5]) == Axis()  # energies of spin glasses
    assert choose_axis([0.0, 0.0]) == Axis()
    assert choose_axis([]) == Axis()
    assert choose_axis([np.nan, 0.05, 2.5, np.inf]) == Axis("log")


def test_step_axis_stretches_only_uneven_steps():
    assert step_axis([0]) == step_axis([0, 100, 200, 300]) == step_axis(np.arange(0, 5000, 10)) == Axis()
    assert step_axis([0, 6, 16, 42, 2000]) == Axis("arcsinh", 6.0)


@pytest.mark.parametrize(
    ("axis", "low", "high"),
    [
        (Axis("arcsinh", 1e-5), -0.3, 12.0),
        (Axis("arcsinh", 1e-5), 0.0, 12.0),
        (Axis("arcsinh", 1e-12), -1e-3, 1e3),
        (Axis("arcsinh", 6.0), 0.0, 2000.0),
        (Axis("log"), 0.03, 2.9),
        (Axis("log"), 1e-9, 2.9),
        (Axis("log"), 2e-7, 3e-7),
    ],
)
@pytest.mark.parametrize("most", [4, 7, 11])
def test_ticks_are_few_round_and_inside(axis, low, high, most):
    values, labels = ticks(axis, low, high, max_ticks=most)
    assert len(values) == len(labels) == len(set(labels)) <= most
    assert (values >= low).all()
    assert (values <= high).all()
    assert_array_equal(values, np.sort(values))
    if axis.kind == "arcsinh":
        assert 0.0 in values
        assert_array_equal(values, [float(f"{v:.0e}") for v in values])


def test_labels_are_in_one_notation():
    assert ticks(Axis("arcsinh", 1e-5), -0.3, 12.0, max_ticks=20)[1][:2] == ["−10⁻¹", "−10⁻²"]
    assert ticks(Axis("log"), 0.03, 2.9)[1] == ["0.05", "0.1", "0.2", "0.5", "1", "2"]
    assert ticks(Axis("log"), 2e-5, 1e-3)[1][0] == "2×10⁻⁵"
    assert scientific(9.999e-5) == "1×10⁻⁴"
