"""Barriers are enough, and none is for nothing.

Enough: no two threads touch the same memory, one of them storing, without a barrier between (host/trace.cpp sees every
load and store). For nothing: when any one barrier is taken away, the same runs go wrong. Threads race, results change
with the order of threads, or threads wait for ever.
"""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hostbuild import CSRC
from hostcases import Task, Tensors, few_tasks
from hosterrors import same_bits
from hostrun import ORDERS, TracedLibrary, serving


class Barrier(NamedTuple):
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def barriers() -> list[Barrier]:
    """Every one in the kernels' source."""
    call = re.compile(r"^[^/]*\b__sync(threads|warp)\(")
    return [
        Barrier(path.name, number)
        for path in sorted((CSRC / "cuda").glob("*.cu*"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if call.search(line)
    ]


# Those that may go unmissed, and why they stand all the same.
JUSTIFIED: dict[Barrier, str] = {}


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return few_tasks()


def fault(library: TracedLibrary, tasks: list[Task], wanted: list[Tensors]) -> str | None:
    """What goes wrong, or None."""
    for task, want in zip(tasks, wanted, strict=True):
        for order in ORDERS:
            library.set_order(order, seed=1)
            library.trace()
            try:
                got = task.run()
            except RuntimeError as error:
                return str(error)
            if race := library.race():
                return race
            if not same_bits(got, want):
                return f"other bits in order {order}"
    return None


def in_child(run: Callable[[], str | None]) -> str | None:
    """What run() returns, in a forked process: kernels without a barrier may follow pointers to anywhere."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=lambda: sender.send(run()))
    child.start()
    child.join(timeout=120)
    if child.is_alive():
        child.kill()
        return "it does not end"
    return receiver.recv() if child.exitcode == 0 else f"the process dies of signal {-(child.exitcode or 0)}"


def faults_without(library: TracedLibrary, tasks: list[Task]) -> dict[Barrier, str | None]:
    """What goes wrong without each barrier that the runs come by; None: nothing."""
    found = {}
    with serving(library):
        wanted = [task.run() for task in tasks]
        assert (wrong := fault(library, tasks, wanted)) is None, f"with all barriers: {wrong}"
        for barrier in barriers():
            if library.passed_barrier(*barrier):
                with library.without_barrier(*barrier):
                    found[barrier] = in_child(lambda: fault(library, tasks, wanted))
    return found


def test_no_two_threads_race(traced_library: TracedLibrary, tasks: list[Task]) -> None:
    with serving(traced_library):
        assert fault(traced_library, tasks, [task.run() for task in tasks]) is None


def test_every_barrier_is_missed(traced_library: TracedLibrary, tasks: list[Task]) -> None:
    found = faults_without(traced_library, tasks)
    assert [str(b) for b in barriers() if b not in found] == [], "the runs do not come by these"
    assert [str(b) for b, wrong in found.items() if wrong is None and b not in JUSTIFIED] == []
    assert [str(b) for b in JUSTIFIED if found.get(b)] == [], "missed all the same"
