"""The scans meet tensors that other code computed, forward and backward."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from vim_train import ops

CASES = ["full", "len3_nobias", "long", "no_gate", "plain", "wide"]
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
TOLERANCE = 1e-5  # of a tensor's largest value


def _channel_last(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.transpose(1, 2).contiguous() if t.dim() == 3 else t for name, t in tensors.items()}


def _load(path: Path) -> tuple[dict[str, Tensor], bool]:
    with safe_open(str(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _channel_last(tensors), file.metadata()["delta_softplus"] == "True"


def _error(got: Tensor, want: Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max().clamp_min(1e-30))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("reverse", [False, True])
def test_scan_meets_the_golden_tensors(golden: Path, backend: str, case: str, reverse: bool) -> None:
    tensors, softplus = _load(golden / f"scan_{case}.safetensors")
    if reverse:  # the scan of the reversed sequence, reversed
        tensors = {name: t.flip(1) if t.dim() == 3 else t for name, t in tensors.items()}
    inputs = {name: tensors[name].requires_grad_() for name in NAMES if name in tensors}
    out = ops.selective_scan(**inputs, delta_softplus=softplus, reverse=reverse, backend=backend)
    grads = torch.autograd.grad(out, list(inputs.values()), tensors["grad_out"])
    errors = {"out": _error(out.detach(), tensors["out"])}
    errors |= {name: _error(g, tensors[f"grad.{name}"]) for name, g in zip(inputs, grads, strict=True)}
    assert max(errors.values()) <= TOLERANCE, errors
