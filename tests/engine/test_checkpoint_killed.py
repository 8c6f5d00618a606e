"""kill -9 at any moment of a save: a whole checkpoint is there, never an older one than before the save."""

import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from saving import holds, names, save, spawn, wait

from vim_train.engine import durable
from vim_train.engine.checkpoint import CheckpointError, latest

KILLED = -signal.SIGKILL
SIZE = 3000
"""Rows of the larger checkpoints here: 192 kB a tensor."""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where possible: the page cache survives a kill on any file system, and many saves take less time."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as path:
        yield Path(path)


@pytest.fixture(params=["3 is new", "3 is damaged"])
def before(request: pytest.FixtureRequest, folder: Path) -> Path:
    """A run with steps 1 and 2, of which 1 is the best, and possibly a damaged 3."""
    run = folder / "before"
    save(run, 1, best=True)
    save(run, 2)
    if request.param == "3 is damaged":
        (save(run, 3, keep=3) / "state.pt").write_bytes(b"")
    return run


def copy(before: Path) -> Path:
    run = before.with_name("run")
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(before, run)
    return run


def save_3(run: Path) -> None:
    save(run, 3, best=True)


def assert_nothing_lost(run: Path) -> None:
    """After death in `save_3`: 2 or 3 is the newest, 1 or 3 the best, before and after the leftovers are cleared."""
    folder = run / "checkpoints"
    for cleared in (False, True):
        if cleared:
            durable.sweep(folder)
            assert_tidy(run)
        found = latest(run)
        assert found is not None
        assert found.step in (2, 3)
        assert holds(found.path, found.step)
        for each in found.passed_over:
            assert each.reason.startswith("state.pt has 0 bytes")  # as it was before; no half of a save is ever seen
        best = folder / "best"
        if not (cleared or best.exists()):
            best = folder / ".old-best"  # where directories cannot be exchanged, until the next start
        assert holds(best, 1) or holds(best, 3)
    save_3(run)  # the resumed run comes by here again
    assert holds(folder / "step_00000003", 3)
    assert holds(folder / "best", 3)
    assert_tidy(run)


def assert_tidy(run: Path) -> None:
    assert [name for name in names(run) if name.startswith(".")] == []


def die_before_call(number: int, patch: pytest.MonkeyPatch) -> None:
    """Let this process die as by kill -9 instead of the call of that number among those that change the disk."""
    left = number

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapper

    for name in ("fsync", "rename", "replace", "link", "mkdir", "rmdir", "unlink"):
        patch.setattr(os, name, counted(getattr(os, name)))
    patch.setattr(durable, "_exchange", counted(durable._exchange))


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "rename"])
def test_death_before_every_call_of_a_save(before: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool) -> None:
    if not exchange:
        monkeypatch.setattr(durable, "_exchange", lambda a, b: False)
    deaths, code = 0, KILLED
    while code == KILLED:
        run = copy(before)

        def body(run: Path = run, number: int = deaths + 1) -> None:
            with pytest.MonkeyPatch.context() as patch:
                die_before_call(number, patch)
                save_3(run)

        code = wait(spawn(body))
        assert_nothing_lost(run)
        deaths += code == KILLED
    assert code == 0
    assert deaths > 25


CALLS = ("write", "fsync", "rename", "renameat2", "link", "mkdir", "unlinkat", "rmdir", "openat", "close")
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


@needs_strace
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("before", ["3 is new"], indirect=True)
def test_death_at_every_system_call_of_a_save(before: Path, call: str) -> None:
    """As above, with the kernel's own count of what is called: nothing here is a matter of what we thought to patch."""
    assert die_at_every(call, before) > 0


@pytest.mark.full
@needs_strace
def test_death_at_every_system_call_whatever_it_is(before: Path) -> None:
    """The calls that a save makes are read from a save; those of memory, locks and signals are among them."""
    run, log = copy(before), before.with_name("log")
    assert save_3_traced(run, "--output", str(log)) == 0
    made = set(re.findall(r"^\d+ +(\w+)\(", log.read_text(), re.MULTILINE)) - {"exit_group"}
    assert set(CALLS) <= made
    assert sum(die_at_every(call, before) for call in sorted(made)) > 100


def die_at_every(call: str, before: Path) -> int:
    """Let a save die at the first, second, third … `call`, until it makes no more; returns how many there were."""
    number, code = 0, KILLED
    while code == KILLED:
        number += 1
        run = copy(before)
        code = save_3_traced(
            run, "-o", os.devnull, "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"
        )
        assert_nothing_lost(run)
    assert code == 0
    return number - 1


def save_3_traced(run: Path, *options: str) -> int:
    """Exit code of a child that saves under strace."""
    child = spawn(lambda: (os.kill(os.getpid(), signal.SIGSTOP), save_3(run)))
    os.waitpid(child, os.WUNTRACED)
    with subprocess.Popen(["strace", "-f", "-qq", "-p", str(child), *options], stderr=-1) as tracer:
        while tracer.poll() is None and b"TracerPid:\t0\n" in Path(f"/proc/{child}/status").read_bytes():
            time.sleep(0.001)
        refused = tracer.poll() is not None
        os.kill(child, signal.SIGCONT)
        code = wait(child)
        if refused:
            pytest.skip(f"strace may not attach here: {tracer.stderr.read().decode().strip()}")  # type: ignore[union-attr]
    return code


def test_death_at_a_random_byte_of_a_file(folder: Path) -> None:
    """The kernel kills the process that writes past its limit on the size of a file: SIGXFSZ at exactly that byte."""
    draw = random.Random(0)
    save(folder, 2, size=SIZE)
    largest = max(file.stat().st_size for file in (folder / "checkpoints" / "step_00000002").iterdir())
    killed = 0
    for _ in range(40):

        def body(limit: int = draw.randrange(largest)) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            save(folder, 3, size=SIZE)

        code = wait(spawn(body))
        killed += code == -signal.SIGXFSZ
        found = latest(folder)
        assert found is not None
        assert found.step == 2 + (code == 0)
        assert holds(found.path, found.step, SIZE)
        shutil.rmtree(folder / "checkpoints" / "step_00000003", ignore_errors=True)
    assert killed > 30


def test_an_error_at_a_random_byte_of_a_file(folder: Path) -> None:
    """The same limit as an error (EFBIG): it is told, the checkpoint before stays, and no half of the new one."""
    draw = random.Random(0)
    save(folder, 2, size=SIZE)
    largest = max(file.stat().st_size for file in (folder / "checkpoints" / "step_00000002").iterdir())
    for _ in range(20):

        def body(limit: int = draw.randrange(largest)) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            with pytest.raises(CheckpointError, match="not saved: File too large"):
                save(folder, 3, size=SIZE)

        assert wait(spawn(body)) == 0
        assert names(folder) == ["step_00000002"]
        assert holds(folder / "checkpoints" / "step_00000002", 2, SIZE)


def test_death_at_random_moments(folder: Path) -> None:
    """What a child has reported as saved is there after the kill, or something newer; best is never gone."""
    draw = random.Random(0)
    reached, in_a_save = 0, 0
    for _ in range(25):
        reader, writer = os.pipe()

        def body(first: int = reached + 1, writer: int = writer) -> None:
            if first > 1:
                durable.sweep(folder / "checkpoints")
            for step in range(first, first + 1000):
                save(folder, step, size=SIZE, best=step % 2 == 0)
                os.write(writer, step.to_bytes(8, "little"))

        child = spawn(body)
        os.close(writer)
        select.select([reader], [], [], 30)
        time.sleep(draw.uniform(0, 0.04))
        os.kill(child, signal.SIGKILL)
        assert wait(child) == KILLED
        with os.fdopen(reader, "rb") as pipe:
            reported = int.from_bytes(pipe.read()[-8:], "little")
        in_a_save += any(name.startswith(".") for name in names(folder))
        found = latest(folder)
        assert found is not None
        assert found.passed_over == []
        assert found.step - reported in (0, 1)
        assert holds(found.path, found.step, SIZE)
        if reported > 1:
            assert any(holds(folder / "checkpoints" / "best", step, SIZE) for step in range(reported - 1, reported + 2))
        reached = found.step
    assert in_a_save > 5
