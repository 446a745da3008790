"""Sweeps: names, resumption, failures, killed workers, clusters."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading

import nbformat
import pytest
from bs4 import BeautifulSoup
from processes import hand_on_interrupts, is_alive, until
from tiny import make_notebook, names, noting, starts

from labutils import NOTEBOOKS
from labutils.course import files, jobs, parameters, records, running
from labutils.course.notebook import read
from labutils.errors import UsageError

# Names and plans


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({}, "10_lstm_mnist"),
        ({"seed": 0, "n_iters": 600}, "10_lstm_mnist,seed=0,n_iters=600"),
        ({"rate": 1e-05, "flag": True}, "10_lstm_mnist,rate=1e-05,flag=True"),
        ({"shift": -0.5}, "10_lstm_mnist,shift=-0.5"),
    ],
)
def test_a_run_is_named_by_its_notebook_and_parameters(parameters, name):
    assert running.run_name("10_lstm_mnist", parameters) == name


@pytest.mark.parametrize("value", ["c/d", "c d", "../up", "é", "a\nb", "x" * 500])
def test_a_name_that_is_not_safe_or_too_long_is_mended_and_stays_apart(value):
    name = running.run_name("nb", {"kind": value})
    assert name.isascii()
    assert not set(name) & set("/\\ \n:*?\"'<>|$")
    assert len(f".{name}.failed.ipynb.{2**22}") < 255
    others = [running.run_name("nb", {"kind": other}) for other in ("c_d", "c\td", value[:-1], value + "x")]
    assert name not in others
    assert name == running.run_name("nb", {"kind": value})


def test_lists_are_combined_with_the_last_name_changing_fastest():
    assert parameters.expand({"a": [1, 2], "b": 5, "c": ["x", "y"]}) == [
        {"a": a, "b": 5, "c": c} for a, c in itertools.product([1, 2], ["x", "y"])
    ]
    assert parameters.expand({}) == [{}]


def test_the_same_run_has_one_name_however_it_is_asked_for(tmp_path):
    notebook = make_notebook(tmp_path / "nb.ipynb")
    sets = [{"rate": 1, "n": 2}, {"n": 2, "rate": 1.0}]
    assert [run.target for run in running.plan({notebook: sets}, files.Folder(tmp_path, "sweep"))] == [
        "nb,n=2,rate=1.0.ipynb"
    ]


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
        (["-g", "n=1,2", "-p", "n=3"], "the parameter n is given twice, with -p and with -g"),
        (["-g", "n=1", "-g", "n=2"], "the parameter n is given twice"),
        (["-f", "no-such-file.yml"], "no-such-file.yml cannot be read (No such file or directory)"),
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
    status, _, errors = labutils("sweep", "10")
    assert (status, "Missing option" in errors, "--output" in errors) == (2, True, True)


@pytest.mark.parametrize("content", ["- 3\n", "[]\n", "7\n"])
def test_file_that_holds_no_parameters_is_refused(content, labutils, tmp_path):
    (tmp_path / "p.yml").write_text(content)
    status, _, errors = labutils("sweep", "10", "-f", tmp_path / "p.yml", "-o", tmp_path / "out")
    assert status == 2
    assert "must hold lines of the form name: value, or a list of such sets" in errors


def test_two_notebooks_of_one_name_are_refused(labutils, tmp_path):
    (tmp_path / "other").mkdir()
    paths = [make_notebook(folder / "nb.ipynb") for folder in (tmp_path, tmp_path / "other")]
    status, _, errors = labutils("sweep", *paths, "-o", tmp_path / "out")
    assert (status, errors) == (2, "labutils: two notebooks are named nb; give them to different folders\n")


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
    status, printed, _ = labutils("sweep", "10", "--quick", "-g", "n_iters=7,8", "-o", tmp_path, "--dry-run")
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
    node = read(out / "nb,n=4.ipynb")
    assert node.metadata.labutils.parameters == {"n": 4}
    assert node.cells[-1].outputs

    # a typing error in the prose is mended, and a run that failed is mended too
    node = read(notebook)
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
        "0 of 2 runs are finished, 2 to do, 1 of them again because the notebook's code or the data has changed"
        in printed
    )
    assert starts(log)[0] == {1: 2, 2: 2, 3: 1, 4: 1}
    assert names(out) == ["nb,n=1.ipynb", "nb,n=2.ipynb", "nb,n=3.failed.ipynb", "nb,n=4.ipynb"]
    assert (out / "nb,n=4.ipynb").read_bytes() == before


def test_a_file_that_is_no_finished_run_of_ours_counts_as_unfinished(tmp_path):
    notebook = make_notebook(tmp_path / "nb.ipynb")
    (run,) = running.plan({notebook: [{"n": 2}]}, files.Folder(tmp_path, "sweep"))
    target = tmp_path / run.target
    for content in ("", '{"cells": [', "[1]", '{"metadata": {"labutils": 3}}', notebook.read_text()):
        target.write_text(content)
        with pytest.raises(UsageError, match="was not written by labutils"):  # and it is not replaced
            running.plan({notebook: [{"n": 2}]}, files.Folder(tmp_path, "sweep"))
    target.write_text(json.dumps({"metadata": {"labutils": {**run.identity, "seconds": 7.5}}}))
    (again,) = running.plan({notebook: [{"n": 2}]}, files.Folder(tmp_path, "sweep"))
    assert (again.state, again.seconds) == ("finished", 7.5)
    other, known = running.plan({notebook: [{"n": 3}, {"n": 2}]}, files.Folder(tmp_path, "sweep"))
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
    runs = running.plan({notebook: parameters.expand({"n": [1, 2, 3]})}, files.Folder(out, "sweep"))
    running.execute(runs, files.Folder(out, "sweep"), n_jobs=1)
    assert [run.error for run in runs] == [None] * 3
    assert starts(log)[0] == {1: 1, 2: 2, 3: 1}
    assert names(out) == [f"nb,n={n}.ipynb" for n in (1, 2, 3)]


def test_a_run_that_kills_its_workers_fails_alone(labutils, tmp_path):
    killer = "import os, time\nif n == 2:\n    os.kill(os.getppid(), 9)\ntime.sleep(2)"
    notebook = make_notebook(tmp_path / "nb.ipynb", killer)
    status, _, errors = labutils("sweep", notebook, "-g", "n=1,2,3", "-o", tmp_path / "out")
    assert status == 1
    assert errors == "nb,n=2 failed: its worker was killed 3 times (out of memory?)\n"
    assert names(tmp_path / "out") == ["nb,n=1.ipynb", "nb,n=3.ipynb"]


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


def test_scheduler_that_does_not_answer_ends_the_sweep_with_one_sentence(labutils, monkeypatch, tmp_path):
    address, reason = "tcp://127.0.0.1:9", "OSError"
    monkeypatch.setattr(running, "ANSWER_SECONDS", 1)
    notebook = make_notebook(tmp_path / "nb.ipynb")
    status, _, errors = labutils("sweep", notebook, "-o", tmp_path / "out", "--cluster", address)
    assert status == 1
    assert errors == (
        f"labutils: no Dask scheduler answers at {address} ({reason}); an address looks like tcp://host:8786\n"
    )


@pytest.mark.parametrize(
    "address",
    ["http://x:y", "smoke://127.0.0.1:9", "127.0.0.1:8786", "tcp://", "tcp://host", "tcp://h:99999999", ""],
)
def test_an_address_of_another_form_is_refused_at_once(address, labutils, tmp_path):
    notebook = make_notebook(tmp_path / "nb.ipynb")
    status, _, errors = labutils("sweep", notebook, "-o", tmp_path / "out", "--cluster", address)
    assert status == 2
    assert "is no address of a Dask scheduler; an address looks like tcp://host:8786" in errors
    assert not (tmp_path / "out").exists()


def test_sweep_without_dask_says_how_to_get_it(labutils, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "distributed", None)
    notebook = make_notebook(tmp_path / "nb.ipynb")
    status, _, errors = labutils("sweep", notebook, "-o", tmp_path / "out", "--cluster", "tcp://127.0.0.1:9")
    assert status == 1
    assert (
        errors == "labutils: --cluster needs Dask, which is not installed: pip install 'labutils[cluster]'\n"
    )


# The command `run`


def make_plain(path, *sources, parameters="n: int = 1  # a number"):
    """Write a small notebook with the given code cells after its parameters."""
    cells = [
        nbformat.v4.new_markdown_cell("# A tiny lesson\n\n**Time**: 2 minutes to read, 1 minute to run.")
    ]
    cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def process(*arguments, **environment):
    """Run the command line as a user does."""
    command = [sys.executable, "-m", "labutils", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment}, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["10", "-p", "n_iter=5"], "10_lstm_mnist: unknown parameter 'n_iter'; did you mean 'n_iters'?"),
        (
            ["10", "-p", "n_iters=many"],
            "10_lstm_mnist: n_iters must be a whole number from 6 to 1000000, got 'many'",
        ),
        (["10", "-p", "n_iters=1"], "10_lstm_mnist: n_iters must be from 6 to 1000000, got 1"),
        (
            ["10", "-p", "seed=010"],
            "10_lstm_mnist: seed must be a whole number from 0 to 2147483647, got '010'",
        ),
        (["10", "-p", "seed=1", "-p", "seed=2"], "the parameter seed is given twice"),
        (
            ["10", "-p", "dataset=cifar"],
            "dataset must be one of mnist, mnist-mini, fashion-mnist, got 'cifar'",
        ),
        (["10", "-p", "n_iters"], "a parameter is passed as name=value, got 'n_iters'"),
        (["10", "-f", "no-such-file.yml"], "no-such-file.yml cannot be read (No such file or directory)"),
        (["99"], "there is no notebook '99'; there are 00_start_here"),
        ([""], "there is no notebook ''; there are 00_start_here"),
        (["x" * 300 + ".ipynb"], "cannot be reached (File name too long)"),
        (["--jobs", "none"], "'none' is not a valid integer range"),
    ],
)
def test_bad_input_is_refused_in_one_sentence_before_anything_runs(arguments, sentence, labutils, tmp_path):
    status, _, errors = labutils("run", *arguments, "--output", tmp_path / "out")
    assert status == 2
    assert sentence in errors
    assert len(errors.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_run_writes_notebooks_pages_and_results_and_knows_its_time_next_time(labutils, tmp_path):
    markdown = nbformat.v4.new_markdown_cell("With $W_{ij}$ and\n\n$$x = W h$$")
    path = make_plain(
        tmp_path / "50_tiny.ipynb",
        "from labutils import lesson\nlesson.check_parameters(n=(int, 1, 10))\nlesson.record(square=n * n)",
        "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nlesson.show(fig, 'An empty pair of \"axes\".')",
        "print('secret')",
    )
    node = read(path)
    node.cells[-1].metadata.tags = ["solution"]
    node.cells.append(markdown)
    nbformat.write(node, path)

    status, _, errors = labutils("run", path, "-p", "n=3", "-o", tmp_path / "out")
    assert (status, errors) == (0, "")

    table = records.collect(tmp_path / "out" / "notebooks")
    assert table.loc[0, ["notebook", "n", "square"]].tolist() == ["50_tiny", 3, 9]
    assert "numpy=" in table.loc[0, "versions"]
    page = (tmp_path / "out" / "pages" / "50_tiny.html").read_text(encoding="utf-8")
    image = BeautifulSoup(page, "html.parser").find("img")
    assert image["alt"] == 'An empty pair of "axes".'
    assert page.count("<math") == 2
    results = (tmp_path / "out" / "pages" / "results.html").read_text(encoding="utf-8")
    assert "<th>square</th>" in results
    folder, took = (
        files.Folder(tmp_path / "out", "run"),
        read(tmp_path / "out" / "notebooks" / path.name).metadata.labutils,
    )
    (again,) = running.plan({path: [{"n": 3}]}, folder, prefix="notebooks/", again=True)
    assert again.expected_seconds == took.seconds


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
    bad = make_plain(tmp_path / "50_bad.ipynb", source, "print('never')")
    good = make_plain(tmp_path / "51_good.ipynb", "print('fine')")
    result = process("run", bad, good, "--output", out, "--timeout", 3)
    assert result.returncode == 1
    assert sentence in result.stderr
    assert names(out / "notebooks") == ["50_bad.failed.ipynb", "51_good.ipynb"]
    assert "50_bad" not in (out / "pages" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_the_kernels_and_leaves_nothing_half_written(how, tmp_path):
    pid_file = tmp_path / "pid"
    source = f"import os, time, pathlib\npathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))\ntime.sleep(60)"
    path = make_plain(tmp_path / "50_slow.ipynb", source)
    command = [sys.executable, "-m", "labutils", "run", str(path), "--output", str(tmp_path / "out")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    hand_on_interrupts()
    with subprocess.Popen(command, **pipes) as driver:
        assert until(lambda: pid_file.exists() and pid_file.read_text(), seconds=60)
        driver.send_signal(how)
        _, errors = driver.communicate(timeout=30)
    assert driver.returncode == 130
    assert (
        errors.strip()
        == "labutils: interrupted; finished notebooks are kept, unfinished ones were not written"
    )
    assert list((tmp_path / "out").rglob("*.ipynb")) == []
    assert until(lambda: not is_alive(int(pid_file.read_text())), seconds=30)


def test_run_that_falls_back_to_the_bundled_subset_says_so_on_the_page(tmp_path):
    proxy = dict.fromkeys(["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"], "http://127.0.0.1:9")
    path = make_plain(
        tmp_path / "50_digits.ipynb",
        "from labutils import data, lesson\ndigits = data.mnist(dataset)",
        "lesson.record(used=digits.name)",
        parameters='dataset: str = "mnist"  # data set',
    )
    result = process(
        "run", path, "--output", tmp_path / "out", LABUTILS_DATA=str(tmp_path / "cache"), **proxy
    )
    assert result.returncode == 0, result.stderr
    assert "BUNDLED SUBSET" in result.stdout
    assert "BUNDLED SUBSET" in (tmp_path / "out" / "pages" / "50_digits.html").read_text(encoding="utf-8")
    assert records.collect(tmp_path / "out" / "notebooks").loc[0, "used"] == "mnist-mini"


def test_slider_is_left_out_of_the_executed_notebook_and_the_page(labutils, tmp_path):
    notebook = make_plain(
        tmp_path / "01_slider.ipynb",
        'lesson.check_parameters(n=(int, 1, 10))\nprint("before")\n'
        'lesson.slide(lambda q: (plt.figure(), "A figure with nothing in it."), q=[1, 2])',
        parameters="n: int = 1  # a number\nfrom labutils import lesson\nimport matplotlib.pyplot as plt",
    )
    assert labutils("run", notebook, "-o", tmp_path / "out")[0] == 0
    (executed,) = (tmp_path / "out" / "notebooks").glob("*.ipynb")
    node = nbformat.read(executed, as_version=4)
    assert "widgets" not in node.metadata
    assert [output.output_type for output in node.cells[-1].outputs] == ["stream"]
    assert "interactive(" not in (tmp_path / "out" / "pages" / "01_slider.html").read_text(encoding="utf-8")


def test_time_left_counts_what_runs_side_by_side():
    planned = [
        jobs.Job(NOTEBOOKS / f"{n}.ipynb", {}, f"{n}.ipynb", None, "", expected_seconds=expected)
        for n, expected in (("a", 100), ("b", 60))
    ]
    assert "about 1:40 left" in jobs._status(planned, 2, 0)
    planned[0].seconds = 90.0
    assert "1 of 2 done, about 1:00 left" in jobs._status(planned, 2, 90)


@pytest.mark.parametrize(
    "source",
    [
        "print('x' * 3_000_000)",
        "print(list(range(1_000_000)))",
        "for _ in range(300): print('x' * 10_000, end='')",
        "for _ in range(200_000): print('0123456789')",
        "import sys\nfor _ in range(30): print('x' * 100_000, file=sys.stderr)",
    ],
)
def test_whatever_a_cell_prints_is_kept_up_to_a_limit(source, labutils, tmp_path):
    path = make_plain(tmp_path / "50_a.ipynb", source, "print('the end')")
    status, _, errors = labutils("sweep", path, "-o", tmp_path / "out", "--timeout", "60")
    assert (status, errors) == (0, "")
    cells = read(tmp_path / "out" / "50_a.ipynb").cells
    text = "".join(output.text for output in cells[2].outputs)
    assert 1_000_000 <= len(text) < 1_000_200
    assert "[the output is cut here: a cell may put out 1,000,000 characters]" in text
    assert cells[3].outputs[0].text == "the end\n"


def test_what_is_printed_in_pieces_is_stored_as_the_screen_shows_it(labutils, tmp_path):
    source = "import sys, time\nfor n in range(5):\n    print(f'\\r{n} of 5', end='', flush=True)\n    time.sleep(0.05)\nprint()"
    path = make_plain(
        tmp_path / "50_a.ipynb", source, "print('a'); print('warn', file=sys.stderr); print('b')"
    )
    assert labutils("sweep", path, "-o", tmp_path / "out")[0] == 0
    cells = read(tmp_path / "out" / "50_a.ipynb").cells
    assert [output.text for output in cells[2].outputs] == ["4 of 5\n"]
    assert [(output.name, output.text) for output in cells[3].outputs] == [
        ("stdout", "a\nb\n"),
        ("stderr", "warn\n"),
    ]


@pytest.mark.parametrize(
    "source", ["while True: print('x' * 10_000)", "while True: print('x' * 10_000_000, end='')"]
)
def test_an_interrupt_is_answered_whatever_a_cell_prints(source, tmp_path):
    started = tmp_path / "started"
    path = make_plain(tmp_path / "50_a.ipynb", f"open({str(started)!r}, 'w').close()\n{source}")
    hand_on_interrupts()
    command = [sys.executable, "-m", "labutils", "run", str(path), "-o", str(tmp_path / "out")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as driver:
        assert until(started.exists, seconds=120)
        until(lambda: False, seconds=2)  # let it print
        driver.send_signal(signal.SIGINT)
        _, errors = driver.communicate(timeout=20)
    assert driver.returncode == 130
    assert (
        errors.strip()
        == "labutils: interrupted; finished notebooks are kept, unfinished ones were not written"
    )


def test_kernels_are_those_of_the_courses_own_python(labutils, tmp_path, monkeypatch):
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    content = {
        "argv": ["no-such-program", "-f", "{connection_file}"],
        "display_name": "p",
        "language": "python",
    }
    (spec / "kernel.json").write_text(json.dumps(content))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    path = make_plain(tmp_path / "50_a.ipynb", "import sys\nprint(sys.executable)")
    node = read(path)
    node.metadata.kernelspec = {"name": "conda-env-gone-py", "display_name": "gone", "language": "python"}
    nbformat.write(node, path)
    assert labutils("sweep", path, "-o", tmp_path / "out")[0] == 0
    assert read(tmp_path / "out" / "50_a.ipynb").cells[2].outputs[0].text == f"{sys.executable}\n"


def test_a_kernel_that_does_not_start_is_the_fault_of_its_notebook_alone(labutils, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONSTARTUP", "")
    monkeypatch.setattr(running.execution, "get_kernel_dict", lambda: 3)  # in this process only
    text, error, _ = running.execution.execute_text(make_plain(tmp_path / "a.ipynb").read_text(), 5)
    assert error.startswith("its kernel could not be used: TypeError")
    assert text


def test_a_notebook_of_ones_own_runs_in_its_own_folder(labutils, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "table.txt").write_text("42")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "table.txt").write_text("43")
    path = make_plain(tmp_path / "mine" / "50_a.ipynb", "%time print(open('table.txt').read())")
    for where, said in ((), "42"), (("--cwd", tmp_path / "other"), "43"):
        assert labutils("run", path, "-o", tmp_path / "out", *where)[0] == 0
        printed = read(tmp_path / "out" / "notebooks" / "50_a.ipynb").cells[2].outputs[0].text
        assert printed.splitlines()[0] == said
    status, _, errors = labutils("run", path, "-o", tmp_path / "out", "--cwd", tmp_path / "none")
    assert (status, "does not exist" in errors) == (2, True)


def test_one_file_may_hold_the_parameters_of_several_notebooks(labutils, tmp_path):
    paths = [make_notebook(tmp_path / f"{stem}.ipynb") for stem in ("one", "two", "three")]
    (tmp_path / "p.yml").write_text(
        f"{paths[0]}: {{n: 2}}\n".replace(str(paths[0]), "one") + "two:\n- n: [3, 4]\n- rate: 1\n"
    )
    command = ("sweep", *paths, "-f", tmp_path / "p.yml", "-o", tmp_path / "out", "--dry-run")
    status, printed, errors = labutils(*command)
    assert (status, errors) == (0, "")
    listed = sorted(line.split()[-1] for line in printed.splitlines()[:-1])
    assert listed == ["one,n=2.ipynb", "three.ipynb", "two,n=3.ipynb", "two,n=4.ipynb", "two,rate=1.0.ipynb"]
    (tmp_path / "p.yml").write_text("one: {n: 2}\nfour: {n: 3}\n")
    status, _, errors = labutils(*command)
    assert (
        status,
        "p.yml: there is no notebook 'four' among those to run; there are one, two, three" in errors,
    ) == (2, True)


@pytest.mark.parametrize("output", ["/dev/full", None])
def test_output_that_cannot_be_printed_to_ends_in_a_sentence_or_is_done_without(output, tmp_path):
    command = f"{sys.executable} -m labutils check 00 {'>' + output if output else '>&-'}"
    ended = subprocess.run(command, shell=True, capture_output=True, text=True, check=False, timeout=60)
    assert "Traceback" not in ended.stderr
    assert ended.stderr == ("labutils: cannot print (No space left on device)\n" if output else "")


OFFLINE = dict.fromkeys(["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"], "http://127.0.0.1:9")


def test_a_run_on_the_bundled_subset_is_repeated_once_the_data_is_there(labutils, tmp_path, monkeypatch):
    for name, value in OFFLINE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", "/nowhere")  # no npm
    monkeypatch.setenv("LABUTILS_DATA", str(tmp_path / "cache"))
    page = "dataset: str = 'mnist'  # data set"
    rules = "def check_parameters(**rules):\n    pass\n\n\ncheck_parameters(dataset=('mnist', 'mnist-mini'))"
    path = make_plain(tmp_path / "50_a.ipynb", rules, parameters=page)
    command = ("sweep", path, "-o", tmp_path / "out")
    status, printed, _ = labutils(*command)
    assert (status, "BUNDLED SUBSET" in printed) == (0, True)
    assert read(tmp_path / "out" / "50_a.ipynb").metadata.labutils.data == "mnist-mini"
    assert "1 of 1 runs are finished, 0 to do" in labutils(*command)[1]  # still offline
    monkeypatch.setattr(running.data, "will_use", lambda dataset: dataset)  # now MNIST is there
    assert "0 of 1 runs are finished, 1 to do, 1 of them again" in labutils(*command, "--dry-run")[1]
    mini = ("sweep", path, "-p", "dataset=mnist-mini", "-o", tmp_path / "out")
    assert labutils(*mini)[0] == 0
    assert "1 of 1 runs are finished" in labutils(*mini)[1]


def test_a_data_set_of_a_notebooks_own_is_not_fetched(labutils, tmp_path):
    path = make_plain(tmp_path / "50_a.ipynb", parameters="dataset: str = 'cifar'  # data set")
    status, printed, errors = labutils("sweep", path, "-o", tmp_path / "out")
    assert (status, errors) == (0, "")
    assert "cache" not in printed
    assert "data" not in read(tmp_path / "out" / "50_a.ipynb").metadata.labutils


def test_what_a_cell_shows_keeps_its_order(labutils, tmp_path):
    source = "from IPython.display import display, HTML\nprint('before')\ndisplay(HTML('<b>it</b>'))\nprint('after')"
    path = make_plain(tmp_path / "50_a.ipynb", source)
    assert labutils("sweep", path, "-o", tmp_path / "out")[0] == 0
    outputs = read(tmp_path / "out" / "50_a.ipynb").cells[2].outputs
    assert [o.get("text") or o.data["text/html"] for o in outputs] == ["before\n", "<b>it</b>", "after\n"]


@pytest.mark.parametrize(
    "source",
    [
        "h = display('', display_id=True)\nfor n in range(8): h.update('x' * 10_000_000)",
        "for n in range(8): display('', metadata={'image/png': {'alt': 'x' * 10_000_000}})",
        "for n in range(8): display('x' * 10_000_000)",
    ],
)
def test_whatever_a_cell_shows_is_kept_up_to_a_limit(source, labutils, tmp_path):
    path = make_plain(tmp_path / "50_a.ipynb", f"from IPython.display import display\n{source}")
    assert labutils("sweep", path, "-o", tmp_path / "out")[0] == 0
    assert (tmp_path / "out" / "50_a.ipynb").stat().st_size < 70_000_000
    assert "the output is cut here" in (tmp_path / "out" / "50_a.ipynb").read_text()


def test_a_notebook_is_not_larger_than_what_can_be_read_again(labutils, tmp_path):
    shown = "from IPython.display import display\nfor n in range(4): display('x' * 10_000_000)"
    path = make_plain(tmp_path / "50_a.ipynb", *[shown] * 6)
    assert labutils("sweep", path, "-o", tmp_path / "out")[0] == 0
    assert read(tmp_path / "out" / "50_a.ipynb")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise ValueError('a\\x1b[31m\\x07b' + 'x' * 1_000_000)", "ValueError: a [31m bxxx"),
        ("raise type('A\\nB', (Exception,), {})('c')", "A: c"),
        ("raise ValueError('first\\nsecond')", "ValueError: first\n"),
    ],
)
def test_what_went_wrong_is_said_in_one_printable_line(source, said, labutils, tmp_path):
    status, _, errors = labutils("sweep", make_plain(tmp_path / "50_a.ipynb", source), "-o", tmp_path / "out")
    assert status == 1
    assert said in errors
    assert len(errors.splitlines()) == 2
    assert len(errors) < 1000
    assert errors.replace("\n", "").isprintable()


def test_minus_zero_is_zero(labutils, tmp_path):
    notebook = make_notebook(tmp_path / "nb.ipynb")
    _, printed, _ = labutils(
        "sweep", notebook, "-g", "rate=0,-0,0.0,-0.0,0e5", "-o", tmp_path / "out", "--dry-run"
    )
    assert printed.splitlines() == ["to do     nb,rate=0.0.ipynb", "0 of 1 runs are finished, 1 to do"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("02: {n: 3}", "several notebooks go by '02'"),
        ("02_a: {n: 3}\n02_b: {n: 4}\n02_a: {n: 4}", "02_a is given twice"),
        ("02_a: {n: {x: 4}}", "must hold lines of the form name: value"),
        ("02_a: {02_a: {n: 4}}", "must hold lines of the form name: value"),
        ("02_a: [{n: [1, {x: 2}]}]", "n must be a whole number"),
    ],
)
def test_a_file_that_does_not_say_which_notebook_is_meant_is_refused(text, sentence, labutils, tmp_path):
    paths = [make_notebook(tmp_path / f"{stem}.ipynb") for stem in ("02_a", "02_b")]
    (tmp_path / "p.yml").write_text(text)
    status, _, errors = labutils("sweep", *paths, "-f", tmp_path / "p.yml", "-o", tmp_path / "out")
    assert (status, sentence in errors) == (2, True), errors


def test_a_working_directory_that_is_gone_is_said_so(tmp_path):
    source = "import os, sys; os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    (tmp_path / "gone").mkdir()
    command = [sys.executable, "-c", source, str(tmp_path / "gone"), "-P", "-m", "labutils", "check", "00"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stderr) == (
        1,
        "labutils: the working directory is no longer there; change to another\n",
    )
