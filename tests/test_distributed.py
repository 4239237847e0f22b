"""Processes that share a model: what they compute together is what one device computes, to rounding."""

import fcntl
import functools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import distributed_jobs as jobs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import QUICKLY

import hessjax as hj
from hessjax import distributed, single
from hessjax.cli import main

JOB = Path(jobs.__file__)
LIMIT = 240  # seconds, far more than a job takes: one that hangs fails
TOL = 1e-12  # of sums in another order in float64; relative to the largest entry
SETTINGS = ("XLA_FLAGS", "SLURM", "HESSJAX_COORDINATOR", "HESSJAX_NUM", "HESSJAX_PROCESS", "OMPI", "PYTHONPATH")


def run(commands, folder):
    """One process each, with variables of its own; (exit code, stdout, stderr) of each. One that fails ends all."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(SETTINGS)}
    env |= {"PYTHONPATH": str(JOB.parents[1]), "JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1"}
    env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=1 {QUICKLY}"
    if jax.config.jax_compilation_cache_dir:
        env["JAX_COMPILATION_CACHE_DIR"] = jax.config.jax_compilation_cache_dir
        env["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    files = [(folder / f"{k}.out", folder / f"{k}.err") for k in range(len(commands))]
    started = []
    try:
        for (words, own), (out, err) in zip(commands, files, strict=True):
            with out.open("w") as stdout, err.open("w") as stderr:
                started.append(subprocess.Popen(words, env=env | own, stdout=stdout, stderr=stderr, cwd=folder))
        end = time.monotonic() + LIMIT
        while any(p.poll() is None for p in started) and not any(p.poll() for p in started):
            assert time.monotonic() < end, [err.read_text()[-2000:] for _, err in files]
            time.sleep(0.1)
        if any(p.poll() for p in started):
            time.sleep(2)  # others that fail by themselves say so
    finally:
        for p in started:
            if p.poll() is None:
                os.kill(p.pid, signal.SIGKILL)  # a distributed client does not end at SIGTERM
            p.wait()
    return [(p.returncode, out.read_text(), err.read_text()) for p, (out, err) in zip(started, files, strict=True)]


def free_port(least=1024):
    for port in range(least, 65536) if least > 1024 else (0,):
        with socket.socket() as s:
            try:
                s.bind(("", port))
            except OSError:
                continue
            return s.getsockname()[1]
    raise AssertionError("no free port")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Results of a job of so many processes, [process][name] -> leaves; run once, whichever worker asks first."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    @functools.cache
    def results(count):
        folder = shared / f"job-{count}"
        with (shared / f"job-{count}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                folder.mkdir()
                together(count, folder)
        return [read(folder / f"{k}.npz") for k in range(count)]

    return results


def together(count, folder):
    own = {"HESSJAX_COORDINATOR": f"localhost:{free_port()}", "HESSJAX_NUM_PROCESSES": str(count)}
    words = [sys.executable, str(JOB), str(folder)]
    done = run([(words, own | {"HESSJAX_PROCESS_ID": str(k)}) for k in range(count)], folder)
    assert [code for code, *_ in done] == [0] * count, [err[-3000:] for *_, err in done]


def read(file):
    found = {}
    with np.load(file) as arrays:
        for name in arrays.files:
            found.setdefault(name.rpartition("/")[0], []).append(arrays[name])
    return found


@functools.cache
def alone(name, rows):
    """The same of one device, whole."""
    params, batch = jobs.problem(rows)
    op = hj.Hessian(jobs.loss, jax.tree.map(jnp.asarray, params), batch)
    return [np.asarray(x) for x in jax.tree.leaves(jobs.ESTIMATES[name](op))]


def matrix(rows):
    """The Hessian by autodiff of the whole loss, in the order of `ravel_pytree`."""
    params, batch = jobs.problem(rows)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    return np.asarray(jax.hessian(lambda x: jnp.mean(jobs.loss(unravel(x), batch)))(flat))


def assert_close(got, want):
    assert len(got) == len(want)
    for x, y in zip(got, want, strict=True):
        np.testing.assert_allclose(x, y, rtol=TOL, atol=TOL * np.max(np.abs(y), initial=0))


CASES = [
    (count, layout, rows, name)
    for count, layouts in jobs.LAYOUTS.items()
    for layout, (_, rows, names) in layouts.items()
    for name in names
]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("count", "layout", "rows", "name"), CASES)
def test_processes_together_are_one_device(job, count, layout, rows, name):
    for found in job(count):
        assert_close(found[f"{layout}: {name}"], alone(name, rows))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("count", "layout", "rows", "name"), [case for case in CASES if case[3] in ("dense", "eigsh")])
def test_what_is_found_is_the_hessian_by_autodiff(job, count, layout, rows, name):
    found, whole = job(count)[0][f"{layout}: {name}"], matrix(rows)
    values = np.linalg.eigvalsh(whole)
    want = whole if name == "dense" else np.sort(values[np.argsort(-np.abs(values))[:3]])
    np.testing.assert_allclose(found[0], want, rtol=0, atol=TOL * np.abs(values).max())


@pytest.mark.usefixtures("float64")
def test_every_process_may_bring_its_own_rows(job):
    for found in job(2):
        keys, dense = found["local rows"]
        assert keys.tolist() == list(range(8))
        assert_close([dense], [matrix(8)])


def test_keys_are_rows_like_others(job):
    want = jax.random.key_data(jax.random.split(jax.random.key(0), 8))
    assert [np.array_equal(found["keys"][0], want) for found in job(2)] == [True, True]


def test_processes_agree_on_what_programs_depend_on(job):
    first, second = job(2)
    assert first["memory"] == second["memory"]
    assert [found["from_first"][0] for found in (first, second)] == [1.0, 1.0]
    assert [bool(found["check"][0]) for found in (first, second)] == [True, True]


def test_what_would_hang_or_be_wrong_is_refused_by_every_process(job):
    for found in job(2):
        assert "params differ between processes" in str(found["other params"][0])
        assert "they have [6, 4]" in str(found["other numbers of rows"][0])
        assert "local rows need devices that share params" in str(found["rows of two processes"][0])


def slurm(count, port):
    """Variables that Slurm sets for the tasks of a step, as jax reads them."""
    same = {"SLURM_JOB_ID": str(port - 61440), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": str(count)}
    return [same | {"SLURM_STEP_NUM_NODES": "1", "SLURM_PROCID": str(k), "SLURM_LOCALID": str(k)} for k in range(count)]


def lines(text):
    return [line for line in text.splitlines() if not line.startswith("[Gloo]")]  # said by the library that connects


@pytest.mark.usefixtures("float64")
def test_a_slurm_step_prints_what_one_process_does(tmp_path, capsys):
    """Of 61 rows, which two processes do not share evenly."""
    words = ["spectrum", "--options", "widths=3", "rows=61", "--method", "slq", "--dtype", "float64"]
    words += ["--outliers", "0", "--lanczos-steps", "6", "--num-probes", "2"]
    command = [sys.executable, "-m", "hessjax", *words, "--distributed", "--output", "spectrum.png"]
    first, second = run([(command, own) for own in slurm(2, free_port(61440))], tmp_path)
    assert [first[0], second[0]] == [0, 0], (first[2][-2000:], second[2][-2000:])
    assert main(words) == 0
    assert lines(first[1]) == [*capsys.readouterr().out.splitlines(), "figure        spectrum.png"]
    assert (tmp_path / "spectrum.png").exists()
    assert lines(second[1]) == []


def test_a_job_that_is_none_is_told_in_one_line(tmp_path):
    ((code, out, err),) = run([([sys.executable, "-m", "hessjax", "spectrum", "--distributed"], {})], tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert "hessjax: no cluster was detected (Slurm, " in err
    assert "HESSJAX_NUM_PROCESSES" in err


@pytest.mark.parametrize(
    ("variable", "value", "want"),
    [
        ("HESSJAX_COORDINATOR", "node001", "coordinator must be host:port, such as node001:1234; got 'node001'"),
        ("HESSJAX_PROCESS_ID", "first", "process_id must be a whole number from 0 up, got 'first'"),
        ("HESSJAX_NUM_PROCESSES", "-2", "num_processes must be a whole number from 0 up, got '-2'"),
    ],
)
def test_variables_that_make_no_sense_are_named(monkeypatch, variable, value, want):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=want):
        distributed.start()


def test_starting_late_and_impossible_numbers_are_refused():
    jax.devices()
    with pytest.raises(ValueError, match="before anything else of jax"):
        distributed.start("localhost:1234", num_processes=1, process_id=0)
    with pytest.raises(ValueError, match="got 2 of 2"):
        distributed.start("localhost:1234", num_processes=2, process_id=2)
    with pytest.raises(ValueError, match="params must divide the number of devices, 8; got 3"):
        distributed.mesh(params=3)


def test_rows_that_do_not_divide_are_refused_with_what_takes_them():
    with pytest.raises(ValueError, match=r"9 rows do not .* over 8 devices; take 8, or distributed\.mean_over_rows"):
        distributed.shard_rows(np.ones((9, 2)), distributed.mesh())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("share", "rows"), [(1, 8), (4, 8), (2, 11), (1, 3)])
def test_one_process_with_many_devices_is_one_device(share, rows):
    for name in ("dense", "slq") if rows == 8 else ("dense",):
        assert_close(jobs.leaves(jobs.ESTIMATES[name](jobs.operator(share, rows))), alone(name, rows))


@pytest.mark.usefixtures("float64")
def test_an_exact_spectrum_over_devices_is_that_of_a_sweep():
    config = hj.Sweep(options={"widths": (3,), "rows": 61}, num_steps=0, times=1, dtype="float64")
    want, got = single.exact(config), single.exact(config, mesh=distributed.mesh())
    names = ("eigenvalues", "negative", "zero", "positive", "certified", "threshold", "trace", "loss", "grad_norm")
    assert_close([np.float64(got[k]) for k in names], [np.float64(want[k]) for k in names])
    assert round(61 * float(got["error"])) == round(61 * float(want["error"]))  # rows in error; their share is float32


@pytest.mark.usefixtures("float64")
def test_params_are_spread_along_their_longest_axis_that_divides():
    params = distributed.shard_params(jobs.problem()[0], distributed.mesh(params=2))
    spec = jax.tree.map(lambda x: tuple(x.sharding.spec), params)
    assert spec == {"w": ("params",), "b": (), "v": ("params",)}
    assert params["w"].addressable_shards[0].data.shape == (3, 4)
    square = distributed.shard_params({"w": np.ones((4, 4))}, distributed.mesh(params=2))
    assert square["w"].addressable_shards[0].data.shape == (4, 2)


@pytest.mark.usefixtures("float64")
def test_vectors_are_spread_over_the_devices_that_share_params():
    """Each device has half of a leaf that divides: a Krylov basis takes half the memory."""
    op = jobs.operator(2, 8)
    basis = hj.lanczos(op, jax.random.key(0), num_steps=3).basis
    assert {k: x.addressable_shards[0].data.size / x.size for k, x in basis.items()} == {"w": 0.5, "b": 1.0, "v": 0.5}


def test_landscapes_whose_rows_cannot_be_parted_stay_whole():
    """Without data there is nothing to share; rows that are coupled are shared evenly or not at all."""
    config = hj.Sweep(landscape="quadratic", num_steps=0, times=1)
    want, got = single.exact(config), single.exact(config, mesh=distributed.mesh())
    np.testing.assert_allclose(got["eigenvalues"], want["eigenvalues"], rtol=1e-6)
    coupled = hj.Landscape("coupled", lambda key: jnp.ones(2), lambda p, x: jnp.var(x @ p), np.eye(9, 2))
    with pytest.raises(ValueError, match="9 rows do not divide evenly over 8 devices"):
        single.exact(hj.Sweep(landscape=coupled, num_steps=0, times=1), mesh=distributed.mesh())
