"""Listings kept in the user's cache directory: one file each, mapped into memory, so that workers share its pages."""

import hashlib
import json
import mmap
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from vim_train.config.errors import UserError
from vim_train.data.sources.listing import Listing, Part, Progress, fingerprint, in_order

_MAGIC = b"vim-train index 3\n"
_DIGEST = 16
_ARRAYS = ("labels", "names", "sizes", "container", "offsets")
_ALIGN = 64

Stamp = tuple[str, int, int]
"""Absolute path, bytes, and time of last change in nanoseconds."""


def cache_dir() -> Path:
    """$VIM_TRAIN_CACHE, else vim-train/index under $XDG_CACHE_HOME or ~/.cache."""
    if own := os.environ.get("VIM_TRAIN_CACHE"):
        return Path(own) / "index"
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "vim-train" / "index"


def listing_of(part: Part, progress: Progress, refresh: bool = False) -> tuple[Listing, str]:
    """The part's listing in its order, with its fingerprint: from the cache, or looked through and kept there.

    Raises:
        UserError: what looking through it raises, or its files change meanwhile.
    """
    if not part.files:
        listing = in_order(part.listing(progress))
        return listing, fingerprint(listing)
    stamps = [stamp(path) for path in part.files]
    path = index_path(part)
    if not refresh and (kept := _load(path, stamps)) is not None:
        return kept
    listing = in_order(part.listing(progress))
    if [stamp(path) for path in part.files] != stamps:
        raise UserError(f"{part.where} has changed while it was looked through; start again once it is complete")
    digest = fingerprint(listing)
    _save(path, listing, digest, stamps)
    return _load(path, stamps) or (listing, digest)


def index_path(part: Part) -> Path:
    """Where the part's index is kept."""
    text = "\0".join([part.form, *(os.path.abspath(path) for path in part.files)])
    return cache_dir() / (hashlib.blake2b(os.fsencode(text), digest_size=16).hexdigest() + ".idx")


def stamp(path: str | Path) -> Stamp:
    """What tells whether a file is still the one that was indexed; sizes of -1 where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.abspath(path), -1, -1
    return os.path.abspath(path), status.st_size, status.st_mtime_ns


def changed(stamps: Sequence[Stamp]) -> str | None:
    """The first file that is no longer what it was when `stamps` were taken, and that it is not, in words."""
    for then in stamps:
        now = stamp(then[0])
        if now != then:
            return f"{then[0]} {'is gone' if now[1] < 0 else 'has changed'} since it was indexed"
    return None


def _save(path: Path, listing: Listing, digest: str, stamps: list[Stamp]) -> None:
    """Write whole or not at all; a cache that cannot be written costs time and nothing else."""
    arrays = {name: np.ascontiguousarray(getattr(listing, name)) for name in _ARRAYS}
    body = hashlib.blake2b(digest_size=16)
    for array in arrays.values():
        body.update(array.data.cast("B") if array.size else b"")
    header = json.dumps(
        {
            "stamps": stamps,
            "fingerprint": digest,
            "body": body.hexdigest(),
            "arrays": {name: [array.dtype.str, len(array)] for name, array in arrays.items()},
            "classes": listing.classes,
            "containers": listing.containers,
            "numbers": listing.numbers,
            "named": listing.named,
        }
    ).encode("ascii")
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".part-", delete=False) as file:
            part = file.name
            file.write(_MAGIC + _digest(header) + len(header).to_bytes(8, "little") + header)
            for array in arrays.values():
                file.write(bytes(-file.tell() % _ALIGN))
                array.tofile(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        if part is not None:
            with suppress(OSError):
                os.unlink(part)
        print(f"the index is not kept: {path}: {error.strerror or error}", file=sys.stderr)


def _load(path: Path, stamps: list[Stamp]) -> tuple[Listing, str] | None:
    """What `_save` wrote; None: nothing, of other files, or damaged."""
    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if data[: len(_MAGIC)] != _MAGIC:
            return None
        start = len(_MAGIC) + _DIGEST + 8
        pos = start + int.from_bytes(data[start - 8 : start], "little")
        if _digest(data[start:pos]) != data[len(_MAGIC) : start - 8]:
            return None
        header = json.loads(data[start:pos])
        if [tuple(entry) for entry in header["stamps"]] != stamps:
            return None
        arrays = {}
        body = hashlib.blake2b(digest_size=16)
        for name in _ARRAYS:
            kind, count = header["arrays"][name]
            pos += -pos % _ALIGN
            arrays[name] = np.frombuffer(data, np.dtype(kind), count, pos)
            body.update(arrays[name].data.cast("B") if count else b"")
            pos += arrays[name].nbytes
        if body.hexdigest() != header["body"]:
            return None
        names = {key: header[key] for key in ("classes", "containers", "numbers", "named")}
        kept: dict[str, Any] = {**arrays, **names}
        return Listing(**kept), header["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST).digest()
