"""A checkpoint judged on the validation images of its own or another data set, and on ImageNet's other sets."""

import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from vim_train.config.commands import EvalCommand
from vim_train.config.compose import Plain
from vim_train.config.evaluation import evaluation_config
from vim_train.engine.compiling import compiles
from vim_train.engine.launch import check_launched, launch, launched
from vim_train.engine.precision import set_precision
from vim_train.engine.ranks import Ranks, join_ranks
from vim_train.engine.setup import choose_device, configure_torch
from vim_train.report.stream import output_may_close
from vim_train.tasks.eval_passes import Setting, eval_passes
from vim_train.tasks.eval_report import report
from vim_train.tasks.predictions import Predictions
from vim_train.tasks.pretrained import open_pretrained
from vim_train.tasks.suites import plan


@output_may_close()
def evaluate(command: EvalCommand, plain: Plain) -> int:
    """Print the metrics of weights and averaged weights, and write them where `out` says; returns the exit code.

    With `gpus` above 1 this process only starts and watches those that evaluate.

    Raises:
        UserError: no such checkpoint or weights, or images that do not fit it.
        LostRankError: another rank has ended or does not answer.
    """
    if command.gpus is not None and not launched():
        choose_device(command.device)
        argv = [sys.executable, "-m", "vim_train.cli.eval", *_arguments()]
        return launch(command.gpus, command.device, argv, "vim-eval")
    with join_ranks(command.device) as ranks:
        _evaluate(command, ranks)
    return 0


def _evaluate(command: EvalCommand, ranks: Ranks) -> None:
    check_launched(command.gpus)
    found = ranks.together(lambda: open_pretrained(command.checkpoint, command.weights))
    cfg = evaluation_config(found.cfg, command)
    ranks.together(lambda: configure_torch(command.ops, cfg.determinism, ranks.device))
    todo = ranks.together(lambda: plan(command))
    precision = set_precision(command.precision.amp, ranks.device)
    out = None if command.out is None else Path(command.out)
    told = list(found.notes)
    compile_ = compiles(command.ops.compile, ranks.device, cfg.determinism, told.append)
    setting = Setting(found, cfg, command.tta, precision, compile_, ranks, out, command.refresh)
    if ranks.first:
        print(*told, sep="\n", end="\n" if told else "", flush=True)
    notes: dict[str, list[str]] = {}
    rates: dict[tuple[str, str], float | None] = {}

    def predicted(which: str) -> Iterator[Predictions]:
        for passed in eval_passes(setting, todo, which):
            suite = passed.predictions.suite.partition("/")[0]
            notes.setdefault(suite, passed.notes)
            rates[suite, which] = passed.images_per_s
            yield passed.predictions

    predictions = {which: predicted(which) for which in found.weights}
    if not ranks.first:  # has its share in every pass, and nothing to tell
        for each in predictions.values():
            deque(each, maxlen=0)
        return
    step = "unknown" if found.step is None else f"{found.step:,}"
    facts: dict[str, object] = {
        "path": found.path,
        "step": found.step,
        "img_size": cfg.data.img_size,
        "crop_pct": cfg.data.crop_pct,
        "tta": asdict(command.tta),
        "precision": cfg.precision.amp.value,
    }
    views = command.tta.crops * (2 if command.tta.hflip and command.tta.crops < 10 else 1)
    averaged = "" if views == 1 else f", mean of {views} views"
    title = f"{found.checkpoint}, step {step}, {cfg.data.img_size} px{averaged}"
    report(predictions, title, out, facts, notes, rates, todo.skipped)


def _arguments() -> list[str]:
    """The command line again; of a sweep, that of the job."""
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        return list(HydraConfig.get().overrides.task)
    return sys.argv[1:]
