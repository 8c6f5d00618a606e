"""What people call a checkpoint's classes."""

import re
from collections.abc import Sequence

from timm.data import ImageNetInfo

_WNID = re.compile(r"n\d{8}")


def human_names(classes: Sequence[str]) -> list[str]:
    """WordNet's words where the classes are wnids (`n01440764`: `tench, Tinca tinca`), else the classes themselves."""
    if not classes or not all(map(_WNID.fullmatch, classes)):
        return list(classes)
    info = ImageNetInfo()
    return [_words(info, name) for name in classes]


def _words(info: ImageNetInfo, wnid: str) -> str:
    try:
        return info.label_name_to_description(wnid)
    except KeyError:  # WordNet has more than ImageNet
        return wnid


def short(name: str, wnid: str) -> str:
    """The first of WordNet's words; any other name as it is."""
    return name.partition(", ")[0] if _WNID.fullmatch(wnid) else name
