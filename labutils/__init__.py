"""Helper package of the course: data, models, training, and what a notebook cell calls; CONTRIBUTING.md says what is where."""

from pathlib import Path

__version__ = "0.1.0"
NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
