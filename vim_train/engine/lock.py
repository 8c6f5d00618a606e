"""One process a run directory, by a lock that the kernel frees when the process ends, however it ends."""

import contextlib
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from vim_train.config.errors import UserError
from vim_train.engine.durable import write_text

LOCK, OWNER = ".lock", ".owner.json"

_PATIENCE_S = 6.0
"""A killed run's last children, or a winner that has not yet signed, may hold the lock for a moment."""


@dataclass(frozen=True)
class Owner:
    """Who holds a run directory; `since` is local time in ISO 8601."""

    host: str
    pid: int
    since: str

    def alive(self) -> bool:
        """Whether the process exists; one on another host is taken to."""
        if self.host != socket.gethostname():
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True


def lock_dir(path: Path) -> BaseFileLock:
    """Take the directory for this process, until `unlock_dir` or the process's end.

    Raises:
        UserError: a living process has it.
        OSError: the directory cannot be written.
    """
    lock = FileLock(path / LOCK, thread_local=False)
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            lock.acquire(timeout=0)
            break
        except Timeout:
            owner = _read_owner(path)
            alive = owner is not None and owner.alive()
            if alive or time.monotonic() > deadline:
                raise UserError(f"{path} is in use by {_name(owner)}; stop that or take another run.name") from None
            time.sleep(0.1)
    try:
        me = Owner(socket.gethostname(), os.getpid(), datetime.now().astimezone().isoformat(timespec="seconds"))
        write_text(path / OWNER, json.dumps(asdict(me)))
    except BaseException:
        lock.release()
        raise
    return lock


def unlock_dir(path: Path, lock: BaseFileLock) -> None:
    with contextlib.suppress(OSError):
        (path / OWNER).unlink()
    lock.release()


def _read_owner(path: Path) -> Owner | None:
    try:
        return Owner(**json.loads((path / OWNER).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _name(owner: Owner | None) -> str:
    if owner is None:
        return "another process"
    ended = "" if owner.alive() else " (ended, but a child of it has not)"
    return f"process {owner.pid}{ended} on {owner.host} since {owner.since}"
