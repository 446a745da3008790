"""Time sweeps of a tiny notebook: what a run costs beyond its own work, and one worker against two.

Run it from the repository root, on a machine with nothing else to do::

    python tests/benchmarks/sweep_scaling.py
    python tests/benchmarks/sweep_scaling.py --runs 4 --seconds 1    # a quick try

The notebook waits (--work sleep) or computes on one thread (--work cpu) for a fixed number of seconds, and imports
nothing. It is swept in two ways, each with one worker and with two, all on this machine:

loky
    `labutils.sweeps.sweep` on processes of this machine, the start of the processes included.
dask
    The same on a Dask scheduler and workers that run already.

and, as the floor, one run after the other in this process, without a sweep. Overhead is the time of a run, on the
worker that executes it, beyond the notebook's own seconds: nearly all of it is the start and end of a kernel.

The exit status is 0 whatever comes out: this is a measurement, not a test.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat

from labutils import execution, sweeps

WORK = {
    "sleep": "import time\n\ntime.sleep(seconds)",
    "cpu": "import time\n\nwhile time.process_time() < seconds:\n    sum(range(10_000))",
}


def make_notebook(path, work, seconds):
    check = "def check_parameters(**rules):\n    pass\n\n\ncheck_parameters(seed=(int, 0, 1000), seconds=(float, 0, 60))"
    parameters = nbformat.v4.new_code_cell(
        f"seed: int = 0  # of nothing\nseconds: float = {seconds}  # of work",
        metadata={"tags": ["parameters"]},
    )
    cells = [parameters, *map(nbformat.v4.new_code_cell, (check, WORK[work]))]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)


def time_sweep(notebook, n_runs, **settings):
    """Wall time of a sweep into an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        runs = sweeps.plan({notebook: sweeps.expand({"seed": list(range(n_runs))})}, folder)
        start = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):
            sweeps.sweep(runs, **settings)
        seconds = time.perf_counter() - start
    if any(run.error for run in runs):
        raise SystemExit(f"a run failed: {runs[0].error}")
    return seconds


@contextlib.contextmanager
def dask(n_workers):
    """Address of a scheduler on loopback, all of whose workers are there."""
    import distributed

    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        file = Path(folder) / "scheduler.json"
        local = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
        worker = ["worker", *local, "--nthreads", "1", "--no-nanny"]
        for role, *arguments in [["scheduler", *local, "--port", "0"], *[worker] * n_workers]:
            command = [sys.executable, "-m", f"distributed.cli.dask_{role}", *arguments]
            process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
        while not file.exists():
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        with distributed.Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(n_workers)
            client.run(__import__, "labutils.execution")
        yield address


def measure(n_runs, work, seconds):
    """The whole measurement, as a dict that can be written as JSON."""
    wall = {}
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        notebook = Path(folder) / "tiny.ipynb"
        make_notebook(notebook, work, seconds)
        text = notebook.read_text(encoding="utf-8")
        start = time.perf_counter()
        for _ in range(n_runs):
            execution.execute_text(text, 600)
        wall["no sweep, 1"] = time.perf_counter() - start
        for n_workers in (1, 2):
            wall[f"loky, {n_workers}"] = time_sweep(notebook, n_runs, jobs=n_workers)
            with dask(n_workers) as address:
                wall[f"dask, {n_workers}"] = time_sweep(notebook, n_runs, cluster=address)
    return {
        "settings": {"runs": n_runs, "work": work, "seconds": seconds},
        "wall_seconds": wall,
        "overhead_seconds": {way: t * int(way[-1]) / n_runs - seconds for way, t in wall.items()},
        "speedup": {way: wall[f"{way}, 1"] / wall[f"{way}, 2"] for way in ("loky", "dask")},
        "load_average_at_start": load,
        "cores": os.cpu_count(),
    }


def report(result):
    settings = result["settings"]
    lines = [
        f"{settings['runs']} runs of {settings['seconds']:g} s ({settings['work']}), {result['cores']} cores"
    ]
    lines += [f"{'way, workers':16}{'wall':>8}{'overhead a run':>18}"]
    for way, wall in result["wall_seconds"].items():
        lines.append(f"{way:16}{wall:6.1f} s{result['overhead_seconds'][way]:16.2f} s")
    lines += [
        f"{way}: two workers {factor:.2f} times as fast as one" for way, factor in result["speedup"].items()
    ]
    lines += [f"Load average of the last minute at the start: {result['load_average_at_start']:.2f}"]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10, help="runs a sweep (default %(default)s)")
    parser.add_argument("--work", choices=WORK, default="sleep", help="default %(default)s")
    parser.add_argument("--seconds", type=float, default=2.0, help="of work in a run (default %(default)s)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("build/benchmarks/sweep_scaling.json"),
        help="file for the result, as JSON (default %(default)s)",
    )
    arguments = parser.parse_args()
    if arguments.runs < 2 or arguments.seconds < 0:
        parser.error("--runs must be at least 2, and --seconds not negative")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    result = measure(arguments.runs, arguments.work, arguments.seconds)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"\n{report(result)}\nwritten: {arguments.output}")


if __name__ == "__main__":
    main()
