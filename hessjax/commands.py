"""What each command of `hessjax` does: its flags as a dataclass, and a `run` that calls one function and prints.

jax is imported only by the command that needs it, after the process's threads and devices are set. Parsing is cli.py's.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import tyro

from hessjax.catalogue import List, Show
from hessjax.config import Sweep
from hessjax.critical_command import CriticalCommand
from hessjax.flags import UsageError, config_args, config_fields, parse_worker, to_config
from hessjax.process import is_first_process, own_process, print_rows, save_figure
from hessjax.profile_command import ProfileCommand
from hessjax.store_commands import Merge, Status, Verify, print_plan

__all__ = ["COMMANDS", "own_process", "sweep_command"]


@dataclasses.dataclass
class _SweepExtras:
    """Runs a sweep: many inits of one landscape, trained alike, their Hessian spectra into a store."""

    output: Path = Path("sweep.zarr")
    unit: int | None = None
    memory: str | None = None
    workers: int = 1
    worker: str | None = None
    take_over: bool = False
    config: Path | None = None
    report: bool = False
    plan: bool = False
    progress: bool = True

    def run(self) -> None:
        config = to_config(Sweep, self)
        own_process(config.dtype)
        if self.plan:
            from hessjax.plans import plan_sweep

            print_plan(plan_sweep(config, self.output, unit=self.unit, memory=self.memory))
            return
        from hessjax.ensemble import sweep

        path = sweep(
            config,
            self.output,
            unit=self.unit,
            memory=self.memory,
            workers=self.workers,
            worker=parse_worker(self.worker),
            take_over=self.take_over,
            progress=self.progress,
        )
        _say_stored(path)
        if self.report:
            _report(path, _report_path(path))


def sweep_command(**defaults: Any) -> Any:
    """The sweep command with other defaults, as a file of a configuration gives them."""
    made = dataclasses.make_dataclass("SweepCommand", config_fields(Sweep, **defaults), bases=(_SweepExtras,))
    made.__doc__ = SWEEP_DOC
    return made


SWEEP_DOC = f"""Runs a sweep: many inits of one landscape, trained alike, their Hessian spectra into a store.

The same command on the same output resumes; another configuration is refused.

Args:
{config_args(Sweep)}
  output: folder of the store.
  unit: inits per stored chunk, rounded up to whole lanes.
  memory: bound on the measuring program's workspace, e.g. 4GiB.
  workers: local processes working on the store together.
  worker: this process's share I/N of the units; by default from a Slurm array or Kubernetes indexed job.
  take_over: when that share is done, go on with units of others that nobody is at work on.
  config: JSON file of a configuration; flags given beside it win.
  report: write the HTML report at the end.
  plan: say what the sweep would take, by timing one lane, and run nothing.
  progress: show inits done, rate and time left.
"""
SweepCommand: Any = sweep_command()


@dataclasses.dataclass
class Demo:
    """Runs the main job: 1024 inits of a tanh MLP on the digits, spectra at 8 times, and the report.

    Args:
      output: folder for the store, the report and the figures.
      num_inits: random initialisations.
      progress: show inits done, rate and time left.
    """

    output: Path = Path("hessjax-demo")
    num_inits: int = 1024
    progress: bool = True

    def run(self) -> None:
        config = Sweep(num_inits=self.num_inits)
        own_process()
        from hessjax.ensemble import sweep

        path = sweep(config, self.output / "sweep.zarr", progress=self.progress)
        _say_stored(path)
        _report(path, self.output / "report.html")


@dataclasses.dataclass
class Report:
    """Writes a store's report: one offline HTML page, and the figures as PNG.

    Args:
      store: folder of the store.
      output: the HTML file; by default report.html beside the store.
    """

    store: tyro.conf.Positional[Path]
    output: Path | None = None

    def run(self) -> None:
        own_process()
        _report(self.store, self.output or _report_path(self.store))


def _say_stored(path: Path) -> None:
    from hessjax.store import Store

    store = Store.open(path)
    lost = int((store.read("status")[:, -1] > 0).sum())  # a row not done yet has -1
    print(f"store   {path}")
    if lost:
        print(f"lost    {lost} of {store.num_rows} inits are not finite at the last step: see status in the store")


def _report_path(store: Path) -> Path:
    return store.resolve().with_name(f"{store.resolve().stem}-report.html")


def _report(store: Path, output: Path) -> None:
    from hessjax.reporting import report

    written = report(store, output)
    print(f"report  {written}")
    print(f"figures {written.with_name(written.stem + '_figures')}")


@dataclasses.dataclass
class _SpectrumExtras:
    init: int = 0
    method: Literal["auto", "exact", "slq"] = "auto"
    outliers: int = 10
    output: Path | None = None
    report: Path | None = None
    distributed: bool = False

    def run(self) -> None:
        config = to_config(Sweep, self)
        own_process(config.dtype, distributed=self.distributed)
        from hessjax import single

        method = self.method
        if method == "auto":
            method = "exact" if single.num_params(config) <= single.EXACT else "slq"
        if method == "exact":
            self._exact(config)
        else:
            self._estimated(config)

    def _exact(self, config: Sweep) -> None:
        from hessjax import plot, single

        if self.report is not None:
            raise UsageError(
                "--report is of an estimated spectrum; add --method slq, or --output PNG for the exact one."
            )
        found = single.exact(config, init=self.init, mesh=self._mesh())
        if not is_first_process():
            return
        _print_spectrum(config, found)
        if self.output is not None:
            save_figure(plot.spectrum(found["eigenvalues"], threshold=float(found["threshold"])), self.output)

    def _estimated(self, config: Sweep) -> None:
        from hessjax import plot, reporting, single
        from hessjax.tables import spectrum_facts

        sizes = {"k": self.outliers, "num_steps": config.lanczos_steps, "num_probes": config.num_probes}
        facts, found = single.estimated(config, init=self.init, mesh=self._mesh(), **sizes)
        if not is_first_process():
            return
        print_rows({**_words(facts), **spectrum_facts(found)})
        if self.output is not None:
            save_figure(plot.density(found), self.output)
        if self.report is not None:
            facts = _words(facts) | self._settings(config)
            print(f"report        {reporting.report(found, self.report, facts=facts)}")

    def _mesh(self) -> Any:
        from hessjax import distributed

        return distributed.mesh() if self.distributed else None

    def _settings(self, config: Sweep) -> dict[str, str]:
        """All that the result depends on, by the names of the options."""
        from hessjax import devices

        given = {name: value for name, value in dataclasses.asdict(config).items() if name not in FIXED}
        given |= {"init": self.init, "outliers": self.outliers, **devices.versions()}
        return {name.replace("_", " "): f"{value}" for name, value in given.items() if value not in (None, {})}


def _words(facts: Mapping[str, Any]) -> dict[str, str]:
    names = {"num_params": "parameters", "grad_norm": "gradient norm"}
    spelled = lambda x: f"{x:.6g}" if isinstance(x, float) else f"{x}"
    return {names.get(name, name): spelled(value) for name, value in facts.items()}


# What one network has no use for, and the values that say so.
FIXED = {"num_inits": 1, "first_init": 0, "times": 1, "spacing": "linear", "measure": "spectrum", "lane_width": 1}


def _spectrum_command() -> Any:
    fields = [f for f in config_fields(Sweep, num_steps=0) if f[0] not in FIXED]
    made = dataclasses.make_dataclass("SpectrumCommand", fields, bases=(_SpectrumExtras,))
    made.__doc__ = f"""The Hessian spectrum of one network: one init, trained num-steps steps (by default none).

Exact for small networks; for others, or with --method slq, the largest eigenvalues one by one and the rest as a
density, from Hessian-vector products alone.

Args:
{config_args(Sweep)}
  init: number of the init, as in a sweep of the same seed.
  method: exact, slq (no matrix is formed), or auto: exact up to 3000 parameters.
  outliers: slq: eigenvalues found one by one, the largest in magnitude; all but one where there are fewer.
  output: PNG file of the spectrum.
  report: slq: HTML file of a report.
  distributed: this process is one of several that each run this same command, e.g. by srun, and share the rows of the
    data; the first one prints and writes. Where no scheduler is detected, HESSJAX_COORDINATOR=host:port,
    HESSJAX_NUM_PROCESSES and HESSJAX_PROCESS_ID tell them of one another.
"""
    for name, value in FIXED.items():
        setattr(made, name, value)
    return made


SpectrumCommand: Any = _spectrum_command()


def _print_spectrum(config: Sweep, found: Mapping[str, Any]) -> None:
    values = found["eigenvalues"]
    rows = [
        ("landscape", config.landscape_name),
        ("parameters", len(values)),
        ("loss", f"{found['loss']:.6g}"),
        *([("error", f"{found['error']:.4g}")] if "error" in found else []),
        ("gradient norm", f"{found['grad_norm']:.6g}"),
        ("negative", f"{found['negative']} ({found['negative'] / len(values):.1%})"),
        ("zero", f"{found['zero']} (within {found['threshold']:.3g})"),
        ("positive", found["positive"]),
        ("certified", "yes" if found["certified"] else "no: an eigenvalue is within rounding of the threshold"),
        ("smallest", " ".join(f"{v:.4g}" for v in values[:4])),
        ("largest", " ".join(f"{v:.4g}" for v in values[-4:])),
        ("trace", f"{found['trace']:.6g}"),
    ]
    print_rows(dict(rows))


@dataclasses.dataclass
class Doctor:
    """Says what this machine offers: versions, devices, x64, BLAS threads, and what will be slow and why.

    Args:
      json: print it as JSON.
    """

    json: bool = False

    def run(self) -> None:
        own_process()
        from hessjax import devices

        facts = {"versions": devices.versions(), **devices.describe(), "plan": _plan(), "advice": devices.advice()}
        if self.json:
            print(json.dumps(facts, indent=1))
            return
        for name, value in facts.items():
            lines = [f"{k} {v}" for k, v in value.items()] if isinstance(value, dict) else value
            for line in lines if isinstance(lines, list) else [lines]:
                print(f"{name:14s}{line}")
                name = ""


def _plan() -> dict[str, str]:
    """What a sweep on this machine chooses by itself, in words."""
    import jax

    from hessjax.devices import batch_bytes, measuring_bytes
    from hessjax.stacks import is_counted

    count, backend = jax.local_device_count(), jax.default_backend()
    memory = measuring_bytes(count)
    return {
        "inits": f"sharded over {count} {backend} device{'s' * (count > 1)}, without communication",
        "memory": f"{memory / 2**30:.1f} GiB for measuring, half of what is available",
        "batches": f"as many inits at a time on a device as take {batch_bytes(memory, count) / 2**20:.3g} MiB",
        "spectra": "tridiagonal forms, small ones side by side and others by LAPACK, counted"
        if is_counted()
        else "the backend's eigenvalues",
    }


COMMANDS = {
    "demo": Demo,
    "sweep": SweepCommand,
    "spectrum": SpectrumCommand,
    "critical": CriticalCommand,
    "profile": ProfileCommand,
    "report": Report,
    "status": Status,
    "verify": Verify,
    "merge": Merge,
    "list": List,
    "show": Show,
    "doctor": Doctor,
}
