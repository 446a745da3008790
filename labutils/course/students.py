"""Student copies, made from the solved notebooks: solutions taken out, or filled into the stubs.

An exercise is four cells in this order: a stub (``answer = None`` or a function that returns None), its check
(tagged ``nbval-check-output``), mostly a hint, and a folded solution (tagged ``solution``). The solution gives the
stub's own name its right value, and ends in the check's last statement. The copies carry nbgrader's cell metadata
and delimiters.
"""

import ast
import copy
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat

from labutils.conventions import CHECK, SOLUTION
from labutils.course import files
from labutils.course.notebook import read, tags
from labutils.errors import ExerciseError, UsageError

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
# nbgrader gives no points to a check that raises, and takes this part out of what it hands out. What the check compares
# is compared again in a fresh process (-I: without files of this folder): the cells above may have replaced names here. What
# they do to Python's own modules, such as subprocess, it does not withstand.
GRADED = """

### BEGIN HIDDEN TESTS
def _grade(call):
    import builtins, json, subprocess, sys, types

    said = []
    judge = "import importlib.util, json, runpy, sys; package = importlib.util.find_spec('labutils'); "
    judge += "room = runpy.run_path(package.submodule_search_locations[0] + '/lesson/exercises.py'); "
    judge += "arguments, settings = json.load(sys.stdin); room['check_exercise'](*arguments, **settings)"

    def as_lists(value):
        kind = builtins.type(value)
        if kind.__module__.split(".")[0] in ("numpy", "torch"):
            return value.tolist()
        if kind.__module__.split(".")[0] == "pandas":
            return value.to_numpy().tolist()
        return builtins.list(value) if kind in (builtins.range, builtins.tuple) else builtins.float(value)

    def ask(*arguments, **settings):
        asked = json.dumps([arguments, settings], default=as_lists)
        command = [sys.executable, "-I", "-c", judge]
        judged = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
        said.append((judged.stdout or judged.stderr).strip())

    attempt = lambda function, *arguments: function(*arguments)  # what it raises costs the point
    builtins.exec(call, {{**builtins.globals(), "lesson": types.SimpleNamespace(check_exercise=ask, attempt=attempt)}})
    if not said or builtins.any(word != "right" for word in said):
        raise builtins.AssertionError(", ".join(said) or "not done yet, or not in the form that was asked for")


_grade({call!r})
### END HIDDEN TESTS"""


@dataclass
class Exercise:
    """Places of an exercise's cells in its notebook, and the name that its stub gives to the answer."""

    number: int
    stub: int
    check: int
    solution: int
    answer: str


def make(paths, output, *, solved=False, force=False):
    """Write student copies of notebooks, all of them or, where anything is wrong, none.

    Parameters
    ----------
    paths : list of path-like
        The solved notebooks.
    output : path-like
        Folder to write to, under the notebooks' own file names.
    solved : bool
        Whether to fill the solutions into the stubs (for instructors, and as nbgrader's source).
    force : bool
        Whether to replace copies that are there already and differ: answers in them are lost.

    Returns
    -------
    list of pathlib.Path
        The copies.

    Raises
    ------
    UsageError
        If `output` holds solved notebooks, or a copy that would be replaced.
    ExerciseError
        If an exercise cannot be turned into a copy.
    RunError
        If the folder cannot be written to.
    """
    paths = [Path(path) for path in paths]
    folder, copies = files.Folder(output, "student", sources=paths), {}
    folder.check((path.name for path in paths), force=True)  # what is there may be the very same copies
    for path in paths:
        if path.name in copies:
            raise UsageError(f"two of the notebooks are named {path.name}; their copies would be one")
        node = read(path)
        try:
            changed = with_solutions(node) if solved else without_solutions(node)
        except ExerciseError as error:
            raise ExerciseError(f"{path.stem}, {error}") from None
        copies[path.name] = nbformat.writes(changed) + "\n"
    folder.write(copies, force=force)
    return [folder.path / name for name in copies]


def without_solutions(node):
    """Copy of a notebook for a student: no solution cells, and the checks folded, as they name the answers.

    What the other cells put out is kept: a figure to compare one's own with, and "not done yet" under each check.
    """
    node, found = copy.deepcopy(node), exercises(node)
    for exercise in found:
        _mark(node, exercise)
        check = node.cells[exercise.check]
        check.metadata["jupyter"] = {"source_hidden": True}
        check.metadata |= {"editable": False, "deletable": False}
    return _without(node, found)


def with_solutions(node):
    """Copy of a notebook for an instructor: each solution between nbgrader's delimiters in its stub.

    A check shows what the solution cell, which ends in the same statement, had put out: "right".
    """
    node, found = copy.deepcopy(node), exercises(node)
    for exercise in found:
        stub, check, solution = (node.cells[i] for i in (exercise.stub, exercise.check, exercise.solution))
        _mark(node, exercise)
        stub.source += f"\n\n\n{BEGIN}\n{filling(check, solution, exercise.number)}\n{END}"
        check.source += GRADED.format(call=_call(check, exercise.number))
        check.outputs = solution.outputs
    return _without(node, found)


def exercises(node):
    """The exercises of a notebook, in order.

    Raises
    ------
    ExerciseError
        If a solution has no check or stub before it, does not end as the check does, or leaves the answer open.
    """
    found, since = [], []  # the code cells since the last solution
    for number, cell in enumerate(node.cells):
        if cell.cell_type != "code":
            if SOLUTION in tags(cell):
                raise ExerciseError(
                    f"cell {number + 1} is tagged {SOLUTION}, but only a code cell can be one"
                )
            continue
        if SOLUTION not in tags(cell):
            since.append(number)
            continue
        which = len(found) + 1
        if not since or CHECK not in tags(node.cells[since[-1]]):
            raise ExerciseError(
                f"exercise {which}: the code cell before a solution must be its check, tagged {CHECK}"
            )
        check = since.pop()
        filling(node.cells[check], cell, which)
        bound = _bound_names(_body(cell, which)[:-1])
        stubs = [(place, open_answer(node.cells[place], which)) for place in since]
        stubs = [stub for stub in stubs if stub[1] in bound]
        if not stubs:
            raise ExerciseError(
                f"exercise {which}: before the check there must be a stub, which ends in a name set to None or a "
                f"function that returns None, and to which the solution gives its value; it gives one to {bound}"
            )
        found.append(Exercise(which, stubs[-1][0], check, number, stubs[-1][1]))
        since = []
    known = {place for exercise in found for place in (exercise.check, exercise.solution)}
    for number, cell in enumerate(node.cells):
        if cell.cell_type == "code" and "check_exercise(" in cell.source and number not in known:
            raise ExerciseError(
                f"cell {number + 1} checks an exercise, and no code cell tagged {SOLUTION} follows: its solution, if there "
                "is one, would be handed out"
            )
        if cell.cell_type == "code" and re.search(rf"^\s*({BEGIN}|{END})", cell.source, re.MULTILINE):
            raise ExerciseError(
                f"cell {number + 1} holds nbgrader's marks of a solution, which copies put there"
            )
    return found


def open_answer(stub, which=0):
    """Name that the last statement of a stub leaves open: set to None, or a function that returns None."""
    body = _body(stub, which)
    last = body[-1] if body else None
    if isinstance(last, ast.Assign) and isinstance(last.targets[0], ast.Name) and _is_open(last.value):
        return last.targets[0].id
    if isinstance(last, ast.FunctionDef) and isinstance(last.body[-1], ast.Return):
        return last.name if _is_open(last.body[-1].value) else None
    return None


def filling(check, solution, which=0):
    """What of a solution fills the stub: all but its last statement, which is the check's.

    Raises
    ------
    ExerciseError
        If the last statements of the two cells differ, or there is nothing else.
    """
    checked, solved = _body(check, which), _body(solution, which)
    last = solved[-1] if len(solved) > 1 else None
    is_apart = last is not None and last.col_offset == 0 and solved[-2].end_lineno < last.lineno
    is_apart = is_apart and not isinstance(last, ast.FunctionDef | ast.ClassDef)
    if not checked or not is_apart or ast.dump(checked[-1]) != ast.dump(last):
        raise ExerciseError(
            f"exercise {which}: the solution must give the stub's name its value, and then end in the check's last "
            "statement, word for word, on lines of its own"
        )
    lines = solution.source.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(lines[: last.lineno - 1]).strip()


def _call(cell, which):
    """The last statement of a check, after the functions of the cell, through which it may ask."""
    body = _body(cell, which)
    functions = [statement for statement in body[:-1] if isinstance(statement, ast.FunctionDef)]
    return "\n\n".join(ast.unparse(statement) for statement in [*functions, body[-1]])


def _body(cell, which):
    try:
        return ast.parse(
            cell.source
        ).body  # magics are not allowed here: their lines would be counted otherwise
    except (SyntaxError, ValueError) as error:
        raise ExerciseError(
            f"exercise {which}: a cell is not Python ({getattr(error, 'msg', error)}, line {getattr(error, 'lineno', 1)})"
        ) from None


def _bound_names(statements):
    targets = [
        node for s in statements if isinstance(s, ast.Assign) for t in s.targets for node in ast.walk(t)
    ]
    names = [node.id for node in targets if isinstance(node, ast.Name)]
    return names + [s.name for s in statements if isinstance(s, ast.FunctionDef)]


def _is_open(node):
    """Whether a value is None, or holds None in a list, tuple or dict."""
    if node is None or (isinstance(node, ast.Constant) and node.value is None):
        return True
    if isinstance(node, ast.Dict):
        return any(map(_is_open, node.values))
    return isinstance(node, ast.List | ast.Tuple) and any(map(_is_open, node.elts))


def _mark(node, exercise):
    """Give the exercise's cells the metadata that nbgrader reads."""
    common = {"schema_version": 3, "task": False}
    name = f"exercise-{exercise.number}"
    node.cells[exercise.stub].metadata["nbgrader"] = {
        **common, "grade": False, "solution": True, "locked": False, "grade_id": name,
    }  # fmt: skip
    node.cells[exercise.check].metadata["nbgrader"] = {
        **common, "grade": True, "solution": False, "locked": True, "points": 1, "grade_id": f"{name}-check",
    }  # fmt: skip


def _without(node, found):
    solutions = {exercise.solution for exercise in found}
    node.cells = [cell for number, cell in enumerate(node.cells) if number not in solutions]
    return node
