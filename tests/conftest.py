"""Fixtures of all unit tests."""

import pytest
from tiny import run_labutils


@pytest.fixture
def labutils(monkeypatch, capsys):
    """Run the command line in this process; returns the exit status, what it printed, and its errors."""
    return lambda *arguments: run_labutils(monkeypatch, capsys, *arguments)
