"""Whether confidence is to be believed: binned errors, their cure by a temperature, and selective answering."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from vim_train.tasks.metrics.accuracy import Bools, Floats, Ints, Logits

BINS = 15  # Guo et al. 2017
RMS_BIN = 100  # images; Hendrycks et al. 2021
COLDEST, HOTTEST = 0.01, 100.0

_ROWS = 4096


@dataclass(frozen=True)
class Bins:
    """(B,) each; images of like confidence."""

    images: Ints
    confidence: Floats
    """Mean over the bin's images; NaN without any."""
    accuracy: Floats

    @property
    def gaps(self) -> Floats:
        """confidence - accuracy: above 0, too sure."""
        return self.confidence - self.accuracy

    @property
    def expected_error(self) -> float:
        """Sum over bins of n_b / N * abs(gap): ECE, or adaptive ECE, as the bins are."""
        total = self.images.sum()
        return float(np.nansum(self.images * np.abs(self.gaps)) / total) if total else math.nan

    @property
    def maximum_error(self) -> float:
        """The largest abs(gap) of a bin with images."""
        return float(np.nanmax(np.abs(self.gaps))) if self.images.any() else math.nan


def equal_width_bins(confidence: Floats, right: Bools, bins: int = BINS) -> Bins:
    """Bins (i/B, (i+1)/B] over [0, 1] (Guo et al. 2017). Images with NaN as confidence are in none."""
    known = ~np.isnan(confidence)
    edges = np.arange(1, bins) / bins
    return _bins(confidence[known], right[known], np.searchsorted(edges, confidence[known], side="left"), bins)


def equal_mass_bins(confidence: Floats, right: Bools, bins: int = BINS) -> Bins:
    """Bins of as many images each as can be, in the order of confidence (Nguyen and O'Connor 2015)."""
    known = np.flatnonzero(~np.isnan(confidence))
    order = known[np.argsort(confidence[known], kind="stable")]
    place = np.concatenate([np.full(len(part), i) for i, part in enumerate(np.array_split(order, bins))])
    return _bins(confidence[order], right[order], place, bins)


def _bins(confidence: Floats, right: Bools, place: NDArray[np.integer], bins: int) -> Bins:
    images = np.bincount(place, minlength=bins)
    means = []
    for values in (confidence, right):
        total = np.bincount(place, weights=values, minlength=bins)
        means.append(np.divide(total, images, out=np.full(bins, np.nan), where=images > 0))
    return Bins(images, means[0], means[1])


def signed_gap(confidence: Floats, right: Bools) -> float:
    """Mean confidence - accuracy: above 0, too sure; label smoothing and mixup make it negative."""
    return float(confidence.mean() - right.mean()) if len(right) else math.nan


def rms_error(confidence: Floats, right: Bools, images: int = RMS_BIN) -> float:
    """Root of the mean squared gap in bins of `images` of like confidence, the last one up to twice as large.

    Hendrycks et al. 2021 (Natural Adversarial Examples); their published code leaves out the last, surest bin.
    """
    order = np.argsort(confidence, kind="stable")
    bins = max(1, len(order) // images)
    squares = 0.0
    for i in range(bins):
        part = order[i * images : (i + 1) * images if i + 1 < bins else None]
        if len(part):
            squares += len(part) * float(confidence[part].mean() - right[part].mean()) ** 2
    return math.sqrt(squares / len(order)) if len(order) else math.nan


def aurra(confidence: Floats, right: Bools) -> float:
    """Mean over r = 1 … N of the accuracy on the r surest images: area under the response rate accuracy curve.

    Hendrycks et al. 2021 (Natural Adversarial Examples). Equally sure images count in their order.
    """
    if not len(right):
        return math.nan
    order = np.argsort(-confidence, kind="stable")
    return float(np.mean(np.cumsum(right[order]) / np.arange(1, len(order) + 1)))


def half(names: Sequence[str]) -> Bools:
    """(N,) whether an image belongs to the half that fits: a hash of its file name, so the same in every layout."""
    files = (PurePath(name).name.encode(errors="surrogateescape") for name in names)
    return np.array([hashlib.sha256(file).digest()[0] < 128 for file in files], bool)


def fit_temperature(logits: Logits, labels: Ints) -> float:
    """The T of least cross-entropy of softmax(logits / T), by Newton's method on log T between 0.01 and 100.

    Cross-entropy is convex in 1/T, so its slope has one sign on either side of the minimum: a step that leaves the
    bracket is halved into it. (N, C), (N,) → T; NaN where images or finite logits are missing. Guo et al. 2017.
    """
    if not len(labels) or not np.isfinite(logits).all():
        return math.nan
    low, high = math.log(COLDEST), math.log(HOTTEST)
    log_t = 0.0
    for _ in range(60):
        slope, curvature = _slope(logits, labels, math.exp(-log_t))
        if slope == 0:
            break
        if slope > 0:  # more heat lowers the loss
            low = log_t
        else:
            high = log_t
        step = slope / curvature if curvature > 0 else math.inf
        new = log_t + step
        if not low < new < high:
            new = (low + high) / 2
        if abs(new - log_t) < 1e-10:
            break
        log_t = new
    return math.exp(log_t)


def _slope(logits: Logits, labels: Ints, inverse: float) -> tuple[float, float]:
    """Mean slope of the cross-entropy against 1/T = `inverse`, and that of the slope against -log T."""
    slope = curvature = 0.0
    for i in range(0, len(logits), _ROWS):
        z = logits[i : i + _ROWS].astype(np.float64)
        z -= z.max(axis=1, keepdims=True)
        p = np.exp(z * inverse)
        p /= p.sum(axis=1, keepdims=True)
        mean = (p * z).sum(axis=1)
        slope += float((mean - np.take_along_axis(z, labels[i : i + _ROWS, None], axis=1)[:, 0]).sum())
        curvature += float(((p * z * z).sum(axis=1) - mean**2).sum())
    return slope / len(logits), inverse * curvature / len(logits)
