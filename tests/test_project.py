"""The files that say how to install and run the course agree with each other."""

import json
import os
import shutil
import subprocess
import tomllib
import venv
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def project():
    """The [project] table of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def environment():
    """environment.yml: its conda packages, and the lines of its pip section."""
    content = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [entry for entry in content["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in content["dependencies"] if isinstance(entry, dict)]
    return {"conda": conda, "pip": pip}


@pytest.fixture(scope="module")
def pins():
    """Version of each distribution in requirements-lock.txt, by canonical name."""
    found = {}
    for line in (ROOT / "requirements-lock.txt").read_text(encoding="utf-8").splitlines():
        line = line.split(" #")[0].split(" --hash")[0].rstrip(" \\").strip()
        if not line or line.startswith(("#", "-")):
            continue
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate():
            continue
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", f"{line} is not pinned to one version"
        assert "*" not in specifier.version, f"{line} is not pinned to one version"
        found[canonicalize_name(requirement.name)] = specifier.version
    return found


@pytest.fixture(scope="module")
def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_conda_python_is_one_that_the_package_allows(environment, project):
    (pin,) = [entry.partition("=")[2] for entry in environment["conda"] if entry.startswith("python=")]
    assert Requirement(f"python{project['requires-python']}").specifier.contains(pin)


def test_conda_installs_the_package_with_extras_that_exist(environment, project):
    (editable,) = [line.removeprefix("-e .") for line in environment["pip"] if line.startswith("-e ")]
    extras = Requirement(project["name"] + editable).extras
    assert extras
    assert extras <= set(project["optional-dependencies"])


def test_conda_takes_the_tested_versions(environment):
    assert "-c requirements-lock.txt" in environment["pip"]


def test_the_lock_pins_every_dependency_inside_its_range(project, pins):
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *(line for extra in extras for line in extra)]
    wrong = {}
    for requirement in map(Requirement, requirements):
        version = pins.get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wrong[str(requirement)] = version or "not in the lock"
    assert wrong == {}


@pytest.mark.parametrize(("name", "version"), [("torch", "2.13.0"), ("torchvision", "0.28.0")])
def test_the_lock_pins_torch_and_the_torchvision_made_for_it(pins, name, version):
    assert pins[name] == version


@pytest.mark.parametrize("command", ["make run", "make test"])
def test_the_readme_says_how_to_run_and_test(readme, command):
    assert command in readme


def test_the_readme_has_a_table_row_for_each_notebook(readme):
    stems = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    assert stems
    rows = [line for line in readme.splitlines() if line.lstrip().startswith("|")]
    assert [stem for stem in stems if not any(stem in row for row in rows)] == []


@pytest.mark.network
def test_what_conda_would_install_with_pip_is_installed_and_works(environment, tmp_path):
    """The lines of environment.yml's pip section, in a new environment, from a copy of the project."""
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in tracked:
        if name.startswith("labutils/") or "/" not in name:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "pip.txt").write_text("\n".join(environment["pip"]) + "\n", encoding="utf-8")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    # Where the index of PyTorch's CPU builds cannot be reached, pip is not to ask five times for each package.
    quiet = os.environ | {"PIP_RETRIES": "0", "PIP_NO_COMPILE": "1"}
    for command in (
        ["-m", "pip", "install", "--quiet", "--requirement", "pip.txt"],
        ["-m", "pip", "check"],
        ["-c", f"import ipywidgets, labutils.lesson; assert labutils.__file__.startswith(r'{tmp_path}')"],
        ["-m", "labutils", "--version"],
    ):
        done = subprocess.run(
            [python, *command], cwd=tmp_path, env=quiet, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_container_has_the_python_of_the_makefile_and_installs_with_make(environment):
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    image, _, version = container["image"].partition(":")
    assert (image, f"PYTHON ?= python{version}\n" in makefile) == ("python", True)
    make, target = container["onCreateCommand"].split()
    assert (make, f"\n{target}:" in makefile) == ("make", True)
    assert f"--extra-index-url {container['containerEnv']['PIP_EXTRA_INDEX_URL']}" in environment["pip"]
