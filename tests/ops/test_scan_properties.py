"""Over the space of shapes, layouts, options and dtypes, the native scan is the float64 reference's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vim_train import ops
from vim_train.ops import native, reference

pytestmark = pytest.mark.skipif(not native.libraries["cpu"].loaded, reason=native.libraries["cpu"].detail)

# Of the largest value. float32: sums over the sequence may cancel (the golden tensors hold 1e-5); others: one rounding.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1.2e-2, torch.float16: 2e-3}
LAYOUTS = ["contiguous", "row view", "batch view", "transposed"]

sizes = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "length": st.one_of(st.integers(1, 40), st.sampled_from([15, 16, 17, 32, 33, 49])),
        "channels": st.one_of(st.integers(1, 40), st.sampled_from([16, 32, 48, 64, 65, 130])),
        "states": st.one_of(st.integers(1, 20), st.sampled_from([4, 8, 16, 32])),
    }
)


def _laid_out(t: Tensor, layout: str) -> Tensor:
    """t with the same values in another memory layout."""
    batch, length, width = t.shape
    if layout == "row view":
        return torch.cat([t.new_zeros(batch, length, 3), t, t.new_zeros(batch, length, 2)], -1)[..., 3 : 3 + width]
    if layout == "batch view":
        return torch.cat([t, torch.full_like(t, 7.0)], 1)[:, :length]
    if layout == "transposed":
        return t.transpose(1, 2).contiguous().transpose(1, 2)
    return t


def _assert_close(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    """Each within tolerance of its largest value, or of a tenth of the largest of all: a sum may cancel to nearly 0."""
    floor = 0.1 * max(float(w.abs().max()) for w in want.values())
    for name, w in want.items():
        scale = max(float(w.abs().max()), floor)
        error = float((got[name].double() - w).abs().max()) / scale
        assert error <= TOLERANCE[got[name].dtype], f"{name}: {error:.2e} of {scale:.2e}"


def _directions(rng: torch.Generator, size: dict[str, int], dtype: torch.dtype, layout: str) -> dict[str, Tensor]:
    batch, length, channels, states = size["batch"], size["length"], size["channels"], size["states"]

    def rows(width: int) -> Tensor:
        return _laid_out(torch.randn(batch, length, width, generator=rng).to(dtype), layout).requires_grad_()

    def vector() -> Tensor:
        return torch.randn(channels, generator=rng).requires_grad_()

    A = -torch.exp(torch.randn(channels, states, generator=rng))
    return {
        "u": rows(channels),
        "delta": rows(channels),
        "A": A.requires_grad_(),
        "B": rows(states),
        "C": rows(states),
        "D": vector(),
        "delta_bias": vector(),
    }


def _assert_same_scan(run: object, truth: object, inputs: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Outputs and gradients of run(inputs) are those of truth(inputs in float64)."""
    exact = {name: t.detach().double().requires_grad_() for name, t in inputs.items()}
    got, want = run(**inputs), truth(**exact)  # type: ignore[operator]
    assert got.dtype == dtype
    assert got.is_contiguous()
    dout = torch.randn(want.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    got_grads = torch.autograd.grad(got, list(inputs.values()), dout)
    want_grads = torch.autograd.grad(want, list(exact.values()), dout.double())
    assert [g.dtype for g in got_grads] == [t.dtype for t in inputs.values()]
    names = ["out", *inputs]
    _assert_close(
        dict(zip(names, [got.detach(), *got_grads], strict=True)),
        dict(zip(names, [want.detach(), *want_grads], strict=True)),
    )


@settings(max_examples=60, deadline=None)
@given(
    size=sizes,
    dtype=st.sampled_from(list(TOLERANCE)),
    layout=st.sampled_from(LAYOUTS),
    left_out=st.sets(st.sampled_from(["D", "z", "delta_bias"])),
    softplus=st.booleans(),
    reverse=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_selective_scan_is_the_reference(
    size: dict[str, int],
    dtype: torch.dtype,
    layout: str,
    left_out: set[str],
    softplus: bool,
    reverse: bool,
    seed: int,
) -> None:
    rng = torch.Generator().manual_seed(seed)
    inputs = _directions(rng, size, dtype, layout)
    inputs["z"] = _directions(rng, size, dtype, layout)["u"]
    if not softplus:  # time steps are positive
        inputs["delta"] = inputs["delta"].detach().abs().requires_grad_()
        inputs["delta_bias"] = inputs["delta_bias"].detach().abs().requires_grad_()
    inputs = {name: t for name, t in inputs.items() if name not in left_out}
    options = {"delta_softplus": softplus, "reverse": reverse}
    _assert_same_scan(
        lambda **t: ops.selective_scan(**t, **options, backend="cpu"),
        lambda **t: reference.selective_scan(**t, **options),
        inputs,
        dtype,
    )


@settings(max_examples=30, deadline=None)
@given(
    size=sizes,
    dtype=st.sampled_from(list(TOLERANCE)),
    layout=st.sampled_from(LAYOUTS),
    divide_out=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_bimamba_scan_is_the_reference(
    size: dict[str, int], dtype: torch.dtype, layout: str, divide_out: bool, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    inputs = _directions(rng, size, dtype, layout)
    inputs |= {f"{name}_b": t for name, t in _directions(rng, size, dtype, layout).items()}
    inputs["z"] = _directions(rng, size, dtype, layout)["u"]
    _assert_same_scan(
        lambda **t: ops.bimamba_scan(**t, divide_out=divide_out, backend="cpu"),
        lambda **t: reference.bimamba_scan(**t, divide_out=divide_out),
        inputs,
        dtype,
    )


def test_bimamba_scan_is_two_selective_scans() -> None:
    rng = torch.Generator().manual_seed(0)
    size = {"batch": 2, "length": 37, "channels": 24, "states": 16}
    f, b = (_directions(rng, size, torch.float64, "contiguous") for _ in range(2))
    z = torch.randn(2, 37, 24, generator=rng, dtype=torch.float64)
    both = ops.bimamba_scan(**f, **{f"{name}_b": t for name, t in b.items()}, z=z)
    y = ops.selective_scan(**f, delta_softplus=True)
    flipped = {name: t.flip(1) if t.dim() == 3 else t for name, t in b.items()}
    y_b = ops.selective_scan(**flipped, delta_softplus=True).flip(1)
    torch.testing.assert_close(both, (y + y_b) / 2 * torch.nn.functional.silu(z))
