"""What is read back is data: a store that somebody else made runs nothing and writes nowhere but into itself."""

import contextlib
import json
import shutil

import landscape_module_for_tests  # noqa: F401
import pytest

import hessjax as hj
from hessjax import StoreError, Sweep, cli, starts, sweep
from hessjax.store import Store

pytestmark = pytest.mark.usefixtures("process_of_a_command")

CONFIG = Sweep(landscape="quadratic", num_inits=4, num_steps=2, times=2, lane_width=2)


@pytest.fixture
def store(tmp_path):
    """A store with its second unit left to do."""
    return Store.open(sweep(CONFIG, tmp_path / "in" / "a.zarr", worker=(0, 2), progress=False))


def config_with(store, **changed):
    file = store.path / "zarr.json"
    group = json.loads(file.read_text())
    group["attributes"]["config"] |= changed
    file.write_text(json.dumps(group))


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module that leaves a file behind when it is imported or called."""
    folder = tmp_path / "modules"
    folder.mkdir()
    left = tmp_path / "ran"
    (folder / "trap_of_a_store.py").write_text(f"open({str(left)!r}, 'w').close()\ndef make(**given):\n    return 3\n")
    monkeypatch.syspath_prepend(str(folder))
    return left


READERS = {
    "open": lambda path: hj.open_sweep(path).load(),
    "status": hj.store_status,
    "verify": hj.verify,
    "report": lambda path: hj.report(path, path.parent / "r.html"),
    "starts": lambda path: starts.from_sweep(path, __import__("jax").random.key(0), 2),
    "merge": lambda path: hj.merge([path], path.parent / "m.zarr", progress=False),
    "resume": lambda path: sweep(CONFIG, path, progress=False),
    "plan": lambda path: hj.plan_sweep(CONFIG, path),
    "search": lambda path: cli.main(["critical", "--from", str(path), "--num-starts", "2", "--dtype", "float32"]),
}


@pytest.mark.parametrize("reader", READERS)
def test_code_that_a_store_names_is_not_run(store, trap, reader):
    config_with(store, landscape="trap_of_a_store:make")
    with contextlib.suppress(StoreError, ValueError):  # whether it is read or refused, nothing of it runs
        READERS[reader](store.path)
    assert not trap.exists()


def test_starts_from_a_sweep_of_ones_own_landscape_take_its_name(tmp_path, monkeypatch):
    mine = "landscape_module_for_tests:bowl"
    config = Sweep(landscape=mine, num_inits=2, num_steps=1, times=2, optimizer="sgd", learning_rate=0.1)
    path = sweep(config, tmp_path / "a.zarr", progress=False)
    key = __import__("jax").random.key(0)
    with pytest.raises(StoreError, match="a store is data and does not say what is run: name that landscape yourself"):
        starts.from_sweep(path, key, 2)
    assert starts.from_sweep(path, key, 2, landscape=mine).shape == (2, 3)


def links(store, outside):
    """Ways in which parts of a store lead out of it, each to a file or folder of somebody's."""
    outside.mkdir()
    (outside / "folder").mkdir()
    (outside / "mine.txt").write_text("precious")
    return {
        "an array": (store.path / "loss", outside),
        "its chunks": (store.path / "loss" / "c", outside),
        "a chunk's folder": (store.path / "loss" / "c" / "1", outside / "folder"),
        "the marks": (store.path / "done" / "c", outside),
    }


@pytest.mark.parametrize("way", ["an array", "its chunks", "a chunk's folder", "the marks"])
def test_a_store_that_leads_out_of_its_folder_is_not_written_through(store, tmp_path, way):
    link, target = links(store, tmp_path / "outside")[way]
    if link.exists():
        shutil.copytree(link, target, dirs_exist_ok=True)
        shutil.rmtree(link)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(target, target_is_directory=True)
    before = {p: p.read_bytes() for p in (tmp_path / "outside").rglob("*") if p.is_file()}
    with pytest.raises(StoreError, match="is a link that leads out of it, not written to"):
        sweep(CONFIG, store.path, progress=False)
    assert {p: p.read_bytes() for p in (tmp_path / "outside").rglob("*") if p.is_file()} == before


def test_a_chunk_that_is_a_link_is_replaced_and_not_followed(store, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("mine")
    chunk = store.path / "loss" / "c" / "1" / "0"
    chunk.parent.mkdir()
    chunk.symlink_to(precious)
    sweep(CONFIG, store.path, progress=False)
    assert precious.read_text() == "mine"
    assert not chunk.is_symlink()
    assert hj.verify(store.path) == []


@pytest.mark.parametrize("beside", ["events.jsonl", "claims"])
def test_what_lies_beside_a_store_and_is_a_link_is_not_written_through(store, tmp_path, beside):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "log").write_text("mine")
    link = store.path.with_name(f"a.zarr.{beside}")
    link.unlink(missing_ok=True)
    link.symlink_to(outside / "log" if beside == "events.jsonl" else outside)
    with pytest.raises(StoreError):
        sweep(CONFIG, store.path, progress=False)
    assert [p.name for p in outside.iterdir()] == ["log"]
    assert (outside / "log").read_text() == "mine"


def test_arrays_are_numbers_and_never_objects(store):
    """NumPy would unpickle an array of objects; the store has no such dtype, and refuses one."""
    file = store.path / "loss" / "zarr.json"
    array = json.loads(file.read_text())
    file.write_text(json.dumps({**array, "data_type": "object"}))
    with pytest.raises(StoreError):
        Store.open(store.path).read("loss")
    assert hj.verify(store.path) != []


@pytest.mark.parametrize("named", ["chunks of one row", "keys without c"])
def test_chunks_that_lie_where_ours_would_not_are_not_written(store, tmp_path, named):
    """An array's own description says which files its rows are in: a link among those would be written through."""
    outside, file = tmp_path / "outside", store.path / "loss" / "zarr.json"
    outside.mkdir()
    array = json.loads(file.read_text())
    if named == "chunks of one row":
        array["chunk_grid"]["configuration"]["chunk_shape"][0] = 1
        (store.path / "loss" / "c" / "3").symlink_to(outside)
    else:
        array["chunk_key_encoding"] = {"name": "v2", "configuration": {"separator": "/"}}
        (store.path / "loss" / "1").symlink_to(outside)
    file.write_text(json.dumps(array))
    with pytest.raises(StoreError, match="'loss' is not laid out as a store's, not written to"):
        sweep(CONFIG, store.path, progress=False)
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", ["../outside", "/etc", "a/../../b"])
def test_no_array_is_named_by_what_a_store_says(store, tmp_path, name):
    """Names are those of folders in it: with a dimension of such a name there is none, and nothing is written."""
    outside = tmp_path / "in" / "outside"
    shutil.copytree(store.path / "loss", outside)
    before = {f: f.read_bytes() for f in outside.rglob("*") if f.is_file()}
    file = store.path / "zarr.json"
    group = json.loads(file.read_text())
    group["attributes"]["hessjax_store"]["rows"] = name
    file.write_text(json.dumps(group))
    assert Store.open(store.path).by_row == ()
    with contextlib.suppress(StoreError):
        sweep(CONFIG, store.path, progress=False)
    assert hj.verify(store.path) != []
    assert before == {f: f.read_bytes() for f in outside.rglob("*") if f.is_file()}


def test_a_configuration_file_is_json_and_no_code(tmp_path, capsys):
    (tmp_path / "c.json").write_text("__import__('os').system('true')")
    assert cli.main(["sweep", "--config", str(tmp_path / "c.json")]) == 2
    assert capsys.readouterr().err.startswith("hessjax: --config")


BAD = (None, 3, "x\x1b[2J", [1], {"a": [1]}, {"sgd": 10**400}, {"sgd": "x"}, [None])


@pytest.fixture(scope="module", params=["sweep", "search", "profile"])
def some_store(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    config = {
        "sweep": hj.Sweep(landscape="bowl", num_inits=2, num_steps=2, times=2),
        "search": hj.Search(landscape="bowl", num_starts=2, starts="random", dtype="float32"),
        "profile": hj.Profile(landscape="bowl", optimizers=("sgd", "adam"), num_steps=4, times=3, resolution=3),
    }[request.param]
    return getattr(hj, request.param)(config, folder / "s.zarr", progress=False), getattr(hj, f"open_{request.param}")


@pytest.mark.parametrize(
    "name",
    ["thresholds", "versions", "landscape", "landscape.notes", "landscape.num_params", "config", "config.plane",
     "kind", "title", "fingerprint", "device"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Glyph")
def test_attributes_of_strange_types_are_refused_in_words_or_shown(some_store, tmp_path, name):
    """By everything that reads a store; nobody's numbers are Python's errors."""
    path, read = some_store
    sound = (path / "zarr.json").read_text()
    refused, calls = [], [read, lambda p: hj.report(p, tmp_path / "r.html"), hj.store_status, hj.verify]
    try:
        for value in BAD:
            said = json.loads(sound)
            place, _, within = name.partition(".")
            holder = said["attributes"][place] if within else said["attributes"]
            holder[within or place] = value
            (path / "zarr.json").write_text(json.dumps(said))
            for call in calls:
                try:
                    call(path)
                except StoreError as error:
                    refused.append(str(error))
    finally:
        (path / "zarr.json").write_text(sound)
    assert all(line.isprintable() for line in refused)
