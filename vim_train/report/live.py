"""The terminal: provenance, evaluations and events scroll by above one live panel."""

import os
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from vim_train.report import text
from vim_train.report.panel import MAX_WIDTH, training_panel
from vim_train.report.progress import TOP1, Evaluation, Progress

_REFRESHES = 4  # a second, in a thread of rich's, so that the panel lives on through a slow step


class LiveScreen:
    """What a person watching sees. The thread only reads `Progress`; a step itself costs nothing here."""

    name = "terminal"

    def __init__(self, console: Console) -> None:
        self._console = console
        self._unicode = console.encoding.lower().startswith("utf")
        self._live: Live | None = None
        self._progress: Progress | None = None
        self._title = ""
        self._columns: list[str] = []

    def start(self, title: str, facts: Mapping[str, str]) -> None:
        self._title = title
        self._print(Panel(
            _two_columns(facts), title=Text(title, "bold not dim"), title_align="left", border_style="dim",
            width=self._width,
        ))  # fmt: skip

    def begin(self, progress: Progress) -> None:
        self._progress = progress
        self._live = Live(console=self._console, get_renderable=self._panel, refresh_per_second=_REFRESHES)
        self._plain_streams = sys.stdout, sys.stderr
        os.register_at_fork(after_in_child=self._in_child)
        self._live.start(refresh=True)

    def tick(self) -> None:
        pass

    def evaluated(self, evaluation: Evaluation) -> None:
        """One row of a table that grows above the panel; a new best shines. The head comes again if metrics change."""
        assert self._progress is not None
        columns = list(evaluation.metrics)
        widths = {name: max(6, len(text.label(name))) + 2 for name in columns}
        if columns != self._columns:
            self._columns = columns
            head = "".join(f"{text.label(name):>{widths[name]}}" for name in columns)
            self._print(Text(f"\n{'epoch':>7}{'step':>9}{head}", style="dim"))
        best = evaluation is self._progress.best
        row = Text(f"{text.epoch(evaluation.step, self._progress.steps_per_epoch):>7}{evaluation.step:>9,}")
        for name, value in evaluation.metrics.items():
            shines = best and name in TOP1 and value == evaluation.top1
            row.append(f"{text.metric(name, value):>{widths[name]}}", style="bold green" if shines else "")
        self._print(row)

    def note(self, message: str, warning: bool = False) -> None:
        self._print(Text(f"  warning: {message}", style="yellow") if warning else Text(f"  {message}", style="dim"))

    def finish(
        self, title: str, results: Mapping[str, str], places: Mapping[str, str], commands: Sequence[str]
    ) -> None:
        self.close()
        self._print(Panel(
            _two_columns(results), title=Text(title, "bold green"), title_align="left", border_style="green",
            width=self._width,
        ))  # fmt: skip
        for name, place in places.items():
            self._print(Text.assemble((f"  {name:<8}", "dim"), place))
        if commands:
            self._print(Text("\n  next", style="dim"))
        for command in commands:
            self._print(Text(f"    {command}", style="cyan"))

    def close(self) -> None:
        """Leave the panel as it stands and give the terminal back."""
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    @property
    def _width(self) -> int:
        return min(self._console.width, MAX_WIDTH)

    def _print(self, what: RenderableType) -> None:
        # soft_wrap: a long path or command stays one line that can be copied
        self._console.print(what, soft_wrap=isinstance(what, Text))

    def _panel(self) -> RenderableType:
        assert self._progress is not None
        return Group(Text(), training_panel(self._progress, self._title, self._console.width, self._unicode))

    def _in_child(self) -> None:
        """Give a forked data worker the plain streams back.

        While the panel is up, rich stands in for them and takes a lock that its thread may hold at the moment of the
        fork: a warning printed in the child would then wait for ever.
        """
        if self._live is not None:
            sys.stdout, sys.stderr = self._plain_streams


def _two_columns(rows: Mapping[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(key, Text(value))
    return table
