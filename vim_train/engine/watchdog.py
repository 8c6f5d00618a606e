"""Ends a run that hangs, and says which rank hangs, where, with the stacks of all threads.

The main thread counts the phases and exchanges it enters. A second thread watches that count: one that stands still for
`run.hang_timeout_s` is a hang, whatever the main thread is blocked in. Ranks tell each other their counts through the
launcher's store. All enter the same phases in the same order, so the one that hangs is the one with the lowest count:
the others wait for it in an exchange. One whose process does not run at all (SIGSTOP) tells nothing new.
"""

import faulthandler
import json
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from vim_train.config.errors import HUNG, HungError

FOLDER = "stacks"
"""Of the run: what the threads of each rank were at when the run was ended."""

_TICK_S = 0.5
_PATIENCE_S = 1.5
"""Beyond the limit: waiting for data has the same one, and can name the image."""
_LAST_WORDS_S = 1.0
"""Between the verdict and the end, for the stacks of all ranks."""
_SILENT_TICKS = 4
_STORE_S = 5.0


@dataclass
class Heart:
    """What the main thread is at; it alone writes here."""

    count: int = 0
    """Phases and exchanges entered so far: the same ones in all ranks."""
    phase: str = "start"
    step: int = 0
    ending: threading.Event = field(default_factory=threading.Event)

    def beat(self, phase: str, step: int) -> None:
        """Enter a phase."""
        self.phase, self.step = phase, step
        self.count += 1

    def exchange(self) -> None:
        """Enter an exchange between ranks."""
        self.count += 1

    def hold(self) -> None:
        """Say nothing of others that have gone when the watchdog is about to end this process too."""
        if self.ending.is_set():
            time.sleep(60)


@dataclass(frozen=True)
class Pulse:
    """What a rank tells the others."""

    count: int
    phase: str
    step: int
    tick: int
    """Grows as long as the process runs."""
    pid: int
    where: str
    """The machine, and the namespace in which `pid` means something."""


@dataclass(frozen=True)
class Verdict:
    """The line that ends a run, by the rank that says it; `stopped` are ranks whose processes do not run."""

    line: str
    by: int
    stopped: list[int]


def judge(pulses: Mapping[int, Pulse], stopped: Sequence[int]) -> tuple[list[int], str]:
    """Which ranks hang, and at what: those that stand still, else those that are furthest behind."""
    lowest = min(pulse.count for pulse in pulses.values())
    ranks = list(stopped) or [rank for rank, pulse in sorted(pulses.items()) if pulse.count == lowest]
    pulse = pulses[ranks[0]]
    return ranks, f"{pulse.phase} at step {pulse.step}"


class Watchdog:
    """Watches `heart` while the context lasts. Does nothing without a limit.

    A HungError that leaves the context ends the run in the same way.

    Args:
        limit_s: seconds a phase may take; None: any number.
        run_dir: where the stacks go, beside standard error.
    """

    def __init__(self, heart: Heart, rank: int, world: int, limit_s: float | None, run_dir: Path) -> None:
        self._heart, self._rank, self._world, self._limit_s, self._run_dir = heart, rank, world, limit_s, run_dir
        self._tick_s = _TICK_S if limit_s is None else min(_TICK_S, limit_s / 4)
        self._over = threading.Event()
        self._board = _Board(heart, rank, world, self._tick_s, self._over)

    def __enter__(self) -> None:
        if self._limit_s is not None:
            self._heart.beat("start", self._heart.step)
            if self._world > 1:
                threading.Thread(target=self._board.run, daemon=True, name="board").start()
            threading.Thread(target=self._watch, args=(self._limit_s,), daemon=True, name="watchdog").start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, HungError) and self._limit_s is not None:
            self._end(self._agreed(f"{self._who([self._rank])}: {error}", []), error.stacks)
        self._heart.hold()
        self._over.set()

    def _watch(self, limit_s: float) -> None:
        age, seen, last = 0.0, -1, time.monotonic()
        while not self._over.wait(self._tick_s):
            now = time.monotonic()
            # A process that was stopped and goes on (Ctrl-Z, scontrol suspend) has not hung meanwhile.
            age = age + min(now - last, 2 * self._tick_s) if self._heart.count == seen else 0.0
            seen, last = self._heart.count, now
            self._board.wanted = age > limit_s / 2
            if self._board.verdict is not None:
                self._end(self._board.verdict)
            if age > limit_s + _PATIENCE_S:
                self._end(self._agreed(*self._judge(limit_s)))

    def _judge(self, limit_s: float) -> tuple[str, list[int]]:
        pulses, stopped = {**self._board.pulses, self._rank: self._board.own()}, self._board.stopped()
        ranks, at = judge(pulses, stopped)
        how, at = ("stopped", f"last seen in {at}") if stopped else ("hung", f"in {at}")
        if len(pulses) < self._world:
            ranks, at = [self._rank], f"{at} (the others do not tell)"
        since = f"for {limit_s:g} s (run.hang_timeout_s)"
        return f"{self._who(ranks)} {how} {since}, {at}; stacks: {self._run_dir / FOLDER}", stopped

    def _who(self, ranks: Sequence[int]) -> str:
        if self._world == 1:
            return "the run"
        return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"

    def _agreed(self, line: str, stopped: list[int]) -> Verdict:
        """The first verdict of all that ranks come to."""
        own = Verdict(line, self._rank, stopped)
        return self._board.settle(own) if self._world > 1 else own

    def _end(self, verdict: Verdict, more: str = "") -> None:
        """Write down the stacks and leave. The disk may be what hangs, and gets no more time than the others."""
        self._heart.ending.set()
        until = time.monotonic() + _LAST_WORDS_S
        text = f"vim-train: rank {self._rank}, {self._heart.phase} at step {self._heart.step}\n{_stacks()}{more}"
        _say(text)
        writer = threading.Thread(target=self._write, args=(f"{verdict.line}\n{text}",), daemon=True)
        writer.start()
        time.sleep(max(0.0, until - time.monotonic()))
        if verdict.by == self._rank:
            _say(f"vim-train: {verdict.line}\n")
        for child in multiprocessing.active_children():
            child.kill()
        if "TORCHELASTIC_RUN_ID" in os.environ:  # else our own launcher does it
            self._board.kill(verdict.stopped)
        os._exit(HUNG)

    def _write(self, text: str) -> None:
        with suppress(OSError):
            folder = self._run_dir / FOLDER
            folder.mkdir(exist_ok=True)
            (folder / f"rank_{self._rank}.txt").write_text(text)


class _Board:
    """What ranks tell each other; a thread of its own asks the store, which may not answer."""

    def __init__(self, heart: Heart, rank: int, world: int, tick_s: float, over: threading.Event) -> None:
        self._heart, self._rank, self._world, self._tick_s, self._over = heart, rank, world, tick_s, over
        self._where, self._ticks = _where(), 0
        self._unchanged: dict[int, int] = {}
        self._proposed: Verdict | None = None
        self.wanted = False
        """Whether the others' pulses are to be read."""
        self.pulses: dict[int, Pulse] = {}
        self.verdict: Verdict | None = None

    def own(self) -> Pulse:
        heart = self._heart
        return Pulse(heart.count, heart.phase, heart.step, self._ticks, os.getpid(), self._where)

    def stopped(self) -> list[int]:
        """Ranks that have told nothing new for some time."""
        return sorted(rank for rank, ticks in self._unchanged.items() if ticks >= _SILENT_TICKS)

    def settle(self, own: Verdict) -> Verdict:
        """Propose `own`; returns the verdict of the rank that was first."""
        self._proposed = own
        deadline = time.monotonic() + _LAST_WORDS_S
        while self.verdict is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.verdict or own

    def kill(self, ranks: Sequence[int]) -> None:
        """Kill those of `ranks` that run on this machine."""
        for pulse in (self.pulses[rank] for rank in ranks if rank in self.pulses):
            if pulse.where == self._where:
                with suppress(OSError):
                    os.kill(pulse.pid, signal.SIGKILL)

    def run(self) -> None:
        with suppress(RuntimeError):  # the launcher has gone, and we go with it
            store = _open_store()
            while not self._over.is_set():
                self._turn(store)
                until = time.monotonic() + self._tick_s
                while time.monotonic() < until and (self._proposed is None or self.verdict is not None):
                    if self._over.wait(0.05):
                        return

    def _turn(self, store: Store) -> None:
        self._ticks += 1
        store.set(str(self._rank), json.dumps(asdict(self.own())))
        if self._proposed is not None:
            self.verdict = _verdict(store.compare_set("verdict", "", json.dumps(asdict(self._proposed))))
        elif store.check(["verdict"]):
            self.verdict = _verdict(store.get("verdict"))
        others = [rank for rank in range(self._world) if rank != self._rank]
        if (self.wanted or self.verdict is not None) and store.check([str(rank) for rank in others]):
            for rank, text in zip(others, store.multi_get([str(rank) for rank in others]), strict=True):
                self._read(rank, Pulse(**json.loads(text)))
        elif not self.wanted:
            self._unchanged.clear()

    def _read(self, rank: int, pulse: Pulse) -> None:
        before = self.pulses.get(rank)
        same = before is not None and before.tick == pulse.tick
        self._unchanged[rank] = self._unchanged.get(rank, 0) + 1 if same else 0
        self.pulses[rank] = pulse


def _open_store() -> Store:
    """A connection of our own: the process group's may be blocked by whoever waits for a key."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    opened = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=_STORE_S))
    return PrefixStore(f"watchdog/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", opened)


def _verdict(text: bytes) -> Verdict:
    return Verdict(**json.loads(text))


def _where() -> str:
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {os.getpid()}"  # nobody else's


def _stacks() -> str:
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")


def _say(text: str) -> None:
    with suppress(OSError):
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, text.encode())
