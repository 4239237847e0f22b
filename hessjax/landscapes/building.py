"""A landscape from a module and a task: losses, what is checked of options, and where rows may meet.

A module is anything with flax's `init(key, inputs)` and `apply(variables, inputs)`; flax itself is not imported.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hessjax.landscapes import tasks
from hessjax.landscapes.base import Landscape, near
from hessjax.landscapes.data import check_whole

__all__ = ["LOSSES", "build", "check_positive", "choice", "floating", "task_for", "whole_numbers"]

X64 = 'dtype float64 needs x64; write jax.config.update("jax_enable_x64", True) before anything else.'


def cross_entropy(outputs, targets):
    """Per row, in nats, from logits and integer classes."""
    return optax.losses.softmax_cross_entropy_with_integer_labels(outputs, targets)


def half_squared_error(outputs, targets):
    """Per row, 1/2 ||outputs - targets||^2; integer targets are taken as one-hot."""
    if jnp.issubdtype(targets.dtype, jnp.integer):
        targets = jax.nn.one_hot(targets, outputs.shape[-1], dtype=outputs.dtype)
    return 0.5 * jnp.sum((outputs - targets) ** 2, axis=-1)


LOSSES: dict[str, Callable] = {"cross-entropy": cross_entropy, "squared": half_squared_error}


def choice(name: str, value: Any, known: Iterable[Any]) -> Any:
    """The value, where it is one of those known.

    Raises:
      ValueError: with a near match, and all that is known.

    Example:
      >>> choice("loss", "squared", LOSSES)
      'squared'
    """
    if value not in (known := list(known)):
        raise ValueError(f"unknown {name} {value!r}{near(str(value), [str(k) for k in known])}")
    return value


def whole_numbers(name: str, value: Any, count: int | None = None) -> tuple[int, ...]:
    """Whole numbers from 1 up: a sequence of `count` (None: of any length), or one number for all.

    Raises:
      ValueError: names the option.

    Example:
      >>> whole_numbers("kernel", 3, 2), whole_numbers("kernel", (3, 5), 2), whole_numbers("widths", 8)
      ((3, 3), (3, 5), (8,))
    """
    several = isinstance(value, Sequence) and not isinstance(value, str)
    numbers: tuple[Any, ...] = tuple(value) if several else (value,) * (1 if count is None else count)
    for number in numbers:
        check_whole(name, number)
    if count is not None and len(numbers) != count:
        raise ValueError(f"{name} must be one number or one for each of {count} layers; got {value!r}.")
    return numbers


def check_positive(name: str, value: Any) -> None:
    """Refuses what is not above 0.

    Raises:
      ValueError: names the option.
    """
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value!r}.")


def floating(dtype: Any) -> jnp.dtype:
    """The floating dtype of that name.

    Raises:
      ValueError: no floating one, or float64 without x64, with the line to write.

    Example:
      >>> floating("float32")
      dtype('float32')
    """
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise ValueError(f"dtype must be a floating one, such as 'float32' or 'float64'; got {dtype!r}.")
    if found == jnp.float64 and not jax.config.read("jax_enable_x64"):
        raise ValueError(X64)
    return found


def task_for(factory: Callable, task: Any, given: Mapping[str, Any], wanted: str) -> tasks.Task:
    """The task, its rows as the factory's networks take them; `given` are options that the factory has not.

    Raises:
      ValueError: as `tasks.load` and `tasks.arranged`.
    """
    others = [p.name for p in inspect.signature(factory).parameters.values() if p.kind is not p.VAR_KEYWORD]
    return tasks.arranged(tasks.load(task, given, others), wanted, factory.__name__)


def build(
    name: str,
    module: Any,
    task: tasks.Task,
    *,
    loss: str,
    init_scale: float,
    dtype: str,
    notes: Sequence[str],
    statistics: str = "frozen",
    constants: Mapping[str, Any] | None = None,
) -> Landscape:
    """The landscape of a module's params on a task.

    Args:
      name: of the landscape.
      module: with `init(key, inputs)` and `apply(variables, inputs)`.
      task: inputs as the module takes them.
      loss: a name of `LOSSES`; where a row has several targets it is their mean.
      init_scale: of the module, above 0.
      dtype: of params and data.
      notes: facts about the network, each one line.
      statistics: "frozen": the loss is per row. "batch": statistics of the rows given, so rows meet, and the loss is
        the mean over rows.
      constants: the module's variables that are no params.

    Raises:
      ValueError: an option out of range, naming it; a loss that needs classes, on a task without them.
    """
    per_row = LOSSES[choice("loss", loss, LOSSES)]
    check_positive("init_scale", init_scale)
    floating(dtype)
    if loss == "cross-entropy" and not task.classifies:
        raise ValueError(f"loss 'cross-entropy' needs classes, and targets of {task.name!r} are real; use 'squared'.")
    couples = statistics == "batch"

    def model(params, inputs):
        variables = {"params": params, **(constants or {})}
        if couples:
            return module.apply(variables, inputs, mutable=["batch_stats"])[0]
        return module.apply(variables, inputs)

    def row_losses(params, batch):
        losses = per_row(model(params, batch[0]), batch[1])
        return losses if losses.ndim == 1 else jnp.mean(losses, axis=tuple(range(1, losses.ndim)))

    inputs, targets = (jnp.asarray(a, dtype if a.dtype.kind == "f" else a.dtype) for a in (task.inputs, task.targets))
    like = jax.ShapeDtypeStruct((1, *inputs.shape[1:]), inputs.dtype)
    return Landscape(
        name=name,
        init=lambda key: module.init(key, jnp.zeros(like.shape, like.dtype))["params"],
        loss=(lambda params, batch: jnp.mean(row_losses(params, batch))) if couples else row_losses,
        batch=(inputs, targets),
        model=model,
        facts={"lower_bound": 0.0, "notes": [task.note, *notes]},
    )
