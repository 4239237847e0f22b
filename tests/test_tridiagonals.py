"""Counts and eigenvalues of tridiagonal matrices: every small matrix of small integers, against NumPy's."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from hessjax.tridiagonals import Tridiagonals, bisected, count_below


def _all(n, entries):
    """Every tridiagonal matrix of such entries, zeros with either sign, and its eigenvalues."""
    every = np.array(list(itertools.product(entries, repeat=2 * n - 1)), "float64")
    diagonal, beside = every[:, :n], every[:, n:]
    full = np.zeros((len(every), n, n))
    k = np.arange(n)
    full[:, k, k], full[:, k[1:], k[:-1]], full[:, k[:-1], k[1:]] = diagonal, beside, beside
    return diagonal, beside, np.linalg.eigvalsh(full)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("n", "entries"), [(1, (-1, -0.0, 0, 2)), (2, (-2, -1, -0.0, 0, 1)), (3, (-1, -0.0, 0, 2)), (4, (-1, 0, 2))]
)
def test_every_small_matrix_of_integers_has_its_eigenvalues(n, entries, dtype, float64):
    # Such matrices have eigenvalues at the very ends and middles of what is halved, and pivots of zero.
    diagonal, beside, want = _all(n, entries)
    # In stacks of several sizes too: another number of lanes is another program, that rounds in other places.
    for count in (8, 50, len(want)):
        got = bisected(Tridiagonals(jnp.asarray(diagonal[:count], dtype), jnp.asarray(beside[:count], dtype)))
        np.testing.assert_allclose(got, want[:count], atol=16 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_counts_at_integers_lie_between_those_below_and_those_up_to_them(dtype, float64):
    # At a shift that is an eigenvalue it may be on either side; at others the count is exact.
    diagonal, beside, values = _all(3, (-1, -0.0, 0, 2))
    shifts = np.arange(-5, 6) / 2
    every = jnp.broadcast_to(jnp.asarray(shifts, dtype), (len(values), len(shifts)))
    got = np.asarray(count_below(Tridiagonals(jnp.asarray(diagonal, dtype), jnp.asarray(beside, dtype)), every))
    below, up_to = ((values[:, :, None] < shifts + off).sum(1) for off in (-1e-9, 1e-9))
    assert ((below <= got) & (got <= up_to)).all()
