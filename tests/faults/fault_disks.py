"""Faults of disks and directories."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence

from bench import EQUAL, Bench, Outcome, Row, end
from forks import living
from tracing import traced, wait_until_stopped
from trials import ALONE, command

SKIPPED = "metrics"
"""The part of a result that a fault of metrics.jsonl itself takes away."""


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
    enter = ["setpriv", f"--bounding-set={caps}", f"--inh-caps={caps}"]
    began = time.monotonic()
    done = subprocess.run(bench.outside(place, enter=enter), capture_output=True, text=True, timeout=300)
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


NOT_SAVED = r"checkpoint \S+step_\d+: not saved: "
HOST = re.escape(socket.gethostname())

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
]  # fmt: skip
