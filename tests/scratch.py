"""Load what a lesson writes out: the cells tagged ``scratch``."""

import numpy as np
import torch
from torch import nn

from labutils import course


def load(notebook):
    """Names defined by the scratch cells of a notebook, as a dict."""
    namespace = {"np": np, "torch": torch, "nn": nn}
    cells = [c for c in course.read(course.find(notebook)).cells if "scratch" in c.metadata.get("tags", [])]
    assert cells, f"{notebook} has no cell tagged scratch"
    for cell in cells:
        exec(cell.source, namespace)  # noqa: S102 - the project's own lesson
    return namespace
