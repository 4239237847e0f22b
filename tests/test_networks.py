"""Networks as landscapes: params by shape, losses against NumPy, rows that do not meet, and what options do."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_array_equal

import hessjax as hj
from hessjax.flags import key_values
from hessjax.landscapes import networks, tasks

EPS = float(np.finfo(float).eps)
IMAGES = {"task": "clusters", "classes": 3, "rows_per_class": 2, "shape": (4, 4, 2)}
SERIES = {"task": "clusters", "classes": 3, "rows_per_class": 2, "shape": (5, 2)}
POINTS = {"task": "clusters", "classes": 3, "rows_per_class": 2, "shape": 4}
TOKENS = {"task": "modular-addition", "modulus": 3, "fraction": 1.0}
SMALL_CONV = {"channels": (2, 3), "dense": (4,), "width_multiplier": 1, "kernel": (3, 2), "pooling_size": (1, 2)}
SMALL_RESNET = {"channels": (2, 3), "kernel": 2}
SMALL_DECODER = {"width": 4, "hidden": 3}

# name: factory, options, and the number of params counted by hand.
NETS = {
    "mlp": (networks.mlp, {"widths": 3, **POINTS}, (4 * 3 + 3) + (3 * 3 + 3)),
    "mlp of images": (networks.mlp, {"widths": (), **IMAGES, "loss": "squared"}, 32 * 3 + 3),
    "mlp of tokens": (networks.mlp, {"widths": (2, 2), "bias": False, **TOKENS}, 6 * 2 + 2 * 2 + 2 * 3),
    "conv": (networks.conv, {**SMALL_CONV, **IMAGES}, (9 * 2 * 2 + 2) + (4 * 2 * 3 + 3) + (12 * 4 + 4) + (4 * 3 + 3)),
    "conv of sequences": (
        networks.conv,
        {"channels": (2,), "dense": (), "width_multiplier": 1, "kernel": 2, "stride": 2, "padding": "VALID",
         "pooling_size": 2, "pooling": "max", **SERIES},
        (2 * 2 * 2 + 2) + (1 * 2 * 3 + 3),
    ),
    # stem, four convolutions, five norms of scale and bias, the layer of outputs
    "resnet": (
        networks.resnet,
        {**SMALL_RESNET, **IMAGES},
        4 * (2 * 2 + 2 * 2 + 2 * 2 + 2 * 3 + 3 * 3) + 2 * (2 + 2 + 2 + 3 + 3) + (3 * 3 + 3),
    ),
    "resnet, layer norm, no skips": (
        networks.resnet,
        {**SMALL_RESNET, **IMAGES, "norm": "layer", "skip": False},
        4 * (2 * 2 + 2 * 2 + 2 * 2 + 2 * 3 + 3 * 3) + 2 * (2 + 2 + 2 + 3 + 3) + (3 * 3 + 3),
    ),
    "resnet of sequences, no norm": (
        networks.resnet,
        {**SMALL_RESNET, **SERIES, "norm": "none", "blocks": 2, "channels": (2,)},
        5 * (2 * 2 * 2 + 2) + (2 * 3 + 3),
    ),
    "rnn": (networks.rnn, {"widths": 3, **SERIES}, (2 * 3 + 3 + 3 * 3) + (3 * 3 + 3)),
    "lstm": (
        networks.lstm,
        {"widths": (3, 2), **SERIES},
        4 * (2 * 3 + 3 * 3 + 3) + 4 * (3 * 2 + 2 * 2 + 2) + (2 * 3 + 3),
    ),
    # tokens, positions, four maps of the attention, MLP, three norms, scores
    "transformer": (
        networks.transformer,
        {**SMALL_DECODER, **TOKENS},
        3 * 4 + 2 * 4 + 4 * (4 * 4 + 4) + (4 * 3 + 3 + 3 * 4 + 4) + 3 * 8 + (4 * 3 + 3),
    ),
    "transformer, next token": (
        networks.transformer,
        {**SMALL_DECODER, **TOKENS, "predict": "next", "depth": 2, "loss": "squared"},
        3 * 4 + 2 * 4 + 2 * (4 * (4 * 4 + 4) + (4 * 3 + 3 + 3 * 4 + 4) + 2 * 8) + 8 + (4 * 3 + 3),
    ),
}  # fmt: skip
nets = pytest.mark.parametrize("name", NETS)


def made(name, dtype="float32", **more):
    factory, options, _ = NETS[name]
    return factory(**{"dtype": dtype, **options, **more})


def start(land, seed=0):
    """Params in the shapes of an init, every leaf random, so that biases and scales matter; nothing is compiled."""
    rng = np.random.default_rng(seed)
    draw = lambda x: jnp.asarray(0.5 * rng.standard_normal(x.shape), x.dtype)
    return jax.tree.map(draw, jax.eval_shape(land.init, jax.random.key(0)))


def host(land, params):
    return jax.tree.map(np.asarray, params), *(np.asarray(a) for a in land.batch)


def entropy(z, y):
    return np.log(np.exp(z).sum(-1)) - np.take_along_axis(z, y[..., None], -1)[..., 0]


def mean_loss(land):
    return lambda params: jnp.mean(land.loss(params, land.batch))


@nets
def test_params_are_those_that_the_shapes_say(name):
    land = made(name)
    assert hj.Hessian(land.loss, jax.eval_shape(land.init, jax.random.key(0)), land.batch).size == NETS[name][2]


@pytest.mark.parametrize(
    ("factory", "size"),
    [
        (networks.mlp, 16 * 8 + 8 + 8 * 4 + 4),
        (networks.conv, 20 + 38 + 76 + 148 + (16 * 16 + 16) + (16 * 10 + 10)),
        (networks.resnet, 9 * (2 + 4 + 4 + 8 + 16) + 2 * (2 + 2 + 2 + 4 + 4) + 50),
        (networks.rnn, 8 * 16 + 16 + 16 * 16 + 170),
        (networks.lstm, 4 * (8 * 8 + 8 * 8 + 8) + 90),
        (networks.transformer, 11 * 8 + 2 * 8 + 4 * 72 + (8 * 32 + 32 + 32 * 8 + 8) + 3 * 16 + 99),
    ],
)
def test_defaults_have_a_dense_hessian_and_say_what_they_are(factory, size):
    land = factory()
    assert hj.Hessian(land.loss, jax.eval_shape(land.init, jax.random.key(0)), land.batch).size == size <= 1500
    assert land.name == factory.__name__
    assert land.classifies
    assert land.facts["lower_bound"] == 0.0
    assert all("\n" not in note for note in land.facts["notes"])


def test_four_convolutions_and_two_dense_layers_at_full_width():
    images = np.zeros((2, 32, 32, 3)), np.array([0, 9])
    land = networks.conv(task=images, width_multiplier=1)
    params = jax.eval_shape(land.init, jax.random.key(0))
    kernels = [x.shape for x in jax.tree.leaves(params) if x.ndim > 1]
    assert kernels == [(3, 3, 3, 32), (3, 3, 32, 32), (3, 3, 32, 64), (3, 3, 64, 64), (8 * 8 * 64, 256), (256, 10)]
    assert sum(x.size for x in jax.tree.leaves(params)) == 1_116_970


@pytest.mark.parametrize(
    "name", ["mlp", "conv", "resnet", "resnet, layer norm, no skips", "rnn", "lstm", "transformer"]
)
def test_gradients_are_finite_and_keep_their_dtype(name, dtype):
    land = made(name, dtype)
    value, gradient = jax.jit(jax.value_and_grad(mean_loss(land)))(start(land))
    leaves = jax.tree.leaves(gradient)
    assert {x.dtype for x in leaves} == {np.dtype(dtype)} == {value.dtype}
    assert all(np.isfinite(x).all() for x in leaves)
    assert max(float(jnp.abs(x).max()) for x in leaves) > 0
    assert value >= land.facts["lower_bound"]


@nets
def test_the_loss_is_that_of_the_model_and_rows_do_not_meet(name, float64):
    land, some = made(name, float64), np.array([4, 1])
    params, x, y = host(land, start(land))
    both = jax.jit(lambda p, batch: (land.loss(p, batch), land.model(p, batch[0])))
    losses, z = map(np.asarray, both(params, (x, y)))
    of_model = (
        0.5 * ((z - np.eye(z.shape[-1])[y]) ** 2).sum(-1) if "squared" in land.facts["notes"][1] else entropy(z, y)
    )
    assert losses.shape == (len(x),)
    np.testing.assert_allclose(losses, of_model.reshape(len(x), -1).mean(1), rtol=1000 * EPS)
    np.testing.assert_allclose(both(params, (x[some], y[some]))[0], losses[some], rtol=1000 * EPS)


@pytest.mark.parametrize(
    ("factory", "options", "path", "fan_in"),
    [
        (networks.mlp, {"widths": 300, **POINTS}, "Dense_0/kernel", 4),
        (networks.conv, {**SMALL_CONV, "channels": (200, 3), **IMAGES}, "Conv_0/kernel", 9 * 2),
        (networks.resnet, {"channels": (12,), "norm": "layer", **IMAGES}, "Conv_2/kernel", 9 * 12),
        (networks.rnn, {"widths": 60, **SERIES}, "SimpleCell_0/h/kernel", 60),
        (networks.lstm, {"widths": 60, **SERIES}, "LSTMCell_0/hf/kernel", 60),
        (networks.transformer, {"width": 64, **TOKENS}, "block_0/attention/out/kernel", 64),
        (networks.transformer, {"width": 64, **TOKENS}, "tokens/embedding", 64),
    ],
)
def test_a_key_is_one_init_of_normal_weights_scaled_by_fan_in_with_biases_zero(factory, options, path, fan_in):
    init = jax.jit(factory(init_scale=3.0, **options).init)
    drawn = init(jax.random.key(2))
    for (where, x), same, other in zip(
        jax.tree.leaves_with_path(drawn), *(jax.tree.leaves(init(jax.random.key(k))) for k in (2, 3))
    ):
        np.testing.assert_array_equal(x, same)
        if (kind := where[-1].key) in ("bias", "scale"):
            np.testing.assert_array_equal(x, float(kind == "scale"))
        else:
            assert not np.array_equal(x, other)
    for name in path.split("/"):
        drawn = drawn[name]
    assert float(jnp.std(drawn)) == pytest.approx(3 / fan_in**0.5, rel=4 / (2 * drawn.size) ** 0.5)


@pytest.mark.parametrize("name", ["mlp", "conv of sequences", "resnet of sequences, no norm", "rnn"])
def test_the_dense_hessian_is_that_of_autodiff(name, float64):
    land = made(name, float64, activation="tanh")
    params = start(land)
    flat, back = ravel_pytree(params)
    want = np.asarray(jax.jit(jax.hessian(lambda v: mean_loss(land)(back(v))))(flat))
    got = np.asarray(hj.dense(hj.Hessian(land.loss, params, land.batch)))
    np.testing.assert_array_equal(got, got.T)
    np.testing.assert_allclose(got, want, rtol=0, atol=100 * EPS * len(want) * np.abs(want).sum(axis=1).max())


def test_an_mlp_is_its_formula(float64):
    land = networks.mlp(
        dtype=float64, widths=(5, 3), activation="relu", task="noise", loss="squared", rows=6, outputs=2
    )
    params, x, y = host(land, start(land))
    (w0, b0), (w1, b1), (w2, b2) = ((params[f"Dense_{k}"]["kernel"], params[f"Dense_{k}"]["bias"]) for k in range(3))
    z = np.maximum(np.maximum(x @ w0 + b0, 0) @ w1 + b1, 0) @ w2 + b2
    np.testing.assert_allclose(jax.jit(land.loss)(params, (x, y)), 0.5 * ((z - y) ** 2).sum(1), rtol=1000 * EPS)
    assert not land.classifies


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_a_convolution_is_its_sum(pooling, float64):
    land = networks.conv(dtype=float64, channels=(3,), dense=(), width_multiplier=1, kernel=3, pooling_size=2,
                         pooling=pooling, activation="tanh", **IMAGES)  # fmt: skip
    params, x, y = host(land, start(land))
    kernel, bias = params["Conv_0"]["kernel"], params["Conv_0"]["bias"]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    h = np.zeros((len(x), 4, 4, 3))
    for i in range(4):
        for j in range(4):
            h[:, i, j] = np.tanh(np.einsum("nabc,abco->no", padded[:, i : i + 3, j : j + 3], kernel) + bias)
    pooled = getattr(h.reshape(-1, 2, 2, 2, 2, 3), pooling)(axis=(2, 4)).reshape(len(x), -1)
    head = params["MLP_0"]["Dense_0"]
    z = pooled @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(jax.jit(land.loss)(params, (x, y)), entropy(z, y), rtol=1000 * EPS)


def test_a_recurrent_net_is_its_recurrence(float64):
    land = made("rnn", float64)
    params, x, _ = host(land, start(land))
    cell, head = params["SimpleCell_0"], params["Dense_0"]
    h = np.zeros((len(x), 3))
    for t in range(x.shape[1]):
        h = np.tanh(x[:, t] @ cell["i"]["kernel"] + cell["i"]["bias"] + h @ cell["h"]["kernel"])
    np.testing.assert_allclose(
        jax.jit(land.model)(params, x), h @ head["kernel"] + head["bias"], rtol=1000 * EPS, atol=1000 * EPS
    )


def test_an_lstm_is_its_gates(float64):
    land = made("lstm", float64)
    params, x, _ = host(land, start(land))
    sigmoid = lambda v: 1 / (1 + np.exp(-v))
    for layer, width in enumerate((3, 2)):
        p, h, c, states = params[f"LSTMCell_{layer}"], np.zeros((len(x), width)), np.zeros((len(x), width)), []
        for t in range(x.shape[1]):
            gate = {g: x[:, t] @ p[f"i{g}"]["kernel"] + h @ p[f"h{g}"]["kernel"] + p[f"h{g}"]["bias"] for g in "ifgo"}
            c = sigmoid(gate["f"]) * c + sigmoid(gate["i"]) * np.tanh(gate["g"])
            h = sigmoid(gate["o"]) * np.tanh(c)
            states.append(h)
        x = np.stack(states, axis=1)
    z = h @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    np.testing.assert_allclose(jax.jit(land.model)(params, land.batch[0]), z, rtol=1000 * EPS, atol=1000 * EPS)


def normalised(x, axis, epsilon):
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + epsilon)


def test_a_decoder_is_attention_and_mlp_after_norms(float64):
    land = networks.transformer(dtype=float64, width=4, hidden=3, heads=2, predict="next", activation="tanh", **TOKENS)
    params, x, y = host(land, start(land))
    block, linear = params["block_0"], lambda p, v: v @ p["kernel"] + p["bias"]
    norm = lambda p, v: normalised(v, -1, 1e-6) * p["scale"] + p["bias"]
    h = params["tokens"]["embedding"][x] + params["positions"]
    a = norm(block["attention_norm"], h)
    q, k, v = (
        np.einsum("ntd,dhe->nhte", a, block["attention"][name]["kernel"])
        + block["attention"][name]["bias"][None, :, None]
        for name in ("query", "key", "value")
    )
    weights = np.exp(q @ k.swapaxes(-1, -2) / 2**0.5) * np.tri(x.shape[1])
    mixed = weights / weights.sum(-1, keepdims=True) @ v
    h = h + np.einsum("nhte,hed->ntd", mixed, block["attention"]["out"]["kernel"]) + block["attention"]["out"]["bias"]
    h = h + linear(block["mlp_out"], np.tanh(linear(block["mlp_in"], norm(block["mlp_norm"], h))))
    z = linear(params["scores"], norm(params["norm"], h))
    np.testing.assert_allclose(jax.jit(land.loss)(params, (x, y)), entropy(z, y).mean(1), rtol=10_000 * EPS)


def test_a_later_token_changes_no_earlier_score(float64):
    tokens = np.random.default_rng(0).integers(0, 5, (3, 6))
    land = networks.transformer(dtype=float64, task=(tokens, tokens[:, 0]), predict="next", depth=2, **SMALL_DECODER)
    params, model = start(land), jax.jit(land.model)
    changed = tokens.copy()
    changed[:, 4] = (changed[:, 4] + 1) % 5
    before, after = np.asarray(model(params, tokens)), np.asarray(model(params, changed))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert (np.abs(before - after)[:, 4:].max(axis=-1) > 1e-6).all()


def test_next_token_targets_are_the_tokens_that_follow_and_then_the_answer():
    x, y = np.arange(6).reshape(2, 3), np.array([7, 8])
    land = networks.transformer(task=(x, y), predict="next")
    np.testing.assert_array_equal(land.batch[1], [[1, 2, 7], [4, 5, 8]])
    np.testing.assert_array_equal(networks.transformer(task=(x, y)).batch[1], y)
    given = x[:, ::-1]
    np.testing.assert_array_equal(networks.transformer(task=(x, given), predict="next").batch[1], given)


def test_images_are_read_line_by_line_and_tokens_one_hot():
    x, y = np.random.default_rng(0).standard_normal((2, 3, 4, 2)), np.array([0, 1])
    np.testing.assert_allclose(networks.rnn(task=(x, y)).batch[0], x.reshape(2, 3, 8), rtol=1e-6)
    tokens = np.array([[0, 2], [1, 0]])
    np.testing.assert_array_equal(networks.rnn(task=(tokens, y)).batch[0], np.eye(3)[tokens])
    np.testing.assert_array_equal(networks.mlp(task=(tokens, y)).batch[0], np.eye(3)[tokens].reshape(2, 6))


def residual(params, x, skip, normalise):
    """A net of kernels of one position, stages of channels 2 and 3, in NumPy."""
    norms = iter(sorted(name for name in params if "Norm" in name))
    kernels = iter(sorted(name for name in params if name.startswith("Conv")))

    def conv(x):
        p = params[next(kernels)]
        return x @ p["kernel"][0, 0] + p.get("bias", 0.0)

    def act(x):
        if normalise is not None:
            p = params[next(norms)]
            x = normalised(x, normalise, 1e-5 if normalise == (0, 1, 2) else 1e-6) * p["scale"] + p["bias"]
        return np.maximum(x, 0)

    x = conv(x)
    for shortcut in (lambda x: x, lambda x: np.pad(x[:, ::2, ::2], ((0, 0),) * 3 + ((0, 1),))):
        y = act(x)
        y = conv(y if shortcut(x).shape == x.shape else y[:, ::2, ::2])
        y = conv(act(y))
        x = shortcut(x) + y if skip else y
    return act(x).mean((1, 2)) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize(("norm", "axes"), [("none", None), ("layer", (1, 2, 3)), ("batch", (0, 1, 2))])
def test_a_residual_net_is_its_formula_and_without_skips_a_plain_one(norm, axes, skip, float64):
    land = networks.resnet(dtype=float64, channels=(2, 3), kernel=1, skip=skip, norm=norm, statistics="batch", **IMAGES)
    params, x, y = host(land, start(land))
    z = residual(params, x, skip, axes)
    np.testing.assert_allclose(jax.jit(land.model)(params, x), z, rtol=1e4 * EPS, atol=1e4 * EPS)
    loss = jax.jit(land.loss)(params, (x, y))
    np.testing.assert_allclose(loss, entropy(z, y).mean() if norm == "batch" else entropy(z, y), rtol=1e4 * EPS)


def test_with_skips_and_last_convolutions_of_zero_blocks_are_the_identity(float64):
    land = networks.resnet(dtype=float64, channels=(2,), blocks=2, norm="none", **IMAGES)
    params, x, _ = host(land, start(land))
    for name in ("Conv_2", "Conv_4"):
        params[name] = jax.tree.map(np.zeros_like, params[name])
    one = {**params, "Conv_1": jax.tree.map(lambda w: 2 * w, params["Conv_1"])}
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    stem = np.einsum("nijcab,abco->nijo", windows, params["Conv_0"]["kernel"]) + params["Conv_0"]["bias"]
    z = np.maximum(stem, 0).mean((1, 2)) @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    for p in (params, one):
        np.testing.assert_allclose(jax.jit(land.model)(p, x), z, rtol=1000 * EPS, atol=1000 * EPS)


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_nets_with_and_without_skips_have_the_same_params(norm):
    nets = (networks.resnet(skip=skip, norm=norm, statistics="batch", **IMAGES) for skip in (True, False))
    with_skips, without = (jax.eval_shape(land.init, jax.random.key(0)) for land in nets)
    assert with_skips == without


def test_frozen_statistics_are_those_of_the_rows_at_the_params_they_were_taken_at(float64):
    options = {"dtype": float64, "channels": (2,), **IMAGES}
    frozen, batch = networks.resnet(statistics_seed=5, **options), networks.resnet(statistics="batch", **options)
    init = jax.jit(frozen.init)
    both = jax.jit(lambda params: (frozen.model(params, frozen.batch[0]), batch.model(params, batch.batch[0])))
    gaps = [float(jnp.abs(jnp.subtract(*both(init(jax.random.key(seed))))).max()) for seed in (5, 6)]
    assert gaps[0] <= 1e4 * EPS
    assert gaps[1] > 1e-3


def test_batch_statistics_make_rows_meet_and_the_loss_a_scalar(float64):
    land = networks.resnet(dtype=float64, statistics="batch", channels=(2,), **IMAGES)
    params, x, y = host(land, start(land))
    assert jax.eval_shape(land.loss, params, (x, y)).shape == ()
    alone = land.model(params, x[:3])
    assert float(jnp.abs(alone - land.model(params, x)[:3]).max()) > 1e-3
    with pytest.raises(ValueError, match="chunk"):
        hj.Hessian(land.loss, params, (x, y), chunk=2).mv(params)


BAD = [
    (networks.mlp, {"task": "cluster"}, "unknown task 'cluster'; did you mean 'clusters'"),
    (networks.mlp, {"width": 3}, "no option 'width'; did you mean 'widths'"),
    (networks.mlp, {"clases": 3}, "task 'clusters' has no option 'clases'; did you mean 'classes'"),
    (networks.mlp, {"task": "mnist"}, "task 'mnist' needs the option 'folder'"),
    (networks.mlp, {"task": "noise"}, "loss 'cross-entropy' needs classes"),
    (networks.mlp, {"loss": "hinge"}, "unknown loss 'hinge'"),
    (networks.mlp, {"widths": (3, 0)}, "widths must be a whole number, at least 1; got 0"),
    (networks.mlp, {"init_scale": 0.0}, "init_scale must be above 0"),
    (networks.mlp, {"dtype": "int32"}, "dtype must be a floating one"),
    (networks.mlp, {"dtype": "floaty"}, "dtype must be a floating one"),
    (networks.mlp, {"dtype": "float64"}, "needs x64"),
    (networks.mlp, {"task": (np.ones((2, 2)), np.ones(3))}, "task: wanted x"),
    (networks.mlp, {"task": (np.ones((2, 2)), np.ones((2, 2), int))}, "mlp predicts one class a row"),
    (networks.mlp, {"task": (np.ones((2, 2)), np.ones(2)), "rows": 3}, "options such as 'rows'"),
    (networks.conv, {"task": "clusters"}, "conv takes sequence or image inputs"),
    (networks.conv, {"kernel": (3, 3)}, "kernel must be one number or one for each of 4 layers"),
    (networks.conv, {"pooling": "min"}, "unknown pooling 'min'"),
    (networks.conv, {"pooling_size": 4}, "too few positions"),
    (networks.conv, {"padding": "VALID", "kernel": 8}, "too few positions"),
    (networks.conv, {"padding": "valid"}, "unknown padding 'valid'. Known: SAME, VALID"),
    (networks.conv, {"width_multiplier": 0}, "width_multiplier must be above 0"),
    (networks.resnet, {"task": "modular-addition"}, "resnet takes sequence or image inputs"),
    (networks.resnet, {"channels": (4, 2)}, "channels must be one number or more and not fall"),
    (networks.resnet, {"norm": "group"}, "unknown norm 'group'"),
    (networks.resnet, {"statistics": "running"}, "unknown statistics 'running'"),
    (networks.resnet, {"blocks": 0}, "blocks must be a whole number"),
    (networks.rnn, {"task": "spirals"}, "rnn takes sequence or image or token inputs"),
    (networks.rnn, {"activation": "thanh"}, "did you mean 'tanh'"),
    (networks.lstm, {"widths": ()}, "widths must be one number or more"),
    (networks.transformer, {"task": "digits"}, "transformer takes token inputs"),
    (networks.transformer, {"heads": 3}, "width must be a multiple of heads=3"),
    (networks.transformer, {"predict": "all"}, "unknown predict 'all'"),
    (
        networks.transformer,
        {"task": (np.ones((2, 3), int), np.ones((2, 3), int))},
        "takes integer targets [rows]",
    ),
    (networks.transformer, {"task": (np.ones((2, 3), int), np.ones(2))}, "got float64 (2, 1)"),
]


@pytest.mark.parametrize(("factory", "options", "words"), BAD, ids=lambda x: getattr(x, "__name__", None))
def test_options_that_make_no_sense_are_answered_in_one_line(factory, options, words, untyped):
    with pytest.raises(ValueError) as caught:
        factory(**options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_task_that_is_neither_a_name_nor_arrays_is_refused():
    with pytest.raises(TypeError, match="task is float, wanted one of cifar10, clusters"):
        networks.mlp(task=3.0)


def test_no_option_of_a_network_hides_one_of_a_task():
    given = {option for source in tasks.TASKS.values() for option in inspect.signature(source.make).parameters}
    for factory in (networks.mlp, networks.conv, networks.resnet, networks.rnn, networks.lstm, networks.transformer):
        assert given & set(inspect.signature(factory).parameters) == set()


def test_no_norm_can_be_spelled_on_a_command_line():
    options = key_values("options", ["norm=none", "channels=2,", "rows=20"])
    spelled, named = networks.resnet(**options), networks.resnet(norm="none", channels=(2,), rows=20)
    params = spelled.init(jax.random.key(0))
    assert jax.tree.structure(params) == jax.tree.structure(named.init(jax.random.key(0)))
    assert_array_equal(spelled.loss(params, spelled.batch), named.loss(params, named.batch))
