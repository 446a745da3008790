"""Running, validating and publishing the notebooks: the instructor's door.

A notebook is validated before a kernel starts: the names in its cell tagged ``parameters`` and the rules in
its ``check_parameters`` call are read from the page itself.
"""

import ast
import asyncio
import contextlib
import copy
import json
import os
import re
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pandas as pd
import yaml

from labutils import NOTEBOOKS, data, execution, lesson
from labutils.execution import code_cells

ROOT = NOTEBOOKS.parent
QUICK = ROOT / "tests" / "quick.yml"
UNKNOWN_SECONDS = 20  # guess for a notebook of which nothing is known yet
_RULE_TYPES = {"int": int, "float": float, "bool": bool}


class UsageError(ValueError):
    """What was asked for does not exist or is not allowed; the message says what is."""


class RunError(RuntimeError):
    """A notebook did not run to its end."""


@dataclass
class Job:
    """One notebook to execute, and what has become of it so far."""

    notebook: Path
    parameters: dict
    expected_seconds: float
    n_cells: int = 0
    cells_done: int = 0
    started: float | None = None
    seconds: float | None = None
    error: str | None = None

    @property
    def name(self):
        return self.notebook.stem

    @property
    def elapsed(self):
        """Seconds since its start, or that it took."""
        if self.seconds is not None:
            return self.seconds
        return 0.0 if self.started is None else time.monotonic() - self.started

    @property
    def seconds_left(self):
        """Estimate; once it has proved too low, a tenth of the time spent so far."""
        if self.seconds is not None:
            return 0.0
        return max(self.expected_seconds - self.elapsed, self.elapsed / 10)


@dataclass
class Summary:
    """What `run` did with each notebook."""

    jobs: list

    @property
    def failed(self):
        return [job for job in self.jobs if job.error]


def notebooks():
    """Paths of the course's notebooks, in order."""
    found = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        raise UsageError(
            f"no notebooks in {NOTEBOOKS}; install the project from its own folder (make install)"
        )
    return found


def find(name):
    """Path of a notebook named by number ("9"), stem ("09_lstm_mnist") or path.

    Raises
    ------
    UsageError
        If there is no such notebook; the message names those there are.
    """
    path = Path(name)
    if path.suffix == ".ipynb" and path.is_file():
        return path.resolve()
    for candidate in notebooks():
        number = candidate.stem.split("_")[0]
        if name in (candidate.stem, candidate.name, number) or name.zfill(2) == number:
            return candidate
    raise UsageError(f"there is no notebook {name!r}; there are {', '.join(p.stem for p in notebooks())}")


def read_rules(notebook):
    """Rules of a notebook's parameters: name -> rule, as `lesson.check_parameters` is given them.

    Parameters
    ----------
    notebook : path-like

    Raises
    ------
    UsageError
        If the file is not a notebook, or has no literal ``check_parameters`` call.
    """
    for cell in code_cells(read(notebook)):
        if "check_parameters" in cell.source:
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.Call) and _called_name(node) == "check_parameters":
                    return {keyword.arg: _literal(keyword.value, notebook) for keyword in node.keywords}
    raise UsageError(f"{Path(notebook).name} does not check its parameters, so none can be passed to it")


def parse_value(text, rule):
    """Turn the text of a command-line option into the type that the rule asks for, where it can be."""
    if rule is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if isinstance(rule[0], str):
        return text
    try:
        return rule[0](text)
    except ValueError:
        return text


def validate(notebook, *parameter_sets):
    """Refuse unknown names, wrong types and values out of range before anything runs.

    Parameters
    ----------
    notebook : path-like
    *parameter_sets : dict
        Each by name the parameters that one run changes.

    Raises
    ------
    UsageError
        One sentence that names the notebook, the parameter and what is allowed.
    """
    if not any(parameter_sets):
        return
    rules = read_rules(notebook)
    try:
        for name, value in (pair for parameters in parameter_sets for pair in parameters.items()):
            lesson.check_name(name, rules)
            lesson.check_value(name, value, rules[name])
    except ValueError as error:
        raise UsageError(f"{Path(notebook).stem}: {error}") from None


def quick_parameters():
    """Parameters of the quick run: notebook stem -> name -> value."""
    return yaml.safe_load(QUICK.read_text(encoding="utf-8"))


def minutes(node):
    """Minutes to read and to run, as a notebook's own page states them.

    Parameters
    ----------
    node : nbformat.NotebookNode

    Returns
    -------
    tuple of int
        (to read, to run); (0, 0) where the page states none.
    """
    for cell in node.cells[:3]:
        stated = re.search(r"(\d+) minutes? to read, (\d+) minutes? to run", cell.source)
        if stated:
            return int(stated[1]), int(stated[2])
    return 0, 0


def title(node):
    """Text of a notebook's first heading; empty if it has none."""
    source = "\n".join(cell.source for cell in node.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# (.+)$", source, flags=re.MULTILINE)
    return heading[1].strip() if heading else ""


def run(paths, parameters, output, *, jobs=2, timeout=1800):
    """Execute notebooks side by side and write notebooks, pages and the table of results.

    Under `output`: ``notebooks/`` holds the executed copies, ``pages/`` the same as HTML with an index,
    ``results.csv`` one row for each record. A notebook that fails is kept as ``NAME.failed.ipynb``, and the
    others go on. Files are written whole or not at all.

    Parameters
    ----------
    paths : list of path-like
        The notebooks.
    parameters : dict of str to dict
        By notebook stem, the parameters to change.
    output : path-like
        Folder to write to.
    jobs : int
        Notebooks executed at the same time, each on one thread.
    timeout : int
        Seconds that one cell may take.

    Returns
    -------
    Summary

    Raises
    ------
    UsageError
        If a parameter is refused; nothing has run then.
    data.DataError
        If the data cannot be kept.
    KeyboardInterrupt
        If interrupted: the kernels are shut down, and finished notebooks stay.
    """
    output = Path(output)
    for path in paths:
        validate(path, parameters.get(path.stem, {}))
    known = _known_seconds(output)
    queue = []
    for path in paths:
        changed = parameters.get(path.stem, {})
        stated = minutes(read(path))[1] * 60 if not changed else 0
        expected = known.get(_run_key(path.stem, changed), stated) or UNKNOWN_SECONDS
        queue.append(Job(path, changed, expected))
    queue.sort(key=lambda job: job.expected_seconds, reverse=True)

    make_writable(output / "notebooks")
    fetch_data(queue)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by the kernels
    try:
        _execute_all(queue, output, jobs, timeout)
    finally:
        _remember_seconds(output, queue)
    publish(output)
    return Summary(queue)


def recorded(node):
    """What the cells of an executed notebook recorded: dicts of ``parameters``, ``results`` and ``provenance``."""
    outputs = (output.get("data", {}) for cell in code_cells(node) for output in cell.outputs)
    return [shown[lesson.RECORD_TYPE] for shown in outputs if lesson.RECORD_TYPE in shown]


def collect(folder):
    """Read the records of a folder of executed notebooks, and of the folders in it, into one frame.

    Parameters
    ----------
    folder : path-like

    Returns
    -------
    pandas.DataFrame
        One row a record: the notebook and the file, its parameters, its results, and where they come from.
        The names of the parameters and of the results are in ``attrs["parameters"]`` and ``attrs["results"]``.
    """
    rows, parameters, results = [], {}, {}
    for path in executed(folder):
        node = read(path)
        swept = node.metadata.get(execution.METADATA, {})
        run = {"notebook": swept.get("notebook", path.stem), "file": path.relative_to(folder).as_posix()}
        cost = {"run_seconds": swept["seconds"]} if "seconds" in swept else {}
        for content in recorded(node):
            origin = content["provenance"]
            versions = " ".join(f"{name}={version}" for name, version in origin.pop("versions").items())
            row = {**run, **content["parameters"], **content["results"], **cost}
            rows.append({**row, **origin, "versions": versions})
            parameters |= content["parameters"]
            results |= content["results"] | cost
    frame = pd.DataFrame(rows)
    whole = [name for name in parameters | results if all(isinstance(row.get(name, 0), int) for row in rows)]
    gaps = [name for name in whole if frame[name].isna().any()]
    frame = frame.astype(dict.fromkeys(gaps, "Int64"))  # else pandas makes 2 a 2.0 where other rows have none
    frame.attrs = {"parameters": list(parameters), "results": list(results)}
    return frame


def publish(output):
    """Write ``results.csv`` and the pages of all executed notebooks, under `output`."""
    from labutils import site  # Sphinx takes seconds to import, and only pages need it

    write(output / "results.csv", collect(output / "notebooks").to_csv(index=False))
    for problem in site.build(executed(output / "notebooks"), output / "pages"):
        say(problem)


def executed(folder, failed=False):
    """The notebooks in a folder, and in those below it, that ran to their end, or that failed, in order."""
    found = (path for path in Path(folder).rglob("*.ipynb") if not path.parent.name.startswith("."))
    kept = [path for path in found if path.stem.endswith(".failed") == failed]
    return sorted(
        kept, key=lambda path: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", str(path))]
    )


def _execute_all(queue, output, jobs, timeout):
    """Execute the queue in an event loop of its own thread, so that the main thread can be interrupted.

    (In the main thread, every nbclient would replace the handler of Ctrl-C by its own.)
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(_execute_queue(queue, output, jobs, timeout))
    try:
        with terminate_as_interrupt(), ThreadPoolExecutor(1) as pool:
            running = pool.submit(_run_to_the_end, loop, task)
            try:
                _report_until_done(running, queue, jobs)
            except KeyboardInterrupt:
                loop.call_soon_threadsafe(task.cancel)
                raise
            running.result()
    except ExceptionGroup as group:
        raise group.exceptions[0] from None
    finally:
        loop.close()


def _run_to_the_end(loop, task):
    try:
        loop.run_until_complete(task)
    finally:  # what nbclient leaves behind when it is interrupted
        rest = asyncio.all_tasks(loop)
        for left_over in rest:
            left_over.cancel()
        if rest:
            loop.run_until_complete(asyncio.wait(rest))


@contextlib.contextmanager
def terminate_as_interrupt():
    """Within it, SIGTERM interrupts as Ctrl-C does."""

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


async def _execute_queue(queue, output, jobs, timeout):
    places = asyncio.Semaphore(jobs)

    async def one(job):
        async with places:
            await _execute(job, output, timeout)

    async with asyncio.TaskGroup() as group:
        for job in queue:
            group.create_task(one(job))


async def _execute(job, output, timeout):
    node = with_parameters(read(job.notebook), job.parameters)
    job.n_cells = len(list(code_cells(node)))
    target = output / "notebooks" / job.notebook.name
    failed = target.with_suffix(".failed.ipynb")
    for stale in (target, failed, output / "pages" / f"{job.name}.html"):
        stale.unlink(missing_ok=True)

    def count():
        job.cells_done += 1

    job.started = time.monotonic()
    job.error = await execution.execute(node, timeout, count)
    job.seconds = job.elapsed
    write(failed if job.error else target, nbformat.writes(node) + "\n")
    say_done(job)


def with_parameters(notebook, parameters):
    """Put changed parameters into a copy of a notebook, as papermill does.

    Parameters
    ----------
    notebook : nbformat.NotebookNode
    parameters : dict

    Returns
    -------
    nbformat.NotebookNode
    """
    node = copy.deepcopy(notebook)
    if not parameters:
        return node
    from papermill.parameterize import parameterize_notebook

    for cell in node.cells:  # papermill looks for them
        cell.metadata.setdefault("tags", [])
    node.metadata.setdefault("papermill", {})
    return parameterize_notebook(node, parameters, kernel_name="python3", language="python")


def _report_until_done(running, queue, jobs):
    progress = Progress(queue)
    while wait([running], timeout=1.0).not_done:
        progress.show(jobs)


class Progress:
    """Shows the state of a queue: on a terminal in one line that is rewritten, else in a line now and then."""

    def __init__(self, queue):
        self.queue = queue
        self.start, self.reported = time.monotonic(), 0.0

    def show(self, jobs):
        """Show the state, if it is time to, where so many jobs can run side by side."""
        terminal = sys.stdout.isatty()
        elapsed = time.monotonic() - self.start
        if terminal or elapsed - self.reported >= 15:
            self.reported = elapsed
            line = _status(self.queue, jobs, elapsed)
            print(f"\r{line[:150]:<150}" if terminal else line, end="" if terminal else "\n", flush=True)


def _status(queue, jobs, elapsed):
    running = [job for job in queue if job.started is not None and job.seconds is None and job.n_cells]
    states = "; ".join(
        f"{job.name} cell {min(job.cells_done + 1, job.n_cells)}/{job.n_cells}" for job in running
    )
    left = [job.seconds_left for job in queue]
    done = sum(job.seconds is not None for job in queue)
    failed = sum(job.error is not None for job in queue)
    so_far = f"{done} of {len(queue)} done" + (f", {failed} of them failed" if failed else "")
    if not jobs:
        return f"[{_clock(elapsed)}] {so_far}, waiting for a worker"
    remaining = max(max(left, default=0), sum(left) / jobs)
    return " ".join(
        filter(None, [f"[{_clock(elapsed)}]", states, f"({so_far}, about {_clock(remaining)} left)"])
    )


def say_done(job):
    """Say in one line how a job ended."""
    say(f"{job.name}: {'FAILED' if job.error else 'done'} in {_clock(job.seconds)}")


def say(line):
    """Print a line, over that of `Progress` on a terminal."""
    print(f"\r{line:<150}" if sys.stdout.isatty() else line, flush=True)


def _clock(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def _run_key(stem, parameters):
    return f"{stem} {json.dumps(parameters, sort_keys=True)}"


def _known_seconds(output):
    """How long earlier runs into the same folder took."""
    with contextlib.suppress(OSError, ValueError):
        return json.loads((output / "seconds.json").read_text(encoding="utf-8"))
    return {}


def _remember_seconds(output, queue):
    known = _known_seconds(output)
    finished = [job for job in queue if job.seconds is not None and not job.error]
    known |= {_run_key(job.name, job.parameters): round(job.seconds, 1) for job in finished}
    write(output / "seconds.json", json.dumps(known, indent=1))


def _default(notebook, name):
    """Value of a parameter on the page; None if it has no such parameter."""
    for cell in code_cells(read(notebook)):
        if "parameters" in cell.metadata.get("tags", []):
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.AnnAssign) and node.target.id == name:
                    return ast.literal_eval(node.value)
    return None


def fetch_data(queue):
    """Have the data that jobs need in the cache before they start, so that it is fetched, and said, once."""
    needed = {(job.notebook, job.parameters.get("dataset")) for job in queue}
    for dataset in sorted({changed or _default(path, "dataset") for path, changed in needed} - {None}):
        data.mnist(dataset)


def make_writable(folder):
    """Make a folder, or say that nothing can be written there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise RunError(
            f"cannot write to {folder} ({error.strerror}); name a folder that can with --output"
        ) from error


def write(path, content):
    """Write a file, of text or bytes, whole or not at all.

    Raises
    ------
    RunError
        If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write {path} ({error.strerror})") from error


def read(path):
    """Read a notebook file.

    Raises
    ------
    UsageError
        If it is not one.
    """
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.reader.NotJSONError) as error:
        raise UsageError(f"{path} is not a readable notebook ({type(error).__name__})") from error


def _called_name(call):
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)


def _literal(node, notebook):
    """Evaluate a rule: a literal in which the names of types may stand."""
    if isinstance(node, ast.Name) and node.id in _RULE_TYPES:
        return _RULE_TYPES[node.id]
    if isinstance(node, ast.Tuple):
        return tuple(_literal(item, notebook) for item in node.elts)
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise UsageError(f"{Path(notebook).name}: the rule {ast.unparse(node)!r} is not a literal") from None
