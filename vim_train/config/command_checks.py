"""Checks of the commands beside `vim-train`, as `config.checks` has them for that one."""

from dataclasses import asdict
from pathlib import Path

from vim_train.config.checks import check_data, check_device, check_ranges, refusal
from vim_train.config.commands import (
    OWN_SUITES,
    SUITES,
    CountCommand,
    EvalCommand,
    ExportCommand,
    ExportFormat,
    IndexCommand,
    PredictCommand,
    VerifyCommand,
)
from vim_train.config.errors import UserError
from vim_train.config.keys import any_of, suggest
from vim_train.config.references import check_checkpoint


def check_eval(cfg: EvalCommand) -> None:
    """Refuse what cannot be evaluated; the data is checked once it is merged with the run's own.

    Raises:
        UserError: as for `check_train`.
    """
    check_ranges(cfg)
    check_device(cfg.device, cfg.ops.backend)
    check_checkpoint("checkpoint", cfg.checkpoint)
    _check_suite(cfg)
    if cfg.out is not None and (not cfg.out or Path(cfg.out).is_file()):
        raise refusal("out", cfg.out, "a folder, new or of an earlier evaluation")
    if cfg.refresh and cfg.out is None:
        raise UserError("refresh=true: goes with out=DIR, where predictions are kept")
    if cfg.tta.crops == 10 and cfg.tta.hflip:
        raise UserError("tta.crops=10: has the mirrored views already; leave tta.hflip out, or take tta.crops=5")


def _check_suite(cfg: EvalCommand) -> None:
    """Raises UserError: an unknown set, a root that is no folder, or one that goes with none of the sets asked for."""
    if not cfg.suite:
        raise refusal("suite", cfg.suite, f"some of [{','.join(SUITES)}]")
    for name in cfg.suite:
        if name not in SUITES:
            near = suggest(name, SUITES)
            meant = f"; did you mean {any_of(near)}?" if near else ""
            raise UserError(f"suite=[{','.join(cfg.suite)}]: {name} is none of {', '.join(SUITES)}{meant}")
    if "o" in cfg.suite and "val" not in cfg.suite:
        asked = ",".join(cfg.suite)
        raise UserError(f"suite=[{asked}]: o is judged beside val; takes suite=[val,{asked}]")
    if cfg.data.root is not None and not set(OWN_SUITES) & set(cfg.suite):
        roots = [f"roots.{name}" for name in dict.fromkeys(cfg.suite) if getattr(cfg.roots, name) is None]
        meant = f"; is {any_of(roots)} meant?" if roots else ""
        raise UserError(f"data.root={cfg.data.root}: goes with val or real in suite=[...]{meant}")
    for name, root in asdict(cfg.roots).items():
        if root is None:
            continue
        if name not in cfg.suite:
            raise UserError(f"roots.{name}={root}: goes with {name} in suite=[...]")
        if not root or not Path(root).expanduser().is_dir():
            what = "is a file" if root and Path(root).is_file() else "no such folder"
            raise UserError(f"roots.{name}={root}: {what}")


def check_predict(cfg: PredictCommand) -> None:
    """Refuse what cannot be predicted; bad images are told as they come.

    Raises:
        UserError: as for `check_train`.
    """
    check_ranges(cfg)
    check_device(cfg.device, cfg.ops.backend)
    check_checkpoint("checkpoint", cfg.checkpoint)
    if not cfg.images or not all(cfg.images):
        raise refusal("images", cfg.images, "files, folders, patterns, @FILE or -")
    if cfg.images.count("-") > 1:
        raise refusal("images", cfg.images, "- once: standard input can be read only once")
    _check_new_file("out", cfg.out)
    _check_new_file("sheet", cfg.sheet)
    if cfg.sheet is not None and Path(cfg.sheet).suffix.lower() != ".png":
        raise refusal("sheet", cfg.sheet, "a file named .png")


def _check_new_file(key: str, path: str | None) -> None:
    """Raises UserError: nothing can be written there."""
    if path is not None and not Path(path).resolve().parent.is_dir():
        raise UserError(f"{key}={path}: no such folder")
    if path is not None and Path(path).is_dir():
        raise UserError(f"{key}={path}: is a folder; takes a file")


def check_export(cfg: ExportCommand) -> None:
    """Refuse what cannot be exported.

    Raises:
        UserError: as for `check_train`.
    """
    check_ranges(cfg)
    check_data(cfg.data)
    if not cfg.out:
        raise refusal("out", cfg.out, "a folder, new or of the same export")
    if Path(cfg.out).is_file():
        raise UserError(f"out={cfg.out}: is a file; takes a folder, new or of the same export")
    if cfg.format is ExportFormat.folder and cfg.shard_images != ExportCommand.shard_images:
        goes = "goes with format=shards; format=folder writes a file an image"
        raise UserError(f"shard_images={cfg.shard_images}: {goes}")


def check_data_command(cfg: IndexCommand | VerifyCommand | CountCommand) -> None:
    """Refuse what cannot be looked through.

    Raises:
        UserError: as for `check_train`.
    """
    check_ranges(cfg)
    check_data(cfg.data)
    if isinstance(cfg, VerifyCommand) and cfg.hashes == "":
        raise refusal("hashes", cfg.hashes, "a file, new or written by verify")
    if isinstance(cfg, VerifyCommand) and cfg.hashes is not None and not Path(cfg.hashes).resolve().parent.is_dir():
        raise UserError(f"hashes={cfg.hashes}: no such folder")
