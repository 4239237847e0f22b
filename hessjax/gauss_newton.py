"""The Gauss-Newton part of a Hessian, J' (d^2 loss / d outputs^2) J, and the residual part, H minus it.

The curvature of the loss through the model's first derivatives, and that of the model itself. Neither is made by
subtraction, and no block of outputs by outputs is formed: fifty thousand classes cost what their logits cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from hessjax import trees
from hessjax.curvature import STATIC, Curvature, check_function, check_options
from hessjax.objective import PRECISION, losses
from hessjax.operators import pytree

__all__ = ["GaussNewton", "ModelCurvature", "Residual", "sandwich"]


class ModelCurvature(Curvature):
    """Curvature of a loss whose model is known apart from it: loss(model(params, inputs), targets)."""

    model: Callable
    loss: Callable

    @property
    def _objective(self) -> Callable:
        return lambda params, batch: self.loss(self.model(params, batch[0]), batch[1])

    def _outputs(self, params: PyTree, inputs: PyTree) -> PyTree:
        with jax.default_matmul_precision(self.precision):
            outputs = self.model(params, inputs)
        for path, leaf in jax.tree.leaves_with_path(outputs):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                raise TypeError(
                    f"model output {trees.path_str(path)!r} is {jnp.result_type(leaf)}, wanted real floating arrays; "
                    "return auxiliary outputs elsewhere."
                )
        return outputs

    def _values(self, outputs: PyTree, some: PyTree) -> Float[Array, "*rows"]:
        of_outputs = lambda z, rows: self.loss(z, rows[1])
        return losses(of_outputs, outputs, some, precision=self.precision)


def check_model(op: ModelCurvature) -> None:
    """Refuses what is no model, no loss of its outputs, or no pair of inputs and targets."""
    check_function(op.model, "model(params, inputs) -> outputs")
    check_function(op.loss, "loss(outputs, targets) -> [N] or scalar")
    check_options(op.params, op.chunk)
    if not isinstance(op.batch, tuple | list) or len(op.batch) != 2:
        got = f"{type(op.batch).__name__}{f' of {len(op.batch)}' if hasattr(op.batch, '__len__') else ''}"
        raise ValueError(f"batch is {got}, wanted a pair (inputs, targets); either may be a pytree, or None.")


def sandwich(model: Callable, params: PyTree, v: PyTree, between: Callable[[PyTree, PyTree], PyTree]) -> PyTree:
    """J' M J v, with J the derivative of `model` at `params` and `between(outputs, J v)` = M J v.

    Example:
      >>> sandwich(lambda p: 3.0 * p, jnp.ones(2), jnp.array([1.0, 2.0]), lambda outputs, tangent: outputs * tangent)
      Array([27., 54.], dtype=float32)
    """
    v = trees.vary_like(v, params)
    outputs, push = jax.linearize(model, params)
    (product,) = jax.linear_transpose(push, v)(between(outputs, push(v)))
    return product


@final
@pytree
@dataclass(frozen=True, eq=False, repr=False)
class GaussNewton(ModelCurvature):
    """The generalised Gauss-Newton matrix at `params`: (1/N) sum_i J_i' (d^2 loss_i / d outputs^2) J_i.

    The Hessian of the loss with the model replaced by its linearisation; positive semi-definite where the loss is
    convex in the outputs. H = GaussNewton + Residual, and where every example is fitted, H = GaussNewton. `params`
    and `batch` are leaves, `model` and `loss` static: define both once.

    Args:
      model: `model(params, inputs) -> outputs`, usually [N, C]; any pytree of real floating arrays.
      loss: `loss(outputs, targets) -> [N]` per example, meaning loss(rows) = rows of loss; or a scalar.
      params: any pytree of real floating arrays.
      batch: `(inputs, targets)`, pytrees whose non-scalar leaves share the leading axis N.
      chunk: rows per pass, at least 1; None takes all at once. Needs the per-example form.
      precision: `jax.default_matmul_precision` under which model and loss are traced.

    Raises:
      ValueError: batch no pair; chunk below 1 or with a scalar loss; loss of another shape; batch leaves of
        different lengths; empty params.
      TypeError: params or outputs with integer, boolean or complex leaves; `model` or `loss` not callable.

    Units: loss / params^2. One product costs one and a half to two gradients.

    Example:
      >>> import hessjax as hj
      >>> model = lambda p, x: p["a"] * jnp.exp(p["b"] * x)
      >>> loss = lambda outputs, targets: 0.5 * (outputs - targets) ** 2
      >>> params, batch = {"a": jnp.array(2.0), "b": jnp.array(0.0)}, (jnp.array([1.0, 3.0]), jnp.array([2.0, 2.0]))
      >>> hj.dense(hj.GaussNewton(model, loss, params, batch)).tolist()
      [[1.0, 4.0], [4.0, 20.0]]

    References: Schraudolph (2002), Neural Computation 14(7), doi:10.1162/08997660260028683.
    """

    model: Callable = field(metadata=STATIC)
    loss: Callable = field(metadata=STATIC)
    params: PyTree
    batch: Any
    chunk: int | None = field(default=None, kw_only=True, metadata=STATIC)
    precision: str = field(default=PRECISION, kw_only=True, metadata=STATIC)

    def __post_init__(self):
        check_model(self)

    def _part(self, v: PyTree, some: PyTree, reduce: Callable) -> PyTree:
        slope = jax.grad(lambda outputs: reduce(self._values(outputs, some)))
        curve = lambda outputs, tangent: jax.jvp(slope, (outputs,), (tangent,))[1]
        return sandwich(partial(self._outputs, inputs=some[0]), self._arrays(), v, curve)


@final
@pytree
@dataclass(frozen=True, eq=False, repr=False)
class Residual(ModelCurvature):
    """The rest of the Hessian, H - GaussNewton: (1/N) sum_i sum_k (d loss_i / d outputs_k) d^2 outputs_ik / d params^2.

    Computed as that sum, so nothing cancels: it is exactly zero where the slope of the loss in the outputs is, as
    for squares at an exact fit, and where the model is linear.

    Args and errors as `GaussNewton`. One product costs two to three gradients.

    Example:
      >>> import hessjax as hj
      >>> model = lambda p, x: p["a"] * jnp.exp(p["b"] * x)
      >>> loss = lambda outputs, targets: 0.5 * (outputs - targets) ** 2
      >>> params, batch = {"a": jnp.array(2.0), "b": jnp.array(0.0)}, (jnp.array([1.0, 3.0]), jnp.array([1.0, 2.0]))
      >>> hj.dense(hj.Residual(model, loss, params, batch)).tolist()
      [[0.0, 0.5], [0.5, 1.0]]
    """

    model: Callable = field(metadata=STATIC)
    loss: Callable = field(metadata=STATIC)
    params: PyTree
    batch: Any
    chunk: int | None = field(default=None, kw_only=True, metadata=STATIC)
    precision: str = field(default=PRECISION, kw_only=True, metadata=STATIC)

    def __post_init__(self):
        check_model(self)

    def _part(self, v: PyTree, some: PyTree, reduce: Callable) -> PyTree:
        def gradient(params):
            outputs, pull = jax.vjp(partial(self._outputs, inputs=some[0]), params)
            slope = jax.grad(lambda z: reduce(self._values(z, some)))
            return pull(slope(jax.lax.stop_gradient(outputs)))[0]  # the slope is held: only the model is curved

        return jax.jvp(gradient, (self._arrays(),), (v,))[1]
