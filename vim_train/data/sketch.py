"""What a chain of transforms would do to an image, written down instead of done.

timm and torchvision run as they are, with all their draws and all their arithmetic, on a stand-in that has a size but
no pixels. What they ask of it becomes a plan, and the native library carries the plan out in one go: decoding only the
crop, holding no lock of Python's. Whatever a plan cannot express raises `Unsketchable`, and Pillow does it.
"""

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import auto_augment
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import CenterCrop, ColorJitter, RandomHorizontalFlip, RandomVerticalFlip, Resize
from torchvision.transforms.functional import pil_modes_mapping

Box = tuple[int, int, int, int]


class Unsketchable(Exception):
    """A transform asked for what a plan cannot express."""


class Op(IntEnum):
    """Operations on the resized image, numbered as in csrc/pixels.h."""

    INVERT = 0
    POSTERIZE = 1
    SOLARIZE = 2
    SOLARIZE_ADD = 3
    AUTOCONTRAST = 4
    EQUALIZE = 5
    BRIGHTNESS = 6
    CONTRAST = 7
    COLOR = 8
    SHARPNESS = 9
    AFFINE = 10


@dataclass
class Step:
    """One operation: its numbers, and what an affine transform needs beside them."""

    op: Op
    value: Sequence[float] = ()
    resample: int = 0
    fill: tuple[int, int, int] = (0, 0, 0)


@dataclass
class Plan:
    """crop -> resize -> window -> flip -> steps. Boxes are (left, top, width, height)."""

    crop: Box
    resized: tuple[int, int]
    """(width, height)"""
    window: Box
    """The part of the resized crop that is wanted."""
    resample: int = 0
    """Pillow's number of the filter."""
    flip_x: bool = False
    flip_y: bool = False
    steps: list[Step] = field(default_factory=list)


class Sketch(Image.Image):
    """An image of `size` and `mode` without pixels. Its methods change `plan` and return the sketch itself."""

    def __init__(self, size: tuple[int, int], mode: str) -> None:
        whole = (0, 0, *size)
        self.plan = Plan(crop=whole, resized=size, window=whole)
        self._sketched_mode = mode

    @property
    def size(self) -> tuple[int, int]:
        return self.plan.window[2:]

    @property
    def width(self) -> int:
        return self.plan.window[2]

    @property
    def height(self) -> int:
        return self.plan.window[3]

    @property
    def mode(self) -> str:
        return self._sketched_mode

    def crop(self, box: Any = None) -> "Sketch":
        plan = self.plan
        left, top, right, bottom = box
        if not (0 <= left < right <= self.width and 0 <= top < bottom <= self.height) or self._flipped_or_changed():
            raise Unsketchable
        plan.window = (plan.window[0] + left, plan.window[1] + top, right - left, bottom - top)
        return self

    def resize(self, size: Any, resample: Any = None, box: Any = None, reducing_gap: Any = None) -> "Sketch":
        plan = self.plan
        if tuple(size) == self.size:
            return self
        if (
            plan.resized != plan.crop[2:]
            or self._flipped_or_changed()
            or resample not in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
            or not (box is None and reducing_gap is None)
        ):
            raise Unsketchable
        left, top, *extent = plan.window
        plan.crop = (plan.crop[0] + left, plan.crop[1] + top, extent[0], extent[1])
        plan.resized = tuple(size)
        plan.window = (0, 0, *plan.resized)
        plan.resample = int(resample)
        return self

    def transpose(self, method: Any) -> "Sketch":
        plan = self.plan
        if plan.steps or method not in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM):
            raise Unsketchable
        if method == Image.Transpose.FLIP_LEFT_RIGHT:
            plan.flip_x = not plan.flip_x
        else:
            plan.flip_y = not plan.flip_y
        return self

    def transform(
        self, size: Any, method: Any, data: Any = None, resample: Any = 0, fill: int = 1, fillcolor: Any = None
    ) -> "Sketch":
        if (
            tuple(size) != self.size
            or method != Image.Transform.AFFINE
            or resample not in (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
        ):
            raise Unsketchable
        colour = self._colour(fillcolor)
        self.plan.steps.append(Step(Op.AFFINE, tuple(map(float, data)), int(resample), colour))
        return self

    def add(self, op: Op, *value: float) -> "Sketch":
        """Write down an operation that has no method of its own."""
        self.plan.steps.append(Step(op, value))
        return self

    def copy(self) -> "Sketch":
        return self

    def load(self) -> Any:
        """Everything else that an image can do begins with its pixels."""
        raise Unsketchable

    def _flipped_or_changed(self) -> bool:
        return self.plan.flip_x or self.plan.flip_y or bool(self.plan.steps)

    def _colour(self, fill: Any) -> tuple[int, int, int]:
        bands = len(self.getbands())
        if not (isinstance(fill, tuple) and len(fill) == bands and all(type(v) is int and 0 <= v < 256 for v in fill)):
            raise Unsketchable
        return fill * 3 if bands == 1 else fill


SketchStep = Callable[[Any], Any]


def geometry(step: object) -> SketchStep | None:
    """`step`, if all it does is to crop, resize and flip, with the same draws, for sketches; None: it does more."""
    if isinstance(step, RandomResizedCropAndInterpolation):
        return partial(_resized_crop, step)
    if isinstance(step, RandomHorizontalFlip):
        return partial(_flip, step, Image.Transpose.FLIP_LEFT_RIGHT)
    if isinstance(step, RandomVerticalFlip):
        return partial(_flip, step, Image.Transpose.FLIP_TOP_BOTTOM)
    return step if isinstance(step, Resize | CenterCrop) else None


# torchvision's ways to crop, resize and flip take longer for a sketch than everything else together.
def _resized_crop(step: RandomResizedCropAndInterpolation, sketch: Sketch) -> Sketch:
    top, left, height, width = step.get_params(sketch, step.scale, step.ratio)
    several = isinstance(step.interpolation, tuple | list)
    interpolation = random.choice(step.interpolation) if several else step.interpolation
    crop = sketch.crop((left, top, left + width, top + height))
    return crop.resize((step.size[1], step.size[0]), pil_modes_mapping[interpolation])


def _flip(step: RandomHorizontalFlip | RandomVerticalFlip, method: Image.Transpose, sketch: Sketch) -> Sketch:
    # Of a tensor, item() is the quick way out; it keeps the value, which the tensor would compare in single precision.
    return sketch.transpose(method) if torch.rand(1).item() < float(np.float32(step.p)) else sketch


def sketching(step: object) -> SketchStep | None:
    """`step` with the same draws, but for sketches; None: a plan cannot express it."""
    if isinstance(step, ColorJitter):
        return _Jitter(step) if step.hue is None else None
    if not isinstance(step, auto_augment.RandAugment | auto_augment.AutoAugment):
        return None
    step = copy.deepcopy(step)
    ops = step.ops if isinstance(step, auto_augment.RandAugment) else [op for policy in step.policy for op in policy]
    for op in ops:
        function = op.aug_fn
        if op.name.startswith("Posterize"):
            op.aug_fn = _posterize
        elif function in _BY_FUNCTION:
            op.aug_fn = _BY_FUNCTION[function]
        elif function not in _AFFINE:
            return None
    return step


class _Jitter:
    """torchvision's ColorJitter: its draws, and its order."""

    def __init__(self, jitter: ColorJitter) -> None:
        self._jitter = jitter

    def __call__(self, sketch: Sketch) -> Sketch:
        ranges = self._jitter.brightness, self._jitter.contrast, self._jitter.saturation
        order, *factors, _ = ColorJitter.get_params(*ranges, None)
        for number in order.tolist():
            if number < 3 and factors[number] is not None:
                sketch.add((Op.BRIGHTNESS, Op.CONTRAST, Op.COLOR)[number], factors[number])
        return sketch


def _posterize(sketch: Sketch, bits_to_keep: int, **_: object) -> Sketch:
    return sketch if bits_to_keep >= 8 else sketch.add(Op.POSTERIZE, max(bits_to_keep, 0))


def _solarize(sketch: Sketch, thresh: int, **_: object) -> Sketch:
    if not 0 <= thresh <= 256:
        raise Unsketchable
    return sketch.add(Op.SOLARIZE, thresh)


def _solarize_add(sketch: Sketch, add: int, thresh: int = 128, **_: object) -> Sketch:
    if thresh != 128 or not 0 <= add <= 255:
        raise Unsketchable
    return sketch.add(Op.SOLARIZE_ADD, add)


def _desaturate(sketch: Sketch, factor: float, **_: object) -> Sketch:
    return sketch.add(Op.COLOR, min(1.0, max(0.0, 1.0 - factor)))


def _note(op: Op, sketch: Sketch, *value: float, **_: object) -> Sketch:
    return sketch.add(op, *value)


_AFFINE: set[Callable[..., Any]] = {
    auto_augment.shear_x,
    auto_augment.shear_y,
    auto_augment.translate_x_abs,
    auto_augment.translate_y_abs,
    auto_augment.translate_x_rel,
    auto_augment.translate_y_rel,
    auto_augment.rotate,
}
"""These only call the image's methods."""

_BY_FUNCTION: dict[Callable[..., Any], Callable[..., Sketch]] = {
    auto_augment.invert: partial(_note, Op.INVERT),
    auto_augment.solarize: _solarize,
    auto_augment.solarize_add: _solarize_add,
    auto_augment.auto_contrast: partial(_note, Op.AUTOCONTRAST),
    auto_augment.equalize: partial(_note, Op.EQUALIZE),
    auto_augment.brightness: partial(_note, Op.BRIGHTNESS),
    auto_augment.contrast: partial(_note, Op.CONTRAST),
    auto_augment.color: partial(_note, Op.COLOR),
    auto_augment.desaturate: _desaturate,
    auto_augment.sharpness: partial(_note, Op.SHARPNESS),
}
