"""Loose files: one folder a class, or a flat folder of validation images with a file of labels beside it."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from vim_train.config.errors import UserError
from vim_train.data.sources.labels import ImageLabels, LabelFile, stem
from vim_train.data.sources.listing import LOOSE, Listing, Part, Progress, as_names, count_of, some, stems

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_EXTENSIONS = tuple(os.fsencode(extension) for extension in EXTENSIONS)
_SUFFIX = re.compile(r"\.\w{1,5}$")
SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test"}
_THREADS = 8
"""Wait for so many answers of a network file system at a time."""


def class_folders(base: Path, form: str = "image folders") -> Part:
    """base/CLASS/…/image.jpg. Files are looked through each time: nothing else notices one that changed in place."""

    def classes() -> list[str]:
        return _class_names(base)

    def listing(progress: Progress) -> Listing:
        names = classes()
        _check_no_splits(base, names)
        loose = [name for name in files_in(base) if is_image(name)]
        if loose:
            stray = f"{len(loose)} images beside its class folders, which belong to none of them: {some(sorted(loose))}"
            raise UserError(f"{base} holds {stray}; move them into their class's folder")
        with ThreadPoolExecutor(_THREADS) as pool:
            found = []
            for files in pool.map(images_under, [base / name for name in names]):
                found.append(files)
                progress(str(base), len(found), len(names))
        return _listing(names, found)

    return Part(form, base, str(base), classes, listing, unit="class folders")


def _check_no_splits(base: Path, classes: Sequence[str]) -> None:
    """Raises UserError: splits in place of classes, or above them, would make classes that nobody meant."""
    splits = [name for name in classes if name.casefold() in SPLIT_NAMES]
    if len(splits) > 1:
        raise UserError(f"{base} has {some(splits)} among its classes; call the splits train and val")
    for name in classes:
        if len(below := [inner for inner in folders_in(base / name) if inner.casefold() in SPLIT_NAMES]) > 1:
            raise UserError(f"{base / name} has {some(below)}: is data.root={base / name} meant?")


def flat_folder(base: Path, labels: LabelFile, form: str = "flat folder") -> Part:
    """base/image.jpg, with the class of each in `labels`."""

    def listing(progress: Progress) -> Listing:
        known = labels.read()
        names = sorted(name for name in files_in(base) if is_image(name))
        check_labels(str(base), [stem(name) for name in names], known)
        found: dict[str, list[tuple[bytes, int]]] = {name: [] for name in known.classes}
        for done, name in enumerate(names, 1):
            found[known.of[stem(name)]].append((os.fsencode(name), _size(base / name)))
            if done % 1000 == 0 or done == len(names):
                progress(str(base), done, len(names))
        return _listing(known.classes, list(found.values()), flat=True)

    return Part(f"{form}, labels of {labels.form}", base, str(base), lambda: labels.read().classes, listing)


def agreeing(part: Part, labels: LabelFile) -> Part:
    """The same class folders, refused where `labels`, which lie beside them, put one of their images in another class.

    Labels that cannot be read, or of other images, say nothing.
    """

    def listing(progress: Progress) -> Listing:
        found = part.listing(progress)
        try:
            known = labels.read()
        except UserError:  # numbers of some order, or one name in several classes
            return found
        names = stems(found.names).tolist()
        count = Counter(names)
        unlike = [
            (os.fsdecode(name), found.classes[label], known.of[name])
            for name, label in zip(names, found.labels.tolist(), strict=True)
            if count[name] == 1 and known.of.get(name, found.classes[label]) != found.classes[label]
        ]
        if unlike:
            name, here, there = unlike[0]
            how = f"{name} is {here} in the one and {there} in the other"
            raise UserError(
                f"{part.where} and {known.where} differ in {count_of(unlike, 'image')}: {how}; remove the wrong one"
            )
        return found

    return replace(part, listing=listing)


def check_labels(where: str, names: Sequence[bytes], known: ImageLabels) -> None:
    """Raises UserError: images of `where`, by base name without suffix, are not those that have labels."""
    bare = sorted(os.fsdecode(name) for name in set(names) - known.of.keys())
    if bare:
        raise UserError(f"{known.where} has no label for {count_of(bare, 'image')} of {where}: {some(bare)}")
    absent = sorted(os.fsdecode(name) for name in known.of.keys() - set(names))
    if absent:
        raise UserError(f"{where} lacks {count_of(absent, 'image')} that {known.where} has labels for: {some(absent)}")


def folders_in(base: Path) -> list[str]:
    """Sorted names of the folders in `base`, without dot-names; none where it is no folder."""
    return sorted(entry.name for entry in entries(base) if is_dir(entry))


def images_in(base: Path) -> int:
    """How many image files lie directly in `base`."""
    return sum(map(is_image, files_in(base)))


def is_image(name: str | bytes) -> bool:
    """By the suffix; dot-names are none."""
    if isinstance(name, bytes):
        return name.lower().endswith(_EXTENSIONS)
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _class_names(base: Path) -> list[str]:
    _check_links(base)
    classes = folders_in(base)
    if not classes:
        images = images_in(base)
        found = f"{images} images but no class folder" if images else "no class folder and no image"
        raise UserError(f"{base} holds {found}: images belong in one folder a class, as {base.name}/CLASS/image.jpg")
    return classes


def _check_links(base: Path) -> None:
    """Raises UserError: a link beside the class folders leads nowhere, and has not the suffix of a file's name."""
    dead = [
        entry.name
        for entry in entries(base)
        if entry.is_symlink() and not _SUFFIX.search(entry.name) and not os.path.exists(entry.path)
    ]
    if dead:
        first, *others = sorted(dead)
        more = f", and {len(others)} more are such" if others else ""
        raise UserError(f"{base / first} {dead_link(base / first)}{more}; mend or remove it")


def dead_link(path: Path) -> str:
    """What to say of a link whose end is not there."""
    return f"is a link to {os.readlink(path)}, which leads nowhere"


def _listing(classes: list[str], found: list[list[tuple[bytes, int]]], flat: bool = False) -> Listing:
    """`found[c]`: path and bytes of each image of class c, relative to its folder, or all to one folder (`flat`)."""
    prefixes = [b"" if flat else os.fsencode(name) + b"/" for name in classes]
    names = as_names([prefix + name for prefix, files in zip(prefixes, found, strict=True) for name, _ in files])
    return Listing(
        classes=classes,
        labels=np.repeat(np.arange(len(classes), dtype=np.int64), [len(files) for files in found]),
        names=names,
        sizes=np.array([size for files in found for _, size in files], np.int64),
        containers=[],
        container=np.full(len(names), LOOSE, np.int32),
        offsets=np.zeros(len(names), np.int64),
    )


def images_under(folder: Path) -> list[tuple[bytes, int]]:
    """Path, relative to `folder`, and bytes of the images in it at any depth; none where it is absent.

    Dot-names are skipped, links are followed; a link to nowhere has -1 bytes.
    """
    found: list[tuple[bytes, int]] = []
    around = os.stat(folder.parent)  # a link may lead up beyond the class, too
    waiting = [("", frozenset({(around.st_dev, around.st_ino)}))]
    while waiting:
        prefix, above = waiting.pop()
        try:
            here = os.stat(folder / prefix)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(f"{folder / prefix} cannot be read: {error.strerror}") from error
        identity = (here.st_dev, here.st_ino)
        if identity in above:  # a link back up
            continue
        for entry in entries(folder / prefix):
            if is_dir(entry):
                waiting.append((f"{prefix}{entry.name}/", above | {identity}))
            elif is_image(entry.name):
                found.append((os.fsencode(prefix + entry.name), _size(entry)))
    return found


def _size(entry: Path | os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return -1


def files_in(base: Path) -> list[str]:
    """Sorted names of what lies in `base` and is no folder, without dot-names; none where `base` is no folder."""
    return sorted(entry.name for entry in entries(base) if not is_dir(entry))


def is_dir(entry: os.DirEntry[str]) -> bool:
    """A link that leads nowhere, or round in a circle, is no folder."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def entries(base: Path) -> Iterator[os.DirEntry[str]]:
    """What lies in `base`, without dot-names; nothing where it is no folder. Raises UserError."""
    try:
        with os.scandir(base) as found:
            yield from (entry for entry in found if not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UserError(f"{base} cannot be read: {error.strerror}") from error
