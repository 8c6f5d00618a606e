"""Requests in, answers out in the same order, from worker processes or from this one.

torch's DataLoader does the work. Around it: workers that signals to the process group do not kill, a death or a hang
told in one line that names the file, and no draw from anybody's generator.
"""

import ctypes
import faulthandler
import gc
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from multiprocessing.util import get_temp_dir
from typing import IO, Any

import torch
from torch.utils.data import get_worker_info

from vim_train.config.errors import HungError, WorkerError
from vim_train.data.fetch import Fetch, Fetched, Request
from vim_train.data.loader import Loader, fork_context
from vim_train.data.views import FetchViews

_STACK_S = 0.3
"""For a worker to write down its stack."""
_DEATH_S = 1.0
"""Between a worker's broken connection and its end."""
_PR_SET_PDEATHSIG = 1
_PID, _READING = 0, 1


class Pool:
    """Answers `requests` once an iteration.

    Args:
        fetch: answers one request.
        requests: read a few ahead of what has been asked for.
        workers: processes; 0: this one.
        pin_memory: put the answers in page-locked memory, for copies to a GPU.
        persistent: keep the workers after an iteration, for the next; `close` ends them.
        timeout_s: patience with silent workers, in seconds; None: for ever.

    Raises (while iterating):
        HungError: all workers were silent for so long.
        WorkerError: if a worker died or found no shared memory.
    """

    def __init__(
        self,
        fetch: Fetch | FetchViews,
        requests: Iterable[Request],
        workers: int,
        *,
        pin_memory: bool = False,
        persistent: bool = False,
        timeout_s: float | None,
    ) -> None:
        self.wait_s = 0.0
        """Seconds spent waiting for answers so far."""
        self._source = fetch.source
        self._workers = workers
        self._persistent = persistent and workers > 0
        self._timeout_s = timeout_s
        self._board = torch.full((max(workers, 1), 2), -1, dtype=torch.int64).share_memory_()
        """One row a worker: its process id and the index it is reading."""
        self._stacks: IO[bytes] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._stacks.close)
        self._iterator: Iterator[Fetched] | None = None
        self._processes: list[multiprocessing.process.BaseProcess] = []
        if workers:
            get_temp_dir()  # the workers' too, from here on: what those that are killed leave in it goes with us
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # more workers than cores is the user's decision
            self._loader: Loader[Fetched] = Loader(
                fetch,
                sampler=requests,
                batch_size=None,
                collate_fn=_unchanged,
                num_workers=workers,
                pin_memory=pin_memory,
                persistent_workers=self._persistent,
                timeout=(timeout_s or 0) if workers else 0,
                worker_init_fn=partial(_start_worker, self._board, self._stacks.fileno(), os.getpid()),
                multiprocessing_context=fork_context() if workers else None,
                generator=torch.Generator(),  # else every iteration draws from the global one
            )

    def __iter__(self) -> Iterator[Fetched]:
        self._iterator = iterator = self._start()
        try:
            while True:
                began = time.perf_counter()
                try:
                    fetched = self._next(iterator)
                except StopIteration:
                    return
                finally:
                    self.wait_s += time.perf_counter() - began
                yield fetched
        finally:
            if not self._persistent:
                self.close()

    def close(self) -> None:
        """End the workers."""
        iterator: Any = self._iterator
        if self._workers and iterator is not None:
            # Dropping the iterator does the same, but a traceback may hold it.
            iterator._shutdown_workers()
            self._kill_workers()
        self._iterator = self._loader._iterator = None

    def _start(self) -> Iterator[Fetched]:
        handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
        try:
            iterator = self._fork()
        except (RuntimeError, EOFError, ConnectionError) as error:
            raise self._failure(error) from None
        # torch makes SIGCHLD raise wherever the program happens to be. _next finds a dead worker, between two steps.
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGCHLD, handler)
        return iterator

    def _fork(self) -> Iterator[Fetched]:
        others = multiprocessing.active_children()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # forking beside threads is safe for what workers do
                return iter(self._loader)
        finally:  # also if it fails half-way
            self._processes += [child for child in multiprocessing.active_children() if child not in others]

    def _next(self, iterator: Iterator[Fetched]) -> Fetched:
        try:
            return next(iterator)
        except (RuntimeError, EOFError, ConnectionError) as error:  # the last two: while it handed images over
            raise self._failure(error) from None

    def _failure(self, error: Exception) -> Exception:
        """What torch's error means; the workers have ended."""
        text = str(error)
        found: Exception = error
        if "timed out after" in text:
            found = self._hung(self._worker_stacks())
        elif isinstance(error, EOFError | ConnectionError) and (dead := self._dead()):
            found = WorkerError(self._died(dead))
        elif (message := self._explain(text)) is not None:
            found = WorkerError(message)
        self._kill_workers()
        return found

    def _explain(self, text: str) -> str | None:
        if "exited unexpectedly" in text:
            pids = re.findall(r"\d+", text)
            dead = [row for row, (pid, _) in enumerate(self._board.tolist()) if str(pid) in pids]
            return self._died(dead)
        if "shared memory" in text or "shm" in text:
            return (
                f"no shared memory left for the data workers{_shared_memory()}: take fewer data.workers or a smaller "
                "data.batch_size, or give the container more (--ipc=host, --shm-size=8g)"
            )
        return None

    def _died(self, rows: list[int]) -> str:
        return (
            f"a data worker died (out of memory?) {self._reading(rows)}; fewer data.workers need less memory, "
            "data.workers=0 shows what it dies of"
        )

    def _dead(self) -> list[int]:
        """Rows of workers that have ended; one whose connection has just broken has a second to do so."""
        until = time.monotonic() + _DEATH_S
        while True:
            living = {child.pid for child in multiprocessing.active_children()}
            dead = [row for row, (pid, _) in enumerate(self._board.tolist()) if pid >= 0 and pid not in living]
            if dead or time.monotonic() > until:
                return dead
            time.sleep(0.01)

    def _hung(self, stacks: str) -> HungError:
        limit = f"{self._timeout_s:g} s (run.hang_timeout_s)"
        return HungError(f"the data workers gave nothing for {limit}; they are {self._reading()}", stacks)

    def _worker_stacks(self) -> str:
        """What the workers are at, asked one by one; one that is stopped says nothing."""
        text = ""
        for pid, index in self._board.tolist():
            if pid < 0 or not hasattr(signal, "SIGUSR2"):
                continue
            start = os.lseek(self._stacks.fileno(), 0, os.SEEK_END)
            os.kill(pid, signal.SIGUSR2)
            time.sleep(_STACK_S)
            told = os.pread(self._stacks.fileno(), 1 << 16, start).decode(errors="replace")
            where = f"at {self._source.name(index)}" if index >= 0 else "between two images"
            text += f"data worker {pid}, {where}\n{told or 'says nothing: stopped?'}\n"
        return text

    def _reading(self, rows: list[int] | None = None) -> str:
        board = self._board.tolist()
        chosen = [board[row] for row in rows] if rows else board
        names = [self._source.name(index) for _, index in chosen if index >= 0]
        return "at " + ", ".join(dict.fromkeys(names)) if names else "between two images"

    def _kill_workers(self) -> None:
        """Workers ignore SIGTERM, and those that hang whatever else."""
        while self._processes:
            worker = self._processes.pop()
            worker.kill()
            worker.join()


def _shared_memory() -> str:
    """How much there is in all, where that can be seen."""
    try:
        found = os.statvfs("/dev/shm")
    except (OSError, AttributeError):
        return ""
    return f" (/dev/shm has {found.f_blocks * found.f_frsize / 2**20:,.0f} MiB)"


def _unchanged(fetched: Any) -> Any:
    return fetched


def _start_worker(board: torch.Tensor, stacks: int, parent: int, worker: int) -> None:
    """Signals to the process group are for the training process, which finishes its step with our help."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    sys.excepthook = partial(_unless_left_alone, sys.excepthook)
    if sys.platform == "linux":  # forked: the file is open here too
        faulthandler.register(signal.SIGUSR2, stacks, all_threads=True)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # also if it hangs by then
        if os.getppid() != parent:
            os._exit(1)
    torch.set_num_threads(1)
    gc.freeze()  # what was there before the fork is not gone through again, and its pages stay shared
    board[worker, _PID] = os.getpid()
    info = get_worker_info()
    if info is not None:
        info.dataset.reading = board[worker, _READING:].numpy()  # type: ignore[attr-defined]


def _unless_left_alone(hook: Callable[..., object], kind: type[BaseException], error: Any, *rest: Any) -> None:
    """Threads that hand tensors over meet a broken connection when the training process dies: nobody is to know."""
    if not isinstance(error, ConnectionError | EOFError):
        hook(kind, error, *rest)
