"""The self-test that decides whether the native library's pixels are those of the installed Pillow."""

import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from vim_train.data.pixels import ColumnsFirst, PixelLibrary
from vim_train.data.sketch import Op, Plan, Step

_BILINEAR, _BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
_AFFINE = ((1, 0.21, 0, 0, 1, 0), (1, 0, -3.3, 0, 1, 0), (1, 0, 0, -0.17, 1, 0), (0.9, 0.3, -2.1, -0.3, 0.95, 9.7))
_FILL = (124, 116, 104)


def check(library: PixelLibrary) -> tuple[PixelLibrary | None, str]:
    """`library` with what of it may be used, or None; and the line that says so."""
    version = f"Pillow {PIL.__version__}"
    picture = _picture(96, 151)
    orders = [order for order in ColumnsFirst if _resizes(replace(library, columns_first=order), picture)]
    if not orders:
        return None, f"Pillow (the native library resizes to other pixels than {version})"
    library = replace(library, columns_first=orders[0])
    notes = []
    if not _operates(library, _picture(45, 38)):
        library = replace(library, operations=False)
        notes.append(f"augmentation by Pillow: its pixels differ from {version}'s")
    if library.libjpeg is None:
        notes.append("decoding by Pillow: no libjpeg-turbo found")
    elif not _decodes(library, picture):
        library = replace(library, libjpeg=None)
        notes.append(f"decoding by Pillow: libjpeg's pixels differ from {version}'s")
    return library, "; ".join([f"native ({library.isa}), equal to {version}", *notes])


def _picture(width: int, height: int) -> Image.Image:
    """Smooth shapes, hard edges and noise; the same on every machine."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([(x * 5 + y * 3) % 256, (x * x + y * 7) % 256, (x * y) % 256], axis=-1)
    noise = np.random.Philox(key=1).random_raw(waves.size).reshape(waves.shape) % 64
    block = ((x // 16 + y // 16) % 2 * 255)[..., None]
    return Image.fromarray(np.where((y < height // 2)[..., None], waves, (block + noise) // 2).astype(np.uint8))


def _crops(size: tuple[int, int]) -> Iterator[Plan]:
    """Up- and downscaling by little and much, along one axis and both, and crops that touch no edge and every edge.

    Among them widths that 32 divides, for which the library has kernels of their own.
    """
    width, height = size
    for crop in (
        (0, 0, width, height),
        (17, 9, 41, 113),
        (width - 60, height - 23, 60, 23),
        (5, height - 140, 31, 140),
    ):
        for resized in ((48, 40), (64, 160), (crop[2], 33), (37, crop[3])):
            for number, resample in enumerate((_BILINEAR, _BICUBIC)):
                yield Plan(crop, resized, (0, 0, *resized), int(resample), flip_x=number == 0, flip_y=resized[0] == 48)
    yield Plan((3, 2, 90, 140), (70, 110), (11, 13, 48, 48), int(_BICUBIC))


def _pillow(image: Image.Image, plan: Plan) -> NDArray[np.uint8]:
    left, top, width, height = plan.crop
    image = image.crop((left, top, left + width, top + height)).resize(plan.resized, Image.Resampling(plan.resample))
    left, top, width, height = plan.window
    image = image.crop((left, top, left + width, top + height))
    if plan.flip_x:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if plan.flip_y:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return np.asarray(image)


def _out(plan: Plan, channels: int = 3) -> NDArray[np.uint8]:
    return np.empty((channels, plan.window[3], plan.window[2]), np.uint8)


def _resizes(library: PixelLibrary, picture: Image.Image) -> bool:
    tall = _picture(2, 203)
    plans = [(picture, plan) for plan in _crops(picture.size)]
    plans += [(tall, Plan((0, 0, 2, 203), size, (0, 0, *size), int(_BICUBIC))) for size in ((5, 7), (2, 50), (5, 300))]
    for image, plan in plans:
        out = _out(plan)
        library.from_image(image, plan, out)
        if not np.array_equal(out.transpose(1, 2, 0), _pillow(image, plan)):
            return False
    return True


def _decodes(library: PixelLibrary, picture: Image.Image) -> bool:
    for subsampling, progressive, grey in ((2, False, False), (1, False, False), (0, True, False), (0, False, True)):
        stream = io.BytesIO()
        source = picture.convert("L") if grey else picture
        source.save(stream, "JPEG", quality=85, subsampling=subsampling, progressive=progressive)
        decoded = Image.open(stream).convert("RGB")
        for plan in _crops(picture.size):
            for mode, channels in (("RGB", 3), ("L", 1)):
                out = _out(plan, channels)
                if not library.from_jpeg(stream.getvalue(), plan, mode, out):
                    return False
                expected = _pillow(decoded.convert(mode), plan).reshape(*out.shape[1:], channels)
                if not np.array_equal(out.transpose(1, 2, 0), expected):
                    return False
    return True


def _operates(library: PixelLibrary, picture: Image.Image) -> bool:
    whole = (0, 0, *picture.size)
    for step, expected in _examples(picture):
        plan = Plan(whole, picture.size, whole, steps=[step])
        out = _out(plan)
        library.from_image(picture, plan, out)
        if not np.array_equal(out.transpose(1, 2, 0), np.asarray(expected)):
            return False
    return True


def _examples(image: Image.Image) -> Iterator[tuple[Step, Image.Image]]:
    """Operations, and what Pillow makes of `image` by each."""
    dull = ImageEnhance.Contrast(image).enhance(0.3)
    yield Step(Op.INVERT), ImageOps.invert(image)
    yield Step(Op.AUTOCONTRAST), ImageOps.autocontrast(image)
    yield Step(Op.EQUALIZE), ImageOps.equalize(image)
    yield Step(Op.CONTRAST, (0.3,)), dull
    for bits in (1, 3, 8):
        yield Step(Op.POSTERIZE, (bits,)), ImageOps.posterize(image, bits)
    for value in (0, 26, 110, 256):
        yield Step(Op.SOLARIZE, (value,)), ImageOps.solarize(image, value)
        table = [min(255, i + min(value, 255)) if i < 128 else i for i in range(256)]
        yield Step(Op.SOLARIZE_ADD, (min(value, 255),)), image.point(table * 3)
    for op, enhance in (
        (Op.BRIGHTNESS, ImageEnhance.Brightness),
        (Op.CONTRAST, ImageEnhance.Contrast),
        (Op.COLOR, ImageEnhance.Color),
        (Op.SHARPNESS, ImageEnhance.Sharpness),
    ):
        for factor in (0.0, 0.1, 0.7321, 1.0, 1.234567, 1.9):
            yield Step(op, (factor,)), enhance(image).enhance(factor)
    for resample in (_BILINEAR, _BICUBIC):
        for matrix in _AFFINE:
            expected = image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=_FILL)
            yield Step(Op.AFFINE, matrix, int(resample), _FILL), expected
