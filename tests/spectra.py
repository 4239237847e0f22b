"""Operators with given eigenvalues, the oracle of every estimator: dense in a random basis, diagonal, and counted."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import hessjax as hj


def matrix(eigenvalues, seed=0):
    """[n, n] in float64, exactly symmetric, in a random basis."""
    n = len(eigenvalues)
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    a = (q * np.asarray(eigenvalues, float)) @ q.T
    return (a + a.T) / 2


def operator(eigenvalues, dtype="float32", seed=0):
    return hj.Matrix(jnp.asarray(matrix(eigenvalues, seed), dtype))


def rounding(dtype, a, c=50):
    """c eps n ||A||: what a few hundred operations on n numbers may lose."""
    return c * float(jnp.finfo(dtype).eps) * len(a) * float(np.abs(a).max() or 1)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Diagonal(hj.Operator):
    """diag(d): any spectrum at the price of a vector; probes uniform over directions see no difference."""

    d: Any

    @property
    def like(self):
        return jax.ShapeDtypeStruct(self.d.shape, self.d.dtype)

    def product(self, v):
        return self.d * v


def diagonal(eigenvalues, dtype="float32"):
    return Diagonal(jnp.asarray(eigenvalues, dtype))


@dataclass(eq=False)
class Count:
    """How many vectors have been multiplied."""

    number: int = 0

    def add(self, _):
        self.number += 1


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Counted(hj.Operator):
    """Another operator, every product of which is counted when it runs, however it is compiled or batched."""

    a: Any
    count: Count = field(metadata={"static": True})

    @property
    def like(self):
        return self.a.like

    def product(self, v):
        jax.debug.callback(self.count.add, jax.tree.leaves(v)[0].ravel()[0])  # an argument, so that vmap repeats it
        return self.a.product(v)


def wanted(eigenvalues, k, which):
    """The k eigenvalues that `which` asks for, ascending."""
    v = np.sort(np.asarray(eigenvalues, float))
    if which == "LA":
        return v[len(v) - k :]
    if which == "SA":
        return v[:k]
    if which == "LM":
        return np.sort(v[np.argsort(-np.abs(v), kind="stable")[:k]])
    return np.r_[v[: k // 2], v[len(v) - (k - k // 2) :]]


def tridiagonal(t):
    """The T of a Lanczos run in float64, of the steps that happened."""
    m = int(t.num_steps_done)
    a, b = np.asarray(t.alphas, float)[:m], np.asarray(t.betas, float)[: m - 1]
    return np.diag(a) + np.diag(b, 1) + np.diag(b, -1)


def within(estimate, truth, sigmas=4.0, slack=0.0):
    """Whether an estimate is as near the truth as its own standard error says."""
    return abs(float(estimate.value) - truth) <= sigmas * float(estimate.std_error) + slack


def cover(values, errors, truth):
    """The share of runs whose 95 % interval holds the truth."""
    return np.mean(np.abs(np.asarray(values, float) - truth) <= 1.96 * np.asarray(errors, float))


def exact_eigenvalues(a):
    """Of matrices as given, in longer arithmetic than the one tested: float64 for float32; for float64 NumPy's own
    solver corrected by one Rayleigh quotient in long double, whose error is second order in the vector's."""
    values, vectors = np.linalg.eigh(a.astype("float64"))
    if a.dtype == np.float32:
        return values
    wide = vectors.astype("longdouble")
    quotient = np.sum(wide * (a.astype("longdouble") @ wide), axis=-2) / np.sum(wide * wide, axis=-2)
    return np.sort(quotient, axis=-1).astype("float64")
