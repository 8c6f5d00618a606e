"""metrics.jsonl: the record of a run, one JSON object a line, valid after a kill at any moment."""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path


class MetricsFile:
    """Appends lines to metrics.jsonl; each is whole in the file before `write` returns.

    A line holds ``kind`` (train, eval or event), ``step``, ``epoch``, ``time`` (seconds since 1970), then the numbers.
    JSON knows no NaN or infinity: such a number is written as null.
    """

    def __init__(self, path: Path, resumed_step: int | None) -> None:
        """Args: resumed_step: lines of later steps are cut off, since these steps run again; None: start empty.

        Raises OSError if the file cannot be written.
        """
        if path.exists():
            _cut(path, -1 if resumed_step is None else resumed_step)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, kind: str, step: int, epoch: float | None, numbers: Mapping[str, object]) -> None:
        """Append one line. Raises OSError (disk full); the file then ends with the line before."""
        record = {"kind": kind, "step": step, "epoch": epoch, "time": round(time.time(), 3), **numbers}
        line = to_json(record).encode() + b"\n"
        end = self.size
        if os.write(self._fd, line) != len(line):  # a full disk takes the first part of a line
            os.ftruncate(self._fd, end)
            raise OSError("disk full")

    @property
    def size(self) -> int:
        """Bytes of the lines so far."""
        return os.fstat(self._fd).st_size

    def cut(self, size: int) -> None:
        """Cut off what was written beyond `size`."""
        if size < self.size:
            os.ftruncate(self._fd, size)

    def sync(self) -> None:
        """Wait until the lines so far are on the disk."""
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


def to_json(value: object, indent: int | None = None) -> str:
    """Strict JSON: NaN and infinity as null, 0-d arrays and tensors as numbers, anything else unknown as text."""
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def read_metrics(path: str | Path) -> list[dict[str, object]]:
    """All lines of a metrics.jsonl. A last line without its end, as a kill may leave it, is passed over.

    Raises OSError if it cannot be read, ValueError if another line is no JSON object.
    """
    records = []
    for number, line in enumerate(_whole_lines(Path(path)), 1):
        record = _parse(line)
        if record is None:
            raise ValueError(f"{path}, line {number}: not a JSON object")
        records.append(record)
    return records


def _cut(path: Path, last_step: int) -> None:
    """Keep, byte for byte, the readable lines up to `last_step`; the file is the old or the new one at any moment."""
    kept = []
    for line in _whole_lines(path):
        record = _parse(line)
        step = record.get("step") if record else None
        if isinstance(step, int) and step <= last_step:
            kept.append(line)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _whole_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from (line for line in file if line.endswith(b"\n"))


def _parse(line: bytes) -> dict[str, object] | None:
    try:
        record = json.loads(line)
    except ValueError:  # covers JSONDecodeError and UnicodeDecodeError
        return None
    return record if isinstance(record, dict) else None


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    item = getattr(value, "item", None)
    return _plain(item()) if callable(item) else str(value)
