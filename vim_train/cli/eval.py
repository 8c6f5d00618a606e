"""vim-eval: metrics of a checkpoint."""

import sys

from vim_train.cli.app import Command, execute
from vim_train.cli.malloc import keep_freed_memory
from vim_train.cli.threads import let_threads_sleep
from vim_train.config.commands import EvalCommand
from vim_train.config.compose import Plain
from vim_train.config.evaluation import run_config
from vim_train.config.reference import eval_help


def run(cfg: EvalCommand, plain: Plain) -> int:
    """Evaluate; returns the exit code."""
    run_config(cfg)  # a mistake in the run's own configuration shows before torch is imported
    let_threads_sleep()
    if cfg.ops.tune_malloc:
        keep_freed_memory()
    from vim_train.tasks.evaluate import evaluate

    return evaluate(cfg, plain)


COMMAND = Command("vim-eval", "eval", EvalCommand, eval_help, run)


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script."""
    return execute(COMMAND, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
