"""What figures show: which rows, which numbers, and titles that say what was measured."""

import numpy as np
import pytest
from fake_sweep import fake_sweep
from numpy.testing import assert_allclose, assert_array_equal

from hessjax import panels, tables


@pytest.fixture(scope="module")
def ds():
    return fake_sweep(60, 5, 40, num_diverged=3, num_pending=4)


def brute_rows(ds):
    """(init, time) pairs to be shown, by a plain loop."""
    return [
        (i, t)
        for i in range(ds.sizes["init"])
        for t in range(ds.sizes["time"])
        if ds.done.values[i] and ds.status.values[i, t] == 0
    ]


def test_the_points_are_the_usable_rows_and_no_others(ds):
    expected = brute_rows(ds)
    assert len(expected) < 56 * 5  # something diverged
    found = panels.index(ds)
    assert list(zip(found.init, found.time)) == expected
    assert_array_equal(found.x, [ds.loss.values[r] for r in expected])
    assert_array_equal(found.y, [ds.negative.values[r] / 40 for r in expected])
    assert_array_equal(panels.index(ds, "error").x, [ds.error.values[r] for r in expected])
    assert_array_equal(panels.index(ds, sign="positive").y, [ds.positive.values[r] / 40 for r in expected])
    assert_array_equal(panels.gradient(ds).y, [ds.grad_norm.values[r] for r in expected])
    for name, text in panels.HOVER.items():
        column = ds[name].values if name in ds and name not in ("init", "step") else None
        if column is not None:
            assert_array_equal(found.columns[text], [column[r] for r in expected])
    assert_array_equal(found.columns["step"], [ds.step.values[t] for _, t in expected])


def test_a_failed_hessian_hides_the_row_though_its_loss_is_finite(ds):
    status = ds.status.copy()
    status[0, 0] = 2
    lost = int(ds.status.values[0, 0] == 0)
    assert tables.usable(ds.assign(status=status)).sum() == tables.usable(ds).sum() - lost


def test_the_note_counts_what_is_missing_and_why(ds):
    rows = (ds.status.values[:56] != 0).sum()
    inits = (ds.status.values[:56] != 0).any(1).sum()
    assert tables.note(ds) == f"56 of 60 inits computed so far; {rows} rows of {inits} inits left out (not finite)"
    assert tables.note(fake_sweep(7, 2, 5, num_diverged=0)) == "7 inits"


def test_the_density_is_the_histogram_of_the_usable_eigenvalues(ds):
    found, usable = panels.density(ds), tables.usable(ds)
    assert_allclose(found.axis.width, np.median(ds.threshold.values[usable]))
    edges = found.axis.width * np.sinh(found.edges)
    for t in range(5):
        values = ds.eigenvalues.values[usable[:, t], t].ravel()
        brute = np.histogram(values, edges)[0] / values.size / np.diff(found.edges)
        assert_allclose(found.density[t], brute, atol=2 / values.size / np.diff(found.edges)[0])
        assert_allclose(found.outliers[t], np.median(ds.eigenvalues.values[usable[:, t], t, -10:], axis=0))


def test_nodes_count_by_their_weights_and_unused_ones_not_at_all(ds):
    """Eigenvalues as nodes of one probe, the largest of weight 0: the rest, counted twice or once."""
    usable, dims = tables.usable(ds), ("init", "time", "probe", "node")
    weights = np.broadcast_to(np.r_[np.full(20, 2.0), np.full(19, 1.0), 0.0] / 59, ds.eigenvalues.shape)
    nodes = ds.eigenvalues.values.copy()
    nodes[..., -1] = np.inf  # an unused slot may hold anything
    est = ds.drop_vars("eigenvalues").assign(nodes=(dims, nodes[:, :, None]), weights=(dims, weights[:, :, None]))
    found = panels.density(est)
    assert found.note.endswith("; estimated from 1 probes each")
    edges = found.axis.width * np.sinh(found.edges)
    for t in range(5):
        values = ds.eigenvalues.values[usable[:, t], t]
        twice = np.concatenate([values[:, :20], values[:, :39]], axis=None)
        brute = np.histogram(twice, edges)[0] / twice.size / np.diff(found.edges)
        assert_allclose(found.density[t], brute, atol=2 / values.size / np.diff(found.edges)[0])
        assert_allclose(found.outliers[t], np.median(ds.max_eigenvalue.values[usable[:, t], t]))


@pytest.mark.parametrize(("tol", "share"), [(1e-30, 1e-7), (0.9, 1e-2)])
def test_the_linear_part_stays_in_proportion_to_the_spectrum(tol, share):
    small = fake_sweep(20, 2, 30, tol=tol)
    assert_allclose(panels.density(small).axis.width, share * np.nanmax(np.abs(small.eigenvalues)))


def test_the_bands_are_quantiles_over_inits(ds):
    found, usable = panels.curves(ds), tables.usable(ds)
    for name, curve in zip(("loss", "error"), found.curves):
        for t in range(5):
            values = ds[name].values[usable[:, t], t]
            assert_allclose(curve.bands[:, t], np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]))


def test_the_histograms_are_of_the_last_time(ds):
    found, last = panels.distributions(ds), tables.usable(ds)[:, -1]
    assert [p.name for p in found.parts] == [
        "loss",
        "error",
        "grad_norm",
        "negative",
        "min_eigenvalue",
        "max_eigenvalue",
    ]
    for part in found.parts:
        values = ds[part.name].values[last, -1] / (40 if part.name == "negative" else 1)
        assert_allclose(part.median, np.median(values))
        assert_allclose(part.histogram.mass.sum(), 1)
        low, high = part.axis.inverse(part.histogram.edges[[0, -1]])
        assert low <= values.min() + 1e-12
        assert high >= values.max() - 1e-12


def test_titles_say_what_was_measured():
    ds = fake_sweep(400, 4, 50, num_diverged=0)
    index = panels.index(ds)
    order, count = np.argsort(index.x), index.running.count
    first = 100 * np.median(index.y[order[-count[-1] :]])
    last = 100 * np.median(index.y[order[: count[0]]])
    assert index.title.startswith(f"{first:.2g} % negative at loss ")
    assert f", {last:.2g} % at " in index.title
    zero = np.mean(np.abs(ds.eigenvalues.values[:, -1]) <= np.median(ds.threshold))
    assert panels.density(ds).title == f"{100 * zero:.2g} % of eigenvalues count as zero at step 2,000"
    loss = np.median(ds.loss.values, axis=0)
    assert panels.curves(ds).title == f"Median loss {loss[0]:.2g} at step 0, {loss[-1]:.2g} at 2,000"
    gradient = np.median(ds.grad_norm.values, axis=0)
    assert panels.gradient(ds).title == f"Median gradient {gradient[0]:.2g} at step 0, {gradient[-1]:.2g} at 2,000"
    some = (ds.negative.values[:, -1] > 0).sum()
    assert panels.distributions(ds).title == f"Step 2,000: negative λ in {some} of 400 inits"


def test_a_share_that_rises_as_the_loss_falls_is_not_said_to_fall():
    ds = fake_sweep(400, 4, 50, num_diverged=0)
    title = panels.index(ds, sign="positive").title
    at_high, at_low = (float(part.split(" %")[0]) for part in title.split(", "))
    assert at_low > at_high


def test_per_time_records_match_numpy(ds):
    usable = tables.usable(ds)
    for t, record in enumerate(tables.per_time(ds)):
        keep = usable[:, t]
        assert record["step"] == ds.step.values[t]
        assert record["usable"] == keep.sum()
        assert record["lost"] == (ds.done.values & ~keep).sum()
        assert_allclose(record["certified"], ds.certified.values[keep, t].mean())
        for name in ("loss", "error", "negative", "trace", "max_eigenvalue"):
            assert_allclose(record[name], np.quantile(ds[name].values[keep, t], [0.05, 0.5, 0.95]))


def test_the_order_of_dims_in_the_dataset_does_not_matter(ds):
    turned = ds.transpose("eigenvalue", "time", "init")
    for a, b in zip(panels.index(ds)[4:8], panels.index(turned)[4:8]):
        assert_array_equal(a, b)
    assert_array_equal(panels.density(ds).density, panels.density(turned).density)


def test_num_params_comes_from_the_landscape_the_spectrum_or_the_counts(ds):
    assert tables.num_params(ds) == 40
    bare = fake_sweep(5, 2, 17, num_diverged=0).assign_attrs(landscape={})
    assert tables.num_params(bare) == 17
    assert tables.num_params(bare.drop_vars("eigenvalues").drop_dims("eigenvalue", errors="ignore")) == 17


def test_wrong_words_are_refused_with_the_right_ones(ds):
    with pytest.raises(ValueError, match="against must be 'loss' or 'error', got 'accuracy'"):
        panels.index(ds, "accuracy")
    with pytest.raises(ValueError, match="sign must be 'negative' or 'positive', got 'zero'"):
        panels.index(ds, sign="zero")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.05, "0.05"), (151.0, "151"), (2049.4, "2,049"), (1e7, "1×10⁷"), (-3e-6, "−3×10⁻⁶")],
)
def test_numbers_are_short(value, text):
    assert tables.number(value) == text


def test_numbers_that_are_none_say_so():
    assert [tables.number(v) for v in (np.nan, np.inf, -np.inf)] == ["nan", "inf", "−inf"]
