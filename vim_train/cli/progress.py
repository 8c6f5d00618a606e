"""Progress of one long job: a bar on a terminal, a plain line every few seconds elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 5.0

Progress = Callable[[int, int], None]
"""Called with how much is done and how much there is."""


@contextmanager
def show_progress(what: str) -> Iterator[Progress]:
    """A callback that draws; the last state stays on the screen."""
    if not sys.stdout.isatty():
        yield _plain_lines(what)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    with Bar(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _plain_lines(what: str) -> Progress:
    start = last = time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        left = (now - start) / max(done, 1) * (total - done)
        print(f"{what}: {done}/{total}, {left:.0f} s left" if done < total else f"{what}: {total}, done", flush=True)

    return show
