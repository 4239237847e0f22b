"""hessjax: Hessian spectra of loss surfaces in JAX, exact or matrix-free, at one point or at ten thousand.

Names are loaded when first used (PEP 562), so importing the package is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "Certificate": "certificates",
    "Comparison": "trajectories",
    "CriticalPoints": "critical",
    "Curve": "functionals",
    "Damage": "health",
    "Eigenpairs": "projections",
    "Escape": "escapes",
    "Estimate": "estimates",
    "Fisher": "fisher",
    "Fraction": "negative",
    "GaussNewton": "gauss_newton",
    "Groups": "identity",
    "Hessian": "curvature",
    "Inertia": "signature",
    "KINDS": "points",
    "Landscape": "landscapes.base",
    "Matrix": "matrices",
    "Operator": "operators",
    "OperatorError": "checks",
    "Profile": "config",
    "Quadrature": "quadrature",
    "Residual": "gauss_newton",
    "STATUSES": "critical",
    "Search": "config",
    "Spectrum": "spectra",
    "StoreError": "store",
    "StoreStatus": "health",
    "Streamed": "streamed",
    "Sweep": "config",
    "SweepPlan": "plans",
    "Tridiagonal": "krylov",
    "Verdict": "points",
    "cdf": "functionals",
    "certify_point": "certificates",
    "check_operator": "checks",
    "classify_point": "points",
    "compare_optimizers": "trajectories",
    "deflate": "projections",
    "dense": "assembly",
    "density": "functionals",
    "diagonal": "traces",
    "distinct": "identity",
    "eigh": "assembly",
    "eigsh": "extremes",
    "eigvalsh": "assembly",
    "escape": "escapes",
    "explain": "assembly",
    "find_critical_points": "critical",
    "frobenius_norm": "traces",
    "inertia": "assembly",
    "kpm": "quadrature",
    "lanczos": "krylov",
    "logdet": "functionals",
    "merge": "merging",
    "minres_qlp": "minres",
    "negative_fraction": "negative",
    "open_profile": "profile_runs",
    "open_search": "searches",
    "open_sweep": "ensemble",
    "plan_sweep": "plans",
    "profile": "profile_runs",
    "report": "reporting",
    "restrict": "projections",
    "search": "searches",
    "shift": "operators",
    "slq": "quadrature",
    "spectral_function": "functionals",
    "spectrum": "spectra",
    "store_status": "health",
    "sweep": "ensemble",
    "trace": "traces",
    "track": "tracking",
    "tracked": "tracking",
    "verify": "health",
}
_MODULES = (
    "adapters",
    "distributed",
    "kinks",
    "landscapes",
    "measures",
    "modes",
    "plot",
    "profiles",
    "rmt",
    "starts",
    "tracking",
)

__all__ = [
    "KINDS",
    "STATUSES",
    "Certificate",
    "Comparison",
    "CriticalPoints",
    "Curve",
    "Damage",
    "Eigenpairs",
    "Escape",
    "Estimate",
    "Fisher",
    "Fraction",
    "GaussNewton",
    "Groups",
    "Hessian",
    "Inertia",
    "Landscape",
    "Matrix",
    "Operator",
    "OperatorError",
    "Profile",
    "Quadrature",
    "Residual",
    "Search",
    "Spectrum",
    "StoreError",
    "StoreStatus",
    "Streamed",
    "Sweep",
    "SweepPlan",
    "Tridiagonal",
    "Verdict",
    "adapters",
    "cdf",
    "certify_point",
    "check_operator",
    "classify_point",
    "compare_optimizers",
    "deflate",
    "dense",
    "density",
    "diagonal",
    "distinct",
    "distributed",
    "eigh",
    "eigsh",
    "eigvalsh",
    "escape",
    "explain",
    "find_critical_points",
    "frobenius_norm",
    "inertia",
    "kinks",
    "kpm",
    "lanczos",
    "landscapes",
    "logdet",
    "measures",
    "merge",
    "minres_qlp",
    "modes",
    "negative_fraction",
    "open_profile",
    "open_search",
    "open_sweep",
    "plan_sweep",
    "plot",
    "profile",
    "profiles",
    "report",
    "restrict",
    "rmt",
    "search",
    "shift",
    "slq",
    "spectral_function",
    "spectrum",
    "starts",
    "store_status",
    "sweep",
    "trace",
    "track",
    "tracked",
    "tracking",
    "verify",
]

if TYPE_CHECKING:
    from hessjax import adapters, distributed, kinks, landscapes, measures, modes, plot, profiles, rmt, starts, tracking
    from hessjax.assembly import dense, eigh, eigvalsh, explain, inertia
    from hessjax.certificates import Certificate, certify_point
    from hessjax.checks import OperatorError, check_operator
    from hessjax.config import Profile, Search, Sweep
    from hessjax.critical import STATUSES, CriticalPoints, find_critical_points
    from hessjax.curvature import Hessian
    from hessjax.ensemble import open_sweep, sweep
    from hessjax.escapes import Escape, escape
    from hessjax.estimates import Estimate
    from hessjax.extremes import eigsh
    from hessjax.fisher import Fisher
    from hessjax.functionals import Curve, cdf, density, logdet, spectral_function
    from hessjax.gauss_newton import GaussNewton, Residual
    from hessjax.health import Damage, StoreStatus, store_status, verify
    from hessjax.identity import Groups, distinct
    from hessjax.krylov import Tridiagonal, lanczos
    from hessjax.landscapes.base import Landscape
    from hessjax.matrices import Matrix
    from hessjax.merging import merge
    from hessjax.minres import minres_qlp
    from hessjax.negative import Fraction, negative_fraction
    from hessjax.operators import Operator, shift
    from hessjax.plans import SweepPlan, plan_sweep
    from hessjax.points import KINDS, Verdict, classify_point
    from hessjax.profile_runs import open_profile, profile
    from hessjax.projections import Eigenpairs, deflate, restrict
    from hessjax.quadrature import Quadrature, kpm, slq
    from hessjax.reporting import report
    from hessjax.searches import open_search, search
    from hessjax.signature import Inertia
    from hessjax.spectra import Spectrum, spectrum
    from hessjax.store import StoreError
    from hessjax.streamed import Streamed
    from hessjax.traces import diagonal, frobenius_norm, trace
    from hessjax.tracking import track, tracked
    from hessjax.trajectories import Comparison, compare_optimizers


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
