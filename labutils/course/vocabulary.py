"""The course's notation and terms: collected from the tables that end each lesson, and checked to agree."""

import contextlib
import re
import unicodedata
from dataclasses import dataclass

RECURRENT = 8  # number of the first lesson on recurrent networks, which have letters of their own
PARTS = ("Linear factor models", "Recurrent networks")
HEADERS = {"Notation": ["symbol", "meaning", "shape"], "Terms": ["term", "meaning"]}
LOCAL = "here "  # begins the meaning of a symbol that the other lessons use for something else


@dataclass(frozen=True)
class Entry:
    """A row of a lesson's table: one symbol or term, and what it means there."""

    notebook: str
    name: str
    meaning: str

    @property
    def core(self):
        """The meaning up to a colon, after which stands what is particular to the lesson."""
        return self.meaning.partition(":")[0]

    @property
    def local(self):
        return self.meaning.startswith(LOCAL)

    @property
    def part(self):
        """Part of the course that the lesson belongs to, by its number."""
        number = re.match(r"\d+", self.notebook)
        return PARTS[number is not None and int(number[0]) >= RECURRENT]


class TableError(ValueError):
    """A table is not in the form that can be collected; the message says what is."""


def entries(node, notebook, table):
    """Rows of a lesson's table, one entry for each symbol or term.

    Parameters
    ----------
    node : nbformat.NotebookNode
    notebook : str
        Stem of the notebook.
    table : str
        Heading of the table: "Notation" or "Terms".

    Returns
    -------
    list of Entry
        Empty if the notebook has no such table.

    Raises
    ------
    TableError
        If a row does not have the table's columns.
    """
    text = "\n\n".join(cell.source for cell in node.cells if cell.cell_type == "markdown")
    _, heading, rest = text.partition(f"### {table}\n")
    rows = [line for line in rest.split("\n#")[0].splitlines() if line.startswith("|")]
    if not heading:
        return []
    header = HEADERS[table]
    if [_cells(row) for row in rows[:2]] != [header, ["---"] * len(header)]:
        raise TableError(f"the table {table} must begin with | {' | '.join(header)} | and a line of dashes")
    found = []
    for row in rows[2:]:
        cells = _cells(row)
        if len(cells) != len(header) or not all(cells[:2]):
            raise TableError(f"the row {row!r} of the table {table} must have {len(header)} columns")
        names = re.findall(r"\$[^$]+\$", cells[0]) if table == "Notation" else []
        found += [Entry(notebook, name, cells[1]) for name in names or [cells[0]]]
    return found


def gather(nodes, table):
    """Rows of the tables of several lessons, and what is wrong with tables that cannot be read.

    Parameters
    ----------
    nodes : iterable of (str, nbformat.NotebookNode)
        Stem and content of each notebook.
    table : str
        "Notation" or "Terms".

    Returns
    -------
    found : list of Entry
    problems : list of (str, str)
        Stem of the notebook, and a sentence.
    """
    found, problems = [], []
    for stem, node in nodes:
        try:
            found += entries(node, stem, table)
        except TableError as error:
            problems.append((stem, str(error)))
    return found, problems


def conflicts(found, table):
    """Symbols or terms that lessons disagree about.

    Parameters
    ----------
    found : list of Entry
        Of all lessons, in their order.
    table : str
        "Notation", where a symbol has one meaning in all lessons of a part, up to a colon, or one that begins with
        "here"; or "Terms", where a term stands in one lesson only.

    Returns
    -------
    list of (Entry, Entry)
        The entry at odds, and the first one of that name.
    """
    first, odd = {}, []
    for entry in found:
        if table == "Notation" and entry.local:
            continue
        key = (entry.part, entry.name) if table == "Notation" else entry.name.casefold()
        known = first.setdefault(key, entry)
        if entry is not known and (table == "Terms" or entry.core != known.core):
            odd.append((entry, known))
    return odd


def page(found, table):
    """Markdown page of all symbols, or of all terms, each with the lessons in which it stands.

    Parameters
    ----------
    found : list of Entry
    table : str
        "Notation" or "Terms".

    Returns
    -------
    str
    """
    if table == "Terms":
        intro = "The field's terms, each with the lesson that introduces it."
        return "\n".join([f"# {table}", "", intro, "", *_table(found, table, str.casefold)])
    lines = [
        "# Notation",
        "",
        "What each symbol means, and in which lessons. A lesson's own table has the shapes.",
    ]
    for part in PARTS:
        of_part = [entry for entry in found if entry.part == part]
        lines += ["", f"## {part}", "", *_table(of_part, table, _letter)] if of_part else []
    return "\n".join(lines)


def _table(found, table, key):
    meanings = {}
    for entry in found:
        said = entry.meaning.removeprefix(LOCAL) if entry.local else entry.core
        meanings.setdefault((entry.name, said), []).append(entry.notebook)
    lines = [f"| {HEADERS[table][0]} | meaning | lesson |", "| --- | --- | --- |"]
    for name, said in sorted(meanings, key=lambda pair: key(pair[0])):
        stems = dict.fromkeys(meanings[name, said])
        links = ", ".join(f"[{stem.split('_')[0]}]({stem}.ipynb)" for stem in stems)
        lines.append(f"| {name}{_letter_names(name)} | {said} | {links} |")
    return lines


def _letter_names(symbol):
    """Hidden HTML with the names of a symbol's Greek letters and the letters, by which the search finds it."""
    words = []
    for command in re.findall(r"\\(?:var)?([A-Za-z]+)", symbol) if symbol.startswith("$") else []:
        case = "CAPITAL" if command[0].isupper() else "SMALL"
        with contextlib.suppress(KeyError):  # of other commands
            letter = unicodedata.lookup(f"GREEK {case} LETTER {command.upper().replace('LAMBDA', 'LAMDA')}")
            words += [command.lower(), letter]
    words = " ".join(dict.fromkeys(words))
    return f' <span class="letter-names" aria-hidden="true">{words}</span>' if words else ""


def _cells(row):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip().strip("|"))]


def _letter(symbol):
    """Key that sorts symbols by their letter, Latin ones first, without the commands around it."""
    bare = re.sub(r"\\(bar|hat|tilde|mathbf|lVert|Vert|rVert)\b", "", symbol).strip("$ {}")
    return bare.startswith("\\"), bare.lstrip("\\").casefold(), symbol
