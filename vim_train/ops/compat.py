"""mamba-ssm's selective_scan_fn by this package's scan, for models written against that function.

    from vim_train.ops.compat import selective_scan_fn  # was: from mamba_ssm.ops.selective_scan_interface import ...

It has that function's signature and layouts, (B, E, L) with grouped B and C. The scan itself is channel-last, so every
call turns its arguments; a model that keeps channels last is faster with :func:`vim_train.ops.selective_scan`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vim_train.ops import selective_scan_with_state


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Selective scan along the last dimension.

    Args:
        u, delta, z: (B, E, L), all of one dtype.
        A: (E, N), real.
        B, C: (B, N, L), or (B, G, N, L) where the channels are G groups of E / G with a B and C each.
        D, delta_bias: (E,).
        delta_softplus: apply softplus to delta + delta_bias.
        return_last_state: also return the state after the last step, (B, E, N), through which no gradient flows.

    Returns:
        (B, E, L) in the dtype of u; with `return_last_state` a pair of it and the last state.

    Raises:
        ValueError: a complex A, a B or C that does not depend on the input, or shapes that do not fit together.
    """
    if any(t.is_complex() for t in (A, B, C)):
        raise ValueError("selective_scan_fn: complex A, B or C are not supported; pass real ones")
    for name, t in (("u", u), ("delta", delta), ("z", z)):
        if t is not None and t.dim() != 3:
            raise ValueError(f"selective_scan_fn: {name} has shape {tuple(t.shape)}, expected (B, E, L)")
    for name, t in (("B", B), ("C", C)):
        if t.dim() == 2:
            raise ValueError(f"selective_scan_fn: a constant {name} (E, N) is not supported; pass (B, N, L)")
    groups = _groups(B, C, u.shape[1])
    size = u.shape[1] // groups
    outs, states = [], []
    for g in range(groups):
        part = slice(g * size, (g + 1) * size)
        out, state = selective_scan_with_state(
            _rows(u[:, part]),
            _rows(delta[:, part]),
            A[part],
            _rows(_of_group(B, g)),
            _rows(_of_group(C, g)),
            None if D is None else D[part],
            None if z is None else _rows(z[:, part]),
            None if delta_bias is None else delta_bias[part],
            delta_softplus,
        )
        outs.append(out)
        states.append(state)
    # Contiguous, as callers of the original rely on: they take views of the result.
    out = _rows(torch.cat(outs, dim=-1)).contiguous()
    return (out, torch.cat(states, dim=1)) if return_last_state else out


def _groups(B: Tensor, C: Tensor, channels: int) -> int:
    """Groups of channels; ValueError where B and C differ in them or do not divide the channels."""
    counts = [t.shape[1] if t.dim() == 4 else 1 for t in (B, C)]
    shapes = f"B {tuple(B.shape)} and C {tuple(C.shape)}"
    if any(t.dim() not in (3, 4) for t in (B, C)):
        raise ValueError(f"selective_scan_fn: {shapes}, expected (B, N, L) or (B, G, N, L)")
    groups = max(counts)
    if not set(counts) <= {1, groups} or channels % groups:
        raise ValueError(f"selective_scan_fn: {shapes}: both need the same number of groups, a divisor of {channels}")
    return groups


def _of_group(t: Tensor, g: int) -> Tensor:
    """(B, N, L) of group g, where t has groups."""
    return t if t.dim() == 3 else t[:, g if t.shape[1] > 1 else 0]


def _rows(t: Tensor) -> Tensor:
    return t.transpose(1, 2)
