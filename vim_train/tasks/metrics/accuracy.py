"""Accuracy and proper scores of logits, over all classes, over each, and over more labels than one an image."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Logits = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_ROWS = 4096  # a float64 copy of ImageNet's logits would take 400 MB


@dataclass(frozen=True)
class Scores:
    """What the softmax says of each image, (N,) each; NaN where a logit is NaN or +inf."""

    confidence: Floats
    """Highest probability."""
    nll: Floats
    """Cross-entropy with the label."""
    brier: Floats
    """Squared distance of the probabilities from the label's one-hot vector: 0 to 2."""


def ranks(logits: Logits, labels: Ints) -> Ints:
    """(N, C), (N,) → (N,): other classes that score at least as high as the label; below k means right among k.

    Ties and NaN count against the model, as in `tasks.classification.classification_counts`.
    """
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    return (~(logits < own)).sum(axis=1, dtype=np.int64) - 1


def ranks_of_any(logits: Logits, labels: Sequence[Sequence[int]]) -> Ints:
    """(N, C) and one or more right labels an image → (N,): wrong classes that score at least as high as the best right.

    Below k means that each choice of k highest classes has a right one in it (ReaL: Beyer et al. 2020).
    """
    found = np.empty(len(logits), np.int64)
    for row, (scores, right) in enumerate(zip(logits, map(list, labels), strict=True)):
        above = ~(scores < np.fmax.reduce(scores[right]))
        above[right] = False
        found[row] = above.sum()
    return found


def top(found: Ints, k: int, classes: int) -> Bools:
    """(N,) ranks → whether each image is right among `k`; among all `classes` where there are fewer."""
    return found < min(k, classes)


def predicted(logits: Logits) -> Ints:
    """(N, C) → (N,) highest class, the first of equal ones; -1 where a logit is NaN."""
    return np.where(np.isnan(logits).any(axis=1), -1, logits.argmax(axis=1))


def softmax_scores(logits: Logits, labels: Ints, temperature: float | Floats = 1.0) -> Scores:
    """Scores of softmax(logits / temperature), one for all or (N,); without a label (-1), nll and brier are NaN."""
    heat = np.broadcast_to(temperature, len(logits))
    rows = [slice(i, i + _ROWS) for i in range(0, len(logits), _ROWS)]
    parts = [_scores(logits[some], labels[some], heat[some]) for some in rows]
    columns = zip(*parts, strict=True) if parts else ((np.empty(0),),) * 3
    return Scores(*(np.concatenate(column) for column in columns))


def _scores(logits: Logits, labels: Ints, temperature: Floats) -> tuple[Floats, Floats, Floats]:
    with np.errstate(invalid="ignore"):
        z = logits.astype(np.float64) / temperature[:, None]
        z -= z.max(axis=1, keepdims=True)  # inf - inf and NaN are NaN in the whole row from here on
        own = np.take_along_axis(z, np.maximum(labels, 0)[:, None], axis=1)[:, 0]
        p = np.exp(z)
        total = p.sum(axis=1)
        confidence = 1 / total
        p /= total[:, None]
        brier = (p * p).sum(axis=1) - 2 * np.exp(own) / total + 1
        unlabelled = np.where(labels < 0, np.nan, 0.0)
        return confidence, np.log(total) - own + unlabelled, brier + unlabelled


@dataclass(frozen=True)
class PerClass:
    """(C,) each; of the images whose label it is."""

    images: Ints
    top1: Floats
    """Share right, 0 to 1; NaN without images."""
    top5: Floats
    confused_with: Ints
    """The wrong class most often predicted; -1: none."""
    confused: Ints
    """Images so confused."""


def per_class(labels: Ints, guesses: Ints, found: Ints, classes: int) -> PerClass:
    """From (N,) labels, `predicted` classes and `ranks`."""
    images = np.bincount(labels, minlength=classes)
    shares = []
    for k in (1, 5):
        right = np.bincount(labels[top(found, k, classes)], minlength=classes)
        shares.append(np.divide(right, images, out=np.full(classes, np.nan), where=images > 0))
    confused_with, confused = np.full(classes, -1), np.zeros(classes, np.int64)
    for label, guess, count in reversed(confusions(labels, guesses)):
        confused_with[label], confused[label] = guess, count
    return PerClass(images, shares[0], shares[1], confused_with, confused)


def confusions(labels: Ints, guesses: Ints) -> list[tuple[int, int, int]]:
    """(label, predicted class, images) of the wrong predictions that there are, the most frequent first."""
    wrong = (guesses != labels) & (guesses >= 0)
    pairs, counts = np.unique(np.stack([labels[wrong], guesses[wrong]], axis=1), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")  # equal counts stay in the order of classes
    return [(int(pairs[i, 0]), int(pairs[i, 1]), int(counts[i])) for i in order]


def confusion_matrix(labels: Ints, guesses: Ints, classes: int) -> Ints:
    """(C, C) counts: row the label, column the predicted class; images without a prediction are in none."""
    known = guesses >= 0
    flat = np.bincount(labels[known] * classes + guesses[known], minlength=classes * classes)
    return flat.reshape(classes, classes)


def restrict(logits: Logits, labels: Ints, kept: Sequence[int]) -> tuple[Logits, Ints, Bools]:
    """Judge among the classes `kept` alone: logits of these, labels as places in `kept`, and which images have one.

    (N, C), (N,) → (M, len(kept)), (M,), (N,), with M images whose label is in `kept`. The model's highest class may be
    outside; it is then not a candidate (ImageNet-A and -R: Hendrycks et al. 2021).
    """
    place = np.full(logits.shape[1], -1)
    place[np.asarray(kept, np.int64)] = np.arange(len(kept))
    inside = (labels >= 0) & (place[np.maximum(labels, 0)] >= 0)
    return logits[inside][:, np.asarray(kept, np.int64)], place[labels[inside]], inside
