"""One object the trainer tells everything to; it hands each fact to the screens and files that want it."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from rich.console import Console

from vim_train.config.errors import UserError
from vim_train.config.redact import find_secrets, redact
from vim_train.config.schema import TrainConfig
from vim_train.report import text
from vim_train.report.jsonl import MetricsFile, read_metrics
from vim_train.report.plain import LogScreen
from vim_train.report.plots import draw_curves
from vim_train.report.progress import Evaluation, Progress
from vim_train.report.screen import Screen, open_screen
from vim_train.report.summary import versions, write_summary
from vim_train.report.wandb_logger import WandbLogger

_REDRAW = 600.0  # seconds between pictures of the curves in a long run


class Report(Protocol):
    """What a run tells. Metrics carry their full names (train/loss, eval/top1, …); steps count finished updates."""

    def start(self, facts: Mapping[str, str]) -> None:
        """Show where the run comes from: versions, device, effective batch, …; before training."""

    def start_training(self, total_steps: int, steps_per_epoch: int, first_step: int = 0) -> None:
        """Before the first step; `first_step` is above 0 in a resumed run."""

    def progress(
        self, step: int, loss: float, lr: float, images_per_s: float, data_wait: float, memory_mb: float
    ) -> None:
        """After every step; costs microseconds. Args: data_wait: share of the time, 0 to 1."""

    def phase(self, name: str) -> None:
        """Say what happens between steps (evaluating, saving); the next step ends it."""

    def train(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        """Training scalars, for metrics.jsonl and W&B."""

    def eval(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        """Evaluation scalars, for metrics.jsonl, W&B and the screen."""

    def event(self, step: int, text: str, **fields: object) -> None:
        """Something a reader of the run should know, for metrics.jsonl (epoch null before training) and the screen."""

    def saved(self, step: int) -> None:
        """The checkpoint of `step` is durable: an event for metrics.jsonl; may come some steps later."""

    def sync(self) -> None:
        """Make the lines of metrics.jsonl so far durable; from any thread. Raises OSError."""

    def state(self) -> dict[str, object]:
        """What a resumed run needs, in plain containers; asked for at each checkpoint."""

    def load_state(self, state: Mapping[str, object]) -> None:
        """Take up where `state` left off; before `start_training`."""

    def finish(self, summary: Mapping[str, object], next_commands: Sequence[str]) -> None:
        """The run is complete: summary.json, curves, results on the screen. `summary` is added to the final numbers."""

    def close(self) -> None:
        """Let go of terminal and files, after `finish` or without it (stopped, failed). May be called twice."""


class NullReport:
    """The report of every rank but 0."""

    def start(self, facts: Mapping[str, str]) -> None: ...
    def start_training(self, total_steps: int, steps_per_epoch: int, first_step: int = 0) -> None: ...
    def progress(
        self, step: int, loss: float, lr: float, images_per_s: float, data_wait: float, memory_mb: float
    ) -> None: ...
    def phase(self, name: str) -> None: ...
    def train(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None: ...
    def eval(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None: ...
    def event(self, step: int, text: str, **fields: object) -> None: ...
    def saved(self, step: int) -> None: ...
    def sync(self) -> None: ...
    def state(self) -> dict[str, object]:
        return {}

    def load_state(self, state: Mapping[str, object]) -> None: ...
    def finish(self, summary: Mapping[str, object], next_commands: Sequence[str]) -> None: ...
    def close(self) -> None: ...


class RunReport:
    """The report of rank 0. No failure of a screen, a file or W&B leaves it: each is one warning.

    metrics.jsonl is the record. Lines of steps after the resumed one are cut off at opening, as these steps run again.
    """

    def __init__(
        self,
        cfg: TrainConfig,
        plain_config: Mapping[str, object],
        run_dir: Path,
        resumed_step: int | None,
        screens: Sequence[Screen],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises OSError if metrics.jsonl cannot be written."""
        self._cfg, self._config, self._run_dir, self._clock = cfg, plain_config, run_dir, clock
        self._screens = list(screens)
        self._secrets = find_secrets()
        self._warned: set[str] = set()
        self._metrics_path = run_dir / "metrics.jsonl"
        self._metrics = MetricsFile(self._metrics_path, resumed_step)
        self._wandb = WandbLogger(cfg.logger.wandb, run_dir)
        self._earlier = 0.0  # seconds of training before this process
        self._drawn = clock()
        self._started = self._finished = self._closed = False
        self._progress = self._new_progress(resumed_step or 0, 1, resumed_step or 0)

    def start(self, facts: Mapping[str, str]) -> None:
        facts = redact(facts, self._secrets)
        self._show(lambda screen: screen.start(self._run_dir.name, facts))

    def start_training(self, total_steps: int, steps_per_epoch: int, first_step: int = 0) -> None:
        self._wandb.open(self._config)
        self._progress = self._new_progress(total_steps, steps_per_epoch, first_step)
        self._started = True
        self._show(lambda screen: screen.begin(self._progress))

    def progress(
        self, step: int, loss: float, lr: float, images_per_s: float, data_wait: float, memory_mb: float
    ) -> None:
        self._progress.update(step, loss, lr, images_per_s, data_wait, memory_mb)
        self._warn_of_wandb()
        self._show(lambda screen: screen.tick())

    def phase(self, name: str) -> None:
        self._progress.phase = name

    def train(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        self._record("train", step, epoch, metrics)
        self._wandb.log(step, epoch, metrics)

    def eval(self, step: int, epoch: float, metrics: Mapping[str, float]) -> None:
        self._record("eval", step, epoch, metrics)
        self._wandb.log(step, epoch, metrics)
        evaluation = Evaluation(step, dict(metrics))
        self._progress.evaluations.append(evaluation)
        self._show(lambda screen: screen.evaluated(evaluation))
        if self._clock() - self._drawn > _REDRAW:
            self._draw()

    def event(self, step: int, text: str, **fields: object) -> None:
        text, fields = redact(text, self._secrets), redact(fields, self._secrets)
        epoch = step // self._progress.steps_per_epoch if self._started else None
        self._record("event", step, epoch, {"text": text, **fields})
        self._show(lambda screen: screen.note(text))

    def saved(self, step: int) -> None:
        self._record("event", step, step // self._progress.steps_per_epoch, {"text": "saved"})

    def sync(self) -> None:
        self._metrics.sync()

    def state(self) -> dict[str, object]:
        return {"seconds": self._seconds, "metrics_bytes": self._metrics.size}

    def load_state(self, state: Mapping[str, object]) -> None:
        seconds, size = state.get("seconds"), state.get("metrics_bytes")
        if isinstance(size, int) and size > self._metrics.size:
            lost = "metrics.jsonl is shorter than it was at the checkpoint: lines of earlier steps are lost"
            self.event(self._progress.step, f"warning: {lost}")
        elif isinstance(size, int):  # an evaluation at the checkpoint's step, but after it, comes again too
            self._try("metrics.jsonl", lambda: self._metrics.cut(size))
        self._earlier = float(seconds) if isinstance(seconds, int | float) else 0.0

    def finish(self, summary: Mapping[str, object], next_commands: Sequence[str]) -> None:
        progress, seconds, best = self._progress, self._seconds, self._progress.best
        self.phase("drawing the curves")
        self._draw()
        self._finish_wandb({} if best is None else {"best/step": best.step, "best/top1": best.top1}, exit_code=0)
        final = {**(progress.evaluations[-1].metrics if progress.evaluations else {})}
        record: dict[str, object] = {
            "step": progress.step,
            "epoch": progress.step / progress.steps_per_epoch,
            "images_seen": progress.step * self._cfg.data.batch_size,
            "wall_time_s": round(seconds, 3),
            **final,
            "best": None if best is None else {"step": best.step, **best.metrics},
            "versions": versions(),
            **redact(summary, self._secrets),
        }
        self._try("summary.json", lambda: write_summary(self._run_dir / "summary.json", record))
        self._finished = True
        self.phase("")
        title = f"done in {text.duration(seconds)}"
        results = _results(progress, self._cfg.data.batch_size)
        places = {"run": _shown(self._run_dir), "curves": _shown(self._curves)}
        if self._wandb.place:
            places["wandb"] = self._wandb.place
        places, commands = redact(places, self._secrets), redact(list(next_commands), self._secrets)
        self._show(lambda screen: screen.finish(title, results, places, commands))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._finish_wandb({}, exit_code=0 if self._finished else 1)
        self._show(lambda screen: screen.close())
        self._try("metrics.jsonl", self._metrics.close)

    def _finish_wandb(self, summary: Mapping[str, object], exit_code: int) -> None:
        self.phase("finishing W&B")
        self._wandb.finish(summary, exit_code)
        self._warn_of_wandb()

    def _warn_of_wandb(self) -> None:
        for message in self._wandb.warnings():
            self._warn(message)

    @property
    def _seconds(self) -> float:
        return self._earlier + self._progress.elapsed

    @property
    def _curves(self) -> Path:
        return self._run_dir / "report" / "curves.png"

    def _new_progress(self, total_steps: int, steps_per_epoch: int, first_step: int) -> Progress:
        progress = Progress(total_steps, steps_per_epoch, first_step, self._clock)
        self._try("metrics.jsonl", lambda: progress.recall(read_metrics(self._metrics_path)))
        return progress

    def _record(self, kind: str, step: int, epoch: float | None, numbers: Mapping[str, object]) -> None:
        self._try("metrics.jsonl", lambda: self._metrics.write(kind, step, epoch, numbers))

    def _draw(self) -> None:
        self._try("curves", lambda: draw_curves(read_metrics(self._metrics_path), self._curves, self._run_dir.name))
        self._drawn = self._clock()

    def _show(self, call: Callable[[Screen], None]) -> None:
        for screen in tuple(self._screens):
            try:
                call(screen)
            except Exception as error:
                self._screens.remove(screen)
                with suppress(Exception):
                    screen.close()
                self._warn(f"{screen.name} is off: {text.one_line(error)}")

    def _try(self, what: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            if what not in self._warned:
                self._warned.add(what)
                self._warn(f"{what}: {text.one_line(error)}")

    def _warn(self, message: str) -> None:
        message = redact(message, self._secrets)
        self._show(lambda screen: screen.note(message, warning=True))


def open_report(
    cfg: TrainConfig,
    plain_config: Mapping[str, object],
    run_dir: Path,
    resumed_step: int | None = None,
    console: Console | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """The report of a run, for rank 0; other ranks take a `NullReport`.

    Args:
        plain_config: the resolved config in plain containers, for W&B.
        run_dir: exists and is ours.
        resumed_step: the step of the checkpoint that training goes on from; None at a fresh start, which empties
            metrics.jsonl.
        console: where to show the run; None is standard output.

    Raises:
        UserError: the run directory cannot be written.
    """
    try:
        screens = [LogScreen(run_dir / "log.txt", clock), open_screen(console, clock)]
        return RunReport(cfg, plain_config, run_dir, resumed_step, screens, clock)
    except OSError as error:
        raise UserError(f"run.root: cannot write {error.filename or run_dir}: {error.strerror}") from error


def _results(progress: Progress, batch_size: int) -> dict[str, str]:
    """The last evaluation, averaged weights beside raw ones, and the best one: rows of the final table."""
    rows: dict[str, str] = {}
    for name, value in (progress.evaluations[-1].metrics if progress.evaluations else {}).items():
        label = text.label(name).removeprefix("ema ")
        cell = text.metric(name, value) + (" %" if name.endswith(("top1", "top5")) else "")
        rows[label] = f"{rows[label]:<10}  ema {cell}" if label in rows else cell
    if (best := progress.best) is not None and best.top1 is not None:
        weights = "averaged" if best.top1 == best.metrics.get("ema/top1") else "raw"
        epoch = text.epoch(best.step, progress.steps_per_epoch)
        rows["best"] = f"{best.top1:.2f} % top-1 after epoch {epoch} ({weights} weights)"
    rows["trained"] = f"{progress.step:,} steps, {progress.step * batch_size:,} images"
    return rows


def _shown(path: Path) -> str:
    """Relative to the working directory where that is shorter."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
