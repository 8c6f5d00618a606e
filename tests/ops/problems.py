"""Problems for the ops over the space of shapes, layouts, options and dtypes, and what must come out, in float64.

A check takes a backend, the device to run it on, and one case: what its strategies draw.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from vim_train import ops
from vim_train.ops import reference

Tensors = dict[str, Tensor]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous", "row view", "batch view", "transposed")
GOLDEN = ("full", "len3_nobias", "long", "no_gate", "plain", "wide")

_HALF_BY_VALUE = {torch.bfloat16: 1.2e-2, torch.float16: 2e-3}  # of the largest value: one rounding and what it meets
_HALF_BY_NORM = {torch.bfloat16: 6e-3, torch.float16: 8e-4}
_SCAN_FP32 = 1e-4  # sums over the sequence may cancel; the golden tensors hold 1e-5
_FP32 = 1e-5

SIZES = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "length": st.one_of(st.integers(1, 40), st.sampled_from([15, 16, 17, 32, 33, 49])),
        "channels": st.one_of(st.integers(1, 40), st.sampled_from([16, 32, 48, 64, 65, 130])),
        "states": st.one_of(st.integers(1, 20), st.sampled_from([4, 8, 16, 32])),
    }
)
_ANY: dict[str, Any] = {"dtype": st.sampled_from(DTYPES), "seed": st.integers(0, 1000)}
SELECTIVE_SCAN: dict[str, Any] = {
    **_ANY,
    "size": SIZES,
    "layout": st.sampled_from(LAYOUTS),
    "left_out": st.sets(st.sampled_from(["D", "z", "delta_bias"])),
    "softplus": st.booleans(),
    "reverse": st.booleans(),
}
BIMAMBA_SCAN: dict[str, Any] = {
    **_ANY,
    "size": SIZES,
    "layout": st.sampled_from(LAYOUTS),
    "divide_out": st.booleans(),
}
CONV: dict[str, Any] = {
    **_ANY,
    "batch": st.integers(1, 3),
    "length": st.integers(1, 24),
    "channels": st.one_of(st.integers(1, 40), st.sampled_from([64, 130])),
    "width": st.integers(1, 8),
    "biased": st.booleans(),
    "strided": st.booleans(),
}
NORM: dict[str, Any] = {
    **_ANY,
    "rows": st.sampled_from([(1,), (3,), (2, 5), (2, 1, 3)]),
    "dim": st.one_of(st.integers(1, 40), st.sampled_from([192, 384])),
    "first": st.booleans(),
}


def check_selective_scan(
    backend: str,
    device: str,
    *,
    size: dict[str, int],
    dtype: torch.dtype,
    layout: str,
    left_out: set[str],
    softplus: bool,
    reverse: bool,
    seed: int,
) -> None:
    rng = torch.Generator().manual_seed(seed)
    inputs = direction(rng, size, dtype, layout, device)
    inputs["z"] = direction(rng, size, dtype, layout, device)["u"]
    if not softplus:  # time steps are positive
        inputs["delta"] = inputs["delta"].detach().abs().requires_grad_()
        inputs["delta_bias"] = inputs["delta_bias"].detach().abs().requires_grad_()
    inputs = {name: t for name, t in inputs.items() if name not in left_out}
    options = {"delta_softplus": softplus, "reverse": reverse}
    _check(
        lambda **t: {"out": ops.selective_scan(**t, **options, backend=backend)},
        lambda **t: {"out": reference.selective_scan(**t, **options)},
        inputs,
        _SCAN_FP32,
    )


def check_bimamba_scan(
    backend: str,
    device: str,
    *,
    size: dict[str, int],
    dtype: torch.dtype,
    layout: str,
    divide_out: bool,
    seed: int,
) -> None:
    rng = torch.Generator().manual_seed(seed)
    inputs = direction(rng, size, dtype, layout, device)
    inputs |= {f"{name}_b": t for name, t in direction(rng, size, dtype, layout, device).items()}
    inputs["z"] = direction(rng, size, dtype, layout, device)["u"]
    _check(
        lambda **t: {"out": ops.bimamba_scan(**t, divide_out=divide_out, backend=backend)},
        lambda **t: {"out": reference.bimamba_scan(**t, divide_out=divide_out)},
        inputs,
        _SCAN_FP32,
    )


def check_conv(
    backend: str,
    device: str,
    *,
    batch: int,
    length: int,
    channels: int,
    width: int,
    dtype: torch.dtype,
    biased: bool,
    strided: bool,
    seed: int,
) -> None:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, length, 2 * channels, generator=rng).to(device, dtype)[..., :channels]
    inputs = {"x": x if strided else x.contiguous()}
    for suffix in ("", "_b"):
        inputs[f"weight{suffix}"] = torch.randn(channels, 1, width, generator=rng).to(device)
        if biased:
            inputs[f"bias{suffix}"] = torch.randn(channels, generator=rng).to(device)

    def by_op(bias: Tensor | None = None, bias_b: Tensor | None = None, **t: Tensor) -> Tensors:
        u, u_b = ops.bimamba_conv(t["x"], t["weight"], bias, t["weight_b"], bias_b, backend=backend)
        return {"u": u, "u_b": u_b}

    def by_torch(bias: Tensor | None = None, bias_b: Tensor | None = None, **t: Tensor) -> Tensors:
        u_b = _conv_by_torch(t["x"].flip(1), t["weight_b"], bias_b).flip(1)
        return {"u": _conv_by_torch(t["x"], t["weight"], bias), "u_b": u_b}

    _check(by_op, by_torch, {name: t.requires_grad_() for name, t in inputs.items()}, _FP32)


def check_norm(
    backend: str, device: str, *, rows: tuple[int, ...], dim: int, dtype: torch.dtype, first: bool, seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    inputs = {"hidden": torch.randn(*rows, dim, generator=rng).to(device, dtype)}
    if not first:
        inputs["residual"] = torch.randn(*rows, dim, generator=rng).to(device)
    inputs["weight"] = torch.randn(dim, generator=rng).to(device)

    def by_op(hidden: Tensor, weight: Tensor, residual: Tensor | None = None) -> Tensors:
        normed, total = ops.add_rms_norm(hidden, residual, weight, 1e-5, backend=backend)
        assert total.dtype == torch.float32
        return {"normed": normed, "residual_out": total}

    def by_torch(hidden: Tensor, weight: Tensor, residual: Tensor | None = None) -> Tensors:
        total = hidden if residual is None else hidden + residual
        return {"normed": F.rms_norm(total, (dim,), weight, eps=1e-5), "residual_out": total}

    _check(by_op, by_torch, {name: t.requires_grad_() for name, t in inputs.items()}, _FP32)


def check_golden(backend: str, device: str, folder: Path, case: str, reverse: bool) -> None:
    """The scan meets tensors that other code computed, forward and backward."""
    with safe_open(str(folder / f"scan_{case}.safetensors"), framework="pt") as file:
        tensors = {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118
        softplus = file.metadata()["delta_softplus"] == "True"
    tensors = {name: t.transpose(1, 2).contiguous() if t.dim() == 3 else t for name, t in tensors.items()}
    if reverse:  # the scan of the reversed sequence, reversed
        tensors = {name: t.flip(1) if t.dim() == 3 else t for name, t in tensors.items()}
    names = [n for n in ("u", "delta", "A", "B", "C", "D", "z", "delta_bias") if n in tensors]
    inputs = {name: tensors[name].requires_grad_() for name in names}
    out = ops.selective_scan(**inputs, delta_softplus=softplus, reverse=reverse, backend=backend)
    grads = torch.autograd.grad(out, list(inputs.values()), tensors["grad_out"])
    got = {"out": out.detach()} | {f"grad.{name}": g for name, g in zip(inputs, grads, strict=True)}
    for name, t in got.items():
        error = float((t - tensors[name]).abs().max() / tensors[name].abs().max().clamp_min(1e-30))
        assert error <= _FP32, f"{name}: {error:.2e}"


def direction(rng: torch.Generator, size: dict[str, int], dtype: torch.dtype, layout: str, device: str) -> Tensors:
    """Leaves of one direction of a scan."""
    batch, length, channels, states = size["batch"], size["length"], size["channels"], size["states"]

    def rows(width: int) -> Tensor:
        t = torch.randn(batch, length, width, generator=rng).to(device, dtype)
        return laid_out(t, layout).requires_grad_()

    def vector() -> Tensor:
        return torch.randn(channels, generator=rng).to(device).requires_grad_()

    return {
        "u": rows(channels),
        "delta": rows(channels),
        "A": (-torch.exp(torch.randn(channels, states, generator=rng))).to(device).requires_grad_(),
        "B": rows(states),
        "C": rows(states),
        "D": vector(),
        "delta_bias": vector(),
    }


def laid_out(t: Tensor, layout: str) -> Tensor:
    """t with the same values in another memory layout."""
    batch, length, width = t.shape
    if layout == "row view":
        return torch.cat([t.new_zeros(batch, length, 3), t, t.new_zeros(batch, length, 2)], -1)[..., 3 : 3 + width]
    if layout == "batch view":
        return torch.cat([t, torch.full_like(t, 7.0)], 1)[:, :length]
    if layout == "transposed":
        return t.transpose(1, 2).contiguous().transpose(1, 2)
    return t


def moved(mixer: Any, device: str, dtype: torch.dtype = torch.float32) -> Any:
    """The mixer's leaves on a device, activations in `dtype`, A, vectors and weights in float32."""

    def leaf(t: Tensor, dtype: torch.dtype) -> Tensor:
        return t.detach().to(device, dtype).requires_grad_()

    activations = {name: [leaf(t, dtype) for t in getattr(mixer, name)] for name in ("x_dbl", "delta")}
    params = {name: [leaf(t, torch.float32) for t in getattr(mixer, name)] for name in ("A", "vectors", "weights")}
    return dataclasses.replace(mixer, xz=leaf(mixer.xz, dtype), **activations, **params)


def through_all_ops(mixer: Any, norm_weight: Tensor, backend: str | None) -> Callable[[], Tensor]:
    """A function that puts the mixer through every op, to one number."""

    def run() -> Tensor:
        u, u_b = ops.bimamba_conv(*mixer.conv, backend=backend)
        y = ops.bimamba_scan(u, u_b, *mixer.scan, backend=backend)
        hidden, residual = ops.add_rms_norm(y, None, norm_weight, 1e-5, backend=backend)
        hidden, residual = ops.add_rms_norm(hidden, residual, norm_weight, 1e-5, backend=backend)
        delta, _, A, _, B, _, C = mixer.scan[:7]
        last = ops.selective_scan(hidden, delta, A, B, C, delta_softplus=True, reverse=True, backend=backend)
        return last.square().mean() + residual.mean()

    return run


def assert_close(got: Tensors, want: Tensors, fp32: float) -> None:
    """Each tensor is within tolerance of its size, or of a tenth of the largest one's: a sum may cancel to nearly 0.

    By the largest value; tensors in half precision by norm besides, which sees errors that their roundings would hide.
    """
    floors = {measure: 0.1 * max(map(measure, want.values())) for measure in (_largest, _rms)}
    for name, w in want.items():
        limits = {_largest: fp32}
        if got[name].dtype != torch.float32:
            limits = {_largest: _HALF_BY_VALUE[got[name].dtype], _rms: _HALF_BY_NORM[got[name].dtype]}
        for measure, limit in limits.items():
            scale = max(measure(w), floors[measure])
            error = measure(got[name].double() - w) / scale
            assert error <= limit, f"{name}: {error:.2e} of {scale:.2e}, by {measure.__name__[1:]}"


def _largest(t: Tensor) -> float:
    return float(t.abs().max())


def _rms(t: Tensor) -> float:
    return float(t.square().mean().sqrt())


def _check(run: Callable[..., Tensors], truth: Callable[..., Tensors], inputs: Tensors, fp32: float) -> None:
    """Outputs and gradients of run(inputs) are those of truth(inputs in float64)."""
    exact = {name: t.detach().double().requires_grad_() for name, t in inputs.items()}
    got, want = run(**inputs), truth(**exact)
    assert all(t.is_contiguous() for t in got.values())
    dtype = next(iter(inputs.values())).dtype  # of the activations; a residual is float32
    assert next(iter(got.values())).dtype == dtype
    rng = torch.Generator().manual_seed(1)
    douts = [torch.randn(want[name].shape, generator=rng).to(t) for name, t in got.items()]
    got_grads = torch.autograd.grad(list(got.values()), list(inputs.values()), douts)
    want_grads = torch.autograd.grad(list(want.values()), list(exact.values()), [d.double() for d in douts])
    assert [g.dtype for g in got_grads] == [t.dtype for t in inputs.values()]
    got = {name: t.detach() for name, t in got.items()}
    got |= {f"grad of {name}": g for name, g in zip(inputs, got_grads, strict=True)}
    want = {name: t.detach() for name, t in want.items()}
    want |= {f"grad of {name}": g for name, g in zip(inputs, want_grads, strict=True)}
    assert_close(got, want, fp32)


def _conv_by_torch(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    padded = F.pad(x.transpose(1, 2), (weight.shape[-1] - 1, 0))
    return F.silu(F.conv1d(padded, weight, bias, groups=x.shape[-1])).transpose(1, 2)
