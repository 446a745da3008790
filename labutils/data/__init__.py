"""Data of the lessons: image sets and a book, fetched once; photographs; signals and videos made from a seed.

What takes a second or more to import (torch, scikit-learn, parts of SciPy) is imported where it is used.
"""

from labutils.data.cache import cache_folder, settle_cache
from labutils.data.catalogue import DATASETS, fetch, state, will_use
from labutils.data.image_sets import IMAGE_SETS, ImageDataset, draw_mini, mnist
from labutils.data.photographs import natural_patches, photographs, scramble_phases, whiten_image
from labutils.data.signals import smooth_noise, sounds
from labutils.data.texts import TEXTS, TextDataset, moby_dick
from labutils.data.videos import moving_window, zebra_video
from labutils.errors import DataError

__all__ = [
    "DATASETS",
    "IMAGE_SETS",
    "TEXTS",
    "DataError",
    "ImageDataset",
    "TextDataset",
    "cache_folder",
    "draw_mini",
    "fetch",
    "mnist",
    "moby_dick",
    "moving_window",
    "natural_patches",
    "photographs",
    "scramble_phases",
    "settle_cache",
    "smooth_noise",
    "sounds",
    "state",
    "whiten_image",
    "will_use",
    "zebra_video",
]
