"""Accuracy by exact counts."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vim_train.tasks.classification import classification_counts


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 12), st.integers(0, 2**31))
def test_counts_agree_with_sorting(images: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, generator=generator)
    labels = torch.randint(0, classes, (images,), generator=generator)
    n, top1, top5, loss = classification_counts(logits, labels).tolist()
    order = logits.argsort(1, descending=True)
    assert n == images
    assert top1 == (order[:, 0] == labels).sum()
    assert top5 == (order[:, :5] == labels[:, None]).any(1).sum()
    expected = torch.nn.functional.cross_entropy(logits.double(), labels, reduction="sum").item()
    assert abs(loss - expected) < 1e-4 * images


def test_ties_and_nan_count_as_wrong() -> None:
    labels = torch.tensor([0, 3])
    assert classification_counts(torch.zeros(2, 10), labels)[1:3].tolist() == [0, 0]
    assert classification_counts(torch.full((2, 10), torch.nan), labels)[1:3].tolist() == [0, 0]


def test_sums_over_any_split_are_the_whole() -> None:
    logits, labels = torch.randn(10, 7), torch.arange(10) % 7
    parts = sum(classification_counts(logits[i : i + 3], labels[i : i + 3]) for i in range(0, 10, 3))
    torch.testing.assert_close(parts, classification_counts(logits, labels))
