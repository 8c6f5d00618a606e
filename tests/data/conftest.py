"""Configurations, folders and hashes for the data tests."""

import hashlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch

from vim_train.config.schema import AugmentConfig, DataConfig, DataName, Interpolation, TrainConfig
from vim_train.data.batch import Batch

CPU = torch.device("cpu")


@pytest.fixture
def fashion_config() -> TrainConfig:
    """Small grey batches of the embedded set with every kind of draw in use."""
    cfg = TrainConfig(seed=7)
    cfg.data = DataConfig(
        name=DataName.fashion,
        img_size=28,
        batch_size=32,
        eval_batch_size=96,
        lane=8,
        workers=0,
        crop_pct=1.0,
        mean=[0.3],
        std=[0.35],
    )
    cfg.model.in_chans = 1
    cfg.augment = AugmentConfig(
        crop_scale=[0.5, 1.0], auto_augment="rand-m9-mstd0.5-inc1", erase_prob=0.25, mixup_alpha=0.8, cutmix_alpha=1.0
    )
    cfg.task.label_smoothing = 0.1
    return cfg


@pytest.fixture
def photo_root(photos: Path, tmp_path: Path) -> Path:
    """The photographs as train/ and val/, in a folder that a test may change."""
    root = tmp_path / "photos"
    for folder in sorted(path for path in photos.iterdir() if path.is_dir()):
        for i, file in enumerate(sorted(folder.glob("*.jpg"))):
            target = root / ("val" if i < 2 else "train") / folder.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    return root


@pytest.fixture
def photo_config(photo_root: Path) -> TrainConfig:
    """The published recipe's augmentation on the photographs, at 48 pixels."""
    cfg = TrainConfig(seed=3)
    cfg.data = DataConfig(
        name=DataName.folder, root=str(photo_root), img_size=48, batch_size=8, eval_batch_size=3, lane=4, workers=0
    )
    cfg.augment = AugmentConfig(
        auto_augment="rand-m9-mstd0.5-inc1",
        interpolation=Interpolation.random,
        erase_prob=0.25,
        mixup_alpha=0.8,
        cutmix_alpha=1.0,
    )
    return cfg


@pytest.fixture
def digests() -> Callable[[Iterable[Batch]], dict[tuple[int, int], str]]:
    """Hashes by (epoch, position) of the image, the target and the label that a batch holds there."""

    def of(batches: Iterable[Batch]) -> dict[tuple[int, int], str]:
        found = {}
        for batch in batches:
            for row, position in enumerate(batch.positions.tolist()):
                parts = (batch.images[row], batch.targets[row], batch.labels[row])
                found[batch.epoch, position] = hashlib.sha256(
                    b"".join(part.contiguous().numpy().tobytes() for part in parts)
                ).hexdigest()
        return found

    return of
