"""vim-data: tools for data sets. The first word says which."""

import os
import sys
from functools import partial
from pathlib import Path

from vim_train.cli import completion
from vim_train.cli.app import Command, execute
from vim_train.cli.errors import DONE, guarded
from vim_train.cli.progress import show_progress
from vim_train.config.commands import CountCommand, ExportCommand, IndexCommand, VerifyCommand
from vim_train.config.compose import Plain
from vim_train.config.errors import FAILED, UserError
from vim_train.config.keys import any_of
from vim_train.config.reference import count_help, export_help, index_help, verify_help
from vim_train.config.schema import DataConfig


def index(cfg: IndexCommand, plain: Plain) -> int:
    """Say what was recognised, and keep its index; returns the exit code."""
    from vim_train.data.images import open_images
    from vim_train.data.sources.cache import cache_dir

    for split in ("train", "val"):
        source = open_images(cfg.data, split, cfg.refresh)
        print(f"{split}: {source.form}: {len(source):,} images, {len(source.classes):,} classes")
        print(f"  first {source.name(0)}, last {source.name(len(source) - 1)}; fingerprint {source.fingerprint()}")
    if cfg.data.root is not None:
        print(f"indexes of archives are kept in {cache_dir()}")
    return DONE


def verify(cfg: VerifyCommand, plain: Plain) -> int:
    """Decode every image; returns the exit code, 1 where some are bad."""
    from vim_train.data.verify import Kind, verify

    hashes = None if cfg.hashes is None else Path(cfg.hashes)
    with show_progress(f"verify {_named(cfg.data)}") as progress:
        verdict = verify(cfg.data, hashes, progress)
    for fault in verdict.faults:
        print(f"{fault.path}{f' (class {fault.class_name})' if fault.class_name else ''}: {fault.reason}")
    kinds: tuple[Kind, ...] = ("bad", "changed", "gone", "new") if verdict.compared else ("bad",)
    print(f"{verdict.images:,} images, {', '.join(f'{verdict.count(kind):,} {kind}' for kind in kinds)}")
    if verdict.compared:
        print(f"compared with {hashes}")
    elif hashes is not None:
        of = " of those that are not bad" if verdict.faults else ""
        print(f"hashes{of} written to {hashes}, by path: they fit this form of the data set, and no other")
    return FAILED if verdict.faults else DONE


def count(cfg: CountCommand, plain: Plain) -> int:
    """Count; returns the exit code."""
    from vim_train.data.count import count

    for line in count(cfg.data):
        print(line)
    return DONE


def export(cfg: ExportCommand, plain: Plain) -> int:
    """Export; returns the exit code."""
    from vim_train.data.export import export
    from vim_train.data.sources.listing import some

    with show_progress(f"export {_named(cfg.data)} to {cfg.out}") as progress:
        exported = export(cfg, progress)
    for path, why in exported.left_out.items():
        print(f"left out {path} {why}")
    if exported.left_out:
        print(f"{exported.images:,} images, {len(exported.left_out):,} more left out: they cannot be decoded")
    if exported.rewritten:
        files = some(sorted(map(str, exported.rewritten)))
        print(f"{len(exported.rewritten):,} files were not as an export writes them and are written anew: {files}")
    return DONE


COMMANDS = {
    "index": Command("vim-data", "index", IndexCommand, index_help, index),
    "verify": Command("vim-data", "verify", VerifyCommand, verify_help, verify),
    "count": Command("vim-data", "count", CountCommand, count_help, count),
    "export": Command("vim-data", "export", ExportCommand, export_help, export),
}
USAGE = """\
vim-data: tools for data sets

  vim-data index data.root=DIR           what was recognised there; keeps its index
  vim-data count data.root=DIR           images of each class, beside ImageNet's
  vim-data verify data.root=DIR          decodes everything, lists what is bad
  vim-data export data.root=DIR out=DIR  folders or tar shards of any form

vim-data export --help lists the keys of export, and so on"""


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script."""
    argv = sys.argv[1:] if argv is None else argv
    if completion.asked(argv):
        return _complete(argv)
    word = next((item for item in argv if item in COMMANDS), None)
    if word is not None:
        rest = [item for item in argv if item != word]
        return execute(COMMANDS[word], _folder_for_root(rest))
    if "--version" in argv:
        return execute(COMMANDS["export"], argv)
    if not argv or {"--help", "-h"} & set(argv):
        print(USAGE)
        return DONE if argv else guarded("vim-data", False, partial(_no_subcommand, ""))
    return guarded("vim-data", False, partial(_no_subcommand, argv[0]))


def _complete(argv: list[str]) -> int:
    """Complete the first word, and then as the command that it names does."""
    chosen = next((word for word in os.environ.get("COMP_LINE", "").split() if word in COMMANDS), "export")
    candidates = completion.word_candidates(COMMANDS) if "COMP_LINE" in os.environ else None
    if candidates is None:
        return execute(COMMANDS[chosen], argv)
    print(candidates)
    return DONE


def _no_subcommand(word: str) -> int:
    what = "what to do?" if not word or "=" in word or word.startswith("-") else f"{word}: no such command."
    raise UserError(f"{what} The first word is {any_of(COMMANDS)}, as in: vim-data index data.root=DIR")


def _folder_for_root(argv: list[str]) -> list[str]:
    """A root alone says that the images are not the embedded ones."""
    has_root = any(item.startswith("data.root=") for item in argv)
    chosen = any(item.startswith("data=") for item in argv)
    return ["data=folder", *argv] if has_root and not chosen else argv


def _named(data: DataConfig) -> str:
    return data.root or data.name.value


if __name__ == "__main__":
    sys.exit(main())
