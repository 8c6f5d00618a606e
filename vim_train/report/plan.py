"""A plan on the screen: sections of aligned rows, and what is being tried just now."""

import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO, cast

from rich.console import Console

from vim_train.report.stream import SafeStream

_WIDTH = 120


class PlanScreen:
    """Plain lines, on a terminal with bold titles and a turning sign while something takes its time."""

    def __init__(self, quiet: bool = False) -> None:
        """Args: quiet: show nothing, as every rank but 0 does."""
        stream = SafeStream(sys.stdout)
        terminal = stream.isatty()
        self._out = Console(file=cast(TextIO, stream), force_terminal=terminal, highlight=False, quiet=quiet)

    def facts(self, title: str, facts: Mapping[str, str]) -> None:
        """A section of one line a fact."""
        self.table(title, list(facts.items()))

    def table(self, title: str, rows: Sequence[Sequence[str]]) -> None:
        """A section of rows whose columns are aligned; the last one is wrapped."""
        self._line(title, "bold")
        widths = [max(map(len, column)) for column in zip(*(row[:-1] for row in rows), strict=True)]
        for *cells, last in rows:
            first = "  ".join(["", *(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), ""])
            room = max(40, _WIDTH - len(first))
            for line in textwrap.wrap(last, room, break_long_words=False, break_on_hyphens=False) or [""]:
                self._line(f"{first}{line}".rstrip())
                first = " " * len(first)

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Says what goes on, before it does."""
        if self._out.is_terminal:
            with self._out.status(what):
                yield
        else:
            self._line(f"{what} ...")
            yield

    def note(self, line: str) -> None:
        self._line(line)

    def _line(self, line: str, style: str | None = None) -> None:
        self._out.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
