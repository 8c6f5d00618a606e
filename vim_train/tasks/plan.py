"""`dry_run=true`: the whole plan of a run, two trial steps, and nothing left behind."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

from vim_train.config.durations import to_steps
from vim_train.config.errors import DIVERGED, FAILED
from vim_train.config.passes import passes
from vim_train.config.schema import DataConfig, DataName, TrainConfig
from vim_train.data.images import open_images
from vim_train.data.sources import Source, Split
from vim_train.data.sources.stand_in import StandInSource
from vim_train.engine.checkpoint import CheckpointError
from vim_train.engine.ranks import Ranks
from vim_train.engine.schedule import Schedule
from vim_train.engine.state import DivergedError
from vim_train.report.plan import PlanScreen
from vim_train.report.text import duration, memory, rate
from vim_train.tasks.classification import Classification
from vim_train.tasks.facts import provenance
from vim_train.tasks.trial import Trial, duration_of, trial_trainer, try_out


def open_or_stand_in(data: DataConfig, split: Split) -> Source:
    """The images that a plan is made for: where data.root is not set, synthetic ones in ImageNet-1k's number.

    Raises:
        UserError: as `open_images`.
    """
    if data.name is DataName.folder and data.root is None:
        return StandInSource(split)
    return open_images(data, split)


def dry_run(cfg: TrainConfig, task: Classification, schedule: Schedule, ranks: Ranks, notes: Sequence[str]) -> int:
    """Print the plan of a run, try two steps and say what follows from them; returns the exit code.

    Args:
        notes: on the weights that the run starts from.
    """
    screen = PlanScreen(quiet=not ranks.first)
    facts = provenance(cfg, task, schedule, Path(cfg.run.root) / cfg.run.name)
    screen.facts(f"dry run of {cfg.run.name}: no run folder is made", facts)
    screen.facts("an epoch", _epoch(cfg, task, ranks.world))
    screen.table("learning rate, at the first step of an epoch", _rates(schedule))
    with trial_trainer(cfg, task, schedule, ranks) as trainer:
        screen.table("parameters", list(_groups(task.model, trainer.state.optimizer)))
        for note in notes:
            screen.note(note)
        try:
            trial = try_out(cfg, trainer, task, screen)
        except DivergedError as error:
            screen.note(f"stopped: {error}")
            return DIVERGED
        except CheckpointError as error:
            screen.note(f"stopped: the checkpoint could not be written: {error}")
            return FAILED
    screen.facts("memory", _memory(trial, ranks))
    screen.facts("time, estimated from the last trial step", _times(cfg, task, schedule, ranks, trial))
    return 0


def _epoch(cfg: TrainConfig, task: Classification, world: int) -> dict[str, str]:
    data, steps = cfg.data, task.steps_per_epoch
    draws = steps * data.batch_size
    views = f", each {data.repeats} times (repeated augmentation)" if data.repeats > 1 else ""
    lanes = data.batch_size // data.lane
    return {
        "steps": f"{steps:,}",
        "images": f"{draws:,} drawn, {task.train_stream.distinct_images(0):,} distinct{views}",
        "lanes": f"{lanes:,} a step, of {data.lane:,} images mixed by one draw; {lanes // passes(cfg, world):,} a pass",
    }


def _rates(schedule: Schedule) -> list[tuple[str, ...]]:
    """The schedule at its telling epochs: about warm-up, at each tenth, and the last."""
    epochs, warm = schedule.cfg.epochs, int(schedule.cfg.warmup_epochs)
    telling = {0, 1, 2, warm, warm + 1, epochs - 1, *(epochs * tenth // 10 for tenth in range(1, 10))}
    rows: list[tuple[str, ...]] = [("epoch", "step", "rate")]
    for epoch in sorted(each for each in telling if each < epochs):
        step = epoch * schedule.steps_per_epoch
        rows.append((str(epoch), f"{step:,}", f"{schedule.lr(step):.7g}"))
    return rows


def _groups(model: nn.Module, optimizer: Optimizer) -> Iterator[tuple[str, ...]]:
    """A row a group of the optimiser, the decayed ones first, and one of what is not trained."""
    yield "decay", "rate x", "tensors", "parameters", "which"
    left = {id(p): name for name, p in model.named_parameters()}
    sizes = {id(p): p.numel() for p in model.parameters()}
    for group in sorted(optimizer.param_groups, key=lambda group: -group["weight_decay"]):
        own = [id(p) for p in group["params"]]
        which = patterns(left.pop(each) for each in own)
        size = sum(sizes[each] for each in own)
        yield f"{group['weight_decay']:g}", f"{group.get('lr_scale', 1.0):g}", str(len(own)), f"{size:,}", which
    if left:
        size = sum(sizes[each] for each in left)
        yield "-", "not trained", str(len(left)), f"{size:,}", patterns(left.values())


def patterns(names: Iterable[str]) -> str:
    """Names with `*` for the numbers of blocks, each pattern once."""
    return ", ".join(dict.fromkeys(re.sub(r"\.\d+(?=\.)", ".*", name) for name in names))


def _memory(trial: Trial, ranks: Ranks) -> dict[str, str]:
    of = "the GPU, as torch counts it" if ranks.device.type == "cuda" else "the process"
    shown = {what: memory(size / 2**20) for what, size in trial.memory.items()}
    return shown | {"peak": f"{memory(trial.peak / 2**20)} of {of}" + (", in each rank" if ranks.world > 1 else "")}


def _times(cfg: TrainConfig, task: Classification, schedule: Schedule, ranks: Ranks, trial: Trial) -> dict[str, str]:
    count = passes(cfg, ranks.world)
    step = count * trial.step_s
    models = 1 if cfg.ema.decay is None else 2
    images = len(task.val_source)
    evaluation = models * images / (trial.eval_images_per_s * ranks.world)
    steps = {"evaluation": cfg.eval.every, "checkpoint": cfg.checkpoint.every}
    times = {
        what: -(-schedule.total_steps // to_steps(text, schedule.steps_per_epoch, cfg.data.batch_size))
        for what, text in steps.items()
    }
    whole = schedule.total_steps * step + times["evaluation"] * evaluation
    kinds = "weights and averaged weights" if models == 2 else "weights"
    return {
        "a step": f"{duration_of(step)}"
        + (f" = {count} passes of {duration_of(trial.step_s)}" if count > 1 else "")
        + f", {rate(cfg.data.batch_size / step)} images/s",
        "an epoch": duration(schedule.steps_per_epoch * step),
        "an evaluation": f"{duration(evaluation)}: {kinds} on {images:,} images; {times['evaluation']:,} of them",
        "a checkpoint": f"{duration_of(trial.save_s)}, {memory(trial.saved / 2**20)}, written beside training; "
        f"{times['checkpoint']:,} of them",
        "the run": f"{duration(whole)}, where images are read as fast as they are trained on",
    }
