"""run.py: what it refuses, what it decides, and that it gets out of the way. No network: nothing is installed here."""

import ast
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "run.py"
INNER = "env/bin/python"


def load():
    spec = importlib.util.spec_from_file_location("run", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(monkeypatch, checkout):
    for name in ("HESSJAX_ENV", "HESSJAX_RESOLUTION"):
        monkeypatch.delenv(name, raising=False)
    module = load()
    monkeypatch.setattr(module, "ROOT", checkout)
    return module


@pytest.fixture
def checkout(tmp_path):
    """A folder with all that run.py reads."""
    (tmp_path / "run.py").write_bytes(SOURCE.read_bytes())
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "constraints.txt").write_text("jax==1\n")
    return tmp_path


def make_env(checkout):
    subprocess.run([load().PYTHON, "-m", "venv", "--without-pip", checkout / ".venv"], check=True)
    return checkout / ".venv"


def installs(run, monkeypatch, outcome=lambda: None):
    """Replaces the installation; returns the list of (requested, fresh) that it is called with."""
    asked = []

    def install(env, inner, what, *, fresh, stamp):
        asked.append((what[what.index("-e") + 1], fresh))
        env.mkdir(exist_ok=True)
        outcome()

    monkeypatch.setattr(run, "install", install)
    return asked


# What it refuses.


@pytest.mark.parametrize("version", [(3, 6, 15), (3, 10, 13, "final", 0)])
def test_old_python_is_refused_in_one_line(run, capsys, version):
    with pytest.raises(SystemExit) as stop:
        run.refuse_old_python(version, "python3")
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert error.count("\n") == 1
    assert "3.11 or newer" in error
    assert ".".join(map(str, version[:3])) in error


def test_supported_python_is_not_refused(run):
    assert run.refuse_old_python((3, 11, 0), "python3") is None


def test_source_parses_on_python_3_6():
    assert ast.parse(SOURCE.read_text(), feature_version=(3, 6))


def test_only_the_standard_library_is_imported():
    imported = [node for node in ast.walk(ast.parse(SOURCE.read_text())) if isinstance(node, ast.Import)]
    names = {alias.name.partition(".")[0] for node in imported for alias in node.names}
    assert names <= sys.stdlib_module_names


@pytest.mark.parametrize(("typed", "answer"), [("tset", "did you mean test?"), ("qqq", "python3 run.py lists them")])
def test_unknown_command_is_one_line_with_the_nearest_and_exit_2(run, capsys, typed, answer):
    with pytest.raises(SystemExit) as stop:
        run.main([typed])
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"run.py: unknown command {typed!r}; {answer}\n"


@pytest.mark.parametrize("name", ["/tmp/.venv", ".venv/../x", "src", ""])
def test_only_a_venv_beside_run_py_can_be_remade(run, monkeypatch, name):
    monkeypatch.setenv("HESSJAX_ENV", name)
    asked = installs(run, monkeypatch)
    with pytest.raises(SystemExit, match="2"):
        run.environment("all")
    assert asked == []


@pytest.mark.parametrize("args", [[], ["-h"], ["--help"]])
def test_usage_names_every_command(run, capsys, args):
    assert run.main(args) == 0
    usage = capsys.readouterr().out
    assert all(f"\n  {name} " in usage for name in [*run.PLAIN, *run.OTHER])


def test_interrupt_is_exit_130_without_traceback(run, monkeypatch):
    def interrupted(*extras):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "environment", interrupted)
    assert run.main(["test"]) == 130


# What it decides.


def test_fingerprint_changes_with_each_thing_that_decides_what_is_installed(run, checkout):
    seen = [run.fingerprint(checkout, "pinned"), run.fingerprint(checkout, "highest")]
    (checkout / "pyproject.toml").write_text("[project]\n\n")
    seen.append(run.fingerprint(checkout, "pinned"))
    (checkout / "constraints.txt").write_text("jax==2\n")
    seen.append(run.fingerprint(checkout, "pinned"))
    assert len(set(seen)) == 4
    assert run.fingerprint(checkout, "pinned") == seen[-1]


@pytest.mark.parametrize(
    ("tools", "names"),
    [
        ({"uv": "uv", "ensurepip": True, "pip": True}, ["uv", "a uv of its own", "pip", "the system's pip"]),
        ({"uv": None, "ensurepip": True, "pip": False}, ["a uv of its own", "pip"]),
        ({"uv": None, "ensurepip": False, "pip": True}, ["the system's pip"]),
        ({"uv": None, "ensurepip": False, "pip": False}, []),
    ],
)
def test_routes_use_only_the_tools_there_are(run, tools, names):
    assert [route.name for route in run.routes("python3", "env", INNER, **tools)] == names


def test_every_route_installs_into_the_environment_alone(run):
    for route in run.routes("python3", "env", INNER, uv="uv", ensurepip=True, pip=True):
        assert route.install[0] == INNER or route.install[route.install.index("--python") + 1] == INNER
        assert route.create[0][-1] == "env" or route.create[0][-2:] == ["env", "--without-pip"]


def test_without_ensurepip_the_systems_pip_fills_a_venv_without_one(run):
    (route,) = run.routes("python3", "env", INNER, uv=None, ensurepip=False, pip=True)
    assert route.create == [["python3", "-m", "venv", "--clear", "env", "--without-pip"]]
    assert route.install == ["python3", "-m", "pip", "--python", INNER, "install"]


def test_next_route_is_tried_where_one_fails(run, monkeypatch, checkout):
    def call(command, **options):
        (checkout / ".venv").mkdir(exist_ok=True)
        called.append(command)
        return int("uv" in command)

    called = []
    monkeypatch.setattr(run, "call", call)
    monkeypatch.setattr(run, "output", lambda command: None)
    monkeypatch.setattr(run.shutil, "which", lambda name: None)
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: True)
    run.install(checkout / ".venv", INNER, ["-e", "."], fresh=True, stamp=checkout / ".venv/stamp")
    assert called[-1] == [INNER, "-m", "pip", "install", "-e", "."]


def test_nothing_to_install_with_is_one_line_that_says_what_to_do(run, monkeypatch, capsys, checkout):
    monkeypatch.setattr(run, "output", lambda command: None)
    monkeypatch.setattr(run.shutil, "which", lambda name: None)
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="2"):
        run.install(checkout / ".venv", INNER, ["-e", "."], fresh=True, stamp=checkout / ".venv/stamp")
    assert "apt install python3-venv" in capsys.readouterr().err


def test_environment_is_made_once_and_updated_in_place_when_pyproject_changes(run, monkeypatch, checkout):
    make_env(checkout)
    asked = installs(run, monkeypatch)
    run.environment("all", "test")
    run.environment("all", "test")
    assert asked == [(".[all,test]", False)]
    (checkout / "pyproject.toml").write_text("[project]\n\n")
    run.environment("all", "test")
    assert asked[1:] == [(".[all,test]", False)]


def test_extras_add_up_so_that_commands_do_not_undo_each_other(run, monkeypatch, checkout):
    make_env(checkout)
    asked = installs(run, monkeypatch)
    for extras in (("all", "test"), ("all", "lint"), ("all", "test"), ("all", "test", "lint")):
        run.environment(*extras)
    assert [what for what, _ in asked] == [".[all,test]", ".[all,lint,test]"]


def test_rivals_get_an_environment_of_their_own_and_the_benchmarks_its_interpreter(run, monkeypatch, checkout):
    asked, handed = [], []

    def environment(*extras, name=".venv"):
        asked.append((name, extras))
        return f"{name}/python"

    monkeypatch.setattr(run, "environment", environment)
    monkeypatch.setattr(run, "hand_over", lambda *given: handed.append(given) or 0)
    monkeypatch.setenv("HESSJAX_PEERS", "stale")
    run.main(["bench", "slq", "--peers"])
    assert asked == [(".venv", ("all", "test")), (".venv-peers", ("bench",))]
    assert handed == [(".venv/python", ["-m", "benchmarks", "slq"], checkout)]
    assert os.environ["HESSJAX_PEERS"] == ".venv-peers/python"


def test_a_folder_of_wheels_that_pip_was_told_of_holds_for_uv(run, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "one two")
    monkeypatch.delenv("UV_FIND_LINKS", raising=False)
    assert run.variables()["UV_FIND_LINKS"] == "one,two"
    monkeypatch.setenv("UV_FIND_LINKS", "own")
    assert run.variables()["UV_FIND_LINKS"] == "own"


@pytest.mark.parametrize("stamp", ["unfinished", None])
def test_environment_that_was_left_half_made_is_made_anew(run, monkeypatch, checkout, stamp):
    if stamp:
        (make_env(checkout) / "hessjax-stamp").write_text(stamp)
    asked = installs(run, monkeypatch)
    run.environment("all")
    assert asked == [(".[all]", True)]


def test_environment_of_another_python_is_made_anew(run, monkeypatch, checkout):
    env = make_env(checkout)
    asked = installs(run, monkeypatch)
    run.environment("all")
    (env / "bin/python").unlink()
    (env / "bin/python").write_text("#!/bin/sh\necho '(3, 10)'\n")
    (env / "bin/python").chmod(0o755)
    run.environment("all")
    assert [fresh for _, fresh in asked] == [False, True]


def test_interrupted_install_leaves_no_valid_stamp(run, monkeypatch, checkout):
    def interrupt():
        raise KeyboardInterrupt

    make_env(checkout)
    installs(run, monkeypatch)
    run.environment("all")
    asked = installs(run, monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.environment("all", "test")
    with pytest.raises(KeyboardInterrupt):
        run.environment("all")
    assert len(asked) == 2


def test_only_a_stripped_notebook_can_be_in_step_with_its_source(run):
    code = {"cell_type": "code", "source": ["x = 1\n", "x"], "outputs": [], "execution_count": None, "id": "a"}
    stripped = json.dumps({"cells": [code]})
    assert run.cells(stripped) == run.cells(json.dumps({"cells": [{**code, "source": "x = 1\nx", "id": "b"}]}))
    for change in ({"source": "x"}, {"outputs": [{"text": "1"}]}, {"execution_count": 1}, {"cell_type": "markdown"}):
        assert run.cells(stripped) != run.cells(json.dumps({"cells": [{**code, **change}]}))


# That it gets out of the way: a real environment, empty, with a stamp that says it is up to date.


def test_python_runs_in_the_callers_folder_and_passes_its_exit_code(run, checkout, tmp_path_factory):
    (make_env(checkout) / "hessjax-stamp").write_text(f"{run.fingerprint(checkout, 'pinned')} all test")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    code = "import os, sys; print(os.getcwd(), sys.prefix, '/stray' in sys.path); sys.exit(7)"
    variables = {**os.environ, "VIRTUAL_ENV": "/stray", "PYTHONPATH": "/stray"}
    variables = {name: value for name, value in variables.items() if not name.startswith("HESSJAX")}
    command = [sys.executable, checkout / "run.py", "python", "-c", code]
    done = subprocess.run(command, cwd=elsewhere, env=variables, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout.split() == [str(elsewhere), str(checkout / ".venv"), "False"]
