"""A job, its progress, its lines on the terminal, and its interruption."""

import contextlib
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nbformat

UNKNOWN_SECONDS = 20  # guess for a notebook of which nothing is known yet


@dataclass
class Job:
    """One notebook to execute at one set of parameters, and what has become of it so far.

    Attributes
    ----------
    notebook : Path
    parameters : dict
        Those that differ from the page.
    target : str
        Name of the file, in the output folder, that the executed notebook is written to.
    source : nbformat.NotebookNode
        The notebook as it was when the job was planned, without outputs; it may be edited while others run.
    digest : str
        Of its code, as `labutils.course.running.code_digest` gives it.
    state : {"to do", "finished", "changed"}
        What the target says: "changed" if it holds a run of the notebook as it was before, or on other data.
    """

    notebook: Path
    parameters: dict
    target: str
    source: nbformat.NotebookNode
    digest: str
    expected_seconds: float = UNKNOWN_SECONDS
    state: str = "to do"
    n_cells: int = 0
    cells_done: int | None = None  # None where workers are elsewhere and do not tell
    started: float | None = None
    seconds: float | None = None
    error: str | None = None

    @property
    def name(self):
        return Path(self.target).stem

    @property
    def failed_target(self):
        return f"{self.target.removesuffix('.ipynb')}.failed.ipynb"

    @property
    def identity(self):
        """What the metadata of the executed notebook says of the job."""
        return {"notebook": self.notebook.stem, "code": self.digest, "parameters": self.parameters}

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


class Progress:
    """Shows the state of jobs: on a terminal in one line that is rewritten, else in a line now and then."""

    def __init__(self, jobs):
        self.jobs = jobs
        self.start, self.reported = time.monotonic(), 0.0

    def show(self, n_workers):
        """Show the state, if it is time to, where so many jobs can run side by side."""
        terminal = sys.stdout.isatty()
        elapsed = time.monotonic() - self.start
        if terminal or elapsed - self.reported >= 15:
            self.reported = elapsed
            line = _status(self.jobs, n_workers, elapsed)
            width = _width()
            line = f"\r{line[:width]:<{width}}" if terminal else line
            print(line, end="" if terminal else "\n", flush=True)


def say_done(job):
    """Say in one line how a job ended."""
    say(f"{job.name}: {'FAILED' if job.error else 'done'} in {_clock(job.seconds)}")


def say(line):
    """Print a line, over that of `Progress` on a terminal."""
    print(f"\r{line:<{_width()}}" if sys.stdout.isatty() else line, flush=True)


def _width():
    """Characters of a line that the terminal does not wrap."""
    return max(20, shutil.get_terminal_size().columns - 1)


@contextlib.contextmanager
def interruptible():
    """Within it, SIGTERM interrupts as Ctrl-C does, and a second Ctrl-C does not disturb the tidying up."""

    def interrupt(*_):
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _status(jobs, n_workers, elapsed):
    running = [job for job in jobs if job.started is not None and job.seconds is None]
    states = "; ".join(
        f"{job.name} cell {min(job.cells_done + 1, job.n_cells)} of {job.n_cells}"
        for job in running
        if job.cells_done is not None
    )
    left = [job.seconds_left for job in jobs]
    done = sum(job.seconds is not None for job in jobs)
    failed = sum(job.error is not None for job in jobs)
    so_far = f"{done} of {len(jobs)} done" + (f", {failed} of them failed" if failed else "")
    if not n_workers:
        return f"[{_clock(elapsed)}] {so_far}, waiting for a worker"
    remaining = max(max(left, default=0), sum(left) / n_workers)
    return " ".join(
        filter(None, [f"[{_clock(elapsed)}]", states, f"({so_far}, about {_clock(remaining)} left)"])
    )


def _clock(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
