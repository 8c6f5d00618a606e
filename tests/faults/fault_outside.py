"""Faults of what a run talks to: terminals, readers of its output, W&B."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench import STOPPED, Bench, Outcome, Row, end
from forks import living
from terminals import Terminal

NOBODY = {
    "WANDB_API_KEY": "0123456789" * 4, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "2",
    "WANDB_FINISH_TIMEOUT": "60",
}  # fmt: skip
"""A server that does not answer."""


def terminal_closed(*enter: str) -> Callable[[Bench], Outcome]:
    """Nobody sees what is printed then: log.txt is looked into."""

    def work(bench: Bench) -> Outcome:
        place = bench.place(f"terminal {' '.join(enter)}")
        with tempfile.TemporaryDirectory() as here:
            terminal = Terminal(bench.outside(place, enter=enter), Path(here), controlling=True)
            terminal.read_until(lambda: (bench.run(place) / "checkpoints" / "step_00000002").exists())
            began = time.monotonic()
            terminal.close()
            code = terminal.process.wait(300)
            seconds = time.monotonic() - began
            assert "Traceback" not in terminal.errors.read_text()
        text = (bench.run(place) / "log.txt").read_text()
        return Outcome(text, code, seconds, 0, bench.goes_on(place) if code else bench.compare(place))

    return work


def in_a_shell(name: str, script: str) -> Callable[[Bench], Outcome]:
    """The run as "$@" of a script; what it printed, and log.txt."""

    def work(bench: Bench) -> Outcome:
        place = bench.place(name)
        shell = ["bash", "-c", f"set -o pipefail; {script}", "bash", *bench.outside(place)]
        began = time.monotonic()
        done = subprocess.run(shell, capture_output=True, text=True, timeout=300)
        seconds = time.monotonic() - began
        assert done.stderr == "", done.stderr
        text = (bench.run(place) / "log.txt").read_text()
        return Outcome(text, done.returncode, seconds, 0, bench.compare(place))

    return work


def wandb_out_of_reach(bench: Bench) -> Outcome:
    place = bench.place("W and B out of reach")
    began = time.monotonic()
    ended = end(bench.start(place, "logger.wandb.mode=auto", environment=NOBODY), began)
    return Outcome(*ended, bench.compare(place))


def wandb_killed(bench: Bench) -> Outcome:
    place = bench.place("W and B killed")
    child = bench.start(place, "logger.wandb.mode=offline")
    while not (cores := [pid for pid in child.tree() if _name(pid).startswith("wandb-core")]):
        assert child.running, child.text()
    os.kill(cores[0], signal.SIGKILL)
    tree = child.tree()
    began = time.monotonic()
    code = child.wait()
    seconds = time.monotonic() - began
    return Outcome(child.text(), code, seconds, living(tree), bench.compare(place))


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def wandb_patched(name: str, body: str, limit_s: int) -> Callable[[Bench], Outcome]:
    """wandb.Run.log does something else."""

    def work(bench: Bench) -> Outcome:
        place = bench.place(f"W and B {name}")
        first = f"import time, wandb\ndef log(*args):\n    {body}\nwandb.Run.log = log"
        shell: Sequence[str] = bench.outside(place, "logger.wandb.mode=offline", first=first)
        environment = {**os.environ, "WANDB_FINISH_TIMEOUT": str(limit_s)}
        began = time.monotonic()
        done = subprocess.run(shell, capture_output=True, text=True, timeout=300, env=environment)
        seconds = time.monotonic() - began
        return Outcome(done.stdout + done.stderr, done.returncode, seconds, 0, bench.compare(place))

    return work


ROWS = [
    Row("the terminal closed", "a pseudo-terminal, closed at step 2", STOPPED.format("SIGHUP"), 143, terminal_closed()),
    Row("the terminal closed, nohup", "the same", "done in", 0, terminal_closed("nohup")),
    Row("the reader gone", "vim-train … \\| head -1", "done in", 0, in_a_shell("reader", '"$@" | head -1')),
    Row("no stdout at all", "vim-train … >&-", "done in", 0, in_a_shell("no stdout", '"$@" >&-')),
    Row("W&B out of reach", "a server that does not answer", "warning: W&B is offline: ", 0, wandb_out_of_reach,
        needs_root=False),
    Row("W&B killed", "kill -9 of wandb-core", "warning: W&B is ", 0, wandb_killed, needs_root=False),
    Row("W&B raises", "OSError from wandb.Run.log", "warning: W&B is off, log failed: no route", 0,
        wandb_patched("raises", "raise OSError('no route')", 60), needs_root=False),
    Row("W&B slow", "wandb.Run.log sleeps for 10 s, WANDB_FINISH_TIMEOUT=3",
        "warning: W&B is left alone, it was not done after 3 s; ", 0, wandb_patched("slow", "time.sleep(10)", 3),
        needs_root=False),
]  # fmt: skip
