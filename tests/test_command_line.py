"""What holds for all commands: completion and help that come at once, help for each, arguments that are refused."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from labutils import NOTEBOOKS
from labutils.__main__ import cli


def complete(*words):
    """What a shell would offer for the last of the words."""
    asked = {"_LABUTILS_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(("labutils", *words))}
    environment = os.environ | asked | {"COMP_CWORD": str(len(words))}
    source = "import sys; sys.argv[0] = 'labutils'; from labutils.__main__ import main; main()"
    command = [sys.executable, "-c", source]
    offered = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    return [line.partition(",")[2] for line in offered.splitlines()]


@pytest.mark.parametrize("command", ["run", "sweep", "check", "student", "site"])
def test_completion_offers_notebooks_where_they_are_named(command):
    assert complete(command, "0") == sorted(p.stem for p in NOTEBOOKS.glob("0*.ipynb"))


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("co",), ["collect"]),
        (("data", "mnist-"), ["mnist-mini"]),
        (("data", "moby"), ["moby-dick", "moby-dick-excerpt"]),
        (("train", "recipe"), ["recipe_search", "recipe"]),
        (("run", "--ti"), ["--timeout"]),
    ],
)
def test_completion_offers_commands_data_sets_experiments_and_options(words, offered):
    assert complete(*words) == offered


@pytest.mark.parametrize("module", ["torch", "nbformat", "sphinx", "matplotlib"])
def test_help_and_completion_do_not_wait_for_slow_modules(module):
    source = f"import sys, labutils.__main__; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("command", [[], *([name] for name in sorted(cli.commands))], ids=str)
def test_each_command_has_help(command):
    result = CliRunner().invoke(cli, [*command, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: cli {' '.join(command)}".rstrip())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["data", "cifar"], "'cifar' is not one of mnist, mnist-mini, fashion-mnist, moby-dick"),
        (["train", "everything"], "'everything' is not one of six_models, long_runs, "),
        (["publish"], "No such command 'publish'"),
    ],
)
def test_what_is_not_known_is_refused_naming_what_is(arguments, sentence):
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert sentence in result.output
