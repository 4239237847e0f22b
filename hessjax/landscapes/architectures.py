"""Network architectures as flax modules: what the factories of `landscapes.networks` put a task to.

All weights are normal with standard deviation init_scale / sqrt(fan in), embeddings with init_scale / sqrt(width), all
biases start at 0 and all scales of normalisations at 1. Params are drawn, and outputs computed, in `dtype`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

__all__ = ["ACTIVATIONS", "MLP", "ConvNet", "Recurrent", "ResNet", "Transformer"]

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
POOLINGS: dict[str, Callable] = {"mean": nn.avg_pool, "max": nn.max_pool}


def scaled(init_scale: float) -> Callable:
    """Normal weights of standard deviation init_scale / sqrt(fan in)."""
    return nn.initializers.variance_scaling(init_scale**2, "fan_in", "normal")


class MLP(nn.Module):
    """Dense layers of the given widths, the activation after every one but the last."""

    widths: Sequence[int]
    activation: str = "tanh"
    bias: bool = True
    init_scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        for layer, width in enumerate(self.widths):
            if layer:
                x = ACTIVATIONS[self.activation](x)
            x = nn.Dense(
                width,
                use_bias=self.bias,
                dtype=self.dtype,
                param_dtype=self.dtype,
                kernel_init=scaled(self.init_scale),
            )(x)
        return x


class ConvNet(nn.Module):
    """Convolutions, each with activation and pooling, over one axis of positions or two; then an MLP on all there is.

    kernels, strides and pools have an entry for every one of channels; `dense` has the widths of the MLP, outputs last.
    """

    channels: Sequence[int]
    kernels: Sequence[int]
    strides: Sequence[int]
    pools: Sequence[int]
    dense: Sequence[int]
    pooling: str = "mean"
    padding: str = "SAME"
    activation: str = "relu"
    bias: bool = True
    init_scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        axes = x.ndim - 2
        for channels, kernel, stride, pool in zip(self.channels, self.kernels, self.strides, self.pools, strict=True):
            x = nn.Conv(
                channels,
                (kernel,) * axes,
                strides=stride,
                padding=self.padding,
                use_bias=self.bias,
                dtype=self.dtype,
                param_dtype=self.dtype,
                kernel_init=scaled(self.init_scale),
            )(x)
            x = ACTIVATIONS[self.activation](x)
            if pool > 1:
                x = POOLINGS[self.pooling](x, (pool,) * axes, strides=(pool,) * axes)
        return MLP(self.dense, self.activation, self.bias, self.init_scale, self.dtype)(x.reshape(len(x), -1))


class ResNet(nn.Module):
    """Residual blocks with the activation before the convolution; without `skip`, the same layers one after another.

    x -> s(x) + conv(act(norm(conv(act(norm(x)))))), `blocks` of them for every entry of channels, the first of every
    stage but the first with stride 2; then norm, activation, the mean over positions and a dense layer. The shortcut s
    has no params: the identity or, where the shape changes, every second position with channels of zeros added.

    norm: "batch": every channel over all rows and positions; "layer": every row over all positions and channels;
      "none". Either of the first two has a scale and a bias per channel, and convolutions have biases without them.
    frozen: whether "batch" takes the mean and variance that are given (collection batch_stats) or those of the rows.
    """

    channels: Sequence[int]
    outputs: int
    blocks: int = 1
    kernel: int = 3
    skip: bool = True
    norm: str = "batch"
    frozen: bool = True
    activation: str = "relu"
    init_scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        x = self.convolution(x, self.channels[0], 1)
        for stage, channels in enumerate(self.channels):
            for block in range(self.blocks):
                stride = 2 if stage and not block else 1
                y = self.convolution(self.activated(x), channels, stride)
                y = self.convolution(self.activated(y), channels, 1)
                x = self.shortcut(x, channels, stride) + y if self.skip else y
        x = jnp.mean(self.activated(x), axis=tuple(range(1, x.ndim - 1)))
        kernel_init = scaled(self.init_scale)
        return nn.Dense(self.outputs, dtype=self.dtype, param_dtype=self.dtype, kernel_init=kernel_init)(x)

    def convolution(self, x, channels, stride):
        return nn.Conv(
            channels,
            (self.kernel,) * (x.ndim - 2),
            strides=stride,
            use_bias=self.norm == "none",  # a bias before a mean is taken off would do nothing
            dtype=self.dtype,
            param_dtype=self.dtype,
            kernel_init=scaled(self.init_scale),
        )(x)

    def activated(self, x):
        kinds = {"dtype": self.dtype, "param_dtype": self.dtype, "use_fast_variance": False}
        if self.norm == "batch":
            # Momentum 0: the statistics left behind are those of the rows seen last.
            x = nn.BatchNorm(use_running_average=self.frozen, momentum=0.0, **kinds)(x)
        if self.norm == "layer":
            x = nn.LayerNorm(reduction_axes=tuple(range(1, x.ndim)), feature_axes=-1, **kinds)(x)
        return ACTIVATIONS[self.activation](x)

    def shortcut(self, x, channels, stride):
        x = x[(slice(None), *(slice(None, None, stride),) * (x.ndim - 2))]
        return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, channels - x.shape[-1])])


class Recurrent(nn.Module):
    """Recurrent layers over the steps of a sequence, from a state of zeros; the last state of the last is read out.

    cell "rnn": h' = act(W x + b + U h). "lstm": gates i, f, o = sigmoid and g = tanh of W x + U h + b, each with its
    own; c' = f c + i g, h' = o tanh(c').
    """

    widths: Sequence[int]
    outputs: int
    cell: str = "rnn"
    activation: str = "tanh"
    init_scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        init = scaled(self.init_scale)
        kinds = {"dtype": self.dtype, "param_dtype": self.dtype, "kernel_init": init}
        states: Any = x
        for layer, width in enumerate(self.widths):
            if self.cell == "lstm":
                cell = nn.LSTMCell(width, recurrent_kernel_init=init, **kinds)
            else:
                act = ACTIVATIONS[self.activation]
                cell = nn.SimpleCell(width, activation_fn=act, recurrent_kernel_init=init, **kinds)
            states = nn.RNN(cell, name=f"RNN_{layer}")(states)
        return nn.Dense(self.outputs, **kinds)(states[:, -1])


class Block(nn.Module):
    """x -> x + attention(norm(x)), then x -> x + MLP(norm(x)); the attention is causal."""

    heads: int
    hidden: int
    activation: str
    init_scale: float
    dtype: Any

    @nn.compact
    def __call__(self, x):
        kinds = {"dtype": self.dtype, "param_dtype": self.dtype}
        init = scaled(self.init_scale)
        attend = nn.MultiHeadDotProductAttention(self.heads, kernel_init=init, name="attention", **kinds)
        x = x + attend(layer_norm(kinds, "attention_norm")(x), mask=nn.make_causal_mask(x[..., 0]))
        y = nn.Dense(self.hidden, kernel_init=init, name="mlp_in", **kinds)(layer_norm(kinds, "mlp_norm")(x))
        return x + nn.Dense(x.shape[-1], kernel_init=init, name="mlp_out", **kinds)(ACTIVATIONS[self.activation](y))


class Transformer(nn.Module):
    """A decoder: token and position embeddings, `Block`s, a layer norm, and a dense layer to the scores of all tokens.

    Returns scores [rows, steps, tokens], or those of the last step, [rows, tokens].
    """

    vocabulary: int
    width: int
    depth: int = 1
    heads: int = 2
    hidden: int = 32
    last: bool = True
    activation: str = "gelu"
    init_scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens):
        kinds = {"dtype": self.dtype, "param_dtype": self.dtype}
        init = nn.initializers.normal(self.init_scale / self.width**0.5)
        places = self.param("positions", init, (tokens.shape[1], self.width), self.dtype)
        x = nn.Embed(self.vocabulary, self.width, embedding_init=init, name="tokens", **kinds)(tokens) + places
        for layer in range(self.depth):
            block = Block(self.heads, self.hidden, self.activation, self.init_scale, self.dtype, name=f"block_{layer}")
            x = block(x)
        x = layer_norm(kinds, "norm")(x[:, -1] if self.last else x)
        return nn.Dense(self.vocabulary, kernel_init=scaled(self.init_scale), name="scores", **kinds)(x)


def layer_norm(kinds: dict[str, Any], name: str) -> nn.LayerNorm:
    """Over the last axis, with the two-pass variance: the fast one loses digits that second derivatives need."""
    return nn.LayerNorm(use_fast_variance=False, name=name, **kinds)
