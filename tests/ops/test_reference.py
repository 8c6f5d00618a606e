"""The reference's closed-form backwards are what autograd makes of its forwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vim_train import ops
from vim_train.ops import reference


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).requires_grad_()


def _same_gradients(by_op: object, by_autograd: object, inputs: list[Tensor]) -> None:
    outputs, wanted = by_op(*inputs), by_autograd(*inputs)  # type: ignore[operator]
    torch.testing.assert_close(outputs, wanted, rtol=0, atol=0)
    douts = [torch.randn_like(t) for t in wanted]
    for got, want in zip(
        torch.autograd.grad(outputs, inputs, douts), torch.autograd.grad(wanted, inputs, douts), strict=True
    ):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("options", [0, 1])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("softplus", [False, True])
def test_scan_backward(options: int, reverse: bool, softplus: bool) -> None:
    A = (-torch.rand(5, 3, dtype=torch.float64)).requires_grad_()
    inputs = [_random(2, 7, 5), _random(2, 7, 5), A, _random(2, 7, 3), _random(2, 7, 3)]
    inputs += [_random(5), _random(2, 7, 5), _random(5)] * options
    flags = {"delta_softplus": softplus, "reverse": reverse}
    _same_gradients(
        lambda *t: (ops.selective_scan(*t, **flags),), lambda *t: (reference.selective_scan(*t, **flags),), inputs
    )


def test_conv_backward() -> None:
    inputs = [_random(2, 9, 5), _random(5, 1, 4), _random(5), _random(5, 1, 4), _random(5)]
    _same_gradients(ops.bimamba_conv, reference.bimamba_conv, inputs)


@pytest.mark.parametrize("first", [False, True])
def test_norm_backward(first: bool) -> None:
    hidden, residual, weight = _random(2, 3, 8), None if first else _random(2, 3, 8), _random(8)
    _same_gradients(
        lambda *t: ops.add_rms_norm(t[0], None if first else t[1], t[-1], 1e-5),
        lambda *t: reference.add_rms_norm(t[0], None if first else t[1], t[-1], 1e-5)[:2],
        [t for t in (hidden, residual, weight) if t is not None],
    )


def test_gradgradcheck_of_the_reference() -> None:
    A = (-torch.rand(3, 2, dtype=torch.float64)).requires_grad_()
    inputs = [_random(1, 3, 3), _random(1, 3, 3), A, _random(1, 3, 2), _random(1, 3, 2)]
    assert torch.autograd.gradgradcheck(lambda *t: reference.selective_scan(*t, delta_softplus=True), inputs)
