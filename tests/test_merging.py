"""Parts of a sweep put together are the sweep, bit for bit; what is no part of it is refused."""

import json
import shutil

import landscape_module_for_tests as user
import pytest
from stored_rows import interrupted, rows

from hessjax import StoreError, Sweep, cli, search, sweep
from hessjax.config import Search
from hessjax.ensemble import open_sweep
from hessjax.health import verify
from hessjax.merging import merge
from hessjax.store import Store

pytestmark = pytest.mark.usefixtures("process_of_a_command")

SAME = {"landscape": "landscape_module_for_tests:clouds", "num_steps": 3, "times": 2, "lane_width": 2}


def part(folder, first, count, name=None, **how):
    execution = {key: how.pop(key) for key in ("worker", "unit") if key in how}
    config = Sweep(first_init=first, num_inits=count, **SAME | how)
    return sweep(config, folder / (name or f"{first}.zarr"), progress=False, **execution)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return part(tmp_path_factory.mktemp("whole"), 0, 11)


def test_parts_in_any_order_and_of_any_units_make_the_whole_to_the_bit(whole, tmp_path):
    parts = [part(tmp_path, 8, 3), part(tmp_path, 0, 4, unit=4), part(tmp_path, 4, 4)]
    path = merge(parts, tmp_path / "all.zarr", progress=False)
    assert rows(path) == rows(whole)
    store = Store.open(path)
    assert store.done().all()
    assert store.attributes["config"] == Store.open(whole).attributes["config"]
    assert store.attributes["fingerprint"] == Store.open(whole).attributes["fingerprint"]
    assert [p["first_init"] for p in store.attributes["parts"]] == [8, 0, 4]
    assert verify(path) == []
    assert open_sweep(path).attrs["wall_s"] > 0
    before = store.events()
    sweep(Sweep(num_inits=11, **SAME), path, progress=False)  # nothing is left to do
    assert [e for e in store.events() if e["event"] == "unit"][len([e for e in before if e["event"] == "unit"]) :] == []


def test_units_done_on_other_disks_make_the_whole(whole, tmp_path):
    parts = [part(tmp_path, 0, 11, f"{i}.zarr", worker=(i, 3)) for i in range(3)]
    assert rows(merge(parts, tmp_path / "all.zarr", progress=False)) == rows(whole)


def test_what_no_part_has_is_left_to_a_sweep(whole, tmp_path):
    parts = [part(tmp_path, 0, 4), part(tmp_path, 8, 3, worker=(0, 2))]
    path = merge(parts, tmp_path / "all.zarr", progress=False)
    assert open_sweep(path)["done"].values.tolist() == [True] * 4 + [False] * 4 + [True] * 2 + [False]
    sweep(Sweep(num_inits=11, **SAME), path, progress=False)
    assert rows(path) == rows(whole)


def test_a_merge_that_was_interrupted_goes_on(whole, tmp_path, monkeypatch):
    parts = [part(tmp_path, 0, 4), part(tmp_path, 4, 7)]
    interrupted(monkeypatch, 3, lambda: merge(parts, tmp_path / "all.zarr", progress=False))
    assert rows(merge(parts, tmp_path / "all.zarr", progress=False)) == rows(whole)


def test_the_same_rows_twice_are_once_and_other_rows_are_refused(whole, tmp_path):
    copy = tmp_path / "copy.zarr"
    shutil.copytree(whole, copy)
    assert rows(merge([whole, copy], tmp_path / "all.zarr", progress=False)) == rows(whole)
    store = Store.open(copy)
    store._array("loss")[2:4].write([[1.0, 2.0], [1.0, 2.0]]).result()
    with pytest.raises(StoreError, match=r"both have inits 2 to 3, and not the same loss; leave one of them out"):
        merge([whole, copy], tmp_path / "other.zarr", progress=False)


def test_a_torn_part_is_refused_naming_it(tmp_path):
    path = part(tmp_path, 0, 4)
    (path / "loss" / "c" / "1" / "0").write_bytes(b"torn")
    with pytest.raises(StoreError, match=r"0\.zarr"):
        merge([path], tmp_path / "all.zarr", progress=False)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 3}, "seed: 0 there, 3 asked for"),
        ({"times": (0, 2)}, "times: .* asked for"),
        ({"options": {"centres": user.CENTRES.tolist()[:4]}}, "num_rows: 6 there, 4 now|options"),
    ],
)
def test_a_part_of_another_sweep_is_refused_naming_what_differs(tmp_path, changed, words):
    parts = [part(tmp_path, 0, 4), part(tmp_path, 4, 4, **changed)]
    with pytest.raises(StoreError, match=f"are not of one sweep .*({words})"):
        merge(parts, tmp_path / "all.zarr", progress=False)
    assert not (tmp_path / "all.zarr").exists()


def test_parts_measured_in_other_ways_are_merged_with_a_word(tmp_path, capsys):
    """How many inits are measured at a time depends on a machine's cache."""
    paths = [part(tmp_path, 0, 4, "a"), part(tmp_path, 4, 3, "b")]
    file = paths[1] / "zarr.json"
    group = json.loads(file.read_text())
    group["attributes"]["together"] = 2
    file.write_text(json.dumps(group))
    merged = merge(paths, tmp_path / "m.zarr")
    assert "parts were measured in 2 ways" in capsys.readouterr().err
    assert [p["together"] for p in Store.open(merged).attributes["parts"]] == [1, 2]


def test_inits_that_no_part_has_are_named(tmp_path, capsys):
    merge([part(tmp_path, 0, 2), part(tmp_path, 6, 2), part(tmp_path, 2, 2)], tmp_path / "m.zarr")
    assert "no part has inits 4 to 5: they are left to do" in capsys.readouterr().err


def test_a_part_that_ends_within_a_lane_is_refused_before_the_last(tmp_path):
    parts = [part(tmp_path, 0, 3), part(tmp_path, 4, 4)]
    with pytest.raises(ValueError, match=r"ends at init 3, within a lane of 2, and is not the last part"):
        merge(parts, tmp_path / "all.zarr", progress=False)


def test_what_is_no_sweep_is_refused(tmp_path):
    found = search(
        Search(landscape="bowl", num_starts=2, starts="random", dtype="float32"), tmp_path / "s", progress=False
    )
    with pytest.raises(StoreError, match="is of a search"):
        merge([found], tmp_path / "all.zarr")
    with pytest.raises(StoreError, match="no store at"):
        merge([tmp_path / "none"], tmp_path / "all.zarr")
    with pytest.raises(ValueError, match="stores must be a sequence of one or more folders"):
        merge([], tmp_path / "all.zarr")
    with pytest.raises(ValueError, match="stores must be a sequence of one or more folders"):
        merge(str(found), tmp_path / "all.zarr")
    with pytest.raises(StoreError, match="was made by another configuration"):
        merge([part(tmp_path, 0, 4)], part(tmp_path, 4, 4))


def test_the_command_says_what_it_made(tmp_path, capsys):
    parts = [str(part(tmp_path, 0, 4)), str(part(tmp_path, 4, 3))]
    assert cli.main(["merge", *parts, "--output", str(tmp_path / "all.zarr"), "--no-progress"]) == 0
    assert "done    7 of 7 inits" in capsys.readouterr().out
    assert cli.main(["merge", "--output", str(tmp_path / "none.zarr")]) == 2
    assert "hessjax: " in capsys.readouterr().err
