"""The optimiser, through timm."""

from typing import Any

from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from torch import nn
from torch.optim import Optimizer

from vim_train.config.errors import UserError
from vim_train.config.schema import OptimConfig

FUSED = ("adam", "adamw", "sgd")  # torch's own, which have a fused kernel on CPU and GPU


def create_optimizer(model: nn.Module, cfg: OptimConfig, lr: float) -> Optimizer:
    """Any of timm's optimisers; 1-D parameters and those in ``model.no_weight_decay()`` are not decayed.

    Raises:
        UserError: a name that timm does not know, or an argument that the optimiser refuses.
    """
    if cfg.name not in list_optimizers():
        close = ", ".join(map(str, list_optimizers(f"*{cfg.name[:4]}*")[:8])) or "adamw, sgd, lamb, lion, muon"
        raise UserError(f"optim.name={cfg.name}: timm has no such optimiser; try one of {close}")
    if hasattr(model, "decay_a_log"):
        setattr(model, "decay_a_log", cfg.decay_a_log)  # noqa: B010  (an nn.Module's attributes are typed as tensors)
    arguments: dict[str, Any] = {"eps": cfg.eps} if "adam" in cfg.name else {}
    info = get_optimizer_info(cfg.name)
    if info.has_betas:
        if len(cfg.betas) != info.num_betas:
            raise UserError(f"optim.betas={cfg.betas}: optim.name={cfg.name} takes {info.num_betas} numbers")
        arguments["betas"] = tuple(cfg.betas)
    if cfg.name in FUSED:
        arguments["fused"] = True
    try:
        return create_optimizer_v2(
            model, opt=cfg.name, lr=lr, weight_decay=cfg.weight_decay, momentum=cfg.momentum, **arguments
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"optim.name={cfg.name}: {error}") from error


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set every group's rate; a group may carry a factor of its own (`lr_scale`)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
