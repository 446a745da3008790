"""What tests of the data's door share: fakes of npm and of its archives, damage, and a look at what is left."""

import os
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def left_in(cache):
    """Every file below `cache` except the lock, which stays."""
    return sorted(str(p.relative_to(cache)) for p in cache.rglob("*") if p.is_file() and p.name != ".lock")


def assert_one_sentence(error, *words):
    text = str(error)
    assert text
    assert "\n" not in text
    assert "Traceback" not in text
    for word in words:
        assert word in text


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def write_command(path, script):
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


class Zeros:
    def read(self, size):
        return bytes(size)


def a_member(name, size=0, kind=tarfile.REGTYPE):
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = size, kind, "/etc/passwd"
    return member


def start(script, *arguments):
    """Run `script` in a new interpreter that finds this checkout's labutils."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
