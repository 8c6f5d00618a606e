"""Images in class folders: train/CLASS/… and val/CLASS/…, or CLASS/… split by a hash of each file's path."""

import hashlib
import os
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vim_train.config.errors import UserError
from vim_train.config.schema import DataConfig
from vim_train.data.decode import Mode, decode
from vim_train.data.order import held_out

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_ALLOW = "data.allow_empty_classes=true accepts that"


class FolderSource:
    """Image files by index: classes in sorted order, files sorted by path in each class.

    Names lie end to end in one block of bytes, not in a list of strings: a third of the memory, and forked workers
    share its pages.
    """

    native_mode: Mode = "RGB"

    def __init__(self, root: Path, classes: list[str], files: list[list[str]], pixel_limit: int) -> None:
        """`files[c]`: sorted paths of the images of `classes[c]`, relative to root/classes[c]."""
        names = [os.fsencode(name) for of_class in files for name in of_class]
        self.root = root
        self.classes = classes
        self.labels: NDArray[np.int64] = np.repeat(np.arange(len(classes)), [len(of_class) for of_class in files])
        self._names = b"".join(names)
        self._bounds = np.cumsum([0, *map(len, names)], dtype=np.int64)
        self._pixel_limit = pixel_limit

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: int, mode: Mode = "RGB") -> Image.Image:
        return decode(self.name(index), mode, self._pixel_limit)

    def name(self, index: int) -> str:
        return os.path.join(self.root, self._relative(index))

    def fingerprint(self) -> str:
        """Hash of classes and of the files' relative paths and sizes; no file is read, but every one is asked for."""
        digest = hashlib.blake2b("\0".join(self.classes).encode("utf-8", "surrogateescape"), digest_size=16)
        for index in range(len(self)):
            try:
                size = os.stat(self.name(index)).st_size
            except OSError:
                size = -1
            digest.update(os.fsencode(self._relative(index)) + b"\0" + str(size).encode() + b"\0")
        return digest.hexdigest()

    def _relative(self, index: int) -> str:
        name = os.fsdecode(self._names[self._bounds[index] : self._bounds[index + 1]])
        return f"{self.classes[self.labels[index]]}/{name}"


def open_folder(data: DataConfig, split: Literal["train", "val"]) -> FolderSource:
    """The images of one split under data.root. Raises UserError for every layout that is not class folders."""
    if data.root is None:
        raise UserError("data.root is not set: data=folder needs the folder of train/ and val/, or of the classes")
    root = Path(data.root).expanduser()
    if not root.is_dir():
        raise UserError(f"data.root={data.root} {'is not a folder' if root.exists() else 'does not exist'}")

    train, val = root / "train", root / "val"
    if val.is_dir():
        return _open_split(data, split, train, val)
    base = train if train.is_dir() and (_folders(train) or _folders(root) == ["train"]) else root
    return _open_unsplit(data, split, base)


def _open_split(data: DataConfig, split: str, train: Path, val: Path) -> FolderSource:
    if not train.is_dir():
        if split == "train":
            raise UserError(f"{val.parent} has val/ but no train/: training needs train/ with one folder a class")
        classes = _class_folders(val)
    else:
        classes = _class_folders(train)
        _compare_classes(data, train, classes, val, _class_folders(val))
    base = train if split == "train" else val
    files = [_images_under(base / name) for name in classes]
    _check_empty(data, base, classes, files)
    return FolderSource(base, classes, files, data.pixel_limit)


def _open_unsplit(data: DataConfig, split: str, base: Path) -> FolderSource:
    classes = _class_folders(base)
    everything = [_images_under(base / name) for name in classes]
    _check_empty(data, base, classes, everything)
    files = [
        [file for file in of_class if held_out(f"{name}/{file}", data.val_fraction) == (split == "val")]
        for name, of_class in zip(classes, everything, strict=True)
    ]
    fraction = f"data.val_fraction={data.val_fraction}"
    if split == "train":
        for name, kept, of_class in zip(classes, files, everything, strict=True):
            if of_class and not kept:
                raise UserError(f"{base / name}: {fraction} leaves none of its {len(of_class)} images to train on")
    if not any(files):
        total = sum(map(len, everything))
        raise UserError(f"{base}: {fraction} holds out none of {total} images; raise it or add val/")
    return FolderSource(base, classes, files, data.pixel_limit)


def _class_folders(base: Path) -> list[str]:
    classes = _folders(base)
    if not classes:
        images = sum(1 for name in os.listdir(base) if _is_image(name))
        found = f"{images} images but no class folder" if images else "no class folder and no image"
        raise UserError(f"{base} holds {found}: images belong in one folder a class, as {base.name}/CLASS/image.jpg")
    return classes


def _compare_classes(data: DataConfig, train: Path, of_train: list[str], val: Path, of_val: list[str]) -> None:
    extra, missing = sorted(set(of_val) - set(of_train)), sorted(set(of_train) - set(of_val))
    if extra:
        also = f", and lacks {_some(missing)}" if missing else ""
        raise UserError(f"{val} has class folders that {train} has not: {_some(extra)}{also}")
    if missing and not data.allow_empty_classes:
        raise UserError(f"{val} lacks class folders of {train}: {_some(missing)} ({_ALLOW})")


def _check_empty(data: DataConfig, base: Path, classes: list[str], files: list[list[str]]) -> None:
    if not any(files):
        raise UserError(f"{base}: no image in any of its {len(classes)} class folders ({' '.join(EXTENSIONS)})")
    empty = [name for name, of_class in zip(classes, files, strict=True) if not of_class]
    if empty and not data.allow_empty_classes:
        raise UserError(f"{base}: no image in class folder {_some(empty)} ({_ALLOW})")


def _folders(base: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(base) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UserError(f"{base} cannot be read: {error.strerror}") from error


def _images_under(folder: Path) -> list[str]:
    """Sorted paths, relative to `folder`, of the images in it at any depth; none where it is absent.

    Dot-names are skipped, links are followed.
    """
    found: list[str] = []
    waiting = [("", frozenset[tuple[int, int]]())]
    while waiting:
        prefix, above = waiting.pop()
        try:
            here = os.stat(folder / prefix)
            identity = (here.st_dev, here.st_ino)
            if identity in above:  # a link back up
                continue
            with os.scandir(folder / prefix) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        waiting.append((f"{prefix}{entry.name}/", above | {identity}))
                    elif _is_image(entry.name):
                        found.append(prefix + entry.name)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise UserError(f"{folder / prefix} cannot be read: {error.strerror}") from error
    return sorted(found)


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _some(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
