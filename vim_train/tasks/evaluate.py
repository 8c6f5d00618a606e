"""A checkpoint's metrics on the validation images of its own or another data set, and on ImageNet's other sets."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from rich.console import Console
from rich.table import Table

from vim_train.config.commands import EvalCommand
from vim_train.config.compose import Plain
from vim_train.config.errors import UserError
from vim_train.config.evaluation import evaluation_config
from vim_train.engine.launch import check_launched, launch, launched
from vim_train.engine.precision import set_precision
from vim_train.engine.ranks import Ranks, join_ranks
from vim_train.engine.setup import choose_device, configure_torch
from vim_train.tasks.classification import classification_counts
from vim_train.tasks.passes import Setting, passes
from vim_train.tasks.predictions import Predictions
from vim_train.tasks.pretrained import open_pretrained
from vim_train.tasks.suites import plan

Row = dict[str, object]


def evaluate(command: EvalCommand, plain: Plain) -> int:
    """Print, and with `json` write, the metrics of weights and averaged weights; returns the exit code.

    With `gpus` above 1 this process only starts and watches those that evaluate.

    Raises:
        UserError: no such checkpoint or weights, or images that do not fit it.
        LostRankError: another rank has ended or does not answer.
    """
    if command.gpus is not None and not launched():
        choose_device(command.device)
        return launch(command.gpus, command.device, [sys.executable, "-m", "vim_train.cli.eval", *_arguments()])
    with join_ranks(command.device) as ranks:
        record = _evaluate(command, ranks)
    if ranks.first and command.json is not None:
        _write(Path(command.json), record)
    return 0


def _evaluate(command: EvalCommand, ranks: Ranks) -> Row:
    check_launched(command.gpus)
    found = ranks.together(lambda: open_pretrained(command.checkpoint, command.weights))
    cfg = evaluation_config(found.cfg, command)
    ranks.together(lambda: configure_torch(command.ops, cfg.determinism, ranks.device))
    todo = ranks.together(lambda: plan(command))
    precision = set_precision(command.precision.amp, ranks.device)
    out = None if command.out is None else Path(command.out)
    setting = Setting(found, cfg, command.tta, precision, ranks, out, command.refresh)
    if ranks.first:
        step = "unknown" if found.step is None else found.step
        print(f"{found.checkpoint}, step {step}, {cfg.data.img_size} px")
        for note in found.notes:
            print(f"  {note}")
    suites: dict[str, Row] = {}
    for which in found.weights:
        for passed in passes(setting, todo, which):
            row = suites.setdefault(passed.predictions.suite, {"images": len(passed.predictions.names)})
            row[which] = _metrics(passed.predictions, cfg.data.eval_batch_size)
            row.setdefault("notes", passed.notes)
            rates = row.setdefault("images_per_s", {})
            assert isinstance(rates, dict)
            rates[which] = passed.images_per_s
    suites |= {name: {"skipped": reason} for name, reason in todo.skipped.items()}
    if ranks.first:
        _show(suites, list(found.weights))
    return {"checkpoint": found.path, "step": found.step, "img_size": cfg.data.img_size, "suites": suites}


def _arguments() -> list[str]:
    """The command line again; of a sweep, that of the job."""
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        return list(HydraConfig.get().overrides.task)
    return sys.argv[1:]


def _metrics(predictions: Predictions, batch_size: int) -> dict[str, float]:
    """Top-1 and top-5 in per cent and mean cross-entropy, in the order of sums that training has; none without labels.

    ImageNet-A and -R are judged among their own 200 classes.
    """
    logits, labels = torch.from_numpy(predictions.logits), torch.from_numpy(predictions.labels)
    if not len(labels) or (labels < 0).any():
        return {}
    if predictions.suite in ("a", "r"):
        own, labels = torch.unique(labels, return_inverse=True)
        logits = logits[:, own]
    every = [
        classification_counts(logits[i : i + batch_size], labels[i : i + batch_size])
        for i in range(0, len(labels), batch_size)
    ]
    images, top1, top5, loss = sum(every[1:], every[0]).tolist()
    return {"loss": loss / images, "top1": 100 * top1 / images, "top5": 100 * top5 / images}


def _show(suites: dict[str, Row], weights: Sequence[str]) -> None:
    table = Table(pad_edge=False)  # fits 80 columns
    for name in ("suite", "weights"):
        table.add_column(name, no_wrap=True)
    for name in ("top-1\n%", "top-5\n%", "loss", "images", "images\n/ s"):
        table.add_column(name, justify="right", no_wrap=True)
    for suite, row in suites.items():
        if "skipped" in row:
            table.add_row(suite, "skipped")
            continue
        rates = row["images_per_s"]
        assert isinstance(rates, dict)
        for which in weights:
            metrics = row[which]
            assert isinstance(metrics, dict)
            numbers = [f"{metrics[name]:.{digits}f}" if metrics else "-" for name, digits in SHOWN.items()]
            rate = "kept" if rates[which] is None else f"{rates[which]:,.0f}"
            table.add_row(suite, which, *numbers, f"{row['images']:,}", rate)
    Console().print(table)
    for suite, row in suites.items():
        notes = row.get("notes", [])
        assert isinstance(notes, list)
        for note in [f"skipped: {row['skipped']}"] if "skipped" in row else notes:
            print(f"{suite}: {note}")


SHOWN = {"top1": 2, "top5": 2, "loss": 4}
"""Digits by metric."""


def _write(path: Path, record: Row) -> None:
    try:
        path.write_text(json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"json={path}: {error.strerror}") from error
