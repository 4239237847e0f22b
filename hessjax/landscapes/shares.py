"""Intervals of shares: how often something happened in so many runs, and how sure that is."""

from __future__ import annotations

import math

__all__ = ["wilson"]


def wilson(count: int, total: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's interval of a share, 95 % by default: the p with |count - total p| <= z sqrt(total p (1 - p)).

    Example:
      >>> [round(end, 4) for end in wilson(0, 10)]
      [0.0, 0.2775]

    References: Wilson (1927), doi:10.1080/01621459.1927.10502953.
    """
    if not 0 <= count <= total or total < 1:
        raise ValueError(f"count must be from 0 to total, and total at least 1; got {count} of {total}.")
    share, shrink = count / total, 1 + z**2 / total
    centre = (share + z**2 / (2 * total)) / shrink
    half = z / shrink * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    return max(0.0, centre - half), min(1.0, centre + half)
