"""Over the space of shapes, layouts, options and dtypes, the native scan is the float64 reference's."""

from __future__ import annotations

from typing import Any

import problems
import pytest
import torch
from hypothesis import given, settings

from vim_train import ops
from vim_train.ops import native

pytestmark = pytest.mark.skipif(not native.libraries["cpu"].loaded, reason=native.libraries["cpu"].detail)


@settings(max_examples=60, deadline=None)
@given(**problems.SELECTIVE_SCAN)
def test_selective_scan_is_the_reference(**case: Any) -> None:
    problems.check_selective_scan("cpu", "cpu", **case)


@settings(max_examples=30, deadline=None)
@given(**problems.BIMAMBA_SCAN)
def test_bimamba_scan_is_the_reference(**case: Any) -> None:
    problems.check_bimamba_scan("cpu", "cpu", **case)


def test_bimamba_scan_is_two_selective_scans() -> None:
    rng = torch.Generator().manual_seed(0)
    size = {"batch": 2, "length": 37, "channels": 24, "states": 16}
    f, b = (problems.direction(rng, size, torch.float64, "contiguous", "cpu") for _ in range(2))
    z = torch.randn(2, 37, 24, generator=rng, dtype=torch.float64)
    both = ops.bimamba_scan(**f, **{f"{name}_b": t for name, t in b.items()}, z=z)
    y = ops.selective_scan(**f, delta_softplus=True)
    flipped = {name: t.flip(1) if t.dim() == 3 else t for name, t in b.items()}
    y_b = ops.selective_scan(**flipped, delta_softplus=True).flip(1)
    torch.testing.assert_close(both, (y + y_b) / 2 * torch.nn.functional.silu(z))
