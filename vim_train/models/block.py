"""Pre-norm residual block with the residual stream in fp32."""

import torch
from torch import Tensor, nn

from vim_train.models.mixer import BiMamba
from vim_train.models.stochastic_depth import drop
from vim_train.ops import add_rms_norm


class AddRmsNorm(nn.Module):
    """Adds to the residual stream, then normalises by the root mean square over channels, times a learned weight."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """`hidden` (B, L, D) and the stream (None: it begins here) -> normed, in hidden's dtype, and the new stream."""
        normed, total = add_rms_norm(hidden, residual, self.weight, self.eps)
        return normed, total


class Add(nn.Module):
    """Stands where the final norm was pruned."""

    def forward(self, hidden: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        """The sum, twice: as `AddRmsNorm` without its norm."""
        total = residual + hidden
        return total, total


class Block(nn.Module):
    """residual <- residual + keep * hidden; hidden <- mixer(norm(residual)).

    The addition stands at the entry, so that it fuses with the norm: the last block's output is added by the model.
    """

    def __init__(self, dim: int, mixer: BiMamba) -> None:
        super().__init__()
        self.norm = AddRmsNorm(dim)
        self.mixer = mixer

    def forward(self, hidden: Tensor, residual: Tensor | None, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """`keep` (B, 1, 1): 0 for samples whose addition is dropped, 1 / (1 - rate) for the others; None: all kept."""
        normed, residual = self.norm(drop(hidden, keep), residual)
        return self.mixer(normed), residual
