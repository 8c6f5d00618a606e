"""A checkpoint's metrics on the validation images of its own or another data set."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vim_train.config.commands import EvalCommand
from vim_train.config.compose import Plain
from vim_train.config.errors import UserError
from vim_train.config.evaluation import evaluation_config
from vim_train.data.sources.classes import difference
from vim_train.engine.evaluation import evaluate as evaluate_model
from vim_train.engine.precision import set_precision
from vim_train.engine.ranks import Ranks
from vim_train.engine.setup import choose_device, configure_torch
from vim_train.tasks.classification import Validation
from vim_train.tasks.pretrained import Pretrained, open_pretrained


def evaluate(command: EvalCommand, plain: Plain) -> int:
    """Print, and with `json` write, the metrics of weights and averaged weights; returns the exit code.

    Raises:
        UserError: no such checkpoint or weights, or data that does not fit it.
    """
    found = open_pretrained(command.checkpoint, command.weights)
    cfg = evaluation_config(found.cfg, command)
    device = choose_device(command.device)
    configure_torch(command.ops, cfg.determinism, device)
    validation = Validation(cfg, Ranks(device))
    rows: dict[str, dict[str, float]] = {}
    try:
        _check_classes(found.classes, validation.classes)
        precision = set_precision(command.precision.amp, device)
        for which in found.weights:
            model = found.build(which, len(validation.classes), cfg.data.img_size, device)
            rows[which] = evaluate_model(validation, model, precision, Ranks(device)) or {}
    finally:
        validation.close()
    images = len(validation.val_source)
    _show(found, f"{images:,} images, {validation.val_source.form}", rows)
    if command.json is not None:
        _write(Path(command.json), {"checkpoint": found.path, "step": found.step, "images": images, **rows})
    return 0


def _check_classes(trained: Sequence[str] | None, classes: Sequence[str]) -> None:
    """Raises:
    UserError: not the checkpoint's classes, or in another order: all labels would be wrong.
    """
    if trained is not None and (how := difference(trained, classes)):
        raise UserError(f"data.root: its classes are not the checkpoint's: it {how}")


def _show(found: Pretrained, images: str, rows: dict[str, dict[str, float]]) -> None:
    table = Table()
    table.add_column("weights")
    for name in ("top-1 %", "top-5 %", "loss"):
        table.add_column(name, justify="right")
    for which, metrics in rows.items():
        table.add_row(which, f"{metrics['top1']:.2f}", f"{metrics['top5']:.2f}", f"{metrics['loss']:.4f}")
    print(f"{found.checkpoint}, step {'unknown' if found.step is None else found.step}: {images}")
    for note in found.notes:
        print(f"  {note}")
    Console().print(table)


def _write(path: Path, record: dict[str, object]) -> None:
    try:
        path.write_text(json.dumps(record, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"json={path}: {error.strerror}") from error
