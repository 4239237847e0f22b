"""Data sets made here and read from files: shapes, seeds, statistics, published formats, and tasks by name."""

import gzip
import struct

import numpy as np
import pytest

from hessjax.landscapes import data, files, tasks

MADE = {
    "clusters": (data.clusters, {"classes": 3, "rows_per_class": 4, "shape": (2, 3)}, (12, 2, 3), np.float64),
    "spirals": (data.spirals, {"classes": 3, "rows_per_class": 4}, (12, 2), np.float64),
    "mnist1d": (data.mnist1d, {"rows": 25, "length": 20}, (25, 20, 1), np.float64),
    "noise": (data.noise, {"rows": 5, "inputs": (4, 4, 2), "outputs": 3}, (5, 4, 4, 2), np.float64),
    "modular addition": (data.modular_addition, {"modulus": 5, "fraction": 0.6}, (15, 2), np.int32),
}


@pytest.mark.parametrize("name", MADE)
def test_shapes_are_as_asked_and_a_seed_is_the_identity_of_the_data(name):
    make, options, shape, dtype = MADE[name]
    x, y = make(seed=3, **options)
    assert (x.shape, x.dtype, len(y)) == (shape, dtype, len(x))
    for mine, again in zip((x, y), make(seed=3, **options)):
        np.testing.assert_array_equal(mine, again)
    assert not np.array_equal(x, make(seed=4, **options)[0])


def test_no_global_state_is_read_or_written():
    np.random.seed(0)  # noqa: NPY002 - the global generator is what must not matter
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one = [make(**options)[0] for make, options, *_ in MADE.values()]
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    for x, (make, options, *_) in zip(one, MADE.values()):
        np.testing.assert_array_equal(x, make(**options)[0])


def test_images_of_digits_are_the_digits():
    x, y = data.digit_images(pool=2, rows=7)
    flat, same = data.digits(pool=2, rows=7)
    assert x.shape == (7, 4, 4, 1)
    np.testing.assert_array_equal(x.reshape(7, -1), flat)
    np.testing.assert_array_equal(y, same)


def test_noise_of_any_shape_is_the_noise_of_its_size():
    x, y = data.noise(5, (2, 3), 4, seed=1)
    flat, same = data.noise(5, 6, 4, seed=1)
    np.testing.assert_array_equal(x.reshape(5, 6), flat)
    np.testing.assert_array_equal(y, same)


@pytest.mark.parametrize("separation", [0.0, 4.0])
def test_clusters_are_standard_normal_about_centres_that_far_apart(separation):
    n = 4000
    x, y = data.clusters(classes=3, rows_per_class=n, shape=5, separation=separation, seed=2)
    np.testing.assert_array_equal(np.bincount(y), n)
    means = np.stack([x[y == c].mean(axis=0) for c in range(3)])
    within = np.concatenate([x[y == c] - means[c] for c in range(3)])
    assert np.abs(within.T @ within / (3 * n) - np.eye(5)).max() < 5 * (2 / (3 * n)) ** 0.5
    # |difference of two means|^2 is separation^2, a cross term of deviation 2 separation (2 / n)^(1/2), 2 / n chi^2_5.
    for a, b in ((0, 1), (0, 2), (1, 2)):
        squared = ((means[a] - means[b]) ** 2).sum()
        assert abs(squared - separation**2) < 5 * 2 * separation * (2 / n) ** 0.5 + 25 * 2 / n


def test_more_clusters_than_dimensions_are_that_far_apart_in_mean_square():
    x, _ = data.clusters(classes=300, rows_per_class=1, shape=2, separation=1000.0)
    radius = np.linalg.norm(x, axis=1)
    assert np.abs(radius - 1000 / 2**0.5).max() < 6  # unit noise beside centres on a circle
    # Uniform on the circle: cos and sin have mean 0 and variance 1 / 2, up to noise of 1 / 707.
    assert np.abs((x / radius[:, None]).mean(axis=0)).max() < 5 * (0.5 / 300) ** 0.5


def test_spirals_have_their_radius_and_angle_and_the_noise_asked_for():
    clean, y = data.spirals(classes=3, rows_per_class=2000, turns=1.5, noise=0.0)
    radius = np.linalg.norm(clean, axis=1)
    np.testing.assert_allclose(radius[y == 1], np.arange(1, 2001) / 2000, rtol=1e-12)
    whole = 1.5 * radius + y / 3
    np.testing.assert_allclose(clean[:, 1], radius * np.sin(2 * np.pi * whole), atol=1e-12)
    noisy, _ = data.spirals(classes=3, rows_per_class=2000, turns=1.5, noise=0.1)
    assert (noisy - clean).std() == pytest.approx(0.1, rel=5 / (2 * clean.size) ** 0.5)


def test_signals_are_ten_balanced_classes_of_the_length_asked_for():
    x, y = data.mnist1d(rows=200, length=32)
    assert x.shape == (200, 32, 1)
    np.testing.assert_array_equal(np.bincount(y), 20)


def test_signals_without_noise_are_zero_but_for_one_stretch_of_a_quarter_to_a_half():
    x, _ = data.mnist1d(rows=400, length=80, noise=0.0)
    for signal in x[:, :, 0]:
        (where,) = np.nonzero(signal)
        stretch = where[-1] - where[0] + 1
        # A shape may begin and end at 0: one point less at either end.
        assert 80 / 4 - 3 <= stretch <= 80 / 2 + 1


def test_shapes_differ_in_more_than_place_width_and_height():
    grid = np.linspace(0, 1, 500, endpoint=False)
    spectra = np.stack([np.abs(np.fft.rfft(np.pad(shape(grid), 500))) for shape in data.SIGNALS])  # of any place
    spectra /= np.linalg.norm(spectra, axis=1, keepdims=True)  # and any height
    mirrored = {(4, 5)}  # a falling and a rising ramp: one is the other read backwards
    alike = {(a, b) for a in range(10) for b in range(a) if spectra[a] @ spectra[b] > 0.999}
    assert {tuple(sorted(pair)) for pair in alike} == mirrored
    assert len(data.SIGNALS) == 10


def test_the_noise_of_signals_has_its_deviation_and_is_correlated_over_neighbours():
    options = {"rows": 20_000, "length": 40}
    noise = data.mnist1d(noise=0.5, **options)[0][:, :, 0] - data.mnist1d(noise=0.0, **options)[0][:, :, 0]
    # A Gaussian of width s smooths white noise to correlation exp(-d^2 / 4 s^2); points kept are 2 apart, s is 2.
    correlation = lambda d: np.exp(-((2 * d) ** 2) / (4 * 2**2))
    repeated = (correlation(np.arange(-40, 41)) ** 2).sum()  # the variance of a mean square grows by so much
    assert noise.std() == pytest.approx(0.5, rel=5 * (2 * repeated / noise.size) ** 0.5 / 2)
    found = (noise[:, :-1] * noise[:, 1:]).mean() / 0.5**2
    assert abs(found - correlation(1)) < 5 * (2 / len(noise)) ** 0.5  # rows are independent, a product varies by <= 2


@pytest.mark.parametrize(("modulus", "fraction"), [(2, 0.5), (7, 0.3), (11, 0.8)])
def test_sums_are_exact_and_the_two_splits_are_all_pairs_once(modulus, fraction):
    parts = [data.modular_addition(modulus=modulus, fraction=fraction, split=s, seed=1) for s in ("train", "test")]
    assert len(parts[0][0]) == round(fraction * modulus**2)
    pairs = [tuple(pair) for x, _ in parts for pair in x.tolist()]
    assert sorted(pairs) == [(a, b) for a in range(modulus) for b in range(modulus)]
    for x, y in parts:
        np.testing.assert_array_equal(y, (x[:, 0] + x[:, 1]) % modulus)


def test_spaced_rows_run_from_first_to_last():
    np.testing.assert_array_equal(data.spaced(10, None), np.arange(10))
    np.testing.assert_array_equal(data.spaced(10, 4), [0, 3, 6, 9])
    assert data.spaced(10, 1).tolist() == [0]


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (data.clusters, {"classes": 0}, "classes must be a whole number"),
        (data.clusters, {"separation": -1.0}, "separation must be a finite number, at least 0"),
        (data.clusters, {"separation": float("nan")}, "separation must be a finite number, at least 0"),
        (data.clusters, {"shape": (2, 2, 2, 2)}, "shape must be a number, (steps, features) or"),
        (data.clusters, {"shape": (2, 0)}, "shape must be a whole number"),
        (data.noise, {"inputs": 2.5}, "inputs must be a whole number"),
        (data.noise, {"rows": True}, "rows must be a whole number"),
        (data.spirals, {"noise": -0.1}, "noise must be a finite number"),
        (data.mnist1d, {"length": 7}, "length must be a whole number, at least 8"),
        (data.modular_addition, {"modulus": 1}, "modulus must be a whole number, at least 2"),
        (data.modular_addition, {"fraction": 1.5}, "fraction must be above 0 and at most 1"),
        (data.modular_addition, {"split": "valid"}, "split must be 'train' or 'test'"),
        (data.modular_addition, {"fraction": 1.0, "split": "test"}, "has no pairs"),
    ],
)
def test_options_out_of_range_are_answered_in_one_line(make, options, words, untyped):
    with pytest.raises(ValueError) as caught:
        make(**options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def idx(array):
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def some_mnist(folder, count, split, *, packed=False):
    rng = np.random.default_rng(count)
    images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
    classes = rng.integers(0, 10, count, dtype=np.uint8)
    for array, name in zip((images, classes), files.MNIST[split]):
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
        else:
            (folder / name).write_bytes(idx(array))
    return images, classes


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("split", ["train", "test"])
def test_mnist_is_read_from_its_files_packed_or_not(split, packed, tmp_path):
    images, classes = some_mnist(tmp_path, 6, split, packed=packed)
    x, y = files.mnist(folder=str(tmp_path), split=split, rows=None)
    want = (images - images.mean()) / images.std()
    np.testing.assert_allclose(x, want[..., None], atol=1e-12)
    np.testing.assert_array_equal(y, classes)
    few, labels = files.mnist(folder=str(tmp_path), split=split, rows=3, pool=14)
    kept = images[[0, 2, 5]].reshape(3, 2, 14, 2, 14).mean(axis=(2, 4))  # 2.5 is rounded to even
    np.testing.assert_allclose(few[..., 0], (kept - kept.mean()) / kept.std(), atol=1e-12)
    np.testing.assert_array_equal(labels, classes[[0, 2, 5]])


@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar_is_read_from_the_files_of_its_binary_version(split, tmp_path):
    rng = np.random.default_rng(0)
    names = files.CIFAR[split]
    classes = rng.integers(0, 10, (len(names), 2), dtype=np.uint8)
    planes = rng.integers(0, 256, (len(names), 2, 3, 32, 32), dtype=np.uint8)
    for name, labels, images in zip(names, classes, planes):
        records = (bytes([label]) + image.tobytes() for label, image in zip(labels, images))
        (tmp_path / name).write_bytes(b"".join(records))
    x, y = files.cifar10(folder=str(tmp_path), split=split, rows=None)
    images = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).astype(float)
    axes = (0, 1, 2)
    np.testing.assert_allclose(x, (images - images.mean(axes)) / images.std(axes), atol=1e-12)
    np.testing.assert_array_equal(y, classes.ravel())


def test_a_channel_of_one_value_is_zero(tmp_path):
    (tmp_path / "test_batch.bin").write_bytes((b"\1" + bytes([7]) * 3072) * 2)
    x, _ = files.cifar10(folder=str(tmp_path), split="test", rows=None)
    np.testing.assert_array_equal(x, 0)


def archive(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def test_an_archive_gives_rows_classes_tokens_and_real_targets(tmp_path):
    x, y = files.from_npz(path=archive(tmp_path / "a.npz", x=np.arange(10.0).reshape(5, 2), y=np.arange(5)), rows=3)
    np.testing.assert_array_equal(x, [[0, 1], [4, 5], [8, 9]])
    np.testing.assert_array_equal(y, [0, 2, 4])
    x, y = files.from_npz(path=archive(tmp_path / "b.npz", x=np.ones((4, 3), np.int64), y=np.ones(4, np.float32)))
    assert (x.dtype, y.dtype, y.shape) == (np.int32, np.float64, (4, 1))
    x, _ = files.from_npz(path=archive(tmp_path / "c.npz", x=np.ones((4, 3, 3, 1), np.uint8), y=np.zeros(4, int)))
    assert x.dtype == np.float64  # bytes of images are no tokens


def broken(folder, name):
    """A file that is wrong in one way, and the reader of it."""
    path = folder / "broken.npz"
    x, y = np.ones((3, 2)), np.ones(3, int)
    arrays = {
        "pickles": {"x": np.array([[{}, 1]] * 3, dtype=object), "y": y},
        "no y": {"x": x},
        "other rows": {"x": x, "y": y[:2]},
        "flat": {"x": x[:, 0], "y": y},
        "words": {"x": np.array([["a", "b"]] * 3), "y": y},
        "NaN": {"x": x * np.nan, "y": y},
        "negative": {"x": x, "y": -y},
    }
    if name in arrays:
        np.savez(path, **arrays[name])
    else:
        path.write_bytes(b"" if name == "empty" else b"not an archive")
    return lambda: files.from_npz(path=str(path))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("pickles", "allow_pickle=False"),
        ("no y", "no array 'y'"),
        ("other rows", "wanted x [rows, ...]"),
        ("flat", "wanted x [rows, ...]"),
        ("words", "wanted finite real numbers"),
        ("NaN", "wanted finite real numbers"),
        ("negative", "counted from 0; got -1"),
        ("empty", "wanted numpy.savez"),
        ("text", "wanted numpy.savez"),
    ],
)
def test_archives_that_are_none_are_answered_in_one_line(name, words, tmp_path):
    with pytest.raises(ValueError) as caught:
        broken(tmp_path, name)()
    assert words in str(caught.value)
    assert "broken.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_single_array_is_no_archive(tmp_path):
    np.save(tmp_path / "x.npy", np.ones(3))
    with pytest.raises(ValueError, match="one array, not an archive"):
        files.from_npz(path=str(tmp_path / "x.npy"))


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (
            lambda d: files.mnist(folder=str(d)),
            "lacks train-images-idx3-ubyte, train-labels-idx1-ubyte; each may",
        ),
        (lambda d: files.cifar10(folder=str(d)), "lacks data_batch_1.bin, data_batch_2.bin, data_batch_3.bin"),
        (lambda d: files.from_npz(path=str(d / "no.npz")), "wanted a NumPy archive with arrays x and y"),
    ],
)
def test_files_that_are_not_there_are_named(read, words, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        read(tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


GOOD = idx(np.zeros((2, 28, 28), np.uint8))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (GOOD[:-1], "1567 bytes of data, wanted 1568"),
        (b"\0\0\x0d" + GOOD[3:], "not an idx file of bytes; it starts with 00000d03"),
        (b"", "it starts with nothing"),
        (GOOD[:9], "not an idx file of bytes"),
        (idx(np.zeros((3, 28, 28), np.uint8)), "do not belong together"),
    ],
    ids=["short", "not bytes", "empty", "cut header", "too many"],
)
def test_idx_files_that_are_none_are_answered_in_one_line(content, words, tmp_path):
    some_mnist(tmp_path, 2, "train")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(ValueError) as caught:
        files.mnist(folder=str(tmp_path), rows=None)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"no gzip", gzip.compress(GOOD)[:-9], gzip.compress(GOOD)[:12] + b"\xff" * 40],
    ids=["no gzip", "cut", "torn"],  # the bytes hold the second they were packed in
)
def test_packed_files_that_are_none_are_answered_in_one_line(content, tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"ubyte\.gz: ") as caught:
        files.read_idx(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"), [(b"\0" * 3072, "3072 bytes"), (b"", "0 bytes"), (b"\x0a" + b"\0" * 3072, "class 10")]
)
def test_cifar_files_that_are_none_are_answered_in_one_line(content, words, tmp_path):
    (tmp_path / "test_batch.bin").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        files.cifar10(folder=str(tmp_path), split="test")


@pytest.mark.parametrize(
    ("options", "words"), [({"rows": 7}, r"rows must be .* 1\.\.6"), ({"pool": 3}, "pool must be a divisor of 28"),
                           ({"split": "valid"}, "split must be 'train' or 'test'")]
)  # fmt: skip
def test_options_of_files_out_of_range_are_refused(options, words, tmp_path):
    some_mnist(tmp_path, 6, "train")
    with pytest.raises(ValueError, match=words):
        files.mnist(folder=str(tmp_path), **options)


IN_MEMORY = ["clusters", "digits", "mnist1d", "modular-addition", "noise", "spirals"]


@pytest.mark.parametrize("name", IN_MEMORY)
def test_tasks_have_one_of_their_shapes_and_classes_for_all_targets(name):
    task = tasks.load(name, {})
    assert task.shape in tasks.TASKS[name].shapes
    assert task.classifies == (name != "noise")
    if task.classifies:
        assert set(np.unique(task.targets)) == set(range(task.outputs))
    else:
        assert task.targets.shape == (len(task.inputs), task.outputs)
    assert f"{len(task.inputs)} fixed rows of {name}" in task.note


def test_classes_are_those_of_the_task_where_the_rows_show_fewer():
    assert tasks.load("digits", {"rows": 2}).outputs == 10
    assert tasks.load("modular-addition", {"modulus": 11, "fraction": 0.01}).vocabulary == 11


def test_tasks_of_files_take_their_options(tmp_path):
    some_mnist(tmp_path, 4, "test")
    task = tasks.load("mnist", {"folder": str(tmp_path), "split": "test", "rows": 4, "pool": 4})
    assert (task.shape, task.inputs.shape, task.outputs) == ("image", (4, 7, 7, 1), 10)
    path = archive(tmp_path / "a.npz", x=np.ones((3, 4, 2)), y=np.array([0, 1, 4]))
    task = tasks.load("npz", {"path": path})
    assert (task.shape, task.outputs) == ("sequence", 5)


def test_arranging_keeps_the_numbers():
    image = tasks.load("clusters", {"shape": (2, 3, 4), "rows_per_class": 1})
    x = image.inputs
    np.testing.assert_array_equal(tasks.arranged(image, "sequence", "rnn").inputs[:, 1, 5], x[:, 1, 1, 1])
    np.testing.assert_array_equal(tasks.arranged(image, "vector", "mlp").inputs, x.reshape(4, 24))
    np.testing.assert_array_equal(tasks.arranged(image, "grid", "conv").inputs, x)
    token = tasks.load("modular-addition", {"modulus": 3})
    one_hot = tasks.arranged(token, "sequence", "rnn").inputs
    np.testing.assert_array_equal(one_hot.argmax(-1), token.inputs)
    np.testing.assert_array_equal(one_hot.sum(-1), 1)


def test_rows_of_the_wrong_kind_are_refused_with_tasks_that_fit():
    words = "rnn takes sequence or image or token inputs, and those of task 'spirals' are of shape .*: vector. Tasks"
    with pytest.raises(ValueError, match=f"{words} that fit: cifar10, clusters, digits"):
        tasks.arranged(tasks.load("spirals", {}), "sequence", "rnn")
