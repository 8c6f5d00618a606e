"""Nanoseconds per (batch, length, channel) of one direction's scan on one core, forward and backward.

Softplus, dt bias, skip and gate are inside; so are the allocations, but for the prototypes'. Times are CPU seconds of
the calling thread, so that another process on the core does not count; contestants take turns, and the median and the
fastest of their rounds are printed.

    python benchmarks/scan.py                            # Vim-Ti, -S and -B at 224 pixels
    python benchmarks/scan.py --shape 1,6085,384,16 --dtype bfloat16 --reference
    VIM_TRAIN_ISA=avx2 python benchmarks/scan.py         # a lower instruction set
    python benchmarks/scan.py --prototypes DIR           # beside the fwd3 and bwd of DIR/bwd.cpp, compiled here
"""

from __future__ import annotations

import argparse
import ctypes
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vim_train import ops
from vim_train.cli.malloc import keep_freed_memory
from vim_train.ops import native, reference
from vim_train.ops.direction import Direction

Call = Callable[[], object]


@dataclass
class Problem:
    direction: Direction
    z: Tensor
    dout: Tensor

    @property
    def elements(self) -> int:
        return self.z.numel()


def make_problem(shape: tuple[int, int, int, int], dtype: torch.dtype) -> Problem:
    """Values as a trained Vim has them: x and z halves of one tensor, B and C slices of another."""
    batch, length, channels, states = shape
    torch.manual_seed(0)
    u, z = torch.randn(batch, length, 2 * channels).to(dtype).chunk(2, dim=-1)
    _, B, C = torch.randn(batch, length, 12 + 2 * states).to(dtype).split([12, states, states], dim=-1)
    A = -torch.arange(1.0, states + 1).repeat(channels, 1)
    delta, dout = (torch.randn(batch, length, channels).to(dtype) for _ in range(2))
    bias = torch.full((channels,), -4.6)
    return Problem(Direction(u, delta, A, B, C, torch.ones(channels), bias, reverse=False), z, dout)


def kernel_calls(p: Problem) -> dict[str, Call]:
    """The native library with its allocations, without torch's dispatcher and autograd."""
    options = ([p.direction], p.z, True, 1.0)
    _, checkpoints, _ = native.scan("cpu", *options, save=True, last=False)
    return {
        "forward": lambda: native.scan("cpu", *options, save=False, last=False),
        "forward, states kept": lambda: native.scan("cpu", *options, save=True, last=False),
        "backward": lambda: native.scan_backward("cpu", p.dout, checkpoints, *options),
    }


def op_calls(p: Problem) -> dict[str, Call]:
    """The public op as a user calls it."""
    d = p.direction
    leaves = [
        t.detach().requires_grad_() for t in (d.u, d.delta, d.A, d.B, d.C, d.D, p.z, d.delta_bias) if t is not None
    ]
    out = ops.selective_scan(*leaves, delta_softplus=True)

    def forward() -> Tensor:
        with torch.no_grad():
            return ops.selective_scan(*leaves, delta_softplus=True)

    return {
        "forward": forward,
        "forward, states kept": lambda: ops.selective_scan(*leaves, delta_softplus=True),
        "backward": lambda: torch.autograd.grad(out, leaves, p.dout, retain_graph=True),
    }


def reference_calls(p: Problem) -> dict[str, Call]:
    """The loop in plain PyTorch that is the reference backend."""
    options = ([p.direction], p.z, True, 1.0)

    def forward() -> Tensor:
        with torch.no_grad():
            return reference.scan(*options)

    return {"forward": forward, "backward": lambda: reference.scan_backward(p.dout, *options)}


def build_prototype(folder: Path, into: Path) -> ctypes.CDLL:
    library = into / "prototype.so"
    flags = ["-O3", "-march=native", "-fno-math-errno", "-w", "-shared", "-fPIC"]
    subprocess.run(["c++", *flags, str(folder / "bwd.cpp"), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def prototype_calls(p: Problem, library: ctypes.CDLL) -> dict[str, Call]:
    """float32, contiguous, 16 states."""
    d = p.direction
    batch, length, channels = d.u.shape
    chunks = -(-length // 16)
    assert d.D is not None
    assert d.delta_bias is not None
    u, delta, z, B, C, dout = (t.contiguous() for t in (d.u, d.delta, p.z, d.B, d.C, p.dout))
    A = (d.A * 1.4426950408889634).t().contiguous()
    checkpoints = torch.empty(batch, chunks, channels, 16)
    out, du, ddelta, dz = (torch.empty_like(u) for _ in range(4))
    dB, dC, dA = torch.empty_like(B), torch.empty_like(C), torch.zeros_like(A)
    dD, dbias = torch.zeros(channels), torch.zeros(channels)

    inputs = (u, delta, z, A, B, C, d.D, d.delta_bias)
    gradients = (du, ddelta, dz, dB, dC, dA, dD, dbias)
    sizes = [ctypes.c_int64(n) for n in (batch, length, channels, B.shape[-1])]

    def pointers(*tensors: Tensor | None) -> list[ctypes.c_void_p]:
        return [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in tensors]

    def forward(kept: Tensor | None) -> None:
        library.fwd3(*pointers(*inputs, out, kept), *sizes, 0, 1)

    def backward() -> None:
        library.bwd(*pointers(*inputs, checkpoints, dout, *gradients), *sizes, 0)

    forward(checkpoints)
    torch.testing.assert_close(out, reference.scan([d], p.z, True, 1.0), rtol=1e-4, atol=1e-4)
    return {
        "forward": lambda: forward(None),
        "forward, states kept": lambda: forward(checkpoints),
        "backward": backward,
    }


def measure(contestants: dict[str, dict[str, Call]], elements: int, rounds: int, slow: set[str]) -> None:
    """Time in turns and print a line for each."""
    times: dict[tuple[str, str], list[float]] = {}
    for turn in range(rounds + 1):
        for who, calls in contestants.items():
            if who in slow and turn > 2:
                continue
            for what, call in calls.items():
                start = time.thread_time()
                call()
                if turn:  # the first warms up
                    times.setdefault((who, what), []).append((time.thread_time() - start) / elements * 1e9)
    for (who, what), samples in times.items():
        print(f"  {who:<22} {what:<22} {statistics.median(samples):9.2f} {min(samples):9.2f}")


def same_bits(p: Problem) -> bool:
    """Whether forward and backward give the same bits on one and on two threads."""
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        options = ([p.direction], p.z, True, 1.0)
        out, checkpoints, _ = native.scan("cpu", *options, save=True, last=False)
        (grads,), dz = native.scan_backward("cpu", p.dout, checkpoints, *options)
        results.append([out, dz, *grads])
    torch.set_num_threads(1)
    return all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def parse_shape(text: str) -> tuple[int, int, int, int]:
    batch, length, channels, states = (int(n) for n in text.split(","))
    return batch, length, channels, states


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=parse_shape, action="append", help="B,L,E,N; may be given several times")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--reference", action="store_true", help="also the plain PyTorch loop (two rounds)")
    parser.add_argument("--prototypes", type=Path, metavar="DIR", help="also bwd.cpp of this folder, compiled here")
    args = parser.parse_args()
    library = native.libraries["cpu"]
    if not library.loaded:
        parser.exit(1, f"{library.detail}\n")
    keep_freed_memory()  # as the commands do
    torch.set_num_threads(1)
    print(f"{processor()}, one core; {library.detail}; torch {torch.__version__}; {args.dtype}")
    with tempfile.TemporaryDirectory() as folder:
        prototype = build_prototype(args.prototypes, Path(folder)) if args.prototypes else None
        for shape in args.shape or [(1, 197, 384, 16), (1, 197, 768, 16), (1, 197, 1536, 16)]:
            p = make_problem(shape, getattr(torch, args.dtype))
            contestants = {"vim-train, kernel": kernel_calls(p), "vim-train, op": op_calls(p)}
            if prototype is not None and args.dtype == "float32" and shape[2] % 16 == 0 and shape[3] == 16:
                contestants["prototype"] = prototype_calls(p, prototype)
            if args.reference:
                contestants["PyTorch loop"] = reference_calls(p)
            print("\nB={} L={} E={} N={}{:>26} {:>9}  ns/element".format(*shape, "median", "fastest"))
            measure(contestants, p.elements, args.rounds, slow={"PyTorch loop"})
            print(f"  same bits on 1 and 2 threads: {'yes' if same_bits(p) else 'NO'}")


if __name__ == "__main__":
    main()
