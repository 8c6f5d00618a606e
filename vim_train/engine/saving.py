"""When checkpoints are written and what comes of it, told to all ranks; rank 0 alone writes."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from vim_train.config.schema import OnError, TrainConfig
from vim_train.engine import checkpoint
from vim_train.engine.checkpoint import CheckpointError
from vim_train.engine.ranks import Ranks
from vim_train.engine.reporter import Reporter
from vim_train.engine.state import TrainState
from vim_train.engine.task import B, Task
from vim_train.engine.writer import Outcome, Writer


@dataclass
class Saver(Generic[B]):
    """Saves a training state beside training, and applies `checkpoint.on_error` to what fails."""

    cfg: TrainConfig
    task: Task[B]
    state: TrainState
    ranks: Ranks
    run_dir: Path
    meta: dict[str, Any]
    report: Reporter

    def __post_init__(self) -> None:
        self.waited_s = 0.0
        """Seconds that training has stood still for saves; whoever reads it may set it to 0."""
        self.failed: CheckpointError | None = None
        """In rank 0, the error that is to stop the run."""
        self._writer = Writer(self.run_dir, self.cfg.checkpoint.keep)
        self._best: tuple[float | None, int | None] = None, None

    def restored(self) -> None:
        """The state is that of a checkpoint, and its best score that of the best one."""
        self._best = self.state.counters.best, self.state.counters.best_step

    def check_disk(self) -> None:
        """Raises CheckpointError where no checkpoint could be written; before training."""
        checkpoint.check_disk(self.run_dir, self.bytes_foreseen())

    def bytes_foreseen(self) -> int:
        """What a checkpoint will take on the disk, also while the optimiser has no state yet."""
        model, ema = self.state.weights()
        optimizer = self.state.optimizer
        to_come = 0
        if not optimizer.state:
            for group in optimizer.param_groups:
                moments = 2 if "betas" in group else 1 if group.get("momentum") else 0
                to_come += sum(moments * parameter.nbytes for parameter in group["params"])
        return checkpoint.bytes_needed([model, ema or {}], self.state.rest()) + to_come

    def save(self, epoch: int, metrics: dict[str, float], *, best: bool, last: bool) -> None:
        """Copy the state, to be written while training goes on; the `last` one is durable when this returns.

        Raises:
            CheckpointError: the last one failed, or the one before and the policy is to stop.
        """
        began = time.monotonic()
        task_state = self.task.state()
        if self.ranks.first:
            self._tell(self._writer.wait(), self.cfg.checkpoint.on_error)
        if self.ranks.first and self.failed is None:
            model, ema = self.state.weights()
            self._writer.submit(
                self.state.counters.step, model=model, ema=ema, best=best, first=self.report.sync,
                state=self.state.rest() | {"report": self.report.state(), "task": task_state},
                meta=self.meta | {"epoch": epoch, "metrics": metrics},
            )  # fmt: skip
        if last:
            self.ranks.once(lambda: self._tell(self._writer.wait(), OnError.stop))
            self.raise_together()
        self.waited_s += time.monotonic() - began

    def poll(self) -> None:
        """Tell how a save has ended meanwhile."""
        self._tell(self._writer.poll(), self.cfg.checkpoint.on_error)

    def best(self) -> tuple[float | None, int | None]:
        """Score and step of the best checkpoint on the disk: one whose save failed has to be beaten by nobody."""

        def settled() -> tuple[float | None, int | None]:
            self._tell(self._writer.wait(), self.cfg.checkpoint.on_error)
            return self.state.counters.best, self.state.counters.best_step

        return self.ranks.once(settled)

    def raise_together(self) -> None:
        """Raise the error of a failed save, which only the first rank knows, in all ranks."""
        error = self.failed
        if found := self.ranks.once(lambda: None if error is None else (error.path, error.reason)):
            raise CheckpointError(*found)

    def close(self) -> None:
        """Wait for a save that a run leaves behind when an exception ends it."""
        self._tell(self._writer.close(), OnError.warn)

    def _tell(self, outcome: Outcome | None, on_error: OnError) -> None:
        if outcome is None:
            return
        counters = self.state.counters
        if outcome.error is None:
            self.report.saved(outcome.step)
            if outcome.best:
                self._best = counters.best, counters.best_step
            return
        if outcome.best:
            counters.best, counters.best_step = self._best
        if on_error is OnError.stop:
            self.failed = outcome.error
        else:
            self.report.event(counters.step, str(outcome.error))
