"""What only shows once the data is opened."""

import pytest
import torch

from vim_train.config.errors import UserError
from vim_train.config.schema import TrainConfig
from vim_train.data.sources import open_source
from vim_train.data.stream import TrainStream


def test_a_batch_larger_than_the_data_is_one_line(fashion_config: TrainConfig) -> None:
    fashion_config.data.batch_size = 6001
    with pytest.raises(UserError) as caught:
        TrainStream(open_source(fashion_config.data, "train"), fashion_config, 10, torch.device("cpu"))
    assert str(caught.value).startswith("data.batch_size=6001 is more than the 6000 training images; take a smaller")
