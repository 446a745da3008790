"""What must hold for every stored notebook; needs no kernel."""

import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import nbformat

from labutils import NOTEBOOKS
from labutils.conventions import COLOURS, FOLDED, SOLUTION
from labutils.course import files, markup, notebook, parameters, students, vocabulary
from labutils.course.notebook import parse, read, tags
from labutils.errors import ExerciseError, RunError, UsageError
from labutils.rules import FORM

FORBIDDEN_TAGS = {"injected-parameters", "papermill-error-cell-tag", "raises-exception"}
_ROOTS = "home root tmp Users work usr var opt mnt scratch media srv content kaggle workspace Volumes private nfs lustre gpfs"
MACHINE_PATH = re.compile(
    rf"file://|(?<![\w:/.~-])/({_ROOTS.replace(' ', '|')})/|(?<!\w)[A-Z]:\\{{1,2}}\w+\\|(?<![\w/])~/\w"
)
CELL_METADATA = {"tags", "jupyter"}
GRADING = {"nbgrader", "editable", "deletable", "format"}  # that `fix` keeps, in copies handed out
METADATA = {
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    },
}
LONGEST_CELL = 25
LARGEST_FILE = 1_000_000
LEAST_CONTRAST = 3.0  # WCAG 2.2, 1.4.11, for lines and marks
# A line of the parameters cell, as papermill reads it
PARAMETER = re.compile(r"(\w+): \w+ = [^#]+?  # [^=]*[^=\s]")
UNTESTED = "not tested with these parameters"  # says lesson.expect away from the defaults
IMAGE_TYPES = ("image/png", "image/jpeg", "image/svg+xml")
# Calls that draw lines and marks; areas, and greys for what is to recede, may be lighter.
LINES_AND_MARKS = {"plot", "loglog", "semilogx", "semilogy", "errorbar", "scatter", "step", "stem"}
LINES_AND_MARKS |= {"axline", "axhline", "axvline", "hlines", "vlines"}


@dataclass(frozen=True)
class Problem:
    """Something wrong with a notebook, and what is allowed; `cell` says where, if it is in one cell."""

    notebook: str
    cell: str
    wrong: str
    allowed: str

    def __str__(self):
        return f"{', '.join(filter(None, (self.notebook, self.cell)))}: {self.wrong}; {self.allowed}"


def problems(path, quick=None):
    """Everything that is wrong with a stored notebook.

    Parameters
    ----------
    path : path-like
    quick : dict, optional
        Content of quick.yml; read from there if not given.

    Returns
    -------
    list of Problem

    Raises
    ------
    UsageError
        If the file is not a notebook.
    """
    path = Path(path)
    quick = parameters.quick_parameters() if quick is None else quick
    node = read(path)
    found = [*_format(path, node), *_outputs(node), *_accessibility(node), *_exercises(node)]
    found += _page_markup(path, node)
    broken = list(_not_python(node))
    found += broken or [*_cells(node), *_parameters(path, node, quick)]
    return [Problem(path.stem, place(node, cell), wrong, allowed) for cell, wrong, allowed in found]


def fix(path):
    """Normalise a notebook file: format 4.5 with ids, and no metadata but the course's.

    VS Code, Colab and other editors add metadata of their own. Text, code, outputs and tags stay as they are.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    bool
        Whether the file was changed. It is replaced as a whole, or not at all.

    Raises
    ------
    UsageError
        If the file is not a notebook.
    RunError
        If it cannot be written.
    """
    path = Path(path).resolve()
    node = read(path)
    node.nbformat, node.nbformat_minor = 4, 5
    kept = {"kernelspec": node.metadata.get("kernelspec", {})}
    language = node.metadata.get("language_info", {}).get(
        "name", kept["kernelspec"].get("language", "python")
    )
    if language != "python":
        raise UsageError(f"{path} is a notebook in {language}; only those in Python are normalised")
    is_right = kept["kernelspec"].get("name") == METADATA["kernelspec"]["name"]
    node.metadata = nbformat.from_dict(METADATA | (kept if is_right else {}))
    for cell in node.cells:
        cell.metadata = {n: value for n, value in cell.metadata.items() if n in CELL_METADATA | GRADING}
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
    _, node = nbformat.validator.normalize(node)
    content = f"{nbformat.writes(node)}\n"
    if content.encode() == path.read_bytes():
        return False
    try:
        files.replace(path, content)
    except RunError as error:
        raise RunError(f"cannot write {path} ({error.__cause__.strerror}); it is as it was") from None
    return True


def vocabulary_problems(paths):
    """Tables of symbols and terms that cannot be read, are missing in a lesson, or contradict each other.

    Parameters
    ----------
    paths : list of path-like

    Returns
    -------
    list of Problem
    """
    problems = []
    nodes = [(path.stem, read(path)) for path in map(Path, paths)]
    named = {Path(path).resolve() for path in paths}
    lessons = {path.stem for path in notebook.notebooks()[1:] if path in named}
    for table in vocabulary.HEADERS:
        found, unreadable = vocabulary.gather(nodes, table)
        problems += [Problem(stem, "", wrong, "the site collects these tables") for stem, wrong in unreadable]
        for stem in sorted(lessons - {entry.notebook for entry in found} - {stem for stem, _ in unreadable}):
            wrong = f"has no table under ### {table}"
            problems.append(Problem(stem, "", wrong, "each lesson after the first ends with one"))
        for odd, first in vocabulary.conflicts(found, table):
            wrong = (
                f"says that {odd.name} is {odd.meaning!r}, and {first.notebook} that it is {first.meaning!r}"
            )
            allowed = {
                "Notation": 'begin with "here" what holds in one lesson only',
                "Terms": "a term stands in the lesson that introduces it",
            }
            problems.append(Problem(odd.notebook, f"table {table}", wrong, allowed[table]))
    return problems


def palette_problems(colours=COLOURS):
    """Colours of the figure style's cycle that are too pale on its white ground.

    Parameters
    ----------
    colours : sequence of matplotlib colours

    Returns
    -------
    list of Problem
    """
    return [
        Problem("figure style", f"colour C{number}", *_too_pale(colour))
        for number, colour in enumerate(colours)
        if contrast(colour) < LEAST_CONTRAST
    ]


def contrast(colour, ground="white"):
    """WCAG's contrast of two colours, from 1 (the same) to 21 (black on white).

    Parameters
    ----------
    colour, ground : matplotlib colour

    Returns
    -------
    float
    """
    lighter, darker = sorted(map(_luminance, (colour, ground)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour):
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in mpl.colors.to_rgb(colour)]
    return sum(weight * v for weight, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _too_pale(colour):
    return (
        f"{colour} has a contrast of {contrast(colour):.1f}:1 to white",
        f"lines and marks need at least {LEAST_CONTRAST:g}:1",
    )


def place(node, cell):
    """Number of a cell, counted from 1, and the start of its first line, by which an editor finds it."""
    if cell is None:
        return ""
    number = next(n for n, other in enumerate(node.cells, 1) if other is cell)
    line = next(iter(cell.source.strip().splitlines()), "")
    return f"cell {number} ({line if len(line) <= 40 else line[:37] + '...'})"


def _code(node):
    return [cell for cell in node.cells if cell.cell_type == "code"]


def _format(path, node):
    normal = "labutils check --fix normalises it"
    ids = [cell.get("id") for cell in json.loads(path.read_text(encoding="utf-8")).get("cells", [])]
    if None in ids or len(set(ids)) < len(ids):
        yield (
            None,
            "has cells without an id, or two with the same",
            f"each cell needs an id of its own; {normal}",
        )
    if path.stat().st_size > LARGEST_FILE:
        yield None, f"has {path.stat().st_size} bytes", f"at most {LARGEST_FILE} are allowed"
    if set(node.metadata) - set(METADATA):
        yield None, f"has metadata {sorted(node.metadata)}", f"only kernelspec and language_info; {normal}"
    if node.metadata.get("kernelspec", {}).get("name") != "python3":
        yield None, "does not name the kernel python3", f"other kernels are not there for everyone; {normal}"
    if "version" in node.metadata.get("language_info", {}):
        yield None, "names a Python version in its metadata", normal
    odd = [cell for cell in node.cells if set(cell.metadata) - CELL_METADATA]
    if odd:
        names = sorted({name for cell in odd for name in set(cell.metadata) - CELL_METADATA})
        others = f", as {len(odd) - 1} other cells have" if len(odd) > 1 else ""
        yield odd[0], f"has metadata {names}{others}", f"only tags and jupyter are allowed; {normal}"
    if notebook.minutes(node) == (0, 0):
        yield None, "does not state its time", "write **Time**: N minutes to read, M minutes to run."


def _outputs(node):
    counts = [cell.execution_count for cell in _code(node)]
    if counts != list(range(1, len(counts) + 1)):
        yield (
            None,
            "is not stored from one clean run from top to bottom",
            "restart the kernel and run all cells",
        )
    for cell in _code(node):
        for output in cell.outputs:
            if output.output_type == "error" or output.get("name") == "stderr":
                yield cell, "stores an error or a warning", "a page shows neither"
            text = output.get("text", "") + "\n".join(output.get("traceback", []))
            shown = output.get("data", {}).items()
            text += "\n".join(
                str(value) for kind, value in shown if kind.startswith("text/") or "svg" in kind
            )
            if UNTESTED in text:
                yield cell, f"stores {UNTESTED!r}", "store the run at the defaults, for which bands hold"
            if MACHINE_PATH.search(text):
                yield cell, "stores a path of one machine", "print names of files, not where they lie"


def _page_markup(path, node):
    """What a page would not show as it stands."""
    home = path.resolve().parent
    for cell in node.cells:
        for wrong, allowed in markup.problems(cell):
            yield cell, wrong, allowed
        for address in markup.local_images(cell):
            wrong = markup.wrong_with_image(home / address, home)
            if wrong:
                yield cell, f"shows the image {address}", wrong


def _accessibility(node):
    level = titles = 0
    for cell in node.cells:
        if cell.cell_type == "markdown":
            page = _page(cell.source)
            for heading in page.find_all(re.compile("^h[1-6]$")):
                new = int(heading.name[1])
                titles += new == 1
                if new > level + 1:
                    before = f"one of level {level}" if level else "none"
                    wrong = f"has a heading of level {new} after {before} ({heading.get_text()})"
                    yield cell, wrong, "a heading may be one level below the one before it, not more"
                level = new
            yield from _images_without_alt(cell, page)
        for output in cell.get("outputs", []):
            shown = output.get("data", {})
            for kind in IMAGE_TYPES:
                if kind in shown and not output.metadata.get(kind, {}).get("alt"):
                    yield cell, "has a figure without alt text", "show it with lesson.show(figure, alt)"
            if "text/html" in shown:
                yield from _images_without_alt(cell, _parse_html(shown["text/html"]))
    if titles != 1:
        yield None, f"has {titles} first-level headings", "exactly one is allowed, the title"


def _images_without_alt(cell, page):
    for image in page.find_all("img"):
        if not image.get("alt", "").strip():
            yield (
                cell,
                "has an image without alt text",
                "say in a sentence what is to be seen: ![sentence](file)",
            )


def _page(markdown):
    """A Markdown cell as the page shows it."""
    from markdown_it import MarkdownIt

    return _parse_html(MarkdownIt().enable("table").render(markdown))


def _parse_html(text):
    from bs4 import BeautifulSoup

    return BeautifulSoup(text, "html.parser")


def _exercises(node):
    try:
        found = students.exercises(node)
        students.with_solutions(node)
    except ExerciseError as error:
        yield None, str(error).replace(": ", ", ", 1), "a student's copy could not be made"
        return
    checks = {exercise.check for exercise in found}
    for number, cell in enumerate(node.cells):
        if cell.cell_type != "code":
            continue
        printed = [output.get("text") for output in cell.outputs]
        if number in checks and printed != ["not done yet\n"]:
            yield cell, "does not print 'not done yet' alone", "exercises are stored unanswered"
        if SOLUTION in tags(cell) and printed != ["right\n"]:
            yield cell, "does not print 'right' alone", "a solution ends in its exercise's check"


def _not_python(node):
    for cell in _code(node):
        try:
            ast.parse(cell.source)
        except SyntaxError as error:
            yield (
                cell,
                f"is not Python ({error.msg}, line {error.lineno})",
                "magics and shell lines are not allowed",
            )


def _cells(node):
    for cell in _code(node):
        if FORBIDDEN_TAGS & set(tags(cell)):
            wrong = f"is tagged {', '.join(FORBIDDEN_TAGS & set(tags(cell)))}"
            yield cell, wrong, f"{', '.join(sorted(FORBIDDEN_TAGS))} are not allowed"
        yield from _fold(cell)
        lines = cell.source.splitlines()
        if len(lines) > LONGEST_CELL:
            yield cell, f"has {len(lines)} lines", f"at most {LONGEST_CELL} are allowed"
        if "clear_output" in cell.source:
            yield cell, "clears its output", "print a line for each step instead"
        if any(line.rstrip().endswith(";") for line in lines):
            yield cell, "ends a line with a semicolon", "end a figure with lesson.show"
        yield from _colours(cell)


def _fold(cell):
    """Whether a cell is folded exactly if its role says so."""
    roles = [role for role in FOLDED if role in tags(cell)]
    hidden = cell.metadata.get("jupyter", {}).get("source_hidden", False)
    if len(roles) > 1:
        yield cell, f"is tagged {' and '.join(roles)}", "a cell has one role"
    if roles and not hidden:
        yield (
            cell,
            "is not folded",
            f'a cell tagged {roles[0]} has the metadata "jupyter": {{"source_hidden": true}}',
        )
    if hidden and not roles:
        yield cell, "is folded", f"only cells tagged {', '.join(FOLDED)} are"


def _colours(cell):
    """Colours written out in calls that draw lines or marks."""
    for call in ast.walk(parse(cell)):
        drawn = isinstance(call, ast.Call) and getattr(call.func, "attr", "") in LINES_AND_MARKS
        for keyword in call.keywords if drawn else ():
            if keyword.arg in ("c", "color") and isinstance(keyword.value, ast.Constant):
                colour = keyword.value.value
                if _is_named(colour) and contrast(colour) < LEAST_CONTRAST:
                    yield cell, *_too_pale(colour)


def _is_named(colour):
    """Whether this is a colour by itself, neither a grey nor a place in the figure style's cycle."""
    named = mpl.colors.is_color_like(colour) and not re.fullmatch(r"C\d+", str(colour))
    return named and len(set(mpl.colors.to_rgb(colour))) > 1


def _parameters(path, node, quick):
    tagged = notebook.parameters_cells(node)
    if len(tagged) != 1:
        yield None, f"has {len(tagged)} cells tagged parameters", "exactly one is needed"
        return
    (cell,) = tagged
    form = "each line is name: type = literal  # help in words, without an equals sign"
    names = []
    for line in cell.source.splitlines():
        read_off = PARAMETER.fullmatch(line)
        if read_off:
            names.append(read_off[1])
        else:
            yield cell, f"holds {line!r}", form
    try:
        rules = parameters.read_rules(node, path.stem)
    except UsageError as error:
        yield None, str(error), "call lesson.check_parameters with a literal rule for each parameter"
    else:
        yield from _rules(cell, rules, names, parameters.defaults(node))
    unknown = set(quick.get(path.stem, {})) - set(names)
    if unknown:
        yield cell, f"lacks {sorted(unknown)}, which tests/quick.yml sets", "both must have the same names"
    if path.stem not in quick and path.resolve().parent == NOTEBOOKS:
        yield None, "has no values in tests/quick.yml", "a lesson of the course needs them for its quick run"


def _rules(cell, rules, names, defaults):
    if set(rules) != set(names):
        wrong = f"has the parameters {sorted(names)} and rules for {sorted(rules)}"
        yield cell, wrong, "lesson.check_parameters needs one rule for each parameter"
    for name, rule in rules.items():
        if name in defaults and rule.default != defaults[name]:
            said = "no default" if rule.default is None else f"the default {rule.default!r}"
            wrong = f"sets {name} to {defaults[name]!r}, and its rule says {said}"
            yield cell, wrong, f"a rule says the page's default: {FORM}"
