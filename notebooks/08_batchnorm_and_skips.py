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
# # Batch normalisation, skips, and training that stands still
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/hessjax/hessjax/blob/main/notebooks/08_batchnorm_and_skips.ipynb)
#
# What do skip connections and batch normalisation do to the surface around a solution? Do many starts end alike, and
# when a loss stands still, has the gradient vanished? Four nets are trained alike and looked at alike; then nets of
# several widths, a deep linear net, and one trained on a few rows at a time. It needs a CPU and about three minutes.

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
import optax
from flax import linen as nn

# %matplotlib inline

SMOKE = bool(os.environ.get("HESSJAX_SMOKE"))  # tiny sizes, for testing this notebook
STEPS, ROWS, SIDE, INITS = (4, 20, 5, 2) if SMOKE else (200, 100, 25, 3)
CHANNELS = (2,) if SMOKE else (2, 4)
folder = tempfile.mkdtemp()

# %% [markdown]
# ## Four nets, one training
#
# A small residual net on digits (He et al., [arXiv:1603.05027](https://arxiv.org/abs/1603.05027)), with and without
# its skips, with and without batch normalisation (Ioffe & Szegedy,
# [arXiv:1502.03167](https://arxiv.org/abs/1502.03167)), trained by Adam on all rows, from the same keys. Means and
# variances are computed from the rows inside the loss and differentiated, so that the surface seen is the one trained
# on. A step is compiled and called in a plain loop.

# %%
KINDS = {"skips, BN": (True, "batch"), "skips": (True, "none"), "BN": (False, "batch"), "neither": (False, "none")}
nets = {
    name: hj.landscapes.get("resnet", skip=skip, norm=norm, statistics="batch", channels=CHANNELS, rows=ROWS)
    for name, (skip, norm) in KINDS.items()
    if not SMOKE or name == "skips, BN"
}
seen_at = np.unique(np.linspace(0, STEPS, 2 if SMOKE else 4).astype(int))  # steps whose params are kept
adam = optax.adam(0.01)


def trained(land):
    """Losses [inits, steps], and params of every init at the steps of `seen_at`."""
    mean_loss = lambda params: jnp.mean(land.loss(params, land.batch))

    @jax.jit
    def step(params, state):
        loss, grad = jax.value_and_grad(mean_loss)(params)
        updates, state = adam.update(grad, state)
        return optax.apply_updates(params, updates), state, loss

    losses, kept = [], []
    for key in jax.random.split(jax.random.key(0), INITS):
        params = land.init(key)
        state, row, path = adam.init(params), [], []
        for k in range(STEPS + 1):
            path += [params] * (k in seen_at)
            params, state, loss = step(params, state)
            row.append(loss)
        losses.append(jnp.stack(row))
        kept.append(path)
    return np.asarray(jnp.stack(losses), float), kept


losses, paths = {}, {}
for name, land in nets.items():
    losses[name], paths[name] = trained(land)
ends = {name: [path[-1] for path in kept] for name, kept in paths.items()}
for name in nets:
    size = sum(x.size for x in jax.tree.leaves(ends[name][0]))
    print(f"{name}: {size} params, loss {[float(f'{x:.2g}') for x in losses[name][:, -1]]}")

# %%
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for k, (name, rows) in enumerate(losses.items()):
    ax.plot(rows.T, color=f"C{k}", linewidth=1, label=[name] + [None] * (INITS - 1))
ax.set(xlabel="training step", ylabel="loss", yscale="log", title=f"The same training, {INITS} inits each")
_ = ax.legend(frameon=False)
if not SMOKE:
    normed, plain = (
        np.concatenate([losses[name][:, -1] for name in both]) for both in (("skips, BN", "BN"), ("skips", "neither"))
    )
    print(
        f"last losses with BN {normed.min():.2g} to {normed.max():.2g}, without {plain.min():.2g} to {plain.max():.2g}"
    )
    assert plain.max() < normed.min()

# %% [markdown]
# At this size, two to four channels, nets without normalisation are fitted sooner. What is seen below is around ends
# of equal training, not of equal loss.

# %% [markdown]
# ## The surface around each solution, on one scale
#
# The plane of two random directions through the end of the first init, every filter of a direction as long as that of
# the net: 0.5 is half as far as the weights are long (Li et al.,
# [arXiv:1712.09913](https://arxiv.org/abs/1712.09913)). The four have the same sides and the same colours; what lies
# beyond the scale is drawn at its end. The white line is a loss of 1.

# %%
sides = np.linspace(-0.5, 0.5, SIDE)
planes = {}
for name, land in nets.items():
    u, v = (hj.profiles.filter_normalized(k, ends[name][0]) for k in jax.random.split(jax.random.key(5)))
    planes[name] = hj.profiles.plane(land.loss, ends[name][0], u, v, sides, sides, batch=land.batch)
largest = {name: float(np.max(over.values)) for name, over in planes.items()}
for name, over in planes.items():
    low = np.mean(np.asarray(over.values) < 1)
    print(f"{name}: up to {largest[name]:.3g}; below 1 on {low:.1%} of the plane")
if not SMOKE:
    assert 5 * max(largest["skips, BN"], largest["BN"]) < min(largest["skips"], largest["neither"])
    for pair in (("skips, BN", "BN"), ("skips", "neither")):
        assert max(largest[name] for name in pair) < 4 * min(largest[name] for name in pair)

# %%
LOW, TOP = -1.5, 2.0  # of the scale: losses of 0.03 and 100
logs = {
    name: over._replace(values=np.clip(np.log10(np.asarray(over.values)), LOW, TOP)) for name, over in planes.items()
}
figure = plt.figure(figsize=(13, 6.4), layout="constrained")
for k, (name, over) in enumerate(logs.items()):
    ax = figure.add_subplot(2, 4, k + 1)
    filled = ax.contourf(over.xs, over.ys, over.values, levels=np.linspace(LOW, TOP, 29), cmap="viridis")
    ax.contour(over.xs, over.ys, over.values, levels=[0.0], colors="white", linewidths=1.2)
    ax.set(title=name, aspect="equal", xlabel="first direction", ylabel="second direction" if k == 0 else "")
    ax = hj.plot.surface(
        over, labels=("first direction", "second"), ax=figure.add_subplot(2, 4, 5 + k, projection="3d")
    )
    ax.set_zlim(LOW, TOP)
    ax.collections[0].set_clim(LOW, TOP)
bar = figure.colorbar(filled, ax=figure.axes, ticks=range(-1, 3), shrink=0.7, pad=0.03)
_ = bar.set_label("log10 of the loss")

# %% [markdown]
# Normalisation is what flattens the plane here: what the weights of a layer grow by, the next mean and variance take
# off again, so that far away answers are wrong and outputs no larger. In a net of five convolutions skips change
# little beside that; the published difference between nets with and without them is one of dozens of layers.

# %% [markdown]
# ## How sharp, along training
#
# The largest eigenvalue at a few steps of the first init, and at the end of every init, with the share of negative
# ones.

# %%
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
sharp = {}
for k, (name, land) in enumerate(nets.items()):
    spectrum = jax.jit(lambda params, land=land: hj.eigvalsh(hj.Hessian(land.loss, params, land.batch)))
    seen = [np.asarray(spectrum(params)) for params in paths[name][0] + ends[name][1:]]
    along, last = [float(values[-1]) for values in seen[: len(seen_at)]], seen[len(seen_at) - 1 :]
    ax.plot(seen_at, along, "o-", color=f"C{k}", markersize=4, label=name)
    ax.plot(
        [STEPS * (1.03 + 0.03 * k)] * INITS,
        [values[-1] for values in last],
        "o",
        color=f"C{k}",
        markersize=8,
        fillstyle="none",
    )
    sharp[name] = [float(values[-1]) for values in last]
    negative = [float(np.mean(values < -1e-5 * abs(values).max())) for values in last]
    print(
        f"{name}: {np.round(along, 1).tolist()} along training; ends {np.round(sharp[name], 1).tolist()}, "
        f"negative {np.mean(negative):.1%}"
    )
ax.set(xlabel="training step", ylabel="largest eigenvalue", yscale="log", title="Sharpness (rings: ends of all inits)")
_ = ax.legend(frameon=False)

# %% [markdown]
# The largest eigenvalue is of one direction, and no property of what a net computes: weights before a normalisation can
# be made longer, and the surface flatter, without a change of any output. Directions that are scaled like the weights
# do not see that.

# %% [markdown]
# ## How far until the loss doubles?
#
# Along random filter-normalised directions from the end of every init, both ways, in units of the weights' own length.
# A small loss doubles sooner than a large one, so the distance for a rise by 0.1 stands beside it.

# %%
draws = jax.random.split(jax.random.key(6), 1 if SMOKE else 2)
wide = {}
for name, land in nets.items():
    found = {"doubled": [], "risen by 0.1": []}
    for end, row in zip(ends[name], losses[name], strict=True):
        drawn = jax.tree.map(lambda *x: jnp.stack(x), *(hj.profiles.filter_normalized(k, end) for k in draws))
        lengths = np.asarray(jax.vmap(optax.global_norm)(drawn))[:, None]
        for what, rise in (("doubled", float(row[-1])), ("risen by 0.1", 0.1)):
            reach = hj.modes.widths(land.loss, end, drawn, rise=rise, most=float(2 * lengths.min()), batch=land.batch)
            found[what].append(reach / lengths)
    wide[name] = {what: np.ravel(x) for what, x in found.items()}
    middle = {what: f"{np.median(x):.3f} ({x.min():.3f} to {x.max():.3f})" for what, x in wide[name].items()}
    print(f"{name}: doubled at {middle['doubled']}, risen by 0.1 at {middle['risen by 0.1']}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained", sharey=True)
for ax, what in zip(axes, ("doubled", "risen by 0.1"), strict=True):
    for k, name in enumerate(nets):
        ax.plot(np.full(wide[name][what].size, k), wide[name][what], "o", color=f"C{k}", alpha=0.5)
        ax.plot([k - 0.25, k + 0.25], [np.median(wide[name][what])] * 2, color=f"C{k}", linewidth=2.5)
    ax.set_xticks(range(len(nets)), labels=list(nets))
    ax.set(title=f"Until the loss has {what}", yscale="log")
_ = axes[0].set_ylabel("distance / length of the weights")
if not SMOKE:
    for what in ("doubled", "risen by 0.1"):
        middles = {name: np.median(wide[name][what]) for name in nets}
        assert min(middles["skips, BN"], middles["BN"]) > max(middles["skips"], middles["neither"])
    assert np.median(sharp["skips, BN"]) > np.median(sharp["skips"])

# %% [markdown]
# By the medians of either measure the basins of normalised nets are the wider ones, though the net with skips and
# normalisation has larger eigenvalues than that with skips alone: what is narrow along its sharpest direction can be
# wide along most.
# Santurkar et al. ([arXiv:1805.11604](https://arxiv.org/abs/1805.11604)) hold such smoothness to be why normalisation
# helps training.

# %% [markdown]
# ## Between two solutions: what becomes of the statistics?
#
# On the line between the ends of two inits the weights are mixtures; the means and variances can stay those of the
# first end (frozen), be mixed likewise, or be computed anew at every point. The same net as a flax module of one's own:
# layers in the same order have the same names, so the params above are its params.


# %%
class Net(nn.Module):
    """The net with skips and normalisation."""

    channels: tuple

    @nn.compact
    def __call__(self, x, train):
        act = lambda x: nn.relu(nn.BatchNorm(not train, momentum=0.0, use_fast_variance=False)(x))
        conv = lambda x, c, s=1: nn.Conv(c, (3, 3), strides=s, use_bias=False)(x)
        x = conv(x, self.channels[0])
        for stage, c in enumerate(self.channels):
            y = conv(act(conv(act(x), c, 2 if stage else 1)), c)
            x = x[:, :: 2 if stage else 1, :: 2 if stage else 1]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, c - x.shape[-1]))) + y
        return nn.Dense(10)(act(x).mean((1, 2)))


net, (inputs, targets) = Net(CHANNELS), nets["skips, BN"].batch
cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels
with_statistics = []
for params in ends["skips, BN"][:2]:
    _, made = net.apply({"params": params}, inputs, train=True, mutable=["batch_stats"])
    with_statistics.append({"params": params, **made})
first, second = with_statistics

frozen, a = hj.adapters.linen(net, first, train=False)
anew, _ = hj.adapters.linen(net, first, statistics="batch", train=True)
mixed, both = hj.adapters.linen(net, first, statistics="params", train=False)
ts = np.linspace(0, 1, 5 if SMOKE else 41)
b = second["params"]
ways = {
    "frozen": hj.profiles.line(hj.adapters.per_example(frozen, cross_entropy), a, b, ts, batch=(inputs, targets)),
    "mixed": hj.profiles.line(hj.adapters.per_example(mixed, cross_entropy), both, second, ts, batch=(inputs, targets)),
    "computed anew": hj.profiles.line(hj.adapters.scalar(anew, cross_entropy), a, b, ts, batch=(inputs, targets)),
}
for name, way in ways.items():
    wall = hj.modes.barrier(way.ts, way.values)
    print(f"{name}: {way.values[0]:.3g} to {way.values[-1]:.3g}, up to {wall.peak:.3g}; barrier {wall.height:.3g}")
last = losses["skips, BN"][:2, -1]
for way in ("mixed", "computed anew"):  # at the ends they are the loss that was trained
    assert np.allclose(np.asarray(ways[way].values)[[0, -1]], last, rtol=1e-2, atol=1e-4)
assert np.isclose(ways["frozen"].values[0], last[0], rtol=1e-2, atol=1e-4)
ax = hj.plot.lines(ways, title="Between two solutions, by the statistics used")
ax.figure

# %% [markdown]
# All three agree at the first end, and the two that follow the weights at the second. With statistics that are another
# net's, even a solution is none: with frozen ones the loss is highest at the far end, so that no barrier stands above
# the ends. Whoever draws a line between normalised nets must say which statistics it has.

# %% [markdown]
# ## Do many inits end alike?
#
# Nets of one hidden layer on digits, each width from many starts, all trained alike: the last losses against width.

# %%
MANY, LONG = (4, 5) if SMOKE else (24, 300)


def last_losses(land):
    """Of many inits, after training by Adam on all rows."""
    mean_loss = lambda params: jnp.mean(land.loss(params, land.batch))

    def one(key):
        def step(carry, _):
            params, state = carry
            updates, state = adam.update(jax.grad(mean_loss)(params), state)
            return (optax.apply_updates(params, updates), state), None

        params = land.init(key)
        (params, _), _ = jax.lax.scan(step, (params, adam.init(params)), None, length=LONG)
        return mean_loss(params)

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), MANY)))


final = {}
for width in (2,) if SMOKE else (2, 4, 8, 16, 32):
    final[width] = last_losses(hj.landscapes.get("digits-mlp", widths=(width,)))
    low, middle, high = np.quantile(final[width], [0, 0.5, 1])
    print(f"width {width}: {low:.3g} to {high:.3g}, median {middle:.3g}; highest minus lowest {high - low:.2g}")
if not SMOKE:
    medians = [np.median(x) for x in final.values()]
    assert np.all(np.diff(medians) < 0)
    assert np.ptp(final[32]) < np.ptp(final[2]) / 5
ax = hj.plot.final_losses(final)
ax.figure

# %% [markdown]
# Wider nets end lower, and their inits closer together: which of the solutions was found matters less and less.

# %% [markdown]
# ## Staircases: from saddle to saddle
#
# A deep linear net learns one direction of its task after another, the strongest first, and before each stands still
# near a saddle (Saxe et al., [arXiv:1312.6120](https://arxiv.org/abs/1312.6120)). For a linear autoencoder all critical
# points are known: with the m strongest of the eigenvalues kept, the loss is the sum of the rest over the number of
# inputs. The net starts near zero, and its index is the number of eigenvalues below the threshold.

# %%
VALUES = (8.0, 4.0, 2.0, 1.0)
config = hj.Sweep(
    landscape="autoencoder",
    options={"inputs": 4, "hidden": 4, "depth": 3, "eigenvalues": VALUES, "init_scale": 0.1},
    num_inits=3,
    num_steps=20 if SMOKE else 4500,
    optimizer="sgd",
    learning_rate=0.03,
    times=5 if SMOKE else 101,
    spacing="linear",
)
stairs = hj.open_sweep(hj.sweep(config, f"{folder}/stairs.zarr", progress=False))
levels = [sum(VALUES[m:]) / 4 for m in range(5)]
figure = hj.plot.along_training(stairs, names=("loss", "grad_norm", "index"), inits=range(3))
figure.suptitle("A linear autoencoder from a small start", x=0.01, ha="left", fontweight="bold")
figure.axes[0].set_yscale("linear")
for level in levels:
    figure.axes[0].axhline(level, color="grey", linestyle=":", linewidth=1, zorder=0)
figure

# %%
loss, steep, index = (np.asarray(stairs[name]) for name in ("loss", "grad_norm", "negative"))
middles = []
for level in levels:
    close = np.abs(loss - level) < 0.02
    if close.any():
        middles.append(np.median(index[close]))
        print(
            f"within 0.02 of a loss of {level:.2f} at {close.sum()} of {close.size} measurements: index "
            f"{index[close].min()} to {index[close].max()}, median {middles[-1]:.0f}; gradient norm from "
            f"{steep[close].min():.2g}"
        )
print(f"gradient norm at most {steep.max():.2g}; at the ends loss up to {loss[:, -1].max():.1g}, index {index[:, -1]}")
if not SMOKE:
    assert len(middles) == len(levels)
    assert np.all(np.diff(middles) < 0)
    assert np.all(index[:, -1] == 0)
    assert np.all(loss[:, -1] < 0.01)

# %% [markdown]
# Dotted are the losses of the saddles. From one plateau to the next the median index falls, to 0 where training ends;
# on a plateau the gradient is small though never zero, and between plateaus it rises while the loss falls. At zero
# itself the Hessian of three layers is zero (Kawaguchi, [arXiv:1605.07110](https://arxiv.org/abs/1605.07110)): a saddle
# without a negative eigenvalue. Near it about half are negative, small as they are, as the threshold is relative.

# %% [markdown]
# ## Stuck is not at a critical point
#
# A loss may also stand still where nothing vanishes. An ordinary net, trained by steps on four rows drawn at random:
# loss, gradient norm over all rows, and share of negative eigenvalues, medians over inits (Goodfellow, Bengio &
# Courville, [Deep Learning](https://www.deeplearningbook.org), figure 8.1).

# %%
config = hj.Sweep(
    landscape="digits-mlp",
    options={"widths": (2,), "rows": 20} if SMOKE else {},
    num_inits=2 if SMOKE else 5,
    num_steps=10 if SMOKE else 1500,
    optimizer="sgd",
    learning_rate=1.0,
    batch_size=4,
    times=3 if SMOKE else 16,
    spacing="linear",
    measure="inertia",
)
noisy = hj.open_sweep(hj.sweep(config, f"{folder}/noisy.zarr", progress=False))
figure = hj.plot.along_training(noisy)
figure.suptitle("Four rows a step", x=0.01, ha="left", fontweight="bold")
figure

# %%
half = noisy.sizes["time"] // 2
loss, steep = (np.median(noisy[name], axis=0) for name in ("loss", "grad_norm"))
share = np.median(noisy["negative"], axis=0) / noisy.attrs["landscape"]["num_params"]
print(
    f"second half of training: loss {loss[half]:.3g} to {loss[-1]:.3g}, gradient norm {steep[half]:.3g} to "
    f"{steep[-1]:.3g}"
)
print(f"gradient norm at the start {steep[0]:.3g}; negative {share[half:].min():.1%} to {share[half:].max():.1%}")
if not SMOKE:
    assert np.min(noisy["grad_norm"]) > 0.01
    assert np.all(share > 0.02)

# %% [markdown]
# The gradient is far from zero throughout, and there are ways down: such points are no critical points, neither minima
# nor saddles, and what holds training up is not that the gradient vanishes. Where it does vanish is searched for in
# [06_critical_points](06_critical_points.ipynb).
