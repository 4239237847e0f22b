"""Arguments: refused in one line where they make no sense, functions made what compiled programs take."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

__all__ = ["MOST", "as_pytree", "check_accuracy", "check_count", "check_key", "check_tolerance", "hashable", "is_full"]

MOST = 2**30  # products that are counted, in int32


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Refuses what is not a whole number from `least` up.

    Raises:
      ValueError: names the argument and the value.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be a whole number, at least {least}; got {value!r}.")


def check_tolerance(name: str, value: Any) -> None:
    """Refuses what is not a finite number from 0 up.

    Raises:
      ValueError: names the argument and the value.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number from 0 up, got {value!r}.")


def check_key(key: Any) -> None:
    """Refuses what is not one key of random numbers, typed or of the older kind.

    Raises:
      TypeError: no key; it says how to make one.
      ValueError: several.

    Example:
      >>> import jax
      >>> check_key(jax.random.key(0)), check_key(jax.random.PRNGKey(0))
      (None, None)
    """
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and dtype != np.uint32:
        raise TypeError(f"key is {type(key).__name__}, wanted a key of random numbers; write jax.random.key(0).")
    if key.ndim != (0 if typed else 1):
        raise ValueError(f"key has shape {key.shape}, wanted one key; take key[0], or call it under jax.vmap.")


def hashable(loss: Callable) -> Callable:
    """The loss, or, where it has no hash (a dataclass of arrays), one that is the same as long as it is: for jit.

    Example:
      >>> hashable(abs) is abs
      True
    """
    try:
        hash(loss)
    except TypeError:
        return _Same(loss)
    return loss


def as_pytree(function: Callable) -> Partial:
    """A function that can be an argument of compiled ones: itself, where it is a `Partial` already.

    Example:
      >>> import jax
      >>> float(jax.jit(lambda f, x: f(x))(as_pytree(abs), -1.0))
      1.0
    """
    return function if isinstance(function, Partial) else Partial(hashable(function))


class _Same:
    """Calls a function, and is equal to what calls the same one."""

    def __init__(self, function: Callable) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.function is self.function

    def __hash__(self) -> int:
        return id(self.function)


def is_full(reorthogonalize: str) -> bool:
    """Whether the word asks for the basis to be kept.

    Raises:
      ValueError: neither "full" nor "none".
    """
    if reorthogonalize not in ("full", "none"):
        raise ValueError(f'reorthogonalize must be "full" or "none", got {reorthogonalize!r}.')
    return reorthogonalize == "full"


def check_accuracy(name: str, value: float | None, num_probes: int, max_matvecs: Any) -> int:
    """Refuses an accuracy that cannot be reached or told; returns the budget, as int32 can count it.

    Raises:
      ValueError: not above 0, of a single probe, or a budget that is no whole number from 1 up.
    """
    check_count("max_matvecs", max_matvecs)
    if value is not None and not value > 0:
        raise ValueError(f"{name} must be above 0, got {value!r}; leave it out to take num_probes as they are.")
    if value is not None and num_probes < 2:
        raise ValueError(f"{name} needs num_probes of at least 2, for one has no error bar; got {num_probes}.")
    return min(int(max_matvecs), MOST)
