"""What a screen can show, and which one fits the place standard output leads to."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TextIO, cast

from rich.console import Console

from vim_train.report.live import LiveScreen
from vim_train.report.plain import PlainScreen
from vim_train.report.progress import Evaluation, Progress
from vim_train.report.stream import SafeStream


class Screen(Protocol):
    """Shows a run. Any method may raise: the report then goes on without this screen."""

    name: str

    def start(self, title: str, facts: Mapping[str, str]) -> None: ...
    def begin(self, progress: Progress) -> None:
        """Training starts; `progress` is kept up to date from here on."""

    def tick(self) -> None:
        """After each step; must cost next to nothing."""

    def evaluated(self, evaluation: Evaluation) -> None: ...
    def note(self, message: str, warning: bool = False) -> None: ...
    def finish(
        self, title: str, results: Mapping[str, str], places: Mapping[str, str], commands: Sequence[str]
    ) -> None: ...
    def close(self) -> None: ...


def open_screen(console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> Screen:
    """A live panel on a terminal, plain lines elsewhere. Args: console: None is one on standard output."""
    if console is None:
        stream = SafeStream(sys.stdout)
        console = Console(file=cast(TextIO, stream), force_terminal=stream.isatty(), highlight=False)
    if console.is_interactive:
        return LiveScreen(console)
    out = console

    def write(line: str) -> None:
        out.print(line, markup=False, highlight=False, soft_wrap=True)

    return PlainScreen(write, clock)
