"""What one split holds, as arrays, in an order that depends on classes and names alone, not on how they are stored."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Progress = Callable[[str, int, int], None]
"""Called with what is being indexed, how much is done and how much there is."""

LOOSE = -1
"""In place of a container: the image is a file of its own."""
_ROWS = 1 << 16


@dataclass(frozen=True)
class Listing:
    """Images of one split; those of one row of the arrays belong together."""

    classes: list[str]
    """Sorted, also those without an image."""
    labels: NDArray[np.int64]
    """(n,): indices into `classes`"""
    names: NDArray[np.bytes_]
    """(n,): path of a loose file below the part's folder, name of a member in its container"""
    sizes: NDArray[np.int64]
    """(n,): bytes; -1 where only decoding a container would tell"""
    containers: list[str]
    """Files that hold images, paths below the part's folder."""
    container: NDArray[np.int32]
    """(n,): index into `containers`, or LOOSE"""
    offsets: NDArray[np.int64]
    """(n,): first byte in the container, or row of a table"""
    numbers: list[int] | None = None
    """Of each class in the data set's own numbering, where it has one."""
    named: bool = True
    """False: `classes` are that numbering's digits, for want of names."""

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Part:
    """One split as it lies on disk: what it is called in messages, and how to look through it."""

    form: str
    """What was recognised, in a few words."""
    folder: Path
    """Folder that holds it; the names of a listing are below it."""
    where: str
    """What to call it in a message: a path."""
    classes: Callable[[], list[str]] | None
    """The sorted classes without looking at images; None: only a listing knows them."""
    listing: Callable[[Progress], Listing]
    """Look through it. Raises UserError."""
    files: tuple[Path, ...] = ()
    """Files that decide what a listing says, so that it can be kept; none: look each time."""
    unit: str = "classes"
    """What to call the classes in a message: class folders, or plainly classes."""
    table: bool = False
    """The containers are Parquet files."""


def in_order(listing: Listing) -> Listing:
    """By class, then by the member's base name without its suffix, then by full name and place."""
    order = np.lexsort((listing.names, stems(listing.names), listing.labels))
    if np.array_equal(order, np.arange(len(order))):
        return listing
    return select(listing, order)


def select(listing: Listing, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Listing:
    """The given rows: indices, or a mask."""
    return replace(
        listing,
        labels=listing.labels[rows],
        names=listing.names[rows],
        sizes=listing.sizes[rows],
        container=listing.container[rows],
        offsets=listing.offsets[rows],
    )


def with_classes(listing: Listing, classes: list[str]) -> Listing:
    """The same images with labels that index `classes`, which has all of the listing's own."""
    if listing.classes == classes:
        return listing
    place = {name: i for i, name in enumerate(classes)}
    table = np.array([place[name] for name in listing.classes], np.int64)
    return replace(listing, classes=classes, labels=table[listing.labels], numbers=None)


def empty(classes: list[str]) -> Listing:
    """No image of `classes`."""
    none = np.empty(0, np.int64)
    return Listing(classes, none, np.empty(0, "S1"), none, [], none.astype(np.int32), none)


def fingerprint(listing: Listing) -> str:
    """Hash of classes, labels, base names and sizes: the same whatever form the images are stored in, but for tables,
    which do not tell sizes."""
    digest = hashlib.blake2b("\0".join(listing.classes).encode("utf-8", "surrogateescape"), digest_size=16)
    digest.update(listing.labels.astype("<i8").tobytes())
    digest.update(listing.sizes.astype("<i8").tobytes())
    for first in range(0, len(listing), _ROWS):
        digest.update(b"\0".join(stems(listing.names[first : first + _ROWS]).tolist()))
    return digest.hexdigest()


def stems(names: NDArray[np.bytes_]) -> NDArray[np.bytes_]:
    """Base names without their last suffix: b"a/b.tar/c.d.jpg" gives b"c.d"."""
    if len(names) == 0:
        return names
    parts = [_stems(names[first : first + _ROWS]) for first in range(0, len(names), _ROWS)]
    return np.concatenate(parts)


def _stems(names: NDArray[np.bytes_]) -> NDArray[np.bytes_]:
    width = names.dtype.itemsize
    table = np.ascontiguousarray(names).view(np.uint8).reshape(len(names), width)
    columns = np.arange(width, dtype=np.int32)
    begin = np.where(table == ord("/"), columns + 1, 0).max(1, initial=0)[:, None]
    length = np.where(table != 0, columns + 1, 0).max(1, initial=0)[:, None]
    dot = np.where((table == ord(".")) & (columns > begin), columns, 0).max(1, initial=0)[:, None]
    stop = np.where(dot > 0, dot, length)
    shifted = np.take_along_axis(table, np.minimum(columns + begin, width - 1), axis=1)
    kept: NDArray[np.uint8] = np.where(columns < stop - begin, shifted, 0).astype(np.uint8)
    return np.ascontiguousarray(kept).view(f"S{width}")[:, 0]


def as_names(names: Sequence[bytes]) -> NDArray[np.bytes_]:
    """(n,) of a width that holds the longest."""
    return np.array(names, dtype=f"S{max(map(len, names), default=1) or 1}")


def some(names: Sequence[str], limit: int = 5) -> str:
    """The first of `names`, and how many there are more."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def count_of(things: Sequence[object], what: str) -> str:
    """How many there are: `1 image`, `2 images`."""
    return f"{len(things)} {what}{'s' * (len(things) != 1)}"
