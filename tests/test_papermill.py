"""Plain papermill, without the course's own runner, runs the notebooks and refuses what is not allowed."""

import subprocess
import sys

import pytest

from labutils import NOTEBOOKS
from labutils.course import records


def papermill(cwd, notebook, output, *parameters):
    command = [sys.executable, "-m", "papermill", notebook, str(output), "--no-progress-bar"]
    for name, value in parameters:
        command += ["-p", name, value]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("cwd", [NOTEBOOKS.parent, NOTEBOOKS], ids=["root", "notebooks"])
def test_papermill_runs_a_notebook_from_either_folder(cwd, tmp_path):
    notebook = str((NOTEBOOKS / "10_lstm_mnist.ipynb").relative_to(cwd))
    small = [("n_iters", "6"), ("hidden_dim", "8"), ("seed", "3"), ("dataset", "mnist-mini")]
    result = papermill(cwd, notebook, tmp_path / "09.ipynb", *small)
    assert result.returncode == 0, result.stderr
    frame = records.collect(tmp_path)
    assert frame["seed"].tolist() == [3] * 3
    assert frame["n_iters"].tolist() == [6] * 3


@pytest.mark.parametrize(
    ("parameter", "sentence"),
    [
        (("sed", "3"), "unknown parameter 'sed'; did you mean 'seed'?"),
        (("seed", "first"), "seed must be a whole number from 0 to 2147483647, got 'first'"),
        (("seed", "-1"), "seed must be from 0 to 2147483647, got -1"),
        (("dataset", "cifar"), "dataset must be one of mnist, mnist-mini, fashion-mnist, got 'cifar'"),
    ],
)
def test_papermill_ends_with_one_clear_sentence(parameter, sentence, tmp_path):
    result = papermill(NOTEBOOKS.parent, "notebooks/00_start_here.ipynb", tmp_path / "00.ipynb", parameter)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines()[-1] == f"ValueError: {sentence}"
