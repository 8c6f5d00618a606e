"""The CUDA library on a GPU: right, the same bits again, and what torch asks of an op that runs there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import problems
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from vim_train import ops
from vim_train.models import Vim
from vim_train.ops import native
from vim_train.ops.compat import selective_scan_fn
from vim_train.ops.loading import gpu_problem

if problem := gpu_problem():
    pytest.skip(problem, allow_module_level=True)

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS, but there was no current CUDA context"),
]

CUDA = "cuda"
HERE = Path(__file__).parent
# (batch, length, channels, states): between them every kernel of the scan runs, and tails of channels and windows.
PATHS = {
    "large batch": (64, 37, 384, 16),
    "large batch, 8 states": (64, 20, 390, 8),
    "large batch, 32 states": (64, 20, 390, 32),
    "small batch": (2, 197, 192, 16),
    "small batch, 32 states": (3, 50, 70, 32),
    "chunks": (1, 1301, 100, 16),
    "chunks, 8 states": (1, 777, 33, 8),
}
Step = Callable[[], list[Tensor]]


def test_the_library_is_built_for_this_gpu() -> None:
    assert native.libraries[CUDA].loaded, native.libraries[CUDA].detail
    assert ops.active_backend(CUDA) == CUDA
    assert {info.name: info.available for info in ops.backend_report()}[CUDA]


# ---- right -----------------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(**problems.SELECTIVE_SCAN)
def test_selective_scan_is_the_reference(**case: Any) -> None:
    problems.check_selective_scan(CUDA, CUDA, **case)


@settings(max_examples=100, deadline=None)
@given(**problems.BIMAMBA_SCAN)
def test_bimamba_scan_is_the_reference(**case: Any) -> None:
    problems.check_bimamba_scan(CUDA, CUDA, **case)


@settings(max_examples=100, deadline=None)
@given(**problems.CONV)
def test_bimamba_conv_is_conv1d_and_silu_both_ways(**case: Any) -> None:
    problems.check_conv(CUDA, CUDA, **case)


@settings(max_examples=100, deadline=None)
@given(**problems.NORM)
def test_add_rms_norm_is_an_addition_and_rms_norm(**case: Any) -> None:
    problems.check_norm(CUDA, CUDA, **case)


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("path", PATHS)
def test_every_path_of_the_scan_is_the_reference(path: str, dtype: torch.dtype) -> None:
    size = dict(zip(("batch", "length", "channels", "states"), PATHS[path], strict=True))
    case = {"size": size, "dtype": dtype, "layout": "row view", "seed": 0}
    problems.check_bimamba_scan(CUDA, CUDA, divide_out=True, **case)
    problems.check_selective_scan(CUDA, CUDA, left_out=set(), softplus=True, reverse=True, **case)


@pytest.mark.parametrize("dtype", problems.DTYPES)
@pytest.mark.parametrize("channels", [384, 390, 769])
def test_the_convolution_and_the_norm_at_the_models_sizes(channels: int, dtype: torch.dtype) -> None:
    conv = {"batch": 8, "length": 197, "channels": channels, "width": 4, "biased": True, "strided": True}
    problems.check_conv(CUDA, CUDA, dtype=dtype, seed=0, **conv)
    problems.check_norm(CUDA, CUDA, rows=(8, 197), dim=channels, first=False, dtype=dtype, seed=0)
    problems.check_norm(CUDA, CUDA, rows=(17,), dim=4 * channels, first=False, dtype=dtype, seed=0)


@pytest.mark.parametrize("case", problems.GOLDEN)
@pytest.mark.parametrize("reverse", [False, True])
def test_scan_meets_the_golden_tensors(golden: Path, case: str, reverse: bool) -> None:
    problems.check_golden(CUDA, CUDA, golden, case, reverse)


def test_not_a_number_reaches_what_depends_on_it_alone(mixer: Callable[..., Any]) -> None:
    m = problems.moved(mixer(length=40), CUDA)
    with torch.no_grad():
        m.xz[1, 20, 5] = torch.nan
    x = m.conv[0]
    runs: dict[str, Callable[[str], tuple[Tensor, ...]]] = {
        "conv": lambda on: ops.bimamba_conv(*m.conv, backend=on),
        "scan": lambda on: (ops.bimamba_scan(x, x, *m.scan, backend=on),),
        "norm": lambda on: ops.add_rms_norm(x, None, m.vectors[0], 1e-5, backend=on),
    }
    for name, run in runs.items():
        for got, want in zip(run(CUDA), run("reference"), strict=True):
            assert want.isnan().any()
            assert torch.equal(got.isnan(), want.isnan()), name


def test_offsets_beyond_2_to_the_31(mixer: Callable[..., Any]) -> None:
    if torch.cuda.mem_get_info()[0] < 8e9:
        pytest.skip("needs 8 GB of free GPU memory")
    m = problems.moved(mixer(length=40, channels=64), CUDA, torch.bfloat16)
    far = torch.empty(2**31 + m.xz[0].numel(), dtype=torch.bfloat16, device=CUDA)
    want = _step(m)()
    apart = far.as_strided(m.xz.shape, (2**31, *m.xz.stride()[1:])).copy_(m.xz.detach())
    m.xz = apart.detach().requires_grad_()
    _assert_same_bits(_step(m)(), want)


def test_more_states_than_the_kernels_hold_are_refused() -> None:
    rows, states = torch.zeros(1, 4, 8, device=CUDA), torch.zeros(1, 4, 33, device=CUDA)
    with pytest.raises(ValueError, match="33 states, the cuda backend takes up to 32"):
        ops.selective_scan(rows, rows, torch.zeros(8, 33, device=CUDA), states, states)


def test_the_function_of_mamba_ssm() -> None:
    rng = torch.Generator().manual_seed(0)
    shapes = {"u": (2, 12, 40), "delta": (2, 12, 40), "A": (12, 16), "B": (2, 2, 16, 40), "C": (2, 2, 16, 40)}
    inputs = {name: torch.randn(*shape, generator=rng).to(CUDA) for name, shape in shapes.items()}
    inputs["A"] = -inputs["A"].abs()
    out, state = selective_scan_fn(**inputs, delta_softplus=True, return_last_state=True)
    exact = {name: t.double() for name, t in inputs.items()}  # which the reference computes
    wanted = selective_scan_fn(**exact, delta_softplus=True, return_last_state=True)
    for got, want in zip((out, state), wanted, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_the_model_under_autocast_is_the_reference(dtype: torch.dtype | None) -> None:
    images = torch.randn(4, 3, 32, 32, device=CUDA)
    model = _small_vim()

    def gradients(backend: str) -> problems.Tensors:
        ops.set_backend(backend)
        try:
            with torch.autocast(CUDA, dtype=dtype, enabled=dtype is not None):
                logits = model(images)
            grads = torch.autograd.grad(logits.float().square().mean(), list(model.parameters()))
        finally:
            ops.set_backend("auto")
        names = ["logits", *(name for name, _ in model.named_parameters())]
        return dict(zip(names, [logits.detach(), *grads], strict=True))

    want, got = gradients("reference"), gradients(CUDA)
    limit = 1e-3 if dtype is None else 3e-2
    floor = 0.1 * max(float(t.norm()) / t.numel() ** 0.5 for t in want.values())
    for name, w in want.items():
        error = float((got[name] - w).double().norm()) / max(float(w.double().norm()), floor * w.numel() ** 0.5)
        assert error <= limit, f"{name}: {error:.1e}"


# ---- the same bits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 37, 384), (2, 197, 192), (1, 1301, 100)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_same_bits_again_and_beside_other_work(
    mixer: Callable[..., Any], size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    step = _step(problems.moved(mixer(*size), CUDA, dtype))
    want = step()
    _assert_same_bits(step(), want)
    other, load = torch.cuda.Stream(), torch.randn(4096, 4096, device=CUDA)
    other.wait_stream(torch.cuda.current_stream())
    for _ in range(3):
        with torch.cuda.stream(other):
            for _ in range(10):
                load @ load
        _assert_same_bits(step(), want)
    other.synchronize()


def test_activation_checkpointing_gives_the_same_bits(mixer: Callable[..., Any]) -> None:
    m = problems.moved(mixer(), CUDA)
    run = problems.through_all_ops(m, torch.ones(m.channels, device=CUDA), CUDA)
    want = torch.autograd.grad(run(), m.leaves, allow_unused=True)
    again = torch.utils.checkpoint.checkpoint(run, use_reentrant=False)
    _assert_same_bits(torch.autograd.grad(again, m.leaves, allow_unused=True), want)


def test_states_computed_again_give_the_same_bits(mixer: Callable[..., Any]) -> None:
    m = problems.moved(mixer(length=100), CUDA, torch.bfloat16)
    x, leaves = m.conv[0], [m.xz, *m.x_dbl, *m.delta, *m.A]
    kept, again = (ops.bimamba_scan(x, x, *m.scan, recompute_states=recompute) for recompute in (False, True))
    assert torch.equal(again, kept)
    _assert_same_bits(*(torch.autograd.grad(out.sum(), leaves) for out in (again, kept)))


def test_autocast_changes_nothing(mixer: Callable[..., Any]) -> None:
    step = _step(problems.moved(mixer(), CUDA))
    want = step()
    with torch.autocast(CUDA, dtype=torch.bfloat16):
        _assert_same_bits(step(), want)


# ---- as torch runs ops on a GPU --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_captured_graph_replays_what_runs_eagerly(mixer: Callable[..., Any], dtype: torch.dtype) -> None:
    m = problems.moved(mixer(length=50), CUDA, dtype)
    step = _step(m)
    _warm_up(step)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):  # fails where something waits for the GPU
        captured = step()
    for _ in range(2):
        with torch.no_grad():
            for leaf in m.leaves:
                leaf.mul_(0.75)
        graph.replay()
        _assert_same_bits(captured, step())


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiles_as_one_graph(
    mixer: Callable[..., Any], compiler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    m = problems.moved(mixer(), CUDA)
    weight = torch.randn(m.channels, device=CUDA, requires_grad=True)
    run = problems.through_all_ops(m, weight, CUDA)
    leaves = [*m.leaves, weight]
    want = torch.autograd.grad(run(), leaves)
    got = torch.autograd.grad(torch.compile(run, fullgraph=True, backend=compiler)(), leaves)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_nothing_waits_for_the_gpu(mixer: Callable[..., Any]) -> None:
    step = _step(problems.moved(mixer(), CUDA))
    _warm_up(step)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(1_000_000_000)  # half a second
        step()
        assert not torch.cuda.current_stream().query()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_ops_run_on_the_current_stream(mixer: Callable[..., Any]) -> None:
    m = problems.moved(mixer(), CUDA)
    step = _step(m)
    want = step()
    values = [leaf.detach().clone() for leaf in m.leaves]
    with torch.no_grad():
        for leaf in m.leaves:
            leaf.zero_()
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()), torch.no_grad():
        torch.cuda._sleep(200_000_000)  # on any other stream the ops would see the zeros
        for leaf, value in zip(m.leaves, values, strict=True):
            leaf.copy_(value)
        with torch.enable_grad():
            got = step()
        torch.cuda.current_stream().synchronize()
    _assert_same_bits(got, want)


def test_the_ops_run_on_their_tensors_device(mixer: Callable[..., Any]) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    want = _step(problems.moved(mixer(), "cuda:0"))()
    got = _step(problems.moved(mixer(), "cuda:1"))()
    assert torch.cuda.current_device() == 0
    for g, w in zip(got, want, strict=True):
        assert g.device.index == 1
        torch.testing.assert_close(g.to(w.device), w)


def test_an_empty_batch(mixer: Callable[..., Any]) -> None:
    m = problems.moved(mixer(batch=0), CUDA)
    run = problems.through_all_ops(m, torch.ones(m.channels, device=CUDA), CUDA)
    assert [g.shape for g in torch.autograd.grad(run(), m.leaves)] == [t.shape for t in m.leaves]


def test_data_parallel_training_on_every_gpu() -> None:
    processes = str(torch.cuda.device_count())
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", processes]
    paths = [str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
    run = subprocess.run(
        [sys.executable, *command, str(HERE / "data_parallel.py"), CUDA],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stderr


def _small_vim() -> Vim:
    torch.manual_seed(0)
    return Vim(img_size=32, patch_size=4, embed_dim=64, depth=2, num_classes=10).to(CUDA)


def _step(m: Any) -> Step:
    """Forward and backward of every op: the result and all gradients."""
    weight = torch.linspace(0.5, 1.5, m.channels, device=m.xz.device).requires_grad_()
    run, leaves = problems.through_all_ops(m, weight, CUDA), [*m.leaves, weight]

    def step() -> list[Tensor]:
        out = run()
        return [out.detach(), *torch.autograd.grad(out, leaves)]

    return step


def _warm_up(step: Step) -> None:
    """As capture asks for: on a stream of its own, which also loads the kernels and fills torch's cache of memory."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)


def _assert_same_bits(got: Any, want: Any) -> None:
    for g, w in zip(got, want, strict=True):
        assert (g is None) == (w is None)
        if g is not None:
            assert torch.equal(g, w)
