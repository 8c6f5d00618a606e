"""The suites of tests/ops, with the CUDA kernels run on the host in place of the CPU library."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import problems
import pytest
import torch
from hostrun import HostLibrary, serving
from hypothesis import given, settings
from safetensors import safe_open
from safetensors.torch import load_file

from vim_train import ops
from vim_train.ops.compat import selective_scan_fn


@pytest.fixture(scope="module", autouse=True)
def _on_host(host_library: HostLibrary) -> Iterator[None]:
    with serving(host_library):
        yield


@pytest.mark.parametrize("case", problems.GOLDEN)
@pytest.mark.parametrize("reverse", [False, True])
def test_golden_tensors(golden: Path, case: str, reverse: bool) -> None:
    problems.check_golden("cpu", "cpu", golden, case, reverse)


@pytest.mark.parametrize("case", problems.GOLDEN)
def test_golden_tensors_in_the_layout_of_mamba_ssm(golden: Path, case: str) -> None:
    path = golden / f"scan_{case}.safetensors"
    tensors = load_file(path)
    with safe_open(str(path), framework="pt") as file:
        softplus = file.metadata()["delta_softplus"] == "True"
    names = [name for name in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias") if name in tensors]
    inputs = {name: tensors[name].requires_grad_() for name in names}
    out = selective_scan_fn(**inputs, delta_softplus=softplus)
    got = torch.autograd.grad(out, list(inputs.values()), tensors["grad_out"])
    wanted = (tensors["out"], *(tensors[f"grad.{name}"] for name in names))
    for t, want in zip((out.detach(), *got), wanted, strict=True):
        assert float((t - want).abs().max()) <= 1e-5 * float(want.abs().max().clamp_min(1e-30))


@settings(max_examples=30, deadline=None)
@given(**problems.SELECTIVE_SCAN)
def test_selective_scan(**case: Any) -> None:
    problems.check_selective_scan("cpu", "cpu", **case)


@settings(max_examples=20, deadline=None)
@given(**problems.BIMAMBA_SCAN)
def test_bimamba_scan(**case: Any) -> None:
    problems.check_bimamba_scan("cpu", "cpu", **case)


@settings(max_examples=20, deadline=None)
@given(**problems.CONV)
def test_bimamba_conv(**case: Any) -> None:
    problems.check_conv("cpu", "cpu", **case)


@settings(max_examples=20, deadline=None)
@given(**problems.NORM)
def test_add_rms_norm(**case: Any) -> None:
    problems.check_norm("cpu", "cpu", **case)


@pytest.mark.parametrize("name", ["u", "delta", "B", "z"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_where_it_belongs(name: str, value: float) -> None:
    """An input that is no number makes no other outputs so than those that depend on it."""
    size = {"batch": 2, "length": 37, "channels": 6, "states": 16}
    rng = torch.Generator().manual_seed(0)
    inputs = problems.direction(rng, size, torch.float32, "contiguous", "cpu")
    inputs["z"] = problems.direction(rng, size, torch.float32, "contiguous", "cpu")["u"]
    with torch.no_grad():
        inputs[name][1, 20, 3] = value
    results = []
    for backend in ("cpu", "reference"):
        out = ops.selective_scan(**inputs, delta_softplus=True, reverse=True, backend=backend)
        grads = torch.autograd.grad(out.sum(), list(inputs.values()))
        results.append([t.isnan() for t in (out, *grads)])
    for key, got, want in zip(["out", *inputs], *results, strict=True):
        assert not (got & ~want).any(), f"{key}: not a number where the reference has one"
        assert got.any() == want.any(), key
