"""Throughput, waiting and memory, by the monotonic clock."""

import resource
import sys
import time
from collections import deque

import torch


class Meter:
    """Images a second and the share of time spent waiting for data, over the last `window` seconds of training.

    Time between `pause` and `resume` (evaluation, saving) does not count.
    """

    def __init__(self, window: float = 10.0) -> None:
        self._window = window
        self._marks: deque[tuple[float, int, float]] = deque()
        self._images = 0
        self._paused_at: float | None = None
        self._shift = 0.0
        self._wait = 0.0

    def pause(self) -> None:
        self._paused_at = time.monotonic()

    def resume(self) -> None:
        if self._paused_at is not None:
            self._shift += time.monotonic() - self._paused_at
            self._paused_at = None

    def update(self, images: int, waited: float) -> None:
        """Count `images` more; `waited` is the running total of seconds spent waiting."""
        now = time.monotonic() - self._shift
        self._images += images
        self._marks.append((now, self._images, waited))
        while len(self._marks) > 2 and now - self._marks[0][0] > self._window:
            self._marks.popleft()

    @property
    def images_per_s(self) -> float:
        seconds, images, _ = self._span()
        return images / seconds if seconds > 0 else 0.0

    @property
    def data_wait(self) -> float:
        """Share of time spent waiting for data, 0 to 1."""
        seconds, _, waited = self._span()
        return min(waited / seconds, 1.0) if seconds > 0 else 0.0

    def _span(self) -> tuple[float, int, float]:
        if len(self._marks) < 2:
            return 0.0, 0, 0.0
        (t0, n0, w0), (t1, n1, w1) = self._marks[0], self._marks[-1]
        return t1 - t0, n1 - n0, w1 - w0


def memory_mb(device: torch.device) -> float:
    """Peak memory in MiB: the GPU's allocator on a GPU, else this process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
