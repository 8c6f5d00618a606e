"""What only shows once the data is opened."""

import re
from pathlib import Path

import pytest
import torch

from vim_train.config.checks import check_train
from vim_train.config.errors import UserError
from vim_train.config.schema import DataConfig, DataName, TrainConfig
from vim_train.data.sources import open_source
from vim_train.data.stream import TrainStream


def test_a_batch_larger_than_the_data_is_one_line(fashion_config: TrainConfig) -> None:
    fashion_config.data.batch_size = 6008
    with pytest.raises(UserError) as caught:
        TrainStream(open_source(fashion_config.data, "train"), fashion_config, 10, torch.device("cpu"))
    line = "data.batch_size=6008 is more than the 6000 training images; add data.batch_size=4096"
    assert str(caught.value) == line


@pytest.mark.parametrize("accumulate", [1, 4, 16])
@pytest.mark.parametrize("lane", [2, 24, 32])
@pytest.mark.parametrize("world", [1, 3])
def test_the_keys_to_add_for_few_images_are_accepted(
    photo_config: TrainConfig, lane: int, accumulate: int, world: int
) -> None:
    """27 images."""
    data, optim = photo_config.data, photo_config.optim
    data.batch_size, data.lane, optim.accumulate = 96 * accumulate * world, lane, accumulate
    check_train(photo_config)
    source = open_source(data, "train")
    with pytest.raises(UserError) as caught:
        TrainStream(source, photo_config, 4, torch.device("cpu"), world=world)
    found = dict(re.findall(r"(\S+)=(\d+)", str(caught.value).partition("; add ")[2]))
    assert found
    for key, value in found.items():
        setattr(optim if key == "optim.accumulate" else data, key.rpartition(".")[2], int(value))
    check_train(photo_config)
    assert TrainStream(source, photo_config, 4, torch.device("cpu"), world=world).steps_per_epoch == 1


def test_a_share_that_holds_out_nothing_names_one_that_does(photos: Path) -> None:
    data = DataConfig(name=DataName.folder, root=str(photos), val_fraction=0.001)
    with pytest.raises(UserError) as caught:
        open_source(data, "train")
    line = f"{photos}: data.val_fraction=0.001 holds out none of 35 images; take data.val_fraction="
    assert str(caught.value).startswith(line)
    data.val_fraction = float(str(caught.value).removeprefix(line).partition(" ")[0])
    assert len(open_source(data, "val")) == 7
    assert len(open_source(data, "train")) == 28


def test_a_share_of_1_is_all_for_evaluation_and_nothing_to_train_on(photos: Path) -> None:
    data = DataConfig(name=DataName.folder, root=str(photos), val_fraction=1)
    assert (len(open_source(data, "val")), open_source(data, "val").form) == (35, "image folders")
    with pytest.raises(UserError, match=r"/fish: data.val_fraction=1 leaves none of its \d+ images to train on; "):
        open_source(data, "train")
