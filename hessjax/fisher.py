"""The Fisher information of a model's likelihood: exact, from sampled targets, or "empirical" from those of the data.

Per-example gradients are never all formed: g_i g_i' v is the score s_i in the outputs times u_i = <s_i, (J v)_i>,
pulled back. For the negative log likelihood of an exponential family in its natural parameters (softmax
cross-entropy, logistic, half squared error) the exact Fisher is the Gauss-Newton matrix (Martens 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from hessjax import rows, trees
from hessjax.curvature import STATIC
from hessjax.gauss_newton import ModelCurvature, check_model, sandwich
from hessjax.objective import PRECISION
from hessjax.operators import pytree

__all__ = ["Fisher"]

KINDS = ("exact", "sampled", "empirical")


class Likelihood(NamedTuple):
    """Of one array of outputs z: F_z times a vector, and d NLL / dz at a drawn target."""

    information: Callable[[Array, Array], Array]  # (z, dz) -> F_z dz
    score: Callable[[Array, Array], Array]  # (key, z) -> d NLL / dz


def _categorical_information(z, dz):
    p = jax.nn.softmax(z)
    return p * (dz - jnp.sum(p * dz, axis=-1, keepdims=True))


def _categorical_score(key, z):
    return jax.nn.softmax(z) - jax.nn.one_hot(jax.random.categorical(key, _single(z)), z.shape[-1], dtype=z.dtype)


def _bernoulli_information(z, dz):
    return jax.nn.sigmoid(z) * jax.nn.sigmoid(-z) * dz


def _bernoulli_score(key, z):
    return jax.nn.sigmoid(z) - jax.random.bernoulli(key, jax.nn.sigmoid(_single(z))).astype(z.dtype)


def _gaussian_score(key, z):
    return -jax.random.normal(key, z.shape, jnp.float32).astype(z.dtype)


def _single(z):  # targets are drawn in float32, so that the dtype of the params changes no draw
    return z.astype(jnp.float32)


LIKELIHOODS = {
    "categorical": Likelihood(_categorical_information, _categorical_score),
    "bernoulli": Likelihood(_bernoulli_information, _bernoulli_score),
    "gaussian": Likelihood(lambda z, dz: dz, _gaussian_score),
}


@final
@pytree
@dataclass(frozen=True, eq=False, repr=False)
class Fisher(ModelCurvature):
    """The Fisher information at `params`: (1/N) sum_i J_i' F_i J_i, with F_i that of the likelihood in the outputs.

    kind "exact" takes F_i in closed form, and is `GaussNewton` where the loss is the negative log likelihood named:
    softmax cross-entropy, logistic, half squared error. "sampled" is (1/N) sum_i g_i g_i' of gradients at one draw of
    the targets from the model, an unbiased estimate of it. "empirical" takes the targets of the data: no estimate of
    the Fisher information, but the second moment of the loss's gradients.

    Args:
      model: `model(params, inputs) -> outputs`, [N, ...]; any pytree of such arrays.
      loss: `loss(outputs, targets) -> [N]`; its gradients make the empirical kind. Of the others it is no part, but
        `check_operator` holds its second derivative against the likelihood.
      params: any pytree of real floating arrays.
      batch: `(inputs, targets)`, pytrees whose non-scalar leaves share the leading axis N.
      kind: "exact", "sampled" or "empirical".
      likelihood: "categorical": outputs are logits over their last axis; "bernoulli": each is a logit; "gaussian": each
        is a mean, of variance 1. All outputs but the classes of one distribution are independent observations. The
        empirical kind has no use for it.
      key: PRNG key of the draws, for kind "sampled": folded with the number of the row, so that chunks change none.
        In `Streamed`, carry a key in every batch, or all batches draw alike.
      chunk: rows per pass, at least 1; None takes all at once. Needs the per-example form of the loss.
      precision: `jax.default_matmul_precision` under which model and loss are traced.

    Raises:
      ValueError: kind or likelihood unknown; "sampled" without key; "empirical" with a scalar loss; outputs without
        rows, or categorical ones without classes; else as `GaussNewton`.
      TypeError: as `GaussNewton`.

    Units: 1 / params^2. One product costs one and a half to two gradients.

    Example:
      >>> import hessjax as hj
      >>> model, loss = lambda p, x: x * p, lambda z, y: jnp.logaddexp(0.0, z) - y * z
      >>> batch = jnp.array([1.0, 3.0]), jnp.array([0.0, 1.0])
      >>> hj.Fisher(model, loss, jnp.array(0.0), batch, likelihood="bernoulli").mv(1.0).tolist()
      1.25

    References: Martens (2020), JMLR 21(146), sections 5 and 11; Kunstner, Balles & Hennig (2019), arXiv:1905.12558.
    """

    model: Callable = field(metadata=STATIC)
    loss: Callable = field(metadata=STATIC)
    params: PyTree
    batch: Any
    kind: str = field(default="exact", kw_only=True, metadata=STATIC)
    likelihood: str = field(default="categorical", kw_only=True, metadata=STATIC)
    key: Any = field(default=None, kw_only=True)
    chunk: int | None = field(default=None, kw_only=True, metadata=STATIC)
    precision: str = field(default=PRECISION, kw_only=True, metadata=STATIC)

    def __post_init__(self):
        check_model(self)
        _check_known("kind", self.kind, KINDS)
        _check_known("likelihood", self.likelihood, LIKELIHOODS)
        if self.kind == "sampled" and self.key is None:
            raise ValueError("kind='sampled' draws targets and needs a key; write key=jax.random.key(0).")

    def _data(self) -> PyTree:
        if self.kind != "sampled":
            return self.batch
        return *self.batch, jnp.arange(rows.num_rows(self.batch))  # a row keeps its number, and so its draw

    def _part(self, v: PyTree, some: PyTree, reduce: Callable) -> PyTree:
        count = rows.num_rows(some)
        share = reduce(jnp.ones(count)) / count  # 1/N of a mean, 1 of a sum

        def between(outputs, tangent):
            _check_outputs(self, outputs, count)
            weighted = self._information(trees.lift(outputs), trees.lift(tangent), some)
            return jax.tree.map(lambda x, z: (share * x).astype(z.dtype), weighted, outputs)

        return sandwich(partial(self._outputs, inputs=some[0]), self._arrays(), v, between)

    def _information(self, outputs: PyTree, tangent: PyTree, some: PyTree) -> PyTree:
        """F_z times the tangent, row by row: in closed form, or as s_i <s_i, tangent_i>."""
        if self.kind == "exact":
            return jax.tree.map(LIKELIHOODS[self.likelihood].information, outputs, tangent)
        scores = self._sampled(outputs, some[2]) if self.kind == "sampled" else self._slopes(outputs, some)
        along = jax.vmap(trees.dot)(scores, tangent)
        return jax.vmap(trees.scale)(along, scores)

    def _sampled(self, outputs: PyTree, numbers: Array) -> PyTree:
        score = LIKELIHOODS[self.likelihood].score
        return jax.vmap(lambda i, z: _draw(score, jax.random.fold_in(self.key, i), z))(numbers, outputs)

    def _slopes(self, outputs: PyTree, some: PyTree) -> PyTree:
        def total(z):
            values = self._values(z, some)
            if values.ndim == 0:
                raise ValueError(
                    "kind='empirical' needs a per-example loss, but this one returns a scalar, which hides the "
                    "gradients of single examples; return the [N] losses instead of their mean."
                )
            return jnp.sum(values)

        return jax.grad(total)(outputs)

    def defects(self) -> dict[str, tuple[Array, str]]:
        found = ModelCurvature.defects(self)
        if self.kind != "empirical":
            found["likelihood"] = jax.jit(_mismatch)(self), NOT_THE_LIKELIHOOD.format(self.likelihood)
        return found


def _draw(score: Callable, key: Array, outputs: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(outputs)
    return structure.unflatten([score(jax.random.fold_in(key, j), z) for j, z in enumerate(leaves)])


def _check_known(name: str, value: Any, known: Any) -> None:
    if value not in tuple(known):
        raise ValueError(f"{name} is {value!r}, wanted one of {', '.join(map(repr, known))}.")


def _check_outputs(op: Fisher, outputs: PyTree, count: int) -> None:
    least = 2 if op.likelihood == "categorical" and op.kind != "empirical" else 1
    for path, leaf in jax.tree.leaves_with_path(outputs):
        if leaf.ndim < least or leaf.shape[0] != count:
            wanted = f"({count}, ..., classes)" if least == 2 else f"({count}, ...)"
            hint = "; likelihood='bernoulli' takes one logit a row" if leaf.shape == (count,) else ""
            raise ValueError(
                f"model output {trees.path_str(path)!r} has shape {leaf.shape}, wanted one row per example, "
                f"{wanted}{hint}."
            )


NOT_THE_LIKELIHOOD = (
    "the loss's second derivative in the outputs is not that of the {} negative log likelihood, so this Fisher "
    "information is that of another model (for squares write 0.5 * sum((outputs - targets) ** 2)); name its "
    "likelihood, or use GaussNewton, which takes any loss"
)


def _mismatch(op: Fisher) -> Float[Array, ""]:
    """Relative difference between F_z and the loss's own second derivative, on a random vector for a few rows.

    At random outputs: where the model is certain both are nearly zero, and their difference is rounding.
    """
    some = rows.take(op.batch, 0, 4)
    count = rows.num_rows(some)
    like = jax.eval_shape(partial(op._outputs, inputs=some[0]), op.params)
    outputs, tangent = (trees.normal_like(jax.random.key(seed), like) for seed in (0, 1))
    slope = jax.grad(lambda z: count * jnp.mean(op._values(z, some)))
    own = jax.jvp(slope, (outputs,), (tangent,))[1]
    named = jax.tree.map(LIKELIHOODS[op.likelihood].information, outputs, tangent)
    size = jnp.maximum(trees.norm(own), trees.norm(named))
    return trees.norm(trees.add(own, trees.scale(-1.0, named))) / jnp.maximum(size, jnp.finfo(size.dtype).tiny)
