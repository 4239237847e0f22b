"""The benchmark harness: what it counts and writes. No time is asserted; clocks here are counted, not read."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from benchmarks import __main__ as command
from benchmarks import harness

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the programs move: `clock(f, seconds)` is a host function that takes that long."""
    now = [0.0]
    monkeypatch.setattr(harness.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(harness.time, "process_time", lambda: 2 * now[0])

    def taking(seconds, log=None, name=""):
        left = iter(seconds)

        def f(*_):
            now[0] += next(left)
            if log is not None:
                log.append(name)

        return f

    return taking


def test_rivals_take_turns_after_one_run_each_that_is_not_counted(clock):
    log = []
    names = ("a", "b", "c")
    harness.compare({name: clock([1.0] * 4, log, name) for name in names}, rounds=3)
    assert log == [*names] * 4


def test_time_is_the_median_of_the_rounds_and_the_first_run_does_not_count(clock):
    cost = harness.measure(clock([100.0, 5.0, 1.0, 2.0, 3.0, 4.0, 50.0, 3.0]))
    assert (cost.run_s, cost.run_min_s, cost.rounds) == (3.0, 1.0, 7)
    assert cost.spread == pytest.approx((4.5 - 2.5) / 3.0)
    assert cost.cores == 2.0


def test_ratios_are_taken_round_by_round_so_that_a_common_slowdown_cancels(clock):
    slow = [1.0, 1.0, 9.0, 3.0]
    costs = harness.compare({"first": clock(slow), "twice": clock([2 * s for s in slow])}, rounds=3)
    first, twice = costs["first"], costs["twice"]
    assert (first.ratio, first.ratio_low, first.ratio_high) == (1.0, 1.0, 1.0)
    assert (twice.ratio, twice.ratio_low, twice.ratio_high) == (2.0, 2.0, 2.0)


def test_a_jitted_function_is_compiled_once_and_apart():
    traces = []

    @jax.jit
    def f(x):
        traces.append(x.shape)
        return x @ x

    cost = harness.measure(f, jnp.ones((8, 8)), rounds=3)
    assert traces == [(8, 8)]
    assert cost.compile_s is not None
    assert cost.temp_bytes is not None


def test_a_host_function_is_called_with_the_arguments_and_has_no_compile_time():
    cost = harness.measure(lambda a, b: a + b, 1, 2, rounds=1)
    assert (cost.compile_s, cost.temp_bytes, cost.rounds) == (None, None, 1)


def test_a_prepared_program_is_not_compiled_again():
    program = harness.prepare(jax.jit(lambda x: 2 * x), 1.0)
    assert harness.prepare(program) is program
    assert harness.measure(program, rounds=1).compile_s == program.compile_s


def test_a_program_of_another_process_counts_that_ones_processor_time(clock):
    spent = iter([0.0, 6.0])
    program = harness.Program(clock([1.0, 2.0]), busy=lambda: next(spent))
    assert harness.measure(program, rounds=1).cores == 3.0


@pytest.mark.parametrize(("functions", "rounds"), [({}, 7), ({"a": lambda: None}, 0)])
def test_nothing_to_compare_is_an_error(functions, rounds):
    with pytest.raises(ValueError, match="at least one function and one round"):
        harness.compare(functions, rounds=rounds)


@pytest.fixture
def rows(clock):
    cost = harness.measure(clock([1.0] * 8))
    return [harness.row("ours", cost, error=1.23456e-7, error_is="relative", n=jnp.int32(3), gflops=float("nan"))]


def test_a_record_is_valid_json_with_the_claim_the_error_and_four_digits(tmp_path, rows):
    path = harness.record("speed", claim="Claim: fast.", rows=rows, folder=tmp_path)
    found = json.loads(path.read_text())
    assert (found["name"], found["claim"]) == ("speed", "Claim: fast.")
    (row,) = found["rows"]
    assert set(row) == {"what", "n", "gflops", "error", "error_is", *harness.Cost._fields}
    assert (row["n"], row["gflops"], row["error"], row["run_s"]) == (3, None, 1.235e-7, 1.0)


def test_the_same_numbers_are_the_same_bytes_and_a_row_is_a_line(tmp_path, rows):
    path = harness.record("speed", claim="c", rows=rows * 2, folder=tmp_path)
    before = path.read_bytes()
    assert harness.record("speed", claim="c", rows=rows * 2, folder=tmp_path) == path
    assert path.read_bytes() == before
    assert sum('"what"' in line for line in before.decode().splitlines()) == 2


def test_each_claim_keeps_the_environment_it_was_recorded_in(tmp_path, rows):
    harness.record("first", claim="c", rows=rows, folder=tmp_path)
    beside = harness.record("second", claim="c", rows=rows, folder=tmp_path).with_name("environment.json")
    found = json.loads(beside.read_text())
    assert set(found) == {"first", "second"}
    wanted = {"versions", "cpu", "cores", "device", "num_devices", "x64", "blas_threads", "revision", "date"}
    assert wanted <= set(found["first"])


def test_an_environment_names_no_host_user_or_path(monkeypatch):
    monkeypatch.setattr(harness.devices.socket, "gethostname", lambda: "secret-host")
    text = json.dumps(harness.environment())
    for private in ("secret-host", str(ROOT), str(Path.home()) + "/", sys.prefix):
        assert private not in text


def test_a_time_cannot_be_written_without_its_error(clock):
    with pytest.raises(TypeError):
        harness.row("ours", harness.measure(clock([1.0] * 8)))  # pyright: ignore


def test_the_table_has_a_line_per_row_and_no_empty_column(rows):
    lines = harness.table([{**row, "gflops": None} for row in rows]).splitlines()
    assert len(lines) == 2
    assert "gflops" not in lines[0]
    assert "error" in lines[0].split()


def test_every_claim_opens_with_its_claim():
    found = command.claims()
    assert {"large", "main_job", "slq"} <= set(found)
    assert all(claim.startswith("Claim: ") and claim.endswith(".") for claim in found.values())


def test_the_list_starts_no_jax():
    code = "import sys; from benchmarks.__main__ import main; main(['--list']); sys.exit('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert {line.split()[0] for line in done.stdout.splitlines()} == set(command.claims())


def test_an_unknown_claim_is_one_line_with_the_near_match(capsys):
    assert command.main(["main_jb"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said == [f"benchmarks: no claim 'main_jb'; did you mean 'main_job'? Known: {', '.join(command.claims())}."]


def test_smoke_runs_a_claim_and_records_nothing(monkeypatch, capsys, rows):
    monkeypatch.setenv("HESSJAX_SMOKE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # own_process sets it where it is not: put back afterwards
    monkeypatch.setattr(command, "claims", lambda: {"toy": "Claim: a toy."})
    monkeypatch.setitem(sys.modules, "benchmarks.toy", SimpleNamespace(run=lambda: rows))
    monkeypatch.setattr(harness, "record", lambda *_, **__: pytest.fail("recorded"))
    assert command.main(["toy"]) == 0
    assert "not recorded" in capsys.readouterr().out
