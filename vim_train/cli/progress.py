"""Progress of one long job: a bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

SECONDS_BETWEEN_LINES = 5.0

Progress = Callable[[int, int], None]
"""Called with how much is done and how much there is."""


@contextmanager
def show_progress(
    what: str, file: TextIO | None = None, unit: str | None = None, *, silent: bool = False
) -> Iterator[Progress]:
    """A callback that draws on `file`, by default stdout; the last state stays on the screen.

    `unit`: what is counted, to be told a second.
    """
    file = file or sys.stdout
    if silent or not file.isatty():
        yield _nothing if silent else _plain_lines(what, file, unit)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    if unit is not None:
        columns.insert(3, TextColumn("{task.fields[rate]}"))
    # What goes to stdout beside a bar on stderr is for a file or another program.
    with Bar(*columns, console=Console(file=file), redirect_stdout=file is sys.stdout) as bar:
        task, start = bar.add_task(what, total=None, rate=""), time.monotonic()

        def show(done: int, total: int) -> None:
            rate = f"{done / max(time.monotonic() - start, 1e-9):.3g} {unit}/s"
            bar.update(task, completed=done, total=total, rate=rate)

        yield show


def _plain_lines(what: str, file: TextIO, unit: str | None) -> Progress:
    start = last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        rate = "" if unit is None else f", {done / max(now - start, 1e-9):.3g} {unit}/s"
        left = (now - start) / max(done, 1) * (total - done)
        line = f"{done}/{total}{rate}, {left:.0f} s left" if done < total else f"{total}{rate}, done"
        print(f"{what}: {line}", file=file, flush=True)

    return show


def _nothing(done: int, total: int) -> None:
    pass
