"""Where training stands: what the screens draw. Holds numbers only, so it costs next to nothing per step."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

_BINS = 480  # resolution of the loss curve over the whole of training
_SMOOTHING = 0.95

TOP1 = ("eval/top1", "ema/top1")


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: metrics by their full names."""

    step: int
    metrics: Mapping[str, float]

    @property
    def top1(self) -> float | None:
        """The better top-1 of raw and averaged weights, in per cent."""
        return max((self.metrics[name] for name in TOP1 if name in self.metrics), default=None)


@dataclass
class Progress:
    """The run so far. ``step`` counts finished updates, ``data_wait`` is a share of 1, ``loss`` is smoothed."""

    total_steps: int
    steps_per_epoch: int
    first_step: int = 0
    clock: Callable[[], float] = time.monotonic
    step: int = 0
    loss: float | None = None
    lr: float = 0.0
    images_per_s: float = 0.0
    data_wait: float = 0.0
    memory_mb: float = 0.0
    phase: str = "first step"
    evaluations: list[Evaluation] = field(default_factory=list)
    _curve: list[float | None] = field(default_factory=lambda: [None] * _BINS)

    def __post_init__(self) -> None:
        self.step = self.first_step
        self._started = self.clock()
        self._first: tuple[int, float] | None = None  # after the first step, which is slow and says little

    def update(
        self, step: int, loss: float, lr: float, images_per_s: float, data_wait: float, memory_mb: float
    ) -> None:
        """One more step is done."""
        self.step, self.lr, self.images_per_s = step, lr, images_per_s
        self.data_wait, self.memory_mb, self.phase = data_wait, memory_mb, ""
        self._add_loss(step, loss, _SMOOTHING)
        if self._first is None:
            self._first = step, self.clock()

    def recall(self, records: Iterable[Mapping[str, object]]) -> None:
        """Take up what an earlier part of this run wrote to metrics.jsonl."""
        for record in records:
            step, loss = int(str(record["step"])), record.get("train/loss")
            if record["kind"] == "train" and isinstance(loss, int | float):
                self._add_loss(step, loss, 0.0)
            elif record["kind"] == "eval":
                metrics = {k: float(v) for k, v in record.items() if "/" in k and isinstance(v, int | float)}
                self.evaluations.append(Evaluation(step, metrics))

    @property
    def running(self) -> bool:
        """Whether a step has been done here."""
        return self._first is not None

    @property
    def epochs(self) -> int:
        return max(1, math.ceil(self.total_steps / self.steps_per_epoch))

    @property
    def epoch(self) -> int:
        """The epoch under way, from 1."""
        return min(self.step // self.steps_per_epoch + 1, self.epochs)

    @property
    def share(self) -> float:
        """Share of all steps done, 0 to 1."""
        return min(1.0, self.step / self.total_steps) if self.total_steps else 1.0

    @property
    def elapsed(self) -> float:
        """Seconds since training started here."""
        return self.clock() - self._started

    @property
    def remaining(self) -> float:
        """Seconds to the end at the mean pace so far, evaluations and saving included; inf while unknown."""
        if self.step >= self.total_steps:
            return 0.0
        if self._first is None or self.step == self._first[0]:
            return math.inf
        step, at = self._first
        return (self.clock() - at) / (self.step - step) * (self.total_steps - self.step)

    @property
    def best(self) -> Evaluation | None:
        """The evaluation with the highest top-1, the earliest of equals."""
        scored = [e for e in self.evaluations if e.top1 is not None and math.isfinite(e.top1)]
        return max(scored, key=lambda e: e.top1 or 0.0, default=None)

    def loss_curve(self, columns: int) -> list[float | None]:
        """The smoothed loss in `columns` equal parts of training; None where training has not come yet."""
        edges = [round(column * _BINS / columns) for column in range(columns + 1)]
        parts = [[v for v in self._curve[a : max(b, a + 1)] if v is not None] for a, b in pairwise(edges)]
        return self._until_now([sum(part) / len(part) if part else None for part in parts])

    def top1_curve(self, columns: int) -> list[float | None]:
        """The top-1 in `columns` equal parts of training, a straight line between evaluations."""
        curve: list[float | None] = [None] * columns
        last: tuple[int, float] | None = None
        for evaluation in self.evaluations:
            if (top1 := evaluation.top1) is None or not math.isfinite(top1):
                continue
            end = self._column(evaluation.step, columns)
            start, before = last or (end, top1)
            for column in range(start + 1, end):
                curve[column] = before + (top1 - before) * (column - start) / (end - start)
            curve[end] = top1
            last = end, top1
        return self._until_now(curve)

    def _add_loss(self, step: int, loss: float, smoothing: float) -> None:
        if not math.isfinite(loss):
            return
        self.loss = loss if self.loss is None else smoothing * self.loss + (1 - smoothing) * loss
        self._curve[self._column(step, _BINS)] = self.loss

    def _column(self, step: int, columns: int) -> int:
        return min(columns - 1, max(0, step - 1) * columns // max(1, self.total_steps))

    def _until_now(self, curve: list[float | None]) -> list[float | None]:
        """Fill gaps up to the present with the value before."""
        last = None
        for column in range(self._column(self.step, len(curve)) + 1):
            last = curve[column] = last if curve[column] is None else curve[column]
        return curve
