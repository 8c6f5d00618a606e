"""Faults of disks, directories and processes: what is done to a run, and what is expected of it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from forks import Child, Forks, living
from tracing import traced, wait_until_stopped
from trials import ALONE, TWO, Kind, command, finish, result, start_ranks, wait_for_save

from vim_train.config.errors import HUNG, LOST

SKIPPED = "metrics"
"""The part of a result that a fault of metrics.jsonl itself takes away."""


@dataclass
class Bench:
    """A server with mounts of its own, a folder in memory that only it sees, and what untouched runs end with.

    Runs start, break and are started again in the same place.
    """

    server: Forks
    folder: Path
    photos: Path
    expected: dict[Kind, dict[str, str]] = field(default_factory=dict)

    def place(self, name: str, options: str = "size=64m") -> Path:
        """A new file system in memory."""
        place = self.folder / re.sub(r"\W+", "-", name)
        self.server.see(place).mkdir()
        if self.server.unshared:
            self.server.mount("-t", "tmpfs", "-o", options, "none", str(place))
        return place

    def start(self, place: Path, *more: str, kind: Kind = ALONE, stopped: bool = False) -> Child:
        return self.server.start(command(place, self.photos, kind, *more), place / "output", stopped=stopped)

    def run(self, place: Path) -> Path:
        return self.server.see(place / "test")

    def wait_for_step(self, place: Path, step: int, child: Child) -> None:
        wait_for_save([child], self.run(place), step)

    def goes_on(self, place: Path, kind: Kind = ALONE, but: Sequence[str] = ()) -> str:
        """Start the run again, now that nothing is in its way: it ends as if nothing had been."""
        codes = finish(start_ranks(self.server, command(place, self.photos, kind), place / "again", kind.ranks[0]))
        if any(codes):
            return f"started again it leaves with {codes}: {last_line(self.server.see(place / 'again').read_text())}"
        return self.compare(place, kind, but)

    def compare(self, place: Path, kind: Kind = ALONE, but: Sequence[str] = ()) -> str:
        if kind not in self.expected:
            whole = self.place(kind.name)
            codes = finish(start_ranks(self.server, command(whole, self.photos, kind), whole / "output", kind.ranks[0]))
            assert not any(codes), self.server.see(whole / "output").read_text()
            self.expected[kind] = result(self.run(whole))
        found, expected = result(self.run(place)), self.expected[kind]
        differing = [name for name in expected if name not in but and found[name] != expected[name]]
        return f"differs in {', '.join(differing)}" if differing else EQUAL


@contextmanager
def open_bench(folder: Path, photos: Path) -> Iterator[Bench]:
    """Without root there are no mounts, and the rows that need them cannot be tried."""
    root = os.geteuid() == 0
    with Forks(unshared=root) as server:
        if root:
            server.mount("-t", "tmpfs", "none", str(folder))
        yield Bench(server, folder, photos)


EQUAL = "equal"


@dataclass(frozen=True)
class Outcome:
    """What came of a fault; `seconds` from the fault, or the start where it was there before, to the end of all."""

    text: str
    code: int
    seconds: float
    orphans: int
    after: str


@dataclass(frozen=True)
class Row:
    """A fault. `line` is a pattern of what is printed about it, `after` how the run stands when the fault is gone."""

    fault: str
    done: str
    line: str
    code: int
    work: Callable[[Bench], Outcome]
    after: str = EQUAL
    needs_root: bool = True


def end(child: Child, began: float) -> tuple[str, int, float, int]:
    """Wait for it: its output, exit code, seconds since `began`, and how many of its processes are left."""
    tree: dict[int, str] = {}
    while child.running:
        tree |= child.tree()
        time.sleep(0.1)
    code, seconds = child.wait(), time.monotonic() - began
    return child.text(), code, seconds, living(tree)


def last_line(text: str) -> str:
    return text.rstrip().rpartition("\n")[2]


# --- disks


def no_room(bench: Bench) -> Outcome:
    place = bench.place("no room", "size=1300k")
    began = time.monotonic()
    ended = end(bench.start(place), began)
    bench.server.mount("-o", "remount,size=64m", str(place))
    return Outcome(*ended, bench.goes_on(place))


def filled_by_others(bench: Bench) -> Outcome:
    place = bench.place("filled", "size=8m")
    child = bench.start(place)
    bench.wait_for_step(place, 4, child)
    began, filler = time.monotonic(), bench.server.see(place / "filler")
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 12))
        except OSError:
            pass
    ended = end(child, began)
    filler.unlink()
    return Outcome(*ended, bench.goes_on(place))


def injected(name: str, file: str, injection: str, but: Sequence[str] = ()) -> Callable[[Bench], Outcome]:
    """The calls on one file of the run fail, and no others."""

    def work(bench: Bench) -> Outcome:
        place = bench.place(name)
        child = bench.start(place, stopped=True)
        wait_until_stopped(child.pid)
        began, call = time.monotonic(), injection.partition(":")[0]
        with traced(child.pid, "-P", str(place / "test" / file), "-e", f"trace={call}", "-e", f"inject={injection}"):
            code = child.wait()
        return Outcome(
            child.text(), code, time.monotonic() - began, living(child.tree()), bench.compare(place, but=but)
        )

    return work


def fsync_fails_for_good(bench: Bench) -> Outcome:
    place = bench.place("fsync")
    child = bench.start(place)
    bench.wait_for_step(place, 4, child)
    began = time.monotonic()
    with traced(child.pid, "-e", "trace=fsync", "-e", "inject=fsync:error=EIO"):
        ended = end(child, began)
    return Outcome(*ended, bench.goes_on(place))


def read_only_at_start(bench: Bench) -> Outcome:
    place = bench.place("read only")
    bench.server.mount("-o", "remount,ro", str(place))
    output = bench.place("read only output") / "output"
    began = time.monotonic()
    ended = end(bench.server.start(command(place, bench.photos, ALONE), output), began)
    bench.server.mount("-o", "remount,rw", str(place))
    return Outcome(*ended, bench.goes_on(place))


def read_only_in_mid_run(bench: Bench) -> Outcome:
    place = bench.place("read only later")
    child = bench.start(place)
    bench.wait_for_step(place, 4, child)
    saved, aside = str(place / "test" / "checkpoints"), str(place / "aside")
    bench.server.see(place / "aside").mkdir()
    bench.server.mount("--bind", saved, aside)
    bench.server.mount("-o", "remount,bind,ro", aside)  # not in its place: a file that is being written keeps it busy
    began = time.monotonic()
    bench.server.mount("--bind", aside, saved)
    ended = end(child, began)
    for mounted in (saved, aside):
        bench.server.mount(mounted, program="umount")
    return Outcome(*ended, bench.goes_on(place))


def no_permission(bench: Bench) -> Outcome:
    """A process of its own: root without the right to pass over modes."""
    place = bench.folder / "no permission"
    bench.server.see(place).mkdir(mode=0o500)
    caps = "-dac_override,-dac_read_search"
    began = time.monotonic()
    done = subprocess.run(
        [
            "nsenter", f"--target={bench.server.pid}", "--mount", "setpriv",
             f"--bounding-set={caps}", f"--inh-caps={caps}", sys.executable, "-m", "vim_train.cli.train",
            *command(place, bench.photos, ALONE),
        ],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    seconds = time.monotonic() - began
    bench.server.see(place).chmod(0o700)
    return Outcome(done.stdout + done.stderr, done.returncode, seconds, 0, bench.goes_on(place))


def no_shared_memory(bench: Bench) -> Outcome:
    place = bench.place("shared memory")
    bench.server.mount("-t", "tmpfs", "-o", "size=64k", "none", "/dev/shm")
    try:
        began = time.monotonic()
        ended = end(bench.start(place, "data.workers=2", "data.img_size=64"), began)
    finally:
        bench.server.mount("/dev/shm", program="umount")
    again = bench.start(place, "data.workers=2", "data.img_size=64", "run.name=again").wait()
    return Outcome(*ended, EQUAL if again == 0 else f"leaves with {again}")


# --- directories


def in_use(bench: Bench) -> Outcome:
    place = bench.place("in use")
    first = bench.start(place)
    bench.wait_for_step(place, 2, first)
    first.send(signal.SIGSTOP)
    began = time.monotonic()
    second = bench.server.start(command(place, bench.photos, ALONE), place / "second")
    ended = end(second, began)
    first.send(signal.SIGCONT)
    assert first.wait() == 0
    assert str(first.pid) in second.text()
    return Outcome(*ended, bench.compare(place))


# --- processes


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


def send_to_rank_1(number: signal.Signals) -> Callable[[Child, dict[int, str]], None]:
    def work(child: Child, tree: dict[int, str]) -> None:
        ranks = [pid for pid in tree if b"\0RANK=1\0" in b"\0" + Path(f"/proc/{pid}/environ").read_bytes()]
        os.kill(min(ranks), number)  # its data workers have the same environment, and were started later

    return work


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


def diverges(bench: Bench) -> Outcome:
    place = bench.place("NaN")
    began = time.monotonic()
    ended = end(bench.start(place, "optim.name=sgd", "optim.lr=1e30", "schedule.warmup_epochs=0"), began)
    return Outcome(*ended, "not tried")


STOPPED = r"{}: saved at step \d+ of 15; the same command goes on from there"
NOT_SAVED = r"checkpoint \S+step_\d+: not saved: "
HOST = re.escape(socket.gethostname())
HANG = "run.hang_timeout_s=5"
LEFT = "another rank has ended or does not answer"

ROWS = [
    Row("disk too small", "tmpfs of 1.3 MB, enlarged afterwards",
        NOT_SAVED + r"it takes [\d,]+ bytes and [\d,]+ are free", 1, no_room),
    Row("disk filled by others", "tmpfs filled at step 4, freed afterwards",
        NOT_SAVED + r"it takes [\d,]+ bytes and [\d,]+ are free", 1, filled_by_others),
    Row("disk full in the middle of a write", "ENOSPC from write(2) on model.safetensors of step 5",
        NOT_SAVED, 0, injected("mid-write", "checkpoints/.tmp-step_00000005/model.safetensors", "write:error=ENOSPC")),
    Row("metrics.jsonl on a full disk", "ENOSPC from write(2) on metrics.jsonl",
        "metrics.jsonl: .*No space left on device", 0,
        injected("metrics", "metrics.jsonl", "write:error=ENOSPC", but=[SKIPPED])),
    Row("fsync fails once", "EIO from fsync(2) on state.pt of step 5",
        NOT_SAVED + ".*Input/output error", 0,
        injected("fsync once", "checkpoints/.tmp-step_00000005/state.pt", "fsync:error=EIO")),
    Row("fsync fails for good", "EIO from every fsync(2) after step 4",
        "could not be written: " + NOT_SAVED + ".*Input/output error", 1, fsync_fails_for_good),
    Row("read-only file system", "tmpfs mounted ro", r"run.root=\S+: cannot use \S+: Read-only file system", 2,
        read_only_at_start),
    Row("read-only in mid-run", "checkpoints/ remounted ro at step 4",
        "could not be written: " + NOT_SAVED + ".*Read-only file system", 1, read_only_in_mid_run),
    Row("no permission", "a folder of mode 0500, root without dac_override",
        r"run.root=.*: cannot use .*: Permission denied", 2, no_permission),
    Row("folder in use", "a second run in it", rf"is in use by process \d+ on {HOST} since \S+; stop that", 2, in_use),
    Row("/dev/shm full", "tmpfs of 64 kB at /dev/shm, data.workers=2", "no shared memory left for the data workers", 1,
        no_shared_memory),
    Row("loss not finite", "optim.lr=1e30", "stopped: loss .* no update was made", 3, diverges, after="not tried",
        needs_root=False),
    *(Row(f"{number.name} to rank {rank} of 2", "kill at step 2", STOPPED.format(number.name), code,
          signalled_rank(number, rank), needs_root=False)
      for number, code in ((signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGHUP, 143), (signal.SIGINT, 130))
      for rank in (0, 1)),
    Row("a rank killed, no launcher", "kill -9 of rank 1 at step 2", LEFT, LOST, killed_rank_alone, needs_root=False),
    *(Row(f"{number.name} to the launcher", "kill at step 2, gpus=2", STOPPED.format(number.name), code,
          launched(number.name, send(number)), needs_root=False)
      for number, code in ((signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGHUP, 143), (signal.SIGINT, 130))),
    Row("the launcher killed", "kill -9 at step 2, gpus=2", STOPPED.format("SIGHUP"), -signal.SIGKILL,
        launched("launcher killed", send(signal.SIGKILL)), needs_root=False),
    Row("a rank killed", "kill -9 of rank 1 at step 2, gpus=2",
        "vim-train: rank 1 was killed by SIGKILL; the others end", 128 + signal.SIGKILL,
        launched("rank killed", send_to_rank_1(signal.SIGKILL)), needs_root=False),
    Row("a rank stopped", f"SIGSTOP to rank 1 at step 2, gpus=2, {HANG}",
        r"vim-train: rank 1 stopped for 5 s \(run.hang_timeout_s\), last seen in \w+ at step \d+; stacks: ", HUNG,
        launched("rank stopped", send_to_rank_1(signal.SIGSTOP), HANG), needs_root=False),
    Row("a data worker killed", "kill -9 at step 2, data.workers=1", r"a data worker died \(out of memory\?\) at ", 1,
        send_to_worker(signal.SIGKILL), needs_root=False),
    Row("a data worker stopped", f"SIGSTOP at step 2, data.workers=1, {HANG}",
        "(the data workers gave nothing|the run hung) for 5 s", HUNG, send_to_worker(signal.SIGSTOP), needs_root=False),
]  # fmt: skip


def shown(row: Row, outcome: Outcome) -> list[str]:
    """The row of the table: the last line printed that says it, without where it was."""
    said = [line for line in outcome.text.splitlines() if re.search(row.line, line)]
    line = re.sub(r"/\S*/(?=test\b)", "…/", said[-1] if said else f"NOT SAID; {last_line(outcome.text)}")
    return [row.fault, row.done, line, str(outcome.code), f"{outcome.seconds:.1f}", str(outcome.orphans), outcome.after]


HEADS = ["fault", "what was done", "line printed", "exit code", "seconds", "orphans", "started again"]
