"""Files that are ours: what a command may replace or remove, and how it writes without losing anything.

A folder that a command writes to carries the list ``.labutils``: a line for each file, with the SHA-256 of what was
written, and by which command. A file is replaced or removed only by that command, and only while it has that content;
whatever else lies there is somebody's, and is refused before anything runs. Files are written under a temporary name first, and take their
places by renaming when all of them are there.
"""

import contextlib
import hashlib
import itertools
import json
import os
import platform
import shutil
import stat
from pathlib import Path

import filelock
import psutil

from labutils import NOTEBOOKS
from labutils.errors import RunError, UsageError

LIST = ".labutils"
_LOCK_SECONDS = 60
_counter = itertools.count()


class Folder:
    """A folder to write to.

    Parameters
    ----------
    path : path-like
        It need not exist yet.
    by : str
        The command that writes.
    sources : iterable of path-like
        Files that are read from: nothing is written where they lie.
    option : str
        That names the folder, for messages.
    """

    def __init__(self, path, by, sources=(), option="--output"):
        self.path, self.by, self.option = Path(path), by, option
        self._sources = {Path(source).resolve() for source in sources}
        self._known = (0, {})  # how much of the list has been read, and what it says

    def check(self, names, *, force=False):
        """Refuse what must not be written, before any work is done.

        Parameters
        ----------
        names : iterable of str
            Paths of files in the folder, with ``/``.
        force : bool
            Whether files that are not ours, or were changed since, may be replaced.

        Raises
        ------
        UsageError
            If a file would replace something that is not ours, or would lie among the sources.
        RunError
            If the folder cannot be written to.
        """
        names = list(names)
        self._refuse_sources(names)
        self._refuse_foreign_list()
        folders = {self.path, *((self.path / name).parent for name in names)}
        for folder in sorted(folders, key=lambda folder: len(folder.parts)):
            refuse_unwritable(folder)
        ours = self._ours()
        for name in names:
            place = self.path / name
            if place.is_dir() or (not force and _is_foreign(place, ours.get(name, ()))):
                raise UsageError(
                    f"{place} is there already, and was not written by labutils {self.by} or has been changed since; "
                    f"move it away, or name another place with {self.option}"
                )

    def write(self, contents, *, force=False):
        """Write files, all of them or, where one cannot be written or replaced, none.

        Parameters
        ----------
        contents : dict of str to str, bytes or pathlib.Path
            By name in the folder what the file is to hold; of a path, what that file holds.
        force : bool
            As for `check`.

        Raises
        ------
        UsageError, RunError
            As for `check`.
        """
        contents = {name: _as_bytes(content) for name, content in contents.items()}
        self.check((n for n, c in contents.items() if not _holds(self.path / n, c)), force=force)
        ready = {}
        try:
            with said_in_a_sentence(self.path):
                for folder in {(self.path / name).parent for name in contents}:
                    folder.mkdir(parents=True, exist_ok=True)
                    _remove_left_overs(folder)
                for name, content in contents.items():
                    place = self.path / name
                    ready[name] = place.with_name(_temporary_name())
                    _write_through(ready[name], content)
                with locked(self.path):
                    self._note({name: _digest(content) for name, content in contents.items()})
                    for name in contents:
                        os.replace(ready[name], self.path / name)
                        del ready[name]
        finally:
            for temporary in ready.values():
                temporary.unlink(missing_ok=True)

    def remove(self, names):
        """Remove those of the files that are ours and unchanged, and folders that are empty then."""
        ours = self._ours()
        with said_in_a_sentence(self.path):
            for name in names:
                place = self.path / name
                if place.exists() and not _is_foreign(place, ours.get(name, ())):
                    place.unlink()
                    for folder in itertools.takewhile(lambda f: f != self.path, place.parents):
                        with contextlib.suppress(OSError):
                            folder.rmdir()

    def replace_all(self, contents, prefix=""):
        """Write files, and remove what earlier calls wrote below the same prefix and this one does not.

        Parameters
        ----------
        contents : dict of str to str, bytes or pathlib.Path
        prefix : str
            Beginning of the names, such as ``pages/``.
        """
        before = [name for name in self._ours() if name.startswith(prefix)]
        self.write({f"{prefix}{name}": content for name, content in contents.items()})
        self.remove(name for name in before if name.removeprefix(prefix) not in contents)
        with locked(self.path):
            self._rewrite()

    def written(self):
        """Names of the files that are ours and unchanged."""
        return [name for name, digests in self._ours().items() if _is_ours(self.path / name, digests)]

    def _refuse_sources(self, names):
        homes = {source.parent for source in self._sources} | {NOTEBOOKS}
        for name in ["", *names]:
            place = (self.path / name).resolve()
            if (place if name == "" else place.parent) in homes or place in self._sources:
                where = self.path if name == "" else (self.path / name).parent
                raise UsageError(
                    f"nothing is written to {where}, where notebooks that are read lie; name another folder with "
                    f"{self.option}"
                )

    def _refuse_foreign_list(self):
        """Refuse what has the list's name and is none, which would be lost or written into."""
        place = self.path / LIST
        with said_in_a_sentence(place):
            if not _is_there(place):
                return
            if stat.S_ISREG(place.lstat().st_mode):
                with place.open("rb") as file:
                    first = file.readline(10_000)
                if not first.strip() or _entry(first) is not None:
                    return
        raise UsageError(
            f"{place} is no list of labutils; move it away, or name another place with {self.option}"
        )

    def _ours(self):
        """Name -> SHA-256 of each content that this command has written under it."""
        read, ours = self._known
        with contextlib.suppress(OSError):
            size = (self.path / LIST).stat().st_size
            if size < read:  # shortened meanwhile
                read, ours = 0, {}
            with (self.path / LIST).open("rb") as file:
                file.seek(read)
                for line in file:
                    read += len(line) if line.endswith(b"\n") else 0
                    entry = _entry(line)
                    if entry and entry["by"] == self.by:
                        ours.setdefault(entry["file"], set()).add(entry["sha256"])
            self._known = read, ours
        return ours

    def _note(self, digests):
        lines = [_line(self.by, name, digest) for name, digest in digests.items()]
        with (self.path / LIST).open("a", encoding="utf-8") as file:
            is_begun = file.tell() > 0  # then a power cut may have left the last line open
            file.write("\n" * is_begun + "\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _rewrite(self):
        """Shorten the list to files that are there."""
        lines = {}
        for line in (self.path / LIST).read_bytes().splitlines():
            entry = _entry(line)
            if entry and (entry["by"] != self.by or _is_ours(self.path / entry["file"], {entry["sha256"]})):
                lines[_line(entry["by"], entry["file"], entry["sha256"])] = None
        replace(self.path / LIST, "\n".join(lines) + "\n")
        self._known = (0, {})


def refuse_unwritable(folder):
    """Raise a RunError unless files can be made in a folder, or in the nearest one above it that exists."""
    with said_in_a_sentence(folder):
        place = next(place for place in (folder, *folder.absolute().parents) if _is_there(place))
        if not place.is_dir():
            raise NotADirectoryError(0, "Not a directory")
        trial = place / _temporary_name()
        trial.touch()
        trial.unlink()


def replace(path, text):
    """Replace a file that keeps all that it held: whole or not at all, through a link, with its permissions."""
    with said_in_a_sentence(path):
        path = path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(_temporary_name())
        try:
            _write_through(temporary, text.encode())
            if path.exists():
                shutil.copymode(path, temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def locked(folder):
    """Context in which no other process that asks for the same folder is."""
    try:
        return filelock.FileLock(Path(folder) / f"{LIST}.lock", timeout=_LOCK_SECONDS).acquire()
    except filelock.Timeout:
        raise RunError(f"another process has been writing to {folder} for {_LOCK_SECONDS} s") from None


def _line(by, name, digest):
    return json.dumps({"file": name, "sha256": digest, "by": by})


def _entry(line):
    """A line of a list as a dict; None if it is none."""
    with contextlib.suppress(ValueError, RecursionError):
        entry = json.loads(line)
        if isinstance(entry, dict) and all(
            isinstance(entry.get(key), str) for key in ("file", "sha256", "by")
        ):
            return entry
    return None


def _as_bytes(content):
    if isinstance(content, Path):
        return content.read_bytes()
    return content if isinstance(content, bytes) else content.encode()


def _digest(content):
    return hashlib.sha256(content).hexdigest()


def _holds(path, content):
    """Whether a regular file has this content already."""
    return _is_ours(path, {_digest(content)})


def _is_ours(path, digests):
    try:
        return stat.S_ISREG(path.lstat().st_mode) and _digest(path.read_bytes()) in digests
    except OSError:
        return False


def _is_there(path):
    """Whether there is a file, a folder or a link; raises where the system cannot tell."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _is_foreign(path, digests):
    """Whether something is there that is not what was written."""
    with said_in_a_sentence(path):
        return _is_there(path) and not _is_ours(path, digests)


def _write_through(path, content):
    """Write a new file and make sure that it is on the disk, so that a power cut after the renaming loses nothing."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _temporary_name():
    return f".labutils-{platform.node()}-{os.getpid()}-{next(_counter)}.tmp"


def _remove_left_overs(folder):
    """Remove temporary files of processes of this machine that were killed."""
    begin = f".labutils-{platform.node()}-"
    for path in folder.glob(f"{begin}*.tmp"):
        pid = path.name.removeprefix(begin).split("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def said_in_a_sentence(place):
    """Turn the operating system's refusal into one sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise RunError(
            f"cannot write to {str(place)[:200]} ({reason}); name another place with --output"
        ) from error
