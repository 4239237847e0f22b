"""Flax modules as what operators take: a pure `model(params, inputs) -> outputs`, and its params.

A module may compute statistics of the batch (BatchNorm) and draw random numbers (dropout); a Hessian is of a function
that does neither behind one's back, so both are said here and nothing is guessed. Adapt once, where the loss is
defined: what does not move (running statistics, a fixed key) is a constant of the programs compiled for it.

Any other pure function needs no adapter; an Equinox model is a pytree, split into what moves and what does not:

>>> import equinox as eqx
>>> import hessjax as hj
>>> net = eqx.nn.MLP(2, 1, width_size=3, depth=1, key=jax.random.key(0))
>>> params, static = eqx.partition(net, eqx.is_inexact_array)
>>> model = lambda params, inputs: jax.vmap(eqx.combine(params, static))(inputs)
>>> loss = hj.adapters.per_example(model, lambda outputs, targets: jnp.sum((outputs - targets) ** 2, axis=-1))
>>> hj.Hessian(loss, params, (jnp.ones((5, 2)), jnp.ones((5, 1)))).size
13
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from hessjax import rows, trees

__all__ = ["Adapted", "linen", "nnx", "per_example", "scalar"]

POLICIES = ("frozen", "batch", "params")
RANDOM = (
    "the module draws random numbers and has no key: pass dropout=key (one for the whole batch) or dropout='rows' "
    "(inputs = (inputs, keys)), or switch them off (deterministic=True or train=False, as its __call__ has it)."
)
WRITTEN = (
    "statistics='{}', but the module updates its variables: have it use running averages "
    "(use_running_average=True or train=False, as its __call__ has it), or pass statistics='batch'; frozen statistics "
    "with dropout on need a flag for each."
)
UNDRAWN = (
    "dropout= was given, but the module draws no random numbers: have it do so (deterministic=False or train=True, as "
    "its __call__ has it), or leave dropout out."
)
UNWRITTEN = (
    "statistics='batch', but the module took no statistics of the batch: have it do so "
    "(use_running_average=False or train=True, as its __call__ has it), or pass statistics='frozen'."
)


class Adapted(NamedTuple):
    """A pure `model(params, inputs) -> outputs`, and the params of the module it was made from.

    Models of the same module, policy and arrays compare equal, the arrays by identity, so adapting again what has not
    changed does not retrace; a copy of the statistics or another key does.
    """

    model: Callable[[PyTree, PyTree], PyTree]
    params: PyTree


def linen(
    module: Any, variables: Mapping[str, Any], *, statistics: str = "frozen", dropout: Any = None, **call: Any
) -> Adapted:
    """A `flax.linen` module as a pure model, with its policies for statistics and randomness.

    Args:
      module: a `flax.linen.Module` whose method takes the inputs as its one positional argument, a pytree.
      variables: what `module.init` returned, or a training state's: the collection "params", and others.
      statistics: "frozen": every other collection (batch_stats) is constant and nothing is written, so the loss may be
        per example. "batch": they are computed from the rows given and thrown away. That couples the rows: the loss
        must be a scalar, without `chunk`; in the per-example form `hj.check_operator` refuses it. "params": they are
        among the params, by collection, and move with them along a line from one solution to another.
      dropout: None: no random numbers. A key: one mask for the whole batch, the same at every call; it depends on which
        rows come together, so the loss must be a scalar, as above. "rows": the model takes `inputs = (inputs, keys)`,
        one key a row, and runs each row as a batch of one; per example, so any `chunk` is right.
      **call: keyword arguments of the method, such as train=False, and `method` itself.

    Returns:
      The model, and params as nested dicts, without boxes of metadata.

    Raises:
      TypeError: not a linen module; rngs or mutable in `call`.
      ValueError: an unknown policy; no collection "params"; "batch" with "rows". When the model is first called: a
        module that needs a key or has no use for one, updates what is frozen, or takes no statistics of the batch where
        it should.

    Example:
      >>> import flax.linen as nn
      >>> import hessjax as hj
      >>> net, x, y = nn.Dense(3), jnp.ones((8, 2)), jnp.zeros((8, 3))
      >>> model, params = hj.adapters.linen(net, net.init(jax.random.key(0), x))
      >>> loss = hj.adapters.per_example(model, lambda outputs, targets: jnp.sum((outputs - targets) ** 2, axis=-1))
      >>> H = hj.Hessian(loss, params, (x, y), chunk=4)
      >>> hj.dense(hj.restrict(H, "bias")).diagonal().tolist()
      [2.0, 2.0, 2.0]
    """
    from flax import linen as flax_linen

    _check_module(module, "linen")
    reserved = [name for name in ("rngs", "mutable") if name in call]
    if reserved:
        raise TypeError(f"{reserved[0]} is not for the caller to pass: statistics= and dropout= say it.")
    if not isinstance(variables, Mapping) or "params" not in variables:
        got = list(variables) if isinstance(variables, Mapping) else type(variables).__name__
        raise ValueError(
            f"variables has no collection 'params', got {got}; pass what module.init returned, or {{'params': params}}."
        )
    _check_policies(statistics, dropout)
    constants = flax_linen.meta.unbox(_plain(variables))
    params = constants if statistics == "params" else constants.pop("params")
    constants = {} if statistics == "params" else jax.tree.map(_fixed, constants)
    return Adapted(_Model(_run_linen, module, constants, statistics, dropout, call), params)


def nnx(module: Any, *, statistics: str = "frozen", dropout: Any = None, wrt: Any = None, **call: Any) -> Adapted:
    """A `flax.nnx` module as a pure model; the module given is copied and never written to.

    The policies are set on the copy as `module.eval()` and `module.train()` set them: `use_running_average` and
    `deterministic`, wherever a submodule has them. What the module's own code or `call` says wins over both, and
    `hj.check_operator` tells whether a per-example loss still is one.

    Args:
      module: a `flax.nnx.Module` whose `__call__` takes the inputs as its one positional argument, a pytree.
      statistics: as for `linen`; a module's are its `nnx.BatchStat` variables, beside the others with "params".
      dropout: None: off; a module that draws all the same draws from its own streams as they stand, the same numbers at
        every call. A key, or "rows": on, as for `linen`; each random stream of the module gets a key of its own,
        derived from the one given, and starts at its first draw.
      wrt: which variables are params, an nnx filter; None: `nnx.Param`. All others are constants of the compiled
        programs: for one block of a large net, `hj.restrict` the operator instead.
      **call: keyword arguments of `__call__`.

    Returns:
      The model, and params as nested dicts: the path of `module.layer.kernel` is "layer/kernel".

    Raises:
      TypeError: not an nnx module.
      ValueError: an unknown policy; "batch" with "rows"; `wrt` matches no variable. When the model is first called: a
        module that takes no statistics of the batch where it should.

    Example:
      >>> from flax import nnx
      >>> import hessjax as hj
      >>> net = nnx.Sequential(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.BatchNorm(3, rngs=nnx.Rngs(1)))
      >>> model, params = hj.adapters.nnx(net)
      >>> loss = hj.adapters.per_example(model, lambda outputs, targets: jnp.sum((outputs - targets) ** 2, axis=-1))
      >>> H = hj.Hessian(loss, params, (jnp.ones((8, 2)), jnp.zeros((8, 3))), chunk=4)
      >>> hj.dense(hj.restrict(H, "layers/1/bias")).diagonal().tolist()
      [2.0, 2.0, 2.0]
    """
    from flax import nnx as flax_nnx

    _check_module(module, "nnx")
    _check_policies(statistics, dropout)
    copy = flax_nnx.clone(module)
    modes = {"use_running_average": statistics != "batch", "deterministic": dropout is None}
    copy.set_attributes(**modes, raise_if_not_found=False)
    wanted = flax_nnx.Param if wrt is None else wrt
    wanted = (wanted, flax_nnx.BatchStat) if statistics == "params" else wanted
    fixed = (flax_nnx.BatchStat, flax_nnx.RngKey, flax_nnx.RngCount, ...)
    graph, params, *constants = flax_nnx.split(copy, wanted, *fixed)
    if not jax.tree.leaves(params):
        is_variable = lambda x: isinstance(x, flax_nnx.Variable)
        kinds = {type(x).__name__ for x in jax.tree.leaves(flax_nnx.state(copy), is_leaf=is_variable)}
        raise ValueError(f"wrt={wanted!r} matches no variable; the module has {', '.join(sorted(kinds)) or 'none'}.")
    pure = jax.tree.map(_fixed, tuple(flax_nnx.to_pure_dict(state) for state in constants))
    return Adapted(_Model(_run_nnx, graph, pure, statistics, dropout, call), flax_nnx.to_pure_dict(params))


def per_example(model: Callable, loss: Callable) -> Callable[[PyTree, PyTree], Float[Array, " N"]]:
    """`loss(params, batch) -> [N]` of a model and a loss of its outputs, for `batch = (inputs, targets)`.

    Losses of equal parts are equal: made again, they do not retrace.

    Args:
      model: `model(params, inputs) -> outputs`.
      loss: `loss(outputs, targets) -> [N]`, such as those of `optax.losses` that keep the rows apart.

    Raises:
      ValueError: when called with a batch that is no pair.

    Example:
      >>> loss = per_example(lambda params, inputs: inputs * params, lambda outputs, targets: (outputs - targets) ** 2)
      >>> loss(2.0, (jnp.array([1.0, 2.0]), jnp.zeros(2))).tolist()
      [4.0, 16.0]
    """
    return _Loss(model, loss, _identity)


def scalar(model: Callable, loss: Callable) -> Callable[[PyTree, PyTree], Float[Array, ""]]:
    """The mean of `per_example` over the rows: the form for models that couple rows, such as batch statistics.

    Args:
      model: `model(params, inputs) -> outputs`.
      loss: `loss(outputs, targets)`, [N] or a scalar.

    Raises:
      ValueError: when called with a batch that is no pair.

    Example:
      >>> loss = scalar(lambda params, inputs: inputs * params, lambda outputs, targets: (outputs - targets) ** 2)
      >>> float(loss(2.0, (jnp.array([1.0, 2.0]), jnp.zeros(2))))
      10.0
    """
    return _Loss(model, loss, jnp.mean)


def _identity(x: Array) -> Array:
    return x


@final
@dataclass(frozen=True)
class _Loss:
    """reduce(loss(model(params, inputs), targets)): a value, so that losses made twice are one to a compiler."""

    model: Callable
    loss: Callable
    reduce: Callable

    def __call__(self, params: PyTree, batch: PyTree) -> Array:
        inputs, targets = _pair(batch, "batch", "(inputs, targets)")
        return self.reduce(self.loss(self.model(params, inputs), targets))


@final
@dataclass(frozen=True, eq=False, repr=False)
class _Model:
    """`run` on the inputs, or row by row: `definition` is the module without its arrays, `constants` those arrays."""

    run: Callable  # (model, params, inputs, key) -> outputs
    definition: Any
    constants: PyTree
    statistics: str
    dropout: Any  # None, a key, or "rows"
    call: dict[str, Any]

    def __call__(self, params: PyTree, inputs: PyTree) -> PyTree:
        if isinstance(self.dropout, str):
            return _each_row(lambda row, key: self.run(self, params, row, key), inputs)
        return self.run(self, params, inputs, None if self.dropout is None else _typed(self.dropout))

    def __repr__(self) -> str:
        kind = self.run.__name__.removeprefix("_run_")
        return f"<{kind} model, statistics={self.statistics!r}, dropout={_say(self.dropout)}>"

    def _parts(self) -> tuple:
        leaves, structure = jax.tree.flatten((self.constants, None if isinstance(self.dropout, str) else self.dropout))
        return (self.run, self.definition, self.statistics, isinstance(self.dropout, str),
                tuple(sorted(self.call.items())), structure, tuple(map(id, leaves)))  # fmt: skip

    @cached_property
    def _hash(self) -> int:
        try:
            return hash(self._parts())
        except TypeError:  # a module or argument without a hash: equal to itself alone
            return id(self)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, _Model):
            return self is other
        return self._hash == other._hash and self._parts() == other._parts()


def _run_linen(model: _Model, params: PyTree, inputs: PyTree, key: Array | None) -> PyTree:
    from flax import errors
    from flax.core import DenyList

    # Streams that are not dropout's are served from "params", which applying a module leaves unused.
    rngs = {} if key is None else {"dropout": key, "params": jax.random.fold_in(key, 1)}
    mutable = DenyList("params") if model.statistics == "batch" else False
    variables = params if model.statistics == "params" else {**model.constants, "params": params}
    apply = lambda rngs: model.definition.apply(variables, inputs, rngs=rngs, mutable=mutable, **model.call)
    try:
        out = apply(rngs)
    except errors.InvalidRngError as error:
        raise ValueError(RANDOM) from error
    except errors.ModifyScopeVariableError as error:
        raise ValueError(WRITTEN.format(model.statistics)) from error
    if rngs:
        with contextlib.suppress(errors.InvalidRngError):  # raised where a key is needed, as it should be here
            jax.eval_shape(apply, {})
            raise ValueError(UNDRAWN)
    if model.statistics != "batch":
        return out
    outputs, updated = out
    _check_written(model.constants, {name: updated[name] for name in model.constants})
    return outputs


def _run_nnx(model: _Model, params: PyTree, inputs: PyTree, key: Array | None) -> PyTree:
    from flax import nnx as flax_nnx

    statistics, keys, counts, rest = model.constants
    if key is not None:
        keys, counts = _streams(key, keys), jax.tree.map(jnp.zeros_like, counts)
    if model.statistics == "batch":  # only written to and thrown away; flax keeps float32 and would round into it
        statistics = trees.cast(statistics, trees.scalar_dtype(statistics))
    module = flax_nnx.merge(model.definition, params, statistics, keys, counts, rest)
    outputs = module(inputs, **model.call)
    if model.statistics == "batch":
        _check_written(statistics, flax_nnx.to_pure_dict(flax_nnx.state(module, flax_nnx.BatchStat)))
    return outputs


def _streams(key: Array, like: PyTree) -> PyTree:
    """A key of its own, derived from `key`, for every one of a module's random streams; stacks of keys stay stacks."""
    leaves, structure = jax.tree.flatten(like)
    own = [jax.random.fold_in(key, stream) for stream in range(len(leaves))]
    return structure.unflatten([jax.random.split(k, x.shape) if x.shape else k for k, x in zip(own, leaves)])


def _each_row(run: Callable, inputs: PyTree) -> PyTree:
    """`run(row, key)` for every row as a batch of one; leaves without rows pass whole, as everywhere."""
    inputs, keys = _pair(inputs, "inputs", "(inputs, keys) with dropout='rows'")
    if not _is_key(keys, 1):
        raise ValueError("with dropout='rows', inputs = (inputs, keys) with one key a row: jax.random.split(key, N).")
    rows.num_rows((inputs, keys))
    axes = jax.tree.map(lambda x: 0 if jnp.ndim(x) else None, inputs)
    single = jax.tree.map(lambda x: jnp.expand_dims(x, 1) if jnp.ndim(x) else x, inputs)
    one = lambda row, key: jax.tree.map(lambda y: y[0], run(row, key))
    return jax.vmap(one, in_axes=(axes, 0))(single, _typed(keys))


def _check_written(before: PyTree, after: PyTree) -> None:
    # Assigning makes a new array, traced or not; the old one means that nothing was assigned.
    if jax.tree.leaves(before) and all(map(operator.is_, jax.tree.leaves(before), jax.tree.leaves(after))):
        raise ValueError(UNWRITTEN)


def _check_module(module: Any, wanted: str) -> None:
    from flax import linen as flax_linen
    from flax import nnx as flax_nnx

    kinds = {"linen": flax_linen.Module, "nnx": flax_nnx.Module}
    if isinstance(module, kinds[wanted]):
        return
    got, hint = type(module).__name__, "any other pure function model(params, inputs) needs no adapter"
    if isinstance(module, type):
        got, hint = f"the class {module.__name__}", "pass an instance of it"
    for name, kind in kinds.items():
        hint = f"use hj.adapters.{name}" if isinstance(module, kind) else hint
    raise TypeError(f"module is {got}, wanted a flax.{wanted}.Module; {hint}.")


def _check_policies(statistics: Any, dropout: Any) -> None:
    if statistics not in POLICIES:
        raise ValueError(f"statistics must be 'frozen', 'batch' or 'params', got {statistics!r}.")
    by_rows = isinstance(dropout, str) and dropout == "rows"
    if by_rows and statistics == "batch":
        raise ValueError("dropout='rows' runs every row alone, so statistics='batch' has no batch; pass dropout=key.")
    if not (by_rows or dropout is None or _is_key(dropout, 0)):
        raise ValueError(f"dropout must be None, a PRNG key or 'rows', got {_say(dropout)}.")


def _is_key(x: Any, ndim: int) -> bool:
    """Whether `x` is an array of PRNG keys with `ndim` axes, typed or legacy."""
    dtype, shape = getattr(x, "dtype", None), jnp.shape(x)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return len(shape) == ndim
    return dtype == jnp.uint32 and len(shape) == ndim + 1


def _say(x: Any) -> str:
    """An array by dtype and shape, anything else in full."""
    return f"{x.dtype}{list(x.shape)}" if hasattr(x, "dtype") else repr(x)


def _typed(key: Any) -> Array:
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)


def _pair(x: Any, what: str, wanted: str) -> tuple[Any, Any]:
    if isinstance(x, tuple | list) and len(x) == 2:
        return x[0], x[1]
    raise ValueError(f"{what} is {type(x).__name__}, wanted a pair {wanted}.")


def _plain(tree: Any) -> Any:
    """Nested dicts in place of FrozenDicts."""
    return {name: _plain(x) for name, x in tree.items()} if isinstance(tree, Mapping) else tree


def _fixed(x: Any) -> Any:
    """A constant nobody else can write to: NumPy's arrays are copied, JAX's never change."""
    return jnp.array(x) if isinstance(x, np.ndarray) else x
