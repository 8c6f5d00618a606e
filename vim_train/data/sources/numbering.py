"""Class names for data sets that number their classes: never by guess, so that every form has the same labels."""

import os
import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vim_train.config.errors import UserError
from vim_train.data.sources.listing import Listing

_WNID = re.compile(rb"(?:^|[/_])(n\d{8})(?=[/_.]|$)")


def wnid_in(name: bytes) -> str | None:
    """ImageNet's class in the name of an image: n01440764_18.JPEG, ILSVRC2012_val_00000001_n01751748.JPEG."""
    found = set(_WNID.findall(name))
    return os.fsdecode(found.pop()) if len(found) == 1 else None


def names_of_numbers(
    where: str, numbers: NDArray[np.int64], names: Sequence[bytes], given: Mapping[int, str] | None = None
) -> tuple[dict[int, str], bool]:
    """A name for each number, and whether it is more than the number's own digits.

    The images' own wnids come first, then the `given` names. Only classes that have an image are in it, unless given.

    Args:
        where: for messages.
        numbers, names: (n,) of the images.

    Raises:
        UserError: images of one number have different wnids, or those of one wnid different numbers.
    """
    by_wnid: dict[int, str] = {}
    complete = len(names) > 0
    for number, name in zip(numbers.tolist(), names, strict=True):
        wnid = wnid_in(name)
        if wnid is None:
            complete = False
            break
        if by_wnid.setdefault(number, wnid) != wnid:
            raise UserError(f"{where}: images of label {number} are named both {by_wnid[number]} and {wnid}")
    if complete:
        if len(set(by_wnid.values())) < len(by_wnid):
            raise UserError(f"{where}: images of one wnid have different labels")
        return by_wnid, True
    if given:
        unknown = sorted(set(numbers.tolist()) - given.keys())
        if unknown:
            raise UserError(f"{where}: label {unknown[0]} has no name among the {len(given)} that the data set gives")
        if len(set(given.values())) < len(given):
            raise UserError(f"{where}: two of the labels have the same name")
        return dict(given), True
    present = sorted(set(numbers.tolist()))
    width = len(str(present[-1])) if present else 1
    return {number: f"{number:0{width}d}" for number in present}, False


def numbered_labels(mapping: Mapping[int, str], numbers: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64]]:
    """Sorted class names, and the label (n,) that each of `numbers` (n,) gets among them."""
    classes = sorted(mapping.values())
    place = {name: i for i, name in enumerate(classes)}
    known = np.array(sorted(mapping), np.int64)
    labels = np.array([place[mapping[number]] for number in known.tolist()], np.int64)
    if not len(numbers):
        return classes, numbers
    return classes, labels[np.searchsorted(known, numbers)]


def same_numbering(where: str, val: Listing, train: Listing) -> dict[str, str]:
    """New names for the classes of `val`, by what `train` calls their numbers; nothing where they have no numbers.

    Raises:
        UserError: both name a number, and not alike; or `train` has no such number.
    """
    if val.numbers is None or train.numbers is None:
        return {}
    names = dict(zip(train.numbers, train.classes, strict=True))
    found = {}
    for number, name in zip(val.numbers, val.classes, strict=True):
        if number not in names:
            raise UserError(f"{where}: label {number}, which no training image has")
        if val.named and train.named and names[number] != name:
            raise UserError(f"{where}: label {number} is {name} here and {names[number]} among the training images")
        found[name] = names[number]
    return found
