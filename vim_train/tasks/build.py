"""Models by name, through timm's registry."""

import re
from dataclasses import asdict
from difflib import get_close_matches
from enum import Enum
from typing import Any

import timm
import torch
from torch import nn

import vim_train.models  # noqa: F401  (registers the Vim variants)
from vim_train.config.errors import UserError
from vim_train.config.schema import ModelConfig, TrainConfig
from vim_train.config.sizes import train_sizes

NOT_ARGUMENTS = (
    *("name", "checkpoint", "checkpoint_weights", "pos_embed", "reset_head", "freeze", "drop_path_rate", "in_chans"),
    *("grad_checkpointing", "channels_last", "sync_bn"),
)


def build_model(cfg: TrainConfig, num_classes: int, pretrained: bool = False) -> nn.Module:
    """The named model for `num_classes` classes at `data.img_size`, initialised from `seed` or with timm's weights.

    Raises:
        UserError: unknown name, or a size or option that the model refuses.
    """
    name = cfg.model.name
    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), n=3) or timm.list_models(f"{name.split('_')[0]}*")[:8]
        known = ", ".join(close or timm.list_models("vim_*"))
        raise UserError(f"model.name={name}: no such model; try one of {known}")
    arguments = {
        "num_classes": num_classes,
        "in_chans": cfg.model.in_chans,
        "img_size": cfg.data.img_size,
        "drop_path_rate": cfg.model.drop_path_rate,
        **architecture(cfg.model),
    }
    if pretrained:
        arguments["pretrained"] = True
    # A convolutional network takes any size and has no argument for it; not every model has stochastic depth.
    dispensable = {"img_size"} if cfg.model.drop_path_rate else {"img_size", "drop_path_rate"}
    if cfg.data.img_size_schedule:
        arguments["dynamic_img_size"] = True  # timm's transformers take one size otherwise
        dispensable.add("dynamic_img_size")
    try:
        return _create(name, cfg.seed, arguments, dispensable)
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f"model.name={name} with data.img_size={cfg.data.img_size}: {error}") from error


def check_sizes(cfg: TrainConfig, model: nn.Module, name: str) -> None:
    """Try an image of every size of `data.img_size_schedule`, with a backward pass where the model trains.

    Raises:
        UserError: one that the model, `name` to the user, does not take, or not with this `determinism`.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    device, training = next(model.parameters()).device, model.training
    model.eval()
    for _, side in train_sizes(cfg.data):
        if side == cfg.data.img_size:
            continue
        try:
            logits = model(torch.zeros(1, cfg.model.in_chans, side, side, device=device))
            if trained:
                torch.autograd.grad(logits.sum(), trained, allow_unused=True)
        except (ValueError, TypeError, AssertionError, RuntimeError) as error:
            why = str(error).partition("\n")[0]
            raise UserError(f"data.img_size_schedule: {name} does not work at {side} pixels: {why}") from error
    model.train(training)


def _create(name: str, seed: int, arguments: dict[str, Any], dispensable: set[str]) -> nn.Module:
    """The model, without those `dispensable` arguments that it does not know."""
    torch.manual_seed(seed)
    try:
        return timm.create_model(name, **arguments)
    except TypeError as error:
        unknown = set(re.findall(r"'(\w+)'", str(error).partition("unexpected keyword argument")[2])) & dispensable
        if not unknown:
            raise
    kept = {key: value for key, value in arguments.items() if key not in unknown}
    return _create(name, seed, kept, dispensable - unknown)


def architecture(cfg: ModelConfig) -> dict[str, Any]:
    """The keys of `model` that change the named model's architecture, as its arguments."""
    given = {name: value for name, value in asdict(cfg).items() if name not in NOT_ARGUMENTS and value is not None}
    return {name: value.value if isinstance(value, Enum) else value for name, value in given.items()}
