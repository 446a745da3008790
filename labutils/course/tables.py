"""Tables of training runs, filled by training what they lack; they can be stopped at any time and taken up again."""

import io
import time
from dataclasses import fields
from pathlib import Path

import joblib
import pandas as pd

from labutils.course import files
from labutils.course.jobs import interruptible
from labutils.experiments import estimate, read_table, row, runs_of
from labutils.rules import check_counts


def fill(runs, table, *, n_jobs=2, device="auto"):
    """Train the runs that a table lacks, several at a time, one thread each, and add a row for each.

    Parameters
    ----------
    runs : list of labutils.experiments.Run
        All of one kind.
    table : path-like
        CSV file; replaced whole after each run, with the rows that are there then, whoever added them.
    n_jobs : int
        Processes.
    device : str
        As for `labutils.training.pick_device`.

    Returns
    -------
    pandas.DataFrame
        The table.

    Raises
    ------
    ValueError
        If `n_jobs` is not a positive integer or the device is not there.
    UsageError
        If the file is no table of runs.
    DataError
        If the whole data set cannot be had: its bundled subset does not stand in here.
    RunError
        If the table cannot be written.
    """
    check_counts(n_jobs=n_jobs)
    table = Path(table)
    files.refuse_unwritable(table.parent)
    kind = type(runs[0])
    done = set(runs_of(read_table(table), kind))
    todo = [run for run in runs if run not in done]
    print(f"{len(runs) - len(todo)} of {len(runs)} runs are in {table.name} already")
    if not todo:
        return read_table(table)
    minutes = max(1, round(estimate(todo, device) / n_jobs / 60))
    print(f"{len(todo)} to do, {n_jobs} at a time: about {minutes} minutes", flush=True)
    todo.sort(key=kind.work, reverse=True)  # the longest first, so that none is left at the end
    start = time.monotonic()
    with interruptible():
        rows = joblib.Parallel(n_jobs=n_jobs, return_as="generator_unordered")(
            joblib.delayed(row)(run, device) for run in todo
        )
        for number, result in enumerate(rows, start=1):
            _add(result, table, runs)
            minutes = (time.monotonic() - start) / 60
            print(f"[{minutes:5.1f} min] {number}/{len(todo)} {_in_words(result, kind)}", flush=True)
    return read_table(table)


def _in_words(result, kind):
    """The settings of a row that differ from their defaults, and its first measurement."""
    settings = {field.name: field.default for field in fields(kind)}
    changed = [f"{name}={result[name]}" for name, default in settings.items() if result[name] != default]
    measured = next(name for name in result if name not in settings)
    return f"{' '.join(changed)}: {measured} {result[measured]:.4g}"


def _add(result, table, runs):
    """Add a row to a table, unless somebody else has added that run meanwhile."""
    with files.locked(table.parent):
        kind = type(runs[0])
        there = runs_of(read_table(table), kind)
        row_text = pd.DataFrame([result]).to_csv(index=False)
        new = _as_text(io.StringIO(row_text))
        (run,) = runs_of(pd.read_csv(io.StringIO(row_text)), kind)
        if run in there:
            return
        text = pd.concat([_as_text(table), new], ignore_index=True) if there else new
        place = {run: number for number, run in enumerate(runs)}
        order = [place.get(run, len(runs)) for run in [*there, run]]  # rows of other runs at the end
        text = text.fillna("").iloc[sorted(range(len(text)), key=order.__getitem__)]
        files.replace(table, text.to_csv(index=False))


def _as_text(table):
    """A table with each value as it is written."""
    return pd.read_csv(table, dtype=str, keep_default_na=False)
