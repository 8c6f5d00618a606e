"""What flat validation images show: ImageNet's devkit, Kaggle's table, or a list of names and classes."""

import csv
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vim_train.config.errors import UserError
from vim_train.data.sources.listing import count_of, some
from vim_train.data.sources.matfile import read_table

KAGGLE = "LOC_val_solution.csv"
DEVKIT = ("ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12.tar", "ILSVRC2012_devkit_t12", "devkit")
_META, _TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"
_LISTS = ("val_labels.txt", "val_labels.csv", "val.txt", "val.csv", "imagenet_2012_validation_synset_labels.txt")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
_NAME_HEADINGS = {"filename", "file", "path", "image", "img", "imageid", "image_id", "name", "id"}
_CLASS_HEADINGS = {"label", "labels", "class", "class_name", "category", "wnid", "synset", "target", "predictionstring"}
ACCEPTED = f"{DEVKIT[0]} (or unpacked), {KAGGLE}, or val_labels.txt with lines of `name class`"


@dataclass(frozen=True)
class ImageLabels:
    """Classes of images by name, read from `where`."""

    where: str
    classes: list[str]
    """Sorted: all there are, where the file says so, else those that some image has."""
    of: dict[bytes, str]
    """Class of an image, by its base name without the suffix."""


@dataclass(frozen=True)
class LabelFile:
    """Where labels were found, not yet read."""

    form: str
    files: tuple[Path, ...]
    read: Callable[[], ImageLabels]
    """Raises UserError."""


def find_labels(folders: Iterable[Path]) -> LabelFile | None:
    """The first file of labels in `folders`: Kaggle's, then the devkit, then a list. Others must not differ from it."""
    found = list(_label_files(list(dict.fromkeys(folders))))
    if len(found) < 2:
        return found[0] if found else None
    form = f"{found[0].form} ({', '.join(other.form for other in found[1:])} not used)"
    return LabelFile(form, tuple(path for one in found for path in one.files), partial(_agreed, found))


def _label_files(folders: Sequence[Path]) -> Iterator[LabelFile]:
    for folder in folders:
        path = folder / KAGGLE
        if path.is_file():
            yield LabelFile(KAGGLE, (path,), partial(_kaggle, path))
    for folder in folders:
        for name in DEVKIT:
            path = folder / name
            if path.is_file():
                yield LabelFile(name, (path,), partial(_devkit_archive, path))
            base = next((base for base in (path / "data", path) if (base / _META).is_file()), None)
            if base is not None:
                files = (base / _META, base / _TRUTH)
                yield LabelFile(name, files, partial(_devkit_folder, base))
    for folder in folders:
        for name in _LISTS:
            path = folder / name
            if path.is_file():
                yield LabelFile(name, (path,), partial(_list, path))


def _agreed(found: Sequence[LabelFile]) -> ImageLabels:
    """Labels of the first file. Raises UserError: it cannot be read, or another has other labels for its images."""
    first = found[0].read()
    for file in found[1:]:
        try:
            other = file.read()
        except UserError:  # numbers of some order, as Caffe's val.txt has them: nothing to compare with
            continue
        unlike = sorted(name for name in first.of.keys() & other.of.keys() if first.of[name] != other.of[name])
        if unlike:
            name = unlike[0]
            how = f"{os.fsdecode(name)} is {first.of[name]} in the one and {other.of[name]} in the other"
            raise UserError(
                f"{first.where} and {other.where} differ in {count_of(unlike, 'image')}: {how}; remove the wrong one"
            )
    return first


def stem(name: str) -> bytes:
    """Base name without the last suffix."""
    return os.fsencode(os.path.splitext(os.path.basename(name))[0])


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from error


def _lines(path: Path) -> list[str]:
    try:
        return _bytes(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: no text of labels: {error.reason} at byte {error.start}") from error


def _note(found: dict[bytes, str], path: Path, number: int, name: str, label: str) -> None:
    """Raises UserError: the image has another label already."""
    if found.setdefault(stem(name), label) != label:
        raise UserError(f"{path}: line {number}: {name} is {label} here and {found[stem(name)]} further up")


def _kaggle(path: Path) -> ImageLabels:
    """Lines of `ImageId,PredictionString`, the latter a wnid and four numbers, repeated."""
    found: dict[bytes, str] = {}
    for number, row in enumerate(csv.reader(_lines(path)), 1):
        if row[:1] == ["ImageId"] or not row:
            continue
        wnids = set(row[1].split()[::5]) if len(row) == 2 else set()
        if len(wnids) != 1:
            raise UserError(f"{path}: line {number}: takes ImageId,PredictionString with one class, as Kaggle has it")
        _note(found, path, number, row[0], wnids.pop())
    mapping = path.with_name("LOC_synset_mapping.txt")
    declared = {line.split(" ", 1)[0] for line in _lines(mapping) if line.strip()} if mapping.is_file() else set()
    unknown = sorted(set(found.values()) - declared)
    if declared and unknown:
        raise UserError(f"{path}: names classes that {mapping.name} has not: {some(unknown)}")
    return ImageLabels(str(path), sorted(declared or set(found.values())), found)


def _devkit_archive(path: Path) -> ImageLabels:
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = os.path.basename(member.name)
                if name in (_META, _TRUTH) and (file := archive.extractfile(member)) is not None:
                    found[name] = file.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        takes = "takes the devkit of task 1 and 2, as downloaded or unpacked"
        raise UserError(f"{path} is {_no_tar(path)}; {takes}") from error
    if len(found) < 2:
        raise UserError(f"{path}: holds no {_META if _META not in found else _TRUTH}; take the devkit of task 1 and 2")
    return _devkit(str(path), found[_META], found[_TRUTH])


def _no_tar(path: Path) -> str:
    """What a file is that tarfile cannot read, as far as its first bytes tell."""
    data = _bytes(path)
    if not data:
        return "empty"
    if data.startswith(_COMPRESSED) or data[257:262] == b"ustar":
        what = "a truncated or damaged tar"
    else:
        what = "a web page, not a tar" if data.lstrip().startswith(b"<") else "no tar"
    return f"{what} ({len(data):,} bytes)"


def _devkit_folder(base: Path) -> ImageLabels:
    return _devkit(str(base), _bytes(base / _META), _bytes(base / _TRUTH))


def _devkit(where: str, meta: bytes, truth: bytes) -> ImageLabels:
    """The ground truth's line i is the ILSVRC2012_ID of image i, which meta.mat maps to a wnid; neither is sorted."""
    try:
        synsets = read_table(meta, "synsets")
    except ValueError as error:
        raise UserError(f"{where}: {_META}: {error}") from error
    wnids: dict[int, str] = {}
    for row in synsets:
        number, wnid = row.get("ILSVRC2012_ID"), row.get("WNID")
        # Those with children are hypernyms of the classes.
        if isinstance(number, float) and isinstance(wnid, str) and row.get("num_children") == 0:
            wnids[int(number)] = wnid
    try:
        ids = [int(line) for line in truth.split()]
        found = {b"ILSVRC2012_val_%08d" % i: wnids[number] for i, number in enumerate(ids, 1)}
    except ValueError as error:
        raise UserError(f"{where}: {_TRUTH}: takes one ILSVRC2012_ID a line: {error}") from error
    except KeyError as error:
        raise UserError(f"{where}: {_TRUTH}: {_META} has no class of ILSVRC2012_ID {error}") from error
    return ImageLabels(where, sorted(wnids.values()), found)


def _list(path: Path) -> ImageLabels:
    """Lines of a name and a class, or one wnid a line in the order of ImageNet's validation images."""
    found: dict[bytes, str] = {}
    lines = _lines(path)
    kept = {i: line.strip() for i, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")}
    separator = _separator(list(kept.values()))
    rows = [(i, [word for word in re.split(separator, line, maxsplit=1) if word]) for i, line in kept.items()]
    if rows and _is_heading([words for _, words in rows]):
        number = rows[0][0]
        line = lines[number - 1].strip()
        raise UserError(f"{path}: line {number}: `{line}` is a heading, no image and its class; remove that line")
    alone = all(len(words) == 1 for _, words in rows)
    _check_columns(path, lines, rows)
    for number, words in rows:
        for word in words:
            if len(word) > 1 and word[0] in "\"'" and word[-1] == word[0]:
                cure = "in quotes, which would be part of the name; takes NAME CLASS without them"
                raise UserError(f"{path}: line {number}: {word} stands {cure}")
        name = f"ILSVRC2012_val_{number:08d}" if alone else words[0]
        label = words[-1].strip()
        if label.isdecimal():
            cure = f"write class names or wnids, or put the devkit there ({DEVKIT[0]})"
            raise UserError(f"{path}: line {number}: the number {label} may count by one order or another; {cure}")
        _note(found, path, number, name, label)
    if not found:
        raise UserError(f"{path} names no image; takes lines of a name and a class")
    where = f"{path} (a wnid a line, for ImageNet's images in their order)" if alone else str(path)
    return ImageLabels(where, sorted(set(found.values())), found)


def _separator(lines: Sequence[str]) -> str:
    """What stands behind a name: each line's only tab, or only comma behind a suffix; else the first blank or comma.

    A class may hold commas, too, `a.jpg shark, white`.
    """
    if all(re.fullmatch(r"[^\t]+\t[^\t]+", line) for line in lines):
        return r" *\t *"
    if all(re.fullmatch(r"[^,]*\.\w{2,5} *,[^,]+", line) for line in lines):
        return r" *, *"
    return r"[\s,]+"


def _check_columns(path: Path, lines: Sequence[str], rows: list[tuple[int, list[str]]]) -> None:
    """Raises UserError: a line is no name and class, and they are not all wnids alone."""
    takes = "takes a line for each image with its name and class, as in `bird1.jpg bird`"
    some_named = any(len(words) == 2 for _, words in rows)
    numbered = _numbered([words[1].strip() for _, words in rows if len(words) == 2])
    for number, words in rows:
        line = lines[number - 1].strip()
        why = None
        if len(words) == 2 and (numbered or re.match(r"[^\s,]+ *(?:,.*,|\t.*\t)", line)):
            why = "has more than two columns"
        elif len(words) == 1 and os.path.splitext(line)[1]:
            why = "has no class"
        elif len(words) == 1 and (some_named or not re.fullmatch(r"n\d+|\d+", words[0])):
            why = "stands alone"
        if why is not None:
            raise UserError(f"{path}: line {number}: `{line}` {why}; {takes}")


def _numbered(labels: list[str]) -> bool:
    """Whether each class has its number behind it, `cat 3`; not so classes of one name, `grade 1` and `grade 2`."""
    found = {match.groups() for match in (re.fullmatch(r"(\S+)\s+(\d+)", label) for label in labels) if match}
    whole = all(re.fullmatch(r"\S+\s+\d+", label) for label in labels)
    return whole and 1 < len(found) == len({name for name, _ in found}) == len({number for _, number in found})


def _is_heading(rows: list[list[str]]) -> bool:
    """Whether the first row is of words for a name and a class, or alone has a name without a suffix."""
    *name, label = (word.casefold() for word in rows[0])
    if label in _CLASS_HEADINGS and _NAME_HEADINGS.issuperset(name):
        return True
    suffixes = [bool(os.path.splitext(words[0])[1]) for words in rows if len(words) > 1]
    return len(suffixes) == len(rows) > 1 and not suffixes[0] and all(suffixes[1:])
