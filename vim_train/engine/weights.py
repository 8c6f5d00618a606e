"""Weights as safetensors, training state as plain containers, and whether weights fit a model."""

import hashlib
import io
import json
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import IO, Any, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from vim_train.config.errors import UserError
from vim_train.engine.durable import HashedFile

META_KEY = "vim_train"
"""The one entry of a weight file's own metadata (several would be written in varying order): step and meta as JSON."""

_PLAIN = (type(None), bool, int, float, str)
_SHOWN = 3


def write_weights(file: HashedFile, weights: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write a safetensors file that any safetensors reader loads, tied weights under each of their names."""
    seen: set[int] = set()
    tensors: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        tensor = tensor.detach().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if storage in seen else tensor  # the format refuses shared memory
        seen.add(storage)
    file.write(safetensors.torch.save(tensors, {META_KEY: json.dumps(meta)}))


def read_weights(data: bytes) -> dict[str, Tensor]:
    """Tensors of a safetensors file, on the CPU.

    Raises:
        ValueError: not a safetensors file.
    """
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"not a safetensors file{_instead(data)}") from error


def read_meta(data: bytes) -> dict[str, Any]:
    """What `write_weights` was given as meta; empty for files of other programs. `data` has passed `read_weights`."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    try:
        meta = json.loads(header.get("__metadata__", {}).get(META_KEY, "{}"))
    except ValueError:
        return {}
    return meta if isinstance(meta, dict) else {}


def write_state(file: HashedFile, state: dict[str, Any]) -> None:
    torch.save(state, cast(IO[bytes], file))


def read_state(data: bytes) -> dict[str, Any]:
    """What `write_state` was given, on the CPU. Unpickles nothing but plain containers and tensors.

    Raises:
        ValueError: not such a file.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as records:
            if any(record.compress_type != zipfile.ZIP_STORED for record in records.infolist()):
                raise ValueError("compressed records")  # torch writes none; a small file could fill the memory
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no exception of its own
        raise ValueError("not a training state that loads safely") from error
    if not isinstance(state, dict):
        raise ValueError("not a training state")
    return state


def digest_of(weights: Mapping[str, Tensor]) -> str:
    """Hash of names, types, shapes and values, whatever the order and the device."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def check_finite(weights: Mapping[str, Tensor], what: str) -> None:
    """Look for NaN and infinity.

    Raises:
        ValueError: names the first tensor with one in it.
    """
    for name, tensor in weights.items():
        if (tensor.is_floating_point() or tensor.is_complex()) and not torch.isfinite(tensor).all():
            count = int((~torch.isfinite(tensor)).sum())
            raise ValueError(f"{what}: {name} has {count} of {tensor.numel()} values that are not finite")


def leaves(value: Any, name: str = "state") -> Iterator[tuple[str, Any]]:
    """Every value inside plain containers, with the expression that leads to it.

    Raises:
        TypeError: something that would not come back with ``weights_only=True``.
    """
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            if type(key) not in _PLAIN:
                raise TypeError(f"{name} has a key of type {type(key).__name__}: a checkpoint holds plain containers")
            yield from leaves(item, f"{name}[{key!r}]")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            yield from leaves(item, f"{name}[{index}]")
    elif isinstance(value, Tensor) or type(value) in _PLAIN:
        yield name, value
    else:
        raise TypeError(f"{name} is a {type(value).__name__}: a checkpoint holds plain containers and tensors")


def check_compatible(
    weights: Mapping[str, Tensor], model_state: Mapping[str, Tensor], source: str = "the checkpoint"
) -> None:
    """Whether `weights` can be loaded into a model whose ``state_dict()`` is `model_state`.

    Raises:
        UserError: names `source` and what differs: both class counts if it is only the head, else names and shapes,
            in its table all of them.
    """
    reshaped = {
        name: (tuple(tensor.shape), tuple(model_state[name].shape))
        for name, tensor in weights.items()
        if name in model_state and tensor.shape != model_state[name].shape
    }
    unlike = {
        name: f"{_kind(tensor)} against the model's {_kind(model_state[name])}"
        for name, tensor in weights.items()
        if name in model_state and tensor.is_floating_point() != model_state[name].is_floating_point()
    }
    if unlike and len(unlike) == len(weights) and len(set(unlike.values())) == 1:
        raise UserError(f"{source} holds no weights: its {len(unlike)} tensors are {unlike.popitem()[1]}")
    kinds = [f"{name} {how}" for name, how in unlike.items()]
    missing = [name for name in model_state if name not in weights]
    unexpected = [name for name in weights if name not in model_state]
    if not (reshaped or kinds or missing or unexpected):
        return
    classes = _class_counts(reshaped)
    if classes is not None and not (kinds or missing or unexpected):
        raise UserError(
            f"{source} is of {classes[0]} classes, the model has {classes[1]}"
            f" ({_some([f'{name} {a} against {b}' for name, (a, b) in reshaped.items()])})"
        )
    parts = {
        "of another shape": [f"{name} {a} against the model's {b}" for name, (a, b) in reshaped.items()],
        "of another type": kinds,
        "missing": missing,
        "unknown to the model": unexpected,
    }
    text = "; ".join(f"{len(names)} {what} ({_some(names)})" for what, names in parts.items() if names)
    hidden = any(len(names) > _SHOWN for names in parts.values())
    table = [f"{what}: {name}" for what, names in parts.items() for name in names] if hidden else []
    raise UserError(f"{source} is of another model: {text}", table=table)


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _class_counts(reshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> tuple[int, int] | None:
    """(checkpoint's, model's) where one layer's weight and bias, and nothing else, differ in their first dimension."""
    layers = {name.rpartition(".")[0] for name in reshaped}
    counts = {(a[0], b[0]) for a, b in reshaped.values() if a and b and a[1:] == b[1:]}
    heads = all(len(a) <= 2 and a[1:] == b[1:] for a, b in reshaped.values())
    return counts.pop() if heads and len(layers) == 1 and len(counts) == 1 else None


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(islice(names, _SHOWN)) + (f" and {more} more" if more > 0 else "")


def _instead(data: bytes) -> str:
    """What it is, as far as its first bytes tell."""
    starts = {
        b"version https://git-lfs": ": a Git LFS pointer",
        b"PK\x03\x04": ": what torch.save writes? Then name it .pth",
        b"<": ": a page of HTML",
    }
    found = (what for start, what in starts.items() if data.startswith(start))
    return next(found, ", or not all of it" if data else ": empty")
