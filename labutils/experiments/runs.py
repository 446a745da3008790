"""What every declared training run has in common: its row in a table, and how a table is read back as runs."""

import time
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import ClassVar

import pandas as pd

from labutils import lesson, training
from labutils.errors import UsageError

RESULTS = Path(__file__).parents[2] / "notebooks" / "results"
_FEW, _MORE = 3, 23  # iterations of the two short runs behind an estimate


class Run:
    """Base of the declared runs: each kind is a frozen dataclass of settings, among them those below.

    Attributes
    ----------
    model : str
    seed : int
        Of everything that is drawn.
    n_iters : int
        Updates of the parameters, at most.
    """

    WORDS: ClassVar = {}  # names of settings, and what they may be

    def measure(self, device="auto"):
        """Train, and give the measured columns of the row, by name; the first is said while a table is filled."""
        raise NotImplementedError

    def work(self):
        """How long the run takes, in a unit of its model's: enough to start the longest first."""
        return self.n_iters


def row(run, device="auto"):
    """Train one run, and give its row of the table: settings, measurements, provenance.

    Parameters
    ----------
    run : Run
    device : str
        As for `training.pick_device`.

    Returns
    -------
    dict
        After the settings and what `Run.measure` gives: ``cpu_seconds``, the time that the processor worked, which
        other work on the machine changes less than the wall time; ``device``; and `lesson.provenance`.
    """
    start = time.process_time()
    measured = run.measure(device)
    origin = lesson.provenance()
    versions = " ".join(f"{name}={version}" for name, version in origin.pop("versions").items())
    return {
        **asdict(run),
        **measured,
        "cpu_seconds": round(time.process_time() - start, 2),
        "device": str(training.pick_device(device)),
        **origin,
        "versions": versions,
    }


def read_table(table):
    """A table of runs as a frame; an empty one if there is no such file.

    Parameters
    ----------
    table : path-like
        A CSV file, or the name of an experiment whose table lies among the lessons' results.

    Raises
    ------
    UsageError
        If the file is no table; the message names it.
    """
    table = RESULTS / f"{table}.csv" if isinstance(table, str) and table.isidentifier() else Path(table)
    if not table.exists():
        return pd.DataFrame()
    try:
        frame = pd.read_csv(table)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:120]
        raise UsageError(f"{table} cannot be read as a table of runs ({reason})") from None
    frame.attrs["name"] = str(table)
    return frame


def runs_of(frame, kind):
    """The run of each row of a table.

    Parameters
    ----------
    frame : pandas.DataFrame
        As `read_table` gives it.
    kind : type
        The `Run` whose settings the rows hold. Settings that have a default may be missing from an older table.

    Raises
    ------
    UsageError
        If the frame lacks a setting that has no default, or holds a word that is none of the setting's.
    """
    if frame.columns.empty:  # there is no file yet
        return []
    name = frame.attrs.get("name", "the frame")
    missing = {field.name for field in fields(kind) if field.default is MISSING} - set(frame)
    if missing:
        raise UsageError(f"{name} is no table of runs: it has no column {', '.join(sorted(missing))}")
    for setting, words in kind.WORDS.items():
        unknown = set(frame[setting].astype(str)) - set(words)
        if unknown:
            raise UsageError(f"{name} has the {setting} {min(unknown)}; there are {', '.join(words)}")
    names = [field.name for field in fields(kind) if field.name in frame]
    settings = frame[names].astype(object).where(frame[names].notna(), None)
    return [
        kind(**{name: value for name, value in zip(names, values, strict=True) if value is not None})
        for values in settings.itertuples(index=False)
    ]


def estimate(runs, device="auto"):
    """Seconds that runs take, one after the other, from a few iterations of each model."""
    examples = {run.model: replace(run, seed=0) for run in runs}
    seconds = {}
    for model, example in examples.items():
        few, more = (replace(example, n_iters=n_iters) for n_iters in (_FEW, _MORE))
        took = []
        for run in (few, more):
            start = time.perf_counter()
            run.measure(device)
            took.append(time.perf_counter() - start)
        # the few iterations are little more than loading the data and one evaluation
        seconds[model] = max(0.0, took[1] - took[0]) / (more.work() - few.work())
    return sum(seconds[run.model] * run.work() for run in runs)
