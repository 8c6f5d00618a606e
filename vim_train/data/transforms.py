"""timm's transforms: PIL in, uint8 pixels out, equal to what timm computes from the same draws.

Normalisation and random erasing follow on the device, on whole batches, as behind timm's prefetcher.
"""

import re
from collections.abc import Callable, Iterator
from itertools import takewhile

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import auto_augment
from timm.data.random_erasing import RandomErasing
from timm.data.transforms_factory import create_transform

from vim_train.config.errors import UserError
from vim_train.config.schema import AugmentConfig, DataConfig
from vim_train.data.decode import Mode
from vim_train.data.rng import preserved, seed_globals
from vim_train.data.sketch import Plan, Sketch, SketchStep, Unsketchable, geometry, sketching

Step = Callable[[Image.Image], Image.Image]

_REAL = r"\d+(\.\d+)?"
_POLICY = re.compile(
    rf"rand(-(m\d+|n[1-9]\d*|p{_REAL}|mstd{_REAL}|mmax\d+|inc[01]|t(weights|3aw|3a)))*"
    rf"|augmix(-(m\d+|w[1-9]\d*|d[1-9]\d*|a{_REAL}|b[01]|mstd{_REAL}))*"
    rf"|(original|originalr|v0|v0r|3a)(-mstd{_REAL})?"
)
"""What timm's policy strings may say. timm itself passes over some of what it does not understand."""


class Transform:
    """Steps in turn, by Pillow or as far as a plan for the native library goes: the same draws, the same pixels.

    A class, so that workers started by spawn can be sent it.
    """

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps
        self._geometry: list[SketchStep] = list(takewhile(bool, map(geometry, steps)))  # type: ignore[arg-type]
        sketched = map(sketching, steps[len(self._geometry) :])
        self._colour: list[SketchStep] = list(takewhile(bool, sketched))  # type: ignore[arg-type]

    def __call__(self, image: Image.Image) -> Image.Image:
        """All steps, by Pillow."""
        for step in self.steps:
            image = step(image)
        return image

    def sketch(self, size: tuple[int, int], mode: Mode, operations: bool) -> tuple[Plan, list[Step]] | None:
        """Draw for an image of `size` (width, height): the plan, and the steps that are left for Pillow after it.

        `operations`: whether plans may do more than crop, resize and flip. None: a plan cannot express what was drawn.
        """
        steps = [*self._geometry, *self._colour] if operations else self._geometry
        sketch = Sketch(size, mode)
        try:
            for step in steps:
                step(sketch)
        except Unsketchable:
            return None
        return sketch.plan, self.steps[len(steps) :]


def train_transform(data: DataConfig, augment: AugmentConfig, side: int | None = None) -> Transform:
    """Random resized crop, flips, auto-augment policy and colour jitter, drawing from the global generators.

    Args:
        side: of what comes out, pixels; None: `data.img_size`.

    Raises:
        UserError: timm knows no policy `augment.auto_augment`.
    """
    policy = augment.auto_augment
    if policy is not None and not _POLICY.fullmatch(policy):
        raise UserError(
            f"augment.auto_augment={policy}: timm knows no such policy; accepted are rand-m9-mstd0.5-inc1, "
            "augmix-m5-w4-d2, original, originalr, v0, v0r, 3a and their variations"
        )
    # The third part only makes tensors.
    crop, colour, _ = create_transform(
        side or data.img_size,
        is_training=True,
        scale=(augment.crop_scale[0], augment.crop_scale[1]),
        ratio=(augment.crop_ratio[0], augment.crop_ratio[1]),
        hflip=augment.hflip,
        vflip=augment.vflip,
        color_jitter=augment.color_jitter or None,  # type: ignore[arg-type]  # 0: a jitter that only costs time
        auto_augment=policy,
        interpolation=augment.interpolation.value,
        mean=tuple(data.mean),
        use_prefetcher=True,
        separate=True,
    )
    steps = [*crop.transforms, *colour.transforms]
    _guard_posterize(steps)
    return Transform(steps)


def eval_transform(data: DataConfig) -> Transform:
    """Resize the shorter side to img_size / crop_pct, bicubic, and crop the centre."""
    whole = create_transform(data.img_size, crop_pct=data.crop_pct, interpolation="bicubic", use_prefetcher=True)
    return Transform(whole.transforms[:-1])


def to_chw(image: Image.Image) -> NDArray[np.uint8]:
    """uint8 (C, H, W): a view, not contiguous for RGB."""
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


class Normalize:
    """uint8 pixels (n, C, H, W) to float32 on `device`: (x - 255 mean) / (255 std) in timm's order of operations."""

    def __init__(self, mean: list[float], std: list[float], device: torch.device) -> None:
        self.device = device
        self._mean = torch.tensor([255 * value for value in mean], device=device).view(1, -1, 1, 1)
        self._std = torch.tensor([255 * value for value in std], device=device).view(1, -1, 1, 1)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        moved = images.to(self.device, non_blocking=True)
        return moved.to(torch.float32).sub_(self._mean).div_(self._std)


class Erase:
    """timm's random erasing of normalised images, each with draws of its own key, on the CPU: alike on every device."""

    def __init__(self, augment: AugmentConfig) -> None:
        self._erase = RandomErasing(
            augment.erase_prob, mode=augment.erase_mode.value, max_count=augment.erase_count, device="cpu"
        )

    def __call__(self, images: torch.Tensor, keys: NDArray[np.uint64]) -> None:
        """Erase in `images` (n, C, H, W) in place; `keys` (n,)."""
        with preserved():
            for image, key in zip(images, keys.tolist(), strict=True):
                seed_globals(key)
                self._erase(image)


def _guard_posterize(steps: list[Step]) -> None:
    """Make timm's posterize take 0 bits again.

    timm 1.0.31 asks for them when a drawn magnitude reaches the top of its range; Pillow 13 raises ValueError where
    earlier ones returned black.
    """
    for op in _augment_ops(steps):
        if op.aug_fn is auto_augment.posterize:
            op.aug_fn = _posterize


def _augment_ops(steps: list[Step]) -> Iterator[auto_augment.AugmentOp]:
    for step in steps:
        if isinstance(step, auto_augment.RandAugment | auto_augment.AugMixAugment):
            yield from step.ops
        elif isinstance(step, auto_augment.AutoAugment):
            for sub_policy in step.policy:
                yield from sub_policy


def _posterize(image: Image.Image, bits_to_keep: int, **kwargs: object) -> Image.Image:
    if bits_to_keep < 1:
        return image.point([0] * 256 * len(image.getbands()))
    kept: Image.Image = auto_augment.posterize(image, bits_to_keep, **kwargs)
    return kept
