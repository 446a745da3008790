"""Small notebooks that take no time beyond that of a kernel, and the command line run in this process."""

import sys
from collections import Counter

import nbformat

import labutils.__main__ as door

PARAMETERS = """\
n: int = 1  # a number
kind: str = "a"  # a word
rate: float = 0.5  # a fraction
"""
CHECK = """\
def check_parameters(**rules):  # as lesson's, but imported in no time
    pass


check_parameters(n=(int, 1, 9), kind=("a", "b", "c/d", "c d"), rate=(float, 0, 1))
"""
RECORD = """\
from IPython.display import display

content = {
    "results": {"square": n * n + rate, "word": kind, "losses": [rate, n]},
    "parameters": {"n": n, "kind": kind, "rate": rate},
    "provenance": {"versions": {"python": "3"}, "commit": None, "cpu": "any", "cores": 1, "gpu": None},
}
display({"application/x-labutils+json": content}, raw=True)
"""


def make_notebook(path, *sources, check=CHECK, record=RECORD):
    """Write a small notebook with parameters whose code cells are the given ones, and then a record."""
    cells = [nbformat.v4.new_markdown_cell("# A tiny lesson")]
    cells.append(nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}))
    cells += [nbformat.v4.new_code_cell(source) for source in (check, *sources, record)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def noting(log, then=""):
    """Source of a cell that notes its parameter n and the process of its worker in a file, and does more."""
    return f"import os, time\nwith open({str(log)!r}, 'a') as log:\n    print(n, os.getppid(), os.getpid(), file=log)\n{then}"


def starts(log):
    """How often each n was started, and the last worker and kernel that did."""
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    lines = [line for line in lines if len(line) == 3]
    return Counter(int(n) for n, _, _ in lines), {int(n): (int(w), int(k)) for n, w, k in lines}


def run_labutils(monkeypatch, capsys, *arguments):
    """Run the command line in this process; returns the exit status, what it printed, and its errors."""
    monkeypatch.setattr(sys, "argv", ["labutils", *map(str, arguments)])
    status = 0
    try:
        door.main()
    except SystemExit as ended:
        status = ended.code
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def names(folder):
    """Names of what lies in a folder, but for the list of files that are ours."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".labutils"))
