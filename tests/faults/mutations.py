"""Ways in which a checkpoint is damaged on a disk or by a hand."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

Mutation = Callable[[Path, Path, random.Random], str]
"""Damages the first checkpoint, given another one of the same run; returns in words what was done."""


def flip(checkpoint: Path, other: Path, draw: random.Random) -> str:
    file, data = _any_file(checkpoint, draw)
    at = draw.randrange(8 * len(data))
    data[at // 8] ^= 1 << at % 8
    file.write_bytes(data)
    return f"bit {at} of {file.name} flipped"


def truncate(checkpoint: Path, other: Path, draw: random.Random) -> str:
    file, data = _any_file(checkpoint, draw)
    length = draw.randrange(len(data))
    file.write_bytes(data[:length])
    return f"{file.name} cut to {length} bytes"


def zero(checkpoint: Path, other: Path, draw: random.Random) -> str:
    """A block that was never written, of 512 bytes or the page's 4,096."""
    while True:
        file, data = _any_file(checkpoint, draw)
        block = draw.choice((512, 4096))
        start = draw.randrange(0, len(data), block)
        zeroed = bytes(data[:start]) + bytes(len(data[start : start + block])) + bytes(data[start + block :])
        if zeroed != data:
            file.write_bytes(zeroed)
            return f"block of {block} bytes at {start} of {file.name} zeroed"


def append(checkpoint: Path, other: Path, draw: random.Random) -> str:
    file, data = _any_file(checkpoint, draw)
    more = draw.choice((b"\0", b"\n", draw.randbytes(draw.randint(1, 5000)), bytes(data[: draw.randint(1, 100)])))
    file.write_bytes(bytes(data) + more)
    return f"{len(more)} bytes appended to {file.name}"


def swap(checkpoint: Path, other: Path, draw: random.Random) -> str:
    """Whole files in each other's place: of one checkpoint, or one or several from another."""
    files = sorted(checkpoint.iterdir())
    if draw.random() < 0.5:
        a, b = draw.sample(files, 2)
        first, second = a.read_bytes(), b.read_bytes()
        a.write_bytes(second)
        b.write_bytes(first)
        return f"{a.name} and {b.name} swapped"
    taken = draw.sample(files, draw.randint(1, len(files)))
    for file in taken:
        file.write_bytes((other / file.name).read_bytes())
    return f"{', '.join(sorted(file.name for file in taken))} taken from {other.name}"


MUTATIONS: dict[str, Mutation] = {
    "bit flip": flip, "truncation": truncate, "zeroed block": zero, "appended bytes": append, "swapped files": swap,
}  # fmt: skip


def _any_file(checkpoint: Path, draw: random.Random) -> tuple[Path, bytearray]:
    file = draw.choice(sorted(checkpoint.iterdir()))
    return file, bytearray(file.read_bytes())
