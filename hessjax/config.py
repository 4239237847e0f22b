"""What a sweep is: the stored, compared and hashed configuration. Imports no jax, so `--help` is quick.

Everything here decides the numbers. What only decides how they are computed (unit, memory, workers) is an argument
of `hessjax.sweep`, and may change between a run and its resumption.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from hessjax.stored import DTYPES, Plain, Stored, check_whole, differences

__all__ = ["STATUSES", "Sweep", "differences"]

# What became of an init by a time; stored as the integer.
STATUSES = ("ok", "diverged", "non-finite Hessian")


@dataclass(frozen=True, kw_only=True)
class Sweep(Stored):
    """Many random inits of one landscape, trained alike, their Hessian spectra measured at the same steps.

    Args:
      landscape: a name of `hj.landscapes.names()`, "package.module:factory", or a `Landscape`.
      options: options of the landscape's factory, e.g. {"widths": (8,), "activation": "relu"}.
      num_inits: random initialisations, at least 1; init i depends on (seed, i) alone.
      seed: of the inits and of the mini-batches, at least 0.
      num_steps: training steps, at least 0.
      optimizer: name of an optax optimiser, e.g. adam, sgd, rmsprop, lbfgs.
      learning_rate: of the optimiser, above 0.
      schedule: of the learning rate: constant, or falling to 0 at num_steps along a cosine or a line.
      optimizer_options: further arguments of the optimiser, e.g. {"momentum": 0.9}.
      batch_size: rows drawn with replacement for each training step; None trains on all rows.
      times: how many measurements, first at step 0 and last at num_steps; or the steps themselves.
      spacing: of the times: evenly in the median loss of a 32-init pilot, in log steps, or in steps.
      measure: all eigenvalues and their counts (spectrum), or the counts alone (inertia).
      tol: eigenvalues within tol ||H|| count as zero; ||H|| is the largest absolute row sum
        (where spectra are estimated, the largest |Ritz value|).
      dtype: of params, data and spectra.
      chunk: rows per pass of a Hessian-vector product; None takes all at once.
      lane_width: inits per compiled program; part of what makes a run repeatable to the bit.

    Raises:
      ValueError: a field out of range; the message names it, the value and what is wanted.

    Example:
      >>> import hessjax as hj
      >>> config = hj.Sweep(landscape="digits-mlp", num_inits=64, num_steps=100)
      >>> config.times, config.spacing
      (8, 'loss')
    """

    landscape: Any = "digits-mlp"
    options: Plain = field(default_factory=dict)
    num_inits: int = 1024
    seed: int = 0
    num_steps: int = 300
    optimizer: str = "adam"
    learning_rate: float = 0.02
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    optimizer_options: Plain = field(default_factory=dict)
    batch_size: int | None = None
    times: int | tuple[int, ...] = 8
    spacing: Literal["loss", "log", "linear"] = "loss"
    measure: Literal["spectrum", "inertia"] = "spectrum"
    tol: float = 1e-5
    dtype: DTYPES = "float32"
    chunk: int | None = None
    lane_width: int = 32

    def __post_init__(self):
        whole = {"num_inits": 1, "num_steps": 0, "seed": 0, "lane_width": 1}
        whole |= {name: 1 for name in ("batch_size", "chunk") if getattr(self, name) is not None}
        self._check(("options", "optimizer_options"), whole, {"learning_rate": True, "tol": False})
        self._check_times()

    def _check_times(self):
        if isinstance(self.times, tuple):
            steps = self.times
            if not steps or any(isinstance(s, bool) or not isinstance(s, int) for s in steps):
                raise ValueError(f"times must be a count or one or more whole steps; got {steps!r}.")
            if list(steps) != sorted(set(steps)) or steps[0] < 0 or steps[-1] > self.num_steps:
                raise ValueError(f"times must be increasing steps within 0..num_steps={self.num_steps}; got {steps!r}.")
            return
        check_whole("times", self.times, 1)
        if self.times > self.num_steps + 1:
            raise ValueError(
                f"times={self.times} measurements need at least {self.times - 1} steps; num_steps is {self.num_steps}."
            )
