"""Models by name: ours and timm's, with the arguments that each of them knows."""

import pytest
import torch

from vim_train.config.errors import UserError
from vim_train.config.schema import TrainConfig
from vim_train.tasks.build import build_model


def config(name: str, img_size: int = 32, drop_path_rate: float = 0.0) -> TrainConfig:
    cfg = TrainConfig()
    cfg.model.name, cfg.data.img_size, cfg.model.drop_path_rate = name, img_size, drop_path_rate
    return cfg


@pytest.mark.parametrize("name", ["resnet10t", "dla46_c", "deit_tiny_patch16_224"])
def test_models_of_timm_with_and_without_an_image_size(name: str) -> None:
    model = build_model(config(name), 3).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_the_seed_decides_the_weights_also_where_an_argument_was_left_out() -> None:
    a, b = (build_model(config("resnet10t"), 3).state_dict() for _ in range(2))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_an_argument_that_was_asked_for_is_never_dropped() -> None:
    cfg = config("resnet10t")
    cfg.model.depth = 2
    with pytest.raises(UserError, match=r"model.name=resnet10t with data.img_size=32: .*'depth'"):
        build_model(cfg, 3)


def test_an_image_that_patches_do_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="image height 30 does not fit patches of 7 pixels"):
        build_model(config("vim_nano_patch7_28", img_size=30), 3)
