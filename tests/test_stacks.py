"""Stacks of matrices: NumPy's eigenvalues in any batch shape, under vmap, and on several devices without hanging."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessjax import stacks

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
