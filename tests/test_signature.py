"""Certified counts: hard matrices against float64, the error bound they rest on, and what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spectra import exact_eigenvalues

import hessjax as hj
from hessjax import signature, stacks
from hessjax.tridiagonals import count_below


def symmetric(a):
    return (a + np.swapaxes(a, -1, -2)) / 2


def rotated(values, seed=0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))
    return symmetric((q * np.asarray(values)) @ q.T)


def hard(rng, n):
    """Matrices that elimination without care gets wrong, one of each kind."""
    noise = symmetric(rng.standard_normal((n, n)))
    half = n // 2
    block = np.zeros((n, n))
    block[:half, half:] = rng.standard_normal((half, n - half))
    saddle = block + block.T
    saddle[:half, :half] = np.eye(half)
    graded = noise * np.outer(s := 10.0 ** np.linspace(0, -6, n), s)
    low = rng.standard_normal((n, max(1, n // 4)))
    gap = np.r_[-np.ones(half), np.full(n - half, 2.0)] if n > 1 else np.ones(1)
    return {
        "random": noise,
        "zero diagonal": noise - np.diag(np.diag(noise)),
        "saddle point": saddle,
        "bipartite": block + block.T,
        "graded": graded,
        "low rank": low @ np.diag(np.where(np.arange(low.shape[1]) % 2, -1.0, 1.0)) @ low.T,
        "zero cluster": rotated(np.r_[np.zeros(n - half), rng.standard_normal(half)], int(rng.integers(1000))),
        "gap": rotated(gap, int(rng.integers(1000))),
        "ones": np.ones((n, n)),
        "identity": np.eye(n),
        "antidiagonal": np.eye(n)[::-1],
        "positive entries": np.abs(noise),
    }


@pytest.mark.parametrize("n", [1, 2, 3, 17, 64, 129])
@pytest.mark.parametrize("tol", [0.0, 1e-5, 1e-2])
def test_no_certified_count_is_wrong_and_most_are_certified(n, tol, dtype):
    many = [hard(np.random.default_rng(seed), n) for seed in range(3)]
    names = [name for one in many for name in one]
    stack = jnp.asarray(np.stack([a for one in many for a in one.values()]), dtype)
    found = hj.inertia(stack, tol=tol)
    exact = exact_eigenvalues(np.asarray(stack))
    edge = np.asarray(found.threshold, exact.dtype)[:, None]
    ok = np.asarray(found.certified)
    wrong = (found.negative != (exact < -edge).sum(1)) | (found.positive != (exact > edge).sum(1))
    assert [name for name, w, c in zip(names, wrong, ok, strict=True) if w and c] == []
    assert (found.negative + found.zero + found.positive == n).all()
    gapped = [c for name, c in zip(names, ok, strict=True) if name in ("gap", "identity", "antidiagonal")]
    assert all(gapped)
    if tol == 1e-2 and n > 1:
        assert ok.mean() > 0.8


@pytest.mark.parametrize("n", [2, 16, 33, 200])
def test_counts_err_by_less_than_the_bound_that_certifies_them(n, dtype):
    # A count is that of a matrix within the bound: at thresholds a bound beside an eigenvalue it must be the exact one.
    for name, a in hard(np.random.default_rng(n), n).items():
        a = np.asarray(a, dtype)
        exact = exact_eigenvalues(a[None])[0]
        # Of a stack, small ones are reduced side by side.
        t, scale, _ = jax.tree.map(lambda x: x[0], stacks.reduced(jnp.asarray(np.stack([a] * 16))))
        bound = signature.error_bound(n, dtype) * np.abs(exact).max()
        for side in (-1, 1):
            shifts = jnp.asarray((exact + side * bound) / float(scale), dtype)
            got = np.asarray(count_below(t, shifts))
            true = np.searchsorted(exact, exact + side * bound)
            near = np.abs(exact[:, None] - (exact + side * bound)[None]) < 0.999 * bound
            assert ((got == true) | near.any(0)).all(), name


def test_several_thresholds_are_those_of_one_at_a_time():
    stack = jnp.asarray(np.stack([rotated(np.linspace(-1, 1, 9), s) for s in range(4)]), "float32")
    tols = [0.0, 1e-3, 0.3]
    together = hj.inertia(stack, tol=tols)
    for k, tol in enumerate(tols):
        for many, one in zip(together, hj.inertia(stack, tol=tol), strict=True):
            np.testing.assert_array_equal(many[:, k], one)


def test_counting_by_pivots_and_by_eigenvalues_agree_where_both_are_certain(monkeypatch):
    stack = jnp.asarray(np.stack([*hard(np.random.default_rng(0), 24).values()]), "float32")
    pivots, ends = signature.with_ends(stack, 1e-3)
    monkeypatch.setattr(stacks, "is_counted", lambda: False)
    values, others = signature.with_ends(stack, 1e-3)
    ok = np.asarray(pivots.certified & values.certified)
    assert ok.mean() > 0.7
    for a, b in zip(pivots[:3], values[:3], strict=True):
        np.testing.assert_array_equal(a[ok], b[ok])
    np.testing.assert_allclose(ends, others, atol=1e-5 * np.abs(others).max())


def test_a_traced_asymmetric_matrix_is_not_certified():
    a = jnp.array([[[2.0, 1.0], [0.0, 2.0]], [[2.0, 1.0], [1.0, 2.0]]])
    found = jax.jit(lambda a: hj.inertia(a, tol=[1e-5, 1e-3]))(a)
    assert found.certified.tolist() == [[False, False], [True, True]]
    assert found.positive[1].tolist() == [2, 2]
    with pytest.raises(ValueError, match=r"matrix 0 of the stack is not symmetric"):
        hj.inertia(a, tol=1e-5)


def test_vmap_jit_and_the_stack_give_the_same_counts():
    stack = jnp.asarray(np.stack([rotated(np.linspace(-1, 1, 9), s) for s in range(6)]), "float32").reshape(2, 3, 9, 9)
    count = lambda a: hj.inertia(a, tol=1e-3)
    want = count(stack)
    for got in (jax.vmap(count)(stack), jax.jit(jax.vmap(jax.vmap(count)))(stack)):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("n", [1, 8, 300])
@pytest.mark.parametrize("power", [-124, -100, 0, 100, 126])
def test_the_smallest_and_largest_numbers_are_counted_alike(power, n):
    signs = np.where(np.arange(n) % 3, 1.0, -1.0).astype("float32")
    found = hj.inertia(jnp.asarray(np.float32(2.0**power) * np.diag(signs)), tol=1e-4)
    want = (int((signs < 0).sum()), 0, int((signs > 0).sum()), True)
    assert (int(found.negative), int(found.zero), int(found.positive), bool(found.certified)) == want


@pytest.mark.parametrize("at", [(0, 1), (1, 0), (1, 1)])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nothing_is_certain_wherever_a_matrix_is_not_finite(at, value):
    a = np.eye(2, dtype="float32")
    a[at] = value
    found = hj.inertia(a, tol=1e-5)
    assert [int(x) for x in found[:3]] == [0, 0, 0]
    assert not bool(found.certified)
    assert np.isnan(hj.eigvalsh(a)).all()


def test_a_function_that_also_counts_has_its_derivative():
    a = jnp.diag(jnp.array([1.0, -2.0]))
    square = lambda a: (jnp.sum(a**2), (hj.inertia(a, tol=1e-5), signature.with_ends(a, 1e-5)))
    slope, (found, _) = jax.grad(square, has_aux=True)(a)
    np.testing.assert_array_equal(slope, 2 * a)
    assert int(found.negative) == 1


@pytest.mark.parametrize("tol", [-1.0, [1e-3, -1.0], float("nan"), [], [[1e-3]]])
def test_a_threshold_that_is_none_is_one_clear_line(tol, untyped):
    with pytest.raises(ValueError, match=r"^tol ") as caught:
        hj.inertia(np.eye(2), tol=tol)
    assert "\n" not in str(caught.value)
