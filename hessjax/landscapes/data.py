"""Data sets for the landscapes: host NumPy float64, fixed rows, no random global state."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

__all__ = ["digits", "noise"]

Digits = tuple[Float[np.ndarray, "rows pixels"], Int[np.ndarray, " rows"]]


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
    if rows is not None and (not isinstance(rows, int) or not 1 <= rows <= len(pixels)):
        raise ValueError(f"rows must be a whole number, 1..{len(pixels)}, or None for all, got {rows!r}.")
    side = 8 // pool
    x = pixels.reshape(-1, side, pool, side, pool).mean(axis=(2, 4)).reshape(-1, side * side)
    spread = x.std(axis=0)
    x = (x - x.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    # Evenly spaced, first to last: the set is ordered by writer, and a prefix would be a few writers.
    keep = np.linspace(0, len(x) - 1, rows or len(x)).round().astype(int)
    return x[keep], target[keep].astype(np.int32)


def noise(rows: int, inputs: int, outputs: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Independent standard normal inputs and targets: nothing to learn, only to memorise.

    Example:
      >>> x, y = noise(5, 3, 2)
      >>> x.shape, y.shape
      ((5, 3), (5, 2))
    """
    draw = np.random.default_rng(seed).standard_normal((rows, inputs + outputs))
    return draw[:, :inputs], draw[:, inputs:]
