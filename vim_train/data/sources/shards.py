"""Tar shards in webdataset's naming, KEY.jpg with KEY.cls or KEY.json, read by random access."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vim_train.config.errors import UserError
from vim_train.data.sources.archives import scan_file
from vim_train.data.sources.folder import is_image
from vim_train.data.sources.listing import Listing, Part, Progress, as_names, some
from vim_train.data.sources.numbering import names_of_numbers, numbered_labels, wnid_in

INFO = "_info.json"
_NO_RECORD = (0, -1)
_NUMBER = re.compile(rb"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)
_DIGITS = 19
"""So many may be more than 64 bits hold."""


class _Shard(NamedTuple):
    """Images of one shard."""

    names: NDArray[np.bytes_]
    places: NDArray[np.int64]
    """(n, 2): offset and bytes"""
    labels: NDArray[np.bytes_]
    """(n,): as written"""
    records: NDArray[np.int64]
    """(n, 2): offset and bytes of the .json; -1 bytes where there is none"""


def tar_shards(base: Path, names: Sequence[str], split: str) -> Part:
    """base/…-0000.tar and so on; `split`: what `_info.json` calls it, where there is one."""
    paths = [base / name for name in sorted(names)]

    def listing(progress: Progress) -> Listing:
        shards = []
        for path in paths:
            shards.append(_shard(path))
            progress(str(base), len(shards), len(paths))
        _check_count(base, split, sum(len(shard.names) for shard in shards))
        return _listing(base, paths, shards)

    where = f"{base}/{paths[0].name}" + (f" to {paths[-1].name}" if len(paths) > 1 else "")
    files = (*paths, base / INFO) if (base / INFO).is_file() else tuple(paths)
    return Part(f"{len(paths)} tar shard{'s' * (len(paths) > 1)}", base, where, None, listing, files)


def _shard(path: Path) -> _Shard:
    members = scan_file(path)
    images: dict[bytes, tuple[bytes, int, int]] = {}
    classes: dict[bytes, tuple[int, int]] = {}
    records: dict[bytes, tuple[int, int]] = {}
    for name, offset, size in zip(
        members.names.tolist(), members.offsets.tolist(), members.sizes.tolist(), strict=True
    ):
        key, suffix = os.path.splitext(name)
        suffix = suffix.lower()
        if suffix == b".cls":
            classes[key] = (offset, size)
        elif suffix == b".json":
            records[key] = (offset, size)
        elif suffix and is_image(name):
            if key in images:
                raise UserError(f"{path}: {os.fsdecode(key)} has two images")
            images[key] = (name, offset, size)
    with open(path, "rb") as file:
        fd = file.fileno()
        labels = [_label(fd, path, name, classes.get(key), records.get(key)) for key, (name, *_) in images.items()]
        of_classes = set(labels)
        for (key, (name, *_)), label in zip(images.items(), labels, strict=True):
            if key in classes and key in records:
                _check_agree(path, name, label, _record(fd, path, *records[key]), of_classes)
    return _Shard(
        as_names([name for name, *_ in images.values()]),
        np.array([place for _, *place in images.values()], np.int64).reshape(-1, 2),
        as_names(labels),
        np.array([records.get(key, _NO_RECORD) for key in images], np.int64).reshape(-1, 2),
    )


def _label(fd: int, path: Path, name: bytes, classes: tuple[int, int] | None, record: tuple[int, int] | None) -> bytes:
    """What is written of an image's class: its .cls, or a word of its .json."""
    if classes is not None:
        return _checked(os.pread(fd, classes[1], classes[0]).strip(), path, name, ".cls")
    said = {} if record is None else _record(fd, path, *record)
    found = next((said[key] for key in ("label", "cls", "class_name") if key in said), None)
    if not isinstance(found, int | float | str):
        raise UserError(f"{path}: {os.fsdecode(name)} has no label: no .cls beside it, nor a .json with label or cls")
    return _checked(str(found).encode(), path, name, ".json")


def _check_agree(path: Path, name: bytes, label: bytes, said: dict[str, object], of_classes: set[bytes]) -> None:
    """Raises UserError: the .json beside an image has another class than the `label` of its .cls.

    A name tells only where it is one of the shard's classes: else it calls the same class by another word.
    """
    number = label.isdigit()
    for key in ("label", "cls") if number else ("label", "cls", "class_name"):
        value = said.get(key)
        other = str(value).strip().encode() if isinstance(value, int | str) else b""
        if number and other.isdigit() and int(other) != int(label):
            break
        if not number and other != label and other in of_classes:
            break
    else:
        return
    members = f"its .cls says {_shown(label)}, its .json {key}={_shown(other)}"
    raise UserError(f"{path}: {os.fsdecode(name)} has two labels: {members}; mend the wrong one")


def _checked(label: bytes, path: Path, name: bytes, suffix: str) -> bytes:
    """Raises UserError: `label` is neither the number of a class nor a name."""
    if label.isdigit() and len(label) < _DIGITS:
        return label
    if not label or _NUMBER.fullmatch(label):
        member = os.fsdecode(os.path.splitext(name)[0]) + suffix
        takes = "takes the number of a class, from 0, or its name"
        raise UserError(f"{path}: {member} holds {_shown(label) or 'nothing'}: {takes}")
    return label


def _shown(label: bytes) -> str:
    return " ".join(label[:60].decode("utf-8", "backslashreplace").split())


def _listing(base: Path, paths: list[Path], shards: list[_Shard]) -> Listing:
    names, places, texts, records = map(np.concatenate, zip(*shards, strict=True))
    if not len(names):
        raise UserError(f"{base}: no image in any of its {len(paths)} tar shards (KEY.jpg with KEY.cls or KEY.json)")
    _check_once(base, names)
    container = np.repeat(np.arange(len(paths), dtype=np.int32), [len(shard.names) for shard in shards])
    numbers: list[int] | None = None
    named = True
    digits = np.fromiter(map(bytes.isdigit, texts.tolist()), bool, len(texts))
    if digits.any() and not digits.all():
        few = digits if 2 * digits.sum() < len(digits) else ~digits
        at, other = int(np.argmax(few)), int(np.argmin(few))
        where = f"{paths[container[at]]}: {os.fsdecode(names[at])}"
        kind = "names" if digits[at] else "numbers"
        said = f"has the label {_shown(texts[at])} where others have {kind}, as {_shown(texts[other])}"
        raise UserError(f"{where} {said}; takes numbers in all shards, or names in all")
    if digits.all():
        values = texts.astype(np.int64)
        given = _names_from_records([paths[i] for i in container.tolist()], values, records)
        mapping, named = names_of_numbers(str(base), values, names.tolist(), given)
        classes, labels = numbered_labels(mapping, values)
        by_name = {name: number for number, name in mapping.items()}
        numbers = [by_name[name] for name in classes]
    else:
        found, inverse = np.unique(texts, return_inverse=True)
        classes, labels = [os.fsdecode(name) for name in found.tolist()], inverse.astype(np.int64)
    return Listing(
        classes=classes,
        labels=labels,
        names=names,
        sizes=places[:, 1],
        containers=[path.name for path in paths],
        container=container,
        offsets=places[:, 0],
        numbers=numbers,
        named=named,
    )


def _check_once(base: Path, names: NDArray[np.bytes_]) -> None:
    """Raises UserError: an image is there twice, as where a shard was copied."""
    found, counts = np.unique(names, return_counts=True)
    if (counts > 1).any():
        twice = [os.fsdecode(name) for name in found[counts > 1].tolist()]
        raise UserError(f"{base}: {len(twice)} images are in more than one place of its tar shards: {some(twice)}")


def _names_from_records(
    paths: list[Path], numbers: NDArray[np.int64], records: NDArray[np.int64]
) -> dict[int, str] | None:
    """Class names by number, from the .json of the first image of each; None where one says nothing."""
    found: dict[int, str] = {}
    for number, first in zip(*np.unique(numbers, return_index=True), strict=True):
        offset, size = records[first].tolist()
        if size < 0:
            return None
        with open(paths[first], "rb") as file:
            said = _record(file.fileno(), paths[first], offset, size)
        filename = said.get("filename")
        words = (
            said.get("wnid"),
            said.get("synset"),
            wnid_in(filename.encode()) if isinstance(filename, str) else None,
            said.get("class_name"),
        )
        name = next((word for word in words if isinstance(word, str) and word), None)
        if name is None:
            return None
        found[int(number)] = name
    return found


def _record(fd: int, path: Path, offset: int, size: int) -> dict[str, object]:
    try:
        said = json.loads(os.pread(fd, size, offset))
    except ValueError as error:
        raise UserError(f"{path}: at byte {offset:,}: no JSON: {error}") from error
    return said if isinstance(said, dict) else {}


def _check_count(base: Path, split: str, count: int) -> None:
    """Raises UserError: `_info.json` tells of more or fewer images."""
    try:
        splits = json.loads((base / INFO).read_bytes())["splits"]
        wanted = next(splits[name]["num_samples"] for name in (split, "validation") if name in splits)
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return
    if isinstance(wanted, int) and wanted != count:
        raise UserError(f"{base}: {INFO} tells of {wanted:,} images of {split}, the shards hold {count:,}")
