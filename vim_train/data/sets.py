"""ImageNet's sets for evaluation: which of them lie under a root, and their images, labelled as the model has them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vim_train.config.errors import UserError
from vim_train.data.sources.cache import listing_of
from vim_train.data.sources.classes import imagenet_wnids
from vim_train.data.sources.folder import class_folders, folders_in
from vim_train.data.sources.indexed import IndexedSource, TarFiles
from vim_train.data.sources.listing import Progress, fingerprint, select, some

_V2 = ("matched-frequency", "threshold0.7", "top-images")
_NAMES = {
    "a": ("imagenet-a",),
    "r": ("imagenet-r",),
    "sketch": ("sketch", "ImageNet-Sketch"),
    "o": ("imagenet-o",),
    "c": ("ImageNet-C", "imagenet-c"),
}
"""What each set's archive unpacks to: the root may be that folder, or what it lies in."""
_GROUPS = ("noise", "blur", "weather", "digital", "extra")
"""ImageNet-C comes in these archives."""
_SEVERITIES = ("1", "2", "3", "4", "5")

PUBLISHED = {"a": 7_500, "r": 30_000, "sketch": 50_889, "o": 2_000, "c": 50_000, "v2": 10_000, "val": 50_000}
"""Images of each set, of one of its parts where it has parts."""


@dataclass(frozen=True)
class Labelled:
    """Images, and their labels among a model's classes, which may be others than those of the folders."""

    source: IndexedSource
    labels: NDArray[np.int64]
    """(N,) index into the model's classes; -1 where an image shows none of them."""
    notes: list[str]
    """What a reader of the metrics should know."""


def find_sets(name: str, root: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """The folders of class folders that set `name` has under `root`, by what they are called in results: `sketch`,
    `v2_top_images`, `c/fog/3`; and which others there might have been, with the reason why not.

    Raises:
        UserError: nothing of the set is there.
    """
    if name == "v2":
        return _find_v2(root)
    bases = [root, *(root / inside for inside in _NAMES[name] if (root / inside).is_dir())]
    if name == "c":
        return _find_c(root, bases), {}
    return {name: bases[-1]}, {}


def check_folders(folders: Iterable[Path]) -> None:
    """Raises UserError: one of them has no class folders."""
    for folder in folders:
        names = class_folders(folder).classes
        assert names is not None
        names()


def _find_v2(root: Path) -> tuple[dict[str, Path], dict[str, str]]:
    folders = {f"v2_{name.replace('-', '_')}": f"imagenetv2-{name}-format-val" for name in _V2}
    for called, folder in folders.items():
        if root.name == folder:
            return {called: root}, {}
    found = {called: root / folder for called, folder in folders.items() if (root / folder).is_dir()}
    if found:
        absent = {called: f"no {folder}" for called, folder in folders.items() if called not in found}
        return found, {called: f"{reason} in roots.v2={root}" for called, reason in absent.items()}
    inside = folders_in(root)
    if inside and all(name.isdecimal() for name in inside):
        return {"v2": root}, {}
    raise UserError(f"roots.v2={root}: takes a folder with {', '.join(folders.values())}, or one of these")


def _find_c(root: Path, bases: Sequence[Path]) -> dict[str, Path]:
    grouped = [base / group for base in bases for group in _GROUPS]
    found: dict[str, Path] = {}
    for base in (*bases, *grouped):
        for corruption in folders_in(base):
            for severity in sorted(set(folders_in(base / corruption)) & set(_SEVERITIES)):
                found.setdefault(f"c/{corruption}/{severity}", base / corruption / severity)
    if not found:
        there = some(folders_in(root)) or "no folder"
        raise UserError(f"roots.c={root}: takes CORRUPTION/SEVERITY/WNID/image.JPEG, severity 1 to 5; holds {there}")
    return dict(sorted(found.items()))


def open_set(name: str, folder: Path, classes: Sequence[str], pixel_limit: int, progress: Progress) -> Labelled:
    """Open a folder that `find_sets` has found; images of classes that the model does not have are left out.

    Raises:
        UserError: no class folders, or none of a class that the model has.
    """
    part = class_folders(folder, f"ImageNet-{name.partition('/')[0].partition('_')[0].capitalize()}")
    listing, digest = listing_of(part, progress)
    if not len(listing):
        raise UserError(f"{folder}: no image in any of its {len(listing.classes)} class folders")
    places = _places(listing.classes, classes)
    labels = places[listing.labels]
    known, notes = labels >= 0, []
    if not known.any():
        these = f"its class folders ({some(listing.classes, 3)}) are none of the checkpoint's classes"
        raise UserError(f"{folder}: {these} ({some(list(classes), 3)})")
    if name == "o":
        labels = np.full(len(labels), -1, np.int64)
    elif not known.all():
        listing, labels = select(listing, known), labels[known]
        digest = fingerprint(listing)
        absent = int((places < 0).sum())
        notes = [f"{absent} of its {len(places)} classes are not the checkpoint's: their images are left out"]
    source = IndexedSource(part.form, str(folder), listing, digest, TarFiles([]), pixel_limit)
    return Labelled(source, labels, notes + unusual(name, len(source), classes))


def unusual(name: str, images: int, classes: Sequence[str]) -> list[str]:
    """That a set has not as many images as were published, for a model of all of ImageNet-1k's classes."""
    published = PUBLISHED[name.partition("/")[0].partition("_")[0]]
    if list(classes) != imagenet_wnids() or images == published:
        return []
    return [f"{images:,} images where {published:,} were published"]


def _places(folders: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """(len(folders),) index into `classes` of each; -1: none.

    ImageNetV2's folders are called 0 to 999: by the label, not by their place in the alphabet. For a model of a part of
    ImageNet's classes the numbers are still those of all thousand.
    """
    names = list(folders)
    place = {name: label for label, name in enumerate(classes)}
    if all(name.isdecimal() for name in names) and not set(names) <= place.keys():
        numbers = [int(name) for name in names]
        if max(numbers) < len(classes):
            return np.array(numbers, np.int64)
        wnids = imagenet_wnids()
        names = [wnids[number] if number < len(wnids) else "" for number in numbers]
    return np.array([place.get(name, -1) for name in names], np.int64)
