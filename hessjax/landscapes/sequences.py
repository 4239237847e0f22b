"""Networks over sequences as landscapes: recurrent classifiers, and a decoder with causal attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hessjax.landscapes.architectures import ACTIVATIONS, Recurrent, Transformer
from hessjax.landscapes.base import Landscape
from hessjax.landscapes.building import build, choice, floating, task_for, whole_numbers
from hessjax.landscapes.data import check_whole
from hessjax.landscapes.tasks import Task

__all__ = ["lstm", "rnn", "transformer"]


def rnn(
    *,
    task: Any = "digits",
    widths: int | Sequence[int] = (16,),
    activation: str = "tanh",
    loss: str = "cross-entropy",
    init_scale: float | int = 1.0,
    dtype: str = "float32",
    **task_options: Any,
) -> Landscape:
    """Recurrent net that reads a row step by step, h' = act(W x + b + U h), and classifies from its last state.

    By default 16 units read the 8x8 digits line by line: 570 params.

    Args:
      task: a name of `tasks.TASKS` with sequences, images (read line by line) or tokens (one-hot), or arrays (x, y).
      widths: units of every recurrent layer, one or a sequence.
      activation: tanh, relu, sigmoid, softplus, gelu, silu, elu or linear.
      loss: "cross-entropy" (nats) or "squared" (1/2 ||outputs - targets||^2, classes as one-hot), mean over rows.
      init_scale: weights, recurrent ones too, are normal with standard deviation init_scale / sqrt(fan in); biases and
        the first state are 0.
      dtype: of params and data.
      **task_options: of the task, e.g. rows=100.

    Raises:
      ValueError: an option out of range, naming it; a task whose rows are no sequences.

    Example:
      >>> import jax, hessjax as hj
      >>> land = rnn(widths=4, rows=20)
      >>> hj.Hessian(land.loss, jax.eval_shape(land.init, jax.random.key(0)), land.batch).size
      102

    References: Elman (1990), doi:10.1207/s15516709cog1402_1.
    """
    found = task_for(rnn, task, task_options, "sequence")
    choice("activation", activation, ACTIVATIONS)
    return _recurrent("rnn", found, widths, activation, loss, init_scale, dtype)


def lstm(
    *,
    task: Any = "digits",
    widths: int | Sequence[int] = (8,),
    loss: str = "cross-entropy",
    init_scale: float | int = 1.0,
    dtype: str = "float32",
    **task_options: Any,
) -> Landscape:
    """LSTM that reads a row step by step and classifies from its last state.

    c' = f c + i g and h' = o tanh(c'), with gates i, f, o = sigmoid and g = tanh of W x + U h + b. By default 8 units
    read the 8x8 digits line by line: 634 params.

    Args:
      task: as for `rnn`.
      widths: units of every layer, one or a sequence.
      loss: as for `rnn`.
      init_scale: as for `rnn`; the forget gate's bias starts at 0 too.
      dtype: of params and data.
      **task_options: of the task, e.g. rows=100.

    Raises:
      ValueError: an option out of range, naming it; a task whose rows are no sequences.

    Example:
      >>> import jax, hessjax as hj
      >>> land = lstm(widths=4, rows=20)
      >>> hj.Hessian(land.loss, jax.eval_shape(land.init, jax.random.key(0)), land.batch).size
      258

    References: Hochreiter & Schmidhuber (1997), doi:10.1162/neco.1997.9.8.1735; Gers et al. (2000),
      doi:10.1162/089976600300015015 (the forget gate).
    """
    found = task_for(lstm, task, task_options, "sequence")
    return _recurrent("lstm", found, widths, "tanh", loss, init_scale, dtype)


def transformer(
    *,
    task: Any = "modular-addition",
    width: int = 8,
    depth: int = 1,
    heads: int = 2,
    hidden: int = 32,
    predict: str = "last",
    activation: str = "gelu",
    loss: str = "cross-entropy",
    init_scale: float | int = 1.0,
    dtype: str = "float32",
    **task_options: Any,
) -> Landscape:
    """Decoder with causal attention: embeddings, blocks of attention and MLP after layer norms, scores of all tokens.

    x -> x + attention(norm(x)), x -> x + MLP(norm(x)); `architectures.Block` has the layers. By default one block
    of width 8 adds modulo 11: 1091 params.

    Args:
      task: a name of `tasks.TASKS` with tokens, or integer arrays (x, y), x of shape [rows, steps].
      width: of the residual stream, a multiple of heads.
      depth: blocks.
      heads: of every attention.
      hidden: units of every MLP.
      predict: "last": the target y [rows] from the last step. "next": from every step the token that follows, the last
        of which is y; the loss of a row is the mean over its steps. Targets [rows, steps] are predicted as they are.
      activation: of the MLPs: tanh, relu, sigmoid, softplus, gelu, silu, elu or linear.
      loss: as for `rnn`.
      init_scale: weights are normal with standard deviation init_scale / sqrt(fan in), embeddings of tokens and
        positions with init_scale / sqrt(width); biases start at 0, scales of norms at 1.
      dtype: of params.
      **task_options: of the task, e.g. modulus=7.

    Raises:
      ValueError: an option out of range, naming it; a task without tokens; a width that heads do not divide.

    Example:
      >>> import jax, hessjax as hj
      >>> land = transformer(modulus=5, width=4, hidden=8, predict="next")
      >>> params = jax.eval_shape(land.init, jax.random.key(0))
      >>> jax.eval_shape(land.model, params, land.batch[0]).shape, land.batch[1].shape
      ((20, 2, 5), (20, 2))

    References: Vaswani et al. (2017), arXiv:1706.03762; Xiong et al. (2020), arXiv:2002.04745 (norms before the
      layers); Power et al. (2022), arXiv:2201.02177 (modular addition).
    """
    found = task_for(transformer, task, task_options, "token")
    for name, value in {"width": width, "depth": depth, "heads": heads, "hidden": hidden}.items():
        check_whole(name, value)
    if width % heads:
        raise ValueError(f"width must be a multiple of heads={heads}, got {width}.")
    choice("activation", activation, ACTIVATIONS)
    choice("predict", predict, ("last", "next"))
    last, vocabulary = predict == "last", found.vocabulary
    module = Transformer(
        vocabulary, width, depth, heads, hidden, last, activation, init_scale, floating(dtype)
    )  # fmt: skip
    note = f"{activation} decoder, width {width}, {depth} blocks of {heads} heads and {hidden} units, {predict} token"
    found = found._replace(targets=_targets(found, last), outputs=vocabulary)
    notes = [f"{note}, {loss} loss"]
    return build("transformer", module, found, loss=loss, init_scale=init_scale, dtype=dtype, notes=notes)


def _targets(task: Task, last: bool) -> np.ndarray:
    """Tokens to predict: [rows] from the last step, or [rows, steps]."""
    x, y = task.inputs, task.targets
    fits = task.classifies and (y.ndim == 1 or (y.shape == x.shape and not last))
    if not fits:
        wanted = "[rows]" if last else "[rows] or [rows, steps]"
        raise ValueError(
            f"predict {'last' if last else 'next'!r} takes integer targets {wanted}, got {y.dtype} {y.shape}."
        )
    return np.concatenate([x[:, 1:], y[:, None]], axis=1) if y.ndim == 1 and not last else y


def _recurrent(name, task, widths, activation, loss, init_scale, dtype) -> Landscape:
    widths = whole_numbers("widths", widths)
    if not widths:
        raise ValueError("widths must be one number or more: a recurrent net has a layer.")
    module = Recurrent(widths, task.outputs, name, activation, init_scale, floating(dtype))
    note = f"{name} {'-'.join(map(str, (task.inputs.shape[2], *widths)))}, {task.inputs.shape[1]} steps, {loss} loss"
    return build(name, module, task, loss=loss, init_scale=init_scale, dtype=dtype, notes=[note])
