"""Ranges and combinations: what a type alone does not say."""

import math
from collections.abc import Callable
from enum import Enum
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple, get_origin

from vim_train.config import durations
from vim_train.config.differences import Change, change, covers
from vim_train.config.errors import UserError
from vim_train.config.keys import Key, any_of, schema_keys
from vim_train.config.references import check_checkpoint
from vim_train.config.schema import (
    AugmentConfig,
    Backend,
    Compile,
    DataConfig,
    DataName,
    Determinism,
    Device,
    Distill,
    Freeze,
    GradCompression,
    Loss,
    OptimConfig,
    ScheduleConfig,
    TaskConfig,
    TrainConfig,
)
from vim_train.config.sizes import train_sizes


class Range(NamedTuple):
    """Numbers that a key accepts."""

    accepts: str
    holds: Callable[[float], bool]


POSITIVE = Range("a number above 0", lambda x: x > 0)
NOT_NEGATIVE = Range("a number from 0", lambda x: x >= 0)
AT_LEAST_1 = Range("a whole number from 1", lambda x: x >= 1)
AT_LEAST_0 = Range("a whole number from 0", lambda x: x >= 0)
PROBABILITY = Range("a number from 0 to 1", lambda x: 0 <= x <= 1)
SHARE = Range("a number from 0 to below 1", lambda x: 0 <= x < 1)
PART = Range("a number above 0, to 1", lambda x: 0 < x <= 1)
BETWEEN = Range("a number between 0 and 1", lambda x: 0 < x < 1)

RANGES = {
    "seed": Range("a whole number from 0 to 2^63 - 1", lambda x: 0 <= x < 2**63),
    "gpus": AT_LEAST_1,
    "run.hang_timeout_s": POSITIVE,
    "task.bce_threshold": SHARE,
    "task.label_smoothing": SHARE,
    "task.distill_alpha": PART,
    "task.distill_tau": POSITIVE,
    "model.drop_path_rate": SHARE,
    "model.in_chans": Range("1 or 3", lambda x: x in (1, 3)),
    "model.patch_size": AT_LEAST_1,
    "model.stride": AT_LEAST_1,
    "model.embed_dim": AT_LEAST_1,
    "model.depth": AT_LEAST_1,
    "model.d_state": AT_LEAST_1,
    "data.val_fraction": PART,
    "data.img_size": AT_LEAST_1,
    "data.batch_size": AT_LEAST_1,
    "data.micro_batch_size": AT_LEAST_1,
    "data.eval_batch_size": AT_LEAST_1,
    "data.lane": AT_LEAST_1,
    "data.shuffle_block": AT_LEAST_0,
    "data.repeats": AT_LEAST_1,
    "data.workers": AT_LEAST_0,
    "data.crop_pct": PART,
    "data.mean": PROBABILITY,
    "data.std": POSITIVE,
    "data.bad_images_max": AT_LEAST_0,
    "data.pixel_limit": AT_LEAST_1,
    "augment.crop_scale": PART,
    "augment.crop_ratio": POSITIVE,
    "augment.hflip": PROBABILITY,
    "augment.vflip": PROBABILITY,
    "augment.color_jitter": NOT_NEGATIVE,
    "augment.erase_prob": PROBABILITY,
    "augment.erase_count": AT_LEAST_1,
    "augment.mixup_alpha": NOT_NEGATIVE,
    "augment.cutmix_alpha": NOT_NEGATIVE,
    "augment.mix_prob": PROBABILITY,
    "augment.mix_switch_prob": PROBABILITY,
    "augment.mix_off_epoch": AT_LEAST_1,
    "optim.lr": POSITIVE,
    "optim.lr_batch_size": AT_LEAST_1,
    "optim.weight_decay": NOT_NEGATIVE,
    "optim.betas": SHARE,
    "optim.eps": POSITIVE,
    "optim.momentum": SHARE,
    "optim.layer_decay": PART,
    "optim.grad_clip_norm": POSITIVE,
    "optim.grad_clip_value": POSITIVE,
    "optim.agc": POSITIVE,
    "optim.accumulate": AT_LEAST_1,
    "optim.non_finite_max": AT_LEAST_1,
    "schedule.epochs": AT_LEAST_1,
    "schedule.warmup_epochs": NOT_NEGATIVE,
    "schedule.warmup_lr": NOT_NEGATIVE,
    "schedule.min_lr": NOT_NEGATIVE,
    "schedule.decay_epochs": POSITIVE,
    "schedule.power": POSITIVE,
    "ema.decay": BETWEEN,
    "ops.threads": AT_LEAST_1,
    "tta.crops": Range("1, 5 or 10", lambda x: x in (1, 5, 10)),
    "topk": AT_LEAST_1,
    "max_side": AT_LEAST_1,
    "shard_images": AT_LEAST_1,
    "checkpoint.keep": Range("a whole number from 2", lambda x: x >= 2),
}
"""Every number of the schema; a list's range holds for each of its numbers."""

CHOICES = {
    "task.name": ["classification"],
    "schedule.name": ["cosine", "constant", "wsd", "poly"],
    "schedule.decay_shape": ["linear", "cosine", "1-sqrt"],
}
DURATIONS = ("eval.every", "eval.patience", "checkpoint.every", "logger.every", "run.drift_every")


def accepts(key: Key) -> str:
    """What a key takes, in words: its type, narrowed to the range that is checked."""
    if key.name in CHOICES:
        return any_of(CHOICES[key.name])
    if key.name in DURATIONS:
        return any_of([durations.ACCEPTED, "null"]) if key.optional else durations.ACCEPTED
    if key.name not in RANGES or isinstance(get_origin(key.base), type):
        return key.accepts
    return any_of([RANGES[key.name].accepts, "null"]) if key.optional else RANGES[key.name].accepts


def check_train(cfg: TrainConfig) -> None:
    """Refuse what cannot be trained, before any work.

    Raises:
        UserError: the first key, in the schema's order of checks, whose value or combination is not accepted.
    """
    check_ranges(cfg)
    for key, accepted in CHOICES.items():
        if _get(cfg, key) not in accepted:
            raise refusal(key, _get(cfg, key), any_of(accepted))
    for key in DURATIONS:
        try:
            if (value := _get(cfg, key)) is not None:
                durations.parse(str(value))
        except UserError:
            raise refusal(key, _get(cfg, key), durations.ACCEPTED) from None
    _check_run_name(cfg.run.name)
    _check_allow(cfg.run.allow)
    if not (cfg.dry_run and cfg.data.name is DataName.folder and cfg.data.root is None):
        check_data(cfg.data)
    _check_epochs(cfg)
    _check_channels(cfg)
    _check_batch(cfg)
    _check_augment(cfg.augment, cfg.data.lane)
    _check_distill(cfg.task)
    _check_optim(cfg.optim)
    _check_features(cfg)
    if cfg.determinism is Determinism.strict and cfg.optim.grad_compression is not GradCompression.none:
        wanted = "none with determinism=strict, whose gradients are exchanged whole"
        raise refusal("optim.grad_compression", cfg.optim.grad_compression, wanted)
    _check_schedule(cfg)
    check_device(cfg.device, cfg.ops.backend)
    if cfg.model.checkpoint is not None and not cfg.dry_run:
        check_checkpoint("model.checkpoint", cfg.model.checkpoint)


def _get(cfg: object, key: str) -> object:
    return reduce(getattr, key.split("."), cfg)


def _show(value: object) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(_show, value))}]"
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


def refusal(key: str, value: object, accepts: str) -> UserError:
    """The one line for a value that is not accepted."""
    return UserError(f"{key}={_show(value)}: takes {accepts}")


def check_ranges(cfg: object) -> None:
    """Raises UserError: the first number of a schema's object that lies outside of `RANGES`."""
    for key in schema_keys(type(cfg)):
        value = _get(cfg, key)
        if key not in RANGES or value is None:
            continue
        numbers: list[Any] = value if isinstance(value, list) else [value]
        accepts = f"{RANGES[key].accepts}, each" if isinstance(value, list) else RANGES[key].accepts
        if not all(map(math.isfinite, numbers)):
            raise refusal(key, value, f"{accepts}, finite")
        if not all(map(RANGES[key].holds, numbers)):
            raise refusal(key, value, accepts)


def _check_run_name(name: str) -> None:
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise refusal("run.name", name, "a folder name under run.root, without / and not starting with a dot")


def _check_allow(allow: list[str]) -> None:
    for name in allow:
        meant = [key for key in schema_keys(TrainConfig) if covers(name, key)]
        if not meant:
            raise UserError(f"run.allow={name}: takes keys and groups, such as optim.lr or schedule")
        if all(change(key) is Change.refused for key in meant):
            cure = "take another run.name, with model.checkpoint=... to start from its weights"
            raise UserError(f"run.allow={name}: a run cannot change it; {cure}")


def check_data(data: DataConfig) -> None:
    """Raises UserError: a name without its root, or a root that is no folder."""
    if data.name is DataName.folder and data.root is None:
        raise UserError("set data.root=...")
    if data.name is DataName.fashion and data.root is not None:
        raise UserError(f"data.root={data.root}: goes with data=folder; data=fashion has its own images")
    if data.root is None:
        return
    if not data.root:
        raise refusal("data.root", data.root, "the folder of the images")
    if not Path(data.root).exists():
        raise UserError(f"data.root={data.root}: no such folder")
    if not Path(data.root).is_dir():
        raise UserError(f"data.root={data.root}: is a file; takes a folder of images")


def _check_epochs(cfg: TrainConfig) -> None:
    """What begins at an epoch has to begin in the run."""
    ends = f"an epoch before schedule.epochs={cfg.schedule.epochs}"
    if (off := cfg.augment.mix_off_epoch) is not None and off >= cfg.schedule.epochs:
        raise refusal("augment.mix_off_epoch", off, any_of([ends, "null"]))
    if train_sizes(cfg.data)[-1][0] >= cfg.schedule.epochs:
        raise refusal("data.img_size_schedule", cfg.data.img_size_schedule, f"{ends} for its last size")


def _check_channels(cfg: TrainConfig) -> None:
    for key, numbers in {"data.mean": cfg.data.mean, "data.std": cfg.data.std}.items():
        if len(numbers) != cfg.model.in_chans:
            wanted = f"one number for each of model.in_chans={cfg.model.in_chans} channels"
            raise refusal(key, numbers, wanted)


def _check_batch(cfg: TrainConfig) -> None:
    batch, parts, lane, limit = cfg.data.batch_size, cfg.optim.accumulate or 1, cfg.data.lane, cfg.data.micro_batch_size
    if batch % parts:
        wanted = f"a divisor of data.batch_size={batch}: {_divisors(batch, parts)}"
        raise refusal("optim.accumulate", parts, wanted)
    micro = batch // parts
    if micro % lane:
        split = f"data.batch_size={batch}" + (f" / optim.accumulate={parts}" if parts > 1 else "")
        wanted = f"a divisor of the {micro} images of a pass ({split}): {_divisors(micro, lane)}"
        raise refusal("data.lane", lane, wanted)
    if limit is not None and limit < lane:
        raise refusal("data.micro_batch_size", limit, f"data.lane={lane} or more: a lane is not split")


def _divisors(number: int, near: int) -> str:
    """The twelve divisors of `number` that lie nearest to what was asked for, in words."""
    every = (n for n in range(1, number + 1) if number % n == 0)
    return any_of([str(n) for n in sorted(sorted(every, key=lambda n: abs(n - near))[:12])])


def _check_augment(augment: AugmentConfig, lane: int) -> None:
    for key, pair in {"augment.crop_scale": augment.crop_scale, "augment.crop_ratio": augment.crop_ratio}.items():
        if len(pair) != 2 or pair[0] > pair[1]:
            raise refusal(key, pair, "[smallest,largest]")
    if lane % 2 and augment.mix_prob > 0 and (augment.mixup_alpha > 0 or augment.cutmix_alpha > 0):
        raise refusal("data.lane", lane, "an even number with mixup or cutmix, which pair the images of a lane")


def _check_distill(task: TaskConfig) -> None:
    if task.distill is not Distill.none and not task.teacher:
        raise UserError(f"set task.teacher=..., from which task.distill={task.distill.name} learns")
    for key, value in {"task.teacher": task.teacher, "task.teacher_checkpoint": task.teacher_checkpoint}.items():
        if task.distill is Distill.none and value is not None:
            raise UserError(f"{key}={value}: goes with task.distill=soft or hard")


def _check_optim(optim: OptimConfig) -> None:
    if len(optim.betas) not in (2, 3):
        raise refusal("optim.betas", optim.betas, "two numbers, three for optimisers such as adan")
    clips = [name for name in ("grad_clip_norm", "grad_clip_value", "agc") if getattr(optim, name) is not None]
    if len(clips) > 1:
        raise refusal(
            f"optim.{clips[1]}",
            getattr(optim, clips[1]),
            f"null with optim.{clips[0]}: gradients are clipped in one way",
        )


def _check_features(cfg: TrainConfig) -> None:
    """What goes only with another key, or not with it."""
    if cfg.task.loss is not Loss.bce:
        for key, default in {"task.bce_threshold": None, "task.bce_sum": False}.items():
            if (value := _get(cfg, key)) != default:
                raise refusal(key, value, f"{_show(default)} but with task.loss=bce")
    if cfg.model.reset_head and cfg.model.checkpoint is None:
        raise refusal("model.reset_head", True, "false without model.checkpoint: all weights are fresh")
    if cfg.model.freeze is Freeze.backbone and cfg.optim.agc is not None:
        raise refusal("optim.agc", cfg.optim.agc, "null with model.freeze=backbone: it leaves the head out")
    if cfg.ops.compile is Compile.max_autotune and cfg.determinism is not Determinism.relaxed:
        wanted = f"another mode with determinism={cfg.determinism.name}: it picks kernels by time"
        raise refusal("ops.compile", cfg.ops.compile, wanted)
    if cfg.model.sync_bn and cfg.determinism is Determinism.strict:
        raise refusal("model.sync_bn", True, "false with determinism=strict, whose lanes have statistics of their own")


def peak_lr(optim: OptimConfig, batch_size: int) -> float:
    """Learning rate after warm-up: `optim.lr`, scaled by the batch where `optim.lr_batch_size` says so."""
    return optim.lr if optim.lr_batch_size is None else optim.lr * batch_size / optim.lr_batch_size


def decay_epochs(schedule: ScheduleConfig) -> float:
    """Length of the decay at the end of a `wsd` schedule."""
    return schedule.epochs / 5 if schedule.decay_epochs is None else schedule.decay_epochs


def _check_schedule(cfg: TrainConfig) -> None:
    schedule: ScheduleConfig = cfg.schedule
    if schedule.warmup_epochs >= schedule.epochs:
        raise refusal("schedule.warmup_epochs", schedule.warmup_epochs, f"less than schedule.epochs={schedule.epochs}")
    if schedule.name == "wsd" and schedule.warmup_epochs + decay_epochs(schedule) > schedule.epochs:
        left = schedule.epochs - schedule.warmup_epochs
        wanted = f"at most the {left:g} epochs after warm-up"
        raise refusal("schedule.decay_epochs", schedule.decay_epochs, wanted)
    falls = schedule.name in ("cosine", "wsd", "poly")
    ends = {"schedule.min_lr": falls, "schedule.warmup_lr": schedule.warmup_epochs > 0}
    peak = peak_lr(cfg.optim, cfg.data.batch_size)
    for key, matters in ends.items():
        value = _get(cfg, key)
        assert isinstance(value, float)
        if matters and value > peak:
            raise refusal(key, value, f"at most the peak learning rate, {peak:g}")


def check_device(device: Device, backend: Backend) -> None:
    """Raises UserError: a scan backend of another device."""
    if (device, backend) in ((Device.cpu, Backend.cuda), (Device.cuda, Backend.cpu)):
        raise refusal("ops.backend", backend, f"auto, reference or {device.name} with device={device.name}")
