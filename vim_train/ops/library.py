"""Registration of the ops with torch.library: schemas, fakes and autograd, for torch.compile and torch.export.

`torch.ops.vim_train.*` are functional: nothing is mutated, no output is a view of an input, and the forward returns
what its backward needs. A forward runs on the backend that its `backend` argument names, and its backward on the same.
A backward op returns a list: the gradients of those inputs that are not None, contiguous, in the order, shapes and
dtypes of the inputs. There is no autocast rule: under autocast the caller casts, as the model does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vim_train.ops import native, reference
from vim_train.ops.abi import MAX_CONV_WIDTH
from vim_train.ops.backends import REFERENCE
from vim_train.ops.direction import Direction, DirectionGrads

_LIBRARY = torch.library.Library("vim_train", "DEF")
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)


def _register(schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Define an op with one kernel for all devices (it switches on `backend`) and its fake; return the overload."""
    name = schema[: schema.index("(")]
    _LIBRARY.define(schema, tags=_TAGS)
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"vim_train::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.vim_train, name).default


def _register_autograd(name: str, op: Any, gradient: Callable[..., Any], setup_context: Callable[..., None]) -> None:
    """What torch.library.register_autograd does, without its walk through pytrees, which takes longer than the op."""

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                output = op(*inputs)
            setup_context(ctx, inputs, output)
            return output

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, *grads: Any) -> Any:
            return gradient(ctx, *grads)

    _LIBRARY.impl(name, Differentiable.apply, "Autograd")


def _native(backend: str, x: Tensor) -> bool:
    return backend != REFERENCE and x.numel() > 0  # pointers of empty tensors are null, which means absent


def _present(tensors: Iterable[Tensor | None]) -> list[Tensor]:
    """Those that are there, contiguous as the fakes promise (einsum, in the reference, returns what it likes)."""
    return [t.contiguous() for t in tensors if t is not None]


def _empty_like_present(tensors: Sequence[Tensor | None]) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in tensors if t is not None]


def _spread(grads: Sequence[Tensor], inputs: Sequence[Tensor | None]) -> Iterator[Tensor | None]:
    """The gradients in the places of their inputs, None where the input is."""
    rest = iter(grads)
    return (None if t is None else next(rest) for t in inputs)


# --- selective_scan, bimamba_scan ------------------------------------------------------------------------------------


class _Scan(NamedTuple):
    directions: list[Direction]
    z: Tensor | None
    delta_softplus: bool
    scale: float


def _one_direction(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> _Scan:
    return _Scan([Direction(u, delta, A, B, C, D, delta_bias, reverse)], z, delta_softplus, 1.0)


def _one_direction_grads(grads: list[DirectionGrads], dz: Tensor | None) -> list[Tensor | None]:
    (g,) = grads
    return [g.du, g.ddelta, g.dA, g.dB, g.dC, g.dD, dz, g.ddelta_bias]


def _two_directions(
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
    divide_out: bool,
) -> _Scan:
    forward = Direction(u, delta, A, B, C, D, delta_bias, reverse=False)
    backward = Direction(u_b, delta_b, A_b, B_b, C_b, D_b, delta_bias_b, reverse=True)
    return _Scan([forward, backward], z, True, 0.5 if divide_out else 1.0)


def _two_directions_grads(grads: list[DirectionGrads], dz: Tensor | None) -> list[Tensor | None]:
    f, b = grads
    shared = [f.du, b.du, f.ddelta, b.ddelta, f.dA, b.dA, f.dB, b.dB, f.dC, b.dC, f.dD, b.dD]
    return [*shared, dz, f.ddelta_bias, b.ddelta_bias]


def _register_scan(name: str, tensors: str, flags: str, unpack: Callable[..., _Scan], pack: Callable[..., Any]) -> Any:
    """Register `name(tensors, flags, bool save, bool last, str backend) -> (out, checkpoints, last_states)`.

    And its backward. Without `save` a backward computes the checkpoints again; last_states are not differentiable.
    """
    count = tensors.count("Tensor")

    def empty_states(out: Tensor, scan: _Scan, save: bool, last: bool, backend: str) -> tuple[Tensor, Tensor]:
        kept = native.checkpoint_shape(scan.directions) if save and backend != REFERENCE else (0,)
        wide = reference.compute_dtype(out)
        last_shape = native.last_shape(scan.directions) if last else (0,)
        return out.new_empty(kept, dtype=torch.float32), out.new_empty(last_shape, dtype=wide)

    def forward(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        *inputs, save, last, backend = args
        scan = unpack(*inputs)
        if _native(backend, inputs[0]):
            return native.scan(backend, *scan, save=save, last=last)
        out, last_states = reference.scan_and_states(*scan)
        checkpoints, nothing = empty_states(out, scan, save, last, backend)
        return out.contiguous(), checkpoints, last_states if last else nothing

    def fake(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
        *inputs, save, last, backend = args
        out = inputs[0].new_empty(inputs[0].shape)
        return out, *empty_states(out, unpack(*inputs), save, last, backend)

    def backward(dout: Tensor, checkpoints: Tensor, *args: Any) -> list[Tensor]:
        *inputs, backend = args
        scan = unpack(*inputs)
        if not _native(backend, dout):
            return _present(pack(*reference.scan_backward(dout, *scan)))
        if not checkpoints.numel():
            checkpoints = native.scan_states(backend, scan.directions, scan.delta_softplus)
        return _present(pack(*native.scan_backward(backend, dout, checkpoints, *scan)))

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        *flags, _save, _last, backend = inputs[count:]
        ctx.options = (*flags, backend)
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1], *inputs[:count])

    def gradient(ctx: Any, dout: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        checkpoints, *inputs = ctx.saved_tensors
        unused = (None,) * (len(ctx.options) + 2)
        if dout is None:
            return (*(None for _ in inputs), *unused)
        return (*_spread(backward_op(dout, checkpoints, *inputs, *ctx.options), inputs), *unused)

    flags_of_forward = f"{flags}, bool save, bool last, str backend"
    op = _register(f"{name}({tensors}, {flags_of_forward}) -> (Tensor, Tensor, Tensor)", forward, fake)
    backward_op = _register(
        f"{name}_backward(Tensor dout, Tensor checkpoints, {tensors}, {flags}, str backend) -> Tensor[]",
        backward,
        lambda dout, checkpoints, *args: _empty_like_present(args[:count]),
    )
    _register_autograd(name, op, gradient, setup_context)
    return op


selective_scan = _register_scan(
    "selective_scan",
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias",
    "bool delta_softplus, bool reverse",
    _one_direction,
    _one_direction_grads,
)

bimamba_scan = _register_scan(
    "bimamba_scan",
    "Tensor u, Tensor u_b, Tensor delta, Tensor delta_b, Tensor A, Tensor A_b, Tensor B, Tensor B_b, Tensor C, "
    "Tensor C_b, Tensor D, Tensor D_b, Tensor z, Tensor delta_bias, Tensor delta_bias_b",
    "bool divide_out",
    _two_directions,
    _two_directions_grads,
)


# --- bimamba_conv ----------------------------------------------------------------------------------------------------

_CONV_TENSORS = "Tensor x, Tensor weight, Tensor? bias, Tensor weight_b, Tensor? bias_b"


def _native_conv(backend: str, x: Tensor, weight: Tensor) -> bool:
    return _native(backend, x) and weight.shape[-1] <= MAX_CONV_WIDTH


def _conv(*args: Any) -> tuple[Tensor, Tensor]:
    *inputs, backend = args
    if _native_conv(backend, *inputs[:2]):
        return native.bimamba_conv(backend, *inputs)
    u, u_b = reference.bimamba_conv(*inputs)
    return u.contiguous(), u_b.contiguous()


def _conv_backward(du: Tensor, du_b: Tensor, *args: Any) -> list[Tensor]:
    *inputs, backend = args
    if _native_conv(backend, *inputs[:2]):
        return _present(native.bimamba_conv_backward(backend, du, du_b, *inputs))
    return _present(reference.bimamba_conv_backward(du, du_b, *inputs))


def _conv_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _conv_gradient(ctx: Any, du: Tensor, du_b: Tensor) -> tuple[Tensor | None, ...]:
    inputs = ctx.saved_tensors
    return (*_spread(_conv_backward_op(du, du_b, *inputs, ctx.backend), inputs), None)


bimamba_conv = _register(
    f"bimamba_conv({_CONV_TENSORS}, str backend) -> (Tensor, Tensor)",
    _conv,
    lambda x, *_: (x.new_empty(x.shape), x.new_empty(x.shape)),
)
_conv_backward_op = _register(
    f"bimamba_conv_backward(Tensor du, Tensor du_b, {_CONV_TENSORS}, str backend) -> Tensor[]",
    _conv_backward,
    lambda du, du_b, *args: _empty_like_present(args[:-1]),
)
_register_autograd("bimamba_conv", bimamba_conv, _conv_gradient, _conv_setup)


# --- add_rms_norm ----------------------------------------------------------------------------------------------------


def _norm(
    hidden: Tensor, residual: Tensor | None, weight: Tensor, eps: float, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    if _native(backend, hidden):
        return native.add_rms_norm(backend, hidden, residual, weight, eps)
    normed, residual_out, inv_rms = reference.add_rms_norm(hidden, residual, weight, eps)
    return normed.contiguous(), residual_out.contiguous(), inv_rms.contiguous()


def _norm_fake(
    hidden: Tensor, residual: Tensor | None, weight: Tensor, eps: float, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    wide = reference.compute_dtype(hidden)
    normed, residual_out = hidden.new_empty(hidden.shape), hidden.new_empty(hidden.shape, dtype=wide)
    return normed, residual_out, hidden.new_empty(hidden.shape[:-1], dtype=wide)


def _norm_backward(
    dnormed: Tensor,
    dresidual_out: Tensor | None,
    residual_out: Tensor,
    inv_rms: Tensor,
    weight: Tensor,
    backend: str,
) -> tuple[Tensor, Tensor]:
    saved = (dnormed, dresidual_out, residual_out, inv_rms, weight)
    if _native(backend, dnormed):
        return native.add_rms_norm_backward(backend, *saved)
    dresidual, dweight = reference.add_rms_norm_backward(*saved)
    return dresidual.contiguous(), dweight


def _norm_backward_fake(
    dnormed: Tensor, dresidual_out: Any, residual_out: Tensor, inv_rms: Any, weight: Tensor, _: str
) -> Any:
    return residual_out.new_empty(residual_out.shape), weight.new_empty(weight.shape)


def _norm_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    hidden, residual, weight, _, ctx.backend = inputs
    _, residual_out, inv_rms = output
    ctx.dtype, ctx.has_residual = hidden.dtype, residual is not None
    ctx.mark_non_differentiable(inv_rms)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(residual_out, inv_rms, weight)


def _norm_gradient(
    ctx: Any, dnormed: Tensor | None, dresidual_out: Tensor | None, _: None
) -> tuple[Tensor | None, ...]:
    dresidual, dweight = dresidual_out, None
    if dnormed is not None:
        dresidual, dweight = _norm_backward_op(dnormed, dresidual_out, *ctx.saved_tensors, ctx.backend)
    dhidden = None if dresidual is None else dresidual.to(ctx.dtype)
    return dhidden, dresidual if ctx.has_residual else None, dweight, None, None


add_rms_norm = _register(
    "add_rms_norm(Tensor hidden, Tensor? residual, Tensor weight, float eps, str backend) -> (Tensor, Tensor, Tensor)",
    _norm,
    _norm_fake,
)
_norm_backward_op = _register(
    "add_rms_norm_backward(Tensor dnormed, Tensor? dresidual_out, Tensor residual_out, Tensor inv_rms, Tensor weight, "
    "str backend) -> (Tensor, Tensor)",
    _norm_backward,
    _norm_backward_fake,
)
_register_autograd("add_rms_norm", add_rms_norm, _norm_gradient, _norm_setup)
