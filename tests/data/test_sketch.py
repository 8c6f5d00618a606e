"""timm's transforms on a sketch: the same draws, and a plan with the same pixels."""

import io
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pixel_library import Encoded, by_pillow, encode, from_pixels, needs_library, planes, private_copy
from timm.data import auto_augment
from torchvision.transforms import ColorJitter

from vim_train.config.schema import AugmentConfig, DataConfig, Interpolation
from vim_train.data import fetch
from vim_train.data.decode import BadImage, Mode
from vim_train.data.fetch import Fetch, Fetched, Request
from vim_train.data.pixels import PixelLibrary, pixel_library
from vim_train.data.rng import seed_globals
from vim_train.data.sketch import Op, Plan, Sketch, Unsketchable, sketching
from vim_train.data.transforms import Transform, _guard_posterize, eval_transform, train_transform

WIDTH, HEIGHT = 61, 47
FILL = {"RGB": (124, 116, 104), "L": (120,)}


@pytest.fixture(scope="module", params=["baseline", "avx2", "avx512"])
def library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PixelLibrary:
    found = private_copy(tmp_path_factory.mktemp("library"), request.param)
    if found.isa != request.param:
        pytest.skip(f"this processor has no {request.param}")
    return found


@pytest.fixture(scope="module")
def pictures(photos: Path) -> list[Image.Image]:
    """Photographs, and what operations may stumble over: one colour, few greys, extremes, odd sizes."""
    paths = sorted(photos.glob("**/*.jpg"))[::9]
    noise = np.random.Generator(np.random.Philox(1)).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    flat = Image.new("RGB", (WIDTH, HEIGHT), (9, 9, 200))
    dull = Image.fromarray((noise // 100 + 90).astype(np.uint8))
    return [
        *(Image.open(path).convert("RGB").resize((WIDTH, HEIGHT)) for path in paths),
        *(Image.fromarray(noise), flat, dull),
        *(Image.fromarray(noise[:height, :width].copy()) for width, height in ((1, 1), (2, 9), (9, 2), (3, 3))),
    ]


def carried_out(library: PixelLibrary, image: Image.Image, sketch: Sketch) -> NDArray[np.uint8]:
    return from_pixels(library, image, sketch.plan)


@needs_library
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", sorted(name for name in auto_augment.NAME_TO_OP if "Blur" not in name))
def test_every_operation_of_timms(name: str, mode: Mode, library: PixelLibrary, pictures: list[Image.Image]) -> None:
    hparams = {"translate_const": 20, "img_mean": FILL[mode], "magnitude_std": 3.0}
    for picture in pictures:
        image = picture.convert(mode)
        for magnitude in (0, 3, 9, 10):
            policy = auto_augment.AutoAugment([[auto_augment.AugmentOp(name, 1.0, magnitude, hparams)]])
            _guard_posterize([policy])
            draw = sketching(policy)
            assert draw is not None
            sketch = Sketch(image.size, mode)
            seed_globals(magnitude << 32)
            draw(sketch)
            after = random.random(), np.random.rand()
            seed_globals(magnitude << 32)
            expected = planes(policy(image))
            assert after == (random.random(), np.random.rand())
            np.testing.assert_array_equal(carried_out(library, image, sketch), expected, str(sketch.plan))


@needs_library
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_colour_jitter_in_every_order(mode: Mode, library: PixelLibrary, pictures: list[Image.Image]) -> None:
    jitter = ColorJitter(0.9, 0.8, 0.7)
    draw = sketching(jitter)
    assert draw is not None
    orders = set()
    for key in range(60):
        image = pictures[key % len(pictures)].convert(mode)
        sketch = Sketch(image.size, mode)
        seed_globals(key)
        draw(sketch)
        after = torch.rand(1)
        seed_globals(key)
        expected = planes(jitter(image))
        assert after == torch.rand(1)
        orders.add(tuple(step.op for step in sketch.plan.steps))
        np.testing.assert_array_equal(carried_out(library, image, sketch), expected, str(sketch.plan))
    assert len(orders) == 6


RECIPES = {
    "published": AugmentConfig(auto_augment="rand-m9-mstd0.5-inc1", color_jitter=0.4),
    "random interpolation": AugmentConfig(auto_augment="rand-m9-mstd0.5-inc1", interpolation=Interpolation.random),
    "strong": AugmentConfig(auto_augment="rand-m30-n4-mstd9", vflip=0.5),
    "weighted": AugmentConfig(auto_augment="rand-m7-n3-tweights"),
    "augmix": AugmentConfig(auto_augment="augmix-m5-w4-d2"),
    "3-augment": AugmentConfig(auto_augment="3a", color_jitter=0.3),
    "original": AugmentConfig(auto_augment="original-mstd0.5"),
    "originalr": AugmentConfig(auto_augment="originalr"),
    "v0": AugmentConfig(auto_augment="v0", color_jitter=0.2),
    "jitter and flips": AugmentConfig(color_jitter=0.4, vflip=0.5, interpolation=Interpolation.bilinear),
    "plain": AugmentConfig(crop_scale=[0.7, 1.0], hflip=0.0),
}
BY_PILLOW_IN_PART = {"augmix", "3-augment"}


@needs_library
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("name", RECIPES)
def test_the_whole_of_training_on_jpegs(name: str, mode: Mode, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the library where it may, by Pillow alone, and by the library without a libjpeg: one and the same."""
    library = pixel_library()
    assert library is not None
    transform = train_transform(DataConfig(img_size=48, mean=[0.4] * len(mode), std=[0.2] * len(mode)), RECIPES[name])
    source = Encoded([path.read_bytes() for path in sorted(photos.glob("**/*.jpg"))])
    counted = _Counting(library)
    native = _answer(source, transform, mode, counted, monkeypatch)
    by_pillow = _answer(source, transform, mode, None, monkeypatch)
    assert torch.equal(native, by_pillow)
    if library.libjpeg is not None:
        assert counted.jpegs == len(native)
    assert torch.equal(_answer(source, transform, mode, replace(library, libjpeg=None), monkeypatch), by_pillow)
    assert torch.equal(_answer(source, transform, mode, replace(library, operations=False), monkeypatch), by_pillow)


class _Counting(PixelLibrary):
    """A library that counts the JPEGs it decodes."""

    def __init__(self, library: PixelLibrary) -> None:
        super().__init__(library.handle, library.isa, library.libjpeg, library.columns_first, library.operations)
        object.__setattr__(self, "jpegs", 0)

    def from_jpeg(self, data: bytes, plan: Plan, mode: str, out: NDArray[np.uint8]) -> bool:
        done = super().from_jpeg(data, plan, mode, out)
        object.__setattr__(self, "jpegs", self.jpegs + done)
        return done


def _answer(
    source: Encoded,
    transform: Transform,
    mode: Mode,
    library: PixelLibrary | None,
    monkeypatch: pytest.MonkeyPatch,
    seed: int | None = 5,
    size: int = 48,
) -> torch.Tensor:
    """Two epochs of `source`; evaluation where `seed` is None."""
    images = [_fetch(source, transform, mode, library, monkeypatch, seed, size, epoch).images for epoch in range(2)]
    assert all(image is not None for image in images)
    return torch.cat(images)  # type: ignore[arg-type]


def _fetch(
    source: Encoded,
    transform: Transform,
    mode: Mode,
    library: PixelLibrary | None,
    monkeypatch: pytest.MonkeyPatch,
    seed: int | None,
    size: int,
    epoch: int,
    replacements: int = 0,
) -> Fetched:
    monkeypatch.setattr(fetch, "pixel_library", lambda: library)
    one = Fetch(source, transform, mode, size, seed, replacements)
    positions = np.arange(len(source))
    return one[Request(epoch, positions, positions)]


@needs_library
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("crop_pct", [0.9, 1.0])
def test_evaluation(mode: Mode, crop_pct: float, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transform = eval_transform(DataConfig(img_size=56, crop_pct=crop_pct))
    source = Encoded([path.read_bytes() for path in sorted(photos.glob("**/*.jpg"))])
    library = pixel_library()
    answers = [_answer(source, transform, mode, one, monkeypatch, seed=None, size=56) for one in (library, None)]
    assert torch.equal(*answers)


@needs_library
def test_bad_images_have_the_same_names_and_reasons_and_replacements(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = [path.read_bytes() for path in sorted(photos.glob("**/*.jpg"))[:12]]
    frame = whole[0].index(b"\xff\xc0")
    twelve_bits = whole[0][: frame + 4] + b"\x0c" + whole[0][frame + 5 :]
    deep = encode(Image.new("CMYK", (30, 20), (10, 200, 30, 40)))
    png = io.BytesIO()
    Image.effect_noise((40, 50), 80).convert("I;16").save(png, "PNG")
    damaged = [
        whole[1][:3000],
        whole[2][:-2],
        b"<html>",
        whole[3][:100],
        twelve_bits,
        whole[4][:-2] + b"\xff\xc4\xff\xd9",
    ]
    source = Encoded([*whole, *damaged, deep, png.getvalue()])
    transform = train_transform(DataConfig(img_size=48), RECIPES["published"])
    found = [
        _fetch(source, transform, "RGB", one, monkeypatch, 5, 48, 0, replacements=6) for one in (pixel_library(), None)
    ]
    assert found[0].bad == found[1].bad
    assert {name for _, name, _ in found[0].bad} >= {"image 12", "image 14", "image 15", "image 16"}
    assert found[0].images is not None
    assert found[1].images is not None
    assert torch.equal(found[0].images, found[1].images)


def test_a_source_of_pixels_and_one_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(Encoded):
        def read(self, index: int) -> bytes | None:
            if index == 1:
                raise BadImage("there", "gone")
            return None

        def load(self, index: int, mode: Mode = "RGB") -> Image.Image:
            return Image.new(mode, (60, 60), 200)

    transform = train_transform(DataConfig(img_size=48), AugmentConfig())
    library = pixel_library()
    answer = _fetch(Odd([b"", b""]), transform, "L", library, monkeypatch, 5, 48, 0, replacements=1)
    if library is not None:
        assert [(bad.source_index, bad.path, bad.reason) for bad in answer.bad] == [(1, "there", "gone")]
    assert answer.images is not None
    assert answer.images.unique().tolist() == [200]


def test_crop_resize_crop_and_flips_are_written_down() -> None:
    sketch = Sketch((500, 375), "RGB")
    assert (sketch.size, sketch.width, sketch.height, sketch.mode) == ((500, 375), 500, 375, "RGB")
    done = sketch.crop((100, 50, 300, 250)).resize((64, 48), Image.Resampling.BICUBIC).crop((8, 0, 56, 48))
    done = done.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert done is sketch
    assert sketch.size == (48, 48)
    assert sketch.plan == Plan((100, 50, 200, 200), (64, 48), (8, 0, 48, 48), 3, flip_x=True)
    sketch.add(Op.INVERT).rotate(10, Image.Resampling.BILINEAR, fillcolor=(1, 2, 3))
    assert [step.op for step in sketch.plan.steps] == [Op.INVERT, Op.AFFINE]
    assert sketch.plan.steps[1].fill == (1, 2, 3)


def test_crops_add_up_and_what_changes_nothing_is_not_written_down() -> None:
    sketch = Sketch((90, 80), "RGB")
    sketch.crop((10, 10, 70, 60)).crop((5, 5, 45, 45)).resize((40, 40), Image.Resampling.BOX).copy()
    sketch.resize((20, 20), Image.Resampling.BILINEAR)
    assert sketch.plan == Plan((15, 15, 40, 40), (20, 20), (0, 0, 20, 20), 2)


BEYOND = {
    "crop outside": lambda s: s.crop((0, 0, 41, 30)),
    "empty crop": lambda s: s.crop((5, 5, 5, 9)),
    "crop of a flipped image": lambda s: s.transpose(Image.Transpose.FLIP_LEFT_RIGHT).crop((0, 0, 9, 9)),
    "a second resize": lambda s: s.resize((9, 9), 3).resize((8, 8), 3),
    "another filter": lambda s: s.resize((9, 9), Image.Resampling.LANCZOS),
    "resize by default": lambda s: s.resize((9, 9)),
    "resize of a box": lambda s: s.resize((9, 9), 3, box=(0, 0, 5, 5)),
    "resize in two steps": lambda s: s.resize((9, 9), 3, reducing_gap=2.0),
    "resize after an operation": lambda s: s.add(Op.INVERT).resize((9, 9), 3),
    "a quarter turn": lambda s: s.rotate(90),
    "flip after an operation": lambda s: s.add(Op.INVERT).transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    "nearest": lambda s: s.transform((40, 30), Image.Transform.AFFINE, (1, 0, 0, 0, 1, 0), fillcolor=(0, 0, 0)),
    "another size": lambda s: s.transform((9, 9), Image.Transform.AFFINE, (1, 0, 0, 0, 1, 0), 3, fillcolor=(0, 0, 0)),
    "perspective": lambda s: s.transform((40, 30), Image.Transform.PERSPECTIVE, (1,) * 8, 3, fillcolor=(0, 0, 0)),
    "no fill": lambda s: s.rotate(5, Image.Resampling.BICUBIC),
    "fill of one band": lambda s: s.rotate(5, Image.Resampling.BICUBIC, fillcolor=3),
    "fill of reals": lambda s: s.rotate(5, Image.Resampling.BICUBIC, fillcolor=(0.5, 1.0, 2.0)),
    "pixels": lambda s: s.getpixel((0, 0)),
    "array": np.asarray,
    "convert": lambda s: s.convert("L"),
    "blur": lambda s: auto_augment.gaussian_blur(s, 1.0),
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_no_plan_expresses_is_left_to_pillow(name: str) -> None:
    with pytest.raises(Unsketchable):
        BEYOND[name](Sketch((40, 30), "RGB"))


def test_the_steps_that_are_left_after_a_plan() -> None:
    for name, recipe in RECIPES.items():
        transform = train_transform(DataConfig(img_size=48), recipe)
        for operations in (True, False):
            seed_globals(1)
            sketched = transform.sketch((200, 100), "RGB", operations)
            assert sketched is not None
            plan, rest = sketched
            whole = operations and name not in BY_PILLOW_IN_PART
            geometry = 2 + (recipe.vflip > 0) - (recipe.hflip == 0)
            assert len(rest) == (0 if whole else len(transform.steps) - geometry)
            assert plan.resized == (48, 48)


@needs_library
def test_a_plan_is_what_pillow_does(photos: Path) -> None:
    """Without the library's part in it: the draws that a sketch takes are those of an image."""
    transform = train_transform(DataConfig(img_size=48), AugmentConfig(vflip=0.5, interpolation=Interpolation.random))
    image = Image.open(sorted(photos.glob("**/*.jpg"))[0]).convert("RGB")
    for key in range(40):
        seed_globals(key)
        sketched = transform.sketch(image.size, "RGB", operations=True)
        assert sketched is not None
        seed_globals(key)
        np.testing.assert_array_equal(by_pillow(image, sketched[0]), planes(transform(image)))
