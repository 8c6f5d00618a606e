"""Weights & Biases, kept at arm's length: a thread talks to it, and training waits for nothing that W&B does."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from vim_train.config.schema import WandbConfig, WandbMode
from vim_train.report import wandb_run
from vim_train.report.text import one_line

_WAITING_MAX = 10_000  # lines, some 10 MB: what a run of many steps a second logs while W&B looks for its server


@dataclass(frozen=True)
class _End:
    """The last thing in the queue."""

    summary: Mapping[str, object]
    exit_code: int


class WandbLogger:
    """A W&B run that logs `step` as an ordinary value and as the axis of every chart.

    So a resumed run may log steps again after a kill: W&B's own step counter would drop them. No method raises; only
    `finish` waits. What went wrong is in `warnings`, which the training thread shows when it comes by.
    """

    def __init__(self, cfg: WandbConfig, run_dir: Path) -> None:
        self._cfg = cfg
        self._run_dir = run_dir
        self._thread: Thread | None = None
        self._queue: SimpleQueue[dict[str, object] | _End] = SimpleQueue()
        self._warnings: SimpleQueue[str] = SimpleQueue()
        self._dropped = 0
        self._off = False
        self.place: str | None = None
        """Where the run can be looked at, or the command that uploads it; None until W&B has started."""

    def open(self, config: Mapping[str, object]) -> None:
        """Start the thread, unless W&B is disabled."""
        if wandb_run.choose_mode(self._cfg.mode) is WandbMode.disabled:
            return
        try:
            wandb_run.import_wandb()
        except Exception as error:
            self._warnings.put(f"W&B is off: {one_line(error)}")
            return
        self._thread = Thread(target=self._work, args=(config,), name="W&B", daemon=True)
        self._thread.start()

    def log(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        """Queue a line; where the queue is full, only count it."""
        if self._thread is None or self._off:
            return
        if self._queue.qsize() < _WAITING_MAX:
            self._queue.put({"step": step, "epoch": epoch, **metrics})
        else:
            self._dropped += 1

    def warnings(self) -> list[str]:
        """What has gone wrong since the last call, a line each."""
        found = []
        while not self._warnings.empty():
            found.append(self._warnings.get())
        return found

    def finish(self, summary: Mapping[str, object], exit_code: int = 0) -> None:
        """Close the run, in bounded time; unsent data stays in the run directory for ``wandb sync``."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._queue.put(_End(dict(summary), exit_code))
        limit = wandb_run.finish_timeout()
        try:
            thread.join(limit)
        finally:  # also after Ctrl-C, which is not to be followed by W&B's own wait
            late = thread.is_alive()
            if late:
                wandb_run.forget()
        lost = self._dropped + (max(0, self._queue.qsize() - 1) if late else 0)
        missing = f"; {lost:,} lines are missing there, metrics.jsonl has all" if lost else ""
        if late and not self._off:
            self._warnings.put(f"W&B is left alone, it was not done after {limit or 0:.0f} s{missing}")
        elif missing and not self._off:
            self._warnings.put(f"W&B was too slow{missing}")
        self._off = True

    def _work(self, config: Mapping[str, object]) -> None:
        """The thread: the only one that calls W&B."""
        doing = "start"
        try:
            run = wandb_run.start(
                self._cfg, self._run_dir, config, lambda why: self._warnings.put(f"W&B is offline: {why}")
            )
            self.place = wandb_run.place(run)
            doing = "log"
            while not isinstance(item := self._queue.get(), _End):
                run.log(item)
            doing = "finish"
            run.summary.update(dict(item.summary))
            run.finish(exit_code=item.exit_code)
        except Exception as error:
            self._off, self.place = True, None
            self._warnings.put(f"W&B is off, {doing} failed: {one_line(error)}")
            wandb_run.leave()
