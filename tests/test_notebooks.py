"""The stored notebooks keep the rules, and the rules catch what breaks them."""

import copy

import nbformat
import pytest
import yaml
from notebook_checks import problems

from labutils import course

QUICK = yaml.safe_load(course.QUICK.read_text(encoding="utf-8"))
NOTEBOOKS = course.notebooks()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_notebook_has_no_problem(path):
    assert problems(path, QUICK) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_quick_values_are_allowed(path):
    course.validate(path, QUICK[path.stem])


def test_quick_values_belong_to_notebooks():
    assert set(QUICK) == {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_exercise_is_not_done_in_the_page_and_right_in_its_solution(path):
    cells = course.read(path).cells
    for number, cell in enumerate(cells):
        if "solution" in cell.metadata.get("tags", []):
            assert cell.outputs[0].text == "right\n"
            assert cell.metadata.jupyter.source_hidden
            before = [c for c in cells[:number] if "check_exercise" in c.source]
            assert before[-1].outputs[0].text == "not done yet\n"


def _without_tag(node):
    next(cell for cell in node.cells if "parameters" in cell.metadata.get("tags", [])).metadata.tags = []


def _figure(node):
    return next(o for c in node.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {}))


def _parameters_cell(node):
    return next(cell for cell in node.cells if "parameters" in cell.metadata.get("tags", []))


BREAKAGES = {
    "first-level headings": lambda node: node.cells.append(nbformat.v4.new_markdown_cell("# Another title")),
    "minutes to read": lambda node: node.cells[0].update(source="# Title"),
    "metadata": lambda node: node.metadata.update(papermill={}),
    "cell metadata|has metadata": lambda node: node.cells[0].metadata.update(papermill={}),
    "Python version": lambda node: node.metadata.language_info.update(version="3.11.7"),
    "kernel python3": lambda node: node.metadata.kernelspec.update(name="my-kernel"),
    "clean run": lambda node: node.cells[1].update(execution_count=99),
    "error or a warning": lambda node: node.cells[1].outputs.append(
        nbformat.v4.new_output("stream", name="stderr", text="careful")
    ),
    "alt text": lambda node: _figure(node).metadata.clear(),
    "path of one machine": lambda node: node.cells[1].outputs.append(
        nbformat.v4.new_output("stream", name="stdout", text="/" + "home/ada/data")
    ),
    "is tagged": lambda node: node.cells[1].metadata.update(tags=["raises-exception"]),
    "lines, more than": lambda node: node.cells[1].update(source="x = 1\n" * 26),
    "clears its output": lambda node: node.cells[1].update(source="clear_output()"),
    "semicolon": lambda node: node.cells[1].update(source="plt.plot(x);"),
    "cells tagged parameters": _without_tag,
    "cannot read the parameter": lambda node: _parameters_cell(node).update(
        source="seed: int | None = 3  # seed"
    ),
    "has no help": lambda node: _parameters_cell(node).update(source="seed: int = 3"),
    "not name: type": lambda node: _parameters_cell(node).update(source="seed = 3  # seed"),
    "and rules": lambda node: _parameters_cell(node).update(source="extra: int = 3  # one too many"),
    "which it does not have": lambda node: _parameters_cell(node).update(source="seed: int = 3  # seed"),
}


@pytest.mark.parametrize("sentence", BREAKAGES)
def test_broken_notebook_is_found_out(sentence, tmp_path):
    path = NOTEBOOKS[0]
    node = copy.deepcopy(course.read(path))
    BREAKAGES[sentence](node)
    broken = tmp_path / path.name
    nbformat.write(node, broken)
    assert any(sentence.split("|")[-1] in problem for problem in problems(broken, QUICK))


def test_notebook_without_quick_values_is_found_out():
    assert "has no values in quick.yml" in problems(NOTEBOOKS[0], {})
