"""What a sweep, a search and a profile are: stored, compared, hashed. Imports no jax, so `--help` is quick.

Everything here decides the numbers. What only decides how they are computed (unit, memory, workers) is an argument
of `hessjax.sweep`, `search` and `profile`, and may change between a run and its resumption.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from hessjax.stored import DTYPES, Plain, Stored, check_whole, differences

__all__ = ["FINITE", "STATUSES", "Profile", "Search", "Sweep", "check_is", "differences"]

MOST_INITS = 2**31 - 1  # numbers are int32 on devices

# What became of an init by a time; stored as the integer.
STATUSES = ("ok", "diverged", "non-finite Hessian")
FINITE = ("finite", "not finite in places")  # rows of a plane


@dataclass(frozen=True, kw_only=True)
class Sweep(Stored):
    """Many random inits of one landscape, trained alike, their Hessian spectra measured at the same steps.

    Args:
      landscape: a name of `hj.landscapes.names()`, "package.module:factory", or a `Landscape`.
      options: options of the landscape's factory, e.g. {"widths": (8,), "activation": "relu"}.
      num_inits: random initialisations, at least 1; init i depends on (seed, i) alone.
      first_init: number of the first init, a multiple of lane_width: parts of one study, which `merge` puts together.
      seed: of the inits and of the mini-batches, at least 0.
      num_steps: training steps, at least 0.
      optimizer: name of an optax optimiser, e.g. adam, sgd, rmsprop, lbfgs.
      learning_rate: of the optimiser, above 0.
      schedule: of the learning rate: constant, or falling to 0 at num_steps along a cosine or a line.
      optimizer_options: further arguments of the optimiser, e.g. {"momentum": 0.9}.
      batch_size: rows drawn with replacement for each training step; None trains on all rows.
      times: how many measurements, first at step 0 and last at num_steps; or the steps themselves.
      spacing: of the times: evenly in the median loss of a 32-init pilot, in log steps, or in steps.
      measure: all eigenvalues and their counts (spectrum), the counts alone (inertia), or estimates of the counts, the
        trace and the density from Hessian-vector products, for nets too large for a matrix (slq): with standard errors,
        and how many eigenvalues the steps leave unresolved.
      tol: eigenvalues within tol ||H|| count as zero; ||H|| is the largest absolute row sum
        (where spectra are estimated, the largest |Ritz value|).
      dtype: of params, data and spectra.
      lanczos_steps: where spectra are estimated, Lanczos steps of each probe.
      num_probes: where spectra are estimated, random probes of each init, the same at all its times.
      chunk: rows per pass of a Hessian-vector product; None takes all at once.
      lane_width: most inits per compiled program, part of what makes a run repeatable to the bit. Four or fewer lanes
        are made equally wide where they are no part of a larger study: it and its merged parts then differ by rounding.

    Raises:
      ValueError: a field out of range; the message names it, the value and what is wanted.

    Example:
      >>> import hessjax as hj
      >>> config = hj.Sweep(landscape="digits-mlp", num_inits=64, num_steps=100)
      >>> config.times, config.spacing
      (8, 'loss')
    """

    landscape: Any = "digits-mlp"
    options: Plain = field(default_factory=dict)
    num_inits: int = 1024
    first_init: int = 0
    seed: int = 0
    num_steps: int = 300
    optimizer: str = "adam"
    learning_rate: float = 0.02
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    optimizer_options: Plain = field(default_factory=dict)
    batch_size: int | None = None
    times: int | tuple[int, ...] = 8
    spacing: Literal["loss", "log", "linear"] = "loss"
    measure: Literal["spectrum", "inertia", "slq"] = "spectrum"
    tol: float = 1e-5
    dtype: DTYPES = "float32"
    lanczos_steps: int = 64
    num_probes: int = 8
    chunk: int | None = None
    lane_width: int = 64

    def __post_init__(self):
        whole = {"num_inits": 1, "first_init": 0, "num_steps": 0, "seed": 0, "lane_width": 1}
        whole |= {"lanczos_steps": 1, "num_probes": 1}
        whole |= {name: 1 for name in ("batch_size", "chunk") if getattr(self, name) is not None}
        self._check(("options", "optimizer_options"), whole, {"learning_rate": True, "tol": False})
        if self.first_init % self.lane_width:  # inits of a lane round alike wherever the study is cut
            raise ValueError(f"first_init must be a multiple of lane_width={self.lane_width}; got {self.first_init!r}.")
        if self.first_init + self.num_inits > MOST_INITS:
            raise ValueError(
                f"first_init + num_inits must be at most {MOST_INITS}; got {self.first_init} + {self.num_inits}."
            )
        self._check_times()

    def _check_times(self):
        if isinstance(self.times, tuple):
            steps = self.times
            if not steps or any(isinstance(s, bool) or not isinstance(s, int) for s in steps):
                raise ValueError(f"times must be a count or one or more whole steps; got {steps!r}.")
            if list(steps) != sorted(set(steps)) or steps[0] < 0 or steps[-1] > self.num_steps:
                raise ValueError(f"times must be increasing steps within 0..num_steps={self.num_steps}; got {steps!r}.")
            return
        check_whole("times", self.times, 1)
        if self.times > self.num_steps + 1:
            raise ValueError(
                f"times={self.times} measurements need at least {self.times - 1} steps; num_steps is {self.num_steps}."
            )


def check_is(kind: type[Stored], config: Any) -> None:
    """Refuses what is no configuration of that kind.

    Raises:
      TypeError: names what was got.
    """
    if not isinstance(config, kind):
        raise TypeError(f"config is {type(config).__name__}, wanted hj.{kind.__name__}(...).")


MethodName = Literal["newton-mr", "gradient-norm", "trust-region", "saddle-free", "newton", "damped-newton"]


@dataclass(frozen=True, kw_only=True)
class Search(Stored):
    """Critical points of one landscape from many starts, by one method or several from the same starts.

    Args:
      landscape: a name of `hj.landscapes.names()`, "package.module:factory", or a `Landscape`.
      options: options of the landscape's factory, e.g. {"inputs": 16, "hidden": 4}.
      num_starts: at least 1; start i depends on (seed, i) alone.
      seed: of the starts, at least 0.
      starts: points uniform in loss along training, inits (random), the landscape's known points (known), or points
        uniform in loss of a sweep's store (sweep).
      sweep: path of that store, for starts from a sweep.
      noise: standard deviation of normal noise; of every second start, of all where they are known points.
      num_steps: of the training whose trajectories starts lie on.
      optimizer: name of an optax optimiser for it.
      learning_rate: of it, above 0.
      methods: of `hj.find_critical_points`, each from all starts.
      max_steps: of every method, from each start.
      grad_norm_sq_tol: absolute cut-off of the squared gradient norm below which a point is critical.
      tol: eigenvalues within tol ||H|| count as zero; ||H|| is the largest absolute row sum.
      dtype: of params, data and spectra; float32 gradients seldom fall below the cut-off.

    Raises:
      ValueError: a field out of range; the message names it, the value and what is wanted.

    Example:
      >>> import hessjax as hj
      >>> hj.Search(landscape="autoencoder", num_starts=64, methods=("newton-mr", "trust-region")).starts
      'training'
    """

    landscape: Any = "autoencoder"
    options: Plain = field(default_factory=dict)
    num_starts: int = 256
    seed: int = 0
    starts: Literal["training", "random", "known", "sweep"] = "training"
    sweep: str | None = None
    noise: float = 0.1
    num_steps: int = 1000
    optimizer: str = "sgd"
    learning_rate: float = 0.01
    methods: tuple[MethodName, ...] = ("newton-mr",)
    max_steps: int = 500
    grad_norm_sq_tol: float = 1e-10
    tol: float = 1e-8
    dtype: DTYPES = "float64"

    def __post_init__(self):
        if isinstance(self.methods, str):
            object.__setattr__(self, "methods", (self.methods,))
        real = {"noise": False, "learning_rate": True, "grad_norm_sq_tol": False, "tol": False}
        whole = {"num_starts": 1, "seed": 0, "num_steps": 1, "max_steps": 0}
        self._check(("options",), whole, real)
        unknown = [name for name in self.methods if name not in get_args(MethodName)]
        if unknown or not self.methods or len(set(self.methods)) < len(self.methods):
            known = ", ".join(get_args(MethodName))
            raise ValueError(f"methods must be one or more of {known}, each once; got {self.methods!r}.")
        if (self.sweep is not None) != (self.starts == "sweep"):
            raise ValueError(f"sweep is the store of starts='sweep'; got sweep={self.sweep!r}, starts={self.starts!r}.")


@dataclass(frozen=True, kw_only=True)
class Profile(Stored):
    """The surface around training: the same inits by several optimisers, lines between points, a plane through them.

    Args:
      landscape: a name of `hj.landscapes.names()`, "package.module:factory", or a `Landscape`.
      options: options of the landscape's factory, e.g. {"widths": (8,), "activation": "relu"}.
      num_inits: random initialisations that every optimiser starts from; the plane is of the first.
      seed: of the inits, the mini-batches and random directions, at least 0.
      num_steps: training steps, at least 1.
      optimizers: names of `hessjax.trajectories.OPTIMIZERS`, at the rates given there; "adam+sgd@100" goes on with sgd
        from step 100.
      batch_size: rows drawn with replacement for each training step; None trains on all rows.
      times: how many measurements along training, evenly spaced, at least 2.
      plane: the first two principal components of all trajectories (trajectories), the plane of three ends of training
        (solutions), of the two largest eigenvalues' eigenvectors at the first optimizer's end (eigenvectors), or of two
        random directions there, to the net's own scale (random).
      measure: at each point of the plane the loss and, of a classifier, the error (loss), the gradient's norm beside
        (gradient), and the ends of the spectrum and the share of negative eigenvalues too (curvature).
      resolution: points of a side of the plane, at least 2.
      extent: half the side, in units of the directions; None: what the trajectories suggest.
      tol: eigenvalues within tol ||H|| count as zero; ||H|| is the largest absolute row sum.
      dtype: of params and data.

    Raises:
      ValueError: a field out of range; the message names it, the value and what is wanted.

    Example:
      >>> import hessjax as hj
      >>> hj.Profile(landscape="digits-mlp", optimizers=("sgd", "adam"), resolution=201).plane
      'trajectories'
    """

    landscape: Any = "digits-mlp"
    options: Plain = field(default_factory=dict)
    num_inits: int = 1
    seed: int = 0
    num_steps: int = 300
    optimizers: tuple[str, ...] = ("sgd", "momentum", "adam", "lbfgs")
    batch_size: int | None = None
    times: int = 41
    plane: Literal["trajectories", "solutions", "eigenvectors", "random"] = "trajectories"
    measure: Literal["loss", "gradient", "curvature"] = "loss"
    resolution: int = 51
    extent: float | None = None
    tol: float = 1e-5
    dtype: DTYPES = "float32"

    def __post_init__(self):
        whole = {"num_inits": 1, "num_steps": 1, "seed": 0, "times": 2, "resolution": 2}
        whole |= {} if self.batch_size is None else {"batch_size": 1}
        self._check(("options",), whole, {"tol": False} | ({} if self.extent is None else {"extent": True}))
        names = self.optimizers
        if not isinstance(names, tuple) or not names or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"optimizers must be one or more names, such as ('sgd', 'adam'); got {names!r}.")
        if len(set(names)) < len(names):
            raise ValueError(f"optimizers must differ, or they could not be told apart; got {names!r}.")
        if self.plane == "trajectories" and len(names) == 1 and self.times < 3:
            raise ValueError(
                f"plane='trajectories' goes through three points at least; got one optimizer and times={self.times}: "
                "give more of either."
            )
        if self.plane == "solutions" and len(names) * self.num_inits < 3:
            raise ValueError(
                f"plane='solutions' goes through three ends of training; got {len(names)} optimizers and "
                f"num_inits={self.num_inits}: give more of either."
            )
        if self.times > self.num_steps + 1:
            raise ValueError(
                f"times={self.times} measurements need at least {self.times - 1} steps; num_steps is {self.num_steps}."
            )
