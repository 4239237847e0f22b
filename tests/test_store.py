"""The store: whole or absent, units done or not, bytes checked, every refusal one line. It knows no jax."""

import json
import os
import resource
import shutil
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import tensorstore
import xarray
from zarr.storage import LocalStore

from hessjax import store as store_module
from hessjax.store import Spec, Store, StoreError

ROWS, UNIT = 5, 2  # three units, the last of one row


def specs():
    return {
        "row": Spec(("row",), (ROWS,), "int64", {"long_name": "row number"}, np.arange(ROWS)),
        "k": Spec(("k",), (3,), "float64", {"units": "m"}, [0.5, 1.5, 2.5]),
        "x": Spec(("row", "k"), (ROWS, 3), "float32", {"long_name": "a number", "units": "loss"}),
        "count": Spec(("row",), (ROWS,), "int32", {"units": "1"}),
        "flag": Spec(("row",), (ROWS,), "bool", {"units": "1"}),
    }


def make(path, **attributes):
    return Store.create(path, specs(), attributes or {"title": "test"}, rows="row", unit=UNIT)


def rows_of(unit):
    start, stop = unit * UNIT, min((unit + 1) * UNIT, ROWS)
    number = np.arange(start, stop)
    x = (number[:, None] + np.array([0.25, 0.5, 0.75])).astype("float32")
    return {"x": x, "count": (10 * number).astype("int32"), "flag": number % 2 == 0}


def files(path):
    """Every file under a folder and its bytes."""
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def refused(caught, *words):
    """The message, having checked that it is one line with these words."""
    said = str(caught.value)
    assert "\n" not in said
    for word in words:
        assert word in said
    return said


def test_what_is_written_is_read_unit_by_unit(tmp_path):
    store = make(tmp_path / "a.zarr", title="test", config={"seed": 1})
    assert (store.num_units, [store.span(u) for u in range(3)]) == (3, [(0, 2), (2, 4), (4, 5)])
    assert not store.done().any()
    for unit in (2, 0):
        store.write(unit, rows_of(unit))
    again = Store.open(tmp_path / "a.zarr")
    assert again.attributes["config"] == {"seed": 1}
    assert again.done().tolist() == [True, False, True]
    for name, wanted in rows_of(0).items():
        assert np.array_equal(again.read(name)[:2], wanted)
        assert again.read(name).dtype == wanted.dtype
    assert np.array_equal(again.read("x")[4:], rows_of(2)["x"])
    assert np.isnan(again.read("x")[2:4]).all()
    assert again.read("k").tolist() == [0.5, 1.5, 2.5]
    assert again.read("row").tolist() == list(range(ROWS))


def test_done_is_not_a_value_in_the_data(tmp_path):
    """Honest NaN, zeros and False are rows like others, and what is not done is known by `done` alone."""
    store = make(tmp_path / "a.zarr")
    store.write(0, {"x": np.full((2, 3), np.nan, "f4"), "count": np.zeros(2, "i4"), "flag": np.zeros(2, bool)})
    store.write(1, {"x": np.zeros((2, 3), "f4"), "count": np.zeros(2, "i4"), "flag": np.zeros(2, bool)})
    assert store.done().tolist() == [True, True, False]
    assert np.isnan(store.read("x")[:2]).all()
    assert (store.read("x")[2:4] == 0).all()
    assert np.isnan(store.read("x")[4]).all()


def test_writing_a_unit_twice_is_writing_it_once(tmp_path):
    once, twice = make(tmp_path / "a.zarr"), make(tmp_path / "b.zarr")
    for unit in range(3):
        once.write(unit, rows_of(unit))
        twice.write(unit, rows_of(unit))
        twice.write(unit, rows_of(unit))
    assert files(once.path) == files(twice.path)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_the_order_of_units_leaves_no_trace(tmp_path, order):
    first, second = make(tmp_path / "a.zarr"), make(tmp_path / "b.zarr")
    for unit in range(3):
        first.write(unit, rows_of(unit))
    for unit in order:
        second.write(unit, rows_of(unit))
    assert files(first.path) == files(second.path)


@pytest.mark.parametrize("name", ["x", "count", "flag", "done"])
def test_a_write_that_fails_in_the_middle_leaves_the_unit_to_do(tmp_path, monkeypatch, name):
    store, whole = make(tmp_path / "a.zarr"), make(tmp_path / "whole.zarr")
    store.write(0, rows_of(0))
    opened = Store._array

    def failing(self, wanted):
        if wanted == name:
            raise OSError(28, "No space left on device")
        return opened(self, wanted)

    with monkeypatch.context() as broken:
        broken.setattr(Store, "_array", failing)
        with pytest.raises(StoreError) as caught:
            store.write(1, rows_of(1))
    refused(caught, str(store.path), "the disk is full", "run the same again")
    assert store.done().tolist() == [True, False, False]
    for unit in range(3):
        whole.write(unit, rows_of(unit))
        store.write(unit, rows_of(unit))
    assert files(store.path) == files(whole.path)


def test_done_is_written_after_every_array_has_arrived(tmp_path, monkeypatch):
    """Every other array's bytes are on disk by the time `done` is opened for writing."""
    store, seen = make(tmp_path / "a.zarr"), []
    opened = Store._array

    def watching(self, name):
        if name == "done":
            seen.extend(np.array_equal(opened(self, n)[2:4].read().result(), v) for n, v in rows_of(1).items())
        return opened(self, name)

    monkeypatch.setattr(Store, "_array", watching)
    store.write(1, rows_of(1))
    assert seen[:3] == [True] * 3  # also when it is first looked at
    assert all(seen)


def test_a_write_past_the_file_size_limit_is_one_line_and_resumes(tmp_path):
    """A real failed write, through tensorstore and the kernel: no file may exceed 8 bytes for a while."""
    store = make(tmp_path / "a.zarr")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, hard))
    try:
        with pytest.raises(StoreError) as caught:
            store.write(1, rows_of(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    refused(caught, "a.zarr", "the disk is full")
    assert not store.done().any()
    store.write(1, rows_of(1))
    assert np.array_equal(store.read("x")[2:4], rows_of(1)["x"])


REFUSALS = {
    "full": (OSError(28, "No space left on device"), "the disk is full"),
    "read-only": (OSError(30, "Read-only file system"), "the file system is read-only"),
    "forbidden": (PermissionError(13, "Permission denied"), "no permission to write there"),
    "quota": (ValueError("RESOURCE_EXHAUSTED: Disk quota exceeded\nin file x"), "the disk is full"),
    "other": (ValueError("UNKNOWN: the cable is out\n\nCaller: x.py"), "UNKNOWN: the cable is out."),
}


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.parametrize("where", ["mkdtemp", "array", "rename"])
def test_a_store_that_cannot_be_made_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, case, where):
    error, words = REFUSALS[case]

    def refuse(*_, **__):
        raise error

    places = {"mkdtemp": (store_module.tempfile, "mkdtemp"), "array": (store_module, "_make_array")}
    monkeypatch.setattr(*places.get(where, (store_module.Path, "rename")), refuse)
    with pytest.raises(StoreError) as caught:
        make(tmp_path / "a.zarr")
    refused(caught, str(tmp_path / "a.zarr"), words)
    assert list(tmp_path.iterdir()) == []


def test_no_place_for_a_store_is_said_by_name(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path, words in (
        (tmp_path / "file", "file"),
        (tmp_path / "file" / "a.zarr", "part of that path is a file"),
        (tmp_path / "file" / "deep" / "a.zarr", "part of that path is a file"),
        (store_module.Path("/proc/nope/a.zarr"), "/proc/nope"),
    ):
        with pytest.raises(StoreError) as caught:
            make(path)
        refused(caught, str(path), words)
    assert (tmp_path / "file").read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_is_there_is_never_replaced(tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("years")
    with pytest.raises(StoreError, match=r"no zarr\.json; choose another path"):
        make(folder)
    assert files(folder) == {"chapter.txt": b"years"}
    assert [p.name for p in tmp_path.iterdir()] == ["thesis"]


def test_opening_what_is_no_store_says_which_kind_it_is(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for name, words in (("absent", "no store at"), ("file", "is a file, wanted the folder"), ("folder", "no store")):
        with pytest.raises(StoreError) as caught:
            Store.open(tmp_path / name)
        refused(caught, str(tmp_path / name), words)


def layout(**changed):
    plain = {"format": "hessjax-store-1", "rows": "row", "num_rows": ROWS, "unit": UNIT} | changed
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"hessjax_store": plain}})


HOSTILE = {
    "empty": "",
    "null": "null",
    "list": "[]",
    "object": "{}",
    "number": '{"attributes": 3}',
    "attributes-list": '{"attributes": []}',
    "no-layout": '{"attributes": {"hessjax_store": null}}',
    "layout-list": '{"attributes": {"hessjax_store": ["format"]}}',
    "foreign-group": '{"zarr_format": 3, "node_type": "group", "attributes": {}}',
    "other-format": layout(format="hessjax-store-0"),
    "format-object": layout(format={"a": [1]}),
    "unit-zero": layout(unit=0),
    "unit-negative": layout(unit=-2),
    "unit-word": layout(unit="two"),
    "unit-infinite": layout(unit=float("inf")),
    "rows-none": layout(num_rows=None),
    "rows-zero": layout(num_rows=0),
    "rows-more-than-there-are": layout(num_rows=10**30),
    "rows-nan": layout(num_rows=float("nan")),
    "binary": b"\xff\xfe\x00\x80",
    "deep": "[" * 100_000,
    "torn": layout()[:40],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_zarr_json_is_refused_in_one_line(tmp_path, case):
    path = make(tmp_path / "a.zarr").path
    text = HOSTILE[case]
    (path / "zarr.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(StoreError) as caught:
        Store.open(path)
    assert len(refused(caught, str(path))) < 500


@pytest.mark.parametrize("damage", ["missing", "garbage", "a file"])
def test_a_damaged_array_is_refused_in_one_line(tmp_path, damage):
    store = make(tmp_path / "a.zarr")
    shutil.rmtree(store.path / "x")
    if damage == "garbage":
        (store.path / "x").mkdir()
        (store.path / "x" / "zarr.json").write_text("[3")
    if damage == "a file":
        (store.path / "x").write_text("x")
    for act in (lambda: store.read("x"), lambda: store.write(0, rows_of(0))):
        with pytest.raises(StoreError) as caught:
            act()
        refused(caught, str(store.path))
    assert not store.done().any()


def chunk_files(store, name):
    return sorted(p for p in (store.path / name / "c").rglob("*") if p.is_file())


def test_every_flipped_byte_of_a_chunk_is_noticed(tmp_path):
    """crc32c detects every error of at most 32 consecutive bits; here each byte in turn, in both readers."""
    store = make(tmp_path / "a.zarr")
    store.write(0, rows_of(0))
    (chunk,) = chunk_files(store, "x")
    whole = chunk.read_bytes()
    for place in range(len(whole)):
        chunk.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        with pytest.raises(StoreError) as caught:
            store.read("x")
        refused(caught, str(store.path), "x/c/0/0")
    with pytest.raises(ValueError, match=r"(?i)checksum|crc"):
        xarray.open_zarr(store.path, consolidated=False, chunks=None)["x"].load()
    chunk.write_bytes(whole)
    assert np.array_equal(store.read("x")[:2], rows_of(0)["x"])


def test_a_corrupted_mark_of_done_is_no_mark(tmp_path):
    store = make(tmp_path / "a.zarr")
    store.write(0, rows_of(0))
    (mark,) = chunk_files(store, "done")
    mark.write_bytes(mark.read_bytes()[:-1])
    with pytest.raises(StoreError):
        store.done()


def test_every_array_is_checked_and_compressed_one_chunk_a_unit(tmp_path):
    store = make(tmp_path / "a.zarr")
    for unit in range(3):
        store.write(unit, rows_of(unit))
    for name in (*specs(), "done"):
        meta = json.loads((store.path / name / "zarr.json").read_text())
        assert meta["zarr_format"] == 3
        assert [c["name"] for c in meta["codecs"]] == ["bytes", "zstd", "crc32c"]
        assert meta["dimension_names"] == (["unit"] if name == "done" else list(specs()[name].dims))
    assert [str(p.relative_to(store.path / "x")) for p in chunk_files(store, "x")] == ["c/0/0", "c/1/0", "c/2/0"]
    assert len(chunk_files(store, "done")) == 3  # one file a unit: writers of different units never touch one file


def test_xarray_opens_it_without_a_warning(tmp_path):
    store = make(tmp_path / "a.zarr", title="test", config={"seed": 1})
    store.write(0, rows_of(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds = xarray.open_zarr(store.path, consolidated=False)
    assert ds["x"].dims == ("row", "k")
    assert ds["x"].attrs["units"] == "loss"
    assert ds.attrs["config"] == {"seed": 1}
    assert np.array_equal(ds["x"].values[:2], rows_of(0)["x"])
    assert ds["done"].values.tolist() == [1, 0, 0]


def test_any_name_a_file_system_takes_is_a_name_for_a_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("two words.zarr", "später#1?x=%20.zarr", "-", "a/b/c"):
        store = make(name)
        store.write(0, rows_of(0))
        assert Store.open(tmp_path / name).done().tolist() == [True, False, False]
        assert np.array_equal(
            xarray.open_zarr(LocalStore(store.path), consolidated=False)["x"].values[:2], rows_of(0)["x"]
        )


def test_creating_a_store_twice_opens_the_first(tmp_path):
    first = make(tmp_path / "a.zarr", writer=1)
    first.write(0, rows_of(0))
    second = make(tmp_path / "a.zarr", writer=2)
    assert second.attributes["writer"] == 1
    assert second.done().tolist() == [True, False, False]
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


RACER = """
import sys, pathlib
from hessjax.store import Spec, Store
folder, me = pathlib.Path(sys.argv[1]), sys.argv[2]
assert "jax" not in sys.modules
arrays = {"x": Spec(("row",), (4,), "float32", {}), "k": Spec(("k",), (2,), "int64", {}, [1, 2])}
(folder / f"ready-{me}").touch()
while not (folder / "go").exists():
    pass
print(Store.create(folder / "out" / "a.zarr", arrays, {"writer": me}, rows="row", unit=1).attributes["writer"])
"""


def test_of_processes_that_create_at_once_one_wins_and_the_others_open_its_store(tmp_path):
    start = lambda me: subprocess.Popen(
        [sys.executable, "-c", RACER, tmp_path, str(me)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    racers = [start(me) for me in range(3)]
    until = time.monotonic() + 60
    while len(list(tmp_path.glob("ready-*"))) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    (tmp_path / "go").touch()
    said = [racer.communicate(timeout=60) for racer in racers]
    assert [err for _, err in said] == ["", "", ""]
    assert len({out for out, _ in said}) == 1
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.zarr"]
    assert Store.open(tmp_path / "out" / "a.zarr").done().tolist() == [False] * 4


def test_two_writers_see_each_other_and_undo_nothing(tmp_path):
    one, two = make(tmp_path / "a.zarr"), Store.open(tmp_path / "a.zarr")
    one.write(0, rows_of(0))
    assert two.done().tolist() == [True, False, False]
    two.write(1, rows_of(1))
    one.write(2, rows_of(2))
    assert one.done().all()
    assert two.done().all()
    assert np.array_equal(one.read("count"), 10 * np.arange(ROWS))


def test_events_are_lines_beside_the_store_and_a_torn_one_is_left_out(tmp_path):
    store = make(tmp_path / "a.zarr")
    assert store.events() == []
    store.log(event="unit", unit=0)
    with open(store.log_path, "ab") as f:
        f.write(b'\xff\xfe\n{"event": "un')
    assert store.log_path == tmp_path / "a.zarr.events.jsonl"
    assert store.events() == [{"event": "unit", "unit": 0}]


def test_a_log_that_cannot_be_written_is_one_line(tmp_path):
    store = make(tmp_path / "a.zarr")
    store.log_path.mkdir()
    with pytest.raises(StoreError) as caught:
        store.log(event="unit")
    refused(caught, "events.jsonl")


def test_a_store_that_cannot_fit_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "free_bytes", lambda path: 2**30)
    arrays = {"x": Spec(("row", "wide"), (2**20, 257), "float32", {})}
    with pytest.raises(StoreError, match=r"may come to take 1\.004 GiB, and 1 GiB are free") as caught:
        Store.create(tmp_path / "a.zarr", arrays, {}, rows="row", unit=1024)
    refused(caught, "choose another path, or store less")
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_written_reads_as_its_fill(tmp_path):
    arrays = {n: Spec(("row",), (2,), "int8", {}, fill=f) for n, f in (("usual", None), ("given", -1))}
    store = Store.create(tmp_path / "a.zarr", arrays, {}, rows="row", unit=1)
    store.write(1, {name: np.ones(1, "int8") for name in arrays})
    assert store.read("usual").tolist() == [0, 1]
    assert store.read("given").tolist() == [-1, 1]


def test_free_bytes_are_those_of_the_nearest_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    free = shutil.disk_usage(tmp_path).free
    for path in (tmp_path, tmp_path / "not" / "yet", tmp_path / "file"):
        assert abs(store_module.free_bytes(path) - free) < 2**30  # others write too


def test_tensorstore_alone_reads_it(tmp_path):
    """The format is Zarr v3 and nothing of ours: another reader, given only the path, finds the numbers."""
    store = make(tmp_path / "a.zarr")
    store.write(2, rows_of(2))
    spec = {"driver": "zarr3", "kvstore": f"file://{os.fspath(store.path)}/x/"}
    assert np.array_equal(tensorstore.open(spec).result()[4:].read().result(), rows_of(2)["x"])
