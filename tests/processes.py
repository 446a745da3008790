"""Waiting for other processes, and interrupting them."""

import signal
import time

import psutil


def until(condition, seconds):
    """Whether the condition comes true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def hand_on_interrupts():
    """Let processes started from here on hear SIGINT: a script's background jobs, which tests may be, are deaf to it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def is_alive(pid):
    """Whether a process runs; a zombie has ended."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
