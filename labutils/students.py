"""Student copies, made from the solved notebooks: solutions taken out, or filled into the stubs.

An exercise is four cells in this order: a stub (``answer = None`` or a function that returns None), its check
(tagged ``nbval-check-output``), mostly a hint, and a folded solution (tagged ``solution``) that ends in the same
check. The copies carry nbgrader's cell metadata and delimiters.
"""

import ast
import copy
import re
from dataclasses import dataclass
from pathlib import Path

import nbformat

from labutils import course

BEGIN, END = "### BEGIN SOLUTION", "### END SOLUTION"
# nbgrader gives no points to a check that raises, and takes this part out of what it hands out.
GRADED = "\n\n### BEGIN HIDDEN TESTS\nlesson.require_right()\n### END HIDDEN TESTS"


class ExerciseError(course.RunError):
    """An exercise is not built as a copy needs it; the message says which, and how it should be."""


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
    course.UsageError
        If `output` holds solved notebooks, or a copy that would be replaced.
    ExerciseError
        If an exercise cannot be turned into a copy.
    course.RunError
        If the folder cannot be written to.
    """
    output, paths = Path(output), [Path(path) for path in paths]
    _refuse_place_of_originals(paths, output)
    copies = {}
    for path in paths:
        target = output / path.name
        if target in copies:
            raise course.UsageError(f"two of the notebooks are named {path.name}; their copies would be one")
        node = course.read(path)
        try:
            changed = with_solutions(node) if solved else without_solutions(node)
        except ExerciseError as error:
            raise ExerciseError(f"{path.stem}, {error}") from None
        copies[target] = nbformat.writes(changed) + "\n"
    for target, text in copies.items():
        if not force and _differs(target, text):
            raise course.UsageError(
                f"{target} is there already and may hold answers; name another folder with --output, "
                "or replace it with --force"
            )
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise course.RunError(
            f"cannot write to {output} ({error.strerror}); name a folder that can with --output"
        ) from error
    for target, text in copies.items():
        course.write(target, text)
    return list(copies)


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

    A check shows what the solution cell, which ends in the same check, had put out: "right".
    """
    node, found = copy.deepcopy(node), exercises(node)
    for exercise in found:
        stub, check, solution = (node.cells[i] for i in (exercise.stub, exercise.check, exercise.solution))
        try:
            filled = filling(stub.source, check.source, solution.source)
        except ExerciseError as error:
            raise ExerciseError(f"exercise {exercise.number}: {error}") from None
        _mark(node, exercise)
        stub.source = _join(stub.source, f"{BEGIN}\n{filled}\n{END}")
        check.source += GRADED
        check.outputs = solution.outputs
    return _without(node, found)


def exercises(node):
    """The exercises of a notebook, in order.

    Raises
    ------
    ExerciseError
        If a solution has no check or stub before it, or the stub leaves no answer open.
    """
    found, since = [], []  # the code cells since the last solution
    for number, cell in enumerate(node.cells):
        if cell.cell_type != "code":
            continue
        if "solution" not in _tags(cell):
            since.append(number)
            continue
        which = len(found) + 1
        if not since or "nbval-check-output" not in _tags(node.cells[since[-1]]):
            raise ExerciseError(
                f"exercise {which}: the code cell before a solution must be its check, tagged nbval-check-output"
            )
        check = since.pop()
        stubs = [(place, open_answer(node.cells[place].source)) for place in since]
        stubs = [stub for stub in stubs if stub[1] and stub[1] in _names(_parse(node.cells[check].source))]
        if not stubs:
            raise ExerciseError(
                f"exercise {which}: before the check there must be a stub, which ends in a name set to None or a "
                "function that returns None, and which the check uses"
            )
        found.append(Exercise(which, stubs[-1][0], check, number, stubs[-1][1]))
        since = []
    return found


def open_answer(stub):
    """Name that the last statement of a stub leaves open: set to None, or a function that returns None."""
    last = _last_statement(stub)
    if isinstance(last, ast.Assign) and isinstance(last.targets[0], ast.Name) and _is_open(last.value):
        return last.targets[0].id
    if isinstance(last, ast.FunctionDef) and isinstance(last.body[-1], ast.Return):
        return last.name if _is_open(last.body[-1].value) else None
    return None


def filling(stub, check, solution):
    """Code that gives the answer's name its right value, read off the solution.

    The solution ends in the same call as the check, with its own expression where the check has the answer. The
    two calls are laid over each other; what stands at the answer's place is bound to the answer's name.

    Parameters
    ----------
    stub, check, solution : str
        Sources of the three cells.

    Returns
    -------
    str

    Raises
    ------
    ExerciseError
        If the two calls do not fit, so that the right answer cannot be read off.
    """
    answer = open_answer(stub)
    checked, solved = _parse(check), _parse(solution)
    last = solved.body[-1] if solved.body else None
    call = last.value if isinstance(last, ast.Expr) else None
    if not isinstance(call, ast.Call) or not call.args:
        raise ExerciseError("the solution must end in the call of the check, as lesson.check_exercise(...)")
    name = ast.unparse(call.func)
    pattern = [
        node.args[0]
        for statement in _statements(checked)
        if isinstance(statement, ast.Expr)
        for node in ast.walk(statement)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == name and node.args
    ]
    overlay = _Overlay(answer, _definitions(checked), _definitions(solved))
    found = overlay.match(pattern[-1], call.args[0]) if pattern else None
    if found is None:
        raise ExerciseError(
            f"the solution must end in the check's own call, with another expression where {answer} stands there"
        )
    kept = _keep(solution, [last, *overlay.expanded])
    if overlay.arguments is not None:
        return _join(kept, _function(_last_statement(stub), overlay.arguments, found))
    if isinstance(found, ast.Lambda):
        body = _text(found.body, solution)
        return _join(kept, f"def {answer}({ast.unparse(found.args)}):\n    return {body}")
    expression = _text(found, solution)
    if any(isinstance(node, ast.FunctionDef) and node.name == expression for node in solved.body):
        return re.sub(rf"\b{expression}\b", answer, kept)
    return kept if expression == answer else _join(kept, f"{answer} = {expression}")


class _Overlay:
    """A pattern with a hole, the answer's name, laid over an expression; names defined on the way are expanded."""

    def __init__(self, hole, in_check, in_solution):
        self.hole = hole
        self.in_check = in_check
        self.in_solution = in_solution
        self.expanded = []  # statements of the solution that only repeat a step of the check
        self.arguments = None  # of the hole, if it is a call and the expression is not

    def match(self, pattern, node):
        """Expression at the hole's place, or None if the two differ elsewhere."""
        pattern = _unless_none(pattern)
        if isinstance(pattern, ast.Name) and pattern.id == self.hole:
            return node
        if isinstance(pattern, ast.Call) and ast.unparse(pattern.func) == self.hole:
            if isinstance(node, ast.Call) and _same(pattern.args, node.args):
                return node.func
            self.arguments = pattern.args
            return node
        if isinstance(pattern, ast.Name):
            if isinstance(node, ast.Name) and node.id in self.in_solution:
                statement, node = self.in_solution[node.id]
                self.expanded.append(statement)
            return self.match(self.in_check[pattern.id][1], node)
        if type(pattern) is not type(node):
            return None
        found = None
        for one, other in zip(_children(pattern), _children(node), strict=False):
            if self.has_hole(one):
                found = self.match(one, other)
                if found is None:
                    return None
            elif not _same(one, other):
                return None
        return found

    def has_hole(self, pattern, seen=()):
        names = _names(pattern) - set(seen)
        known = [name for name in names if name in self.in_check]
        return self.hole in names or any(
            self.has_hole(self.in_check[name][1], {*seen, *names}) for name in known
        )


def _function(stub, arguments, expression):
    """The stub's function, returning an expression in which the check's arguments stand for its parameters."""
    parameters = [argument.arg for argument in getattr(stub, "args", ast.arguments(args=[])).args]
    if len(parameters) != len(arguments) or not all(isinstance(argument, ast.Name) for argument in arguments):
        raise ExerciseError("the solution must define a function, as the stub does")
    renamed = {argument.id: parameter for argument, parameter in zip(arguments, parameters, strict=True)}
    for node in ast.walk(expression):
        if isinstance(node, ast.Name):
            node.id = renamed.get(node.id, node.id)
    return f"def {stub.name}({', '.join(parameters)}):\n    return {ast.unparse(expression)}"


def _join(kept, statement):
    apart = statement.startswith("def ") or isinstance(_last_statement(kept), ast.FunctionDef)
    gap = "\n\n\n" if apart else "\n"
    return f"{kept}{gap}{statement}".strip()


def _text(expression, source):
    """An expression as it is written, or normalised where it goes over several lines."""
    written = ast.get_source_segment(source, expression)
    return ast.unparse(expression) if written is None or "\n" in written else written


def _keep(source, dropped):
    """Lines of a cell without some of its top-level statements; comments stay."""
    lines = source.splitlines()
    for statement in dropped:
        for number in range(statement.lineno - 1, statement.end_lineno):
            lines[number] = None
    return "\n".join(line for line in lines if line is not None).strip()


def _definitions(tree):
    """Name -> its assignment and the expression assigned; of a tuple, an item of it."""
    found = {}
    for statement in _statements(tree):
        if isinstance(statement, ast.Assign):
            target = statement.targets[0]
            if isinstance(target, ast.Name):
                found[target.id] = statement, statement.value
            elif isinstance(target, ast.Tuple) and not isinstance(statement.value, ast.Tuple):
                for place, item in enumerate(target.elts):
                    value = ast.Subscript(statement.value, ast.Constant(place), ast.Load())
                    found[ast.unparse(item)] = statement, value
    return found


def _statements(tree):
    """Statements of a cell, those inside conditions and loops too, but not those inside functions."""
    for statement in tree.body:
        yield statement
        if isinstance(statement, ast.If | ast.For | ast.While | ast.With):
            yield from _statements(statement)
    for statement in getattr(tree, "orelse", []):
        yield from _statements(ast.Module([statement], []))


def _children(node):
    """The nodes in an expression's fields, and its other fields as one node that compares them."""
    nodes = list(ast.iter_child_nodes(node))
    rest = [v for _, v in ast.iter_fields(node) if not isinstance(v, ast.AST | list)]
    return [ast.Constant((type(node).__name__, len(nodes), *rest)), *nodes]


def _unless_none(node):
    """The part of ``None if ... else part``."""
    guarded = isinstance(node, ast.IfExp) and isinstance(node.body, ast.Constant) and node.body.value is None
    return node.orelse if guarded else node


def _same(one, other):
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return ast.dump(one) == ast.dump(other)


def _is_open(node):
    """Whether a value is None, or holds None in a list, tuple or dict."""
    if node is None or (isinstance(node, ast.Constant) and node.value is None):
        return True
    if isinstance(node, ast.Dict):
        return any(map(_is_open, node.values))
    return isinstance(node, ast.List | ast.Tuple) and any(map(_is_open, node.elts))


def _last_statement(source):
    statements = _parse(source).body
    return statements[-1] if statements else None


def _names(tree):
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _parse(source):
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise ExerciseError(f"a cell is not Python ({error.msg}, line {error.lineno})") from None


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


def _tags(cell):
    return cell.metadata.get("tags", [])


def _refuse_place_of_originals(paths, output):
    place = output.resolve()
    if course.NOTEBOOKS in (place, *place.parents) or any(path.resolve().parent == place for path in paths):
        raise course.UsageError(
            f"copies are not written to {output}, where solved notebooks are; name another folder with --output"
        )


def _differs(path, text):
    try:
        return path.exists() and path.read_text(encoding="utf-8") != text
    except (OSError, UnicodeDecodeError):
        return True
