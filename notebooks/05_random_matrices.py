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
# # Is a Hessian a random matrix?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/hessjax/hessjax/blob/main/notebooks/05_random_matrices.ipynb)
#
# [Pennington & Bahri (2017)](https://proceedings.mlr.press/v70/pennington17a.html) model a Hessian as the free sum of
# a Wishart matrix (Gauss-Newton) and a Wigner matrix as large as the residuals. Two numbers are left, phi =
# parameters / (samples x outputs) and the energy eps, and they predict the whole spectrum, and the share of negative
# eigenvalues. Here the predictions of `hj.rmt` are laid over exact spectra of the network they were made for:
# 16-16-16 units, no biases, asked to memorise noise. It needs a CPU and two minutes.

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

SMOKE = bool(os.environ.get("HESSJAX_SMOKE"))  # tiny sizes, for testing this notebook
WIDTH, INITS, STEPS = (4, 4, 60) if SMOKE else (16, 96, 4000)

# %% [markdown]
# ## The laws
#
# With ratio 1/4 and growing energy: Marchenko-Pastur, whose edge is at 1/4; at the critical energy, .0435, the edge
# reaches zero; beyond it a share of eigenvalues is negative. The dashed lines are eigenvalues of one random matrix
# each.

# %%
phi = 0.25
fig, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
for eps in (0.0, float(hj.rmt.critical_energy(phi)), 0.5):
    law = hj.rmt.wishart_plus_wigner(phi, eps)
    low, high = law.edges()
    x = np.linspace(low - 0.1, high + 0.1, 800)
    (line,) = left.plot(x, law.density(x), label=f"energy {eps:.3g}: {law.negative_fraction():.1%} negative")
    left.hist(
        law.sample(200 if SMOKE else 1000, seed=0),
        bins=60,
        density=True,
        histtype="step",
        linestyle="--",
        color=line.get_color(),
    )
left.set(xlabel="eigenvalue", ylabel="density", title="Wishart plus Wigner, phi = 1/4")
left.legend(fontsize=8)
eps = np.linspace(0, 0.5, 200)
for ratio in (0.1, 0.25, 0.5, 2.0):
    (line,) = right.plot(eps, hj.rmt.index_curve(eps, ratio), label=f"phi = {ratio:g}")
    if ratio < 1:
        near = eps[eps < 4 * hj.rmt.critical_energy(ratio)]
        right.plot(near, hj.rmt.index_law(near, ratio), ":", color=line.get_color())
right.set(
    xlabel="energy",
    ylabel="share of negative eigenvalues",
    title="index curves; dotted, the 3/2 power law",
    ylim=(0, 0.5),
)
right.legend(fontsize=8)

# %% [markdown]
# ## Two parts of a network's Hessian
#
# The library's loss of this task sums over the 16 outputs; the laws average, so energy and Hessian are divided by 16.
# A law with entries of unit variance has a scale that no network keeps, so both parts get the measured one: the
# Wishart part the mean eigenvalue of the Gauss-Newton matrix, the Wigner part the mean square of the residual part's.

# %%
land = hj.landscapes.get("memorization", widths=(WIDTH,), inputs=WIDTH, outputs=WIDTH, rows=8 * WIDTH)


def parts(params):
    model, per_row = land.model, lambda outputs, targets: jnp.sum((outputs - targets) ** 2, axis=-1) / 2
    made = [kind(model, per_row, params, land.batch) for kind in (hj.GaussNewton, hj.Residual)]
    return [hj.eigvalsh(op) / WIDTH for op in (*made, made[0] + made[1])]


starts = jax.random.split(jax.random.key(1), 2 if SMOKE else 16)
found = [np.asarray(x, float) for x in jax.jit(lambda k: jax.lax.map(lambda one: parts(land.init(one)), k))(starts)]
ratio = found[0].shape[1] / (8 * WIDTH * WIDTH)
wishart, wigner = found[0].mean(), np.sqrt((found[1] ** 2).mean())
scaled = hj.rmt.wishart_plus_wigner(ratio, 0.5, wishart=wishart, wigner=wigner)
laws = hj.rmt.wishart_plus_wigner(ratio, 0.0, wishart=wishart), hj.rmt.semicircle(wigner), scaled
fig, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
for ax, values, law, title in zip(axes, found, laws, ("Gauss-Newton matrix", "residual part", "Hessian")):
    hj.plot.law(law, values, ax=ax)
    ax.set(xlabel=f"eigenvalue / 16 of the {title}, at random starts")
print(f"negative: {(found[2] < 0).mean():.3f} measured, {scaled.negative_fraction():.3f} predicted")

# %% [markdown]
# The parts are no Wishart and no Wigner matrix: the Gauss-Newton matrix has most of its eigenvalues near zero and a
# long tail, the residual part a peak at zero. Their sum is nearer to the prediction than either.
#
# ## Along training
#
# The same law with the mean and the variance of the measured spectrum, at three times.

# %%
config = hj.Sweep(
    landscape="memorization",
    options={"widths": (WIDTH,), "inputs": WIDTH, "outputs": WIDTH, "rows": 8 * WIDTH},
    num_inits=INITS,
    num_steps=STEPS,
    times=8,
    optimizer="adam",
    learning_rate=3e-3,
)
ds = hj.open_sweep(hj.sweep(config, tempfile.mkdtemp() + "/memorization.zarr", progress=False))
energy, spectra = ds.loss.values / WIDTH, ds.eigenvalues.values / WIDTH


def law_of(values):
    """Wishart plus Wigner with the mean and the variance of these eigenvalues."""
    mean, rest = values.mean(), values.var() - ratio * values.mean() ** 2
    return hj.rmt.wishart_plus_wigner(ratio, 0.5, wishart=mean, wigner=np.sqrt(max(rest, 0.0)))


fig, axes = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
for ax, t in zip(axes, (0, ds.sizes["time"] // 2, ds.sizes["time"] - 1)):
    values, law = spectra[:, t].ravel(), law_of(spectra[:, t])
    hj.plot.law(law, values, ax=ax)
    ax.set(xlabel=f"eigenvalue / 16 at step {int(ds.step[t])}, energy {energy[:, t].mean():.3f}")

# %% [markdown]
# ## The index curve, with the gradient beside it
#
# The plot that made the model famous: share of negative eigenvalues against energy. Theory speaks of critical points;
# points on the way of training are not critical, which the colour says. Their share rises with the energy all the
# same, which is why such a plot shows little about critical points ([Frye et al.](https://arxiv.org/abs/2003.10397)).
# With its own mean and variance the law is right at the start and wrong at the end, where outliers make the variance
# and nothing is negative.

# %%
fig, ax = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
share = ds.negative.values / ds.sizes["eigenvalue"]
drawn = ax.scatter(energy, share, c=np.log10(ds.grad_norm.values), s=9, cmap="viridis")
grid = np.linspace(0, float(energy.max()), 300)
ax.plot(grid, hj.rmt.index_curve(grid, ratio), color="#b2182b", label="Wishart plus Wigner, unit scale")
ax.plot(
    grid, hj.rmt.index_curve(grid, ratio, "relu"), color="#b2182b", linestyle="--", label="the model of a ReLU layer"
)
own = [law_of(spectra[:, t]).negative_fraction() for t in range(ds.sizes["time"])]
ax.plot(energy.mean(0), own, "kx", label="Wishart plus Wigner, own mean and variance")
ax.axvline(float(hj.rmt.critical_energy(ratio)), color="grey", linestyle=":", label="critical energy")
ax.set(xlabel="energy", ylabel="share of negative eigenvalues", ylim=(0, 0.6))
fig.colorbar(drawn, ax=ax, label="log10 of the gradient norm")
ax.legend(fontsize=8, loc="upper left")

# %% [markdown]
# ## Do its eigenvalues repel?
#
# Ratios of neighbouring gaps need no unfolding: .5307 on average for large random matrices, .3863 for independent
# levels ([Atas et al. 2013](https://doi.org/10.1103/PhysRevLett.110.084101)).

# %%
middle = spectra[:, 0, WIDTH:-WIDTH]
ratios = np.concatenate([hj.rmt.spacing_ratios(row) for row in middle])
error = ratios.std() / len(ratios) ** 0.5
print(f"mean ratio {ratios.mean():.4f} +- {error:.4f} at the start")
fig, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
r = np.linspace(0, 1, 200)
ax.hist(ratios, bins=40, density=True, alpha=0.5, label="Hessians at random starts")
ax.plot(r, hj.rmt.spacing_ratio_density(r), label="random matrices (GOE)")
ax.plot(r, hj.rmt.spacing_ratio_density(r, "poisson"), label="independent levels")
ax.set(xlabel="ratio of neighbouring gaps", ylabel="density")
ax.legend()
