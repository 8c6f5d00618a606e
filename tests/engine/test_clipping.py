"""Clipping: what each way does to the gradients, against its definition."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from test_loop import assert_same, weights
from torch import nn
from toy import toy_config, toy_trainer

import vim_train.models  # noqa: F401
from vim_train.config.schema import OptimConfig
from vim_train.engine import checkpoint
from vim_train.engine.clipping import create_clip
from vim_train.engine.state import global_norm


@pytest.fixture
def model() -> nn.Module:
    """A Vim of one block with gradients between -1 and 1, and a head as small as at the start of training."""
    torch.manual_seed(0)
    made = timm.create_model("vim_nano_patch7_28", depth=1, num_classes=3)
    for parameter in made.parameters():
        parameter.grad = torch.rand_like(parameter) * 2 - 1
    return made


def clipped(model: nn.Module, **settings: float) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Gradients by name, before and after."""
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    create_clip(model, replace(OptimConfig(), **settings))(global_norm(list(model.parameters())))
    return {name: (before[name], p.grad) for name, p in model.named_parameters()}


def test_by_norm_all_gradients_shrink_alike(model: nn.Module) -> None:
    norm = global_norm(list(model.parameters()))
    for before, after in clipped(model, grad_clip_norm=0.5).values():
        torch.testing.assert_close(after, before * 0.5 / norm)


def test_by_value_each_number_is_cut(model: nn.Module) -> None:
    for before, after in clipped(model, grad_clip_value=0.25).values():
        assert torch.equal(after, before.clamp(-0.25, 0.25))


def test_adaptive_clipping_goes_by_the_norms_of_units_and_leaves_the_head(model: nn.Module) -> None:
    for name, (before, after) in clipped(model, agc=0.01).items():
        if name.startswith("head."):
            assert torch.equal(after, before)
            continue
        weights = model.get_parameter(name).detach()
        dims = tuple(range(1, weights.ndim)) or None
        most = 0.01 * torch.linalg.vector_norm(weights, dim=dims, keepdim=True).clamp(min=1e-3)
        norms = torch.linalg.vector_norm(before, dim=dims, keepdim=True)
        torch.testing.assert_close(after, before * (most / norms).clamp(max=1), msg=name)
        assert not torch.equal(after, before), name


def test_without_a_setting_nothing_is_touched(model: nn.Module) -> None:
    assert all(torch.equal(before, after) for before, after in clipped(model).values())


def by_value(cfg: OptimConfig) -> None:
    cfg.grad_clip_value = 0.01


def adaptive(cfg: OptimConfig) -> None:
    cfg.agc = 0.01


@pytest.mark.parametrize("choose", [by_value, adaptive])
def test_a_resumed_run_clips_as_the_uninterrupted_one(tmp_path: Path, choose: Callable[[OptimConfig], None]) -> None:
    cfg = toy_config()
    free = toy_trainer(cfg, tmp_path / "free")
    free.train()
    choose(cfg.optim)
    cfg.checkpoint.keep = 100
    whole = toy_trainer(cfg, tmp_path / "whole")
    whole.train()
    resumed = toy_trainer(cfg, tmp_path / "resumed")
    resumed.restore(checkpoint.load(tmp_path / "whole" / "checkpoints" / "step_00000004"))
    resumed.train()
    assert_same(weights(whole), weights(resumed))
    assert not torch.equal(weights(whole)["weight"], weights(free)["weight"])
