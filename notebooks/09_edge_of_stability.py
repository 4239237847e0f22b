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
# # The edge of stability
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/hessjax/hessjax/blob/main/notebooks/09_edge_of_stability.ipynb)
#
# Gradient descent with step $\eta$ diverges on a quadratic form whose curvature is above $2/\eta$. Networks trained on
# all rows at once do not stay away from that bound: the sharpness, the largest eigenvalue of the Hessian, rises to it
# and stays there, and the loss goes on falling, no longer at every step (Cohen et al.,
# [arXiv:2103.00065](https://arxiv.org/abs/2103.00065)). Here sharpness is measured inside the optimiser's chain while a
# tanh net is trained. It needs a CPU and about two minutes.

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
import optax

# %matplotlib inline

SMOKE = bool(os.environ.get("HESSJAX_SMOKE"))  # tiny sizes, for testing this notebook
STEPS, EVERY = (40, 10) if SMOKE else (3000, 20)
OPTIONS = {"widths": (4,), "rows": 32} if SMOKE else {"widths": (50, 50), "rows": 500, "pool": 1}

# %% [markdown]
# ## A net, and training that is watched
#
# A tanh net on digits, its targets one-hot, its loss half the squared distance. `hj.track` is an element of any optax
# chain. Its measure goes on from the last subspace: after the first time eight products with the Hessian are enough.

# %%
land = hj.landscapes.get("digits-mlp", activation="tanh", loss="squared", **OPTIONS)
start = land.init(jax.random.key(0))
mean_loss = lambda params: jnp.mean(land.loss(params, land.batch))
sharpness = hj.measures.extremes(land.loss, jax.random.key(1), land.batch)


def trained(optimizer):
    """Loss at every step, and what was tracked, at the steps where it was measured."""

    @jax.jit
    def run(params):
        def step(carry, _):
            params, state = carry
            loss, grad = jax.value_and_grad(mean_loss)(params)
            updates, state = optimizer.update(grad, state, params)
            return (optax.apply_updates(params, updates), state), (loss, hj.tracked(state))

        return jax.lax.scan(step, (params, optimizer.init(params)), None, length=STEPS)[1]

    loss, seen = run(start)
    return np.asarray(loss), jax.tree.map(lambda x: np.asarray(x)[::EVERY], seen)


def summary(name, loss, values, threshold):
    """Where the threshold is first passed, how values lie about it from there, and how often the loss rises."""
    above = values > threshold
    if not above.any():
        print(f"{name}: threshold {threshold:.3g}, not reached; {values[-1]:.3g} at the end, loss {loss[-1]:.2g}")
        return
    first = int(above.argmax())
    low, middle, high = np.quantile(values[first:] / threshold, [0.1, 0.5, 0.9])
    rises = (np.diff(loss[first * EVERY :]) > 0).mean()
    print(
        f"{name}: threshold {threshold:.3g}, passed at step {first * EVERY}; from there {middle:.2f} times it "
        f"(80 % within {low:.2f} to {high:.2f}); the loss rises at {rises:.0%} of the steps, from {loss[0]:.2g} to "
        f"{loss[-1]:.2g}"
    )


def drawn(runs, thresholds, label, title):
    """Loss and curvature of several runs, thresholds dotted."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
    steps = np.arange(STEPS)
    for k, (name, (loss, values)) in enumerate(runs.items()):
        left.plot(steps, loss, color=f"C{k}", linewidth=0.8, label=name)
        right.plot(steps[::EVERY], values, color=f"C{k}", linewidth=1, label=name)
        right.axhline(thresholds[name], color=f"C{k}", linestyle=":")
    left.set(xlabel="training step", ylabel="loss", yscale="log")
    right.set(xlabel="training step", ylabel=label)
    left.legend(frameon=False)
    figure.suptitle(title)
    return figure


# %% [markdown]
# ## Gradient descent
#
# Three steps. The smallest is a control: its threshold is out of reach, and its sharpness passes the places where the
# others stop. So it is the step that stops them, not the surface.

# %%
rates = (0.2,) if SMOKE else (0.1, 0.2, 0.25)
runs, thresholds = {}, {}
for rate in rates:
    name = f"step {rate}"
    loss, seen = trained(optax.chain(hj.track(sharpness, EVERY), optax.sgd(rate)))
    runs[name], thresholds[name] = (loss, seen.values[:, 0]), float(hj.tracking.stability_threshold(rate))
    summary(name, *runs[name], thresholds[name])
_ = drawn(runs, thresholds, "sharpness", "Gradient descent: sharpness rises to 2 / step, and stays")

# %% [markdown]
# ## Momentum
#
# With Polyak's momentum the bound is $(2 + 2\beta)/\eta$: the same place for a larger step.

# %%
rate, beta = 0.4, 0.9
loss, seen = trained(optax.chain(hj.track(sharpness, EVERY), optax.sgd(rate, momentum=beta)))
threshold = float(hj.tracking.stability_threshold(rate, momentum=beta))
summary(f"momentum {beta}, step {rate}", loss, seen.values[:, 0], threshold)

# %% [markdown]
# ## Adam
#
# What Adam's step is held against is the curvature divided by its own preconditioner, $P^{-1/2} H P^{-1/2}$, with the
# bound $(2 + 2\beta_1) / ((1 - \beta_1)\eta)$ (Cohen et al., [2022](https://arxiv.org/abs/2207.14484)). With `inner=`
# the optimiser is wrapped, and the measure sees its second moments. Gradient and preconditioner move meanwhile, so that
# the bound is met from below.

# %%
measure = hj.measures.preconditioned_sharpness(land.loss, jax.random.key(1), land.batch)
runs, thresholds = {}, {}
for rate in (0.003,) if SMOKE else (0.001, 0.003):
    name = f"Adam, step {rate}"
    loss, seen = trained(hj.track(measure, EVERY, inner=optax.adam(rate)))
    runs[name] = (loss, seen.values[:, 0])
    thresholds[name] = float(hj.tracking.stability_threshold(rate, momentum=0.9, kind="adam"))
    summary(name, *runs[name], thresholds[name])
figure = drawn(runs, thresholds, "preconditioned sharpness", "Adam: the preconditioned sharpness")
figure.axes[1].set_yscale("log")

# %% [markdown]
# ## The gradient in the top subspace
#
# At the edge steps overshoot along the sharpest directions, to one side and back, so that most of the gradient lies
# along them (Gur-Ari et al., [arXiv:1812.04754](https://arxiv.org/abs/1812.04754)). Below it hardly any does: what is
# steep is long descended.

# %%
overlap = hj.measures.overlap(land.loss, jax.random.key(1), land.batch, k=2)
shares = {}
for rate in (0.2,) if SMOKE else (0.1, 0.2):
    _, seen = trained(optax.chain(hj.track(overlap, EVERY), optax.sgd(rate)))
    shares[f"step {rate}"] = seen.share
    half = seen.share[len(seen.share) // 2 :]
    print(f"step {rate}: {np.median(half):.1%} of the squared gradient along the top two eigenvectors, second half")
figure, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
for name, share in shares.items():
    ax.plot(np.arange(0, STEPS, EVERY), share, linewidth=0.9, label=name)
ax.set(xlabel="training step", ylabel="share of the squared gradient", title="Along the top two eigenvectors")
_ = ax.legend(frameon=False)

# %% [markdown]
# ## What watching costs
#
# A measurement from the last subspace is a few products; `hj.tracking.cost` times it, and says how often one can
# measure for a share of the time.

# %%
found = hj.tracking.cost(sharpness, optax.sgd(0.2), land.loss, start, land.batch, share=0.1)
print(f"a measurement {1e3 * found.measure_s:.1f} ms, a training step {1e3 * found.step_s:.2f} ms:")
print(f"every {found.every} steps it is {found.share:.1%} of the time")
