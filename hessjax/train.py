"""Training as compiled segments: an optax loop whose start and stop are arguments, so one program serves them all.

Per init; ensembles are `vmap`. The mini-batch of a step depends on the init's key and the step alone, so a run cut
into other segments is the same run.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from hessjax import rows
from hessjax.objective import mean_loss

__all__ = ["TrainState", "Trainer", "make_optimizer"]

SCHEDULES: dict[str, Callable[[float, int], Any]] = {
    "constant": lambda rate, steps: rate,
    "cosine": lambda rate, steps: optax.schedules.cosine_decay_schedule(rate, max(steps, 1)),
    "linear": lambda rate, steps: optax.schedules.linear_schedule(rate, 0.0, max(steps, 1)),
}


class TrainState(NamedTuple):
    """Params and the optimiser's state at a step."""

    params: PyTree
    opt_state: PyTree


def make_optimizer(
    name: str,
    learning_rate: float,
    *,
    schedule: str = "constant",
    num_steps: int = 1,
    options: Mapping[str, Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """An optax optimiser by name.

    Args:
      name: a function of optax whose first argument is the learning rate, e.g. adam, sgd, lbfgs.
      learning_rate: above 0.
      schedule: constant, cosine or linear; the last two fall to 0 at num_steps.
      num_steps: length of the schedule.
      options: further arguments of that function.

    Raises:
      ValueError: unknown optimiser (with near matches), or options it does not take.

    Example:
      >>> make_optimizer("sgd", 0.1, options={"momentum": 0.9}).init(jnp.zeros(2)) is not None
      True
    """
    known = _optimizers()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"unknown optimizer {name!r}{hint} Known: {', '.join(known)}.")
    factory = getattr(optax, name)
    takes = list(inspect.signature(factory).parameters)[1:]
    for option in options or {}:
        if option not in takes:
            raise ValueError(f"optimizer {name!r} has no option {option!r}. Known: {', '.join(takes)}.")
    rate = SCHEDULES[schedule](learning_rate, num_steps)
    try:
        made = optax.with_extra_args_support(factory(rate, **(options or {})))
        jax.eval_shape(_one_step(made), jnp.zeros(2))
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"optimizer {name!r} does not work with schedule {schedule!r} and options {dict(options or {})}: {error}"
        ) from error
    return made


def _one_step(optimizer: optax.GradientTransformationExtraArgs) -> Callable[[Float[Array, " n"]], PyTree]:
    f = lambda p: jnp.sum(p**2)
    return lambda p: optimizer.update(p, optimizer.init(p), p, value=f(p), grad=p, value_fn=f)


def _optimizers() -> list[str]:
    """optax's optimisers: functions whose first argument is the learning rate and that return a transformation."""
    found = []
    for name in dir(optax):
        function = getattr(optax, name)
        if inspect.isfunction(function) and not name.startswith(("_", "scale_by_")):
            first = next(iter(inspect.signature(function).parameters), None)
            if first == "learning_rate":
                found.append(name)
    return found


@dataclass(frozen=True)
class Trainer:
    """One init's training: `start`, then `advance` from step to step. Functions and data only; no state of its own.

    Example:
      >>> trainer = Trainer(lambda p: jnp.sum(p**2), make_optimizer("sgd", 0.25))
      >>> state = trainer.start(jnp.ones(2))
      >>> trainer.advance(state, jax.random.key(0), 0, 2).params.tolist()
      [0.25, 0.25]
    """

    loss: Callable
    optimizer: optax.GradientTransformationExtraArgs
    batch: PyTree = None
    batch_size: int | None = None

    def start(self, params: PyTree) -> TrainState:
        """The state at step 0."""
        return TrainState(params, self.optimizer.init(params))

    def advance(
        self, state: TrainState, key: Key[Array, ""], start: Int[Array, ""] | int, stop: Int[Array, ""] | int
    ) -> TrainState:
        """The state at step `stop` from that at `start`; both may be traced, so every segment is one program."""
        return jax.lax.fori_loop(start, stop, lambda step, s: self._step(s, key, step), state)

    def losses(self, state: TrainState, key: Key[Array, ""], num_steps: int) -> Float[Array, " steps"]:
        """The mean loss over the whole batch at steps 0..num_steps, [num_steps + 1]."""

        def body(s, step):
            return self._step(s, key, step), mean_loss(self.loss, s.params, self.batch)

        last, values = jax.lax.scan(body, state, jnp.arange(num_steps))
        return jnp.append(values, mean_loss(self.loss, last.params, self.batch))

    def _step(self, state: TrainState, key: Key[Array, ""], step: Int[Array, ""]) -> TrainState:
        objective = partial(mean_loss, self.loss, batch=self._rows(key, step))
        value, grad = jax.value_and_grad(objective)(state.params)
        updates, opt_state = self.optimizer.update(
            grad, state.opt_state, state.params, value=value, grad=grad, value_fn=objective
        )
        params = optax.apply_updates(state.params, updates)
        # Optimisers may widen params or their state (a float64 schedule under x64): a loop's carry must not change.
        return jax.tree.map(lambda new, old: new.astype(old.dtype), TrainState(params, opt_state), state)

    def _rows(self, key: Key[Array, ""], step: Int[Array, ""]) -> PyTree:
        return rows.drawn(self.batch, jax.random.fold_in(key, step), self.batch_size)
