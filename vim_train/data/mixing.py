"""Mixup and CutMix inside lanes: one draw a lane, partner the lane reversed; timm's arithmetic and draws.

Zhang et al. 2018 (arXiv:1710.09412), Yun et al. 2019 (arXiv:1905.04899).
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from timm.data.mixup import Mixup, mixup_target

from vim_train.config.schema import AugmentConfig
from vim_train.data.order import Stream, position_keys
from vim_train.data.rng import preserved, seed_globals


def mixing_on(augment: AugmentConfig) -> bool:
    """Whether any image can be mixed with another."""
    return augment.mix_prob > 0 and (augment.mixup_alpha > 0 or augment.cutmix_alpha > 0)


class Mix:
    """Mixes batches in place and makes their targets; a pure function of seed, epoch and lane."""

    def __init__(self, augment: AugmentConfig, seed: int, lane: int, num_classes: int, label_smoothing: float) -> None:
        self._seed, self._lane = seed, lane
        self._num_classes, self._smoothing = num_classes, label_smoothing
        self._off_epoch = math.inf if augment.mix_off_epoch is None else augment.mix_off_epoch
        self._mixup: Mixup | None = None
        if mixing_on(augment):
            self._mixup = Mixup(
                mixup_alpha=augment.mixup_alpha,
                cutmix_alpha=augment.cutmix_alpha,
                prob=augment.mix_prob,
                switch_prob=augment.mix_switch_prob,
                label_smoothing=label_smoothing,
                num_classes=num_classes,
            )

    def __call__(
        self, images: torch.Tensor, labels: torch.Tensor, epoch: int, positions: NDArray[np.int64]
    ) -> torch.Tensor:
        """Mix `images` (n, C, H, W), whole lanes at `positions`, in place. Returns the targets as Batch has them."""
        if self._mixup is None or epoch >= self._off_epoch:
            return mixup_target(labels, self._num_classes, smoothing=self._smoothing) if self._smoothing else labels
        lanes = positions[:: self._lane] // self._lane
        targets = []
        with preserved():
            for i, key in enumerate(position_keys(self._seed, Stream.MIX, epoch, lanes).tolist()):
                lane = slice(i * self._lane, (i + 1) * self._lane)
                seed_globals(key)
                _, target = self._mixup(images[lane], labels[lane])
                targets.append(target)
        return torch.cat(targets)
