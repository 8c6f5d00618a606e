"""vim-data: tools for data sets. `export` writes one out as an image folder."""

import sys
from pathlib import Path

from vim_train.cli import completion
from vim_train.cli.app import Command, execute
from vim_train.cli.errors import guarded
from vim_train.cli.progress import show_progress
from vim_train.config.compose import Plain
from vim_train.config.errors import UserError
from vim_train.config.reference import export_help
from vim_train.config.schema import ExportCommand


def run(cfg: ExportCommand, plain: Plain) -> int:
    """Export; returns the exit code."""
    from vim_train.data.export import export_folder

    with show_progress(f"export {cfg.data.name.value} to {cfg.out}") as progress:
        export_folder(cfg.data, Path(cfg.out), progress)
    return 0


EXPORT = Command("vim-data", "export", ExportCommand, export_help, run)


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script."""
    argv = sys.argv[1:] if argv is None else argv
    rest = [item for item in argv if item != "export"]
    if rest == argv and not completion.asked(argv) and not {"--help", "-h", "--version"} & set(argv):
        return guarded("vim-data", False, _no_subcommand)
    return execute(EXPORT, rest)


def _no_subcommand() -> int:
    raise UserError("what to do? vim-data export data=fashion out=DIR writes a data set as an image folder")


if __name__ == "__main__":
    sys.exit(main())
