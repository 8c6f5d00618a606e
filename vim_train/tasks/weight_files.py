"""Weights from whatever form they come in, with what the form says of itself."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vim_train.config.commands import Weights
from vim_train.config.errors import UserError
from vim_train.config.references import HUB, TIMM, parse_hub
from vim_train.engine.checkpoint import CheckpointError, NoEmaError, load_weights
from vim_train.engine.manifest import EMA
from vim_train.engine.pickles import copy_tensors, read_torch_file
from vim_train.engine.weights import check_finite
from vim_train.tasks.hub import fetch, timm_weights

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar", ".ckpt")
_SETS = {"model": ("model", "state_dict"), "ema": ("model_ema", "state_dict_ema")}
"""Where the published files keep a set of weights, and where those of timm's trainer do."""
_PREFIXES = ("module.", "_orig_mod.")

Scalar = bool | int | float | str | None


@dataclass(frozen=True)
class WeightFile:
    """Sets of weights by name (`model`, `ema`), on the CPU."""

    path: str
    weights: dict[str, dict[str, Tensor]]
    meta: Mapping[str, object] = field(default_factory=dict)
    """What our own files say of themselves: step, classes, config."""
    args: Mapping[str, Scalar] = field(default_factory=dict)
    """What the published files say: the plain values of their command line."""
    notes: list[str] = field(default_factory=list)
    """What the user should know of how they were read."""
    timm: Mapping[str, Any] | None = None
    """What timm says of weights of its own."""


def read_weight_file(checkpoint: str, wanted: Weights) -> WeightFile:
    """Read a run, a checkpoint directory, a .safetensors file, a file of torch.save, `hf:...` or `timm:...`.

    With `wanted` both, `ema` is left out where there is none.

    Raises:
        UserError: missing, damaged, hostile or not reachable; no such weights in it.
    """
    if checkpoint.startswith(TIMM):
        if wanted is Weights.ema:
            raise UserError(f"{checkpoint}: holds no ema weights, only model")
        weights, told = timm_weights(checkpoint)
        return WeightFile(checkpoint, {Weights.model.value: weights}, timm=told)
    path, notes = Path(checkpoint), list[str]()
    if checkpoint.startswith(HUB):
        path, notes = fetch(parse_hub("checkpoint", checkpoint))
    if path.is_file() and path.suffix not in (".safetensors", *TORCH_SUFFIXES):
        known = ", ".join((".safetensors", *TORCH_SUFFIXES))
        raise CheckpointError(path, f"expected a run, a checkpoint directory, or a file named {known}")
    found = _read_torch(path, wanted) if path.suffix in TORCH_SUFFIXES and not path.is_dir() else _read(path, wanted)
    found = replace(found, notes=notes + found.notes)
    for which, group in found.weights.items():
        try:
            check_finite(group, which)
        except ValueError as error:
            raise CheckpointError(Path(found.path), str(error)) from error
    return found if found.meta else _plain_names(found)


def _read(path: Path, wanted: Weights) -> WeightFile:
    if path.is_file():  # one file holds one set of weights
        held = Weights.ema if path.name == EMA else Weights.model
        if wanted not in (held, Weights.both):
            raise UserError(f"weights={wanted.value}: {path} holds the {held.value} weights")
        weights, meta = load_weights(path)
        return _own({held.value: weights}, meta)
    found: dict[str, dict[str, Tensor]] = {}
    meta = {}
    if wanted is not Weights.ema:
        found[Weights.model.value], meta = load_weights(path, "model")
    if wanted is not Weights.model:
        try:
            found[Weights.ema.value], meta = load_weights(path, "ema")
        except NoEmaError:
            if wanted is Weights.ema:
                raise
    return _own(found, meta)


def _own(weights: dict[str, dict[str, Tensor]], meta: dict[str, object]) -> WeightFile:
    return WeightFile(str(meta["path"]), weights, {key: value for key, value in meta.items() if key != "path"})


def _read_torch(path: Path, wanted: Weights) -> WeightFile:
    if not path.exists():
        raise CheckpointError(path, "no such file or directory")
    content = read_torch_file(path)
    held = {which: key for which, keys in _SETS.items() for key in keys if isinstance(content.get(key), dict)}
    if not held:
        if not any(isinstance(value, Tensor) for value in content.values()):
            raise CheckpointError(path, f"holds no weights: {', '.join(map(str, content)) or 'nothing'}")
        content, held = {"model": content}, {"model": "model"}
    if wanted is not Weights.both and wanted.value not in held:
        raise CheckpointError(path, f"holds no {wanted.value} weights, only {' and '.join(held)}")
    taken = list(held) if wanted is Weights.both else [wanted.value]
    weights = {which: _tensors(path, held[which], content[held[which]]) for which in taken}
    rest = [str(key) for key in content if key not in (*held.values(), "args")]
    notes = [f"left aside: {', '.join(rest)}"] if rest else []
    return WeightFile(str(path), weights, args=_plain(content.get("args")), notes=notes)


def _tensors(path: Path, key: str, group: object) -> dict[str, Tensor]:
    assert isinstance(group, dict)
    wrong = [str(name) for name, value in group.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if wrong or not group:
        raise CheckpointError(path, f"{key} holds other things than weights: {', '.join(wrong[:5]) or 'nothing'}")
    return copy_tensors(path, group)


def _plain(args: object) -> dict[str, Scalar]:
    """Plain values of a Namespace, which a file may have given any attributes at all."""
    values = vars(args) if type(args) is argparse.Namespace else {}
    return {key: value for key, value in values.items() if type(value) in (bool, int, float, str, type(None))}


def _plain_names(found: WeightFile) -> WeightFile:
    """Without the prefixes that DistributedDataParallel and torch.compile put before every name."""
    weights, stripped = dict(found.weights), []
    for which, group in weights.items():
        for prefix in _PREFIXES * 2:
            if all(name.startswith(prefix) for name in group):
                group = {name.removeprefix(prefix): tensor for name, tensor in group.items()}
                stripped.append(prefix)
        weights[which] = group
    notes = [f"prefix {prefix} taken off every name" for prefix in dict.fromkeys(stripped)]
    return replace(found, weights=weights, notes=found.notes + notes)
