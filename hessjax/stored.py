"""What stored configurations share: values made plain and checked, JSON, a fingerprint. Imports no jax."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, TypeVar, get_args, get_type_hints

__all__ = ["DTYPES", "Plain", "Stored", "check_real", "check_whole", "differences", "fingerprint_of", "plain"]

LARGEST_SEED = 2**32 - 1  # without x64 JAX drops the higher bits of a seed, silently

Plain = Mapping[str, Any]
DTYPES = Literal["float32", "float64"]


Made = TypeVar("Made", bound="Stored")


class Stored:
    """A dataclass of choices that decide numbers: of a landscape, by name or as an object, a seed and a dtype."""

    landscape: Any
    options: Plain
    seed: int
    dtype: DTYPES

    @property
    def landscape_name(self) -> str:
        """The name under which the landscape is shown and stored."""
        return self.landscape if isinstance(self.landscape, str) else str(self.landscape.name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON keeps; a Landscape object becomes its name."""
        values = {name: getattr(self, name) for name in self._names()} | {"landscape": self.landscape_name}
        return json.loads(json.dumps(values, default=_jsonable))

    @classmethod
    def from_dict(cls: type[Made], values: Any) -> Made:
        """The configuration `to_dict` wrote.

        Raises:
          ValueError: a key that is not a field, or no mapping at all.

        Example:
          >>> from hessjax.config import Sweep
          >>> Sweep.from_dict(Sweep(num_inits=3).to_dict()) == Sweep(num_inits=3)
          True
        """
        if not isinstance(values, Mapping):
            raise ValueError(
                f"configuration is {type(values).__name__}, wanted a mapping of the fields of {cls.__name__}."
            )
        unknown = sorted(set(values) - set(cls._names()), key=str)
        if unknown:
            raise ValueError(f"configuration has no field {unknown[0]!r}. Known: {', '.join(sorted(cls._names()))}.")
        return cls(**{name: plain(x) for name, x in values.items()})

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that name the configuration."""
        return fingerprint_of(self.to_dict())

    @classmethod
    def _names(cls) -> list[str]:
        made: Any = cls
        return [f.name for f in fields(made)]

    def _check(self, mappings: Sequence[str], whole: Plain, real: Plain) -> None:
        """Makes values plain, and refuses what is out of range: `whole` is the least of each, `real` says above 0."""
        if not isinstance(self.dtype, str):  # numpy.float32, jnp.float32, numpy.dtype("float32")
            named = getattr(self.dtype, "__name__", None) or getattr(self.dtype, "name", self.dtype)
            object.__setattr__(self, "dtype", named if named in get_args(DTYPES) else self.dtype)
        for name in mappings:
            _check_plain(name, getattr(self, name))
        for name in self._names():
            if name != "landscape":
                object.__setattr__(self, name, plain(getattr(self, name)))
        for name, least in whole.items():
            check_whole(name, getattr(self, name), least)
        if self.seed > LARGEST_SEED:
            raise ValueError(f"seed must be at most {LARGEST_SEED}, which is what a key holds; got {self.seed}.")
        for name, above_zero in real.items():
            check_real(name, getattr(self, name), above_zero=above_zero)
            object.__setattr__(self, name, float(getattr(self, name)))  # 1 and 1.0 are one configuration
        for name, kind in get_type_hints(type(self)).items():
            allowed = get_args(kind)
            if allowed and isinstance(allowed[0], str) and getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}.")
        if not isinstance(self.landscape, str) and self.options:
            raise ValueError("options are for named landscapes; a Landscape object has its choices made already.")


def fingerprint_of(config: Plain) -> str:
    """Twelve hexadecimal digits that name a configuration as `to_dict` writes it."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


def differences(old: Plain, new: Plain) -> list[str]:
    """One line per field in which two configurations differ.

    Example:
      >>> differences({"seed": 0, "tol": 1e-5}, {"seed": 1, "tol": 1e-5})
      ['seed: 0 there, 1 asked for']
    """
    keys = [*old, *(k for k in new if k not in old)]
    return [f"{k}: {old.get(k)!r} there, {new.get(k)!r} asked for" for k in keys if old.get(k) != new.get(k)]


def plain(value: Any) -> Any:
    """A copy in which sequences are tuples and NumPy values Python's, so that what JSON gives back is equal."""
    if hasattr(value, "tolist") and not isinstance(value, type):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(map(plain, value))
    return {k: plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _jsonable(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return value.tolist()
    if isinstance(value, tuple | Mapping):
        return list(value) if isinstance(value, tuple) else dict(value)
    raise TypeError(type(value).__name__)


def check_whole(name: str, value: Any, least: int) -> None:
    """Refuses what is no whole number from `least` up.

    Raises:
      ValueError: names the field and the value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number, at least {least}; got {value!r}.")


def check_real(name: str, value: Any, *, above_zero: bool) -> None:
    """Refuses what is no finite number from 0 up, or above 0.

    Raises:
      ValueError: names the field and the value.
    """
    real = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
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
