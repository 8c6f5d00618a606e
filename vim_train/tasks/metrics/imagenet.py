"""ImageNet's tables, from timm: class lists of its variants, words for its classes, the ReaL labels."""

import functools
import json
from collections.abc import Mapping, Sequence
from importlib import resources

from vim_train.config.errors import UserError
from vim_train.data.sources.classes import imagenet_wnids
from vim_train.tasks.metrics.outliers import IMAGENET_O


def variant_classes(suite: str) -> list[str] | None:
    """The wnids that a, r or o is judged among; None: all classes."""
    if suite == "o":
        return [imagenet_wnids()[i] for i in IMAGENET_O]
    return _lines(f"imagenet_{suite}_synsets.txt") if suite in ("a", "r") else None


@functools.cache
def words() -> Mapping[str, str]:
    """wnid → its English words, as in WordNet: `tench, Tinca tinca`."""
    pairs = (line.partition("\t") for line in _lines("imagenet_synset_to_lemma.txt"))
    return {wnid: lemma for wnid, _, lemma in pairs}


def short_name(name: str) -> str:
    """A class for people: the first of a wnid's words, any other name as it is."""
    return words()[name].partition(", ")[0] if name in words() else name


def real_labels(classes: Sequence[str]) -> dict[str, list[int]]:
    """File name of each validation image → its right labels by ReaL as indices into `classes`; none for 3,163 of them.

    Right labels that a model of a part of the classes does not have are left out.

    Raises:
        UserError: `classes` are not ImageNet's, whose labels these are.
    """
    names = imagenet_wnids()
    if foreign := set(classes) - set(names):
        raise UserError(f"suite=real: ReaL labels ImageNet's classes, and the checkpoint's are others: {min(foreign)}")
    place = {name: label for label, name in enumerate(classes)}
    found: list[list[int]] = json.loads(_read("imagenet_real_labels.json"))
    return {
        f"ILSVRC2012_val_{i:08d}.JPEG": [place[names[label]] for label in labels if names[label] in place]
        for i, labels in enumerate(found, 1)
    }


def _lines(file: str) -> list[str]:
    return _read(file).splitlines()


def _read(file: str) -> str:
    return (resources.files("timm.data") / "_info" / file).read_text(encoding="utf-8")
