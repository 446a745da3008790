"""Every command over a folder of broken notebooks: one sentence, the file named, the cell where there is one."""

import copy
import json

import nbformat
import pytest
from fuzz import fuzz
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_notebook

from labutils.conventions import RECORD_TYPE
from labutils.course.notebook import find, minutes, notebooks, parse, read, title
from labutils.errors import NotebookError, UsageError

GOOD = {
    "cells": [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# A\n\n**Time**: 2 minutes to read, 1 minute to run."},
        {"cell_type": "code", "id": "b", "metadata": {"tags": ["x"]}, "source": ["a = 1\n", "a"], "execution_count": 1,
         "outputs": [{"output_type": "stream", "name": "stdout", "text": "1\n"}]},
    ],
    "metadata": {"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}},
    "nbformat": 4,
    "nbformat_minor": 5,
}  # fmt: skip


def with_cell(**changes):
    node = copy.deepcopy(GOOD)
    node["cells"][1].update(changes)
    return node


def with_output(**output):
    return with_cell(outputs=[output])


def shown(kind, content):
    return with_output(output_type="display_data", metadata={}, data={kind: content})


BROKEN = {  # text, or what is written as JSON; and what the sentence says
    "empty": ("", "it is empty"),
    "blank": (" \n", "it is empty"),
    "half": ('{"cells": [', "it is not JSON"),
    "latin": (b'{"cells": "\xe9"}', "it is not text in UTF-8"),
    "null byte": (b"\x00\x00", "it is not JSON"),
    "html": ("<html></html>", "it is not JSON"),
    "deep": ("[" * 200_000, "it is not JSON"),
    "endless number": ("[" + "9" * 10_000 + "]", "it is not JSON"),
    "nan": (json.dumps({**GOOD, "metadata": {"x": float("nan")}}), "NaN is no JSON number"),
    "surrogate": ('{"cells": ["\\ud800"]}', "it is not JSON"),
    "a key twice": ('{"cells": [], "cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', "a key stands twice"),
    "list": ([1, 2], "it should hold an object with cells"),
    "text": ("3", "it should hold an object with cells"),
    "null": ("null", "it should hold an object with cells"),
    "no format": ({"cells": []}, "it does not say its nbformat by a number"),
    "format in words": ({**GOOD, "nbformat": "4"}, "it does not say its nbformat by a number"),
    "format 2": ({**GOOD, "nbformat": 2}, "its format is 2; formats 3 and 4 can be read"),
    "format 99": ({**GOOD, "nbformat": 99}, "its format is 99"),
    "minor in words": ({**GOOD, "nbformat_minor": "5"}, "it does not say its nbformat by a number"),
    "no cells": ({k: v for k, v in GOOD.items() if k != "cells"}, "it has no list of cells"),
    "null cells": ({**GOOD, "cells": None}, "it has no list of cells"),
    "cells by name": ({**GOOD, "cells": {"a": 1}}, "it has no list of cells"),
    "no metadata": ({k: v for k, v in GOOD.items() if k != "metadata"}, "it has no metadata"),
    "null metadata": ({**GOOD, "metadata": None}, "it has no metadata"),
    "metadata in a list": ({**GOOD, "metadata": []}, "it has no metadata"),
    "cell is text": ({**GOOD, "cells": ["a = 1"]}, "cell 1 is none of code, markdown, raw"),
    "cell is null": ({**GOOD, "cells": [GOOD["cells"][0], None]}, "cell 2 is none of"),
    "cell of another type": (with_cell(cell_type="sql"), "cell 2 is none of"),
    "no source": ({**GOOD, "cells": [{"cell_type": "markdown", "id": "a", "metadata": {}}]}, "cell 1"),
    "source is a number": (with_cell(source=3), "cell 2: "),
    "source holds null": (with_cell(source=["a", None]), "cell 2: "),
    "cell metadata null": (with_cell(metadata=None), "cell 2: "),
    "tags null": (with_cell(metadata={"tags": None}), "cell 2: metadata.tags"),
    "tags are text": (with_cell(metadata={"tags": "parameters"}), "cell 2: metadata.tags"),
    "tags are numbers": (with_cell(metadata={"tags": [1]}), "cell 2: metadata.tags"),
    "outputs null": (with_cell(outputs=None), "cell 2: "),
    "outputs text": (with_cell(outputs="1"), "cell 2: "),
    "output is null": (with_cell(outputs=[None]), "cell 2: "),
    "output of another type": (with_output(output_type="video"), "cell 2: "),
    "output without data": (with_output(output_type="display_data", metadata={}), "cell 2: "),
    "output data null": (with_output(output_type="display_data", metadata={}, data=None), "cell 2: "),
    "stream text null": (with_output(output_type="stream", name="stdout", text=None), "cell 2: "),
    "execution count in words": (with_cell(execution_count="one"), "cell 2: execution_count"),
    "record is a list": (shown(RECORD_TYPE, [3]), "cell 2: a record must have parameters, results, provenance"),
    "record is null": (shown(RECORD_TYPE, None), "cell 2: "),
    "record lacks results": (shown(RECORD_TYPE, {"parameters": {}, "provenance": {}}), "cell 2: a record must have"),
    "record results null": (
        shown(RECORD_TYPE, {"parameters": {}, "provenance": {}, "results": None}),
        "cell 2: a record must have",
    ),
    "record versions in words": (
        shown(RECORD_TYPE, {"parameters": {}, "provenance": {"versions": "3"}, "results": {}}),
        "cell 2: the versions of a record must be names with versions",
    ),
    "image is text": (shown("image/png", "hello"), "cell 2: an output is no image/png although it says so"),
    "image is a number": (shown("image/png", 3), "cell 2: "),
    "image of another kind": (shown("image/jpeg", "aGVsbG8="), "cell 2: an output is no image/jpeg"),
}  # fmt: skip


def write(path, what):
    if not isinstance(what, bytes | str):
        what = json.dumps(what)
    path.write_bytes(what if isinstance(what, bytes) else what.encode())
    return path


def test_the_good_one_is_read(tmp_path):
    node = read(write(tmp_path / "good.ipynb", GOOD))
    assert node.cells[1].source == "a = 1\na"
    assert (title(node), minutes(node)) == ("A", (2, 1))


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_notebook_is_refused_in_one_sentence(name, tmp_path):
    path = write(tmp_path / "broken.ipynb", BROKEN[name][0])
    with pytest.raises(NotebookError) as caught:
        read(path)
    assert BROKEN[name][1] in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("command", ["run", "sweep", "check", "student", "site", "collect"])
def test_every_command_refuses_every_broken_notebook_and_writes_nothing(command, labutils, tmp_path):
    out = tmp_path / "out"
    for number, (what, sentence) in enumerate(BROKEN.values()):
        path = write(tmp_path / f"{number:02d}.ipynb", what)
        good = make_notebook(tmp_path / "99.ipynb")
        arguments = [tmp_path] if command == "collect" else [good, path]
        arguments += ["-o", out] if command not in ("check", "collect") else []
        status, printed, errors = labutils(command, *arguments)
        assert status in (1, 2), (command, what)
        assert sentence in errors, (command, what, errors)
        assert str(path) in errors
        assert len(errors.splitlines()) == 1 + (command == "collect")
        assert not out.exists()
        assert "Traceback" not in printed + errors
        path.unlink()


def test_what_is_no_file_is_refused(tmp_path, labutils):
    (tmp_path / "folder.ipynb").mkdir()
    (tmp_path / "dead.ipynb").symlink_to(tmp_path / "nowhere")
    for name in (
        "folder.ipynb",
        "dead.ipynb",
        "none.ipynb",
        "a\x00b.ipynb",
        "",
        " ",
        "9_lstm",
        "-1",
        "1e1",
        "٩",
    ):
        with pytest.raises(UsageError, match="there is no notebook"):
            find(str(tmp_path / name) if name.endswith(".ipynb") else name)
    with pytest.raises(NotebookError, match="is not a file"):
        read(tmp_path / "folder.ipynb")
    with pytest.raises(NotebookError, match="cannot be read"):
        read(tmp_path / "none.ipynb")


@pytest.mark.parametrize("name", ["9", "09", "09_rnn_mnist", "09_rnn_mnist.ipynb"])
def test_a_notebook_is_found_by_number_or_stem(name):
    assert find(name).stem == "09_rnn_mnist"
    assert find(notebooks()[-1]) == notebooks()[-1]


def test_older_notebooks_are_read(tmp_path):
    old = nbformat.v3.new_notebook(
        worksheets=[nbformat.v3.new_worksheet(cells=[nbformat.v3.new_code_cell("a = 1")])]
    )
    node = read(write(tmp_path / "old.ipynb", nbformat.v3.writes_json(old)))
    assert node.cells[0].source == "a = 1"
    lacking = copy.deepcopy(GOOD)
    for cell in lacking["cells"]:
        del cell["id"]  # as VS Code and Colab leave them
    assert all(cell.id for cell in read(write(tmp_path / "no_ids.ipynb", lacking)).cells)


@pytest.mark.parametrize(
    ("source", "first"),
    [
        ("%matplotlib inline\nx = 1", "Expr"),
        ("!ls\nx = 1", "Expr"),
        ("%%bash\nls", "Expr"),
        ("x = !ls", "Assign"),
    ],
)
def test_magics_are_read_as_the_calls_that_they_are(source, first):
    tree = parse(nbformat.v4.new_code_cell(source))
    assert type(tree.body[0]).__name__ == first


@pytest.mark.parametrize("source", ["x = (", "1 1", "x\x00y", "(" * 5000, "x = " + "-" * 100_000 + "1"])
def test_what_is_no_python_is_a_syntax_error(source):
    with pytest.raises(SyntaxError):
        parse(nbformat.v4.new_code_cell(source))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def places(value, path=()):
    """Paths of all values in nested lists and dicts."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


@fuzz
@given(place=st.sampled_from(places(GOOD)), value=values)
def test_a_notebook_with_any_value_in_any_place_is_read_or_refused_in_a_sentence(
    place, value, tmp_path_factory
):
    node = copy.deepcopy(GOOD)
    inner = node
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path = tmp_path_factory.getbasetemp() / "mutant.ipynb"
    write(path, node)
    try:
        read_back = read(path)
    except NotebookError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017 - any may be refused, none may raise another error
        return
    title(read_back)
    assert nbformat.writes(read_back)
