"""The ops as torch sees them: schemas, fakes, autograd, compilation, and views that arrive as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import problems
import pytest
import torch
from torch import Tensor

from vim_train import ops
from vim_train.ops import library, native


def _detached(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Leaves with the same memory and strides."""
    return tuple(t.detach().requires_grad_() for t in tensors)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_opcheck_of_the_forwards(mixer: Callable[..., Any], backend: str) -> None:
    m = mixer()
    conv, scan = _detached(m.conv), _detached(m.scan)
    u, u_b = _detached(ops.bimamba_conv(*conv, backend=backend))
    delta, _, A, _, B, _, C, _, D, _, z, delta_bias, _ = scan
    torch.library.opcheck(library.bimamba_conv, (*conv, backend))
    torch.library.opcheck(library.bimamba_conv, (conv[0], conv[1], None, conv[3], None, backend))
    torch.library.opcheck(library.bimamba_scan, (u, u_b, *scan, True, True, False, backend))
    every = (u, delta, A, B, C, D, z, delta_bias)
    torch.library.opcheck(library.selective_scan, (*every, True, False, True, True, backend))
    torch.library.opcheck(library.selective_scan, (*every[:5], None, None, None, False, True, True, False, backend))
    torch.library.opcheck(library.selective_scan, (*(t.detach() for t in every), True, False, False, True, backend))
    weight = torch.randn(m.channels, requires_grad=True)
    torch.library.opcheck(library.add_rms_norm, (u, None, weight, 1e-5, backend))
    torch.library.opcheck(library.add_rms_norm, (u, u_b, weight, 1e-5, backend))


def test_opcheck_of_the_backwards(mixer: Callable[..., Any], backend: str) -> None:
    m = mixer()
    conv, scan = (tuple(t.detach() for t in group) for group in (m.conv, m.scan))
    u, u_b = ops.bimamba_conv(*conv, backend=backend)
    backwards = torch.ops.vim_train
    torch.library.opcheck(backwards.bimamba_conv_backward.default, (u, u_b, *conv, backend))
    out, checkpoints, _ = library.bimamba_scan(u, u_b, *scan, True, True, False, backend)
    torch.library.opcheck(backwards.bimamba_scan_backward.default, (out, checkpoints, u, u_b, *scan, True, backend))
    inputs = (u, scan[0], scan[2], scan[4], scan[6], None, None, None, True, False)
    out, checkpoints, _ = library.selective_scan(*inputs, True, False, backend)
    torch.library.opcheck(backwards.selective_scan_backward.default, (out, checkpoints, *inputs, backend))
    weight = torch.randn(m.channels)
    _, residual, inv_rms = library.add_rms_norm(u, u_b, weight, 1e-5, backend)
    torch.library.opcheck(backwards.add_rms_norm_backward.default, (u, residual, residual, inv_rms, weight, backend))


def _compiled_equals_eager(mixer: Callable[..., Any], backend: str | None, compiler: str) -> None:
    m = mixer()
    weight = torch.randn(m.channels, requires_grad=True)
    run = problems.through_all_ops(m, weight, backend)
    leaves = [*m.leaves, weight]
    want = torch.autograd.grad(run(), leaves)
    got = torch.autograd.grad(torch.compile(run, fullgraph=True, backend=compiler)(), leaves)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w)


def test_compiles_as_one_graph(mixer: Callable[..., Any], backend: str) -> None:
    _compiled_equals_eager(mixer, backend, "aot_eager")


@pytest.mark.slow
def test_compiles_with_inductor(
    mixer: Callable[..., Any], library: None, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    m = mixer()
    u, u_b = _detached(ops.bimamba_conv(*m.conv))

    def run() -> Tensor:
        return ops.bimamba_scan(u, u_b, *m.scan)

    want, got = run(), torch.compile(run, fullgraph=True)()
    torch.testing.assert_close(got, want)
    leaves = [u, u_b, *m.leaves[:-4]]
    for g, w in zip(*(torch.autograd.grad(out.sum(), leaves) for out in (got, want)), strict=True):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize("compiled", [False, True])
def test_strided_views_reach_the_kernel_uncopied(
    mixer: Callable[..., Any], library: None, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    seen: dict[str, Any] = {}
    call = native._call
    monkeypatch.setattr(
        native, "_call", lambda _, name, args, *at: (seen.update({name: args}), call(_, name, args, *at))[1]
    )
    m = mixer()
    weight = torch.randn(m.channels)

    run = problems.through_all_ops(m, weight, "cpu")
    (torch.compile(run, fullgraph=True, backend="aot_eager") if compiled else run)().backward()
    x, z, B, C_b = m.conv[0], m.scan[10], m.scan[4], m.scan[7]
    conv, scan = seen["vt_conv_forward"], seen["vt_scan_backward"].forward
    assert (conv.x.data, conv.x.stride_len) == (x.data_ptr(), 2 * m.channels)
    two = seen["vt_scan_forward"] if seen["vt_scan_forward"].directions == 2 else scan
    assert (two.z.data, two.z.stride_len) == (z.data_ptr(), 2 * m.channels)
    assert (two.dir[0].B.data, two.dir[0].B.stride_len) == (B.data_ptr(), B.stride(1))
    assert (two.dir[1].C.data, two.dir[1].C.stride_len) == (C_b.data_ptr(), C_b.stride(1))


def test_states_are_kept_only_for_a_backward(
    mixer: Callable[..., Any], library: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    call = native._call
    monkeypatch.setattr(native, "_call", lambda _, name, args, *at: (seen.append(args), call(_, name, args, *at))[1])
    m = mixer()
    u, u_b = ops.bimamba_conv(*m.conv, backend="cpu")
    ops.bimamba_scan(u, u_b, *m.scan, backend="cpu")
    with torch.no_grad():
        ops.bimamba_scan(u, u_b, *m.scan, backend="cpu")
    ops.bimamba_scan(u.detach(), u_b.detach(), *(t.detach() for t in m.scan), backend="cpu")
    ops.bimamba_scan(u, u_b, *m.scan, recompute_states=True, backend="cpu")
    assert [bool(args.dir[0].checkpoints) for args in seen[1:]] == [True, False, False, False]


def test_states_computed_again_give_the_same_bits(mixer: Callable[..., Any], backend: str) -> None:
    m = mixer(length=37)
    u, u_b = _detached(ops.bimamba_conv(*m.conv, backend=backend))
    leaves = [u, u_b, *m.leaves[:-4]]
    kept, again = (ops.bimamba_scan(u, u_b, *m.scan, recompute_states=r, backend=backend) for r in (False, True))
    torch.testing.assert_close(again, kept, rtol=0, atol=0)
    for got, want in zip(*(torch.autograd.grad(out.sum(), leaves) for out in (again, kept)), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_a_second_derivative_is_refused(mixer: Callable[..., Any], backend: str) -> None:
    m = mixer()
    u, _ = ops.bimamba_conv(*m.conv, backend=backend)
    (dx,) = torch.autograd.grad(u.square().sum(), [m.leaves[0]], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        dx.sum().backward()


def test_gradients_under_checkpointing_are_the_same_bits(mixer: Callable[..., Any], backend: str) -> None:
    m = mixer()
    run = problems.through_all_ops(m, torch.ones(m.channels), backend)
    want = torch.autograd.grad(run(), m.leaves, allow_unused=True)
    again = torch.utils.checkpoint.checkpoint(run, use_reentrant=False)
    for g, w in zip(torch.autograd.grad(again, m.leaves, allow_unused=True), want, strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=0)


def test_autocast_changes_nothing(mixer: Callable[..., Any], backend: str) -> None:
    m = mixer()
    run = problems.through_all_ops(m, torch.ones(m.channels), backend)
    want = torch.autograd.grad(run(), m.leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = torch.autograd.grad(run(), m.leaves)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=0, atol=0)


def test_exports(mixer: Callable[..., Any], backend: str) -> None:
    m = mixer()

    class Conv(torch.nn.Module):
        def forward(self, x: Tensor, *params: Tensor) -> tuple[Tensor, Tensor]:
            return ops.bimamba_conv(x, *params, backend=backend)

    arguments = tuple(t.detach() for t in m.conv)
    program = torch.export.export(Conv(), arguments)
    for got, want in zip(program.module()(*arguments), Conv()(*arguments), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_an_empty_batch(mixer: Callable[..., Any], backend: str) -> None:
    m = mixer(batch=0)
    run = problems.through_all_ops(m, torch.ones(m.channels), backend)
    grads = torch.autograd.grad(run(), m.leaves)
    assert [g.shape for g in grads] == [t.shape for t in m.leaves]


def test_meta_tensors_have_shapes(mixer: Callable[..., Any]) -> None:
    m = mixer()
    conv, scan = ([t.detach().to("meta") for t in group] for group in (m.conv, m.scan))
    out = ops.bimamba_scan(*ops.bimamba_conv(*conv), *scan)
    assert out.device.type == "meta"
    assert out.shape == conv[0].shape
