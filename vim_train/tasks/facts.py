"""Where a run comes from, in lines for a person."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch
from torch import nn

from vim_train import __version__, ops
from vim_train.config.passes import passes
from vim_train.config.schema import Compile, DataConfig, Distill, Freeze, TrainConfig
from vim_train.config.sizes import train_sizes
from vim_train.data.pixels import pixel_status
from vim_train.data.sources.classes import unusual_count
from vim_train.engine.schedule import Schedule
from vim_train.tasks.classification import Classification


def provenance(cfg: TrainConfig, task: Classification, schedule: Schedule, run_dir: Path) -> dict[str, str]:
    """What decides the numbers of this run: versions, machine, data, model, batch and schedule."""
    data = cfg.data
    counts = f"{len(task.train_source):,} + {len(task.val_source):,} images, {len(task.classes)} classes"
    return {
        "vim-train": __version__ + _commit(),
        "torch": f"{torch.__version__}, timm {metadata.version('timm')}, Pillow {metadata.version('pillow')}",
        "scan": scan_line(task.device),
        "device": device_line(task.device, task.ranks.world),
        "data": f"{_source_line(task, data)}: {counts}, {_sizes(data)}, data.workers={data.workers}",
        "pixels": pixel_status(),
        "model": _model_line(cfg, task.model),
        **({} if task.teacher is None else {"teacher": _teacher_line(cfg)}),
        "batch": _batch_line(cfg, task.ranks.world),
        "lr": _lr_line(cfg, schedule),
        "steps": f"{schedule.total_steps:,} = {cfg.schedule.epochs} epochs of {task.steps_per_epoch:,}",
        "precision": f"{cfg.precision.amp.value}, seed {cfg.seed}, {cfg.determinism.value}",
        "run": str(run_dir),
    }


def _sizes(data: DataConfig) -> str:
    """Side of the images, and those of training by epoch where they change."""
    stages = ", ".join(f"{side} px from epoch {epoch}" for epoch, side in train_sizes(data))
    return f"{data.img_size} px" + (f" (training: {stages})" if data.img_size_schedule else "")


def _source_line(task: Classification, data: DataConfig) -> str:
    """What was recognised, and where."""
    train, val = task.train_source, task.val_source
    forms = train.form if train.form == val.form else f"{train.form} and {val.form}"
    odd = [unusual_count(task.classes, split, len(source)) for split, source in (("train", train), ("val", val))]
    notes = "".join(f" ({note})" for note in odd if note)
    return f"{forms}{f' in {data.root}' if data.root else ''}{notes}"


def scan_line(device: torch.device) -> str:
    """The scan backend in use and, where a better one is missing, why."""
    active = ops.active_backend(device)
    status = {backend.name: backend for backend in ops.backend_report()}
    line = f"{active} ({status[active].detail})"
    wanted = device.type
    if active != wanted and not status[wanted].available:
        line += f"; no {wanted} backend: {status[wanted].detail}"
    return line


def device_line(device: torch.device, world: int) -> str:
    times = f"{world} x " if world > 1 else ""
    if device.type == "cuda":
        count = torch.cuda.device_count()
        idle = f", one of {count}: gpus={count} trains on all" if count > 1 and world == 1 else ""
        return f"{times}{device_name(device)}{idle}"
    threads = torch.get_num_threads()
    return f"{times}{device_name(device)}, {threads} thread{'s' if threads > 1 else ''}"


def device_name(device: torch.device) -> str:
    """What computes, by its maker's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({_cpu_name()})"


def _model_line(cfg: TrainConfig, model: nn.Module) -> str:
    """Its size, and what is done with it that is not the default."""
    every = sum(p.numel() for p in model.parameters())
    words = [cfg.model.name, f"{every:,} parameters"]
    if cfg.model.freeze is Freeze.backbone:
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        words.append(f"only the head trains: {trained:,} of them")
    chosen = {
        "activation checkpointing": cfg.model.grad_checkpointing,
        "channels last": cfg.model.channels_last,
        "synchronised batch norm": cfg.model.sync_bn,
        f"torch.compile ({cfg.ops.compile.name})": cfg.ops.compile is not Compile.none,
    }
    return ", ".join([*words, *(name for name, wanted in chosen.items() if wanted)])


def _batch_line(cfg: TrainConfig, world: int) -> str:
    batch, count = cfg.data.batch_size, passes(cfg, world)
    factors = [f"{world} rank{'s' if world > 1 else ''}"] + ([f"{count} passes"] if count > 1 else [])
    return f"{batch:,}" + (f" = {' x '.join(factors)} of {batch // (world * count):,}" if world * count > 1 else "")


def _lr_line(cfg: TrainConfig, schedule: Schedule) -> str:
    line = f"{schedule.peak:.4g}"
    if cfg.optim.lr_batch_size is not None:
        line += f" = {cfg.optim.lr:.4g} x {cfg.data.batch_size} / {cfg.optim.lr_batch_size}"
    line += f", {cfg.schedule.name}, {cfg.optim.name}"
    words = {
        "layer decay": cfg.optim.layer_decay,
        "gradient norm clipped to": cfg.optim.grad_clip_norm,
        "gradients clipped to": cfg.optim.grad_clip_value,
        "adaptive gradient clipping": cfg.optim.agc,
    }
    return line + "".join(f", {name} {value:g}" for name, value in words.items() if value is not None)


def _teacher_line(cfg: TrainConfig) -> str:
    task = cfg.task
    tau = f", tau {task.distill_tau:g}" if task.distill is Distill.soft else ""
    return f"{task.teacher}, {task.distill.value}, alpha {task.distill_alpha:g}{tau}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _commit() -> str:
    """Short commit of the source tree this package lies in, or nothing."""
    tree = Path(__file__).resolve().parents[2]
    if not (tree / ".git").exists():
        return ""
    command = ["git", "-C", str(tree), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return f" ({done.stdout.strip()})"
