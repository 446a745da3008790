"""The files that say how to install and run the course agree with each other."""

import ast
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
# Distributions that no file imports, each with what needs it.
NOT_IMPORTED = {
    "furo": "the theme of the pages",
    "jupyterlab": "make lab",
    "nbstripout": "make outputs",
    "pytest-xdist": "pytest -n",
    "ruff": "make test",
}


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


def read_requirements(name):
    """The requirements that a file lists, each a line; continued lines are joined."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


@pytest.fixture(scope="module")
def pins():
    """Version of each distribution in requirements-lock.txt, by canonical name."""
    found = {}
    for line in read_requirements("requirements-lock.txt"):
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


def test_every_package_but_pytorch_has_hashes_and_the_version_of_the_lock():
    hashed = {}
    for line in read_requirements("requirements-hashes.txt"):
        requirement, *hashes = re.split(r"\s+--hash=", line)
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", value.strip()) for value in hashes), requirement
        hashed[requirement.strip()] = hashes
    locked = {line.strip() for line in read_requirements("requirements-lock.txt")}
    assert {Requirement(line).name for line in locked - set(hashed)} == {"torch", "torchvision"}
    assert set(hashed) <= locked


@pytest.mark.parametrize("name", ["requirements-lock.txt", "requirements-hashes.txt"])
def test_the_locks_name_no_index_and_no_folder(name):
    assert (
        re.findall(r"://|--(?:extra-)?index|--find-links|@ ", (ROOT / name).read_text(encoding="utf-8")) == []
    )


def find_imports(path):
    """Modules outside the standard library that a Python file or notebook imports, without their submodules."""
    source = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(source)["cells"] if cell["cell_type"] == "code"]
        source = "\n".join("".join(cell["source"]) for cell in cells)
    names = set()
    for node in ast.walk(ast.parse(source, str(path))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names


@functools.cache
def list_providers():
    """The distributions that a module may come from, by the module's name (slow: reads every file list)."""
    # SPAMS has wheels for one platform only, so it may be absent.
    return {"spams": ["spams-bin"]} | metadata.packages_distributions()


def find_distributions(module):
    """Canonical names of the distributions that a module may come from."""
    return {canonicalize_name(name) for name in list_providers().get(module, [module])}


def find_undeclared(modules, lists):
    """Modules of which no distribution stands in the lists of pyproject.toml."""
    declared = {canonicalize_name(Requirement(line).name) for lines in lists for line in lines}
    return {module for module in modules if not declared & find_distributions(module)}


@pytest.fixture(scope="module")
def imports():
    """What the course imports (the package and the lessons), and what its tests do."""
    course = [*(ROOT / "labutils").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]
    tests = [ROOT / "conftest.py", *(ROOT / "tests").rglob("*.py")]
    own = {"labutils"} | {path.stem for path in tests}
    return {
        name: set().union(*map(find_imports, files)) - own
        for name, files in (("course", course), ("tests", tests))
    }


def test_what_the_course_imports_is_declared(project, imports):
    optional = project["optional-dependencies"]
    lists = [project["dependencies"], *(optional[name] for name in optional if name != "test")]
    assert find_undeclared(imports["course"], lists) == set()


def test_what_the_tests_import_is_declared(project, imports):
    lists = [project["dependencies"], project["optional-dependencies"]["test"]]
    assert find_undeclared(imports["tests"], lists) == set()


def test_what_is_declared_is_imported_or_has_another_use(project, imports):
    imported = set().union(*map(find_distributions, imports["course"] | imports["tests"]))
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {canonicalize_name(Requirement(line).name) for lines in lists for line in lines}
    assert declared - imported == set(NOT_IMPORTED)


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


def test_the_workflow_names_files_that_exist():
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    named = re.findall(r"[\w./-]+\.(?:py|txt|toml)\b|\.ci/run", workflow)
    assert len(named) >= 4
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.fixture
def half_installed(tmp_path):
    """A folder with the Makefile, and a function that runs `make venv` there."""
    shutil.copy(ROOT / "Makefile", tmp_path)

    def mend():
        command = ["make", "venv", f"PYTHON={sys.executable}"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    return tmp_path / ".venv", mend


def run_pip(environment, *arguments):
    """What pip of a virtual environment prints."""
    command = [environment / "bin" / "python", "-m", "pip", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_make_gives_pip_to_an_environment_without(half_installed):
    """As `python -m venv` leaves it when it is killed, or as uv makes it: whoever made it finds it again."""
    environment, mend = half_installed
    venv.create(environment, with_pip=False, symlinks=True)
    (environment / "somebodys").write_text("kept", encoding="utf-8")
    mend()
    assert "pip" in run_pip(environment, "--version")
    assert (environment / "somebodys").read_text(encoding="utf-8") == "kept"


def test_make_mends_an_environment_in_which_pip_was_killed(half_installed):
    """A package whose RECORD is missing was about to be copied; pip takes it for installed all the same."""
    environment, mend = half_installed
    venv.create(environment, with_pip=True, symlinks=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    for name in ("whole", "half"):
        information = packages / f"{name}-1.0.dist-info"
        information.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
        (information / "METADATA").write_text(text, encoding="utf-8")
    (packages / "whole-1.0.dist-info" / "RECORD").touch()
    assert "half==1.0" in run_pip(environment, "list", "--format=freeze")
    # And the same for pip itself, with what comes after it.
    next(packages.glob("pip-*.dist-info/RECORD")).unlink()
    shutil.rmtree(packages / "pip" / "_vendor")
    (environment / "bin" / "pip").unlink()
    (environment / "bin" / "activate").unlink()
    mend()
    listed = run_pip(environment, "list", "--format=freeze").split()
    assert "whole==1.0" in listed
    assert "half==1.0" not in listed
    assert (environment / "bin" / "pip").exists()
    assert (environment / "bin" / "activate").exists()
