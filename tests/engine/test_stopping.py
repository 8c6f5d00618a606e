"""Signals ask to stop; the second one insists."""

import os
import pty
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from saving import spawn, wait
from toy import toy_config, toy_trainer

from vim_train.engine.checkpoint import latest, load
from vim_train.engine.durable import sweep
from vim_train.engine.stopping import SIGNALS, stop_on_signals


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143), (signal.SIGHUP, 143)]
)
def test_a_signal_sets_the_request_and_its_exit_code(number: signal.Signals, code: int) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with stop_on_signals() as stop:
        assert stop.caught is None
        assert stop.exit_code == 0
        os.kill(os.getpid(), number)
        assert stop.caught is number
        assert stop.exit_code == code
    assert [signal.getsignal(each) for each in SIGNALS] == [*before[:-1], signal.SIG_IGN]  # SIGHUP is the last


@pytest.mark.parametrize("second", [each for each in SIGNALS if each is not signal.SIGHUP])
def test_a_process_asked_twice_dies_of_the_signal(second: signal.Signals) -> None:
    def body() -> None:
        with stop_on_signals():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), second)

    assert wait(spawn(body)) == -second


def test_a_terminal_may_hang_up_more_than_once() -> None:
    """A shell passes it on beside the kernel; a killed launcher's ranks hear of each of its threads."""
    with stop_on_signals() as stop:
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.exit_code == 143
    os.kill(os.getpid(), signal.SIGHUP)  # while the rest is being written


def test_the_first_signal_shows_the_cursor_again() -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        sys.stdout = os.fdopen(1, "w", closefd=False)  # the terminal, not pytest's
        with stop_on_signals():
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    shown = os.read(terminal, 100)
    os.kill(pid, signal.SIGKILL)
    assert wait(pid) == -signal.SIGKILL
    os.close(terminal)
    assert shown == b"\x1b[?25h"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_twice_during_a_save_leaves_what_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    """The second signal comes at a random moment of the save before the stop, or of the last one."""
    cfg = toy_config()
    cfg.checkpoint.every = "3st"
    whole = toy_trainer(cfg, tmp_path / "whole")
    whole.train()
    draw, fsync = random.Random(number), os.fsync

    def sync_slowly(fd: int) -> None:
        time.sleep(0.01)
        fsync(fd)

    def body(run: Path) -> None:
        with pytest.MonkeyPatch.context() as patch, stop_on_signals() as stop:
            patch.setattr(os, "fsync", sync_slowly)
            toy_trainer(cfg, run, stop).train()
            os._exit(stop.exit_code)

    cut_short = 0
    for trial in range(5):
        run = tmp_path / str(trial)
        child = spawn(lambda run=run: body(run))  # type: ignore[misc]
        while not (run / "checkpoints" / "step_00000003").exists() or not list(run.glob("checkpoints/.tmp-step_*")):
            time.sleep(0.001)
        os.kill(child, number)
        time.sleep(draw.uniform(0, 0.15))
        os.kill(child, number)
        code = wait(child)
        assert code in (-number, 128 + number)
        cut_short += code == -number and bool(sweep(run / "checkpoints"))
        found = latest(run)
        assert found is not None
        assert found.passed_over == []
        again = toy_trainer(cfg, run)
        again.restore(load(found.path, found.sha256))
        again.train()
        for name, value in whole.task.model.state_dict().items():
            assert torch.equal(again.task.model.state_dict()[name], value)
    assert cut_short > 0


def test_under_nohup_a_hangup_is_still_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.caught is None
            os.kill(os.getpid(), signal.SIGTERM)
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
