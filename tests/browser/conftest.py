"""Chromium and its pages for the tests, driven by Playwright.

A test that takes `page`, or pages from `open_page`, fails if a page writes an error to its console, throws one, or
asks a host other than this machine, unless the test said with ``console.allow(pattern)`` that it may. Of a test
that failed, `build/browser` holds a picture of each page and what the pages' consoles said.
"""

import os
import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import find_chromium
import pytest
from playwright.sync_api import sync_playwright

KEPT = Path(__file__).parents[2] / "build" / "browser"
HERE = (None, "localhost", "127.0.0.1", "::1")


class Console:
    """What the pages of one test said.

    Attributes
    ----------
    lines : list of str
        Everything, in order: the kind of message, a colon, the message.
    errors : list of str
        Those that fail the test: errors written or thrown, and requests to other hosts.
    """

    def __init__(self):
        self.lines = []
        self.errors = []
        self.allowed = []
        self.pages = []

    def watch(self, page):
        """Listen to a page from now on."""
        self.pages.append(page)
        page.on("console", lambda message: self._said(message.type, message.text, message.location["url"]))
        page.on("pageerror", lambda error: self._said("uncaught error", error.stack or error.message))
        page.on("request", self._asked)

    def allow(self, pattern):
        """Do not fail the test for errors in which a regular expression is found.

        Parameters
        ----------
        pattern : str
        """
        self.allowed.append(re.compile(pattern))

    def unexpected(self):
        """The errors that no pattern allows, those that are still on their way included."""
        for page in self.pages:
            if not page.is_closed():
                page.evaluate("0")
        return [line for line in self.errors if not any(pattern.search(line) for pattern in self.allowed)]

    def _said(self, kind, text, url=""):
        line = f"{kind}: {text}" + (f" ({url})" if url else "")
        self.lines.append(line)
        if kind in ("error", "uncaught error"):
            self.errors.append(line)

    def _asked(self, request):
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob", "file", "about") and address.hostname not in HERE:
            self._said("error", f"the page asked another host: {request.url}")


def pytest_sessionstart(session):
    if not hasattr(session.config, "workerinput"):  # not in each of xdist's workers
        shutil.rmtree(KEPT, ignore_errors=True)


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium, for all tests."""
    program = find_chromium.find()
    if not program:
        pytest.fail(find_chromium.MISSING, pytrace=False)
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"] if root else [])
        yield browser
        browser.close()


@pytest.fixture
def console():
    """What the pages of this test say; see `Console`."""
    return Console()


@pytest.fixture
def open_page(chromium, console):
    """Function that opens an empty page in a new profile: ``open_page(width=1280, height=900, **settings)``.

    The settings are those of Playwright's `Browser.new_context`.
    """
    contexts = []

    def open_page(width=1280, height=900, **settings):
        context = chromium.new_context(viewport={"width": width, "height": height}, **settings)
        contexts.append(context)
        page = context.new_page()
        console.watch(page)
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def page(open_page):
    """An empty page of 1280 × 900 pixels."""
    return open_page()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    console = item.funcargs.get("console")
    try:
        result = yield
        if console:
            unexpected = console.unexpected()
            assert not unexpected, "the page said:\n" + "\n".join(unexpected)
    except Exception:
        if console:
            keep(item.name, console)
        raise
    return result


def keep(name, console):
    """Write pictures of the pages, and what they said, to `build/browser`."""
    KEPT.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]+", "-", name).strip("-")
    (KEPT / f"{name}.txt").write_text("\n".join(console.lines) + "\n", encoding="utf-8")
    for number, page in enumerate(console.pages):
        if not page.is_closed():
            page.screenshot(path=KEPT / f"{name}{f'-{number}' if number else ''}.png")
