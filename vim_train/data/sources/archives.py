"""ImageNet's tars as they are handed out: a tar of class tars, class tars alone, a flat tar with labels."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vim_train.config.errors import UserError
from vim_train.data.sources import tar
from vim_train.data.sources.folder import check_labels, is_image
from vim_train.data.sources.labels import LabelFile
from vim_train.data.sources.listing import Listing, Part, Progress, empty, stems

_THREADS = 4
"""Headers lie far apart: a disk or network answers several such questions at a time."""


def tar_of_tars(path: Path) -> Part:
    """One tar with CLASS.tar for each class, read in place."""

    def outer(fd: int) -> dict[str, tuple[int, int]]:
        found = tar.scan(fd, str(path))
        places = zip(found.names.tolist(), found.offsets.tolist(), found.sizes.tolist(), strict=True)
        inner = {os.fsdecode(name): (offset, size) for name, offset, size in places if name.endswith(b".tar")}
        if not inner:
            raise UserError(f"{path}: holds no tar of a class, as CLASS.tar")
        return {_class_name(name): inner[name] for name in sorted(inner, key=_class_name)}

    def classes() -> list[str]:
        with open(path, "rb") as file:
            return list(outer(file.fileno()))

    def listing(progress: Progress) -> Listing:
        size = path.stat().st_size
        with open(path, "rb") as file, ThreadPoolExecutor(_THREADS) as pool:
            places = outer(file.fileno())

            def look(name: str) -> Listing:
                start, length = places[name]
                members = tar.scan(file.fileno(), f"{path}/{name}.tar", start, start + length)
                names = np.char.add(os.fsencode(f"{name}.tar/"), members.names)
                return _of_class([name], members._replace(names=names), path.name)

            parts = []
            for part, (start, length) in zip(pool.map(look, places), places.values(), strict=True):
                parts.append(part)
                progress(str(path), start + length, size)
        return _joined(list(places), parts, [path.name])

    return Part(f"tar of tars {path.name}", path.parent, str(path), classes, listing, (path,))


def class_tars(base: Path, names: Sequence[str]) -> Part:
    """base/CLASS.tar for each class."""
    paths = [base / name for name in sorted(names, key=_class_name)]

    def classes() -> list[str]:
        return [_class_name(path.name) for path in paths]

    def listing(progress: Progress) -> Listing:
        def look(path: Path) -> Listing:
            return _of_class([_class_name(path.name)], scan_file(path), path.name)

        parts = []
        with ThreadPoolExecutor(_THREADS) as pool:
            for part in pool.map(look, paths):
                parts.append(part)
                progress(str(base), len(parts), len(paths))
        return _joined(classes(), parts, [path.name for path in paths])

    return Part("a tar for each class", base, str(base), classes, listing, tuple(paths))


def flat_tar(path: Path, labels: LabelFile) -> Part:
    """One tar of images, with the class of each in `labels`."""

    def listing(progress: Progress) -> Listing:
        known = labels.read()
        members = only_images(scan_file(path, progress))
        names = stems(members.names).tolist()
        check_labels(str(path), names, known)
        place = {name: i for i, name in enumerate(known.classes)}
        return Listing(
            classes=known.classes,
            labels=np.array([place[known.of[name]] for name in names], np.int64),
            names=members.names,
            sizes=members.sizes,
            containers=[path.name],
            container=np.zeros(len(names), np.int32),
            offsets=members.offsets,
        )

    form = f"tar {path.name}, labels of {labels.form}"
    return Part(form, path.parent, str(path), lambda: labels.read().classes, listing, (path, *labels.files))


def scan_file(path: Path, progress: Progress | None = None) -> tar.Members:
    """Members of a tar. Raises UserError."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            tick = None if progress is None else lambda done: progress(str(path), done, size)
            members = tar.scan(file.fileno(), str(path), tick=tick)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    if progress is not None:
        progress(str(path), size, size)
    return members


def only_images(members: tar.Members) -> tar.Members:
    """Those whose name ends as an image's and does not begin with a dot."""
    kept: NDArray[np.bool_] = np.fromiter(map(_is_image, members.names.tolist()), bool, len(members.names))
    return tar.Members(members.names[kept], members.offsets[kept], members.sizes[kept])


def _is_image(name: bytes) -> bool:
    return is_image(name) and not name.startswith(b".") and b"/." not in name


def _class_name(name: str) -> str:
    return os.path.basename(name).removesuffix(".tar")


def _of_class(classes: list[str], members: tar.Members, container: str) -> Listing:
    members = only_images(members)
    count = len(members.names)
    none = np.zeros(count, np.int64)
    return Listing(classes, none, members.names, members.sizes, [container], none.astype(np.int32), members.offsets)


def _joined(classes: list[str], parts: list[Listing], containers: list[str]) -> Listing:
    """`parts` of one class each, in the order of `classes`, in one container or each in its own."""
    parts = [*parts, empty(classes)]
    lengths = [len(part) for part in parts]
    which = np.arange(len(parts)) if len(containers) > 1 else np.zeros(len(parts), int)
    return Listing(
        classes=classes,
        labels=np.repeat(np.arange(len(parts), dtype=np.int64), lengths),
        names=np.concatenate([part.names for part in parts]),
        sizes=np.concatenate([part.sizes for part in parts]),
        containers=containers,
        container=np.repeat(which.astype(np.int32), lengths),
        offsets=np.concatenate([part.offsets for part in parts]),
    )
