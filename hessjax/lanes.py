"""One lane of a sweep: `lane_width` inits started, trained and measured by three compiled programs.

The lane axis is sharded over local devices with no communication; within a device inits are trained together, and
measured so many at a time as stay in the cache (on an accelerator, in memory).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PyTree

from hessjax import trees
from hessjax.assembly import check_fits
from hessjax.checks import OperatorError, check_operator
from hessjax.columns import COLUMNS
from hessjax.config import Sweep
from hessjax.curvature import Hessian
from hessjax.devices import batch_bytes, lane_mesh, measuring_bytes
from hessjax.landscapes import base as landscapes
from hessjax.landscapes.base import Landscape
from hessjax.measuring import estimate, measure
from hessjax.objective import mean_loss
from hessjax.rows import num_rows
from hessjax.stored import Stored
from hessjax.times import place
from hessjax.train import Trainer, TrainState, make_optimizer

__all__ = ["Lanes", "Way", "resolve"]

FEW = 4  # lanes, of which an empty place is a noticeable share
PILOT = 32  # inits whose median loss places the times


def resolve(config: Stored) -> Landscape:
    """The landscape of a configuration, its params and data in the configuration's dtype.

    Raises:
      ValueError: float64 without x64; unknown landscape or option; empty params.
      TypeError: params with leaves that are not floating.
    """
    if config.dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            'dtype float64 needs x64; write jax.config.update("jax_enable_x64", True) before anything else.'
        )
    land = config.landscape
    if isinstance(land, str):
        options = dict(config.options)
        if "dtype" in landscapes.options(land):
            options = {"dtype": config.dtype, **options}
        land = landscapes.get(land, **options)
    elif not isinstance(land, Landscape):
        raise TypeError(f"landscape is {type(land).__name__}, wanted a name or a hessjax.landscapes.Landscape.")
    init = lambda key: trees.cast(land.init(key), config.dtype)
    trees.check_params(jax.eval_shape(land.init, jax.random.key(0)))
    batch = None if land.batch is None else trees.cast(jax.tree.map(jnp.asarray, land.batch), config.dtype)
    model = land.model if land.classifies and _has_classes(land, init, batch) else None
    return Landscape(land.name, init, land.loss, batch, model, land.facts)


def _has_classes(land: Landscape, init: Callable, batch: PyTree) -> bool:
    """Whether outputs are one row of at least two scores per target; one logit has no argmax to be in error."""
    assert land.model is not None
    outputs = jax.eval_shape(lambda key: land.model(init(key), batch[0]), jax.random.key(0))  # pyright: ignore
    shape = getattr(outputs, "shape", ())
    return shape[:-1] == batch[1].shape and shape[-1:] > (1,)


class Way(NamedTuple):
    """How a lane is measured, which decides the last bits: a store records it, and whoever resumes does the same.

    Args:
      columns: Hessian columns per pass, of the leaves that are columns.
      pieces: whether leaves may be put together from pieces.
      together: inits that a device measures at a time.
    """

    columns: int = COLUMNS
    pieces: bool = True
    together: int = 1


def _width(config: Sweep) -> int:
    """Inits of a lane: of few lanes all are equally wide, as places of the last one that are left empty cost time."""
    count = -(-config.num_inits // config.lane_width)
    if config.first_init or count > FEW:  # the last part of a larger study has lanes as wide as all of it
        return config.lane_width
    return -(-config.num_inits // count)


class Lanes:
    """The compiled programs of one sweep; made once, then `run(first)` for each lane.

    Args:
      config: the sweep.
      land: what `resolve` made of its landscape.
      memory: bytes the measuring program may take; None: half of what is available.
      width: inits of a lane; None: the configuration's lane width, or the even width of a few lanes.
    """

    def __init__(self, config: Sweep, land: Landscape, memory: int | None = None, width: int | None = None):
        self.config, self.landscape = config, land
        self.width = width or _width(config)
        self.mesh = lane_mesh(self.width)
        self.memory = memory or measuring_bytes(self.mesh.size)
        self._padded = -(-self.width // self.mesh.size) * self.mesh.size  # the same share for every device
        optimizer = make_optimizer(
            config.optimizer,
            config.learning_rate,
            schedule=config.schedule,
            num_steps=config.num_steps,
            options=config.optimizer_options,
        )
        self.trainer = Trainer(land.loss, optimizer, land.batch, config.batch_size)
        self.way, self.compile_s, self.times = Way(), 0.0, []
        self._steps: dict[int, Array] = {}
        if config.chunk is not None:  # a scalar loss with chunk is refused before anything runs
            _ = jax.eval_shape(lambda p: Hessian(land.loss, p, land.batch, chunk=config.chunk).mv(p), self._struct)

    @cached_property
    def _struct(self) -> PyTree:
        return jax.eval_shape(self.landscape.init, jax.random.key(0))

    @property
    def num_params(self) -> int:
        """P, the number of parameters."""
        return trees.size(self._struct)

    def _key(self, init: Int[Array, ""] | int, use: int) -> Array:
        """Use 0: the init itself; 1: its mini-batches; 2: its probes. Folded from its number, never from a position."""
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(self.config.seed), init), use)

    def _start(self, init: Int[Array, ""]) -> TrainState:
        return self.trainer.start(self.landscape.init(self._key(init, 0)))

    def _advance(self, state: TrainState, init: Int[Array, ""], start: Int[Array, ""], stop: Int[Array, ""]):
        return self.trainer.advance(state, self._key(init, 1), start, stop)

    @cached_property
    def _run_start(self) -> Callable[[Int[Array, " padded"]], TrainState]:
        """The starting program. The pilot and the checks use it too: random draws take longest to compile."""
        return jax.jit(self._sharded(jax.vmap(self._start), False))

    @cached_property
    def _first(self) -> PyTree:
        """Params of init 0, whichever inits are the sweep's."""
        return jax.tree.map(lambda x: jnp.array(x[0]), self._run_start(self._spread(np.arange(self._padded))).params)

    @property
    def _apart(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec("lane"))

    def _spread(self, inits: Int[np.ndarray, " padded"]) -> Int[Array, " padded"]:
        """Once for all programs of a lane: each would spread them again, which takes longer than calling it."""
        return jax.device_put(inits, self._apart)

    def _on_all(self, step: int) -> Int[Array, ""]:
        """A step's number on every device, kept."""
        if step not in self._steps:
            self._steps[step] = jax.device_put(np.int32(step), NamedSharding(self.mesh, PartitionSpec()))
        return self._steps[step]

    def numbers(self, first: int) -> Int[Array, " padded"]:
        """Numbers of the inits of a lane, given its first row; past the last init they repeat it."""
        rows = np.minimum(np.arange(first, first + self._padded), self.config.num_inits - 1)
        return self._spread(self.config.first_init + rows)

    def _measure(self, params: PyTree, init: Int[Array, ""]) -> dict[str, Array]:
        if self.config.measure == "slq":
            sizes = {"num_steps": self.config.lanczos_steps, "num_probes": self.config.num_probes}
            one = {"tol": self.config.tol, "chunk": self.config.chunk}
            return estimate(self.landscape, params, self._key(init, 2), **one, **sizes)
        return measure(
            self.landscape,
            params,
            tol=self.config.tol,
            spectrum=self.config.measure == "spectrum",
            chunk=self.config.chunk,
            columns=self.way.columns,
            pieces=self.way.pieces,
        )

    def _sharded(self, f: Callable, *scalars: bool) -> Callable:
        """`f` on a block of the lane per device; arguments marked True are the same for all inits."""
        lane, same = PartitionSpec("lane"), PartitionSpec()
        specs = tuple(same if scalar else lane for scalar in scalars)
        return jax.shard_map(f, mesh=self.mesh, in_specs=specs, out_specs=lane, check_vma=False)

    def compile(self, steps: list[int], way: Way | None = None) -> None:
        """Compiles the three programs, once; the measuring one in such a way that its workspace keeps the memory bound.

        Args:
          steps: what `run` measures at; may change without compiling again.
          way: how to measure, as a store begun elsewhere recorded it; None: planned here.
        """
        self.times = steps
        if self.compile_s and way in (None, self.way):
            return
        if self.config.measure != "slq":
            check_fits(self.num_params, self.config.dtype)
        began, self.way = time.perf_counter(), way or Way()
        inits, zero = self.numbers(0), self._on_all(0)
        state = jax.eval_shape(jax.vmap(self._start), inits)
        together = jax.vmap(self._advance, in_axes=(0, 0, None, None))
        advance = jax.jit(self._sharded(together, False, False, True, True), donate_argnums=0)
        state = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=self._apart), state)
        self._run_advance = advance.lower(state, inits, zero, zero).compile()
        if way is None:
            self.way = Way(together=self._dividing(self._fitting() // self._least()))
        self._compile_measure(state.params, self._fitting() * self.mesh.size if way is None else self.memory)
        self.compile_s = round(time.perf_counter() - began, 3)

    def _compile_measure(self, params: PyTree, fitting: int) -> None:
        """The measuring program; of fewer inits at a time, then in columns, then fewer, until it is within bounds."""
        while True:
            self._run_measure = self._measuring(params)
            taken, together = self._workspace(), self.way.together
            if taken <= (self.memory if together == 1 else min(fitting, self.memory)):
                return
            if together > 1:
                self.way = self.way._replace(together=self._dividing(min(fitting * together // taken, together - 1)))
            elif self.config.measure == "slq":
                break
            elif self.way.pieces:
                self.way = self.way._replace(pieces=False)
            elif self.way.columns > 1:
                self.way = self.way._replace(columns=max(1, self.way.columns // 4))
            else:
                break
        one = "vector" if self.config.measure == "slq" else "column"
        raise ValueError(
            f"measuring one init needs {self._workspace() / 2**20:.3g} MiB with one {one} at a time, over the "
            f"bound of {self.memory / 2**20:.3g} MiB; give chunk= (rows per pass), a smaller lane_width, or more "
            "memory."
        )

    def _measuring(self, params: PyTree) -> Any:
        def lane(some: PyTree, inits: Int[Array, " lane"]) -> PyTree:
            one = lambda given: self._measure(*given)
            if self.way.together == 1:
                return jax.lax.map(one, (some, inits))
            return jax.lax.map(one, (some, inits), batch_size=self.way.together)

        return jax.jit(self._sharded(lane, False, False)).lower(params, self.numbers(0)).compile()

    def _fitting(self) -> int:
        """Bytes that inits measured together may take on a device; on a CPU estimates are no quicker together."""
        alone = self.config.measure == "slq" and jax.default_backend() == "cpu"
        return 0 if alone else batch_bytes(self.memory, self.mesh.size)

    def _least(self) -> int:
        """Bytes that measuring one init takes at the least, of which to guess how many fit: compiling will tell."""
        size = self.num_params * jnp.dtype(self.config.dtype).itemsize
        return size * (3 * self.config.num_probes if self.config.measure == "slq" else 5 * self.num_params)

    def _dividing(self, most: int) -> int:
        """The largest number of a device's inits, up to `most`, that leaves no remainder, a program of its own."""
        share = self._padded // self.mesh.size
        return next((k for k in range(min(share, most), 1, -1) if share % k == 0), 1)

    def _workspace(self) -> int:
        analysis = self._run_measure.memory_analysis()
        return 0 if analysis is None else int(analysis.temp_size_in_bytes) * self.mesh.size

    def run(self, first: int) -> dict[str, np.ndarray]:
        """Rows first..first+width-1 of the sweep, [width, times, ...]; rows past the last init repeat it."""
        return self.wait(self.begin(first))

    def begin(self, first: int) -> list[dict[str, Array]]:
        """Begins to compute rows first..first+width-1: what `wait` makes rows of."""
        inits = self.numbers(first)
        state, rows, now = self.start(inits), [], 0
        for step in self.times:
            state = self.train(state, inits, now, step) if step > now else state
            rows.append(self.measured(state, inits))
            now = step
        return rows

    def start(self, inits: Int[Array, " padded"]) -> TrainState:
        """States at step 0 of what `numbers` gives."""
        return self._run_start(inits)

    def train(self, state: TrainState, inits: Int[Array, " padded"], now: int, step: int) -> TrainState:
        """States at a step from those at step `now`, which are given away."""
        return self._run_advance(state, inits, self._on_all(now), self._on_all(step))

    def measured(self, state: TrainState, inits: Int[Array, " padded"]) -> dict[str, Array]:
        """Every number of the rows that states are measured to be."""
        return self._run_measure(state.params, inits)

    def wait(self, begun: list[dict[str, Array]]) -> dict[str, np.ndarray]:
        """The rows that were begun, when they are there; asked in turns, as a signal is met between them."""
        while begun and not all(x.is_ready() for x in jax.tree.leaves(begun[-1])):
            time.sleep(0.002)
        kept = slice(self.width)
        return {name: np.stack([np.asarray(row[name])[kept] for row in begun], axis=1) for name in begun[0]}

    def narrowed(self) -> Lanes:
        """Lanes of half the width, compiled for the same steps.

        Raises:
          ValueError: the lane is one init wide.
        """
        if self.width == 1:
            raise ValueError("memory ran out with one init at a time; give chunk= (rows per pass) or more memory.")
        half = Lanes(self.config, self.landscape, self.memory, self.width // 2)
        half.compile(self.times, self.way._replace(together=1))
        return half

    def params(self, init: Int[Array, ""] | int, step: Int[Array, ""] | int) -> PyTree:
        """Params of one init after `step` training steps, without the measuring program."""
        number = jnp.asarray(init)
        train = lambda i: self._advance(self._start(i), i, jnp.int32(0), jnp.int32(step)).params
        return jax.jit(train)(number)

    def steps(self) -> list[int]:
        """The measured steps: given, or placed by `spacing`."""
        return place(self.config, self._pilot)

    def _pilot(self) -> Float[np.ndarray, " steps"]:
        """Median loss of the first 32 inits' training at every step."""
        lanes = [self._run_start(self._spread(np.arange(a, a + self._padded))) for a in range(0, PILOT, self._padded)]
        starts = jax.tree.map(lambda *x: jnp.concatenate([np.asarray(part) for part in x])[:PILOT], *lanes)
        losses = lambda state, i: self.trainer.losses(state, self._key(i, 1), self.config.num_steps)
        return np.asarray(jnp.nanmedian(jax.jit(jax.vmap(losses))(starts, jnp.arange(PILOT)), axis=0))

    def check(self) -> None:
        """Refuses a random or asymmetric Hessian before anything is stored; non-finite only if all of a lane are.

        One bad init is a row with its status, also where it is the first.
        """
        land, starts = self.landscape, self._run_start(self.numbers(0)).params
        for k in range(self.width):
            params = jax.tree.map(lambda x, k=k: jnp.array(x[k]), starts)
            try:
                check_operator(Hessian(land.loss, params, land.batch, chunk=self.config.chunk), jax.random.key(0))
                return
            except OperatorError as error:
                if not error.report.defects["finite"] or k == self.width - 1:
                    raise

    def identity(self) -> dict[str, Any]:
        """What tells this landscape from another of the same name: sizes, data, and its loss at init 0."""
        land = self.landscape
        value_and_grad = jax.value_and_grad(lambda p: mean_loss(land.loss, p, land.batch))
        loss, grad = jax.jit(value_and_grad)(self._first)
        return {
            "name": land.name,
            "num_params": self.num_params,
            "num_rows": None if land.batch is None else num_rows(land.batch),
            "notes": [str(note) for note in land.facts.get("notes", [])],
            "data": None if land.batch is None else _digest(land.batch),
            "probe": {"loss": float(loss), "grad_norm": float(trees.norm(grad))},
        }


def _digest(batch: PyTree) -> str:
    found = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(batch):
        array = np.asarray(jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)
        found.update(f"{trees.path_str(path)} {array.shape} {array.dtype}".encode() + array.tobytes())
    return found.hexdigest()[:16]
