"""One direction of a selective scan: the tensors it reads and the gradients it has."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Direction(NamedTuple):
    """Inputs of s_t = exp(delta_t A) s_(t-1) + delta_t B_t u_t;  y_t = C_t . s_t + D u_t."""

    u: Tensor  # (B, L, E)
    delta: Tensor  # (B, L, E), before delta_bias and softplus
    A: Tensor  # (E, N)
    B: Tensor  # (B, L, N)
    C: Tensor  # (B, L, N)
    D: Tensor | None  # (E,)
    delta_bias: Tensor | None  # (E,)
    reverse: bool  # walk l = L-1 ... 0 in place: an index order, nothing is flipped


class DirectionGrads(NamedTuple):
    """Gradients of a Direction, each in the dtype and shape of its input; None where the input is None."""

    du: Tensor
    ddelta: Tensor
    dA: Tensor
    dB: Tensor
    dC: Tensor
    dD: Tensor | None
    ddelta_bias: Tensor | None


def cast_grads(grads: DirectionGrads, d: Direction) -> DirectionGrads:
    """The gradients in the dtypes of their inputs."""
    return DirectionGrads(
        du=grads.du.to(d.u.dtype),
        ddelta=grads.ddelta.to(d.delta.dtype),
        dA=grads.dA.to(d.A.dtype),
        dB=grads.dB.to(d.B.dtype),
        dC=grads.dC.to(d.C.dtype),
        dD=_cast_like(grads.dD, d.D),
        ddelta_bias=_cast_like(grads.ddelta_bias, d.delta_bias),
    )


def _cast_like(grad: Tensor | None, t: Tensor | None) -> Tensor | None:
    return None if grad is None or t is None else grad.to(t.dtype)
