"""The backends to try, and problems for the ops: random tensors as the views in which a model passes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from vim_train import ops
from vim_train.ops import native


@dataclass
class Mixer:
    """Leaves of one bidirectional mixer; the arguments of the ops are views of them."""

    xz: Tensor
    x_dbl: list[Tensor]
    delta: list[Tensor]
    A: list[Tensor]
    vectors: list[Tensor]  # D, D_b, delta_bias, delta_bias_b, bias, bias_b
    weights: list[Tensor]

    @property
    def leaves(self) -> list[Tensor]:
        return [self.xz, *self.x_dbl, *self.delta, *self.A, *self.vectors, *self.weights]

    @property
    def channels(self) -> int:
        return self.A[0].shape[0]

    @property
    def conv(self) -> tuple[Tensor, ...]:
        """Arguments of bimamba_conv."""
        x, _ = self.xz.chunk(2, dim=-1)
        return x, self.weights[0], self.vectors[4], self.weights[1], self.vectors[5]

    @property
    def scan(self) -> tuple[Tensor, ...]:
        """Arguments of bimamba_scan after u and u_b."""
        _, z = self.xz.chunk(2, dim=-1)
        states = self.A[0].shape[1]
        (B, C), (B_b, C_b) = (t[..., -2 * states :].chunk(2, dim=-1) for t in self.x_dbl)
        D, D_b, delta_bias, delta_bias_b = self.vectors[:4]
        return (*self.delta, *self.A, B, B_b, C, C_b, D, D_b, z, delta_bias, delta_bias_b)


@pytest.fixture(params=["reference", "cpu"])
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "cpu":
        request.getfixturevalue("library")
    return str(request.param)


@pytest.fixture
def library() -> None:
    """Skips where the native library was not built."""
    if not native.libraries["cpu"].loaded:
        pytest.skip(native.libraries["cpu"].detail)


@pytest.fixture
def every_backend(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each backend in turn, for functions that choose it by themselves."""
    monkeypatch.setenv("VIM_TRAIN_SCAN", backend)


@pytest.fixture
def forced() -> Iterator[Callable[[str], None]]:
    """set_backend, undone after the test."""
    yield ops.set_backend
    ops.set_backend("auto")


@pytest.fixture
def mixer() -> Callable[..., Mixer]:
    def make(batch: int = 2, length: int = 19, channels: int = 24, states: int = 16, seed: int = 0) -> Mixer:
        rng = torch.Generator().manual_seed(seed)

        def leaf(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=rng).requires_grad_()

        return Mixer(
            xz=leaf(batch, length, 2 * channels),
            x_dbl=[leaf(batch, length, 3 + 2 * states) for _ in range(2)],
            delta=[leaf(batch, length, channels) for _ in range(2)],
            A=[(-0.1 - torch.rand(channels, states, generator=rng)).requires_grad_() for _ in range(2)],
            vectors=[leaf(channels) for _ in range(6)],
            weights=[leaf(channels, 1, 4) for _ in range(2)],
        )

    return make
