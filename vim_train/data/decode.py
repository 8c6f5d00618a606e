"""An image file to pixels, safely: whatever the file is, the answer is its picture or `BadImage`, never a hang.

Pixels are what ``PIL.Image.open(path).convert("RGB")`` gives, as in published ImageNet numbers: EXIF orientation is
not applied, an animation is its first frame, transparency is dropped. One case differs on purpose: greys of 16 bits are
scaled, where Pillow clips all above 255 to white. Pillow's ``LOAD_TRUNCATED_IMAGES`` stays off, so half a file is no
picture.
"""

import os
import stat
import warnings
from io import BytesIO
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

Mode = Literal["RGB", "L"]

_LARGEST_FILE = 1 << 30


class BadImage(Exception):
    """`path` is no image we can read, for `reason`, one line."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def decode(path: str, mode: Mode = "RGB", pixel_limit: int = 100_000_000) -> Image.Image:
    """Read and decode `path` to a picture of `mode`.

    Raises:
        BadImage: not a regular file, empty, no image, truncated, more than `pixel_limit` pixels, or pixels without a
            defined range.
    """
    return decode_bytes(read_file(path), path, mode, pixel_limit)


def read_file(path: str) -> bytes:
    """All of `path`. Raises BadImage: not a regular file, empty, larger than any image, or unreadable."""
    _check_file(path)
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise BadImage(path, _one_line(error)) from error


def decode_bytes(data: bytes, path: str, mode: Mode = "RGB", pixel_limit: int = 100_000_000) -> Image.Image:
    """Decode an image file's contents; `path` is what to call it. Raises BadImage as `decode`."""
    try:
        # Pillow warns of odd EXIF blocks and palettes, whose pixels are right, and of sizes, which we check.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(data)) as image:
                width, height = image.size
                if width * height > pixel_limit:
                    raise BadImage(path, f"{width}x{height} pixels, more than data.pixel_limit={pixel_limit}")
                return _convert(path, image, mode)
    except BadImage:
        raise
    except Image.DecompressionBombError as error:  # before we are told the size
        raise BadImage(path, f"more pixels than data.pixel_limit={pixel_limit}") from error
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, …
        raise BadImage(path, _one_line(error)) from error


def _check_file(path: str) -> None:
    """Look before opening: a FIFO would block for ever, and reading a device may do anything."""
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        raise BadImage(path, _one_line(error)) from error
    if not stat.S_ISREG(status.st_mode):
        raise BadImage(path, "not a regular file")
    if status.st_size == 0:
        raise BadImage(path, "empty file")
    if status.st_size > _LARGEST_FILE:
        raise BadImage(path, f"{status.st_size:,} bytes, more than an image has")


def _convert(path: str, image: Image.Image, mode: Mode) -> Image.Image:
    image.load()
    if image.mode == mode:
        return image
    # Pillow before 11 opens a grey PNG of 16 bits in mode I.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        deep = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((deep + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise BadImage(path, f"pixels of mode {image.mode} have no defined range")
    return image.convert(mode)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        return "not an image Pillow can identify"
    text = " ".join(str(error).split()) or "cannot be decoded"
    return text if isinstance(error, OSError) else f"{type(error).__name__}: {text}"
