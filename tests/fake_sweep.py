"""A synthetic sweep with the layout hj.open_sweep returns, for the tests of figures and reports.

It looks like the demo (tanh MLP 16-8-10 on pooled digits): losses evenly spaced from 2.5 to 0.05, the negative fraction
falling with the loss, about twenty outliers up to 10, a bulk between 1e-8 and 1e-1, and a few inits that diverge.
Not a model of training: only shapes, magnitudes and correlations are imitated, and everything is drawn from one seed.
"""

import numpy as np
import xarray as xr

VARIABLES = {
    "loss": ("training loss, mean over rows", "nats"),
    "error": ("training error, share of rows misclassified", "1"),
    "grad_norm": ("gradient norm", "nats / parameter"),
    "eigenvalues": ("Hessian eigenvalues", "nats / parameter^2"),
    "negative": ("eigenvalues below -threshold", "count"),
    "zero": ("eigenvalues within the threshold", "count"),
    "positive": ("eigenvalues above the threshold", "count"),
    "certified": ("counts certified", "1"),
    "threshold": ("absolute threshold", "nats / parameter^2"),
    "trace": ("Hessian trace", "nats / parameter^2"),
    "min_eigenvalue": ("smallest eigenvalue", "nats / parameter^2"),
    "max_eigenvalue": ("largest eigenvalue", "nats / parameter^2"),
    "status": ("status", "1"),
}


def steps_of(num_times: int) -> np.ndarray:
    later = np.round(np.geomspace(6, 2000, num_times - 1)) if num_times > 1 else np.zeros(0)
    return (np.r_[0, later] + np.r_[0, np.cumsum(np.diff(later, prepend=0) < 1)]).astype(np.int64)


def spectra(rng: np.random.Generator, level: np.ndarray, size: int) -> np.ndarray:
    """Spectra [..., size] for `level` in [0, 1], 1 at the start: outliers, a wide bulk and a falling negative part."""
    shape = level.shape
    exponents = -0.8 - np.abs(-0.8 - rng.normal(-3.2, 1.5, (*shape, size))).clip(0, 7.2)
    fraction = 0.05 + 0.25 * level**0.8 + rng.normal(0, 0.012, shape)
    signs = np.where(rng.random((*shape, size)) < fraction[..., None] * 1.35, -1.0, 1.0)
    shrink = np.where(signs < 0, (0.1 + 0.9 * level[..., None]) * rng.lognormal(0, 0.3, exponents.shape), 1.0)
    values = signs * shrink * 10**exponents
    top = min(20, size // 4)
    ranks = np.arange(top)
    sharpening = 1.2 + 2.2 * (1 - level) * np.exp(-(((1 - level) - 0.6) ** 2) / 0.3)
    values[..., :top] = 3.0 * sharpening[..., None] * np.exp(-ranks / 6) * rng.lognormal(0, 0.2, (*shape, top))
    return np.sort(values, axis=-1)


def fake_sweep(
    num_inits: int = 1024,
    num_times: int = 8,
    num_params: int = 226,
    *,
    seed: int = 0,
    num_diverged: int = 5,
    num_pending: int = 0,
    error: bool = True,
    eigenvalues: bool = True,
    tol: float = 1e-6,
) -> xr.Dataset:
    """A sweep's Dataset; the last `num_pending` rows are not done, `num_diverged` of the others stop being finite."""
    rng = np.random.default_rng(seed)
    steps = steps_of(num_times)
    median = np.linspace(2.5, 0.05, num_times) if num_times > 1 else np.array([0.4])
    loss = (median * rng.lognormal(0, 0.10 + 0.25 * (1 - median / 2.6), (num_inits, num_times))).clip(0.01)
    level = (loss / 2.6).clip(0, 1)
    values = spectra(rng, level, num_params)
    norm = 1.8 * np.abs(values).max(-1)
    threshold = tol * norm
    data = {
        "loss": loss,
        "grad_norm": 0.9 * loss**0.8 * rng.lognormal(0, 0.35, loss.shape) * np.where(steps == 0, 0.5, 1.0),
        "eigenvalues": values,
        "negative": (values < -threshold[..., None]).sum(-1).astype(np.int32),
        "zero": (np.abs(values) <= threshold[..., None]).sum(-1).astype(np.int32),
        "positive": (values > threshold[..., None]).sum(-1).astype(np.int32),
        "certified": rng.random(loss.shape) > 0.01,
        "threshold": threshold,
        "trace": values.sum(-1),
        "min_eigenvalue": values[..., 0],
        "max_eigenvalue": values[..., -1],
        "status": np.zeros(loss.shape, np.int8),
    }
    if error:
        data["error"] = np.round(512 * 0.9 * (1 - np.exp(-1.3 * loss))).clip(0, 512) / 512
    done = np.arange(num_inits) < num_inits - num_pending
    _diverge(rng, data, num_diverged, num_times)
    for array in data.values():
        array[~done] = np.nan if array.dtype.kind == "f" else 0
    if not eigenvalues:
        del data["eigenvalues"]
    return _dataset(data, steps, done, num_params, tol, "spectrum" if eigenvalues else "inertia", error)


def _diverge(rng: np.random.Generator, data: dict, num_diverged: int, num_times: int) -> None:
    for init in rng.choice(len(data["loss"]), num_diverged, replace=False):
        start = rng.integers(0, num_times)
        for name, array in data.items():
            array[init, start:] = 1 if name == "status" else np.nan if array.dtype.kind == "f" else 0


def _dataset(data: dict, steps: np.ndarray, done: np.ndarray, size: int, tol: float, measure: str, error: bool):
    dims = {name: ("init", "time", "eigenvalue")[: array.ndim] for name, array in data.items()}
    num_inits, num_times = data["loss"].shape
    variables = {
        name: (dims[name], array, dict(zip(("long_name", "units"), VARIABLES[name]))) for name, array in data.items()
    }
    coords = {"init": np.arange(num_inits), "step": ("time", steps), "done": ("init", done)}
    return xr.Dataset(
        variables, coords=coords, attrs=_attrs(num_inits, num_times, int(done.sum()), size, tol, measure, error)
    )


def _attrs(num_inits: int, num_times: int, num_done: int, size: int, tol: float, measure: str, error: bool) -> dict:
    return {
        "title": "digits-mlp: 1,024 initialisations",
        "config": {
            "landscape": "digits-mlp",
            "options": {"widths": [16, 8, 10], "activation": "tanh", "num_rows": 512},
            "num_inits": num_inits,
            "seed": 0,
            "num_steps": 2000,
            "optimizer": "adam",
            "learning_rate": 0.01,
            "schedule": "constant",
            "batch_size": 64,
            "times": num_times,
            "spacing": "loss",
            "measure": measure,
            "tol": tol,
            "dtype": "float32",
            "chunk": None,
            "lane_width": 64,
        },
        "versions": {"hessjax": "0.1.0", "jax": "0.10.2", "jaxlib": "0.10.2", "numpy": "2.4.6", "python": "3.11.7"},
        "device": "cpu (2 cores)",
        "precision": "float32",
        "landscape": {
            "name": "digits-mlp",
            "num_params": size,
            "num_rows": 512,
            "notes": ["512 fixed rows of the 1,797 digits", "images pooled to 4x4 and standardised"],
            "classes": 10 if error else None,
        },
        "wall_s": 83.2,
        "compile_s": 6.1,
        "train_s": 21.4,
        "measure_s": 54.9,
        "num_done": num_done,
        "num_inits": num_inits,
        "fingerprint": "a1b2c3d4e5f6",
    }
