"""Networks on tasks, as landscapes: feed-forward, convolutional and residual here, others from `sequences`.

Every factory takes `dtype`, in which params are drawn and data stored, so that a run does not depend on the process's
default float. Those with `task` take a name of `tasks.TASKS`, whose own options follow as keywords, or a pair of arrays
(x, y); x is [rows, features], [rows, steps, features] or [rows, height, width, channels], or integer tokens.
Losses are per row, except where the option `statistics` says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessjax.landscapes import data
from hessjax.landscapes.architectures import ACTIVATIONS, MLP, POOLINGS, ConvNet, ResNet
from hessjax.landscapes.base import Landscape
from hessjax.landscapes.building import LOSSES, build, check_positive, choice, floating, task_for, whole_numbers
from hessjax.landscapes.data import check_whole
from hessjax.landscapes.sequences import lstm, rnn, transformer
from hessjax.landscapes.tasks import Task
from hessjax.rmt import index_curve

__all__ = [
    "ACTIVATIONS",
    "LOSSES",
    "MLP",
    "conv",
    "digits_mlp",
    "lstm",
    "memorization",
    "mlp",
    "resnet",
    "rnn",
    "transformer",
]

Given = Any  # a name of tasks.TASKS, or a pair of arrays (x, y)


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
    return _mlp("digits-mlp", Task("digits", x, y, 10, note), widths, activation, loss, bias, init_scale, dtype)


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
    over outputs too, read energy = loss / outputs and spectrum = H / outputs; facts has that of the index.

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
    check_whole("inputs", inputs)
    x, y = data.noise(rows, inputs, outputs, seed=data_seed)
    task = Task("noise", x, y, outputs, f"{rows} rows of standard normal inputs and targets (seed {data_seed})")
    made = _mlp("memorization", task, widths, activation, "squared", bias, init_scale, dtype)
    size = sum(math.prod(x.shape) for x in jax.tree.leaves(jax.eval_shape(made.init, jax.random.key(0))))
    return replace(made, facts={**made.facts, "index_curve": _index_curve(size / (rows * outputs), outputs)})


def mlp(
    *,
    task: Given = "clusters",
    widths: int | Sequence[int] = (8,),
    activation: str = "tanh",
    loss: str = "cross-entropy",
    bias: bool = True,
    init_scale: float | int = 1.0,
    dtype: str = "float32",
    **task_options: Any,
) -> Landscape:
    """MLP on any task, its rows flattened, tokens one-hot; 16-8-4 on Gaussian clusters by default.

    Args:
      task: a name of `tasks.TASKS`, or arrays (x, y).
      widths: hidden widths, one or a sequence; () is softmax (or linear) regression.
      activation: tanh, relu, sigmoid, softplus, gelu, silu, elu or linear.
      loss: "cross-entropy" (nats) or "squared" (1/2 ||outputs - targets||^2, classes as one-hot), mean over rows.
      bias: whether layers have biases.
      init_scale: weights are normal with standard deviation init_scale / sqrt(fan in); biases start at 0.
      dtype: of params and data.
      **task_options: of the task, e.g. classes=3.

    Raises:
      ValueError: an option out of range, naming it; an unknown task, or a loss that needs the classes it has not.

    Example:
      >>> import hessjax as hj
      >>> land = mlp(task="spirals", widths=(5, 5), classes=3)
      >>> hj.Hessian(land.loss, land.init(jax.random.key(0)), land.batch).size
      63
    """
    found = task_for(mlp, task, task_options, "vector")
    return _mlp("mlp", found, widths, activation, loss, bias, init_scale, dtype)


def conv(
    *,
    task: Given = "digits",
    channels: Sequence[int] = (32, 32, 64, 64),
    dense: Sequence[int] = (256,),
    width_multiplier: float | int = 1 / 16,
    kernel: int | Sequence[int] = 3,
    stride: int | Sequence[int] = 1,
    pooling_size: int | Sequence[int] = (1, 2, 1, 2),
    pooling: str = "mean",
    padding: str = "SAME",
    activation: str = "relu",
    loss: str = "cross-entropy",
    bias: bool = True,
    init_scale: float | int = 1.0,
    dtype: str = "float32",
    **task_options: Any,
) -> Landscape:
    """Convolutional net of four convolutions and two dense layers, or any other; on images, or sequences in one axis.

    Channels and dense widths are multiplied by `width_multiplier`, rounded, at least 1: of the default 32-32-64-64 and
    256 that is 2-2-4-4 and 16, 724 params on the digits. With a multiplier of 1 on 32x32x3 images (task="cifar10",
    folder=...) it is a net of six layers of the size usual there, 1,116,970 params.

    Args:
      task: a name of `tasks.TASKS` with images or sequences, or arrays (x, y).
      channels: of every convolution, before scaling.
      dense: hidden widths of the dense layers, before scaling; the layer of outputs follows.
      width_multiplier: of both, above 0.
      kernel: side of the kernels, one or one for each convolution, as are the next two.
      stride: of the convolutions.
      pooling_size: side of the squares pooled after the activation; 1 for none.
      pooling: "mean" or "max".
      padding: "SAME" or "VALID".
      activation: as for `mlp`.
      loss: as for `mlp`.
      bias: whether layers have biases.
      init_scale: as for `mlp`; sqrt 2 keeps the size of activations through relu layers.
      dtype: of params and data.
      **task_options: of the task, e.g. rows=100.

    Raises:
      ValueError: an option out of range, naming it; a task whose rows have no positions, or too few.

    Example:
      >>> import hessjax as hj
      >>> land = conv(task="mnist1d", channels=(4,), dense=(), width_multiplier=1, kernel=5, stride=2, pooling_size=1)
      >>> hj.Hessian(land.loss, jax.eval_shape(land.init, jax.random.key(0)), land.batch).size
      834
    """
    found = task_for(conv, task, task_options, "grid")
    check_positive("width_multiplier", width_multiplier)
    scaled = lambda name, sizes: tuple(max(1, round(width_multiplier * n)) for n in whole_numbers(name, sizes))
    channels, widths = scaled("channels", channels), (*scaled("dense", dense), found.outputs)
    layers = len(channels)
    options: dict[str, Any] = {
        "kernels": whole_numbers("kernel", kernel, layers),
        "strides": whole_numbers("stride", stride, layers),
        "pools": whole_numbers("pooling_size", pooling_size, layers),
        "pooling": choice("pooling", pooling, POOLINGS),
        "padding": choice("padding", padding, ("SAME", "VALID")),
        "activation": choice("activation", activation, ACTIVATIONS),
    }
    _check_positions(found, options)
    shared = {"bias": bias, "init_scale": init_scale, "dtype": floating(dtype)}
    module = ConvNet(channels, **options, dense=widths, **shared)
    note = f"{activation} network, convolutions {_dashed(channels)}, dense {_dashed(widths)}, {loss} loss"
    return build("conv", module, found, loss=loss, init_scale=init_scale, dtype=dtype, notes=[note])


def resnet(
    *,
    task: Given = "digits",
    channels: Sequence[int] = (2, 4),
    blocks: int = 1,
    kernel: int = 3,
    skip: bool = True,
    norm: str | None = "batch",
    statistics: str = "frozen",
    statistics_seed: int = 0,
    activation: str = "relu",
    loss: str = "cross-entropy",
    init_scale: float | int = 1.0,
    dtype: str = "float32",
    **task_options: Any,
) -> Landscape:
    """Residual net with or without skip connections and normalisation; two stages of one block by default, 384 params.

    x -> s(x) + conv(act(norm(conv(act(norm(x)))))); the shortcut s has no params (the identity; where the shape
    changes, every second position and channels of zeros), so nets with and without skips have the same params: one
    point lies on both surfaces. `architectures.ResNet` has the layers.

    Args:
      task: a name of `tasks.TASKS` with images or sequences, or arrays (x, y).
      channels: of every stage, not falling; every stage but the first halves the positions.
      blocks: of two convolutions, in every stage.
      kernel: side of the kernels.
      skip: whether blocks have the shortcut; without, the same layers follow one another.
      norm: "batch", "layer" (every row over its positions and channels) or "none" (or None, as a command line has it).
      statistics: with norm "batch". "frozen": mean and variance of every channel are constants, those over the task's
        rows at init(jax.random.key(statistics_seed)), so the loss is per row; at other params they are not those of the
        data, as for a trained net's running averages. "batch": they are computed from the rows given, inside the loss
        and differentiated; rows meet, and the loss is a scalar, without `chunk`.
      statistics_seed: of the params at which statistics are frozen.
      activation: as for `mlp`.
      loss: as for `mlp`.
      init_scale: as for `mlp`; scales of norms start at 1, their biases at 0.
      dtype: of params and data.
      **task_options: of the task, e.g. rows=100.

    Raises:
      ValueError: an option out of range, naming it; a task whose rows have no positions.

    Example:
      >>> import hessjax as hj
      >>> land = resnet(channels=(2,), norm="none", rows=20)
      >>> hj.Hessian(land.loss, jax.eval_shape(land.init, jax.random.key(0)), land.batch).size
      126

    References: He et al. (2016), arXiv:1512.03385 (section 4.2, shortcuts without params), arXiv:1603.05027 (order of
      the layers); Ioffe & Szegedy (2015), arXiv:1502.03167; Ba et al. (2016), arXiv:1607.06450; Li et al. (2018),
      arXiv:1712.09913 (surfaces with and without skips).
    """
    found = task_for(resnet, task, task_options, "grid")
    channels = whole_numbers("channels", channels)
    if not channels or list(channels) != sorted(channels):
        raise ValueError(f"channels must be one number or more and not fall, as shortcuts add them; got {channels}.")
    check_whole("blocks", blocks)
    check_whole("kernel", kernel)
    norm = str(choice("norm", "none" if norm is None else norm, ("batch", "layer", "none")))
    choice("statistics", statistics, ("frozen", "batch"))
    choice("activation", activation, ACTIVATIONS)
    couples = norm == "batch" and statistics == "batch"
    module = ResNet(
        channels,
        found.outputs,
        blocks=blocks,
        kernel=kernel,
        skip=skip,
        norm=norm,
        frozen=not couples,
        activation=activation,
        init_scale=init_scale,
        dtype=floating(dtype),
    )
    how = {"batch": f"{statistics} batch statistics", "layer": "layer normalisation", "none": "no normalisation"}[norm]
    kind = f"{activation} network {_dashed(channels)}, {blocks} blocks a stage, {'skips' if skip else 'no skips'}"
    return build(
        "resnet",
        module,
        found,
        loss=loss,
        init_scale=init_scale,
        dtype=dtype,
        notes=[f"{kind}, {how}, {loss} loss"],
        statistics="batch" if couples else "frozen",
        constants=_statistics(module, found.inputs, statistics_seed) if norm == "batch" and not couples else {},
    )


def _mlp(name, task, widths, activation, loss, bias, init_scale, dtype) -> Landscape:
    widths = (*whole_numbers("widths", widths), task.outputs)
    module = MLP(widths, choice("activation", activation, ACTIVATIONS), bias, init_scale, floating(dtype))
    note = f"{activation} network {_dashed((task.inputs.shape[1], *widths))}, {loss} loss"
    return build(name, module, task, loss=loss, init_scale=init_scale, dtype=dtype, notes=[note])


def _index_curve(phi: float, outputs: int) -> dict[str, Any]:
    """Of a loss that is summed over outputs, where the law's energy is a mean over them too."""
    share = lambda loss: index_curve(np.asarray(loss) / outputs, phi)
    return {"name": f"Wishart plus Wigner, phi = {phi:.3g}", "share": share, "losses": (0.0, float(outputs))}


def _dashed(sizes) -> str:
    return "-".join(map(str, sizes))


def _check_positions(task, options) -> None:
    """Refuses nets that pool, or cut, all positions away."""
    sizes = list(task.inputs.shape[1:-1])
    for kernel, stride, pool in zip(options["kernels"], options["strides"], options["pools"], strict=True):
        cut = 0 if options["padding"] == "SAME" else kernel - 1
        sizes = [-((cut - size) // stride) // pool for size in sizes]
        if min(sizes) < 1:
            raise ValueError(
                f"inputs of shape {task.inputs.shape[1:]} have too few positions for these kernels, strides and pools."
            )


def _statistics(module, inputs, seed):
    """Mean and variance of every channel over all rows, layer by layer, at the params of that seed."""
    x = jnp.asarray(inputs, module.dtype)
    of_rows = module.clone(frozen=False)

    def found(x):
        variables = module.init(jax.random.key(seed), x[:1])
        return of_rows.apply(variables, x, mutable=["batch_stats"])[1]

    with jax.default_matmul_precision("float32"):
        return jax.jit(found)(x)
