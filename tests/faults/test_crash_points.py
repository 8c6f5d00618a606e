"""Real runs that die at a system call of a save, chosen by its number, and go on to the same bits."""

from __future__ import annotations

import random
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from forks import Child, Forks
from tracing import traced, wait_until_stopped
from trials import ALONE, command, leftovers, reference, result

from vim_train.engine.checkpoint import latest

pytestmark = pytest.mark.full

CALLS = ("mkdir", "openat", "write", "fsync", "rename", "link", "unlinkat", "rmdir", "close")
"""Those of a run whose first evaluation is its best, so that none takes another best's place."""
POINTS = 5
"""Numbers drawn a call. Every number of every call of one save is in tests/engine/test_checkpoint_killed.py."""


def start(server: Forks, folder: Path, photos: Path) -> Child:
    child = server.start(command(folder, photos, ALONE, "data.workers=0"), folder / "output", stopped=True)
    wait_until_stopped(child.pid)
    return child


def most_in_a_thread(log: Path) -> dict[str, int]:
    """Of each call, how many the thread that makes most of them makes."""
    counts = Counter(re.findall(r"^(\d+) +(\w+)\(", log.read_text(), re.MULTILINE))
    return {call: max(n for (_, name), n in counts.items() if name == call) for call in CALLS}


def test_death_at_system_calls_of_a_run(
    server: Forks, folder: Path, photos: Path, count: Callable[[str], None]
) -> None:
    expected, _ = reference(server, folder / "reference", photos, ALONE)
    (folder / "counted").mkdir()
    child = start(server, folder / "counted", photos)
    with traced(child.pid, "-e", f"trace={','.join(CALLS)}", log=folder / "calls"):
        assert child.wait() == 0, child.text()
    made = most_in_a_thread(folder / "calls")

    killed = in_a_save = 0
    draw = random.Random(0)
    for call in CALLS:
        for number in sorted(draw.sample(range(1, made[call] + 1), min(POINTS, made[call]))):
            root = folder / f"{call} {number}"
            root.mkdir()
            child = start(server, root, photos)
            with traced(child.pid, "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"):
                code = child.wait()
            assert code in (0, -signal.SIGKILL), child.text()
            killed += code != 0
            in_a_save += bool(leftovers(root / "test"))
            found = latest(root / "test")
            assert found is None or found.passed_over == [], (call, number)
            child = start(server, root, photos)
            child.send(signal.SIGCONT)
            assert child.wait() == 0, child.text()
            if code != 0:  # else it was finished, and this is another run
                assert result(root / "test") == expected, (call, number)
    assert killed > len(CALLS)
    assert in_a_save > 0
    count(f"{killed} deaths, {in_a_save} in a save, all equal in the end")
