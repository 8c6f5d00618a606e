"""vim-train: train a model."""

import sys

from vim_train.cli.app import Command, execute
from vim_train.cli.malloc import keep_freed_memory
from vim_train.cli.threads import let_threads_sleep
from vim_train.config.compose import Plain
from vim_train.config.reference import train_help
from vim_train.config.schema import TrainConfig


def run(cfg: TrainConfig, plain: Plain) -> int:
    """Train; returns the exit code."""
    let_threads_sleep()
    if cfg.ops.tune_malloc:
        keep_freed_memory()
    from vim_train.tasks.run import train

    return train(cfg, plain)


COMMAND = Command("vim-train", "train", TrainConfig, train_help, run)


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script."""
    return execute(COMMAND, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
