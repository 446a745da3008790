"""What is collected from executed notebooks: tables, summaries, plots."""

import contextlib
import io
import itertools
import json
import sys
import warnings

import nbformat
import numpy as np
import pandas as pd
import pytest
from fuzz import fuzz
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tiny import make_notebook

from labutils.conventions import RECORD_TYPE
from labutils.course import records
from labutils.errors import UsageError

# Collecting


def make_executed(path, rows, of=None, /, **parameters):
    """Write what a run with these parameters leaves behind: an executed notebook with a record for each row."""
    cell = nbformat.v4.new_code_cell("lesson.record()")
    provenance = {"versions": {"python": "3.11", "torch": "2"}, "commit": "c0ffee", "cpu": "any"}
    for results in rows:
        content = {"results": results, "parameters": parameters, "provenance": provenance}
        cell.outputs.append(nbformat.v4.new_output("display_data", {RECORD_TYPE: content}))
    node = nbformat.v4.new_notebook(cells=[cell])
    if of:
        node.metadata["labutils"] = {"notebook": of, "seconds": 2.5}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(node, path)


@pytest.fixture
def runs(tmp_path):
    """Folder of a sweep over seed and n in which accuracy is n + seed / 10, with a failed run and other files."""
    folder = tmp_path / "runs"
    for n, seed in itertools.product((2, 10), range(3)):
        rows = [{"accuracy": n + seed / 10, "model": "A", "losses": [1.0, seed]}]
        make_executed(folder / f"nb,n={n},seed={seed}.ipynb", rows, "nb", n=n, seed=seed)
    make_executed(folder / "nb,n=10,seed=9.failed.ipynb", [{"accuracy": 0.0}], "nb", n=10, seed=9)
    make_executed(folder / ".ipynb_checkpoints" / "nb-checkpoint.ipynb", [{"accuracy": 0.0}], n=1, seed=1)
    return folder


def test_collected_table_has_parameters_results_and_provenance(runs, labutils, tmp_path):
    make_executed(runs / "below" / "out.ipynb", [{"error": 0.5}, {"error": 0.25}], width=3)
    status, printed, _ = labutils("collect", runs, "--output", tmp_path / "table.csv")
    assert status == 0
    frame = pd.read_csv(tmp_path / "table.csv")
    assert len(frame) == 8
    swept = frame[frame["notebook"] == "nb"]
    assert swept["n"].tolist() == [2, 2, 2, 10, 10, 10]
    assert swept["accuracy"].tolist() == [2.0, 2.1, 2.2, 10.0, 10.1, 10.2]
    assert swept.iloc[3][["file", "run_seconds", "commit"]].tolist() == [
        "nb,n=10,seed=0.ipynb",
        2.5,
        "c0ffee",
    ]
    other = frame[frame["notebook"] == "out"]
    assert other[["file", "width", "error"]].to_numpy().tolist() == [
        ["below/out.ipynb", 3.0, 0.5],
        ["below/out.ipynb", 3.0, 0.25],
    ]
    assert set(frame["versions"]) == {"python=3.11 torch=2"}
    assert printed.splitlines() == [
        "8 records of 7 executed notebooks; 1 failed run left out",
        "nb: 6 executed, 6 records",
        "  parameter n: 2, 10",
        "  parameter seed: 0, 1, 2",
        "  record accuracy: 2 to 10.2, mean 6.1",
        "  record run_seconds: 2.5 to 2.5, mean 2.5",
        "out: 1 executed, 2 records",
        "  record error: 0.25 to 0.5, mean 0.375",
        f"Table: {tmp_path / 'table.csv'}",
    ]


def test_parquet_table_holds_the_same(runs, labutils, tmp_path):
    make_executed(runs / "mixed.ipynb", [{"accuracy": "none", "model": 3, "losses": 1.0}], n=2, seed=7)
    status, _, errors = labutils("collect", runs, "--output", tmp_path / "table.parquet")
    assert status == 0, errors
    frame = pd.read_parquet(tmp_path / "table.parquet")
    assert frame["n"].tolist() == records.collect(runs)["n"].tolist()
    assert [json.loads(text) for text in frame["accuracy"]] == records.collect(runs)["accuracy"].tolist()


def test_parquet_without_pyarrow_says_how_to_get_it(runs, labutils, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, printed, errors = labutils("collect", runs, "--output", tmp_path / "table.parquet")
    assert (status, printed) == (1, "")
    assert errors == "labutils: a Parquet table needs the package pyarrow: pip install -e '.[parquet]'\n"
    assert not (tmp_path / "table.parquet").exists()


@pytest.mark.parametrize("kind", records.FIGURES)
def test_plot_shows_means_and_intervals(kind, runs, labutils, tmp_path):
    figure = tmp_path / f"figure{kind}"
    status, printed, errors = labutils("collect", runs, "--plot", figure, "-x", "n", "-y", "accuracy")
    assert status == 0, errors
    assert figure.stat().st_size > 1000
    values = np.array([2.0, 2.1, 2.2])
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    lines = [line.split() for line in printed.splitlines()[-6:]]
    assert lines[:3] == [
        ["n", "mean", "interval", "records"],
        ["2", "2.1", "±", f"{(high - low) / 2:.3g}", "3"],
        ["10", "10.1", "±", f"{(high - low) / 2:.3g}", "3"],
    ]
    assert (
        "accuracy: mean and 95 % confidence interval (Student's t)\nof 3 records a point, over seed\n"
        in printed
    )


def test_plot_draws_what_it_says(runs):
    table, _ = records.means(records.collect(runs), "n", "accuracy", "seed")
    figure = records._draw(table, "n", "accuracy", "seed", "what it is")
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("n", "accuracy", "what it is")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["seed = 0", "seed = 1", "seed = 2"]
    drawn = [container.lines[0].get_xydata().tolist() for container in ax.containers]
    assert drawn == [[[2, 2 + seed / 10], [10, 10 + seed / 10]] for seed in range(3)]
    markers = {container.lines[0].get_marker() for container in ax.containers}
    assert len(markers) == 3


def test_plot_along_words_and_of_single_records(runs, labutils, tmp_path):
    figure = tmp_path / "figure.png"
    for seed in range(3):
        make_executed(runs / f"other,{seed}.ipynb", [{"accuracy": 1.0, "model": "B"}], n=2, seed=seed)
    status, printed, _ = labutils(
        "collect", runs, "--plot", figure, "-x", "model", "-y", "accuracy", "--by", "n"
    )
    assert status == 0
    assert [line.split()[:3] for line in printed.splitlines()[-6:-3]] == [
        ["2", "A", "2.1"],
        ["2", "B", "1"],
        ["10", "A", "10.1"],
    ]
    status, printed, _ = labutils(
        "collect", runs, "--plot", figure, "-x", "seed", "-y", "run_seconds", "--by", "n"
    )
    assert status == 0
    assert "run_seconds: one record a point" in printed


def test_plot_says_when_records_of_one_run_are_pooled(labutils, tmp_path):
    for seed in range(2):
        rows = [{"accuracy": 1.0 + seed, "model": "A"}, {"accuracy": 5.0 + seed, "model": "B"}]
        make_executed(tmp_path / "runs" / f"{seed}.ipynb", rows, n=1, seed=seed)
    command = ("collect", tmp_path / "runs", "--plot", tmp_path / "f.png", "-x", "n", "-y", "accuracy")
    assert "over seed; several records of a run are pooled (see --by model)" in labutils(*command)[1]
    assert "pooled" not in labutils(*command, "--by", "model")[1]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-x", "seed"], "a figure needs all of --plot FILE, -x PARAM and -y RECORD"),
        (["--plot", "OUT.png", "-x", "seed"], "a figure needs all of --plot FILE, -x PARAM and -y RECORD"),
        (["--by", "seed"], "a figure needs all of --plot FILE, -x PARAM and -y RECORD"),
        (["--plot", "OUT.png", "-x", "sed", "-y", "accuracy"], "unknown parameter or record 'sed'; did you mean 'seed'?"),
        (
            ["--plot", "OUT.png", "-x", "n", "-y", "acuracy"],
            "unknown parameter or record 'acuracy'; did you mean 'accuracy'?",
        ),
        (["--plot", "OUT.png", "-x", "n", "-y", "accuracy", "--by", "modl"], "did you mean 'model'?"),
        (["--plot", "OUT.png", "-x", "n", "-y", "model"], "model holds no numbers, so it cannot be plotted along y"),
        (["--plot", "OUT.png", "-x", "losses", "-y", "accuracy"], "losses holds lists, so it cannot be plotted"),
        (["--plot", "OUT.txt", "-x", "n", "-y", "accuracy"], "a figure is written to a file that ends in .png, .pdf, .svg, got '.txt'"),
        (["--output", "OUT.xlsx"], "a table is written to a file that ends in .csv, .parquet, got '.xlsx'"),
    ],
)  # fmt: skip
def test_bad_input_of_collect_is_refused_in_one_sentence(arguments, sentence, runs, labutils, tmp_path):
    arguments = [argument.replace("OUT", str(tmp_path / "out")) for argument in arguments]
    status, printed, errors = labutils("collect", runs, *arguments)
    assert (status, printed) == (2, "")
    assert sentence in errors
    assert len(errors.strip().splitlines()) == 1
    assert not list(tmp_path.glob("out*"))


def test_collect_refuses_a_folder_that_is_not_there_or_holds_no_record(labutils, tmp_path):
    status, _, errors = labutils("collect", tmp_path / "nowhere")
    assert status == 2
    assert "does not exist" in errors
    status, _, errors = labutils("collect", tmp_path)
    assert (status, errors) == (1, f"labutils: no executed notebook in {tmp_path} holds a record\n")
    (tmp_path / "broken.ipynb").write_text('{"cells": [')
    status, _, errors = labutils("collect", tmp_path)
    assert status == 1
    assert errors.splitlines()[0].startswith(
        f"left out: {tmp_path / 'broken.ipynb'} is not a notebook: it is not JSON"
    )


def test_bad_files_are_named_and_left_out(runs, labutils, tmp_path):
    before = records.collect(runs)
    for name, text in {"half.ipynb": '{"cells": [', "empty.ipynb": "", "list.ipynb": "[1]"}.items():
        (runs / name).write_text(text)
    make_executed(runs / "sub" / ".venv" / "theirs.ipynb", [{"accuracy": 1.0}], n=1, seed=1)
    make_executed(runs / "lie.ipynb", [{"accuracy": 1.0}], n=1, seed=1)
    node = json.loads((runs / "lie.ipynb").read_text())
    node["cells"][0]["outputs"][0]["data"][RECORD_TYPE] = [3]
    (runs / "lie.ipynb").write_text(json.dumps(node))
    status, printed, errors = labutils("collect", runs, "-o", tmp_path / "table.csv")
    assert status == 0
    assert printed.startswith("6 records of 6 executed notebooks")
    assert [line.split(": ")[1].split("/")[-1] for line in sorted(errors.splitlines())] == [
        "empty.ipynb is not a notebook",
        "half.ipynb is not a notebook",
        "lie.ipynb, cell 1",
        "list.ipynb is not a notebook",
    ]
    assert records.collect(runs).equals(before)


def test_columns_keep_what_their_values_are(tmp_path):
    rows = [
        {"flag": True, "n_big": 2**70, "loss": 0.5, "count": 3, "word": "nan?", "precise": 2**60},
        {"flag": None, "n_big": None, "loss": "nan", "count": None, "word": "b", "precise": 0.5},
        {"flag": False, "n_big": 1, "loss": "-inf", "count": 4, "word": "nan", "precise": 1},
    ]
    for number, row in enumerate(rows):
        make_executed(
            tmp_path / f"{number}.ipynb", [{k: v for k, v in row.items() if v is not None}], k=number
        )
    frame = records.collect(tmp_path)
    assert frame["flag"].dropna().tolist() == [True, False]
    assert frame["flag"].map(type, na_action="ignore").dropna().unique().tolist() == [bool]
    assert frame["n_big"].tolist() == [2**70, None, 1]
    assert frame["loss"].iloc[0] == 0.5
    assert np.isnan(frame["loss"].iloc[1])
    assert frame["loss"].iloc[2] == -np.inf
    assert frame["count"].dropna().tolist() == [3, 4]
    assert frame["precise"].tolist() == [2**60, 0.5, 1]
    assert frame["word"].tolist() == ["nan?", "b", "nan"]
    text = records.table(frame, ".csv")
    assert str(2**70) in text
    assert "True" in text


def test_a_plot_says_how_many_values_it_leaves_out(runs, labutils, tmp_path):
    make_executed(runs / "diverged.ipynb", [{"accuracy": "nan", "model": "A"}], "nb", n=2, seed=7)
    make_executed(runs / "other.ipynb", [{"model": "A"}], "nb", n=2, seed=8)  # has no accuracy at all
    command = ("collect", runs, "--plot", tmp_path / "f.png", "-x", "n", "-y", "accuracy")
    status, printed, errors = labutils(*command)
    assert (status, errors) == (0, "")
    assert "1 record is left out: accuracy is not finite there" in printed
    assert next(line.split() for line in printed.splitlines() if line.strip().startswith("2 "))[:3] == [
        "2",
        "2.1",
        "±",
    ]


def test_a_lesson_is_swept_collected_and_plotted(labutils, tmp_path):
    source = "from labutils import lesson\n\nlesson.check_parameters(n=(int, 1, 9), kind=('a', 'b'), rate=(float, 0, 1))"
    notebook = make_notebook(tmp_path / "nb.ipynb", check=source, record="lesson.record(square=n * n)")
    status, _, errors = labutils("sweep", notebook, "-g", "n=2,3", "-o", tmp_path / "runs")
    assert status == 0, errors
    table, figure = tmp_path / "table.csv", tmp_path / "figure.png"
    command = ("collect", tmp_path / "runs", "--output", table, "--plot", figure, "-x", "n", "-y", "square")
    assert labutils(*command)[0] == 0
    frame = pd.read_csv(table)
    assert frame[["notebook", "n", "rate", "square"]].to_numpy().tolist() == [
        ["nb", 2, 0.5, 4],
        ["nb", 3, 0.5, 9],
    ]
    assert "numpy=" in frame.loc[0, "versions"]
    assert figure.exists()


names = st.sampled_from(["a", "b", "n", "x y", "é", "", "_n", "_mean", "notebook"])
words = st.sampled_from(["nan", "inf", "a", "", "1", 'a,b\n"c"', "é"])
scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | words
rows = st.dictionaries(names, scalars | st.lists(scalars, max_size=2), max_size=4)


@fuzz
@given(st.lists(st.tuples(rows, rows), min_size=1, max_size=4), names, names, st.none() | names)
def test_no_records_break_the_table_the_summary_or_the_plot(recorded, x, y, by):
    runs = [
        ({"notebook": "nb", "file": f"{number}.ipynb"}, {"parameters": p, "results": r, "provenance": {}})
        for number, (p, r) in enumerate(recorded)
    ]
    frame = records.as_frame(runs)
    assert len(frame) == len(recorded)
    back = pd.read_csv(io.StringIO(records.table(frame, ".csv")), keep_default_na=False)
    assert back["file"].tolist() == [f"{number}.ipynb" for number in range(len(recorded))]
    records.summary(frame)
    with contextlib.suppress(UsageError), warnings.catch_warnings():
        warnings.simplefilter("error")
        records.means(frame, x, y, by)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(rows, min_size=1, max_size=4))
def test_no_records_break_a_parquet_table(recorded):
    runs = [
        ({"file": str(n)}, {"parameters": {}, "results": r, "provenance": {}}) for n, r in enumerate(recorded)
    ]
    frame = records.as_frame(runs)
    back = pd.read_parquet(io.BytesIO(records.table(frame, ".parquet")))
    assert back["file"].tolist() == [str(number) for number in range(len(recorded))]


@pytest.mark.parametrize("scale", [1.0, 1e-300, 3e154, 1e200])
def test_means_of_numbers_of_any_size(scale):
    runs = [
        ({"file": str(n)}, {"parameters": {"x": 1}, "results": {"y": n * scale}, "provenance": {}})
        for n in (1, 2, 3)
    ]
    table, _ = records.means(records.as_frame(runs), "x", "y", None)
    low, high = stats.t.interval(0.95, 2, 2.0, stats.sem([1.0, 2.0, 3.0]))
    assert table["mean"].item() == pytest.approx(2 * scale, rel=1e-12)
    assert table["half"].item() == pytest.approx((high - low) / 2 * scale, rel=1e-12)
