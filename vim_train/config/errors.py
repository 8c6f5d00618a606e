"""How a command ends badly: the exceptions that stand for it, and the exit codes that parts below `cli` know."""

from collections.abc import Sequence

FAILED, DIVERGED, HUNG, LOST = 1, 3, 4, 5


class UserError(Exception):
    """A mistake of the user's: one line that names what, where and what would be accepted. Exit code 2.

    `table`: lines that are shown above it, where there are many things to put right.
    """

    def __init__(self, *what: object, table: Sequence[str] = ()) -> None:
        super().__init__(*what)
        self.table = list(table)


class WorkerError(Exception):
    """A data worker has died or found no memory. One line, exit code FAILED."""


class LostRankError(Exception):
    """Another process of the run has ended or does not answer. Exit code LOST, unless a launcher knows a better one."""


class HungError(Exception):
    """Something has taken longer than `run.hang_timeout_s`. Exit code HUNG.

    Args:
        line: what hangs.
        stacks: of the processes that hang, as far as they tell.
    """

    def __init__(self, line: str, stacks: str = "") -> None:
        super().__init__(line)
        self.stacks = stacks


class QuietExit(Exception):
    """A mistake of the user's ends the run, and another rank says which. Exit code 2."""
