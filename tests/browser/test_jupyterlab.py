"""The course in a real JupyterLab, as a student meets it: opened, run, played with, its exercises done."""

import ast
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import pytest
import yaml
from lab import Lab, Notebook, lab_command, problems
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from papermill.translators import translate_parameters
from playwright.sync_api import expect

from labutils import NOTEBOOKS
from labutils.course import parameters, students
from labutils.course.notebook import notebooks, read

ROOT = Path(__file__).parents[2]
QUICK = yaml.safe_load(parameters.QUICK.read_text())
START = "00_start_here"
# With the quick values, iterations end before they have converged, and say so.
UNFINISHED = """
import warnings

from sklearn.exceptions import ConvergenceWarning

warnings.simplefilter("ignore", ConvergenceWarning)
"""
WITH_SLIDER = [
    "02_pca",
    "03_ica",
    "05_slow_feature_analysis",
    "06_sparse_coding",
    "12_long_term_dependencies",
]
# Whether the hint of the exercise that is done has mathematics in it.
WITH_EXERCISE = {"03_ica": False, "04_beyond_linear_ica": True}


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """A JupyterLab on copies of the notebooks, all but 00 with the quick values, as they are stored but uncounted."""
    folder = tmp_path_factory.mktemp("notebooks")
    for path in notebooks():
        node = read(path)
        for cell in node.cells:
            if cell.cell_type == "code":
                cell.execution_count = None
            if "parameters" in cell.metadata.get("tags", []) and path.stem != START:
                cell.source += "\n" + translate_parameters(
                    "python3", "python", QUICK[path.stem], "Parameters"
                )
                cell.source += UNFINISHED
        nbformat.write(node, folder / path.name)
    nbformat.write(BROKEN, folder / "broken.ipynb")
    with Lab(tmp_path_factory.mktemp("lab"), lab_command(folder)) as lab:
        yield lab


@pytest.fixture
def opened(lab, page):
    """Function that opens a notebook; its kernel ends with the test."""
    yield lambda name: lab.open(page, f"{name}.ipynb")
    lab.end_kernels()


# --- lessons --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [START, *WITH_SLIDER, "10_lstm_mnist"])
def test_a_lesson_runs_and_its_sliders_redraw_their_picture(name, opened):
    notebook = opened(name)
    stored = read(NOTEBOOKS / f"{name}.ipynb")
    notebook.run_all()
    assert problems(stored, notebook.look()) == []
    cells = [number for number, cell in enumerate(stored.cells) if "lesson.slide(" in cell.source]
    assert bool(cells) == (name in WITH_SLIDER)
    for number in cells:
        sliders = notebook.cell(number).get_by_role("slider")
        assert sliders.count() > 0
        for slider in sliders.all():
            assert notebook.redraws(number, slider), f"a slider of cell {number} does not redraw the picture"


def test_all_lessons_with_sliders_are_run():
    have = [
        path.stem for path in notebooks() if any("lesson.slide(" in cell.source for cell in read(path).cells)
    ]
    assert have == WITH_SLIDER


# --- exercises ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_EXERCISE)
def test_a_student_does_an_exercise(name, opened):
    node = read(NOTEBOOKS / f"{name}.ipynb")
    exercise, wrong, said = exercise_with_a_mistake(node, mathematics=WITH_EXERCISE[name])
    stub, check, solution = (node.cells[i] for i in (exercise.stub, exercise.check, exercise.solution))
    notebook = opened(name)
    notebook.select(exercise.stub)
    notebook.choose("Run", "Run All Above Selected Cell")
    notebook.wait_for_runs(exercise.stub)

    notebook.run(exercise.stub)
    expect(notebook.run(exercise.check)).to_have_text("not done yet")

    notebook.replace(exercise.stub, f"{exercise.answer} = {wrong}")
    notebook.run(exercise.stub)
    expect(notebook.run(exercise.check)).to_have_text(f"wrong: {said}")

    hint = notebook.cell(exercise.check + 1).locator("details")
    expect(hint.locator("p").first).not_to_be_visible()
    hint.get_by_text("Hint", exact=True).click()
    expect(hint.locator("p").first).to_be_visible()
    formulas = re.findall(r"\$[^$]+\$", node.cells[exercise.check + 1].source)
    expect(hint.locator("mjx-container")).to_have_count(len(formulas))
    for formula in hint.locator("mjx-container").all():
        expect(formula).to_be_visible()
    expect(hint).not_to_contain_text("$")

    assert notebook.unfold(exercise.solution) == solution.source
    notebook.replace(exercise.stub, f"{stub.source}\n{students.filling(check, solution)}")
    notebook.run(exercise.stub)
    expect(notebook.run(exercise.check)).to_have_text("right")


def exercise_with_a_mistake(node, mathematics):
    """An exercise whose check lists a wrong answer that can be typed, that answer, and what is said about it.

    `mathematics` is whether its hint has formulas.
    """
    for exercise in students.exercises(node):
        if ("$" in node.cells[exercise.check + 1].source) != mathematics:
            continue
        for statement in ast.walk(ast.parse(node.cells[exercise.check].source)):
            if not isinstance(statement, ast.Assign) or ast.unparse(statement.targets[0]) != "mistakes":
                continue
            for item in getattr(statement.value, "elts", []):
                if not any(isinstance(part, ast.Name) for part in ast.walk(item)):
                    wrong, said = item.elts
                    return exercise, ast.unparse(wrong), ast.literal_eval(said)
    raise AssertionError("no exercise lists a wrong answer that can be typed; take another notebook")


# --- make lab -------------------------------------------------------------------------------------------


def test_make_lab_opens_the_first_notebook_and_wants_the_token(page, tmp_path):
    with Lab(tmp_path, ["make", "lab"], cwd=ROOT) as lab:
        said = (tmp_path / "log").read_text(encoding="utf-8")
        page.goto(re.search(rf"{lab.url}\S+token=\w+", said)[0])
        notebook = Notebook(page)
        expect(notebook.cell(0).locator("h1")).to_have_text("Start here¶")
        listed = page.locator(".jp-DirListing-itemName")
        for path in notebooks():
            expect(listed.filter(has_text=path.name)).to_be_visible()
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{lab.url}api/sessions")
        processes = lab.processes()
        assert len(processes) > 1
        page.close()
    assert not any(process.is_running() for process in processes)


# --- what the tests above would notice ------------------------------------------------------------------

DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
FIGURE = new_output("display_data", {"image/png": DOT})
DEAD_SLIDER = f"""
import ipywidgets  # in place of lesson.slide(...)
picture = ipywidgets.HTML('<img src="data:image/png;base64,{DOT}">')
ipywidgets.VBox([ipywidgets.SelectionSlider(options=[1, 2, 3]), picture])
"""
LOST_WIDGET = """
view = {"model_id": "lost", "version_major": 2, "version_minor": 0}
display({"application/vnd.jupyter.widget-view+json": view}, raw=True)
"""
BROKEN = new_notebook(
    cells=[
        new_markdown_cell("# Broken"),
        new_code_cell("1 + 1  # and no figure", outputs=[FIGURE]),
        new_code_cell(DEAD_SLIDER),
        new_code_cell("from IPython.display import HTML\nHTML('<img alt=\"\">')", outputs=[FIGURE]),
        new_code_cell(LOST_WIDGET),
        new_code_cell("1 / 0"),
        new_code_cell("'not reached'"),
    ],
    metadata={"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)"}},
)


def test_a_broken_notebook_is_noticed(opened, console):
    console.allow("widget model not found")
    notebook = opened("broken")
    notebook.run_all()
    seen = notebook.look()
    found = problems(BROKEN, seen)
    wanted = [
        "cell 1 shows 0 figures, and should show 1",
        "cell 3 shows a figure of no width",
        "cell 4 shows no widget: ",
        "cell 5 failed or warned: ",
        "cell 6 has not run: its prompt is '[ ]:'",
    ]
    assert len(found) == len(wanted), found
    for sentence, start in zip(found, wanted, strict=True):
        assert sentence.startswith(start)
    assert "ZeroDivisionError" in found[3]
    assert not notebook.redraws(2, notebook.cell(2).get_by_role("slider"), within=2)
    assert problems(BROKEN, seen[:-1]) == ["7 cells are stored, 6 are on the page"]


def test_a_jupyterlab_that_does_not_start_says_why(tmp_path):
    lab = Lab(tmp_path, [sys.executable, "-c", "raise SystemExit('no such option')"])
    with pytest.raises(AssertionError, match="no such option"):
        lab.__enter__()
