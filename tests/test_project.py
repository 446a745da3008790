"""The files that say how to install and run the course agree with each other."""

import tomllib
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
