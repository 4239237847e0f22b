"""Networks as landscapes; imports flax, which the rest of the package but adapters.py does without.

Every factory takes `dtype`, in which params are drawn and data stored, so that a run does not depend on the
process's default float.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from hessjax.landscapes import data
from hessjax.landscapes.base import Landscape, near

__all__ = ["MLP", "digits_mlp", "memorization"]

ACTIVATIONS: dict[str, Callable] = {
    "tanh": jnp.tanh,
    "relu": nn.relu,
    "sigmoid": nn.sigmoid,
    "softplus": nn.softplus,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "elu": nn.elu,
    "linear": lambda x: x,
}


class MLP(nn.Module):
    """Dense layers of the given widths, the activation after every one but the last."""

    widths: Sequence[int]
    activation: str = "tanh"
    bias: bool = True
    init_scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        kernel_init = nn.initializers.variance_scaling(self.init_scale**2, "fan_in", "normal")
        for layer, width in enumerate(self.widths):
            if layer:
                x = ACTIVATIONS[self.activation](x)
            x = nn.Dense(width, use_bias=self.bias, dtype=self.dtype, param_dtype=self.dtype, kernel_init=kernel_init)(
                x
            )
        return x


def cross_entropy(outputs, targets):
    """Per row, in nats, from logits and integer classes."""
    return optax.losses.softmax_cross_entropy_with_integer_labels(outputs, targets)


def half_squared_error(outputs, targets):
    """Per row, 1/2 ||outputs - targets||^2; integer targets are taken as one-hot."""
    if jnp.issubdtype(targets.dtype, jnp.integer):
        targets = jax.nn.one_hot(targets, outputs.shape[-1], dtype=outputs.dtype)
    return 0.5 * jnp.sum((outputs - targets) ** 2, axis=-1)


LOSSES: dict[str, Callable] = {"cross-entropy": cross_entropy, "squared": half_squared_error}


def digits_mlp(
    *,
    widths: int | Sequence[int] = (8,),
    activation: str = "tanh",
    loss: str = "cross-entropy",
    pool: int = 2,
    rows: int | None = 512,
    bias: bool = True,
    init_scale: float = 1.0,
    dtype: str = "float32",
) -> Landscape:
    """MLP on scikit-learn's digits, average-pooled and standardised; 16-8-10 by default.

    Args:
      widths: hidden widths, one or a sequence; () is softmax (or linear) regression.
      activation: tanh, relu, sigmoid, softplus, gelu, silu, elu or linear.
      loss: "cross-entropy" (nats) or "squared" (1/2 ||outputs - one-hot||^2), mean over rows.
      pool: side of the averaged square of pixels: 1, 2, 4 or 8.
      rows: images used, evenly spaced through the 1797; None for all.
      bias: whether layers have biases.
      init_scale: weights are normal with standard deviation init_scale / sqrt(fan in); biases start at 0.
      dtype: of params and data.

    Raises:
      ValueError: an option out of range, naming it.

    Example:
      >>> import hessjax as hj
      >>> land = hj.landscapes.get("digits-mlp", widths=(8,))
      >>> hj.Hessian(land.loss, land.init(jax.random.key(0)), land.batch).size
      226
    """
    x, y = data.digits(pool=pool, rows=rows)
    note = f"{len(x)} fixed rows of scikit-learn's 1797 digits, pooled to {x.shape[1]} pixels and standardised"
    return _network(
        "digits-mlp", x, y, 10, widths, activation, loss, bias=bias, init_scale=init_scale, dtype=dtype, note=note
    )


def memorization(
    *,
    widths: int | Sequence[int] = (16,),
    inputs: int = 16,
    outputs: int = 16,
    rows: int = 128,
    activation: str = "tanh",
    bias: bool = False,
    init_scale: float = 1.0,
    data_seed: int = 0,
    dtype: str = "float32",
) -> Landscape:
    """A net asked to memorise noise: inputs and targets standard normal; 16-16-16 without biases by default.

    The loss is the mean over rows of 1/2 ||.||^2, so the random-matrix laws of Pennington & Bahri, which average
    over outputs too, read energy = loss / outputs and spectrum = H / outputs.

    Args:
      widths: hidden widths.
      inputs: input dimension.
      outputs: output dimension.
      rows: samples; phi = parameters / (rows x outputs).
      activation: as for digits-mlp.
      bias: whether layers have biases.
      init_scale: as for digits-mlp.
      data_seed: seed of the noise.
      dtype: of params and data.

    Raises:
      ValueError: an option out of range, naming it.

    Example:
      >>> import hessjax as hj
      >>> land = hj.landscapes.get("memorization")
      >>> hj.Hessian(land.loss, land.init(jax.random.key(0)), land.batch).size
      512

    References: Pennington & Bahri (2017), ICML, PMLR 70:2798-2806, section 4.
    """
    for name, value in {"inputs": inputs, "outputs": outputs, "rows": rows}.items():
        _check_whole(name, value)
    x, y = data.noise(rows, inputs, outputs, seed=data_seed)
    note = f"{rows} rows of standard normal inputs and targets (seed {data_seed})"
    return _network(
        "memorization", x, y, outputs, widths, activation, "squared", bias=bias, init_scale=init_scale, dtype=dtype,
        note=note,
    )  # fmt: skip


def _check_whole(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number, at least 1; got {value!r}.")


def _network(name, x, y, outputs, widths, activation, loss, *, bias, init_scale, dtype, note) -> Landscape:
    widths = tuple(widths) if isinstance(widths, Sequence) else (widths,)
    for width in widths:
        _check_whole("widths", width)
    if activation not in ACTIVATIONS:
        raise ValueError(f"unknown activation {activation!r}{near(str(activation), list(ACTIVATIONS))}")
    if loss not in LOSSES:
        raise ValueError(f"unknown loss {loss!r}{near(str(loss), list(LOSSES))}")
    if not init_scale > 0:
        raise ValueError(f"init_scale must be above 0, got {init_scale!r}.")
    module = MLP((*widths, outputs), activation, bias, init_scale, jnp.dtype(dtype))
    targets = y if y.dtype.kind == "i" else y.astype(dtype)
    per_row = LOSSES[loss]
    model = lambda params, inputs: module.apply({"params": params}, inputs)
    return Landscape(
        name=name,
        init=lambda key: module.init(key, jnp.zeros((1, x.shape[1]), dtype))["params"],
        loss=lambda params, batch: per_row(model(params, batch[0]), batch[1]),
        batch=(jnp.asarray(x, dtype), jnp.asarray(targets)),
        model=model,
        facts={
            "lower_bound": 0.0,
            "notes": [note, f"{activation} network {'-'.join(map(str, (x.shape[1], *widths, outputs)))}, {loss} loss"],
        },
    )
