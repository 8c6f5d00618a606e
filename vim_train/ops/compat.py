"""mamba-ssm's selective_scan_fn by this package's scan, for models written against that function.

    from vim_train.ops.compat import selective_scan_fn  # was: from mamba_ssm.ops.selective_scan_interface import ...

It has that function's signature and layouts, (B, E, L) with grouped B and C. The scan itself is channel-last, so every
call turns its arguments; a model that keeps channels last is faster with :func:`vim_train.ops.selective_scan`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vim_train.ops import selective_scan_with_state
from vim_train.ops.checks import check_shape

_OP = "selective_scan_fn"


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
        TypeError: an argument is no tensor.
        ValueError: a complex tensor, a B or C that does not depend on the input, or shapes that do not fit together.
    """
    groups = _check(u, delta, A, B, C, D=D, z=z, delta_bias=delta_bias)
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


def _check(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, **optional: Tensor | None) -> int:
    """Complains in the caller's own layout; returns the number of groups."""
    given = {"u": u, "delta": delta, "A": A, "B": B, "C": C, **{k: t for k, t in optional.items() if t is not None}}
    for name, t in given.items():
        if not isinstance(t, Tensor):
            raise TypeError(f"{_OP}: {name} is a {type(t).__name__}, expected a tensor")
        if t.is_complex():
            raise ValueError(f"{_OP}: a complex {name} is not supported; pass a real one")
    if u.dim() != 3 or 0 in u.shape[1:]:
        raise ValueError(f"{_OP}: u has shape {tuple(u.shape)}, expected (B, E, L) with E and L at least 1")
    batch, channels, length = u.shape
    if A.dim() != 2 or A.shape[0] != channels or A.shape[1] < 1:
        raise ValueError(f"{_OP}: A has shape {tuple(A.shape)}, expected (E, N) with E = {channels} and N at least 1")
    for name in ("delta", "z"):
        check_shape(_OP, name, given.get(name), (batch, channels, length), "(B, E, L)")
    for name in ("D", "delta_bias"):
        check_shape(_OP, name, given.get(name), (channels,), "(E,)")
    of_B, of_C = (_groups(name, given[name], batch, channels, A.shape[1], length) for name in ("B", "C"))
    if of_B != of_C and 1 not in (of_B, of_C):
        raise ValueError(f"{_OP}: B has {of_B} groups and C {of_C}, expected the same number, or 1 of one of them")
    return max(of_B, of_C)


def _groups(name: str, t: Tensor, batch: int, channels: int, states: int, length: int) -> int:
    """Groups of channels that B or C has."""
    if t.dim() == 2:
        raise ValueError(f"{_OP}: a constant {name} (E, N) is not supported; pass (B, N, L)")
    groups = t.shape[1] if t.dim() == 4 else 1
    if t.dim() not in (3, 4) or (t.shape[0], *t.shape[-2:]) != (batch, states, length) or not groups:
        wanted = f"(B, N, L) = ({batch}, {states}, {length}) or (B, G, N, L)"
        raise ValueError(f"{_OP}: {name} has shape {tuple(t.shape)}, expected {wanted}")
    if channels % groups:
        raise ValueError(f"{_OP}: {name} has {groups} groups, expected a divisor of E = {channels}")
    return groups


def _of_group(t: Tensor, g: int) -> Tensor:
    """(B, N, L) of group g, where t has groups."""
    return t if t.dim() == 3 else t[:, g if t.shape[1] > 1 else 0]


def _rows(t: Tensor) -> Tensor:
    return t.transpose(1, 2)
