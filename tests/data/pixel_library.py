"""What the tests of the native pixel library share: libraries to try, and Pillow's answer to a plan."""

import io
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vim_train.data
from vim_train.data import pixels
from vim_train.data.decode import Mode, decode_bytes
from vim_train.data.pixels import PixelLibrary
from vim_train.data.sketch import Plan

BUILT = pixels.find(list(vim_train.data.__path__))
needs_library = pytest.mark.skipif(BUILT is None, reason="the native pixel library is not built")
FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)


def private_copy(folder: Path, isa: str | None = None) -> PixelLibrary:
    """A library of its own, not tested against Pillow, with the kernels of `isa`."""
    assert BUILT is not None
    path = folder / f"{isa}.so"
    shutil.copyfile(BUILT, path)
    kept = os.environ.get("VIM_TRAIN_ISA")
    os.environ["VIM_TRAIN_ISA"] = isa or ""
    try:
        library = pixels.load(path)
    finally:
        if kept is None:
            del os.environ["VIM_TRAIN_ISA"]
        else:
            os.environ["VIM_TRAIN_ISA"] = kept
    assert isinstance(library, PixelLibrary), library
    return library


def one_axis_at_a_time(image: Image.Image, plan: Plan, vertical_first: bool) -> Image.Image:
    """`plan`'s resize with the order of its passes spelt out, whatever order the installed Pillow has."""
    resample = Image.Resampling(plan.resample)
    width, height = plan.resized
    first = (image.width, height) if vertical_first else (width, image.height)
    return image.resize(first, resample).resize((width, height), resample)


def by_pillow(image: Image.Image, plan: Plan, vertical_first: bool | None = None) -> NDArray[np.uint8]:
    """`plan` without its steps, as (C, H, W); `vertical_first` None: in the installed Pillow's own order."""
    left, top, width, height = plan.crop
    image = image.crop((left, top, left + width, top + height))
    if vertical_first is None:
        image = image.resize(plan.resized, Image.Resampling(plan.resample))
    else:
        image = one_axis_at_a_time(image, plan, vertical_first)
    left, top, width, height = plan.window
    image = image.crop((left, top, left + width, top + height))
    if plan.flip_x:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if plan.flip_y:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return planes(image)


def planes(image: Image.Image) -> NDArray[np.uint8]:
    """(C, H, W)."""
    found = np.asarray(image)
    return found[None] if found.ndim == 2 else found.transpose(2, 0, 1)


def buffer(plan: Plan, mode: str = "RGB") -> NDArray[np.uint8]:
    """Room for what `plan` makes, full of what should not be left there."""
    return np.full((len(mode), plan.window[3], plan.window[2]), 99, dtype=np.uint8)


def decoded(library: PixelLibrary, data: bytes, plan: Plan, mode: Mode = "RGB") -> NDArray[np.uint8] | None:
    """`plan` carried out on a JPEG, (C, H, W); None: it is left to Pillow."""
    out = buffer(plan, mode)
    return out if library.from_jpeg(data, plan, mode, out) else None


def from_pixels(library: PixelLibrary, image: Image.Image, plan: Plan) -> NDArray[np.uint8]:
    """`plan` carried out on an image, (C, H, W)."""
    out = buffer(plan, image.mode)
    assert library.from_image(image, plan, out)
    return out


def random_plan(rng: random.Random, size: tuple[int, int], most: int = 96) -> Plan:
    """A crop anywhere, of any size, to any size; half of them flipped each way."""
    width, height = (rng.randint(1, extent) for extent in size)
    left, top = rng.randint(0, size[0] - width), rng.randint(0, size[1] - height)
    resized = (rng.choice((width, rng.randint(1, most))), rng.choice((height, rng.randint(1, most))))
    if rng.random() < 0.7:
        resized = (rng.randint(1, most), rng.randint(1, most))
    window_width, window_height = (rng.randint(1, extent) if rng.random() < 0.3 else extent for extent in resized)
    window = (
        rng.randint(0, resized[0] - window_width),
        rng.randint(0, resized[1] - window_height),
        window_width,
        window_height,
    )
    flips = rng.random() < 0.5, rng.random() < 0.5
    return Plan((left, top, width, height), resized, window, int(rng.choice(FILTERS)), *flips)


def encode(image: Image.Image, **options: object) -> bytes:
    """`image` as a JPEG."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


class Encoded:
    """Encoded images in memory, as a source of one class."""

    classes = ["everything"]  # noqa: RUF012
    native_mode: Mode = "RGB"

    def __init__(self, files: list[bytes]) -> None:
        self.files, self.labels = files, np.zeros(len(files), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> bytes | None:
        return self.files[index]

    def load(self, index: int, mode: Mode = "RGB") -> Image.Image:
        return decode_bytes(self.files[index], self.name(index), mode)

    def name(self, index: int) -> str:
        return f"image {index}"

    def fingerprint(self) -> str:
        return ""
