"""The number of threads changes no bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from vim_train import ops


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(("batch", "length", "channels"), [(1, 197, 192), (3, 50, 96), (5, 17, 40)])
def test_bits_are_equal_for_one_two_and_three_threads(
    mixer: Callable[..., Any], library: None, threads: Callable[[int], None], batch: int, length: int, channels: int
) -> None:
    m = mixer(batch, length, channels)
    weight = torch.randn(channels, requires_grad=True)

    def run() -> list[torch.Tensor]:
        u, u_b = ops.bimamba_conv(*m.conv, backend="cpu")
        y = ops.bimamba_scan(u, u_b, *m.scan, backend="cpu")
        normed, residual = ops.add_rms_norm(y, u_b, weight, 1e-5, backend="cpu")
        return [y, normed, *torch.autograd.grad((normed * residual).sum(), [*m.leaves, weight])]

    threads(1)
    want = run()
    for count in (2, 3):
        threads(count)
        for got, w in zip(run(), want, strict=True):
            assert torch.equal(got, w)
