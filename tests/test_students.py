"""Every exercise of every notebook: a copy is open, its solution is right, and plausible mistakes are refused.

The exercises of a notebook, and what they depend on, run once in this process with the quick values.
"""

import ast
import contextlib
import dis
import io
import json
import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from papermill.translators import translate_parameters

from labutils import lesson
from labutils.__main__ import cli
from labutils.course import students
from labutils.course.notebook import notebooks, read
from labutils.course.parameters import QUICK as QUICK_FILE
from labutils.errors import ExerciseError, RunError, UsageError
from labutils.lesson import exercises

NOTEBOOKS = notebooks()
QUICK = yaml.safe_load(QUICK_FILE.read_text())

# Wrong answers to exercises whose mistakes depend on the answer, so that the right one lists none.
WRONG = {
    ("03_ica", 3): ["[4, 3, 2, 0]", "[0, 4, 2, 0]", "[4, 4, 2]"],
    ("03_ica", 5): ["lambda Z: np.linalg.eigh(Z.T @ Z)", "lambda Z: Z", "lambda Z: 2 * np.eye(4)"],
    ("06_sparse_coding", 4): ["2 * alpha_of_5_percent / noise_std**2", "2 * alpha_of_5_percent", "0.05"],
    ("07_which_representation", 4): ["['PCA', 'FA', 'SFA', 'PCA']", "'ICA'", "['ICA', 'FA', 'SFA', 'ICA']"],
}
# The list of mistakes ends in all orders of four letters, some of which stand there already.
LISTED_TWICE = {("01_linear_factor_models", 2)}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_exercises_are_open_in_the_copy_and_right_when_solved_and_mistakes_are_refused(path, monkeypatch):
    node = read(path)
    copy, solved = students.without_solutions(node), students.with_solutions(node)
    found = students.exercises(node)
    assert found
    asked = record_checks(monkeypatch)
    monkeypatch.setattr(lesson, "show", lambda figure, *_, **__: plt.close(figure))
    # The copies lack the solution cells of the exercises before.
    stubs = {exercise.stub - exercise.number + 1: exercise for exercise in found}
    checks = {exercise.check - exercise.number + 1: exercise for exercise in found}
    namespace = {"__name__": "lesson"}
    with mpl.rc_context():
        for number in slice_of(copy.cells, {**dict.fromkeys(checks), **{n: solved.cells[n] for n in stubs}}):
            said = execute(copy.cells[number], namespace, path.stem)
            if number not in checks:
                continue
            assert said == "not done yet\n"
            answer, which = checks[number].answer, (path.stem, checks[number].number)
            (stub,) = (n for n, exercise in stubs.items() if exercise is checks[number])
            execute(solved.cells[stub], namespace)
            assert execute(solved.cells[number], namespace) == "right\n"
            n_refused = refuse_listed(copy.cells[number], answer, namespace, asked[-1], which in LISTED_TWICE)
            n_refused += refuse_given(copy.cells[number], answer, namespace, WRONG.get(which, []))
            assert n_refused, f"{which}: no wrong answer was tried"


def record_checks(monkeypatch):
    """Arguments of each call of `lesson.check_exercise`, as they come."""
    asked = []
    original = lesson.check_exercise

    def recording(answer, expected, **settings):
        asked.append((answer, expected, {"mistakes": (), "rtol": None, "atol": None, **settings}))
        original(answer, expected, **settings)

    monkeypatch.setattr(lesson, "check_exercise", recording)
    return asked


def refuse_listed(check, answer, namespace, asked, twice):
    """Each listed mistake gets its own message, from the check cell too where that asks for the answer itself."""
    right, expected, settings = asked
    itself = right is namespace[answer]
    n_refused = 0
    for wrong, message in settings["mistakes"]:
        if is_right(wrong, expected):  # by chance of the data, or because the entry is made from the answer
            continue
        said = exercises._feedback(wrong, expected, **settings)
        assert said == f"wrong: {message}" or (twice and said.startswith("wrong: ")), (wrong, said)
        n_refused += 1
        if itself:
            namespace[answer] = wrong
            assert execute(check, namespace) == f"{said}\n"
    return n_refused


def refuse_given(check, answer, namespace, wrong_answers):
    """The check cell refuses wrong answers, and so does a grader who runs what follows it."""
    for wrong in wrong_answers:
        namespace[answer] = eval(wrong, namespace)
        assert "wrong: " in execute(check, namespace), wrong
        with pytest.raises(AssertionError):
            lesson.require_right()
    return len(wrong_answers)


def is_right(wrong, expected):
    """Whether a listed mistake is the right answer itself, and not only near to it."""
    if isinstance(expected, str):
        return wrong == expected
    wrong, expected = exercises._as_array(wrong), exercises._as_array(expected)
    return wrong.shape == expected.shape and np.allclose(wrong, expected, rtol=1e-12, atol=1e-12)


def execute(cell, namespace, stem=None):
    """Run a cell, with the quick values if it holds the parameters; returns what it prints."""
    source = cell.source
    if "parameters" in cell.metadata.get("tags", []):
        source += "\n" + translate_parameters("python3", "python", QUICK[stem], "Parameters")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(source, "cell", "exec"), namespace)  # noqa: S102 - the project's own lesson
    return out.getvalue()


def slice_of(cells, wanted):
    """Numbers of the cells that the wanted ones depend on through the names that they use, and those themselves.

    `wanted` maps a cell's number to None, or to another cell that will run there as well.
    """
    code = {number: cell for number, cell in enumerate(cells) if cell.cell_type == "code"}
    modules = {
        (alias.asname or alias.name).split(".")[0]
        for cell in code.values()
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    needed, open_names = set(wanted), set()
    for number in sorted(code, reverse=True):
        cell = code[number]
        used, defined, changed = names_of(cell.source)
        always = "parameters" in cell.metadata.get("tags", []) or "lesson.setup" in cell.source
        if number in needed or always or open_names & (defined | (changed - modules)):
            needed.add(number)
            open_names = (open_names - defined) | used
        if wanted.get(number):
            open_names |= names_of(wanted[number].source)[0]
    return sorted(needed)


def names_of(source):
    """Names that a cell uses, in its functions too; that it defines; and whose objects it changes."""
    top = compile(source, "cell", "exec")
    used, defined, changed, codes = set(), set(), set(), [top]
    while codes:
        code = codes.pop()
        codes += [constant for constant in code.co_consts if hasattr(constant, "co_code")]
        for instruction in dis.get_instructions(code):
            if instruction.opname in ("LOAD_NAME", "LOAD_GLOBAL"):
                used.add(instruction.argval)
            elif instruction.opname == "STORE_NAME" and code is top:
                defined.add(instruction.argval)
    for node in ast.walk(ast.parse(source)):
        call = node.value if isinstance(node, ast.Expr) else None
        target = call.func if isinstance(call, ast.Call) else node
        stored = target is not node or isinstance(getattr(node, "ctx", None), ast.Store)
        while isinstance(target, ast.Attribute | ast.Subscript):
            target = target.value
            if isinstance(target, ast.Name) and stored:
                changed.add(target.id)
    return used, defined, changed


STUB, CHECK = "answer = None  # here", "lesson.check_exercise(answer, 4)"
SOLUTION = "# Solution\nanswer = 2 + 2\nlesson.check_exercise(answer, 4)"


def cell(source):
    return nbformat.v4.new_code_cell(source)


@pytest.mark.parametrize(
    ("check", "solution", "filled"),
    [
        (CHECK, SOLUTION, "# Solution\nanswer = 2 + 2"),
        (f"x = 1\n{CHECK}", f"answer = 4  # why\n\n{CHECK}", "answer = 4  # why"),
        (CHECK, f"word = 'a\u2028b'\x0c\nanswer = 4\n{CHECK}", "word = 'a\u2028b'\x0c\nanswer = 4"),
        (CHECK, f"x = 1\r\nanswer = 4\r\n{CHECK}", "x = 1\nanswer = 4"),
        (
            "lesson.check_exercise(\n    [f(x) for x in (1, 2)], [2, 4]\n)",
            "def f(x):\n    return 2 * x\n\n\nlesson.check_exercise([f(x) for x in (1, 2)], [2, 4])",
            "def f(x):\n    return 2 * x",
        ),
        (f"if answer:\n    {CHECK}", f"answer = 4\nif answer:\n    {CHECK}", "answer = 4"),
    ],
)
def test_the_filling_is_the_solution_without_the_last_statement_of_the_check(check, solution, filled):
    assert students.filling(cell(check), cell(solution)) == filled


@pytest.mark.parametrize(
    ("check", "solution", "sentence"),
    [
        (CHECK, "lesson.check_exercise(2 + 2, 4)", "must give the stub's name its value, and then end"),
        (CHECK, CHECK, "must give the stub's name its value"),
        (
            CHECK,
            "answer = 4\nlesson.check_exercise(answer, 5)",
            "end in the check's last statement, word for word",
        ),
        (CHECK, f"{CHECK}\nanswer = 4", "word for word"),
        (CHECK, "", "word for word"),
        (CHECK, f"answer = 4; {CHECK}", "on lines of its own"),
        (CHECK, f"if True:\n    answer = 4\n    {CHECK}", "word for word"),
        (CHECK, f"!ls \\\n  -l\nanswer = 4\n{CHECK}", "a cell is not Python"),
        (CHECK, "answer = 4 4", "a cell is not Python"),
        ("print((", SOLUTION, "a cell is not Python"),
    ],
)
def test_a_solution_that_does_not_end_as_its_check_is_refused(check, solution, sentence):
    with pytest.raises(ExerciseError, match=sentence):
        students.filling(cell(check), cell(solution))


@pytest.fixture
def tiny(tmp_path):
    """A lesson with one exercise, in a folder of its own."""
    cell = nbformat.v4.new_code_cell  # takes outputs and metadata as well
    shown = [
        nbformat.v4.new_output("stream", name="stdout", text=text) for text in ("not done yet\n", "right\n")
    ]
    cells = [
        nbformat.v4.new_markdown_cell("# A tiny lesson"),
        cell("print('kept')", execution_count=1, outputs=[nbformat.v4.new_output("stream", text="kept\n")]),
        cell(STUB, execution_count=2),
        cell(CHECK, execution_count=3, outputs=shown[:1], metadata={"tags": ["nbval-check-output"]}),
        nbformat.v4.new_markdown_cell("<details><summary>Hint</summary>Two and two.</details>"),
        cell(
            SOLUTION,
            execution_count=4,
            outputs=shown[1:],
            metadata={"tags": ["solution", "nbval-check-output"], "jupyter": {"source_hidden": True}},
        ),
        nbformat.v4.new_markdown_cell("## The end"),
    ]
    (tmp_path / "solved").mkdir()
    path = tmp_path / "solved" / "50_tiny.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def student(*arguments):
    return CliRunner().invoke(cli, ["student", *map(str, arguments)])


def test_student_copy_lacks_the_solution_and_keeps_the_rest(tiny, tmp_path):
    before = tiny.read_bytes()
    result = student(tiny, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert result.output == f"Student copies: 1 in {tmp_path / 'out'}\n"
    cells = nbformat.read(tmp_path / "out" / tiny.name, as_version=4).cells
    nbformat.validate(nbformat.read(tmp_path / "out" / tiny.name, as_version=4))
    assert [cell.source for cell in cells[1:4]] == ["print('kept')", STUB, CHECK]
    assert [cell.source[:9] for cell in cells[4:]] == ["<details>", "## The en"]
    assert cells[1].outputs[0].text == "kept\n"
    assert cells[3].outputs[0].text == "not done yet\n"
    assert cells[3].metadata.jupyter.source_hidden
    assert not cells[3].metadata.editable
    assert "2 + 2" not in (tmp_path / "out" / tiny.name).read_text()
    assert tiny.read_bytes() == before


def test_solved_copy_holds_the_solution_between_nbgraders_delimiters(tiny, tmp_path):
    assert student(tiny, "--solved", "-o", tmp_path / "out").exit_code == 0
    cells = nbformat.read(tmp_path / "out" / tiny.name, as_version=4).cells
    assert cells[2].source == f"{STUB}\n\n\n### BEGIN SOLUTION\n# Solution\nanswer = 2 + 2\n### END SOLUTION"
    assert cells[3].outputs[0].text == "right\n"
    check, _, hidden = cells[3].source.partition("\n\n### BEGIN HIDDEN TESTS\n")
    assert check == CHECK
    assert hidden.endswith("### END HIDDEN TESTS")


@pytest.mark.parametrize("change", [students.without_solutions, students.with_solutions])
def test_copies_carry_the_metadata_that_nbgrader_reads(change, tiny):
    stub, check = (cell.metadata.nbgrader for cell in change(read(tiny)).cells[2:4])
    assert stub == {
        "schema_version": 3,
        "task": False,
        "grade": False,
        "solution": True,
        "locked": False,
        "grade_id": "exercise-1",
    }
    assert check == {
        "schema_version": 3,
        "task": False,
        "grade": True,
        "solution": False,
        "locked": True,
        "points": 1,
        "grade_id": "exercise-1-check",
    }


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_copies_keep_every_other_cell_and_names_of_exercises_are_unique(path):
    node = read(path)
    rest = [c for c in node.cells if "solution" not in c.metadata.get("tags", [])]
    for change in (students.without_solutions, students.with_solutions):
        cells = change(node).cells
        assert [cell.id for cell in cells] == [cell.id for cell in rest]
        names = [c.metadata.nbgrader.grade_id for c in cells if "nbgrader" in c.metadata]
        assert len(names) == len(set(names)) == 2 * len(students.exercises(node))
    assert [c.source for c in students.without_solutions(node).cells] == [c.source for c in rest]


def test_copy_that_differs_is_replaced_only_when_forced_and_then_all_or_none(tiny, tmp_path):
    out = tmp_path / "out"
    assert student(tiny, "-o", out).exit_code == 0
    assert student(tiny, "-o", out).exit_code == 0  # the same once more
    answered = (out / tiny.name).read_text().replace("answer = None", "answer = 3")
    (out / tiny.name).write_text(answered)
    other = tiny.with_name("51_tiny.ipynb")
    other.write_bytes(tiny.read_bytes())
    result = student(other, tiny, "-o", out)
    assert isinstance(result.exception, UsageError)
    assert "is there already, and was not written by labutils student or has been changed since" in str(
        result.exception
    )
    assert (out / tiny.name).read_text() == answered
    assert not (out / other.name).exists()
    assert student(tiny, "--force", "-o", out).exit_code == 0
    assert "answer = None" in (out / tiny.name).read_text()


def test_copies_are_not_written_among_solved_notebooks(tiny):
    before = {path: path.read_bytes() for path in [tiny, *NOTEBOOKS]}
    for output in (tiny.parent, NOTEBOOKS[0].parent):
        with pytest.raises(UsageError, match="where notebooks that are read lie; name another folder"):
            students.make([tiny], output, force=True)
    assert {path: path.read_bytes() for path in before} == before
    assert list(tiny.parent.iterdir()) == [tiny]


def test_two_notebooks_of_one_name_are_refused(tiny, tmp_path):
    other = tmp_path / "elsewhere" / tiny.name
    other.parent.mkdir()
    other.write_bytes(tiny.read_bytes())
    with pytest.raises(UsageError, match="two of the notebooks are named 50_tiny"):
        students.make([tiny, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("number", "change", "sentence"),
    [
        (2, {"source": "answer = 4"}, "50_tiny, exercise 1: before the check there must be a stub"),
        (2, {"source": "other = None"}, "50_tiny, exercise 1: before the check there must be a stub"),
        (3, {"metadata": {}}, "50_tiny, exercise 1: the code cell before a solution must be its check"),
        (
            4,
            {"metadata": {"tags": ["solution"]}},
            "50_tiny, cell 5 is tagged solution, but only a code cell can be",
        ),
    ],
)
def test_lesson_whose_exercise_has_another_shape_is_refused(number, change, sentence, tiny, tmp_path):
    node = json.loads(tiny.read_text())
    node["cells"][number].update(change)
    tiny.write_text(json.dumps(node))
    with pytest.raises(ExerciseError, match=sentence):
        students.make([tiny], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_made_is_refused(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write to .*; name another place with --output"):
        students.make([tiny], tmp_path / "file" / "out")


CHEATS = {
    "the check replaced": "lesson.check_exercise = lambda *_, **__: print('right')",
    "what the check remembers": "lesson.exercises._said[:] = ['right']\nlesson.require_right = lambda: None",
    "its judgement": "lesson.exercises._feedback = lambda *_: 'right'",
    "NumPy's comparison": "import numpy; numpy.allclose = lambda *_, **__: True",
    "NumPy's arrays": "import numpy; numpy.asarray = lambda *_, **__: numpy.zeros(())",
    "another module of that name": "import sys; sys.modules['labutils.lesson.exercises'] = lesson",
    "a module beside the notebook": "open('labutils.py', 'w').write(''); open('numpy.py', 'w').write('')",
    "a built-in name": "set = lambda _: {'right'}; any = lambda _: False",
    "what names there are": "globals = lambda: {'answer': 4}",
    "how a call is made": "def exec(call, names): names['lesson'].check_exercise(4, 4)",
    "the name rebound": "import types; lesson = types.SimpleNamespace(check_exercise=lambda *_, **__: print('right'))",
}


def graded(check, tmp_path, monkeypatch, before):
    """Run what a student's cells hold, and then a check as nbgrader does, its hidden part included."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lesson, "check_exercise", lesson.check_exercise)  # each is put back after the test
    for module, names in {
        exercises: ["_feedback"],
        lesson: ["require_right"],
        np: ["allclose", "asarray"],
    }.items():
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setitem(sys.modules, "labutils.lesson.exercises", exercises)
    namespace = {"__name__": "__main__", "lesson": lesson, "np": np}
    for source in [*before, check]:
        exec(source, namespace)  # noqa: S102 - the test's own


def hidden(check):
    """A check cell with the hidden part that a solved copy has."""
    return check + students.GRADED.format(call=students._call(cell(check), 1))


@pytest.mark.parametrize("cheat", ["", *CHEATS.values()], ids=["nothing", *CHEATS])
def test_grader_gives_nothing_for_a_wrong_answer_whatever_the_students_cells_replace(
    cheat, tmp_path, monkeypatch
):
    with pytest.raises(AssertionError, match="wrong: off by one"):
        graded(hidden(CHECK), tmp_path, monkeypatch, ["answer = 3", cheat])


def test_grader_gives_a_right_answer_its_point_and_an_open_one_none(tmp_path, monkeypatch):
    graded(hidden(CHECK), tmp_path, monkeypatch, ["answer = 4", *CHEATS.values()])
    with pytest.raises(AssertionError, match="not done yet"):
        graded(hidden(CHECK), tmp_path, monkeypatch, ["answer = None"])


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        ("lesson.check_exercise(answer, np.eye(2), mistakes=[(np.ones((2, 2)), 'ones')])", "np.eye(2)"),
        (
            "x = 1\nlesson.check_exercise(\n    [answer(v) for v in (1, 2)],\n    [2, 4],\n)",
            "lambda v: 2 * v",
        ),
        ("if answer is not None:\n    lesson.check_exercise(answer, 'PCA', rtol=0)", "' pca '"),
        ("lesson.check_exercise(answer, np.float32(2.5))", "np.float64(2.5)"),
        ("lesson.check_exercise(answer, [1.0, 2.0])", "__import__('pandas').Series([1.0, 2.0])"),
        ("lesson.check_exercise(answer, 2.0)", "__import__('torch').tensor(2.0, requires_grad=True)"),
    ],
)
def test_grader_judges_what_the_check_compares(check, answer, tmp_path, monkeypatch):
    graded(hidden(check), tmp_path, monkeypatch, [f"answer = {answer}"])
    with pytest.raises((AssertionError, TypeError)):
        graded(
            hidden(check),
            tmp_path,
            monkeypatch,
            ["answer = lambda v: v" if "lambda" in answer else "answer = 7"],
        )


def test_grader_gives_nothing_for_a_check_that_compares_nothing(tmp_path, monkeypatch):
    check = hidden(f"if answer:\n    {CHECK}")
    with pytest.raises(AssertionError, match="not done yet"):
        graded(check, tmp_path, monkeypatch, ["answer = None"])


def test_grader_gives_nothing_for_a_check_that_did_not_say_right(capsys):
    exercises._said.clear()
    with pytest.raises(AssertionError, match="not done yet"):
        lesson.require_right()
    lesson.check_exercise(3, 4)
    with pytest.raises(AssertionError, match="wrong: off by one"):
        lesson.require_right()
    lesson.check_exercise(4, 4)
    lesson.require_right()
    with pytest.raises(AssertionError):  # a check counts once
        lesson.require_right()
