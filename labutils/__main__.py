"""Command line of the course: ``python -m labutils``, or ``labutils``."""

import contextlib
import importlib
import os
import sys
from pathlib import Path

import click

from labutils import NOTEBOOKS, __version__
from labutils.errors import RunError, UsageError


class _Lazy:
    """A module of the course, imported when it is first used: help and completion do not wait for torch."""

    def __init__(self, name):
        self._name = f"labutils.{name}"

    def __getattr__(self, attribute):
        return getattr(importlib.import_module(self._name), attribute)


data, experiments = map(_Lazy, ("data", "experiments"))
checks, files, notebook, parameters, records, running, settings, site, students, tables = map(
    _Lazy,
    (
        f"course.{name}"
        for name in (
            [
                "checks",
                "files",
                "notebook",
                "parameters",
                "records",
                "running",
                "settings",
                "site",
                "students",
                "tables",
            ]
        )
    ),
)


def _notebook_names(context, parameter, incomplete):
    return [path.stem for path in sorted(NOTEBOOKS.glob("*.ipynb")) if path.stem.startswith(incomplete)]


def _one_of(read):
    """Settings of an argument whose allowed values are read when they are needed."""

    def complete(context, parameter, incomplete):
        return [name for name in read() if name.startswith(incomplete)]

    def check(context, parameter, value):
        if value is not None and value not in read():
            raise click.BadParameter(f"{value!r} is not one of {', '.join(read())}")
        return value

    return {"shell_complete": complete, "callback": check}


notebooks_argument = click.argument(
    "notebooks", nargs=-1, metavar="[NOTEBOOK]...", shell_complete=_notebook_names
)
parameter_option = click.option(
    "-p",
    "--parameter",
    "pairs",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a parameter (in all runs).",
)
quick_option = click.option(
    "--quick", is_flag=True, help="Small values (tests/quick.yml) and the bundled data."
)
timeout_option = click.option(
    "--timeout", type=click.IntRange(1), default=1800, show_default=True, help="Seconds a cell may take."
)
cwd_option = click.option(
    "--cwd",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Working directory of the kernels.  [default: the folder that each notebook lies in]",
)
file_option = click.option(
    "-f",
    "--file",
    "file",
    type=click.Path(path_type=Path),
    help="YAML file: a mapping of parameters (where a list of values is one to combine), a list of such mappings, or a "
    "mapping of notebooks to such.",
)


def jobs_option(what, **settings):
    return click.option("-j", "--jobs", type=click.IntRange(1, 64), help=what, **settings)


def output_option(what, **settings):
    folder = click.Path(file_okay=False, path_type=Path)
    return click.option("-o", "--output", type=folder, help=what, **settings)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli():
    """Run the notebooks of the course and get their data."""


@cli.command()
@notebooks_argument
@quick_option
@parameter_option
@file_option
@output_option("Folder to write to.", default=Path("build"), show_default=True)
@jobs_option("Notebooks at a time.", default=2, show_default=True)
@timeout_option
@cwd_option
def run(notebooks, quick, pairs, file, output, jobs, timeout, cwd):
    """Execute NOTEBOOKS (all of them, if none is named) and write pages and results.

    A notebook is named by number (9), stem (10_lstm_mnist) or path, and runs in the folder it lies in, so that it
    finds the files beside it (--cwd for another). Parameters are checked against the notebook's own rules before
    anything runs.

    Only files that an earlier run wrote here are replaced, and only by a notebook that ran to its end. One that fails
    is kept as NAME.failed.ipynb, and the others go on.

    \b
    Parameters come from a file (-f), the same for all notebooks or each its own, and from -p, which counts more:
      seed: 3                 or      02_pca: {n_test: 500}
      n_iters: 600                    10_lstm_mnist: {n_iters: 600, seed: 3}
    """
    paths = _paths(notebooks)
    notebook.check_page_names(paths)
    chosen = _chosen(paths, quick, file, pairs)
    several = [path for path, sets in chosen.items() if len(sets) > 1]
    if several:
        raise UsageError(
            f"run takes one set of parameters for {several[0].stem}; labutils sweep takes several"
        )
    folder = files.Folder(output, "run", sources=paths)
    folder.check(["results.csv", *(f"pages/{name}.html" for name in ("index", *(p.stem for p in paths)))])
    planned = running.plan(chosen, folder, prefix="notebooks/", again=True)
    running.execute(planned, folder, n_jobs=jobs, timeout=timeout, cwd=cwd)
    problems = _publish(folder)
    for problem in problems:
        click.echo(problem, err=True)
    click.echo(f"Pages:   {output / 'pages' / 'index.html'}\nResults: {output / 'results.csv'}")
    _end_with_failures(planned, output)
    if problems:
        sys.exit(1)


def _publish(folder):
    """Write the table of results and the pages of all notebooks that runs have left in a folder."""
    written, home = set(folder.written()), folder.path / "notebooks"
    shown = [p for p in records.executed(home) if p.relative_to(folder.path).as_posix() in written]
    frame = records.collect(home, shown)
    problems = frame.attrs["problems"]
    try:
        folder.write({"results.csv": frame.to_csv(index=False)})
    except UsageError as error:  # somebody has changed it since the runs began
        problems.append(str(error))
    try:
        return problems + site.build(shown, folder, prefix="pages/")
    except UsageError as error:
        return [*problems, str(error)]


def _end_with_failures(planned, output):
    """Name the runs that failed, and end with exit status 1 if there is one."""
    failed = [job for job in planned if job.error]
    for job in failed:
        click.echo(f"{job.name} failed: {job.error}", err=True)
        if (output / job.failed_target).exists():
            click.echo(f"  up to there: {output / job.failed_target}", err=True)
    if failed:
        sys.exit(1)


@cli.command(name="data")
@click.argument("dataset", default="mnist", **_one_of(lambda: data.DATASETS))
@click.option("--where", is_flag=True, help="Print the folder of the data cache, and fetch nothing.")
def get_data(dataset, where):
    """Fetch DATASET into the data cache, or say that it is there: mnist (if none is named), fashion-mnist or
    moby-dick.

    mnist-mini, a subset of MNIST, and moby-dick-excerpt, the first chapters of Moby-Dick, come with the course and
    are there already.
    """
    load = data.moby_dick if dataset in data.TEXTS else data.mnist
    click.echo(data.cache_folder() if where else load(dataset, allow_subset=False))


@cli.command()
@notebooks_argument
@click.option("--fix", is_flag=True, help="First normalise the files of the NOTEBOOKs named, in place.")
def check(notebooks, fix):
    """Check stored NOTEBOOKs (all of the course, if none is named) without running them.

    A notebook is named by number (9), stem (10_lstm_mnist) or path, so that a changed copy can be checked, too.

    \b
    What is checked:
      form           nbformat and ids, kernel, metadata, size, minutes stated
      outputs        of one clean run, no error or warning, no path of one machine
      cells          Python, at most 25 lines, no clear_output, semicolon or forbidden tag
      parameters     one cell of them, read by papermill, each with help, a rule and a quick value
      exercises      stub, check and folded solution; "not done yet" and "right" are stored
      accessibility  one title, headings without a gap, alt text for every figure and image,
                     lines and marks with a contrast of at least 3:1, in the figure style as well
      vocabulary     tables of symbols and terms at the end, which agree with each other
      pages          formulas that can be rendered, no directives, scripts or images from elsewhere

    Each problem is one line: the notebook, the cell, what is wrong, what is allowed. The exit status is 1 if there
    is any, and 2 if a NOTEBOOK is not there or cannot be read.

    Other editors, such as VS Code and Colab, save notebooks in forms of their own. --fix takes out the metadata that
    they add and gives each cell an id; text, code, outputs and tags stay as they are.
    """
    if fix and not notebooks:
        raise UsageError("--fix changes files, so name the notebooks that it is to change")
    paths = _paths(notebooks)
    for path in paths if fix else ():
        if checks.fix(path):
            click.echo(f"normalised {path}")
    found = [problem for path in paths for problem in checks.problems(path)]
    found += checks.vocabulary_problems(paths) + checks.palette_problems()
    for problem in found:
        click.echo(problem)
    if found:
        sys.exit(1)
    click.echo("1 notebook is clean" if len(paths) == 1 else f"{len(paths)} notebooks are clean")


@cli.command()
@notebooks_argument
@output_option("Folder.  [default: build/student or build/solved]")
@click.option("--solved", is_flag=True, help="Fill the solutions into the stubs, for instructors.")
@click.option(
    "--force", is_flag=True, help="Replace copies that are there and differ; answers in them are lost."
)
def student(notebooks, output, solved, force):
    """Write student copies of NOTEBOOKs (all of them, if none is named): the exercises open, no solutions.

    A notebook is named by number (9), stem (10_lstm_mnist) or path. What the lesson's cells put out is kept, for
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

    A check gets its point by what it compares, which a fresh process of the same Python judges again: labutils must be
    installed there, and nothing that a student's cells replace is asked.

    Copies are written all or none, never among the solved notebooks, and never over a copy that differs.
    """
    paths = _paths(notebooks)
    output = output or Path("build") / ("solved" if solved else "student")
    copies = students.make(paths, output, solved=solved, force=force)
    click.echo(f"{'Solved' if solved else 'Student'} copies: {len(copies)} in {output}")


@cli.command(name="site")
@notebooks_argument
@output_option("Folder of the pages.", default=Path("build/site"), show_default=True)
@click.option(
    "--trust", is_flag=True, help="Let scripts and active HTML of the notebooks become part of the pages."
)
def make_site(notebooks, output, trust):
    """Write NOTEBOOKs (all of them, if none is named) as static pages, with what they store; nothing is executed.

    A notebook is named by number (9), stem (10_lstm_mnist) or path, so that executed or student copies can be
    published, too. The pages have contents, search, previous and next (also by the arrow keys), and mathematics that
    needs no network. Copy the folder to any web server, or open its index.html from disk.

    What is wrong is named, a line each, with the notebook and the cell, and the exit status is 1 then: formulas that
    cannot be rendered (the page shows their TeX), links that lead nowhere, and what is left out of the pages. The
    pages are written all the same. Pages that an earlier call wrote are replaced; other files in the folder stay, and a
    page that would replace one of them is refused.

    Notebooks may come from anybody: scripts, forms and the like are left out, directives are shown as text, no file
    is read but images in the notebook's own folder, and a policy in each page lets browsers run no script but the
    theme's. With --trust, scripts and active HTML become part of the pages, and the policy is left out.
    """
    paths = _paths(notebooks)
    problems = site.build(paths, output, trust=trust)
    for problem in problems:
        click.echo(problem, err=True)
    click.echo(f"Pages: {output / 'index.html'}")
    if problems:
        sys.exit(1)


@cli.command()
@click.argument("experiment", required=False, **_one_of(lambda: list(experiments.EXPERIMENTS)))
@click.option(
    "--table",
    type=click.Path(dir_okay=False, path_type=Path),
    help="CSV file  [default: notebooks/results/EXPERIMENT.csv]",
)
@jobs_option("Models at a time.", default=2, show_default=True)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda", "mps"]), default="auto", show_default=True
)
def train(experiment, table, jobs, device):
    """Train the runs of EXPERIMENT (or of all of them, in turn) that its table of results lacks.

    A row is added for each. It says beforehand how long that takes, and can be interrupted and started again at any
    time.
    """
    if table and not experiment:
        raise click.UsageError("--table takes the runs of one experiment; name it")
    for name in [experiment] if experiment else experiments.EXPERIMENTS:
        path = table or experiments.RESULTS / f"{name}.csv"
        try:
            tables.fill(experiments.EXPERIMENTS[name](), path, n_jobs=jobs, device=device)
        except ValueError as error:
            raise UsageError(error) from None
        click.echo(f"Table: {path}")


# sweep and collect


@cli.command()
@click.argument("notebooks", nargs=-1, required=True, shell_complete=_notebook_names)
@click.option(
    "-g", "--grid", "grid", multiple=True, metavar="NAME=V1,V2", help="Values of a parameter to combine."
)
@parameter_option
@file_option
@quick_option
@output_option("Folder of the executed notebooks.", required=True)
@jobs_option("Runs at a time on this machine.  [default: 2]")
@timeout_option
@cwd_option
@click.option(
    "--cluster", metavar="ADDRESS", help="Use the workers of this Dask scheduler (tcp://host:port)."
)
@click.option("--dry-run", is_flag=True, help="List the runs and what is done of them, and write nothing.")
def sweep(notebooks, grid, pairs, file, quick, output, jobs, timeout, cluster, cwd, dry_run):
    """Run NOTEBOOKS at every combination of parameters.

    Each run is one executed notebook in the output folder, whose name says its parameters. All combinations are
    checked against each notebook's own rules before anything starts. A run that fails is kept as
    NAME.failed.ipynb and the rest goes on. Kernels run in the folder that their notebook lies in (--cwd for another).

    Started again after an interruption, a power cut or a killed worker, a sweep repeats no finished run. It does
    repeat runs of a notebook whose code has changed since, and failed runs.

    With --cluster, runs are executed where the scheduler's workers are. They need the course installed, but no
    disk in common with this machine: notebooks travel as text. Whoever reaches the scheduler can run any program on
    its workers: keep it on a network of your own. After Ctrl-C, a run that a worker has begun goes
    on there to its end, and its result is dropped.

    \b
    Examples:
      labutils sweep 10 -g seed=0,1,2 -g n_iters=300,600 --output runs
      labutils sweep 02 03 --quick -g seed=0,1 --output runs --dry-run
      labutils sweep 10 -f settings.yml -j 8 --output runs
      labutils sweep 10 -g seed=0,1,2 --cluster tcp://10.0.0.5:8786 --output runs

    Exit status: 0 if all runs are finished, 1 if one failed, 2 if what was asked for is not allowed (nothing has run
    then), 130 if interrupted.
    """
    if cluster is not None and jobs:
        raise UsageError("--jobs is for this machine; a cluster runs as many at a time as it has workers")
    paths = dict.fromkeys(_paths(notebooks))
    folder = files.Folder(output, "sweep", sources=paths)
    planned = running.plan(_chosen(paths, quick, file, pairs, grid), folder)
    todo = [job for job in planned if job.state != "finished"]
    if dry_run:
        for job in planned:
            click.echo(f"{job.state:9} {job.target}")
    changed = sum(job.state == "changed" for job in planned)
    again = (
        f", {changed} of them again because the notebook's code or the data has changed" if changed else ""
    )
    click.echo(f"{len(planned) - len(todo)} of {len(planned)} runs are finished, {len(todo)} to do{again}")
    if dry_run:
        return
    running.execute(planned, folder, n_jobs=jobs or 2, timeout=timeout, cluster=cluster, cwd=cwd)
    click.echo(f"Runs: {output}  (labutils collect {output} makes a table of their records)")
    _end_with_failures(planned, output)


@cli.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Table to write: .csv or .parquet.",
)
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Figure to write: .png, .pdf or .svg."
)
@click.option("-x", metavar="PARAM", help="Parameter (or record) along the figure's x-axis.")
@click.option("-y", metavar="RECORD", help="Record of numbers along its y-axis.")
@click.option("--by", metavar="PARAM", help="Parameter (or record) that gets a line for each of its values.")
def collect(folder, output, plot, x, y, by):
    """Put the records of the executed notebooks in FOLDER, and in folders below it, into one table.

    A row is a record: the notebook and its file, its parameters, its results, the seconds the run took if it was
    swept, and versions, commit and hardware. Failed runs are left out. Without options, a summary is printed.

    The figure shows the mean of a record at each value of a parameter, and Student's 95 % confidence interval of
    that mean over all other parameters that vary.

    \b
    Examples:
      labutils collect runs
      labutils collect runs --output table.csv
      labutils collect runs --plot accuracy.png -x n_iters -y accuracy --by model
    """
    if any((plot, x, y, by)) and not all((plot, x, y)):
        raise UsageError("a figure needs all of --plot FILE, -x PARAM and -y RECORD; --by PARAM may be added")
    frame = records.collect(folder)
    for problem in frame.attrs["problems"]:
        click.echo(f"left out: {problem}", err=True)
    if frame.empty:
        raise RunError(f"no executed notebook in {folder} holds a record")
    if plot:  # everything is checked before anything is written
        figures = files.Folder(plot.parent, "collect", option="--plot")
        figures.check([plot.name])
        drawn, means = records.plot(frame, x, y, by, kind=plot.suffix)
    if output:
        content = records.table(frame, kind=output.suffix)
        files.Folder(output.parent, "collect").write({output.name: content})
    click.echo(records.summary(frame, n_failed=len(records.executed(folder, failed=True))))
    if output:
        click.echo(f"Table: {output}")
    if plot:
        figures.write({plot.name: drawn})
        click.echo(f"{means}\nFigure: {plot}")


def _paths(names):
    """Paths of the notebooks that are named, or of all if none is."""
    return [notebook.find(name) for name in names] or notebook.notebooks()


def _chosen(paths, quick, file, pairs, grid=()):
    """By notebook the sets of parameters that it is run at, in the types that its rules ask for."""
    content = settings.read(file) if file else {}
    small = parameters.quick_parameters() if quick else {}
    of_notebook = parameters.by_notebook(content, [path.stem for path in paths], file)
    return {
        path: parameters.sets(path, small.get(path.stem, {}), of_notebook[path.stem], pairs, grid)
        for path in paths
    }


def main():
    """Run the command line; bad input ends in one sentence and an exit status that is not zero."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - None where the caller has closed it
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    try:
        os.getcwd()
    except FileNotFoundError:
        _end("the working directory is no longer there; change to another", 1)
    try:
        if os.environ.get("LABUTILS_DATA"):
            data.settle_cache()  # for kernels, too, which run in other folders
        cli.main(standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        _end(error.format_message(), 2)
    except UsageError as error:
        _end(error, 2)
    except RunError as error:
        _end(error, 1)
    except (KeyboardInterrupt, click.Abort):
        _end("interrupted; finished notebooks are kept, unfinished ones were not written", 130)
    except OSError as error:
        if error.filename is None:  # of no file, so of what is printed to
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains once more when it ends
            _end(f"cannot print ({error.strerror})", 1)
        _end(f"{error.filename} cannot be used ({error.strerror})", 1)


def _end(message, status):
    with contextlib.suppress(OSError):
        click.echo(f"labutils: {message}", err=True)
    sys.exit(status)


if __name__ == "__main__":
    main()
