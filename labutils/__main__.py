"""Command line of the course: ``python -m labutils``, or ``labutils``."""

import sys
from pathlib import Path

import click
import yaml

from labutils import __version__, checks, course, data, experiments, students


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli():
    """Run the notebooks of the course and get their data."""


@cli.command()
@click.argument("notebooks", nargs=-1)
@click.option("--quick", is_flag=True, help="Small values (tests/quick.yml) and the bundled data.")
@click.option("-p", "--parameter", "pairs", multiple=True, metavar="NAME=VALUE", help="Change a parameter.")
@click.option(
    "-f", "--file", "file", type=click.Path(path_type=Path), help="YAML file of parameters to change."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), default="build", show_default=True)
@click.option(
    "-j", "--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Notebooks at a time."
)
@click.option(
    "--timeout", type=click.IntRange(1), default=1800, show_default=True, help="Seconds a cell may take."
)
def run(notebooks, quick, pairs, file, output, jobs, timeout):
    """Execute NOTEBOOKS (all of them, if none is named) and write pages and results.

    A notebook is named by number (9), stem (09_lstm_mnist) or path. Parameters are checked against the
    notebook's own rules before anything runs.
    """
    paths = [course.find(name) for name in notebooks] or course.notebooks()
    small = course.quick_parameters() if quick else {}
    parameters = {path.stem: dict(small.get(path.stem, {})) for path in paths}
    from_file = _read_parameters(file) if file else {}
    for path in paths:
        parameters[path.stem].update(from_file)
        if pairs:
            rules = course.read_rules(path)
            for name, text in (_split(pair) for pair in pairs):
                parameters[path.stem][name] = course.parse_value(text, rules[name]) if name in rules else text
    summary = course.run(paths, parameters, output, jobs=jobs, timeout=timeout)
    click.echo(f"Pages:   {output / 'pages' / 'index.html'}\nResults: {output / 'results.csv'}")
    if summary.failed:
        for job in summary.failed:
            click.echo(f"{job.name} failed: {job.error}", err=True)
            click.echo(f"  up to there: {output / 'notebooks' / job.name}.failed.ipynb", err=True)
        sys.exit(1)


@cli.command(name="data")
@click.argument("dataset", type=click.Choice(data.DATASETS), default="mnist")
def get_data(dataset):
    """Fetch DATASET (mnist, if none is named) into the data cache, or say that it is there."""
    click.echo(data.mnist(dataset, allow_subset=False))


@cli.command()
@click.argument("notebooks", nargs=-1, metavar="[NOTEBOOK]...")
def check(notebooks):
    """Check stored NOTEBOOKs (all of the course, if none is named) without running them.

    A notebook is named by number (9), stem (09_lstm_mnist) or path, so that a changed copy can be checked, too.

    \b
    What is checked:
      form           nbformat and ids, kernel, metadata, size, minutes stated
      outputs        of one clean run, no error or warning, no path of one machine
      cells          Python, at most 25 lines, no clear_output, semicolon or forbidden tag
      parameters     one cell of them, read by papermill, each with help, a rule and a quick value
      exercises      stub, check and folded solution; "not done yet" and "right" are stored
      accessibility  one title, headings without a gap, alt text for every figure and image,
                     lines and marks with a contrast of at least 3:1, in the figure style as well

    Each problem is one line: the notebook, the cell, what is wrong, what is allowed. The exit status is 1 if there
    is any, and 2 if a NOTEBOOK is not there or cannot be read.
    """
    paths = [course.find(name) for name in notebooks] or course.notebooks()
    found = [problem for path in paths for problem in checks.problems(path)] + checks.palette_problems()
    for problem in found:
        click.echo(problem)
    if found:
        sys.exit(1)
    click.echo("1 notebook is clean" if len(paths) == 1 else f"{len(paths)} notebooks are clean")


@cli.command()
@click.argument("notebooks", nargs=-1, metavar="[NOTEBOOK]...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder.  [default: build/student or build/solved]",
)
@click.option("--solved", is_flag=True, help="Fill the solutions into the stubs, for instructors.")
@click.option(
    "--force", is_flag=True, help="Replace copies that are there and differ; answers in them are lost."
)
def student(notebooks, output, solved, force):
    """Write student copies of NOTEBOOKs (all of them, if none is named): the exercises open, no solutions.

    A notebook is named by number (9), stem (09_lstm_mnist) or path. What the lesson's cells put out is kept, for
    comparison; each check says "not done yet", and is folded, since it names the answer. Hints stay.

    With --solved, each stub holds its solution between nbgrader's ### BEGIN SOLUTION and ### END SOLUTION, and each
    check says "right".

    \b
    Both carry nbgrader's metadata. To collect and grade with nbgrader, make its source with --solved:
      labutils student 02 --solved --output COURSE/source/pca
    and put into COURSE/nbgrader_config.py, so that what it hands out is open and runs to its end, and so that a
    cell that trains may take its time:
      c = get_config()
      c.ClearSolutions.code_stub = {"python": ""}
      c.Execute.timeout = 1800

    Copies are written all or none, never among the solved notebooks, and never over a copy that differs.
    """
    paths = [course.find(name) for name in notebooks] or course.notebooks()
    output = output or Path("build") / ("solved" if solved else "student")
    copies = students.make(paths, output, solved=solved, force=force)
    click.echo(f"{'Solved' if solved else 'Student'} copies: {len(copies)} in {output}")


@cli.command()
@click.argument("experiment", type=click.Choice(list(experiments.EXPERIMENTS)))
@click.option(
    "--table",
    type=click.Path(dir_okay=False, path_type=Path),
    help="CSV file  [default: notebooks/results/EXPERIMENT.csv]",
)
@click.option(
    "-j", "--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Models at a time."
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True
)
def train(experiment, table, jobs, device):
    """Train the runs of EXPERIMENT that its table of results lacks, and add a row for each.

    It says beforehand how long that takes, and can be interrupted and started again at any time.
    """
    table = table or experiments.RESULTS / f"{experiment}.csv"
    try:
        experiments.sweep(experiments.EXPERIMENTS[experiment](), table, n_jobs=jobs, device=device)
    except ValueError as error:
        raise course.RunError(error) from None
    click.echo(f"Table: {table}")


def _split(pair):
    name, equals, value = pair.partition("=")
    if not equals or not name:
        raise course.UsageError(f"a parameter is passed as name=value, got {pair!r}")
    return name, value


def _read_parameters(file):
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise course.UsageError(f"{file} cannot be read as YAML ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise course.UsageError(f"{file} must hold lines of the form name: value")
    return content


def main():
    """Run the command line; bad input ends in one sentence and an exit status that is not zero."""
    try:
        cli.main(standalone_mode=False)
    except click.UsageError as error:
        _end(error.format_message(), 2)
    except course.UsageError as error:
        _end(error, 2)
    except (course.RunError, data.DataError) as error:
        _end(error, 1)
    except (KeyboardInterrupt, click.Abort):
        _end("interrupted; finished notebooks are kept, unfinished ones were not written", 130)


def _end(message, status):
    click.echo(f"labutils: {message}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
