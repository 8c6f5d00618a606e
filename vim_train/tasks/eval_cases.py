"""The images a suite judges, and how far their confidence is to be believed. Shares are in per cent."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vim_train.tasks.metrics import accuracy, calibration
from vim_train.tasks.metrics.accuracy import Bools, Floats, Ints, Logits
from vim_train.tasks.metrics.calibration import Bins
from vim_train.tasks.predictions import Predictions

Record = dict[str, object]


@dataclass(frozen=True)
class Cases:
    """Labelled images and the logits of the classes that they are judged among."""

    names: list[str]
    logits: Logits
    labels: Ints
    classes: list[str]


def labelled(found: Predictions) -> Cases:
    has = found.labels >= 0
    if has.all():
        return Cases(found.names, found.logits, found.labels, found.classes)
    names = [name for name, keep in zip(found.names, has, strict=True) if keep]
    return Cases(names, found.logits[has], found.labels[has], found.classes)


def restrict(cases: Cases, kept: Sequence[int]) -> Cases:
    logits, labels, inside = accuracy.restrict(cases.logits, cases.labels, kept)
    names = [name for name, keep in zip(cases.names, inside, strict=True) if keep]
    return Cases(names, logits, labels, [cases.classes[label] for label in kept])


def calibrate(confidence: Floats, right: Bools) -> tuple[Record, Bins, list[str]]:
    bins = calibration.equal_width_bins(confidence, right)
    broken = int(np.isnan(confidence).sum())
    measures = {
        "ece": bins.expected_error,
        "adaptive_ece": calibration.equal_mass_bins(confidence, right).expected_error,
        "max_calibration_error": bins.maximum_error,
        "signed_gap": calibration.signed_gap(confidence, right),
    }
    notes = []
    if broken:
        measures = dict.fromkeys(measures, math.nan)
        notes.append(f"{broken:,} images with NaN or infinite logits: they count as wrong, and there is no calibration")
    return {name: 100 * value for name, value in measures.items()}, bins, notes


def cool(cases: Cases, right: Bools, val: Cases | None, of_val: bool) -> tuple[Record | None, Bins | None]:
    """Fit a temperature on a half of `val`, or of the set itself, and judge it on images outside that half.

    `right` is of (N,) `cases`, which are images of val if `of_val`. None where no temperature can be fitted.
    """
    source = cases if val is None else val
    fits = calibration.half(source.names) & (source.labels >= 0)
    temperature = calibration.fit_temperature(source.logits[fits], source.labels[fits])
    judged = ~calibration.half(cases.names) if of_val or val is None else np.ones(len(right), bool)
    if math.isnan(temperature) or not judged.any():
        return None, None
    logits, labels, right = cases.logits[judged], cases.labels[judged], right[judged]
    before = accuracy.softmax_scores(logits, labels)
    after = accuracy.softmax_scores(logits, labels, temperature)
    cooled = calibration.equal_width_bins(after.confidence, right)
    record: Record = {
        "temperature": temperature,
        "fitted_on": "a half of the set" if val is None else "a half of val",
        "fitted_images": int(fits.sum()),
        "images": int(judged.sum()),
        "ece_before": 100 * calibration.equal_width_bins(before.confidence, right).expected_error,
        "ece": 100 * cooled.expected_error,
        "nll_before": mean(before.nll),
        "nll": mean(after.nll),
    }
    return record, cooled


def percent(right: Bools) -> float:
    return 100 * float(right.mean()) if len(right) else math.nan


def mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan
