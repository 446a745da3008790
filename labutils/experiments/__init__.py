"""The training runs behind the tables of the second half: declared once, repeated by one command.

    labutils train six_models

fills ``notebooks/results/six_models.csv``, a row a run (`labutils.course.tables`).
"""

from labutils.experiments.digits import (
    EARLY,
    MODELS,
    RECIPE,
    VARIANTS,
    DigitRun,
    baselines,
    long_runs,
    make_model,
    recipe,
    recipe_search,
    six_models,
    train,
    variants,
)
from labutils.experiments.long_sequences import (
    MemoryRun,
    PixelRun,
    memory,
    memory_search,
    pixels,
    pixels_search,
)
from labutils.experiments.runs import RESULTS, Run, estimate, read_table, row, runs_of
from labutils.experiments.text import TextRun, next_character

EXPERIMENTS = {
    function.__name__: function
    for function in (
        six_models,
        long_runs,
        variants,
        baselines,
        recipe_search,
        recipe,
        next_character,
        memory_search,
        memory,
        pixels_search,
        pixels,
    )
}

__all__ = [
    "EARLY",
    "EXPERIMENTS",
    "MODELS",
    "RECIPE",
    "RESULTS",
    "VARIANTS",
    "DigitRun",
    "MemoryRun",
    "PixelRun",
    "Run",
    "TextRun",
    "baselines",
    "estimate",
    "long_runs",
    "make_model",
    "memory",
    "memory_search",
    "next_character",
    "pixels",
    "pixels_search",
    "read_table",
    "recipe",
    "recipe_search",
    "row",
    "runs_of",
    "six_models",
    "train",
    "variants",
]
