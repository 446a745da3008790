"""The data sets of the course by name: what is in the cache, what is bundled, and what serves if none is fetched."""

import os
from dataclasses import dataclass
from pathlib import Path

from labutils.data import cache as files
from labutils.errors import DataError
from labutils.rules import Rule


@dataclass(frozen=True)
class Bundled:
    """A part of a data set that comes with the package.

    Attributes
    ----------
    path : pathlib.Path
    checksum : str
        SHA-256 of the file.
    kind, extent : str
        What it is ("subset") and how much ("of 6,000 + 1,000 digits").
    whole : str
        The data set that it is taken from.
    """

    path: Path
    checksum: str
    kind: str
    extent: str
    whole: str


_PACKAGE = Path(__file__).parents[1]
BUNDLED = {
    "mnist-mini": Bundled(
        _PACKAGE / "mnist_mini.npz",
        "081b28ae377b5cd4e309d001f7d80fcd275355ea7d474f7ddabffaa8ad78102b",
        "subset",
        "of 6,000 + 1,000 digits",
        "mnist",
    ),
    "moby-dick-excerpt": Bundled(
        _PACKAGE / "moby_dick_excerpt.txt",
        "53a5843e6cddd3e9ff227e2b68a3615607fa594394b48d08dc01a14e5469f09b",
        "excerpt",
        "of chapters 1 to 19 of 135",
        "moby-dick",
    ),
}
STAND_INS = {bundled.whole: name for name, bundled in BUNDLED.items()}  # for what no source delivers
TITLES = files.TITLES | {"mnist-mini": "MNIST-mini", "moby-dick-excerpt": "Moby-Dick excerpt"}
DATASETS = ("mnist", "mnist-mini", "fashion-mnist", "moby-dick", "moby-dick-excerpt")

_DATASET = Rule(str, words=DATASETS)


def fetch(dataset="mnist", *, cache=None, allow_subset=True):
    """Fetch a data set if need be, without loading it, and say which one its loader gives from now on.

    It prints, tries and raises what `mnist` or `moby_dick` does. The data set that was really used belongs to
    what identifies a run: without a network, it is another one than was asked for.

    Parameters
    ----------
    dataset : str
        One of `DATASETS`.
    cache, allow_subset
        As for `mnist`.

    Returns
    -------
    str
        The ``name`` of what the loader gives: `dataset`, or that of the bundled part of it which stands in.
    """
    return obtain(dataset, cache, allow_subset)[0]


def will_use(dataset="mnist", *, cache=None):
    """Name of the data set that its loader would give now without fetching anything. Prints and fetches nothing.

    Parameters
    ----------
    dataset, cache
        As for `fetch`.

    Returns
    -------
    str
        ``"mnist-mini"`` for MNIST and ``"moby-dick-excerpt"`` for Moby-Dick that is not whole in the cache, else
        `dataset`.
    """
    stands_in = STAND_INS.get(dataset)
    return stands_in if stands_in and state(dataset, cache=cache) != "whole" else _known(dataset)


def state(dataset="mnist", *, cache=None):
    """How the files of a data set are in the cache, or how a bundled one is. Nothing is changed or fetched.

    Parameters
    ----------
    dataset, cache
        As for `fetch`.

    Returns
    -------
    {"whole", "damaged", "absent"}
        Checksums are right; some file is missing, differs or cannot be read; no file is there.
    """
    if _known(dataset) in BUNDLED:
        bundled = BUNDLED[dataset]
        there = os.path.lexists(bundled.path)
        whole = files.checked(bundled.path, bundled.checksum) is not None
    else:
        folder = files.folder_of(files.root_of(cache), dataset)
        there = any(os.path.lexists(folder / name) for name in files.CHECKSUMS[dataset])
        whole = not files.damaged(files.read(folder, dataset))
    return "whole" if whole else "damaged" if there else "absent"


def obtain(dataset, cache, allow_subset):
    """Have a data set's bytes: from the cache, from a source, or from what is bundled; each step is printed.

    Parameters
    ----------
    dataset, cache, allow_subset
        As for `fetch`.

    Returns
    -------
    name : str
        The data set that serves.
    contents : dict of str to bytes
        The checked content of each of its files, by name.
    """
    if _known(dataset) in BUNDLED:
        bundled = BUNDLED[dataset]
        what = f"the bundled {bundled.kind} {bundled.extent}"
        print(f"{TITLES[dataset]}: {what}; its results do not stand for {_possessive(bundled)}")
        return dataset, _read_bundled(bundled)
    root = files.root_of(cache)
    contents = files.read(files.folder_of(root, dataset), dataset)
    if not files.damaged(contents):
        print(f"{TITLES[dataset]}: in the data cache, checksums right")
        return dataset, contents
    try:
        return dataset, files.fetch_files(dataset, root, contents, STAND_INS.get(dataset, "mnist-mini"))
    except files.NoSourceError as error:
        if dataset not in STAND_INS or not allow_subset:
            raise
        print(error)
        name = STAND_INS[dataset]
        bundled = BUNDLED[name]
        contents = _read_bundled(bundled)
        what = f"the BUNDLED {bundled.kind.upper()} {bundled.extent}"
        print(f"In its place: {what}. Results do not stand for {_possessive(bundled)}.")
        return name, contents


def _known(dataset):
    _DATASET.check("dataset", dataset)
    return dataset


def _possessive(bundled):
    return f"{TITLES[bundled.whole]}'s"


def _read_bundled(bundled):
    content = files.checked(bundled.path, bundled.checksum)
    if content is None:
        raise DataError(
            f"the bundled {bundled.kind} {bundled.path} is missing or damaged; get it back with git checkout "
            f"labutils/{bundled.path.name}, or install the package again"
        )
    return {bundled.path.name: content}
