"""Where class tokens stand in the sequence, and position embeddings that follow them to another grid.

A sequence is the M patch tokens in row-major order with the class tokens among them: `middle` at index M // 2, `head`
at 0, `double` at 0 and M + 1, `none` without. The position embedding has a row for every token of the sequence.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

NUM_CLASS_TOKENS = {"none": 0, "head": 1, "middle": 1, "double": 2}


def insert_class_tokens(patches: Tensor, class_tokens: Tensor, class_token: str) -> Tensor:
    """(B, M, D) patch tokens and (B, n, D) class tokens -> (B, M + n, D), one copy."""
    if class_token == "none":
        return patches
    if class_token == "head":
        return torch.cat((class_tokens, patches), dim=1)
    if class_token == "double":
        return torch.cat((class_tokens[:, :1], patches, class_tokens[:, 1:]), dim=1)
    middle = patches.shape[1] // 2
    return torch.cat((patches[:, :middle], class_tokens, patches[:, middle:]), dim=1)


def class_tokens_of(tokens: Tensor, class_token: str) -> Tensor:
    """The n class tokens (B, n, D) of a sequence (B, M + n, D)."""
    if class_token == "middle":
        middle = (tokens.shape[1] - 1) // 2
        return tokens[:, middle : middle + 1]
    if class_token == "double":
        return tokens[:, :: tokens.shape[1] - 1]
    return tokens[:, : NUM_CLASS_TOKENS[class_token]]


def patch_tokens_of(tokens: Tensor, class_token: str) -> Tensor:
    """The M patch tokens (B, M, D) of a sequence (B, M + n, D), in row-major order."""
    if class_token == "middle":
        middle = (tokens.shape[1] - 1) // 2
        return torch.cat((tokens[:, :middle], tokens[:, middle + 1 :]), dim=1)
    if class_token == "double":
        return tokens[:, 1:-1]
    return tokens[:, NUM_CLASS_TOKENS[class_token] :]


def resize_pos_embed(
    pos_embed: Tensor,
    class_token: str,
    source_grid: tuple[int, int],
    target_grid: tuple[int, int],
    mode: str = "aligned",
) -> Tensor:
    """Carries a position embedding (1, M + n, D) from one grid of patches (rows, columns) to another.

    Patch rows are interpolated (bicubic, corners not aligned, no antialiasing); class rows are kept.

    Args:
        mode: `aligned` takes class rows from where the class tokens stand and puts them back there. `published`
            is what the loader of the published stride-8 fine-tuning does (hustvl/Vim): it takes the *first* rows as
            class rows, whichever token they belong to, and puts them first. They differ for `middle` and `double`.

    Raises:
        ValueError: the number of rows is not that of `source_grid`, or `mode` is unknown.
    """
    num_class = NUM_CLASS_TOKENS[class_token]
    expected = source_grid[0] * source_grid[1] + num_class
    if pos_embed.shape[1] != expected:
        raise ValueError(
            f"position embedding has {pos_embed.shape[1]} rows, a {source_grid[0]}x{source_grid[1]} grid with class "
            f"token '{class_token}' has {expected}"
        )
    if mode not in ("aligned", "published"):
        raise ValueError(f"mode '{mode}' of resizing a position embedding: accepted are aligned, published")
    if tuple(source_grid) == tuple(target_grid):
        return pos_embed
    if mode == "published":
        class_rows, patch_rows = pos_embed[:, :num_class], pos_embed[:, num_class:]
    else:
        class_rows, patch_rows = class_tokens_of(pos_embed, class_token), patch_tokens_of(pos_embed, class_token)
    image = patch_rows.reshape(1, *source_grid, -1).permute(0, 3, 1, 2)
    image = image.to(torch.promote_types(image.dtype, torch.float32))
    device = image.device
    if torch.are_deterministic_algorithms_enabled():
        image = image.cpu()  # a GPU adds up the gradient in any order, which torch then refuses
    resized = F.interpolate(image, size=target_grid, mode="bicubic", align_corners=False).to(device)
    patch_rows = resized.permute(0, 2, 3, 1).flatten(1, 2).to(pos_embed.dtype)
    return insert_class_tokens(patch_rows, class_rows, "head" if mode == "published" else class_token)
