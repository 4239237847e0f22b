"""The command line: what it prints, what it refuses in one line, and that it leaves a process as it found it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessjax import commands, flags
from hessjax.cli import main
from hessjax.config import Sweep
from hessjax.ensemble import open_sweep
from hessjax.landscapes import base
from hessjax.store import Store

MODULE = "landscape_module_for_tests"
IDENTITY = np.eye(2)
QUICK = ["--num-inits", "2", "--num-steps", "2", "--times", "2", "--no-progress"]
BOWL = ["--landscape", f"{MODULE}:bowl", *QUICK]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(process_of_a_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def python(*words, **how):
    cache = str(jax.config.jax_compilation_cache_dir)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "JAX_COMPILATION_CACHE_DIR": cache}
    env |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3"}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=env, timeout=120, **how)


def table(text):
    """Printed rows "name   value" as a dict."""
    return {line[:14].strip(): line[14:] for line in text.splitlines()}


# --------------------------------------------------------------------------------------------------------- bad input

# id: (words of the command line, what its one line says)
BAD = {
    "unknown command": (["swep"], "swep; did you mean sweep?"),
    "unknown command like none": (["zebra"], "zebra. There are demo, sweep, spectrum, "),
    "the last commands too": (["zebra"], "list, show, doctor."),
    "a folder that cannot be": (["sweep", "--output", "/proc/nope/x.zarr"], "'/proc/nope', nor can it be made"),
    "unknown flag": (["sweep", "--num-init", "3"], "did you mean --num-inits?"),
    "bad int": (["sweep", "--num-inits", "many"], "many"),
    "bad float": (["sweep", "--learning-rate", "fast"], "fast"),
    "missing value": (["sweep", "--seed"], "--seed"),
    "bad choice": (["sweep", "--spacing", "even"], "even"),
    "flag of another command": (
        ["spectrum", "--memory", "1KiB"],
        "spectrum has no option --memory; sweep has.",
    ),
    "unknown landscape": (["sweep", "--landscape", "digit-mlp"], "did you mean 'digits-mlp'?"),
    "unknown landscape anywhere": (["sweep", "--landscape", "zebra"], "digits-mlp, "),
    "unknown option": (["sweep", "--options", "width=8"], "no option 'width'; did you mean 'widths'?"),
    "malformed option": (["sweep", "--options", "widths"], "KEY=VALUE words such as widths=8,8; got 'widths'"),
    "nameless option": (["sweep", "--optimizer-options", "=3"], "--optimizer-options takes KEY=VALUE"),
    "option out of range": (["sweep", "--options", "widths=0,"], "widths must be a whole number, at least 1; got 0"),
    "unknown activation": (["sweep", "--options", "activation=tan"], "did you mean 'tanh'?"),
    "zero inits": (["sweep", "--num-inits", "0"], "num_inits must be a whole number, at least 1; got 0"),
    "demo of zero inits": (["demo", "--num-inits", "0"], "num_inits must be a whole number, at least 1; got 0"),
    "chunk 0": (["sweep", "--chunk", "0"], "chunk must be a whole number, at least 1; got 0"),
    "chunk with a scalar loss": (
        ["sweep", "--landscape", f"{MODULE}:clouds", "--options", "scalar=true", "--chunk", "2", *QUICK],
        "chunk",
    ),
    "times beyond the steps": (["sweep", "--num-steps", "3", "--times", "9"], "need at least 8 steps"),
    "times not increasing": (["sweep", "--times", "3", "1"], "times must be increasing steps"),
    "seed too large": (["sweep", "--seed", str(2**32)], "seed must be at most 4294967295"),
    "unknown optimizer": (["sweep", *BOWL, "--optimizer", "adm"], "unknown optimizer 'adm'; did you mean"),
    "optimizer option": (["sweep", *BOWL, "--optimizer-options", "mass=1"], "optimizer 'adam' has no option 'mass'"),
    "bad worker": (["sweep", *BOWL, "--worker", "2/2"], "--worker takes I/N with 0 <= I < N, such as 0/4; got '2/2'"),
    "worker in words": (["sweep", *BOWL, "--worker", "first"], "got 'first'"),
    "worker and workers": (["sweep", *BOWL, "--worker", "0/2", "--workers", "2"], "not both"),
    "no workers": (["sweep", *BOWL, "--workers", "0"], "workers must be at least 1"),
    "unit 0": (["sweep", *BOWL, "--unit", "0"], "unit must be at least 1 init"),
    "bad memory": (["sweep", *BOWL, "--memory", "plenty"], "memory must be a positive size such as '4GiB'"),
    "too little memory": (["sweep", *BOWL, "--memory", "1B", "--output", "made.zarr"], "over the bound of"),
    "output is a file": (["sweep", *BOWL, "--output", "file"], "is a file, wanted the folder of a store"),
    "output in a file": (["sweep", *BOWL, "--output", "file/a.zarr"], "part of that path is a file"),
    "output in nowhere": (["sweep", *BOWL, "--output", "/proc/nope/a.zarr"], "/proc/nope/a.zarr"),
    "output is a folder": (["sweep", *BOWL, "--output", "folder"], "is a folder but no store"),
    "report of nothing": (["report", "absent.zarr"], "no store at 'absent.zarr'"),
    "report of a file": (["report", "file"], "is a file"),
    "report of what": (["report"], "store"),
    "config absent": (["sweep", "--config", "absent.json"], "--config absent.json"),
    "config is a folder": (["sweep", "--config", "folder"], "--config folder"),
    "config not JSON": (["sweep", "--config", "file"], "--config file"),
    "config not text": (["sweep", "--config", "binary"], "--config binary"),
    "config no mapping": (["sweep", "--config=list.json"], "wanted a mapping of the fields of Sweep"),
    "config unknown field": (["sweep", "--config", "unknown.json"], "no field 'widths'"),
    "config out of range": (["sweep", "--config=zero.json"], "num_inits must be a whole number, at least 1; got 0"),
    "no such module": (["sweep", "--landscape", "no_such_module:f"], "no module 'no_such_module' on the path"),
    "no such factory": (["sweep", "--landscape", f"{MODULE}:absent"], "has no 'absent'"),
    "factory not callable": (["sweep", "--landscape", f"{MODULE}:not_callable"], "is int, wanted a function"),
    "factory returns something else": (["sweep", "--landscape", f"{MODULE}:no_landscape"], "returned dict, wanted"),
    "integer params": (["sweep", "--landscape", f"{MODULE}:whole_numbers"], "leaf 'a' is int32, wanted a real"),
    "empty params": (["sweep", "--landscape", f"{MODULE}:nothing"], "empty tree"),
    "vector loss": (["sweep", "--landscape", f"{MODULE}:vector_loss", *QUICK], "shape (3,), wanted a scalar"),
    "loss of wrong shape": (
        ["sweep", "--landscape", f"{MODULE}:clouds", "--options", "shape=columns", *QUICK],
        "wanted a scalar or one number per row, (6,)",
    ),
    "random loss": (["sweep", "--landscape", f"{MODULE}:restless", *QUICK], "determinism"),
    "loss not finite": (["sweep", "--landscape", f"{MODULE}:everywhere_nan", *QUICK], "finite"),
    "report of an exact spectrum": (["spectrum", "--landscape", "quadratic", "--report", "x.html"], "add --method slq"),
    "no Lanczos steps": (
        ["spectrum", "--landscape", "quadratic", "--method", "slq", "--lanczos-steps", "0"],
        "lanczos_steps must be a whole number, at least 1; got 0",
    ),
    "unknown method": (["spectrum", "--method", "kpm"], "kpm"),
    "spectrum of init -1": (["spectrum", "--landscape", "quadratic", "--init", "-1"], "init must be at least 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_that_names_it_and_exit_code_2(case, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name, value in (("list", []), ("unknown", {"widths": 8}), ("zero", {"num_inits": 0})):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    words, said = BAD[case]
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert err.startswith("hessjax: ")
    assert said in err
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "sweep.zarr").exists()


def test_a_bug_is_a_traceback_and_exit_code_1(tmp_path):
    found = python("-m", "hessjax", "sweep", "--landscape", f"{MODULE}:buggy", cwd=tmp_path)
    assert found.returncode == 1
    assert "Traceback" in found.stderr
    assert found.stderr.strip().endswith("IndexError: list index out of range")


def test_what_numpy_or_jax_raise_is_a_bug_and_not_bad_input(monkeypatch):
    def numpys(*_, **__):
        return np.concatenate([np.zeros(2), np.zeros((2, 2))], axis=3)

    monkeypatch.setattr("hessjax.single.exact", numpys)
    with pytest.raises(ValueError, match="axis"):
        main(["spectrum", "--landscape", "quadratic"])


# -------------------------------------------------------------------------------------------------------- in and out


def test_help_imports_no_jax_and_names_every_command_and_field():
    code = (
        "import sys\nfrom hessjax.cli import main\n"
        "for words in (['--help'], ['sweep', '--help']):\n"
        "    try: main(words)\n"
        "    except SystemExit as stop: assert stop.code == 0, stop.code\n"
        "heavy = {'jax', 'flax', 'optax', 'tensorstore', 'xarray', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy))"
    )
    found = python("-c", code)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.endswith("HEAVY []\n")
    for word in (*commands.COMMANDS, *(f"--{name.replace('_', '-')}" for name in Sweep.__dataclass_fields__)):
        assert word in found.stdout


def test_the_module_and_no_words_print_the_help():
    found = python("-m", "hessjax")
    assert (found.returncode, found.stderr) == (0, "")
    assert "usage: hessjax" in found.stdout


@pytest.mark.parametrize("word", ["--help", "list"])
def test_a_reader_that_left_is_no_error(word):
    reader, writer = os.pipe()
    os.close(reader)
    found = subprocess.run([sys.executable, "-m", "hessjax", word], stdout=writer, stderr=subprocess.PIPE, timeout=60)
    os.close(writer)
    assert (found.returncode, found.stderr) == (0, b"")


def test_show_prints_what_is_known_and_measured_and_draws_it(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["show", "scalar-linear", "--options", "depth=3", "--resolution", "5", "--output", "a/net.png"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"two zeros +1 +0 +1/1/1 +-2 to 2 +strict saddle", out)
    assert re.search(r"origin +1 +0 +0/3/0 +0 to 0 +degenerate saddle", out)
    assert "the facts say" not in out
    assert (tmp_path / "a" / "net.png").stat().st_size > 10_000


def test_show_says_where_facts_and_measurement_differ(capsys, monkeypatch, tmp_path):
    def wrong():
        """A bowl with three facts that are not true of it."""
        fact = {"loss": 1.0, "index": 1, "nullity": 0, "kind": "minimum"}
        points = [fact | {"point": np.zeros(2)}, fact | {"point": np.ones(2), "loss": 2.0, "index": 0}]
        return base.Landscape("wrong", lambda key: jnp.ones(2), lambda p: p @ p, facts={"critical_points": points})

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base, "_registered", {"wrong": wrong})
    assert main(["show", "wrong", "--resolution", "3", "--dtype", "float32"]) == 0
    first, second = [line for line in capsys.readouterr().out.splitlines() if " minimum" in line]
    assert first.endswith("(the facts say loss 1) (the facts say index 1, nullity 0: see --tol and --dtype)")
    assert second.endswith("(not critical: see its gradient)")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sadle"], "did you mean 'saddle'"),
        (["saddle", "--options", "deep=3"], "no option 'deep'"),
        (["saddle", "--options", "deep"], "--options takes KEY=VALUE words"),
        (["saddle", "--resolution", "1"], "resolution must be at least 2 points"),
        (["saddle", "--tol", "-1"], "tol must be at least 0"),
    ],
)
def test_show_answers_mistakes_in_one_line(words, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["show", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_list_of_a_name_says_what_its_options_mean(capsys, untyped):
    assert main(["list", "scalar-linear", "rosenbrock"]) == 0
    words = capsys.readouterr().out
    assert "depth: number of weights." in words
    assert "steepness: of the valley's walls, above 0." in words
    assert ">>>" not in words
    assert main(["list", "rosenbrok"]) == 2
    assert "did you mean 'rosenbrock'" in capsys.readouterr().err


@pytest.mark.parametrize("name", base.BUILT_IN)
def test_every_option_of_every_landscape_is_explained(name):
    options = {option for option in base.options(name) if option} - {"dtype"}
    explained = set(re.findall(r"^ +(\w+): ", base.manual(name), re.MULTILINE))
    assert options <= explained


def test_list_names_landscapes_with_options_as_they_are_written(capsys, monkeypatch):
    def factory(size, centres=IDENTITY, activation=np.tanh):
        """Mine, and mine alone."""

    monkeypatch.setattr(base, "_registered", {})
    base.register("a-long-name-of-a-user", factory)
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name in base.names():
        assert re.search(rf"^{re.escape(name)} ", out, re.MULTILINE)
    (shown,) = re.findall(r"eigenvalues=(\S+) rotation_seed", out)  # the quadratic form's
    assert flags._value(shown) == (-2.0, -1.0, 0.0, 0.5, 1.0, 4.0)
    assert "widths=8, activation=tanh" in out
    assert "a-long-name-of-a-user Mine, and mine alone." in out
    assert "size=... centres=[[1.0, 0.0], [0.0, 1.0]] activation=" in out


def test_spectrum_prints_the_closed_form_of_a_quadratic(tmp_path, capsys):
    words = ["--options", "eigenvalues=-3.0,0.0,0.5,0.5,2.0", "--output", "spectrum.png"]
    assert main(["spectrum", "--landscape", "quadratic", *words]) == 0
    found = table(capsys.readouterr().out)
    assert found["parameters"] == "5"
    assert found["negative"] == "1 (20.0%)"
    assert found["zero"].startswith("1 (within ")
    assert found["positive"] == "3"
    assert found["certified"] == "yes"
    assert float(found["trace"]) == pytest.approx(0.0, abs=64 * 5 * 3 * 2.0**-23)
    printed = [float(v) for v in found["largest"].split()]
    assert printed == pytest.approx([0.0, 0.5, 0.5, 2.0], abs=1e-3)  # four digits are printed
    assert found["smallest"].split()[0] == "-3"
    assert (tmp_path / "spectrum.png").read_bytes()[:4] == b"\x89PNG"


def test_spectrum_in_float64_knows_zero_better(capsys):
    words = ["--landscape", "quadratic", "--options", "eigenvalues=1e-7,1.0", "--tol", "1e-10", "--dtype", "float64"]
    assert main(["spectrum", *words]) == 0
    found = table(capsys.readouterr().out)
    assert (found["zero"][0], found["positive"]) == ("0", "2")
    assert found["smallest"].split()[0] == "1e-07"


def test_spectrum_without_a_matrix_is_that_with_one(tmp_path, capsys):
    words = ["spectrum", "--options", "widths=4", "rows=64", "--num-steps", "5"]
    assert main(words) == 0
    exact = table(capsys.readouterr().out)
    pages = ["--output", "density.png", "--report", "one.html"]
    assert main([*words, "--method", "slq", "--outliers", "5", "--num-probes", "40", *pages]) == 0
    found = table(capsys.readouterr().out)
    for name in ("landscape", "parameters", "gradient norm"):
        assert found[name] == exact[name]
    largest = [float(v) for v in found["largest"].split()]
    assert largest == pytest.approx([float(v) for v in exact["largest"].split()], rel=2e-3)
    trace, error = map(float, found["trace"].removesuffix(" standard error").split(" ± "))
    assert abs(trace - float(exact["trace"])) <= 4 * error + 1e-3
    assert (tmp_path / "density.png").read_bytes()[:4] == b"\x89PNG"
    page = (tmp_path / "one.html").read_text(encoding="utf-8")
    assert "its Hessian spectrum, from products alone" in page
    assert all(f"<th>{name}</th>" in page for name in ("options", "seed", "num steps", "lanczos steps", "jax"))


def test_spectrum_is_exact_up_to_a_size_and_then_estimated(capsys, monkeypatch):
    from hessjax import single

    words = ["spectrum", "--landscape", "quadratic", "--options", "eigenvalues=-3.0,0.5,2.0"]
    assert main(words) == 0
    assert "certified" in table(capsys.readouterr().out)
    monkeypatch.setattr(single, "EXACT", 2)
    assert main(words) == 0
    found = table(capsys.readouterr().out)
    assert "products" in found
    assert main([*words, "--method", "exact"]) == 0
    assert "certified" in table(capsys.readouterr().out)


def test_doctor_tells_versions_devices_and_advice_in_words_and_json(capsys):
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["jax"] == jax.__version__
    assert facts["num_devices"] == len(jax.devices())
    assert facts["x64"] is False
    assert facts["advice"]
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"jax {jax.__version__}" in out
    for name in facts:
        assert re.search(rf"^{name} ", out, re.MULTILINE), name


def test_sweep_writes_a_store_and_resuming_it_says_where_it_is(tmp_path, capsys, monkeypatch):
    words = ["sweep", *BOWL, "--output", "a.zarr", "--options", "curvatures=-1,0.5,2,3"]
    assert main(words) == 0
    assert capsys.readouterr() == ("store   a.zarr\n", "")
    ds = open_sweep("a.zarr")
    assert ds["negative"].values.tolist() == [[1, 1], [1, 1]]
    assert ds.attrs["config"]["options"] == {"curvatures": [-1, 0.5, 2, 3]}
    events = Store.open("a.zarr").events()
    assert main(words) == 0
    assert capsys.readouterr() == ("store   a.zarr\n", "")
    assert Store.open("a.zarr").events() == events
    assert main([*words, "--seed", "4"]) == 2
    assert "seed: 0 there, 4 asked for" in capsys.readouterr().err


def test_a_configuration_file_is_the_flags_and_flags_win(tmp_path, capsys):
    config = Sweep(
        landscape=f"{MODULE}:bowl", options={"curvatures": (2.0,)}, num_inits=2, num_steps=3, times=(0, 3), chunk=None,
        optimizer="sgd", optimizer_options={"momentum": 0.5, "nesterov": True}, learning_rate=0.1,
    )  # fmt: skip
    (tmp_path / "c.json").write_text(json.dumps(config.to_dict()))
    assert main(["sweep", "--config", "c.json", "--output", "a.zarr", "--no-progress"]) == 0
    assert Sweep.from_dict(open_sweep("a.zarr").attrs["config"]) == config
    assert (
        main(["sweep", "--output=b.zarr", "--no-progress", "--seed", "7", "--config=c.json", "--times", "0", "1"]) == 0
    )
    changed = open_sweep("b.zarr").attrs["config"]
    assert (changed.pop("seed"), changed.pop("times")) == (7, [0, 1])
    assert changed == {k: v for k, v in config.to_dict().items() if k not in ("seed", "times")}


def test_demo_leaves_a_store_and_a_report(tmp_path):
    found = python("-m", "hessjax", "demo", "--num-inits", "4", "--output", "out", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    out = found.stdout.splitlines()
    assert out[0] == "store   out/sweep.zarr"
    assert Path(out[1].split()[1]) == Path("out/report.html")
    assert (tmp_path / "out" / "report.html").read_text().lstrip().lower().startswith("<!doctype html")
    assert open_sweep("out/sweep.zarr").attrs["num_done"] == 4
    assert "digits-mlp: 4/4 inits" in found.stderr


def test_float64_is_switched_on_by_the_command(tmp_path):
    assert not jax.config.read("jax_enable_x64")
    assert main(["sweep", *BOWL, "--dtype", "float64", "--output", "a.zarr"]) == 0
    assert str(open_sweep("a.zarr")["loss"].dtype) == "float64"
    assert jax.config.read("jax_enable_x64")  # the fixture puts it back


def test_interruption_is_one_line_and_exit_code_130(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("hessjax.single.exact", interrupt)
    assert main(["spectrum", "--landscape", "quadratic"]) == 130
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


# ------------------------------------------------------------------------------------------------------------- words


LINES = """
╭─ Unrecognized options ──────────────╮
│ Unrecognized options: --num-init, 3 │
│ ─────────────────────────────────── │
│ Perhaps you meant:                  │
│     --num-inits INT                 │
│         random initialisations.     │
╰─────────────────────────────────────╯
"""
DASHES = """
 Unrecognized options
 ---------------------------------------
  Unrecognized options: --num-init, 3
  --------------------------------------
  Perhaps you meant:
      --num-inits INT
"""


@pytest.mark.parametrize("box", [LINES, DASHES])
def test_a_box_of_lines_becomes_one(box):
    assert flags.one_line(box) == "Unrecognized options: --num-init, 3; did you mean --num-inits?"
    assert flags.one_line("no box at all") == "no box at all."
    assert flags.one_line(LINES.split("\n│ ──")[0]) == "Unrecognized options: --num-init, 3."


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8), ("-1.5", -1.5), ("1e-3", 1e-3), ("8,", (8,)), ("8,8", (8, 8)), ("true", True), ("None", None),
        ("relu", "relu"), ("a,1,false", ("a", 1, False)), ("", ""), ("[]", []), ("[[1], 2]", [[1], 2]), ('"8"', "8"),
        ("[not json", "[not json"), ("__import__('os')", "__import__('os')"), ("1+1j", "1+1j"),
    ],
)  # fmt: skip
def test_a_word_after_equals_is_read_as_a_person_means_it(text, value):
    found = flags._value(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "value",
    [
        (), (8,), (8, 8), ((1, 2), (3,)), "relu", "8", "none", "a,b", "[1]", "a=b", "", 1.5, -2, True, None, {"a": 1},
        {"a": (1, None)}, ("x,y", "z"), ("1", 1), ("",), 1e-30,
    ],
)  # fmt: skip
def test_every_option_value_survives_the_flags(value):
    config = Sweep(landscape="quadratic", options={"x": value}, optimizer_options={"y": value})
    back = flags.to_config(Sweep, commands.sweep_command(**flags.sweep_words(config))())
    assert back == config
    assert back.to_dict() == config.to_dict()


@pytest.mark.parametrize(
    ("env", "place"),
    [
        ({}, (0, 1)),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}, (3, 8)),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1"}, (2, 3)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "1",
                "SLURM_ARRAY_TASK_STEP": "2",
            },
            (2, 3),
        ),
        (  # two lost tasks that are submitted again: --array=3,5
            {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "3"}, (0, 2),
        ),
        ({"SLURM_ARRAY_TASK_ID": "3"}, (0, 1)),
        ({"JOB_COMPLETION_INDEX": "1", "JOB_COMPLETIONS": "4"}, (1, 4)),
        ({"JOB_COMPLETION_INDEX": "1"}, (0, 1)),
    ],
)  # fmt: skip
def test_an_array_job_knows_its_place(monkeypatch, env, place):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert flags.parse_worker(None) == place
    assert flags.parse_worker("0/2") == (0, 2)  # said is said


@pytest.mark.parametrize("text", ["", "/", "1", "1/", "/2", "2/2", "-1/2", "a/b", "0/0", "²/3", "1/2/3", "0.0/1"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ValueError, match="--worker takes I/N with 0 <= I < N"):
        flags.parse_worker(text)


def test_an_array_job_without_sense_is_refused(monkeypatch):
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "4")
    monkeypatch.setenv("JOB_COMPLETIONS", "4")
    with pytest.raises(ValueError, match="--worker takes I/N with 0 <= I < N, such as 0/4; got '4/4'"):
        flags.parse_worker(None)


@pytest.mark.parametrize(
    ("name", "value"),
    [("SLURM_ARRAY_TASK_ID", "three"), ("SLURM_ARRAY_TASK_COUNT", "0"), ("SLURM_ARRAY_TASK_STEP", "")],
)
def test_a_variable_of_an_array_that_is_no_number_is_named(monkeypatch, name, value):
    for known in ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"):
        monkeypatch.setenv(known, "1")
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"environment variable {name} is '{value}', wanted a whole number"):
        flags.parse_worker(None)


def test_a_share_by_environment_is_done_and_no_more(monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    assert main(["sweep", *BOWL, "--lane-width", "1", "--output", "a.zarr"]) == 0
    assert open_sweep("a.zarr")["done"].values.tolist() == [False, True]
