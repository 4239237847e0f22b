"""hessjax: Hessian spectra of loss surfaces in JAX, exact or matrix-free, at one point or at ten thousand.

Names are loaded when first used (PEP 562), so importing the package is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "Hessian": "curvature",
    "Inertia": "assembly",
    "Landscape": "landscapes.base",
    "Matrix": "operators",
    "Operator": "operators",
    "OperatorError": "checks",
    "StoreError": "store",
    "Sweep": "config",
    "check_operator": "checks",
    "dense": "assembly",
    "eigh": "assembly",
    "eigvalsh": "assembly",
    "inertia": "assembly",
    "open_sweep": "ensemble",
    "report": "reporting",
    "shift": "operators",
    "sweep": "ensemble",
}
_MODULES = ("landscapes", "plot")

__all__ = [
    "Hessian",
    "Inertia",
    "Landscape",
    "Matrix",
    "Operator",
    "OperatorError",
    "StoreError",
    "Sweep",
    "check_operator",
    "dense",
    "eigh",
    "eigvalsh",
    "inertia",
    "landscapes",
    "open_sweep",
    "plot",
    "report",
    "shift",
    "sweep",
]

if TYPE_CHECKING:
    from hessjax import landscapes, plot
    from hessjax.assembly import Inertia, dense, eigh, eigvalsh, inertia
    from hessjax.checks import OperatorError, check_operator
    from hessjax.config import Sweep
    from hessjax.curvature import Hessian
    from hessjax.ensemble import open_sweep, sweep
    from hessjax.landscapes.base import Landscape
    from hessjax.operators import Matrix, Operator, shift
    from hessjax.reporting import report
    from hessjax.store import StoreError


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
