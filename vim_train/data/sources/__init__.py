"""Where labelled images come from: classes, labels and how to load one image; no draws and no state."""

from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vim_train.config.errors import UserError
from vim_train.config.schema import DataConfig, DataName
from vim_train.data.decode import Mode
from vim_train.data.sources.fashion import FashionSource
from vim_train.data.sources.listing import Progress
from vim_train.data.sources.splits import open_split

Split = Literal["train", "val"]


class Source(Protocol):
    """Labelled images by index, the same on every machine and in every process."""

    form: str
    """What was recognised, in a few words."""
    classes: list[str]
    """Sorted names; a label is an index into them."""
    labels: NDArray[np.int64]
    """(len,)"""
    native_mode: Mode
    """The mode that loses nothing."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> bytes | None:
        """Image `index` as it is stored, encoded; None: the source keeps pixels. Raises BadImage."""

    def load(self, index: int, mode: Mode = "RGB") -> Image.Image:
        """Image `index`. Raises BadImage."""

    def name(self, index: int) -> str:
        """What to call image `index` in a message: a path wherever there is a file."""

    def changed(self) -> str | None:
        """Which file that holds images is not the one that was looked through, so that a bad image may be none."""

    def storage_order(self) -> NDArray[np.int64]:
        """All indices, (len,), as the images lie on storage, neighbours behind one another."""

    def fingerprint(self) -> str:
        """Hash of what the source holds: equal fingerprints mean the same images under the same indices and labels."""


def open_source(data: DataConfig, split: Split, progress: Progress | None = None, refresh: bool = False) -> Source:
    """Open the training or validation images of `data`, in whatever form they lie under data.root.

    Args:
        progress: called while images are looked through, with what, how much is done and how much there is.
        refresh: look through them again, though their index is kept.

    Raises:
        UserError: the root is missing, or holds nothing that is known; a tar or label file is damaged; a class is empty
            or only in one of the splits.
    """
    if data.name is DataName.fashion:
        return FashionSource(split)
    if not data.root:
        raise UserError(f"data.root is {'not set' if data.root is None else 'empty'}: takes the folder of the images")
    root = Path(data.root).expanduser()
    if not root.is_dir():
        raise UserError(f"data.root={data.root} {'is not a folder' if root.exists() else 'does not exist'}")
    try:
        return open_split(root, data, split, progress or _silent, refresh)
    except PermissionError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}") from error


def check_unchanged(source: Source, cure: str = "start again: its index is made anew") -> None:
    """Raises UserError: a file that holds images is not the one that was looked through."""
    if (what := source.changed()) is not None:
        raise UserError(f"{what}; {cure}")


def _silent(what: str, done: int, total: int) -> None:
    pass
