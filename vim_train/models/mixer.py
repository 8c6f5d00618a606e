"""The bidirectional Mamba mixer of Vision Mamba."""

import math

import torch
from torch import Tensor, nn

from vim_train.ops import bimamba_conv, bimamba_scan

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4
"""Step sizes that the forward direction starts with: log-uniform between the first two, never below the third."""


class BiMamba(nn.Module):
    """Bidirectional selective state space mixer (Vision Mamba, arXiv:2401.09417, algorithm 1).

    Each direction has its own depthwise convolution, input-dependent step Δ, B and C, and diagonal state matrix A;
    the reverse direction's parameters carry the suffix `_b`. Both share the input projection and the gate:

        x, z = in_proj(h)                u = silu(conv1d(x))               δ, B, C = x_proj(u)
        Δ = softplus(dt_proj(δ))         s_t = exp(Δ_t A) s_{t-1} + Δ_t B_t u_t       y_t = C_t s_t + D u_t
        out = out_proj((y + y_b) / 2 * silu(z))

    Args:
        embed_dim: width D of a token.
        d_state: states N per channel.
        d_conv: width of the depthwise convolution.
        expand: channels E = expand * D inside the mixer.
        dt_rank: rank R of Δ's projection; None: ceil(D / 16).
        divide_out: halve the sum of the directions (published classification weights have it, others do not).
        init_reverse_dt_bias: start the reverse direction's Δ as the forward one's. The published code left its bias
            at 0 (Δ = 0.69), and so does False.
        depth: blocks of the model; the output projection starts scaled by 1 / sqrt(depth).
        recompute_states: keep none of the scan's states for backward, which scans once more: 8 bytes less a token and
            channel.
    """

    def __init__(
        self,
        embed_dim: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        divide_out: bool = True,
        init_reverse_dt_bias: bool = False,
        depth: int = 1,
        recompute_states: bool = False,
    ) -> None:
        super().__init__()
        inner = expand * embed_dim
        rank = math.ceil(embed_dim / 16) if dt_rank is None else dt_rank
        self.d_state, self.dt_rank = d_state, rank
        self.divide_out = divide_out
        self.init_reverse_dt_bias = init_reverse_dt_bias
        self.depth = depth
        self.recompute_states = recompute_states

        self.in_proj = nn.Linear(embed_dim, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, d_conv, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.empty(inner, d_state))
        self.D = nn.Parameter(torch.empty(inner))
        self.conv1d_b = nn.Conv1d(inner, inner, d_conv, groups=inner)
        self.x_proj_b = nn.Linear(inner, rank + 2 * d_state, bias=False)
        self.dt_proj_b = nn.Linear(rank, inner)
        self.A_b_log = nn.Parameter(torch.empty(inner, d_state))
        self.D_b = nn.Parameter(torch.empty(inner))
        self.out_proj = nn.Linear(inner, embed_dim, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The published initialisation; projections and convolutions as PyTorch starts them."""
        for module in (self.in_proj, self.x_proj, self.x_proj_b, self.out_proj, self.conv1d, self.conv1d_b):
            module.reset_parameters()
        self.out_proj.weight.div_(math.sqrt(self.depth))
        bound = self.dt_rank**-0.5
        for dt_proj, follow in ((self.dt_proj, True), (self.dt_proj_b, self.init_reverse_dt_bias)):
            nn.init.uniform_(dt_proj.weight, -bound, bound)
            if follow:
                dt = torch.empty_like(dt_proj.bias).uniform_(math.log(DT_MIN), math.log(DT_MAX)).exp_()
                dt.clamp_(min=DT_FLOOR)
                dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # softplus of it is dt
            else:
                nn.init.zeros_(dt_proj.bias)
        states = torch.arange(1, self.d_state + 1, dtype=torch.float32, device=self.A_log.device)
        for a_log, skip in ((self.A_log, self.D), (self.A_b_log, self.D_b)):
            a_log.copy_(states.log().expand_as(a_log))
            nn.init.ones_(skip)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D). A, Δ, the state and D are fp32 or wider whatever the dtype of `hidden`."""
        x, z = self.in_proj(hidden).chunk(2, dim=-1)
        u, u_b = bimamba_conv(x, self.conv1d.weight, self.conv1d.bias, self.conv1d_b.weight, self.conv1d_b.bias)
        delta, B, C = self._select(u, self.x_proj, self.dt_proj)
        delta_b, B_b, C_b = self._select(u_b, self.x_proj_b, self.dt_proj_b)
        y = bimamba_scan(
            u, u_b, delta, delta_b,
            _state_matrix(self.A_log), _state_matrix(self.A_b_log),
            B, B_b, C, C_b,
            self.D, self.D_b, z,
            self.dt_proj.bias, self.dt_proj_b.bias,
            divide_out=self.divide_out,
            recompute_states=self.recompute_states,
        )  # fmt: skip
        out: Tensor = self.out_proj(y)
        return out

    def _select(self, u: Tensor, x_proj: nn.Linear, dt_proj: nn.Linear) -> tuple[Tensor, Tensor, Tensor]:
        """Δ before its bias (B, L, E), and views B, C (B, L, N) of x_proj's output."""
        low, B, C = x_proj(u).split((self.dt_rank, self.d_state, self.d_state), dim=-1)
        return nn.functional.linear(low, dt_proj.weight), B, C  # the scan adds the bias in fp32


def _state_matrix(a_log: Tensor) -> Tensor:
    return -torch.exp(a_log.to(torch.promote_types(a_log.dtype, torch.float32)))
