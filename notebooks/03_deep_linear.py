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
# # Deep linear networks: every local minimum is global
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/hessjax/hessjax/blob/main/notebooks/03_deep_linear.ipynb)
#
# A deep linear network, y = W_L ... W_1 x with the squared loss, is the largest model whose whole error surface is
# known. [Kawaguchi (2016)](https://arxiv.org/abs/1605.07110): it is neither convex nor concave, every local minimum
# is global, every other critical point is a saddle, and with more than one hidden layer some saddles have no negative
# eigenvalue. Here all critical points are enumerated, and the theorem is looked at. It needs a CPU and about a
# minute.

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

from hessjax.landscapes.linear_points import kawaguchi

# %matplotlib inline

jax.config.update("jax_enable_x64", True)
SMOKE = bool(os.environ.get("HESSJAX_SMOKE"))  # tiny sizes, for testing this notebook
STARTS, STEPS = (8, 1500) if SMOKE else (200, 6000)

# %% [markdown]
# ## All critical points of an autoencoder
#
# Six inputs with variances 1 to 6, three hidden units. Critical points belong to subsets of the eigenvectors of the
# covariance ([Baldi & Hornik 1989](https://doi.org/10.1016/0893-6080(89)90014-2)): the network keeps some three or
# fewer of the six, 42 choices. Loss, index (negative eigenvalues) and nullity of each are closed form; below they are
# compared with the Hessian of the loss at that point.

# %%
land = hj.landscapes.get("autoencoder", inputs=6, hidden=3, dtype="float64")
points = land.facts["critical_points"]
measured = jax.jit(lambda p: hj.inertia(hj.Hessian(land.loss, p, land.batch), tol=1e-10))
for fact in points:
    counts = measured(jax.tree.map(jnp.asarray, fact["point"]))
    assert (int(counts.negative), int(counts.zero)) == (fact["index"], fact["nullity"]), fact["name"]
least = land.facts["lower_bound"]
print(f"{len(points)} critical points, index and nullity of all as predicted; global minimum {least:g}")

# %% [markdown]
# The higher a critical point, the more directions lead down: what random-matrix theory says of large networks on
# average is exact and nearly a line here. There is one value without a way down, the lowest.

# %%
deeper = hj.landscapes.get("autoencoder", inputs=6, hidden=3, depth=4, dtype="float64")
fig, axes = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained", sharey=True)
for ax, one, title in ((axes[0], land, "one hidden layer"), (axes[1], deeper, "three hidden layers")):
    facts = one.facts["critical_points"]
    kept = np.array([len(f["subset"]) for f in facts])
    strict = np.array([f["kind"] != "degenerate saddle" for f in facts])
    loss, index = (np.array([f[k] for f in facts]) for k in ("loss", "index"))
    for many in range(4):
        here = (kept == many) & strict
        ax.plot(loss[here], index[here], "o", markersize=5, label=f"{many} eigenvectors kept")
    if not strict.all():
        ax.plot(
            loss[~strict], index[~strict], "x", color="black", markersize=7, label="saddle without negative eigenvalue"
        )
    ax.axvline(one.facts["lower_bound"], color="grey", linewidth=0.8)
    ax.set(xlabel="loss", title=title)
axes[0].set_ylabel("index: negative eigenvalues")
axes[0].legend(fontsize=8, loc="upper left")
axes[1].legend(fontsize=8, loc="upper left")

# %% [markdown]
# ## Kawaguchi's statements, held against the enumeration

# %%
for title, one in (("one hidden layer", land), ("three hidden layers", deeper)):
    facts = one.facts["critical_points"]
    print(f"{title}: {len(facts)} points")
    for statement, found in kawaguchi(one.facts["problem"], facts).items():
        print(f"  {statement:28s} {'holds' if found.holds else 'FAILS'}, shown by {len(found.witnesses)} points")
        assert found.holds

# %% [markdown]
# ## Gradient descent from many starts
#
# So all starts should reach the one minimum, if they are patient: on the way they pass saddles, and each is a
# plateau.


# %%
def train(one, key, steps=STEPS, rate=0.02):
    optimizer = optax.sgd(rate)
    mean = lambda p: jnp.mean(one.loss(p, one.batch))

    def step(carry, _):
        params, state = carry
        value, gradient = jax.value_and_grad(mean)(params)
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    start = jax.tree.map(lambda x: 1e-4 * x, one.init(key))  # small weights: saddle after saddle
    return jax.lax.scan(step, (start, optimizer.init(start)), length=steps)[1]


losses = np.asarray(jax.jit(jax.vmap(lambda k: train(land, k)))(jax.random.split(jax.random.key(0), STARTS)))
least = land.facts["lower_bound"]
fig, (left, right) = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
left.plot(losses[:12, :1500].T, linewidth=1)
for k in range(4):
    left.axhline((21 - sum(range(6, 6 - k, -1))) / 6, color="grey", linestyle=":", linewidth=0.8)
left.set(xlabel="step", ylabel="loss", title="a staircase; dotted: the best points of 0, 1, 2, 3 eigenvectors")
right.hist(np.log10(np.maximum(losses[:, -1] - least, 1e-16)), bins=30)
right.set(
    xlabel="log10 of loss above the global minimum", ylabel="starts", title=f"{STARTS} starts after {STEPS} steps"
)
print(f"{int((losses[:, -1] - least < 1e-6).sum())} of {STARTS} starts within 1e-6 of the global minimum")
assert SMOKE or (losses[:, -1] - least < 1e-6).mean() > 0.95

# %% [markdown]
# ## A saddle the Hessian does not show
#
# With three hidden layers the origin has no second derivative at all, nor have other points whose inner layers lost
# rank. Yet they are saddles: along a direction of all layers at once the loss falls with the fourth power.

# %%
origin = next(f for f in deeper.facts["critical_points"] if f["kind"] == "degenerate saddle")
point, way = (jax.tree.map(jnp.asarray, origin[k]) for k in ("point", "descent"))
H = hj.Hessian(deeper.loss, point, deeper.batch)
print(f"{origin['name']}: loss {origin['loss']:g}, largest |eigenvalue| {jnp.abs(hj.eigvalsh(H)).max():.1e}")
t = np.linspace(-1.1, 1.1, 200)
along = jax.vmap(lambda s: jnp.mean(deeper.loss(jax.tree.map(lambda w, d: w + s * d, point, way), deeper.batch)))(t)
fig, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
ax.plot(t, along, label="along the descent direction of the fact")
exact = origin["loss"] - 2 / 6 * 6 * (t**4 - t**8 / 2)
ax.plot(t, exact, "--", label="loss - 2 (t⁴ - t⁸/2)")
np.testing.assert_allclose(along, exact, atol=1e-9)
ax.set(xlabel="t", ylabel="loss", title="flat to third order, and a saddle")
ax.legend()
assert along.min() < origin["loss"] - 0.5
