"""Sweeps and what is collected from them: names, resumption, failures, killed workers, tables, plots.

The notebooks are made here and take no time beyond that of a kernel. Most command lines are run in this process,
since every new process would spend seconds on importing torch.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter

import nbformat
import numpy as np
import pandas as pd
import pytest
from processes import hand_on_interrupts, until
from scipy import stats

import labutils.__main__ as door
from labutils import course, lesson, records, sweeps

PARAMETERS = """\
n: int = 1  # a number
kind: str = "a"  # a word
rate: float = 0.5  # a fraction
"""
CHECK = """\
def check_parameters(**rules):  # as lesson's, but imported in no time
    pass


check_parameters(n=(int, 1, 9), kind=("a", "b", "c/d", "c d"), rate=(float, 0, 1))
"""
RECORD = """\
from IPython.display import display

content = {
    "results": {"square": n * n + rate, "word": kind, "losses": [rate, n]},
    "parameters": {"n": n, "kind": kind, "rate": rate},
    "provenance": {"versions": {"python": "3"}, "commit": None, "cpu": "any", "cores": 1, "gpu": None},
}
display({"application/x-labutils+json": content}, raw=True)
"""


def make_notebook(path, *sources, check=CHECK, record=RECORD):
    """Write a small notebook with parameters whose code cells are the given ones, and then a record."""
    cells = [nbformat.v4.new_markdown_cell("# A tiny lesson")]
    cells.append(nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}))
    cells += [nbformat.v4.new_code_cell(source) for source in (check, *sources, record)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def noting(log, then=""):
    """Source of a cell that notes its parameter n and the process of its worker in a file, and does more."""
    return f"import os, time\nwith open({str(log)!r}, 'a') as log:\n    print(n, os.getppid(), os.getpid(), file=log)\n{then}"


def starts(log):
    """How often each n was started, and the last worker and kernel that did."""
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    lines = [line for line in lines if len(line) == 3]
    return Counter(int(n) for n, _, _ in lines), {int(n): (int(w), int(k)) for n, w, k in lines}


@pytest.fixture
def labutils(monkeypatch, capsys):
    """Run the command line in this process; returns the exit status, what it printed, and its errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["labutils", *map(str, arguments)])
        status = 0
        try:
            door.main()
        except SystemExit as ended:
            status = ended.code
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"  # a zombie has ended
    except OSError:
        return False


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Names and plans


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({}, "09_lstm_mnist"),
        ({"seed": 0, "n_iters": 600}, "09_lstm_mnist,seed=0,n_iters=600"),
        ({"rate": 1e-05, "flag": True}, "09_lstm_mnist,rate=1e-05,flag=True"),
        ({"shift": -0.5}, "09_lstm_mnist,shift=-0.5"),
    ],
)
def test_a_run_is_named_by_its_notebook_and_parameters(parameters, name):
    assert sweeps.run_name("09_lstm_mnist", parameters) == name


@pytest.mark.parametrize("value", ["c/d", "c d", "../up", "é", "a\nb", "x" * 500])
def test_a_name_that_is_not_safe_or_too_long_is_mended_and_stays_apart(value):
    name = sweeps.run_name("nb", {"kind": value})
    assert name.isascii()
    assert not set(name) & set("/\\ \n:*?\"'<>|$")
    assert len(f".{name}.failed.ipynb.{2**22}") < 255
    others = [sweeps.run_name("nb", {"kind": other}) for other in ("c_d", "c\td", value[:-1], value + "x")]
    assert name not in others
    assert name == sweeps.run_name("nb", {"kind": value})


def test_lists_are_combined_with_the_last_name_changing_fastest():
    assert sweeps.expand({"a": [1, 2], "b": 5, "c": ["x", "y"]}) == [
        {"a": a, "b": 5, "c": c} for a, c in itertools.product([1, 2], ["x", "y"])
    ]
    assert sweeps.expand({}) == [{}]


def test_the_same_run_has_one_name_however_it_is_asked_for(tmp_path):
    notebook = make_notebook(tmp_path / "nb.ipynb")
    sets = [{"rate": 1, "n": 2}, {"n": 2, "rate": 1.0}]
    assert [run.target.name for run in sweeps.plan({notebook: sets}, tmp_path)] == ["nb,n=2,rate=1.0.ipynb"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["-g", "m=1,2"], "nb: unknown parameter 'm'; known are n, kind, rate"),
        (["-g", "rat=0.1,0.2"], "nb: unknown parameter 'rat'; did you mean 'rate'?"),
        (["-g", "n=1,2,30"], "nb: n must be from 1 to 9, got 30"),
        (["-g", "n=1,,2"], "nb: n must be a whole number from 1 to 9, got ''"),
        (["-g", "kind=a,z"], "nb: kind must be one of a, b, c/d, c d, got 'z'"),
        (["-g", "n=1", "-p", "rate=2"], "nb: rate must be from 0 to 1, got 2.0"),
        (["-g", "n"], "a parameter is passed as name=value, got 'n'"),
        (["-g", "n=1,2", "-p", "n=3"], "a parameter may be given once, with -p or with -g"),
        (["-g", "n=1", "-g", "n=2"], "a parameter may be given once, with -p or with -g"),
        (["-f", "no-such-file.yml"], "no-such-file.yml cannot be read as YAML (FileNotFoundError)"),
        (["--jobs", "0"], "0 is not in the range 1<=x<=64"),
        (["--jobs", "2", "--cluster", "tcp://127.0.0.1:1"], "--jobs is for this machine"),
        (["99"], "there is no notebook '99'"),
    ],
)
def test_bad_input_of_a_sweep_is_refused_in_one_sentence_before_anything_runs(
    arguments, sentence, labutils, tmp_path
):
    status, _, errors = labutils(
        "sweep", make_notebook(tmp_path / "nb.ipynb"), *arguments, "-o", tmp_path / "out"
    )
    assert status == 2
    assert sentence in errors
    assert len(errors.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_sweep_needs_notebooks_and_an_output_folder(labutils, tmp_path):
    assert labutils("sweep", "-o", tmp_path / "out")[::2] == (
        2,
        "labutils: Missing argument 'NOTEBOOKS...'.\n",
    )
    status, _, errors = labutils("sweep", "09")
    assert (status, "Missing option" in errors, "--output" in errors) == (2, True, True)


@pytest.mark.parametrize("content", ["- 3\n", "[]\n", "7\n"])
def test_file_that_holds_no_parameters_is_refused(content, labutils, tmp_path):
    (tmp_path / "p.yml").write_text(content)
    status, _, errors = labutils("sweep", "09", "-f", tmp_path / "p.yml", "-o", tmp_path / "out")
    assert status == 2
    assert "must hold lines of the form name: value, or a list of such sets" in errors


def test_two_notebooks_of_one_name_are_refused(labutils, tmp_path):
    (tmp_path / "other").mkdir()
    paths = [make_notebook(folder / "nb.ipynb") for folder in (tmp_path, tmp_path / "other")]
    status, _, errors = labutils("sweep", *paths, "-o", tmp_path / "out")
    assert (status, errors) == (2, "labutils: two notebooks are named nb; sweep them to different folders\n")


def test_output_that_cannot_be_written_ends_a_sweep_with_one_sentence(labutils, tmp_path):
    (tmp_path / "file").write_text("")
    output = tmp_path / "file" / "out"
    status, _, errors = labutils("sweep", make_notebook(tmp_path / "nb.ipynb"), "-o", output)
    assert status == 1
    assert f"cannot write to {output}" in errors
    assert len(errors.strip().splitlines()) == 1


def test_dry_run_lists_the_runs_and_writes_nothing(labutils, tmp_path):
    (tmp_path / "p.yml").write_text("- n: [1, 2]\n  kind: b\n- n: 3\n")
    paths = [make_notebook(tmp_path / f"{stem}.ipynb") for stem in ("one", "two")]
    arguments = ["-f", tmp_path / "p.yml", "-g", "rate=0.25,1", "-o", tmp_path / "out", "--dry-run"]
    status, printed, _ = labutils("sweep", *paths, *arguments)
    assert status == 0
    listed = [line.split()[-1] for line in printed.splitlines()[:-1]]
    sets = [f"n={n},kind=b,rate={rate}" for n in (1, 2) for rate in (0.25, 1.0)]
    sets += ["n=3,rate=0.25", "n=3,rate=1.0"]
    assert listed == [f"{stem},{text}.ipynb" for stem in ("one", "two") for text in sets]
    assert printed.splitlines()[-1] == "0 of 12 runs are finished, 12 to do"
    assert not (tmp_path / "out").exists()


def test_quick_values_yield_to_the_command_line(labutils, tmp_path):
    status, printed, _ = labutils("sweep", "09", "--quick", "-g", "n_iters=7,8", "-o", tmp_path, "--dry-run")
    assert status == 0
    listed = printed.splitlines()[:-1]
    assert len(listed) == 2
    assert all("hidden_dim=32" in line and "dataset=mnist-mini" in line for line in listed)
    assert ["n_iters=7" in line for line in listed] == [True, False]


# Running


def test_sweep_repeats_nothing_but_what_failed_or_whose_code_has_changed(labutils, tmp_path):
    log, out = tmp_path / "log", tmp_path / "out"
    trouble = "if n == 2:\n    raise ValueError('two is bad')\nif n == 3:\n    time.sleep(60)"
    notebook = make_notebook(tmp_path / "nb.ipynb", noting(log, trouble))
    command = ("sweep", notebook, "-g", "n=1,2,3,4", "-o", out, "--timeout", "4")

    status, printed, errors = labutils(*command)
    assert status == 1
    assert "nb,n=2 failed: cell 4 of 5: ValueError: two is bad" in errors  # the injected cell is one of them
    assert "nb,n=3 failed: cell" in errors
    assert "took longer than 4 s" in errors
    assert names(out) == ["nb,n=1.ipynb", "nb,n=2.failed.ipynb", "nb,n=3.failed.ipynb", "nb,n=4.ipynb"]
    assert "nb,n=1: done in" in printed
    assert "nb,n=2: FAILED in" in printed
    assert starts(log)[0] == {1: 1, 2: 1, 3: 1, 4: 1}
    node = course.read(out / "nb,n=4.ipynb")
    assert node.metadata.labutils.parameters == {"n": 4}
    assert node.cells[-1].outputs

    # a typing error in the prose is mended, and a run that failed is mended too
    node = course.read(notebook)
    node.cells[0].source = "# A small lesson"
    nbformat.write(node, notebook)
    status, printed, _ = labutils("sweep", notebook, "-g", "n=1,4", "-o", out)
    assert (status, starts(log)[0]) == (0, {1: 1, 2: 1, 3: 1, 4: 1})
    assert "2 of 2 runs are finished, 0 to do" in printed

    # now the code changes
    before = (out / "nb,n=4.ipynb").read_bytes()
    make_notebook(notebook, noting(log))
    status, printed, _ = labutils("sweep", notebook, "-g", "n=1,2", "-o", out)
    assert status == 0
    assert (
        "0 of 2 runs are finished, 2 to do, 1 of them again because the notebook's code has changed"
        in printed
    )
    assert starts(log)[0] == {1: 2, 2: 2, 3: 1, 4: 1}
    assert names(out) == ["nb,n=1.ipynb", "nb,n=2.ipynb", "nb,n=3.failed.ipynb", "nb,n=4.ipynb"]
    assert (out / "nb,n=4.ipynb").read_bytes() == before


def test_a_file_that_is_no_finished_run_of_ours_counts_as_unfinished(tmp_path):
    notebook = make_notebook(tmp_path / "nb.ipynb")
    (run,) = sweeps.plan({notebook: [{"n": 2}]}, tmp_path)
    for content in ("", '{"cells": [', "[1]", '{"metadata": {"labutils": 3}}', notebook.read_text()):
        run.target.write_text(content)
        (again,) = sweeps.plan({notebook: [{"n": 2}]}, tmp_path)
        assert again.state == "to do"
    run.target.write_text(json.dumps({"metadata": {"labutils": {**run.identity, "seconds": 7.5}}}))
    (again,) = sweeps.plan({notebook: [{"n": 2}]}, tmp_path)
    assert (again.state, again.seconds) == ("finished", 7.5)
    other, known = sweeps.plan({notebook: [{"n": 3}, {"n": 2}]}, tmp_path)
    assert {known.state: known.expected_seconds, other.state: other.expected_seconds}["to do"] == 7.5


def test_sweep_goes_on_where_a_killed_driver_stopped(labutils, tmp_path):
    log, out = tmp_path / "log", tmp_path / "out"
    notebook = make_notebook(tmp_path / "nb.ipynb", noting(log, "time.sleep(2 * (n > 1))"))
    command = [sys.executable, "-m", "labutils", "sweep", notebook, "-g", "n=1,2,3,4", "-o", out, "-j", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as driver:
        assert until(lambda: 2 in starts(log)[0], seconds=300)
        driver.kill()
    assert names(out) == ["nb,n=1.ipynb"]
    worker, kernel = starts(log)[1][2]
    assert until(lambda: not is_alive(worker) and not is_alive(kernel), seconds=20)
    assert names(out) == ["nb,n=1.ipynb"]

    status, printed, _ = labutils("sweep", notebook, "-g", "n=1,2,3,4", "-o", out)
    assert status == 0
    assert "1 of 4 runs are finished, 3 to do" in printed
    assert starts(log)[0] == {1: 1, 2: 2, 3: 1, 4: 1}
    assert names(out) == [f"nb,n={n}.ipynb" for n in (1, 2, 3, 4)]


def test_sweep_outlives_a_killed_worker_process(tmp_path):
    log, out = tmp_path / "log", tmp_path / "out"
    suicide = "if n == 2 and not os.path.exists('killed'):\n    open({0!r}, 'w').close()\n    os.kill(os.getppid(), 9)"
    suicide = suicide.replace("'killed'", "{0!r}").format(str(tmp_path / "killed"))
    notebook = make_notebook(tmp_path / "nb.ipynb", noting(log, f"{suicide}\n    time.sleep(60)"))
    runs = sweeps.plan({notebook: sweeps.expand({"n": [1, 2, 3]})}, out)
    sweeps.sweep(runs, jobs=1)
    assert [run.error for run in runs] == [None] * 3
    assert starts(log)[0] == {1: 1, 2: 2, 3: 1}
    assert names(out) == [f"nb,n={n}.ipynb" for n in (1, 2, 3)]


def test_workers_that_are_killed_again_and_again_end_the_sweep(tmp_path):
    notebook = make_notebook(
        tmp_path / "nb.ipynb", "import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(60)"
    )
    runs = sweeps.plan({notebook: [{}]}, tmp_path / "out")
    with pytest.raises(course.RunError, match=r"workers were killed 3 times before any run ended"):
        sweeps.sweep(runs, jobs=1)
    assert names(tmp_path / "out") == []


def test_interrupted_sweep_ends_its_workers_and_kernels_and_writes_nothing_more(tmp_path):
    log, out = tmp_path / "log", tmp_path / "out"
    notebook = make_notebook(tmp_path / "nb.ipynb", noting(log, "time.sleep(60 * (n > 1))"))
    command = [sys.executable, "-m", "labutils", "sweep", notebook, "-g", "n=1,2,3", "-o", out]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    hand_on_interrupts()
    with subprocess.Popen(command, start_new_session=True, **pipes) as driver:
        assert until(lambda: {2, 3} <= set(starts(log)[0]) and names(out), seconds=300)
        os.killpg(driver.pid, signal.SIGINT)  # as a terminal does: to the workers, too
        _, errors = driver.communicate(timeout=60)
    assert driver.returncode == 130
    message = "labutils: interrupted; finished notebooks are kept, unfinished ones were not written"
    assert errors.strip() == message
    assert names(out) == ["nb,n=1.ipynb"]
    processes = [pid for n in (2, 3) for pid in starts(log)[1][n]]
    assert until(lambda: not any(map(is_alive, processes)), seconds=20)


# On a Dask cluster


@pytest.fixture
def cluster(tmp_path):
    """Address of a scheduler with two workers, each a process of its own on loopback."""
    file = tmp_path / "scheduler.json"
    local = ["--host", "127.0.0.1", "--no-dashboard"]
    scheduler = [*local, "--port", "0", "--scheduler-file", str(file)]
    worker = [*local, "--nthreads", "1", "--no-nanny", "--scheduler-file", str(file)]
    processes = []
    for role, arguments in (("scheduler", scheduler), ("worker", worker), ("worker", worker)):
        command = [sys.executable, "-m", f"distributed.cli.dask_{role}", *arguments]
        processes.append(subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL))
    assert until(file.exists, seconds=300)
    yield json.loads(file.read_text())["address"], processes[0]
    for process in processes:
        process.kill()
        process.wait()


def test_sweep_on_a_cluster_outlives_a_killed_worker(cluster, labutils, tmp_path):
    address, _ = cluster
    log, out = tmp_path / "log", tmp_path / "out"
    notebook = make_notebook(
        tmp_path / "nb.ipynb",
        noting(log, f"while not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.1)"),
    )
    killed = []

    def kill_a_worker():
        if until(lambda: len(starts(log)[0]) >= 2, seconds=300):  # both workers are in the middle of a run
            killed.append(starts(log)[1][2][0])
            os.kill(killed[0], signal.SIGKILL)
        (tmp_path / "go").touch()

    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    status, printed, _ = labutils("sweep", notebook, "-g", "n=1,2,3,4,5", "-o", out, "--cluster", address)
    killer.join()
    assert status == 0, printed
    assert names(out) == [f"nb,n={n}.ipynb" for n in (1, 2, 3, 4, 5)]
    counts, workers = starts(log)
    assert killed
    assert counts == {1: 1, 2: 2, 3: 1, 4: 1, 5: 1}
    assert killed[0] not in {worker for worker, _ in workers.values()}


def test_scheduler_that_goes_away_ends_the_sweep_with_one_sentence(cluster, labutils, tmp_path):
    address, scheduler = cluster
    log, out = tmp_path / "log", tmp_path / "out"
    notebook = make_notebook(tmp_path / "nb.ipynb", noting(log, "time.sleep(60 * (n > 1))"))

    def kill_the_scheduler():
        until(lambda: set(starts(log)[0]) >= {2, 3} and out.exists() and names(out), seconds=300)
        scheduler.kill()

    killer = threading.Thread(target=kill_the_scheduler)
    killer.start()
    status, _, errors = labutils("sweep", notebook, "-g", "n=1,2,3", "-o", out, "--cluster", address)
    killer.join()
    assert status == 1
    assert errors == (
        "labutils: the Dask scheduler went away; finished runs are kept, so start the same sweep again\n"
    )
    assert names(out) == ["nb,n=1.ipynb"]


@pytest.mark.parametrize(
    ("address", "reason"), [("tcp://127.0.0.1:9", "OSError"), ("smoke://127.0.0.1:9", "ValueError")]
)
def test_scheduler_that_does_not_answer_ends_the_sweep_with_one_sentence(
    address, reason, labutils, monkeypatch, tmp_path
):
    monkeypatch.setattr(sweeps, "ANSWER_SECONDS", 1)
    notebook = make_notebook(tmp_path / "nb.ipynb")
    status, _, errors = labutils("sweep", notebook, "-o", tmp_path / "out", "--cluster", address)
    assert status == 1
    assert errors == (
        f"labutils: no Dask scheduler answers at {address} ({reason}); an address looks like tcp://host:8786\n"
    )


def test_sweep_without_dask_says_how_to_get_it(labutils, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "distributed", None)
    notebook = make_notebook(tmp_path / "nb.ipynb")
    status, _, errors = labutils("sweep", notebook, "-o", tmp_path / "out", "--cluster", "tcp://127.0.0.1:9")
    assert status == 1
    assert (
        errors == "labutils: --cluster needs Dask, which is not installed: pip install 'labutils[cluster]'\n"
    )


# Collecting


def make_executed(path, rows, notebook=None, **parameters):
    """Write what a run with these parameters leaves behind: an executed notebook with a record for each row."""
    cell = nbformat.v4.new_code_cell("lesson.record()")
    provenance = {"versions": {"python": "3.11", "torch": "2"}, "commit": "c0ffee", "cpu": "any"}
    for results in rows:
        content = {"results": results, "parameters": parameters, "provenance": provenance}
        cell.outputs.append(nbformat.v4.new_output("display_data", {lesson.RECORD_TYPE: content}))
    node = nbformat.v4.new_notebook(cells=[cell])
    if notebook:
        node.metadata["labutils"] = {"notebook": notebook, "seconds": 2.5}
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
    assert frame["n"].tolist() == course.collect(runs)["n"].tolist()
    assert [json.loads(text) for text in frame["accuracy"]] == course.collect(runs)["accuracy"].tolist()


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
    frame = course.collect(runs)
    rows = frame.groupby(["seed", "n"])["accuracy"].agg(_n="count", _mean="mean", _sd="std").reset_index()
    figure = records._draw(rows.assign(_half=rows["_sd"]), "n", "accuracy", "seed", "what it is")
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
    assert status == 2
    assert "broken.ipynb is not a readable notebook" in errors


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
    assert "torch=" in frame.loc[0, "versions"]
    assert figure.exists()
