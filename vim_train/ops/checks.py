"""One-line complaints about the arguments of the ops."""

from __future__ import annotations

import torch
from torch import Tensor

from vim_train.ops.abi import MAX_CUDA_STATES
from vim_train.ops.direction import Direction
from vim_train.ops.loading import CUDA

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def _text(shape: tuple[int, ...] | torch.Size) -> str:
    return "(" + ", ".join(str(n) for n in shape) + ("," if len(shape) == 1 else "") + ")"


def check_shape(op: str, name: str, t: Tensor | None, shape: tuple[int, ...], layout: str) -> None:
    """ValueError unless t, where given, has `shape`; `layout` names its dimensions, as "(B, L, E)"."""
    if t is not None and t.shape != shape:
        raise ValueError(f"{op}: {name} has shape {_text(t.shape)}, expected {layout} = {_text(shape)}")


def check_io(op: str, name: str, t: Tensor) -> tuple[int, int, int]:
    """Shape of the leading argument; ValueError unless it is a float tensor (B, L, E) with L and E at least 1."""
    if t.dim() != 3 or t.shape[1] < 1 or t.shape[2] < 1:
        raise ValueError(f"{op}: {name} has shape {_text(t.shape)}, expected (B, L, E) with L and E at least 1")
    if t.dtype not in DTYPES:
        raise ValueError(f"{op}: {name} is {t.dtype}, expected one of {', '.join(map(str, DTYPES))}")
    return t.shape[0], t.shape[1], t.shape[2]


def check_same_dtype(op: str, name: str, t: Tensor, **others: Tensor | None) -> None:
    """ValueError unless the others, where given, have the dtype of t."""
    for other, value in others.items():
        if value is not None and value.dtype != t.dtype:
            raise ValueError(f"{op}: {other} is {value.dtype} but {name} is {t.dtype}; cast them to one dtype")


def check_real(op: str, **params: Tensor | None) -> None:
    """ValueError unless the parameters, where given, are of a float type: no other keeps its values in fp32."""
    for name, value in params.items():
        if value is not None and not value.is_floating_point():
            raise ValueError(f"{op}: {name} is {value.dtype}, expected one of {', '.join(map(str, DTYPES))}")


def check_same_device(op: str, name: str, t: Tensor, **others: Tensor | None) -> None:
    """ValueError unless the others, where given, are on the device of t."""
    for other, value in others.items():
        if value is not None and value.device != t.device:
            raise ValueError(f"{op}: {other} is on {value.device} but {name} is on {t.device}")


def check_states(op: str, A: Tensor, backend: str) -> None:
    """ValueError where the backend's kernels cannot hold a channel's states."""
    if backend == CUDA and A.shape[1] > MAX_CUDA_STATES:
        raise ValueError(
            f"{op}: A has {A.shape[1]} states, the cuda backend takes up to {MAX_CUDA_STATES}; "
            'backend="reference" takes any number'
        )


def check_direction(op: str, d: Direction, z: Tensor | None, suffix: str = "") -> None:
    """ValueError unless the tensors of one direction, named with `suffix`, and z fit together."""
    u = f"u{suffix}"
    batch, length, channels = check_io(op, u, d.u)
    if d.A.dim() != 2 or d.A.shape[0] != channels or d.A.shape[1] < 1:
        raise ValueError(
            f"{op}: A{suffix} has shape {_text(d.A.shape)}, expected (E, N) with E = {channels} and N >= 1"
        )
    states = d.A.shape[1]
    check_shape(op, f"delta{suffix}", d.delta, (batch, length, channels), "(B, L, E)")
    check_shape(op, f"B{suffix}", d.B, (batch, length, states), "(B, L, N)")
    check_shape(op, f"C{suffix}", d.C, (batch, length, states), "(B, L, N)")
    check_shape(op, f"D{suffix}", d.D, (channels,), "(E,)")
    check_shape(op, f"delta_bias{suffix}", d.delta_bias, (channels,), "(E,)")
    check_shape(op, "z", z, (batch, length, channels), "(B, L, E)")
    rows = {f"delta{suffix}": d.delta, f"B{suffix}": d.B, f"C{suffix}": d.C, "z": z}
    params = {f"A{suffix}": d.A, f"D{suffix}": d.D, f"delta_bias{suffix}": d.delta_bias}
    check_same_dtype(op, u, d.u, **rows)
    check_real(op, **params)
    check_same_device(op, u, d.u, **rows, **params)
