"""A terminal that can be closed."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path


class Terminal:
    """A pseudo-terminal with a command on it, and a person who may close the window."""

    def __init__(self, command: list[str], cwd: Path, controlling: bool) -> None:
        """Args: controlling: whether closing the window hangs up on the command, or only makes its writes fail."""
        self._master, slave = pty.openpty()
        self.errors = cwd / "errors.txt"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                command, cwd=cwd, stdin=slave, stdout=slave, stderr=errors, start_new_session=True,
                preexec_fn=(lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) if controlling else None,
            )  # fmt: skip
        os.close(slave)

    def read_until(self, done: Callable[[], bool]) -> None:
        """Show what is written, for a full screen would stop the writer, until something has come about."""
        deadline = time.monotonic() + 300
        while not done():
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.errors.read_text()
            if select.select([self._master], [], [], 0.02)[0]:
                try:
                    os.read(self._master, 65536)
                except OSError:  # nohup has taken all streams elsewhere
                    time.sleep(0.02)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def close(self) -> None:
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
