"""From predictions to numbers: what each suite is judged by. Shares are in per cent, losses in nats."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath

import numpy as np

from vim_train.config.errors import UserError
from vim_train.data.sources.classes import is_imagenet_1k
from vim_train.tasks.eval_cases import Cases, Record, calibrate, cool, labelled, mean, percent, restrict
from vim_train.tasks.metrics import accuracy, calibration, imagenet
from vim_train.tasks.metrics.accuracy import Ints, PerClass
from vim_train.tasks.metrics.calibration import Bins
from vim_train.tasks.metrics.corruptions import ALEXNET, EXTRA, corruption_errors
from vim_train.tasks.metrics.imagenet import short_name, variant_classes
from vim_train.tasks.metrics.outliers import detect
from vim_train.tasks.predictions import Predictions

MATRIX = 60  # classes; larger confusion matrices cannot be read
WORST = 20

RealLabels = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Judged:
    """One suite and set of weights."""

    suite: str
    weights: str
    record: Record
    """Ready for JSON."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the record should know."""
    bins: Bins | None = None
    """Of equal width, over all images."""
    cooled: Bins | None = None
    """The same after the temperature, each image's of the half that it is not in."""
    classes: list[str] = field(default_factory=list)
    """Names by label, of those that the suite is judged among."""
    per_class: PerClass | None = None
    matrix: Ints | None = None
    """(C, C) confusion counts, row the label; of at most 60 classes."""


def judge(predictions: Mapping[str, Iterable[Predictions]], real_labels: RealLabels | None = None) -> list[Judged]:
    """Judge the predictions of each set of weights (`model`, `ema`), in any order of suites.

    An iterable is gone through once; of the parts of C, `c/<corruption>/<severity>`, one is held at a time. The
    temperature, the clean accuracy of A and R and the inliers of O are those of the suite `val` of the same weights.

    Args:
        real_labels: for the suite `real`: right classes by file name, none where the image is to be skipped; None:
            those of Beyer et al. 2020.
    Raises:
        UserError: predictions that a suite's metrics cannot be made of.
    """
    return [row for weights, found in predictions.items() for row in _judge_weights(weights, found, real_labels)]


def by_suite(judged: Iterable[Judged]) -> dict[str, dict[str, Record]]:
    """The records, notes included, by suite and weights."""
    suites: dict[str, dict[str, Record]] = {}
    for row in judged:
        suites.setdefault(row.suite, {})[row.weights] = {**row.record, "notes": row.notes}
    return suites


def _judge_weights(weights: str, found: Iterable[Predictions], real_labels: RealLabels | None) -> list[Judged]:
    held: list[Predictions] = []
    parts: dict[tuple[str, int], Record] = {}
    thousand = True
    for predictions in found:
        if predictions.suite.startswith("c/"):
            _, corruption, severity = predictions.suite.split("/")
            parts[corruption, int(severity)] = _judge_part(predictions)
            thousand = is_imagenet_1k(predictions.classes)
        else:
            held.append(predictions)
    val = next((labelled(predictions) for predictions in held if predictions.suite == "val"), None)
    rows = [_judge_suite(weights, predictions, val, real_labels) for predictions in held]
    return rows + ([_judge_corruptions(weights, parts, thousand)] if parts else [])


def _judge_suite(weights: str, found: Predictions, val: Cases | None, real_labels: RealLabels | None) -> Judged:
    if found.suite == "o":
        return _judge_outliers(weights, found, val)
    if found.suite == "real":
        return _judge_real(weights, found, val, real_labels)
    if found.suite in ("a", "r"):
        return _judge_variant(weights, found, val)
    return _judge_labelled(found.suite, weights, labelled(found), val)


def _judge_labelled(suite: str, weights: str, cases: Cases, val: Cases | None) -> Judged:
    """Any set of one label an image. Args: val: what the temperature is fitted on; None: a half of the set itself."""
    scores = accuracy.softmax_scores(cases.logits, cases.labels)
    ranks = accuracy.ranks(cases.logits, cases.labels)
    guesses = accuracy.predicted(cases.logits)
    right, classes = accuracy.top(ranks, 1, len(cases.classes)), len(cases.classes)
    measures, bins, notes = calibrate(scores.confidence, right)
    temperature, cooled, cooling_notes = cool(cases, right, val, suite == "val")
    per_class = accuracy.per_class(cases.labels, guesses, ranks, classes)
    record = {
        "images": len(cases.labels),
        "top1": percent(right),
        "top5": percent(accuracy.top(ranks, 5, classes)),
        "nll": mean(scores.nll),
        "brier": mean(scores.brier),
        **measures,
        "temperature": temperature,
        "worst_classes": _worst_classes(cases.classes, per_class),
        "confusions": _worst_confusions(cases.classes, cases.labels, guesses, per_class.images),
    }
    matrix = accuracy.confusion_matrix(cases.labels, guesses, classes) if classes <= MATRIX else None
    return Judged(suite, weights, record, notes + cooling_notes, bins, cooled, cases.classes, per_class, matrix)


def _judge_real(weights: str, found: Predictions, val: Cases | None, real_labels: RealLabels | None) -> Judged:
    if real_labels is None:
        real_labels = imagenet.real_labels(found.classes)
    names = [PurePath(name).name for name in found.names]
    unknown = next((name for name in names if name not in real_labels), None)
    if unknown is not None:
        raise UserError(f"suite=real: ReaL has no labels for {unknown}; it knows images by ImageNet's file names")
    kept = np.array([len(real_labels[name]) > 0 for name in names], bool)
    logits = found.logits[kept]
    ranks = accuracy.ranks_of_any(logits, [real_labels[name] for name in names if real_labels[name]])
    right = accuracy.top(ranks, 1, len(found.classes))
    cases = Cases(
        [name for name, keep in zip(found.names, kept, strict=True) if keep], logits, found.labels[kept], found.classes
    )
    measures, bins, notes = calibrate(accuracy.softmax_scores(logits, cases.labels).confidence, right)
    temperature, cooled, cooling_notes = cool(cases, right, val, of_val=True)
    record = {
        "images": len(logits),
        "skipped": int((~kept).sum()),
        "top1": percent(right),
        "top5": percent(accuracy.top(ranks, 5, len(found.classes))),
        **measures,
        "temperature": temperature,
    }
    notes.append(f"{(~kept).sum():,} images without a right label among the classes are skipped")
    return Judged("real", weights, record, notes + cooling_notes, bins, cooled)


def _judge_variant(weights: str, found: Predictions, val: Cases | None) -> Judged:
    """A or R: judged among the variant's classes alone, beside the validation images of the same classes."""
    whole = labelled(found)
    kept = _variant(found.suite, whole)
    cases = restrict(whole, kept)
    if len(cases.labels) < len(whole.labels):
        raise UserError(
            f"suite={found.suite}: {len(whole.labels) - len(cases.labels):,} images are of classes that "
            f"ImageNet-{found.suite.upper()} does not have"
        )
    clean = restrict(val, kept) if val is not None else None
    row = _judge_labelled(found.suite, weights, cases, clean)
    extra, notes = _clean(row, clean)
    if found.suite == "a":
        confidence = accuracy.softmax_scores(cases.logits, cases.labels).confidence
        right = accuracy.top(accuracy.ranks(cases.logits, cases.labels), 1, len(kept))
        known = not np.isnan(confidence).any()
        extra["rms_calibration_error"] = 100 * calibration.rms_error(confidence, right) if known else math.nan
        extra["aurra"] = 100 * calibration.aurra(confidence, right) if known else math.nan
    notes.insert(0, f"judged among {len(kept)} of {len(found.classes):,} classes")
    return Judged(
        row.suite, weights, row.record | extra, notes + row.notes, row.bins, row.cooled, row.classes, row.per_class,
        row.matrix,
    )  # fmt: skip


def _clean(row: Judged, clean: Cases | None) -> tuple[Record, list[str]]:
    if clean is None or not len(clean.labels):
        return {}, ["the clean accuracy takes the suite val too"]
    ranks = accuracy.ranks(clean.logits, clean.labels)
    top1 = percent(accuracy.top(ranks, 1, len(clean.classes)))
    record: Record = {
        "clean_images": len(ranks),
        "clean_top1": top1,
        "clean_top5": percent(accuracy.top(ranks, 5, len(clean.classes))),
        "gap": top1 - float(str(row.record["top1"])),
    }
    return record, []


def _judge_outliers(weights: str, found: Predictions, val: Cases | None) -> Judged:
    """Whether low confidence among O's classes tells its images from validation images of these classes."""
    record: Record = {"images": len(found.names)}
    if val is None:
        return Judged("o", weights, record, ["its inliers are images of the suite val, which is not there"])
    kept = _variant("o", val)
    inliers = restrict(val, kept)
    unlabelled = np.full(len(found.names), -1)
    of_inliers = accuracy.softmax_scores(inliers.logits, inliers.labels).confidence
    of_outliers = accuracy.softmax_scores(found.logits[:, kept], unlabelled).confidence
    judged = detect(-of_outliers, -of_inliers)
    record |= {
        "inliers": len(inliers.labels),
        "aupr": 100 * judged.aupr,
        "auroc": 100 * judged.auroc,
        "fpr95": 100 * judged.fpr95,
    }
    among = f"against {len(inliers.labels):,} validation images of {len(kept)} classes"
    return Judged("o", weights, record, [among])


def _judge_part(found: Predictions) -> Record:
    cases = labelled(found)
    scores = accuracy.softmax_scores(cases.logits, cases.labels)
    ranks = accuracy.ranks(cases.logits, cases.labels)
    right = accuracy.top(ranks, 1, len(cases.classes))
    top5 = percent(accuracy.top(ranks, 5, len(cases.classes)))
    measures, _, _ = calibrate(scores.confidence, right)
    return {"images": len(ranks), "top1": percent(right), "top5": top5, "nll": mean(scores.nll), **measures}


def _judge_corruptions(weights: str, parts: Mapping[tuple[str, int], Record], thousand: bool) -> Judged:
    """One row of all parts: means over those that mCE is made of, as far as they are there."""
    order = [*ALEXNET, *EXTRA]
    parts = dict(
        sorted(parts.items(), key=lambda part: (order.index(part[0][0]) if part[0][0] in order else 99, part[0]))
    )
    found = corruption_errors({part: 1 - float(str(record["top1"])) / 100 for part, record in parts.items()})
    counted = [record for (name, _), record in parts.items() if name in ALEXNET] or list(parts.values())
    record: Record = {"images": sum(int(str(part["images"])) for part in counted)}
    for name in ("top1", "top5", "nll", "ece", "signed_gap"):
        record[name] = float(np.mean([float(str(part[name])) for part in counted]))
    record |= {
        "mce": found.mce,
        "mean_error": None if found.mean_error is None else 100 * found.mean_error,
        "ce": found.ce,
        "missing": found.missing,
        "parts": {f"{name}/{severity}": part for (name, severity), part in parts.items()},
    }
    notes = [f"means over {len(counted)} parts"]
    if others := list(dict.fromkeys(name for name, _ in parts if name not in order)):
        apart = "; not in the means" if len(counted) < len(parts) else ""
        notes.append(f"no corruption of ImageNet-C: {', '.join(others)}{apart}")
    if found.missing:
        notes.append(f"no mCE, which takes 15 corruptions of 5 severities: there is no {', '.join(found.missing)}")
    if not thousand:
        notes.append("the classes are not ImageNet's 1,000, whose errors of AlexNet mCE divides by")
    return Judged("c", weights, record, notes)


def _variant(suite: str, cases: Cases) -> list[int]:
    """Labels that a suite is judged among: the published ones of ImageNet's, else those that have images."""
    published = variant_classes(suite) if is_imagenet_1k(cases.classes) else None
    if published is None:
        return sorted(set(cases.labels.tolist()))
    place = {name: label for label, name in enumerate(cases.classes)}
    return [place[name] for name in published if name in place]


def _worst_classes(classes: Sequence[str], found: PerClass) -> list[Record]:
    order = [label for label in np.argsort(found.top1, kind="stable") if found.images[label]]
    return [
        {
            "class": classes[label],
            "name": short_name(classes[label]),
            "images": int(found.images[label]),
            "top1": 100 * float(found.top1[label]),
        }
        for label in order[:WORST]
    ]


def _worst_confusions(classes: Sequence[str], labels: Ints, guesses: Ints, images: Ints) -> list[Record]:
    return [
        {
            "class": classes[label],
            "name": short_name(classes[label]),
            "predicted": classes[guess],
            "predicted_name": short_name(classes[guess]),
            "images": count,
            "share": 100 * count / int(images[label]),
        }
        for label, guess, count in accuracy.confusions(labels, guesses)[:WORST]
    ]
