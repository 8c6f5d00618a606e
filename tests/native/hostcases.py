"""Problems for the kernels, with their results in float64."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor

from vim_train.ops import native, reference
from vim_train.ops.direction import Direction, DirectionGrads

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

Tensors = dict[str, Tensor]
Case = TypeVar("Case")


class Task(NamedTuple):
    """Something that the kernels compute, and what should come out, in float64."""

    run: Callable[[], Tensors]
    want: Tensors


# ---- scans -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScanCase:
    dtype: torch.dtype = torch.float32
    batch: int = 2
    length: int = 37
    channels: int = 70
    states: int = 16
    reverse: tuple[bool, ...] = (False, True)  # of each direction
    softplus: bool = True
    gate: bool = True
    skip: bool = True
    bias: bool = True
    strided: bool = False  # rows within wider ones, at odd addresses
    recompute: bool = False  # states in a call of their own
    seed: int = 0


SCAN_CORNERS = (
    ScanCase(length=1),
    ScanCase(length=1, channels=1, batch=1, states=1),
    ScanCase(length=16, channels=64),
    ScanCase(length=17, channels=65, strided=True),
    ScanCase(length=32, channels=128, recompute=True),
    ScanCase(length=33, states=8),
    ScanCase(length=48, states=32, channels=33),
    ScanCase(length=31, states=5),
    ScanCase(length=31, states=20, recompute=True),
    ScanCase(length=197, channels=24, batch=1),
    ScanCase(reverse=(False, False)),
    ScanCase(reverse=(True, True), length=53),
    ScanCase(reverse=(True, False), length=64),
    ScanCase(reverse=(False,), softplus=False, gate=False, skip=False, bias=False),
    ScanCase(reverse=(True,), length=50),
)


def scan_cases(dtype: torch.dtype, count: int = 30) -> Iterator[ScanCase]:
    """The corners, each also so small that another kernel takes it, and `count` cases drawn at random."""
    for case in SCAN_CORNERS:
        yield replace(case, dtype=dtype)
        yield replace(case, dtype=dtype, batch=1, channels=min(case.channels, 19))
    draw = random.Random(f"scan {dtype}")
    for i in range(count):
        yield ScanCase(
            dtype,
            batch=draw.randint(1, 3),
            length=draw.choice([1, 2, 15, 16, 17, 32, 33, 49, draw.randint(1, 80), draw.randint(50, 120)]),
            channels=draw.choice([1, 16, 32, 63, 64, 65, draw.randint(1, 30), draw.randint(1, 140)]),
            states=draw.choice([4, 8, 16, 16, 32, draw.randint(1, 32)]),
            reverse=draw.choice([(False,), (True,), (False, True), (False, True), (True, False), (True, True)]),
            **{name: draw.random() < 0.7 for name in ("softplus", "gate", "skip", "bias")},
            strided=draw.random() < 0.5,
            recompute=draw.random() < 0.5,
            seed=i,
        )


class ScanProblem(NamedTuple):
    directions: list[Direction]
    z: Tensor | None
    softplus: bool
    scale: float
    dout: Tensor

    def double(self) -> ScanProblem:
        directions = [Direction(*(t.double() if isinstance(t, Tensor) else t for t in d)) for d in self.directions]
        z = None if self.z is None else self.z.double()
        return self._replace(directions=directions, z=z, dout=self.dout.double())


def scan_problem(case: ScanCase) -> ScanProblem:
    rng = torch.Generator().manual_seed(case.seed)

    def rows(width: int) -> Tensor:
        t = torch.randn(case.batch, case.length, width, generator=rng)
        return laid_out(t.to(case.dtype), case.strided)

    def vector() -> Tensor:
        return torch.randn(case.channels, generator=rng)

    directions = []
    for reverse in case.reverse:
        delta, delta_bias = rows(case.channels), vector()
        if not case.softplus:  # time steps are positive
            delta, delta_bias = delta.abs_(), delta_bias.abs_()
        directions.append(
            Direction(
                u=rows(case.channels),
                delta=delta,
                A=-torch.exp(torch.randn(case.channels, case.states, generator=rng)),
                B=rows(case.states),
                C=rows(case.states),
                D=vector() if case.skip else None,
                delta_bias=delta_bias if case.bias else None,
                reverse=reverse,
            )
        )
    z = rows(case.channels) if case.gate else None
    return ScanProblem(directions, z, case.softplus, 1.0 / len(directions), rows(case.channels))


def laid_out(t: Tensor, strided: bool) -> Tensor:
    """t, or its values as a part of wider rows and of longer sequences, at an odd address."""
    if not strided:
        return t
    batch, length, width = t.shape
    room = torch.full((batch, length + 1, width + 3), 7.0, dtype=t.dtype)
    room[:, :length, 1 : 1 + width] = t
    return room[:, :length, 1 : 1 + width]


def scan_task(case: ScanCase) -> Task:
    problem = scan_problem(case)
    return Task(lambda: run_scan(problem, recompute=case.recompute), exact_scan(problem))


def run_scan(problem: ScanProblem, *, recompute: bool = False) -> Tensors:
    """Everything that the native functions compute, by name; gradients of fp32 sums before they are cast."""
    directions, z, softplus, scale, dout = problem
    out, states, last = native.scan("cpu", directions, z, softplus, scale, save=not recompute, last=True)
    if recompute:
        states = native.scan_states("cpu", directions, softplus)
    with patch.object(native, "cast_grads", lambda grads, _: grads):
        grads, dz = native.scan_backward("cpu", dout, states, directions, z, softplus, scale)
    return _named(out, last, grads, dz)


def exact_scan(problem: ScanProblem) -> Tensors:
    directions, z, softplus, scale, dout = problem.double()
    out, last = reference.scan_and_states(directions, z, softplus, scale)
    return _named(out, last, *reference.scan_backward(dout, directions, z, softplus, scale))


def _named(out: Tensor, last: Tensor, grads: Sequence[DirectionGrads], dz: Tensor | None) -> Tensors:
    named: dict[str, Tensor | None] = {"out": out, "last": last, "dz": dz}
    for i, g in enumerate(grads):
        named |= {f"{name}.{i}": t for name, t in g._asdict().items()}
    return {name: t for name, t in named.items() if t is not None}


# ---- convolution and norm --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConvCase:
    dtype: torch.dtype = torch.float32
    batch: int = 2
    length: int = 37
    channels: int = 70
    width: int = 4
    bias: bool = True
    strided: bool = False
    seed: int = 0


@dataclass(frozen=True)
class NormCase:
    dtype: torch.dtype = torch.float32
    rows: int = 11
    dim: int = 192
    first: bool = False  # there is no residual yet
    normed_alone: bool = False  # nothing but normed has a gradient
    seed: int = 0


def conv_cases(dtype: torch.dtype, count: int = 40) -> Iterator[ConvCase]:
    corners = (
        ConvCase(length=1, batch=1, channels=1),
        ConvCase(length=2, width=8),
        ConvCase(length=600, channels=32, batch=1),
        ConvCase(length=150, channels=64, strided=True),
        ConvCase(channels=128, length=33),
        ConvCase(width=1),
        ConvCase(width=2, bias=False),
    )
    yield from (replace(case, dtype=dtype) for case in corners)
    draw = random.Random(f"conv {dtype}")
    for i in range(count):
        yield ConvCase(
            dtype,
            batch=draw.randint(1, 3),
            length=draw.choice([1, 3, 16, 17, draw.randint(1, 90)]),
            channels=draw.choice([1, 2, 64, 65, 192, draw.randint(1, 140)]),
            width=draw.choice([4, 4, draw.randint(1, 8)]),
            bias=draw.random() < 0.7,
            strided=draw.random() < 0.5,
            seed=i,
        )


def norm_cases(dtype: torch.dtype, count: int = 40) -> Iterator[NormCase]:
    corners = (
        NormCase(rows=1, dim=1),
        NormCase(rows=40, dim=384),
        NormCase(rows=300, dim=64),
        NormCase(rows=3, dim=768),
        NormCase(rows=2, dim=5001),
        NormCase(rows=2, dim=1023),
        NormCase(rows=18, dim=1024, first=True),
        NormCase(normed_alone=True),
    )
    yield from (replace(case, dtype=dtype) for case in corners)
    draw = random.Random(f"norm {dtype}")
    for i in range(count):
        yield NormCase(
            dtype,
            rows=draw.choice([1, 8, 17, draw.randint(1, 60)]),
            dim=draw.choice([192, 384, 768, 770, draw.randint(1, 900)]),
            first=draw.random() < 0.4,
            normed_alone=draw.random() < 0.4,
            seed=i,
        )


class ConvInputs(NamedTuple):
    forward: tuple[Any, ...]  # of native.bimamba_conv
    backward: tuple[Any, ...]  # of native.bimamba_conv_backward

    @property
    def params(self) -> list[Tensor]:
        return [t for t in self.forward[1:] if t is not None]


def conv_inputs(case: ConvCase) -> ConvInputs:
    rng = torch.Generator().manual_seed(case.seed)
    shape = (case.batch, case.length, case.channels)
    x, du, du_b = (laid_out(torch.randn(shape, generator=rng).to(case.dtype), case.strided) for _ in range(3))
    weight, weight_b = (torch.randn(case.channels, 1, case.width, generator=rng) for _ in range(2))
    bias, bias_b = (torch.randn(case.channels, generator=rng) if case.bias else None for _ in range(2))
    forward = (x, weight, bias, weight_b, bias_b)
    return ConvInputs(forward, (du, du_b, *forward))


def conv_task(case: ConvCase) -> Task:
    forward, backward = conv_inputs(case)

    def named(results: Iterable[Tensor | None]) -> Tensors:
        names = ("u", "u_b", "dx", "dweight", "dbias", "dweight_b", "dbias_b")
        return {name: t for name, t in zip(names, results, strict=True) if t is not None}

    return Task(
        lambda: named((*native.bimamba_conv("cpu", *forward), *native.bimamba_conv_backward("cpu", *backward))),
        named((*reference.bimamba_conv(*_double(forward)), *reference.bimamba_conv_backward(*_double(backward)))),
    )


def norm_task(case: NormCase) -> Task:
    rng = torch.Generator().manual_seed(case.seed)
    shape = (case.rows, case.dim)
    hidden, dnormed = (torch.randn(shape, generator=rng).to(case.dtype) for _ in range(2))
    residual = None if case.first else torch.randn(shape, generator=rng)
    dresidual_out = None if case.normed_alone else torch.randn(shape, generator=rng)
    weight = torch.randn(case.dim, generator=rng)

    def run() -> Tensors:
        forward = native.add_rms_norm("cpu", hidden, residual, weight, 1e-5)
        backward = native.add_rms_norm_backward("cpu", dnormed, dresidual_out, *forward[1:], weight)
        return named((*forward, *backward))

    def exact() -> Tensors:
        hidden64, residual64, dnormed64, dresidual_out64, weight64 = _double(
            (hidden, residual, dnormed, dresidual_out, weight)
        )
        forward = reference.add_rms_norm(hidden64, residual64, weight64, 1e-5)
        backward = reference.add_rms_norm_backward(dnormed64, dresidual_out64, *forward[1:], weight64)
        return named((*forward, *backward))

    def named(results: Iterable[Tensor]) -> Tensors:
        return dict(zip(("normed", "residual_out", "inv_rms", "dresidual", "dweight"), results, strict=True))

    return Task(run, exact())


def _double(tensors: Iterable[Tensor | None]) -> list[Any]:
    return [None if t is None else t.double() for t in tensors]


def few_tasks(dtype: torch.dtype = torch.float32) -> list[Task]:
    """Small, and between them through every kernel and every barrier of hostbuild.MIXED."""
    scans = (
        ScanCase(length=37, channels=65),  # large batch
        ScanCase(length=197, channels=70, batch=1),  # whose first direction's output does not fit in shared memory
        ScanCase(length=35, channels=66, states=32, reverse=(True, True)),
        ScanCase(length=20, channels=130, states=5, reverse=(True,), strided=True, batch=1),
        ScanCase(length=21, channels=64, batch=1),  # rows aligned to packs
        ScanCase(length=40, channels=13, strided=True),  # small batch
        ScanCase(length=40, channels=24, batch=1),
        ScanCase(length=33, channels=7, states=8, reverse=(False,), recompute=True),
        ScanCase(length=1, channels=9, states=32, gate=False, skip=False, bias=False, softplus=False),
        ScanCase(length=150, channels=17),  # chunks
        ScanCase(length=69, channels=11, states=20, reverse=(False, False)),
    )
    convs = (ConvCase(length=150), ConvCase(length=33, channels=65, width=8), ConvCase(length=1, strided=True))
    norms = (NormCase(), NormCase(rows=20, dim=1024), NormCase(rows=3, dim=5001), NormCase(rows=1, dim=1, first=True))
    chosen = ((scan_task, scans), (conv_task, convs), (norm_task, norms))
    return [task_of(replace(case, dtype=dtype)) for task_of, cases in chosen for case in cases]  # type: ignore[operator]
