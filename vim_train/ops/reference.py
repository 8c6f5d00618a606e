"""The ops in plain PyTorch: the definition that every backend is tested against, and the fallback where none is built.

Forwards are ordinary code that autograd differentiates, in any float dtype; arithmetic and states are in float32, or in
float64 for float64 inputs. The backwards below are the closed forms that the registered ops use with this backend: they
recompute the states, so that training by the fallback keeps no (B, L, E, N) tensor from forward to backward.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from vim_train.ops.direction import Direction, DirectionGrads, cast_grads


def compute_dtype(t: Tensor) -> torch.dtype:
    """What arithmetic on t is in: at least float32."""
    return torch.promote_types(t.dtype, torch.float32)


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
) -> Tensor:
    """Selective scan in one direction; see :func:`vim_train.ops.selective_scan`."""
    direction = Direction(u, delta, A, B, C, D, delta_bias, reverse)
    return scan([direction], z, delta_softplus, scale=1.0)


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
) -> Tensor:
    """Both directions of the mixer's scan, summed and gated; see :func:`vim_train.ops.bimamba_scan`."""
    directions = [
        Direction(u, delta, A, B, C, D, delta_bias, reverse=False),
        Direction(u_b, delta_b, A_b, B_b, C_b, D_b, delta_bias_b, reverse=True),
    ]
    return scan(directions, z, delta_softplus=True, scale=0.5 if divide_out else 1.0)


def scan(directions: Sequence[Direction], z: Tensor | None, delta_softplus: bool, scale: float) -> Tensor:
    """scale * sum of the directions' y * silu(z), (B, L, E) in the dtype of u."""
    return scan_and_states(directions, z, delta_softplus, scale)[0]


def scan_and_states(
    directions: Sequence[Direction], z: Tensor | None, delta_softplus: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """:func:`scan`, and the states after the last step, (directions, B, E, N)."""
    with _full_precision(directions[0].u):
        results = [_readout(_widen(d), delta_softplus) for d in directions]
        y = torch.stack([y for y, _ in results]).sum(0) * scale
        if z is not None:
            y = y * F.silu(z.to(y.dtype))
        return y.to(directions[0].u.dtype), torch.stack([state for _, state in results])


def scan_backward(
    dout: Tensor, directions: Sequence[Direction], z: Tensor | None, delta_softplus: bool, scale: float
) -> tuple[list[DirectionGrads], Tensor | None]:
    """Gradients of :func:`scan`: one DirectionGrads a direction, and dz (None without z)."""
    with _full_precision(dout):
        wide = [_widen(d) for d in directions]
        dy = dout.to(wide[0].u.dtype) * scale
        dz = None
        if z is not None:
            gate = z.to(dy.dtype)
            y = torch.stack([_readout(d, delta_softplus)[0] for d in wide]).sum(0)
            dz = torch.ops.aten.silu_backward(dy * y, gate).to(z.dtype)
            dy = dy * F.silu(gate)
        grads = [_direction_backward(d, dy, delta_softplus) for d in wide]
        return [cast_grads(g, d) for g, d in zip(grads, directions, strict=True)], dz


def bimamba_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight_b: Tensor, bias_b: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Causal and anti-causal depthwise convolution with SiLU; see :func:`vim_train.ops.bimamba_conv`."""
    wide = x.to(compute_dtype(x))
    u = F.silu(_depthwise(wide, weight, bias, reverse=False))
    u_b = F.silu(_depthwise(wide, weight_b, bias_b, reverse=True))
    return u.to(x.dtype), u_b.to(x.dtype)


def bimamba_conv_backward(
    du: Tensor,
    du_b: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_b: Tensor,
    bias_b: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Gradients of :func:`bimamba_conv`: dx, dweight, dbias, dweight_b, dbias_b (None where a bias is None)."""
    wide = x.to(compute_dtype(x))
    dx, dweight, dbias = _depthwise_silu_backward(du, wide, weight, bias, reverse=False)
    dx_b, dweight_b, dbias_b = _depthwise_silu_backward(du_b, wide, weight_b, bias_b, reverse=True)
    return (dx + dx_b).to(x.dtype), dweight, dbias, dweight_b, dbias_b


def add_rms_norm(hidden: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Residual addition and RMSNorm (see :func:`vim_train.ops.add_rms_norm`), and the 1/rms of every row, (...,)."""
    wide = hidden.to(compute_dtype(hidden))
    total = wide.clone() if residual is None else residual.to(wide.dtype) + wide
    inv_rms = torch.rsqrt(total.square().mean(-1) + eps)
    normed = total * inv_rms.unsqueeze(-1) * weight.to(wide.dtype)
    return normed.to(hidden.dtype), total, inv_rms


def add_rms_norm_backward(
    dnormed: Tensor, dresidual_out: Tensor | None, residual_out: Tensor, inv_rms: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`add_rms_norm`: that of the sum (so of residual and of hidden alike), and dweight."""
    scale = inv_rms.unsqueeze(-1)
    unit = residual_out * scale
    dnormed = dnormed.to(residual_out.dtype)
    dunit = dnormed * weight.to(residual_out.dtype)
    dresidual = scale * (dunit - unit * (dunit * unit).mean(-1, keepdim=True))
    if dresidual_out is not None:
        dresidual = dresidual + dresidual_out
    dweight = (dnormed * unit).reshape(-1, weight.numel()).sum(0)
    return dresidual, dweight.to(weight.dtype)


def _full_precision(t: Tensor) -> AbstractContextManager[object]:
    """Autocast off: it would compute the sums over states in half precision."""
    device = t.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _widen(d: Direction) -> Direction:
    dtype = compute_dtype(d.u)
    u, delta, A, B, C = (t.to(dtype) for t in d[:5])
    D, delta_bias = (None if t is None else t.to(dtype) for t in (d.D, d.delta_bias))
    return Direction(u, delta, A, B, C, D, delta_bias, d.reverse)


def _time_step(d: Direction, delta_softplus: bool) -> tuple[Tensor, Tensor]:
    """delta before and after softplus, with its bias."""
    raw = d.delta if d.delta_bias is None else d.delta + d.delta_bias
    return raw, F.softplus(raw) if delta_softplus else raw


def _scan_order(d: Direction) -> range:
    length = d.u.shape[1]
    return range(length - 1, -1, -1) if d.reverse else range(length)


def _states(d: Direction, delta: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield (t, s_t), s_t of (B, E, N), in scan order."""
    # unbind, not indexing in the loop: its backward is one stack, where each index would fill a whole (B, L, E).
    deltas, inputs, B = delta.unbind(1), (delta * d.u).unbind(1), d.B.unbind(1)
    state = d.u.new_zeros(d.u.shape[0], *d.A.shape)
    for t in _scan_order(d):
        decay = torch.exp(deltas[t].unsqueeze(-1) * d.A)
        state = decay * state + inputs[t].unsqueeze(-1) * B[t].unsqueeze(-2)
        yield t, state


def _readout(d: Direction, delta_softplus: bool) -> tuple[Tensor, Tensor]:
    """y (B, L, E) of one direction, with the skip D u, and the last state (B, E, N)."""
    _, delta = _time_step(d, delta_softplus)
    C = d.C.unbind(1)
    rows = {}
    for t, state in _states(d, delta):
        last = state
        rows[t] = torch.matmul(state, C[t].unsqueeze(-1)).squeeze(-1)
    y = torch.stack([rows[t] for t in range(len(rows))], dim=1)
    return y if d.D is None else y + d.D * d.u, last


def _direction_backward(d: Direction, dy: Tensor, delta_softplus: bool) -> DirectionGrads:
    raw, delta = _time_step(d, delta_softplus)
    by_step = dict(_states(d, delta))
    states = torch.stack([by_step[t] for t in range(len(by_step))], dim=1)  # (B, L, E, N)
    start = torch.zeros_like(states[:, :1])
    before = torch.cat([states[:, 1:], start] if d.reverse else [start, states[:, :-1]], dim=1)
    decay = torch.exp(delta.unsqueeze(-1) * d.A)

    # Adjoint of the states, against the scan order: g_t = C_t dy_t + exp(delta_(t+1) A) g_(t+1).
    adjoint = dy.unsqueeze(-1) * d.C.unsqueeze(-2)
    carry = torch.zeros_like(start[:, 0])
    for t in reversed(_scan_order(d)):
        adjoint[:, t] += carry
        carry = decay[:, t] * adjoint[:, t]

    dexponent = adjoint * before * decay  # gradient of delta_t A
    dinput = torch.einsum("blen,bln->ble", adjoint, d.B)  # gradient of delta_t u_t
    ddelta = torch.einsum("blen,en->ble", dexponent, d.A) + dinput * d.u
    if delta_softplus:
        ddelta = ddelta * torch.sigmoid(raw)
    return DirectionGrads(
        du=dinput * delta if d.D is None else dinput * delta + d.D * dy,
        ddelta=ddelta,
        dA=torch.einsum("blen,ble->en", dexponent, delta),
        dB=torch.einsum("blen,ble->bln", adjoint, delta * d.u),
        dC=torch.einsum("blen,ble->bln", states, dy),
        dD=None if d.D is None else (dy * d.u).sum((0, 1)),
        ddelta_bias=None if d.delta_bias is None else ddelta.sum((0, 1)),
    )


def _padded(x: Tensor, width: int, reverse: bool) -> Tensor:
    """x with width - 1 zero rows before it, or after it for the reverse direction."""
    return F.pad(x, (0, 0, 0, width - 1) if reverse else (0, 0, width - 1, 0))


def _taps(weight: Tensor, dtype: torch.dtype, reverse: bool) -> Tensor:
    """(K, E): tap k multiplies the padded input k rows on."""
    taps = weight.to(dtype).flatten(1).t()
    return taps.flip(0) if reverse else taps


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, reverse: bool) -> Tensor:
    length = x.shape[1]
    taps = _taps(weight, x.dtype, reverse)
    padded = _padded(x, len(taps), reverse)
    out = sum((padded[:, k : k + length] * tap for k, tap in enumerate(taps)), torch.zeros_like(x))
    return out if bias is None else out + bias.to(x.dtype)


def _depthwise_silu_backward(
    du: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    length = x.shape[1]
    taps = _taps(weight, x.dtype, reverse)
    padded = _padded(x, len(taps), reverse)
    g = torch.ops.aten.silu_backward(du.to(x.dtype), _depthwise(x, weight, bias, reverse))
    dpadded = torch.zeros_like(padded)
    for k, tap in enumerate(taps):
        dpadded[:, k : k + length] += g * tap
    dtaps = torch.stack([(g * padded[:, k : k + length]).sum((0, 1)) for k in range(len(taps))])
    dweight = (dtaps.flip(0) if reverse else dtaps).t().reshape(weight.shape).to(weight.dtype)
    dx = dpadded[:, :length] if reverse else dpadded[:, len(taps) - 1 :]
    dbias = None if bias is None else g.sum((0, 1)).to(bias.dtype)
    return dx, dweight, dbias
