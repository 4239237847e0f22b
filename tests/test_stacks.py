"""Stacks of matrices: NumPy's eigenvalues in any batch shape, under vmap, and on several devices without hanging."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spectra import exact_eigenvalues

from hessjax import stacks
from hessjax.signature import error_bound, inertia

A = (lambda a: (a + np.swapaxes(a, -1, -2)) / 2)(np.random.default_rng(0).standard_normal((2, 3, 5, 5)))


@pytest.mark.parametrize("many", [True, False])
def test_any_batch_shape_and_vmap_are_numpys(many, monkeypatch, float64):
    monkeypatch.setattr(stacks, "_many_cpu_devices", lambda: many)
    want = np.linalg.eigvalsh(A)
    np.testing.assert_allclose(stacks.eigvalsh(jnp.asarray(A[0, 0])), want[0, 0], atol=1e-13)
    np.testing.assert_allclose(stacks.eigvalsh(jnp.asarray(A)), want, atol=1e-13)
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.vmap(stacks.eigvalsh)))(A), want, atol=1e-13)
    values, vectors = jax.vmap(stacks.eigh)(jnp.asarray(A))
    np.testing.assert_allclose(values, want, atol=1e-13)
    np.testing.assert_allclose(
        A @ np.asarray(vectors), np.asarray(vectors) * np.asarray(values)[..., None, :], atol=1e-13
    )


@pytest.mark.parametrize("many", [True, False])
def test_eigenvalues_and_vectors_have_the_textbook_derivatives(many, monkeypatch, float64):
    # d lambda_i = v_i' dA v_i (Hellmann-Feynman); of the vectors, by central differences along a symmetric direction.
    monkeypatch.setattr(stacks, "_many_cpu_devices", lambda: many)
    a, da = jnp.asarray(A[0, 0]), jnp.asarray(A[0, 1])
    vectors = np.linalg.eigh(a)[1]
    got = jax.jacrev(stacks.eigvalsh)(a)
    np.testing.assert_allclose(np.einsum("ijk,jk->i", got, da), np.diag(vectors.T @ da @ vectors), atol=1e-12)
    projector = lambda m: jnp.outer(stacks.eigh(m)[1][:, 0], stacks.eigh(m)[1][:, 0])  # free of the vector's sign
    h = 1e-6
    slope = (projector(a + h * da) - projector(a - h * da)) / (2 * h)
    np.testing.assert_allclose(jax.jvp(projector, (a,), (da,))[1], slope, atol=1e-8)


def test_a_large_stack_on_one_device_is_reduced_in_groups_with_any_remainder(monkeypatch, float64):
    monkeypatch.setattr(stacks, "_many_cpu_devices", lambda: False)
    a = np.random.default_rng(1).standard_normal((7, 5, 5))
    a = jnp.asarray(a + np.swapaxes(a, 1, 2))
    for matrices in (1, 2, 3, 7, 100):
        monkeypatch.setattr(stacks, "TOGETHER", matrices * a[0].nbytes)
        np.testing.assert_allclose(stacks.eigvalsh(a), np.linalg.eigvalsh(a), atol=1e-13)


@pytest.mark.parametrize("counted", [True, False])
def test_derivatives_are_those_of_the_lower_triangle_that_is_read(counted, float64, monkeypatch):
    monkeypatch.setattr(stacks, "is_counted", lambda: counted)
    lower, da = jnp.array([[1.0, 0.0], [5.0, 2.0]]), jnp.array([[0.0, 7.0], [1.0, 0.0]])
    values, slopes = jax.jvp(lambda a: stacks.eigvalsh(a), (lower,), (da,))
    np.testing.assert_allclose(values, np.linalg.eigvalsh([[1.0, 5.0], [5.0, 2.0]]), atol=1e-13)
    h = 1e-6
    at = lambda t: np.linalg.eigvalsh([[1.0, 5.0 + t], [5.0 + t, 2.0]])
    np.testing.assert_allclose(slopes, (at(h) - at(-h)) / (2 * h), atol=1e-8)


def test_the_suite_itself_runs_on_several_cpu_devices():
    assert stacks._many_cpu_devices()


HANGS = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax, jax.numpy as jnp, numpy as np, hessjax as hj
from jax.sharding import Mesh, PartitionSpec as P
x = jax.random.normal(jax.random.key(0), (64, 6))
loss = lambda w: jnp.mean(jnp.tanh(jnp.tanh(x @ w.reshape(6, 8)) @ jnp.ones((8, 10))) ** 2)
spectra = lambda ws: jax.lax.map(lambda w: hj.eigvalsh(jax.hessian(loss)(w)), ws, batch_size=8)
mesh = Mesh(np.array(jax.devices()), ("d",))
run = jax.jit(jax.shard_map(spectra, mesh=mesh, in_specs=P("d"), out_specs=P("d"), check_vma=False))
for k in range(5):
    jax.block_until_ready(run(jax.random.normal(jax.random.key(k), (32, 48))))
print("done")
"""


def test_sharded_batches_of_spectra_return():
    # With jnp.linalg.eigvalsh in place of hj.eigvalsh this waits for ever on jaxlib 0.10.2 with two cores.
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "done", done.stderr


def _small(n, count, rng):
    """Random, integer, diagonal, graded and low-rank ones, and one of zeros, at very different scales."""
    a = rng.standard_normal((5, count, n, n))
    a[1] = np.round(2 * a[1])
    a[2] *= np.eye(n)
    a[3] *= np.outer(*[10.0 ** -np.linspace(0, 12, n)] * 2)
    a[4] = a[4, :, :, :1] * np.swapaxes(a[4, :, :, :1], 1, 2)
    a[0, 0] = 0
    return a.reshape(5 * count, n, n) * 10.0 ** rng.integers(-20, 20, (5 * count, 1, 1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 2, 3, 9, 10, 11, 16, 17, 25, 32])
def test_small_matrices_side_by_side_have_the_exact_eigenvalues(n, dtype, float64):
    a = np.tril(_small(n, 390, np.random.default_rng(n))).astype(dtype)  # many groups, the last with room to spare
    want = exact_eigenvalues(a + np.swapaxes(np.tril(a, -1), 1, 2))
    got = np.asarray(stacks.eigvalsh(jnp.asarray(a)), "float64")
    size = np.abs(want).max(1, keepdims=True)
    assert (np.abs(got - want) <= error_bound(n, dtype) * size).all()


@pytest.mark.parametrize("count", [1, 15, 16, 17, 64, 65])
def test_any_number_of_small_matrices_alone_or_under_what_programs_are_made_of(count, float64):
    a = np.random.default_rng(count).standard_normal((count, 6, 6))
    a += np.swapaxes(a, 1, 2)
    want, a = np.linalg.eigvalsh(a), jnp.asarray(a)
    for f in (stacks.eigvalsh, jax.vmap(stacks.eigvalsh), lambda a: jax.lax.map(stacks.eigvalsh, a, batch_size=20)):
        np.testing.assert_allclose(jax.jit(f)(a), want, atol=1e-13)
    # d sum(lambda_i^2) / dA = 2 A.
    slope = jax.vmap(jax.grad(lambda a: jnp.sum(stacks.eigvalsh(a) ** 2)))(a)
    np.testing.assert_allclose((slope + jnp.swapaxes(slope, 1, 2)) / 2, 2 * a, atol=1e-12)


def test_small_matrices_side_by_side_on_every_device(float64):
    a = np.random.default_rng(0).standard_normal((40, 6, 6))
    a += np.swapaxes(a, 1, 2)
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("lane",))
    spec = jax.sharding.PartitionSpec("lane")
    f = jax.jit(jax.shard_map(stacks.eigvalsh, mesh=mesh, in_specs=spec, out_specs=spec))  # axes of a mesh checked
    np.testing.assert_allclose(f(a), np.linalg.eigvalsh(a), atol=1e-13)


def test_reflections_of_small_matrices_are_not_computed_again_for_every_entry():
    # The products stay within conditionals, which no fusion goes through: without, sixteen rows took 30 times as long.
    program = jax.jit(stacks.reduced).lower(jnp.ones((64, 16, 16))).compile().as_text()
    assert program.count(" conditional(") >= 3


def test_small_matrices_of_a_vmap_are_side_by_side_too():
    # Seen in the program: no call of LAPACK for the reduction, however the stack came about.
    a = jnp.ones((4, 8, 5, 5))
    for f in (stacks.reduced, jax.vmap(stacks.reduced), jax.vmap(jax.vmap(stacks.reduced))):
        found = jax.jit(f).lower(a)
        assert "sytrd" not in found.as_text()
        np.testing.assert_allclose(f(a).norm, np.full((4, 8), 5.0))
    assert "sytrd" in jax.jit(stacks.reduced).lower(a[0, :3]).as_text()


def test_small_matrices_that_are_not_finite_leave_those_beside_them(float64):
    a = np.tile(A[0, 0], (40, 1, 1))
    a[3, 1, 0], a[4, 2, 2] = np.nan, np.inf
    got = np.asarray(stacks.eigvalsh(jnp.asarray(a)))
    assert np.isnan(got[3:5]).all()
    np.testing.assert_allclose(np.delete(got, [3, 4], 0), np.tile(np.linalg.eigvalsh(A[0, 0]), (38, 1)), atol=1e-13)


@pytest.mark.parametrize("n", [3, 16, 32, 64, 130])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_what_is_not_finite_is_found_wherever_it_is(n, value, dtype):
    # XLA's own maximum loses NaN among 4096 numbers or more.
    rng, count = np.random.default_rng(n), 40
    a = rng.standard_normal((count, n, n)).astype(dtype)
    a += np.swapaxes(a, 1, 2)
    bad = np.arange(count) % 2 == 1
    a[bad, rng.integers(0, n, count)[bad], rng.integers(0, n, count)[bad]] = value
    for found in (stacks.reduced(jnp.asarray(a)), jax.lax.map(stacks.reduced, jnp.asarray(a))):
        np.testing.assert_array_equal(np.isnan(found.scale), bad)
        assert np.isfinite(found.t.diagonal).all()
    np.testing.assert_array_equal(np.isnan(stacks.eigvalsh(jnp.asarray(a))).all(-1), bad)
    counts = inertia(jnp.asarray(a), 1e-5)
    assert not counts.certified[bad].any()
    assert (counts.negative[bad] == 0).all()
    assert counts.certified[~bad].any()
