"""Results of a lesson: bands that they must lie in, and records for the runner to collect."""

import json
import math
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from IPython.display import display

from labutils import __version__
from labutils.conventions import ORIGIN, RECORD_TYPE
from labutils.lesson import parameters


def record(**results):
    """Put results into the executed notebook, invisible on screen, for the runner to collect.

    Parameters, versions, git commit and hardware are added. Call it once for each row of the table that is
    to be collected.

    Parameters
    ----------
    **results
        Numbers, strings or lists of them; numpy's and torch's scalars are converted. A number that is not finite
        stands there by its name, since JSON has none, and becomes a number again in the table.

    Raises
    ------
    ValueError
        If a result has the name of a parameter, or of a column that the table adds.
    """
    values = parameters.values()
    for name in results:
        if name in values or name in ORIGIN:
            owner = "a parameter" if name in values else "what a record says of its origin"
            raise ValueError(f"{name} is the name of {owner}; record the result under another name")
    content = {"results": results, "parameters": values, "provenance": provenance()}
    content = json.loads(json.dumps(_plain(content), allow_nan=False))
    display({RECORD_TYPE: content}, raw=True)


def provenance():
    """Versions, git commit and hardware of this process, as a dict of plain values."""
    versions = {"python": platform.python_version(), "labutils": __version__}
    versions |= {"numpy": metadata.version("numpy"), "sklearn": metadata.version("scikit-learn")}
    torch, gpu = sys.modules.get("torch"), None
    if torch:
        versions["torch"] = str(torch.__version__)
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "versions": versions,
        "commit": _git_commit(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "gpu": gpu,
    }


def expect(name, value, *, at_least=-math.inf, at_most=math.inf, when=True):
    """Assert that a result lies in the band that several seeds gave, in runs that are long enough.

    Parameters
    ----------
    name : str
        What is asserted.
    value : float
    at_least, at_most : float
        The band, both ends included.
    when : bool
        Whether this run is the one that the band was measured for. If not, the line says so, and nothing
        is asserted.

    Raises
    ------
    AssertionError
        If the value lies outside the band.
    """
    if at_least == -math.inf and at_most == math.inf:
        raise ValueError(f"{name}: give at_least or at_most, or nothing is asserted")
    if at_most == math.inf:
        band = f"at least {at_least:g}"
    elif at_least == -math.inf:
        band = f"at most {at_most:g}"
    else:
        band = f"from {at_least:g} to {at_most:g}"
    if not when:
        print(f"{name}, expected {band}: not tested with these parameters")
        return
    if not at_least <= value <= at_most:
        raise AssertionError(f"{name} should be {band}, got {value:.6g}")
    print(f"{name}: {value:.4g}, expected {band}")


def _plain(value):
    """Convert to what JSON has; a number that is not finite becomes its name."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy's and torch's arrays and scalars
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _git_commit():
    """Commit of the working tree that this package lies in, with "+changes" if it has any; None without git."""
    folder = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+changes", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def _cpu_name():
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
