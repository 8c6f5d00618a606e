"""The embedded images: 7,000 of Fashion-MNIST (assets/NOTICE.md)."""

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vim_train.data.decode import Mode

_FILE = Path(__file__).parent.parent / "assets" / "fashion_mnist_7k.npz"
_PUBLISHED = (
    "t-shirt-top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip


class FashionSource:
    """28x28 grey product photographs in ten balanced classes: 6,000 to train, 1,000 to validate.

    Classes are sorted by name and images by class, as a folder of the same images would have them: what is trained here
    evaluates unchanged on the exported folder, and the other way round.
    """

    native_mode: Mode = "L"
    form = "embedded images"

    def __init__(self, split: Literal["train", "val"]) -> None:
        with np.load(_FILE, allow_pickle=False) as stored:
            images, published = stored[f"{split}_images"], stored[f"{split}_labels"]
        self.classes = sorted(_PUBLISHED)
        labels = np.array([self.classes.index(name) for name in _PUBLISHED])[published]
        order = np.argsort(labels, kind="stable")
        self.labels = labels[order].astype(np.int64)
        self._images = images[order]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes | None:
        return None

    def load(self, index: int, mode: Mode = "RGB") -> Image.Image:
        image = Image.fromarray(self._images[index])
        return image if mode == "L" else image.convert(mode)

    def name(self, index: int) -> str:
        return f"{self.classes[self.labels[index]]}/{index:05d}"

    def changed(self) -> str | None:
        return None

    def storage_order(self) -> NDArray[np.int64]:
        return np.arange(len(self))

    def fingerprint(self) -> str:
        digest = hashlib.blake2b("\0".join(self.classes).encode(), digest_size=16)
        digest.update(self.labels.astype("<i8").tobytes())
        digest.update(self._images.tobytes())
        return digest.hexdigest()
