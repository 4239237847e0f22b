"""The methods by their names."""

from __future__ import annotations

from hessjax.finders import gradient_norm, newton, newton_mr, saddle_free, trust_region
from hessjax.finders.base import Method

__all__ = ["METHODS"]

METHODS: dict[str, Method] = {
    "newton-mr": newton_mr.METHOD,
    "gradient-norm": gradient_norm.METHOD,
    "trust-region": trust_region.METHOD,
    "saddle-free": saddle_free.METHOD,
    "newton": newton.WHOLE,
    "damped-newton": newton.DAMPED,
}
