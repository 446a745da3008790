"""How nbval runs the notebooks: ``--quick`` for small parameter values, and three repairs of nbval 0.11."""

import pathlib

import nbval.kernel
import pytest
import yaml

ROOT = pathlib.Path(__file__).parent
# Compared by no run: stderr and SVG differ from run to run, and a record names commit and hardware.
# The value that lesson.expect prints: that it lies in its band is asserted, and its digits depend on the machine.
BANDED_VALUE = r": [^\s,]+, expected (at least|at most|from) "
NEVER_COMPARED = ("stderr", "image/svg+xml", "application/x-labutils+json")


def _execute_with_history(self, cell_input, allow_stdin=None):
    # nbval issue 194: without history, IPython prints the value of a line that ends with a semicolon.
    return self.kc.execute(cell_input, store_history=True, allow_stdin=allow_stdin, stop_on_error=False)


nbval.kernel.RunningKernel.execute_cell_input = _execute_with_history


def pytest_addoption(parser):
    parser.addoption(
        "--quick", action="store_true", help="run notebooks with the parameters of tests/quick.yml"
    )


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += NEVER_COMPARED
        collector.sanitize_patterns[BANDED_VALUE] = r": VALUE, expected \1 "


def pytest_collection_modifyitems(config, items):
    from papermill.translators import translate_parameters

    quick = {}
    if config.getoption("--quick"):
        quick = yaml.safe_load((ROOT / "tests" / "quick.yml").read_text(encoding="utf-8"))
    for item in items:
        cell = getattr(item, "cell", None)
        if cell is None:
            continue
        item.output_timeout = 60  # nbval issue 231: output may come later than the default 5 s
        tags = cell.metadata.get("tags", [])
        if config.getoption("--quick"):
            # Outputs are stored at the default parameters: compare only what holds for all of them.
            item.options["check"] = "nbval-check-output" in tags
            if "parameters" in tags and item.path.stem in quick:
                cell.source += "\n" + translate_parameters(
                    "python3", "python", quick[item.path.stem], "Parameters"
                )


def pytest_runtest_setup(item):
    # After a cell that failed, the rest of its notebook fails too and only hides the cause.
    broken = getattr(item.parent, "_broken", None)
    if broken:
        pytest.skip(f"{broken} failed")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    failed_to_run = report.when == "call" and report.failed and "differ" not in str(call.excinfo.value)
    if failed_to_run and hasattr(item, "cell"):
        item.parent._broken = item.name
