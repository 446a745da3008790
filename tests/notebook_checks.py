"""What must hold for every stored notebook; needs no kernel."""

import ast
import re

import nbformat
import papermill

from labutils import course

FORBIDDEN_TAGS = {"injected-parameters", "papermill-error-cell-tag", "raises-exception"}
MACHINE_PATH = re.compile(r"(?<![\w:/])/(home|root|tmp|Users|work|usr|var)/|[A-Z]:\\\\")
LONGEST_CELL = 25
LARGEST_FILE = 1_000_000


def problems(path, quick):
    """Everything that is wrong with a stored notebook, each in a sentence.

    Parameters
    ----------
    path : pathlib.Path
    quick : dict
        Content of quick.yml.
    """
    node = nbformat.read(path, as_version=4)
    found = [*_format(path, node), *_outputs(node), *_cells(node), *_parameters(path, node, quick)]
    return found


def _code(node):
    return [cell for cell in node.cells if cell.cell_type == "code"]


def _format(path, node):
    try:
        nbformat.validate(node)
    except nbformat.ValidationError as error:
        yield f"is not valid: {str(error).splitlines()[0]}"
    if path.stat().st_size > LARGEST_FILE:
        yield f"is larger than {LARGEST_FILE} bytes"
    if set(node.metadata) - {"kernelspec", "language_info"}:
        yield f"has metadata {set(node.metadata)}; normalise it (make outputs)"
    if node.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "does not name the kernel python3"
    if "version" in node.metadata.get("language_info", {}):
        yield "names a Python version in its metadata; normalise it (make outputs)"
    for cell in node.cells:
        if set(cell.metadata) - {"tags", "jupyter"}:
            yield f"cell {cell.id} has metadata {set(cell.metadata)}; normalise it (make outputs)"
    titles = [
        cell
        for cell in node.cells
        if cell.cell_type == "markdown" and re.search(r"^# ", cell.source, re.MULTILINE)
    ]
    if len(titles) != 1:
        yield f"has {len(titles)} first-level headings, not one"
    if course.minutes(path) == (0, 0):
        yield "does not state its minutes to read and to run"


def _outputs(node):
    counts = [cell.execution_count for cell in _code(node)]
    if counts != list(range(1, len(counts) + 1)):
        yield "is not stored from one clean run from top to bottom"
    for cell in _code(node):
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                yield f"cell {cell.id} stores an error or a warning"
            if "image/png" in output.get("data", {}) and not output.metadata.get("image/png", {}).get("alt"):
                yield f"cell {cell.id} has a figure without alt text"
            text = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
            if MACHINE_PATH.search(text):
                yield f"cell {cell.id} stores a path of one machine"


def _cells(node):
    for cell in _code(node):
        if FORBIDDEN_TAGS & set(cell.metadata.get("tags", [])):
            yield f"cell {cell.id} is tagged {FORBIDDEN_TAGS & set(cell.metadata.tags)}"
        lines = cell.source.splitlines()
        if len(lines) > LONGEST_CELL:
            yield f"cell {cell.id} has {len(lines)} lines, more than {LONGEST_CELL}"
        if "clear_output" in cell.source:
            yield f"cell {cell.id} clears its output"
        if any(line.rstrip().endswith(";") for line in lines):
            yield f"cell {cell.id} ends a line with a semicolon"


def _parameters(path, node, quick):
    tagged = [cell for cell in _code(node) if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        yield f"has {len(tagged)} cells tagged parameters, not one"
        return
    names = []
    for statement in ast.parse(tagged[0].source).body:
        if not isinstance(statement, ast.AnnAssign):
            yield f"the parameters cell holds {ast.unparse(statement)!r}, not name: type = literal  # help"
            continue
        names.append(statement.target.id)
    read = papermill.inspect_notebook(str(path))
    for name in names:
        if name not in read:
            yield f"papermill cannot read the parameter {name}"
        elif not read[name]["help"]:
            yield f"the parameter {name} has no help"
    rules = course.read_rules(path)
    if set(rules) != set(names):
        yield f"parameters {sorted(names)} and rules {sorted(rules)} differ"
    unknown = set(quick.get(path.stem, {})) - set(names)
    if unknown:
        yield f"quick.yml sets {sorted(unknown)}, which it does not have"
    if path.stem not in quick:
        yield "has no values in quick.yml"
