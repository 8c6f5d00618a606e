"""Weights from a checkpoint into a model, fitted to its image size and its classes."""

import sys
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from vim_train.config.commands import Weights
from vim_train.config.errors import UserError
from vim_train.config.schema import ModelConfig
from vim_train.engine.checkpoint import check_compatible, load_weights
from vim_train.engine.optim import head_parameters
from vim_train.models.checkpoints import checkpoint_filter_fn
from vim_train.models.published import Told, is_vim, refuse_rope, tell
from vim_train.models.vim import Vim
from vim_train.tasks.weight_files import WeightFile, read_weight_file


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
    """Load weights of the checkpoint at `path`. A Vim, like timm's transformers, takes those of another image size.

    Raises:
        UserError: weights of another model or class count.
    """
    fitted = _resized(model, weights, path, "aligned")
    check_compatible(fitted, model.state_dict(), f"checkpoint {path}")
    model.load_state_dict(fitted)


def start_from(model: nn.Module, cfg: ModelConfig) -> list[str]:
    """Load what `model.checkpoint` names into a model that is to be trained; returns notes for the user.

    Where only the head does not fit, and with `model.reset_head`, the model keeps its own, new one.

    Raises:
        UserError: no such weights, or weights of another model.
    """
    assert cfg.checkpoint is not None
    found = read_weight_file(cfg.checkpoint, Weights(cfg.checkpoint_weights.value))
    which, weights = next(iter(found.weights.items()))
    if isinstance(model, Vim):
        _check_same_kind(model, found)
    fitted = _resized(model, weights, found.path, cfg.pos_embed.value)
    notes = [f"starts from the {which} weights of {found.path}", *found.notes]
    if _rows(fitted) != _rows(weights):
        how = f" ({cfg.pos_embed.value})" if isinstance(model, Vim) else ""
        notes.append(f"position embedding carried from {_rows(weights)} to {_rows(fitted)} rows{how}")
    own = model.state_dict()
    if replaced := _new_head(model, fitted, own, cfg.reset_head):
        was = {name: tuple(fitted[name].shape) for name in replaced if name in fitted}
        dropped = ", ".join(f"{name} {shape}" for name, shape in was.items()) or "nothing, the checkpoint has none"
        notes.append(f"head made anew, {', '.join(f'{name} {tuple(own[name].shape)}' for name in replaced)};"
                     f" dropped: {dropped}")  # fmt: skip
        fitted = {**fitted, **{name: _drawn_anew(own[name]) for name in replaced}}
    check_compatible(fitted, own, f"checkpoint {found.path}")
    model.load_state_dict(fitted)
    return notes


def tell_model(found: WeightFile) -> Told:
    """The Vim that weights belong to which lie in no run of ours.

    Raises:
        ValueError: not a Vim's, or of one that cannot be built here.
    """
    identity = found.meta.get("config")
    own = identity if isinstance(identity, dict) else {}
    architecture = own.get("architecture")
    size = own.get("img_size", found.args.get("input_size"))
    name = found.args.get("model")
    known = None
    if isinstance(architecture, dict):  # only what differs from the named model, which has these
        known = {"class_token": "middle", "divide_out": True, "pool": "mean"} | architecture
    told = tell(
        next(iter(found.weights.values())),
        None if name is None else str(name),
        size if isinstance(size, int) else None,
        known,
    )
    if size is not None and not isinstance(size, int):
        told.notes.append(f"args.input_size passed over: {str(size)[:40]!r} is no size")
    return told


def _check_same_kind(model: Vim, found: WeightFile) -> None:
    """Two options change what weights mean and not their shapes: other ones would train from nonsense."""
    weights = next(iter(found.weights.values()))
    try:
        refuse_rope([*weights, str(found.args.get("model", ""))])
        told = tell_model(found) if is_vim(weights) and "pos_embed" in weights else None
    except ValueError as error:
        raise UserError(f"{found.path}: {error}") from error
    has = {"class_token": model.class_token, "divide_out": model.divide_out}
    for key, value in has.items():
        if told is not None and key in told.certain and told.arguments[key] != value:
            wanted = str(told.arguments[key]).lower()
            raise UserError(
                f"model.checkpoint={found.path}: was trained with {key}={wanted}, the model has {str(value).lower()};"
                f" give model.{key}={wanted}"
            )


def _resized(model: nn.Module, weights: Mapping[str, Tensor], path: str, mode: str) -> dict[str, Tensor]:
    """With the position embedding carried to the model's grid, by our filter or the one that timm has for the model."""
    try:
        if isinstance(model, Vim):
            return checkpoint_filter_fn(weights, model, mode)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    theirs = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if theirs is None or _fits(model, weights):
        return dict(weights)
    try:
        return dict(theirs(dict(weights), model))
    except Exception:  # of weights that are not the model's: what differs is told better by comparing them
        return dict(weights)


def _fits(model: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    own = model.state_dict()
    return own.keys() == weights.keys() and all(weights[name].shape == own[name].shape for name in own)


def _drawn_anew(tensor: Tensor) -> Tensor:
    """The same values in another order: a checkpoint of this seed began with the head as it is."""
    order = torch.randperm(tensor.numel(), generator=torch.Generator().manual_seed(tensor.numel()))
    return tensor.flatten()[order.to(tensor.device)].view_as(tensor)


def _rows(weights: Mapping[str, Tensor]) -> int:
    return weights["pos_embed"].shape[1] if "pos_embed" in weights else 0


def _new_head(model: nn.Module, weights: Mapping[str, Tensor], own: Mapping[str, Tensor], reset: bool) -> list[str]:
    """Names of the head's parameters, if it is to be `reset`, or if they alone are of another shape or absent.

    Raises:
        UserError: `model.reset_head` of a model that does not name its classifier.
    """
    heads = {id(parameter) for parameter in head_parameters(model)}
    inside = [name for name, parameter in model.named_parameters() if id(parameter) in heads]
    if reset and not inside:
        raise UserError("model.reset_head=true: takes false with this model, which names no classifier")
    if reset:
        return inside
    differing = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    return differing if set(differing) <= set(inside) else []
