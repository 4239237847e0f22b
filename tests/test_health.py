"""How a store is: progress as it was made, and every kind of damage found where it was done."""

import json
import shutil

import landscape_module_for_tests  # noqa: F401
import numpy as np
import pytest
from stored_rows import rows

import hessjax as hj
from hessjax import Search, StoreError, Sweep, cli, search, sweep
from hessjax.claims import Claims
from hessjax.health import Damage, store_status, verify
from hessjax.store import Store

pytestmark = pytest.mark.usefixtures("process_of_a_command")

CONFIG = Sweep(landscape="landscape_module_for_tests:clouds", num_inits=7, num_steps=3, times=2, lane_width=2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return sweep(CONFIG, tmp_path_factory.mktemp("whole") / "a.zarr", progress=False)


@pytest.fixture
def store(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "a.zarr")
    shutil.copy(Store.open(whole).log_path, tmp_path / "a.zarr.events.jsonl")
    return Store.open(tmp_path / "a.zarr")


def change(store, name, unit, values):
    start, stop = store.span(unit)
    old = store.part(name, unit)
    store._array(name)[start:stop].write(np.broadcast_to(values, old.shape).astype(old.dtype)).result()


# ------------------------------------------------------------------------------------------------------------ status


def test_a_finished_store_is_done_and_nobody_is_at_work(store):
    found = store_status(store.path)
    assert found[:6] == ("sweep", CONFIG.landscape, 7, 7, 4, 2)
    assert found.outcomes == {"ok": 7}
    assert (found.halved, found.holders) == (0, ())


def test_what_is_left_takes_as_long_as_the_last_units_say(store):
    store.forget(3)
    times = [0.0, 2.0, 4.0, 5.0]  # units of 2, 2, 2 and 1 inits: 5 in 5 seconds after the first
    store.log_path.write_text(
        "".join(json.dumps({"event": "unit", "unit": u, "t": t}) + "\n" for u, t in enumerate(times))
    )
    found = store_status(store.path)
    assert (found.num_done, found.rate, found.seconds_left) == (6, 1.0, 1.0)
    assert found.outcomes == {"ok": 6}


def test_a_night_in_which_nobody_worked_is_not_in_the_rate(store):
    store.forget(3)
    said = [("a", 0.0, 0), ("a", 2.0, 1), ("b", 40_000.0, None), ("b", 40_001.0, 2)]
    lines = [{"event": "start" if u is None else "unit", "run": run, "t": t, "unit": u} for run, t, u in said]
    store.log_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = store_status(store.path)
    assert found.rate == 4 / 3
    assert found.seconds_left == 0.75


def test_what_a_store_says_cannot_command_a_terminal(store, capsys):
    config_with(store, landscape="\x1b[2Jnothing here")
    store.forget(0)
    store.claims_path.mkdir()
    said = {"host": "\x1b]0;title\x07", "pid": 1, "machine": None, "born": None}
    (store.claims_path / "0.lease").write_text(json.dumps(said) + "\n")
    assert cli.main(["status", str(store.path)]) == 0
    assert "\x1b" not in (out := capsys.readouterr().out)
    assert "?[2Jnothing here" in out


def test_holders_halvings_and_diverged_inits_are_told(store, capsys):
    change(store, "status", 1, 1)
    store.log(event="halved", lane_width=1)
    store.forget(2)
    with Claims(store.claims_path) as claims:
        claims.take(2)
        found = store_status(store.path)
        assert cli.main(["status", str(store.path)]) == 0
    assert [(h.unit, h.alive) for h in found.holders] == [(2, True)]
    assert found.outcomes == {"ok": 3, "diverged": 2}
    assert found.halved == 1
    said = capsys.readouterr().out
    for words in ("done          5 (71.4%)", "3 ok, 2 diverged", "a lane was halved, 1 in all", "unit 2", "alive"):
        assert words in said


def test_a_search_has_a_status_too(tmp_path, capsys):
    config = Search(landscape="bowl", num_starts=3, starts="random", dtype="float32", methods=("newton", "newton-mr"))
    path = search(config, tmp_path / "s.zarr", progress=False)
    found = store_status(path)
    assert (found.what, found.landscape, found.num_done) == ("search", "bowl", 3)
    assert sum(found.outcomes.values()) == 6
    assert verify(path) == []
    assert cli.main(["status", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_rows"] == 3


def test_a_log_of_strange_lines_breaks_no_status(store):
    store.log_path.write_text(
        '{"event": "unit", "unit": 99, "t": 1}\n{"event": "unit", "t": "x"}\n[1]\n"a"\n{"t": null}\nxx\n'
    )
    assert store_status(store.path).rate is None


# ------------------------------------------------------------------------------------------------------------ verify


def test_a_sound_store_is_sound_finished_or_not(store):
    assert verify(store.path) == []
    store.forget(1)
    assert verify(store.path) == []


def torn(store):
    chunk = next((store.path / "eigenvalues" / "c" / "1").rglob("0"))
    while chunk.is_dir():
        chunk = chunk / "0"
    chunk.write_bytes(chunk.read_bytes()[:-9])


def flipped(store):
    chunk = store.path / "loss" / "c" / "1" / "0"
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 4
    chunk.write_bytes(bytes(data))


# name: (damage, the array that is named, part of what is said)
OF_A_UNIT = {
    "torn": (torn, "eigenvalues", "cannot be read"),
    "one bit": (flipped, "loss", "cannot be read"),
    "lost": (lambda store: (store.path / "status" / "c" / "1" / "0").unlink(), "status", "rows are missing"),
    "NaN": (lambda store: change(store, "trace", 1, np.nan), "trace", "is not finite in rows whose status is ok"),
    "code": (lambda store: change(store, "status", 1, 7), "status", "is none of 0..2"),
    "order": (lambda store: change(store, "eigenvalues", 1, [1.0, 0.5, 2.0]), "eigenvalues", "do not ascend"),
    "count": (lambda store: change(store, "positive", 1, 1), "positive", "is not the count of the eigenvalues"),
}


@pytest.mark.parametrize("name", OF_A_UNIT)
def test_damage_is_found_in_its_unit_and_redone_to_the_same_bits(store, whole, name, capsys):
    damage, array, words = OF_A_UNIT[name]
    damage(store)
    found = verify(store.path)
    assert {d.unit for d in found} == {1}
    assert any(d.array == array and words in d.what for d in found)
    assert all("\n" not in d.what for d in found)
    assert all(str(store.path) not in d.what for d in found)  # it is the reader's own, and long
    assert cli.main(["verify", str(store.path)]) == 2
    assert "hessjax: 1 unit damaged; add --redo" in capsys.readouterr().err
    assert cli.main(["verify", str(store.path), "--redo"]) == 0
    assert store.done().tolist() == [True, False, True, True]
    sweep(CONFIG, store.path, progress=False)
    assert verify(store.path) == []
    good = Store.open(whole)
    for each in store.by_row:
        assert store.read(each).tobytes() == good.read(each).tobytes(), each


def attributes(store, **changed):
    file = store.path / "zarr.json"
    group = json.loads(file.read_text())
    group["attributes"] |= changed
    file.write_text(json.dumps(group))


def config_with(store, **changed):
    attributes(store, config={**store.attributes["config"], **changed})


OF_THE_WHOLE = {
    "no configuration": (lambda store: attributes(store, config={"widths": 3}), "config", "is no configuration"),
    "nothing": (lambda store: attributes(store, config=None), "config", "is no configuration"),
    "changed": (lambda store: config_with(store, seed=5), "config", "is not the one that the store was made with"),
    "other count": (lambda store: config_with(store, num_inits=9), "config", "speaks of 9 rows, and there are 7"),
    "numbers": (lambda store: store._array("init")[0:2].write([3, 4]).result(), "init", "does not number the rows"),
    "steps": (lambda store: store._array("step")[:].write([3, 0]).result(), "step", "does not increase"),
    "no array": (lambda store: shutil.rmtree(store.path / "trace"), "trace", "is missing"),
    "torn steps": (lambda store: (store.path / "step" / "c" / "0").write_bytes(b"xx"), "step", "cannot be read"),
}


@pytest.mark.parametrize("name", OF_THE_WHOLE)
def test_damage_of_the_whole_is_told_and_marks_no_unit(store, name, capsys):
    damage, array, words = OF_THE_WHOLE[name]
    damage(store)
    found = verify(store.path, redo=True)
    assert any(d.unit is None and d.array == array and words in d.what for d in found), found
    assert store.done().all()
    assert cli.main(["verify", str(store.path), "--redo"]) == 2
    assert "damaged as a whole" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["negative", "zero", "positive", "lane_width", "status"])
def test_a_chunk_that_is_gone_is_damage_where_spectra_are_not_kept_too(tmp_path, name):
    """tensorstore reads a chunk that is not there as the array's fill."""
    config = Sweep(landscape="quadratic", num_inits=5, num_steps=1, times=2, lane_width=2, measure="inertia")
    store = Store.open(sweep(config, tmp_path / "i.zarr", progress=False))
    assert verify(store.path) == []
    store._chunk(name, 1).unlink()
    assert [(d.unit, d.array) for d in verify(store.path, redo=True)] == [(1, name)]
    sweep(config, store.path, progress=False)
    assert verify(store.path) == []


def test_counts_that_do_not_make_the_number_of_params_are_damage(tmp_path):
    config = Sweep(landscape="quadratic", num_inits=4, num_steps=1, times=2, lane_width=2, measure="inertia")
    store = Store.open(sweep(config, tmp_path / "i.zarr", progress=False))
    change(store, "negative", 1, [[1, 2], [2, 2]])
    [found] = verify(store.path)
    assert (found.unit, found.array) == (1, "negative")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["params", "loss", "eigenvalues"])
def test_a_critical_point_without_its_numbers_is_damage(tmp_path, name):
    config = Search(landscape="bowl", num_starts=4, starts="random", methods=("newton",), max_steps=60)
    store = Store.open(search(config, tmp_path / "s.zarr", progress=False))
    assert (store.read("status") == 0).any()
    assert verify(store.path) == []
    store._chunk(name, 0).unlink()
    assert (0, name) in [(d.unit, d.array) for d in verify(store.path)]


@pytest.mark.parametrize("left", [0, 10])
def test_a_torn_chunk_of_a_short_last_unit_is_done_again(store, whole, left):
    """Its chunk is read before it is written, as it is not filled."""
    assert store.span(3) == (6, 7)
    chunk = store._chunk("loss", 3)
    chunk.write_bytes(chunk.read_bytes()[:left])
    assert {d.unit for d in verify(store.path, redo=True)} == {3}
    sweep(CONFIG, store.path, progress=False)
    assert verify(store.path) == []
    assert rows(store.path) == rows(whole)


def test_a_store_that_is_not_complete_is_not_called_sound_alone(store, capsys):
    store.forget(1)
    assert cli.main(["verify", str(store.path)]) == 0
    assert capsys.readouterr().out == "sound, not complete: 3 of 4 units are done, and nothing in them is wrong\n"


def test_a_report_of_a_torn_store_is_one_line_that_says_what_to_do(store, capsys):
    torn(store)
    assert cli.main(["report", str(store.path)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "hessjax verify says where" in err


def test_many_lines_of_damage_are_cut(store, monkeypatch, capsys):
    from hessjax import health

    monkeypatch.setattr(health, "verify", lambda path, redo: [Damage(u, "loss", "is odd") for u in range(30)])
    assert cli.main(["verify", str(store.path)]) == 2
    assert capsys.readouterr().out.splitlines()[-1] == "and 10 more"


@pytest.mark.parametrize("command", ["status", "verify"])
def test_what_is_no_store_is_one_line(command, tmp_path, capsys):
    assert cli.main([command, str(tmp_path / "none.zarr")]) == 2
    assert capsys.readouterr().err.startswith("hessjax: no store at")


def test_a_diverged_row_may_hold_what_is_not_finite(tmp_path):
    config = Sweep(
        landscape="landscape_module_for_tests:quartic", options={"ruin": "nan"}, num_inits=12, num_steps=1, times=2
    )
    path = sweep(config, tmp_path / "a.zarr", progress=False)
    assert hj.store_status(path).outcomes.get("diverged", 0) > 0
    assert verify(path) == []


def test_older_stores_without_the_newest_field_are_sound(store):
    config = {name: x for name, x in store.attributes["config"].items() if name != "first_init"}
    from hessjax.stored import fingerprint_of

    attributes(store, config=config, fingerprint=fingerprint_of(config))
    assert verify(store.path) == []
    shutil.rmtree(store.path / "lane_width")
    store.forget(2)
    sweep(CONFIG, store.path, progress=False)  # and are gone on with
    assert verify(store.path) == []
    with pytest.raises(StoreError, match="first_init: 0 there, 2 asked for"):
        sweep(Sweep(**{**CONFIG.to_dict(), "first_init": 2}), store.path, progress=False)
