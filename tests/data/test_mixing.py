"""Mixing inside lanes is timm's, draw for draw."""

import numpy as np
import pytest
import torch
from timm.data.mixup import Mixup

from vim_train.config.schema import AugmentConfig
from vim_train.data.mixing import Mix
from vim_train.data.order import Stream, key

IMAGES = torch.randn(24, 3, 16, 20, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % 5
POSITIONS = np.arange(48, 72)


@pytest.mark.parametrize(("mixup_alpha", "cutmix_alpha"), [(0.8, 1.0), (0.8, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize(("prob", "smoothing"), [(1.0, 0.1), (0.5, 0.0)])
def test_each_lane_is_one_call_of_timms_mixup(
    mixup_alpha: float, cutmix_alpha: float, prob: float, smoothing: float
) -> None:
    augment = AugmentConfig(mixup_alpha=mixup_alpha, cutmix_alpha=cutmix_alpha, mix_prob=prob, mix_switch_prob=0.4)
    images = IMAGES.clone()
    targets = Mix(augment, seed=9, lane=8, num_classes=5, label_smoothing=smoothing)(images, LABELS, 2, POSITIONS)

    timms = Mixup(mixup_alpha, cutmix_alpha, prob=prob, switch_prob=0.4, label_smoothing=smoothing, num_classes=5)
    for i in range(3):
        lane = slice(8 * i, 8 * i + 8)
        np.random.seed(key(9, Stream.MIX, 2, 6 + i) >> 32)
        mixed, target = timms(IMAGES[lane].clone(), LABELS[lane])
        assert torch.equal(images[lane], mixed)
        assert torch.equal(targets[lane], target)
    assert not torch.equal(images, IMAGES)


def test_lanes_draw_for_themselves_and_split_anyhow() -> None:
    mix = Mix(AugmentConfig(mixup_alpha=0.8, cutmix_alpha=1.0), seed=1, lane=8, num_classes=5, label_smoothing=0.1)
    whole = IMAGES.clone()
    targets = mix(whole, LABELS, 0, POSITIONS)
    for i in range(3):
        lane = slice(8 * i, 8 * i + 8)
        part = IMAGES[lane].clone()
        assert torch.equal(mix(part, LABELS[lane], 0, POSITIONS[lane]), targets[lane])
        assert torch.equal(part, whole[lane])
    shares = {round(float(targets[8 * i].max()), 5) for i in range(3)}
    assert len(shares) == 3


def test_the_cutmix_share_is_that_of_the_clipped_box() -> None:
    mix = Mix(AugmentConfig(cutmix_alpha=1.0), seed=1, lane=24, num_classes=24, label_smoothing=0.0)
    for epoch in range(20):
        images = torch.arange(24.0).view(24, 1, 1, 1).expand(24, 1, 16, 20).clone()
        targets = mix(images, torch.arange(24), epoch, np.arange(24))
        kept = (images[3] == 3).float().mean()
        assert targets[3, 3].item() == pytest.approx(kept.item(), abs=1e-6)
        assert targets[3, 20].item() == pytest.approx(1 - kept.item(), abs=1e-6)


def test_without_mixing_targets_are_labels_or_smoothed_labels() -> None:
    images = IMAGES.clone()
    hard = Mix(AugmentConfig(), 0, 8, 5, label_smoothing=0.0)(images, LABELS, 0, POSITIONS)
    soft = Mix(AugmentConfig(), 0, 8, 5, label_smoothing=0.1)(images, LABELS, 0, POSITIONS)
    off = Mix(AugmentConfig(mixup_alpha=0.8, mix_prob=0.0), 0, 8, 5, label_smoothing=0.0)(images, LABELS, 0, POSITIONS)
    assert torch.equal(images, IMAGES)
    assert torch.equal(hard, LABELS)
    assert torch.equal(off, LABELS)
    assert torch.allclose(soft, torch.nn.functional.one_hot(LABELS, 5) * 0.9 + 0.02)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_from_the_epoch_on_that_ends_mixing_batches_are_as_without(smoothing: float) -> None:
    augment = AugmentConfig(mixup_alpha=0.8, cutmix_alpha=1.0, mix_off_epoch=2)
    plain = Mix(AugmentConfig(), 0, 8, 5, smoothing)(IMAGES, LABELS, 2, POSITIONS)
    for epoch, mixed in ((1, True), (2, False), (3, False)):
        images = IMAGES.clone()
        targets = Mix(augment, 0, 8, 5, smoothing)(images, LABELS, epoch, POSITIONS)
        assert torch.equal(images, IMAGES) is not mixed
        assert (targets.shape == plain.shape and torch.equal(targets, plain)) is not mixed
