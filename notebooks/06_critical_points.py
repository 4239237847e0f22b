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
# # When training stops: a minimum, a saddle, or just flat?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/hessjax/hessjax/blob/main/notebooks/06_critical_points.ipynb)
#
# Critical points of every height are found by making the gradient short, whatever the loss does. The published picture
# is index (the share of directions that go down) against loss. [Frye et al. (2021)](https://doi.org/10.1162/neco_a_01388)
# showed that the picture looks right even where the points in it are not critical: the search has got stuck where the
# gradient is not zero but flat. Here is the picture three ways, on a linear autoencoder, of which every critical point
# is known: with a loose cut-off, with the right one, and the truth. It needs a CPU and about three minutes.

# %%
try:
    import hessjax as hj
except ImportError:
    # %pip install -q "hessjax[all] @ git+https://github.com/hessjax/hessjax"
    import hessjax as hj

import os
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

# %matplotlib inline

jax.config.update("jax_enable_x64", True)  # in float32 no gradient is short enough

SMOKE = bool(os.environ.get("HESSJAX_SMOKE"))  # tiny sizes, for testing this notebook
INPUTS, HIDDEN, STARTS = (4, 2, 8) if SMOKE else (16, 4, 192)
folder = tempfile.mkdtemp()

# %% [markdown]
# ## The search
#
# Starts lie uniformly in loss along gradient descent, every second one with noise. Three methods run from all of them:
# Newton-MR and a trust region on the gradient's norm, which solve with the Hessian, and plain minimisation of the
# gradient's norm.

# %%
config = hj.Search(
    landscape="autoencoder",
    options={"inputs": INPUTS, "hidden": HIDDEN},
    num_starts=STARTS,
    methods=("newton-mr", "trust-region", "gradient-norm"),
)
ds = hj.open_search(hj.search(config, folder + "/search.zarr", progress=False))
fig, (left, right) = plt.subplots(1, 2, figsize=(13, 4.2), layout="constrained")
hj.plot.outcomes(ds, ax=left)
hj.plot.gradient_norms(ds, ax=right)

# %% [markdown]
# The trust region's points end at the rounding of the numbers. Newton-MR's spread over all powers: some of its runs are
# slow, and where the cut-off is put decides what is called critical. The gradient's norm alone is far from anything
# after as many steps.
#
# ## The picture three ways

# %%
fig, axes = plt.subplots(1, 3, figsize=(17, 4.8), layout="constrained", sharex=True, sharey=True)
bare = ds.assign_attrs(truth=[])
hj.plot.critical_points(bare, cutoff=np.inf, ax=axes[0])
axes[0].set_title("no cut-off: a smooth curve", loc="left")
hj.plot.critical_points(bare, statuses=("critical",), ax=axes[1])
axes[1].set_title("cut-off 1e-10: only levels", loc="left")
hj.plot.critical_points(ds, statuses=("critical",), ax=axes[2])
axes[2].set_title("and the truth, as squares", loc="left")

# %% [markdown]
# Without a cut-off the points make the convex band that is taken for evidence of random-matrix theory. With it they lie
# on the known levels, all of them:

# %%
critical = ds["status"].values == 0
truth = {(round(loss, 6), index) for loss, index, _ in ds.attrs["truth"]}
pairs = set(zip(np.round(ds["loss"].values[critical], 6).tolist(), ds["negative"].values[critical].tolist()))
print(f"{critical.sum()} critical points at {len(pairs)} levels, all known: {pairs <= truth}")
assert pairs <= truth

# %% [markdown]
# ## A point where the gradient is flat
#
# The quartic `gradient-flat` has one critical point, (-3, 0). At (1.41, 0) and (-1.41, 0) its gradient lies in the null
# space of the Hessian, and methods on the gradient's norm end there.

# %%
quartic = hj.landscapes.get("gradient-flat", dtype="float64")
starts = jax.random.uniform(jax.random.key(0), (16 if SMOKE else 400, 2), minval=-4.0, maxval=4.0)
found = hj.find_critical_points(quartic.loss, starts, method="trust-region")
x = np.linspace(-4.5, 4.5, 200)
fig, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
length = jax.vmap(jax.vmap(lambda p: jnp.log10(jnp.linalg.norm(jax.grad(quartic.loss)(p)))))
ax.contourf(x, x, length(jnp.stack(jnp.meshgrid(x, x), -1)), 30, cmap="Greys_r")
for k, colour in enumerate(("tab:green", "tab:orange", "tab:gray")):
    some = found.status == k
    ax.scatter(*found.params[some].T, s=60, color=colour, label=f"{hj.STATUSES[k]} ({some.sum()})")
ax.legend()
ax.set_title("ends of a search, over the gradient's length", loc="left")
assert np.allclose(found.params[found.status == 0], [-3, 0], atol=1e-4)

# %% [markdown]
# ## What kind, how sure, and how to leave
#
# A three-layer net has saddles without a negative eigenvalue. What they are is decided by the reduced function, beyond
# second derivatives, and so is the way down.

# %%
net = lambda w: (1 - w[0] * w[1] * w[2]) ** 2
verdict = hj.classify_point(net, jnp.zeros(3))
print(verdict.kind, verdict.index, verdict.nullity, verdict.notes)
away = hj.escape(net, jnp.zeros(3))
print(f"from a loss of {away.before} to {away.loss:.3f}, {away.length:.2f} away")

# %% [markdown]
# Where the Hessian is not singular and its Lipschitz constant is known, a point beside a critical one is proof of it
# (Newton and Kantorovich): it exists, how near it is, with which index, and that there is no other near.

# %%
certificate = hj.certify_point(quartic.loss, jnp.array([-3.001, 0.001]), lipschitz=quartic.facts["hessian_lipschitz"])
print(f"certified {certificate.certified}, index {certificate.index}")
print(f"within {certificate.radius:.2e}, no other within {certificate.unique:.2f}")

# %% [markdown]
# ## A net that is not linear
#
# 16-16-16 tanh units asked to memorise noise: the network of the published random-matrix picture. The same search, and
# the law beside it.

# %%
width = 4 if SMOKE else 16
options = {"widths": (width,), "inputs": width, "outputs": width, "rows": 4 * width}
config = hj.Search(
    landscape="memorization", options=options, num_starts=4 if SMOKE else 24, num_steps=100 if SMOKE else 2000,
    learning_rate=0.5 / width, noise=0.0, max_steps=20 if SMOKE else 200,
)  # fmt: skip
tanh = hj.open_search(hj.search(config, folder + "/tanh.zarr", progress=False))
ax = hj.plot.critical_points(tanh)  # the landscape has the law of its index
ax.figure

# %%
said = {name: int((tanh["status"].values == k).sum()) for k, name in enumerate(hj.STATUSES)}
print(said, "median flatness r", np.median(tanh["flatness"].values).round(3))

# %% [markdown]
# None of these points is critical, and still the index rises with the loss along one curve, as in the published
# picture. The law, which has no free parameter here, is of another shape.
