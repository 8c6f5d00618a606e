"""`gpus=N`: starts a process a GPU on this machine, passes signals on, and ends all when one ends badly.

What torchrun does on one machine, with exit codes that say what happened and no worker left behind.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

import torch
import torch.distributed as dist

from vim_train.config.errors import FAILED, HUNG, LOST, UserError
from vim_train.config.schema import Device

GRACE_S = 30.0
"""How long the others have to end by themselves when one has ended badly."""
_HUNG_GRACE_S = 1.0
"""The same when a watchdog has ended one: a rank that is stopped will not."""

_HOST = "127.0.0.1"
_POLL_S = 0.05


def launched() -> bool:
    """Whether this process is one that a launcher started."""
    return "RANK" in os.environ


def check_launched(gpus: int | None) -> None:
    """Raises UserError: `gpus` is not the number of processes that a launcher has started on this machine."""
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if gpus not in (None, here):
        raise UserError(f"gpus={gpus}: a launcher has started {here} processes here; leave gpus out")


def launch(count: int, device: Device, command: Sequence[str], program: str) -> int:
    """Run `command` in `count` processes; returns the exit code of the first that ended badly by itself, or 0.

    A process that a signal killed counts as 128 + its number, as in a shell.

    Args:
        program: whose lines those of the launcher are.

    Raises:
        UserError: fewer GPUs here.
    """
    gpus = torch.cuda.device_count()
    if device is not Device.cpu and torch.cuda.is_available() and count > gpus:
        raise UserError(f"gpus={count}: takes up to {gpus}, the GPUs that torch sees here")
    store = dist.TCPStore(_HOST, 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    processes: list[subprocess.Popen[bytes]] = []
    with _passing_signals_on(processes) as passed_on:
        for rank in range(count):
            processes.append(_start(rank, count, store.port, command))
        return _watch(processes, passed_on, program)


def _start(rank: int, count: int, port: int, command: Sequence[str]) -> "subprocess.Popen[bytes]":
    place = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_ADDR": _HOST,
        "MASTER_PORT": port,
        "TORCHELASTIC_USE_AGENT_STORE": True,  # rank 0 need not open one: ours is there
    }
    quiet = {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # else a launcher that is killed leaves pages of stacks behind
    return subprocess.Popen(
        command,
        env={**_threads(count), **quiet, **os.environ, **{name: str(value) for name, value in place.items()}},
        start_new_session=True,  # Ctrl-C reaches them through us, once
    )


def _threads(count: int) -> Mapping[str, str]:
    """Share the cores, unless the environment says otherwise."""
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count))}


@contextmanager
def _passing_signals_on(processes: "list[subprocess.Popen[bytes]]") -> Iterator[list[int]]:
    """Gives the list of those that have been passed on, which grows."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]

    passed_on: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        passed_on.append(number)
        _send(processes, number)

    for number in before:
        signal.signal(number, pass_on)
    try:
        yield passed_on
    finally:
        for number, handler in before.items():
            hung_up = number is signal.SIGHUP and passed_on  # may come again, and means nothing by then
            signal.signal(number, signal.SIG_IGN if hung_up else handler)


def _watch(processes: "list[subprocess.Popen[bytes]]", passed_on: Sequence[int], program: str) -> int:
    """Wait for all; when one ends badly, say so and end the others.

    LOST is the end of a rank that another one has left alone, and may be seen before that one's own.
    """

    def tell(line: str) -> None:
        print(f"{program}: {line}", file=sys.stderr, flush=True)

    code, deadline, lost = 0, float("inf"), False
    running = dict(enumerate(processes))
    while running:
        for rank, process in list(running.items()):
            ended = process.poll()
            if ended is None:
                continue
            del running[rank]
            if ended == 0 or code != 0:
                continue
            deadline = min(deadline, time.monotonic() + (_HUNG_GRACE_S if ended == HUNG else GRACE_S))
            if ended == LOST:
                lost = True
                continue
            code = 128 - ended if ended < 0 else ended
            if ended < 0 and len(passed_on) > 1 and -ended == passed_on[-1]:
                tell(f"left at once, as {signal.Signals(-ended).name} came again: nothing more is saved")
                _send(list(running.values()), signal.SIGKILL)
            elif -ended in passed_on:  # before a rank has learnt to save, or after
                code = 130 if -ended == signal.SIGINT else 143
                tell(f"ended by {signal.Signals(-ended).name}")
                _send(list(running.values()), signal.SIGTERM)
            elif ended < 0:
                tell(f"rank {rank} was killed by {signal.Signals(-ended).name}; the others end")
                _send(list(running.values()), signal.SIGTERM)
            elif ended == FAILED:
                tell(f"rank {rank} ended with exit code {ended}; the others end")
        if time.monotonic() > deadline:
            _send(list(running.values()), signal.SIGKILL)
        time.sleep(_POLL_S)
    return code or (LOST if lost else 0)


def _send(processes: "list[subprocess.Popen[bytes]]", number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)
