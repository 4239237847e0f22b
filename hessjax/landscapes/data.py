"""Data sets for the landscapes: host NumPy float64, fixed rows, no random global state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

__all__ = [
    "check_dtype",
    "check_whole",
    "checked_pair",
    "clusters",
    "digit_images",
    "digits",
    "mnist1d",
    "modular_addition",
    "noise",
    "spaced",
    "spirals",
]

Rows = Float[np.ndarray, "rows ..."] | Int[np.ndarray, "rows ..."]
Classes = Int[np.ndarray, " rows"]
Digits = tuple[Float[np.ndarray, "rows pixels"], Classes]
Shape = int | Sequence[int]  # of one row: a vector's length, (steps, features) or (height, width, channels)


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Refuses what is not a whole number from `least` up.

    Raises:
      ValueError: names the argument and the value.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be a whole number, at least {least}; got {value!r}.")


def check_dtype(dtype: Any) -> None:
    """Refuses what is not float32 or float64, and float64 without x64.

    Raises:
      ValueError: with the line to write.
    """
    import jax

    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype must be 'float32' or 'float64', got {dtype!r}.")
    if dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError('dtype float64 needs x64; write jax.config.update("jax_enable_x64", True) first.')


def spaced(count: int, rows: int | None) -> Int[np.ndarray, " rows"]:
    """Numbers of `rows` of `count` rows, evenly spaced, first to last; all of them for None.

    Raises:
      ValueError: rows is not a whole number from 1 to count.

    Example:
      >>> spaced(9, 3).tolist()
      [0, 4, 8]
    """
    whole = isinstance(rows, int | np.integer) and not isinstance(rows, bool)
    if rows is not None and not (whole and 1 <= rows <= count):
        raise ValueError(f"rows must be a whole number, 1..{count}, or None for all, got {rows!r}.")
    return np.linspace(0, count - 1, rows or count).round().astype(int)


def checked_pair(x: np.ndarray, y: np.ndarray, name: str) -> tuple[Rows, Rows]:
    """Inputs and targets of somebody else's making, as tasks have them.

    Returns:
      x: [rows, features], [rows, steps, features] or [rows, height, width, channels], float64; integers of shape
        [rows, steps] stay integers, as tokens.
      y: integers [rows, ...] as classes, or real targets [rows, outputs], float64.

    Raises:
      ValueError: other shapes, other dtypes, values that are not finite, classes or tokens below 0; it begins with
        `name`.

    Example:
      >>> x, y = checked_pair(np.zeros((3, 2), "float32"), np.array([0.5, 1.0, 2.0]), "mine")
      >>> x.dtype, y.shape
      (dtype('float64'), (3, 1))
    """
    for a in (x, y):
        if a.dtype.kind not in "iuf" or not np.isfinite(a).all():
            raise ValueError(f"{name}: wanted finite real numbers, got dtype {a.dtype} or NaN or infinity.")
    if x.ndim not in (2, 3, 4) or not x.size or y.ndim < 1 or len(x) != len(y):
        raise ValueError(f"{name}: wanted x [rows, ...] of 2 to 4 axes and y with its rows, got {x.shape}, {y.shape}.")
    x = x.astype(np.int32 if x.dtype.kind in "iu" and x.ndim == 2 else np.float64)
    y = y.astype(np.float64).reshape(len(y), -1) if y.dtype.kind == "f" else y.astype(np.int32)
    least = min((int(a.min()) for a in (x, y) if a.dtype.kind == "i"), default=0)
    if least < 0:
        raise ValueError(f"{name}: integers are classes or tokens, counted from 0; got {least}.")
    return x, y


def digits(*, pool: int = 2, rows: int | None = None) -> Digits:
    """scikit-learn's 8x8 digits, average-pooled and standardised over all 1797 images.

    Args:
      pool: side of the averaged square: 1 (64 pixels), 2 (16), 4 (4) or 8 (1).
      rows: how many images, evenly spaced through the set; None for all 1797.

    Returns:
      Pixels with mean 0 and variance 1 over the whole set (a constant pixel is 0), and the digit 0..9.

    Raises:
      ValueError: pool or rows out of range.
      ImportError: scikit-learn is not installed; the message has the command.

    Example:
      >>> x, y = digits(pool=2, rows=512)
      >>> x.shape, y.shape
      ((512, 16), (512,))

    References: Alpaydin & Kaynak (1998), UCI Optical Recognition of Handwritten Digits, doi:10.24432/C50P49.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits come with scikit-learn; pip install 'hessjax[data]'.") from error

    pixels, target = map(np.asarray, load_digits(return_X_y=True))
    if pool not in (1, 2, 4, 8):
        raise ValueError(f"pool must be 1, 2, 4 or 8 (a divisor of the 8x8 image), got {pool!r}.")
    # Evenly spaced, first to last: the set is ordered by writer, and a prefix would be a few writers.
    keep = spaced(len(pixels), rows)
    side = 8 // pool
    x = pixels.reshape(-1, side, pool, side, pool).mean(axis=(2, 4)).reshape(-1, side * side)
    spread = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return x[keep], target[keep].astype(np.int32)


def digit_images(*, pool: int = 1, rows: int | None = 256) -> tuple[Float[np.ndarray, "rows s s 1"], Classes]:
    """`digits` as images of 8 / pool by 8 / pool pixels in one channel; read row by row they are sequences of 8 steps.

    Example:
      >>> x, y = digit_images(rows=100)
      >>> x.shape
      (100, 8, 8, 1)
    """
    x, y = digits(pool=pool, rows=rows)
    return x.reshape(-1, 8 // pool, 8 // pool, 1), y


def noise(
    rows: int = 128, inputs: Shape = 16, outputs: int = 16, *, seed: int = 0
) -> tuple[Float[np.ndarray, "rows ..."], Float[np.ndarray, "rows outputs"]]:
    """Independent standard normal inputs and targets: nothing to learn, only to memorise.

    Args:
      rows: samples.
      inputs: shape of one row's inputs.
      outputs: numbers in one row's targets.
      seed: of the draw.

    Raises:
      ValueError: a size that is not a whole number, at least 1.

    Example:
      >>> x, y = noise(5, 3, 2)
      >>> x.shape, y.shape
      ((5, 3), (5, 2))
    """
    check_whole("rows", rows)
    check_whole("outputs", outputs)
    shape = _shape("inputs", inputs)
    size = math.prod(shape)
    draw = np.random.default_rng(seed).standard_normal((rows, size + outputs))
    return draw[:, :size].reshape(rows, *shape), draw[:, size:]


def clusters(
    *, classes: int = 4, rows_per_class: int = 64, shape: Shape = 16, separation: float | int = 3.0, seed: int = 0
) -> tuple[Float[np.ndarray, "rows ..."], Classes]:
    """Gaussian clusters of unit variance, one a class; with separation 0, random labels of standard normal inputs.

    x = (separation / sqrt 2) u_y + standard normal, with unit vectors u. Where there are no more classes than
    dimensions the u are orthonormal, so any two centres are `separation` apart; else they are independent and uniform
    on the sphere, and `separation` is the root mean square distance.

    Args:
      classes: how many.
      rows_per_class: the same for every class; rows go round the classes.
      shape: of one row: a dimension, (steps, features) or (height, width, channels).
      separation: between centres, in standard deviations within a cluster, at least 0.
      seed: of centres and rows.

    Raises:
      ValueError: an option out of range.

    Example:
      >>> x, y = clusters(classes=3, rows_per_class=2, shape=(8, 8, 1))
      >>> x.shape, y.tolist()
      ((6, 8, 8, 1), [0, 1, 2, 0, 1, 2])
    """
    check_whole("classes", classes)
    check_whole("rows_per_class", rows_per_class)
    shape = _shape("shape", shape)
    _check_real("separation", separation)
    rng, size = np.random.default_rng(seed), math.prod(shape)
    direction = rng.standard_normal((classes, size))
    direction = np.linalg.qr(direction.T)[0].T if classes <= size else direction
    centre = separation / math.sqrt(2) * direction / np.linalg.norm(direction, axis=1, keepdims=True)
    y = np.tile(np.arange(classes, dtype=np.int32), rows_per_class)
    x = centre[y] + rng.standard_normal((len(y), size))
    return x.reshape(-1, *shape), y


def spirals(
    *, classes: int = 2, rows_per_class: int = 64, turns: float | int = 1.0, noise: float | int = 0.05, seed: int = 0
) -> tuple[Float[np.ndarray, "rows 2"], Classes]:
    """Interleaved arms of a spiral in the plane, one a class: radius r at angle 2 pi (turns r + class / classes).

    Args:
      classes: arms.
      rows_per_class: points on an arm, at evenly spaced radii in (0, 1].
      turns: of an arm about the origin.
      noise: standard deviation of both coordinates, in units of the outer radius, at least 0.
      seed: of the noise.

    Raises:
      ValueError: an option out of range.

    Example:
      >>> x, y = spirals(rows_per_class=1, noise=0.0)
      >>> np.round(x[:, 0], 12).tolist(), y.tolist()
      ([1.0, -1.0], [0, 1])
    """
    check_whole("classes", classes)
    check_whole("rows_per_class", rows_per_class)
    _check_real("turns", turns)
    _check_real("noise", noise)
    y = np.tile(np.arange(classes, dtype=np.int32), rows_per_class)
    radius = np.repeat(np.arange(1, rows_per_class + 1) / rows_per_class, classes)
    angle = 2 * np.pi * (turns * radius + y / classes)
    x = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return x + noise * np.random.default_rng(seed).standard_normal(x.shape), y


# Ten shapes on 0..1, in units of their root mean square; outside they are 0.
SIGNALS = (
    lambda u: np.sin(np.pi * u),
    lambda u: np.sin(2 * np.pi * u),
    lambda u: np.sin(2 * np.pi * u) ** 2,
    lambda u: np.sin(4 * np.pi * u),
    lambda u: 1 - u,
    lambda u: u,
    lambda u: np.abs(2 * u - 1),
    lambda u: np.where(u < 0.5, 1.0, -1.0),
    lambda u: np.exp(-3 * u) * np.sin(6 * np.pi * u),
    lambda u: np.exp(-3 * (1 - u)) * np.cos(6 * np.pi * u),
)


def mnist1d(
    *, rows: int = 500, length: int = 40, noise: float | int = 0.25, seed: int = 0
) -> tuple[Float[np.ndarray, "rows length 1"], Classes]:
    """Signals of ten classes in the style of MNIST-1D: sequences with one feature, made here, not the published file.

    Row i is of class i mod 10. On a grid of 2 x length points the shape of its class takes a random share, 1/4 to 1/2,
    at a random place with zeros around it; it is scaled by a random factor, 0.6 to 1.4, and Gaussian noise that is
    correlated over neighbours (white noise smoothed by a Gaussian of 2 points) is added; every other point is kept.
    The shapes are ours (one and two bumps, waves, ramps, a valley, a step, decaying and growing oscillations).

    Args:
      rows: signals.
      length: points of a signal, at least 8.
      noise: its standard deviation at a point, at least 0; the root mean square of a shape is 1 before scaling.
      seed: of all random choices; `noise` scales the same draw.

    Raises:
      ValueError: an option out of range.

    Example:
      >>> x, y = mnist1d(rows=30)
      >>> x.shape, y[:12].tolist()
      ((30, 40, 1), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1])

    References: Greydanus (2020), arXiv:2011.14439.
    """
    check_whole("rows", rows)
    check_whole("length", length, 8)
    _check_real("noise", noise)
    rng, fine = np.random.default_rng(seed), 2 * length
    y = np.arange(rows, dtype=np.int32) % len(SIGNALS)
    width = rng.uniform(fine / 4, fine / 2, rows)
    start = rng.uniform(0.0, 1.0, rows) * (fine - 1 - width)
    scale = rng.uniform(0.6, 1.4, rows)
    blur = np.exp(-0.5 * (np.arange(-8, 9) / 2.0) ** 2)
    white = rng.standard_normal((rows, fine + len(blur) - 1))
    smooth = np.lib.stride_tricks.sliding_window_view(white, len(blur), axis=1) @ (blur / np.linalg.norm(blur))
    place = (np.arange(fine) - start[:, None]) / width[:, None]
    x = scale[:, None] * _signals(y, place) + noise * smooth
    return x[:, ::2, None], y


def _signals(y: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The shape of each row's class at each place, 0 outside 0..1."""
    grid = np.linspace(0, 1, 1001)
    sizes = [np.sqrt(np.mean(shape(grid) ** 2)) for shape in SIGNALS]
    values = np.stack([SIGNALS[c](p) / sizes[c] for c, p in zip(y, np.clip(place, 0, 1))])
    return np.where((place >= 0) & (place <= 1), values, 0.0)


def modular_addition(
    *, modulus: int = 11, fraction: float | int = 0.8, split: str = "train", seed: int = 0
) -> tuple[Int[np.ndarray, "rows 2"], Classes]:
    """Pairs of tokens (a, b) and a + b mod p: of all p^2 pairs, a random share to train on and the others to test.

    Args:
      modulus: p, at least 2; tokens and classes are 0..p-1.
      fraction: share of the pairs in "train", rounded to whole pairs, in (0, 1].
      split: "train" or "test".
      seed: of the split.

    Raises:
      ValueError: an option out of range, or a split without pairs.

    Example:
      >>> x, y = modular_addition(modulus=5, fraction=1.0)
      >>> len(x), bool((x.sum(axis=1) % 5 == y).all())
      (25, True)

    References: Power et al. (2022), arXiv:2201.02177.
    """
    check_whole("modulus", modulus, 2)
    _check_real("fraction", fraction)
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, got {fraction!r}.")
    if split not in ("train", "test"):
        raise ValueError(f"split must be 'train' or 'test', got {split!r}.")
    order = np.random.default_rng(seed).permutation(modulus**2)
    cut = round(fraction * modulus**2)
    chosen = np.sort(order[:cut] if split == "train" else order[cut:])
    if not len(chosen):
        raise ValueError(f"split {split!r} has no pairs with fraction={fraction!r} of {modulus**2}.")
    x = np.stack(np.divmod(chosen, modulus), axis=1).astype(np.int32)
    return x, (x.sum(axis=1) % modulus).astype(np.int32)


def _shape(name: str, value: Any) -> tuple[int, ...]:
    shape: tuple[Any, ...] = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    for size in shape:
        check_whole(name, size)
    if len(shape) not in (1, 2, 3):
        raise ValueError(f"{name} must be a number, (steps, features) or (height, width, channels); got {value!r}.")
    return shape


def _check_real(name: str, value: Any) -> None:
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise ValueError(f"{name} must be a finite number, at least 0; got {value!r}.")
