"""Errors under corruptions against AlexNet's (ImageNet-C: Hendrycks and Dietterich 2019)."""

from collections.abc import Mapping
from dataclasses import dataclass

ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
"""AlexNet's error, mean over the five severities, of the 15 corruptions that mCE is made of."""
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Corruptions that are published beside these and count in no mCE."""
SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Corruptions:
    """Errors as shares from 0 to 1; CE and mCE in per cent of AlexNet's error."""

    mce: float | None
    """Mean CE of the 15; None while any of their 75 parts is missing."""
    mean_error: float | None
    """Mean error of those of the 75 parts that there are; None: there are none."""
    ce: dict[str, float]
    """By corruption; only where all five severities are there."""
    missing: list[str]
    """Of the 75 parts, those that are not there: `fog` where all of it is, else `fog/5`."""


def corruption_errors(errors: Mapping[tuple[str, int], float]) -> Corruptions:
    """Errors by (corruption, severity), in any order; the extra corruptions are passed over."""
    ce: dict[str, float] = {}
    there: list[float] = []
    missing: list[str] = []
    for name, alexnet in ALEXNET.items():
        found = {severity: errors[name, severity] for severity in SEVERITIES if (name, severity) in errors}
        there += found.values()
        if len(found) == len(SEVERITIES):
            ce[name] = 100 * sum(found.values()) / (len(SEVERITIES) * alexnet)
        elif not found:
            missing.append(name)
        else:
            missing += [f"{name}/{severity}" for severity in SEVERITIES if severity not in found]
    mce = None if missing else sum(ce.values()) / len(ce)
    return Corruptions(mce, sum(there) / len(there) if there else None, ce, missing)
