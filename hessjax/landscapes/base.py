"""The landscape record, and the register of named ones.

A landscape is pure functions and data: where params come from, the loss, the batch, and facts known about it.
It knows nothing of curvature; they meet in a study.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Landscape", "critical_point", "describe", "get", "manual", "names", "options", "register"]


POINT_KEYS = ("point", "loss", "index", "nullity", "kind")  # what every known critical point has


@dataclass(frozen=True, eq=False)
class Landscape:
    """A loss surface: `init(key) -> params`, `loss(params, batch)` and the batch.

    Args:
      name: as it is shown and stored.
      init: `init(key) -> params`, any pytree of floating arrays.
      loss: `loss(params, batch) -> [N]` or scalar; `loss(params)` where batch is None.
      batch: any pytree with a common leading axis, or None.
      model: `model(params, inputs) -> outputs`, where there is one. With batch = (inputs, integer targets) the task
        classifies, and its error is the share of rows where argmax of the outputs is not the target.
      facts: what is known in closed form, on the host in float64: critical_points (a list of what `critical_point`
        makes), gradient (of params, in their structure) and hessian (of params, [n, n] in the order of `ravel_pytree`),
        both of the mean loss; hessian_lipschitz (of params and a radius: a Lipschitz constant of the Hessian there),
        lower_bound, ranks, notes, and what else the landscape documents. index_curve is a law that index and loss of
        critical points are compared with: name, share (losses to shares of all eigenvalues below 0) and losses (from,
        to).

    Raises:
      TypeError: facts are no mapping, or critical_points no list.
      ValueError: a critical point lacks point, loss, index, nullity or kind.

    Example:
      >>> import hessjax as hj, jax.numpy as jnp
      >>> bowl = hj.landscapes.Landscape("bowl", init=lambda key: jnp.ones(2), loss=lambda p: jnp.sum(p**2))
      >>> hj.dense(hj.Hessian(bowl.loss, bowl.init(None))).tolist()
      [[2.0, 0.0], [0.0, 2.0]]
    """

    name: str
    init: Callable[[Any], Any]
    loss: Callable[..., Any]
    batch: Any = None
    model: Callable[[Any, Any], Any] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("init", "loss") + (("model",) if self.model is not None else ()):
            if not callable(getattr(self, name)):
                got = type(getattr(self, name)).__name__
                raise TypeError(f"landscape {self.name!r}: {name} is {got}, wanted a function.")
        if not isinstance(self.facts, Mapping):
            raise TypeError(f"landscape {self.name!r}: facts are {type(self.facts).__name__}, wanted a mapping.")
        points = self.facts.get("critical_points", [])
        if not isinstance(points, list | tuple):
            raise TypeError(f"landscape {self.name!r}: critical_points are {type(points).__name__}, wanted a list.")
        for number, fact in enumerate(points):
            missing = [name for name in POINT_KEYS if not isinstance(fact, Mapping) or name not in fact]
            if missing:
                raise ValueError(
                    f"landscape {self.name!r}: critical point {number} has no {missing[0]!r}; "
                    "hj.landscapes.critical_point makes them."
                )

    @property
    def classifies(self) -> bool:
        """Whether the batch is (inputs, integer targets) and there is a model to predict them."""
        if self.model is None or not isinstance(self.batch, tuple) or len(self.batch) != 2:
            return False
        return getattr(getattr(self.batch[1], "dtype", None), "kind", "") in ("i", "u")


def critical_point(point: Any, loss: float, eigenvalues: Any, kind: str, **more: Any) -> dict[str, Any]:
    """A critical point as `facts` has it: point, loss, index, nullity, kind, ascending eigenvalues, and what is given.

    Args:
      point: params as NumPy arrays.
      loss: the mean loss there.
      eigenvalues: all of the Hessian's, NumPy, zeros exactly 0.
      kind: minimum, maximum, strict saddle, degenerate minimum, degenerate maximum, degenerate saddle or undecided.
      **more: kept as given; name, above all.

    Example:
      >>> import numpy as np
      >>> fact = critical_point(np.zeros(2), 0.0, np.array([2.0, -2.0]), "strict saddle", name="origin")
      >>> fact["index"], fact["nullity"], fact["eigenvalues"].tolist()
      (1, 0, [-2.0, 2.0])
    """
    index, nullity = int((eigenvalues < 0).sum()), int((eigenvalues == 0).sum())
    found = {"point": point, "loss": float(loss), "index": index, "nullity": nullity, "kind": kind}
    return found | {"eigenvalues": eigenvalues[eigenvalues.argsort()], **more}


# name -> (module, function, one line); modules are imported when asked for, so listing needs no jax.
BUILT_IN: dict[str, tuple[str, str, str]] = {
    "conv": (
        "hessjax.landscapes.networks",
        "conv",
        "convolutional net, by default four convolutions and two dense layers",
    ),
    "deep-linear": ("hessjax.landscapes.linear", "deep_linear", "deep linear network, all critical points known"),
    "digits-mlp": ("hessjax.landscapes.networks", "digits_mlp", "MLP on scikit-learn's digits, pooled, standardised"),
    "lstm": ("hessjax.landscapes.networks", "lstm", "LSTM that classifies sequences"),
    "memorization": ("hessjax.landscapes.networks", "memorization", "one-hidden-layer net asked to memorise noise"),
    "autoencoder": ("hessjax.landscapes.linear", "autoencoder", "linear autoencoder of a given covariance spectrum"),
    "bowl": ("hessjax.landscapes.surfaces", "bowl", "x^2 + 3 y^2: a minimum"),
    "gaussian-field": ("hessjax.landscapes.glass", "gaussian_field", "smooth isotropic Gaussian random field"),
    "jellyfish": ("hessjax.landscapes.relu", "jellyfish", "four points of two classes that ReLU nets often fail on"),
    "gradient-flat": (
        "hessjax.landscapes.surfaces",
        "gradient_flat",
        "a quartic where methods stop short of its minimum",
    ),
    "mlp": ("hessjax.landscapes.networks", "mlp", "MLP on any task, by default Gaussian clusters"),
    "monkey-saddle": ("hessjax.landscapes.surfaces", "monkey_saddle", "x^3 - 3 x y^2: a saddle with no second order"),
    "p-spin": ("hessjax.landscapes.glass", "p_spin", "spherical p-spin glass: energy per site of random couplings"),
    "peano": ("hessjax.landscapes.surfaces", "peano", "(x - y^2) (x - 2 y^2): a saddle, a minimum along every line"),
    "polynomial": (
        "hessjax.landscapes.surfaces",
        "polynomial",
        "a polynomial by its terms, in any number of variables",
    ),
    "quartic-hill": ("hessjax.landscapes.surfaces", "quartic_hill", "-x^4 - y^4: a maximum with no second order"),
    "quartic-saddle": (
        "hessjax.landscapes.surfaces",
        "quartic_saddle",
        "x^2 - y^4: a saddle its Hessian does not tell",
    ),
    "quartic-valley": (
        "hessjax.landscapes.surfaces",
        "quartic_valley",
        "x^2 + y^4: a minimum its Hessian does not prove",
    ),
    "relu-five-points": (
        "hessjax.landscapes.relu",
        "relu_five_points",
        "ReLU net on five points, with bad local minima",
    ),
    "resnet": ("hessjax.landscapes.networks", "resnet", "residual net, with or without skips and normalisation"),
    "rnn": ("hessjax.landscapes.networks", "rnn", "recurrent net that classifies sequences"),
    "rosenbrock": ("hessjax.landscapes.surfaces", "rosenbrock", "Rosenbrock's curved valley, in any dimension"),
    "saddle": ("hessjax.landscapes.surfaces", "saddle", "-x^2 + 3 y^2: a strict saddle"),
    "scalar-linear": ("hessjax.landscapes.scalar", "scalar_linear", "linear net of one unit a layer, of any depth"),
    "teacher-student": ("hessjax.landscapes.teacher", "teacher_student", "two-layer ReLU nets on Gaussian inputs"),
    "transformer": (
        "hessjax.landscapes.networks",
        "transformer",
        "decoder with causal attention, by default adding modulo 11",
    ),
    "xor": ("hessjax.landscapes.relu", "xor", "2-h-1 net on the four points of XOR"),
    "zero": ("hessjax.landscapes.surfaces", "zero", "the zero function, of which no derivative tells anything"),
    "quadratic": ("hessjax.landscapes.surfaces", "quadratic", "quadratic form with a given spectrum"),
}
_registered: dict[str, Callable[..., Landscape]] = {}


def names() -> list[str]:
    """Names that `get` knows, built in and registered.

    Example:
      >>> import hessjax as hj
      >>> "digits-mlp" in hj.landscapes.names()
      True
    """
    return sorted([*BUILT_IN, *_registered])


def describe(name: str) -> str:
    """One line about a named landscape."""
    if name in BUILT_IN:
        return BUILT_IN[name][2]
    doc = inspect.getdoc(_factory(name)) or "registered by the user"
    return doc.splitlines()[0]


def manual(name: str) -> str:
    """What a named landscape is and what its options mean, as its documentation says; without examples.

    Example:
      >>> import hessjax as hj
      >>> print(hj.landscapes.base.manual("rosenbrock").splitlines()[0])
      sum_i steepness (x_{i+1} - x_i^2)^2 + (1 - x_i)^2: ...
    """
    factory = _factory(name)
    doc = inspect.getdoc(getattr(factory, "func", factory)) or ""  # of a partial, what it is a part of
    return re.split(r"\nExamples?:", doc)[0].strip()


def register(name: str, factory: Callable[..., Landscape]) -> None:
    """Makes `get(name, **options)` call `factory(**options)`.

    Raises:
      ValueError: the name is taken, or has a colon (which means package.module:factory).
      TypeError: the factory is not callable.

    Example:
      >>> import hessjax as hj, jax.numpy as jnp
      >>> def flat(size=3):
      ...     return hj.landscapes.Landscape("flat", lambda key: jnp.zeros(size), lambda p: 0.0 * jnp.sum(p))
      >>> hj.landscapes.register("flat-example", flat)
      >>> hj.landscapes.get("flat-example", size=2).init(None).shape
      (2,)
    """
    if not callable(factory):
        raise TypeError(f"factory is {type(factory).__name__}, wanted a function that returns a Landscape.")
    if ":" in name:
        raise ValueError(f"name {name!r} has a colon, which is kept for package.module:factory; choose another.")
    if name in BUILT_IN or _registered.get(name, factory) is not factory:
        raise ValueError(f"landscape {name!r} is registered already; choose another name.")
    _registered[name] = factory


def get(name: str, **given: Any) -> Landscape:
    """The landscape of that name, or that `package.module:factory` returns.

    Args:
      name: one of `names()`, or "package.module:factory".
      **given: options of its factory.

    Raises:
      ValueError: unknown name or option, with near matches; a module or factory that cannot be found.
      TypeError: the factory did not return a Landscape.

    Example:
      >>> import hessjax as hj
      >>> hj.landscapes.get("quadratic", eigenvalues=(-1.0, 2.0)).name
      'quadratic'
    """
    factory = _factory(name)
    known = options(name)
    for option in given:
        if option not in known and None not in known:
            raise ValueError(f"landscape {name!r} has no option {option!r}{near(option, [k for k in known if k])}")
    made = factory(**given)
    if not isinstance(made, Landscape):
        raise TypeError(f"factory {name!r} returned {type(made).__name__}, wanted a hessjax.landscapes.Landscape.")
    return made


def options(name: str) -> dict[str | None, Any]:
    """Options of a named landscape and their defaults; the key None stands for "any" (a factory with **options)."""
    found: dict[str | None, Any] = {}
    factory = _factory(name)
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # some builtins have no signature to read
        return {None: None}
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            found[None] = None
        else:
            found[parameter.name] = parameter.default
    return found


def near(word: str, known: list[str]) -> str:
    """The end of an error line: a near match where there is one, and all that is known."""
    close = difflib.get_close_matches(word, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"{hint} Known: {', '.join(known) or 'none'}."


def _factory(name: str) -> Callable[..., Any]:
    if name in _registered:
        return _registered[name]
    if name in BUILT_IN:
        module, function, _ = BUILT_IN[name]
        return getattr(importlib.import_module(module), function)
    if ":" in name:
        return _imported(name)
    raise ValueError(f"unknown landscape {name!r}{near(name, names())} Your own: package.module:factory.")


def _imported(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    if not module or not function or module.startswith("."):
        raise ValueError(f"landscape {name!r}: wanted package.module:factory.")
    here = str(Path.cwd())
    if here not in sys.path:  # a console script has its own folder on the path, not the user's
        sys.path.insert(0, here)
    try:
        loaded = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"landscape {name!r}: no module {error.name!r} on the path or in {here}.") from error
    if not hasattr(loaded, function):
        raise ValueError(f"landscape {name!r}: module {module!r} has no {function!r}.")
    found: Any = getattr(loaded, function)
    if callable(found):
        return found
    raise ValueError(f"landscape {name!r}: {function!r} is {type(found).__name__}, wanted a function.")
