"""Checks of the commands beside `vim-train`, as `config.checks` has them for that one."""

from pathlib import Path

from vim_train.config.checks import check_data, check_device, check_ranges, refusal
from vim_train.config.commands import (
    CountCommand,
    EvalCommand,
    ExportCommand,
    ExportFormat,
    IndexCommand,
    VerifyCommand,
)
from vim_train.config.errors import UserError


def check_eval(cfg: EvalCommand) -> None:
    """Refuse what cannot be evaluated; the data is checked once it is merged with the run's own.

    Raises:
        UserError: as for `check_train`.
    """
    check_ranges(cfg)
    check_device(cfg.device, cfg.ops.backend)
    if not Path(cfg.checkpoint).exists():
        raise UserError(f"checkpoint={cfg.checkpoint}: no such file or folder")
    if cfg.json is not None and not Path(cfg.json).resolve().parent.is_dir():
        raise UserError(f"json={cfg.json}: no such folder")


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
