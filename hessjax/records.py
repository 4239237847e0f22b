"""What a sweep stores of each init: the arrays, their dimensions, dtypes, names and units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hessjax.config import STATUSES, Sweep
from hessjax.store import Spec

if TYPE_CHECKING:
    from hessjax.lanes import Lanes

__all__ = ["arrays", "landscape_differences", "precision_line"]

# Two machines' losses agree to far better than this; two different losses hardly ever do.
PROBE_RTOL = 1e-3

WIDTH = "inits computed together, which decides the last bits"
CURVATURE = "loss / parameter^2"
# name: (dtype or None for the sweep's own, long name, units)
PER_TIME: dict[str, tuple[str | None, str, str]] = {
    "loss": (None, "training loss, mean over rows", "loss"),
    "grad_norm": (None, "Euclidean norm of the gradient", "loss / parameter"),
    "negative": ("int32", "eigenvalues below -threshold", "1"),
    "zero": ("int32", "eigenvalues within the threshold", "1"),
    "positive": ("int32", "eigenvalues above the threshold", "1"),
    "certified": ("bool", "no eigenvalue within the solver's error of the threshold", "1"),
    "threshold": (None, "absolute threshold, tol times the largest absolute row sum", CURVATURE),
    "trace": (None, "trace of the Hessian", CURVATURE),
    "min_eigenvalue": (None, "smallest eigenvalue", CURVATURE),
    "max_eigenvalue": (None, "largest eigenvalue", CURVATURE),
    "status": ("int8", "what became of the init: " + ", ".join(f"{i} {s}" for i, s in enumerate(STATUSES)), "1"),
}

# Beside and instead of these, where spectra are estimated.
ESTIMATED: dict[str, tuple[str | None, str, str]] = {
    "negative": ("int32", "eigenvalues below -threshold, estimated", "1"),
    "zero": ("int32", "eigenvalues within the threshold, estimated", "1"),
    "positive": ("int32", "eigenvalues above the threshold, estimated", "1"),
    "certified": ("bool", "never: counts are estimated", "1"),
    "threshold": (None, "absolute threshold, tol times the largest |Ritz value|", CURVATURE),
    "min_eigenvalue": (None, "smallest Ritz value", CURVATURE),
    "max_eigenvalue": (None, "largest Ritz value", CURVATURE),
    "unresolved": (None, "eigenvalues that the Lanczos steps leave on either side of the threshold", "1"),
    "count_error": (None, "standard error over probes of the counts, in eigenvalues", "1"),
    "trace_error": (None, "standard error over probes of the trace", CURVATURE),
}
QUADRATURE: dict[str, tuple[str | None, str, str]] = {
    "nodes": (None, "node of a probe's Gauss rule", CURVATURE),
    "weights": (None, "its share of the eigenvalues, 1 over a probe", "1"),
}


def arrays(lanes: Lanes, *, steps: Sequence[int]) -> dict[str, Spec]:
    """Every array of the store of a sweep."""
    config, inits = lanes.config, lanes.config.num_inits
    table = dict(PER_TIME)
    if config.measure == "slq":
        table |= ESTIMATED
    if lanes.landscape.classifies:
        table["error"] = (None, "training error, share of rows misclassified", "1")
    found = {
        "init": Spec(("init",), (inits,), "int64", {"long_name": "init number"}, config.first_init + np.arange(inits)),
        "lane_width": Spec(("init",), (inits,), "int32", {"long_name": WIDTH, "units": "1"}, fill=-1),
        "step": Spec(("time",), (len(steps),), "int64", {"long_name": "training step", "units": "1"}, list(steps)),
    }
    for name, (dtype, long_name, units) in table.items():
        attrs = {"long_name": long_name, "units": units}
        fill = -1 if (dtype or "").startswith("int") else None  # 0 would be a count, or "ok"
        found[name] = Spec(("init", "time"), (inits, len(steps)), dtype or config.dtype, attrs, fill=fill)
    if config.measure == "slq":
        shape = (inits, len(steps), config.num_probes, config.lanczos_steps)
        for name, (_, long_name, units) in QUADRATURE.items():
            attrs = {"long_name": long_name, "units": units}
            found[name] = Spec(("init", "time", "probe", "node"), shape, config.dtype, attrs)
    if config.measure == "spectrum":
        shape = (inits, len(steps), lanes.num_params)
        attrs = {"long_name": "Hessian eigenvalue", "units": CURVATURE}
        found["eigenvalues"] = Spec(("init", "time", "eigenvalue"), shape, config.dtype, attrs)
    return found


def landscape_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One line per property in which two landscapes of the same name differ; probes are compared to rounding."""
    found = []
    for key in ("num_params", "num_rows", "data"):
        if old.get(key) != new.get(key):
            found.append(f"{key}: {old.get(key)!r} there, {new.get(key)!r} now")
    for name, value in new["probe"].items():
        there = old.get("probe", {}).get(name)
        if there is None or (value != there and not np.isclose(there, value, rtol=PROBE_RTOL, atol=0, equal_nan=True)):
            found.append(f"{name} of init 0: {there!r} there, {value!r} now")
    return found


def precision_line(config: Sweep) -> str:
    """How the numbers were computed, in one line."""
    return f"{config.dtype} params, products and eigenvalues; matrix products at float32 precision or better"
