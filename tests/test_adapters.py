"""Flax modules as pure models: the policies do what they say, against functions written by hand; nothing is changed."""

import chex
import equinox as eqx
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import hessjax as hj
from hessjax import adapters

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((13, 4)), RNG.standard_normal((13, 2))  # 13 rows: chunks leave a remainder
EPS = 1e-5  # of flax's BatchNorm
KEY = jax.random.key(5)


def squared(outputs, targets):
    return jnp.sum((outputs - targets) ** 2, axis=-1)


def data(dtype="float32"):
    return jnp.asarray(X, dtype), jnp.asarray(Y, dtype)


def tolerance(dtype):
    return {"float32": 1e-5, "float64": 1e-12}[str(dtype)]


class Net(nn.Module):
    """Dense, optional BatchNorm and dropout, tanh, Dense."""

    norm: bool = False
    rate: float = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x, train=False, drop=False):
        h = nn.Dense(3, param_dtype=self.dtype)(x)
        if self.norm:
            h = nn.BatchNorm(use_running_average=not train, param_dtype=self.dtype)(h)
        if self.rate:
            h = nn.Dropout(self.rate, deterministic=not drop)(h)
        return nn.Dense(2, param_dtype=self.dtype)(jnp.tanh(h))


class NetX(nnx.Module):
    """The same in nnx, made for training as flax makes them."""

    def __init__(self, norm=False, rate=0.0, dtype="float32"):
        rngs = nnx.Rngs(0)
        self.hidden = nnx.Linear(4, 3, param_dtype=dtype, rngs=rngs)
        self.norm = nnx.BatchNorm(3, param_dtype=dtype, rngs=rngs) if norm else None
        self.drop = nnx.Dropout(rate, rngs=rngs) if rate else None
        self.out = nnx.Linear(3, 2, param_dtype=dtype, rngs=rngs)

    def __call__(self, x):
        h = self.hidden(x)
        h = self.norm(h) if self.norm is not None else h
        h = self.drop(h) if self.drop is not None else h
        return self.out(jnp.tanh(h))


def initialised(**options):
    """A module and its variables, every one moved off its initial zeros and ones."""
    module = Net(**options)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 4), module.dtype))
    stir = lambda x: x + 0.3 + 0.2 * jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)
    return module, jax.tree.map(lambda x: stir(x).astype(module.dtype), variables)  # flax's statistics are float32


def stirred(**options):
    """The nnx net with the variables of `initialised`."""
    variables, net = initialised(**options)[1], NetX(**options)
    params, statistics = variables["params"], variables.get("batch_stats", {})
    norm = {"norm": {**params["BatchNorm_0"], **statistics["BatchNorm_0"]}} if net.norm is not None else {}
    nnx.update(net, {"hidden": params["Dense_0"], "out": params["Dense_1"], **norm})
    return net


def by_hand(params, x, statistics=None, mask=1.0):
    """The nets above in full; `statistics` is a function of the hidden layer."""
    h = x @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
    if statistics is not None:
        mean, var = statistics(h)
        norm = params["BatchNorm_0"]
        h = norm["scale"] * (h - mean) / jnp.sqrt(var + EPS) + norm["bias"]
    return jnp.tanh(h * mask) @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]


def of_batch(h):
    return jnp.mean(h, 0), jnp.var(h, 0)


def running(variables):
    constants = variables["batch_stats"]["BatchNorm_0"]
    return lambda h: (constants["mean"], constants["var"])


def oracle(model, params, batch):
    """`jax.hessian` of the mean squared error of a hand-written model, in `ravel_pytree` order."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    return jax.hessian(lambda w: jnp.mean(squared(model(unravel(w), batch[0]), batch[1])))(flat)


def relabelled(params):
    """Params of the nnx net under the names of the linen net, whose order by name is another."""
    names = {"hidden": "Dense_0", "out": "Dense_1", "norm": "BatchNorm_0"}
    return {names[name]: tree for name, tree in params.items()}


def assert_close(got, want, dtype="float32"):
    np.testing.assert_allclose(got, want, atol=tolerance(dtype) * max(1.0, float(jnp.max(jnp.abs(want)))))


def test_a_linen_network_has_the_hessian_of_the_function_written_by_hand(dtype):
    module, variables = initialised(dtype=dtype)
    model, params = adapters.linen(module, variables)
    op = hj.Hessian(adapters.per_example(model, squared), params, data(dtype), chunk=4)
    assert_close(hj.dense(op), oracle(by_hand, params, data(dtype)), dtype)


def test_an_nnx_network_with_the_same_weights_is_the_linen_one(dtype):
    linen, x = adapters.linen(*initialised(dtype=dtype)), data(dtype)[0]
    adapted = adapters.nnx(stirred(dtype=dtype))
    assert_close(adapted.model(adapted.params, x), linen.model(linen.params, x), dtype)
    chex.assert_trees_all_equal(relabelled(adapted.params), linen.params)
    # hidden, out and Dense_0, Dense_1 sort alike, so the matrices may be compared entry by entry.
    dense = lambda a: hj.dense(hj.Hessian(adapters.per_example(a.model, squared), a.params, data(dtype)))
    assert_close(dense(adapted), dense(linen), dtype)


def adapt_both(dtype="float64", **policy):
    """The BatchNorm net of either library under one policy, with a hand-written model's names for its params."""
    train = {"train": policy.get("statistics") == "batch"}
    yield adapters.linen(*initialised(norm=True, dtype=dtype), **policy, **train), lambda params: params
    yield adapters.nnx(stirred(norm=True, dtype=dtype), **policy), relabelled


def test_frozen_statistics_are_constants_and_rows_are_apart(float64):
    statistics = running(initialised(norm=True, dtype="float64")[1])
    for (model, params), named in adapt_both():
        want = oracle(lambda p, x, named=named: by_hand(named(p), x, statistics), params, data("float64"))
        loss = adapters.per_example(model, squared)
        for chunk in (None, 1, 4, 13):
            op = hj.Hessian(loss, params, data("float64"), chunk=chunk)
            assert_close(hj.dense(op), want, "float64")
        assert hj.check_operator(op, KEY).ok


def test_a_frozen_batchnorm_alone_is_its_closed_form(float64):
    # z = s (x - m) / sqrt(v + eps) + b, loss sum (z - y)^2: a block (2/N) sum [[1, u], [u, u^2]] a feature.
    mean, var = RNG.standard_normal(4), RNG.uniform(0.5, 2.0, 4)
    u = (X - mean) / np.sqrt(var + EPS)
    variables = {"params": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}, "batch_stats": {"mean": mean, "var": var}}
    model, params = adapters.linen(nn.BatchNorm(use_running_average=True), variables)
    var[:] = -1.0  # NumPy's arrays can be written to: the model has its own copy
    op = hj.Hessian(adapters.per_example(model, squared), params, (jnp.asarray(X), jnp.zeros((13, 4))), chunk=5)
    means = [np.diag(np.mean(m, 0)) for m in (np.ones_like(u), u, u**2)]
    np.testing.assert_allclose(hj.dense(op), 2 * np.block([[means[0], means[1]], [means[1], means[2]]]), atol=1e-12)


def test_batch_statistics_in_a_scalar_loss_are_the_normalised_loss_by_hand(float64):
    for (model, params), named in adapt_both(statistics="batch"):
        want = oracle(lambda p, x, named=named: by_hand(named(p), x, of_batch), params, data("float64"))
        op = hj.Hessian(adapters.scalar(model, squared), params, data("float64"))
        assert_close(hj.dense(op), want, "float64")
        assert hj.check_operator(op, KEY).ok
        with pytest.raises(ValueError, match="chunk=4 needs a per-example loss"):
            hj.Hessian(adapters.scalar(model, squared), params, data("float64"), chunk=4).mv(params)


def test_batch_statistics_in_a_per_example_loss_are_refused_as_coupled(float64):
    for (model, params), _ in adapt_both(statistics="batch"):
        op = hj.Hessian(adapters.per_example(model, squared), params, data("float64"))
        with pytest.raises(hj.OperatorError, match=r"fails the per-example check.*the examples are coupled"):
            hj.check_operator(op, KEY)


def test_float32_statistics_do_not_round_a_float64_loss_of_the_batch(float64):
    net = NetX(norm=True, dtype="float64")
    assert net.norm.mean[...].dtype == jnp.float32
    model, params = adapters.nnx(net, statistics="batch")
    want = oracle(lambda p, x: by_hand(relabelled(p), x, of_batch), params, data("float64"))
    assert_close(hj.dense(hj.Hessian(adapters.scalar(model, squared), params, data("float64"))), want, "float64")


def adapt_dropout(dropout):
    linen = adapters.linen(*initialised(rate=0.5), dropout=dropout, drop=True)
    return linen, adapters.nnx(stirred(rate=0.5), dropout=dropout)


def test_one_key_is_one_mask_the_same_at_every_call():
    module, variables = initialised(rate=0.5)
    x, y = data()
    for (model, params), (other, _) in zip(adapt_dropout(KEY), adapt_dropout(jax.random.key(6)), strict=True):
        assert jnp.array_equal(model(params, x), model(params, x))
        assert jnp.array_equal(model(params, x), jax.jit(model)(params, x))
        assert not jnp.allclose(model(params, x), other(params, x))
        assert not jnp.allclose(model(params, x), module.apply(variables, x))
        op = hj.Hessian(adapters.scalar(model, squared), params, (x, y))
        assert hj.check_operator(op, KEY).ok
        with pytest.raises(hj.OperatorError, match="fails the per-example check"):
            hj.check_operator(hj.Hessian(adapters.per_example(model, squared), params, (x, y)), KEY)
    (model, params), _ = adapt_dropout(KEY)
    assert jnp.array_equal(model(params, x), module.apply(variables, x, drop=True, rngs={"dropout": KEY}))


def test_what_an_nnx_module_has_drawn_before_does_not_matter():
    net, x = stirred(rate=0.5), data()[0]
    model, params = adapters.nnx(net, dropout=KEY)
    assert not jnp.array_equal(net(x), net(x))
    again, _ = adapters.nnx(net, dropout=KEY)
    assert jnp.array_equal(model(params, x), again(params, x))


def test_legacy_keys_are_keys():
    x, legacy = data()[0], jax.random.PRNGKey(5)
    for typed, old in zip(adapt_dropout(KEY), adapt_dropout(legacy), strict=True):
        assert jnp.array_equal(typed.model(typed.params, x), old.model(old.params, x))
    for model, params in adapt_dropout("rows"):
        rows = model(params, (x, jax.random.split(KEY, 13)))
        assert jnp.array_equal(rows, model(params, (x, jax.random.split(legacy, 13))))


def test_one_key_a_row_makes_dropout_per_example():
    x, y = data()
    batch = ((x, jax.random.split(KEY, 13)), y)
    for model, params in adapt_dropout("rows"):
        loss = adapters.per_example(model, squared)
        whole = hj.dense(hj.Hessian(loss, params, batch))
        for chunk in (1, 4, 12):
            assert_close(hj.dense(hj.Hessian(loss, params, batch, chunk=chunk)), whole)
        assert hj.check_operator(hj.Hessian(loss, params, batch), KEY).ok
    module, variables = initialised(rate=0.5)
    (model, params), _ = adapt_dropout("rows")
    first = module.apply(variables, x[:1], drop=True, rngs={"dropout": batch[0][1][0]})
    assert_close(model(params, batch[0])[:1], first)


def test_rows_take_trees_of_inputs_whose_scalars_belong_to_every_row():
    class Tempered(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            assert inputs["x"].shape == (1, 4)
            assert inputs["t"].shape == ()
            return {"z": nn.Dropout(0.5, deterministic=False)(nn.Dense(2)(inputs["x"])) / inputs["t"]}

    inputs, keys = {"x": data()[0], "t": jnp.array(2.0)}, jax.random.split(KEY, 13)
    one = jax.tree.map(lambda leaf: leaf[:1] if leaf.ndim else leaf, inputs)
    variables = Tempered().init({"params": KEY, "dropout": KEY}, one)
    model, params = adapters.linen(Tempered(), variables, dropout="rows")
    assert model(params, (inputs, keys))["z"].shape == (13, 2)


def test_every_random_stream_has_a_key_of_its_own():
    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, x):
            draws = [jax.random.normal(self.make_rng(name)) for name in ("dropout", "noise")]
            return self.param("w", nn.initializers.ones, ()) * jnp.stack(draws)

    class NoisyX(nnx.Module):
        def __init__(self):
            self.w, self.rngs = nnx.Param(jnp.ones(())), nnx.Rngs(dropout=0, noise=0)

        def __call__(self, x):
            return self.w * jnp.stack([self.rngs.dropout.normal(()), self.rngs.noise.normal(())])

    for model, params in (
        adapters.linen(Noisy(), {"params": {"w": jnp.ones(())}}, dropout=KEY),
        adapters.nnx(NoisyX(), dropout=KEY),
    ):
        first, second = model(params, jnp.zeros(1))
        assert first != second


class Stack(nnx.Module):
    """Three dropouts as one stack with a stack of keys, run by a scan."""

    def __init__(self):
        make = nnx.split_rngs(splits=3)(nnx.vmap(lambda rngs: nnx.Dropout(0.5, rngs=rngs)))
        self.w, self.layers = nnx.Param(jnp.ones(64)), make(nnx.Rngs(0))

    def __call__(self, x):
        run = nnx.scan(lambda layer, x: layer(x), in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        return run(self.layers, x * self.w)


def test_stacks_of_nnx_layers_keep_stacks_of_keys():
    x = jnp.ones((1, 64))
    model, params = adapters.nnx(Stack())
    assert jnp.array_equal(model(params, x), x)
    model, params = adapters.nnx(Stack(), dropout=KEY)
    assert set(np.unique(model(params, x)).tolist()) == {0.0, 8.0}
    assert np.mean(np.asarray(model(params, x)) > 0) < 0.3  # an eighth; one mask three times would keep half


def snapshot(state):
    is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.tree.map(lambda x: np.array(jax.random.key_data(x) if is_key(x) else x), state)


def test_an_nnx_module_is_unchanged_by_all_that_is_done_with_it():
    for policy in ({}, {"statistics": "batch"}, {"statistics": "batch", "dropout": KEY}, {"dropout": "rows"}):
        net = stirred(norm=True, rate=0.5)
        graph, state = nnx.split(net)
        before = snapshot(state)
        model, params = adapters.nnx(net, **policy)
        inputs = (data()[0], jax.random.split(KEY, 13)) if policy.get("dropout") == "rows" else data()[0]
        op = hj.Hessian(adapters.scalar(model, squared), params, (inputs, data()[1]))
        op.mv(params)
        model(params, inputs)  # outside of any transformation too
        again, state = nnx.split(net)
        assert graph == again
        chex.assert_trees_all_equal(before, snapshot(state))
        assert not net.norm.use_running_average
        assert not net.drop.deterministic


def test_blocks_are_restricted_by_path_in_either_library():
    for adapted, where in (
        (adapters.linen(*initialised()), "Dense_1/*"),
        (adapters.nnx(stirred()), "out/*"),
    ):
        op = hj.Hessian(adapters.per_example(adapted.model, squared), adapted.params, data())
        assert hj.restrict(op, where).size == 8
        assert_close(hj.dense(hj.restrict(op, where)), hj.dense(op)[-8:, -8:])
        assert hj.restrict(op, "*/kernel").size == 18


def test_tied_weights_are_one_param_and_lists_are_numbered():
    class Tied(nnx.Module):
        def __init__(self):
            first = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
            self.net = nnx.Sequential(first, jnp.tanh, first, nnx.Linear(4, 2, rngs=nnx.Rngs(1)))

        def __call__(self, x):
            return self.net(x)

    model, params = adapters.nnx(Tied())
    op = hj.Hessian(adapters.per_example(model, squared), params, data())
    assert op.size == 20 + 10
    assert hj.restrict(op, "net/layers/3/*").size == 10


def test_wrt_picks_the_variables_that_are_params(float64):
    net = stirred(norm=True, dtype="float64")
    whole, part = adapters.nnx(net), adapters.nnx(net, wrt=nnx.PathContains("out"))
    assert set(part.params) == {"out"}
    dense = lambda a: hj.Hessian(adapters.per_example(a.model, squared), a.params, data("float64"))
    assert_close(hj.dense(dense(part)), hj.dense(hj.restrict(dense(whole), "out/*")), "float64")


def test_call_passes_keyword_arguments_and_the_method():
    class Two(nn.Module):
        def setup(self):
            self.encoder, self.decoder = nn.Dense(2), nn.Dense(4)

        def __call__(self, x):
            return self.decoder(self.encoder(x))

        def encode(self, x, scale):
            return scale * self.encoder(x)

    class Scaled(NetX):
        def __call__(self, x, scale):
            return scale * super().__call__(x)

    x = data()[0]
    variables = Two().init(KEY, x)
    model, params = adapters.linen(Two(), variables, method="encode", scale=2.0)
    assert_close(model(params, x), 2 * (x @ params["encoder"]["kernel"] + params["encoder"]["bias"]))
    net = Scaled()
    model, params = adapters.nnx(net, scale=2.0)
    assert_close(model(params, x), net(x, 2.0))


def test_what_is_sown_boxed_or_frozen_is_left_behind():
    class Sowing(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            init = nn.with_partitioning(nn.initializers.ones, ("in", "out"))
            h = nn.BatchNorm(use_running_average=not train)(x)
            self.sow("intermediates", "h", h)
            return h @ self.param("kernel", init, (4, 2))

    x = data()[0]
    variables = flax.core.freeze(Sowing().init(KEY, x, train=False))
    for policy in ({"train": False}, {"train": True, "statistics": "batch"}):
        model, params = adapters.linen(Sowing(), variables, **policy)
        assert type(params) is dict
        assert isinstance(params["kernel"], jax.Array)
        assert model(params, x).shape == (13, 2)


@pytest.mark.parametrize("adapt", [
    lambda module, variables, net: adapters.linen(module, variables),
    lambda module, variables, net: adapters.linen(module, variables, dropout=KEY, drop=True),
    lambda module, variables, net: adapters.linen(module, variables, dropout="rows", drop=True),
    lambda module, variables, net: adapters.nnx(net),
    lambda module, variables, net: adapters.nnx(net, dropout=KEY),
    lambda module, variables, net: adapters.nnx(net, dropout="rows"),
])  # fmt: skip
def test_moving_params_does_not_retrace_nor_does_adapting_again(adapt):
    chex.clear_trace_counter()
    module, variables = initialised(norm=True, rate=0.5)
    net = stirred(norm=True, rate=0.5)
    inputs = data()[0]
    product = jax.jit(chex.assert_max_traces(lambda op, v: op.product(v), n=1))
    for scale in (1.0, 2.0, 3.0):
        model, params = adapt(module, variables, net)
        x = (inputs, jax.random.split(KEY, 13)) if model.dropout == "rows" else inputs
        moved = jax.tree.map(lambda p, s=scale: s * p, params)
        product(hj.Hessian(adapters.per_example(model, squared), moved, (x, data()[1])), params)


def test_models_differ_where_what_they_compute_does():
    module, variables = initialised(norm=True, rate=0.5)
    net, base = stirred(norm=True, rate=0.5), adapters.linen(module, variables).model
    moved = {**variables, "batch_stats": jax.tree.map(lambda x: x + 1, variables["batch_stats"])}
    others = [
        adapters.linen(module, moved), adapters.linen(module, variables, train=True),
        adapters.linen(module, variables, statistics="batch"), adapters.linen(module, variables, dropout=KEY),
        adapters.linen(module, variables, dropout="rows"), adapters.linen(Net(norm=True), variables),
        adapters.nnx(net), adapters.nnx(net, statistics="batch"), adapters.nnx(net, dropout=KEY),
    ]  # fmt: skip
    models = [base, *(other.model for other in others)]
    assert len(set(models)) == len(models)
    unhashable = [adapters.linen(module, variables, mask=[1]).model for _ in range(2)]
    assert unhashable[0] == unhashable[0]
    assert unhashable[0] != unhashable[1]
    assert base != "another"
    assert repr(base) == "<linen model, statistics='frozen', dropout=None>"


def test_an_equinox_model_needs_no_adapter(float64):
    net = eqx.nn.MLP(4, 2, width_size=3, depth=1, activation=jnp.tanh, key=KEY)
    params, static = eqx.partition(net, eqx.is_inexact_array)
    model = lambda params, inputs: jax.vmap(eqx.combine(params, static))(inputs)
    op = hj.Hessian(adapters.per_example(model, squared), params, data("float64"), chunk=4)
    first, last = params.layers
    assert hj.restrict(op, "layers/1/*").size == 8

    def written(p, x):
        (w, b), (v, c) = p
        return jnp.tanh(x @ w.T + b) @ v.T + c

    want = oracle(written, [(first.weight, first.bias), (last.weight, last.bias)], data("float64"))
    assert_close(hj.dense(op), want, "float64")
    assert hj.check_operator(op, KEY).ok


def test_losses_of_equal_parts_are_equal():
    model = lambda params, inputs: inputs * params
    assert adapters.per_example(model, squared) == adapters.per_example(model, squared)
    assert hash(adapters.scalar(model, squared)) == hash(adapters.scalar(model, squared))
    assert adapters.scalar(model, squared) != adapters.per_example(model, squared)
    assert adapters.scalar(model, lambda z, y: jnp.sum(z))(1.0, (jnp.ones(2), None)) == 2.0  # a scalar stays one


@pytest.mark.parametrize("statistics", ["frozen", "batch"])
def test_an_ensemble_of_adapted_models_is_vmap(statistics):
    form = adapters.scalar if statistics == "batch" else adapters.per_example
    for (model, params), _ in adapt_both("float32", statistics=statistics):
        several = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), params)
        loss = form(model, squared)
        spectra = lambda p, loss=loss: hj.eigvalsh(hj.Hessian(loss, p, data()))
        assert_close(jax.vmap(spectra)(several)[0], spectra(params))


def test_adapted_models_train_with_optax():
    model, params = adapters.linen(*initialised())
    loss = adapters.scalar(model, optax.losses.squared_error)
    tx = optax.sgd(0.1)
    state = tx.init(params)
    before = loss(params, data())
    for _ in range(3):
        updates, state = tx.update(jax.grad(loss)(params, data()), state)
        params = optax.apply_updates(params, updates)
    assert loss(params, data()) < before


def linen(**options):
    return adapters.linen(*initialised(norm=True, rate=0.5), **options)


def called(adapted, inputs=X):
    return adapted.model(adapted.params, inputs)


@pytest.mark.parametrize(("make", "error", "words"), [
    (lambda: adapters.linen(jnp.tanh, {}), TypeError, r"wanted a flax.linen.Module; any other pure function"),
    (lambda: adapters.linen(Net, {}), TypeError, "the class Net, wanted a flax.linen.Module; pass an instance"),
    (lambda: adapters.linen(NetX(), {}), TypeError, "NetX, wanted a flax.linen.Module; use hj.adapters.nnx"),
    (lambda: adapters.nnx(Net()), TypeError, "Net, wanted a flax.nnx.Module; use hj.adapters.linen"),
    (lambda: adapters.nnx(3), TypeError, "int, wanted a flax.nnx.Module"),
    (lambda: adapters.linen(Net(), initialised()[1]["params"]), ValueError, "no collection 'params', got .*Dense_0"),
    (lambda: adapters.linen(Net(), None), ValueError, "no collection 'params', got NoneType"),
    (lambda: linen(rngs={"dropout": KEY}), TypeError, "rngs is not for the caller to pass"),
    (lambda: linen(mutable=["batch_stats"]), TypeError, "mutable is not for the caller to pass"),
    (lambda: linen(statistics="running"), ValueError, "must be 'frozen', 'batch' or 'params', got 'running'"),
    (lambda: adapters.nnx(NetX(), statistics=True), ValueError, "must be 'frozen', 'batch' or 'params', got True"),
    (lambda: linen(dropout="row"), ValueError, "must be None, a PRNG key or 'rows', got 'row'"),
    (lambda: linen(dropout=0), ValueError, "must be None, a PRNG key or 'rows', got 0"),
    (lambda: adapters.nnx(NetX(), dropout=jax.random.split(KEY, 3)), ValueError, "must be None, a PRNG key or 'rows'"),
    (lambda: linen(dropout="rows", statistics="batch"), ValueError, "has no batch; pass dropout=key"),
    (lambda: adapters.nnx(NetX(), wrt=nnx.LoRAParam), ValueError, "LoRAParam.* matches no variable; .* has Param"),
    (lambda: called(linen(drop=True)), ValueError, r"draws random numbers.*dropout=key.*'rows'.*deterministic=True"),
    (lambda: called(linen(train=True)), ValueError, "statistics='frozen', but the module updates.*statistics='batch'"),
    (lambda: called(linen(statistics="batch")), ValueError, "'batch', but the module took no statistics of the batch"),
    (lambda: called(linen(dropout="rows", drop=True)), ValueError, r"inputs is .*, wanted a pair \(inputs, keys\)"),
    (lambda: called(linen(dropout="rows", drop=True), (X, X)), ValueError, "one key a row: jax.random.split"),
    (lambda: called(linen(dropout="rows", drop=True), (X, KEY)), ValueError, "one key a row: jax.random.split"),
    (
        lambda: called(linen(dropout="rows", drop=True), (X, jax.random.split(KEY, 5))),
        ValueError,
        "disagree on the number of rows",
    ),
    (lambda: adapters.per_example(jnp.dot, squared)(1.0, {"x": X, "y": Y}), ValueError, "batch is dict, wanted a pair"),
])  # fmt: skip
def test_bad_input_is_one_clear_line(make, error, words, untyped):
    with pytest.raises(error, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_an_nnx_module_whose_code_overrides_batch_statistics_is_told():
    class Fixed(NetX):
        def __call__(self, x):
            return self.out(self.norm(self.hidden(x), use_running_average=True))

    model, params = adapters.nnx(Fixed(norm=True), statistics="batch")
    with pytest.raises(ValueError, match="took no statistics of the batch"):
        model(params, data()[0])


@pytest.mark.parametrize("dropout", [KEY, "rows"])
def test_dropout_that_is_not_on_is_refused(dropout):
    net, (x, _) = Net(rate=0.5), data()
    model, params = hj.adapters.linen(net, net.init(KEY, x), dropout=dropout)
    inputs = (x, jax.random.split(KEY, len(x))) if isinstance(dropout, str) else x
    with pytest.raises(ValueError, match="dropout= was given, but the module draws no random numbers"):
        model(params, inputs)
