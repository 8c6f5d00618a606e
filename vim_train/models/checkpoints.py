"""Fitting a checkpoint to a model built for another image size."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vim_train.models.tokens import NUM_CLASS_TOKENS, resize_pos_embed
from vim_train.models.vim import Vim


def checkpoint_filter_fn(
    state_dict: Mapping[str, Any],
    model: Vim,
    mode: str = "aligned",
    source_grid: tuple[int, int] | None = None,
) -> dict[str, Tensor]:
    """A checkpoint's weights with the position embedding carried to the model's grid (timm's filter for loading).

    Args:
        state_dict: weights by name, or a published checkpoint that holds them under `model`.
        model: the Vim that will load them.
        mode: where class rows are taken from, `aligned` or `published` (see `resize_pos_embed`).
        source_grid: rows and columns of patches that the checkpoint was trained with; None: the model's own where
            the number of rows agrees, else square.

    Raises:
        ValueError: the number of position rows belongs to no square grid and `source_grid` is not given.
    """
    weights: dict[str, Tensor] = dict(state_dict.get("model", state_dict))
    rows = weights.get("pos_embed")
    if rows is not None:
        target = model.patch_embed.grid_size
        source = source_grid or _grid_of(rows.shape[1], model.class_token, target)
        weights["pos_embed"] = resize_pos_embed(rows, model.class_token, source, target, mode)
    return weights


def _grid_of(rows: int, class_token: str, target: tuple[int, int]) -> tuple[int, int]:
    patches = rows - NUM_CLASS_TOKENS[class_token]
    if patches == target[0] * target[1]:
        return target
    side = math.isqrt(max(patches, 0))
    if side == 0 or side * side != patches:
        raise ValueError(
            f"checkpoint has {rows} position rows, which with class token '{class_token}' is no square grid of "
            "patches: give source_grid=(rows, columns), or the checkpoint's class token"
        )
    return side, side
