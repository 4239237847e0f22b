"""How often small nets are solved, and how often ReLU nets start dead: many starts at once, rates with intervals.

A start is dead where some layer has all units below zero for all data: the output is constant, its gradient zero but
for the last biases, and training cannot leave ("blind spots").

References: Swirszcz, Czarnecki & Pascanu (2016), "Local minima in training of neural networks", arXiv:1611.06310.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from hessjax.landscapes import relu
from hessjax.landscapes.base import Landscape, near
from hessjax.landscapes.data import check_dtype, check_whole
from hessjax.landscapes.shares import wilson
from hessjax.trees import PRNGKey

__all__ = [
    "PUBLISHED_RATES",
    "DeadShare",
    "SuccessRate",
    "dead_share",
    "dead_unit_probability",
    "success_rates",
    "wilson",
]

PROBLEMS: dict[str, Callable[..., Landscape]] = {"xor": relu.xor, "jellyfish": relu.jellyfish}
OPTIMIZERS: dict[str, Callable[[float], optax.GradientTransformation]] = {"adam": optax.adam, "gd": optax.sgd}

LANES = 64  # dead starts looked for at a time: a wide layer's weights are the memory it takes
FAR = 12.0  # standard deviations beyond which a normal distribution has nothing left in float64

# (problem, activation, optimizer): percent of runs solved with 2, 3, ..., 7 units, table 1. The learning rates, steps,
# loss and init behind them were not published; the rest of the row "gd, xor, sigmoid" is 100.
PUBLISHED_RATES: dict[tuple[str, str, str], tuple[int, ...]] = {
    ("xor", "relu", "adam"): (28, 52, 68, 81, 91, 97),
    ("xor", "sigmoid", "adam"): (79, 98, 100, 100, 100, 100),
    ("jellyfish", "relu", "adam"): (7, 34, 50, 51, 61, 69),
    ("jellyfish", "sigmoid", "adam"): (0, 0, 2, 27, 17, 58),
    ("xor", "relu", "gd"): (23, 47, 70, 80, 89, 89),
    ("xor", "sigmoid", "gd"): (90, 100, 100, 100, 100, 100),
    ("jellyfish", "relu", "gd"): (16, 33, 66, 68, 69, 86),
    ("jellyfish", "sigmoid", "gd"): (62, 100, 100, 100, 100, 100),
}


class SuccessRate(NamedTuple):
    """The share of starts that end with all points classified right, with its 95 % interval, and every start's end."""

    rate: float
    low: float
    high: float
    num_starts: int
    loss: Float[Array, " starts"]
    solved: Bool[Array, " starts"]


class DeadShare(NamedTuple):
    """The share of starts with a dead layer, with its 95 % interval; and the mean share of dead units in each layer."""

    share: float
    low: float
    high: float
    num_starts: int
    units: Float[np.ndarray, " layers"]
    dead: Bool[Array, " starts"]


def success_rates(
    key: PRNGKey,
    *,
    problem: str = "xor",
    hidden: int = 2,
    activation: str = "relu",
    optimizer: str = "adam",
    num_starts: int = 300,
    num_steps: int = 2000,
    learning_rate: float = 0.01,
    loss: str = "cross-entropy",
    init_mean: float = 0.0,
    init_scale: float = 1.0,
    dtype: str = "float32",
) -> SuccessRate:
    """How often a 2-h-1 net solves a problem of four points, from many starts at once.

    Args:
      key: of the starts.
      problem: "xor" or "jellyfish".
      hidden: number of units.
      activation: as for `relu.xor`.
      optimizer: "adam" or "gd", full batch.
      num_starts: independent starts, trained side by side.
      num_steps: updates of each.
      learning_rate: of the optimiser; "gd" takes larger ones, such as 0.5.
      loss: as for `relu.xor`.
      init_mean: as for `relu.xor`.
      init_scale: as for `relu.xor`.
      dtype: of params.

    Returns:
      SuccessRate: rate with low and high, and per start the last loss and whether all points are right. A loss that is
      not finite is a failure. `PUBLISHED_RATES` has those of the paper, whose settings are not known.

    Raises:
      ValueError: an option out of range, naming it.

    Example:
      >>> found = success_rates(jax.random.key(0), hidden=6, num_starts=20, num_steps=300)
      >>> found.low <= found.rate <= found.high, found.solved.shape
      (True, (20,))

    References: Swirszcz, Czarnecki & Pascanu (2016), arXiv:1611.06310, table 1.
    """
    for option, value, known in (("problem", problem, PROBLEMS), ("optimizer", optimizer, OPTIMIZERS)):
        if value not in known:
            raise ValueError(f"unknown {option} {value!r}{near(str(value), list(known))}")
    check_whole("num_starts", num_starts)
    check_whole("num_steps", num_steps)
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be above 0, got {learning_rate!r}.")
    land = PROBLEMS[problem](
        hidden=hidden, activation=activation, loss=loss, init_mean=init_mean, init_scale=init_scale, dtype=dtype
    )
    train = jax.jit(jax.vmap(partial(_trained, land, OPTIMIZERS[optimizer](learning_rate), num_steps)))
    last, solved = train(jax.random.split(key, num_starts))
    count = int(solved.sum())
    return SuccessRate(count / num_starts, *wilson(count, num_starts), num_starts, last, solved)


def _trained(
    land: Landscape, optimizer: optax.GradientTransformation, num_steps: int, key: PRNGKey
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    objective = lambda params: jnp.mean(land.loss(params, land.batch))
    start = land.init(key)

    def step(state: Any, _: None) -> tuple[Any, None]:
        params, moments = state
        updates, moments = optimizer.update(jax.grad(objective)(params), moments, params)
        return (optax.apply_updates(params, updates), moments), None

    (params, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=num_steps)
    inputs, targets = land.batch
    right = jnp.argmax(land.model(params, inputs), axis=-1) == targets  # pyright: ignore[reportOptionalCall]
    value = objective(params)
    return value, jnp.all(right) & jnp.isfinite(value)


def dead_share(
    key: PRNGKey,
    *,
    widths: Sequence[int] = (8,),
    mean: float = 0.0,
    std: float | str = "lecun",
    num_starts: int = 1000,
    inputs: Any = "xor",
    bias: bool = True,
    dtype: str = "float32",
) -> DeadShare:
    """How often a ReLU net starts dead when all params are N(mean, std^2): some layer is below zero for all data.

    Args:
      key: of the starts. At the same key, those of other means and deviations are the same draws, shifted and scaled.
      widths: of the hidden layers.
      mean: of all weights, and of biases.
      std: their standard deviation, or "lecun": 1 / sqrt(fan in) of each layer.
      num_starts: independent starts, side by side.
      inputs: the data, [rows, inputs]; or "xor" or "jellyfish", whose four points they are.
      bias: whether there are biases; without, they are zero.
      dtype: of params.

    Returns:
      DeadShare: share with low and high; `units`, the mean share of dead units in each layer; `dead`, per start. For
      data on a line `dead_unit_probability` is exact: h units of a first layer are dead with that to the power h.

    Raises:
      ValueError: an option out of range, naming it.

    Example:
      >>> dead_share(jax.random.key(0), widths=(4, 4), mean=-5.0, std=0.1, num_starts=10, inputs=jnp.ones((3, 2))).share
      1.0

    References: Swirszcz, Czarnecki & Pascanu (2016), arXiv:1611.06310, theorem 1 and section 4.
    """
    if not widths:
        raise ValueError("widths must be one or more whole numbers, got none.")
    for width in widths:
        check_whole("widths", width)
    check_whole("num_starts", num_starts)
    check_dtype(dtype)
    if not math.isfinite(mean) or not (std == "lecun" or (not isinstance(std, str) and std > 0)):
        raise ValueError(f'mean must be finite and std above 0 or "lecun", got {mean!r} and {std!r}.')
    if isinstance(inputs, str) and inputs not in PROBLEMS:
        raise ValueError(f"unknown inputs {inputs!r}{near(inputs, list(PROBLEMS))}")
    data = jnp.asarray(PROBLEMS[inputs]().batch[0] if isinstance(inputs, str) else inputs, dtype)
    if data.ndim != 2 or not data.size:
        raise ValueError(f"inputs must be [rows, inputs], got shape {data.shape}.")
    scale = None if isinstance(std, str) else float(std)
    units = _dead_units(jax.random.split(key, num_starts), data, float(mean), scale, tuple(map(int, widths)), bias)
    dead = jnp.any(units == 1.0, axis=1)
    count = int(dead.sum())
    return DeadShare(count / num_starts, *wilson(count, num_starts), num_starts, np.asarray(units.mean(0), float), dead)


@partial(jax.jit, static_argnames=("widths", "bias"))
def _dead_units(
    keys: Any, x: Float[Array, "rows inputs"], mean: Any, std: Any, widths: tuple[int, ...], bias: bool
) -> Float[Array, "starts layers"]:
    """Of every start and layer, the share of units that are below zero for all rows."""

    def layer(h: Float[Array, "rows inputs"], key: PRNGKey, width: int) -> Float[Array, "rows width"]:
        fan_in = h.shape[1]
        scale = 1 / math.sqrt(fan_in) if std is None else std
        draw = mean + scale * jax.random.normal(key, (fan_in + 1, width), h.dtype)
        return jnp.matmul(h, draw[:-1], precision="float32") + (draw[-1] if bias else 0.0)

    def start(key: PRNGKey) -> Float[Array, " layers"]:
        h, shares = x, []
        for k, width in zip(jax.random.split(key, len(widths)), widths, strict=True):
            z = layer(h, k, width)
            shares.append(jnp.mean(jnp.all(z < 0, axis=0).astype(x.dtype)))
            h = jax.nn.relu(z)
        return jnp.stack(shares)

    return jax.lax.map(start, keys, batch_size=LANES)


def dead_unit_probability(x: Any, *, mean: float = 0.0, std: float = 1.0, bias: bool = True) -> float:
    """The probability that w x + b < 0 for all of some numbers x, with w and b independent N(mean, std^2).

    Given w it is that of b < -max(w x): P = E[Phi((-max_i(w x_i) - mean) / std)] over w, an integral on a line; the
    maximum is at the largest x for w > 0, at the smallest for w < 0. For mean 0 and just these two, x and x', it is
    1/4 + arcsin((1 + x x') / sqrt((1 + x^2) (1 + x'^2))) / (2 pi). A layer of h units is dead with P^h.

    Args:
      x: the data, on a line.
      mean: of w and b.
      std: their standard deviation.
      bias: without, b = 0: P is a half line of w where all x have one sign, and 0 where they have not.

    Raises:
      ValueError: x is empty or not finite; std not above 0.

    Example:
      >>> round(dead_unit_probability([1.0]), 12), round(dead_unit_probability([-1.0, 1.0]), 12)
      (0.5, 0.25)
    """
    from scipy.integrate import quad
    from scipy.special import ndtr

    x = np.asarray(x, float).ravel()
    if not x.size or not np.isfinite(x).all() or not std > 0:
        raise ValueError(f"x must be finite numbers and std above 0, got {x.size} numbers and std {std!r}.")
    low, high = x.min(), x.max()
    if not bias:
        return float(ndtr(-mean / std)) if low > 0 else float(ndtr(mean / std)) if high < 0 else 0.0
    given = lambda u: math.exp(-u * u / 2) / math.sqrt(2 * math.pi) * ndtr(-(max(low * w(u), high * w(u)) + mean) / std)
    w = lambda u: mean + std * u
    turn = min(max(-mean / std, -FAR), FAR)  # where w = 0
    parts = [quad(given, a, b, epsabs=1e-13, epsrel=1e-12)[0] for a, b in ((-FAR, turn), (turn, FAR))]
    return float(sum(parts))
