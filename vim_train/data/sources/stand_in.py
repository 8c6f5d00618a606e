"""ImageNet-1k's counts without its images: for the plan of a run whose data is elsewhere."""

from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vim_train.data.decode import Mode, decode_bytes
from vim_train.data.sources.classes import IMAGENET_1K

_CLASSES = 1000
_SIZE = (500, 375)  # that of most images of ImageNet


class StandInSource:
    """As many images and classes as ImageNet-1k has; every image is the same JPEG file of smooth noise."""

    native_mode: Mode = "RGB"
    form = "synthetic images in ImageNet-1k's number, as data.root is not set"

    def __init__(self, split: Literal["train", "val"]) -> None:
        self.classes = [f"class {number:03d}" for number in range(_CLASSES)]
        self.labels = np.arange(IMAGENET_1K[split], dtype=np.int64) * _CLASSES // IMAGENET_1K[split]
        self._file = _noise()

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes | None:
        return self._file

    def load(self, index: int, mode: Mode = "RGB") -> Image.Image:
        return decode_bytes(self._file, self.name(index), mode)

    def name(self, index: int) -> str:
        return f"synthetic image {index}"

    def changed(self) -> str | None:
        return None

    def storage_order(self) -> NDArray[np.int64]:
        return np.arange(len(self))

    def fingerprint(self) -> str:
        return f"synthetic-{len(self)}"


def _noise() -> bytes:
    coarse = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(coarse).resize(_SIZE, Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()
