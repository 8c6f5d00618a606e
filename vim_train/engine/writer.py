"""Checkpoints written beside training: copied at the step edge, then written by a thread, one at a time."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vim_train.engine import checkpoint
from vim_train.engine.checkpoint import CheckpointError


@dataclass(frozen=True)
class Outcome:
    """How the save of a step ended: durable, or with an error that left what was there before."""

    step: int
    best: bool
    error: CheckpointError | None


class Writer:
    """One save in flight at most. What `submit` is given may change as soon as it returns.

    A kill at any moment leaves whole checkpoints (see `checkpoint.save`). Every other way out goes through `close`.
    """

    def __init__(self, run_dir: Path, keep: int) -> None:
        self._run_dir, self._keep = run_dir, keep
        self._snapshot = Snapshot()
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[Outcome] | None = None

    def submit(
        self,
        step: int,
        *,
        model: Mapping[str, Tensor],
        ema: Mapping[str, Tensor] | None,
        state: dict[str, Any],
        meta: dict[str, Any],
        best: bool,
        first: Callable[[], None],
    ) -> None:
        """Copy, then begin to write. The save before has ended: `wait` for it.

        Args:
            first: called by the thread before it writes; makes durable what the checkpoint vouches for, or raises
                OSError.
        """
        assert self._writing is None
        copy = self._snapshot.take({"model": model, "ema": ema, "state": state, "meta": meta})
        self._writing = self._pool.submit(self._write, step, copy, best, first)

    def _write(self, step: int, copy: dict[str, Any], best: bool, first: Callable[[], None]) -> Outcome:
        try:
            first()
            checkpoint.save(self._run_dir, step, **copy, keep=self._keep, best=best)
        except CheckpointError as error:
            return Outcome(step, best, error)
        except OSError as error:
            return Outcome(step, best, CheckpointError(checkpoint.step_dir(self._run_dir, step), f"not saved: {error}"))
        return Outcome(step, best, None)

    def poll(self) -> Outcome | None:
        """How the save in flight has ended, told once; None while it has not, and where there is none."""
        return self.wait() if self._writing is not None and self._writing.done() else None

    def wait(self) -> Outcome | None:
        """The same, after waiting for its end."""
        writing, self._writing = self._writing, None
        return None if writing is None else writing.result()

    def close(self) -> Outcome | None:
        """Wait for the end, whatever interrupts the waiting, and let the thread go."""
        try:
            return self.wait()
        finally:
            self._pool.shutdown()


class Snapshot:
    """Copies of tensors on the CPU, in memory that is kept from one to the next: page-locked where a GPU writes it."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, value: dict[str, Any]) -> dict[str, Any]:
        """`value` with all its containers and tensors copied; valid until the next one is taken."""
        devices: set[torch.device] = set()
        copy: dict[str, Any] = self._copy(value, "", devices)
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        return copy

    def _copy(self, value: Any, name: str, devices: set[torch.device]) -> Any:
        if type(value) in (dict, OrderedDict):
            return type(value)((key, self._copy(item, f"{name}/{key}", devices)) for key, item in value.items())
        if type(value) in (list, tuple):
            return type(value)(self._copy(item, f"{name}/{index}", devices) for index, item in enumerate(value))
        if not isinstance(value, Tensor):
            return value
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
            buffer = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda, requires_grad=False)
            self._buffers[name] = buffer
        if value.is_cuda:
            devices.add(value.device)
        return buffer.copy_(value.detach(), non_blocking=value.is_cuda)
