"""Stochastic depth: drops the addition to the residual stream for whole samples (arXiv:1603.09382)."""

from collections.abc import Sequence

import torch
from torch import Tensor


def drop_rates(rate: float, depth: int) -> tuple[float, ...]:
    """Rates of the depth + 1 additions: on entry to block i, where the output of block i - 1 is added, then the last.

    They rise linearly from 0 at block 0's output to `rate` at the last block's, one block late as in the published
    code: nothing is dropped on entry to blocks 0 and 1.

    Raises:
        ValueError: `rate` is outside [0, 1).
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"drop_path_rate {rate} is outside [0, 1)")
    rising = (rate * i / (depth - 1) for i in range(depth - 1))
    return (0.0, *rising, rate)


def keep_scales(noise: Tensor, rates: Sequence[float]) -> list[Tensor | None]:
    """What each addition is multiplied by, a pure function of the noise.

    Args:
        noise: (B, len(rates)) uniform in [0, 1); a sample keeps addition i where noise[:, i] >= rates[i].

    Returns:
        For each addition (B, 1, 1) fp32, 0 or 1 / (1 - rate), or None where the rate is 0.

    Raises:
        ValueError: the noise has another number of columns.
    """
    if noise.ndim != 2 or noise.shape[1] != len(rates):
        raise ValueError(f"drop_path_noise has shape {tuple(noise.shape)}, accepted is (batch, {len(rates)})")
    return [None if r == 0 else (noise[:, i, None, None] >= r) / (1 - r) for i, r in enumerate(rates)]


def drop(hidden: Tensor, keep: Tensor | None) -> Tensor:
    """`hidden` (B, L, D) times `keep` (B, 1, 1), multiplied in fp32 and returned in hidden's dtype."""
    return hidden if keep is None else (hidden * keep).to(hidden.dtype)


def draw_noise(batch: int, rates: Sequence[float], device: torch.device) -> Tensor:
    """(batch, len(rates)) uniform in [0, 1) from torch's generator of that device."""
    return torch.rand(batch, len(rates), device=device)
