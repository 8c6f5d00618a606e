"""Images named one by one: files, folders, patterns, lists of names and names on standard input."""

import glob
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from vim_train.config.errors import UserError
from vim_train.data.decode import BadImage, Mode, decode_bytes, read_file
from vim_train.data.sources.folder import is_image

STDIN = "-"


class Named(NamedTuple):
    """A name that was given, or found in a folder that was."""

    path: str
    problem: str | None = None
    """Why it stands for no image file, where that is known already."""


def find_images(items: Sequence[str], stdin: BinaryIO) -> list[Named]:
    """What `items` name, in their order.

    A folder stands for the images in it and below, sorted; `*`, `?`, `[` make a pattern, and `**` one over folders,
    where there is no such file; `@FILE` is a list of names and `-` one on `stdin`, a name a line, or NUL between names.

    Raises:
        UserError: a list that cannot be read.
    """
    found: list[Named] = []
    for item in items:
        if item == STDIN:
            found += map(_listed, _names(stdin.read()))
        elif item.startswith("@"):
            found += map(_listed, _names(_read_list(os.path.expanduser(item[1:]))))
        else:
            found += _expanded(os.path.expanduser(item))
    return found


def _expanded(path: str) -> list[Named]:
    if os.path.isdir(path):
        return list(_below(path)) or [Named(path, "a folder without images")]
    if os.path.lexists(path) or not glob.has_magic(path):
        comma = "," in path and not os.path.lexists(path)
        return [Named(path, "no such file; a list is images=[a,b]" if comma else None)]
    matches = sorted(glob.glob(path, recursive=True))
    files = [named for match in matches if not os.path.isdir(match) for named in [Named(match)]]
    return files or [Named(path, "no file matches")]


def _below(folder: str) -> Iterator[Named]:
    unreadable: list[Named] = []

    def note(error: OSError) -> None:
        unreadable.append(Named(str(error.filename), f"a folder that cannot be read: {error.strerror}"))

    for base, folders, files in os.walk(folder, onerror=note):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Named(os.path.join(base, name)) for name in sorted(files) if is_image(name))
    yield from unreadable


def _listed(name: str) -> Named:
    return Named(name, "a folder; only images= takes one" if os.path.isdir(name) else None)


def _names(data: bytes) -> list[str]:
    """Names between NULs where there is one, else lines."""
    parts = data.split(b"\0") if b"\0" in data else [line.rstrip(b"\r") for line in data.split(b"\n")]
    return [os.fsdecode(part) for part in parts if part]


def _read_list(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"images=@{path}: {error.strerror}") from error


class NamedImages:
    """A `Source` of images without labels."""

    form = "named images"
    native_mode: Mode = "RGB"

    def __init__(self, names: Sequence[Named]) -> None:
        self._names = names
        self.classes: list[str] = []
        self.labels = np.full(len(names), -1, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._names)

    def read(self, index: int) -> bytes | None:
        path, problem = self._names[index]
        if problem is not None:
            raise BadImage(path, problem)
        return read_file(path)

    def load(self, index: int, mode: Mode = "RGB") -> Image.Image:
        return decode_bytes(self.read(index) or b"", self.name(index), mode)

    def name(self, index: int) -> str:
        return self._names[index].path

    def changed(self) -> str | None:
        return None

    def storage_order(self) -> np.ndarray:
        return np.arange(len(self))

    def fingerprint(self) -> str:
        raise NotImplementedError("named images are no data set")
