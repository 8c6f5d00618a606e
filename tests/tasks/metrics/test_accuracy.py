"""Accuracy, proper scores, classes and confusions, against torch, loops and worked examples."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vim_train.tasks.classification import classification_counts
from vim_train.tasks.metrics import accuracy
from vim_train.tasks.metrics.imagenet import short_name, words

SEEDS = st.integers(0, 2**31)


def draw(seed: int, images: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(images, classes), scale=3).astype(np.float32)
    return np.round(logits, int(seed % 2)), generator.integers(0, classes, images)  # rounded: ties


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 40), st.integers(1, 12), st.floats(0.3, 4))
def test_scores_are_those_of_training_and_of_torch(seed: int, images: int, classes: int, temperature: float) -> None:
    logits, labels = draw(seed, images, classes)
    if seed % 3 == 0:
        logits[0, 0] = np.nan
    ranks = accuracy.ranks(logits, labels)
    counts = classification_counts(torch.from_numpy(logits), torch.from_numpy(labels))
    assert [accuracy.top(ranks, k, classes).sum() for k in (1, 5)] == counts[1:3].tolist()

    scores = accuracy.softmax_scores(logits, labels, temperature)
    p = (torch.from_numpy(logits).double() / temperature).softmax(1)
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(labels), classes)
    confidence = torch.where(p.isnan().any(1), torch.nan, p.max(1).values)
    np.testing.assert_allclose(scores.confidence, confidence.numpy(), rtol=1e-12)
    np.testing.assert_allclose(scores.nll, -p.gather(1, torch.from_numpy(labels)[:, None])[:, 0].log(), atol=1e-9)
    np.testing.assert_allclose(scores.brier, ((p - one_hot) ** 2).sum(1).numpy(), atol=1e-12)


def test_long_sets_and_unlabelled_images_have_scores() -> None:
    logits, labels = draw(1, 9000, 3)
    labels[5] = -1
    scores = accuracy.softmax_scores(logits, labels)
    alone = accuracy.softmax_scores(logits[8000:8001], labels[8000:8001])
    assert scores.nll[8000] == alone.nll[0]
    assert np.isnan(scores.nll).nonzero()[0].tolist() == [5] == np.isnan(scores.brier).nonzero()[0].tolist()
    assert np.isfinite(scores.confidence).all()
    assert len(accuracy.softmax_scores(logits[:0], labels[:0]).nll) == 0


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(0, 60), st.integers(2, 7))
def test_classes_and_confusions_are_counted(seed: int, images: int, classes: int) -> None:
    logits, labels = draw(seed, images, classes)
    guesses, ranks = accuracy.predicted(logits), accuracy.ranks(logits, labels)
    wrong: dict[tuple[int, int], int] = {}
    for row, label in zip(logits, labels, strict=True):
        best = max(range(classes), key=lambda c, row=row: (row[c], -c))
        if best != label:
            wrong[int(label), best] = wrong.get((int(label), best), 0) + 1
    found = accuracy.confusions(labels, guesses)
    assert {(label, guess): count for label, guess, count in found} == wrong
    assert [count for *_, count in found] == sorted(wrong.values(), reverse=True)

    table = accuracy.per_class(labels, guesses, ranks, classes)
    matrix = accuracy.confusion_matrix(labels, guesses, classes)
    for label in range(classes):
        mine = labels == label
        assert table.images[label] == mine.sum() == matrix[label].sum()
        for share, k in ((table.top1, 1), (table.top5, 5)):
            right = [ranks[i] < min(k, classes) for i in np.flatnonzero(mine)]
            np.testing.assert_equal(share[label], np.mean(right) if right else np.nan)
        most = max((n for (own, _), n in wrong.items() if own == label), default=0)
        assert table.confused[label] == most
        assert wrong.get((label, int(table.confused_with[label])), 0) == most
        assert all(matrix[label, other] == wrong.get((label, other), 0) for other in range(classes) if other != label)


def test_an_image_of_nan_is_confused_with_nothing() -> None:
    logits = np.array([[np.nan, 1], [0, 1]], np.float32)
    guesses = accuracy.predicted(logits)
    assert guesses.tolist() == [-1, 1]
    assert accuracy.confusions(np.array([0, 0]), guesses) == [(0, 1, 1)]
    assert accuracy.confusion_matrix(np.array([0, 0]), guesses, 2).tolist() == [[0, 1], [0, 0]]


def test_a_class_outside_those_judged_is_no_candidate() -> None:
    logits = np.array([[1, 9, 2, 0], [5, 9, 2, 0], [0, 9, 0, 1], [0, 1, 9, 0]], np.float32)
    found, labels, inside = accuracy.restrict(logits, np.array([2, 2, 3, 1]), [0, 2, 3])
    assert logits.argmax(1).tolist() == [1, 1, 1, 2]  # the highest of all is outside in each of the first three
    assert inside.tolist() == [True, True, True, False]
    assert labels.tolist() == [1, 1, 2]
    assert accuracy.ranks(found, labels).tolist() == [0, 1, 0]
    assert accuracy.restrict(logits, np.array([-1, -1, -1, -1]), [0])[2].sum() == 0


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 20), st.integers(2, 9), st.integers(1, 4))
def test_any_right_label_among_the_highest_counts(seed: int, images: int, classes: int, most: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.permuted(np.tile(np.arange(classes, dtype=np.float32), (images, 1)), axis=1)
    right = [generator.choice(classes, min(most, classes), replace=False).tolist() for _ in range(images)]
    ranks = accuracy.ranks_of_any(logits, right)
    for k in (1, 5):
        order = np.argsort(-logits, axis=1)[:, :k]
        expected = [any(label in labels for label in row) for row, labels in zip(order, right, strict=True)]
        assert accuracy.top(ranks, k, classes).tolist() == expected


@pytest.mark.parametrize(
    ("logits", "right", "rank"),
    [
        ([3, 3, 1], [0, 1], 0),  # right ones that tie with one another are right
        ([3, 3, 1], [0, 2], 1),  # a tie with a wrong one is not
        ([3, np.nan, 1], [0], 1),
        ([np.nan, 2, 1], [0, 1], 0),
        ([np.nan, 2, 1], [0], 2),
    ],
)
def test_ties_and_nan_count_against_the_model(logits: list[float], right: list[int], rank: int) -> None:
    assert accuracy.ranks_of_any(np.array([logits], np.float32), [right]).tolist() == [rank]


def test_wnids_are_named_in_words_and_other_classes_are_left() -> None:
    assert [short_name(name) for name in ("n01440764", "n99999999", "cat, tabby")] == [
        "tench",
        "n99999999",
        "cat, tabby",
    ]
    assert words()["n02123045"] == "tabby, tabby cat"
