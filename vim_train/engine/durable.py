"""Files and directories that are whole or absent after a kill, and still there after a power cut."""

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

PARTIAL = ".tmp-"  # being written, or being deleted
DISPLACED = ".old-"  # moved aside by `replace_dir` where directories cannot be exchanged

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


class HashedFile:
    """A new file whose size and sha256 are those of the bytes handed to it; synced to the disk when it is closed.

    A failed write ends the ``with`` block as the OSError it was, whatever a writer in between has made of it.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._hash = hashlib.sha256()
        self._error: OSError | None = None
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: bytes) -> int:
        with self._noting_errors():
            written = self._file.write(data)
        self._hash.update(data)
        self.size += written
        return written

    def flush(self) -> None:
        with self._noting_errors():
            self._file.flush()

    @contextlib.contextmanager
    def _noting_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._error = error
            raise

    def __enter__(self) -> "HashedFile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if error is None:
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            with contextlib.suppress(OSError):  # on a full disk the rest of the buffer fails once more here
                self._file.close()
        if self._error is not None and error is not self._error:
            raise self._error from None


def sync(path: Path) -> None:
    """Make a file's content, or the names in a directory, durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no such thing
            raise
    finally:
        os.close(fd)


def make_dir(path: Path) -> None:
    """Make a directory and the missing ones above it; their names are durable. Does nothing where it is there."""
    if not path.is_dir():
        make_dir(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


@contextlib.contextmanager
def write_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, so that its name always stands for the old content or for all of the new."""
    partial = path.with_name(PARTIAL + path.name)
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """As `write_file`, for a short text."""
    with write_file(path) as file:
        file.write(text.encode("utf-8"))


def replace_dir(new: Path, final: Path) -> None:
    """Let directory `new` stand at `final`, and delete what stood there. Both have the same parent.

    rename(2) replaces no directory that has files in it. So the two are exchanged in one step where the system can
    (Linux: renameat2), and there is no moment without a whole `final`. Elsewhere the old one steps aside to
    `.old-<name>` first; a crash between the two renames leaves both whole, and `sweep` puts it back.
    """
    old = final.with_name(DISPLACED + final.name)
    if not final.exists():
        os.rename(new, final)
    elif _exchange(new, final):
        old = new
    else:
        remove_dir(old)
        os.rename(final, old)
        try:
            os.rename(new, final)
        except OSError:
            os.rename(old, final)
            raise
    sync(final.parent)
    remove_dir(old)


def _exchange(a: Path, b: Path) -> bool:
    renameat2: Callable[..., int] | None = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    return renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0


def remove_dir(path: Path) -> None:
    """Delete a directory, its name first, so that no half of it is taken for the whole. Never fails: see `sweep`."""
    with contextlib.suppress(OSError):
        if not path.name.startswith((PARTIAL, DISPLACED)):
            doomed = path.with_name(PARTIAL + path.name)
            shutil.rmtree(doomed, ignore_errors=True)
            path = path.rename(doomed)
        shutil.rmtree(path)


def link_dir(source: Path, target: Path) -> None:
    """A copy of a flat directory: hard links where the file system has them. Its files must never be changed."""
    target.mkdir()
    for file in (entry for entry in sorted(source.iterdir()) if entry.is_file()):
        try:
            os.link(file, target / file.name)
        except OSError:
            shutil.copyfile(file, target / file.name)
            sync(target / file.name)
    sync(target)


def sweep(path: Path) -> list[str]:
    """Clear what a crash has left in a directory that nobody writes to; returns the names found."""
    found = sorted(entry for entry in path.iterdir() if entry.name.startswith((PARTIAL, DISPLACED)))
    for entry in found:
        final = entry.with_name(entry.name.removeprefix(DISPLACED))
        if entry.name.startswith(DISPLACED) and not final.exists():
            entry.rename(final)
        elif entry.is_dir():
            remove_dir(entry)
        else:
            entry.unlink()
    return [entry.name for entry in found]
