"""One init at one time: every number of its row, from one Hessian."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from hessjax import stacks, trees
from hessjax.columns import COLUMNS
from hessjax.composition import lower
from hessjax.curvature import Hessian
from hessjax.landscapes.base import Landscape
from hessjax.objective import mean_loss
from hessjax.signature import by_values, with_ends

__all__ = ["error_rate", "measure"]

PIECES = 2**30  # bytes of one init's pieces: the same on every machine, as the way they are added decides the last bits


def measure(
    land: Landscape,
    params: PyTree,
    *,
    tol: float,
    spectrum: bool = True,
    chunk: int | None = None,
    columns: int = COLUMNS,
    pieces: bool = True,
) -> dict[str, Array]:
    """One init at one time: every number of its row.

    Args:
      land: the landscape.
      params: where to measure.
      tol: relative threshold of the counts.
      spectrum: whether all eigenvalues are among the numbers.
      chunk: rows per pass.
      columns: Hessian columns per pass, of the leaves that are columns.
      pieces: whether leaves may be put together from pieces, of up to 1 GiB.

    Example:
      >>> from hessjax.landscapes import get
      >>> land = get("quadratic", eigenvalues=(-1.0, 2.0))
      >>> row = measure(land, jnp.ones(2), tol=1e-5)
      >>> int(row["negative"]), int(row["positive"])
      (1, 1)
    """
    loss, grad = jax.value_and_grad(lambda p: mean_loss(land.loss, p, land.batch))(params)
    op = Hessian(land.loss, params, land.batch, chunk=chunk)
    matrix = lower(op, columns=columns, memory=PIECES if pieces else 1)
    matrix = jnp.where(jnp.isfinite(loss), matrix, jnp.nan)  # a diverged init has no curvature to count
    if spectrum:
        values = stacks.eigvalsh(matrix)
        found, ends = by_values(values, stacks.row_sum_norm(matrix), tol), values[jnp.array([0, -1])]
    else:
        values, (found, ends) = None, with_ends(matrix, tol)
    finite = jnp.all(jnp.isfinite(ends))
    row = {
        "loss": loss,
        "grad_norm": trees.norm(grad),
        **found._asdict(),
        "trace": jnp.where(finite, jnp.sum(matrix.ravel()[:: len(matrix) + 1]), jnp.nan),
        "min_eigenvalue": ends[0],
        "max_eigenvalue": ends[1],
        "status": jnp.where(jnp.isfinite(loss), jnp.where(finite, 0, 2), 1).astype(jnp.int8),
    }
    if land.classifies:
        row["error"] = jnp.where(jnp.isfinite(loss), error_rate(land, params), jnp.nan)
    if values is not None:
        row["eigenvalues"] = values
    kept = ("negative", "zero", "positive", "certified", "status")
    return {name: x if name in kept else x.astype(matrix.dtype) for name, x in row.items()}


def error_rate(land: Landscape, params: PyTree) -> Float[Array, ""]:
    """Share of rows where argmax of the model's outputs is not the integer target."""
    assert land.model is not None
    inputs, targets = land.batch
    with jax.default_matmul_precision("float32"):
        return jnp.mean(jnp.argmax(land.model(params, inputs), axis=-1) != targets)
