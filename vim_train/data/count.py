"""Images of each class, beside what ImageNet is known to have."""

from collections.abc import Iterator

import numpy as np

from vim_train.config.schema import DataConfig
from vim_train.data.images import open_images
from vim_train.data.sources import Split
from vim_train.data.sources.classes import is_imagenet_1k, unusual_count
from vim_train.data.sources.listing import some

_SPLITS: tuple[Split, ...] = ("train", "val")
_VAL_EACH = 50
"""Validation images of each class of ImageNet-1k."""


def count(data: DataConfig) -> Iterator[str]:
    """Lines for a person: images of each class in both splits, then totals and what is odd about them.

    Raises:
        UserError: the data set cannot be opened.
    """
    sources = {split: open_images(data, split) for split in _SPLITS}
    classes = sources["train"].classes
    counts = {split: np.bincount(source.labels, minlength=len(classes)) for split, source in sources.items()}
    width = max(map(len, classes))
    yield f"{'class':<{width}}  {'train':>9}  {'val':>7}"
    for name, train, val in zip(classes, counts["train"].tolist(), counts["val"].tolist(), strict=True):
        yield f"{name:<{width}}  {train:>9,}  {val:>7,}"
    yield f"{'all':<{width}}  {len(sources['train']):>9,}  {len(sources['val']):>7,}"
    yield f"{len(classes):,} classes, {counts['train'].min():,} to {counts['train'].max():,} training images each"
    yield from _beside_imagenet(classes, counts)


def _beside_imagenet(
    classes: list[str], counts: dict[Split, np.ndarray[tuple[int], np.dtype[np.int64]]]
) -> Iterator[str]:
    if not is_imagenet_1k(classes):
        return
    odd = [unusual_count(classes, split, int(of_split.sum())) for split, of_split in counts.items()]
    if not any(odd):
        yield "as ImageNet-1k has it: 1,281,167 training and 50,000 validation images of 1,000 classes"
    yield from (f"unlike ImageNet-1k: {line}" for line in odd if line)
    uneven = [classes[i] for i in np.flatnonzero(counts["val"] != _VAL_EACH).tolist()]
    if uneven:
        yield f"unlike ImageNet-1k: not {_VAL_EACH} validation images of {some(uneven)}"
