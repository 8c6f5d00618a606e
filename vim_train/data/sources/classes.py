"""What is known of class lists: how two differ, and how many images ImageNet's have."""

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources

from vim_train.data.sources.listing import some

_WNID = re.compile(r"n\d{8}")
IMAGENET_1K = {"train": 1_281_167, "val": 50_000}
"""Images of the thousand classes of ILSVRC 2012."""


def difference(then: Sequence[str], now: Sequence[str]) -> str:
    """In words, how the classes `now` differ from those `then`; nothing where they do not."""
    if list(then) == list(now):
        return ""
    lacks, more = sorted(set(then) - set(now)), sorted(set(now) - set(then))
    parts = [f"{word} {some(names)}" for word, names in (("lacks", lacks), ("has also", more)) if names]
    return " and ".join(parts) or "has the same ones in another order"


def is_imagenet_1k(classes: Sequence[str]) -> bool:
    """Whether these are a thousand wnids."""
    return len(classes) == 1000 and all(map(_WNID.fullmatch, classes))


def unusual_count(classes: Sequence[str], split: str, images: int) -> str:
    """What is odd about the number of images of a thousand wnids; nothing where nothing is."""
    if not is_imagenet_1k(classes) or images == IMAGENET_1K[split]:
        return ""
    return f"{images:,} {split} images where ImageNet-1k has {IMAGENET_1K[split]:,}"


@cache
def imagenet_wnids() -> list[str]:
    """The thousand classes of ILSVRC 2012, by label."""
    return (resources.files("timm.data") / "_info" / "imagenet_synsets.txt").read_text().split()
