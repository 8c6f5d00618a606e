"""Standard output that may go away: a reader like ``head`` leaves, a terminal hangs up, training goes on."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO


@contextlib.contextmanager
def output_may_close() -> Iterator[None]:
    """Let no reader that leaves end what is done inside: the work is not what is printed of it."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = SafeStream(sys.stdout), SafeStream(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class SafeStream:
    """The part of a text file that rich uses; the first failed write turns it silent instead of raising."""

    def __init__(self, stream: TextIO | None) -> None:
        """Args: stream: usually ``sys.stdout``, which is None in a process started without one."""
        self._stream = stream

    @property
    def closed(self) -> bool:
        return self._stream is None or self._stream.closed

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return self._stream is not None and self._stream.isatty()
        return False

    def fileno(self) -> int:
        if self._stream is None:
            raise OSError("the stream is closed")
        return self._stream.fileno()

    def write(self, text: str) -> int:
        if self._stream is not None:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self._stream.write(text.encode(self.encoding, "replace").decode(self.encoding))
            except (OSError, ValueError):  # ValueError: closed file
                self._give_up()
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._give_up()

    def _give_up(self) -> None:
        # What is still buffered would fail again at exit, with a message and exit code 120: send it to the null device.
        with contextlib.suppress(OSError, ValueError):
            if self._stream in (sys.stdout, sys.__stdout__, sys.stderr, sys.__stderr__):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())  # type: ignore[union-attr]
                os.close(null)
        self._stream = None
