"""Plain lines: for a pipe, a batch system's log, and log.txt."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vim_train.report import text
from vim_train.report.progress import Evaluation, Progress


class PlainScreen:
    """One line a fact, an evaluation, an event, and one every `interval` seconds in between. ASCII, no escapes."""

    name = "plain output"

    def __init__(
        self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic, interval: float = 5.0
    ) -> None:
        """Args: write: takes one line without its end."""
        self._write = write
        self._clock = clock
        self._interval = interval
        self._due = -float("inf")

    def start(self, title: str, facts: Mapping[str, str]) -> None:
        self._write(title)
        width = max(map(len, facts), default=0)
        for key, value in facts.items():
            self._write(f"  {key:<{width}}  {value}")

    def begin(self, progress: Progress) -> None:
        self._progress = progress

    def tick(self) -> None:
        now = self._clock()
        if now >= self._due or self._progress.step >= self._progress.total_steps:
            self._due = now + self._interval
            self._write(progress_line(self._progress))

    def evaluated(self, evaluation: Evaluation) -> None:
        self._write(evaluation_line(evaluation, self._progress))

    def note(self, message: str, warning: bool = False) -> None:
        self._write(f"warning: {message}" if warning else message)

    def finish(
        self, title: str, results: Mapping[str, str], places: Mapping[str, str], commands: Sequence[str]
    ) -> None:
        self._write(title)
        rows = {**results, **places}
        width = max(map(len, rows), default=0)
        for key, value in rows.items():
            self._write(f"  {key:<{width}}  {value}")
        if commands:
            self._write("next:")
        for command in commands:
            self._write(f"  {command}")

    def close(self) -> None:
        pass


class LogScreen(PlainScreen):
    """log.txt: the plain lines with date and time, each in the file when it is written."""

    name = "log.txt"

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises OSError if the file cannot be opened for appending."""
        self._file = path.open("a", encoding="utf-8", buffering=1)
        super().__init__(self._stamp, clock)

    def close(self) -> None:
        self._file.close()

    def _stamp(self, line: str) -> None:
        self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {line}\n")


def progress_line(p: Progress) -> str:
    loss = "-" if p.loss is None else text.metric("loss", p.loss)
    return (
        f"step {p.step}/{p.total_steps}  epoch {p.epoch}/{p.epochs}  loss {loss}  lr {p.lr:.2e}  "
        f"{text.rate(p.images_per_s)} images/s  data wait {text.percent(p.data_wait)}  {text.memory(p.memory_mb)}  "
        f"{text.duration(p.remaining)} left"
    )


def evaluation_line(evaluation: Evaluation, p: Progress) -> str:
    found = "  ".join(f"{text.label(name)} {text.metric(name, v)}" for name, v in evaluation.metrics.items())
    best = "  best" if evaluation is p.best else ""
    return f"evaluation  step {evaluation.step}  epoch {text.epoch(evaluation.step, p.steps_per_epoch)}  {found}{best}"
