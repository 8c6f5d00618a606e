"""The convolution and the norm are PyTorch's own, in both backends."""

from __future__ import annotations

from typing import Any

import problems
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vim_train import ops
from vim_train.ops import native

backends = st.sampled_from(["reference", "cpu"] if native.libraries["cpu"].loaded else ["reference"])


@settings(max_examples=60, deadline=None)
@given(backend=backends, **problems.CONV)
def test_bimamba_conv_is_conv1d_and_silu_both_ways(backend: str, **case: Any) -> None:
    problems.check_conv(backend, "cpu", **case)


@settings(max_examples=60, deadline=None)
@given(backend=backends, **problems.NORM)
def test_add_rms_norm_is_an_addition_and_rms_norm(backend: str, **case: Any) -> None:
    problems.check_norm(backend, "cpu", **case)


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
