"""A table of a MATLAB file, as the ImageNet devkit's meta.mat has one: a struct array of numbers and texts.

Format: MathWorks, "MAT-File Format" (level 5). Only what such a table needs is read.
"""

import struct
import zlib
from collections.abc import Iterator

import numpy as np

_MATRIX, _COMPRESSED = 14, 15
_STRUCT, _CHAR = 2, 4
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {16: "utf-8", 17: "utf-16", 18: "utf-32"}

Cell = str | float | None
"""A text, a single number, or None for anything else."""


def read_table(data: bytes, variable: str) -> list[dict[str, Cell]]:
    """Elements of the struct array `variable` of a MAT file's contents, in column order.

    Raises:
        ValueError: no MAT file of level 5, damaged, or no such struct array in it.
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise ValueError("no MATLAB file of version 5 to 7.2")
    try:
        for kind, body in _elements(data[128:], order):
            if kind == _COMPRESSED:
                kind, body = next(_elements(zlib.decompress(body), order))
            if kind == _MATRIX and (rows := _struct_array(body, variable, order)) is not None:
                return rows
    except (struct.error, zlib.error, StopIteration, IndexError, UnicodeDecodeError, TypeError) as error:
        raise ValueError(f"damaged: {error or type(error).__name__}") from error
    raise ValueError(f"no struct array {variable} in it")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Type and body of each data element; those up to four bytes share the tag's word."""
    pos = 0
    while pos + 8 <= len(data):
        (word,) = struct.unpack_from(f"{order}I", data, pos)
        if word >> 16:
            yield word & 0xFFFF, data[pos + 4 : pos + 4 + (word >> 16)]
            pos += 8
            continue
        (size,) = struct.unpack_from(f"{order}I", data, pos + 4)
        if pos + 8 + size > len(data):
            raise ValueError("damaged: an element is longer than the file")
        yield word, data[pos + 8 : pos + 8 + size]
        pos += 8 + (size if word == _COMPRESSED else -(-size // 8) * 8)


def _struct_array(body: bytes, variable: str, order: str) -> list[dict[str, Cell]] | None:
    parts = _elements(body, order)
    if _array_class(next(parts)[1], order) != _STRUCT:
        return None
    (_, shape), (_, name) = next(parts), next(parts)
    if name.decode("ascii") != variable:
        return None
    count = int(np.prod(np.frombuffer(shape, f"{order}i4")))
    (width,) = struct.unpack(f"{order}i", next(parts)[1])
    (_, names) = next(parts)
    fields = [names[i : i + width].split(b"\0", 1)[0].decode("ascii") for i in range(0, len(names), width)]
    return [{field: _cell(next(parts)[1], order) for field in fields} for _ in range(count)]


def _cell(body: bytes, order: str) -> Cell:
    if not body:
        return None
    parts = list(_elements(body, order))
    kind, values = parts[3] if len(parts) > 3 else (0, b"")
    if _array_class(parts[0][1], order) == _CHAR:
        if kind in _TEXTS:
            suffix = "" if kind == 16 else "-le" if order == "<" else "-be"
            return values.decode(_TEXTS[kind] + suffix)
        return "".join(map(chr, np.frombuffer(values, order + _NUMBERS[kind]).tolist())) if values else ""
    numbers = np.frombuffer(values, order + _NUMBERS[kind]) if kind in _NUMBERS else np.empty(0)
    return float(numbers[0]) if len(numbers) == 1 else None


def _array_class(flags: bytes, order: str) -> int:
    (word,) = struct.unpack_from(f"{order}I", flags)
    return int(word) & 0xFF
