"""Load what a lesson writes out: the cells tagged ``scratch``."""

from labutils.conventions import SCRATCH
from labutils.course import notebook as notebooks


def load(notebook):
    """Names defined by the scratch cells of a notebook, as a dict.

    The notebook's first code cell, its imports, runs before them.
    """
    code = [cell for cell in notebooks.read(notebooks.find(notebook)).cells if cell.cell_type == "code"]
    scratch = [cell for cell in code if SCRATCH in notebooks.tags(cell)]
    assert scratch, f"{notebook} has no cell tagged scratch"
    namespace = {}
    for cell in [code[0], *scratch]:
        exec(cell.source, namespace)  # noqa: S102 - the project's own lesson
    return namespace
