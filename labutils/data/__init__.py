"""Data of the lessons: image sets that are fetched once, photographs, and signals made from a seed."""

from labutils.data.image_sets import DATASETS, DataError, ImageDataset, cache_folder, draw_mini, mnist
from labutils.data.photographs import natural_patches, photographs, whiten_image
from labutils.data.signals import sounds

__all__ = [
    "DATASETS",
    "DataError",
    "ImageDataset",
    "cache_folder",
    "draw_mini",
    "mnist",
    "natural_patches",
    "photographs",
    "sounds",
    "whiten_image",
]
