"""Faults of numbers and of bits: steps that are not finite, memory and files that change by themselves."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

from bench import Bench, Outcome, Row, end, newest
from fault_processes import rank_of
from forks import living
from safetensors.torch import load_file
from trials import TWO

DIVERGES = ("optim.name=sgd", "optim.lr=1e30", "schedule.warmup_epochs=0")


def diverges(bench: Bench) -> Outcome:
    place = bench.place("NaN")
    began = time.monotonic()
    ended = end(bench.start(place, *DIVERGES), began)
    return Outcome(*ended, "not tried")


def diverges_and_skips(bench: Bench) -> Outcome:
    place = bench.place("NaN skipped")
    began = time.monotonic()
    ended = end(bench.start(place, *DIVERGES, "optim.non_finite=skip", "optim.non_finite_max=3"), began)
    assert ended[0].count("update skipped: loss ") == 2
    return Outcome(*ended, "not tried")


def replayed(bench: Bench) -> Outcome:
    """The step that stopped a run, by the command that the run gave."""
    place = bench.place("NaN again")
    child = bench.start(place, *DIVERGES)
    child.wait()
    (told,) = re.findall(r"vim-train (replay=\S+) computes step", child.text())
    began = time.monotonic()
    ended = end(bench.server.start([told, "device=cpu"], place / "replayed"), began)
    return Outcome(*ended, "not tried")


def bit_flipped_in_memory(bench: Bench) -> Outcome:
    """In the weights of one rank; its memory is found by what the newest checkpoint holds."""
    place = bench.place("bit in memory")
    child = bench.start(place, "gpus=2", "run.drift_every=1st", kind=TWO)
    bench.wait_for_step(place, 2, child)
    tree = child.tree()
    while not _flip(rank_of(tree, 1), bench.run(place)):
        assert child.running, child.text()
    began = time.monotonic()
    code = child.wait()
    orphans = living(tree)
    return Outcome(child.text(), code, time.monotonic() - began, orphans, bench.goes_on(place, TWO))


def _flip(pid: int, run: Path) -> bool:
    """Flip a bit wherever a process holds the newest checkpoint's head; False where it has gone on to other weights."""
    os.kill(pid, signal.SIGSTOP)
    try:
        weights = load_file(newest(run) / "model.safetensors")["head.weight"]
        wanted, flipped = weights.numpy().tobytes()[:64], False
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            for begin, end_ in _writable(pid):
                memory.seek(begin)
                try:
                    held = memory.read(end_ - begin)
                except OSError:
                    continue
                at = held.find(wanted)
                while at >= 0:
                    memory.seek(begin + at + 2)
                    memory.write(bytes([held[at + 2] ^ 0x10]))
                    at, flipped = held.find(wanted, at + 1), True
        return flipped
    finally:
        os.kill(pid, signal.SIGCONT)


def _writable(pid: int) -> list[tuple[int, int]]:
    """Its private memory that belongs to no file."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, mode, _, _, inode, *_ = line.split()
        if mode == "rw-p" and inode == "0":
            begin, _, end_ = span.partition("-")
            found.append((int(begin, 16), int(end_, 16)))
    return found


def bit_flipped_on_disk(bench: Bench) -> Outcome:
    place = bench.place("bit on disk")
    first = bench.start(place)
    bench.wait_for_step(place, 4, first)
    first.send(signal.SIGTERM)
    assert first.wait() == 143, first.text()
    file = newest(bench.run(place)) / "ema.safetensors"
    held = bytearray(file.read_bytes())
    held[-100] ^= 1
    file.write_bytes(held)
    began = time.monotonic()
    ended = end(bench.start(place), began)
    return Outcome(*ended, bench.compare(place))


ROWS = [
    Row("loss not finite", "optim.lr=1e30", "stopped: loss .* no update was made", 3, diverges, after="not tried",
        needs_root=False),
    Row("loss not finite, skipped", "optim.lr=1e30, optim.non_finite=skip, optim.non_finite_max=3",
        "stopped: loss .* 3 updates in a row were skipped", 3, diverges_and_skips, after="not tried", needs_root=False),
    Row("the step replayed", "vim-train replay=FILE, as the run said", "^replayed: loss .*: the same$", 0, replayed,
        after="not tried", needs_root=False),
    Row("a bit flips in the memory of a rank", "written to /proc/PID/mem of rank 1, gpus=2, run.drift_every=1st",
        r"stopped: ranks 0 and 1 hold different weights at step \d+: ", 1, bit_flipped_in_memory),
    Row("a bit flips in a checkpoint", "the newest, of a run that SIGTERM stopped", r"passed over \S+step_\d+: ", 0,
        bit_flipped_on_disk, needs_root=False),
]  # fmt: skip
