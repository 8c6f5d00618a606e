"""Calibration against loops, worked examples and a search for the temperature."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vim_train.tasks.metrics import calibration

SEEDS = st.integers(0, 2**31)


def draw(seed: int, images: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    confidence = generator.choice(np.append(generator.random(50), np.arange(1, 16) / 15), images)
    return confidence, generator.random(images) < confidence**2


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 300))
def test_errors_of_equal_width_bins(seed: int, images: int) -> None:
    confidence, right = draw(seed, images)
    errors, counts = [], []
    for i in range(15):
        inside = [j for j in range(images) if i / 15 < confidence[j] <= (i + 1) / 15]
        counts.append(len(inside))
        errors.append(abs(sum(confidence[j] - right[j] for j in inside)) / len(inside) if inside else 0)
    bins = calibration.equal_width_bins(confidence, right)
    assert bins.images.tolist() == counts
    assert bins.expected_error == pytest.approx(sum(n / images * e for n, e in zip(counts, errors, strict=True)))
    assert bins.maximum_error == pytest.approx(max(errors))
    gap = sum(n / images * g for n, g in zip(counts, np.nan_to_num(bins.gaps), strict=True))
    assert calibration.signed_gap(confidence, right) == pytest.approx(gap)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(1, 300))
def test_error_of_equal_mass_bins(seed: int, images: int) -> None:
    confidence, right = draw(seed, images)
    order = sorted(range(images), key=lambda i: confidence[i])
    size, larger, start, expected = images // 15, images % 15, 0, 0.0
    for i in range(15):
        part = order[start : start + size + (i < larger)]
        start += len(part)
        expected += abs(sum(confidence[j] - right[j] for j in part)) / images
    bins = calibration.equal_mass_bins(confidence, right)
    assert bins.images.max() - bins.images.min() <= 1
    assert bins.expected_error == pytest.approx(expected)


def test_signs_and_extremes() -> None:
    surely_wrong = calibration.equal_width_bins(np.ones(4), np.zeros(4, bool))
    assert (surely_wrong.expected_error, surely_wrong.maximum_error) == (1, 1)
    assert calibration.signed_gap(np.ones(4), np.zeros(4, bool)) == 1
    assert calibration.signed_gap(np.full(4, 0.25), np.ones(4, bool)) == -0.75
    nothing = calibration.equal_width_bins(np.empty(0), np.empty(0, bool))
    assert np.isnan([nothing.expected_error, nothing.maximum_error]).all()
    with_nan = calibration.equal_width_bins(np.array([0.9, np.nan]), np.array([True, False]))
    assert with_nan.images.sum() == 1


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(2, 6), st.floats(0.2, 6))
def test_temperature_is_the_best_of_all(seed: int, classes: int, heat: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    honest = torch.randn(200, classes, generator=generator, dtype=torch.float64) * 2
    labels = torch.multinomial(honest.softmax(1), 1, generator=generator)[:, 0]
    logits = (honest * heat).float()
    found = calibration.fit_temperature(logits.numpy(), labels.numpy())

    def loss(temperature: float) -> float:
        return torch.nn.functional.cross_entropy(logits.double() / temperature, labels).item()

    assert loss(found) <= min(loss(t) for t in np.geomspace(0.02, 50, 80)) + 1e-12
    assert loss(found) <= min(loss(found * 0.999), loss(found * 1.001))


def test_temperature_keeps_its_bounds() -> None:
    logits = np.eye(3, dtype=np.float32)
    labels = np.arange(3)
    assert calibration.fit_temperature(logits, labels) < 0.02  # all right: the surer the better
    assert calibration.fit_temperature(logits, (labels + 1) % 3) == pytest.approx(100)
    assert calibration.fit_temperature(logits * 0, labels) == 1
    assert np.isnan(calibration.fit_temperature(logits[:0], labels[:0]))
    assert np.isnan(calibration.fit_temperature(np.full((2, 3), np.nan, np.float32), labels[:2]))


def test_halves_follow_from_the_file_name_alone() -> None:
    names = [f"ILSVRC2012_val_{i:08d}.JPEG" for i in range(1, 2001)]
    half = calibration.half(names)
    assert 900 < half.sum() < 1100
    assert half.tolist() == calibration.half([f"val/n01440764/{name}" for name in names]).tolist()
    assert calibration.half(names[:4]).tolist() == [False, True, True, True]  # for ever


def test_rms_error_of_bins_of_a_hundred() -> None:
    confidence = np.linspace(0.1, 0.9, 250)
    right = np.zeros(250, bool)
    right[:50] = True
    low, high = confidence[:100].mean() - 0.5, confidence[100:].mean()
    shuffled = np.random.default_rng(0).permutation(250)
    found = calibration.rms_error(confidence[shuffled], right[shuffled])
    assert found == pytest.approx((0.4 * low**2 + 0.6 * high**2) ** 0.5)
    assert calibration.rms_error(np.array([0.5, 0.7]), np.array([True, True])) == pytest.approx(0.4)
    assert np.isnan(calibration.rms_error(np.empty(0), np.empty(0, bool)))


def test_aurra_is_the_mean_accuracy_of_the_surest() -> None:
    confidence, right = np.array([0.2, 0.9, 0.5, 0.7]), np.array([True, True, False, False])
    assert calibration.aurra(confidence, right) == pytest.approx((1 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    assert np.isnan(calibration.aurra(np.empty(0), np.empty(0, bool)))
