"""A task small enough to train in milliseconds: two blobs of points, a linear classifier, batches by position."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from vim_train.config.checks import peak_lr
from vim_train.config.schema import TrainConfig
from vim_train.engine.loop import Trainer
from vim_train.engine.ranks import Ranks
from vim_train.engine.schedule import Schedule
from vim_train.engine.stopping import StopRequest


@dataclass
class ToyBatch:
    images: Tensor
    targets: Tensor

    def split(self, size: int) -> list["ToyBatch"]:
        return [ToyBatch(x, t) for x, t in zip(self.images.split(size), self.targets.split(size), strict=True)]


class ToyTask:
    headline = "top1"
    steps_per_epoch = 5

    def __init__(self, cfg: TrainConfig) -> None:
        self.micro = cfg.data.batch_size // cfg.optim.accumulate
        self.accumulate = cfg.optim.accumulate
        torch.manual_seed(0)
        self.model: nn.Module = nn.Linear(4, 2)
        self.poison_at: set[int] = set()

    def _points(self, seed: int, n: int) -> ToyBatch:
        generator = torch.Generator().manual_seed(seed)
        targets = torch.randint(0, 2, (n,), generator=generator)
        return ToyBatch(torch.randn(n, 4, generator=generator) + 2 * targets[:, None], targets)

    def train_batches(self, first_step: int, last_step: int) -> Iterator[ToyBatch]:
        for step in range(first_step, last_step):
            batch = self._points(step, self.micro * self.accumulate)
            if step in self.poison_at:
                batch.images[0, 0] = float("nan")
            for i in range(self.accumulate):
                part = slice(i * self.micro, (i + 1) * self.micro)
                yield ToyBatch(batch.images[part], batch.targets[part])

    def loss(self, model: nn.Module, batch: ToyBatch) -> Tensor:
        return nn.functional.cross_entropy(model(batch.images), batch.targets)

    def eval_batches(self) -> list[ToyBatch]:
        return [self._points(10_000 + i, 16) for i in range(3)]

    def eval_counts(self, model: nn.Module, batch: ToyBatch) -> Tensor:
        right = (model(batch.images).argmax(1) == batch.targets).sum()
        return torch.stack([torch.tensor(16.0), right]).double()

    def eval_metrics(self, counts: Tensor) -> dict[str, float]:
        images, right = counts.tolist()
        return {"top1": 100 * right / images, "images": images}

    def step_images(self, step: int) -> dict[str, object]:
        return {"step": step}

    def notes(self) -> list[str]:
        return []

    def state(self) -> dict[str, object]:
        return {}

    def load_state(self, state: Mapping[str, object]) -> None: ...

    def data_wait(self) -> float:
        return 0.0


@dataclass
class Recorder:
    """Keeps what the loop reports."""

    lines: list[dict[str, object]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    saves: list[int] = field(default_factory=list)

    def start_training(self, total_steps: int, steps_per_epoch: int, first_step: int) -> None: ...

    def progress(
        self, step: int, loss: float, lr: float, images_per_s: float, data_wait: float, memory_mb: float
    ) -> None:
        self.steps.append(step)

    def phase(self, name: str) -> None: ...

    def train(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        timeless = {k: v for k, v in metrics.items() if k in ("train/loss", "train/lr", "train/grad_norm")}
        self.lines.append({"kind": "train", "step": step, "epoch": epoch, **timeless})

    def eval(self, step: int, epoch: int, metrics: dict[str, float]) -> None:
        self.lines.append({"kind": "eval", "step": step, "epoch": epoch, **metrics})

    def event(self, step: int, text: str, **fields: object) -> None:
        self.lines.append({"kind": "event", "step": step, "text": text})

    def saved(self, step: int) -> None:
        self.saves.append(step)

    def sync(self) -> None: ...

    def state(self) -> dict[str, object]:
        return {}

    def load_state(self, state: dict[str, object]) -> None: ...


def toy_config() -> TrainConfig:
    cfg = TrainConfig()
    cfg.data.batch_size, cfg.data.lane = 32, 8
    cfg.schedule.epochs, cfg.schedule.warmup_epochs = 4, 1
    cfg.optim.lr, cfg.ema.decay = 0.1, 0.9
    cfg.logger.every, cfg.eval.every, cfg.checkpoint.every = "3st", "1ep", "2st"
    return cfg


def toy_trainer(cfg: TrainConfig, run_dir: Path, stop: StopRequest | None = None) -> "Trainer[ToyBatch]":
    task = ToyTask(cfg)
    schedule = Schedule(cfg.schedule, peak_lr(cfg.optim, cfg.data.batch_size), task.steps_per_epoch)
    device = torch.device("cpu")
    return Trainer(cfg, task, schedule, Ranks(device), run_dir, {}, Recorder(), stop or StopRequest())
