"""Bytes of global memory that the kernels load and store, counted as they run on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import hostcases
import torch
from hostcases import ConvCase, ScanCase
from hostrun import TracedLibrary, serving
from torch import Tensor

from vim_train.ops import native

SHAPE = {"batch": 1, "length": 197, "channels": 192}  # of a picture of 224 pixels; channels fill all blocks
ELEMENTS = SHAPE["batch"] * SHAPE["length"] * SHAPE["channels"]

# What torch's matrix products around the scan move at the least, in bytes of a token-channel, by counting them.
PROJECTIONS = {
    "forward": 8,  # x_proj reads u and u_b, dt_proj writes delta and delta_b
    "backward": 20,  # ddelta is read for dt_proj's input and weight, u for x_proj's weight; du is added to
}


class Traffic(NamedTuple):
    """Bytes of a token-channel: one step of one channel, both directions together."""

    loaded: float
    stored: float
    distinct: float  # of both: the least that memory moves, where caches serve what a kernel loads again
    shared: float  # loaded and stored besides, of B, C and parameters, which serve many channels or steps

    @property
    def total(self) -> float:
        return self.loaded + self.stored


def traffic_of(library: TracedLibrary) -> dict[str, Traffic]:
    """By kernel, in bf16."""
    scan = hostcases.scan_problem(ScanCase(torch.bfloat16, **SHAPE, states=16))
    directions, z, softplus, scale, dout = scan
    shared = [t for d in directions for t in (d.A, d.B, d.C, d.D, d.delta_bias) if t is not None]
    conv = hostcases.conv_inputs(ConvCase(torch.bfloat16, **SHAPE))
    found = {}

    def measure(name: str, run: Callable[[], object], shared: list[Tensor]) -> object:
        library.trace(shared)
        result = run()
        own, *others = (library.bytes_of(i) for i in range(-1, len(shared)))
        found[name] = Traffic(*(n / ELEMENTS for n in (*own, sum(b.loaded + b.stored for b in others))))
        return result

    with serving(library):
        measure("conv forward", lambda: native.bimamba_conv("cpu", *conv.forward), conv.params)
        _, states, _ = measure(
            "scan forward", lambda: native.scan("cpu", directions, z, softplus, scale, save=True, last=False), shared
        )
        measure("scan backward", lambda: native.scan_backward("cpu", dout, states, *scan[:4]), shared)
        measure("conv backward", lambda: native.bimamba_conv_backward("cpu", *conv.backward), conv.params)
    return found
