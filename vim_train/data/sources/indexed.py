"""Images by index from a listing: loose files, members of tars, rows of tables."""

import os
import threading
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vim_train.data.decode import BadImage, Mode, decode_bytes, read_file
from vim_train.data.sources.cache import Stamp, changed
from vim_train.data.sources.listing import LOOSE, Listing

_KEPT_OPEN = 256
"""Of more files than this, the others are opened for each read: processes may have few descriptors."""


class Containers(Protocol):
    """Files that hold images."""

    stamps: list[Stamp]
    """Of each when it was indexed."""

    def read(self, container: int, offset: int, size: int) -> bytes:
        """An encoded image. Raises OSError or ValueError, whose text is a reason."""


class IndexedSource:
    """Images of one split in the canonical order.

    Args:
        form: what was recognised.
        folder: what the names of `listing` are below.
        fingerprint: of the listing.
        containers: reads those that are no loose files.
        pixel_limit: images of more pixels are not decoded.
    """

    native_mode: Mode = "RGB"

    def __init__(
        self, form: str, folder: str, listing: Listing, fingerprint: str, containers: Containers, pixel_limit: int
    ) -> None:
        self.form, self.folder = form, folder
        self.classes, self.labels = listing.classes, listing.labels
        self._listing, self._fingerprint = listing, fingerprint
        self._containers, self._pixel_limit = containers, pixel_limit

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes | None:
        listing = self._listing
        container, name = int(listing.container[index]), self.name(index)
        if container == LOOSE:
            return read_file(name)
        try:
            data = self._containers.read(container, int(listing.offsets[index]), int(listing.sizes[index]))
        except OSError as error:
            raise BadImage(name, error.strerror or str(error)) from error
        except ValueError as error:
            raise BadImage(name, str(error)) from error
        if not data:
            raise BadImage(name, "empty file")
        return data

    def load(self, index: int, mode: Mode = "RGB") -> Image.Image:
        data = self.read(index)
        assert data is not None
        return decode_bytes(data, self.name(index), mode, self._pixel_limit)

    def name(self, index: int) -> str:
        listing = self._listing
        container, name = int(listing.container[index]), os.fsdecode(bytes(listing.names[index]))
        below = name if container == LOOSE else os.path.join(listing.containers[container], name)
        return os.path.join(self.folder, below)

    def changed(self) -> str | None:
        return changed(self._containers.stamps)

    def storage_order(self) -> NDArray[np.int64]:
        return np.lexsort((self._listing.offsets, self._listing.container))

    def fingerprint(self) -> str:
        return self._fingerprint


class TarFiles:
    """Reads members by offset. Files are opened in each process when first used, by any of its threads.

    `stamps`: of the files when they were indexed: another file of that name has other things at these offsets.
    """

    def __init__(self, stamps: list[Stamp]) -> None:
        self.stamps = stamps
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()

    def read(self, container: int, offset: int, size: int) -> bytes:
        fd = self._open.get(container)
        if fd is not None:
            return _read(fd, offset, size)
        fd = self._opened(container)
        with self._lock:
            kept = self._open.setdefault(container, fd) if len(self._open) < _KEPT_OPEN else None
        try:
            return _read(fd, offset, size)
        finally:
            if kept != fd:
                os.close(fd)

    def _opened(self, container: int) -> int:
        path = self.stamps[container][0]
        if (what := changed([self.stamps[container]])) is not None:
            raise ValueError(what)
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __getstate__(self) -> dict[str, object]:
        return {"stamps": self.stamps}

    def __setstate__(self, state: dict[str, list[Stamp]]) -> None:
        self.__init__(state["stamps"])  # type: ignore[misc]


def _read(fd: int, offset: int, size: int) -> bytes:
    data = os.pread(fd, size, offset)
    if len(data) < size:
        raise ValueError(f"only {len(data)} of {size} bytes are there")
    return data
