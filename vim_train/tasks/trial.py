"""Two real steps of a run that is only planned: what they take of time and memory."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from vim_train.config.errors import UserError
from vim_train.config.passes import passes
from vim_train.config.schema import TrainConfig
from vim_train.data.batch import Batch
from vim_train.data.stream import TrainStream
from vim_train.engine.loop import Trainer
from vim_train.engine.meter import memory_mb
from vim_train.engine.ranks import Ranks
from vim_train.engine.schedule import Schedule
from vim_train.engine.stopping import StopRequest
from vim_train.report.plan import PlanScreen
from vim_train.report.report import NullReport
from vim_train.report.text import duration
from vim_train.tasks.classification import Classification

STEPS = 2


@dataclass(frozen=True)
class Trial:
    """What was measured; times in seconds, memory in bytes."""

    step_s: float
    """The last step, of one pass: forward, backward and update."""
    eval_images_per_s: float
    """Images that one rank evaluates."""
    save_s: float
    saved: int
    """Bytes of a checkpoint."""
    memory: dict[str, int]
    """What takes it, in words."""
    peak: int
    """Of the GPU's allocator, or of this process."""


def pass_config(cfg: TrainConfig, world: int) -> TrainConfig:
    """A run whose step is one pass of `cfg`'s."""
    data = replace(cfg.data, batch_size=cfg.data.batch_size // passes(cfg, world), workers=min(cfg.data.workers, STEPS))
    return replace(cfg, data=data, optim=replace(cfg.optim, accumulate=1))


@contextmanager
def trial_trainer(cfg: TrainConfig, task: Classification, schedule: Schedule, ranks: Ranks) -> Iterator[Trainer[Batch]]:
    """A trainer of steps of one pass, whose files lie beside those of runs until it is closed."""
    root = Path(cfg.run.root).absolute()
    place = next(folder for folder in (root, *root.parents) if folder.is_dir())
    folder = place / f".vim-train-dry-run-{os.getpid()}"
    trainer = Trainer(pass_config(cfg, ranks.world), task, schedule, ranks, folder, {}, NullReport(), StopRequest())
    try:
        yield trainer
    finally:
        trainer.saver.close()
        shutil.rmtree(folder, ignore_errors=True)


def try_out(cfg: TrainConfig, trainer: Trainer[Batch], task: Classification, screen: PlanScreen) -> Trial:
    """Make the steps, evaluate one pass's images and save once.

    Raises:
        DivergedError: a loss or gradient that is not finite.
        CheckpointError: the checkpoint cannot be written.
        UserError: nothing can be written where runs are to lie.
    """
    ranks, device, whole = trainer.ranks, trainer.device, trainer.cfg.data.batch_size
    held = _resident()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    stream = TrainStream(task.train_source, trainer.cfg, len(task.classes), device, rank=ranks.rank, world=ranks.world)
    images = whole // ranks.world
    parts = passes(cfg, ranks.world)
    a_pass = f"one pass of {images:,} images" + (f" (a whole step has {parts})" if parts > 1 else "")
    last: list[Batch] = []
    trainer.state.model.train()
    try:
        batches = _keeping(stream.batches(0, STEPS), last)
        for step in range(STEPS):
            with screen.busy(f"trial step {step + 1} of {STEPS}: {a_pass}"):
                _wait_for(device)
                waited, began = stream.wait_s, time.perf_counter()
                loss = trainer.step(batches, trainer.schedule.lr(step))
                _wait_for(device)
                step_s = time.perf_counter() - began - (stream.wait_s - waited)
                trainer.state.counters.step += 1
            screen.note(f"trial step {step + 1} of {STEPS}: loss {loss:.4f}, {duration_of(step_s)}")
    finally:
        stream.close()
    memory, peak = _memory(trainer, held)
    with screen.busy(f"evaluating {images:,} images"):
        rate = _evaluation_rate(trainer, task, last[-1])
    with screen.busy("saving a checkpoint"):
        ranks.together(lambda: _make(trainer.run_dir) if ranks.first else None)
        began = time.perf_counter()
        trainer.saver.save(0, {}, best=False, last=True)
        save_s = time.perf_counter() - began
    saved = sum(file.stat().st_size for file in trainer.run_dir.rglob("*") if file.is_file())
    return Trial(step_s, rate, save_s, saved, memory, peak)


def _make(folder: Path) -> None:
    try:
        folder.mkdir()
    except OSError as error:
        raise UserError(f"run.root: {folder.parent}: {error.strerror}") from error


def duration_of(seconds: float) -> str:
    """Also of less than a minute, which `text.duration` rounds."""
    return f"{seconds:.3g} s" if seconds < 60 else duration(seconds)


def _keeping(batches: Iterator[Batch], last: list[Batch]) -> Iterator[Batch]:
    for batch in batches:
        last[:] = [batch]
        yield batch


def _evaluation_rate(trainer: Trainer[Batch], task: Classification, batch: Batch) -> float:
    model = trainer.state.model.eval()
    with torch.inference_mode(), trainer.state.precision.autocast():
        for _ in range(2 if trainer.device.type == "cuda" else 1):  # a GPU's first pass looks for its kernels
            _wait_for(trainer.device)
            began = time.perf_counter()
            task.eval_counts(model, batch)
            _wait_for(trainer.device)
            seconds = time.perf_counter() - began
    return len(batch.labels) / seconds


def _memory(trainer: Trainer[Batch], held: int) -> tuple[dict[str, int], int]:
    """What the training state takes, and as activations the rest of the peak. Args: held: before the first step."""
    state, device = trainer.state, trainer.device
    moments = [each for entry in state.optimizer.state.values() for each in entry.values() if isinstance(each, Tensor)]
    parts = {
        "weights": _size(chain(state.model.parameters(), state.model.buffers())),
        "gradients": _size(trainer.parameters),
        "optimiser": _size(moments),
        "averaged weights": 0 if state.ema is None else _size(_all(state.ema.module)),
    }
    peak = round(memory_mb(device) * 2**20)
    grown = parts["gradients"] + parts["optimiser"]
    rest = peak - (sum(parts.values()) if device.type == "cuda" else held + grown)
    return parts | {"activations and the rest of a pass": max(rest, 0)}, peak


def _all(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())


def _size(tensors: Iterator[Tensor] | list[Tensor] | list[nn.Parameter]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _resident() -> int:
    """Bytes of memory of this process now; where the system does not tell, the most so far."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return round(memory_mb(torch.device("cpu")) * 2**20)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
