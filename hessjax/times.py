"""Which training steps of a sweep are measured."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from hessjax.config import Sweep

__all__ = ["needs_pilot", "place"]


def place(config: Sweep, median: Callable[[], Float[np.ndarray, " steps"]]) -> list[int]:
    """The measured steps of a sweep: those given, or strictly increasing ones from 0 to num_steps by its `spacing`.

    Args:
      config: the sweep.
      median: the median loss of its pilot at steps 0..num_steps; asked for where times are spaced in it.

    Example:
      >>> place(Sweep(num_steps=4, times=3), lambda: np.array([8.0, 4.0, 2.0, 1.0, 0.0]))
      [0, 1, 4]
    """
    if isinstance(config.times, tuple):
        return list(config.times)
    if needs_pilot(config):
        losses = median()
        finite = np.isfinite(losses)
        # A pilot most of which is NaN from the start has no levels there: it begins at its first finite one.
        highest = losses[finite][0] if finite.any() else 0.0
        levels = np.minimum.accumulate(np.where(finite, losses, highest))
        aims = np.linspace(levels[0], levels[-1], config.times)
        wanted = [int(np.argmax(levels <= aim)) for aim in aims]
    elif config.spacing == "log":
        wanted = [0, *np.geomspace(1, max(config.num_steps, 1), config.times - 1).round().astype(int).tolist()]
    else:
        wanted = np.linspace(0, config.num_steps, config.times).round().astype(int).tolist()
    return _increasing(wanted[: config.times], config.num_steps)


def needs_pilot(config: Sweep) -> bool:
    """Whether a training of the first inits decides which steps are measured."""
    return not isinstance(config.times, tuple) and config.spacing == "loss"


def _increasing(wanted: list[int], last: int) -> list[int]:
    """Strictly increasing steps from 0 to `last`, each as near as may be to the one wanted."""
    steps = [0] if wanted else []
    for step in wanted[1:]:
        steps.append(max(step, steps[-1] + 1))
    if len(steps) > 1:
        steps[-1] = last
    for k in range(len(steps) - 2, 0, -1):
        steps[k] = min(steps[k], steps[k + 1] - 1)
    return steps
