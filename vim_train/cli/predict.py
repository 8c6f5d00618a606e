"""vim-predict: labels with probabilities for images."""

import re
import sys

from vim_train.cli import completion
from vim_train.cli.app import Command, execute
from vim_train.cli.malloc import keep_freed_memory
from vim_train.cli.progress import show_progress
from vim_train.cli.threads import let_threads_sleep
from vim_train.config.commands import PredictCommand
from vim_train.config.compose import Plain
from vim_train.config.reference import predict_help


def run(cfg: PredictCommand, plain: Plain) -> int:
    """Predict; returns the exit code."""
    let_threads_sleep()
    if cfg.ops.tune_malloc:
        keep_freed_memory()
    from vim_train.tasks.predict import predict

    lines_show = cfg.out is None and sys.stdout.isatty()  # as they come; a bar would be in their way
    with show_progress("predict", sys.stderr, "images", silent=lines_show) as progress:
        return predict(cfg, progress)


COMMAND = Command("vim-predict", "predict", PredictCommand, predict_help, run)


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script."""
    argv = sys.argv[1:] if argv is None else argv
    if completion.asked(argv):
        return execute(COMMAND, argv)
    sweep = bool({"-m", "--multirun"} & set(argv))
    return execute(COMMAND, [item if sweep and "," in item else as_list(item) for item in argv])


def as_list(item: str) -> str:
    """`images=NAME` as Hydra reads a list of one, so that a name may hold blanks, commas and signs."""
    key, equals, name = item.partition("=")
    if key != "images" or not name or name.startswith("["):
        return item
    escaped = re.sub(r'(\\*)("|$)', lambda match: match[1] * 2 + ('\\"' if match[2] else ""), name)
    escaped = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", escaped)
    return f'{key}{equals}["{escaped}"]'


if __name__ == "__main__":
    sys.exit(main())
