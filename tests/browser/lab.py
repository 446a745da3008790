"""A real JupyterLab of the tests' own, and a notebook in it as a student sees it."""

import contextlib
import json
import os
import re
import subprocess
import sys
import urllib.request

import psutil
from playwright.sync_api import expect
from processes import until

PATIENCE = 180  # seconds: for a machine that has much else to do; nothing waits longer than it must
expect.set_options(timeout=PATIENCE * 1000)

FOLDERS = {
    "JUPYTER_CONFIG_DIR": "config",
    "JUPYTER_DATA_DIR": "data",
    "JUPYTER_RUNTIME_DIR": "runtime",
    "JUPYTERLAB_SETTINGS_DIR": "settings",
    "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    "IPYTHONDIR": "ipython",
}
CONFIG = {
    "ServerApp": {"port": 0, "open_browser": False},
    "ExtensionApp": {"open_browser": False},
    "LabApp": {"open_browser": False},
}
# Neither of the two asks anything of the network.
SETTINGS = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}

# What a student sees of the cells; textContent, since what is scrolled out of sight has no innerText.
CELLS = """
panel => [...panel.querySelectorAll('.jp-Notebook-cell')].map(cell => ({
    code: cell.classList.contains('jp-CodeCell'),
    folded: cell.querySelector('.jp-InputPlaceholder') !== null,
    prompt: [...cell.querySelectorAll('.jp-InputPrompt')].map(prompt => prompt.textContent).join(''),
    outputs: [...cell.querySelectorAll('.jp-OutputArea-output')].map(output => output.dataset.mimeType),
    text: [...cell.querySelectorAll('.jp-OutputArea-output')].map(output => output.textContent).join('\\n'),
    images: [...cell.querySelectorAll('.jp-OutputArea-output img')].map(image => image.naturalWidth),
}))
"""
# Not the circle beside the kernel's name, which looks idle before there is a kernel.
STATUS = "#jp-main-statusbar"
IDLE = re.compile(r"\| Idle")
STDERR = "application/vnd.jupyter.stderr"  # what JupyterLab shows a traceback as


class Lab:
    """A JupyterLab that touches nothing of the user's and ends with its kernels; a context manager.

    Parameters
    ----------
    home : pathlib.Path
        Folder for the settings, the workspaces and the log.
    command : list of str
        What starts it, in the project's folder. Its port is a free one and no browser opens, whatever it says.
    settings : dict
        Of JupyterLab's plugins, in place of their defaults.

    Attributes
    ----------
    url, token : str
        Where it is to be found, once entered.
    """

    def __init__(self, home, command, cwd=None, settings=SETTINGS):
        self.home, self.command, self.cwd, self.settings = home, command, cwd, settings

    def __enter__(self):
        for folder in FOLDERS.values():
            (self.home / folder).mkdir(parents=True)
        config = self.home / "config"
        (config / "labconfig").mkdir()
        write(config / "jupyter_server_config.json", CONFIG)
        write(config / "labconfig" / "default_setting_overrides.json", self.settings)
        folders = {name: str(self.home / folder) for name, folder in FOLDERS.items()}
        with (self.home / "log").open("w") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.cwd,
                env={**os.environ, **folders},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            until(lambda: self._info() or self.process.poll() is not None, PATIENCE)
            assert self._info(), f"JupyterLab did not start:\n{(self.home / 'log').read_text()}"
        except BaseException:
            self.__exit__()
            raise
        self.url, self.token = self._info()["url"], self._info()["token"]
        return self

    def __exit__(self, *_):
        info, processes = self._info(), self.processes()
        if info:  # the server ends its kernels
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(info["pid"]).terminate()
        else:
            self.process.terminate()
        _, left = psutil.wait_procs(processes, timeout=30)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def _info(self):
        """What the server wrote down about itself, or None as long as it did not."""
        for path in (self.home / "runtime").glob("jpserver-*.json"):
            with contextlib.suppress(json.JSONDecodeError):
                return json.loads(path.read_text(encoding="utf-8"))
        return None

    def ask(self, method, path):
        """Answer of the server's own interface, read as JSON; None where it says nothing."""
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(f"{self.url}api/{path}", method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read() or "null")

    def end_kernels(self):
        """Shut down all kernels."""
        for session in self.ask("GET", "sessions"):
            self.ask("DELETE", f"sessions/{session['id']}")

    def open(self, page, name):
        """Open a notebook by its file name, in a workspace of its own; returns a `Notebook`."""
        stem = name.removesuffix(".ipynb")
        page.goto(f"{self.url}lab/workspaces/{stem}/tree/{name}?token={self.token}")
        return Notebook(page)

    def processes(self):
        """All processes of this JupyterLab, those of its kernels included."""
        try:
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def lab_command(folder):
    """Command that starts this environment's JupyterLab on a folder."""
    command = [sys.executable, "-m", "jupyterlab", "--ip=localhost", f"--ServerApp.root_dir={folder}"]
    return [*command, "--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else command


class Notebook:
    """The one notebook that is open in a page.

    Parameters
    ----------
    page : playwright.sync_api.Page
    """

    def __init__(self, page):
        page.set_default_timeout(PATIENCE * 1000)
        self.page = page
        self.panel = page.locator(".jp-NotebookPanel")
        self.cells = self.panel.locator(".jp-Notebook-cell")
        self.wait_until_idle()

    def wait_until_idle(self):
        """Wait until the kernel is there and has nothing to do."""
        expect(self.page.locator(STATUS)).to_have_text(IDLE)

    def cell(self, number):
        """Locator of a cell, which is scrolled to: JupyterLab makes an editor only for what comes into sight."""
        cell = self.cells.nth(number)
        cell.scroll_into_view_if_needed()
        return cell

    def choose(self, menu, entry):
        """Choose an entry of a menu of the menu bar."""
        self.page.locator(".lm-MenuBar-item").get_by_text(menu, exact=True).click()
        self.page.get_by_role("menuitem", name=entry, exact=True).click()

    def run_all(self):
        """Run all cells, and wait until all have run or one has failed; counts must have been cleared before."""
        self.choose("Run", "Run All Cells")
        self.wait_for_runs()

    def wait_for_runs(self, last=None):
        """Wait until the cells up to a number, or all, have a count, or one of them an error, and the kernel is idle."""
        self.page.wait_for_function(
            f"""last => {{
                const panel = document.querySelector('.jp-NotebookPanel');
                const cells = ({CELLS})(panel).slice(0, last ?? undefined).filter(cell => cell.code);
                return !cells.some(cell => cell.prompt.includes('*')) && (
                    cells.every(cell => cell.folded || /\\d/.test(cell.prompt))
                    || cells.some(cell => cell.outputs.includes('{STDERR}'))
                );
            }}""",
            arg=last,
            polling=300,  # milliseconds: the kernel needs the processor more
        )
        self.wait_until_idle()

    def look(self):
        """What the cells show: for each a dict with `code`, `folded`, `prompt`, `outputs`, `text` and `images`."""
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('.jp-OutputArea-output img')].every(image => image.complete)"
        )
        return self.panel.evaluate(CELLS)

    def run(self, number):
        """Click into a code cell, press Shift and Enter, and wait; returns the locator of what it puts out."""
        cell = self.cell(number)
        prompt = cell.locator(".jp-InputPrompt").first
        before = prompt.text_content()
        cell.locator(".cm-content").click()
        self.page.keyboard.press("Shift+Enter")
        expect(prompt).not_to_have_text(before)
        expect(prompt).to_have_text(re.compile(r"\d"))
        self.wait_until_idle()
        return cell.locator(".jp-Cell-outputArea")

    def replace(self, number, source):
        """Replace a code cell's text with the keyboard: select all, paste."""
        self.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page.evaluate("text => navigator.clipboard.writeText(text)", source)
        self.cell(number).locator(".cm-content").click()
        self.page.keyboard.press("ControlOrMeta+a")
        self.page.keyboard.press("ControlOrMeta+v")

    def select(self, number):
        """Select a cell with the mouse, for what acts on the selected cell."""
        self.cell(number).locator(".jp-InputPrompt").first.click()

    def unfold(self, number):
        """Unfold a code cell; returns the text in it."""
        cell = self.cell(number)
        cell.get_by_title("Click to expand").click()
        lines = cell.locator(".cm-line")
        expect(lines.first).to_be_visible()
        return "\n".join(lines.all_text_contents())

    def redraws(self, number, slider, key="ArrowRight", within=20):
        """Move a slider of a cell with the keyboard; whether the picture there changes within so many seconds.

        Parameters
        ----------
        number : int
        slider : playwright.sync_api.Locator
        key : str
        within : float

        Returns
        -------
        bool
        """
        picture = self.cell(number).locator(".jp-OutputArea-output img")
        before, position = picture.get_attribute("src"), slider.get_attribute("aria-valuenow")
        slider.press(key)
        expect(slider).not_to_have_attribute("aria-valuenow", position)
        with contextlib.suppress(AssertionError):
            expect(picture).not_to_have_attribute("src", before, timeout=within * 1000)
        return picture.get_attribute("src") != before


def write(path, content):
    """Write a JSON file."""
    path.write_text(json.dumps(content), encoding="utf-8")


def problems(stored, seen):
    """What is wrong with a notebook that has run.

    Parameters
    ----------
    stored : nbformat.NotebookNode
        As it is committed, with its outputs.
    seen : list of dict
        What `Notebook.look` saw.

    Returns
    -------
    list of str
        Sentences that name the cell; empty if all is well.
    """
    found = []
    if len(seen) != len(stored.cells):
        return [f"{len(stored.cells)} cells are stored, {len(seen)} are on the page"]
    for number, (cell, sight) in enumerate(zip(stored.cells, seen, strict=True)):
        if cell.cell_type != "code":
            continue
        if not sight["folded"] and not any(character.isdigit() for character in sight["prompt"]):
            found.append(f"cell {number} has not run: its prompt is {sight['prompt']!r}")
        if STDERR in sight["outputs"]:
            found.append(f"cell {number} failed or warned: {sight['text'].strip()[-300:]}")
        n_stored = sum("image/png" in output.get("data", {}) for output in cell.outputs)
        n_stored += cell.source.count("lesson.slide(")  # a stored page has no picture of it
        if len(sight["images"]) != n_stored:
            found.append(f"cell {number} shows {len(sight['images'])} figures, and should show {n_stored}")
        if not all(sight["images"]):
            found.append(f"cell {number} shows a figure of no width")
        if "model not found" in sight["text"].lower() or "loading widget" in sight["text"].lower():
            found.append(f"cell {number} shows no widget: {sight['text'].strip()}")
    return found
