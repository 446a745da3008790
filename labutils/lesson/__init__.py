"""What a notebook cell calls: set-up and parameters, figures, records and bands, exercises."""

from labutils.lesson.exercises import check_exercise, require_right
from labutils.lesson.figures import STYLE, image_grid, label_rows, log_ticks, mosaic, play, show, slide
from labutils.lesson.parameters import at_defaults, check_parameters, setup
from labutils.lesson.records import expect, provenance, record

__all__ = [
    "STYLE",
    "at_defaults",
    "check_exercise",
    "check_parameters",
    "expect",
    "image_grid",
    "label_rows",
    "log_ticks",
    "mosaic",
    "play",
    "provenance",
    "record",
    "require_right",
    "setup",
    "show",
    "slide",
]
