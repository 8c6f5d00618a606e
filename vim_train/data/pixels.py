"""The native pixel library: from an encoded image and a plan to uint8 pixels, equal to Pillow's bit for bit.

Optional and checked: it is used only where a self-test against the installed Pillow finds no pixel different (Pillow
itself has changed its pixels between versions), and Pillow does the work everywhere else. Calls release the GIL.
"""

import contextlib
import ctypes
import functools
import io
import os
import struct
import sys
import warnings
from collections.abc import Sequence
from ctypes import Structure, byref, c_double, c_int32, c_int64, c_uint8, c_void_p
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vim_train.data.sketch import Plan, Step
from vim_train.ops.loading import cut_short

ABI_VERSION = 1
SUFFIX = "dll" if sys.platform == "win32" else "so"
_OK, _OUT_OF_MEMORY, _NOT_FOR_US, _NO_LIBJPEG = 0, 3, 4, 5
_RGBX = 4
_STATUS = {
    1: "the Python package and its pixel library come from different builds; reinstall vim-train",
    2: "a plan that does not fit its image",
    _OUT_OF_MEMORY: "out of memory",
}


class _Header(Structure):
    _fields_ = (("width", c_int32), ("height", c_int32), ("components", c_int32), ("plain", c_int32))


class _Op(Structure):
    _fields_ = (
        ("code", c_int32),
        ("filter", c_int32),
        ("fill", c_uint8 * 4),
        ("reserved", c_int32),
        ("value", c_double * 6),
    )


_PLAN = struct.Struct("I17iP")
"""vtp_plan: size, grey, crop, resized, window, filter, vertical_first, flip_x, flip_y, channels, op_count, ops."""


@dataclass(frozen=True)
class JpegHeader:
    """A JPEG's header: `plain`, if Pillow is sure to accept it as it stands."""

    width: int
    height: int
    components: int
    plain: bool


class ColumnsFirst(Enum):
    """When Pillow resizes along columns before rows, which rounds otherwise; it differs between versions."""

    NEVER = "never"
    WHERE_TALL = "where tall"  # Pillow 12: of an image more than a hundred times as high as wide
    WHERE_HEIGHT_IS_LOST = "where height is lost"  # Pillow 13: more than twice the width that is


@dataclass(frozen=True)
class PixelLibrary:
    """The library as it may be used.

    Attributes:
        handle: its functions.
        isa: the kernels it chose for this processor.
        libjpeg: path of the libjpeg it decodes with; None: it only takes pixels.
        columns_first: the installed Pillow's order of passes.
        operations: whether the operations of RandAugment and colour jitter equal Pillow's.
    """

    handle: ctypes.CDLL
    isa: str
    libjpeg: str | None = None
    columns_first: ColumnsFirst = ColumnsFirst.NEVER
    operations: bool = True

    def header(self, data: bytes) -> JpegHeader | None:
        """The header of a JPEG of one or three components; None for anything else."""
        header = _Header()
        if self.handle.vtp_read_header(data, len(data), byref(header)) != _OK:
            return None
        return JpegHeader(header.width, header.height, header.components, bool(header.plain))

    def from_jpeg(self, data: bytes, plan: Plan, mode: str, out: NDArray[np.uint8]) -> bool:
        """Carry out `plan` on a JPEG, as `mode` RGB or L; `out` is (C, H, W), or (H, W, 4) for R, G, B and a free byte.

        False: it is damaged, too large or out of the ordinary: Pillow has to be asked, and `out` is arbitrary.
        """
        native, _kept = self._plan(plan, mode, out)
        status = self.handle.vtp_from_jpeg(data, len(data), native, out.ctypes.data)
        if status in (_OUT_OF_MEMORY, _NOT_FOR_US, _NO_LIBJPEG):
            return False
        _check(status)
        return True

    def from_image(self, image: Image.Image, plan: Plan, out: NDArray[np.uint8]) -> bool:
        """Carry out `plan` on an image of mode RGB or L. Always True."""
        left, top, width, height = plan.crop
        if (width, height) != image.size:
            image = image.crop((left, top, left + width, top + height))
            plan = replace(plan, crop=(0, 0, width, height))
        colour = image if image.mode == "RGB" else image.convert("RGB")
        pixels = colour.tobytes("raw", "RGBX")
        native, _kept = self._plan(plan, "RGB", out)
        _check(self.handle.vtp_from_pixels(pixels, width * 4, width, height, native, out.ctypes.data))
        return True

    def _plan(self, plan: Plan, mode: str, out: NDArray[np.uint8]) -> tuple[bytes, "ctypes.Array[_Op] | None"]:
        """As vtp_plan, and the operations that it points to."""
        height, width = plan.window[3], plan.window[2]
        channels = _RGBX if out.shape == (height, width, _RGBX) else out.shape[0]
        if (channels != _RGBX and out.shape != (channels, height, width)) or not out.flags.c_contiguous:
            raise ValueError(f"out is {out.shape}, the plan is for {width}x{height}")
        ops = _ops(plan.steps) if plan.steps else None
        native = _PLAN.pack(  # faster than to fill a ctypes.Structure
            _PLAN.size,
            mode == "L",
            *plan.crop,
            *plan.resized,
            *plan.window,
            plan.resample,
            vertical_pass_first(plan, self.columns_first),
            plan.flip_x,
            plan.flip_y,
            channels,
            len(plan.steps),
            ctypes.addressof(ops) if ops else 0,
        )
        return native, ops


def _ops(steps: Sequence[Step]) -> "ctypes.Array[_Op]":
    return (_Op * len(steps))(
        *(_Op(step.op, step.resample, (*step.fill, 0), 0, (c_double * 6)(*step.value)) for step in steps)
    )


def acceptable_header(library: PixelLibrary, data: bytes, pixel_limit: int) -> JpegHeader | None:
    """The header of a JPEG that `library` may decode, because Pillow would accept it; None: Pillow has to decode."""
    header = library.header(data)
    if header is None or header.width * header.height > min(pixel_limit, Image.MAX_IMAGE_PIXELS or pixel_limit):
        return None
    if header.plain:
        return header
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as image:
                same = image.size == (header.width, header.height) and image.format == "JPEG"
                return header if same else None
    except Exception:  # what it is will be found where Pillow decodes
        return None


def vertical_pass_first(plan: Plan, columns_first: ColumnsFirst) -> bool:
    """Whether Pillow resizes `plan`'s crop along columns first."""
    _, _, width, height = plan.crop
    lost_x, lost_y = width - plan.resized[0], height - plan.resized[1]
    if columns_first is ColumnsFirst.WHERE_TALL:
        return lost_y > 0 and height > 100 * width
    return columns_first is ColumnsFirst.WHERE_HEIGHT_IS_LOST and lost_y > 0 and lost_y > 2 * lost_x


def find(folders: Sequence[str]) -> Path | None:
    """The library in the first of the folders that has it."""
    name = f"vim_train_pixels.{SUFFIX}"
    return next((path for folder in folders if (path := Path(folder) / name).is_file()), None)


def load(path: Path) -> PixelLibrary | str:
    """The library at `path`, with a libjpeg if there is one, not tested yet; or why it cannot be loaded."""
    if cut_short(path):
        return f"{path} is damaged, its end is missing"
    try:
        handle = ctypes.CDLL(str(path))
        handle.vtp_isa.restype = ctypes.c_char_p
        handle.vtp_open_libjpeg.argtypes = (ctypes.c_char_p, ctypes.c_char_p, c_int32)
        handle.vtp_read_header.argtypes = (ctypes.c_char_p, c_int64, c_void_p)
        handle.vtp_from_jpeg.argtypes = (ctypes.c_char_p, c_int64, c_void_p, c_void_p)
        handle.vtp_from_pixels.argtypes = (ctypes.c_char_p, c_int64, c_int32, c_int32, c_void_p, c_void_p)
    except (OSError, AttributeError) as error:
        return f"{path} cannot be loaded ({error})"
    version = handle.vtp_abi_version()
    if version != ABI_VERSION:
        return f"{path} has ABI version {version}, not {ABI_VERSION}"
    return PixelLibrary(handle, handle.vtp_isa().decode(), _open_libjpeg(handle))


@functools.cache
def pixel_library() -> PixelLibrary | None:
    """The library, if it is there and its pixels equal Pillow's. Found and tested once a process."""
    return _status()[0]


def pixel_status() -> str:
    """One line: what decodes and augments, and why it is not the library where it is not."""
    return _status()[1]


@functools.cache
def _status() -> tuple[PixelLibrary | None, str]:
    from vim_train.data.pixels_check import check

    if os.environ.get("VIM_TRAIN_PIXELS") == "pillow":
        return None, "Pillow, as VIM_TRAIN_PIXELS asks"
    path = find(list(sys.modules["vim_train.data"].__path__))
    if path is None:
        return None, "Pillow (the native pixel library was not built: installed without a C++ compiler?)"
    library = load(path)
    if isinstance(library, str):
        return None, f"Pillow ({library})"
    return check(library)


def _open_libjpeg(handle: ctypes.CDLL) -> str | None:
    reason = ctypes.create_string_buffer(200)
    for path in _libjpegs():
        if handle.vtp_open_libjpeg(os.fsencode(path), reason, len(reason)):
            return path
    return None


def _libjpegs() -> list[str]:
    """Where a libjpeg may be. Pillow's own come first: its pixels are Pillow's, and it is in this process already."""
    from PIL import _imaging

    package = Path(_imaging.__file__).parent
    found = [str(path) for bundle in (package.parent / "pillow.libs", package / ".dylibs") for path in bundle.glob("*")]
    with contextlib.suppress(OSError):  # not Linux
        found += [line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    found = [path for path in found if Path(path).name.startswith("libjpeg") and "torchvision" not in path]
    found += ["libjpeg.so.62", "libjpeg.so.8"] if sys.platform != "darwin" else ["libjpeg.62.dylib", "libjpeg.8.dylib"]
    return list(dict.fromkeys(found))


def _check(status: int) -> None:
    if status != _OK:
        raise RuntimeError(f"the native pixel library: {_STATUS.get(status, f'status {status}')}")
