"""Weights from a checkpoint into a model, fitted to its image size."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from vim_train.config.errors import UserError
from vim_train.engine.checkpoint import check_compatible, load_weights
from vim_train.models.checkpoints import checkpoint_filter_fn
from vim_train.models.vim import Vim


def load_into(model: nn.Module, path: str, which: Literal["model", "ema"] = "model") -> dict[str, object]:
    """Load a run's, checkpoint's or .safetensors file's weights into `model`; returns what the file says of itself.

    Raises:
        CheckpointError: no such checkpoint, a damaged one, or one without averaged weights.
        UserError: as for `fit_into`.
    """
    weights, meta = load_weights(path, which)
    fit_into(model, weights, path)
    return meta


def fit_into(model: nn.Module, weights: Mapping[str, Tensor], path: str) -> None:
    """Load weights of the checkpoint at `path`. A Vim takes those of another image size or stride.

    Raises:
        UserError: weights of another model or class count.
    """
    fitted = dict(weights)
    if isinstance(model, Vim):
        try:
            fitted = checkpoint_filter_fn(fitted, model)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
    check_compatible(fitted, model.state_dict(), f"checkpoint {path}")
    model.load_state_dict(fitted)
