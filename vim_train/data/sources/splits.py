"""One split of what was recognised: its classes compared with the other's, and a share held out where there is none."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vim_train.config.errors import UserError
from vim_train.config.schema import DataConfig
from vim_train.data.order import held_out
from vim_train.data.sources.cache import listing_of, stamp
from vim_train.data.sources.folder import SPLIT_NAMES, files_in, folders_in, images_in
from vim_train.data.sources.indexed import Containers, IndexedSource, TarFiles
from vim_train.data.sources.listing import Listing, Part, Progress, fingerprint, select, some, with_classes
from vim_train.data.sources.numbering import same_numbering
from vim_train.data.sources.parquet import ParquetFiles
from vim_train.data.sources.recognise import recognise, two_forms

EXPORT_MARK = ".export.json"
"""What `vim-data export` says of a folder that it wrote."""
UNFINISHED = ".export.unfinished"
"""Lies in such a folder until everything is there."""
HELD_OUT = "split by data.val_fraction"
"""Part of the form of images that are a share of the training images."""
_WNID = re.compile(r"n\d{8}")
_ALLOW = "data.allow_empty_classes=true accepts that"


def open_split(root: Path, data: DataConfig, split: str, progress: Progress, refresh: bool) -> IndexedSource:
    """The training or validation images under `root`. Raises UserError."""
    for folder in (root, root.parent):
        if (folder / UNFINISHED).exists():
            raise UserError(f"{folder} is an export that has not finished; give the same vim-data export once more")
    layout = recognise(root)
    if not data.allow_empty_classes:
        _check_numbers(layout.train or layout.val, progress)
    if layout.train is None:
        assert layout.val is not None
        if split == "train":
            packed = [name for name in files_in(root) if "train" in name and name.endswith((".gz", ".tgz", ".tar"))]
            more = f"; {some(packed)} is not read: takes ILSVRC2012_img_train.tar, not compressed" if packed else ""
            if stray := _stray(root, layout.val, _classes(layout.val, progress)):
                more = f"; move its class folders ({some(stray)}) into {root / 'train'}"
            raise UserError(f"{layout.val.where} is for validation, and {root} has no training images beside it{more}")
        listing, digest = listing_of(layout.val, progress, refresh)
        _check_empty(data, layout.val, listing)
        return _source(layout.val, listing, digest, data)
    if layout.val is None:
        listing, _ = listing_of(layout.train, progress, refresh)
        _check_alone(root, layout.train, listing.classes)
        _check_empty(data, layout.train, listing)
        if split == "val" and data.val_fraction == 1:
            return _source(layout.train, listing, fingerprint(listing), data)
        kept = _held_out(layout.train, listing, data, split)
        part = replace(layout.train, form=f"{layout.train.form} {HELD_OUT}={data.val_fraction}")
        return _source(part, kept, fingerprint(kept), data)
    part = layout.train if split == "train" else layout.val
    names = _compare(layout.train, layout.val, data, progress)
    _check_alone(root, layout.train, names)
    listing, digest = listing_of(part, progress, refresh)
    if split == "val":
        moved = with_classes(_renamed(part, listing, layout.train, progress), names)
        if moved is not listing:
            listing, digest = moved, fingerprint(moved)
    _check_empty(data, part, listing)
    return _source(part, listing, digest, data)


def _check_alone(root: Path, part: Part, classes: Sequence[str]) -> None:
    """Raises UserError: the root has class folders of its own, too."""
    if stray := _stray(root, part, classes):
        raise UserError(two_forms(root, "training", part.where, f"its class folders {some(stray)}"))


def _stray(root: Path, part: Part, classes: Sequence[str]) -> list[str]:
    """Folders of images in the root that are called as a class is, where `part` is not made of them."""
    if part.folder == root and not part.files:
        return []
    own = [name for name in folders_in(root) if name.casefold() not in SPLIT_NAMES]
    return [name for name in own if (name in classes or _WNID.fullmatch(name)) and images_in(root / name)]


def _source(part: Part, listing: Listing, digest: str, data: DataConfig) -> IndexedSource:
    stamps = [stamp(part.folder / name) for name in listing.containers]
    containers: Containers = ParquetFiles(stamps) if part.table else TarFiles(stamps)
    return IndexedSource(
        part.form + _shrunk(part.folder), str(part.folder), listing, digest, containers, data.pixel_limit
    )


def _shrunk(folder: Path) -> str:
    """That an export made the images smaller, which is never to go unsaid."""
    for above in (folder, folder.parent):
        try:
            side = json.loads((above / EXPORT_MARK).read_bytes()).get("max_side")
        except (OSError, ValueError, AttributeError):
            continue
        return f", shrunk to {side} px by vim-data export" if side is not None else ""
    return ""


def _classes(part: Part, progress: Progress) -> list[str]:
    return listing_of(part, progress)[0].classes if part.classes is None else part.classes()


def _renamed(val: Part, listing: Listing, train: Part, progress: Progress) -> Listing:
    """The validation images with the names that training has for the numbers of their classes."""
    if listing.numbers is None or train.classes is not None:
        return listing
    names = same_numbering(val.where, listing, listing_of(train, progress)[0])
    if not names or all(old == new for old, new in names.items()):
        return listing
    places = [names[name] for name in listing.classes]
    classes = sorted(places)
    table = np.array([classes.index(name) for name in places], np.int64)
    return replace(listing, classes=classes, labels=table[listing.labels], named=True)


def _check_numbers(part: Part | None, progress: Progress) -> None:
    """Raises UserError: classes are numbered from 1 or more, and nothing says what the numbers mean."""
    if part is None or part.classes is not None:
        return
    listing, _ = listing_of(part, progress)
    if not listing.named and listing.numbers and 0 not in listing.numbers:
        least, most = min(listing.numbers), max(listing.numbers)
        cure = "write them from 0, or beside them the names of the classes (class_name in .json, or Parquet's schema)"
        raise UserError(f"{part.where}: labels from {least} to {most}, and class ids start at 0: {cure}; {_ALLOW}")


def _compare(train: Part, val: Part, data: DataConfig, progress: Progress) -> list[str]:
    """Classes of the training images, which are all there are.

    Raises:
        UserError: the validation images have others, or lack some.
    """
    of_train = _classes(train, progress)
    of_val = _classes(val, progress)
    if val.classes is None:
        of_val = _renamed(val, listing_of(val, progress)[0], train, progress).classes
    for part, names in ((train, of_train), (val, of_val)):
        _check_case(part, names)
    extra, missing = sorted(set(of_val) - set(of_train)), sorted(set(of_train) - set(of_val))
    unit = train.unit if train.unit == val.unit else "classes"
    if extra:
        also = f", and lacks {some(missing)}" if missing else ""
        if {name.casefold() for name in extra} & {name.casefold() for name in missing}:
            also += ": some differ in case only"
        raise UserError(f"{val.where} has {unit} that {train.where} has not: {some(extra)}{also}")
    if missing and not data.allow_empty_classes:
        cure = "remove what is no class from the one, or add images to the other"
        raise UserError(f"{train.where} has {unit} that {val.where} has not: {some(missing)}; {cure} ({_ALLOW})")
    return of_train


def _check_case(part: Part, names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            raise UserError(f"{part.where} has {part.unit} that differ in case only: {other}, {name}; rename one")


def _check_empty(data: DataConfig, part: Part, listing: Listing) -> None:
    counts = np.bincount(listing.labels, minlength=len(listing.classes))
    if not counts.any():
        raise UserError(f"{part.where}: no image in any of its {len(listing.classes)} {part.unit}")
    missing = [listing.classes[i] for i in np.flatnonzero(counts == 0).tolist()]
    if missing and not data.allow_empty_classes:
        unit = part.unit.removesuffix("s").removesuffix("e") if part.unit == "classes" else part.unit.removesuffix("s")
        raise UserError(f"{part.where}: no image in {unit} {some(missing)} ({_ALLOW})")


def _held_out(part: Part, listing: Listing, data: DataConfig, split: str) -> Listing:
    """The share of a part without validation images that is for `split`."""
    fraction = f"data.val_fraction={data.val_fraction}"
    mask = _chosen(listing, data.val_fraction)
    if not mask.any():
        raise UserError(f"{part.where}: {fraction} holds out none of {len(listing)} images; {_cure(listing)}")
    for label in _starved(listing, ~mask):
        images = int((listing.labels == label).sum())
        where = f"{part.where}/{listing.classes[label]}"
        raise UserError(f"{where}: {fraction} leaves none of its {images} images to train on; {_cure(listing)}")
    unseen = [listing.classes[label] for label in _starved(listing, mask)]
    if unseen and not data.allow_empty_classes:
        what = f"{fraction} holds out no image of {some(unseen)}"
        raise UserError(f"{part.where}: {what}; {_cure(listing)} ({_ALLOW})")
    return select(listing, mask if split == "val" else ~mask)


def _chosen(listing: Listing, fraction: float) -> NDArray[np.bool_]:
    """Which images are held out."""
    loose = not listing.containers
    mask = np.zeros(len(listing), bool)
    for row, (label, name) in enumerate(zip(listing.labels.tolist(), listing.names.tolist(), strict=True)):
        path = os.fsdecode(name)
        below = path if loose else f"{listing.classes[label]}/{os.path.basename(path)}"
        mask[row] = held_out(below, fraction)
    return mask


def _starved(listing: Listing, mask: NDArray[np.bool_]) -> list[int]:
    """Classes with images, but none among those of `mask`."""
    every = np.bincount(listing.labels, minlength=len(listing.classes))
    left = np.bincount(listing.labels[mask], minlength=len(listing.classes))
    starved: list[int] = np.flatnonzero((left == 0) & (every > 0)).tolist()
    return starved


def _cure(listing: Listing) -> str:
    """The smallest share in hundredths that leaves either side some of each class, if there is one."""
    for hundredths in range(1, 100):
        mask = _chosen(listing, hundredths / 100)
        if _starved(listing, ~mask):
            break
        if not _starved(listing, mask):
            return f"take data.val_fraction={hundredths / 100} or add val/"
    return "add val/"
