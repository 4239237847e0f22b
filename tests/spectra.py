"""Matrices with given eigenvalues in a random basis: the oracle of every estimator."""

import jax.numpy as jnp
import numpy as np

import hessjax as hj


def matrix(eigenvalues, seed=0):
    """[n, n] in float64, exactly symmetric."""
    n = len(eigenvalues)
    q = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    a = (q * np.asarray(eigenvalues, float)) @ q.T
    return (a + a.T) / 2


def operator(eigenvalues, dtype="float32", seed=0):
    return hj.Matrix(jnp.asarray(matrix(eigenvalues, seed), dtype))


def rounding(dtype, a, c=50):
    """c eps n ||A||: what a few hundred operations on n numbers may lose."""
    return c * float(jnp.finfo(dtype).eps) * len(a) * float(np.abs(a).max() or 1)
