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
# # Lines, planes and what lies between solutions
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/hessjax/hessjax/blob/main/notebooks/07_profiles.ipynb)
#
# Is the way from a random start to a solution downhill all along? Do optimisers that begin together end together, and
# is there a ridge between where they end? A loss surface is seen along lines and over planes; what is seen depends on
# which, so every picture here says which. It needs a CPU and about three minutes.

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
STEPS, ROWS, SIDE = (6, 20, 7) if SMOKE else (300, 500, 81)
KEY = jax.random.key(0)
at = lambda found, optimizer, time: jax.tree.map(lambda x: x[optimizer, 0, time], found.params)

# %% [markdown]
# ## From start to solution
#
# Three nets are trained, and the loss is taken on the straight line from the start ($t = 0$) to where training ended
# ($t = 1$), and beyond (Goodfellow et al., [arXiv:1412.6544](https://arxiv.org/abs/1412.6544)).

# %%
nets = {
    "MLP": hj.landscapes.get("digits-mlp", rows=ROWS),
    "conv": hj.landscapes.get("conv", rows=ROWS),
    "LSTM": hj.landscapes.get("lstm", rows=ROWS),
}
ts = np.linspace(-0.25, 2.0, 19 if SMOKE else 91)
lines = {}
for name, land in nets.items():
    found = hj.compare_optimizers(land, {"adam": optax.adam(0.01)}, KEY, num_steps=STEPS, times=2)
    lines[name] = hj.profiles.line(land.loss, at(found, 0, 0), at(found, 0, -1), ts, batch=land.batch)
    inside = np.asarray(lines[name].values)[(ts >= 0) & (ts <= 1)]
    rises = np.diff(inside).clip(0).sum()
    print(
        f"{name}: {inside[0]:.3g} to {inside[-1]:.3g} over a distance of {lines[name].length:.3g}; on the way the loss "
        f"rises by {rises:.2g} in all"
    )
ax = hj.plot.lines(lines, title="From a start (0) to where training led (1), and on")
ax.figure

# %% [markdown]
# ## Optimisers that part
#
# The same net from the same start, on the same rows, with four optimisers: how far apart they are at every measured
# step, what the curvature is, and which rows they decide differently in the end
# (Im et al., [arXiv:1612.04010](https://arxiv.org/abs/1612.04010)).

# %%
land = nets["MLP"]
names = ["sgd", "momentum", "adam", "rmsprop"]
found = hj.compare_optimizers(land, names, KEY, num_steps=STEPS, times=4 if SMOKE else 31)
figure = hj.plot.comparison(found)
figure

# %%
print("distance between ends:")
print(np.round(found.distance[0, -1], 2))
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
hj.plot.matrix(found.disagreement[0], names, label="share of rows", title="Rows decided differently", ax=left)
_ = hj.plot.matrix(found.barrier[0], names, label="loss", title="Barriers on straight lines", ax=right)

# %% [markdown]
# ## The plane of the trajectories
#
# The two principal components of all points of all trajectories. Paths are drawn at their nearest points of the plane:
# the shares of variance and the distance from the plane say how much of them is not seen.

# %%
paths = jax.tree.map(lambda x: x[:, 0], found.params)  # [optimizer, time, ...]
points = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), paths)
seen = hj.profiles.trajectory_plane(points, origin="mean")
coordinates = np.asarray(seen.coordinates).reshape(len(names), -1, 2)
low, high = coordinates.min((0, 1)), coordinates.max((0, 1))
xs, ys = (np.linspace(low[k] - 0.3 * (high - low)[k], high[k] + 0.3 * (high - low)[k], SIDE) for k in (0, 1))
over = hj.profiles.plane(land.loss, seen.frame.origin, seen.frame.u, seen.frame.v, xs, ys, batch=land.batch)
print(f"{SIDE}² points; the plane has {seen.explained[:2].sum():.1%} of the variance, ", end="")
print(f"points are up to {seen.distance.max():.2g} off it, of {found.distance.max():.2g} between trajectories")
figure = plt.figure(figsize=(12, 4.8), layout="constrained")
labels = tuple(f"component {k + 1}, {seen.explained[k]:.0%} of the variance" for k in (0, 1))
shown = dict(zip(names, coordinates, strict=True))
hj.plot.plane(over, paths=shown, labels=labels, title="Loss", ax=figure.add_subplot(121))
_ = hj.plot.surface(over, paths=shown, labels=labels, ax=figure.add_subplot(122, projection="3d"))

# %% [markdown]
# ## The plane of three ends
#
# Through the ends of three optimisers, with distances those of parameter space. Beside the loss, the share of negative
# eigenvalues at every point: any function of the params can be seen over a plane.

# %%
ends = [at(found, k, -1) for k in range(3)]
frame, corners = hj.profiles.plane_through(*ends)
room = 0.4 * (corners.max(0) - corners.min(0))
xs, ys = (np.linspace(corners.min(0)[k] - room[k], corners.max(0)[k] + room[k], SIDE) for k in (0, 1))
negative = lambda params: hj.inertia(hj.Hessian(land.loss, params, land.batch), tol=1e-5).negative
losses = hj.profiles.plane(land.loss, frame.origin, frame.u, frame.v, xs, ys, batch=land.batch)
few = [grid[:: 1 if SMOKE else 4] for grid in (xs, ys)]
counts = hj.profiles.plane(negative, frame.origin, frame.u, frame.v, *few)
size = sum(x.size for x in jax.tree.leaves(frame.origin))
shares = counts._replace(values=np.asarray(counts.values) / size)
marks = dict(zip(names, corners))
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
hj.plot.plane(losses, marks=marks, title="Loss", ax=left)
_ = hj.plot.plane(shares, marks=marks, label="share", title="Share of negative eigenvalues", ax=right)
print(f"share of negative eigenvalues in the plane: {shares.values.min():.1%} to {shares.values.max():.1%}")

# %% [markdown]
# ## Independent solutions, and a curve between them
#
# Two other starts. The straight line between their ends crosses a ridge; a quadratic Bézier curve whose bend is trained
# need not (Garipov et al., [arXiv:1802.10026](https://arxiv.org/abs/1802.10026)).

# %%
both = hj.compare_optimizers(land, {"adam": optax.adam(0.01)}, KEY, num_steps=2 * STEPS, times=2, num_inits=2)
a, b = (jax.tree.map(lambda x, k=k: x[0, k, -1], both.params) for k in (0, 1))
curve = hj.modes.connect(land.loss, a, b, jax.random.key(1), land.batch, num_steps=10 if SMOKE else 1500)
print(f"losses at the ends {curve.loss[0]:.3g} and {curve.loss[-1]:.3g}")
print(f"barrier on the line {curve.straight_barrier.height:.3g}, on the curve {curve.barrier.height:.3g}")
figure, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
ax.plot(curve.ts, curve.straight, label="straight line")
ax.plot(curve.ts, curve.loss, label="curve")
ax.set(xlabel="t", ylabel="loss", yscale="log", title="Between independent solutions")
_ = ax.legend(frameon=False)

# %% [markdown]
# ## How wide is the basin?
#
# How far one can go from an end until the loss has risen by a tenth: along eigenvectors of the largest eigenvalues, and
# along random directions to the net's own scale. Of 226 directions a random one is mostly flat.

# %%
op = hj.Hessian(land.loss, a, land.batch)
top = jax.jit(lambda op: hj.eigsh(op, jax.random.key(2), k=3))(op)
keys = jax.random.split(jax.random.key(3), 3)
drawn = jax.tree.map(lambda *x: jnp.stack(x), *(hj.profiles.filter_normalized(k, a) for k in keys))
for what, directions in (("top eigenvectors", top.vectors), ("random directions", drawn)):
    wide = hj.modes.widths(land.loss, a, directions, rise=0.1, batch=land.batch)
    print(f"{what}: {np.round(wide, 2).tolist()}")
bound = np.sqrt(2 * 0.1 / np.asarray(top.values))
print(f"a quadratic form with those eigenvalues: {np.round(bound, 2).tolist()}")

# %% [markdown]
# All of it as one command, with a store that is resumed and shared, and a page whose planes turn:
# `hessjax profile --optimizers sgd momentum adam rmsprop --measure curvature --report`.
