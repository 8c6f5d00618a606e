"""A source written out as image folders or tar shards, which read back with the same classes, labels and order.

What is there already is compared with what belongs there, so that the same command goes on where it was interrupted,
and mends an export that was changed.
"""

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from vim_train.config.commands import ExportCommand, ExportFormat
from vim_train.config.errors import UserError
from vim_train.data.decode import BadImage
from vim_train.data.export_images import JPEG_QUALITY, leave_out, stored
from vim_train.data.images import open_images
from vim_train.data.sources import Source, Split, check_unchanged
from vim_train.data.sources.classes import is_imagenet_1k
from vim_train.data.sources.shards import INFO
from vim_train.data.sources.splits import EXPORT_MARK, UNFINISHED

Progress = Callable[[int, int], None]
_SPLITS: tuple[Split, ...] = ("train", "val")
_WDS = {"train": "train", "val": "validation"}
_BATCH = 256


@dataclass
class Exported:
    """What `export` did."""

    images: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    """Class and reason of each image that cannot be decoded, by path."""
    rewritten: list[Path] = field(default_factory=list)
    """Files that were there and were not what an export writes."""
    lengths: dict[Split, list[int]] = field(default_factory=dict)
    """Images of each shard."""


def export(command: ExportCommand, progress: Progress | None = None) -> Exported:
    """Write both splits of `command.data` to `command.out`.

    Folders get out/{train,val}/CLASS/NAME, shards out/…-train-0000.tar with NAME.jpg, NAME.cls and NAME.json; each file
    is whole or absent. What was done to the images stands in out/.export.json, and is said wherever they are read.

    Args:
        progress: called with (images done, images in all) now and then, and at the end.

    Raises:
        UserError: `out` holds something else or cannot be written; an image cannot be decoded and data.bad_images is
            not skip, or more than data.bad_images_max cannot.
    """
    out = Path(command.out)
    root = Path(command.data.root).expanduser().resolve() if command.data.root else None
    if root is not None and out.resolve().is_relative_to(root):
        raise UserError(f"out={command.out} lies in data.root={command.data.root}; choose a folder beside it")
    sources = {split: open_images(command.data, split) for split in _SPLITS}
    names = {split: _names(source) for split, source in sources.items()}
    if command.format is ExportFormat.folder:
        _check_lengths(sources, names, out)
    total = sum(len(source) for source in sources.values())
    done, found = 0, Exported()
    try:
        _claim(out, command, sources)
        write = _folder if command.format is ExportFormat.folder else _shards
        for split, source in sources.items():
            for count in write(source, names[split], split, out, command, found):
                done += count
                if progress is not None:
                    progress(done, total)
        _check_unchanged(sources, out)
        if command.format is ExportFormat.shards:
            _write_info(out, sources, command.shard_images, found)
        (out / UNFINISHED).unlink(missing_ok=True)
    except BadImage as error:
        _check_unchanged(sources, out)
        cure = "data.bad_images=skip leaves such images out"
        raise UserError(f"{error.path} cannot be decoded: {error.reason}; {cure}") from error
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from error
    found.images = total - len(found.left_out)
    return found


def _check_unchanged(sources: dict[Split, Source], out: Path) -> None:
    """Raises UserError: what was read may be anything, and so may be what was written."""
    for source in sources.values():
        check_unchanged(source, f"remove {out} and export again")


def _claim(out: Path, command: ExportCommand, sources: dict[Split, Source]) -> None:
    """Mark `out` as this export's, unless it is another's."""
    said: dict[str, object] = {
        "of": {split: source.fingerprint() for split, source in sources.items()},
        "format": command.format.value,
        "max_side": command.max_side,
    }
    if command.max_side is not None:
        said |= {"resize": "lanczos", "jpeg_quality": JPEG_QUALITY}
    if command.format is ExportFormat.shards:
        said["shard_images"] = command.shard_images
    out.mkdir(parents=True, exist_ok=True)
    mark = out / EXPORT_MARK
    if mark.exists():
        if json.loads(mark.read_text()) != said:
            raise UserError(
                f"{out} holds an export of other data, or of another kind; choose a new folder or remove it"
            )
    elif any(out.iterdir()):
        raise UserError(f"{out} is not empty; choose a new folder")
    else:
        _write(out / UNFINISHED, b"")
        _write(mark, json.dumps(said).encode())


def _folder(
    source: Source, names: list[str], split: Split, out: Path, command: ExportCommand, found: Exported
) -> Iterator[int]:
    """One file an image."""
    for name in source.classes:
        (out / split / name).mkdir(parents=True, exist_ok=True)

    def target(index: int) -> Path:
        return out / split / source.classes[source.labels[index]] / names[index]

    def write(index: int) -> BadImage | None:
        path = target(index)
        there = path.read_bytes() if path.is_file() else None
        data = stored(source, index, command, there)
        if isinstance(data, BadImage):
            return data
        if there != data:
            _write(path, data)
            if there is not None:
                found.rewritten.append(path)
        return None

    with ThreadPoolExecutor(max(command.data.workers, 1)) as pool:
        for first in range(0, len(source), _BATCH):
            indices = range(first, min(first + _BATCH, len(source)))
            bad = {index: error for index, error in zip(indices, pool.map(write, indices), strict=True) if error}
            for index, error in bad.items():
                leave_out(source, index, error, command, found.left_out)
            for index in bad:  # now that these are not too many, as where the images' disk is gone
                target(index).unlink(missing_ok=True)
            yield len(indices)


def _shards(
    source: Source, names: list[str], split: Split, out: Path, command: ExportCommand, found: Exported
) -> Iterator[int]:
    """One tar for every `shard_images` images."""
    lengths = found.lengths.setdefault(split, [])
    with ThreadPoolExecutor(max(command.data.workers, 1)) as pool:

        def packed(indices: range, left_out: dict[str, str], file: BinaryIO) -> Iterator[int]:
            """Write a shard of the images that can be decoded; yields how many are done, batch by batch."""
            with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
                for start in range(indices.start, indices.stop, _BATCH):
                    some = range(start, min(start + _BATCH, indices.stop))
                    images = pool.map(lambda index: stored(source, index, command), some)
                    for index, data in zip(some, images, strict=True):
                        if isinstance(data, BadImage):
                            leave_out(source, index, data, command, left_out)
                        else:
                            _add_sample(archive, source, index, names[index], data)
                    yield len(some)

        for shard, name in enumerate(_shard_names(source, split, command.shard_images)):
            first = shard * command.shard_images
            indices = range(first, min(first + command.shard_images, len(source)))
            path, part = out / name, out / f".{name}.part"
            left_out = dict(found.left_out)
            if path.is_file() and _holds(path, partial(packed, indices, left_out)):
                yield len(indices)
            else:
                found.rewritten += [path] * path.is_file()
                left_out = dict(found.left_out)
                try:
                    with open(part, "wb") as file:
                        yield from packed(indices, left_out, file)
                        file.flush()
                        os.fsync(file.fileno())
                    os.replace(part, path)
                finally:
                    part.unlink(missing_ok=True)
            lengths.append(len(indices) - len(left_out) + len(found.left_out))
            found.left_out = left_out


def _holds(path: Path, written: Callable[[BinaryIO], Iterator[int]]) -> bool:
    """Whether `path` holds what `written` writes to a file."""
    try:
        with open(path, "rb") as file:
            for _ in written(cast(BinaryIO, _Expecting(file))):
                pass
            return not file.read(1)
    except _Differs:
        return False


class _Differs(Exception):
    """A file does not hold what was expected of it."""


@dataclass
class _Expecting:
    """In place of a file to write: each write must be what `file` holds there."""

    file: BinaryIO

    def tell(self) -> int:
        return self.file.tell()

    def write(self, data: bytes) -> int:
        if self.file.read(len(data)) != data:
            raise _Differs
        return len(data)


def _add_sample(archive: tarfile.TarFile, source: Source, index: int, name: str, data: bytes) -> None:
    label = int(source.labels[index])
    stem, suffix = os.path.splitext(name)
    key = f"{source.classes[label]}/{stem}"
    said = {"label": label, "class_name": source.classes[label], "filename": name}
    # Everybody's readers know .jpg; what is inside is told by the bytes.
    image = ".jpg" if suffix.lower() in (".jpg", ".jpeg") else suffix.lower()
    for end, body in ((image, data), (".cls", str(label).encode()), (".json", json.dumps(said).encode())):
        info = tarfile.TarInfo(key + end)
        info.size = len(body)
        archive.addfile(info, io.BytesIO(body))


def _shard_names(source: Source, split: Split, size: int) -> list[str]:
    base = "imagenet1k" if is_imagenet_1k(source.classes) else "images"
    return [f"{base}-{_WDS[split]}-{shard:04d}.tar" for shard in range(-(-len(source) // size))]


def _write_info(out: Path, sources: dict[Split, Source], size: int, found: Exported) -> None:
    splits = {}
    for split, source in sources.items():
        names, lengths = _shard_names(source, split, size), found.lengths[split]
        splits[_WDS[split]] = {
            "name": _WDS[split], "num_samples": sum(lengths), "filenames": names, "shard_lengths": lengths
        }  # fmt: skip
    _write(out / INFO, json.dumps({"splits": splits}, indent=1).encode())


def _names(source: Source) -> list[str]:
    """A file name for each image, unique in its class: its own, or its index where it is no file."""
    used: set[tuple[int, str]] = set()
    names = []
    for index, label in enumerate(source.labels.tolist()):
        name = os.path.basename(source.name(index)) if source.form != "embedded images" else f"{index:08d}.png"
        stem, suffix = os.path.splitext(name)
        if (label, stem) in used:  # of two folders inside one class
            stem = f"{stem}_{index}"
        used.add((label, stem))
        names.append(stem + (suffix or ".jpg"))
    return names


def _check_lengths(sources: dict[Split, Source], names: dict[Split, list[str]], out: Path) -> None:
    """Raises UserError: an image's name or path is longer than the file system under `out` allows."""
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    longest, whole = os.pathconf(there, "PC_NAME_MAX"), os.pathconf(there, "PC_PATH_MAX")
    for split, source in sources.items():
        classes = [len(os.fsencode(name)) for name in source.classes]
        above = len(os.fsencode(out / split)) + 2  # slashes
        for index, (label, name) in enumerate(zip(source.labels.tolist(), names[split], strict=True)):
            own = len(os.fsencode(_part_name(name)))
            if max(own, classes[label]) > longest or above + classes[label] + own >= whole:
                why = f"its name is too long for a file under {out}; format=shards takes it"
                raise UserError(f"{source.name(index)}: {why}")


def _part_name(name: str) -> str:
    return f".{name}.part"


def _write(path: Path, data: bytes) -> None:
    """Whole or absent: under a dot-name, which readers skip, until it is complete."""
    part = path.with_name(_part_name(path.name))
    part.write_bytes(data)
    os.replace(part, path)
