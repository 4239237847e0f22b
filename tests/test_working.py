"""Workers on one store: what others hold is left, what the dead held is done, and nothing is lost when memory, disk,
clock or patience give out."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import jax
import landscape_module_for_tests  # noqa: F401  (the landscapes of the configurations)
import numpy as np
import pytest
from stored_rows import rows, units_done

from hessjax import StoreError, Sweep, runs, working
from hessjax.claims import Claims, holders
from hessjax.ensemble import open_sweep, sweep
from hessjax.lanes import Lanes
from hessjax.store import Spec, Store

HERE = Path(__file__).parent
CONFIG = Sweep(landscape="landscape_module_for_tests:clouds", num_inits=14, num_steps=3, times=2, lane_width=4)


def run(config, path, **how):
    return sweep(config, path, **({"progress": False} | how))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(CONFIG, tmp_path_factory.mktemp("whole") / "a.zarr")


# --------------------------------------------------------------------------------------------------- out of memory


def out_of_memory_above(monkeypatch, width, when):
    """Programs of more than `width` inits find no memory, when they are begun or when they are waited for."""
    method = getattr(Lanes, when)

    def limited(self, given):
        if self.width > width:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.\nmore of it")
        return method(self, given)

    monkeypatch.setattr(Lanes, when, limited)


@pytest.mark.parametrize("when", ["begin", "wait"])
@pytest.mark.parametrize("width", [2, 1])
def test_out_of_memory_a_lane_is_halved_once_a_level_and_its_rows_say_so(tmp_path, monkeypatch, capsys, width, when):
    with monkeypatch.context() as during:
        out_of_memory_above(during, width, when)
        path = sweep(CONFIG, tmp_path / "a.zarr")
    said = capsys.readouterr().err
    assert [f"out of memory, going on with {k} inits at a time" in said for k in (2, 1)] == [True, width == 1]
    assert said.count("out of memory") == {2: 1, 1: 2}[width]
    halved = [e for e in Store.open(path).events() if e["event"] == "halved"]
    assert [e["lane_width"] for e in halved] == {2: [2], 1: [2, 1]}[width]
    assert open_sweep(path)["lane_width"].values.tolist() == [width] * 14
    # Bit for bit the rows of a sweep whose lanes are so narrow from the beginning.
    other = run(Sweep(**{**CONFIG.to_dict(), "lane_width": width}), tmp_path / "b.zarr")
    assert rows(path) == rows(other)


def test_after_out_of_memory_whoever_resumes_begins_with_the_full_width(whole, tmp_path, monkeypatch):
    path = tmp_path / "a.zarr"
    with monkeypatch.context() as during:
        out_of_memory_above(during, 2, "wait")
        run(CONFIG, path, worker=(0, 2))
    run(CONFIG, path)
    assert open_sweep(path)["lane_width"].values.tolist() == [2] * 4 + [4] * 4 + [2] * 4 + [4] * 2
    mixed, straight = open_sweep(path), open_sweep(whole)
    for name in ("loss", "eigenvalues", "trace"):
        np.testing.assert_allclose(mixed[name], straight[name], rtol=1e-4, atol=1e-5)
    assert (mixed["negative"].values == straight["negative"].values).all()


def test_out_of_memory_with_one_init_is_one_line_and_nothing_is_marked_done(tmp_path, monkeypatch):
    with monkeypatch.context() as during:
        out_of_memory_above(during, 0, "begin")
        with pytest.raises(ValueError, match=r"^memory ran out with one init at a time; give chunk=") as caught:
            run(CONFIG, tmp_path / "a.zarr")
    assert "\n" not in str(caught.value)
    assert not Store.open(tmp_path / "a.zarr").done().any()


@pytest.mark.parametrize("when", ["begin", "wait"])
def test_another_error_of_the_device_is_raised_as_it_is(tmp_path, monkeypatch, when):
    def broken(self, given):
        raise jax.errors.JaxRuntimeError("INTERNAL: no such luck")

    monkeypatch.setattr(Lanes, when, broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="no such luck"):
        run(CONFIG, tmp_path / "a.zarr")


# ------------------------------------------------------------------------------------------------------- other workers


def test_a_share_and_then_what_others_left(whole, tmp_path):
    path = run(CONFIG, tmp_path / "a.zarr", worker=(1, 3), take_over=True)
    assert units_done(path) == [1, 0, 2, 3]
    assert rows(path) == rows(whole)


def test_a_unit_that_another_holds_is_waited_for_and_not_done_again(whole, tmp_path, monkeypatch, capsys):
    path = run(CONFIG, tmp_path / "a.zarr", worker=(3, 4))  # the store, with unit 3 done
    store, other = Store.open(path), Claims(Store.open(path).claims_path)
    assert other.take(1)
    source = Store.open(whole)

    def meanwhile(seconds):
        if seconds >= working.POLL_SECONDS[0] / 2:  # the other one finishes its unit
            store.write(1, {name: source.part(name, 1) for name in source.by_row})
            other.release(1)

    monkeypatch.setattr(working.time, "sleep", meanwhile)
    sweep(CONFIG, path)
    assert units_done(path) == [3, 0, 2]
    assert rows(path) == rows(whole)
    assert "clouds: others are at work on the last units, 1 in all" in capsys.readouterr().err
    assert not store.claims_path.exists()


def test_what_a_dead_worker_held_is_done_by_the_living(whole, tmp_path):
    path = run(CONFIG, tmp_path / "a.zarr", worker=(3, 4))
    claims = Store.open(path).claims_path
    claims.mkdir()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait(30)
    from hessjax import claims as module

    said = {**module._this_process(), "pid": dead.pid}
    (claims / "1.lease").write_text(json.dumps(said) + "\n...")
    assert [(h.unit, h.alive) for h in holders(claims)] == [(1, False)]
    run(CONFIG, path)
    assert sorted(units_done(path)) == [0, 1, 2, 3]
    assert rows(path) == rows(whole)


def test_a_lease_left_on_a_finished_unit_is_in_nobodys_way(whole, tmp_path):
    path = run(CONFIG, tmp_path / "a.zarr", worker=(3, 4))
    with Claims(Store.open(path).claims_path) as other:
        other.take(3)  # its holder was killed between the mark of done and letting go
        run(CONFIG, path)
    assert rows(path) == rows(whole)


def test_the_last_to_leave_takes_away_what_the_dead_left(tmp_path):
    """A worker killed between the mark of done and letting go leaves a lease that nobody else will ask for."""
    path = run(CONFIG, tmp_path / "a.zarr", worker=(3, 4))
    claims = Store.open(path).claims_path
    claims.mkdir()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait(30)
    from hessjax import claims as module

    (claims / "3.lease").write_text(json.dumps({**module._this_process(), "pid": dead.pid}) + "\n")
    run(CONFIG, path)
    assert not claims.exists()


MANY = {"num_inits": 64, "num_steps": 15_000, "times": 2, "spacing": "linear", "lane_width": 2, "optimizer": "sgd"}


def test_processes_that_are_told_nothing_of_each_other_share_a_store(tmp_path):
    path, words = tmp_path / "a.zarr", ["--landscape", CONFIG.landscape, "--no-progress", "--learning-rate", "1e-3"]
    for name, value in MANY.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    env = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir)}
    command = [sys.executable, "-m", "hessjax", "sweep", *words, "--output", str(path)]
    both = [subprocess.Popen(command, cwd=HERE, env=env, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    events = Store.open(path).events()
    assert sorted(units_done(path)) == list(range(32))  # each once, by whichever came first
    assert len({e["pid"] for e in events if e["event"] == "unit"}) == 2
    alone = Sweep(landscape=CONFIG.landscape, learning_rate=1e-3, **MANY)
    assert rows(path) == rows(run(alone, tmp_path / "b.zarr"))
    assert not Store.open(path).claims_path.exists()


# ------------------------------------------------------------------------------------------------- ahead and in order


def arrays_of(count):
    return {"loss": Spec(("init", "time"), (count, 1), "float32", {})}


def work(store, begin, **how):
    working.write_units(store, (0, 1), begin, at_once=2, label="x", what="inits", progress=False, **how)


def test_rows_are_stored_while_the_next_are_computed(tmp_path, monkeypatch):
    """A write that waits for the next unit to be computed would wait for ever if that came after it."""
    store = Store.create(tmp_path / "a.zarr", arrays_of(8), {}, rows="init", unit=2)
    computed, write = [threading.Event() for _ in range(4)], Store.write

    def patient(self, unit, values):
        assert unit == 3 or computed[unit + 1].wait(30)
        write(self, unit, values)

    def begin(start, stop):
        computed[start // 2].set()
        return lambda: {"loss": np.full((stop - start, 1), start, "float32")}

    monkeypatch.setattr(Store, "write", patient)
    work(store, begin)
    assert store.read("loss")[:, 0].tolist() == [0, 0, 2, 2, 4, 4, 6, 6]


def test_at_most_two_parts_are_in_the_making(tmp_path):
    """However many there are: memory is flat in the number of inits."""
    store = Store.create(tmp_path / "a.zarr", arrays_of(40), {}, rows="init", unit=8)
    now, most = [0], [0]

    def begin(start, stop):
        now[0] += 1
        most[0] = max(most[0], now[0])

        def wait():
            now[0] -= 1
            return {"loss": np.zeros((stop - start, 1), "float32")}

        return wait

    work(store, begin)
    assert most == [2]
    assert store.done().all()


def test_interrupted_it_stores_what_is_computed_and_lets_go_of_the_rest(tmp_path, monkeypatch):
    store = Store.create(tmp_path / "a.zarr", arrays_of(8), {}, rows="init", unit=2)
    stopped, write = threading.Event(), Store.write

    def slow(self, unit, values):
        assert stopped.wait(30)
        write(self, unit, values)

    def begin(start, stop):
        def wait():
            if start == 2:
                stopped.set()
                raise KeyboardInterrupt
            return {"loss": np.zeros((stop - start, 1), "float32")}

        return wait

    monkeypatch.setattr(Store, "write", slow)
    with pytest.raises(KeyboardInterrupt):
        work(store, begin)
    assert store.done().tolist() == [True, False, False, False]
    assert not store.claims_path.exists()


def test_what_the_disk_refuses_ends_the_run_and_lets_go(tmp_path, monkeypatch):
    store = Store.create(tmp_path / "a.zarr", arrays_of(8), {}, rows="init", unit=2)

    def full(self, unit, values):
        raise StoreError("the disk is full")

    monkeypatch.setattr(Store, "write", full)
    with pytest.raises(StoreError, match="the disk is full"):
        work(store, lambda start, stop: lambda: {"loss": np.zeros((stop - start, 1), "float32")})
    assert not store.claims_path.exists()


def test_a_unit_that_could_not_be_stored_is_let_go_and_told_before_others_are_waited_for(tmp_path, monkeypatch):
    """Two workers on a full disk would else wait for one another's units for ever."""
    store = Store.create(tmp_path / "a.zarr", arrays_of(4), {}, rows="init", unit=2)
    write = Store.write

    def full(self, unit, values):
        if unit == 0:
            raise StoreError("the disk is full")
        write(self, unit, values)

    def waited(seconds):
        raise AssertionError("waiting for another, with a unit in hand that could not be stored")

    monkeypatch.setattr(Store, "write", full)
    monkeypatch.setattr(working.time, "sleep", waited)
    with Claims(store.claims_path) as other:
        assert other.take(1)
        with pytest.raises(StoreError, match="the disk is full"):
            work(store, lambda start, stop: lambda: {"loss": np.zeros((stop - start, 1), "float32")})
        assert [h.unit for h in holders(store.claims_path)] == [1]


@pytest.mark.parametrize("jump", [3e7, -3e7])
def test_a_clock_that_jumps_changes_neither_rows_nor_seconds(tmp_path, monkeypatch, jump):
    """Set by a year while units are computed; the log's own time jumps with it, what is counted does not."""
    store = Store.create(tmp_path / "a.zarr", arrays_of(8), {}, rows="init", unit=2)
    real, clock = runs.datetime.datetime, [0.0]

    class Jumping(real):
        @classmethod
        def now(cls, tz=None):
            return real.fromtimestamp(1.7e9 + clock[0], tz)

    monkeypatch.setattr(runs.datetime, "datetime", Jumping)

    def begin(start, stop):
        clock[0] = jump if start >= 4 else 0.0
        return lambda: {"loss": np.zeros((stop - start, 1), "float32")}

    work(store, begin)
    assert store.done().all()
    stamps = [e["t"] for e in store.events()]
    assert max(stamps) - min(stamps) == pytest.approx(3e7, rel=1e-6)
    assert 0 <= runs.run_attrs(store.events())["wall_s"] < 60
