"""A signal asks; the loop stops where it is safe."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


@dataclass
class StopRequest:
    """Set by the first signal and polled at every step. The second signal acts as if nobody had caught it."""

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
            signal.signal(each, signal.default_int_handler if each is signal.SIGINT else signal.SIG_DFL)

    for number in before:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
