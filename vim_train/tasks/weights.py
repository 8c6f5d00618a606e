"""Weights from a checkpoint into a model, fitted to its image size."""

from collections.abc import Callable
from typing import Literal

from torch import nn

from vim_train.config.errors import UserError
from vim_train.engine.checkpoint import check_compatible, load_weights
from vim_train.models.checkpoints import checkpoint_filter_fn
from vim_train.models.vim import Vim


def load_into(
    model: nn.Module,
    path: str,
    which: Literal["model", "ema"] = "model",
    check: Callable[[dict[str, object]], None] | None = None,
) -> dict[str, object]:
    """Load a run's, checkpoint's or .safetensors file's weights into `model`; returns what the file says of itself.

    `check` is given that first, and may refuse it.

    A Vim takes weights of another image size or stride: its position embedding is interpolated.

    Raises:
        CheckpointError: no such checkpoint, a damaged one, or one without averaged weights.
        UserError: weights of another model or class count.
    """
    weights, meta = load_weights(path, which)
    if check is not None:
        check(meta)
    if isinstance(model, Vim):
        try:
            weights = checkpoint_filter_fn(weights, model)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
    check_compatible(weights, model.state_dict(), f"checkpoint {path}")
    model.load_state_dict(weights)
    return meta
