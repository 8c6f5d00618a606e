"""Models by name: ours and timm's, with the arguments that each of them knows."""

import pytest
import torch

from vim_train.config.errors import UserError
from vim_train.config.schema import TrainConfig
from vim_train.tasks.build import build_model, check_sizes


def config(name: str, img_size: int = 32, drop_path_rate: float = 0.0) -> TrainConfig:
    cfg = TrainConfig()
    cfg.model.name, cfg.data.img_size, cfg.model.drop_path_rate = name, img_size, drop_path_rate
    return cfg


@pytest.mark.parametrize("name", ["resnet10t", "dla46_c", "deit_tiny_patch16_224"])
def test_models_of_timm_with_and_without_an_image_size(name: str) -> None:
    model = build_model(config(name), 3).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_a_name_that_is_nearly_one_of_timms_is_told_it() -> None:
    with pytest.raises(UserError, match=r"^model.name=resnet10tt: no such model; try one of resnet10t, "):
        build_model(config("resnet10tt"), 3)


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


@pytest.mark.parametrize("name", ["vim_nano_patch7_28", "deit_tiny_patch16_224", "resnet10t"])
def test_a_model_trains_at_the_sizes_of_a_schedule(name: str) -> None:
    patch = 7 if "vim" in name else 16
    cfg = config(name, img_size=2 * patch)
    cfg.data.img_size_schedule = [f"0:{patch}", f"1:{3 * patch}", f"2:{2 * patch}"]
    model = build_model(cfg, 3)
    check_sizes(cfg, model, name)
    assert model.training
    model.eval()
    for side in (patch, 3 * patch):
        assert model(torch.zeros(1, 3, side, side)).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "size", "other", "why"),
    [
        ("vim_nano_patch7_28", 28, 30, "image height 30 does not fit patches of 7 pixels"),
        ("deit_tiny_patch16_224", 32, 40, "Input height"),
        ("mixer_s32_224", 64, 96, "Input height"),
    ],
)
def test_a_size_of_the_schedule_that_the_model_does_not_take_is_refused(
    name: str, size: int, other: int, why: str
) -> None:
    cfg = config(name, img_size=size)
    cfg.data.img_size_schedule = [f"0:{other}", f"1:{size}"]
    with pytest.raises(UserError, match=rf"^data.img_size_schedule: {name} does not work at {other} pixels: {why}"):
        check_sizes(cfg, build_model(cfg, 3), name)
