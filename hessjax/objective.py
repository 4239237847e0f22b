"""From a user's loss to the scalar that is differentiated: its form, and its mean over rows.

The matmul precision is set here, where the loss is traced: derivatives keep the precision of what they derive from.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from hessjax import rows

__all__ = ["loss_form", "losses", "mean_loss"]

# Accelerators multiply float32 matrices at lower precision by default; small eigenvalues' signs would be noise.
PRECISION = "float32"


def loss_form(loss: Callable, params: PyTree, batch: PyTree) -> str:
    """Whether a loss is "per-example" ([N]) or "scalar"; traced, not run.

    Raises:
      ValueError: it is neither; the message names the shape got and the one wanted.

    Example:
      >>> loss_form(lambda p, x: (x - p) ** 2, jnp.array(0.0), jnp.zeros(5))
      'per-example'
    """
    return _form(jax.eval_shape(partial(_call, loss), params, batch), batch)


def _call(loss: Callable, params: PyTree, batch: PyTree) -> PyTree:
    if batch is None:
        return loss(params)
    try:
        return loss(params, batch)
    except (TypeError, ValueError):
        rows.num_rows(batch)  # leaves that disagree are the likely cause, and say more than the shapes of an operation
        raise


def _form(out, batch: PyTree) -> str:
    shape = getattr(out, "shape", None)
    if shape is None:
        raise ValueError(f"loss returned {type(out).__name__}, wanted one array; return auxiliary outputs elsewhere.")
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(f"loss returned dtype {out.dtype}, wanted a real floating one.")
    if shape == ():
        return "scalar"
    if batch is None:
        raise ValueError(f"loss(params) returned shape {shape}, wanted a scalar; take its mean, or pass the batch.")
    count = rows.num_rows(batch)
    if shape != (count,):
        raise ValueError(
            f"loss returned shape {shape}, wanted a scalar or one number per row, ({count},); "
            "sum or average over outputs inside the loss."
        )
    return "per-example"


def losses(
    loss: Callable, params: PyTree, batch: PyTree = None, *, precision: str = PRECISION
) -> Float[Array, "*rows"]:
    """What the loss returns, checked: [N] per example, or a scalar."""
    with jax.default_matmul_precision(precision):
        out = _call(loss, params, batch)
    _form(out, batch)
    return out


def mean_loss(loss: Callable, params: PyTree, batch: PyTree = None, *, precision: str = PRECISION) -> Float[Array, ""]:
    """The mean of the per-example losses, or the scalar itself.

    Example:
      >>> float(mean_loss(lambda p, x: p * x, jnp.array(2.0), jnp.array([1.0, 2.0])))
      3.0
    """
    return jnp.mean(losses(loss, params, batch, precision=precision))
