"""A signal asks; the loop stops where it is safe."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


@dataclass
class StopRequest:
    """Set by the first signal and polled at every step.

    The second signal acts as if nobody had caught it: the kernel ends the process at once, also one that is stuck. A
    checkpoint that is being written is then given up; no rename is ever half done. Only SIGHUP does nothing by then: a
    terminal that closes, and a launcher that is killed, send it more than once.
    """

    caught: signal.Signals | None = None

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after any other request; 0 if there was none."""
        if self.caught is None:
            return 0
        return 130 if self.caught is signal.SIGINT else 143


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turn SIGINT, SIGTERM, SIGUSR1 and SIGHUP into a StopRequest while the context lasts.

    SIGHUP stays ignored where it is: that is how nohup keeps a run going without its terminal.
    """
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if before[signal.SIGHUP] is signal.SIG_IGN:
        del before[signal.SIGHUP]

    def ask(number: int, frame: FrameType | None) -> None:
        request.caught = signal.Signals(number)
        for each in before:
            signal.signal(each, signal.SIG_IGN if each is signal.SIGHUP else signal.SIG_DFL)
        _show_cursor()

    for number in before:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in before.items():
            if number is not signal.SIGHUP or request.caught is None:  # else ignored to the end, as above
                signal.signal(number, handler)


def _show_cursor() -> None:
    """The live screen hides it, and nobody is left to show it after a second signal."""
    if sys.stdout is not None and not sys.stdout.closed and sys.stdout.isatty():
        os.write(sys.stdout.fileno(), b"\x1b[?25h")
