"""Executing one notebook in a kernel of its own: what a worker of a sweep needs, and nothing that is slow to import."""

import asyncio
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from labutils import NOTEBOOKS

METADATA = "labutils"  # key of the metadata in which a swept notebook says what it is a run of
_WIDGET_TYPE = "application/vnd.jupyter.widget-view+json"


async def execute(node, timeout, on_cell=None):
    """Execute a notebook in place, in the folder of the notebooks.

    Parameters
    ----------
    node : nbformat.NotebookNode
    timeout : int
        Seconds that one cell may take.
    on_cell : callable, optional
        Called without arguments after each code cell.

    Returns
    -------
    str or None
        The failing cell and what was wrong with it; None if the notebook ran to its end.

    Raises
    ------
    asyncio.CancelledError
        If interrupted; the kernel is shut down.
    """
    n_cells, n_done = len(list(code_cells(node))), 0

    def count(**_):
        nonlocal n_done
        n_done += 1
        if on_cell:
            on_cell()

    client = NotebookClient(
        node,
        timeout=timeout,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(NOTEBOOKS)}},
        on_cell_executed=count,
    )
    error = None
    try:
        await client.async_execute(stderr=subprocess.DEVNULL)
    except CellExecutionError as failure:
        error = f"cell {n_done} of {n_cells}: {failure.ename}: {failure.evalue}"
    except CellTimeoutError:
        error = f"cell {n_done + 1} of {n_cells} took longer than {timeout} s"
    except DeadKernelError:
        if asyncio.current_task().cancelling():  # nbclient reports an interrupt as a dead kernel
            raise asyncio.CancelledError from None
        error = f"the kernel died in cell {n_done + 1} of {n_cells} (out of memory?)"
    _drop_sliders(node)
    return error


def execute_text(text, timeout):
    """Execute a notebook that came as text, in a worker, and give it back as text.

    Returns
    -------
    text : str
        The executed notebook; how many seconds it took is in its metadata.
    error : str or None
        As for `execute`.
    seconds : float
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by the kernel
    node = nbformat.reads(text, as_version=4)
    start = time.monotonic()
    # Not in the main thread, where nbclient would replace the handler of Ctrl-C by its own.
    with ThreadPoolExecutor(1) as pool:
        error = pool.submit(asyncio.run, execute(node, timeout)).result()
    seconds = time.monotonic() - start
    node.metadata.setdefault(METADATA, {})["seconds"] = round(seconds, 1)
    return nbformat.writes(node) + "\n", error, seconds


def follow(driver):
    """Let this worker process leave Ctrl-C to its driver, and end within a second or two when that has died.

    (A kernel in turn ends when its worker has died: ipykernel sees to that.)
    """

    def watch():
        while os.getppid() == driver:
            time.sleep(1)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()


def code_cells(node):
    """The code cells of a notebook that are not empty."""
    return (cell for cell in node.cells if cell.cell_type == "code" and cell.source.strip())


def _drop_sliders(node):
    """Take out interactive controls: without their kernel they are dead, and a static figure shows the same."""
    node.metadata.pop("widgets", None)
    for cell in code_cells(node):
        cell.outputs = [o for o in cell.outputs if _WIDGET_TYPE not in o.get("data", {})]
