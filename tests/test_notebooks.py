"""The stored notebooks keep the rules, and the rules catch what breaks them."""

import copy
import json
import re
import shutil
import statistics

import nbformat
import pytest
import yaml
from click.testing import CliRunner

from labutils.__main__ import cli
from labutils.conventions import FOLDED
from labutils.course import checks, files, parameters
from labutils.course.notebook import code_cells, notebooks, read, tags
from labutils.errors import RunError, UsageError

QUICK = yaml.safe_load(parameters.QUICK.read_text(encoding="utf-8"))
NOTEBOOKS = notebooks()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_notebook_has_no_problem(path):
    assert checks.problems(path, QUICK) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_quick_values_are_allowed(path):
    rules = parameters.read_rules(read(path), path.stem)
    parameters.validate(QUICK[path.stem], rules, path.stem)


def test_quick_values_belong_to_notebooks():
    assert set(QUICK) == {path.stem for path in NOTEBOOKS}


def _without_tag(node):
    next(cell for cell in node.cells if "parameters" in cell.metadata.get("tags", [])).metadata.tags = []


def _figure(node):
    return next(o for c in node.cells for o in c.get("outputs", []) if "image/png" in o.get("data", {}))


def _parameters_cell(node):
    return next(cell for cell in node.cells if "parameters" in cell.metadata.get("tags", []))


def _tagged(node, tag):
    return next(cell for cell in node.cells if tag in cell.metadata.get("tags", []))


def _markdown(source):
    return lambda node: node.cells.append(nbformat.v4.new_markdown_cell(source))


def _html(source):
    """Add an output of HTML to the first code cell."""
    return lambda node: node.cells[1].outputs.append(
        nbformat.v4.new_output("display_data", data={"text/html": source})
    )


# What is done to a clean notebook, by (what is wrong then, the cell that is named).
BREAKAGES = {
    ("has 2 first-level headings", ""): _markdown("# Another title"),
    ("has 3 first-level headings", ""): _markdown("Two more\n===\n\n<h1>three</h1>"),
    ("has a heading of level 4 after one of level 2", "(## One)"): _markdown("## One\n\n#### Two lower"),
    ("has a heading of level 2 after none", "cell 1"): lambda node: node.cells[0].update(
        source="## Lower\n\n" + node.cells[0].source
    ),
    ("has an image without alt text", "(![](figure.png))"): _markdown("![](figure.png)"),
    ("has an image without alt text", '(<img src="a.png">)'): _markdown('<img src="a.png">'),
    ("has an image without alt text", "cell 2"): _html('<p><img src="a.png" alt=" "></p>'),
    ("#56B4E9 has a contrast of 2.3:1 to white", "cell 2"): lambda node: node.cells[1].update(
        source='ax.plot([1, 2], color="#56B4E9")'
    ),
    ("yellow has a contrast of 1.1:1 to white", "cell 2"): lambda node: node.cells[1].update(
        source='plt.axvline(1, c="yellow")'
    ),
    ("does not state its time", ""): lambda node: node.cells[0].update(source="# Title"),
    ("has metadata", ""): lambda node: node.metadata.update(papermill={}),
    ("has metadata", "cell 1"): lambda node: node.cells[0].metadata.update(papermill={}),
    ("Python version", ""): lambda node: node.metadata.language_info.update(version="3.11.7"),
    ("kernel python3", ""): lambda node: node.metadata.kernelspec.update(name="my-kernel"),
    ("two with the same", ""): lambda node: node.cells[1].update(id=node.cells[0].id),
    ("bytes", ""): _html("word " * 200_000),
    ("clean run", ""): lambda node: node.cells[1].update(execution_count=99),
    ("error or a warning", "cell 2"): lambda node: node.cells[1].outputs.append(
        nbformat.v4.new_output("stream", name="stderr", text="careful")
    ),
    ("a figure without alt text", "cell"): lambda node: _figure(node).metadata.clear(),
    ("path of one machine", "cell 2"): lambda node: node.cells[1].outputs.append(
        nbformat.v4.new_output("stream", name="stdout", text="/" + "home/ada/data")
    ),
    ("stores 'not tested with these parameters'", "cell 2"): _html(
        "<p>0.9: not tested with these parameters</p>"
    ),
    ("holds a formula that cannot be rendered, x_1_2 (double subscripts)", "($x_1_2$)"): _markdown("$x_1_2$"),
    ("holds a formula that cannot be rendered, x^ (missing super", "cell 2"): _html("<td>$x^$</td>"),
    ("holds the directive {include}", "(```{include} a)"): _markdown("```{include} a\n```"),
    ("holds <script>", "(<script>1</script>)"): _markdown("<script>1</script>"),
    ("holds onclick", "cell 2"): _html("<b onclick='f()'>b</b>"),
    ("shows the image ../a.png", "(![a](../a.png))"): _markdown("![a](../a.png)"),
    ("shows the image none.png", "(![a](none.png))"): _markdown("![a](none.png)"),
    ("is tagged raises-exception", "cell 2"): lambda node: node.cells[1].metadata.update(
        tags=["raises-exception"]
    ),
    ("has 26 lines", "cell 2 (x = 1)"): lambda node: node.cells[1].update(source="x = 1\n" * 26),
    ("clears its output", "cell 2"): lambda node: node.cells[1].update(source="clear_output()"),
    ("semicolon", "cell 2"): lambda node: node.cells[1].update(source="plt.plot(x);"),
    ("is not Python", "cell 2 (%matplotlib inline)"): lambda node: node.cells[1].update(
        source="%matplotlib inline"
    ),
    ("has 0 cells tagged parameters", ""): lambda node: _tagged(node, "parameters").metadata.update(tags=[]),
    ("holds 'seed: int | None = 3  # seed'", "(seed: int | None"): lambda node: _tagged(
        node, "parameters"
    ).update(source="seed: int | None = 3  # seed"),
    ("holds 'seed: int = 3'", "(seed: int"): lambda node: _tagged(node, "parameters").update(
        source="seed: int = 3"
    ),
    ("holds 'seed = 3  # seed'", "(seed"): lambda node: _tagged(node, "parameters").update(
        source="seed = 3  # seed"
    ),
    ("and rules", "(extra"): lambda node: _tagged(node, "parameters").update(
        source="extra: int = 3  # one too many"
    ),
    ("tests/quick.yml sets", "(seed"): lambda node: _tagged(node, "parameters").update(
        source="seed: int = 3  # seed"
    ),
    ("does not check its parameters", ""): lambda node: next(
        cell for cell in node.cells if "check_parameters" in cell.source
    ).update(source="lesson.setup(seed)"),
    ("does not print 'not done yet' alone", "(mistakes"): lambda node: next(
        cell for cell in node.cells if cell.source.startswith("mistakes")
    ).update(outputs=[]),
    ("does not print 'right' alone", "cell"): lambda node: (
        _tagged(node, "solution").outputs[0].update(text="wrong: off by one\n")
    ),
    ("is not folded", "cell"): lambda node: _tagged(node, "solution").metadata.pop("jupyter"),
    ("is folded", "cell 2"): lambda node: node.cells[1].metadata.update(jupyter={"source_hidden": True}),
    ("is tagged figure and solution", "cell"): lambda node: _tagged(node, "solution").metadata.tags.append(
        "figure"
    ),
    ("checks an exercise, and no code cell tagged solution follows", ""): lambda node: _tagged(
        node, "solution"
    ).metadata.update(tags=[]),
    ("exercise 1, before the check there must be a stub", ""): lambda node: next(
        cell for cell in node.cells if cell.source.startswith("numbers_per_step = None")
    ).update(source="numbers_per_step = 28"),
    ("exercise 1, the solution must give", ""): lambda node: _tagged(node, "solution").update(
        source="print('right')"
    ),
}


@pytest.mark.filterwarnings("ignore")  # of nbformat, about the invalid files
@pytest.mark.parametrize(("wrong", "place"), BREAKAGES)
def test_broken_notebook_is_found_out(wrong, place, tmp_path):
    path = NOTEBOOKS[0]
    node = copy.deepcopy(read(path))
    BREAKAGES[wrong, place](node)
    broken = tmp_path / path.name
    broken.write_text(json.dumps(node), encoding="utf-8")
    found = [problem for problem in checks.problems(broken, QUICK) if wrong in problem.wrong]
    assert any(place in problem.cell if place else not problem.cell for problem in found)
    assert all(len(str(problem).splitlines()) == 1 for problem in found)


@pytest.mark.parametrize(
    "kind", ["text/html", "text/plain", "text/markdown", "image/svg+xml", "stdout", "error"]
)
@pytest.mark.parametrize(
    "path",
    [
        "/home/me/x",
        "/opt/x",
        "/mnt/x",
        "/scratch/x",
        "/content/x",
        "/Volumes/x",
        "file:///x",
        r"C:\Users\x",
        "~/data",
    ],
)
def test_paths_of_one_machine_are_found_in_each_kind_of_output(path, kind):
    new = nbformat.v4.new_output
    if kind == "stdout":
        output = new("stream", text=f"saved to {path}")
    elif kind == "error":
        output = new("error", ename="E", evalue="e", traceback=[f'File "{path}"'])
    else:
        output = new("display_data", data={kind: f"<b>{path}</b>" if "html" in kind else f"'{path}'"})
    node = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell("x", outputs=[output], execution_count=1)]
    )
    assert "stores a path of one machine" in [wrong for _, wrong, _ in checks._outputs(node)]


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org/home/me/x",
        "</var> and/or 1/2",
        "a/tmp/b",
        "../tmp/x",
        "~ 5",
        "C:",
        "src='data:a/opt/b'",
    ],
)
def test_what_is_no_path_of_one_machine_is_not_taken_for_one(text):
    assert not checks.MACHINE_PATH.search(text)


def _as_vs_code(node):
    """A notebook as VS Code saves it: of format 4.2, cells without ids and with its own metadata."""
    node.nbformat_minor = 2
    node.metadata = {"kernelspec": {"display_name": ".venv", "language": "python", "name": "venv"},
                     "language_info": {"name": "python", "version": "3.12.1"}, "orig_nbformat": 4}  # fmt: skip
    for cell in node.cells:
        del cell["id"]
        cell.metadata["vscode"] = {"languageId": "python"}


def _as_colab(node):
    """A notebook as Colab saves it."""
    node.nbformat_minor = 0
    node.metadata = {"colab": {"provenance": [], "toc_visible": True}, "accelerator": "GPU",
                     "kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}}  # fmt: skip
    for number, cell in enumerate(node.cells):
        del cell["id"]
        cell.metadata |= {
            "id": f"aBc{number}",
            "colab": {"base_uri": "https://localhost:8080/"},
            "outputId": "x",
        }


@pytest.mark.parametrize("saved", [_as_vs_code, _as_colab])
def test_a_copy_of_another_editor_gets_few_lines_and_is_normalised_on_request(saved, tmp_path):
    node = read(NOTEBOOKS[0])
    before = [
        (cell.cell_type, cell.source, cell.get("outputs"), cell.metadata.get("tags")) for cell in node.cells
    ]
    clean = {str(problem) for problem in checks.problems(NOTEBOOKS[0], QUICK)}
    saved(node)
    path = tmp_path / NOTEBOOKS[0].name
    path.write_text(json.dumps(node), encoding="utf-8")
    path.chmod(0o640)
    added = [problem for problem in checks.problems(path, QUICK) if str(problem) not in clean]
    assert 0 < len(added) <= 5
    assert all("labutils check --fix normalises it" in problem.allowed for problem in added)
    result = CliRunner().invoke(cli, ["check", "--fix", str(path)])
    assert result.output.startswith(f"normalised {path}\n")
    assert {str(problem) for problem in checks.problems(path, QUICK)} == clean
    fixed = read(path)
    assert [(c.cell_type, c.source, c.get("outputs"), c.metadata.get("tags")) for c in fixed.cells] == before
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]
    assert checks.fix(path) is False


def test_normalising_keeps_what_grading_needs_and_leaves_other_languages(tmp_path):
    path = tmp_path / "copy.ipynb"
    node = read(NOTEBOOKS[0])
    grading = {"nbgrader": {"grade": True}, "editable": False, "deletable": False}
    node.cells[1].metadata |= grading
    nbformat.write(node, path)
    checks.fix(path)
    assert grading.items() <= read(path).cells[1].metadata.items()
    node.metadata = {"kernelspec": {"name": "ir", "display_name": "R", "language": "R"}}
    nbformat.write(node, path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="is a notebook in R; only those in Python are normalised"):
        checks.fix(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_lessons_are_stored_as_normalised(path, tmp_path):
    copied = shutil.copy(path, tmp_path)
    assert checks.fix(copied) is False


def test_files_are_changed_only_by_name(monkeypatch):
    result = CliRunner().invoke(cli, ["check", "--fix"])
    assert str(result.exception) == "--fix changes files, so name the notebooks that it is to change"


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "50_a.ipynb"
    path.write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 2}')
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(
        RunError, match=r"cannot write .*50_a.ipynb \(No space left on device\); it is as it was"
    ):
        checks.fix(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_notebook_without_quick_values_is_found_out():
    assert "has no values in tests/quick.yml" in [p.wrong for p in checks.problems(NOTEBOOKS[0], {})]


def test_comment_in_a_code_block_is_no_heading(tmp_path):
    node = read(NOTEBOOKS[0])
    _markdown("```\n# a comment\n```")(node)
    nbformat.write(node, tmp_path / NOTEBOOKS[0].name)
    assert checks.problems(tmp_path / NOTEBOOKS[0].name, QUICK) == []


@pytest.mark.parametrize(
    ("colour", "ratio"),
    [("white", 1), ("black", 21), ("#767676", 4.54), ("#0072B2", 5.19), ("#E69F00", 2.25)],
)
def test_contrast_is_that_of_wcag(colour, ratio):
    assert checks.contrast(colour) == pytest.approx(ratio, abs=0.005)
    assert checks.contrast("white", colour) == checks.contrast(colour)


def test_figure_style_is_drawn_in_colours_with_contrast():
    assert checks.palette_problems() == []
    (problem,) = checks.palette_problems(["black", "#56B4E9"])
    assert str(problem) == (
        "figure style, colour C1: #56B4E9 has a contrast of 2.3:1 to white; lines and marks need at least 3:1"
    )


def test_check_command_says_what_is_wrong_and_where_or_how_many_are_clean(tmp_path):
    result = CliRunner().invoke(cli, ["check", "00"])
    assert (result.exit_code, result.output) == (0, "1 notebook is clean\n")
    node = read(NOTEBOOKS[0])
    node.cells[1].source = "x = 1\n" * 26
    nbformat.write(node, tmp_path / "00_start_here.ipynb")
    result = CliRunner().invoke(cli, ["check", str(tmp_path / "00_start_here.ipynb")])
    assert result.exit_code == 1
    assert result.output == "00_start_here, cell 2 (x = 1): has 26 lines; at most 25 are allowed\n"


@pytest.mark.parametrize(
    "path", [path for path in notebooks() if path.stem >= "08"], ids=lambda path: path.stem
)
def test_the_second_half_keeps_the_size_of_a_lesson(path):
    node = read(path)
    code = [cell for cell in code_cells(node) if "parameters" not in tags(cell)]
    assert max(len(line) for cell in code for line in cell.source.splitlines()) <= 88
    lengths = [len(cell.source.splitlines()) for cell in code if not set(FOLDED) & set(tags(cell))]
    assert sum(lengths) <= 200
    assert statistics.median(lengths) <= 8
    text = "\n".join(cell.source for cell in node.cells if cell.cell_type == "markdown")
    prose = re.sub(
        r"(?ms)^\\|.*?$|\$\$.*?\$\$", "", text.partition("### Notation")[0]
    )  # no table, no formula
    assert len(prose.split()) <= 2500
