"""torch's DataLoader, mended where a worker that dies would hold up the training process."""

import math
import mmap
import sys
import time
from multiprocessing.context import BaseContext, ForkContext
from typing import Any, TypeVar

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

POLL_S = 1.0
"""Between two looks for dead workers."""

T_co = TypeVar("T_co", covariant=True)


class Loader(DataLoader[T_co]):
    """Looks for dead workers while it waits, and not only when `timeout` is over."""

    def _get_iterator(self) -> Any:
        return _Iterator(self) if self.num_workers else super()._get_iterator()


class _Iterator(_MultiProcessingDataLoaderIter):
    def _get_data(self) -> Any:
        until = time.monotonic() + (self._timeout or math.inf)
        while True:
            found, answer = self._try_get_data(min(POLL_S, self._timeout or POLL_S))
            if found:
                return answer
            if time.monotonic() >= until:
                raise RuntimeError(f"timed out after {self._timeout} s")
            if self._pin_memory and not self._pin_memory_thread.is_alive():
                raise RuntimeError("torch's pin_memory thread has ended")


def fork_context() -> BaseContext | None:
    """Processes by fork, without a lock that a dying one could keep; None where torch is to choose."""
    if sys.platform != "linux":
        return None
    context = ForkContext()
    context.Event = _Flag  # type: ignore[assignment, method-assign]
    return context


class _Flag:
    """multiprocessing's Event has a lock, which a worker that is killed inside is_set() keeps for good."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def set(self) -> None:
        self._byte[0] = 1

    def is_set(self) -> bool:
        return self._byte[0] == 1
