"""A server that has torch and vim_train imported, and forks a process for every run that is asked for.

A run then takes its own time (about a second) and not that of the imports. What runs is the console command itself, in
a session of its own. The server has one thread, and starts none before it forks.

    python tests/faults/forks.py    # a line of JSON on stdin a request; "pid exit-code" as children end
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

LIMIT_S = 300.0
"""Longer than any run here takes; what has not ended by then hangs."""

_PR_SET_CHILD_SUBREAPER = 36


# --- the server


def _serve() -> list[str]:
    """Fork for each request, report who has ended; in a child, return the arguments to run with."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    requests, buffer = sys.stdin.fileno(), b""
    running: set[int] = set()
    while True:
        ready, _, _ = select.select([requests, reader], [], [])
        if reader in ready:
            os.read(reader, 4096)
            _report_ended(running)
        if requests in ready:
            chunk = os.read(requests, 1 << 16)
            if not chunk:  # the client has ended, or was killed: what it left goes too
                for pid in running:
                    os.kill(pid, signal.SIGKILL)
                os._exit(0)
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                request = json.loads(line)
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    os.close(reader)
                    os.close(writer)
                    return _become(request)
                running.add(pid)
                print(f"started {pid}", flush=True)


def _report_ended(running: set[int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            running.discard(ended[0])
            print(ended[0], os.waitstatus_to_exitcode(ended[1]), flush=True)


def _become(request: dict[str, object]) -> list[str]:
    """Make this fork the process that was asked for."""
    os.setsid()
    out = os.open(str(request["output"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for number, fd in enumerate((null, out, out)):
        os.dup2(fd, number)
    os.environ.update(request["environment"])  # type: ignore[call-overload]
    if request["stopped"]:
        os.kill(os.getpid(), signal.SIGSTOP)
    arguments: list[str] = request["arguments"]  # type: ignore[assignment]
    return arguments


def main() -> int:
    """Import, say so, serve."""
    from vim_train.cli import train

    for module in ("vim_train.tasks.run", "matplotlib.backends.backend_agg", "torch.distributed", "torch.nn.parallel"):
        importlib.import_module(module)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans become ours, and do not stay as zombies
    print("ready", flush=True)
    sys.argv = ["vim-train", *_serve()]
    return train.main()


# --- its client


class Forks:
    """A server of this process; a context manager, and safe to use from several threads.

    Args:
        unshared: give the server mounts of its own, which `mount` changes and `see` looks into; needs root.
    """

    def __init__(self, unshared: bool = False) -> None:
        self.unshared = unshared
        prefix = ["unshare", "--mount", "--propagation", "private"] if unshared else []
        quiet = {
            "OMP_WAIT_POLICY": "PASSIVE",
            "OPENBLAS_NUM_THREADS": "1",
        }  # NumPy starts threads as it is imported
        self._server = subprocess.Popen(
            [*prefix, sys.executable, __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env={**os.environ, **quiet},
        )  # fmt: skip
        assert self._server.stdout is not None
        if self._server.stdout.readline() != "ready\n":
            raise RuntimeError("the fork server did not start")
        self._starting, self._news = threading.Lock(), threading.Condition()
        self._started: list[int] = []
        self._ended: dict[int, int] = {}
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        return self._server.pid

    def see(self, path: Path) -> Path:
        """The way to a path as the server and its children see it."""
        return Path(f"/proc/{self.pid}/root") / path.relative_to("/") if self.unshared else path

    def _listen(self) -> None:
        for line in self._server.stdout or ():
            first, second = line.split()
            with self._news:
                if first == "started":
                    self._started.append(int(second))
                else:
                    self._ended[int(first)] = int(second)
                self._news.notify_all()

    def start(
        self, arguments: Sequence[str], output: Path, *, environment: Mapping[str, str] | None = None,
        stopped: bool = False,
    ) -> Child:  # fmt: skip
        """A new run of vim-train. Args: stopped: it has sent itself SIGSTOP before anything else."""
        request = {
            "arguments": list(arguments), "output": str(output), "environment": dict(environment or {}),
            "stopped": stopped,
        }  # fmt: skip
        with self._starting:
            assert self._server.stdin is not None
            self._server.stdin.write(json.dumps(request) + "\n")
            with self._news:
                self._news.wait_for(lambda: self._started, 60)
                pid = self._started.pop()
                self._ended.pop(pid, None)  # of an orphan that had this number
        return Child(self, pid, self.see(output))

    def ended(self, pid: int) -> int | None:
        """Exit code, -n after signal n; None while it runs."""
        with self._news:
            return self._ended.get(pid)

    def wait(self, pid: int, timeout: float) -> int:
        with self._news:
            if not self._news.wait_for(lambda: pid in self._ended, timeout):
                raise TimeoutError(f"process {pid} has not ended in {timeout:.0f} s")
            return self._ended[pid]

    def mount(self, *arguments: str, program: str = "mount") -> None:
        """mount(8) in the server's own namespace."""
        subprocess.run(["nsenter", f"--target={self.pid}", "--mount", program, *arguments], check=True)

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(60)
        self._listener.join()
        assert self._server.stdout is not None
        self._server.stdout.close()


@dataclass(frozen=True)
class Child:
    """A run, which may have ended."""

    server: Forks
    pid: int
    output: Path

    @property
    def running(self) -> bool:
        return self.server.ended(self.pid) is None

    def wait(self, timeout: float = LIMIT_S) -> int:
        """Exit code, -n after signal n."""
        try:
            return self.server.wait(self.pid, timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.text()}") from None

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the run has ended."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def text(self) -> str:
        """What it has written so far."""
        return self.output.read_text() if self.output.exists() else ""

    def tree(self) -> dict[int, str]:
        """The run and all its descendants that live, with the times they were started at."""
        parents = {int(entry.name): stat for entry in Path("/proc").glob("[0-9]*") if (stat := _stat(entry))}
        found: dict[int, str] = {}
        todo = [self.pid]
        while todo:
            pid = todo.pop()
            if pid in parents:
                found[pid] = parents[pid][19]
                todo += [child for child, stat in parents.items() if int(stat[1]) == pid]
        return found


def living(tree: Mapping[int, str], patience: float = 30.0) -> int:
    """How many processes of a `Child.tree` are still there after `patience` seconds."""
    deadline = time.monotonic() + patience
    while left := [pid for pid, begun in tree.items() if (stat := _stat(Path(f"/proc/{pid}"))) and stat[19] == begun]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return len(left)


def _stat(process: Path) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on; None for a process that is no more."""
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields


if __name__ == "__main__":
    sys.exit(main())
