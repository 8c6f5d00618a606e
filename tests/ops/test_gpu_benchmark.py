"""What benchmarks/gpu.py does without a GPU: it counts bytes, makes tables, and says why it times nothing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

from vim_train.ops import native
from vim_train.ops.compat import selective_scan_fn
from vim_train.ops.loading import gpu_problem

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _bytes(*tensors: Tensor | None) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_bytes_counted_are_those_of_the_tensors(gpu: ModuleType, library: None, dtype: torch.dtype) -> None:
    shape = gpu.Shape(batch=2, length=50, channels=24)
    p = gpu.make_problem(shape, dtype, "cpu")
    calls = gpu.kernel_calls(p, "cpu")
    f, b = p.directions
    scan_inputs = [t for d in (f, b) for t in (d.u, d.delta, d.B, d.C)] + [p.z]
    out, states, _ = calls["scan forward, states kept"]()
    states = states[:, :, 1:]  # the first is zero in one direction, the last in the other
    grads, dz = calls["scan backward"]()
    scan_grads = [t for g in grads for t in (g.du, g.ddelta)] + [dz]
    sums = [t.float() for g in grads for t in (g.dB, g.dC)]  # float32 as the kernel writes them
    u, u_b = calls["conv forward"]()
    dx, *_ = calls["conv backward"]()
    normed, residual, _ = calls["norm forward"]()
    dresidual, _ = calls["norm backward"]()
    want = {
        "scan forward": _bytes(*scan_inputs, out),
        "scan forward, states kept": _bytes(*scan_inputs, out, states),
        "scan backward": _bytes(*scan_inputs, states, p.dout, *scan_grads, *sums),
        "conv forward": _bytes(p.x, u, u_b),
        "conv backward": _bytes(p.x, f.u, b.u, dx),
        "norm forward": _bytes(p.hidden, p.residual, normed, residual),
        "norm backward": _bytes(p.hidden, residual, p.residual, dresidual),
    }
    counted = gpu.bytes_moved(shape, dtype.itemsize)
    assert list(counted) == list(calls) == list(want)
    for kernel, items in counted.items():
        assert sum(items.values()) * shape.token_channels == pytest.approx(want[kernel]), kernel


def test_the_other_library_does_the_same_scan(gpu: ModuleType, library: None) -> None:
    p = gpu.make_problem(gpu.Shape(1, 19, 8), torch.float32, "cpu")
    theirs = gpu.mamba_calls(p, selective_scan_fn)
    ours, _, _ = native.scan("cpu", p.directions[:1], p.z, True, 1.0, save=False, last=False)
    for name in ("scan forward", "scan forward, states kept"):
        torch.testing.assert_close(theirs[name]()[0].transpose(1, 2), ours)
    assert len(theirs["scan backward"]()) == 2 * 8
    assert set(theirs) <= set(gpu.bytes_moved(gpu.Shape(1, 19, 8), 4))


def test_the_table(gpu: ModuleType) -> None:
    lines = [gpu.Line("scan forward", 1e-3, 2e9, theirs=2.5e-3), gpu.Line("conv forward", 5e-4, 5e8)]
    assert gpu.table(lines, copy_rate=2.5e12).splitlines() == [
        "                 ms    MB  GB/s  of a copy  mamba-ssm ms  times",
        "scan forward  1.000  2000  2000       80 %         2.500    2.5",
        "conv forward  0.500   500  1000       40 %",
    ]
    assert gpu.table(lines[1:], 2.5e12).splitlines()[0].split() == ["ms", "MB", "GB/s", "of", "a", "copy"]


def test_bytes_are_printed_item_by_item(
    gpu: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--bytes", "--shape", "4,16,64,16"])
    assert gpu.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "shape 1: B=4 L=16 E=64 N=16, bfloat16; bytes of a token-channel"
    assert [" ".join(line.split()) for line in lines[1:7]] == [
        "scan forward 14.00",
        "u, both directions 4.00",
        "delta, both 4.00",
        "z 2.00",
        "B and C 2.00",
        "out 2.00",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shape", "1,2"], "'1,2' is not four whole numbers B,L,E,N"),
        (["--shape", "1,0,8,16"], "'1,0,8,16': takes numbers from 1, and N up to 32"),
        (["--shape", "1,9,8,64"], "'1,9,8,64': takes numbers from 1, and N up to 32"),
        (["--rounds", "0"], "'0' is not a whole number from 1"),
    ],
)
def test_what_is_no_shape_or_number_is_refused(
    arguments: list[str],
    said: str,
    gpu: ModuleType,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--bytes", *arguments])
    with pytest.raises(SystemExit, match="2"):
        gpu.main()
    assert said in capsys.readouterr().err


@pytest.mark.skipif(gpu_problem() is None, reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line() -> None:
    run = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "benchmarks/gpu.py: torch sees no GPU here, so there is nothing to time\n"
