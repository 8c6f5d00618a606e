"""strace on a stopped process: what it calls, or a fault in the middle of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def traced(pid: int, *options: str, log: str | Path = os.devnull) -> Iterator[None]:
    """Attach to a process and all it starts, threads too, and let it go on if it is stopped; skips where one may not.

    strace counts the `when=` of an injection in each thread by itself.
    """
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    command = ["strace", "-f", "-qq", "-o", str(log), "-p", str(pid), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        try:
            while tracer.poll() is None and not _is_traced(pid):
                time.sleep(0.001)
            if tracer.poll() is not None:
                assert tracer.stderr is not None
                pytest.skip(f"strace may not attach here: {tracer.stderr.read().strip()}")
            os.kill(pid, signal.SIGCONT)
            yield
        finally:
            tracer.terminate()


def _is_traced(pid: int) -> bool:
    threads = Path(f"/proc/{pid}/task").glob("*/status")
    try:
        return all("TracerPid:\t0\n" not in thread.read_text() for thread in threads)
    except OSError:
        return False


def wait_until_stopped(pid: int) -> None:
    while "\nState:\tT" not in Path(f"/proc/{pid}/status").read_text():
        time.sleep(0.001)
