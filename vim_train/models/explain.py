"""Where a model looks: one number for each patch of an image, for models that keep a token for each patch.

These are Vim and timm's vision transformers. Both maps are pictures of one model's inner workings and no proof of what
decides: they are read beside the image, and beside one another.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vim_train.models.tokens import class_tokens_of, patch_tokens_of
from vim_train.models.vim import Vim


def saliency(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Gradient x input at the embedded patches: what a patch adds to its class's logit, to first order.

    For the logit f of the class and the embedding e of a patch it is the sum over channels of (df/de) e, so that over
    all patches of a linear model it adds up to f less what the patches do not carry.

    Args:
        model: in evaluation mode.
        images: (B, C, H, W), normalised.
        classes: (B,) labels, the logits to explain.

    Returns: (B, rows, columns), fp32; positive where a patch speaks for the class.

    Raises:
        ValueError: a model without a `patch_embed`.
    """
    embed = _patch_embed(model)
    taken: list[Tensor] = []

    def cut(module: nn.Module, arguments: object, output: Tensor) -> Tensor:
        taken.append(output.detach().requires_grad_())
        return taken[-1]

    handle = embed.register_forward_hook(cut)
    try:
        with torch.enable_grad():
            logits = model(images).float()
            chosen = logits.gather(1, classes[:, None]).sum()  # images do not see one another
            [gradient] = torch.autograd.grad(chosen, taken)
    finally:
        handle.remove()
    tokens = taken[0].detach()
    channels_first = tokens.ndim == 4 and "NHWC" not in str(getattr(embed, "output_fmt", ""))
    added = (gradient.float() * tokens.float()).sum(1 if channels_first else -1)
    return added if added.ndim == 3 else _as_grid(added, embed)


@torch.no_grad()
def similarity(model: nn.Module, images: Tensor) -> Tensor:
    """Cosine between what the head reads and each patch's token, both after the last norm.

    The head reads the class token (the mean where there are two), or the mean of the patch tokens where there is none.

    Args:
        model: in evaluation mode.
        images: (B, C, H, W), normalised.

    Returns: (B, rows, columns), fp32, in [-1, 1].

    Raises:
        ValueError: a model without a token for each patch.
    """
    embed = _patch_embed(model)
    tokens = model.forward_features(images).float()  # type: ignore[operator]
    if tokens.ndim != 3:
        raise ValueError(
            f"{type(model).__name__} has no token for each patch at its end; explain_method=saliency may do"
        )
    if isinstance(model, Vim):
        patches = patch_tokens_of(tokens, model.class_token)
        classes = class_tokens_of(tokens, model.class_token)
    else:
        prefix = int(getattr(model, "num_prefix_tokens", 0))
        patches = tokens[:, prefix:]
        classes = tokens[:, : 1 if getattr(model, "cls_token", None) is not None else 0]
    read = (classes if classes.shape[1] else patches).mean(dim=1, keepdim=True)
    return _as_grid(F.cosine_similarity(patches, read, dim=-1), embed)


def _patch_embed(model: nn.Module) -> nn.Module:
    embed = getattr(model, "patch_embed", None)
    if not isinstance(embed, nn.Module) or getattr(embed, "grid_size", None) is None:
        raise ValueError(
            f"{type(model).__name__} has no patches to explain: takes a Vim or a vision transformer of timm"
        )
    return embed


def _as_grid(values: Tensor, embed: nn.Module) -> Tensor:
    """(B, M) -> (B, rows, columns)."""
    rows, columns = embed.grid_size  # type: ignore[misc]
    if values.shape[1] != rows * columns:
        raise ValueError(f"{values.shape[1]} tokens are not a grid of {rows}x{columns} patches")
    return values.unflatten(1, (int(rows), int(columns)))
