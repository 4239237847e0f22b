"""What a sweep is: the stored, compared and hashed configuration. Imports no jax, so `--help` is quick.

Everything here decides the numbers. What only decides how they are computed (unit, memory, workers) is an argument
of `hessjax.sweep`, and may change between a run and its resumption.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_type_hints

__all__ = ["STATUSES", "Sweep", "differences"]

# What became of an init by a time; stored as the integer.
STATUSES = ("ok", "diverged", "non-finite Hessian")

LARGEST_SEED = 2**32 - 1  # without x64 JAX drops the higher bits of a seed, silently

Plain = Mapping[str, Any]
DTYPES = Literal["float32", "float64"]


@dataclass(frozen=True, kw_only=True)
class Sweep:
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
        if not isinstance(self.dtype, str):  # numpy.float32, jnp.float32, numpy.dtype("float32")
            named = getattr(self.dtype, "__name__", None) or getattr(self.dtype, "name", self.dtype)
            object.__setattr__(self, "dtype", named if named in get_args(DTYPES) else self.dtype)
        for name in ("options", "optimizer_options"):
            _check_plain(name, getattr(self, name))
        for f in fields(self):
            if f.name != "landscape":
                object.__setattr__(self, f.name, _plain(getattr(self, f.name)))
        for name, least in (("num_inits", 1), ("num_steps", 0), ("seed", 0), ("lane_width", 1)):
            _check_whole(name, getattr(self, name), least)
        if self.seed > LARGEST_SEED:
            raise ValueError(f"seed must be at most {LARGEST_SEED}, which is what a key holds; got {self.seed}.")
        for name in ("batch_size", "chunk"):
            if getattr(self, name) is not None:
                _check_whole(name, getattr(self, name), 1)
        for name in ("learning_rate", "tol"):
            _check_real(name, getattr(self, name), above_zero=name == "learning_rate")
            object.__setattr__(self, name, float(getattr(self, name)))  # 1 and 1.0 are one configuration
        for name, kind in get_type_hints(type(self)).items():
            allowed = get_args(kind)
            if allowed and isinstance(allowed[0], str) and getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}.")
        self._check_times()
        if not isinstance(self.landscape, str) and self.options:
            raise ValueError("options are for named landscapes; a Landscape object has its choices made already.")

    def _check_times(self):
        if isinstance(self.times, tuple):
            steps = self.times
            if not steps or any(isinstance(s, bool) or not isinstance(s, int) for s in steps):
                raise ValueError(f"times must be a count or one or more whole steps; got {steps!r}.")
            if list(steps) != sorted(set(steps)) or steps[0] < 0 or steps[-1] > self.num_steps:
                raise ValueError(f"times must be increasing steps within 0..num_steps={self.num_steps}; got {steps!r}.")
            return
        _check_whole("times", self.times, 1)
        if self.times > self.num_steps + 1:
            raise ValueError(
                f"times={self.times} measurements need at least {self.times - 1} steps; num_steps is {self.num_steps}."
            )

    @property
    def landscape_name(self) -> str:
        """The name under which the landscape is shown and stored."""
        return self.landscape if isinstance(self.landscape, str) else str(self.landscape.name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON keeps; a Landscape object becomes its name."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)} | {"landscape": self.landscape_name}
        return json.loads(json.dumps(plain, default=_jsonable))

    @classmethod
    def from_dict(cls, plain: Any) -> Sweep:
        """The configuration `to_dict` wrote.

        Raises:
          ValueError: a key that is not a field, or no mapping at all.

        Example:
          >>> Sweep.from_dict(Sweep(num_inits=3).to_dict()) == Sweep(num_inits=3)
          True
        """
        if not isinstance(plain, Mapping):
            raise ValueError(f"configuration is {type(plain).__name__}, wanted a mapping of the fields of Sweep.")
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(plain) - known, key=str)
        if unknown:
            raise ValueError(f"configuration has no field {unknown[0]!r}. Known: {', '.join(sorted(known))}.")
        return cls(**{name: _plain(x) for name, x in plain.items()})

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that name the configuration."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]


def differences(old: Plain, new: Plain) -> list[str]:
    """One line per field in which two configurations differ.

    Example:
      >>> differences({"seed": 0, "tol": 1e-5}, {"seed": 1, "tol": 1e-5})
      ['seed: 0 there, 1 asked for']
    """
    keys = [*old, *(k for k in new if k not in old)]
    return [f"{k}: {old.get(k)!r} there, {new.get(k)!r} asked for" for k in keys if old.get(k) != new.get(k)]


def _plain(value: Any) -> Any:
    """A copy in which sequences are tuples and NumPy values Python's, so that what JSON gives back is equal."""
    if hasattr(value, "tolist") and not isinstance(value, type):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _jsonable(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return value.tolist()
    if isinstance(value, tuple | Mapping):
        return list(value) if isinstance(value, tuple) else dict(value)
    raise TypeError(type(value).__name__)


def _check_whole(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number, at least {least}; got {value!r}.")


def _check_real(name: str, value: Any, *, above_zero: bool) -> None:
    real = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not real or value < 0 or (above_zero and value == 0):
        raise ValueError(
            f"{name} must be a finite number {'above 0' if above_zero else 'of at least 0'}; got {value!r}."
        )


def _check_plain(name: str, value: Any) -> None:
    try:
        keys = [k for k in value if not isinstance(k, str)]
        json.dumps(dict(value), default=_jsonable)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be a mapping of names to numbers, strings and sequences of them, which a store can keep; "
            f"got {value!r}."
        ) from error
    if keys:
        raise ValueError(f"{name} has a key that is not a string: {keys[0]!r}.")
