"""What is made of the records of executed notebooks: a table, a summary, a plot with intervals."""

import io
import json
import math
import os
import re
import warnings
from pathlib import Path

import pandas as pd

from labutils.conventions import METADATA
from labutils.course.notebook import read, recorded
from labutils.errors import NotebookError, RunError, UsageError
from labutils.rules import check_name

TABLES = (".csv", ".parquet")
FIGURES = (".png", ".pdf", ".svg")
CONFIDENCE = 0.95
MOST_LINES, MOST_WORDS = 30, 60  # that a figure can show
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}  # how lesson.record writes them
_LARGEST_NUMBER = 1e300  # beyond it, whole numbers are no numbers to compute with
_LARGEST = 2**63  # whole numbers that a column of numbers can hold are below


def executed(folder, failed=False):
    """The notebooks in a folder, and in those below it, that ran to their end, or that failed, in order.

    Folders whose name begins with a dot are left out, and so is a failed run that has succeeded since.

    Parameters
    ----------
    folder : path-like
    failed : bool

    Returns
    -------
    list of Path
    """
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(place) / name for name in names if name.endswith(".ipynb") and not name.startswith(".")
        ]
    ended = {path for path in found if not path.stem.endswith(".failed")}
    kept = ended
    if failed:
        kept = {
            p for p in found if p not in ended and p.with_name(p.name.replace(".failed", "")) not in ended
        }
    return sorted(kept, key=lambda p: [int(n) if n.isdecimal() else n for n in re.split(r"(\d+)", str(p))])


def collect(folder, only=None):
    """Read the records of a folder of executed notebooks, and of the folders in it, into one frame.

    Parameters
    ----------
    folder : path-like
    only : list of Path, optional
        Notebooks in it; all that `executed` finds, if not given.

    Returns
    -------
    pandas.DataFrame
        One row a record: the notebook and the file, its parameters, its results, and where they come from.
        The names of the parameters and of the results are in ``attrs["parameters"]`` and ``attrs["results"]``,
        a line for each file that could not be read in ``attrs["problems"]``, and in ``attrs["not_finite"]`` how many
        values of each result are nan or infinite.
    """
    runs, problems = [], []
    for path in executed(folder) if only is None else only:
        try:
            node = read(path)
        except NotebookError as error:
            problems.append(str(error))
            continue
        of_run = node.metadata.get(METADATA)
        of_run = of_run if isinstance(of_run, dict) else {}
        name = of_run.get("notebook")
        run = {
            "notebook": name if isinstance(name, str) else path.stem,
            "file": path.relative_to(folder).as_posix(),
        }
        if isinstance(of_run.get("seconds"), int | float):
            run["run_seconds"] = of_run["seconds"]
        runs += [(run, content) for content in recorded(node)]
    frame = as_frame(runs)
    frame.attrs["problems"] = problems
    return frame


def as_frame(runs):
    """Records as a frame.

    Parameters
    ----------
    runs : list of (dict, dict)
        What is known of each run (``notebook``, ``file``, ``run_seconds``), and what one of its records holds.

    Returns
    -------
    pandas.DataFrame
        As `collect` returns it.
    """
    rows, names, results, not_finite = [], {}, {}, {}
    for run, content in runs:
        origin = dict(content["provenance"])
        versions = " ".join(f"{name}={version}" for name, version in origin.pop("versions", {}).items())
        rows.append({**origin, "versions": versions, **content["parameters"], **content["results"], **run})
        names |= content["parameters"]
        results |= content["results"] | ({"run_seconds": 0} if "run_seconds" in run else {})
        for name, value in content["results"].items():
            not_finite[name] = not_finite.get(name, 0) + (isinstance(value, str) and value in _NOT_FINITE)
    columns = dict.fromkeys(["notebook", "file", *names, *results, *(name for row in rows for name in row)])
    frame = pd.DataFrame(
        {name: _column([row.get(name) for row in rows], name in results) for name in columns}
    )
    frame.attrs = {
        "parameters": list(names),
        "results": list(results),
        "not_finite": not_finite,
        "problems": [],
    }
    return frame


def _column(values, is_result):
    """Values of one name as a column that keeps what they are: numbers numbers, true and false those.

    A result may be a number that is not finite, which stands in the record by its name.
    """
    given = [value for value in values if value is not None]
    if given and all(isinstance(value, bool) for value in given):
        return pd.array(values, dtype="boolean" if len(given) < len(values) else "bool")
    if given and all(isinstance(v, int) and not isinstance(v, bool) and abs(v) < _LARGEST for v in given):
        return pd.array(values, dtype="Int64" if len(given) < len(values) else "int64")
    if given and all(_is_number(value, is_result) for value in given):
        if any(isinstance(value, int) and abs(value) > 2**53 for value in given):
            return pd.Series(values, dtype=object)  # else digits would be lost
        return pd.Series([_NOT_FINITE.get(v, v) if isinstance(v, str) else v for v in values], dtype=float)
    return pd.Series(values, dtype=object)


def _is_number(value, may_be_named=False):
    if isinstance(value, str):
        return may_be_named and value in _NOT_FINITE
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST_NUMBER


def table(frame, kind):
    """A frame of records as the content of a file.

    Parameters
    ----------
    frame : pandas.DataFrame
        As `collect` returns it.
    kind : {".csv", ".parquet"}
        In Parquet, a column that mixes types holds them as JSON text.

    Returns
    -------
    str or bytes

    Raises
    ------
    UsageError
        If the kind is another.
    RunError
        If the package that writes Parquet is missing.
    """
    _check_kind("table", kind, TABLES)
    if kind == ".csv":
        return frame.to_csv(index=False)
    try:
        import pyarrow
    except ImportError:
        raise RunError("a Parquet table needs the package pyarrow: pip install -e '.[parquet]'") from None

    def is_mixed(column):
        try:
            pyarrow.array(column, from_pandas=True)
        except (pyarrow.ArrowException, OverflowError):
            return True
        return column.dropna().map(type).nunique() > 1

    mixed = [name for name in frame if is_mixed(frame[name])]
    frame = frame.assign(**{name: frame[name].map(json.dumps, na_action="ignore") for name in mixed})
    return frame.to_parquet(index=False, engine="pyarrow")


def summary(frame, n_failed=0):
    """What a frame of records holds, in a few lines."""
    n_files = frame["file"].nunique()
    failed = f"; {n_failed} failed {'run' if n_failed == 1 else 'runs'} left out" if n_failed else ""
    lines = [f"{len(frame)} records of {n_files} executed notebooks{failed}"]
    for notebook, part in frame.groupby("notebook"):
        lines.append(f"{notebook}: {part['file'].nunique()} executed, {len(part)} records")
        varied = {name: _distinct(part[name]) for name in frame.attrs["parameters"]}
        lines += [
            f"  parameter {name}: {', '.join(map(str, values[:8]))}{', ...' if len(values) > 8 else ''}"
            for name, values in varied.items()
            if len(values) > 1
        ]
        for name in frame.attrs["results"]:
            values = part[name].dropna()
            if _holds_numbers(values) and len(values):
                values = values.astype(float)
                mean = values.mean() if values.map(math.isfinite).all() else math.nan
                lines.append(f"  record {name}: {values.min():.6g} to {values.max():.6g}, mean {mean:.6g}")
    return "\n".join(lines)


def plot(frame, x, y, by=None, kind=".png"):
    """Plot the mean of a record against a parameter, with Student's 95 % confidence interval of each mean.

    Parameters
    ----------
    frame : pandas.DataFrame
        As `collect` returns it.
    x, by : str
        Parameter or record along the x-axis, and one that gets a line for each of its values.
    y : str
        Record of numbers.
    kind : {".png", ".pdf", ".svg"}

    Returns
    -------
    bytes
        The figure's file.
    str
        The means and intervals that it shows, as text, and what they are taken over.

    Raises
    ------
    UsageError
        If there is no such column, it cannot be plotted, or the kind is another.
    """
    _check_kind("figure", kind, FIGURES)
    table, what = means(frame, x, y, by)
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of letters that the font lacks: boxes stand for them
        _draw(table, x, y, by, what).savefig(file, format=kind[1:], dpi=150)
    shown = pd.DataFrame(
        {
            **({by: table["by"]} if by else {}),
            x: table["x"],
            "mean": table["mean"].map("{:.4g}".format),
            "interval": [f"± {half:.3g}" if math.isfinite(half) else "" for half in table["half"]],
            "records": table["n"],
        }
    )
    return file.getvalue(), f"{shown.to_string(index=False)}\n{y}: {what}"


def means(frame, x, y, by=None):
    """The points of a plot: means of a record, and half the width of their 95 % confidence intervals.

    Parameters
    ----------
    frame, x, y, by
        As for `plot`.

    Returns
    -------
    pandas.DataFrame
        A row a point, with ``by``, ``x``, ``mean``, ``half`` (nan for a single record) and ``n``.
    str
        What a point and its interval are, in words.

    Raises
    ------
    UsageError
        As for `plot`.
    """
    groups = [by, x] if by else [x]
    if by == x:
        raise UsageError(f"-x and --by name the same, {x}")
    for name in (*groups, y):
        _check_column(frame, name)
    for name, most in ((by, MOST_LINES), (x, math.inf if _holds_numbers(frame[x]) else MOST_WORDS)):
        if name and len(_distinct(frame[name])) > most:
            raise UsageError(f"{name} has {len(_distinct(frame[name]))} values; a figure can show {most}")
    if not _holds_numbers(frame[y]):
        raise UsageError(f"{y} holds no numbers, so it cannot be plotted along y")
    from scipy import stats  # slow to import

    is_finite = frame[y].map(lambda value: not pd.isna(value) and math.isfinite(value)).astype(bool)
    rows = frame[is_finite & frame[groups].notna().all(axis=1)]
    if rows.empty:
        raise UsageError(f"no record has {' and '.join([*groups, y])} at once, as finite numbers")
    columns = {name: frame_column.tolist() for name, frame_column in rows.items()}
    of_point = {}
    for number, value in enumerate(columns[y]):
        key = _key(columns[by][number]) if by else None, _key(columns[x][number])
        of_point.setdefault(key, []).append((number, float(value)))
    points = []
    for line in _distinct(rows[by]) if by else [None]:
        for place in _distinct(rows[x]):
            found = of_point.get((_key(line) if by else None, _key(place)), [])
            values = pd.Series([value for _, value in found], dtype=float)
            if found:
                largest = float(values.abs().max()) or 1.0  # as a unit, so that no square is too large
                mean, sd = float((values / largest).mean()), float((values / largest).std())
                factor = float(stats.t.ppf((1 + CONFIDENCE) / 2, max(len(found) - 1, 1)))
                half = factor * sd / len(found) ** 0.5 * largest
                points.append({"by": line, "x": place, "mean": mean * largest, "half": half, "n": len(found)})
    what = _what_is_shown(columns, rows.attrs, groups, list(of_point.values()))
    n_left_out = frame.attrs["not_finite"].get(y, 0)
    if n_left_out:
        are = "record is" if n_left_out == 1 else "records are"
        what += f"\n{n_left_out} {are} left out: {y} is not finite there"
    return pd.DataFrame(points).astype({"by": object}), what


def _key(value):
    """Text that two values have in common if, and only if, they are the same."""
    return json.dumps(value, default=str)


def _draw(table, x, y, by, what):
    import matplotlib
    from matplotlib.figure import Figure

    from labutils.lesson import STYLE

    with matplotlib.rc_context({**STYLE, "text.parse_math": False}):  # a name may hold a dollar sign
        figure = Figure(figsize=(6.4, 4.4))
        ax = figure.subplots()
        is_number = _holds_numbers(table["x"])
        ticks = {_key(value): place for place, value in enumerate(_distinct(table["x"]))}
        for line in _distinct(table["by"]) if by else [None]:
            part = table[table["by"].map(_key) == _key(line)] if by else table
            places = part["x"].astype(float) if is_number else part["x"].map(_key).map(ticks)
            label = f"{by} = {line}" if by else None
            ax.errorbar(places, part["mean"], yerr=part["half"].fillna(0), capsize=4, label=label)
        if not is_number:
            ax.set_xticks(list(ticks.values()), [str(value) for value in _distinct(table["x"])])
        ax.set(xlabel=x, ylabel=y)
        ax.set_title(what, fontsize=9)
        if by:
            ax.legend()
    return figure


def _what_is_shown(columns, attrs, groups, points):
    """What a point and its interval are, in words."""
    counts = [len(found) for found in points]

    def varies(name):
        """Whether a column has several values in one point."""
        values = [{_key(columns[name][number]) for number, _ in found} for found in points]
        return max(map(len, values)) > 1

    if max(counts) == 1:
        return "one record a point"
    n = str(max(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    what = f"mean and 95 % confidence interval (Student's t)\nof {n} records a point"
    over = [name for name in attrs["parameters"] if name not in groups and varies(name)]
    what += f", over {', '.join(over)}" if over else ""
    files = [[columns["file"][number] for number, _ in found] for found in points]
    if any(len(set(names)) < len(names) for names in files):
        words = [name for name in attrs["results"] if all(isinstance(v, str) for v in columns[name])]
        per_file = {name: {} for name in words}
        for name in words:
            for file, value in zip(columns["file"], columns[name], strict=True):
                per_file[name].setdefault(file, set()).add(value)
        hint = [name for name in words if max(map(len, per_file[name].values())) > 1]
        what += "; several records of a run are pooled" + (f" (see --by {hint[0]})" if hint else "")
    return what


def _check_kind(what, kind, allowed):
    if kind not in allowed:
        raise UsageError(f"a {what} is written to a file that ends in {', '.join(allowed)}, got {kind!r}")


def _check_column(frame, name):
    names = [*frame.attrs["parameters"], *frame.attrs["results"], "notebook"]
    try:
        check_name(name, names, "parameter or record")
    except ValueError as error:
        raise UsageError(error) from None
    if frame[name].map(lambda value: isinstance(value, list | dict)).any():
        raise UsageError(f"{name} holds lists, so it cannot be plotted")


def _holds_numbers(values):
    if pd.api.types.is_object_dtype(values):
        return bool(len(values.dropna())) and all(map(_is_number, values.dropna()))
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _distinct(values):
    """The different values of a column, in order; those that cannot be compared in the order of their text."""
    different = {_key(value): value for value in values.dropna().tolist()}
    try:
        return sorted(different.values())
    except TypeError:
        return [different[text] for text in sorted(different)]
