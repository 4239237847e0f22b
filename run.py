"""Runs hessjax from a checkout, given only Python: makes `.venv`, installs hessjax into it, runs one command there.

usage: python3 run.py COMMAND [ARGS...]

  demo [ARGS]       the demonstration; writes into the current folder
  test [ARGS]       the test suite; ARGS go to pytest
  lint              ruff check, ruff format --check and pyright
  hessjax [ARGS]    the hessjax command: sweep, spectrum, report, list, doctor; in the current folder
  bench [ARGS]      the benchmarks; with --peers also other packages on PyTorch, from an environment of their own
  notebooks [ARGS]  are the notebooks in step with their sources, and do they run (at toy size)?
  docs [ARGS]       the documentation, into build/docs; ARGS go to sphinx
  python [ARGS]     the environment's interpreter

What is installed (.ci/run sets these; nobody else needs to):
  HESSJAX_ENV         the environment's folder beside run.py: .venv, or .venv-NAME for a second one
  HESSJAX_RESOLUTION  pinned: constraints.txt (the default) | highest: the newest | lowest-direct: the oldest, needs uv
"""

import contextlib
import difflib
import hashlib
import importlib.util
import json
import os
import shutil
import ssl
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent


def say(message):
    print(f"run.py: {message}", file=sys.stderr, flush=True)


def fail(message):
    say(message)
    raise SystemExit(2)


def refuse_old_python(version, executable):
    """All above this line, and this function, must still run on Python 3.6; the rest need only parse there."""
    if tuple(version[:2]) < (3, 11):
        found = ".".join(str(part) for part in version[:3])
        fail(f"hessjax needs Python 3.11 or newer; {executable} is {found}. Call a newer one, as in: python3.12 run.py")


refuse_old_python(sys.version_info, sys.executable)

# Inside a virtual environment: the Python it was made from, so that `.venv` can be remade by its own python.
PYTHON = getattr(sys, "_base_executable", None) or sys.executable

# The pins were solved on 3.11 and tried on 3.11-3.13. A later Python may lack wheels of them: it gets the newest.
PINS = ["-c", "constraints.txt"] if sys.version_info < (3, 14) else []
RESOLUTIONS = {"pinned": PINS, "highest": [], "lowest-direct": ["--resolution", "lowest-direct"]}

# Variables that would lead Python, pip, uv or Jupyter away from the environment, and values that keep them in it.
STRAY = {"PYTHONHOME", "PYTHONPATH", "PYTHONSAFEPATH", "PYTHONOPTIMIZE", "PYTHONWARNINGS", "PYTHONDONTWRITEBYTECODE"}
STRAY |= {"__PYVENV_LAUNCHER__", "VIRTUAL_ENV", "PIP_TARGET", "PIP_PREFIX", "UV_SYSTEM_PYTHON", "JUPYTER_PATH"}
FIXED = {"PIP_USER": "0", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "UV_VENV_CLEAR": "1"}
FIXED |= {"JUPYTER_PREFER_ENV_PATH": "1", "JUPYTER_PLATFORM_DIRS": "1", "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}


class Route(NamedTuple):
    """One way to an environment: the commands that make it from nothing, and the one that installs into it."""

    name: str
    create: list[list[str]]
    install: list[str]


def routes(python: str, env: str, inner: str, *, uv: str | None, ensurepip: bool, pip: bool) -> list[Route]:
    """The ways open to a machine with these tools, best first. All install into `env` alone (PEP 668)."""
    venv = [python, "-m", "venv", "--clear", env]
    found = []
    if uv:
        make = [uv, "venv", "-q", "--python", python, env]
        found.append(Route("uv", [make], [uv, "pip", "install", "--python", inner]))
    if ensurepip:
        private = [inner, "-m", "uv", "pip", "install", "--python", inner]
        found.append(Route("a uv of its own", [venv, [inner, "-m", "pip", "install", "-q", "uv"]], private))
        found.append(Route("pip", [venv], [inner, "-m", "pip", "install"]))
    if pip:
        outer = [python, "-m", "pip", "--python", inner, "install"]
        found.append(Route("the system's pip", [[*venv, "--without-pip"]], outer))
    return found


def fingerprint(root: Path, resolution: str) -> str:
    """Changes when anything does that decides what is installed; the folder counts, for the install is editable."""
    parts = [str(sys.version_info[:2]).encode(), str(root).encode(), resolution.encode()]
    parts += [(root / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def variables() -> dict[str, str]:
    """The environment variables of every command run from here."""
    kept = {name: value for name, value in os.environ.items() if name not in STRAY} | FIXED
    if "PIP_FIND_LINKS" in kept:  # uv reads none of pip's settings; a folder of wheels is for both
        kept.setdefault("UV_FIND_LINKS", ",".join(kept["PIP_FIND_LINKS"].split()))
    store = ssl.get_default_verify_paths()
    if store.cafile or (store.capath and any(Path(store.capath).glob("*"))):
        # uv brings certificates of its own; behind a proxy only the system's store has the right ones.
        kept |= {"UV_SYSTEM_CERTS": "1", "UV_NATIVE_TLS": "1"}
    return kept


def call(command: list[str], **options) -> int:
    return subprocess.call(command, cwd=ROOT, env=variables(), stdin=subprocess.DEVNULL, **options)


def output(command: list[str]) -> str | None:
    """The standard output of a command that succeeds, else None."""
    with contextlib.suppress(OSError):
        options = {"cwd": ROOT, "env": variables(), "stdin": subprocess.DEVNULL, "capture_output": True}
        done = subprocess.run(command, **options, encoding="utf-8")
        return done.stdout if done.returncode == 0 else None


@contextlib.contextmanager
def one_at_a_time():
    """Makes a second run.py wait while a first installs (not on Windows, nor on a file system without locks)."""
    with open(__file__) as handle:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def install(env: Path, inner: str, what: list[str], *, fresh: bool, stamp: Path) -> None:
    """Takes the first route that succeeds: from nothing where `fresh`, else into the environment as it stands."""
    uv = shutil.which("uv")
    uv = uv if uv and output([uv, "--version"]) else None
    ensurepip = all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))
    pip = output([PYTHON, "-m", "pip", "--version"]) is not None
    every = routes(PYTHON, str(env), inner, uv=uv, ensurepip=ensurepip, pip=pip)
    usable = [] if fresh else [way for way in every if output([*way.install, "--help"]) is not None]
    for way in usable or every:
        say(f"{'updating' if usable else 'making'} {env.name} with {way.name} (the first time takes a minute)")
        if not usable:
            if any(call(command, stdout=sys.stderr) for command in way.create):
                continue
            stamp.write_text("unfinished")
        if call([*way.install, *what], stdout=sys.stderr) == 0:
            return
    if not every:
        fail("to install hessjax this machine lacks a tool: apt install python3-venv, then call this again")
    fail(f"hessjax could not be installed, see above; if the network is fine, delete {env.name} and call this again")


def environment(*extras: str, name: str | None = None) -> str:
    """The environment's interpreter; the environment is made, remade or updated first where that is needed."""
    name = os.environ.get("HESSJAX_ENV", ".venv") if name is None else name
    resolution = os.environ.get("HESSJAX_RESOLUTION", "pinned")
    if not name.startswith(".venv") or Path(name).name != name:
        fail(f"HESSJAX_ENV must be .venv or .venv-NAME, got {name!r}")
    if resolution not in RESOLUTIONS:
        fail(f"HESSJAX_RESOLUTION must be one of {', '.join(RESOLUTIONS)}, got {resolution!r}")
    env = ROOT / name
    inner, stamp = str(env / ("Scripts/python.exe" if os.name == "nt" else "bin/python")), env / "hessjax-stamp"
    with one_at_a_time():
        # Compiled packages are built for a minor version of Python: a new patch release changes nothing.
        alive = output([inner, "-c", "import sys; print(sys.version_info[:2])"]) == f"{sys.version_info[:2]}\n"
        digest, _, recorded = (stamp.read_text() if alive and stamp.is_file() else "").partition(" ")
        wanted, present = fingerprint(ROOT, resolution), set(recorded.split())
        if alive and digest == wanted and present >= set(extras):
            return inner
        every = sorted(present.union(extras))
        if alive:
            stamp.unlink(missing_ok=True)  # an install cut short leaves no stamp that is valid
        what = [*RESOLUTIONS[resolution], "-e", f".[{','.join(every)}]", *([] if sys.stderr.isatty() else ["-q"])]
        fresh = not alive or digest == "unfinished" or resolution != "pinned"
        install(env, inner, what, fresh=fresh, stamp=stamp)
        stamp.write_text(" ".join([wanted, *every]))
    return inner


def hand_over(inner: str, args: list[str], folder: Path | None = None) -> int:
    """Becomes the environment's interpreter, so that signals and the exit code are the command's own."""
    mine = variables()
    mine["PATH"] = os.pathsep.join([str(Path(inner).parent), mine.get("PATH", os.defpath)])
    if folder:
        os.chdir(folder)
    if os.name != "nt":
        os.execve(inner, [inner, *args], mine)
    return subprocess.call([inner, *args], env=mine)


def bench(args: list[str]) -> int:
    inner = environment("all", "test")
    if "--peers" in args:  # PyTorch beside jax in one process would fight it for the cores
        os.environ["HESSJAX_PEERS"] = environment("bench", name=".venv-peers")
    return hand_over(inner, ["-m", "benchmarks", *(arg for arg in args if arg != "--peers")], ROOT)


def docs(args: list[str]) -> int:
    if not (ROOT / "docs/conf.py").is_file():
        fail("there is no docs/conf.py to build from; the documentation is README.md and the docstrings")
    return hand_over(environment("all", "test", "docs"), ["-m", "sphinx", "-W", "docs", "build/docs", *args], ROOT)


def lint(args: list[str]) -> int:
    if args:
        fail("lint takes no arguments; ruff itself is at hand as: python3 run.py python -m ruff ...")
    inner = environment("all", "test", "lint")
    checks = (["ruff", "check"], ["ruff", "format", "--check"], ["pyright", "--pythonpath", inner])
    failed = [" ".join(check) for check in checks if call([inner, "-m", *check])]
    for check in failed:
        say(f"failed: {check}")
    return 1 if failed else 0


def cells(notebook: str | None) -> list:
    """What must agree between a notebook and its source; a new one has no outputs, so neither may the other."""
    listed = json.loads(notebook)["cells"] if notebook else []
    return [("".join(c["source"]), *map(c.get, ("cell_type", "outputs", "execution_count"))) for c in listed]


def notebooks(args: list[str]) -> int:
    inner = environment("all", "test")
    sources = sorted((ROOT / "notebooks").glob("*.py"))
    stale = False
    for source in sources:
        path, convert = source.with_suffix(".ipynb"), ["-m", "jupytext", "--to", "ipynb", f"notebooks/{source.name}"]
        fresh = cells(output([inner, *convert, "--output", "-"]))
        if not fresh or fresh != cells(path.read_text(encoding="utf-8") if path.is_file() else None):
            stale = True
            write = f"python3 run.py python -m jupytext --update --to ipynb notebooks/{source.name}"  # keeps cell ids
            say(f"{path.name} is not what its source makes; write it with: {write}")
    os.environ["HESSJAX_SMOKE"] = "1"
    paths = [str(source.with_suffix(".ipynb")) for source in sources]
    return (call([inner, "-m", "pytest", "--nbmake", *paths, *args]) if paths else 0) or int(stale)


PLAIN = {"demo": ["-P", "-m", "hessjax", "demo"], "hessjax": ["-P", "-m", "hessjax"]}
PLAIN |= {"test": ["-m", "pytest"], "python": []}
OTHER = {"bench": bench, "lint": lint, "notebooks": notebooks, "docs": docs}


def main(args: list[str]) -> int:
    command, rest = (args[0], args[1:]) if args else ("--help", [])
    if command in ("-h", "--help", "help"):
        print((__doc__ or "").strip())
        return 0
    if command not in {**PLAIN, **OTHER}:
        near = difflib.get_close_matches(command, [*PLAIN, *OTHER], 1)
        fail(f"unknown command {command!r}; " + (f"did you mean {near[0]}?" if near else "python3 run.py lists them"))
    try:
        if command in OTHER:
            return OTHER[command](rest)
        folder = ROOT if command == "test" else None
        return hand_over(environment("all", "test"), [*PLAIN[command], *rest], folder)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
