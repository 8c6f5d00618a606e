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

    With `layer_decay` each layer that ``model.group_matcher()`` tells apart has groups of its own (arXiv:2106.08254).

    Raises:
        UserError: a name that timm does not know, an argument that the optimiser refuses, or a layer decay where all
            parameters that train are in one layer.
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
        optimizer = create_optimizer_v2(
            model,
            opt=cfg.name,
            lr=lr,
            weight_decay=cfg.weight_decay,
            momentum=cfg.momentum,
            layer_decay=cfg.layer_decay,
            **arguments,
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"optim.name={cfg.name}: {error}") from error
    for group in optimizer.param_groups:
        group.setdefault("lr_scale", 1.0)
    if cfg.layer_decay not in (None, 1.0) and len({group["lr_scale"] for group in optimizer.param_groups}) == 1:
        raise UserError(f"optim.layer_decay={cfg.layer_decay:g}: takes null where all that trains is in one layer")
    return optimizer


def head_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Those of the classifier, as timm's ``get_classifier`` has it; none for a model without."""
    found: Any = getattr(model, "get_classifier", tuple)()
    heads = found if isinstance(found, tuple | list) else (found,)
    return [p for head in heads for p in head.parameters()]


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set every group's rate, which is `lr` times its own `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
