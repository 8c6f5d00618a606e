"""What evaluation shows a model of an image: its centre, or several crops."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset, get_worker_info
from torchvision.transforms import CenterCrop

from vim_train.config.schema import DataConfig
from vim_train.data.fetch import Fetch, Fetched, Request
from vim_train.data.transforms import Transform, eval_transform

STORED = 224
"""Side of ImageNet-C's images, which were corrupted after they were cropped."""


def crops(data: DataConfig, count: int) -> list[Transform]:
    """Of the resized image: the centre (`count` 1), or the four corners and the centre (5)."""
    centre = eval_transform(data)
    if count == 1:
        return [centre]
    corners = [CornerCrop(data.img_size, right, bottom) for bottom in (False, True) for right in (False, True)]
    return [*(Transform([*centre.steps[:-1], corner]) for corner in corners), centre]


def stored_crop(data: DataConfig) -> Transform:
    """ImageNet-C's images as they are: a centre crop of 224 pixels, resized only for a model of another size."""
    whole = eval_transform(replace(data, crop_pct=1.0))
    return Transform([CropLarger(STORED), *whole.steps])


class CornerCrop(CenterCrop):
    """The square in one corner of an image or sketch, in place of the one in the centre."""

    def __init__(self, size: int, right: bool, bottom: bool) -> None:
        super().__init__(size)
        self._right, self._bottom = right, bottom

    def forward(self, img: Image.Image) -> Image.Image:
        height, width = self.size
        left, top = self._right * (img.width - width), self._bottom * (img.height - height)
        return img.crop((left, top, left + width, top + height))


class CropLarger(CenterCrop):
    """Leaves smaller images alone, where torchvision would put black around them."""

    def forward(self, img: Image.Image) -> Image.Image:
        if min(img.size) < self.size[0]:
            return img
        cropped: Image.Image = super().forward(img)
        return cropped


class FetchViews(Dataset[Fetched]):
    """Several views of each image: `images` (n * views, C, H, W), those of an image behind one another.

    Args:
        fetches: one a view, of the same source.
    """

    def __init__(self, fetches: Sequence[Fetch]) -> None:
        self._fetches = fetches
        self.source = fetches[0].source

    @property
    def reading(self) -> NDArray[np.int64]:
        return self._fetches[0].reading

    @reading.setter
    def reading(self, board: NDArray[np.int64]) -> None:
        for fetch in self._fetches:
            fetch.reading = board

    def __getitem__(self, request: Request) -> Fetched:
        views = []
        for fetch in self._fetches:
            fetched = fetch[request]
            if fetched.images is None:
                return fetched
            views.append(fetched.images)
        images = torch.stack(views, dim=1).flatten(0, 1)
        if get_worker_info() is not None:
            images.share_memory_()
        return Fetched(request, images, [])
