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
# # Exact Hessians of hundreds of initialisations
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/hessjax/hessjax/blob/main/notebooks/11_dense_ensembles.ipynb)
#
# How many directions go down at a random start, and how sure is that number? For a small network the whole Hessian
# can be had. This notebook shows how `hj.dense` puts it together from the layers, how `hj.inertia` counts without
# eigenvalues and says whether the count is certain, and what both say of many starts. It needs a CPU and about a
# minute.

# %%
try:
    import hessjax as hj
except ImportError:
    # %pip install -q "hessjax[all] @ git+https://github.com/hessjax/hessjax"
    import hessjax as hj

import os
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

# %matplotlib inline

SMOKE = bool(os.environ.get("HESSJAX_SMOKE"))  # tiny sizes, for testing this notebook
WIDTH, ROWS, INITS = (4, 16, 4) if SMOKE else (16, 128, 256)

# %% [markdown]
# ## One network, written by hand
#
# A tanh layer and a linear one, without biases: 512 weights. The loss is a value per example; nothing says what the
# layers are.

# %%
x, y = jax.random.normal(jax.random.key(0), (2, ROWS, WIDTH))


def loss(params, batch):
    inputs, targets = batch
    return jnp.sum((jnp.tanh(inputs @ params["in"]) @ params["out"] - targets) ** 2, axis=-1) / 2


def init(key):
    a, b = jax.random.normal(key, (2, WIDTH, WIDTH)) / WIDTH**0.5
    return {"in": a, "out": b}


H = hj.Hessian(loss, init(jax.random.key(1)), (x, y))
hj.explain(H)

# %% [markdown]
# Both leaves were recognised in the traced loss: each row's second derivatives are needed in the units only, and one
# matrix product per pair of layers adds the rows up. It is the same matrix as `jax.hessian`'s, to rounding, and takes
# less time.

# %%
plain = jax.jit(lambda p: jax.hessian(lambda q: jnp.mean(loss(q, (x, y))))(p))
blocks = plain(H.params)
whole = jnp.block([[blocks[a][b].reshape(WIDTH**2, -1) for b in ("in", "out")] for a in ("in", "out")])
print(f"largest difference {jnp.abs(hj.dense(H) - whole).max() / jnp.abs(whole).max():.1e} of the largest entry")
for name, call in {"hj.dense": lambda: hj.dense(H), "jax.hessian": lambda: plain(H.params)}.items():
    seconds = []
    for _ in range(10):
        began = time.perf_counter()
        jax.block_until_ready(call())
        seconds.append(time.perf_counter() - began)
    print(f"{name:12s}{1e3 * np.median(seconds):8.2f} ms")

# %% [markdown]
# ## Many starts, several thresholds
#
# What counts as zero is a choice: here eigenvalues within `tol` times the largest absolute row sum. Counts at all of
# them share one reduction to tridiagonal form. A count is certified when no eigenvalue is within rounding of the
# threshold.

# %%
tols = np.geomspace(1e-7, 1e-1, 13)
keys = jax.random.split(jax.random.key(2), INITS)
count = lambda key: hj.inertia(hj.Hessian(loss, init(key), (x, y)), tol=tols.tolist())
counts = jax.jit(lambda keys: jax.lax.map(count, keys))(keys)
values = jax.jit(lambda keys: jax.lax.map(lambda key: hj.eigvalsh(hj.Hessian(loss, init(key), (x, y))), keys))(keys)
for k in (0, 4, 8, 12):
    negative, certain = counts.negative[:, k].mean() / H.size, counts.certified[:, k].mean()
    print(f"tol {tols[k]:.0e}: {100 * negative:5.2f} % negative, {100 * certain:5.1f} % certified")

# %%
fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
left.hist(np.ravel(values), bins=200, density=True, color="tab:blue")
left.set(
    yscale="log", xlabel="eigenvalue", ylabel="density", title=f"All eigenvalues of {INITS} starts, {H.size} weights"
)
for name, color in (("negative", "tab:red"), ("zero", "tab:gray"), ("positive", "tab:blue")):
    share = np.asarray(getattr(counts, name)) / H.size
    right.plot(tols, share.mean(axis=0), color=color, label=name)
    right.fill_between(tols, *np.quantile(share, [0.05, 0.95], axis=0), color=color, alpha=0.2, lw=0)
right.plot(tols, counts.certified.mean(axis=0), "k:", label="certified counts")
right.set(xscale="log", xlabel="threshold / largest row sum", ylabel="share", title="Bands: 90 % of the starts")
right.legend(loc=(0.03, 0.09), fontsize=8, framealpha=1)
plt.show()

# %% [markdown]
# Below a thousandth hardly anything is zero, and the shares do not depend on the choice. Of a few starts in a hundred
# an eigenvalue is within float32's rounding of the threshold, and their counts say so (the dotted line); in float64
# (`jax.config.update("jax_enable_x64", True)` before anything else) all are certain.
