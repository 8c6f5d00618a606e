"""selective_scan_fn takes and gives what mamba-ssm's does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, safe_open
from torch import Tensor

from vim_train.ops.compat import selective_scan_fn

CASES = ["full", "len3_nobias", "long", "no_gate", "plain", "wide"]
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


def _error(got: Tensor, want: Tensor) -> float:
    return float((got - want).abs().max() / want.abs().max().clamp_min(1e-30))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.usefixtures("every_backend")
def test_it_meets_the_golden_tensors_in_their_own_layout(golden: Path, case: str) -> None:
    path = golden / f"scan_{case}.safetensors"
    tensors = load_file(path)
    with safe_open(str(path), framework="pt") as file:
        softplus = file.metadata()["delta_softplus"] == "True"
    inputs = {name: tensors[name].requires_grad_() for name in NAMES if name in tensors}
    out, state = selective_scan_fn(**inputs, delta_softplus=softplus, return_last_state=True)
    assert out.is_contiguous()
    assert not state.requires_grad
    grads = torch.autograd.grad(out, list(inputs.values()), tensors["grad_out"])
    errors = {"out": _error(out.detach(), tensors["out"])}
    errors |= {name: _error(g, tensors[f"grad.{name}"]) for name, g in zip(inputs, grads, strict=True)}
    assert max(errors.values()) <= 1e-5, errors


def _problem(groups: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {
        "u": torch.randn(2, 12, 21, generator=rng),
        "delta": torch.rand(2, 12, 21, generator=rng),
        "A": -torch.rand(12, 16, generator=rng),
        "B": torch.randn(2, groups, 16, 21, generator=rng),
        "C": torch.randn(2, groups, 16, 21, generator=rng),
    }


@pytest.mark.usefixtures("every_backend")
def test_the_last_state_is_where_a_longer_scan_goes_on() -> None:
    p = _problem(1)
    whole, last = selective_scan_fn(**p, return_last_state=True)
    head = {name: t if name == "A" else t[..., :17] for name, t in p.items()}
    out, state = selective_scan_fn(**head, return_last_state=True)
    torch.testing.assert_close(out, whole[..., :17])
    for t in range(17, 21):
        delta, u, B = (p[name][..., t] for name in ("delta", "u", "B"))
        state = torch.exp(delta[..., None] * p["A"]) * state + (delta * u)[..., None] * B
    torch.testing.assert_close(state, last, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("every_backend")
@pytest.mark.parametrize("groups", [2, 3, 12])
def test_each_group_of_channels_has_its_own_B_and_C(groups: int) -> None:
    p = _problem(groups)
    whole, states = selective_scan_fn(**p, return_last_state=True)
    size = 12 // groups
    for g in range(groups):
        part = slice(g * size, (g + 1) * size)
        rows = {"u": p["u"][:, part], "delta": p["delta"][:, part], "A": p["A"][part]}
        out, state = selective_scan_fn(**rows, B=p["B"][:, g], C=p["C"][:, g], return_last_state=True)
        torch.testing.assert_close(whole[:, part], out)
        torch.testing.assert_close(states[:, part], state)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"A": torch.zeros(12, 16, dtype=torch.complex64)}, "a complex A is not supported"),
        ({"D": torch.zeros(12, dtype=torch.complex64)}, "a complex D is not supported"),
        ({"B": torch.zeros(12, 16)}, r"a constant B \(E, N\) is not supported"),
        ({"C": torch.zeros(12, 16)}, r"a constant C \(E, N\) is not supported"),
        ({"B": torch.zeros(2, 5, 16, 21)}, "B has 5 groups, expected a divisor of E = 12"),
        ({"B": torch.zeros(2, 0, 16, 21)}, r"B has shape \(2, 0, 16, 21\), expected \(B, N, L\) = \(2, 16, 21\) or"),
        ({"B": torch.zeros(2, 4, 16, 21), "C": torch.zeros(2, 3, 16, 21)}, "B has 4 groups and C 3, expected the same"),
        ({"u": torch.zeros(12, 21)}, r"u has shape \(12, 21\), expected \(B, E, L\)"),
        ({"delta": torch.zeros(2, 12, 20)}, r"delta has shape \(2, 12, 20\), expected \(B, E, L\) = \(2, 12, 21\)"),
        ({"D": torch.zeros(13)}, r"D has shape \(13,\), expected \(E,\) = \(12,\)"),
        ({"D": torch.zeros(())}, r"D has shape \(\), expected \(E,\) = \(12,\)"),
        ({"A": torch.zeros(13, 16)}, r"A has shape \(13, 16\), expected \(E, N\) with E = 12"),
    ],
)
@pytest.mark.parametrize("groups", [1, 3])
def test_what_it_does_not_take_is_refused_in_one_line(change: dict[str, Tensor], said: str, groups: int) -> None:
    with pytest.raises(ValueError, match=said) as refusal:
        selective_scan_fn(**(_problem(groups) | change))
    assert "\n" not in str(refusal.value)


def test_what_is_no_tensor_is_named() -> None:
    with pytest.raises(TypeError, match="delta is a list, expected a tensor"):
        selective_scan_fn(**(_problem(1) | {"delta": [1.0]}))  # type: ignore[arg-type]
