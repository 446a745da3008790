"""Data of the lessons: image sets that are fetched once, photographs, signals and videos made from a seed.

What takes a second or more to import (torch, scikit-learn, parts of SciPy) is imported where it is used.
"""

from labutils.data.cache import cache_folder, settle_cache
from labutils.data.image_sets import DATASETS, ImageDataset, draw_mini, fetch, mnist, state, will_use
from labutils.data.photographs import natural_patches, photographs, scramble_phases, whiten_image
from labutils.data.signals import smooth_noise, sounds
from labutils.data.videos import moving_window, zebra_video
from labutils.errors import DataError

__all__ = [
    "DATASETS",
    "DataError",
    "ImageDataset",
    "cache_folder",
    "draw_mini",
    "fetch",
    "mnist",
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
