# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Quickstart: the Hessian spectrum of one network, then of many
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/hessjax/hessjax/blob/main/notebooks/01_quickstart.ipynb)
#
# The Hessian of a loss says how the surface bends at a point: its eigenvalues are the curvatures along orthogonal
# directions. This notebook takes all 226 eigenvalues of a small classifier, then follows them through the training of
# 64 random initialisations. It needs a CPU and under two minutes.

# %%
try:
    import hessjax as hj
except ImportError:
    # %pip install -q "hessjax[all] @ git+https://github.com/hessjax/hessjax"
    import hessjax as hj

import os
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

# %matplotlib inline

SMOKE = bool(os.environ.get("HESSJAX_SMOKE"))  # tiny sizes, for testing this notebook
FOLDER = Path(tempfile.mkdtemp(prefix="hessjax-"))

# %% [markdown]
# ## One network
#
# From a loss to its eigenvalues in five lines. `digits-mlp` is a tanh network 16-8-10 on 512 of scikit-learn's digits,
# pooled to 4x4 pixels; `land.loss(params, batch)` returns one loss per row, and the Hessian is that of their mean.

# %%
land = hj.landscapes.get("digits-mlp")
params = land.init(jax.random.key(0))
H = hj.Hessian(land.loss, params, land.batch)
defects = hj.check_operator(H, jax.random.key(1)).defects
eigenvalues = hj.eigvalsh(H)

# %% [markdown]
# `H` is an operator: `H.mv(v)` is the Hessian times a vector shaped like the params, and no matrix is formed until one
# is asked for. `check_operator` measured that the products are linear, symmetric, finite and repeatable, and that each
# row's loss depends on that row alone; it raises where a defect is above rounding. `eigvalsh` assembled the matrix and
# diagonalised it.

# %%
assert eigenvalues.shape == (H.size,) == (226,)
assert abs(jnp.sum(eigenvalues) - jnp.trace(hj.dense(H))) < 1e-4  # the trace is the sum of the eigenvalues
defects

# %% [markdown]
# ### Negative, zero, positive
#
# Which eigenvalues are zero is a matter of scale, so the tolerance is relative: an eigenvalue counts as zero where
# $|\lambda| \le \mathrm{tol} \cdot \|H\|$, with $\|H\|$ the largest absolute row sum. Measuring the loss in other units
# changes no count.

# %%
counts = hj.inertia(H, tol=1e-5)
scaled = hj.inertia(1e-9 * H, tol=1e-5)
assert scaled[:3] == counts[:3]
print(f"{counts.negative} negative, {counts.zero} zero, {counts.positive} positive")
print(f"zero means within {counts.threshold:.2g}; certified: {counts.certified}")

# %%
ax = hj.plot.spectrum(eigenvalues, threshold=float(counts.threshold))
ax.figure

# %% [markdown]
# How to read it:
#
# - **Negative**: directions in which the loss bends down. Over two fifths at this random initialisation; the gradient
#   is not zero there, so this is a point on a slope, not a saddle point.
# - **Zero**: nine, and all nine are a symmetry. A constant added to every logit leaves the softmax as it is, and the
#   last layer can add one through its bias and through each of its 8 inputs. Rounding leaves these eigenvalues at about
#   $10^{-8}$ of the largest; the tenth smallest is some $10^4$ times larger, so `tol=1e-5` falls into the gap.
# - **Positive**: directions in which the loss bends up.
# - **Certified**: no eigenvalue lies within the solver's own error of $\pm$ the threshold, so the exact eigenvalues of
#   the computed matrix give the same counts. A tolerance too fine for float32 still gets counts, but no certificate.

# %%
shift = jax.tree.map(jnp.zeros_like, params)
shift["Dense_1"]["bias"] = jnp.ones(10)  # a constant added to every logit
flatness = max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(H @ shift))
size = np.sort(np.abs(eigenvalues))

assert flatness < 1e-6
assert counts.zero == 9
assert size[8] < 1e-6 * size[-1]
assert size[9] > 1e3 * size[8]
assert 0.4 < counts.negative / 226 < 0.5
assert counts.certified
assert not hj.inertia(H, tol=1e-9).certified

# %% [markdown]
# ## Your own loss
#
# A loss is a function of params, any pytree of floating arrays, and of a batch, any pytree whose arrays share their
# first axis. Return **one number per row** where rows do not affect each other. `chunk` then bounds how many rows one
# product takes at a time: less memory, the same answer, any remainder.

# %%
x = jnp.linspace(-3, 3, 1000)
batch = (x, jnp.sin(2 * x))


def loss(params, batch):
    x, y = batch
    hidden = jnp.tanh(jnp.outer(x, params["w"]) + params["b"])
    return 0.5 * (hidden @ params["v"] - y) ** 2  # [N]


def init(key):
    w, b, v = jax.random.normal(key, (3, 8))
    return {"w": 2 * w, "b": b, "v": v / 8**0.5}


theta = init(jax.random.key(0))

whole = hj.eigvalsh(hj.Hessian(loss, theta, batch))
chunked = hj.eigvalsh(hj.Hessian(loss, theta, batch, chunk=128))
assert whole.shape == (24,)
assert jnp.max(jnp.abs(whole - chunked)) < 1e-5 * jnp.max(jnp.abs(whole))

# %% [markdown]
# Where rows do affect each other (batch statistics, a contrastive term), the mean over chunks is not the mean over the
# batch. `check_operator` notices; return the scalar mean instead, without `chunk`.

# %%
centred = lambda x: x - jnp.mean(x)


def coupled(params, batch):
    x, y = batch
    return loss(params, (centred(x), y))  # a statistic of the batch: rows affect each other


try:
    hj.check_operator(hj.Hessian(coupled, theta, batch), jax.random.key(0))
except hj.OperatorError as error:
    print(error)
else:
    raise AssertionError("the coupling was not noticed")

# %% [markdown]
# A `Landscape` puts the parts together, and stands wherever a named one does. A sweep trains many inits alike and takes
# every spectrum at the same steps:

# %%
mine = hj.Landscape("sine", init=init, loss=loss, batch=batch)
config = hj.Sweep(landscape=mine, num_inits=2 if SMOKE else 16, num_steps=5 if SMOKE else 200, times=3)
ds = hj.open_sweep(hj.sweep(config, FOLDER / "sine.zarr", progress=False))
ds[["loss", "negative", "zero", "positive"]].median("init").to_dataframe()

# %% [markdown]
# ## A sweep of the digits
#
# 64 inits, 100 Adam steps on all 512 rows, and the full spectrum at 8 times, placed so that the median loss falls
# evenly between them. Rows go into a Zarr store 16 at a time: interrupt the cell, run it again, and it goes on after
# the last 16 that were done.

# %%
full = {"num_inits": 64, "num_steps": 100, "lane_width": 16}
tiny = {"num_inits": 4, "num_steps": 10, "lane_width": 2, "options": {"widths": (4,), "rows": 64}}
config = hj.Sweep(landscape="digits-mlp", **(tiny if SMOKE else full))
store = hj.sweep(config, FOLDER / "digits.zarr")
ds = hj.open_sweep(store)
ds

# %% [markdown]
# Every init at every time is a point. The fraction of negative eigenvalues falls together with the loss, as Dauphin et
# al. (2014) saw at critical points; here the points are those that training passes.

# %%
hj.plot.index_against_loss(ds).figure

# %%
num_params = ds.sizes["eigenvalue"]
fraction = (ds["negative"] / num_params).median("init")
print("median loss      ", np.round(ds["loss"].median("init").values, 2))
print("negative fraction", np.round(fraction.values, 3))

assert ds.attrs["num_done"] == config.num_inits
assert (ds["negative"] + ds["zero"] + ds["positive"] == num_params).all()
assert SMOKE or (np.diff(fraction) < 0).all()  # falls from each time to the next
assert SMOKE or fraction[-1] > 0.05  # yet after 100 steps this is no minimum: directions down remain

# %% [markdown]
# The density of the eigenvalues on an axis that shows both signs and many scales. The nine symmetric directions stay at
# zero throughout; the negative side thins out and draws in as training goes on.

# %%
hj.plot.eigenvalue_density(ds).figure

# %%
hj.plot.loss_curves(ds).figure

# %%
symmetric = config.options.get("widths", (8,))[-1] + 1  # one for each input of the last layer, and its bias
assert (ds["zero"] >= symmetric).all()
assert SMOKE or (ds["zero"].median("init") == 9).all()
assert SMOKE or (ds["min_eigenvalue"].median("init")[-1] > 0.5 * ds["min_eigenvalue"].median("init")[0]).item()

# %% [markdown]
# ### The report
#
# One HTML file with the configuration, the versions, interactive figures and a table; it needs no network. The same
# figures lie beside it as PNG files. On Colab, download it from the file browser.

# %%
report = hj.report(store, FOLDER / "report.html")
assert report.stat().st_size > 1e5
print(report)

# %% [markdown]
# ## What to read next
#
# - `help(hj.Sweep)`: optimisers, schedules, mini-batches, times, tolerance, float64. `hj.landscapes.names()` lists the
#   landscapes that come with the library, `hj.landscapes.options(name)` their choices.
# - On a machine of your own, `hessjax demo` runs 1024 inits on all cores and writes the report; `hessjax sweep --help`
#   shows every choice, and `hessjax doctor` says what will be slow there and why.
# - The [README](https://github.com/hessjax/hessjax#readme) for the rest of the library.
# - Y. Dauphin et al. (2014), *Identifying and attacking the saddle point problem in high-dimensional non-convex
#   optimization*, [arXiv:1406.2572](https://arxiv.org/abs/1406.2572); J. Pennington and Y. Bahri (2017), *Geometry of
#   neural network loss surfaces via random matrix theory*,
#   [PMLR 70](https://proceedings.mlr.press/v70/pennington17a.html).
