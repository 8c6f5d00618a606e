"""A whole run: set up, build, take up an earlier checkpoint, train, leave with an exit code."""

import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from vim_train.config.checks import peak_lr
from vim_train.config.compose import Plain
from vim_train.config.differences import allowed, covers
from vim_train.config.errors import DIVERGED, FAILED, UserError
from vim_train.config.redact import find_secrets, redact
from vim_train.config.references import check_checkpoint
from vim_train.config.schema import TrainConfig
from vim_train.data.batch import Batch
from vim_train.data.images import open_images
from vim_train.data.sources.classes import difference
from vim_train.engine import checkpoint
from vim_train.engine.checkpoint import CheckpointError, Found
from vim_train.engine.drift import DriftError
from vim_train.engine.launch import check_launched, launch, launched
from vim_train.engine.loop import Trainer
from vim_train.engine.ranks import Ranks, join_ranks
from vim_train.engine.rundir import Run, open_run
from vim_train.engine.schedule import Schedule
from vim_train.engine.setup import choose_device, configure_torch
from vim_train.engine.state import DivergedError
from vim_train.engine.stopping import StopRequest, stop_on_signals
from vim_train.engine.watchdog import Watchdog
from vim_train.report.report import NullReport, Report, open_report
from vim_train.report.stream import output_may_close
from vim_train.report.summary import versions
from vim_train.tasks.build import architecture
from vim_train.tasks.classification import Classification
from vim_train.tasks.facts import device_name, provenance
from vim_train.tasks.plan import dry_run, open_or_stand_in
from vim_train.tasks.replay import replay
from vim_train.tasks.weights import start_from


@output_may_close()
def train(cfg: TrainConfig, plain: Plain) -> int:
    """Train, from the newest checkpoint where the run has one, or only plan it; returns the exit code.

    With `gpus` above 1 this process only starts and watches those that do.

    Raises:
        UserError: anything the user can put right; nothing has been trained then.
        LostRankError: another rank has ended or does not answer.
    """
    if cfg.replay is not None:
        return replay(cfg)
    if cfg.gpus is not None and not launched():
        choose_device(cfg.device)
        argv = [sys.executable, "-m", "vim_train.cli.train", *_arguments(cfg)]
        return launch(cfg.gpus, cfg.device, argv, "vim-train")
    with join_ranks(cfg.device, cfg.run.hang_timeout_s) as ranks:
        # The first looks through the images, the others find the index it has left.
        built = ranks.together(lambda: _build(cfg, ranks) if ranks.first else None)
        task, schedule = ranks.together(lambda: built or _build(cfg, ranks))
        with ExitStack() as stack:
            stack.callback(task.close)
            if cfg.dry_run:
                notes = ranks.together(lambda: _planned_weights(cfg, task))
                return dry_run(cfg, task, schedule, ranks, notes)
            run = ranks.together(lambda: _open(cfg, plain, stack) if ranks.first else None)
            place = ranks.once(lambda: (run.path, run.resume_from) if run else None)
            assert place is not None
            notes = run.notes if run else []
            report: Report = NullReport()
            if ranks.first:
                report = open_report(cfg, plain, place[0], place[1].step if place[1] else None)
            stack.callback(report.close)
            stop = stack.enter_context(stop_on_signals())
            return _train(cfg, task, schedule, Opened(*place, notes), report, stop, ranks)


def _arguments(cfg: TrainConfig) -> list[str]:
    """The command line again; of a sweep, that of the job."""
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        own = [item for item in HydraConfig.get().overrides.task if not item.startswith("run.name=")]
        return [*own, _assignment("run.name", cfg.run.name)]
    return sys.argv[1:]


class Opened(NamedTuple):
    """A run directory as all ranks know it; only the first has notes."""

    path: Path
    resume_from: Found | None
    notes: list[str]


def _build(cfg: TrainConfig, ranks: Ranks) -> tuple[Classification, Schedule]:
    check_launched(cfg.gpus)
    configure_torch(cfg.ops, cfg.determinism, ranks.device)
    task = Classification(cfg, ranks, open_or_stand_in if cfg.dry_run else open_images)
    return task, Schedule(cfg.schedule, peak_lr(cfg.optim, cfg.data.batch_size), task.steps_per_epoch)


def _open(cfg: TrainConfig, plain: Plain, stack: ExitStack) -> Run:
    hidden = redact(plain, find_secrets())
    run = stack.enter_context(open_run(cfg.run.root, cfg.run.name, cfg.run.resume, hidden, cfg.run.allow))
    if hidden != plain:
        run.notes.append("*** in config.yaml stands for a key or password that the environment or a URL holds")
    return run


def _train(
    cfg: TrainConfig,
    task: Classification,
    schedule: Schedule,
    run: Opened,
    report: Report,
    stop: StopRequest,
    ranks: Ranks,
) -> int:
    parent = os.getppid()
    if ranks.first:
        report.start(provenance(cfg, task, schedule, run.path))
    notes = run.notes + ranks.together(lambda: _start_weights(cfg, run, task))
    meta = {
        "config": _identity(cfg),
        "classes": task.classes,
        "fingerprint": task.train_stream.fingerprint(),
        "val_fingerprint": task.val_source.fingerprint(),
        "teacher": task.teacher and task.teacher.digest,
        "versions": {**versions(), "device": device_name(task.device)},
    }
    trainer = Trainer(cfg, task, schedule, ranks, run.path, meta, report, stop)
    notes += ranks.together(lambda: _resume(cfg, run, trainer))
    ranks.together(lambda: trainer.saver.check_disk() if ranks.first else None)
    for note in notes:
        report.event(trainer.state.counters.step, note)
    try:
        with Watchdog(ranks.heart, ranks.rank, ranks.world, cfg.run.hang_timeout_s, run.path):
            trainer.train()
    except DivergedError as error:
        report.event(trainer.state.counters.step, f"stopped: {error}")
        return DIVERGED
    except DriftError as error:
        report.event(trainer.state.counters.step, f"stopped: {error}")
        return FAILED
    except CheckpointError as error:
        text = f"stopped: the checkpoint could not be written: {error}; {_where_it_goes_on(run.path)}"
        report.event(trainer.state.counters.step, text)
        return FAILED
    counters = trainer.state.counters
    if stop.caught is not None and not trainer.finished:
        orphaned = stop.caught is signal.SIGHUP and launched() and os.getppid() != parent
        cause = "the launcher has gone" if orphaned else stop.caught.name
        saved = f"saved at step {counters.step:,} of {trainer.total_steps:,}"
        report.event(counters.step, f"{cause}: {saved}; the same command goes on from there")
        return stop.exit_code
    early = counters.stopped_early
    if early:
        epoch, best = (step / schedule.steps_per_epoch for step in (counters.step, counters.best_step or 0))
        no_better = f"no {task.headline} above that of epoch {best:.3g} for eval.patience={cfg.eval.patience}"
        report.event(counters.step, f"stopped early at epoch {epoch:.3g} of {cfg.schedule.epochs}: {no_better}")
    bad = [asdict(record) for record in task.bad_images()]
    counts = {"skipped_updates": counters.skipped, "fp16_overflows": counters.overflows}
    report.finish({"finished": True, "stopped_early": early, **counts, "bad_images": bad}, _next(cfg, run.path))
    return 0


def _where_it_goes_on(run: Path) -> str:
    """The step that the same command would go on from, in words."""
    try:
        newest = checkpoint.latest(run)
    except CheckpointError as error:
        return str(error)
    return "there is no earlier one" if newest is None else f"the same command goes on from step {newest.step:,}"


def _start_weights(cfg: TrainConfig, run: Opened, task: Classification) -> list[str]:
    """Load what a new run is to start from; returns notes for the user."""
    if run.resume_from is not None or cfg.model.checkpoint is None:
        return []
    return start_from(task.model, cfg.model)


def _planned_weights(cfg: TrainConfig, task: Classification) -> list[str]:
    """The same for a plan, which does without weights that are not there yet."""
    if cfg.model.checkpoint is None:
        return []
    try:
        check_checkpoint("model.checkpoint", cfg.model.checkpoint)
    except UserError as error:
        return [f"planned with fresh weights: {error}"]
    return start_from(task.model, cfg.model)


def _resume(cfg: TrainConfig, run: Opened, trainer: Trainer[Batch]) -> list[str]:
    """Take up the checkpoint, where there is one; returns notes for the user."""
    if run.resume_from is None:
        return []
    loaded = checkpoint.load(run.resume_from.path, run.resume_from.sha256)
    notes = _check_same_data(loaded.meta, trainer.meta, cfg.run.allow)
    notes += _check_same_teacher(loaded.meta, trainer.meta, cfg) + _other_versions(loaded.meta, trainer.meta)
    trainer.restore(loaded)
    return notes


def _identity(cfg: TrainConfig) -> dict[str, object]:
    """What a file of weights found alone needs to be told apart and used: see `tasks.weights.tell_model`."""
    data, told = cfg.data, {"model": cfg.model.name, "img_size": cfg.data.img_size, "data": cfg.data.name.value}
    seen = {"mean": data.mean, "std": data.std, "crop_pct": data.crop_pct}
    return told | seen | {"architecture": architecture(cfg.model)}


def _check_same_data(then: Mapping[str, object], now: Mapping[str, object], allow: Sequence[str]) -> list[str]:
    """Notes on data that has changed since the checkpoint and is accepted, with `run.allow=[data.root]`.

    Raises:
        UserError: it has changed, so that going on would not be the same run.
    """
    if then.get("classes") != now["classes"]:
        how = _difference(then.get("classes"), now["classes"])
        raise UserError(
            f"the classes of data.root are not those of the checkpoint{how}; take another run.name to start anew"
        )
    parts = {"fingerprint": "images", "val_fingerprint": "validation images"}
    others = [name for key, name in parts.items() if then.get(key) != now[key]]
    if not others:
        return []
    changed = f"the {' and '.join(others)} of data.root are not those of the checkpoint (added, removed or changed)"
    if any(covers(name, "data.root") for name in allow):
        return [f"warning: {changed}: goes on all the same"]
    raise UserError(f"{changed}; restore them, take another run.name to start anew, or run.allow=[data.root] to go on")


def _check_same_teacher(then: Mapping[str, object], now: Mapping[str, object], cfg: TrainConfig) -> list[str]:
    """A note on another teacher than the checkpoint's that is accepted, with `run.allow=[task.teacher]`.

    Raises:
        UserError: it is another, so that going on would not be the same run.
    """
    if then.get("teacher") == now["teacher"]:
        return []
    changed = f"the weights of task.teacher={cfg.task.teacher} are not those that the checkpoint learnt from"
    if allowed("task.teacher", cfg.run.allow):
        return [f"{changed}: goes on all the same"]
    raise UserError(f"{changed}; put them back, take another run.name, or run.allow=[task.teacher] to go on")


def _difference(then: object, now: object) -> str:
    return f": it {difference(then, now)}" if isinstance(then, list) and isinstance(now, list) else ""


def _other_versions(then: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """A note on packages and devices that changed since the checkpoint: the last bits of pixels and sums may differ."""
    old, new = then.get("versions"), now["versions"]
    if not isinstance(old, dict) or not isinstance(new, dict):
        return []
    changed = [f"{name} {old.get(name)} is now {new[name]}" for name in new if old.get(name) != new[name]]
    return [f"not exactly the run it was: {', '.join(changed)}"] if changed else []


def _next(cfg: TrainConfig, run_dir: Path) -> list[str]:
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    kept = [item for item in given if not item.startswith(("run.name=", "run.allow=", "schedule.epochs="))]
    train = _command("vim-train")
    name = _assignment("run.name", f"{cfg.run.name}-longer")
    longer = shlex.join([train, *kept, name, f"schedule.epochs={2 * cfg.schedule.epochs}"])
    own = f"{train} data=folder data.root=PHOTOS data.img_size=28 run.name=mine  # one folder a class"
    return [f"{_command('vim-eval')} checkpoint={run_dir}", longer, own]


def _assignment(key: str, value: str) -> str:
    """As Hydra reads it: what is not plain stands in quotes."""
    if re.fullmatch(r"[\w.@/+-]+", value):
        return f"{key}={value}"
    return key + '="' + value.replace('"', '\\"') + '"'


def _command(name: str) -> str:
    """How to call a console command from here: by name, or by path where it is not on PATH."""
    if shutil.which(name) is not None:
        return name
    path, here = Path(sys.executable).parent / name, Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
