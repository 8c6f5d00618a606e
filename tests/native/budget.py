"""What an element costs in the scan kernels: the instructions that a thread issues for it.

An element is one step of one channel in one direction. The scans are bound by instruction issue, so their time goes
with this number.

How it is counted. A scan kernel is a loop over windows of 16 steps, with everything in it: loads, staging of B and C,
softplus, recurrence, reductions, gate, stores. Of the ways through one turn of this loop, in its machine code, the
longest is taken: every instruction on it counts, those too whose predicate is off, and inner loops times their number
of turns. Where two arms exclude each other (a whole window and the sequence's last, the first visit to a window and the
second), the dearer counts for all windows, so that the figure is an upper bound. It is divided by the elements that a
thread has in a window: 16 where it has a channel to itself, fewer where it shares one. What lies outside of the window
loop is done once for a sequence or a chunk, and is not counted.

The number of turns of an inner loop is that which gives a window its exponentials: for a thread, one for each step and
each state it has, in every loop that goes through the states (the backward pass goes through them twice). It cannot be
misread far: softplus and gate add few. A loop with few exponentials a turn or none goes from element to element, where
tensors are not aligned to packs of several; this way is not taken, and where there is no other there is no figure.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product

from hostbuild import Edit, edited, only
from sass import ARCHS, Flow, Kernel, compile_kernels

WINDOW = 16  # steps
_OF_ELEMENTS = 8  # fewer exponentials than this a turn has a loop over elements, more one over states


@dataclass(frozen=True)
class Scan:
    """A scan kernel for 16 states, in bf16."""

    title: str
    name: str  # as a pattern
    channels: int  # of a thread
    states: int  # of each of them that it has
    passages: float  # through the states; the first of the backward pass ends before a window's last tile, of four
    limit: int | None  # of instructions an element

    @property
    def decays(self) -> int:
        """Exponentials of a window in one passage through the states."""
        return WINDOW * self.channels * self.states

    @property
    def elements(self) -> float:
        return WINDOW * self.channels * self.states / 16


SCANS = (
    Scan("forward, large batch", r"scan_forward_kernel<bf16, .*\b16, true>", 1, 16, 1.0, 200),
    Scan("forward, small batch", r"scan_forward_kernel<bf16, .*\b16, false>", 1, 4, 1.0, None),
    Scan("backward, large batch", r"scan_backward_kernel<bf16, .*\b16, true>", 2, 4, 1.75, 600),
    Scan("backward, small batch", r"scan_backward_kernel<bf16, .*\b16, false>", 1, 4, 1.75, None),
)


@dataclass(frozen=True)
class Cost:
    """What a window costs a thread."""

    scan: Scan
    kernel: Kernel
    opcodes: Counter[str]

    def per_element(self, pattern: str = "") -> float:
        """Instructions whose opcode begins so."""
        return sum(n for opcode, n in self.opcodes.items() if re.match(pattern, opcode)) / self.scan.elements


def compile_all(*edits: Edit) -> list[Kernel]:
    """Every kernel for every architecture; see hostbuild.only() for fewer."""
    sources = sorted((edited(edits) / "cuda").glob("*.cu"), key=lambda path: -path.stat().st_size)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [pool.submit(compile_kernels, source, arch) for source, arch in product(sources, ARCHS)]
        return [kernel for job in jobs for kernel in job.result()]


def costs(kernels: Iterable[Kernel]) -> list[Cost]:
    return [
        Cost(scan, kernel, window_loop(kernel, scan.decays))
        for scan in SCANS
        for kernel in kernels
        if re.match(scan.name, kernel.name)
    ]


def window_loop(kernel: Kernel, decays: int) -> Counter[str]:
    """The opcodes of the longest way through the window loop: the outermost loop with the most exponentials.

    Raises:
        ValueError: the code cannot be read; the message says why.
    """
    flow = Flow(kernel.instructions)

    def turns_of(turn: Counter[str]) -> int | None:
        return None if turn["MUFU.EX2"] < _OF_ELEMENTS else max(1, round(decays / turn["MUFU.EX2"]))

    loop = max(flow.loops(flow.blocks), key=lambda loop: flow.count(loop)["MUFU.EX2"])
    if loop & flow.calls:
        raise ValueError(f"{kernel.name}: a function is called in the window loop")
    turn = flow.one_turn(loop, turns_of)
    if turn is None:
        raise ValueError(f"{kernel.name}: no way through the window loop but from element to element")
    return turn


def table(costs: Iterable[Cost]) -> str:
    columns = {
        "instructions": "",
        "EX2": r"MUFU\.EX2",
        "MUFU": "MUFU",
        "FFMA…": "F(FMA|MUL|ADD)",
        "SHFL": "SHFL",
        "LDS/STS": "LDS|STS",
        "LDG/STG": "LDG|STG",
        "BAR": "BAR",
    }
    rows = [("kernel, 16 states, bf16", "arch", "registers", "spills", *columns)]
    for cost in costs:
        kernel = cost.kernel
        numbers = (f"{cost.per_element(pattern):.1f}" for pattern in columns.values())
        rows.append((cost.scan.title, f"sm_{kernel.arch}", str(kernel.registers), f"{kernel.spill_bytes} B", *numbers))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip() for row in rows)


if __name__ == "__main__":
    print(table(costs(compile_all(*only("bf16")))))
