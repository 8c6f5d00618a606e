"""The convolution and the norm are PyTorch's own, in both backends."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vim_train import ops
from vim_train.ops import native

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1.2e-2, torch.float16: 2e-3}
backends = st.sampled_from(["reference", "cpu"] if native.libraries["cpu"].loaded else ["reference"])
dtypes = st.sampled_from(list(TOLERANCE))


def _conv_by_torch(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    padded = F.pad(x.transpose(1, 2), (weight.shape[-1] - 1, 0))
    return F.silu(F.conv1d(padded, weight, bias, groups=x.shape[-1])).transpose(1, 2)


def _assert_same(
    outputs: tuple[Tensor, ...], wanted: tuple[Tensor, ...], inputs: list[Tensor], exact: list[Tensor]
) -> None:
    """Outputs and gradients agree, relative to a tensor's largest value or a tenth of the largest of all."""
    rng = torch.Generator().manual_seed(1)
    douts = [torch.randn(w.shape, generator=rng).to(o.dtype) for o, w in zip(outputs, wanted, strict=True)]
    grads = torch.autograd.grad(outputs, inputs, douts)
    want = torch.autograd.grad(wanted, exact, [d.double() for d in douts])
    loosest = max(TOLERANCE[t.dtype] for t in (*outputs, *inputs))
    wanted = tuple(w.detach() for w in (*wanted, *want))
    largest = [float(w.abs().max()) for w in wanted]
    for got, w, scale in zip((*outputs, *grads), wanted, largest, strict=True):
        error = float((got.detach().double() - w).abs().max())
        assert error <= loosest * max(scale, 0.1 * max(largest))


@settings(max_examples=60, deadline=None)
@given(
    backend=backends,
    dtype=dtypes,
    batch=st.integers(1, 3),
    length=st.integers(1, 24),
    channels=st.one_of(st.integers(1, 40), st.sampled_from([64, 130])),
    width=st.integers(1, 8),
    biased=st.booleans(),
    strided=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_bimamba_conv_is_conv1d_and_silu_both_ways(
    backend: str,
    dtype: torch.dtype,
    batch: int,
    length: int,
    channels: int,
    width: int,
    biased: bool,
    strided: bool,
    seed: int,
) -> None:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, length, 2 * channels, generator=rng).to(dtype)[..., :channels]
    x = (x if strided else x.contiguous()).requires_grad_()
    weight, weight_b = (torch.randn(channels, 1, width, generator=rng).requires_grad_() for _ in range(2))
    bias, bias_b = (torch.randn(channels, generator=rng).requires_grad_() if biased else None for _ in range(2))
    inputs = [t for t in (x, weight, bias, weight_b, bias_b) if t is not None]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    x64, w64, b64, wb64, bb64 = exact if biased else (exact[0], exact[1], None, exact[2], None)
    wanted = (_conv_by_torch(x64, w64, b64), _conv_by_torch(x64.flip(1), wb64, bb64).flip(1))
    outputs = ops.bimamba_conv(x, weight, bias, weight_b, bias_b, backend=backend)
    assert all(t.dtype == dtype and t.is_contiguous() for t in outputs)
    _assert_same(outputs, wanted, inputs, exact)


@settings(max_examples=60, deadline=None)
@given(
    backend=backends,
    dtype=dtypes,
    rows=st.sampled_from([(1,), (3,), (2, 5), (2, 1, 3)]),
    dim=st.one_of(st.integers(1, 40), st.sampled_from([192, 384])),
    first=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_add_rms_norm_is_an_addition_and_rms_norm(
    backend: str, dtype: torch.dtype, rows: tuple[int, ...], dim: int, first: bool, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    hidden = torch.randn(*rows, dim, generator=rng).to(dtype).requires_grad_()
    residual = None if first else torch.randn(*rows, dim, generator=rng).requires_grad_()
    weight = torch.randn(dim, generator=rng).requires_grad_()
    inputs = [t for t in (hidden, residual, weight) if t is not None]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    total = exact[0] if first else exact[0] + exact[1]
    wanted = (F.rms_norm(total, (dim,), exact[-1], eps=1e-5), total)
    outputs = ops.add_rms_norm(hidden, residual, weight, 1e-5, backend=backend)
    assert outputs[0].dtype == dtype
    assert outputs[1].dtype == torch.float32
    _assert_same(outputs, wanted, inputs, exact)


@pytest.mark.parametrize("used", [0, 1])
def test_add_rms_norm_with_one_output_unused(backend: str, used: int) -> None:
    hidden, residual, weight = torch.randn(2, 3, 8), torch.randn(2, 3, 8), torch.randn(8)
    inputs = [t.requires_grad_() for t in (hidden, residual, weight)]
    total = hidden + residual
    wanted = (F.rms_norm(total, (8,), weight, eps=1e-5), total)[used]
    got = ops.add_rms_norm(hidden, residual, weight, 1e-5, backend=backend)[used]
    want = torch.autograd.grad(wanted.square().sum(), inputs, allow_unused=True)
    grads = torch.autograd.grad(got.square().sum(), inputs, allow_unused=True)
    for g, w in zip(grads, want, strict=True):
        assert (g is None) == (w is None)
        if w is not None:
            torch.testing.assert_close(g, w)


def test_the_first_residual_is_not_the_hidden_itself(backend: str) -> None:
    hidden = torch.randn(2, 3, 8)
    _, residual = ops.add_rms_norm(hidden, None, torch.ones(8), 1e-5, backend=backend)
    assert residual.data_ptr() != hidden.data_ptr()
    torch.testing.assert_close(residual, hidden, rtol=0, atol=0)
