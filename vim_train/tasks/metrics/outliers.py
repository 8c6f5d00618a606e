"""How well low confidence tells images of unknown classes (ImageNet-O: Hendrycks et al. 2021)."""

import math
from dataclasses import dataclass

import numpy as np

from vim_train.tasks.metrics.accuracy import Floats

# fmt: off
IMAGENET_O = (
    1, 51, 70, 79, 89, 90, 107, 109, 117, 149, 327, 328, 341, 363, 392, 397, 398, 401, 411, 416, 418, 419, 420, 424,
    434, 439, 447, 451, 455, 459, 462, 464, 465, 470, 475, 489, 491, 494, 496, 498, 507, 512, 517, 522, 525, 530, 533,
    537, 539, 540, 545, 549, 550, 551, 552, 554, 556, 558, 559, 562, 563, 567, 574, 580, 583, 588, 589, 593, 599, 604,
    606, 607, 611, 613, 621, 624, 626, 629, 633, 635, 640, 641, 642, 643, 644, 645, 646, 648, 666, 669, 674, 677, 678,
    679, 680, 684, 686, 687, 688, 691, 694, 699, 703, 710, 712, 714, 716, 720, 722, 723, 729, 731, 736, 738, 740, 741,
    743, 747, 749, 753, 758, 761, 767, 769, 771, 772, 773, 778, 783, 784, 789, 791, 793, 794, 795, 797, 800, 802, 804,
    807, 811, 813, 815, 827, 828, 830, 833, 842, 843, 844, 845, 852, 853, 854, 855, 857, 858, 859, 870, 877, 879, 886,
    891, 897, 898, 900, 902, 906, 910, 911, 918, 920, 929, 931, 932, 934, 935, 937, 938, 939, 941, 943, 945, 948, 949,
    950, 951, 953, 954, 955, 957, 960, 962, 963, 965, 971, 980, 987, 988, 996,
)
# fmt: on
"""The 200 classes of ImageNet-1k that ImageNet-O's images are judged against, as indices."""


@dataclass(frozen=True)
class Detection:
    """Shares from 0 to 1; outliers are the positives."""

    aupr: float
    """Average precision: precision at each threshold, weighted by the recall it adds."""
    auroc: float
    """Chance that an outlier scores above an inlier; equal scores count half."""
    fpr95: float
    """Least share of inliers that score as high as a threshold which at least 95 % of the outliers reach."""


def detect(outliers: Floats, inliers: Floats) -> Detection:
    """Judge scores that ought to be higher for outliers: here minus the highest probability.

    (M,), (N,); all NaN where either is empty or a score is NaN. Equal scores share one threshold.
    """
    scores = np.concatenate([outliers, inliers])
    if not len(outliers) or not len(inliers) or np.isnan(scores).any():
        return Detection(math.nan, math.nan, math.nan)
    order = np.argsort(-scores, kind="stable")
    is_outlier = np.arange(len(scores))[order] < len(outliers)
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of each run of equal scores
    hits, alarms = np.cumsum(is_outlier)[last], np.cumsum(~is_outlier)[last]
    recall, fpr = hits / len(outliers), alarms / len(inliers)
    aupr = float(np.sum(np.diff(recall, prepend=0.0) * hits / (hits + alarms)))
    widths, heights = np.diff(fpr, prepend=0.0), (recall + np.append(0.0, recall[:-1])) / 2
    reached = 100 * hits >= 95 * len(outliers)  # in whole numbers: 0.95 has no exact float
    return Detection(aupr, float(np.sum(widths * heights)), float(fpr[reached][0]))
