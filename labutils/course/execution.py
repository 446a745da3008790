"""Executing one notebook in a kernel of its own: what a worker needs, and nothing that is slow to import."""

import asyncio
import itertools
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from labutils import NOTEBOOKS, data
from labutils.conventions import METADATA

MOST_TEXT = 1_000_000  # characters that a cell may print
MOST_DATA = 50_000_000  # characters of figures and the like that a cell may show
MOST_IN_ALL = 120_000_000  # characters of all outputs of a notebook
_LONGEST_LINE, _LONGEST_TRACEBACK = 20_000, 200  # characters, and parts, of an error
_WIDGET_TYPE = "application/vnd.jupyter.widget-view+json"


class _OwnInterpreter(KernelSpecManager):
    """Kernels of the Python that runs the course, whatever kernels of that name are installed on the machine."""

    def get_kernel_spec(self, kernel_name):
        return KernelSpec(resource_dir="", **get_kernel_dict())


class _Client(NotebookClient):
    """An nbclient that keeps at most so much of what a cell puts out, and takes time in proportion to it."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self._size = {}  # (cell, whether it is text): characters
        self._total, self._cut = 0, set()

    def output(self, outs, msg, display_id, cell_index):
        content, is_text = msg["content"], msg["msg_type"] == "stream"
        if msg["msg_type"] == "error":
            for key in ("ename", "evalue"):
                content[key] = str(content.get(key, ""))[:_LONGEST_LINE]
            content["traceback"] = [
                line[:_LONGEST_LINE] for line in content.get("traceback", [])[:_LONGEST_TRACEBACK]
            ]
            return super().output(outs, msg, display_id, cell_index)
        shown = content.get("text", "") if is_text else ""
        room = self._room(cell_index, is_text, len(shown) if is_text else _size(content))
        if room is None:
            return super().output(outs, msg, display_id, cell_index)
        if room >= 0:
            outs.append(_cut(shown[:room], MOST_TEXT if is_text else MOST_DATA))
        return None

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] == "update_display_data":
            room = self._room(cell_index, False, _size(msg["content"]))
            if room is not None:
                cell.outputs += [_cut("", MOST_DATA)] if room >= 0 else []
                return None
        return super().process_message(msg, cell, cell_index)

    def _room(self, cell_index, is_text, size):
        """None if an output is to be kept; else how much of it still has room, once, and then -1."""
        key, most = (cell_index, is_text), MOST_TEXT if is_text else MOST_DATA
        before, self._total = self._size.get(key, 0), self._total + size
        self._size[key] = before + size
        if self._size[key] <= most and self._total <= MOST_IN_ALL:
            return None
        if key in self._cut:
            return -1
        self._cut.add(key)
        return max(0, most - before) if is_text else 0

    def clear_output(self, outs, msg, cell_index):
        self._size = {key: size for key, size in self._size.items() if key[0] != cell_index}
        super().clear_output(outs, msg, cell_index)


async def execute(node, timeout, *, folder=None, on_cell=None):
    """Execute a notebook in place.

    Parameters
    ----------
    node : nbformat.NotebookNode
    timeout : int
        Seconds that one cell may take.
    folder : path-like, optional
        Working directory of its kernel; that of the lessons if not given.
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
    n_cells = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in node.cells)
    n_done = 0

    def count(**_):
        nonlocal n_done
        n_done += 1
        if on_cell:
            on_cell()

    folder = Path(folder or NOTEBOOKS)
    if not folder.is_dir():
        return f"its working folder {folder} is not there"
    client = _Client(
        node,
        km=AsyncKernelManager(kernel_spec_manager=_OwnInterpreter()),
        timeout=timeout,
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
        on_cell_executed=count,
    )
    error = None
    try:
        await client.async_execute(stderr=subprocess.DEVNULL)
    except CellExecutionError as failure:
        error = f"cell {n_done} of {n_cells}: {_first_line(failure.ename)}: {_first_line(failure.evalue)}"
    except CellTimeoutError:
        error = f"cell {n_done + 1} of {n_cells} took longer than {timeout} s"
    except DeadKernelError:
        if asyncio.current_task().cancelling():  # nbclient reports an interrupt as a dead kernel
            raise asyncio.CancelledError from None
        error = f"the kernel died in cell {n_done + 1} of {n_cells} (out of memory?)"
    except Exception as failure:  # noqa: BLE001 - what a kernel that does not start, or answers nonsense, makes of nbclient
        error = f"its kernel could not be used: {type(failure).__name__}: {_first_line(failure)}"
    for cell in node.cells:
        if cell.cell_type == "code":
            cell.outputs = _joined(cell.outputs)
    _drop_sliders(node)
    return error


def execute_text(text, timeout, folder=None, progress=None):
    """Execute a notebook that came as text, in a worker, and give it back as text.

    Parameters
    ----------
    text : str
    timeout : int
        Seconds that one cell may take.
    folder : str, optional
        As for `execute`.
    progress : str, optional
        File that says how many cells are done, for a driver on the same machine.

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
    done = 0

    def on_cell():
        nonlocal done
        done += 1
        if progress:
            Path(progress).write_text(str(done))

    start = time.monotonic()
    # Not in the main thread, where nbclient would replace the handler of Ctrl-C by its own.
    with ThreadPoolExecutor(1) as pool:
        run = execute(node, timeout, folder=folder, on_cell=on_cell)
        error = pool.submit(asyncio.run, run).result()
    seconds = time.monotonic() - start
    noted = node.metadata.setdefault(METADATA, {})
    noted["seconds"] = round(seconds, 1)
    if "dataset" in noted:  # that the run asks for; what it was given depends on the machine that it ran on
        noted["data"] = data.will_use(noted.pop("dataset"))
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


def _joined(outputs):
    """Outputs in which what was printed in pieces is one text, as on the screen.

    In time proportional to its length: nbclient's own way takes hours for a line of some millions of characters.
    Between two other outputs, stdout stands before stderr: they come over different channels, so that their order is
    chance.
    """
    joined = []
    for is_text, group in itertools.groupby(outputs, key=lambda output: output.output_type == "stream"):
        if not is_text:
            joined += group
            continue
        texts = {}
        for output in group:
            texts.setdefault(output.name, []).append(output.text)
        for name in sorted(texts, reverse=True):
            text = "\n".join(map(_as_on_screen, "".join(texts[name]).split("\n")))
            joined.append(nbformat.v4.new_output("stream", name=name, text=text))
    return joined


def _cut(shown, most):
    """An output that holds the rest of what is kept, and says that it is not all."""
    note = f"{shown}\n[the output is cut here: a cell may put out {most:,} characters]\n"
    return nbformat.v4.new_output("stream", name="stdout", text=note)


def _size(content):
    """Characters of what a message shows."""
    return sum(len(str(content.get(part, ""))) for part in ("data", "metadata"))


def _as_on_screen(line):
    """A line in which a carriage return has let later text replace what stood before."""
    bare = line.rstrip("\r")
    return bare.rsplit("\r", 1)[-1] + line[len(bare) :]


def _first_line(what):
    lines = str(what).strip().splitlines() or [""]
    return "".join(c if c.isprintable() else " " for c in lines[0])[:300]


def _drop_sliders(node):
    """Take out interactive controls: without their kernel they are dead, and a static figure shows the same."""
    node.metadata.pop("widgets", None)
    for cell in node.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if _WIDGET_TYPE not in o.get("data", {})]
