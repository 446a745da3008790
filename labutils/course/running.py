"""Running notebooks: one or many, at one or many sets of parameters, on this machine or on a Dask cluster.

`run` is a sweep of one setting that ignores what is there. The driver sends notebooks as text and gets executed
notebooks back as text, and it alone writes files: workers need the course installed, but share no disk with it. A run
is known by its file name, in which all changed parameters stand, and by what the file's metadata says of it: a sweep
that is started again repeats no finished run.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import nbformat

from labutils import NOTEBOOKS, data
from labutils.conventions import METADATA
from labutils.course import execution, jobs, parameters
from labutils.course.notebook import code_cells, minutes, read
from labutils.errors import RunError, UsageError

LONGEST_NAME = 150  # characters of a file name before its ending; file systems allow 255 bytes
ANSWER_SECONDS = 15  # that a Dask scheduler is given
_GONE = "the Dask scheduler went away; finished runs are kept, so start the same sweep again"
_LOSSES = 3  # times that the worker of a run may be killed
_AHEAD = 8  # runs that are sent ahead of being taken up, at least
_SCHEMES = ("tcp", "tls", "ws", "wss", "ucx", "inproc")


def plan(parameter_sets, folder, *, prefix="", again=False):
    """The runs of notebooks at sets of parameters, and which of them a folder holds already.

    Parameters
    ----------
    parameter_sets : dict of Path to list of dict
        By notebook, the parameters that each of its runs changes. Sets that occur twice are run once.
    folder : labutils.course.files.Folder
        Where the executed notebooks are; it need not exist yet.
    prefix : str
        Beginning of their names there, such as ``notebooks/``.
    again : bool
        Whether to run also what is finished, and to name runs after their notebooks alone.

    Returns
    -------
    list of labutils.course.jobs.Job
        Those expected to take longest come first.

    Raises
    ------
    UsageError
        If a parameter is refused, two notebooks have the same name, or a run would replace what is not ours.
    """
    planned = {}
    for path, sets in parameter_sets.items():
        source = read(path)
        for cell in code_cells(source):
            cell.outputs, cell.execution_count = [], None
        if path.stem.startswith(".") or path.stem.endswith(".failed"):
            raise UsageError(f"{path.name} has the name of a hidden or failed notebook; rename it")
        digest, n_cells = code_digest(source), len(code_cells(source))
        rules = parameters.read_rules(source, path.stem) if any(sets) else {}
        for values in sets:
            parameters.validate(values, rules, path.stem)
            ordered = {name: _as(rules[name], values[name]) for name in rules if name in values}
            name = path.stem if again else run_name(path.stem, ordered)
            job = jobs.Job(path, ordered, f"{prefix}{name}.ipynb", source, digest)
            job.n_cells = n_cells + bool(ordered)  # parameters are put into a cell of their own
            if job.target in planned and planned[job.target].notebook != path:
                raise UsageError(f"two notebooks are named {path.stem}; give them to different folders")
            stated = 0 if ordered else minutes(source)[1] * 60
            job.expected_seconds = stated or jobs.UNKNOWN_SECONDS
            planned[job.target] = job
    for job in planned.values():
        kept = _metadata(folder.path / job.target)
        if kept is not None:
            is_same = job.identity.items() <= kept.items() and not _is_out_of_date(kept, job)
            took = kept.get("seconds") if isinstance(kept.get("seconds"), int | float) else None
            if again:
                job.expected_seconds = took if is_same and took else job.expected_seconds
            else:
                job.state = "finished" if is_same else "changed"
                job.seconds = took or 0.0 if is_same else None
    runs = list(planned.values())
    todo = [job for job in runs if job.state != "finished"]
    folder.check([name for job in todo for name in (job.target, job.failed_target)])
    _estimate(runs)
    return sorted(runs, key=lambda job: job.expected_seconds, reverse=True)


def execute(planned, folder, *, n_jobs=2, timeout=1800, cluster=None, cwd=None):
    """Execute the runs that are not finished, several at a time, each on one thread.

    A run that fails is kept as ``NAME.failed.ipynb``, and the others go on. Files are written whole or not at all;
    what an earlier run has left is replaced by a later success only.

    Parameters
    ----------
    planned : list of Job
        As `plan` gives them; what becomes of them is noted in them.
    folder : labutils.course.files.Folder
    n_jobs : int
        Processes on this machine.
    timeout : int
        Seconds that one cell may take.
    cluster : str, optional
        Address of a Dask scheduler whose workers take the place of processes here.
    cwd : path-like, optional
        Working directory of the kernels; if not given, the folder that each notebook lies in.

    Raises
    ------
    UsageError
        If the scheduler's address has another form.
    RunError
        If the folder cannot be written to, or the scheduler does not answer or goes away. Finished runs stay.
    KeyboardInterrupt
        If interrupted: finished runs stay.
    """
    todo = [job for job in planned if job.state != "finished"]
    if cluster is not None:
        _check_address(cluster)
    else:
        fetch_data(todo)
    shown = jobs.Progress(todo)
    with jobs.interruptible(), tempfile.TemporaryDirectory(prefix="labutils-") as progress:

        def attempt(some, n_workers):
            """Execute jobs; return those whose worker, or that of another job in the same pool, was killed."""
            workers = _cluster(cluster) if cluster is not None else _processes(n_workers, progress)
            with workers as ready:
                return _execute(some, ready, folder, timeout, cwd, shown)

        for job in (
            attempt(todo, min(n_jobs, len(todo))) if todo else []
        ):  # one by one, to see whose fault it was
            for _ in range(_LOSSES):
                if not attempt([job], 1):
                    break
            else:
                job.error = f"its worker was killed {_LOSSES} times (out of memory?)"
                job.seconds = job.elapsed
                jobs.say_done(job)


def run_name(stem, values):
    """File name, without ending, of a run: the notebook and its changed parameters, safe on any file system.

    Where the text had to be changed or cut, ten digits of its SHA-256 stand at the end.
    """
    text = ",".join([stem, *(f"{name}={value}" for name, value in values.items())])
    safe = re.sub(r"[^\w.,=+-]", "_", text, flags=re.ASCII)[:LONGEST_NAME]
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
    return safe if safe == text else f"{safe},{digest[:10]}"


def code_digest(node):
    """SHA-256 of the sources of a notebook's code cells; prose and outputs may change without repeating runs."""
    sources = [cell.source for cell in code_cells(node)]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def fetch_data(planned):
    """Have the data that jobs need in the cache before they start, so that it is fetched, and said, once."""
    for dataset in sorted({_dataset(job) for job in planned} - {None}):
        data.fetch(dataset)


def _dataset(job):
    """The data set of the course that a job asks for; None if it asks for none."""
    asked = job.parameters.get("dataset") or parameters.defaults(job.source).get("dataset")
    return asked if asked in data.DATASETS else None


def _served(job):
    """The data set that serves a job on this machine now, which without a network may be another one than it asks for."""
    asked = _dataset(job)
    return asked and data.will_use(asked)


def _as(rule, value):
    """A whole number where the rule asks for any is the same value with a point: one run, one name."""
    return float(value) + 0.0 if rule.kind is float else value  # adding makes -0.0 a 0.0


def _execute(todo, workers, folder, timeout, cwd, shown):
    """Execute jobs and write them; return those whose worker process was killed."""
    futures, lost, waiting = {}, [], list(reversed(todo))
    try:
        while waiting or futures:
            while waiting and len(futures) < max(_AHEAD, 2 * workers.count()):
                job = waiting.pop()
                try:
                    futures[workers.submit(job, _text(job), timeout, _folder(job, cwd))] = job
                except BrokenProcessPool:
                    lost.append(job)
            done, _ = wait(futures, timeout=1.0, return_when="FIRST_COMPLETED")
            for future in done:
                job = futures.pop(future)
                if future.cancelled():
                    raise RunError(_GONE)
                failure = future.exception()
                if isinstance(failure, BrokenProcessPool):  # each future of the pool says so
                    lost.append(job)
                    continue
                if failure:  # the worker could not even try, or the scheduler gave the run up
                    job.error, job.seconds = f"{type(failure).__name__}: {failure}", job.elapsed
                else:
                    text, job.error, job.seconds = future.result()
                    _write(job, folder, text)
                jobs.say_done(job)
            _estimate(shown.jobs)
            n_workers = workers.count()
            for job in list(futures.values())[:n_workers]:  # they are taken up in this order
                job.started = job.started or time.monotonic()
                job.cells_done = workers.cells_done(job)
            shown.show(n_workers)
    finally:
        for future in futures:
            future.cancel()
    return lost


def _folder(job, cwd):
    """Working directory of a job's kernel; None where it is that of the lessons, wherever a worker has them."""
    if cwd is not None:
        return str(Path(cwd).resolve())
    return None if job.notebook.parent == NOTEBOOKS else str(job.notebook.parent)


@dataclass
class _Workers:
    """What executes jobs: a function that sends one, one that counts workers, one that tells a job's finished cells."""

    submit: Callable
    count: Callable
    cells_done: Callable


@contextlib.contextmanager
def _processes(n_jobs, progress):
    """Worker processes on this machine, which note in a folder how far they are."""
    from joblib.externals.loky import ProcessPoolExecutor  # slow to import

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by workers and kernels
    pool = ProcessPoolExecutor(n_jobs, initializer=execution.follow, initargs=(os.getpid(),))

    def note(job):
        return os.path.join(progress, hashlib.sha256(job.target.encode()).hexdigest())

    def submit(job, text, timeout, folder):
        Path(note(job)).unlink(missing_ok=True)
        return pool.submit(execution.execute_text, text, timeout, folder, note(job))

    def cells_done(job):
        with contextlib.suppress(OSError, ValueError):
            return int(Path(note(job)).read_text())
        return 0

    try:
        yield _Workers(submit, lambda: n_jobs, cells_done)
    finally:
        pool.shutdown(kill_workers=True)


def _check_address(address):
    hint = "an address looks like tcp://host:8786"
    try:
        parts = urlsplit(address)
        is_good = parts.scheme in _SCHEMES and (parts.scheme == "inproc" or (parts.hostname and parts.port))
    except ValueError:  # a port that is no number
        is_good = False
    if not is_good:
        raise UsageError(f"{address[:80]!r} is no address of a Dask scheduler; {hint}")


@contextlib.contextmanager
def _cluster(address):
    """The workers of a Dask scheduler that runs already."""
    try:
        import distributed
    except ImportError:
        raise RunError(
            "--cluster needs Dask, which is not installed: pip install 'labutils[cluster]'"
        ) from None
    logging.disable()  # Dask logs a traceback for each lost connection; what matters is said in a sentence
    client = None
    try:
        client = distributed.Client(address, timeout=ANSWER_SECONDS, set_as_default=False)
        send = client.get_executor(pure=False).submit
        yield _Workers(
            lambda job, *arguments: send(execution.execute_text, *arguments),
            lambda: _count_threads(client),
            lambda job: None,
        )
    except (OSError, ValueError) as error:
        if client is not None:
            raise
        hint = "an address looks like tcp://host:8786"
        raise RunError(f"no Dask scheduler answers at {address} ({type(error).__name__}); {hint}") from None
    finally:
        if client is not None:
            client.close()
        logging.disable(logging.NOTSET)


def _count_threads(client):
    if client.status == "closed":
        raise RunError(_GONE)
    try:
        return sum(client.nthreads().values())
    except OSError:  # no connection just now
        return 0


def _write(job, folder, text):
    target = job.failed_target if job.error else job.target
    try:
        folder.write({target: text})
    except UsageError as error:  # somebody has changed the file since the runs began
        stem = target.removesuffix(".ipynb")
        kept = next(
            name for n in itertools.count(1) if not (folder.path / (name := f"{stem}.kept{n}.ipynb")).exists()
        )
        folder.write({kept: text})
        job.error = (
            f"{job.error + '; ' if job.error else ''}{error}; the new run is kept as {Path(kept).name}"
        )
        return
    if not job.error:
        folder.remove([job.failed_target])


def _text(job):
    """The notebook with its parameters and without old outputs, to be sent to a worker."""
    node = parameters.inject(job.source, job.parameters)
    node.metadata[METADATA] = job.identity | ({"dataset": _dataset(job)} if _dataset(job) else {})
    return nbformat.writes(node)


def _metadata(target):
    """What an executed notebook says of its run; None if there is no such file, or it is not ours."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        return dict(json.loads(target.read_text(encoding="utf-8"))["metadata"][METADATA])
    return None


def _is_out_of_date(kept, job):
    """Whether a run used a data set in place of the one it asks for, which is to be had on this machine now."""
    return kept.get("data", _dataset(job)) != _dataset(job) and kept["data"] != _served(job)


def _estimate(planned):
    """Expect of each run the mean time of those of the same notebook that have ended."""
    for notebook in {job.notebook for job in planned}:
        same = [job for job in planned if job.notebook == notebook]
        seconds = [job.seconds for job in same if job.seconds is not None and not job.error]
        for job in same:
            if seconds and job.seconds is None:
                job.expected_seconds = sum(seconds) / len(seconds)
