"""What lies under data.root: which form ImageNet, or a data set like it, has there."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vim_train.config.errors import UserError
from vim_train.data.sources.archives import class_tars, flat_tar, tar_of_tars
from vim_train.data.sources.folder import agreeing, class_folders, files_in, flat_folder, folders_in, images_in
from vim_train.data.sources.labels import ACCEPTED, DEVKIT, KAGGLE, find_labels
from vim_train.data.sources.listing import Part, count_of, some
from vim_train.data.sources.parquet import parquet_shards
from vim_train.data.sources.shards import tar_shards
from vim_train.data.sources.whole import check_downloaded, check_folders

_TRAIN_TARS = ("ILSVRC2012_img_train.tar", "winter21_whole.tar", "fall11_whole.tar")
_VAL_TAR = "ILSVRC2012_img_val.tar"
_VAL_FOLDERS = ("val", "validation", "valid")
_KAGGLE = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")
_SPLITS = {"train": ("train", "training"), "val": ("validation", "val", "valid")}
_OF_SPLIT = r"(?:^|[-_.])({})[-_.]\d+(?:[-_.]\d+|-of-\d+)*\.tar$"
_NUMBERED = re.compile(r"(?:^|[-_.a-mo-z])\d{2,}\.tar$", re.IGNORECASE)
_WNID_TAR = re.compile(r"n\d{8}\.tar$")
_PARQUET = r"(?:^|[-_.])({})(?:[-_.].*)?\.parquet$"
_OF_COUNT = re.compile(r"-(\d+)-of-(\d+)\.")
FORMS = (
    "train/ and val/ with one folder a class, ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar with the devkit, "
    "Kaggle's ILSVRC/, tar shards NAME-train-0000.tar, train-00000-of-00294.parquet, CLASS.tar, or CLASS/image.jpg"
)


@dataclass(frozen=True)
class Layout:
    """The splits under a root. Without `val`, a share of `train` is held out."""

    train: Part | None
    val: Part | None


def recognise(root: Path) -> Layout:
    """Look at names only, a level or two deep.

    Raises:
        UserError: nothing that is known, or known but not whole: one line with what was found and what is accepted.
    """
    base = next((root / name for name in _KAGGLE if (root / name).is_dir()), root)
    kaggle = base != root or root.name == "CLS-LOC"
    if base != root:
        _check_alone(base, root)
    label_folders = _label_folders(base, root)
    check_folders(base / name for name in ("train", *_VAL_FOLDERS))
    split_folders = [base / name for names in _SPLITS.values() for name in names]
    check_downloaded([root, base, base / "data", *split_folders, *label_folders], _is_read)
    train = _only(_train(base, kaggle), "training", base) or _rest(base / "train")
    val = _only(_val(base, label_folders, kaggle), "validation", base) or _rest(_val_folders(base)[0])
    if train is None and val is None:
        train = _unsplit(base)
    elif val is None and train is not None and not train.files:
        train = _train_or_classes(base, train)
    if train is None and val is None:
        raise UserError(f"{root} holds {_contents(root)}: takes {FORMS}")
    if train is not None and val is None:
        _check_val_meant(base, label_folders)
    return Layout(train, val)


def _only(parts: Iterator[Part], images: str, base: Path) -> Part | None:
    """The first of `parts`, if any. Raises UserError: there is another, and which one is meant cannot be told."""
    first, second = next(parts, None), next(parts, None)
    if first is not None and second is not None:
        raise UserError(two_forms(base, images, first.where, second.where))
    return first


def two_forms(root: Path, images: str, first: Path | str, second: Path | str) -> str:
    """What is wrong where the same kind of images is there twice, and the cure."""
    found = f"{root} holds {images} images in two forms, {first} and {second}"
    return f"{found}: move one of them away, or give data.root a folder with links to what is meant"


def _check_alone(base: Path, root: Path) -> None:
    """Raises UserError: beside Kaggle's tree the root has another form. Folders without images are none."""
    for split, archives, folders in (("train", _TRAIN_TARS, ["train"]), ("val", (_VAL_TAR,), _VAL_FOLDERS)):
        others: list[Path | str] = [root / name for name in folders if _holds_images(root / name)]
        others += [root / name for name in archives if (root / name).is_file()]
        others += [part.where for part in _sharded(root, split)]
        if others:
            raise UserError(two_forms(root, "training" if split == "train" else "validation", base, others[0]))


def _holds_images(folder: Path) -> bool:
    return bool(images_in(folder)) or any(images_in(folder / name) for name in folders_in(folder))


def _rest(folder: Path) -> Part | None:
    """A split's folder, where its images are nowhere else: tars of classes, or whatever the reader of folders says."""
    if names := _class_tars(folder):
        return class_tars(folder, names)
    return class_folders(folder) if folder.is_dir() else None


def _check_val_meant(base: Path, label_folders: Sequence[Path]) -> None:
    """Raises UserError: there are no validation images, but their labels, or a part of them: they were meant to be."""
    names = [name for name in _files(base) + _files(base / "val") if name.startswith(Path(_VAL_TAR).stem)]
    labels = find_labels(label_folders)
    if names or labels is not None:
        there = f"{names[0]}, no whole {_VAL_TAR}" if names or labels is None else f"{labels.form}, but no {_VAL_TAR}"
        cure = "move it away, or give data.root a folder with a link to the training images"
        split = f"to hold out data.val_fraction of the training images instead, {cure}"
        raise UserError(f"{base} holds {there} or val/; put that there, or, {split}")


def _train(base: Path, kaggle: bool) -> Iterator[Part]:
    """Each form that training images have there."""
    folder = base / "train"
    if folders := folders_in(folder):
        _check_unpacked(folder, folders)
        yield class_folders(folder, "Kaggle's tree" if kaggle else "image folders")
    for parent in (folder, base):
        for name in _TRAIN_TARS:
            if (parent / name).is_file():
                yield tar_of_tars(parent / name)
    yield from _sharded(base, "train")


def _check_unpacked(folder: Path, folders: Sequence[str]) -> None:
    """Raises UserError: some of the classes are folders and others still tars, or some both, maybe half unpacked."""
    tars = {name.removesuffix(".tar"): name for name in _files(folder) if name.endswith(".tar")}
    packed = [tar for name, tar in tars.items() if _WNID_TAR.match(tar) and name not in folders]
    if packed:
        raise UserError(
            f"{folder} holds class folders and {count_of(packed, 'class tar')} not yet unpacked: {some(packed)}"
        )
    both = [tar for name, tar in tars.items() if name in folders]
    if both:
        found = f"{count_of(both, 'tar')} with a folder of the same name: {some(both)}"
        cure = "unpack again what may be half unpacked, then move the tars away"
        raise UserError(f"{folder} holds {found}; which has all the images cannot be told: {cure}")


def _val(base: Path, label_folders: Sequence[Path], kaggle: bool) -> Iterator[Part]:
    """Each form that validation images have there."""
    for folder in _val_folders(base):
        labels = find_labels(label_folders)
        if folders := folders_in(folder):
            _check_unpacked(folder, folders)
            yield class_folders(folder) if labels is None else agreeing(class_folders(folder), labels)
        elif images_in(folder):
            if labels is None:
                found = f"{images_in(folder)} images but no class folder"
                raise UserError(f"{folder} holds {found}; without one it needs their labels beside it: {ACCEPTED}")
            yield flat_folder(folder, labels, "Kaggle's tree" if kaggle else "flat folder")
    for path in (base / _VAL_TAR, *(folder / _VAL_TAR for folder in _val_folders(base))):
        if path.is_file():
            labels = find_labels(label_folders)
            if labels is None:
                raise UserError(f"{path} needs the labels of its images beside it: {ACCEPTED}")
            yield flat_tar(path, labels)
    yield from _sharded(base, "val")


def _val_folders(base: Path) -> list[Path]:
    """Those there are, else the one there might be."""
    return [path for name in _VAL_FOLDERS if (path := base / name).is_dir()] or [base / _VAL_FOLDERS[0]]


def _label_folders(base: Path, root: Path) -> list[Path]:
    """Where a file of labels may lie: beside the images, in the root, and in Kaggle's ILSVRC/ or beside it."""
    above = [root.parent] if root.name == "ILSVRC" else list(root.parents[1:3]) if root.name == "CLS-LOC" else []
    return [base / "val", base, root, *([base.parents[1]] if base != root else []), *above]


def _sharded(base: Path, split: str) -> Iterator[Part]:
    """Tar or Parquet shards, with the split's name in theirs or in their folder's."""
    words = "|".join(_SPLITS[split])
    for folder in (base, base / "data"):
        names = _files(folder)
        if found := [name for name in names if re.search(_OF_SPLIT.format(words), name, re.IGNORECASE)]:
            yield tar_shards(folder, _gapless(folder, found), split)
        if found := [name for name in names if re.search(_PARQUET.format(words), name, re.IGNORECASE)]:
            yield parquet_shards(folder, _complete(folder, found))
    for folder in (base / word for word in _SPLITS[split]):
        if found := [name for name in _files(folder) if _is_shard(name)]:
            yield tar_shards(folder, _gapless(folder, found), split)
        if found := [name for name in _files(folder) if name.endswith(".parquet")]:
            yield parquet_shards(folder, _complete(folder, found))


def _unsplit(base: Path) -> Part | None:
    """Images of no split. Beside folders, a stray archive makes no data set, unless it has the name of a class."""
    tars, folders = _class_tars(base), folders_in(base)
    if named := [name for name in tars if _WNID_TAR.match(name)]:
        if any(_WNID_TAR.match(f"{name}.tar") for name in folders):
            _check_unpacked(base, folders)
        return class_tars(base, named)
    if folders and not _files(base / "data"):
        _check_unpacked(base, folders)
        return class_folders(base)
    for folder in (base, base / "data"):
        if found := [name for name in _files(folder) if _is_shard(name)]:
            return tar_shards(folder, _gapless(folder, found), "train")
        if found := [name for name in _files(folder) if name.endswith(".parquet")]:
            return parquet_shards(folder, _complete(folder, found))
    if tars:
        return class_tars(base, tars)
    return class_folders(base) if folders or images_in(base) else None


def _train_or_classes(base: Path, train: Part) -> Part:
    """Without val/, a folder of that name may be one of the classes."""
    own = folders_in(base / "train")
    return train if own or folders_in(base) == ["train"] else class_folders(base)


def _is_read(name: str) -> bool:
    """Whether a file of this name is an archive, shard or file of labels of some form; not so ImageNet's test set."""
    of_split = any(re.search(_OF_SPLIT.format("|".join(words)), name, re.IGNORECASE) for words in _SPLITS.values())
    archive = name in {*_TRAIN_TARS, _VAL_TAR, *DEVKIT, KAGGLE} or bool(_WNID_TAR.match(name))
    shard = of_split or name.endswith(".parquet") or (_is_shard(name) and not name.startswith("ILSVRC2012_img_test"))
    return archive or shard


def _is_shard(name: str) -> bool:
    return bool(_NUMBERED.search(name)) and not _WNID_TAR.match(name)


def _class_tars(folder: Path) -> list[str]:
    known = {*_TRAIN_TARS, _VAL_TAR}
    return [name for name in _files(folder) if name.endswith(".tar") and name not in known and "devkit" not in name]


def _gapless(folder: Path, names: list[str]) -> list[str]:
    """Raises UserError: a shard between the first and the last is missing."""
    if all(map(_OF_COUNT.search, names)):
        return _complete(folder, names)
    numbers = sorted(int(re.findall(r"\d+", name)[-1]) for name in names)
    if len(set(numbers)) == len(numbers) and numbers[-1] >= len(numbers):
        absent = sorted(set(range(numbers[-1] + 1)) - set(numbers))
        if absent != [0]:
            raise UserError(_missing(folder, absent))
    return names


def _complete(folder: Path, names: list[str]) -> list[str]:
    """Raises UserError: not all shards are there that the names tell of."""
    matches = [match for match in map(_OF_COUNT.search, names) if match]
    counts = {int(match[2]) for match in matches}
    if len(counts) > 1:
        raise UserError(f"{folder}: shards of different sets: of {_some(sorted(counts))}")
    if counts and len(matches) == len(names):
        absent = sorted(set(range(counts.pop())) - {int(match[1]) for match in matches})
        if absent:
            raise UserError(_missing(folder, absent))
    return names


def _missing(folder: Path, numbers: Sequence[int]) -> str:
    verb = "are" if len(numbers) > 1 else "is"
    return f"{folder}: {len(numbers)} of its shards {verb} missing: number {_some(numbers)}"


def _some(numbers: Sequence[int]) -> str:
    return some([str(number) for number in numbers])


def _files(folder: Path) -> list[str]:
    """Sorted names of the regular files in `folder`: opening a FIFO would block for ever."""
    return [name for name in files_in(folder) if (folder / name).is_file()]


def _contents(root: Path) -> str:
    """What is there, in a few words."""
    files = Counter(os.path.splitext(name)[1].lower() or "unnamed" for name in _files(root))
    folders = folders_in(root)
    images = images_in(root)
    if not files and not folders:
        return "no class folder and no image"
    kinds = [f"{count} {suffix}" for suffix, count in files.most_common(3)]
    inside = [f"folders {some(folders, 3)}"] if folders else []
    found = ", ".join([*inside, *kinds])
    return (
        f"{images} images but no class folder"
        if images and not folders
        else f"no class folder and no image, but {found}"
    )
