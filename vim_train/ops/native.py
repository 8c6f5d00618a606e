"""The ops through the native libraries: pointers out of tensors, one C call each.

Results do not depend on the number of threads. As with every threaded PyTorch operator, a process forked after threads
have started (a DataLoader worker, say) must stay at one thread.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

from vim_train.ops import abi, loading
from vim_train.ops.direction import Direction, DirectionGrads, cast_grads
from vim_train.ops.loading import CPU, CUDA, NativeLibrary

DTYPES = {torch.float32: abi.F32, torch.bfloat16: abi.BF16, torch.float16: abi.F16}

libraries: dict[str, NativeLibrary] = {name: loading.load(name, loading.package_folders()) for name in (CPU, CUDA)}
_parallel_for = loading.torch_parallel_for()


def scan(
    backend: str,
    directions: Sequence[Direction],
    z: Tensor | None,
    delta_softplus: bool,
    scale: float,
    *,
    save: bool,
    last: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """scale * sum of the directions' y * silu(z); the states that :func:`scan_backward` starts from; the last states.

    The states are computed with `save`, the last ones (directions, B, E, N) with `last`; else they are empty.
    """
    directions, z = [_prepared(d) for d in directions], _rows(z)
    u = directions[0].u
    out = u.new_empty(u.shape)
    checkpoints = u.new_empty(checkpoint_shape(directions) if save else (0,), dtype=torch.float32)
    last_states = u.new_empty(last_shape(directions) if last else (0,), dtype=torch.float32)
    args = _scan_args(directions, z, checkpoints, delta_softplus, scale)
    args.out = _tensor(out)
    for i, state in enumerate(last_states):
        args.dir[i].last_state = _pointer(state)
    _call(backend, "vt_scan_forward", args, args, u.device)
    return out, checkpoints, last_states


def scan_states(backend: str, directions: Sequence[Direction], delta_softplus: bool) -> Tensor:
    """The states that :func:`scan_backward` starts from, alone."""
    directions = [_prepared(d) for d in directions]
    checkpoints = directions[0].u.new_empty(checkpoint_shape(directions), dtype=torch.float32)
    args = _scan_args(directions, None, checkpoints, delta_softplus, scale=1.0)
    _call(backend, "vt_scan_forward", args, args, checkpoints.device)
    return checkpoints


def scan_backward(
    backend: str,
    dout: Tensor,
    checkpoints: Tensor,
    directions: Sequence[Direction],
    z: Tensor | None,
    delta_softplus: bool,
    scale: float,
) -> tuple[list[DirectionGrads], Tensor | None]:
    """Gradients of :func:`scan`: one DirectionGrads a direction, and dz (None without z)."""
    prepared, z, dout = [_prepared(d) for d in directions], _rows(z), _rows(dout)
    dz = None if z is None else z.new_empty(z.shape)
    args = abi.ScanBackwardArgs(forward=_scan_args(prepared, z, checkpoints, delta_softplus, scale))
    args.dout, args.dz = _tensor(dout), _tensor(dz)
    grads = [_empty_grads(d) for d in prepared]
    for i, g in enumerate(grads):
        args.grads[i] = abi.DirectionGradsArg(
            du=_tensor(g.du),
            ddelta=_tensor(g.ddelta),
            dB=_tensor(g.dB),
            dC=_tensor(g.dC),
            dA=_pointer(g.dA),
            dD=_pointer(g.dD),
            ddelta_bias=_pointer(g.ddelta_bias),
        )
    _call(backend, "vt_scan_backward", args, args.forward, dout.device)
    return [cast_grads(g, d) for g, d in zip(grads, directions, strict=True)], dz


def checkpoint_shape(directions: Sequence[Direction]) -> tuple[int, int, int, int, int]:
    """(directions, B, ceil(L / 16), E, N)."""
    batch, length, channels = directions[0].u.shape
    chunks = (length + abi.CHECKPOINT_STEPS - 1) // abi.CHECKPOINT_STEPS
    return len(directions), batch, chunks, channels, directions[0].A.shape[1]


def last_shape(directions: Sequence[Direction]) -> tuple[int, int, int, int]:
    """(directions, B, E, N)."""
    batch, _, channels = directions[0].u.shape
    return len(directions), batch, channels, directions[0].A.shape[1]


def bimamba_conv(
    backend: str, x: Tensor, weight: Tensor, bias: Tensor | None, weight_b: Tensor, bias_b: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Causal and anti-causal depthwise convolution with SiLU, from one read of x."""
    x = _rows(x)
    params = [_param(t) for t in (weight, bias, weight_b, bias_b)]
    u, u_b = x.new_empty(x.shape), x.new_empty(x.shape)
    args = _conv_args(x, params, weight.shape[-1])
    args.u, args.u_b = _tensor(u), _tensor(u_b)
    _call(backend, "vt_conv_forward", args, args, x.device)
    return u, u_b


def bimamba_conv_backward(
    backend: str,
    du: Tensor,
    du_b: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    weight_b: Tensor,
    bias_b: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """Gradients of :func:`bimamba_conv`: dx, dweight, dbias, dweight_b, dbias_b (None where a bias is None)."""
    x, du, du_b = _rows(x), _rows(du), _rows(du_b)
    params = [_param(t) for t in (weight, bias, weight_b, bias_b)]
    dx = x.new_empty(x.shape)
    grads = [None if t is None else torch.empty_like(t) for t in params]
    args = abi.ConvBackwardArgs(forward=_conv_args(x, params, weight.shape[-1]))
    args.du, args.du_b, args.dx = _tensor(du), _tensor(du_b), _tensor(dx)
    args.dweight, args.dbias, args.dweight_b, args.dbias_b = (_pointer(t) for t in grads)
    _call(backend, "vt_conv_backward", args, args.forward, x.device)
    return dx, *(None if g is None else g.to(weight.dtype) for g in grads)


def add_rms_norm(
    backend: str, hidden: Tensor, residual: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """normed, residual_out and 1/rms of every row."""
    hidden, weight = hidden.contiguous(), _param(weight)
    residual = None if residual is None else residual.contiguous()
    normed = torch.empty_like(hidden)
    residual_out = torch.empty_like(hidden, dtype=torch.float32)
    inv_rms = hidden.new_empty(hidden.shape[:-1], dtype=torch.float32)
    args = _norm_args(hidden.dtype, residual_out, inv_rms, weight)
    args.eps, args.hidden, args.residual, args.normed = eps, _pointer(hidden), _pointer(residual), _pointer(normed)
    _call(backend, "vt_norm_forward", args, args, hidden.device)
    return normed, residual_out, inv_rms


def add_rms_norm_backward(
    backend: str,
    dnormed: Tensor,
    dresidual_out: Tensor | None,
    residual_out: Tensor,
    inv_rms: Tensor,
    weight: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`add_rms_norm`: that of the sum, in float32, and dweight."""
    dnormed, wide = dnormed.contiguous(), _param(weight)
    dresidual_out = None if dresidual_out is None else dresidual_out.contiguous()
    dresidual, dweight = torch.empty_like(residual_out), torch.empty_like(wide)
    args = abi.NormBackwardArgs(forward=_norm_args(dnormed.dtype, residual_out, inv_rms, wide))
    args.dnormed, args.dresidual_out = _pointer(dnormed), _pointer(dresidual_out)
    args.dresidual, args.dweight = _pointer(dresidual), _pointer(dweight)
    _call(backend, "vt_norm_backward", args, args.forward, dnormed.device)
    return dresidual, dweight.to(weight.dtype)


def _call(backend: str, function: str, args: ctypes.Structure, forward: ctypes.Structure, device: torch.device) -> None:
    """Run a function of a backend's library; `forward` is the part of `args` that says where it runs."""
    library = libraries[backend]
    if library.handle is None:
        raise RuntimeError(f"the {backend} backend is not available: {library.detail}")
    args.size = ctypes.sizeof(args)
    forward.runtime.parallel_for = _parallel_for
    if device.type == CUDA:
        forward.runtime.device = device.index
        forward.runtime.stream = torch.cuda.current_stream(device).cuda_stream
    workspace = _workspace(library, function, args, device)  # freed on return: the stream keeps the order
    forward.runtime.workspace = _pointer(workspace)
    status = getattr(library.handle, function)(ctypes.byref(args))
    if status == abi.CUDA_ERROR:
        reason = library.handle.vt_last_error().decode()
        raise RuntimeError(f"{function}: {reason} (the library holds {library.detail})")
    if status:
        raise RuntimeError(f"{function}: {abi.STATUS.get(status, f'status {status}')}")


def _workspace(library: NativeLibrary, function: str, args: ctypes.Structure, device: torch.device) -> Tensor | None:
    if not library.cuda_version or function not in abi.WITH_WORKSPACE:
        return None
    size = getattr(library.handle, f"{function}_workspace")(ctypes.byref(args))
    return torch.empty(size, dtype=torch.uint8, device=device) if size else None


def _pointer(t: Tensor | None) -> int | None:
    return None if t is None else t.data_ptr()


def _tensor(t: Tensor | None) -> abi.TensorArg:
    if t is None:
        return abi.TensorArg()
    batch, length, _ = t.stride()
    return abi.TensorArg(t.data_ptr(), batch, length)


@overload
def _rows(t: Tensor) -> Tensor: ...
@overload
def _rows(t: None) -> None: ...
def _rows(t: Tensor | None) -> Tensor | None:
    """t itself where its last dimension has unit stride (a view stays a view), else a copy."""
    return t if t is None or t.stride(-1) == 1 else t.contiguous()


@overload
def _param(t: Tensor) -> Tensor: ...
@overload
def _param(t: None) -> None: ...
def _param(t: Tensor | None) -> Tensor | None:
    return None if t is None else t.to(torch.float32).contiguous()


def _prepared(d: Direction) -> Direction:
    """What the kernels read; the caller keeps it alive for the length of the call."""
    rows = (_rows(d.u), _rows(d.delta), _param(d.A), _rows(d.B), _rows(d.C))
    return Direction(*rows, _param(d.D), _param(d.delta_bias), d.reverse)


def _empty_grads(d: Direction) -> DirectionGrads:
    return DirectionGrads(
        du=d.u.new_empty(d.u.shape),
        ddelta=d.u.new_empty(d.u.shape),
        dA=torch.empty_like(d.A),
        dB=d.A.new_empty(d.B.shape),
        dC=d.A.new_empty(d.C.shape),
        dD=None if d.D is None else torch.empty_like(d.D),
        ddelta_bias=None if d.delta_bias is None else torch.empty_like(d.delta_bias),
    )


def _scan_args(
    directions: Sequence[Direction], z: Tensor | None, checkpoints: Tensor, delta_softplus: bool, scale: float
) -> abi.ScanArgs:
    u, states = directions[0].u, directions[0].A.shape[1]
    args = abi.ScanArgs(
        size=ctypes.sizeof(abi.ScanArgs),
        dtype=DTYPES[u.dtype],
        batch=u.shape[0],
        length=u.shape[1],
        channels=u.shape[2],
        states=states,
        directions=len(directions),
        delta_softplus=delta_softplus,
        scale=scale,
        z=_tensor(z),
    )
    for i, d in enumerate(directions):
        args.dir[i] = abi.DirectionArg(
            u=_tensor(d.u),
            delta=_tensor(d.delta),
            B=_tensor(d.B),
            C=_tensor(d.C),
            A=_pointer(d.A),
            D=_pointer(d.D),
            delta_bias=_pointer(d.delta_bias),
            checkpoints=_pointer(checkpoints[i]) if checkpoints.numel() else None,
            reverse=d.reverse,
        )
    return args


def _conv_args(x: Tensor, params: Sequence[Tensor | None], width: int) -> abi.ConvArgs:
    weight, bias, weight_b, bias_b = (_pointer(t) for t in params)
    return abi.ConvArgs(
        size=ctypes.sizeof(abi.ConvArgs),
        dtype=DTYPES[x.dtype],
        batch=x.shape[0],
        length=x.shape[1],
        channels=x.shape[2],
        width=width,
        x=_tensor(x),
        weight=weight,
        bias=bias,
        weight_b=weight_b,
        bias_b=bias_b,
    )


def _norm_args(dtype: torch.dtype, residual_out: Tensor, inv_rms: Tensor, weight: Tensor) -> abi.NormArgs:
    return abi.NormArgs(
        size=ctypes.sizeof(abi.NormArgs),
        dtype=DTYPES[dtype],
        rows=inv_rms.numel(),
        dim=weight.numel(),
        weight=_pointer(weight),
        residual_out=_pointer(residual_out),
        inv_rms=_pointer(inv_rms),
    )
