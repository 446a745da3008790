"""Fixtures of all unit tests."""

import pytest
from tiny import run_labutils


@pytest.fixture
def labutils(monkeypatch, capsys):
    """Run the command line in this process; returns the exit status, what it printed, and its errors."""
    return lambda *arguments: run_labutils(monkeypatch, capsys, *arguments)


@pytest.fixture
def offline(monkeypatch):
    """No way out: every proxy and registry is a port at which nothing listens."""
    nowhere = "http://127.0.0.1:9"
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, nowhere)
        monkeypatch.setenv(name.lower(), nowhere)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("registry", "proxy", "https_proxy"):
        monkeypatch.setenv(f"npm_config_{name}", nowhere)
    monkeypatch.setenv("npm_config_noproxy", "")
