"""Pixels equal timm's, draw for draw; timm's RandAugment survives Pillow 13."""

import random
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from timm.data import create_transform, rand_augment_transform
from timm.data.random_erasing import RandomErasing

from vim_train.config.errors import UserError
from vim_train.config.schema import AugmentConfig, DataConfig, EraseMode, Interpolation, TrainConfig
from vim_train.data.decode import decode
from vim_train.data.order import Stream, key, position_keys
from vim_train.data.rng import preserved, seed_globals
from vim_train.data.sources import open_source
from vim_train.data.stream import EvalStream, TrainStream
from vim_train.data.transforms import Erase, Normalize, eval_transform, to_chw, train_transform

CPU = torch.device("cpu")


def seed_like_timm(state: int) -> None:
    """By the public functions, where ours takes shorter ways."""
    random.seed(state)
    np.random.seed(state >> 32)
    torch.manual_seed(state)


RECIPES = {
    "published": AugmentConfig(auto_augment="rand-m9-mstd0.5-inc1"),
    "random interpolation": AugmentConfig(auto_augment="rand-m9-mstd0.5-inc1", interpolation=Interpolation.random),
    "weighted": AugmentConfig(auto_augment="rand-m7-n3-tweights"),
    "3-augment": AugmentConfig(auto_augment="3a", color_jitter=0.3),
    "augmix": AugmentConfig(auto_augment="augmix-m5-w4-d2"),
    "autoaugment": AugmentConfig(auto_augment="original-mstd0.5"),
    "jitter and flips": AugmentConfig(color_jitter=0.4, vflip=0.5, interpolation=Interpolation.bilinear),
    "plain": AugmentConfig(crop_scale=[0.7, 1.0], hflip=0.0),
}


@pytest.mark.parametrize("name", RECIPES)
def test_training_pixels_equal_timms(name: str, photos: Path) -> None:
    augment, data = RECIPES[name], DataConfig(img_size=64)
    ours = train_transform(data, augment)
    timms = create_transform(
        64,
        is_training=True,
        scale=tuple(augment.crop_scale),
        ratio=tuple(augment.crop_ratio),
        hflip=augment.hflip,
        vflip=augment.vflip,
        color_jitter=augment.color_jitter,
        auto_augment=augment.auto_augment,
        interpolation=augment.interpolation.value,
        use_prefetcher=True,
    )
    for i, path in enumerate(sorted(photos.glob("*/*.jpg"))[::3]):
        image = decode(str(path))
        state = key(1, i)
        seed_globals(state)
        pixels = to_chw(ours(image))
        seed_like_timm(state)
        assert np.array_equal(pixels, timms(image).numpy())


@pytest.mark.parametrize(("img_size", "crop_pct"), [(224, 0.875), (96, 1.0), (100, 0.9)])
def test_evaluation_pixels_equal_timms(img_size: int, crop_pct: float, photos: Path) -> None:
    ours = eval_transform(DataConfig(img_size=img_size, crop_pct=crop_pct))
    timms = create_transform(img_size, crop_pct=crop_pct, interpolation="bicubic", use_prefetcher=True)
    for path in sorted(photos.glob("*/*.jpg"))[::5]:
        image = decode(str(path))
        assert np.array_equal(to_chw(ours(image)), timms(image).numpy())


@pytest.mark.parametrize("policy", [None, "rand-m9-mstd0.5-inc1", "3a", "augmix-m5-w4-d2", "original"])
def test_grey_images_take_every_policy(policy: str | None) -> None:
    transform = train_transform(DataConfig(img_size=28, mean=[0.3], std=[0.3]), AugmentConfig(auto_augment=policy))
    image = Image.fromarray(np.arange(784, dtype=np.uint8).reshape(28, 28))
    for i in range(100):
        seed_globals(key(2, i))
        assert to_chw(transform(image)).shape == (1, 28, 28)


@pytest.mark.parametrize("mode", EraseMode)
def test_normalised_and_erased_images_equal_timms(mode: EraseMode) -> None:
    augment = AugmentConfig(erase_prob=0.6, erase_mode=mode, erase_count=3)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8))
    ours = Normalize(mean, std, CPU)(pixels)
    keys = position_keys(0, Stream.ERASE, 1, np.arange(12))
    Erase(augment)(ours, keys)

    mean_255, std_255 = (torch.tensor([v * 255 for v in values]).view(1, 3, 1, 1) for values in (mean, std))
    timms = pixels.float().sub_(mean_255).div_(std_255)
    erase = RandomErasing(0.6, mode=mode.value, max_count=3, device="cpu")
    for image, state in zip(timms, keys.tolist(), strict=True):
        seed_like_timm(state)
        erase(image)
    assert torch.equal(ours, timms)


def test_the_streams_pixels_are_timms_at_the_drawn_positions(photo_config: TrainConfig) -> None:
    """End to end: order, decoding, seeding by position, workers' uint8, normalisation."""
    photo_config.augment = AugmentConfig(auto_augment="rand-m9-mstd0.5-inc1", color_jitter=0.4)
    source = open_source(photo_config.data, "train")
    timms = create_transform(
        48,
        is_training=True,
        auto_augment="rand-m9-mstd0.5-inc1",
        color_jitter=0.4,
        interpolation="bicubic",
        use_prefetcher=True,
    )
    normalize = Normalize(photo_config.data.mean, photo_config.data.std, CPU)
    [batch] = TrainStream(source, photo_config, 4, CPU).batches(4, 5)  # the second step of the second epoch
    assert (batch.epoch, batch.positions.tolist()) == (1, list(range(8, 16)))
    rows = np.random.Philox(key=key(3, Stream.ORDER, 1)).random_raw(len(source)).argsort(kind="stable")
    for row, position in enumerate(batch.positions.tolist()):
        lane, place = divmod(row, photo_config.data.lane)
        index = int(rows[8 + place * (8 // photo_config.data.lane) + lane])
        seed_like_timm(key(3, Stream.AUGMENT, 1, position))
        expected = normalize(timms(source.load(index))[None])
        assert torch.equal(batch.images[row], expected[0])
        assert batch.targets[row] == source.labels[index]


def test_evaluation_is_the_eval_transform_in_order(photo_config: TrainConfig) -> None:
    source = open_source(photo_config.data, "val")
    timms = create_transform(48, crop_pct=0.875, interpolation="bicubic", use_prefetcher=True)
    stream = EvalStream(source, photo_config, CPU)
    batches = list(stream)
    assert len(stream) == len(batches) == 3
    assert [len(batch.labels) for batch in batches] == [3, 3, 2]
    assert torch.cat([batch.labels for batch in batches]).tolist() == source.labels.tolist()
    expected = Normalize(photo_config.data.mean, photo_config.data.std, CPU)(
        torch.stack([timms(source.load(i)) for i in range(len(source))])
    )
    assert torch.equal(torch.cat([batch.images for batch in batches]), expected)


def test_randaugment_survives_where_timms_own_asks_for_no_bits() -> None:
    """About one call in 600 posterizes to 0 bits, which Pillow 13 refuses; all others must stay as they are."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    policy = "rand-m9-mstd0.5-inc1"
    mean = [0.485, 0.456, 0.406]
    transform = train_transform(DataConfig(img_size=16), AugmentConfig(auto_augment=policy))
    ours = transform.steps[-1]  # type: ignore[attr-defined]
    fill = tuple(round(255 * v) for v in mean)
    bicubic = Image.Resampling.BICUBIC
    timms = rand_augment_transform(policy, {"translate_const": 7, "img_mean": fill, "interpolation": bicubic})
    refused = 0
    for i in range(6000):
        seed_globals(key(13, i))
        guarded = np.asarray(ours(image))
        seed_globals(key(13, i))
        try:
            expected = np.asarray(timms(image))
        except ValueError:  # bits must be between 1 and 8
            refused += 1
        else:
            assert np.array_equal(guarded, expected)
    if int(PIL.__version__.split(".")[0]) >= 13:
        assert refused >= 10, "timm no longer needs the guard"


def test_posterize_to_no_bits_is_black() -> None:
    from vim_train.data.transforms import _posterize

    for mode in ("L", "RGB"):
        black = _posterize(Image.new(mode, (4, 4), "white"), 0)
        assert black.mode == mode
        assert not np.asarray(black).any()


@pytest.mark.parametrize("policy", ["nonsense", "rand-x9", "rand-mnine", "rand-m9-tfoo", "augmix-z1", "3a-m1", ""])
def test_an_unknown_policy_is_one_line(policy: str) -> None:
    with pytest.raises(UserError, match=r"augment\.auto_augment=") as caught:
        train_transform(DataConfig(), AugmentConfig(auto_augment=policy))
    assert "\n" not in str(caught.value)


def test_global_generators_are_left_as_they_were() -> None:
    seed_like_timm(99)
    with preserved():
        seed_globals(1)
        random.random(), np.random.rand(), torch.rand(1)
    found = random.random(), np.random.rand(), torch.rand(1).item()
    seed_like_timm(99)
    assert found == (random.random(), np.random.rand(), torch.rand(1).item())
