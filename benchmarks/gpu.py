"""Time and bytes a second of the CUDA kernels on this machine's GPU, beside a copy measured in the same run.

For each shape of Vision Mamba and each kernel: the median time, the bytes of the tensors that it takes, keeps and
returns over that time, and what share this is of the rate of a device copy. Where mamba-ssm can be imported, its
selective_scan_fn does the two directions of the scan in two calls, in its own layout, without the flips and the sum
that come on top in a model; the ratio says how many times as long it takes.

    python benchmarks/gpu.py                                     # Vim-Ti, -S and -B at 224, 448 and 1248 pixels
    python benchmarks/gpu.py --shape 128,197,384,16 --dtype float32
    python benchmarks/gpu.py --bytes                             # the bytes counted, item by item; needs no GPU

Contestants take turns. Each call is queued behind a pause of the GPU and timed between CUDA events, so that the time
of Python is not in it.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vim_train.ops import native
from vim_train.ops.abi import CHECKPOINT_STEPS, MAX_CUDA_STATES
from vim_train.ops.direction import Direction
from vim_train.ops.loading import CUDA, gpu_problem

Call = Callable[[], object]
FP32 = 4
COPIED = 2**29  # bytes read, and as many written
PAUSE = 10_000_000  # cycles, in which a call is queued
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


class Shape(NamedTuple):
    """Of a mixer: E channels, so that the residual stream has E / 2."""

    batch: int
    length: int
    channels: int
    states: int = 16

    @property
    def token_channels(self) -> int:
        return self.batch * self.length * self.channels

    def __str__(self) -> str:
        return f"B={self.batch} L={self.length} E={self.channels} N={self.states}"


SHAPES = {
    "Vim-Ti, 224 pixels": Shape(128, 197, 384),
    "Vim-Ti, 448 pixels": Shape(32, 785, 384),
    "Vim-Ti, 1248 pixels": Shape(8, 6085, 384),
    "Vim-S, 224 pixels": Shape(128, 197, 768),
    "Vim-S, 1248 pixels": Shape(8, 6085, 768),
    "Vim-B, 224 pixels": Shape(128, 197, 1536),
}


def bytes_moved(shape: Shape, io: int) -> dict[str, dict[str, float]]:
    """By kernel, then by what is moved: bytes of a token-channel (one step of one channel), with `io` of an activation.

    Every tensor counts once. What a kernel moves besides is left out: workspaces, rows at the edges of its blocks that
    it reads again, a second walk through long sequences, and parameters, which are few.
    """
    states, tokens = shape.states, shape.length
    B_and_C = 2 * 2 * states / shape.channels  # elements of both directions
    kept_windows = math.ceil(tokens / CHECKPOINT_STEPS) - 1  # a direction's first state is zero
    checkpoints = 2 * kept_windows * states * FP32 / tokens
    scan_inputs = {"u, both directions": 2 * io, "delta, both": 2 * io, "z": io, "B and C": B_and_C * io}
    norm = 0.5  # elements of the residual stream
    return {
        "scan forward": {**scan_inputs, "out": io},
        "scan forward, states kept": {**scan_inputs, "out": io, "states": checkpoints},
        "scan backward": {
            **scan_inputs,
            "states": checkpoints,
            "dout": io,
            "du, both directions": 2 * io,
            "ddelta, both": 2 * io,
            "dz": io,
            "dB and dC": B_and_C * FP32,
        },
        "conv forward": {"x": io, "u and u_b": 2 * io},
        "conv backward": {"x": io, "du and du_b": 2 * io, "dx": io},
        "norm forward": {"hidden": norm * io, "normed": norm * io, "residual, read and written": norm * 2 * FP32},
        "norm backward": {
            "dnormed": norm * io,
            "residual": norm * FP32,
            "gradient of the residual, read and written": norm * 2 * FP32,
        },
    }


class Line(NamedTuple):
    """What was measured of one kernel."""

    kernel: str
    seconds: float
    bytes: float
    theirs: float | None = None  # seconds of mamba-ssm


def table(lines: Sequence[Line], copy_rate: float) -> str:
    """The lines as text, with rates in bytes a second beside that of a copy."""
    theirs = any(line.theirs for line in lines)
    rows = [("", "ms", "MB", "GB/s", "of a copy", *(["mamba-ssm ms", "times"] if theirs else []))]
    for line in lines:
        rate = line.bytes / line.seconds
        row = (line.kernel, f"{1e3 * line.seconds:.3f}", f"{line.bytes / 1e6:.0f}", f"{rate / 1e9:.0f}")
        row += (f"{100 * rate / copy_rate:.0f} %",)
        if theirs:
            row += (f"{1e3 * line.theirs:.3f}", f"{line.theirs / line.seconds:.1f}") if line.theirs else ("", "")
        rows.append(row)
    return _aligned(rows)


def bytes_table(shape: Shape, io: int) -> str:
    """What :func:`bytes_moved` counts, as text."""
    rows = []
    for kernel, items in bytes_moved(shape, io).items():
        rows.append((kernel, f"{sum(items.values()):.2f}"))
        rows += [(f"  {what}", f"{count:.2f}") for what, count in items.items()]
    return _aligned(rows)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns to the right, but for the first."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        lines.append("  ".join([first.ljust(widths[0]), *map(str.rjust, rest, widths[1:])]).rstrip())
    return "\n".join(lines)


class Problem(NamedTuple):
    """Values as a trained Vim has them; x and z halves of one tensor, B and C slices of another."""

    x: Tensor
    z: Tensor
    directions: list[Direction]
    conv_params: list[Tensor]
    dout: Tensor
    hidden: Tensor
    residual: Tensor


def make_problem(shape: Shape, dtype: torch.dtype, device: str) -> Problem:
    torch.manual_seed(0)
    batch, length, channels, states = shape

    def rows(width: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(batch, length, width, device=device, dtype=dtype)

    x, z = rows(2 * channels).chunk(2, dim=-1)
    A = -torch.arange(1.0, states + 1, device=device).repeat(channels, 1)
    ones, bias = torch.ones(channels, device=device), torch.full((channels,), -4.6, device=device)
    directions = []
    for reverse in (False, True):
        _, B, C = rows(12 + 2 * states).split([12, states, states], dim=-1)
        directions.append(Direction(rows(channels), rows(channels), A, B, C, ones, bias, reverse))
    weight = torch.randn(channels, 1, 4, device=device)
    return Problem(
        x,
        z,
        directions,
        [weight, ones, weight.clone(), bias],
        rows(channels),
        rows(channels // 2),
        rows(channels // 2, torch.float32),
    )


def kernel_calls(p: Problem, backend: str) -> dict[str, Call]:
    """The native library with its allocations, by the names of :func:`bytes_moved`."""
    scan = (p.directions, p.z, True, 0.5)
    _, states, _ = native.scan(backend, *scan, save=True, last=False)
    weight = torch.ones(p.hidden.shape[-1], device=p.hidden.device)
    _, residual, inv_rms = native.add_rms_norm(backend, p.hidden, p.residual, weight, 1e-5)
    du, du_b = (d.u for d in p.directions)
    return {
        "scan forward": lambda: native.scan(backend, *scan, save=False, last=False),
        "scan forward, states kept": lambda: native.scan(backend, *scan, save=True, last=False),
        "scan backward": lambda: native.scan_backward(backend, p.dout, states, *scan),
        "conv forward": lambda: native.bimamba_conv(backend, p.x, *p.conv_params),
        "conv backward": lambda: native.bimamba_conv_backward(backend, du, du_b, p.x, *p.conv_params),
        "norm forward": lambda: native.add_rms_norm(backend, p.hidden, p.residual, weight, 1e-5),
        "norm backward": lambda: native.add_rms_norm_backward(backend, p.hidden, p.residual, residual, inv_rms, weight),
    }


def mamba_calls(p: Problem, selective_scan_fn: Callable[..., Tensor]) -> dict[str, Call]:
    """mamba-ssm's scan in both directions, on tensors (B, E, L) as it likes them."""

    def channels_first(t: Tensor) -> Tensor:
        return t.transpose(1, 2).contiguous().requires_grad_()

    inputs = []
    for d in p.directions:
        u, delta, B, C, z = map(channels_first, (d.u, d.delta, d.B, d.C, p.z))
        params = [t.detach().clone().requires_grad_() for t in (d.A, d.D, d.delta_bias) if t is not None]
        inputs.append([u, delta, params[0], B, C, params[1], z, params[2]])
    dout = channels_first(p.dout).detach()

    def forward() -> list[Tensor]:
        return [selective_scan_fn(*tensors, delta_softplus=True) for tensors in inputs]

    def without_states() -> list[Tensor]:
        with torch.no_grad():
            return forward()

    outs = forward()
    leaves = [t for tensors in inputs for t in tensors]
    return {
        "scan forward": without_states,
        "scan forward, states kept": forward,
        "scan backward": lambda: torch.autograd.grad(outs, leaves, [dout, dout], retain_graph=True),
    }


def import_mamba() -> Callable[..., Tensor] | None:
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except (ImportError, OSError):  # the latter where it was built for another torch
        return None
    return selective_scan_fn


def measure(contestants: dict[Any, Call], rounds: int) -> dict[Any, float]:
    """Median seconds of each; the first round warms up."""
    times: dict[Any, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds + 1):
        for name, call in contestants.items():
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(PAUSE)
            start.record()
            call()
            end.record()
            end.synchronize()
            if turn:
                times[name].append(start.elapsed_time(end) / 1e3)
    return {name: statistics.median(samples) for name, samples in times.items()}


def time_shape(shape: Shape, dtype: torch.dtype, rounds: int, theirs: Callable[..., Tensor] | None) -> str:
    p = make_problem(shape, dtype, CUDA)
    source = torch.ones(COPIED, dtype=torch.uint8, device=CUDA)
    target = torch.empty_like(source)
    contestants: dict[Any, Call] = {"copy": lambda: target.copy_(source)}
    contestants |= {("ours", kernel): call for kernel, call in kernel_calls(p, CUDA).items()}
    if theirs is not None:
        contestants |= {("theirs", kernel): call for kernel, call in mamba_calls(p, theirs).items()}
    seconds = measure(contestants, rounds)
    copy_rate = 2 * COPIED / seconds["copy"]
    lines = [
        Line(
            kernel,
            seconds["ours", kernel],
            sum(items.values()) * shape.token_channels,
            seconds.get(("theirs", kernel)),
        )
        for kernel, items in bytes_moved(shape, dtype.itemsize).items()
    ]
    return f"{table(lines, copy_rate)}\ncopy: {copy_rate / 1e9:.0f} GB/s, read and written"


def parse_shape(text: str) -> Shape:
    try:
        batch, length, channels, states = (int(n) for n in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not four whole numbers B,L,E,N") from None
    if min(batch, length, channels, states) < 1 or states > MAX_CUDA_STATES:
        raise argparse.ArgumentTypeError(f"{text!r}: takes numbers from 1, and N up to {MAX_CUDA_STATES}")
    return Shape(batch, length, channels, states)


def parse_rounds(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=parse_shape, action="append", metavar="B,L,E,N", help="may be repeated")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--rounds", type=parse_rounds, default=20)
    parser.add_argument("--bytes", action="store_true", help="print the bytes counted for a token-channel, and no time")
    args = parser.parse_args()
    shapes = {f"shape {i}": shape for i, shape in enumerate(args.shape, 1)} if args.shape else SHAPES
    dtype = DTYPES[args.dtype]
    if args.bytes:
        for name, shape in shapes.items():
            print(f"{name}: {shape}, {args.dtype}; bytes of a token-channel\n{bytes_table(shape, dtype.itemsize)}\n")
        return 0
    if problem := gpu_problem():
        print(f"benchmarks/gpu.py: {problem}, so there is nothing to time", file=sys.stderr)
        return 2
    if not native.libraries[CUDA].loaded:
        print(f"benchmarks/gpu.py: {native.libraries[CUDA].detail}", file=sys.stderr)
        return 1
    theirs = import_mamba()
    print(f"{torch.cuda.get_device_name()}; torch {torch.__version__}; {native.libraries[CUDA].detail}; {args.dtype}")
    print(f"medians of {args.rounds}; mamba-ssm {'beside it' if theirs else 'cannot be imported'}")
    for name, shape in shapes.items():
        print(f"\n{name}: {shape}\n{time_shape(shape, dtype, args.rounds, theirs)}", flush=True)
        torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
