"""Lesson 00's diagnosis: each trouble has its sentence, nothing is fetched, and nothing raises."""

import dataclasses
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from labutils import diagnosis, training
from labutils.data import cache as files
from labutils.data import catalogue, vision

ROOT = Path(__file__).resolve().parents[1]
TOPICS = ("Python", "Environment", "torch", "MNIST", "Moby-Dick", "Processor", "GPU")


@pytest.fixture
def reported(capsys):
    """The lines that the report prints, by what they begin with."""

    def lines():
        diagnosis.report()
        printed = capsys.readouterr().out.splitlines()
        assert len(printed) == len(TOPICS)
        return dict(zip(TOPICS, printed, strict=True))

    return lines


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty data cache, with fetching forbidden."""

    def refuse(*_):
        raise AssertionError("the diagnosis fetched something")

    monkeypatch.setattr(files, "fetch_files", refuse)
    monkeypatch.setattr(files, "SOURCES", {})
    monkeypatch.setenv("LABUTILS_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def installed(monkeypatch):
    """Pretend that these versions are installed, and that torchvision requires these distributions."""

    def pretend(versions, requires=()):
        def version(name):
            if name not in versions:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        error = metadata.PackageNotFoundError
        fake = SimpleNamespace(version=version, requires=lambda _: requires, PackageNotFoundError=error)
        monkeypatch.setattr(diagnosis, "metadata", fake)

    return pretend


def run_python(version, prefix=sys.prefix):
    return SimpleNamespace(version_info=version, prefix=str(prefix), executable="python")


def test_this_machine_has_a_line_on_each_topic(reported):
    lines = reported()
    assert lines["Python"] == f"Python {'.'.join(map(str, sys.version_info[:3]))}: good"
    assert all("cannot be looked at" not in line for line in lines.values())


def test_the_oldest_python_is_that_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == ">=" + ".".join(map(str, diagnosis.OLDEST_PYTHON))


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ((3, 9, 18), "Python 3.9.18: older than 3.11, which the course needs; install Python 3.11 or later"),
        ((3, 11, 2), "Python 3.11.2: good"),
        ((4, 0, 0), "Python 4.0.0: good"),
    ],
)
def test_python(version, said, reported, monkeypatch):
    monkeypatch.setattr(diagnosis, "sys", run_python(version))
    assert reported()["Python"].startswith(said)


def test_kernel_outside_the_courses_environment(reported, monkeypatch, tmp_path):
    monkeypatch.setattr(diagnosis, "PROJECT", tmp_path)
    assert "not made by make install" in reported()["Environment"]
    (tmp_path / ".venv").mkdir()
    said = reported()["Environment"]
    assert f"runs in {sys.prefix}, not in the course's .venv" in said
    assert "run make lab" in said
    monkeypatch.setattr(diagnosis, "sys", run_python((3, 11, 2), tmp_path / ".venv"))
    assert reported()["Environment"] == "Environment: the course's own .venv, good"


@pytest.mark.parametrize("missing", ["torch", "torchvision"])
def test_missing_distribution(missing, reported, installed):
    versions = {"torch": "2.13.0", "torchvision": "0.28.0"}
    del versions[missing]
    installed(versions)
    assert reported()["torch"].startswith(f"{missing}: not installed; run make install again")


@pytest.mark.parametrize("requirement", ["torch==2.13.0", "torch (==2.13.0)", "torch==2.13.0+cu130 ; x"])
def test_torchvision_made_for_another_torch(requirement, reported, installed):
    installed({"torch": "2.12.1+cpu", "torchvision": "0.28.0"}, ["numpy", requirement])
    said = reported()["torch"]
    assert said.startswith("torchvision 0.28.0 does not fit torch 2.12.1: it was made for torch 2.13.0; ")
    assert said.endswith("-m pip install torch==2.13.0")


@pytest.mark.parametrize("requires", [["numpy", "torch==2.13.0"], ["torchsummary==1.0"], None])
def test_torchvision_that_fits(requires, reported, installed, monkeypatch):
    installed({"torch": "2.13.0+cpu", "torchvision": "0.28.0"}, requires)
    monkeypatch.setattr(vision, "import_torchvision", lambda: None)
    monkeypatch.setattr(vision, "lacks_operators", lambda: False)
    assert reported()["torch"] == "torch 2.13.0 with torchvision 0.28.0: good"
    monkeypatch.setattr(vision, "lacks_operators", lambda: True)
    assert reported()["torch"].endswith("good, but for its compiled operators, which no lesson uses")


@pytest.mark.parametrize(
    "error", [ImportError("no\nlibc10_cuda.so"), OSError("no libc10_cuda.so"), RuntimeError(), KeyError("x")]
)
def test_torchvision_that_cannot_be_imported(error, reported, installed, monkeypatch):
    def broken():
        raise error

    installed({"torch": "2.13.0", "torchvision": "0.28.0"}, ["torch==2.13.0"])
    monkeypatch.setattr(vision, "import_torchvision", broken)
    said = reported()["torch"]
    assert said.startswith("torch 2.13.0 with torchvision 0.28.0: cannot be imported (")
    assert said.endswith("pip install --force-reinstall torch==2.13.0 torchvision==0.28.0")


def test_torch_that_cannot_be_imported(tmp_path):
    """In a process of its own, in which nothing has been imported yet: every line is there, and none raises."""
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.12: cannot open shared object file')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    command = [sys.executable, "-c", "from labutils import diagnosis; diagnosis.report()"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = dict(zip(TOPICS, run.stdout.splitlines(), strict=True))
    assert "cannot be imported (libcudart.so.12: cannot open shared object file); " in lines["torch"]
    assert lines["GPU"].startswith("gpu: cannot be looked at (libcudart.so.12")
    assert "in the data cache" in lines["MNIST"]
    assert "in the data cache" in lines["Moby-Dick"]
    assert lines["Processor"].startswith("Processor: ")
    assert not run.stderr


DATA_SETS = {  # title, bundled part, extent
    "mnist": ("MNIST", "mnist-mini", "subset of 6,000 + 1,000 digits"),
    "moby-dick": ("Moby-Dick", "moby-dick-excerpt", "excerpt of chapters 1 to 19 of 135"),
}


@pytest.mark.parametrize("name", DATA_SETS)
def test_empty_cache(name, reported, cache):
    title, _, extent = DATA_SETS[name]
    said = reported()[title]
    assert said.startswith(f"{title}: not there in the data cache, ")
    assert f"otherwise takes the bundled {extent}, with which numbers differ from the text" in said
    assert said.endswith(f"-m labutils data {name} fetches it")
    assert not cache.exists()


@pytest.mark.parametrize("name", DATA_SETS)
def test_damaged_cache(name, reported, cache):
    title = DATA_SETS[name][0]
    folder = cache / files.FOLDERS[name]
    folder.mkdir(parents=True)
    (folder / next(iter(files.CHECKSUMS[name]))).write_bytes(b"cut off")
    assert reported()[title].startswith(f"{title}: damaged in the data cache, ")


@pytest.mark.parametrize("name", DATA_SETS)
def test_whole_cache(name, reported, cache, monkeypatch):
    title = DATA_SETS[name][0]
    monkeypatch.setitem(files.CHECKSUMS, name, {})
    assert reported()[title] == f"{title}: whole in the data cache, good"


@pytest.mark.parametrize("name", DATA_SETS)
@pytest.mark.parametrize("content", [None, b"cut off"])
def test_nothing_bundled_either(content, name, reported, cache, tmp_path, monkeypatch):
    title, stands_in, _ = DATA_SETS[name]
    bundled = catalogue.BUNDLED[stands_in]
    path = tmp_path / bundled.path.name
    monkeypatch.setitem(catalogue.BUNDLED, stands_in, dataclasses.replace(bundled, path=path))
    if content is not None:
        path.write_bytes(content)
    assert f"damaged, too (git checkout labutils/{path.name})" in reported()[title]


def test_only_public_names_of_the_data(reported):
    private = re.findall(
        r"(?:data|cache|catalogue|vision)\._\w+", Path(diagnosis.__file__).read_text(encoding="utf-8")
    )
    assert private == []


def test_cores(reported, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert reported()["Processor"].startswith("Processor: 1 core, fine; lessons that train networks side by")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5}, raising=False)
    assert reported()["Processor"] == "Processor: 3 cores, good"
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS and Windows
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert reported()["Processor"].startswith("Processor: 1 core, fine")


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cpu", "GPU: none found, fine; "),
        ("cuda", "GPU: found (cuda), good"),
        ("mps", "GPU: found (mps), good"),
    ],
)
def test_gpu(device, said, reported, monkeypatch):
    monkeypatch.setattr(training, "pick_device", lambda _: torch.device(device))
    assert reported()["GPU"].startswith(said)
