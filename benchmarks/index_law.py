"""Claim: points at which Newton's method on the squared gradient is left after 150 steps, none of them critical, lie on a curve of energy and index that fits the 3/2 power law to R^2 of .95.

So the fit, published as evidence of random-matrix theory at critical points, does not need critical points (Frye et al. 2021,
doi:10.1162/neco_a_01388). Problem: 16-16-16 tanh net without biases on 64 rows of noise (phi = 1/2, 512 weights), float64;
starts uniform in loss along gradient descent; steps p = -pinv(H) g, cut at 1e-4 of the largest |eigenvalue|, backtracking on
|g|^2. Energy is averaged over outputs, index is the share of eigenvalues below -1e-5. `grad_norm_sq` and `flatness`
(r = |Hp + g| / (|H||p| + |g|), 1 where the gradient is in the null space of H) are the medians over the points; `eps_c` and
`coefficient` are those of the fit, and of theory beside it.

Error: 1 - R^2 of the fit. Two numbers of a step: a Hessian of 512 weights (.5 ms) and its eigenvectors, 9 n^3 = 1.2 GFLOP.
"""  # noqa: E501 -- the claim is one line

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import hessjax as hj
from benchmarks.assembly import placed, spread
from benchmarks.harness import Program, measure, row

CUT, TRIED = 1e-4, 20  # of the pseudo-inverse; halvings of a step


def run() -> list[dict[str, Any]]:
    """One row: the search, and what its points are."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    try:
        return [_search(*((4, 4, 3) if os.environ.get("HESSJAX_SMOKE") else (16, 12, 150)))]
    finally:
        jax.config.update("jax_enable_x64", before)


def _search(width: int, count: int, steps: int) -> dict[str, Any]:
    shape = {"widths": (width,), "inputs": width, "outputs": width, "rows": 4 * width}
    land = hj.landscapes.get("memorization", **shape, dtype="float64")
    start, unravel = ravel_pytree(land.init(jax.random.key(0)))
    mean = lambda w: jnp.mean(land.loss(unravel(w), land.batch)) / width  # over outputs too
    path = jax.jit(lambda w: jax.lax.scan(lambda w, _: (w - 0.5 * jax.grad(mean)(w), w), w, length=4000)[1])(start)
    losses = np.asarray(jax.lax.map(mean, path))
    chosen = path[np.abs(losses[:, None] - np.linspace(losses[0], losses[-1], count)).argmin(0)]
    search = spread(lambda w: jax.lax.map(lambda one: descend(land, unravel, mean, one, steps, width), w), count)
    found = {}

    def once():
        found["points"] = jax.block_until_ready(search(placed(chosen, count)))
        return found["points"]

    once()
    cost = measure(Program(once), rounds=1)
    energy, index, squared, flat = (np.asarray(x) for x in found["points"])
    eps_c, coefficient, rest = fitted(energy, index)
    phi = start.size / (4 * width * width)
    theory = float(hj.rmt.critical_energy(phi)), float(hj.rmt.index_law_coefficient(phi))
    return row(
        f"{count} starts, {steps} steps", cost, error=rest, error_is="1 - R^2 of the 3/2 law fitted",
        grad_norm_sq=float(np.median(squared)), critical=int((squared < 1e-10).sum()), flatness=float(np.median(flat)),
        eps_c=eps_c, eps_c_theory=theory[0], coefficient=coefficient, coefficient_theory=theory[1],
        energies=[round(float(e), 4) for e in energy], indices=[round(float(i), 4) for i in index],
    )  # fmt: skip


def descend(land: Any, unravel: Any, mean: Any, w: jax.Array, steps: int, width: int) -> tuple[jax.Array, ...]:
    """Energy, index, |g|^2 and flatness where Newton's method on the squared gradient is after so many steps."""

    def curvature(w):
        matrix = hj.dense(hj.Hessian(land.loss, unravel(w), land.batch)) / width
        values, vectors = hj.eigh(matrix)
        g = jax.grad(mean)(w)
        kept = jnp.abs(values) > CUT * jnp.abs(values).max()
        p = -vectors @ (jnp.where(kept, 1 / jnp.where(kept, values, 1), 0) * (vectors.T @ g))
        return values, matrix, g, p

    squared = lambda w: jnp.sum(jax.grad(mean)(w) ** 2)

    def step(w, _):
        _, matrix, g, p = curvature(w)
        scales = 0.5 ** jnp.arange(float(TRIED))
        tried = jax.lax.map(lambda t: squared(w + t * p), scales)
        wanted = g @ g + jnp.where(scales == 1, 0.5, 1e-4) * scales * (2 * p @ (matrix @ g))
        first = jnp.argmax(tried <= wanted)
        return jnp.where(tried[first] <= wanted[first], w + scales[first] * p, w), None

    w = jax.lax.scan(step, w, length=steps)[0]
    values, matrix, g, p = curvature(w)
    flat = jnp.linalg.norm(matrix @ p + g) / (jnp.linalg.norm(matrix) * jnp.linalg.norm(p) + jnp.linalg.norm(g))
    return mean(w), jnp.mean(values < -1e-5), g @ g, flat


def fitted(energy: np.ndarray, index: np.ndarray) -> tuple[float, float, float]:
    """eps_c and alpha_0 of alpha_0 ((eps - eps_c) / eps_c)^(3/2) by least squares, and the share of variance left."""
    grid = np.linspace(1e-3, energy.min(), 400)
    shapes = np.maximum(energy - grid[:, None], 0) ** 1.5
    slopes = shapes @ index / np.maximum((shapes**2).sum(1), 1e-30)
    left = ((slopes[:, None] * shapes - index) ** 2).sum(1) / max(((index - index.mean()) ** 2).sum(), 1e-30)
    best = int(left.argmin())
    return float(grid[best]), float(slopes[best] * grid[best] ** 1.5), float(left[best])
