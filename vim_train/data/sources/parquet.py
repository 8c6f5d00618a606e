"""Hugging Face's Parquet shards: an image column of {bytes, path} and a label column. Needs pyarrow, an extra.

A row group can only be decoded whole, so that an image read at random costs its group; the last few are kept.
"""

import bisect
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vim_train.config.errors import UserError
from vim_train.data.sources.cache import Stamp, changed
from vim_train.data.sources.listing import Listing, Part, Progress, as_names
from vim_train.data.sources.numbering import names_of_numbers, numbered_labels

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_KEPT_BYTES = 128 << 20
"""Row groups that a process keeps, in bytes."""
_IMAGES, _LABELS = ("image", "img", "jpg"), ("label", "labels", "fine_label", "cls")


def parquet_shards(base: Path, names: Sequence[str]) -> Part:
    """base/…-00000-of-00294.parquet and so on."""
    paths = [base / name for name in sorted(names)]

    def listing(progress: Progress) -> Listing:
        parts = []
        for done, path in enumerate(paths, 1):
            parts.append(_rows(path))
            progress(str(base), done, len(paths))
        return _listing(base, paths, parts)

    where = f"{base}/{paths[0].name}" + (f" to {paths[-1].name}" if len(paths) > 1 else "")
    form = f"{len(paths)} Parquet shard{'s' * (len(paths) > 1)} (slow at random: vim-data export)"
    return Part(form, base, where, None, listing, tuple(paths), table=True)


class ParquetFiles:
    """Reads images by row, by any thread; files are opened in each process when first used."""

    def __init__(self, stamps: list[Stamp]) -> None:
        self.stamps = stamps
        self._lock = threading.Lock()
        self._files: dict[int, tuple[pq.ParquetFile, list[int], str]] = {}
        self._groups: OrderedDict[tuple[int, int], tuple[Any, int]] = OrderedDict()

    def read(self, container: int, offset: int, size: int) -> bytes:
        with self._lock:  # one group decoded twice at a time would help nobody
            file, starts, column = self._opened(container)
            group = bisect.bisect_right(starts, offset) - 1
            values = self._group(container, group, file, column)
        data = values[offset - starts[group]].as_py()
        if not isinstance(data, bytes):
            raise ValueError("the row holds no bytes of an image")
        return data

    def _opened(self, container: int) -> "tuple[pq.ParquetFile, list[int], str]":
        if container not in self._files:
            path = self.stamps[container][0]
            if (what := changed([self.stamps[container]])) is not None:
                raise ValueError(what)
            file = _open(Path(path))
            lengths = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
            starts = np.cumsum([0, *lengths])[:-1].tolist()
            self._files[container] = file, starts, _columns(Path(path), file.schema_arrow)[0]
        return self._files[container]

    def _group(self, container: int, group: int, file: "pq.ParquetFile", column: str) -> Any:
        key = (container, group)
        if key not in self._groups:
            try:
                table = file.read_row_group(group, columns=[f"{column}.bytes"], use_threads=False)
            except Exception as error:  # pyarrow raises OSError, ArrowInvalid, …
                raise ValueError(f"row group {group} cannot be read: {' '.join(str(error).split())}") from error
            values = table.column(0).combine_chunks().field("bytes")
            self._groups[key] = values, table.nbytes
            while len(self._groups) > 1 and sum(size for _, size in self._groups.values()) > _KEPT_BYTES:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        return self._groups[key][0]

    def __getstate__(self) -> dict[str, object]:
        return {"stamps": self.stamps}

    def __setstate__(self, state: dict[str, list[Stamp]]) -> None:
        self.__init__(state["stamps"])  # type: ignore[misc]


def _open(path: Path) -> "pq.ParquetFile":
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError(f"{path}: Parquet needs pyarrow: pip install 'vim-train[parquet]'") from error
    try:
        return pq.ParquetFile(path)
    except Exception as error:  # pyarrow raises OSError, ArrowInvalid, …
        raise UserError(f"{path}: cannot be read as Parquet: {' '.join(str(error).split())}") from error


def _columns(path: Path, schema: "pa.Schema") -> tuple[str, str]:
    """Names of the image and the label column."""
    import pyarrow as pa

    def holds_images(name: str) -> bool:
        kind = schema.field(name).type
        return bool(pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)

    image = next((name for name in _IMAGES if name in schema.names and holds_images(name)), None)
    label = next((name for name in _LABELS if name in schema.names), None)
    if image is None or label is None:
        wanted = f"image of {{bytes, path}} ({', '.join(_IMAGES)}) and label ({', '.join(_LABELS)})"
        raise UserError(f"{path}: columns {', '.join(schema.names)}; takes columns {wanted}")
    return image, label


def _rows(path: Path) -> tuple[list[bytes], list[int] | list[str], dict[int, str] | None]:
    """Names and labels of a file's rows, and the names that its schema gives the labels."""
    file = _open(path)
    image, label = _columns(path, file.schema_arrow)
    has_path = file.schema_arrow.field(image).type.get_field_index("path") >= 0
    try:
        table = file.read(columns=[label, *([f"{image}.path"] if has_path else [])], use_threads=False)
        labels = table.column(label).to_pylist()
        rows = table.column(image).to_pylist() if has_path else [None] * len(labels)
    except Exception as error:  # pyarrow raises OSError, ArrowInvalid, …
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    for row, value in enumerate(labels):
        if not isinstance(value, int | str) or value == -1:
            raise UserError(f"{path}: row {row} has no label ({value})")
    paths = [None if entry is None else entry["path"] for entry in rows]
    names = [os.fsencode(name) if name else b"%s/%08d" % (path.stem.encode(), row) for row, name in enumerate(paths)]
    return names, labels, _given_names(file.schema_arrow, label)


def _given_names(schema: "pa.Schema", label: str) -> dict[int, str] | None:
    """Names of the classes by number, from what the datasets library leaves in a schema."""
    try:
        said = json.loads((schema.metadata or {})[b"huggingface"])
        names = said["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return {number: str(name) for number, name in enumerate(names)} if isinstance(names, list) else None


def _listing(
    base: Path, paths: list[Path], parts: list[tuple[list[bytes], list[int] | list[str], dict[int, str] | None]]
) -> Listing:
    names = [name for of_file, *_ in parts for name in of_file]
    values = [value for _, of_file, _ in parts for value in of_file]
    if not values:
        raise UserError(f"{base}: no row in any of its {len(paths)} Parquet files")
    given = parts[0][2]
    if any(of_file != given for *_, of_file in parts):
        raise UserError(f"{base}: the Parquet files give the labels different names; are they of one data set?")
    lengths = [len(of_file) for of_file, *_ in parts]
    numbers: list[int] | None = None
    named = True
    if all(isinstance(value, int) for value in values):
        counted = np.array(values, np.int64)
        mapping, named = names_of_numbers(str(base), counted, names, given)
        classes, labels = numbered_labels(mapping, counted)
        by_name = {name: number for number, name in mapping.items()}
        numbers = [by_name[name] for name in classes]
    else:
        texts, inverse = np.unique(np.array(values, dtype=str), return_inverse=True)
        classes, labels = texts.tolist(), inverse.astype(np.int64)
    return Listing(
        classes=classes,
        labels=labels,
        names=as_names(_without_class(names, [classes[label] for label in labels.tolist()])),
        sizes=np.full(len(names), -1, np.int64),
        containers=[path.name for path in paths],
        container=np.repeat(np.arange(len(paths), dtype=np.int32), lengths),
        offsets=_places(lengths),
        numbers=numbers,
        named=named,
    )


def _without_class(names: list[bytes], classes: list[str]) -> list[bytes]:
    """n01440764_18_n01440764.JPEG as everybody else has it, n01440764_18.JPEG: the order follows names."""
    return [
        name.replace(b"_" + os.fsencode(class_name) + b".", b".", 1)
        for name, class_name in zip(names, classes, strict=True)
    ]


def _places(lengths: list[int]) -> NDArray[np.int64]:
    return np.concatenate([np.arange(length, dtype=np.int64) for length in lengths])
