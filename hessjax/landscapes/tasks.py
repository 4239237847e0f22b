"""Tasks by name: a data set, how many classes it has, and its rows in the form that a kind of network takes.

What a row is shows in the inputs: "vector" [rows, features], "sequence" [rows, steps, features], "image" [rows, height,
width, channels], all real; "token" [rows, steps], integers. Images are read row by row where sequences are wanted,
tokens are made one-hot, and all become vectors when flattened; nothing is turned into what it is not.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from hessjax.landscapes import data, files
from hessjax.landscapes.base import near

__all__ = ["TASKS", "Source", "Task", "arranged", "load"]

ANY = ("vector", "sequence", "image")


class Source(NamedTuple):
    """Where a task's rows come from: `make(**options) -> (x, y)`.

    `shapes` are those it can have; `classes` a number, the option that says it, or None: as many as the targets name.
    """

    make: Callable[..., tuple[np.ndarray, np.ndarray]]
    shapes: tuple[str, ...]
    classes: int | str | None = None


TASKS: dict[str, Source] = {
    "cifar10": Source(files.cifar10, ("image",), 10),
    "clusters": Source(data.clusters, ANY, "classes"),
    "digits": Source(data.digit_images, ("image",), 10),
    "mnist": Source(files.mnist, ("image",), 10),
    "mnist1d": Source(data.mnist1d, ("sequence",), 10),
    "modular-addition": Source(data.modular_addition, ("token",), "modulus"),
    "noise": Source(data.noise, ANY),
    "npz": Source(files.from_npz, (*ANY, "token")),
    "spirals": Source(data.spirals, ("vector",), "classes"),
}
WANTED = {
    "vector": ("vector", "sequence", "image", "token"),
    "sequence": ("sequence", "image", "token"),
    "grid": ("sequence", "image"),  # positions along one axis or two, with channels
    "token": ("token",),
}


class Task(NamedTuple):
    """Fixed rows; `outputs` is the number of classes, or of real numbers to predict."""

    name: str
    inputs: np.ndarray
    targets: np.ndarray
    outputs: int
    note: str

    @property
    def shape(self) -> str:
        """What a row of the inputs is: vector, sequence, image or token."""
        if self.inputs.dtype.kind in "iu":
            return "token"
        return {2: "vector", 3: "sequence", 4: "image"}[self.inputs.ndim]

    @property
    def classifies(self) -> bool:
        """Whether the targets are integer classes."""
        return self.targets.dtype.kind in "iu"

    @property
    def vocabulary(self) -> int:
        """How many different tokens inputs and targets may have."""
        return max(self.outputs if self.classifies else 0, 1 + int(self.inputs.max()))


def load(task: Any, given: Mapping[str, Any], others: Iterable[str] = ()) -> Task:
    """The task of that name with the options given, or of a pair (x, y) of arrays.

    Args:
      task: a name of `TASKS`, or (x, y).
      given: options of the task's function.
      others: names of options known elsewhere, for near matches.

    Raises:
      ValueError: an unknown task or option, an option that has no default and is not given, arrays that do not fit.
      TypeError: the task is neither a name nor a pair.

    Example:
      >>> task = load("clusters", {"classes": 3, "rows_per_class": 2})
      >>> task.shape, task.inputs.shape, task.outputs
      ('vector', (6, 16), 3)
    """
    if not isinstance(task, str):
        return _own(task, given)
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}{near(task, list(TASKS))}")
    source = TASKS[task]
    known = inspect.signature(source.make).parameters
    for option in given:
        if option not in known:
            raise ValueError(f"task {task!r} has no option {option!r}{near(option, [*others, *known])}")
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in given:
            raise ValueError(f"task {task!r} needs the option {option!r}.")
    options = {name: given.get(name, parameter.default) for name, parameter in known.items()}
    x, y = source.make(**options)
    classes = options[source.classes] if isinstance(source.classes, str) else source.classes
    said = ", ".join(f"{name}={value}" for name, value in options.items())
    return _task(task, x, y, classes, f"{len(x)} fixed rows of {task} ({said})")


def arranged(task: Task, wanted: str, taker: str) -> Task:
    """The task with its inputs as `wanted`: "vector", "sequence", "grid" (a sequence or an image as it is) or "token".

    Raises:
      ValueError: the task's rows are nothing of the kind; the message names tasks that fit. Classes of every step,
        where `wanted` is not "token".

    Example:
      >>> digits = load("digits", {"rows": 5})
      >>> arranged(digits, "sequence", "rnn").inputs.shape, arranged(digits, "vector", "mlp").inputs.shape
      ((5, 8, 8), (5, 64))
    """
    if task.shape not in WANTED[wanted]:
        fitting = [name for name, source in TASKS.items() if set(source.shapes) & set(WANTED[wanted])]
        raise ValueError(
            f"{taker} takes {' or '.join(WANTED[wanted])} inputs, and those of task {task.name!r} are of shape "
            f"{task.inputs.shape}: {task.shape}. Tasks that fit: {', '.join(fitting)}."
        )
    if wanted != "token" and task.classifies and task.targets.ndim > 1:
        raise ValueError(f"{taker} predicts one class a row; targets of task {task.name!r} are {task.targets.shape}.")
    x = task.inputs
    if wanted in ("vector", "sequence") and task.shape == "token":
        x = np.eye(task.vocabulary)[x]
    if wanted == "vector":
        x = x.reshape(len(x), -1)
    if wanted == "sequence" and task.shape == "image":
        x = x.reshape(*x.shape[:2], math.prod(x.shape[2:]))
    return task._replace(inputs=x)


def _own(pair: Any, given: Mapping[str, Any]) -> Task:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise TypeError(f"task is {type(pair).__name__}, wanted one of {', '.join(TASKS)}, or a pair of arrays (x, y).")
    if given:
        raise ValueError(f"options such as {next(iter(given))!r} are for named tasks; arrays have no choices to make.")
    x, y = data.checked_pair(np.asarray(pair[0]), np.asarray(pair[1]), "task")
    return _task("arrays", x, y, None, f"{len(x)} rows of the caller's arrays")


def _task(name: str, x: np.ndarray, y: np.ndarray, classes: int | None, note: str) -> Task:
    if y.dtype.kind == "f":
        return Task(name, x, y, y.shape[-1], note)
    return Task(name, x, y, 1 + int(y.max()) if classes is None else classes, note)
