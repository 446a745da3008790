"""Running, validating and publishing the notebooks: the instructor's door.

A notebook is validated before a kernel starts: the names in its cell tagged ``parameters`` and the rules in
its ``check_parameters`` call are read from the page itself.
"""

import ast
import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pandas as pd
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from labutils import data, lesson

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "notebooks"
QUICK = ROOT / "tests" / "quick.yml"
_WIDGET_TYPE = "application/vnd.jupyter.widget-view+json"
_UNKNOWN_SECONDS = 20  # guess for a notebook of which nothing is known yet
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
    for cell in _code_cells(read(notebook)):
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


def validate(notebook, parameters):
    """Refuse unknown names, wrong types and values out of range before anything runs.

    Raises
    ------
    UsageError
        One sentence that names the notebook, the parameter and what is allowed.
    """
    if not parameters:
        return
    rules = read_rules(notebook)
    try:
        for name, value in parameters.items():
            lesson.check_name(name, rules)
            lesson.check_value(name, value, rules[name])
    except ValueError as error:
        raise UsageError(f"{Path(notebook).stem}: {error}") from None


def quick_parameters():
    """Parameters of the quick run: notebook stem -> name -> value."""
    return yaml.safe_load(QUICK.read_text(encoding="utf-8"))


def minutes(notebook):
    """Minutes to read and to run, as the notebook's own page states them.

    Returns
    -------
    tuple of int
        (to read, to run); (0, 0) where the page states none.
    """
    for cell in read(notebook).cells[:3]:
        stated = re.search(r"(\d+) minutes? to read, (\d+) minutes? to run", cell.source)
        if stated:
            return int(stated[1]), int(stated[2])
    return 0, 0


def title(notebook):
    """Text of the notebook's first heading."""
    source = "\n".join(cell.source for cell in read(notebook).cells if cell.cell_type == "markdown")
    heading = re.search(r"^# (.+)$", source, flags=re.MULTILINE)
    return heading[1].strip() if heading else Path(notebook).stem


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
        stated = minutes(path)[1] * 60 if not changed else 0
        expected = known.get(_run_key(path.stem, changed), stated) or _UNKNOWN_SECONDS
        queue.append(Job(path, changed, expected))
    queue.sort(key=lambda job: job.expected_seconds, reverse=True)

    _make_writable(output)
    for dataset in sorted({_effective(job, "dataset") for job in queue} - {None}):
        data.mnist(dataset)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by the kernels
    try:
        _execute_all(queue, output, jobs, timeout)
    finally:
        _remember_seconds(output, queue)
    publish(output)
    return Summary(queue)


def collect(folder):
    """Read the records of a folder of executed notebooks into one frame.

    Parameters
    ----------
    folder : path-like

    Returns
    -------
    pandas.DataFrame
        One row a record: the notebook, its parameters, its results, and where they come from.
    """
    rows = []
    for path in _executed(folder):
        for cell in _code_cells(read(path)):
            for output in cell.outputs:
                content = output.get("data", {}).get(lesson.RECORD_TYPE)
                if content:
                    origin = content["provenance"]
                    versions = " ".join(
                        f"{name}={version}" for name, version in origin.pop("versions").items()
                    )
                    row = {"notebook": path.stem, **content["parameters"], **content["results"]}
                    rows.append({**row, **origin, "versions": versions})
    return pd.DataFrame(rows)


def publish(output):
    """Write ``results.csv``, one HTML page for each executed notebook, and an index of them, under `output`."""
    from labutils import pages  # nbconvert takes seconds to import, and only pages need it

    results = collect(output / "notebooks")
    (output / "pages").mkdir(exist_ok=True)
    write(output / "results.csv", results.to_csv(index=False))
    entries = []
    for path in _executed(output / "notebooks"):
        write(output / "pages" / f"{path.stem}.html", pages.notebook_page(read(path), title(path)))
        entries.append((path.stem, title(path), *minutes(path)))
    write(output / "pages" / "index.html", pages.index_page(entries, results))


def _executed(folder):
    """The notebooks in a folder that ran to their end, in order."""
    return [path for path in sorted(Path(folder).glob("*.ipynb")) if not path.stem.endswith(".failed")]


def _execute_all(queue, output, jobs, timeout):
    """Execute the queue in an event loop of its own thread, so that the main thread can be interrupted.

    (In the main thread, every nbclient would replace the handler of Ctrl-C by its own.)
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(_execute_queue(queue, output, jobs, timeout))
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with ThreadPoolExecutor(1) as pool:
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
        signal.signal(signal.SIGTERM, before)
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


def _interrupt(*_):
    raise KeyboardInterrupt


async def _execute_queue(queue, output, jobs, timeout):
    places = asyncio.Semaphore(jobs)

    async def one(job):
        async with places:
            await _execute(job, output, timeout)

    async with asyncio.TaskGroup() as group:
        for job in queue:
            group.create_task(one(job))


async def _execute(job, output, timeout):
    node = _with_parameters(job)
    job.n_cells = len(list(_code_cells(node)))
    target = output / "notebooks" / job.notebook.name
    failed = target.with_suffix(".failed.ipynb")
    for stale in (target, failed, output / "pages" / f"{job.name}.html"):
        stale.unlink(missing_ok=True)

    def count(**_):
        job.cells_done += 1

    client = NotebookClient(
        node,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(NOTEBOOKS)}},
        on_cell_executed=count,
    )
    job.started = time.monotonic()
    try:
        await client.async_execute(stderr=subprocess.DEVNULL)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        if asyncio.current_task().cancelling():  # nbclient reports an interrupt as a dead kernel
            raise asyncio.CancelledError from None
        job.error = _why(error, client, job)
    job.seconds = job.elapsed
    _drop_sliders(node)
    write(failed if job.error else target, nbformat.writes(node) + "\n")
    _say(f"{job.name}: {'FAILED' if job.error else 'done'} in {_clock(job.seconds)}")


def _drop_sliders(node):
    """Take out interactive controls: without their kernel they are dead, and a static figure shows the same."""
    node.metadata.pop("widgets", None)
    for cell in _code_cells(node):
        cell.outputs = [o for o in cell.outputs if _WIDGET_TYPE not in o.get("data", {})]


def _with_parameters(job):
    if not job.parameters:
        return read(job.notebook)
    from papermill.iorw import load_notebook_node
    from papermill.parameterize import parameterize_notebook

    node = load_notebook_node(str(job.notebook))
    return parameterize_notebook(node, job.parameters, kernel_name="python3", language="python")


def _why(error, client, job):
    """The failing cell and the last lines of its error, for the summary."""
    if isinstance(error, CellTimeoutError):
        return f"cell {job.cells_done + 1} of {job.n_cells} took longer than {client.timeout} s"
    if isinstance(error, DeadKernelError):
        return f"the kernel died in cell {job.cells_done + 1} of {job.n_cells} (out of memory?)"
    return f"cell {job.cells_done} of {job.n_cells}: {error.ename}: {error.evalue}"


def _report_until_done(running, queue, jobs):
    """Show the state of the run: on a terminal in one line that is rewritten, else in a line now and then."""
    terminal = sys.stdout.isatty()
    start, reported = time.monotonic(), 0.0
    while wait([running], timeout=1.0).not_done:
        elapsed = time.monotonic() - start
        if terminal or elapsed - reported >= 15:
            reported = elapsed
            line = _status(queue, jobs, elapsed)
            print(f"\r{line[:150]:<150}" if terminal else line, end="" if terminal else "\n", flush=True)


def _status(queue, jobs, elapsed):
    running = [job for job in queue if job.started is not None and job.seconds is None]
    states = "; ".join(
        f"{job.name} cell {min(job.cells_done + 1, job.n_cells)}/{job.n_cells}" for job in running
    )
    left = [job.seconds_left for job in queue]
    done = sum(job.seconds is not None for job in queue)
    remaining = max(max(left, default=0), sum(left) / jobs)
    return f"[{_clock(elapsed)}] {states} ({done} of {len(queue)} done, about {_clock(remaining)} left)"


def _say(line):
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


def _effective(job, name):
    """Value of a parameter in this job: the changed one, else the default on the page, else None."""
    if name in job.parameters:
        return job.parameters[name]
    for cell in _code_cells(read(job.notebook)):
        if "parameters" in cell.metadata.get("tags", []):
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.AnnAssign) and node.target.id == name:
                    return ast.literal_eval(node.value)
    return None


def _make_writable(output):
    try:
        (output / "notebooks").mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output).close()
    except OSError as error:
        raise RunError(
            f"cannot write to {output} ({error.strerror}); name a folder that can with --output"
        ) from error


def write(path, text):
    """Write a text file whole or not at all.

    Raises
    ------
    RunError
        If it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
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


def _code_cells(node):
    return (cell for cell in node.cells if cell.cell_type == "code" and cell.source.strip())


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
