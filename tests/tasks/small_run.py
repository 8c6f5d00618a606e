"""Whole training runs on the photographs, in this process."""

from pathlib import Path

import torch
from processes import arguments
from toy import Recorder

from vim_train.config.checks import peak_lr
from vim_train.config.compose import compose_config
from vim_train.data.batch import Batch
from vim_train.engine import checkpoint
from vim_train.engine.loop import Trainer
from vim_train.engine.ranks import Ranks
from vim_train.engine.schedule import Schedule
from vim_train.engine.stopping import StopRequest
from vim_train.tasks.classification import Classification


def small_trainer(root: Path, photos: Path, *keys: str) -> Trainer[Batch]:
    """Two narrow blocks for two epochs with all that draws random numbers on, `keys` beside; a checkpoint a step."""
    own = ("data.workers=0", "schedule.epochs=2", "checkpoint.every=1st", "checkpoint.keep=100", "eval.every=2ep")
    cfg, _ = compose_config(arguments(root, photos, *own, *keys))
    ranks = Ranks(torch.device("cpu"))
    task = Classification(cfg, ranks)
    schedule = Schedule(cfg.schedule, peak_lr(cfg.optim, cfg.data.batch_size), task.steps_per_epoch)
    return Trainer(cfg, task, schedule, ranks, root / "run", {}, Recorder(), StopRequest())


def trained(root: Path, photos: Path, *keys: str, after: Path | None = None) -> Trainer[Batch]:
    """Trained to the end, from the second step of the run in `after` on."""
    trainer = small_trainer(root, photos, *keys)
    if after is not None:
        trainer.restore(checkpoint.load(after / "run" / "checkpoints" / "step_00000002"))
    trainer.train()
    trainer.task.close()
    return trainer


def weights(trainer: Trainer[Batch]) -> dict[str, torch.Tensor]:
    """Raw and averaged."""
    model, ema = trainer.state.weights()
    return model | {f"ema.{name}": value for name, value in (ema or {}).items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> set[str]:
    """Names of those that have the same bits."""
    assert a.keys() == b.keys()
    return {name for name in a if torch.equal(a[name], b[name])}
