"""Every image decoded once: which are bad, and, against hashes of an earlier time, which have changed."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vim_train.config.errors import UserError
from vim_train.config.schema import DataConfig
from vim_train.data.decode import BadImage
from vim_train.data.images import open_images
from vim_train.data.sources import Source, Split, check_unchanged

Progress = Callable[[int, int], None]
_SPLITS: tuple[Split, ...] = ("train", "val")
_BATCH = 256
_HEADER = "# vim-data verify: blake2b-128 of each image file, and its path below data.root"
_FOOTER = "# end of {count} images; blake2b-128 of the lines above: {digest}"
Kind = Literal["bad", "changed", "gone", "new"]
_REASONS: dict[Kind, str] = {
    "changed": "its bytes have changed since the hashes",
    "gone": "is gone since the hashes",
    "new": "is new since the hashes",
}


@dataclass(frozen=True)
class Fault:
    """What is wrong with an image."""

    path: str
    class_name: str
    reason: str
    kind: Kind
    """bad: cannot be decoded; the others: against the hashes of an earlier time."""


@dataclass(frozen=True)
class Verdict:
    """What `verify` found."""

    images: int
    faults: list[Fault]
    compared: bool
    """Hashes of an earlier time were there; else those of the images that are not bad are now."""

    def count(self, kind: Kind) -> int:
        """How many images are at fault in this way."""
        return sum(fault.kind == kind for fault in self.faults)


def verify(data: DataConfig, hashes: Path | None = None, progress: Progress | None = None) -> Verdict:
    """Read and decode both splits of `data` on `data.workers` threads.

    Args:
        hashes: file of hashes: compared with if it is there, else written. Only a hash finds bits that flip inside an
            image: most such images decode, to another picture.
        progress: called with (images decoded, images in all).

    Raises:
        UserError: the data set cannot be opened, or `hashes` is no such file, of other images, or cannot be written.
    """
    sources = {split: open_images(data, split) for split in _SPLITS}
    total = sum(len(source) for source in sources.values())
    before = _read_hashes(hashes) if hashes is not None and hashes.exists() else None
    if before is not None and not any(name in before for name in _names(data, sources.values())):
        where = f"data={data.name.value}" if data.root is None else f"data.root={data.root}"
        why = "hashes go by path, so that each form of a data set needs a file of its own; name a new one"
        raise UserError(f"hashes={hashes}: knows none of the images of {where}: {why}")
    now: dict[str, str] = {}
    faults: list[Fault] = []
    done = 0
    for source in sources.values():
        for index, digest, reason in _looked_at(source, max(data.workers, 1)):
            path, done = source.name(index), done + 1
            below = _below(data, path)
            kind: Kind = "bad"
            if digest is not None:
                now[below] = digest
                if before is not None and before.get(below) != digest:
                    kind = "changed" if below in before else "new"
                    reason = _REASONS[kind]
            if reason is not None:
                check_unchanged(source)
                faults.append(Fault(path, source.classes[source.labels[index]], reason, kind))
            if progress is not None and (done % _BATCH == 0 or done == total):
                progress(done, total)
    if before is not None:
        bad = {_below(data, fault.path) for fault in faults}
        gone = sorted(before.keys() - now.keys() - bad)
        faults += [Fault(path, "", _REASONS["gone"], "gone") for path in gone]
    elif hashes is not None:
        _write_hashes(hashes, now)
    return Verdict(total, faults, before is not None)


def _names(data: DataConfig, sources: Iterable[Source]) -> Iterator[str]:
    """What a file of hashes calls the images."""
    return (_below(data, source.name(index)) for source in sources for index in range(len(source)))


def _below(data: DataConfig, path: str) -> str:
    return os.path.relpath(path, data.root) if data.root is not None else path


def _looked_at(source: Source, threads: int) -> Iterator[tuple[int, str | None, str | None]]:
    """Index, hash and reason of each image; no hash where it cannot be decoded, no reason where it is sound."""

    def look(index: int) -> tuple[int, str | None, str | None]:
        try:
            data = source.read(index)
            if data is None:
                data = source.load(index, source.native_mode).tobytes()
            source.load(index)
        except BadImage as error:
            return index, None, error.reason
        return index, _digest(data), None

    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(source), _BATCH):
            yield from pool.map(look, range(first, min(first + _BATCH, len(source))))


def _read_hashes(path: Path) -> dict[str, str]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"hashes={path}: {error.strerror or error}") from error
    if not data.startswith(_HEADER.encode()):
        raise UserError(f"hashes={path}: is no file of hashes that vim-data verify has written")
    *lines, last = data.decode("utf-8", "surrogateescape").removesuffix("\n").split("\n")
    if last != _footer(lines):
        why = "is not whole, or not as vim-data verify has written it"
        raise UserError(f"hashes={path}: {why}; name a new one, or remove it and verify once more")
    return {_unescaped(name): digest for digest, _, name in (line.partition("  ") for line in lines[1:])}


def _write_hashes(path: Path, hashes: Mapping[str, str]) -> None:
    part = path.with_name(f".{path.name}.part")
    lines = [_HEADER, *(f"{digest}  {_escaped(name)}" for name, digest in sorted(hashes.items()))]
    try:
        part.write_text("\n".join([*lines, _footer(lines), ""]), encoding="utf-8", errors="surrogateescape")
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"hashes={path}: cannot be written: {error.strerror or error}") from error


def _footer(lines: list[str]) -> str:
    """The last line of a file of hashes, by which one that was cut or changed is known."""
    return _FOOTER.format(count=len(lines) - 1, digest=_digest("\n".join(lines).encode("utf-8", "surrogateescape")))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _escaped(name: str) -> str:
    """On one line."""
    return name.replace("\\", r"\\").replace("\n", r"\n").replace("\r", r"\r")


def _unescaped(name: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "r": "\r"}.get(found[1], found[1]), name)
