"""Ways of running the model that must not change what it computes."""

from collections.abc import Callable

import pytest
import torch


def gradients(model: torch.nn.Module, x: torch.Tensor, **options) -> list[torch.Tensor]:
    model.zero_grad()
    model(x, **options).square().sum().backward()
    return [p.grad.clone() for p in model.parameters()]


def test_gradient_checkpointing_gives_the_same_bits(backend: str, small: Callable) -> None:
    model = small(depth=3, drop_path_rate=0.3)
    x, noise = torch.randn(2, 3, 16, 16), torch.rand(2, 4)
    plain = gradients(model, x, drop_path_noise=noise)
    model.set_grad_checkpointing()
    assert all(map(torch.equal, plain, gradients(model, x, drop_path_noise=noise)))


def test_states_computed_again_give_the_same_bits(backend: str, small: Callable) -> None:
    x, noise = torch.randn(2, 3, 16, 16), torch.rand(2, 4)
    kept, again = (small(depth=3, recompute_states=recompute) for recompute in (False, True))
    again.load_state_dict(kept.state_dict())
    assert all(map(torch.equal, *(gradients(model, x, drop_path_noise=noise) for model in (kept, again))))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_near_fp32(dtype: torch.dtype, backend: str, small: Callable) -> None:
    model = small(depth=3, drop_path_rate=0.3)
    x, noise = torch.randn(2, 3, 16, 16), torch.rand(2, 4)
    exact = model(x, drop_path_noise=noise)
    with torch.autocast("cpu", dtype=dtype):
        tokens = model.forward_features(x, drop_path_noise=noise)
        logits = model.forward_head(tokens)
    logits.float().sum().backward()
    assert logits.dtype == dtype
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())
    assert (logits - exact).abs().max() <= 2e-2 * exact.abs().max()


def test_residual_stream_stays_fp32_under_autocast(small: Callable) -> None:
    model = small(depth=3).eval()
    seen = []
    for block in model.layers:
        block.register_forward_hook(lambda _, __, out: seen.append((out[0].dtype, out[1].dtype)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.randn(1, 3, 16, 16))
    assert seen == [(torch.bfloat16, torch.float32)] * 3


def test_model_in_bf16_runs_and_is_near_fp32(small: Callable) -> None:
    model = small(drop_path_rate=0.3)
    x, noise = torch.randn(2, 3, 16, 16), torch.rand(2, 3)
    exact = model(x, drop_path_noise=noise)
    low = model.bfloat16()(x.bfloat16(), drop_path_noise=noise)
    assert low.dtype == torch.bfloat16
    assert (low - exact).abs().max() <= 4e-2 * exact.abs().max()


def test_float64_model_is_differentiable_on_the_reference_backend(small: Callable) -> None:
    from vim_train import ops

    ops.set_backend("reference")
    try:
        model = small(img_size=8, embed_dim=8, depth=1, d_state=2, num_classes=2).double()
        x = torch.randn(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(model, (x,), fast_mode=True)
    finally:
        ops.set_backend("auto")


@pytest.mark.parametrize("training", [False, True])
def test_compiles_without_graph_breaks(training: bool, small: Callable) -> None:
    model = small(drop_path_rate=0.3).train(training)
    x, noise = torch.randn(2, 3, 16, 16), torch.rand(2, 3)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, drop_path_noise=noise), model(x, drop_path_noise=noise))
    expected = gradients(model, x, drop_path_noise=noise)
    for actual, grad in zip(gradients(compiled, x, drop_path_noise=noise), expected, strict=True):
        torch.testing.assert_close(actual, grad, rtol=1e-4, atol=1e-5 * grad.abs().max().item())
