"""What is done to a model between its making and its training: freezing, memory format, norms, checkpointing."""

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn

from vim_train.config.errors import UserError
from vim_train.config.schema import Freeze, ModelConfig
from vim_train.engine.optim import head_parameters


def prepare(model: nn.Module, cfg: ModelConfig, device: torch.device) -> nn.Module:
    """`model`, on `device`, as it trains; names of its weights stay.

    Raises:
        UserError: what the model or the device does not have.
    """
    if cfg.grad_checkpointing:
        _checkpoint_blocks(model, cfg.name)
    if cfg.sync_bn:
        if device.type != "cuda":
            raise UserError("model.sync_bn=true: takes false on a CPU; torch has it for GPUs alone")
        model = convert_sync_batchnorm(model)
    if cfg.freeze is Freeze.backbone:
        _freeze_backbone(model, cfg.name)
    # Strides differ only for weights of four dimensions; images follow in the first convolution.
    model = model.to(memory_format=torch.channels_last) if cfg.channels_last else model
    return model.to(device)


def _checkpoint_blocks(model: nn.Module, name: str) -> None:
    try:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError) as error:
        raise UserError(f"model.grad_checkpointing=true: takes false with model.name={name}, which has none") from error


def _freeze_backbone(model: nn.Module, name: str) -> None:
    head = head_parameters(model)
    if not head:
        raise UserError(f"model.freeze=backbone: takes none with model.name={name}, which names no classifier")
    model.requires_grad_(False)
    for parameter in head:
        parameter.requires_grad_(True)
