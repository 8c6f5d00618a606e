"""The one exception for what the user can put right."""

from collections.abc import Sequence


class UserError(Exception):
    """A mistake of the user's: one line that names what, where and what would be accepted. Exit code 2.

    `table`: lines that are shown above it, where there are many things to put right.
    """

    def __init__(self, *what: object, table: Sequence[str] = ()) -> None:
        super().__init__(*what)
        self.table = list(table)


class LostRankError(Exception):
    """Another process of the run has ended or does not answer."""


class QuietExit(Exception):
    """A mistake of the user's ends the run, and another rank says which. Exit code 2."""
