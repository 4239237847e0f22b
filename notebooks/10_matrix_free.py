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
# # Without a matrix: the spectrum of a convolutional network, with and without batch normalisation
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/hessjax/hessjax/blob/main/notebooks/10_matrix_free.ipynb)
#
# A Hessian of a million parameters has no place as a matrix, but its product with a vector costs two gradients, and a
# few hundred products tell the whole spectrum: the outliers one by one, the bulk as a density with an error band, how
# much of it is negative, the trace. This notebook takes two small convolutional networks apart in that way: what batch
# normalisation does to the spectrum, which part of it the Gauss-Newton matrix explains, and which layer holds it. The
# networks are small so that a CPU is enough, for under two minutes; nothing here depends on their size.

# %%
try:
    import hessjax as hj
except ImportError:
    # %pip install -q "hessjax[all] @ git+https://github.com/hessjax/hessjax"
    import hessjax as hj

import os
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

# %matplotlib inline

SMOKE = bool(os.environ.get("HESSJAX_SMOKE"))  # tiny sizes, for testing this notebook
CHANNELS, ROWS, STEPS = ((2, 4), 32, 5) if SMOKE else ((8, 16), 512, 100)
PROBES = {"num_steps": 8, "num_probes": 3} if SMOKE else {"num_steps": 64, "num_probes": 8}
K = 3 if SMOKE else 12  # eigenvalues found one by one
KEY = jax.random.key(1)

# %% [markdown]
# ## Two networks
#
# Two convolutions, a dense layer, 512 of scikit-learn's 8x8 digits; once plain, once with BatchNorm after each
# convolution. Both start from the same kernels and train by Adam on all rows.

# %%
images, labels = hj.landscapes.get("digits-mlp", pool=1, rows=ROWS).batch
images = jnp.reshape(images, (-1, 8, 8, 1))


class ConvNet(nn.Module):
    norm: bool

    @nn.compact
    def __call__(self, x, train=False):
        for channels, stride in zip(CHANNELS, (1, 2)):
            x = nn.Conv(channels, (3, 3), strides=stride, use_bias=not self.norm)(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x) if self.norm else x
            x = nn.relu(x)
        return nn.Dense(10)(x.reshape(len(x), -1))


cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels
optimizer = optax.adam(3e-3)


@partial(jax.jit, static_argnums=0)
def step(net, params, rest, state):
    def loss(params):
        logits, updated = net.apply({"params": params, **rest}, images, train=True, mutable=["batch_stats"])
        return jnp.mean(cross_entropy(logits, labels)), updated

    (value, updated), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    change, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, change), {**rest, **updated}, state, value


def train(net):  # a Python loop: in lax.scan, XLA is slow at the derivatives of convolutions on a CPU
    rest = net.init(jax.random.key(0), images)
    params = rest.pop("params")
    state = optimizer.init(params)
    for _ in range(STEPS):
        params, rest, state, value = step(net, params, rest, state)
    print(f"norm={net.norm}: loss {value:.4f}")
    return {"params": params, **rest}


trained = {norm: train(ConvNet(norm)) for norm in (False, True)}

# %% [markdown]
# ## What is differentiated
#
# A normalised network is two different functions: with running statistics (`statistics="frozen"`), where each row's
# loss depends on that row alone, and with those of the batch, as it trains, where rows couple and the loss is one
# scalar. Their Hessians differ, so the adapter asks which is meant. `hj.adapters.linen` returns a pure
# `model(params, inputs)` and the params.


# %%
def operators(norm, statistics="frozen"):
    train = statistics == "batch"
    model, params = hj.adapters.linen(ConvNet(norm), trained[norm], statistics=statistics, train=train)
    form = hj.adapters.scalar if train else hj.adapters.per_example
    output_loss = mean_cross_entropy if train else cross_entropy
    batch = (images, labels)
    H = hj.Hessian(form(model, cross_entropy), params, batch)
    return H, hj.GaussNewton(model, output_loss, params, batch), hj.Residual(model, output_loss, params, batch)


def mean_cross_entropy(logits, targets):
    return jnp.mean(cross_entropy(logits, targets))


H, G, R = operators(norm=False)
H_norm, G_norm, R_norm = operators(norm=True, statistics="batch")
defects = [hj.check_operator(op, KEY).defects for op in (H, G, H_norm, G_norm)]
assert SMOKE or (H.size, H_norm.size) == (3818, 3842)

# %% [markdown]
# The check is not idle. Called per example, the statistics of the batch would make a wrong Hessian without a word:

# %%
model, params = hj.adapters.linen(ConvNet(True), trained[True], statistics="batch", train=True)
try:
    hj.check_operator(hj.Hessian(hj.adapters.per_example(model, cross_entropy), params, (images, labels)), KEY)
except hj.OperatorError as error:
    print(error)
else:
    raise AssertionError("the coupling was not noticed")

# %% [markdown]
# ## Outliers and bulk
#
# `hj.spectrum` finds the eigenvalues largest in magnitude by thick-restart Lanczos, each with its residual, projects
# them out, and takes the density of the rest by stochastic Lanczos quadrature, where far fewer steps then resolve far
# more. One call; every number has its error.

# %%
plain = hj.spectrum(H, KEY, k=K, **PROBES)
normed = hj.spectrum(H_norm, KEY, k=K, **PROBES)

fig, (above, below) = plt.subplots(2, 1, figsize=(9, 9), layout="constrained")
hj.plot.density(plain, ax=above)
hj.plot.density(normed, ax=below)
for ax, words in ((above, "plain"), (below, "batch normalisation")):
    ax.set_title(words, loc="right", fontsize=10)
ends = [*above.get_xlim(), *below.get_xlim()]
for ax in (above, below):
    ax.set_xlim(min(ends), max(ends))


# %%
def line(name, found):
    top, (low, high) = np.asarray(found.outliers.values), (float(x(found.bulk.nodes)) for x in (jnp.min, jnp.max))
    trace = "{:.2f} to {:.2f} (95 %)".format(*map(float, found.trace.interval(PROBES["num_probes"])))
    print(f"{name:8s} largest {top[-1]:.3f}, {len(top)}th {top[0]:.3f}; rest in [{low:.3f}, {high:.3f}]; trace {trace}")


line("plain", plain)
line("normed", normed)
largest, largest_norm = float(plain.outliers.values[-1]), float(normed.outliers.values[-1])

assert plain.outliers.converged.all()
assert normed.outliers.converged.all()
assert (plain.outliers.residuals <= 1.01e-4 * largest).all()  # hj.spectrum's rtol
assert SMOKE or largest_norm < largest / 2

# %% [markdown]
# Both have a bulk at zero and a handful of eigenvalues far above it, about as many as there are classes (Sagun et al.
# 2017, Papyan 2019). Normalised, the largest are several times smaller, which is what Ghorbani et al. (2019) saw in
# large networks and hold to be why normalisation helps first-order methods.
#
# The title gives the share of negative eigenvalues as a range. Within about 0.003 of zero, where most eigenvalues of a
# trained network lie, 64 steps cannot tell one sign from the other; what is not resolved is said, not guessed.

# %% [markdown]
# ## Gauss-Newton against Hessian
#
# $H = G + R$: $G$ is the curvature of the loss through the model's first derivatives, never negative; $R$ that of the
# model itself, weighted by what is still wrong. Once a network fits its data, $R$ is small: the outliers are those of
# $G$, and the negative eigenvalues are what $R$ adds to the zeros of $G$.
#
# There is more that is exact. A ReLU network without normalisation, or with frozen statistics, is piecewise linear in
# every single weight, so the diagonal of $R$ is zero and the traces of $H$ and $G$ are equal. With statistics of the
# batch it is not.

# %%
gauss = hj.spectrum(G, KEY, k=K, **PROBES)
residual = hj.trace(R, KEY, method="hutchinson", num_probes=8 if SMOKE else 100)
residual_norm = hj.trace(R_norm, KEY, method="hutchinson", num_probes=8 if SMOKE else 100)

shift = np.abs(np.asarray(plain.outliers.values) - np.asarray(gauss.outliers.values)) / largest
print(f"outliers of H and G differ by at most {shift.max():.1e} of the largest")
for name, found in (("plain", residual), ("normed", residual_norm)):
    print(f"{name:8s} trace of R {float(found.value):.3f} +- {1.96 * float(found.std_error):.3f}")

diagonal = hj.diagonal(R, KEY, num_probes=8 if SMOKE else 100)
zscores = np.concatenate([(v / jnp.where(e > 0, e, 1)).ravel() for v, e in zip(*map(jax.tree.leaves, diagonal[:2]))])

assert float(gauss.bulk.nodes.min()) > -1e-5 * largest  # G is positive semi-definite
assert abs(residual.value) <= 4 * residual.std_error + 1e-5 * largest  # zero, by the argument above
assert SMOKE or np.abs(zscores).max() < 6
assert SMOKE or residual_norm.value > 10 * residual_norm.std_error  # and here it is not
assert SMOKE or shift.max() < 0.01

# %%
grid = plain.grid()
fig, ax = plt.subplots(figsize=(9, 4), layout="constrained")
for found, name, style in ((plain, "Hessian", "-"), (gauss, "Gauss-Newton", "--")):
    curve = found.density(grid, width=plain.width())
    (drawn,) = ax.plot(grid, curve.value, style, label=name)
    ax.fill_between(grid, *curve.interval(PROBES["num_probes"]), color=drawn.get_color(), alpha=0.2, linewidth=0)
ax.set_xscale("symlog", linthresh=0.01)
ax.set(
    yscale="log", ylim=(3e-5 / plain.width(), 1 / plain.width()), xlabel="eigenvalue λ", ylabel="share per unit of λ"
)
ax.legend(frameon=False)
# %% [markdown]
# ## Layer by layer
#
# `hj.restrict` is the principal block on the leaves whose path matches: second derivatives in these params alone. Its
# products skip the rest of the network's derivatives. Traces of disjoint blocks add up to that of the whole, and by
# Cauchy's interlacing no block has an eigenvalue above the largest of the whole; a block small enough can be checked
# against its matrix.

# %%
blocks = {name: hj.restrict(H, f"{name}/*") for name in H.params}
total = 0.0
for name, block in blocks.items():
    trace = hj.trace(block, KEY, num_probes=min(40, block.size))
    top = hj.eigsh(block, KEY, k=1)
    total, worst = total + float(trace.value), float(top.values[-1])
    print(f"{name:8s} {block.size:5d} params: trace {float(trace.value):6.2f} +- {1.96 * float(trace.std_error):.2f}, "
          f"largest {worst:.3f}")  # fmt: skip
    assert top.converged.all()
    assert worst <= largest * (1 + 1e-4)
print(f"sum of traces {total:.2f}; of the whole {float(plain.trace.value):.2f}")

exact = hj.eigvalsh(blocks["Conv_0"])
found = hj.eigsh(blocks["Conv_0"], KEY, k=5, which="BE")

assert SMOKE or abs(total - plain.trace.value) < 4 * plain.trace.std_error + 0.05 * total
np.testing.assert_allclose(found.values, np.r_[exact[:2], exact[-3:]], atol=1e-4 * exact[-1])

# %% [markdown]
# ## What to read next
#
# - `help(hj.spectrum)`, `hj.slq`, `hj.kpm`, `hj.eigsh`, `hj.trace`, `hj.negative_fraction`, `hj.logdet`: each says
#   what it costs in products and what its error means; `rtol=` and `atol=` ask for an accuracy instead of a number of
#   probes.
# - `hj.Streamed(loss, params, batches)`: the same for data that do not fit in memory. `hj.Fisher`: the Fisher matrix.
# - On the command line, `hessjax spectrum --method slq --report page.html` writes a page with the first figure.
# - L. Sagun et al. (2017), *Empirical analysis of the Hessian of over-parametrized neural networks*,
#   [arXiv:1706.04454](https://arxiv.org/abs/1706.04454); V. Papyan (2019), *The full spectrum of deepnet Hessians at
#   scale*, [arXiv:1811.07062](https://arxiv.org/abs/1811.07062); B. Ghorbani, S. Krishnan and Y. Xiao (2019), *An
#   investigation into neural net optimization via Hessian eigenvalue density*,
#   [arXiv:1901.10159](https://arxiv.org/abs/1901.10159).
