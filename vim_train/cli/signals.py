"""Signals where nothing waits for them yet: they end a command with a line and a known exit code, as Ctrl-C does."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Ended(KeyboardInterrupt):
    """Such a signal came; its name is the text."""


@contextmanager
def signals_raise() -> Iterator[None]:
    """SIGTERM, SIGUSR1 and SIGHUP raise Ended while the context lasts, where nobody else has a use for them.

    Not in a rank: the kernel ends it at once, also where it waits for another that has left.
    """
    ours = "RANK" not in os.environ and threading.current_thread() is threading.main_thread()
    names = ("SIGTERM", "SIGUSR1", "SIGHUP") if ours else ()
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    free = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]

    def end(number: int, frame: FrameType | None) -> None:
        raise Ended(signal.Signals(number).name)

    for number in free:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in free:
            if signal.getsignal(number) is end:
                signal.signal(number, signal.SIG_DFL)
