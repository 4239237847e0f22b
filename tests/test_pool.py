"""Local workers: the rows of one process, and a failure that says what failed and how to go on."""

import os
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from hessjax import Sweep, pool, sweep
from hessjax.ensemble import open_sweep
from hessjax.store import Spec, Store, StoreError

HERE = Path(__file__).parent
# () is a tuple that KEY=VALUE words can hardly spell: workers get the configuration as a file of words.
CONFIG = Sweep(
    landscape="landscape_module_for_tests:bowl", options={"curvatures": (-1.0, 0.5, 3.0)}, num_inits=5, lane_width=1,
    num_steps=2, times=2, optimizer="sgd", learning_rate=0.1,
)  # fmt: skip


@pytest.fixture(autouse=True)
def where_the_users_module_is(monkeypatch):
    monkeypatch.chdir(HERE)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(jax.config.jax_compilation_cache_dir))


def test_an_accelerator_is_not_shared_between_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ValueError, match=r"workers=2 .* on gpu one process drives every local device: use workers=1"):
        sweep(CONFIG, tmp_path / "a.zarr", workers=2)
    assert list(tmp_path.iterdir()) == []


def test_two_workers_make_the_rows_of_one(tmp_path, capsys):
    one = sweep(CONFIG, tmp_path / "one.zarr", progress=False)
    two = sweep(CONFIG, tmp_path / "two.zarr", workers=2)
    a, b = open_sweep(one).load(), open_sweep(two).load()
    assert b["done"].values.all()
    for name in a.variables:
        assert np.array_equal(a[name].values, b[name].values, equal_nan=a[name].dtype.kind == "f"), name
    events = Store.open(two).events()
    assert {tuple(e["worker"]) for e in events} == {(0, 2), (1, 2)}
    assert sorted(e["unit"] for e in events if e["event"] == "unit") == [0, 1, 2, 3, 4]
    assert len({e["pid"] for e in events} | {os.getpid()}) == 3
    assert "bowl: 5/5 inits" in capsys.readouterr().err
    sweep(CONFIG, two, workers=2, progress=False)  # nothing left: no process is started
    assert Store.open(two).events() == events


def test_a_worker_that_fails_is_named_with_its_last_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HESSJAX_TEST_PID", str(os.getpid()))
    config = Sweep(landscape="landscape_module_for_tests:fails_in_a_worker", num_inits=2, num_steps=0, times=1)
    arrays = {"loss": Spec(("init", "time"), (2, 1), "float32", {})}
    store = Store.create(tmp_path / "a.zarr", arrays, {}, rows="init", unit=1)
    with pytest.raises(StoreError) as caught:
        pool.run_workers(config, store, workers=1, memory=2**30, progress=False)
    said = str(caught.value)
    assert said.startswith("worker 0 of 1 ended with exit code 1: ")
    assert "no such luck in this process" in said
    assert said.endswith("run the same again to resume.")
    assert "\n" not in said
    assert not store.done().any()


class Stuck(subprocess.Popen):
    """A worker that ends when it is killed, or at once when it is asked to, if it listens; no process at all."""

    def __init__(self, *command, listens=False, **how):
        self.command, self.how, self.killed, self.returncode = command, how, False, None
        self.listens, self.asked = listens, False

    def poll(self):
        return self.returncode

    def kill(self):
        self.killed, self.returncode = True, -9

    def terminate(self):
        self.asked = True
        self.returncode = 143 if self.listens else None

    def wait(self, timeout=None):
        if self.returncode is None:
            raise subprocess.TimeoutExpired("worker", timeout)
        return self.returncode


def test_workers_are_asked_to_end_and_then_killed_when_the_parent_is_interrupted(tmp_path, monkeypatch):
    arrays = {"loss": Spec(("init", "time"), (4, 1), "float32", {})}
    store = Store.create(tmp_path / "a.zarr", arrays, {}, rows="init", unit=2)
    workers = [Stuck(listens=True), Stuck()]

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "_start", lambda file, path, index, *rest: workers[index])
    monkeypatch.setattr(pool.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.run_workers(CONFIG, store, workers=2, memory=None, progress=False)
    assert [(w.asked, w.killed) for w in workers] == [(True, False), (True, True)]


@pytest.mark.parametrize(("cores", "count", "devices"), [(8, 2, 4), (2, 2, 1), (2, 5, 1)])
def test_workers_share_the_cores(tmp_path, monkeypatch, cores, count, devices):
    monkeypatch.setattr(pool.os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.setattr(pool.subprocess, "Popen", Stuck)
    started = pool._start(tmp_path / "config.json", tmp_path / "a.zarr", 1, count, None, tmp_path / "log")
    (command,), how = started.command, started.how
    assert f"device_count={devices}" in how["env"]["XLA_FLAGS"]
    assert ("multi_thread_eigen=false" in how["env"]["XLA_FLAGS"]) == (devices == 1)
    assert how["env"]["OPENBLAS_NUM_THREADS"] == "1"
    assert command[-2:] == ["--worker", f"1/{count}"]
