"""The native CPU library: where it is found, and the ops through it.

The library knows nothing of PyTorch: it gets pointers, strides and the address of torch's own `torch_parallel_for`, so
that `torch.set_num_threads` holds for it too. Results do not depend on the number of threads. As with every threaded
PyTorch operator, a process forked after threads have started (a DataLoader worker, say) must stay at one thread.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import torch
from torch import Tensor

from vim_train.ops import abi
from vim_train.ops.direction import Direction, DirectionGrads, cast_grads

DTYPES = {torch.float32: abi.F32, torch.bfloat16: abi.BF16, torch.float16: abi.F16}
LIBRARY_NAME = "vim_train_cpu.dll" if sys.platform == "win32" else "vim_train_cpu.so"
_CURE = (
    "install a C++ compiler (`apt install g++`, or Xcode's command line tools), then run `pip install .` again "
    "(`pip install -e .` in a checkout)"
)


def package_folders() -> list[str]:
    """Where the package lies: source tree and site-packages both, for an editable install."""
    return list(sys.modules["vim_train.ops"].__path__)


def find_library(folders: Sequence[str]) -> Path | None:
    """The library in the first of the folders that has it."""
    return next((path for folder in folders if (path := Path(folder) / LIBRARY_NAME).is_file()), None)


def load_library(folders: Sequence[str]) -> tuple[ctypes.CDLL | None, str]:
    """The library found in `folders`, and its instruction set; or None, and in one line why and what to do."""
    path = find_library(folders)
    if path is None:
        return None, f"the native library was not built (installed without a C++ compiler?): {_CURE}"
    try:
        library = ctypes.CDLL(str(path))
        abi.declare(library)
    except (OSError, AttributeError) as error:
        return None, f"{path} cannot be loaded ({error}): {_CURE}"
    version = library.vt_abi_version()
    if version != abi.ABI_VERSION:
        return None, f"{path} has ABI version {version}, not {abi.ABI_VERSION}: run `pip install .` again"
    return library, library.vt_isa().decode()


def _torch_parallel_for() -> int | None:
    """Address of torch's parallel_for (exported since torch 2.10), or None: the library then works serially."""
    suffix = {"win32": "torch_cpu.dll", "darwin": "libtorch_cpu.dylib"}.get(sys.platform, "libtorch_cpu.so")
    try:
        torch_cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / suffix))
        return ctypes.cast(torch_cpu.torch_parallel_for, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None


library, detail = load_library(package_folders())
_parallel_for = _torch_parallel_for()


def scan(
    directions: Sequence[Direction], z: Tensor | None, delta_softplus: bool, scale: float, *, save: bool
) -> tuple[Tensor, Tensor]:
    """scale * sum of the directions' y * silu(z), and with `save` the states that :func:`scan_backward` starts from."""
    directions, z = [_prepared(d) for d in directions], _rows(z)
    u = directions[0].u
    out = u.new_empty(u.shape)
    checkpoints = u.new_empty(checkpoint_shape(directions) if save else (0,), dtype=torch.float32)
    args = _scan_args(directions, z, checkpoints, delta_softplus, scale)
    args.out = _tensor(out)
    _call("vt_scan_forward", args)
    return out, checkpoints


def scan_backward(
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
    _call("vt_scan_backward", args)
    return [cast_grads(g, d) for g, d in zip(grads, directions, strict=True)], dz


def checkpoint_shape(directions: Sequence[Direction]) -> tuple[int, int, int, int, int]:
    """(directions, B, ceil(L / 16), E, N)."""
    batch, length, channels = directions[0].u.shape
    chunks = (length + abi.CHECKPOINT_STEPS - 1) // abi.CHECKPOINT_STEPS
    return len(directions), batch, chunks, channels, directions[0].A.shape[1]


def bimamba_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, weight_b: Tensor, bias_b: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Causal and anti-causal depthwise convolution with SiLU, from one read of x."""
    x = _rows(x)
    params = [_param(t) for t in (weight, bias, weight_b, bias_b)]
    u, u_b = x.new_empty(x.shape), x.new_empty(x.shape)
    args = _conv_args(x, params, weight.shape[-1])
    args.u, args.u_b = _tensor(u), _tensor(u_b)
    _call("vt_conv_forward", args)
    return u, u_b


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
    x, du, du_b = _rows(x), _rows(du), _rows(du_b)
    params = [_param(t) for t in (weight, bias, weight_b, bias_b)]
    dx = x.new_empty(x.shape)
    grads = [None if t is None else torch.empty_like(t) for t in params]
    args = abi.ConvBackwardArgs(forward=_conv_args(x, params, weight.shape[-1]))
    args.du, args.du_b, args.dx = _tensor(du), _tensor(du_b), _tensor(dx)
    args.dweight, args.dbias, args.dweight_b, args.dbias_b = (_pointer(t) for t in grads)
    _call("vt_conv_backward", args)
    return dx, *(None if g is None else g.to(weight.dtype) for g in grads)


def add_rms_norm(hidden: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """normed, residual_out and 1/rms of every row."""
    hidden, weight = hidden.contiguous(), _param(weight)
    residual = None if residual is None else residual.contiguous()
    normed = torch.empty_like(hidden)
    residual_out = torch.empty_like(hidden, dtype=torch.float32)
    inv_rms = hidden.new_empty(hidden.shape[:-1], dtype=torch.float32)
    args = _norm_args(hidden.dtype, residual_out, inv_rms, weight)
    args.eps, args.hidden, args.residual, args.normed = eps, _pointer(hidden), _pointer(residual), _pointer(normed)
    _call("vt_norm_forward", args)
    return normed, residual_out, inv_rms


def add_rms_norm_backward(
    dnormed: Tensor, dresidual_out: Tensor | None, residual_out: Tensor, inv_rms: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of :func:`add_rms_norm`: that of the sum, in float32, and dweight."""
    dnormed, wide = dnormed.contiguous(), _param(weight)
    dresidual_out = None if dresidual_out is None else dresidual_out.contiguous()
    dresidual, dweight = torch.empty_like(residual_out), torch.empty_like(wide)
    args = abi.NormBackwardArgs(forward=_norm_args(dnormed.dtype, residual_out, inv_rms, wide))
    args.dnormed, args.dresidual_out = _pointer(dnormed), _pointer(dresidual_out)
    args.dresidual, args.dweight = _pointer(dresidual), _pointer(dweight)
    _call("vt_norm_backward", args)
    return dresidual, dweight.to(weight.dtype)


def _call(function: str, args: ctypes.Structure) -> None:
    if library is None:
        raise RuntimeError(f"the cpu backend is not available: {detail}")
    args.size = ctypes.sizeof(args)
    status = getattr(library, function)(ctypes.byref(args))
    if status:
        raise RuntimeError(f"{function}: {abi.STATUS.get(status, f'status {status}')}")


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
        parallel_for=_parallel_for,
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
        parallel_for=_parallel_for,
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
        parallel_for=_parallel_for,
    )
