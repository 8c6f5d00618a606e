"""Which sets of images an evaluation goes through, and each of them opened."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vim_train.config.commands import OWN_SUITES, EvalCommand
from vim_train.config.errors import UserError
from vim_train.config.schema import TrainConfig
from vim_train.data.images import open_images
from vim_train.data.sets import Labelled, check_folders, find_sets, open_set, unusual
from vim_train.data.sources import Source
from vim_train.data.sources.classes import difference, is_imagenet_1k
from vim_train.data.sources.listing import some
from vim_train.data.sources.splits import HELD_OUT
from vim_train.data.transforms import Transform
from vim_train.data.views import STORED, crops, stored_crop
from vim_train.tasks.metrics.imagenet import variant_classes
from vim_train.tasks.predictions import Predictions

_VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})(?!\d)")


@dataclass(frozen=True)
class Planned:
    """One set of images to go through once."""

    name: str
    """`val`, `sketch`, `v2_top_images`, `c/fog/3`."""
    folder: Path | None
    """Holds its class folders; None: whatever lies under data.root."""
    suites: tuple[str, ...]
    """What its predictions are told as."""


@dataclass(frozen=True)
class Plan:
    sets: list[Planned]
    skipped: dict[str, str] = field(default_factory=dict)
    """Reason by suite."""


@dataclass(frozen=True)
class Opened:
    """A set with all that its predictions hold but the logits."""

    source: Source
    labels: NDArray[np.int64]
    names: list[str]
    views: list[Transform]
    notes: list[str]


def plan(command: EvalCommand) -> Plan:
    """What is to be done for the sets asked for, val first; those without a root are passed over.

    Raises:
        UserError: a root that holds nothing of its set.
    """
    wanted = list(dict.fromkeys(command.suite))
    of_val = tuple(name for name in OWN_SUITES if name in wanted)
    sets = [Planned("val", None, of_val)] if of_val else []
    skipped = {}
    for name in wanted:
        if name in of_val:
            continue
        root = getattr(command.roots, name)
        if root is None:
            skipped[name] = f"roots.{name} is not given"
            continue
        found, absent = find_sets(name, Path(root).expanduser())
        check_folders(found.values())
        sets += [Planned(called, folder, (called,)) for called, folder in found.items()]
        skipped |= absent
    return Plan(sets, skipped)


def open_planned(planned: Planned, cfg: TrainConfig, classes: Sequence[str] | None, tta_crops: int) -> Opened:
    """Look through a set's images.

    Args:
        classes: of the checkpoint, by label; None: not known, and those of data.root are taken for them.

    Raises:
        UserError: other classes than the checkpoint's; ReaL is asked for and images do not have ImageNet's names.
    """
    if planned.folder is None:
        # a class without images is no mistake where the checkpoint tells the classes
        empty = cfg.data.allow_empty_classes or classes is not None
        val = open_images(replace(cfg.data, allow_empty_classes=empty), "val")
        labels, absent = labels_in(classes, val.classes, val.labels)
        names = list(_names(val, cfg.data.root))
        if "real" in planned.suites:
            real_names(names)
        notes = [val.form, *unusual("val", len(val), val.classes), *absent]
        if HELD_OUT in val.form:
            notes.insert(1, "the rest is taken to be training's: data.val_fraction=1 evaluates all")
        return Opened(val, labels, names, crops(cfg.data, _cropped(tta_crops)), notes)
    if classes is None:
        raise UserError(f"suite: {planned.name}: the checkpoint does not tell its classes; takes val")
    found: Labelled = open_set(planned.name, planned.folder, classes, cfg.data.pixel_limit, _silent)
    check_variant(planned.name, classes, found.labels)
    names = list(_names(found.source, str(planned.folder)))
    if not planned.name.startswith("c/"):
        return Opened(found.source, found.labels, names, crops(cfg.data, _cropped(tta_crops)), found.notes)
    size = cfg.data.img_size
    resized = [f"at {size} px and not at its own {STORED}, on which corruptions depend"] if size != STORED else []
    return Opened(found.source, found.labels, names, [stored_crop(cfg.data)], found.notes + resized)


def check_variant(suite: str, classes: Sequence[str], labels: NDArray[np.int64]) -> None:
    """Raises UserError: images of A or R whose class that set does not have."""
    published = variant_classes(suite) if suite in ("a", "r") and is_imagenet_1k(classes) else None
    if published is None:
        return
    if others := sorted({classes[label] for label in labels[labels >= 0].tolist()} - set(published)):
        raise UserError(f"roots.{suite}: holds classes that ImageNet-{suite.upper()} does not have: {some(others)}")


def as_real(val: Predictions) -> Predictions:
    """The same predictions, with the names by which ReaL knows its images. Raises UserError: they have others."""
    return replace(val, suite="real", names=real_names(val.names))


def real_names(names: Sequence[str]) -> list[str]:
    """ILSVRC2012_val_00000001.JPEG of each image. Raises UserError: an image is not called so."""
    numbers = [_VAL_NAME.match(os.path.basename(name)) for name in names]
    for name, number in zip(names, numbers, strict=True):
        if number is None:
            cure = "give data.root a form that keeps ImageNet's names, or leave real out"
            raise UserError(f"suite=real: ReaL knows images as ILSVRC2012_val_00000001.JPEG, not as {name}; {cure}")
    return [f"{number[0]}.JPEG" for number in numbers if number is not None]


def labels_in(
    trained: Sequence[str] | None, classes: Sequence[str], labels: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[str]]:
    """Labels among `trained`, the checkpoint's classes, of images labelled among `classes`; and notes for the user.

    Raises:
        UserError: images of a class that the checkpoint does not know.
    """
    if trained is None:
        return labels, []
    if not set(classes) <= set(trained):
        raise UserError(f"data.root: its classes are not the checkpoint's: it {difference(trained, classes)}")
    place = {name: label for label, name in enumerate(trained)}
    absent = len(trained) - len(np.unique(labels))
    notes = [f"classes without images there: {absent:,} of the checkpoint's {len(trained):,}"] if absent else []
    return np.array([place[name] for name in classes], np.int64)[labels], notes


def _names(source: Source, folder: str | None) -> Iterator[str]:
    """Path below `folder` of each image."""
    above = "" if folder is None else os.path.join(Path(folder).expanduser(), "")
    return (source.name(index).removeprefix(above) for index in range(len(source)))


def _cropped(tta_crops: int) -> int:
    """Crops without their mirror images."""
    return 1 if tta_crops == 1 else 5


def _silent(what: str, done: int, total: int) -> None:
    pass
