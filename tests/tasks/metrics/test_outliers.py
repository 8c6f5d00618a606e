"""Detection of outliers against sweeps over all thresholds and pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vim_train.data.sources.classes import imagenet_wnids
from vim_train.tasks.metrics.imagenet import variant_classes
from vim_train.tasks.metrics.outliers import IMAGENET_O, detect

SCORES = st.lists(st.integers(0, 12).map(float), min_size=1, max_size=60)  # few values: ties


@settings(max_examples=60, deadline=None)
@given(SCORES, SCORES)
def test_areas_agree_with_sweeps(outliers: list[float], inliers: list[float]) -> None:
    found = detect(np.array(outliers), np.array(inliers))
    pairs = [(o > i) + (o == i) / 2 for o in outliers for i in inliers]
    assert found.auroc == pytest.approx(sum(pairs) / len(pairs))

    aupr, recall_before, rates = 0.0, 0.0, []
    for threshold in sorted({*outliers, *inliers}, reverse=True):
        hits, alarms = sum(o >= threshold for o in outliers), sum(i >= threshold for i in inliers)
        recall = hits / len(outliers)
        aupr += (recall - recall_before) * hits / (hits + alarms)
        recall_before = recall
        if hits * 20 >= 19 * len(outliers):
            rates.append(alarms / len(inliers))
    assert found.aupr == pytest.approx(aupr)
    assert found.fpr95 == pytest.approx(min(rates))


def test_extremes() -> None:
    perfect = detect(np.array([2.0, 3.0]), np.array([0.0, 1.0]))
    assert (perfect.aupr, perfect.auroc, perfect.fpr95) == (1, 1, 0)
    constant = detect(np.ones(30), np.ones(10))
    assert (constant.aupr, constant.auroc, constant.fpr95) == (0.75, 0.5, 1)
    for nothing in (detect(np.empty(0), np.ones(1)), detect(np.ones(1), np.array([np.nan]))):
        assert np.isnan([nothing.aupr, nothing.auroc, nothing.fpr95]).all()


def test_the_classes_of_the_variants_are_imagenets() -> None:
    assert len(imagenet_wnids()) == 1000
    assert len(set(IMAGENET_O)) == 200
    assert list(IMAGENET_O) == sorted(IMAGENET_O)
    for suite in ("a", "r", "o"):
        classes = variant_classes(suite)
        assert classes is not None
        assert len(classes) == 200
        assert set(classes) < set(imagenet_wnids())
    assert variant_classes("val") is None
