"""Selective-scan operators of Vision Mamba, channel-last, with native and plain PyTorch backends.

The four ops below are registered with torch.library (fakes and autograd included), so they work in eager mode, under
torch.compile(fullgraph=True) and in torch.export. Strided views are read where they lie, as long as the last dimension
has unit stride. Activations are float32, bfloat16 or float16; states and all reductions are float32. float64
activations go to the reference backend, whichever is chosen. Gradients are of first order, and the same bits for any
number of threads.

Shapes: B batch, L sequence length, E channels (d_inner), N states (d_state), K convolution width.

Every op takes `backend`: None for the one in force (see :func:`set_backend`), or "reference", "cpu", "cuda". They
raise ValueError for arguments that do not fit together, and RuntimeError for a backend that is not available or cannot
work on the tensors' device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vim_train.ops import checks, library
from vim_train.ops.backends import BackendInfo, active_backend, backend_report, resolve, set_backend
from vim_train.ops.direction import Direction

__all__ = [
    "BackendInfo",
    "active_backend",
    "add_rms_norm",
    "backend_report",
    "bimamba_conv",
    "bimamba_scan",
    "selective_scan",
    "selective_scan_with_state",
    "set_backend",
]


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    reverse: bool = False,
    recompute_states: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Selective scan in one direction (Gu and Dao, "Mamba", 2023, algorithm 2 with zero-order hold for A).

    With d_t = delta_t + delta_bias, through softplus if `delta_softplus`, for every channel and from a zero state:

        s_t = exp(d_t A) * s_(t-1) + d_t B_t u_t;    y_t = C_t . s_t + D u_t;    out_t = y_t * silu(z_t)

    Args:
        u: (B, L, E) input.
        delta: (B, L, E) time steps, in the dtype of u.
        A: (E, N) state matrix, negative.
        B, C: (B, L, N), in the dtype of u.
        D: (E,) skip; None for none.
        z: (B, L, E) gate, in the dtype of u; None for none.
        delta_bias: (E,) added to delta; None for none.
        delta_softplus: apply softplus to the time steps.
        reverse: scan from the end of the sequence to its start.
        recompute_states: keep no states for backward (by default fp32 ones of every 16th step); it scans once more.
        backend: see the module.

    Returns:
        (B, L, E) in the dtype of u.
    """
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    return _selective_scan(*tensors, delta_softplus, reverse, recompute_states, False, backend)[0]


def selective_scan_with_state(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    reverse: bool = False,
    recompute_states: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`selective_scan`, and s after the last step, (B, E, N) float32, a constant to autograd."""
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    out, states = _selective_scan(*tensors, delta_softplus, reverse, recompute_states, True, backend)
    return out, states[0]


def bimamba_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_b: Tensor,
    bias_b: Tensor | None,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Depthwise convolution along the sequence and SiLU for both directions, from one read of x.

        u_l   = silu(bias   + sum_k weight_k   x_(l-(K-1)+k))      causal
        u_b_l = silu(bias_b + sum_k weight_b_k x_(l+(K-1)-k))      anti-causal: the causal one of the reversed sequence

    Args:
        x: (B, L, E), e.g. the first half of in_proj's output.
        weight, weight_b: (E, 1, K) as torch.nn.Conv1d holds it.
        bias, bias_b: (E,), or None.
        backend: see the module.

    Returns:
        u, u_b: (B, L, E) each, in the dtype of x.
    """
    op = "bimamba_conv"
    _, _, channels = checks.check_io(op, "x", x)
    for name, w, b in (("weight", weight, bias), ("weight_b", weight_b, bias_b)):
        checks.check_shape(op, name, w, (channels, 1, weight.shape[-1]), "(E, 1, K)")
        checks.check_shape(op, name.replace("weight", "bias"), b, (channels,), "(E,)")
    checks.check_same_device(op, "x", x, weight=weight, bias=bias, weight_b=weight_b, bias_b=bias_b)
    backend = resolve(backend, x.device.type, x.dtype)
    u, u_b = library.bimamba_conv(x, weight, bias, weight_b, bias_b, backend)
    return u, u_b


def bimamba_scan(
    u: Tensor,
    u_b: Tensor,
    delta: Tensor,
    delta_b: Tensor,
    A: Tensor,
    A_b: Tensor,
    B: Tensor,
    B_b: Tensor,
    C: Tensor,
    C_b: Tensor,
    D: Tensor,
    D_b: Tensor,
    z: Tensor,
    delta_bias: Tensor,
    delta_bias_b: Tensor,
    *,
    divide_out: bool = True,
    recompute_states: bool = False,
    backend: str | None = None,
) -> Tensor:
    """The bidirectional mixer's scan, both directions summed and gated (Zhu et al., "Vision Mamba", 2024, algorithm 1).

    A :func:`selective_scan` with softplus, bias and skip for each direction, the one of the `_b` tensors from the end
    of the sequence to its start; out = (y + y_b) / 2 * silu(z), without the division if not `divide_out`.

    Args:
        u, u_b: (B, L, E) outputs of :func:`bimamba_conv`.
        delta, delta_b: (B, L, E) time steps before bias and softplus.
        A, A_b: (E, N) state matrices, negative.
        B, B_b, C, C_b: (B, L, N), e.g. views of x_proj's output.
        D, D_b: (E,) skips.
        z: (B, L, E) gate, e.g. the second half of in_proj's output.
        delta_bias, delta_bias_b: (E,).
        divide_out: mean of the two directions instead of their sum.
        recompute_states: as in :func:`selective_scan`.
        backend: see the module.

    Returns:
        (B, L, E) in the dtype of u. All activations (u, delta, B, C and z) have that dtype.
    """
    op = "bimamba_scan"
    checks.check_direction(op, Direction(u, delta, A, B, C, D, delta_bias, False), z)
    checks.check_shape(op, "u_b", u_b, tuple(u.shape), "(B, L, E)")
    checks.check_same_dtype(op, "u", u, u_b=u_b)
    checks.check_direction(op, Direction(u_b, delta_b, A_b, B_b, C_b, D_b, delta_bias_b, True), z, suffix="_b")
    checks.check_shape(op, "A_b", A_b, tuple(A.shape), "(E, N)")
    backend = resolve(backend, u.device.type, u.dtype)
    checks.check_states(op, A, backend)
    tensors = (u, u_b, delta, delta_b, A, A_b, B, B_b, C, C_b, D, D_b, z, delta_bias, delta_bias_b)
    save = not recompute_states and _needs_grad(*tensors)
    out: Tensor = library.bimamba_scan(*tensors, divide_out, save, False, backend)[0]
    return out


def add_rms_norm(
    hidden: Tensor, residual: Tensor | None, weight: Tensor, eps: float, *, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """Add to the residual stream and normalise: the step between two blocks of a pre-norm network.

        residual_out = residual + hidden;    normed = residual_out / sqrt(mean(residual_out^2) + eps) * weight

    Args:
        hidden: (..., C), output of the block before.
        residual: (..., C) float32 (float64 for float64 hidden); None before the first block.
        weight: (C,).
        eps: added to the mean square.
        backend: see the module.

    Returns:
        normed in the dtype of hidden; residual_out in that of the residual.
    """
    op = "add_rms_norm"
    wide = torch.promote_types(hidden.dtype, torch.float32)
    if hidden.dtype not in checks.DTYPES:
        raise ValueError(f"{op}: hidden is {hidden.dtype}, expected one of {', '.join(map(str, checks.DTYPES))}")
    if residual is not None and residual.dtype != wide:
        raise ValueError(f"{op}: residual is {residual.dtype}, expected {wide} beside hidden of {hidden.dtype}")
    checks.check_shape(op, "residual", residual, tuple(hidden.shape), "hidden's shape")
    checks.check_shape(op, "weight", weight, tuple(hidden.shape[-1:]), "(C,)")
    checks.check_same_device(op, "hidden", hidden, residual=residual, weight=weight)
    backend = resolve(backend, hidden.device.type, hidden.dtype)
    normed, residual_out, _ = library.add_rms_norm(hidden, residual, weight, eps, backend)
    return normed, residual_out


def _needs_grad(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
    recompute_states: bool,
    last: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    op = "selective_scan"
    checks.check_direction(op, Direction(u, delta, A, B, C, D, delta_bias, reverse), z)
    backend = resolve(backend, u.device.type, u.dtype)
    checks.check_states(op, A, backend)
    tensors = (u, delta, A, B, C, D, z, delta_bias)
    save = not recompute_states and _needs_grad(*tensors)
    out, _, states = library.selective_scan(*tensors, delta_softplus, reverse, save, last, backend)
    return out, states
