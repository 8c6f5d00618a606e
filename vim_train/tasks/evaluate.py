"""A checkpoint's metrics on the validation images of its own or another data set."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from vim_train.config.compose import Plain
from vim_train.config.errors import UserError
from vim_train.config.evaluation import run_config
from vim_train.config.schema import EvalCommand, Weights
from vim_train.data.sources.classes import difference
from vim_train.engine.checkpoint import NoEmaError, load_weights
from vim_train.engine.evaluation import evaluate as evaluate_model
from vim_train.engine.manifest import EMA
from vim_train.engine.precision import set_precision
from vim_train.engine.ranks import Ranks
from vim_train.engine.setup import choose_device, configure_torch
from vim_train.tasks.build import build_model
from vim_train.tasks.classification import Validation
from vim_train.tasks.weights import load_into


def evaluate(command: EvalCommand, plain: Plain) -> int:
    """Print, and with `json` write, the metrics of raw and averaged weights; returns the exit code.

    Raises:
        UserError: no such checkpoint or weights, or data that does not fit it.
    """
    cfg = run_config(command)
    device = choose_device(command.device)
    configure_torch(command.ops, cfg.determinism, device)
    validation = Validation(cfg, Ranks(device))
    precision = set_precision(command.precision.amp, device)
    model = build_model(cfg, len(validation.classes)).to(device)
    rows: dict[str, dict[str, float]] = {}
    meta: dict[str, object] = {}
    try:
        for which in _wanted(command):
            name: Literal["ema", "model"] = "ema" if which is Weights.ema else "model"
            meta = load_into(model, command.checkpoint, name, partial(_check_classes, classes=validation.classes))
            rows[which.value] = evaluate_model(validation, model, precision, Ranks(device)) or {}
    finally:
        validation.close()
    images = len(validation.val_source)
    _show(command.checkpoint, meta, f"{images:,} images, {validation.val_source.form}", rows)
    if command.json is not None:
        record = {"checkpoint": str(meta["path"]), "step": meta.get("step"), "images": images, **rows}
        _write(Path(command.json), record)
    return 0


def _wanted(command: EvalCommand) -> list[Weights]:
    path = Path(command.checkpoint)
    if path.is_file():  # one file holds one set of weights
        held = Weights.ema if path.name == EMA else Weights.raw
        if command.weights not in (held, Weights.both):
            raise UserError(f"weights={command.weights.value}: {path} holds the {held.value} weights")
        return [held]
    if command.weights is not Weights.both:
        return [command.weights]
    try:
        load_weights(command.checkpoint, "ema")
    except NoEmaError:
        return [Weights.raw]
    return [Weights.raw, Weights.ema]


def _check_classes(meta: dict[str, object], classes: Sequence[str]) -> None:
    """Raises:
    UserError: not the checkpoint's classes, or in another order: all labels would be wrong.
    """
    trained = meta.get("classes")
    if isinstance(trained, list) and (how := difference(trained, classes)):
        raise UserError(f"data.root: its classes are not the checkpoint's: it {how}")


def _show(checkpoint: str, meta: dict[str, object], images: str, rows: dict[str, dict[str, float]]) -> None:
    table = Table()
    table.add_column("weights")
    for name in ("top-1 %", "top-5 %", "loss"):
        table.add_column(name, justify="right")
    for which, metrics in rows.items():
        table.add_row(which, f"{metrics['top1']:.2f}", f"{metrics['top5']:.2f}", f"{metrics['loss']:.4f}")
    print(f"{checkpoint}, step {meta.get('step', 'unknown')}: {images}")
    Console().print(table)


def _write(path: Path, record: dict[str, object]) -> None:
    try:
        path.write_text(json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"json={path}: {error.strerror}") from error
