"""One line for the user's mistakes, a traceback for ours, and the exit codes."""

import errno
import linecache
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from vim_train.cli.signals import Ended, signals_raise
from vim_train.cli.streams import open_closed_streams
from vim_train.config.errors import FAILED, HUNG, LOST, HungError, LostRankError, QuietExit, UserError, WorkerError
from vim_train.config.redact import find_secrets, redact

DONE = 0
USER_ERROR = 2
INTERRUPTED = 130
TERMINATED = 143

_PACKAGE = Path(__file__).resolve().parent.parent
_LIBRARIES = (_PACKAGE / "models", _PACKAGE / "ops")


def guarded(program: str, debug: bool, work: Callable[[], int]) -> int:
    """Exit code of `work`, with whatever it raises reported on stderr."""
    open_closed_streams()
    try:
        with signals_raise():
            code = work()
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of our output has left, as `| head` does
        _silence_stdout()
        return DONE
    except QuietExit:
        return USER_ERROR
    except Ended as error:
        with suppress(OSError):  # the terminal has gone
            print(f"{program}: ended by {error}", file=sys.stderr, flush=True)
        return TERMINATED
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        code, line = _judge(error)
        secrets = find_secrets()
        if isinstance(error, HungError):
            sys.stderr.write(error.stacks)
        if debug or line is None:
            traceback.print_exc()
            if (rank := os.environ.get("RANK")) is not None:
                line = line or f"rank {rank}: {type(error).__name__}: {str(error)[:500]}"
        for row in error.table if isinstance(error, UserError) else []:
            print(redact(row, secrets), file=sys.stderr)
        if line is not None:
            print(f"{program}: {redact(' '.join(line.split()), secrets)}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:
            _silence_stdout()
        return code


def _silence_stdout() -> None:
    """What cannot be written Python would try again at its end, with a message and an exit code of its own."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _judge(error: Exception) -> tuple[int, str | None]:
    """Exit code and one line; no line for what nobody foresaw."""
    if isinstance(error, UserError):
        return USER_ERROR, str(error)
    if isinstance(error, HungError):
        return HUNG, str(error)
    if isinstance(error, WorkerError):
        return FAILED, str(error)
    if isinstance(error, LostRankError):
        return LOST, f"rank {os.environ.get('RANK', '0')}: {error}"
    if type(error) is ValueError and _raised_by_library(error):
        return USER_ERROR, str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return FAILED, f"{error.filename or 'where the output goes'}: no space left"
    if type(error).__name__ == "OutOfMemoryError":
        cure = "lower data.micro_batch_size, which keeps the batch, or data.eval_batch_size"
        return FAILED, f"out of GPU memory: {cure}"
    return FAILED, None


def _raised_by_library(error: Exception) -> bool:
    """Whether a `raise` of models or ops, which know no UserError, is where the error began."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    inside = any(folder in Path(frame.filename).resolve().parents for folder in _LIBRARIES)
    return inside and linecache.getline(frame.filename, frame.lineno or 0).lstrip().startswith("raise ")
