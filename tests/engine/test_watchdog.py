"""Ranks that hang, stop or die, in real processes: named, with stacks, and nobody left behind."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from processes import finish, start_toy
from test_ranks import children, gone, rank_of, status

from vim_train.engine.watchdog import Pulse, judge

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def pulse(count: int, phase: str = "update", step: int = 7) -> Pulse:
    return Pulse(count, phase, step, 0, 1, "here")


def test_the_rank_furthest_behind_hangs() -> None:
    pulses = {0: pulse(12), 1: pulse(11, "data"), 2: pulse(12)}
    assert judge(pulses, []) == ([1], "data at step 7")
    assert judge({0: pulse(12), 1: pulse(12)}, []) == ([0, 1], "update at step 7")


def test_a_rank_that_does_not_run_hangs_whatever_it_has_told() -> None:
    assert judge({0: pulse(12), 1: pulse(11), 2: pulse(12, "save", 9)}, [2]) == ([2], "save at step 9")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "words"), [("hang", "hung for 8 s"), pytest.param("stop", "stopped for 8 s", marks=pytest.mark.full)]
)
def test_a_rank_that_hangs_is_named_with_all_stacks(tmp_path: Path, fault: str, words: str) -> None:
    code, output = finish(start_toy(tmp_path, 2, fault, 1, 4))
    assert code == 4, output
    last = output.splitlines()[-1]
    assert last.startswith(f"vim-train: rank 1 {words} (run.hang_timeout_s), ")
    assert last.endswith(f"; stacks: {tmp_path / 'stacks'}")
    told = {file.name: file.read_text() for file in (tmp_path / "stacks").iterdir()}
    assert "_engine_run_backward" in told["rank_0.txt"]
    assert last.removeprefix("vim-train: ") in told["rank_0.txt"]
    if fault == "hang":
        assert "in forward at step 4" in last
        assert "faulty_run.py" in told["rank_1.txt"].split("in _fail")[0]
    assert "another rank has ended" not in output


@pytest.mark.full
def test_a_run_of_one_process_that_hangs_ends_too(tmp_path: Path) -> None:
    code, output = finish(start_toy(tmp_path, 1, "hang", 0, 4))
    assert code == 4, output
    assert "vim-train: the run hung for 8 s (run.hang_timeout_s), in forward at step 4; " in output
    assert "in _fail" in (tmp_path / "stacks" / "rank_0.txt").read_text()


@pytest.mark.slow
def test_a_rank_that_raises_is_named(tmp_path: Path) -> None:
    code, output = finish(start_toy(tmp_path, 2, "raise", 1, 4))
    assert code == 1, output
    assert "vim-train: rank 1: RuntimeError: out of luck" in output
    assert "vim-train: rank 1 ended with exit code 1; the others end" in output


@pytest.mark.full
@pytest.mark.parametrize(("fault", "exitcode"), [("hang", "4"), ("stop", "4"), ("raise", "1"), ("kill", "-9")])
def test_torchrun_loses_nobody_either(tmp_path: Path, fault: str, exitcode: str) -> None:
    process = start_toy(tmp_path, 0, fault, 1, 4, TORCHRUN)
    pids = _workers(process.pid)
    code, output = finish(process)
    assert code == 1, output
    assert gone(pids)
    assert f"exitcode  : {exitcode} " in output
    if exitcode == "4":
        assert f"vim-train: rank 1 {'hung' if fault == 'hang' else 'stopped'} for 8 s" in output
    elif fault == "raise":  # torchrun blames whose end it notices first, which may be the other's
        assert "vim-train: rank 1: RuntimeError: out of luck" in output
    else:
        assert output.split("Root Cause")[1].split("exitcode")[0].split("rank      : ")[1].startswith("1 ")


@pytest.mark.full
def test_a_process_that_was_stopped_and_goes_on_has_not_hung(tmp_path: Path) -> None:
    process = start_toy(tmp_path, 1, "stop", 0, 4)
    deadline = time.monotonic() + 100
    while "State:\tT" not in status(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(12)
    os.kill(process.pid, signal.SIGCONT)
    code, output = finish(process)
    assert code == 0, output


def _workers(pid: int) -> list[int]:
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        pids = [child for child in children(pid) if _has_rank(child)]
        if len(pids) == 2:
            return pids
        time.sleep(0.05)
    raise AssertionError("no two workers")


def _has_rank(pid: int) -> bool:
    try:
        return rank_of(pid) in "01"
    except (OSError, StopIteration):
        return False
