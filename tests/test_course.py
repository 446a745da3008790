"""The instructor's door: what is refused before a kernel starts, and what a run leaves behind."""

import os
import signal
import subprocess
import sys

import nbformat
import pytest
from bs4 import BeautifulSoup
from processes import hand_on_interrupts, until

from labutils import course, data

RULES = 'lesson.check_parameters(n=(int, 1, 10), kind=("a", "b"), rate=(float, 0, 1), flag=bool)'


def make_notebook(path, *sources, parameters="n: int = 1  # a number"):
    """Write a small notebook with the given code cells after its parameters."""
    cells = [
        nbformat.v4.new_markdown_cell("# A tiny lesson\n\n**Time**: 2 minutes to read, 1 minute to run.")
    ]
    cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def labutils(*arguments, **environment):
    """Run the command line as a user does."""
    command = [sys.executable, "-m", "labutils", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment}, check=False
    )


@pytest.mark.parametrize("name", ["9", "09", "09_lstm_mnist", "09_lstm_mnist.ipynb"])
def test_notebook_is_found_by_number_or_stem(name):
    assert course.find(name).stem == "09_lstm_mnist"


def test_unknown_notebook_is_refused_naming_those_there_are():
    with pytest.raises(course.UsageError, match=r"no notebook '99_nothing'; there are 00_start_here"):
        course.find("99_nothing")


def test_rules_are_read_from_the_page(tmp_path):
    rules = course.read_rules(make_notebook(tmp_path / "a.ipynb", RULES))
    assert rules == {"n": (int, 1, 10), "kind": ("a", "b"), "rate": (float, 0, 1), "flag": bool}


def test_rule_that_is_no_literal_is_refused(tmp_path):
    notebook = make_notebook(tmp_path / "a.ipynb", "check_parameters(n=(int, 1, 2**31))")
    with pytest.raises(course.UsageError, match=r"rule '2 \*\* 31' is not a literal"):
        course.read_rules(notebook)


@pytest.mark.parametrize(
    ("text", "rule", "value"),
    [
        ("3", (int, 1, 10), 3),
        ("three", (int, 1, 10), "three"),
        ("1e-3", (float, 0, 1), 1e-3),
        ("a", ("a", "b"), "a"),
        ("7", ("a", "b"), "7"),
        ("True", bool, True),
        ("no", bool, "no"),
    ],
)
def test_text_of_an_option_takes_the_type_of_its_rule(text, rule, value):
    assert course.parse_value(text, rule) == value


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["09", "-p", "n_iter=5"], "09_lstm_mnist: unknown parameter 'n_iter'; did you mean 'n_iters'?"),
        (
            ["09", "-p", "n_iters=many"],
            "09_lstm_mnist: n_iters must be a whole number from 6 to 1000000, got 'many'",
        ),
        (["09", "-p", "n_iters=1"], "09_lstm_mnist: n_iters must be from 6 to 1000000, got 1"),
        (
            ["09", "-p", "dataset=cifar"],
            "dataset must be one of mnist, mnist-mini, fashion-mnist, got 'cifar'",
        ),
        (["09", "-p", "n_iters"], "a parameter is passed as name=value, got 'n_iters'"),
        (["09", "-f", "no-such-file.yml"], "no-such-file.yml cannot be read as YAML (FileNotFoundError)"),
        (["99"], "there is no notebook '99'; there are 00_start_here"),
        (["--jobs", "none"], "'none' is not a valid integer range"),
    ],
)
def test_bad_input_is_refused_in_one_sentence_before_anything_runs(arguments, sentence, tmp_path):
    result = labutils("run", *arguments, "--output", tmp_path / "out")
    assert result.returncode == 2
    assert sentence in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_parameter_file_that_is_no_mapping_is_refused(tmp_path):
    (tmp_path / "p.yml").write_text("- 3\n")
    result = labutils("run", "09", "-f", tmp_path / "p.yml")
    assert result.returncode == 2
    assert "must hold lines of the form name: value" in result.stderr


def test_file_that_is_no_notebook_is_refused(tmp_path):
    (tmp_path / "a.ipynb").write_text('{"cells": [')
    result = labutils("run", tmp_path / "a.ipynb", "--output", tmp_path / "out")
    assert result.returncode == 2
    assert "is not a readable notebook" in result.stderr
    assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    result = labutils("run", make_notebook(tmp_path / "a.ipynb", "1"), "--output", tmp_path / "file" / "out")
    assert result.returncode == 1
    assert "cannot write to" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_data_that_cannot_be_had_ends_with_one_sentence(tmp_path):
    proxy = dict.fromkeys(["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"], "http://127.0.0.1:9")
    result = labutils("data", "mnist", LABUTILS_DATA=str(tmp_path), **proxy)
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert "MNIST could not be fetched from any source; connect to the internet" in result.stderr
    assert not list(tmp_path.rglob("*ubyte*"))


def test_run_writes_notebooks_pages_and_results_and_knows_its_time_next_time(tmp_path):
    markdown = nbformat.v4.new_markdown_cell("With $W_{ij}$ and\n\n$$x = W h$$")
    path = make_notebook(
        tmp_path / "50_tiny.ipynb",
        "from labutils import lesson\nlesson.check_parameters(n=(int, 1, 10))\nlesson.record(square=n * n)",
        "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nlesson.show(fig, 'An empty pair of \"axes\".')",
        "print('secret')",
    )
    node = course.read(path)
    node.cells[-1].metadata.tags = ["solution"]
    node.cells.append(markdown)
    nbformat.write(node, path)

    summary = course.run([path], {"50_tiny": {"n": 3}}, tmp_path / "out")
    assert summary.failed == []

    table = course.collect(tmp_path / "out" / "notebooks")
    assert table.loc[0, ["notebook", "n", "square"]].tolist() == ["50_tiny", 3, 9]
    assert "torch=" in table.loc[0, "versions"]
    page = (tmp_path / "out" / "pages" / "50_tiny.html").read_text(encoding="utf-8")
    image = BeautifulSoup(page, "html.parser").find("img")
    assert image["alt"] == 'An empty pair of "axes".'
    assert page.count("<math") == 2
    results = (tmp_path / "out" / "pages" / "results.html").read_text(encoding="utf-8")
    assert "<th>square</th>" in results
    assert course._known_seconds(tmp_path / "out").keys() == {'50_tiny {"n": 3}'}


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("1 / 0", "cell 2 of 3: ZeroDivisionError: division by zero"),
        ("import os; os._exit(1)", "the kernel died in cell 2 of 3"),
        ("import time; time.sleep(60)", "cell 2 of 3 took longer than 3 s"),
    ],
)
def test_failed_notebook_is_reported_and_kept_apart_and_the_others_go_on(source, sentence, tmp_path):
    out = tmp_path / "out"
    (out / "notebooks").mkdir(parents=True)
    (out / "notebooks" / "50_bad.ipynb").write_text("the result of an earlier run")
    bad = make_notebook(tmp_path / "50_bad.ipynb", source, "print('never')")
    good = make_notebook(tmp_path / "51_good.ipynb", "print('fine')")
    result = labutils("run", bad, good, "--output", out, "--timeout", 3)
    assert result.returncode == 1
    assert sentence in result.stderr
    assert sorted(path.name for path in (out / "notebooks").iterdir()) == [
        "50_bad.failed.ipynb",
        "51_good.ipynb",
    ]
    assert "50_bad" not in (out / "pages" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_the_kernels_and_leaves_nothing_half_written(how, tmp_path):
    pid_file = tmp_path / "pid"
    source = f"import os, time, pathlib\npathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))\ntime.sleep(60)"
    path = make_notebook(tmp_path / "50_slow.ipynb", source)
    command = [sys.executable, "-m", "labutils", "run", str(path), "--output", str(tmp_path / "out")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    hand_on_interrupts()
    with subprocess.Popen(command, **pipes) as process:
        assert until(lambda: pid_file.exists() and pid_file.read_text(), seconds=30)
        process.send_signal(how)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (
        errors.strip()
        == "labutils: interrupted; finished notebooks are kept, unfinished ones were not written"
    )
    assert list((tmp_path / "out" / "notebooks").iterdir()) == []
    assert until(lambda: not _alive(int(pid_file.read_text())), seconds=30)


def test_run_that_falls_back_to_the_bundled_subset_says_so_on_the_page(tmp_path):
    proxy = dict.fromkeys(["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"], "http://127.0.0.1:9")
    path = make_notebook(
        tmp_path / "50_digits.ipynb",
        "from labutils import data, lesson\ndigits = data.mnist(dataset)",
        "lesson.record(dataset=digits.name)",
        parameters='dataset: str = "mnist"  # data set',
    )
    result = labutils(
        "run", path, "--output", tmp_path / "out", LABUTILS_DATA=str(tmp_path / "cache"), **proxy
    )
    assert result.returncode == 0, result.stderr
    assert "BUNDLED SUBSET" in result.stdout
    assert "BUNDLED SUBSET" in (tmp_path / "out" / "pages" / "50_digits.html").read_text(encoding="utf-8")
    assert course.collect(tmp_path / "out" / "notebooks").loc[0, "dataset"] == "mnist-mini"


def test_slider_is_left_out_of_the_executed_notebook_and_the_page(tmp_path):
    notebook = make_notebook(
        tmp_path / "01_slider.ipynb",
        'lesson.check_parameters(n=(int, 1, 10))\nprint("before")\n'
        'lesson.slide(lambda q: (plt.figure(), "A figure with nothing in it."), q=[1, 2])',
        parameters="n: int = 1  # a number\nfrom labutils import lesson\nimport matplotlib.pyplot as plt",
    )
    assert course.run([notebook], {}, tmp_path / "out").failed == []
    (executed,) = (tmp_path / "out" / "notebooks").glob("*.ipynb")
    node = nbformat.read(executed, as_version=4)
    assert "widgets" not in node.metadata
    assert [output.output_type for output in node.cells[-1].outputs] == ["stream"]
    assert "interactive(" not in (tmp_path / "out" / "pages" / "01_slider.html").read_text(encoding="utf-8")


def test_time_left_counts_what_runs_side_by_side():
    jobs = [
        course.Job(course.NOTEBOOKS / f"{n}.ipynb", {}, expected) for n, expected in (("a", 100), ("b", 60))
    ]
    assert "about 1:40 left" in course._status(jobs, 2, 0)
    jobs[0].seconds = 90.0
    assert "1 of 2 done, about 1:00 left" in course._status(jobs, 2, 90)


def test_dataset_names_of_the_lessons_are_the_packages():
    rules = [course.read_rules(path).get("dataset") for path in course.notebooks()]
    assert {rule for rule in rules if rule is not None} == {data.DATASETS}


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
