"""Arguments that do not fit together are named in one line."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from vim_train import ops


def _scan_arguments() -> dict[str, Any]:
    rows, states = torch.zeros(2, 5, 8), torch.zeros(2, 5, 4)
    return {"u": rows, "delta": rows, "A": torch.zeros(8, 4), "B": states, "C": states}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": torch.zeros(5, 8)}, "u has shape (5, 8), expected (B, L, E) with L and E at least 1"),
        ({"u": torch.zeros(2, 0, 8)}, "u has shape (2, 0, 8), expected (B, L, E) with L and E at least 1"),
        ({"u": torch.zeros(2, 5, 8, dtype=torch.int32)}, "u is torch.int32, expected one of torch.float32"),
        ({"delta": torch.zeros(2, 5, 9)}, "delta has shape (2, 5, 9), expected (B, L, E) = (2, 5, 8)"),
        ({"A": torch.zeros(4, 8)}, "A has shape (4, 8), expected (E, N) with E = 8 and N >= 1"),
        ({"B": torch.zeros(2, 4, 5)}, "B has shape (2, 4, 5), expected (B, L, N) = (2, 5, 4)"),
        ({"C": torch.zeros(1, 5, 4)}, "C has shape (1, 5, 4), expected (B, L, N) = (2, 5, 4)"),
        ({"D": torch.zeros(4)}, "D has shape (4,), expected (E,) = (8,)"),
        ({"delta_bias": torch.zeros(1, 8)}, "delta_bias has shape (1, 8), expected (E,) = (8,)"),
        ({"z": torch.zeros(2, 8, 5)}, "z has shape (2, 8, 5), expected (B, L, E) = (2, 5, 8)"),
        ({"C": torch.zeros(2, 5, 4).half()}, "C is torch.float16 but u is torch.float32; cast them to one dtype"),
        ({"A": torch.zeros(8, 4, device="meta")}, "A is on meta but u is on cpu"),
    ],
)
def test_selective_scan(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^selective_scan: " + re.escape(message)):
        ops.selective_scan(**(_scan_arguments() | change))


def test_bimamba_scan_names_the_direction() -> None:
    one = _scan_arguments() | {"D": torch.zeros(8), "delta_bias": torch.zeros(8)}
    two = {f"{name}_b": t for name, t in one.items()}
    with pytest.raises(ValueError, match=re.escape("bimamba_scan: D_b has shape (7,), expected (E,) = (8,)")):
        ops.bimamba_scan(**one, **(two | {"D_b": torch.zeros(7)}), z=one["u"])
    with pytest.raises(
        ValueError, match=re.escape("bimamba_scan: u_b has shape (2, 6, 8), expected (B, L, E) = (2, 5, 8)")
    ):
        ops.bimamba_scan(**one, **(two | {"u_b": torch.zeros(2, 6, 8)}), z=one["u"])


def test_bimamba_conv() -> None:
    x, weight = torch.zeros(2, 5, 8), torch.zeros(8, 1, 4)
    with pytest.raises(ValueError, match=re.escape("weight_b has shape (8, 4), expected (E, 1, K) = (8, 1, 4)")):
        ops.bimamba_conv(x, weight, None, weight[:, 0], None)
    with pytest.raises(ValueError, match=re.escape("bias_b has shape (4,), expected (E,) = (8,)")):
        ops.bimamba_conv(x, weight, None, weight, torch.zeros(4))


def test_add_rms_norm() -> None:
    hidden, weight = torch.zeros(2, 3, 8), torch.ones(8)
    with pytest.raises(ValueError, match=re.escape("residual is torch.bfloat16, expected torch.float32 beside hidden")):
        ops.add_rms_norm(hidden, hidden.bfloat16(), weight, 1e-5)
    with pytest.raises(ValueError, match=re.escape("weight has shape (4,), expected (C,) = (8,)")):
        ops.add_rms_norm(hidden, None, weight[:4], 1e-5)
