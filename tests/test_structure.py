"""Rooms of the package: imports go one way, there are no circles, and nothing slow is imported before its time."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import labutils

PACKAGE = Path(labutils.__file__).parent
# A room may import from its own line and from those above it.
ROOMS = [
    {"__init__"},
    {"errors"},
    {"rules"},
    {"conventions"},
    {"data"},
    {"factor_models", "gabor"},
    {"training"},
    {"recurrent", "language"},
    {"lesson"},
    {"experiments", "diagnosis"},
    {"course.notebook"},
    {"course.settings"},
    {"course.parameters"},
    {"course.files"},
    {"course.jobs"},
    {"course.execution"},
    {"course.running"},
    {"course.records", "course.tables"},
    {"course.markup", "course.vocabulary"},
    {"course.students"},
    {"course.checks"},
    {"course.site"},
    {"__main__"},
]


def modules():
    """Name of each module, without the package's own, and its path."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        yield name, path


def imported(path, known):
    """Modules of the package that a module imports, in its functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "labutils":
            base = node.module.removeprefix("labutils").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix(".")
                found.add(inner if inner in known else base or "__init__")
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "labutils"]
            found |= {name.removeprefix("labutils").removeprefix(".") or "__init__" for name in names}
    return found


@pytest.fixture(scope="module")
def graph():
    paths = dict(modules())
    return {name: imported(path, paths) - {name} for name, path in paths.items()}


def room(name):
    """Number of the line that a module belongs to."""
    for number, names in enumerate(ROOMS):
        if name in names or name.split(".")[0] in names:
            return number
    raise AssertionError(f"{name} has no place among the rooms")


def test_every_module_has_a_room_and_every_room_a_module(graph):
    assert {room(name) for name in graph if name != "course"} == set(range(len(ROOMS)))


def test_imports_go_one_way(graph):
    wrong = [
        f"{name} imports {other}"
        for name, others in graph.items()
        if name != "course"
        for other in others
        if other != "course" and room(other) > room(name)
    ]
    assert wrong == []


def test_there_are_no_circles(graph):
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_a_circle_and_a_wrong_way_are_seen(graph):
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter({**graph, "errors": {"course.checks"}}).prepare()
    assert room("data.image_sets") < room("course.files")


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import labutils.lesson, labutils.data, labutils.factor_models, labutils.gabor", "torch"),
        ("import labutils.course.execution", "torch sklearn matplotlib pandas papermill sphinx"),
        ("import labutils.course.running", "torch matplotlib pandas papermill sphinx distributed"),
        ("import labutils.course.checks", "torch papermill sphinx nbconvert rfc3987_syntax.syntax_helpers"),
        ("import labutils.__main__", "torch numpy nbformat yaml"),
    ],
)
def test_nothing_slow_is_imported_before_its_time(statement, absent):
    source = f"import sys; {statement}; print([name for name in {absent.split()!r} if sys.modules.get(name)])"
    run = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout == "[]\n"


@pytest.mark.parametrize(
    ("command", "status"), [(["--help"], 0), (["run", "99"], 2), (["check", "00"], None)]
)
def test_small_commands_start_at_once(command, status):
    """In processor time that does not depend on what else the machine does: modules imported, not seconds."""
    source = (
        "import sys, labutils.__main__ as door\n"
        f"sys.argv = ['labutils', *{command!r}]\n"
        "try: door.main()\n"
        "except SystemExit as end: print(end.code or 0)\n"
        "else: print(0)\n"
        "print([n for n in ('torch', 'sklearn', 'pandas', 'papermill', 'sphinx', 'nbconvert') if n in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True, timeout=60
    )
    *_, ended, slow = run.stdout.splitlines()
    assert slow == "[]"
    assert status is None or int(ended) == status
