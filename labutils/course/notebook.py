"""A notebook as a file: found, read and validated once, so that everything after can rely on its form."""

import ast
import base64
import binascii
import json
import re
import stat
import warnings
from pathlib import Path

import nbformat

from labutils import NOTEBOOKS
from labutils.conventions import PARAMETERS, RECORD_TYPE
from labutils.errors import NotebookError, UsageError

LARGEST_BYTES = 200_000_000
OTHER_PAGES = ("index", "notation", "results", "search", "terms")  # of the site, beside those of notebooks
_CELL_TYPES = ("code", "markdown", "raw")


def notebooks():
    """Paths of the course's notebooks, in order.

    Raises
    ------
    UsageError
        If there are none, as in an installation without the repository.
    """
    found = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise UsageError(
            f"no notebooks in {NOTEBOOKS}; install the project from its own folder (make install)"
        )
    return found


def find(name):
    """Path of a notebook named by number ("9"), stem ("10_lstm_mnist") or path.

    Raises
    ------
    UsageError
        If there is no such notebook; the message names those there are.
    """
    path = Path(name)
    if path.suffix == ".ipynb":
        try:
            if stat.S_ISREG(path.stat().st_mode):
                return path.resolve()
        except (FileNotFoundError, NotADirectoryError, ValueError):
            pass
        except OSError as error:
            raise UsageError(f"{_shortened(name)} cannot be reached ({error.strerror})") from None
    for candidate in notebooks():
        number = candidate.stem.split("_")[0]
        if name in (candidate.stem, candidate.name) or (name.isdecimal() and name.zfill(2) == number):
            return candidate
    known = ", ".join(path.stem for path in notebooks())
    raise UsageError(
        f"there is no notebook {_shortened(name)!r}; there are {known}, or give a path to a .ipynb file"
    )


def read(path):
    """Read a notebook file and make sure that it is one.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    nbformat.NotebookNode
        In format 4; tags are lists of strings, records have their three parts, images are images.

    Raises
    ------
    NotebookError
        In one sentence, with the file and, where there is one, the cell.
    """
    path = Path(path)
    content = _json(path)
    node = _as_version_4(content, path)
    for number, cell in enumerate(node.cells, 1):
        wrong = _wrong_in_cell(cell)
        if wrong:
            raise NotebookError(f"{path}, cell {number}: {wrong}")
    return node


def check_page_names(paths):
    """Refuse notebooks whose pages could not lie beside each other.

    Raises
    ------
    UsageError
        If two have the same name, or one has that of another page.
    """
    stems = [Path(path).stem for path in paths]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise UsageError(f"two notebooks are named {twice[0]}; each page needs a name of its own")
    odd = [stem for stem in stems if set(stem) & set("%#?<>|\"'`\\") or not stem.isprintable()]
    if odd:
        raise UsageError(f"{odd[0]!r} cannot be the name of a page; rename the notebook")
    taken = sorted(set(OTHER_PAGES).intersection(map(str.lower, stems)))
    if taken:
        raise UsageError(f"a page of the site is named {taken[0]}; rename the notebook")


def code_cells(node):
    """The code cells of a notebook that are not empty."""
    return [cell for cell in node.cells if cell.cell_type == "code" and cell.source.strip()]


def tags(cell):
    """The tags of a cell, a list of strings."""
    return cell.metadata.get("tags", [])


def title(node):
    """Text of a notebook's first heading; empty if it has none."""
    source = "\n".join(cell.source for cell in node.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# (.+)$", source, flags=re.MULTILINE)
    return heading[1].strip() if heading else ""


def minutes(node):
    """Minutes to read and to run, as a notebook's own page states them; (0, 0) where it states none."""
    for cell in node.cells[:3]:
        stated = re.search(r"(\d{1,5}) minutes? to read, (\d{1,5}) minutes? to run", cell.source)
        if stated:
            return int(stated[1]), int(stated[2])
    return 0, 0


def recorded(node):
    """What the cells of an executed notebook recorded: dicts of ``parameters``, ``results`` and ``provenance``."""
    outputs = (output.get("data", {}) for cell in code_cells(node) for output in cell.outputs)
    return [shown[RECORD_TYPE] for shown in outputs if RECORD_TYPE in shown]


def parse(cell):
    """Syntax tree of a code cell; magics and shell lines are turned into calls, as IPython does.

    Raises
    ------
    SyntaxError
        If the cell is no Python even so.
    """
    try:
        return _parse(cell.source)
    except SyntaxError:
        from IPython.core.inputtransformer2 import TransformerManager  # slow to import

        return _parse(TransformerManager().transform_cell(cell.source))


def parameters_cells(node):
    """The cells tagged ``parameters``."""
    return [cell for cell in code_cells(node) if PARAMETERS in tags(cell)]


def _parse(source):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd literals, which running the cell would show
            return ast.parse(source)
    except (ValueError, RecursionError, MemoryError) as error:  # null bytes, absurd nesting
        raise SyntaxError(str(error) or "too deeply nested") from None


def _json(path):
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise NotebookError(f"{path} is not a file")
        if status.st_size > LARGEST_BYTES:
            raise NotebookError(f"{path} has {status.st_size} bytes; a notebook may have {LARGEST_BYTES}")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise NotebookError(f"{_shortened(path)} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise NotebookError(f"{path} is not a notebook: it is not text in UTF-8") from None
    try:
        content = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_once_each)
        json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        why = "it is empty" if not text.strip() else f"it is not JSON ({_shortened(error)})"
        raise NotebookError(f"{path} is not a notebook: {why}") from None
    return content


def _once_each(pairs):
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError("a key stands twice")
    return mapping


def _refuse_constant(name):
    raise ValueError(f"{name} is no JSON number")


def _as_version_4(content, path):
    def refuse(why):
        raise NotebookError(f"{path} is not a notebook: {why}")

    if not isinstance(content, dict):
        refuse("it should hold an object with cells")
    version = content.get("nbformat")
    if not isinstance(version, int) or not isinstance(content.get("nbformat_minor", 0), int):
        refuse("it does not say its nbformat by a number")
    if version not in (3, 4):
        refuse(f"its format is {version}; formats 3 and 4 can be read")
    if version == 4:
        if not isinstance(content.get("cells"), list):
            refuse("it has no list of cells")
        if not isinstance(content.get("metadata"), dict):
            refuse("it has no metadata")
        for number, cell in enumerate(content["cells"], 1):
            if not isinstance(cell, dict) or cell.get("cell_type") not in _CELL_TYPES:
                refuse(f"cell {number} is none of {', '.join(_CELL_TYPES)}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # missing ids, as older programs and VS Code leave them, are given
            _, content = nbformat.validator.normalize(content, strip_invalid_metadata=False)
            nbformat.validate(content)
            node = nbformat.convert(nbformat.versions[version].to_notebook_json(content), 4)
    except nbformat.ValidationError as error:
        refuse(_where(error))
    except Exception as error:  # noqa: BLE001 - a converter of old formats trips over what it does not expect
        refuse(f"{type(error).__name__}: {_shortened(error)}")
    return node


def _where(error):
    """What a validator says, in a line, with the cell by its number."""
    place = list(getattr(error, "absolute_path", ()))
    cell = f"cell {place[1] + 1}: " if len(place) > 1 and place[0] == "cells" else ""
    rest = ".".join(str(part) for part in (place[2:] if cell else place))
    message = _shortened((getattr(error, "message", None) or str(error)).splitlines()[0])
    return f"{cell}{rest + ': ' if rest else ''}{message}"


def _wrong_in_cell(cell):
    """What of a cell this course could not use although its format is right; None if nothing."""
    for output in cell.get("outputs", []):
        shown = output.get("data", {})
        if RECORD_TYPE in shown:
            record = shown[RECORD_TYPE]
            parts = ("parameters", "results", "provenance")
            if not isinstance(record, dict) or not all(isinstance(record.get(part), dict) for part in parts):
                return f"a record must have {', '.join(parts)}"
            if not isinstance(record["provenance"].get("versions", {}), dict):
                return "the versions of a record must be names with versions"
        for kind in ("image/png", "image/jpeg"):
            if kind in shown and not _is_image(kind, shown[kind]):
                return f"an output is no {kind} although it says so"
    return None


def _is_image(kind, text):
    begin = {"image/png": b"\x89PNG\r\n", "image/jpeg": b"\xff\xd8"}[kind]
    try:
        text = "".join(text) if isinstance(text, list) else text
        return base64.b64decode("".join(text.split()), validate=True).startswith(begin)
    except (binascii.Error, ValueError, AttributeError, TypeError):
        return False


def _shortened(what):
    text = " ".join(str(what).split())
    return text if len(text) <= 120 else f"{text[:117]}..."
