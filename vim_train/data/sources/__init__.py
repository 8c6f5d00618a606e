"""Where labelled images come from: classes, labels and how to load one image; no draws and no state."""

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vim_train.config.schema import DataConfig, DataName
from vim_train.data.decode import Mode
from vim_train.data.sources.fashion import FashionSource
from vim_train.data.sources.folder import open_folder

Split = Literal["train", "val"]


class Source(Protocol):
    """Labelled images by index, the same on every machine and in every process."""

    classes: list[str]
    """Sorted names; a label is an index into them."""
    labels: NDArray[np.int64]
    """(len,)"""
    native_mode: Mode
    """The mode that loses nothing."""

    def __len__(self) -> int: ...

    def load(self, index: int, mode: Mode = "RGB") -> Image.Image:
        """Image `index`. Raises BadImage."""

    def name(self, index: int) -> str:
        """What to call image `index` in a message: a path wherever there is a file."""

    def fingerprint(self) -> str:
        """Hash of what the source holds: equal fingerprints mean the same images under the same indices and labels."""


def open_source(data: DataConfig, split: Split) -> Source:
    """Open the training or validation images of `data`.

    Raises:
        UserError: the root is missing or not laid out as class folders; a class is empty or only in one of the splits.
    """
    if data.name is DataName.fashion:
        return FashionSource(split)
    return open_folder(data, split)
