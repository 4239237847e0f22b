"""Losses of networks of every kind, for what reads their programs: hand-written and flax, per example and scalar.

A row makes (loss, params, batch) in float64; `columns` are the leaves that no form is known of, and why the row is
there. A new architecture is one row of ARCHITECTURES.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import hessjax as hj


class Architecture(NamedTuple):
    name: str
    make: Callable  # () -> (loss, params, batch)
    why: str
    columns: tuple[str, ...] = ()  # patterns of the paths of leaves that are columns; all others are pieces


N = 7  # rows


def draw(seed, *shape):
    """NumPy's, as the table is made before x64 is on."""
    return np.random.default_rng(seed).standard_normal(shape)


def labels(count, *shape):
    return np.random.default_rng(99).integers(0, count, shape or (N,))


def cross_entropy(z, y):
    return jax.nn.logsumexp(z, axis=-1) - jnp.take_along_axis(z, y[..., None], axis=-1)[..., 0]


def squared(z, y):
    return 0.5 * jnp.sum((z - y) ** 2, axis=-1)


def log_cosh(z, y):
    return jnp.sum(jnp.log(jnp.cosh(z - y)), axis=-1)


@jax.custom_jvp
def huber_like(z):
    return jnp.sqrt(1.0 + z**2)


huber_like.defjvps(lambda t, out, z: t * z / out)


def mlp(widths, activation=jnp.tanh, loss=cross_entropy, bias=True, targets=None, seed=0):
    """Layers in a list; the first width is the inputs'."""
    params = [
        {"w": draw(seed + k, a, b) / a**0.5} | ({"b": 0.1 * draw(seed + 50 + k, b)} if bias else {})
        for k, (a, b) in enumerate(pairwise(widths))
    ]

    def model(params, x):
        for k, layer in enumerate(params):
            x = (activation(x) if k else x) @ layer["w"] + (layer["b"] if bias else 0.0)
        return x

    y = targets if targets is not None else labels(widths[-1]) if loss is cross_entropy else draw(77, N, widths[-1])
    return model, (lambda p, batch: loss(model(p, batch[0]), batch[1])), params, (draw(88, N, widths[0]), y)


def of_mlp(*args, wrap=None, **options):
    def make():
        _, loss, params, batch = mlp(*args, **options)
        return loss if wrap is None else wrap(loss), *as_arrays(params, batch)

    return make


def with_decay(loss, scalar):
    decay = lambda p: 0.05 * sum(jnp.sum(x**2) for x in jax.tree.leaves(p))
    return lambda p, batch: (jnp.mean(loss(p, batch)) if scalar else loss(p, batch)) + decay(p)


def orthogonal(loss):
    gram = lambda w: w.T @ w - jnp.eye(w.shape[1])
    return lambda p, batch: jnp.mean(loss(p, batch)) + 0.1 * jnp.sum(gram(p[0]["w"]) ** 2)


def plain(f, params, batch):
    return lambda: (f, *as_arrays(params, batch))


def as_arrays(*trees):
    return tuple(jax.tree.map(jnp.asarray, tree) for tree in trees)


def of_linen(module, inputs, loss=cross_entropy, count=3, statistics="frozen", scalar=False, **call):
    def make():
        variables = module.init(jax.random.key(0), jnp.asarray(inputs), **call)
        variables = jax.tree.map(lambda x: x + 0.1 * draw(3, *x.shape), variables)
        model, params = hj.adapters.linen(module, variables, statistics=statistics, **call)
        value = lambda p, batch: loss(model(p, batch[0]), batch[1])
        outputs = jax.eval_shape(model, *as_arrays(params, inputs))
        y = labels(count) if loss is cross_entropy else draw(5, *outputs.shape)
        return (lambda p, b: jnp.mean(value(p, b))) if scalar else value, *as_arrays(params, (inputs, y))

    return make


def tied(p, batch):
    x, _ = batch
    return squared(jnp.tanh(jnp.tanh(x @ p["w"]) @ p["v"] @ p["v"].T) @ p["w"].T, x)


def residual(p, batch):
    h = batch[0]
    for w in p:
        h = h + jnp.tanh(h @ w)
    return squared(h, batch[1])


def recurrent(p, batch):
    step = lambda h, x: (jnp.tanh(h @ p["w"] + x @ p["u"] + p["b"]), None)
    h, _ = jax.lax.scan(step, jnp.zeros((N, 4)), batch[0].transpose(1, 0, 2))
    return cross_entropy(h @ p["out"], batch[1])


def learned_start(p, batch):
    step = lambda h, x: (jnp.tanh(h @ p["w"] + x), None)
    h, _ = jax.lax.scan(step, jnp.broadcast_to(p["start"], (N, 3)), batch[0].transpose(1, 0, 2))
    return squared(h, batch[1])


def stacked(p, batch):
    h, _ = jax.lax.scan(lambda h, layer: (h + jnp.tanh(h @ layer["w"] + layer["b"]), None), batch[0], p)
    return squared(h, batch[1])


def stacked_recurrent(p, batch):
    """Layers in a loop, each of them a loop over time."""

    def layer(xs, w):
        return jax.lax.scan(lambda h, x: (jnp.tanh(h @ w + x),) * 2, jnp.zeros((N, 3)), xs)[1], None

    hs, _ = jax.lax.scan(layer, batch[0].transpose(1, 0, 2), p["w"])
    return squared(hs[-1] @ p["out"], batch[1])


def indexed(p, batch):
    """Weights picked by a loop's counter: other ones at every step, which no form tells."""
    step = lambda k, h: jnp.tanh(h @ p["w"][k])
    h, _ = jax.lax.scan(lambda h, k: (step(k, h), None), batch[0], jnp.arange(3))
    return squared(h, batch[1])


def lora(p, batch):
    h = jnp.tanh(batch[0] @ (p["w"] + p["a"] @ p["b"]))
    return squared(h @ p["out"], batch[1])


def weight_norm(p, batch):
    w = p["g"] * p["v"] / jnp.linalg.norm(p["v"], axis=0)
    return cross_entropy(jnp.tanh(batch[0] @ w) @ p["out"], batch[1])


def arranged(p, batch):
    """Weights put together, cut, turned round, transposed and multiplied by constants before they are used."""
    mask = jnp.asarray(np.random.default_rng(4).integers(0, 2, (4, 6)), float)
    w = jnp.concatenate([p["a"], p["b"]], axis=1)[:, ::-1] * mask / 4.0**0.5
    z = jnp.tanh(batch[0] @ w) @ p["c"][1:].T.reshape(6, 3) - (1.0 + p["d"])
    return squared(z, batch[1])


def gated(p, batch):
    x, y = batch
    gates = jax.nn.softmax(x @ p["gate"])
    experts = jnp.einsum("ni,eio->neo", x, p["experts"])
    return cross_entropy(jnp.einsum("ne,neo->no", gates, jnp.sin(experts)), y)


def bilinear(p, batch):
    x, y = batch
    return (jnp.einsum("ni,ij,nj->n", x, p["m"], jnp.tanh(x @ p["w"])) - y) ** 2


def one_by_one(p, batch):
    """Written for one example, and mapped over them."""
    one = lambda x, y: jnp.sum((jnp.tanh(x @ p["w"] + p["b"]) @ p["v"] - y) ** 2)
    return jax.vmap(one)(*batch)


def weighted(p, batch):
    z = jnp.tanh(batch["x"] @ p["w"]) @ p["v"]
    entropy = -jax.nn.log_softmax(z / batch["temperature"])[jnp.arange(N), batch["y"]]
    return jnp.sum(batch["weight"] * entropy) / jnp.sum(jnp.ones(N)) + 0.1 * jnp.sum(p["w"] ** 4)


def attention(p, batch):
    x, y = batch
    q, k, v = (jnp.einsum("ntd,dhe->nthe", x, p[name]) for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("nthe,nshe->nhts", q, k) / 2.0**0.5)
    mixed = jnp.einsum("nhts,nshe->nthe", weights, v)
    return cross_entropy(jnp.mean(jnp.einsum("nthe,hed->ntd", mixed, p["o"]), axis=1), y)


class Transformer(nn.Module):
    """A decoder block: embeddings of words and places, causal attention, norms, a residual MLP."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(5, 4)(tokens) + self.param("places", nn.initializers.normal(1.0), (tokens.shape[1], 4))
        mask = nn.make_causal_mask(tokens)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x), mask=mask)
        x = x + nn.Dense(4)(nn.gelu(nn.Dense(6)(nn.RMSNorm()(x))))
        return nn.Dense(5)(x)


def next_token(z, y):
    return jnp.mean(cross_entropy(z, y), axis=-1)


def transformer():
    tokens = labels(5, N, 3)
    params = Transformer().init(jax.random.key(0), tokens)["params"]
    params = jax.tree.map(lambda x: x.astype(float) + 0.1 * draw(1, *x.shape), params)
    return lambda p, batch: next_token(Transformer().apply({"params": p}, batch[0]), batch[1]), *as_arrays(
        params, (tokens, tokens)
    )


class Convolutional(nn.Module):
    """Strides, groups, dilation, pooling, norms over groups of channels."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.GroupNorm(2)(nn.Conv(4, (3, 3), strides=2)(x)))
        x = nn.avg_pool(nn.Conv(4, (2, 2), feature_group_count=2, kernel_dilation=2)(x), (2, 2))
        return nn.Dense(3)(jnp.tanh(x).reshape(len(x), -1))


class Normalised(nn.Module):
    """Batch normalisation, from running statistics or from the batch."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(3)(jnp.tanh(nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))))


class Recurrent(nn.Module):
    cell: nn.Module

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.RNN(self.cell)(x)[:, -1])


def of_nnx():
    net = nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.LayerNorm(3, rngs=nnx.Rngs(1)), jnp.tanh)
    model, params = hj.adapters.nnx(net)
    params = jax.tree.map(lambda x: x.astype(float) + 0.1 * draw(2, *x.shape), params)
    return lambda p, b: log_cosh(model(p, b[0]), b[1]), *as_arrays(params, XY)


def checkpointed(p, batch):
    block = jax.checkpoint(lambda x, w: jnp.tanh(x @ w))
    return squared(block(block(batch[0], p["a"]), p["b"]), batch[1])


def transposed_convolution(p, batch):
    z = jax.lax.conv_transpose(jnp.tanh(batch[0] @ p["w"])[:, :, None], p["k"], (2,), "SAME")
    return jnp.mean((z[..., 0] - batch[1]) ** 2, axis=-1)


SERIES = draw(11, N, 5, 2)
XY = draw(0, N, 4), draw(1, N, 3)

ARCHITECTURES = [
    Architecture("linear softmax", of_mlp([4, 3]), "no hidden layer"),
    Architecture("one tanh layer", of_mlp([4, 5, 3], loss=squared, bias=False), "the reference problem's form"),
    Architecture("three relu layers", of_mlp([4, 5, 4, 3], jax.nn.relu), "kinks"),
    Architecture("six softplus layers", of_mlp([3, 3, 2, 3, 2, 3, 3], jax.nn.softplus), "distant layers' cross terms"),
    Architecture(
        "logistic",
        of_mlp([4, 3, 1], loss=lambda z, y: jnp.logaddexp(0.0, -y * z[:, 0]), targets=draw(6, N)),
        "one output",
    ),
    Architecture("log-cosh", of_mlp([4, 3, 2], jnp.sin, log_cosh), "no loss of the usual ones"),
    Architecture(
        "own derivative", of_mlp([4, 3, 2], huber_like, lambda z, y: jnp.sum(huber_like(z - y), -1)), "rules by hand"
    ),
    Architecture(
        "quartic in a hidden layer", of_mlp([4, 3, 2], lambda z: z**3, lambda z, y: jnp.sum(z**4, -1)), "powers"
    ),
    Architecture(
        "scalar mean", of_mlp([4, 3, 3], wrap=lambda loss: lambda p, b: jnp.mean(loss(p, b))), "the scalar form"
    ),
    Architecture("scalar with decay", of_mlp([4, 3, 3], wrap=lambda f: with_decay(f, True)), "a term without data"),
    Architecture(
        "decay in every row", of_mlp([4, 3, 3], wrap=lambda f: with_decay(f, False)), "the same in each row's loss"
    ),
    Architecture("orthogonality", of_mlp([4, 3, 3], wrap=orthogonal), "a term without data that is not entry by entry"),
    Architecture("tied", plain(tied, {"w": draw(2, 4, 3), "v": draw(3, 3, 2)}, XY), "weights used twice, transposed"),
    Architecture(
        "residual", plain(residual, [draw(2, 3, 3), draw(3, 3, 3)], (draw(4, N, 3), XY[1])), "two ways round a layer"
    ),
    Architecture(
        "arranged",
        plain(arranged, {"a": draw(2, 4, 2), "b": draw(3, 4, 4), "c": draw(4, 4, 6), "d": draw(5, 3)}, XY),
        "views",
    ),
    Architecture(
        "lora",
        plain(lora, {"w": draw(2, 4, 3), "a": draw(3, 4, 1), "b": draw(4, 1, 3), "out": draw(5, 3, 3)}, XY),
        "a product of weights",
        ("w", "a", "b"),
    ),
    Architecture(
        "weight norm",
        plain(weight_norm, {"g": draw(2, 3), "v": draw(3, 4, 3), "out": draw(4, 3, 3)}, (XY[0], labels(3))),
        "weights over their norm",
        ("g", "v"),
    ),
    Architecture(
        "mixture",
        plain(gated, {"gate": draw(2, 4, 2), "experts": draw(3, 2, 4, 3)}, (XY[0], labels(3))),
        "experts and a gate",
    ),
    Architecture(
        "bilinear", plain(bilinear, {"m": draw(2, 4, 4), "w": draw(3, 4, 4)}, (XY[0], draw(4, N))), "data on both sides"
    ),
    Architecture(
        "one by one",
        plain(one_by_one, {"w": draw(2, 4, 3), "b": draw(3, 3), "v": draw(4, 3, 3)}, XY),
        "vmap of one example",
    ),
    Architecture(
        "weighted rows",
        plain(
            weighted,
            {"w": draw(2, 4, 3), "v": draw(3, 3, 3)},
            {"x": XY[0], "y": labels(3), "weight": np.arange(1.0, N + 1), "temperature": np.array(0.7)},
        ),
        "indices by arange, scalars, weights",
    ),
    Architecture(
        "attention",
        plain(
            attention,
            {n: draw(k, 4, 2, 2) for k, n in enumerate("qkv")} | {"o": draw(9, 2, 2, 4)},
            (draw(8, N, 3, 4), labels(4)),
        ),
        "heads",
    ),
    Architecture(
        "rnn",
        plain(
            recurrent,
            {"w": draw(2, 4, 4), "u": draw(3, 2, 4), "b": draw(4, 4), "out": draw(5, 4, 3)},
            (SERIES, labels(3)),
        ),
        "weights in a loop",
    ),
    Architecture(
        "learned start",
        plain(learned_start, {"w": draw(2, 3, 3), "start": draw(3, 3)}, (draw(4, N, 5, 3), XY[1])),
        "a loop's first state",
        ("start",),
    ),
    Architecture(
        "stacked",
        plain(stacked, {"w": draw(2, 3, 3, 3), "b": draw(3, 3, 3)}, (draw(4, N, 3), XY[1])),
        "a loop over layers",
    ),
    Architecture(
        "stacked rnn",
        plain(stacked_recurrent, {"w": draw(2, 2, 3, 3), "out": draw(3, 3, 3)}, (draw(4, N, 4, 3), XY[1])),
        "a loop in a loop",
    ),
    Architecture(
        "indexed", plain(indexed, {"w": draw(2, 3, 4, 4)}, (XY[0], draw(3, N, 4))), "weights by a counter", ("w",)
    ),
    Architecture("checkpointed", plain(checkpointed, {"a": draw(2, 4, 3), "b": draw(3, 3, 3)}, XY), "jax.checkpoint"),
    Architecture(
        "transposed convolution",
        plain(transposed_convolution, {"w": draw(2, 4, 3), "k": draw(3, 4, 1, 1)}, (XY[0], draw(4, N, 6))),
        "dilated inputs",
    ),
    Architecture(
        "linen convolutions", of_linen(Convolutional(), draw(3, N, 7, 7, 2)), "strides, groups, dilation, pooling"
    ),
    Architecture("batch norm, frozen", of_linen(Normalised(), XY[0]), "running statistics"),
    Architecture(
        "batch norm of the batch",
        of_linen(Normalised(), XY[0], statistics="batch", scalar=True, train=True),
        "rows that meet",
        ("*",),
    ),
    Architecture("linen lstm", of_linen(Recurrent(nn.LSTMCell(3, param_dtype="float64")), SERIES), "gates"),
    Architecture(
        "linen optimised lstm",
        of_linen(Recurrent(nn.OptimizedLSTMCell(3, param_dtype="float64")), SERIES),
        "gates put together",
    ),
    Architecture("linen gru", of_linen(Recurrent(nn.GRUCell(3, param_dtype="float64")), SERIES), "products of gates"),
    Architecture("transformer", transformer, "a whole block"),
    Architecture("nnx", of_nnx, "the other flax"),
]
