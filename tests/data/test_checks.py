"""Numbers that do not fit one another are one line that says what would."""

import copy

import pytest
import torch

from vim_train.config.errors import UserError
from vim_train.config.schema import TrainConfig
from vim_train.data.sources import open_source
from vim_train.data.stream import EvalStream, TrainStream

CPU = torch.device("cpu")


def build(cfg: TrainConfig, changes: dict[str, object]) -> TrainStream:
    cfg = copy.deepcopy(cfg)
    for name, value in changes.items():
        group, _, field = name.partition(".")
        setattr(getattr(cfg, group), field, value)
    return TrainStream(open_source(cfg.data, "train"), cfg, 10, CPU)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"data.batch_size": 6001}, "data.batch_size=6001 is more than the 6000 training images"),
        ({"data.batch_size": 0}, "data.batch_size=0: must be at least 1"),
        ({"data.workers": -1}, "data.workers=-1: must be at least 0"),
        ({"data.repeats": 0}, "data.repeats=0: must be at least 1"),
        (
            {"optim.accumulate": 3},
            "optim.accumulate=3 does not divide data.batch_size=32: accepted are 1, 2, 4, 8, 16, 32",
        ),
        (
            {"data.lane": 128},
            "data.lane=128 does not divide the 32 images of a micro-batch (data.batch_size=32 / optim.accumulate=1): "
            "accepted are 2, 4, 8, 16, 32",
        ),
        ({"data.lane": 16, "optim.accumulate": 4}, "data.lane=16 does not divide the 8 images"),
        ({"data.lane": 1}, "data.lane=1 is odd, and mixing pairs the images of a lane: accepted are 2, 4, 8, 16, 32"),
        ({"data.lane": 9, "data.batch_size": 9}, "mixing needs an even micro-batch"),
        ({"data.mean": [0.5, 0.5, 0.5]}, "data.mean=[0.5, 0.5, 0.5] has 3 values, but model.in_chans=1"),
        ({"model.in_chans": 3}, "data.mean=[0.3] has 1 values, but model.in_chans=3"),
        ({"model.in_chans": 4}, "model.in_chans=4: images have 3 channels (RGB) or 1 (grey)"),
        ({"data.eval_batch_size": 0}, "data.eval_batch_size=0: must be at least 1"),
    ],
)
def test_a_misfit_is_one_line(fashion_config: TrainConfig, changes: dict[str, object], line: str) -> None:
    with pytest.raises(UserError) as caught:
        build(fashion_config, changes)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_odd_lanes_are_fine_without_mixing(fashion_config: TrainConfig) -> None:
    fashion_config.augment.mixup_alpha = fashion_config.augment.cutmix_alpha = 0
    assert build(fashion_config, {"data.lane": 1}).steps_per_epoch == 187


def test_evaluation_checks_channels_too(fashion_config: TrainConfig) -> None:
    fashion_config.data.std = [0.5, 0.5]
    with pytest.raises(UserError, match=r"data\.std="):
        EvalStream(open_source(fashion_config.data, "val"), fashion_config, CPU)
