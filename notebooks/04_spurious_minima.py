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
# # Spurious minima: where ReLU nets do get stuck
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/hessjax/hessjax/blob/main/notebooks/04_spurious_minima.ipynb)
#
# Deep linear networks have no bad local minimum. Networks of ReLUs have: here are the examples that are known
# exactly, the table of how often gradient descent ends in one, run again with intervals, and the starts from which
# nothing moves at all. It needs a CPU and some four minutes.

# %%
try:
    import hessjax as hj
except ImportError:
    # %pip install -q "hessjax[all] @ git+https://github.com/hessjax/hessjax"
    import hessjax as hj

import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from hessjax.kinks import kinks
from hessjax.landscapes import arccosine, relu_starts, spurious

# %matplotlib inline

jax.config.update("jax_enable_x64", True)
SMOKE = bool(os.environ.get("HESSJAX_SMOKE"))  # tiny sizes, for testing this notebook
STARTS, SIZES = (24, (6, 7)) if SMOKE else (300, (6, 7, 8, 9, 10, 12))

# %% [markdown]
# ## One unit and five points
#
# The net v relu(w x + b) + c on five points of a line. At (w, b, v, c) = (1, -3, 1, 0) its loss is 18, its gradient
# exactly zero, and no small step helps; at (-7, -4, 1, 0) the loss is 14. One of the five points lies on the turn of
# the unit: a kink, where a Hessian from automatic differentiation depends on what is taken for the slope at 0, and
# says nothing of the other side.

# %%
land = hj.landscapes.get("relu-five-points", data="D1", dtype="float64")
x, y = np.asarray(land.batch[0])[:, 0], np.asarray(land.batch[1])
fig, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
left.plot(x, y, "ko")
line = np.linspace(-2, 6, 300)
for fact in land.facts["published"]:
    point = jax.tree.map(jnp.asarray, fact["point"])
    slope = np.max([np.abs(np.asarray(g)).max() for g in jax.tree.leaves(jax.grad(land.loss)(point, land.batch))])
    values = hj.eigvalsh(hj.Hessian(land.loss, point, land.batch))
    found = kinks(land.loss, point, land.batch)
    print(f"{fact['name']}: loss {land.loss(point, land.batch):g}, largest slope {slope:.1e}")
    print(f"eigenvalues {np.round(values, 3)}")
    print(found, "\n")
    w, b, v, c = (float(np.ravel(fact["point"][name])[0]) for name in "wbvc")
    left.plot(line, v * np.maximum(w * line + b, 0) + c, label=f"{fact['name']}: loss {fact['loss']:g}")
left.legend()
left.set(xlabel="x", ylabel="y", title="two minima of one unit", ylim=(-4, 6))
start, end = (jax.tree.map(jnp.asarray, fact["point"]) for fact in land.facts["published"])
t = np.linspace(-0.2, 1.2, 400)
along = jax.vmap(lambda s: land.loss(jax.tree.map(lambda a, b: a + s * (b - a), start, end), land.batch))(t)
right.semilogy(t, along)
right.set(xlabel="from one (0) to the other (1)", ylabel="loss", title="and the straight way between them")

# %% [markdown]
# ## How often? Students and teachers
#
# A student of n ReLUs learns a teacher of k of them, inputs Gaussian, the loss an expectation in closed form ([Safran
# & Shamir 2018](https://arxiv.org/abs/1712.08968)). Gradient descent from random starts, to full precision: every end
# point is a minimum, and its loss says whether it is the global one. The bars are 95 % intervals of these runs, the
# crosses the published shares of 1000 runs each.

# %%
shares, published = [], []
for k in SIZES:
    ends = spurious.descend(jax.random.key(k), students=k, teachers=k, num_starts=STARTS)
    rate = spurious.spurious_rate(ends)
    percent, curvature, level = spurious.PUBLISHED[0, k]
    bad = np.flatnonzero((np.asarray(ends.loss) > 1e-3) & np.asarray(ends.converged))[:5]
    lowest = [np.linalg.eigvalsh(arccosine.hessian(np.asarray(ends.params[i]), np.eye(k)))[0] for i in bad]
    levels = ", ".join(f"{loss:.4f} x {count}" for loss, count in zip(rate.levels, rate.counts))
    print(
        f"n = k = {k:2d}: {100 * rate.share:5.1f} % bad ({100 * rate.interval[0]:.1f}-{100 * rate.interval[1]:.1f}), "
        f"published {percent:5.1f} %; losses {levels or '-'} ({level}); smallest eigenvalue "
        f"{np.mean(lowest) if len(lowest) else float('nan'):.4f} ({curvature})"
    )
    shares.append((rate.share, *rate.interval))
    published.append(percent / 100)
share, low, high = np.array(shares).T
fig, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
ax.errorbar(
    SIZES, share, np.maximum([share - low, high - share], 0), fmt="o", capsize=4, label=f"{STARTS} starts each, 95 %"
)
ax.plot(SIZES, published, "x", markersize=8, label="published")
ax.set(xlabel="n = k", ylabel="share that ends at a spurious minimum", ylim=(0, 0.8))
ax.legend(loc="upper left")
assert sum((low <= published) & (published <= high)) >= len(SIZES) - 1

# %% [markdown]
# They are minima, not slow saddles: the smallest eigenvalues of their Hessians are clearly above zero. One more unit
# in the student than in the teacher makes them rare, two have not been seen to leave any.

# %% [markdown]
# ## XOR and jellyfish: success by width
#
# Four points of the plane, two classes, a hidden layer of h units. How often does training from a random start
# classify all four? The published runs ([Swirszcz et al. 2016](https://arxiv.org/abs/1611.06310)) give no learning
# rates or scales, so the two can be compared in shape only: wider nets fail less, ReLUs fail more often than sigmoids
# on XOR.

# %%
hidden = (2, 4) if SMOKE else (2, 3, 4, 5, 6, 7)
fig, axes = plt.subplots(1, 2, figsize=(12, 4), layout="constrained", sharey=True)
for ax, problem in zip(axes, ("xor", "jellyfish")):
    for activation, colour in (("relu", "#b2182b"), ("sigmoid", "#2166ac")):
        runs = [
            relu_starts.success_rates(
                jax.random.key(0),
                problem=problem,
                hidden=h,
                activation=activation,
                num_starts=STARTS,
                num_steps=300 if SMOKE else 2000,
            )
            for h in hidden
        ]
        rate, low, high = np.array([(r.rate, r.low, r.high) for r in runs]).T
        ax.errorbar(
            hidden, rate, np.maximum([rate - low, high - rate], 0), fmt="o-", capsize=3, color=colour, label=activation
        )
        known = relu_starts.PUBLISHED_RATES.get((problem, activation, "adam"))
        if known:
            ax.plot(
                range(2, 2 + len(known)),
                np.array(known) / 100,
                "x",
                color=colour,
                label=f"{activation}, published (Adam)",
            )
    ax.set(xlabel="hidden units", title=problem, ylim=(-0.03, 1.03))
axes[0].set_ylabel("share of starts that succeed")
axes[0].legend(fontsize=8)

# %% [markdown]
# ## The blind spot
#
# If all units of a layer are below zero for all data, the gradient is zero but for the last bias: nothing moves. With
# params drawn around a mean below zero that is likely, the more so the narrower the layer.

# %%
means = np.linspace(-1.5, 0.5, 5 if SMOKE else 13)
fig, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
for width in (1, 2, 4, 16):
    found = [
        relu_starts.dead_share(jax.random.key(1), widths=(width,), mean=float(m), std=0.5, num_starts=10 * STARTS)
        for m in means
    ]
    share, low, high = np.array([(f.share, f.low, f.high) for f in found]).T
    (line,) = ax.plot(means, share, "o-", markersize=3, label=f"{width} units")
    ax.fill_between(means, low, high, alpha=0.2, color=line.get_color())
ax.set(
    xlabel="mean of all params (standard deviation .5)",
    ylabel="share of starts with a dead layer",
    title="XOR's inputs",
)
ax.legend()
