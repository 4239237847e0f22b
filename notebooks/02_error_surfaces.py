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
# # Error surfaces: minimum, saddle, or just flat?
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/hessjax/hessjax/blob/main/notebooks/02_error_surfaces.ipynb)
#
# Training stops where the gradient is small. What kind of place that is, the Hessian says: its eigenvalues are the
# curvatures along its eigenvectors. This notebook redraws the first half of a lecture on error surfaces from code:
# small surfaces and what their Hessians do and do not tell, Newton's method against gradient descent at saddles, and
# linear nets of one unit a layer. It needs a CPU and about a minute.

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

# %matplotlib inline

jax.config.update("jax_enable_x64", True)
SMOKE = bool(os.environ.get("HESSJAX_SMOKE"))  # tiny sizes, for testing this notebook
SIDE, STARTS = (25, 20) if SMOKE else (121, 400)
SURFACES = ["bowl", "saddle", "quartic-valley", "quartic-saddle", "quartic-hill", "zero", "monkey-saddle", "peano"]
land = {name: hj.landscapes.get(name, dtype="float64") for name in [*SURFACES, "gradient-flat"]}

# %% [markdown]
# ## Eight surfaces
#
# All but one have one critical point, the origin. Their Hessians there are exact; the words are what the functions
# are, from all orders. Where the Hessian has zero eigenvalues and no negative one, it cannot decide: `quartic-valley`
# and `quartic-saddle` have the same Hessian at 0, and so have the maximum `quartic-hill`, the monkey saddle and the
# zero function.

# %%
grid = np.linspace(-1.2, 1.2, SIDE)
X, Y = np.meshgrid(grid, grid)
points = jnp.stack([X, Y], axis=-1)
fig, axes = plt.subplots(2, 4, figsize=(15, 7.4), subplot_kw={"projection": "3d"}, layout="constrained")
for ax, name in zip(axes.flat, SURFACES):
    Z = jax.vmap(jax.vmap(land[name].loss))(points)
    H = hj.Hessian(land[name].loss, jnp.zeros(2))
    values, (fact,) = hj.eigvalsh(H), land[name].facts["critical_points"]
    ax.plot_surface(X, Y, np.asarray(Z), cmap="viridis", linewidth=0, rcount=60, ccount=60)
    ax.set_title(f"{land[name].facts['notes'][0][10:]}\n{fact['kind']}; λ = {values[0]:g}, {values[1]:g}", fontsize=10)
    ax.tick_params(labelsize=6, pad=-3)

# %% [markdown]
# ## Eigenvectors are directions, eigenvalues curvatures
#
# Along a unit vector x the second derivative is x'Hx = sum of a_i^2 λ_i, with a the coordinates of x in the basis of
# eigenvectors: below at the saddle -x^2 + 3 y^2, turned by 30 degrees. It is negative in a sector; where it is zero
# is no flat direction, only a way between up and down.

# %%
turn = np.array([[np.cos(np.pi / 6), -np.sin(np.pi / 6)], [np.sin(np.pi / 6), np.cos(np.pi / 6)]])
turned = lambda p: land["saddle"].loss(jnp.asarray(turn.T) @ p)
H = hj.Hessian(turned, jnp.zeros(2))
values, vectors = hj.eigh(H)
angle = np.linspace(0, 2 * np.pi, 361)
directions = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
curvature = jax.vmap(lambda v: v @ H.mv(v))(directions)
a = np.asarray(directions @ vectors)
np.testing.assert_allclose(curvature, a**2 @ values, atol=1e-12)

fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
left.contourf(X, Y, jax.vmap(jax.vmap(turned))(points), levels=30)
for value, vector in zip(values, vectors.T):
    left.annotate("", xy=vector, xytext=(0, 0), arrowprops={"color": "white", "width": 1.5, "headwidth": 8})
    left.text(vector[0] + 0.25, vector[1] + 0.08, f"λ = {value:.0f}", color="white", ha="center")
left.set(title="-x² + 3 y², turned by 30°", aspect="equal")
right.plot(np.degrees(angle), curvature)
right.axhline(0, color="grey", linewidth=0.8)
right.fill_between(np.degrees(angle), curvature, 0, where=curvature < 0, alpha=0.3)
right.set(xlabel="direction (degrees)", ylabel="second derivative x'Hx", title="curvature in every direction")

# %% [markdown]
# ## Newton's method goes to critical points, whatever they are
#
# One Newton step, θ - H⁻¹g, ends at the critical point of a quadratic, a saddle like a minimum. Gradient descent
# walks away from a saddle along its negative curvature, slowly at first. Saddle-free Newton, θ - |H|⁻¹g, does so at
# once ([Dauphin et al. 2014](https://arxiv.org/abs/1406.2572)). At a monkey saddle the Hessian itself vanishes:
# Newton only halves its distance at every step.


# %%
def descent(loss):
    return lambda p: p - 0.03 * jax.grad(loss)(p)


def newton(loss):
    return lambda p: p - jnp.linalg.solve(hj.dense(hj.Hessian(loss, p)), jax.grad(loss)(p))


def saddle_free(loss):
    def step(p):
        values, vectors = hj.eigh(hj.Hessian(loss, p))
        return p - vectors @ ((vectors.T @ jax.grad(loss)(p)) / jnp.abs(values))

    return step


def path(step, start, count):
    _, steps = jax.lax.scan(lambda p, _: (step(p), p), jnp.asarray(start), length=count)
    return np.asarray(steps)


steep = hj.landscapes.get("saddle", across=5.0, along=-1.0, dtype="float64")
fig, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
for ax, loss, start, title in (
    (axes[0], steep.loss, (-1.0, 0.05), "5 x² - y²"),
    (axes[1], land["monkey-saddle"].loss, (0.9, 0.6), "monkey saddle"),
):
    ax.contourf(X, Y, jax.vmap(jax.vmap(loss))(points), levels=30)
    ways = {
        "gradient descent": descent(loss),
        "Newton": newton(loss),
        "saddle-free Newton": saddle_free(loss),
    }
    for (name, step), style in zip(ways.items(), ("o-", "s-", "^-")):
        way = path(step, start, 45 if name == "gradient descent" else 5)
        ax.plot(*way.T, style, markersize=3.5, linewidth=1, label=name)
    ax.set(title=title, xlim=(-1.2, 1.2), ylim=(-1.2, 1.2))
axes[0].legend(loc="upper right", fontsize=8)
np.testing.assert_allclose(newton(steep.loss)(jnp.array([-1.0, 0.05])), 0, atol=1e-12)
np.testing.assert_allclose(saddle_free(steep.loss)(jnp.array([-1.0, 0.05])), (0, 0.1), atol=1e-12)
np.testing.assert_allclose(newton(land["monkey-saddle"].loss)(jnp.array([0.9, 0.6])), (0.45, 0.3), atol=1e-12)

# %% [markdown]
# ## A net of two weights
#
# One hidden unit, no activation, one example: the loss is (1 - w₁w₂)². Two valleys of global minima, and a saddle at
# 0 that is easy to leave: its eigenvalues are -2 and 2. Of many random starts, all descend to a minimum.

# %%
net = hj.landscapes.get("scalar-linear", dtype="float64")
for fact in net.facts["critical_points"]:
    print(
        f"{fact['name']:8s} at {fact['point']} loss {fact['loss']:g} eigenvalues {fact['eigenvalues']} {fact['kind']}"
    )
w = np.linspace(-2.5, 2.5, SIDE)
W1, W2 = np.meshgrid(w, w)
loss_of = jax.vmap(jax.vmap(lambda a, b: net.loss(jnp.stack([a, b]))))
starts = jax.vmap(net.init)(jax.random.split(jax.random.key(0), STARTS))
descend = lambda p: p - 0.02 * jax.grad(net.loss)(p)
ways = np.asarray(jax.vmap(lambda s: jax.lax.scan(lambda p, _: (descend(p), p), s, length=2000)[1])(starts))
fig, ax = plt.subplots(figsize=(6.4, 5.2), layout="constrained")
ax.contourf(W1, W2, np.arcsinh(loss_of(W1, W2)), levels=40)
for way in ways[:40]:
    ax.plot(*way.T, color="white", linewidth=0.7, alpha=0.8)
ax.plot(*ways[:40, 0].T, ".", color="#b2182b", markersize=4)
ax.set(
    xlabel="w₁", ylabel="w₂", xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), title="(1 - w₁w₂)²: gradient descent from 40 starts"
)
final = jax.vmap(net.loss)(ways[:, -1])
print(f"{int((final < 1e-6).sum())} of {STARTS} starts reach loss 0 in 2000 steps")
assert (final < 1e-6).mean() > 0.98

# %% [markdown]
# ## Deeper, and flat
#
# With more layers the Hessian at 0 vanishes, and more derivatives with it: from the origin the loss is flat to the
# order of the depth, though all its minima are still global. Along the diagonal, all weights θ, it is (1 - θ^depth)².

# %%
theta = np.linspace(0, 1.6, 200)
fig, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
for depth in (1, 2, 3, 5, 11):
    deep = hj.landscapes.get("scalar-linear", depth=depth, dtype="float64")
    line = jax.vmap(deep.loss)(jnp.repeat(jnp.asarray(theta)[:, None], depth, axis=1))
    ax.plot(theta, line, label=f"{depth} weights")
    np.testing.assert_allclose(line, (1 - theta**depth) ** 2, atol=1e-11, rtol=1e-10)
    counts = hj.inertia(hj.Hessian(deep.loss, jnp.zeros(depth)), tol=1e-10)
    if depth > 1:
        assert (int(counts.negative), int(counts.zero)) == ((1, 0) if depth == 2 else (0, depth))
ax.set(xlabel="θ, every weight", ylabel="loss", ylim=(0, 1.3), title="the deeper, the flatter at 0")
ax.legend()

# %% [markdown]
# The lecture's chart of ten hidden layers moves two of eleven weights from the origin of the others' plane: with the
# other nine at 1 the loss is again that of two weights, with a product in front; with them at 1/2 nothing but a
# plateau is in reach.

# %%
deep = hj.landscapes.get("scalar-linear", depth=11, dtype="float64")
fig, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
t = np.linspace(0, 2.5, SIDE)
T1, T2 = np.meshgrid(t, t)
for ax, rest in zip(axes, (1.0, 0.5)):
    weights = jnp.concatenate([jnp.stack([T1, T2], axis=-1), jnp.full((SIDE, SIDE, 9), rest)], axis=-1)
    plane = jax.vmap(jax.vmap(deep.loss))(weights)
    drawn = ax.contourf(T1, T2, plane, levels=np.linspace(0, max(1.2, float(plane.max()) / 20), 30), extend="max")
    ax.set(xlabel="θ₁", ylabel="θ₂", title=f"ten hidden layers, the other weights {rest:g}")
    fig.colorbar(drawn, ax=ax)

# %% [markdown]
# ## Stuck is not critical
#
# At (±√2, 0) this quartic is gradient-flat: its gradient is far from zero but lies in the null space of the Hessian,
# so that the squared gradient norm is stationary there. At (√2, 0) it has a local minimum: a method that minimises it
# stops, at no critical point at all ([Frye et al. 2021](https://doi.org/10.1162/neco_a_01388)).

# %%
quartic = land["gradient-flat"]
flat = jnp.asarray(quartic.facts["flat_points"][0])
g = jax.grad(quartic.loss)(flat)
Hg = hj.Hessian(quartic.loss, flat).mv(g)
print(f"at (√2, 0): gradient norm {jnp.linalg.norm(g):.3f}, |H g| = {jnp.linalg.norm(Hg):.1e}")
squared = lambda p: jnp.sum(jax.grad(quartic.loss)(p) ** 2) / 2
ends = path(lambda p: p - 2e-3 * jax.grad(squared)(p), (2.4, 0.8), 3000)[-1]
print(f"descent on the squared gradient from (2.4, .8) ends at ({ends[0]:.4f}, {ends[1]:.4f})")
np.testing.assert_allclose(ends, flat, atol=1e-2)
x = np.linspace(-4, 3, 300)
fig, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
left.plot(x, jax.vmap(lambda s: quartic.loss(jnp.stack([s, 0.0])))(x))
right.semilogy(x, 2 * jax.vmap(lambda s: squared(jnp.stack([s, 0.0])))(x))
for ax, title in ((left, "loss along y = 0"), (right, "squared gradient norm")):
    ax.axvline(-3, color="#2166ac", linestyle=":", label="critical")
    ax.axvline(2**0.5, color="#b2182b", linestyle="--", label="gradient-flat")
    ax.axvline(-(2**0.5), color="#b2182b", linestyle="--")
    ax.set(title=title, xlabel="x")
left.legend()
