"""What adaptive optimisers divide gradients by, read from their states: optax keeps second moments in several kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PyTree

__all__ = ["preconditioner"]


def preconditioner(
    opt_state: PyTree, params: PyTree, *, b2: float, eps: float, eps_root: float
) -> tuple[PyTree, Bool[Array, ""]]:
    """What an optimiser divides by, as its state says, and whether it says anything yet.

    Args:
      opt_state: of optax: adam and what scales as it does (adamw, nadam, lamb), adabelief, amsgrad, rmsprop (centered
        and with bias correction too), adagrad.
      params: what it trains.
      b2: decay of the second moments, for their bias.
      eps: of the optimiser.
      eps_root: of Adam, within the root.

    Raises:
      ValueError: a state without second moments, or with moments of a kind that is not known; it is named.

    Example:
      >>> import optax
      >>> adam, w = optax.adam(0.1), jnp.array([3.0, 4.0])
      >>> _, state = adam.update(w, adam.init(w), w)
      >>> divided, known = preconditioner(state, w, b2=0.999, eps=1e-8, eps_root=0.0)
      >>> bool(jnp.allclose(divided, w)), bool(known)
      (True, True)
    """
    kinds = _kinds(b2, eps, eps_root)
    has_moments = lambda x: any(name in ("nu", "sum_of_squares") for name in getattr(x, "_fields", ()))
    found = [x for x in jax.tree.leaves(opt_state, is_leaf=has_moments) if has_moments(x)]
    if not found:
        raise ValueError(
            "preconditioned_sharpness needs the state of an optimizer with second moments: hj.track(measure, every, "
            f"inner=optax.adam(...)); got {'none' if opt_state is None else jax.tree.structure(opt_state)}."
        )
    state, kind = found[0], type(found[0]).__name__
    moments = state.nu if "nu" in state._fields else state.sum_of_squares
    if kind not in kinds or jax.tree.structure(moments) != jax.tree.structure(params):
        raise ValueError(
            f"preconditioned_sharpness: what an optimizer of state {kind} divides by is not known, or its moments are "
            f"not like params; give preconditioner=, a function of its state. Known: {', '.join(kinds)}."
        )
    divided = kinds[kind](state)
    if "count" in state._fields:  # tuples have a method of that name
        return divided, state.count > 0
    return divided, jnp.any(jnp.stack([jnp.any(x > 0) for x in jax.tree.leaves(moments)]))


def _kinds(b2: float, eps: float, eps_root: float) -> dict[str, Callable[[Any], PyTree]]:
    """By the name of the state: optax exports few of these types."""
    each = jax.tree.map

    def corrected(state: Any, moments: PyTree) -> PyTree:
        bias = jnp.where(state.count > 0, 1 - b2**state.count, 1)
        return each(lambda x: x / bias.astype(x.dtype), moments)

    spread = lambda mean, square: square - mean**2
    return {
        "ScaleByAdamState": lambda s: each(lambda x: jnp.sqrt(x + eps_root) + eps, corrected(s, s.nu)),
        "ScaleByAmsgradState": lambda s: each(lambda x: jnp.sqrt(x + eps_root) + eps, s.nu_max),
        "ScaleByBeliefState": lambda s: each(lambda x: jnp.sqrt(x) + eps, corrected(s, s.nu)),
        "ScaleByRmsState": lambda s: each(lambda x: jnp.sqrt(x + eps), s.nu),
        "ScaleByRmsWithCountState": lambda s: each(lambda x: jnp.sqrt(x + eps), corrected(s, s.nu)),
        "ScaleByRStdDevState": lambda s: each(lambda m, x: jnp.sqrt(spread(m, x) + eps), s.mu, s.nu),
        "ScaleByRStdDevWithCountState": lambda s: each(
            lambda m, x: jnp.sqrt(spread(m, x) + eps), corrected(s, s.mu), corrected(s, s.nu)
        ),
        # A sum of zero is a gradient that was always zero, and moves nothing.
        "ScaleByRssState": lambda s: each(lambda x: jnp.where(x > 0, jnp.sqrt(x + eps), jnp.inf), s.sum_of_squares),
    }
