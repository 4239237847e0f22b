"""Derivatives of a deep linear network's loss in closed form, and a Lipschitz constant of its Hessian.

The loss is a function of the end-to-end matrix W = W_L ... W_1 alone, so that derivatives by the weights are products
of the other layers with the first and second derivative by W.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hessjax.landscapes.linear_points import Regression, layer_names

__all__ = ["LOSSES", "LayerProducts"]


class _Loss(NamedTuple):
    """A convex function of one residual, outputs - targets, and its derivatives."""

    value: Callable[[jax.Array], jax.Array]
    first: Callable[[np.ndarray], np.ndarray]
    second: Callable[[np.ndarray], np.ndarray] | None  # None: 1 everywhere


LOSSES: dict[str, _Loss] = {
    "squared": _Loss(lambda z: 0.5 * z**2, lambda z: z, None),
    # logaddexp and not |z| + log1p: the second derivative at z = 0 is 1.
    "log-cosh": _Loss(lambda z: jnp.logaddexp(z, -z) - math.log(2.0), np.tanh, lambda z: 1 - np.tanh(z) ** 2),
}


@dataclass(frozen=True, eq=False)
class LayerProducts:
    """Derivatives of the mean loss by W_1, ..., W_L, from those by W = W_L ... W_1 and products of the layers.

    With Omega = dl/dW and C = d2l/dW2, A_k = W_L ... W_(k+1) and B_k = W_(k-1) ... W_1:

        gradient by W_k:  A_k' Omega B_k'
        outer product:    J' C J, where the columns of J that belong to W_k are A_k (x) B_k' (vec by rows)
        functional:       entry [(i, p), (q, j)] of block (l > k) is (A_l' Omega B_k')_ij (W_(l-1) ... W_(k+1))_pq

    Points are dicts of matrices, results NumPy float64, matrices in ravel_pytree order.
    """

    problem: Regression
    loss: str

    def gradient(self, point: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Like `point`."""
        layers = self._layers(point)
        omega = self._first(_product(layers, len(layers), 0))
        return {
            name: _product(layers, len(layers), k + 1).T @ omega @ _product(layers, k, 0).T
            for k, name in enumerate(layer_names(len(layers)))
        }

    def outer_product(self, point: Mapping[str, Any]) -> Float[np.ndarray, "n n"]:
        """Part of the Hessian from first derivatives of the network; the Gauss-Newton matrix."""
        layers = self._layers(point)
        depth = len(layers)
        j = [np.kron(_product(layers, depth, k + 1), _product(layers, k, 0).T) for k in range(depth)]
        j = np.concatenate(j, axis=1)
        found = j.T @ self._second(_product(layers, depth, 0)) @ j
        return (found + found.T) / 2

    def functional(self, point: Mapping[str, Any]) -> Float[np.ndarray, "n n"]:
        """Part of the Hessian from second derivatives of the network, weighted by Omega."""
        layers = self._layers(point)
        depth = len(layers)
        omega = self._first(_product(layers, depth, 0))
        ends = np.cumsum([0, *(w.size for w in layers)])
        found = np.zeros((ends[-1], ends[-1]))
        for upper in range(depth):
            for lower in range(upper):
                outer = _product(layers, depth, upper + 1).T @ omega @ _product(layers, lower, 0).T
                block = np.einsum("ij,pq->ipqj", outer, _product(layers, upper, lower + 1))
                block = block.reshape(layers[upper].size, layers[lower].size)
                found[ends[upper] : ends[upper + 1], ends[lower] : ends[lower + 1]] = block
        return found + found.T

    def hessian(self, point: Mapping[str, Any]) -> Float[np.ndarray, "n n"]:
        """Sum of the two parts."""
        return self.outer_product(point) + self.functional(point)

    def end_to_end(self, point: Mapping[str, Any]) -> Float[np.ndarray, "outputs inputs"]:
        """W = W_L ... W_1."""
        layers = self._layers(point)
        return _product(layers, len(layers), 0)

    def lipschitz(self, point: Mapping[str, Any], radius: float) -> float:
        """K with ||H(x) - H(y)|| <= K ||x - y|| for x and y within a radius of the point, for the squared loss.

        Along a line, W = W_0 + t P_1 + t^2 P_2 + ..., where P_j is a sum over j layers that move, and the third
        derivative is 6 times <R, P_3> + <P_1, P_2> in the metric of X X' / N, R the residual W_0 - W*; on unit
        directions ||P_j|| is at most the j-th elementary mean of the products of the other layers' norms.
        """
        layers, x = self._layers(point), self.problem.x
        outer = [float(np.linalg.norm(w, 2)) + radius for w in layers]
        widest = float(np.linalg.norm(x, 2)) / len(x) ** 0.5
        first, second, third = (_moving(outer, j) for j in (1, 2, 3))
        rest = float(np.linalg.norm(x @ _product(layers, len(layers), 0).T - self.problem.y)) / len(x) ** 0.5
        rest += widest * radius * first
        return 6 * self.problem.scale * (rest * widest * third + widest**2 * first * second)

    def _layers(self, point: Mapping[str, Any]) -> list[np.ndarray]:
        return [np.asarray(point[name], float) for name in layer_names(self.problem.depth)]

    def _first(self, w: np.ndarray) -> np.ndarray:
        """Omega, the derivative of the loss by the end-to-end matrix."""
        x, y, scale = self.problem.x, self.problem.y, self.problem.scale
        return scale * LOSSES[self.loss].first(x @ w.T - y).T @ x / len(x)

    def _second(self, w: np.ndarray) -> np.ndarray:
        """C, the second derivative, by rows of the end-to-end matrix: a block x' D x / N for every output."""
        x, y, scale = self.problem.x, self.problem.y, self.problem.scale
        second = LOSSES[self.loss].second
        if second is None:
            return np.kron(np.eye(y.shape[1]), scale / len(x) * (x.T @ x))
        weights = scale * second(x @ w.T - y) / len(x)
        blocks = np.einsum("no,ni,nj->oij", weights, x, x, optimize=True)
        outputs, inputs, _ = blocks.shape
        found = np.zeros((outputs, inputs, outputs, inputs))
        found[np.arange(outputs), :, np.arange(outputs), :] = blocks
        return found.reshape(outputs * inputs, outputs * inputs)


def _moving(norms: Sequence[float], count: int) -> float:
    """Most that the sum over `count` moving layers can be: the moves' lengths have squares that add to 1.

    By Cauchy and Schwarz ||sum_S d_S c_S||^2 <= sum_S d_S^2 sum_S c_S^2, and sum_S d_S^2, an elementary symmetric
    polynomial of the squares, is at most its value where they are equal.
    """
    others = [math.prod(norms[i] for i in range(len(norms)) if i not in s) for s in _subsets(len(norms), count)]
    return math.sqrt(math.comb(len(norms), count) / len(norms) ** count * sum(c**2 for c in others))


def _subsets(n: int, count: int) -> list[tuple[int, ...]]:
    return list(itertools.combinations(range(n), count))


def _product(layers: Sequence[np.ndarray], stop: int, start: int) -> np.ndarray:
    """W_stop ... W_(start+1), the layers from start up to but without stop; the identity where there are none."""
    if start == stop:
        return np.eye(layers[start].shape[1] if start < len(layers) else layers[-1].shape[0])
    found = layers[start]
    for layer in layers[start + 1 : stop]:
        found = layer @ found
    return found
