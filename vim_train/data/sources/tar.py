"""The members of a tar archive: names, offsets and sizes, by reading nothing but headers.

ustar, old V7, GNU (long names, sizes beyond 8 GiB) and pax archives, also inside another file. Python's tarfile makes
an object of every member and takes fifteen times as long.

Format: POSIX.1-2024, pax; GNU tar manual, "Basic Tar Format".
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vim_train.config.errors import UserError

BLOCK = 512
_PAGE = 4096
_BATCH = 4096
"""Headers checked at a time."""
_ZERO = bytes(BLOCK)
_REGULAR = frozenset(b"\x007") | {ord("0")}
_WITHOUT_DATA = frozenset(b"123456")
"""Links, devices, directories and FIFOs."""
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL, _SPARSE = b"LKxgS"
_LONGEST_RECORD = 1 << 20
_ANY_RECORD = 64 << 10
_LONG_RECORDS = tuple(size << 10 for size in (128, 256, 512, 1024))
_REFETCH = "fetch it again (or, where nothing lacks, repack it)"

Tick = Callable[[int], None]
"""Called now and then with the offset reached."""


class Members(NamedTuple):
    """Regular files of an archive, as they lie in it."""

    names: NDArray[np.bytes_]
    """(n,), of a width that holds the longest"""
    offsets: NDArray[np.int64]
    """(n,): of a member's first byte in the file"""
    sizes: NDArray[np.int64]
    """(n,): bytes"""


@dataclass
class _Found:
    """Regular files so far. Headers are taken apart a batch at a time and not kept: 1.28 million are 650 MB."""

    names: list[NDArray[np.bytes_]] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    headers: list[bytes] = field(default_factory=list)
    """Of the last batch."""
    long_names: dict[int, bytes] = field(default_factory=dict)
    """Of the last batch, by place in it, where the header's own field does not hold the name."""


def scan(fd: int, path: str, start: int = 0, end: int | None = None, tick: Tick | None = None) -> Members:
    """Members of the archive at bytes [start, end) of the open file `fd`; `end` None: to the end of the file.

    Names come without the ./ in front that `tar cf x.tar .` gives them.

    Args:
        path: what messages call the file.

    Raises:
        UserError: damaged, truncated, compressed, or with sparse members: one line with path and offset.
    """
    end = os.fstat(fd).st_size if end is None else end
    found = _Found()
    stopped_by = _walk(fd, path, start, end, found, tick)
    # A wrong sum earlier on is the better explanation of whatever stopped the walk.
    _take_apart(found, path)
    if stopped_by is not None:
        raise stopped_by
    names = np.concatenate(found.names) if found.names else np.empty(0, "S1")
    dotted = names.astype("S2") == b"./"
    if dotted.any():
        names[dotted] = [name[2:] for name in names[dotted].tolist()]
    return Members(names, np.array(found.offsets, np.int64), np.array(found.sizes, np.int64))


def _walk(fd: int, path: str, start: int, end: int, found: _Found, tick: Tick | None) -> UserError | None:
    """Follow headers from `start` to the end mark; returns what is wrong with the archive there, if anything."""
    pread, headers, offsets, sizes = os.pread, found.headers, found.offsets, found.sizes
    buffer, base, pos = b"", 0, start
    long_name, long_size = None, None
    while True:
        header = buffer[pos - base : pos - base + BLOCK]
        if len(header) < BLOCK:
            # The rest of the page: small members that follow come with it, and no second page is touched.
            buffer, base = pread(fd, _PAGE - pos % _PAGE, pos), pos
            header = buffer[:BLOCK]
        if pos + BLOCK > end or len(header) < BLOCK:
            return _damaged(path, pos, "truncated: the end mark of the archive is missing")
        kind = header[156]
        try:
            size = int(header[124:135], 8) if header[135] in b"\0 " else _number(header[124:136])
        except ValueError:
            if header == _ZERO:
                return _trailing(fd, path, start, pos, end)
            try:
                size = _number(header[124:136])
            except ValueError:
                return _damaged(path, pos, _no_header(header, pos == start))
        if kind in _REGULAR:
            if long_size is not None:
                size = long_size
            data = pos + BLOCK
            pos = data + (size + BLOCK - 1 & -BLOCK)
            if data + size > end:
                return _damaged(path, data, f"truncated: a member has {size:,} bytes and {end - data:,} are left")
            if long_name is not None:
                found.long_names[len(headers)] = long_name
            headers.append(header)
            offsets.append(data)
            sizes.append(size)
            long_name = long_size = None
            if len(headers) == _BATCH:
                _take_apart(found, path)
                if tick is not None:
                    tick(pos)
            continue
        if not _sum_right(header):
            return _damaged(path, pos, _no_header(header, pos == start))
        data = pos + BLOCK
        if kind == _LONG_NAME:
            long_name = _record(fd, data, size, end).split(b"\0", 1)[0]
        elif kind == _PAX:
            long_name, long_size = _pax(_record(fd, data, size, end), long_name, long_size)
        elif kind == _SPARSE:
            return _damaged(path, pos, "a sparse member, which cannot be read in place; repack the archive")
        elif kind not in (_LONG_LINK, _PAX_GLOBAL):
            long_name = long_size = None
        pos = data + (0 if kind in _WITHOUT_DATA else size + BLOCK - 1 & -BLOCK)


def _number(text: bytes) -> int:
    """A number of a header: octal digits, or base 256 where the first bit is set."""
    if text[0] & 0x80:
        return int.from_bytes(text, "big") & ~(0x80 << 8 * (len(text) - 1))
    return int(text.strip(b"\0 ") or b"x", 8)


def _record(fd: int, offset: int, size: int, end: int) -> bytes:
    """Contents of a member that describes the next one; cut short where they are absurd, which the sums then tell."""
    return os.pread(fd, min(size, _LONGEST_RECORD, max(end - offset, 0)), offset)


def _pax(records: bytes, name: bytes | None, size: int | None) -> tuple[bytes | None, int | None]:
    """Name and size that pax records give the next member: lines of `LENGTH KEY=VALUE`."""
    while records:
        length, _, _ = records.partition(b" ")
        if not length.isdigit() or int(length) == 0:
            break
        key, _, value = records[len(length) + 1 : int(length) - 1].partition(b"=")
        if key == b"path":
            name = value
        elif key == b"size" and value.isdigit():
            size = int(value)
        records = records[int(length) :]
    return name, size


def _trailing(fd: int, path: str, start: int, pos: int, end: int) -> UserError | None:
    """The end mark may have only padding behind it: all else would be lost, were it data or yet to be downloaded.

    Archives end with the record in which their mark ends. Records are 10 KiB unless tar -b says otherwise; those beyond
    64 KiB are taken as such where the archive's length is a multiple of theirs.
    """
    record = max([_ANY_RECORD, *(size for size in _LONG_RECORDS if (end - start) % size == 0)])
    padded = record + 2 * BLOCK
    if os.pread(fd, min(padded, end - pos), pos).strip(b"\0"):
        return _damaged(path, pos, "an end mark with more data behind it; " + _REFETCH)
    if end - pos > padded:
        return _damaged(path, pos, f"zeros from here on, {end - pos:,} bytes to the end: no whole download; {_REFETCH}")
    return None


def _no_header(header: bytes, first: bool) -> str:
    if first and header.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return "it is compressed, which allows no random access; unpack it once (gzip -d, or the like)"
    return "no tar archive" if first else "damaged: no member header here"


def _damaged(path: str, pos: int, why: str) -> UserError:
    return UserError(f"{path}: at byte {pos:,}: {why}")


def _sum_right(header: bytes) -> bool:
    return bool(_right_sums(np.frombuffer(header, np.uint8)[None])[0])


def _take_apart(found: _Found, path: str) -> None:
    """Check the headers of the last batch, and leave their names.

    Raises:
        UserError: the sum of a header is not what it states.
    """
    if not found.headers:
        return
    table = np.frombuffer(b"".join(found.headers), np.uint8).reshape(-1, BLOCK)
    right = _right_sums(table)
    if not right.all():
        index = len(found.offsets) - len(table) + int(np.argmin(right))
        raise _damaged(path, found.offsets[index] - BLOCK, _no_header(found.headers[int(np.argmin(right))], index == 0))
    found.names.append(_names(table, found.long_names))
    found.headers.clear()
    found.long_names.clear()


def _right_sums(table: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which headers (n, 512) have the sum of bytes that they state, with the field of the sum as blanks."""
    stated = _octal(table[:, 148:156])
    blanks = 8 * ord(" ")
    right = stated == table.sum(1, dtype=np.int32) - table[:, 148:156].sum(1, dtype=np.int32) + blanks
    if not right.all():  # some old archivers took the bytes as signed
        signed = table.view(np.int8)
        right |= stated == signed.sum(1, dtype=np.int32) - signed[:, 148:156].sum(1, dtype=np.int32) + blanks
    return right


def _octal(digits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Rows of octal digits between blanks, as numbers; -1 where there is anything else."""
    value = np.zeros(len(digits), np.int64)
    sound = np.ones(len(digits), bool)
    for column in digits.T:
        is_digit = (column >= ord("0")) & (column <= ord("7"))
        value = np.where(is_digit, value * 8 + (column.astype(np.int64) - ord("0")), value)
        sound &= is_digit | (column == 0) | (column == ord(" "))
    return np.where(sound, value, -1)


def _names(table: NDArray[np.uint8], long_names: dict[int, bytes]) -> NDArray[np.bytes_]:
    """Names of headers (n, 512), from their two fields, or from the record before where there was one."""
    names = _trimmed(table[:, :100])
    # POSIX has 155 more bytes of name, GNU other things at that place.
    posix = (table[:, 257:263] == np.frombuffer(b"ustar\0", np.uint8)).all(1) & (table[:, 345] != 0)
    for row in np.flatnonzero(posix).tolist():
        prefix = table[row, 345:500].tobytes().split(b"\0", 1)[0]
        long_names.setdefault(row, prefix + b"/" + bytes(names[row]))
    if long_names:
        width = max(names.dtype.itemsize, *map(len, long_names.values()))
        names = names.astype(f"S{width}")
        for row, name in long_names.items():
            names[row] = name
    return names


def _trimmed(field: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """(n, 100) bytes up to the first zero of each row, as (n,) names no wider than the longest."""
    ended = np.logical_or.accumulate(field == 0, axis=1)
    clean = np.where(ended, 0, field).astype(np.uint8)
    width = max(int((~ended).sum(1).max()), 1)
    return np.ascontiguousarray(clean[:, :width]).view(f"S{width}")[:, 0]
