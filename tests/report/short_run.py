"""A short training run that is told to a report, with a clock that the test moves."""

import io
import math
from pathlib import Path

from rich.console import Console

from vim_train.config.schema import TrainConfig, WandbMode
from vim_train.report import Report, open_report

STEPS, STEPS_PER_EPOCH = 40, 10


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Run:
    """A run in a folder: `open` a report, `train` it, read what was `shown`."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.clock = Clock()
        self.cfg = TrainConfig()
        self.cfg.run.name = "short"
        self.cfg.logger.wandb.mode = WandbMode.disabled
        self.config: dict[str, object] = {"seed": 0, "optim": {"lr": 1e-3, "betas": [0.9, 0.999]}, "note": None}
        self.screen = io.StringIO()

    def open(self, resumed_step: int | None = None, terminal: bool = False) -> Report:
        console = Console(file=self.screen, force_terminal=terminal, force_interactive=terminal, width=80, height=40)
        return open_report(self.cfg, self.config, self.run_dir, resumed_step, console, self.clock)

    def train(self, report: Report, first: int = 0, last: int = STEPS) -> None:
        """Steps of one second each, training scalars every 5 and an evaluation every 10."""
        report.start({"device": "cpu", "seed": "0"})
        report.start_training(STEPS, STEPS_PER_EPOCH, first)
        for step in range(first + 1, last + 1):
            self.clock.now += 1
            loss, lr = 2 * math.exp(-step / 20) + 0.1 * math.sin(step), 1e-3 * (1 - step / STEPS)
            report.progress(step, loss, lr, 128.0, 0.02, 512.0)
            if step % 5 == 0:
                report.train(step, step // STEPS_PER_EPOCH, {"train/loss": loss, "train/lr": lr})
            if step % 10 == 0:
                metrics = {"eval/loss": loss, "eval/top1": 50 + step / 7, "ema/top1": 49 + step / 5}
                report.eval(step, step // STEPS_PER_EPOCH, metrics)

    def whole(self) -> str:
        """Train from start to end; what was shown."""
        report = self.open()
        self.train(report)
        report.finish({"parameters": 7}, ["vim-eval checkpoint=runs/short"])
        report.close()
        return self.shown

    @property
    def shown(self) -> str:
        return self.screen.getvalue()

    @property
    def metrics(self) -> Path:
        return self.run_dir / "metrics.jsonl"
