"""Gradients held back before the update: by their norm, by value, or unit by unit as the weights allow."""

from collections.abc import Callable

from timm.utils import adaptive_clip_grad
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_

from vim_train.config.schema import OptimConfig
from vim_train.engine.optim import head_parameters


def create_clip(model: nn.Module, cfg: OptimConfig) -> Callable[[Tensor], None]:
    """What clips the gradients in `model`'s parameters, given their global norm; nothing where none is asked for."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    limit, value, factor = cfg.grad_clip_norm, cfg.grad_clip_value, cfg.agc
    if limit is not None:
        return lambda norm: clip_grads_with_norm_(parameters, limit, norm)
    if value is not None:
        return lambda _: clip_grad_value_(parameters, value)
    if factor is not None:
        # The weights of the head start near 0, which would hold it back for ever (arXiv:2102.06171).
        head = {id(p) for p in head_parameters(model)}
        rest = [p for p in parameters if id(p) not in head]
        return lambda _: adaptive_clip_grad(rest, factor)
    return lambda _: None
