"""Every critical value of a deep linear network with the squared loss, a point for each, its index and nullity.

Critical points belong to subsets of the eigenvectors of Sigma = Y'X (X'X)^+ X'Y / N (rows are samples), the
covariance of the least-squares prediction. All is closed form, from two SVDs in float64.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

__all__ = ["Regression", "Statement", "count_classes", "critical_points", "kawaguchi", "layer_names"]

# Eigenvalues nearer than this share of the largest are one eigenvalue: rounding in the SVD is a thousandth of it.
TIE = 1e-12

Point = dict[str, np.ndarray]


class _Spectrum(NamedTuple):
    inputs: int  # rank of the inputs
    rank: int  # of Sigma
    eigenvalues: np.ndarray  # of Sigma, descending, exact zeros beyond its rank
    vectors: np.ndarray  # its eigenvectors, in columns
    solution: np.ndarray  # the least-squares W of least norm


@dataclass(frozen=True, eq=False)
class Regression:
    """The least-squares problem of a linear network: loss = scale / (2N) sum_rows ||W_L ... W_1 x - y||^2.

    Args:
      x: inputs, float64, not all zero.
      y: targets, float64.
      hidden: widths of the hidden layers; () is plain linear regression.
      scale: factor of the loss.

    Example:
      >>> problem = Regression(np.eye(3), np.diag([3.0, 2.0, 1.0]), hidden=(1,))
      >>> np.round(problem.eigenvalues, 12).tolist(), round(problem.lower_bound, 12)
      ([3.0, 1.333333333333, 0.333333333333], 0.833333333333)
    """

    x: Float[np.ndarray, "rows inputs"]
    y: Float[np.ndarray, "rows outputs"]
    hidden: tuple[int, ...] = ()
    scale: float = 1.0

    @property
    def widths(self) -> tuple[int, ...]:
        """Input, hidden and output widths."""
        return (self.x.shape[1], *self.hidden, self.y.shape[1])

    @property
    def depth(self) -> int:
        """Number of layers, which is one more than there are hidden ones."""
        return len(self.hidden) + 1

    @property
    def bottleneck(self) -> int:
        """The least hidden width p; that of the output where nothing is hidden."""
        return min(self.hidden, default=self.y.shape[1])

    @property
    def size(self) -> int:
        """Number of weights."""
        return sum(a * b for a, b in itertools.pairwise(self.widths))

    @cached_property
    def variance(self) -> float:
        """Mean squared norm of the targets."""
        return float(np.sum(self.y**2)) / len(self.y)

    @property
    def eigenvalues(self) -> Float[np.ndarray, " outputs"]:
        """Of Sigma, descending."""
        return self.spectrum.eigenvalues

    @property
    def lower_bound(self) -> float:
        """The global minimum, that of least squares of rank at most p: scale / 2 (variance - p largest eigenvalues)."""
        return self.scale / 2 * (self.variance - float(self.eigenvalues[: self.bottleneck].sum()))

    def loss(self, point: Mapping[str, Any]) -> float:
        """Mean loss at a point, in float64."""
        outputs = self.x
        for name in layer_names(self.depth):
            outputs = outputs @ np.asarray(point[name], float).T
        return self.scale / 2 * float(np.sum((outputs - self.y) ** 2)) / len(self.y)

    @cached_property
    def spectrum(self) -> _Spectrum:
        """Eigenvalues and eigenvectors of Sigma, ranks, and the least-squares solution."""
        eps, rows = np.finfo(float).eps, len(self.x)
        p, s, qt = np.linalg.svd(self.x, full_matrices=False)
        r = int(np.sum(s > s[0] * eps * max(self.x.shape)))
        whitened = self.y.T @ p[:, :r] / rows**0.5  # Sigma is its Gram matrix
        u, sigma, _ = np.linalg.svd(whitened)
        # Relative to the targets, not to sigma[0]: targets orthogonal to the inputs leave nothing but rounding.
        rank = int(np.sum(sigma > max(self.x.shape) * eps * self.variance**0.5))
        eigenvalues = np.zeros(len(u))
        eigenvalues[:rank] = sigma[:rank] ** 2
        return _Spectrum(r, rank, eigenvalues, u, (whitened * (rows**0.5 / s[:r])) @ qt[:r])


def layer_names(depth: int) -> list[str]:
    """Names of the weight matrices, input side first, that sort in that order at any depth.

    Example:
      >>> layer_names(2), layer_names(10)[:2]
      (['W1', 'W2'], ['W01', 'W02'])
    """
    return [f"W{k:0{len(str(depth))}d}" for k in range(1, depth + 1)]


def count_classes(problem: Regression) -> int:
    """Number of subsets of eigenvectors that make a critical point: sum over i <= p of (d_y choose i); 1 at depth 1.

    Example:
      >>> count_classes(Regression(np.eye(6), np.eye(6), hidden=(3,)))
      42
    """
    k = len(problem.eigenvalues)
    return 1 if problem.depth == 1 else sum(math.comb(k, i) for i in range(min(problem.bottleneck, k) + 1))


def critical_points(problem: Regression) -> Iterator[dict[str, Any]]:
    """A point for every subset S of at most p eigenvectors of Sigma, where W_L ... W_1 = P_S W*; small subsets first.

    With W* the least-squares solution, U_S the eigenvectors in S (m of them) and blocks filled up with zeros:
    W_1 = [U_S' W*; 0], W_L = [U_S, 0], and each layer between is the identity of size q, "hidden_rank".
    q is p; from three layers on, a second point with q = m follows where it differs in index: the product of the
    layers between then has no path left through which the loss falls to second order. With lambda the eigenvalues,
    rho the rank of Sigma and m+ the number of positive eigenvalues in S:

        loss = scale / 2 (mean ||y||^2 - sum_S lambda)
        index = #{i in S, j not in S: lambda_j > lambda_i} + (q - m) (rho - m+)
        rank of H = m (d_y + rank X - m) - #{i in S, j not in S: lambda_j = lambda_i} + 2 (q - m) (rho - m+)

    Index and nullity are of this point; where Sigma is singular or the net has three layers or more, other points
    with the same product may differ. Equal eigenvalues make subsets into continua, of which these are members.
    With one layer there is one point, W*.

    Args:
      problem: the regression; a deep-linear or autoencoder landscape has it in facts["problem"].

    Returns:
      An iterator of dicts with point, loss, index, nullity, kind, name, subset (positions in problem.eigenvalues),
      hidden_rank, and strict (whether there is a negative eigenvalue). A degenerate saddle also has "descent", a
      direction d along which loss(point + t d) = loss - scale lambda_j (t^L - t^(2L) / 2), j the first left out.

    References: Baldi & Hornik (1989), Neural Networks 2(1):53-58, doi:10.1016/0893-6080(89)90014-2;
      Kawaguchi (2016), NeurIPS, arXiv:1605.07110; Achour, Malgouyres & Gerchinovitz (2024), JMLR 25(242),
      arXiv:2107.13289. Index and nullity follow from the second variation, which splits into 2 x 2 blocks.

    Example:
      >>> problem = Regression(np.eye(2), np.diag([2.0, 1.0]), hidden=(1,))
      >>> [(p["subset"], p["kind"], p["index"], p["nullity"]) for p in critical_points(problem)]
      [((), 'strict saddle', 2, 0), ((0,), 'degenerate minimum', 0, 1), ((1,), 'strict saddle', 1, 1)]
    """
    k, p = len(problem.eigenvalues), problem.bottleneck
    sizes = [k] if problem.depth == 1 else range(min(p, k) + 1)
    for m in sizes:
        for subset in itertools.combinations(range(k), m):
            yield _critical_point(problem, subset, p)
            if problem.depth > 2 and m < p and _left_out(problem, subset):
                yield _critical_point(problem, subset, m)


def _left_out(problem: Regression, subset: tuple[int, ...]) -> list[int]:
    """Positions of the positive eigenvalues that are not in the subset."""
    return [j for j in range(problem.spectrum.rank) if j not in subset]


def _critical_point(problem: Regression, subset: tuple[int, ...], hidden_rank: int) -> dict[str, Any]:
    index, nullity = _inertia(problem, subset, hidden_rank)
    inside = float(problem.eigenvalues[list(subset)].sum())
    has_room = len(subset) < problem.bottleneck and bool(_left_out(problem, subset))
    kind = "strict saddle" if index else "degenerate saddle" if has_room else "minimum"
    inner = f", inner rank {hidden_rank}" if hidden_rank < problem.bottleneck and problem.depth > 2 else ""
    fact = {
        "point": _representative(problem, subset, hidden_rank),
        "loss": problem.scale / 2 * (problem.variance - inside),
        "index": index,
        "nullity": nullity,
        "kind": "degenerate minimum" if kind == "minimum" and nullity else kind,
        "name": f"eigenvectors {', '.join(map(str, subset)) or 'none'}" + inner,
        "subset": subset,
        "hidden_rank": hidden_rank,
        "strict": index > 0,
    }
    if kind == "degenerate saddle":
        fact["descent"] = _descent(problem, subset)
    return fact


def _inertia(problem: Regression, subset: tuple[int, ...], hidden_rank: int) -> tuple[int, int]:
    """Index and nullity, by the formulas of `critical_points`."""
    values, m = problem.eigenvalues, len(subset)
    gaps = np.delete(values, subset)[:, None] - values[list(subset)]
    tie = TIE * values[0]
    pairs = (hidden_rank - m) * len(_left_out(problem, subset))  # each a minus and a plus
    index = int(np.sum(gaps > tie)) + pairs
    rank = m * (len(values) + problem.spectrum.inputs - m) - int(np.sum(np.abs(gaps) <= tie)) + 2 * pairs
    return index, problem.size - rank


def _representative(problem: Regression, subset: tuple[int, ...], hidden_rank: int) -> Point:
    basis = problem.spectrum.vectors[:, list(subset)]
    first = basis.T @ problem.spectrum.solution
    if problem.depth == 1:
        return {"W1": basis @ first}
    layers = _zeros(problem)
    first_name, *between, last_name = layers
    layers[first_name][: len(subset)] = first
    layers[last_name][:, : len(subset)] = basis
    for name in between:
        layers[name][:hidden_rank, :hidden_rank] = np.eye(hidden_rank)
    return layers


def _descent(problem: Regression, subset: tuple[int, ...]) -> Point:
    """The path through the first hidden units that S leaves free, from the first eigenvector that S leaves out."""
    j, free = _left_out(problem, subset)[0], len(subset)
    u = problem.spectrum.vectors[:, j]
    sigma = problem.eigenvalues[j] ** 0.5
    layers = _zeros(problem)
    first_name, *between, last_name = layers
    step = sigma ** (1 / problem.depth)
    layers[first_name][free] = step / sigma * (u @ problem.spectrum.solution)
    layers[last_name][:, free] = step * u
    for name in between:
        layers[name][free, free] = step
    return layers


def _zeros(problem: Regression) -> Point:
    shapes = [(b, a) for a, b in itertools.pairwise(problem.widths)]
    return {name: np.zeros(shape) for name, shape in zip(layer_names(problem.depth), shapes, strict=True)}


class Statement(NamedTuple):
    """Whether a statement holds of the points it was given, and the points that show it."""

    holds: bool
    witnesses: tuple[int, ...]  # positions in the list of points


def kawaguchi(problem: Regression, points: Sequence[Mapping[str, Any]]) -> dict[str, Statement]:
    """Kawaguchi's four statements about deep linear networks, held against a list of critical points.

    "non-convex and non-concave": a Hessian with a negative eigenvalue, and one with a positive (one witness each).
    "local minima are global": points from which no way down is known, all of which have the least loss (all of these).
    "others are saddles": points above the least loss, all of which have a way down and a way up (all of these).
    "strictness": of those, the points without a negative eigenvalue. With one hidden layer there is none; in deeper
    nets there are some, at all of which W_(L-1) ... W_2 has a rank below p.
    A way down (up) is a negative (positive) eigenvalue or, to a higher order, the point's "descent" (with the sign of
    the last layer changed), along which the loss is evaluated.

    Args:
      problem: the regression.
      points: of `critical_points`; statements about all of them want all of them.

    Returns:
      A dict of `Statement`, in the order above.

    Raises:
      ValueError: the network has one layer, of which the theorem does not speak: it is convex.

    References: Kawaguchi (2016), NeurIPS, arXiv:1605.07110, Theorem 2.3 and Corollary 2.4.

    Example:
      >>> problem = Regression(np.eye(2), np.diag([2.0, 1.0]), hidden=(1, 1))
      >>> statements = kawaguchi(problem, list(critical_points(problem)))
      >>> all(s.holds for s in statements.values()), statements["strictness"].witnesses
      (True, (1,))
    """
    if problem.depth < 2:
        raise ValueError(f"problem has depth {problem.depth}, wanted 2 or more: a single layer is convex.")
    near = TIE * problem.scale * problem.variance
    down = [p["index"] > 0 or _changes(problem, p, -1) for p in points]
    up = [p["index"] + p["nullity"] < problem.size or _changes(problem, p, 1) for p in points]
    least = [p["loss"] <= problem.lower_bound + near for p in points]
    negative = _where(p["index"] > 0 for p in points)
    positive = _where(p["index"] + p["nullity"] < problem.size for p in points)
    minima, others = _where(not d for d in down), _where(not at_least for at_least in least)
    flat = _where(not at_least and p["index"] == 0 for p, at_least in zip(points, least, strict=True))
    narrow = all(points[i]["hidden_rank"] < problem.bottleneck for i in flat)
    return {
        "non-convex and non-concave": Statement(bool(negative and positive), negative[:1] + positive[:1]),
        "local minima are global": Statement(bool(minima) and all(least[i] for i in minima), minima),
        "others are saddles": Statement(bool(others) and all(down[i] and up[i] for i in others), others),
        "strictness": Statement(bool(flat) == (problem.depth > 2) and narrow, flat),
    }


def _where(flags: Iterator[bool]) -> tuple[int, ...]:
    return tuple(i for i, flag in enumerate(flags) if flag)


def _changes(problem: Regression, point: Mapping[str, Any], sign: int) -> bool:
    """Whether the loss falls (sign -1) or rises (+1) along the point's descent or its mirror image, at four steps."""
    if "descent" not in point:
        return False
    last = layer_names(problem.depth)[-1]
    way = {name: (-sign if name == last else 1) * d for name, d in point["descent"].items()}
    steps = [2 ** (-i / problem.depth) for i in range(4)]  # t^L is 1, 1/2, 1/4, 1/8
    losses = [problem.loss({name: w + t * way[name] for name, w in point["point"].items()}) for t in steps]
    return all(sign * (loss - point["loss"]) > 0 for loss in losses)
