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


def cool(cases: Cases, right: Bools, val: Cases | None, of_val: bool) -> tuple[Record | None, Bins | None, list[str]]:
    """Fit a temperature on a half of `val`, or of the set itself, and judge all images with one they had no part in.

    Images that belong to the half are judged with the temperature of the other half, so that the errors before and
    after are of the same images.

    Args:
        right: (N,) of `cases`.
        of_val: whether `cases` are images of val.
    Returns: what was fitted, and the bins with it; None where no temperature can be fitted. Notes for the user.
    """
    source = cases if val is None else val
    first = calibration.half(source.names)
    fits = [part & (source.labels >= 0) for part in (first, ~first)]
    temperatures = [calibration.fit_temperature(source.logits[part], source.labels[part]) for part in fits]
    inside = calibration.half(cases.names) & (of_val or val is None)
    used = np.where(inside, temperatures[1], temperatures[0])
    if math.isnan(temperatures[0]) or np.isnan(used).any() or not len(used):
        return None, None, []
    scores = accuracy.softmax_scores(cases.logits, cases.labels, used)
    cooled = calibration.equal_width_bins(scores.confidence, right)
    record: Record = {
        "temperature": temperatures[0],
        "fitted_on": "a half of the set" if val is None else "a half of val",
        "fitted_images": int(fits[0].sum()),
        "of_the_other_half": temperatures[1],
        "ece": 100 * cooled.expected_error,
        "nll": mean(scores.nll),
    }
    lost = any(math.isclose(value, calibration.HOTTEST, rel_tol=1e-6) for value in temperatures)
    notes = [f"T is at the bound of the search, {calibration.HOTTEST:g}: no better than guessing"] if lost else []
    return record, cooled, notes


def percent(right: Bools) -> float:
    return 100 * float(right.mean()) if len(right) else math.nan


def mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan
