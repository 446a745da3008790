"""Data of the lessons: image sets that are fetched once, photographs, signals and videos made from a seed."""

from labutils.data.image_sets import DATASETS, DataError, ImageDataset, cache_folder, draw_mini, mnist
from labutils.data.photographs import natural_patches, photographs, scramble_phases, whiten_image
from labutils.data.signals import smooth_noise, sounds
from labutils.data.videos import moving_window, zebra_video

__all__ = [
    "DATASETS",
    "DataError",
    "ImageDataset",
    "cache_folder",
    "draw_mini",
    "mnist",
    "moving_window",
    "natural_patches",
    "photographs",
    "scramble_phases",
    "smooth_noise",
    "sounds",
    "whiten_image",
    "zebra_video",
]
