"""Leases: one holder a unit, dead ones taken over without a clock, and nothing believed that a file says."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time

import pytest

from hessjax import claims as module
from hessjax.claims import Claims, holders
from hessjax.store import StoreError


def elsewhere(pid=1):
    """What a process on another machine says of itself."""
    return json.dumps({"host": "far", "machine": "another boot", "pid": pid, "born": "7"}).encode() + b"\n"


def test_a_unit_has_one_holder_until_it_is_let_go(tmp_path):
    with Claims(tmp_path / "c") as mine, Claims(tmp_path / "c") as theirs:
        assert mine.take(3)
        assert not theirs.take(3)
        assert not mine.take(3)  # not twice by the same either
        mine.release(3)
        assert theirs.take(3)
        mine.release(3)  # no longer its own: nothing happens
        assert [h.unit for h in holders(tmp_path / "c")] == [3]
    assert not (tmp_path / "c").exists()


def take_all(folder, count, found, tried):
    with Claims(folder) as claims:
        tried.wait(60)  # all at once
        found.put([unit for unit in range(count) if claims.take(unit)])
        tried.wait(60)  # held until the others have tried


def test_of_four_processes_each_unit_goes_to_one(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    found, tried = spawn.Queue(), spawn.Barrier(4)
    all_of_them = [spawn.Process(target=take_all, args=(tmp_path / "c", 200, found, tried)) for _ in range(4)]
    for process in all_of_them:
        process.start()
    units = [found.get(timeout=60) for _ in all_of_them]
    for process in all_of_them:
        process.join(60)
    assert sorted(unit for some in units for unit in some) == list(range(200))


KILLED = """
import sys, time
from pathlib import Path
from hessjax.claims import Claims
claims = Claims(Path(sys.argv[1]))
print(claims.take(5), flush=True)
time.sleep(60)
"""


def test_a_killed_process_of_this_machine_is_dead_at_once(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "c")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "True\n"
        with Claims(tmp_path / "c") as mine:
            assert [h.alive for h in holders(tmp_path / "c")] == [True]
            assert not mine.take(5)
            process.kill()
            process.wait(30)
            assert [h.alive for h in holders(tmp_path / "c")] == [False]
            assert mine.take(5)
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()


def test_another_process_with_the_number_of_a_dead_one_does_not_hold_its_lease(tmp_path):
    said = {**module._this_process(), "born": "1"}  # this very number, long ago
    (tmp_path / "0.lease").write_bytes(json.dumps(said).encode() + b"\n")
    with Claims(tmp_path) as mine:
        assert mine.take(0)


def test_on_another_machine_a_lease_is_dead_when_it_does_not_grow(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    lease = tmp_path / "0.lease"
    lease.write_bytes(elsewhere())
    with Claims(tmp_path, patience=30.0) as mine:
        assert not mine.take(0)
        now[0] = 25.0
        lease.write_bytes(elsewhere() + b".")
        assert not mine.take(0)
        now[0] = 50.0  # 25 s after it was last seen to grow
        assert not mine.take(0)
        assert [(h.host, h.alive, h.beats) for h in holders(tmp_path)] == [("far", None, 1)]
        now[0] = 56.0
        assert mine.take(0)


def test_wall_clocks_may_jump(tmp_path, monkeypatch):
    """Neither a lease from the future nor a clock set back makes a living holder dead."""
    with Claims(tmp_path / "c") as theirs, Claims(tmp_path / "c") as mine:
        theirs.take(0)
        for jump in (1e9, -1e9):
            monkeypatch.setattr(module.time, "time", lambda jump=jump: jump)
            os.utime(tmp_path / "c" / "0.lease", (jump, jump) if jump > 0 else (0, 0))
            assert not mine.take(0)


def test_a_holder_beats_and_one_taken_for_dead_does_not_write_into_its_successors_lease(tmp_path):
    folder = tmp_path / "c"
    with Claims(folder, beat=0.02) as slow:
        slow.take(0)
        waited = time.monotonic() + 30
        while next(holders(folder)).beats < 3 and time.monotonic() < waited:
            time.sleep(0.02)
        assert next(holders(folder)).beats >= 3
        (folder / "0.lease").unlink()  # as another does that took it for dead
        with Claims(folder, beat=60) as other:
            assert other.take(0)
            time.sleep(0.2)
            assert next(holders(folder)).beats == 0
            slow.release(0)
            assert [h.unit for h in holders(folder)] == [0]


@pytest.mark.parametrize(
    "content", [b"", b"no json\n", b"[1]\n", b'{"pid": "x"}\n', b"[" * 100_000, b"\xff\xfe\n", b'{"machine": null}\n',
     b'{"machine": "m", "born": "1", "host": "h", "pid": 1e999}\n'],
)  # fmt: skip
def test_a_lease_of_nobody_is_dead_after_a_while_and_not_shown(tmp_path, monkeypatch, content):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    (tmp_path / "0.lease").write_bytes(content)
    (tmp_path / "stranger.txt").write_text("not a lease")
    with Claims(tmp_path) as mine:
        assert list(holders(tmp_path)) == []
        assert not mine.take(0)
        now[0] = 61.0
        assert mine.take(0)


def test_a_lease_whose_making_was_interrupted_is_taken_away_at_the_end(tmp_path, monkeypatch):
    folder = tmp_path / "c"

    def interrupted(self, path):
        make(self, path)
        raise KeyboardInterrupt

    make = Claims._make
    with Claims(folder) as other:
        other.take(1)
        monkeypatch.setattr(Claims, "_make", interrupted)
        with pytest.raises(KeyboardInterrupt), Claims(folder) as mine:
            mine.take(0)
        assert [h.unit for h in holders(folder)] == [1]


def test_where_no_lease_can_be_made_is_one_line(tmp_path):
    (tmp_path / "c").write_text("a file")
    with (
        Claims(tmp_path / "c") as mine,
        pytest.raises(StoreError, match=r"leases in .* cannot be made: Not a directory"),
    ):
        mine.take(0)


def test_a_lease_that_a_full_disk_leaves_empty_is_taken_away(tmp_path, monkeypatch):
    def full(descriptor, data):
        raise OSError(28, "No space left on device")

    with Claims(tmp_path / "c") as mine:
        with monkeypatch.context() as during:
            during.setattr(module.os, "write", full)
            with pytest.raises(StoreError, match=r"leases in .* cannot be made: No space left on device"):
                mine.take(0)
        assert mine.take(0)  # at once: nobody waits for it


@pytest.mark.parametrize("kind", ["link", "pipe", "unreadable"])
def test_a_lease_that_cannot_be_read_is_dead_after_a_while_and_nothing_behind_it_is_touched(
    tmp_path, monkeypatch, kind
):
    now, other, folder = [0.0], tmp_path / "other", tmp_path / "c"
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    other.write_text("precious")
    folder.mkdir()
    lease = folder / "0.lease"
    if kind == "link":
        lease.symlink_to(other)
    elif kind == "pipe":
        os.mkfifo(lease)
    else:
        lease.write_bytes(b"")
        reading = module._read
        monkeypatch.setattr(module, "_read", lambda p: reading(p) if p != lease else _refuse(p))
    with Claims(folder) as mine:
        assert not mine.take(0)
        assert list(holders(folder)) == []
        now[0] = 50.0
        if kind == "unreadable":  # another user's, which grows
            lease.write_bytes(b".")
            assert not mine.take(0)
            now[0] = 100.0
            assert not mine.take(0)
        now[0] += 61.0
        assert mine.take(0)
    assert other.read_text() == "precious"


def _refuse(path):
    raise PermissionError(path)


def test_a_lease_that_is_gone_before_it_can_be_looked_at_is_to_be_had_next_time(tmp_path, monkeypatch):
    (tmp_path / "0.lease").write_bytes(b"")

    def refuse(path):
        path.unlink()
        raise PermissionError(path)

    monkeypatch.setattr(module, "_read", refuse)
    with Claims(tmp_path) as mine:
        assert not mine.take(0)
        assert mine.take(0)


def test_leases_and_beats_reach_the_disk_at_once(tmp_path, monkeypatch):
    """A network file system shows others what is written when it is synced, or half a minute later."""
    synced = []
    monkeypatch.setattr(module.os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    with Claims(tmp_path / "c", beat=0.01) as mine:
        mine.take(0)
        head = synced[0]
        waited = time.monotonic() + 30
        while len(synced) < 4 and time.monotonic() < waited:
            time.sleep(0.01)
        assert synced[:4] == [head, head + 1, head + 2, head + 3]


def test_a_lease_that_the_file_system_has_lost_is_let_go_in_silence(tmp_path, monkeypatch):
    """As a network file system says of a file that another host took away."""
    stale = lambda fd: (_ for _ in ()).throw(OSError(116, "Stale file handle"))
    with Claims(tmp_path / "c", beat=60) as mine:
        assert mine.take(0)
        monkeypatch.setattr(module.os, "fstat", stale)
        mine.release(0)
        monkeypatch.undo()
        assert not mine._held


def test_a_holder_says_who_and_where_it_is(tmp_path):
    with Claims(tmp_path / "c") as mine:
        mine.take(1)
        [holder] = holders(tmp_path / "c")
    assert holder == (1, socket.gethostname(), os.getpid(), 0, True)
