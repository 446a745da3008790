"""Sweeps: one notebook, or several, at many parameters, on this machine or on a Dask cluster.

The driver sends notebooks as text and gets executed notebooks back as text, and it alone writes files: workers need
the course installed, but share no disk with it. A run is known by its file name, in which all changed parameters
stand, and by what the file's metadata says of it: a sweep that is started again repeats no finished run.
"""

import contextlib
import hashlib
import itertools
import json
import logging
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import nbformat
from joblib.externals.loky import ProcessPoolExecutor

from labutils import course, execution

LONGEST_NAME = 150  # characters of a file name before its ending; file systems allow 255 bytes
ANSWER_SECONDS = 15  # that a Dask scheduler is given
_GONE = "the Dask scheduler went away; finished runs are kept, so start the same sweep again"
_LOSSES = 3  # times in a row that workers may be killed before anything finishes


@dataclass
class Run(course.Job):
    """One notebook at one set of parameters.

    Attributes
    ----------
    target : Path
        File that the executed notebook is written to.
    source : nbformat.NotebookNode
        The notebook as it was when the run was planned, without outputs; it may be edited while a sweep runs.
    digest : str
        Of its code, as `code_digest` gives it.
    state : {"to do", "finished", "changed"}
        What the target says: "changed" if it holds a run of the notebook as it was before.
    """

    target: Path = None
    source: nbformat.NotebookNode = None
    digest: str = ""
    state: str = "to do"

    @property
    def name(self):
        return self.target.stem

    @property
    def failed_target(self):
        return self.target.with_suffix(".failed.ipynb")

    @property
    def identity(self):
        """What the metadata of the executed notebook says of the run."""
        return {"notebook": self.notebook.stem, "code": self.digest, "parameters": self.parameters}


def expand(settings):
    """All combinations of parameters, some of which have a list of values.

    Parameters
    ----------
    settings : dict
        By name a value, or a list of values.

    Returns
    -------
    list of dict
        The last name changes fastest.
    """
    values = [value if isinstance(value, list) else [value] for value in settings.values()]
    return [dict(zip(settings, chosen, strict=True)) for chosen in itertools.product(*values)]


def plan(parameter_sets, output):
    """The runs of a sweep, and which of them a folder holds already.

    Parameters
    ----------
    parameter_sets : dict of Path to list of dict
        By notebook, the parameters that each of its runs changes. Sets that occur twice are run once.
    output : path-like
        Folder of the executed notebooks; it need not exist yet.

    Returns
    -------
    list of Run
        Those expected to take longest come first.

    Raises
    ------
    course.UsageError
        If a parameter is refused, or two notebooks have the same name.
    """
    output, runs = Path(output), {}
    for path, sets in parameter_sets.items():
        course.validate(path, *sets)
        source = course.read(path)
        for cell in execution.code_cells(source):
            cell.outputs, cell.execution_count = [], None
        digest = code_digest(source)
        rules = course.read_rules(path) if any(sets) else {}
        stated = course.minutes(source)[1] * 60 if not any(sets) else 0
        for parameters in sets:
            ordered = {name: _as(rules[name], parameters[name]) for name in rules if name in parameters}
            target = output / f"{run_name(path.stem, ordered)}.ipynb"
            if target in runs and runs[target].notebook != path:
                raise course.UsageError(
                    f"two notebooks are named {path.stem}; sweep them to different folders"
                )
            expected = stated or course.UNKNOWN_SECONDS
            runs[target] = Run(path, ordered, expected, target=target, source=source, digest=digest)
    for run in runs.values():
        kept = _metadata(run.target)
        if kept is not None:
            run.state = "finished" if run.identity.items() <= kept.items() else "changed"
            run.seconds = kept.get("seconds", 0.0) if run.state == "finished" else None
    _estimate(runs.values())
    return sorted(runs.values(), key=lambda run: run.expected_seconds, reverse=True)


def _as(rule, value):
    """A whole number where the rule asks for any is the same value with a point: one run, one name."""
    return float(value) if rule is not bool and rule[0] is float else value


def run_name(stem, parameters):
    """File name, without ending, of a run: the notebook and its changed parameters, safe on any file system.

    Where the text had to be changed or cut, ten digits of its SHA-256 stand at the end.
    """
    text = ",".join([stem, *(f"{name}={value}" for name, value in parameters.items())])
    safe = re.sub(r"[^\w.,=+-]", "_", text, flags=re.ASCII)[:LONGEST_NAME]
    return safe if safe == text else f"{safe},{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def code_digest(node):
    """SHA-256 of the sources of a notebook's code cells; prose and outputs may change without repeating runs."""
    sources = [cell.source for cell in execution.code_cells(node)]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def sweep(runs, *, jobs=2, timeout=1800, cluster=None):
    """Execute the runs that are not finished, several at a time, each on one thread.

    A run that fails is kept as ``NAME.failed.ipynb``, and the others go on. Files are written whole or not at all.

    Parameters
    ----------
    runs : list of Run
        As `plan` gives them; what becomes of them is noted in them.
    jobs : int
        Processes on this machine.
    timeout : int
        Seconds that one cell may take.
    cluster : str, optional
        Address of a Dask scheduler whose workers take the place of processes here.

    Raises
    ------
    course.RunError
        If the folder cannot be written to, the scheduler does not answer or goes away, or workers are killed again
        and again. Finished runs stay.
    KeyboardInterrupt
        If interrupted: finished runs stay.
    """
    todo = [run for run in runs if run.state != "finished"]
    for folder in {run.target.parent for run in todo}:
        course.make_writable(folder)
    if not cluster:
        course.fetch_data(todo)
    progress, losses = course.Progress(todo), 0
    with course.terminate_as_interrupt():
        while todo:
            with _cluster(cluster) if cluster else _processes(min(jobs, len(todo))) as workers:
                lost = _execute(todo, workers, timeout, progress)
            losses = losses + 1 if len(lost) == len(todo) else 0
            if losses == _LOSSES:
                raise course.RunError(
                    f"workers were killed {_LOSSES} times before any run ended (out of memory?); "
                    "finished runs are kept; try fewer at a time with --jobs"
                )
            todo = lost


def _execute(todo, workers, timeout, progress):
    """Execute runs and write them; return those whose worker process was killed."""
    futures, lost = {}, []
    try:
        for run in todo:
            futures[workers.submit(execution.execute_text, _text(run), timeout)] = run
        while futures:
            done, _ = wait(futures, timeout=1.0, return_when="FIRST_COMPLETED")
            for future in done:
                run = futures.pop(future)
                if future.cancelled():
                    raise course.RunError(_GONE)
                failure = future.exception()
                if isinstance(failure, BrokenProcessPool):  # each future of the pool says so
                    lost.append(run)
                    continue
                if failure:  # the worker could not even try, or the scheduler gave the run up
                    run.error, run.seconds = f"{type(failure).__name__}: {failure}", run.elapsed
                else:
                    text, run.error, run.seconds = future.result()
                    _write(run, text)
                course.say_done(run)
            _estimate(progress.queue)
            n_workers = workers.count()
            for run in list(futures.values())[:n_workers]:  # they are taken up in this order
                run.started = run.started or time.monotonic()
            progress.show(n_workers)
    finally:
        for future in futures:
            future.cancel()
    return lost


@dataclass
class _Workers:
    """What executes runs: a function as `concurrent.futures.Executor.submit`, and one that counts workers."""

    submit: Callable
    count: Callable


@contextlib.contextmanager
def _processes(jobs):
    """Worker processes on this machine."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by workers and kernels
    pool = ProcessPoolExecutor(jobs, initializer=execution.follow, initargs=(os.getpid(),))
    try:
        yield _Workers(pool.submit, lambda: jobs)
    finally:
        pool.shutdown(kill_workers=True)


@contextlib.contextmanager
def _cluster(address):
    """The workers of a Dask scheduler that runs already."""
    try:
        import distributed
    except ImportError:
        raise course.RunError(
            "--cluster needs Dask, which is not installed: pip install 'labutils[cluster]'"
        ) from None
    logging.disable()  # Dask logs a traceback for each lost connection; what matters is said in a sentence
    client = None
    try:
        client = distributed.Client(address, timeout=ANSWER_SECONDS, set_as_default=False)
        yield _Workers(client.get_executor(pure=False).submit, lambda: _count_threads(client))
    except (OSError, ValueError) as error:
        if client is not None:
            raise
        hint = "an address looks like tcp://host:8786"
        raise course.RunError(
            f"no Dask scheduler answers at {address} ({type(error).__name__}); {hint}"
        ) from None
    finally:
        if client is not None:
            client.close()
        logging.disable(logging.NOTSET)


def _count_threads(client):
    if client.status == "closed":
        raise course.RunError(_GONE)
    try:
        return sum(client.nthreads().values())
    except OSError:  # no connection just now
        return 0


def _write(run, text):
    kept, stale = (run.failed_target, run.target) if run.error else (run.target, run.failed_target)
    course.write(kept, text)
    stale.unlink(missing_ok=True)


def _text(run):
    """The notebook with its parameters and without old outputs, to be sent to a worker."""
    node = course.with_parameters(run.source, run.parameters)
    node.metadata[execution.METADATA] = run.identity
    return nbformat.writes(node)


def _metadata(target):
    """What an executed notebook says of its run; None if there is no such file, or it is not ours."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return dict(json.loads(target.read_text(encoding="utf-8"))["metadata"][execution.METADATA])
    return None


def _estimate(runs):
    """Expect of each run the mean time of those of the same notebook that have ended."""
    for notebook in {run.notebook for run in runs}:
        seconds = [
            r.seconds for r in runs if r.notebook == notebook and r.seconds is not None and not r.error
        ]
        for run in runs:
            if seconds and run.notebook == notebook and run.seconds is None:
                run.expected_seconds = sum(seconds) / len(seconds)
