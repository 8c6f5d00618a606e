"""Faults of ranks, launchers and data workers: signals and deaths."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from bench import STOPPED, Bench, Outcome, Row
from forks import Child, living
from trials import TWO, command, start_ranks

from vim_train.config.errors import HUNG, LOST

HANG = "run.hang_timeout_s=5"


def signalled_rank(number: signal.Signals, rank: int) -> Callable[[Bench], Outcome]:
    """Two ranks, one of which gets the signal."""

    def work(bench: Bench) -> Outcome:
        place = bench.place(f"{number.name} to rank {rank}")
        children = start_ranks(bench.server, command(place, bench.photos, TWO), place / "output", 2)
        bench.wait_for_step(place, 2, children[0])
        trees = [child.tree() for child in children]
        began = time.monotonic()
        children[rank].send(number)
        codes = [child.wait() for child in children]
        seconds = time.monotonic() - began
        assert codes[0] == codes[1]
        return Outcome(children[0].text(), codes[0], seconds, sum(map(living, trees)), bench.goes_on(place, TWO))

    return work


def killed_rank_alone(bench: Bench) -> Outcome:
    """Without a launcher that ends the others: they find out by themselves."""
    place = bench.place("dead rank without launcher")
    children = start_ranks(bench.server, command(place, bench.photos, TWO), place / "output", 2)
    bench.wait_for_step(place, 2, children[0])
    trees = [child.tree() for child in children]
    began = time.monotonic()
    children[1].send(signal.SIGKILL)
    code, seconds = children[0].wait(), time.monotonic() - began
    return Outcome(children[0].text(), code, seconds, sum(map(living, trees)), bench.goes_on(place, TWO))


def launched(name: str, fault: Callable[[Child, dict[int, str]], None], *more: str) -> Callable[[Bench], Outcome]:
    """Two ranks under gpus=2, whose launcher is a child of the server."""

    def work(bench: Bench) -> Outcome:
        place = bench.place(name)
        child = bench.start(place, "gpus=2", *more, kind=TWO)
        bench.wait_for_step(place, 2, child)
        tree = child.tree()
        began = time.monotonic()
        fault(child, tree)
        code = child.wait()
        orphans = living(tree)
        return Outcome(child.text(), code, time.monotonic() - began, orphans, bench.goes_on(place, TWO))

    return work


def send(number: signal.Signals) -> Callable[[Child, dict[int, str]], None]:
    return lambda child, tree: child.send(number)


def rank_of(tree: dict[int, str], rank: int) -> int:
    """Its data workers have the same environment, and were started later."""
    mark = f"\0RANK={rank}\0".encode()
    return min(pid for pid in tree if mark in b"\0" + Path(f"/proc/{pid}/environ").read_bytes())


def send_to_rank_1(number: signal.Signals) -> Callable[[Child, dict[int, str]], None]:
    return lambda child, tree: os.kill(rank_of(tree, 1), number)


def ask_twice(child: Child, tree: dict[int, str]) -> None:
    """Ranks that wait for a data worker which is stopped never come to the edge of a step."""
    ranks = [rank_of(tree, 0), rank_of(tree, 1)]
    for pid in tree.keys() - {child.pid, *ranks}:
        os.kill(pid, signal.SIGSTOP)
    child.send(signal.SIGTERM)
    while any(_catches(pid, signal.SIGTERM) for pid in ranks):
        time.sleep(0.01)
    child.send(signal.SIGTERM)


def _catches(pid: int, number: signal.Signals) -> bool:
    caught = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def send_to_worker(number: signal.Signals) -> Callable[[Bench], Outcome]:
    """The only data worker of a run gets the signal."""

    def work(bench: Bench) -> Outcome:
        place = bench.place(f"{number.name} to a worker")
        child = bench.start(place, "data.workers=1", HANG)
        bench.wait_for_step(place, 2, child)
        tree = child.tree()
        began = time.monotonic()
        os.kill(max(tree), number)
        code = child.wait()
        return Outcome(child.text(), code, time.monotonic() - began, living(tree), bench.goes_on(place))

    return work


ASKED = [(signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGHUP, 143), (signal.SIGINT, 130)]

ROWS = [
    *(Row(f"{number.name} to rank {rank} of 2", "kill at step 2", STOPPED.format(number.name), code,
          signalled_rank(number, rank), needs_root=False)
      for number, code in ASKED for rank in (0, 1)),
    Row("a rank killed, no launcher", "kill -9 of rank 1 at step 2", "another rank has ended or does not answer", LOST,
        killed_rank_alone, needs_root=False),
    *(Row(f"{number.name} to the launcher", "kill at step 2, gpus=2", STOPPED.format(number.name), code,
          launched(number.name, send(number)), needs_root=False)
      for number, code in ASKED),
    Row("SIGTERM twice", "kill at step 2, gpus=2, both data workers stopped",
        "left at once, as SIGTERM came again", 143,
        launched("asked twice", ask_twice), needs_root=False),
    Row("the launcher killed", "kill -9 at step 2, gpus=2", STOPPED.format("the launcher has gone"), -signal.SIGKILL,
        launched("launcher killed", send(signal.SIGKILL)), needs_root=False),
    Row("a rank killed", "kill -9 of rank 1 at step 2, gpus=2",
        "vim-train: rank 1 was killed by SIGKILL; the others end", 128 + signal.SIGKILL,
        launched("rank killed", send_to_rank_1(signal.SIGKILL)), needs_root=False),
    Row("a rank stopped", f"SIGSTOP to rank 1 at step 2, gpus=2, {HANG}",
        r"vim-train: rank 1 stopped for 5 s \(run.hang_timeout_s\), last seen in \w+ at step \d+; stacks: ", HUNG,
        launched("rank stopped", send_to_rank_1(signal.SIGSTOP), HANG), needs_root=False),
    Row("a data worker killed", "kill -9 at step 2, data.workers=1",
        r"a data worker died \(out of memory\?\) (at|between) ", 1, send_to_worker(signal.SIGKILL), needs_root=False),
    Row("a data worker stopped", f"SIGSTOP at step 2, data.workers=1, {HANG}",
        "(the data workers gave nothing|the run hung) for 5 s", HUNG, send_to_worker(signal.SIGSTOP), needs_root=False),
]  # fmt: skip
