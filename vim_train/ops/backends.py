"""Which implementation of the ops runs: chosen by device and by what is built, unless the user forces one."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass

import torch

from vim_train.ops import native
from vim_train.ops.loading import CPU, CUDA, gpu_problem

REFERENCE, AUTO = "reference", "auto"
NAMES = (REFERENCE, CPU, CUDA)
ENVIRONMENT = "VIM_TRAIN_SCAN"

_selected = AUTO  # by set_backend


@dataclass(frozen=True)
class BackendInfo:
    """One line of :func:`backend_report`."""

    name: str
    available: bool
    detail: str  # what it is, or why it is not available and what to do


def set_backend(name: str) -> None:
    """Force every op of this process onto a backend: "reference", "cpu", "cuda", or "auto" to choose by device.

    "auto" leaves the choice to the environment variable VIM_TRAIN_SCAN where that is set. An op's own `backend=`
    argument goes before both.

    Raises:
        ValueError: `name` is none of these.
        RuntimeError: the backend is not available; the message says why.
    """
    global _selected
    if name != AUTO:
        _check(name, "set_backend")
    _selected = name


def active_backend(device: torch.device | str) -> str:
    """The backend that the ops use for float32 tensors on `device`: "reference", "cpu" or "cuda".

    Raises:
        ValueError, RuntimeError: VIM_TRAIN_SCAN names no backend, or one that is not available or not for this device.
    """
    return resolve(None, torch.device(device).type, torch.float32, warn=False)


def backend_report() -> list[BackendInfo]:
    """What each backend is, or why it is missing."""
    cpu, cuda = native.libraries[CPU], native.libraries[CUDA]
    problem = gpu_problem() if cuda.loaded else None
    detail = f"the library is built ({cuda.detail}), but {problem}" if problem else cuda.detail
    return [
        BackendInfo(REFERENCE, True, f"plain PyTorch {torch.__version__}"),
        BackendInfo(CPU, cpu.loaded, cpu.detail),
        BackendInfo(CUDA, cuda.loaded and not problem, detail),
    ]


def resolve(requested: str | None, device: str, dtype: torch.dtype, *, warn: bool = True) -> str:
    """The backend for tensors of `dtype` on a device of type `device`; float64 is always the reference's.

    Traced by torch.compile: it reads only module globals and constants, on which Dynamo guards.
    """
    name = requested or _selected
    if name == AUTO:
        name = os.environ.get(ENVIRONMENT) or AUTO
    if name != AUTO:
        _check(name, "backend=" if requested else ENVIRONMENT if _selected == AUTO else "set_backend")
        if name != REFERENCE and name != device:
            raise RuntimeError(f"the {name} scan backend cannot work on {device} tensors")
    elif device in native.libraries and native.libraries[device].loaded:
        name = device
    else:
        if warn and device != "meta" and dtype != torch.float64:
            _warn_slow(device)
        name = REFERENCE
    return REFERENCE if dtype == torch.float64 else name


def _check(name: str, source: str) -> None:
    if name not in NAMES:
        raise ValueError(f"{source}: unknown scan backend {name!r}; accepted are {', '.join((*NAMES, AUTO))}")
    if name in native.libraries and not native.libraries[name].loaded:
        raise RuntimeError(f"{source}: the {name} scan backend is not available: {native.libraries[name].detail}")


@torch.compiler.assume_constant_result  # warn while tracing too, where the graph cannot
def _warn_slow(device: str) -> None:
    if device in _warned:
        return
    _warned.add(device)
    reason = native.libraries[device].detail if device in native.libraries else f"no kernels for {device}"
    warnings.warn(f"selective scan on {device} runs the slow PyTorch reference: {reason}", RuntimeWarning, stacklevel=4)


_warned: set[str] = set()
