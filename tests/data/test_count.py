"""Counts beside ImageNet's own."""

from vim_train.data.sources.classes import difference, is_imagenet_1k, unusual_count

WNIDS = [f"n{i:08d}" for i in range(1000)]


def test_only_a_thousand_wnids_are_imagenet_1k() -> None:
    assert is_imagenet_1k(WNIDS)
    assert not is_imagenet_1k(WNIDS[:999])
    assert not is_imagenet_1k([*WNIDS[:999], "tench"])


def test_a_count_unlike_imagenets_is_said() -> None:
    assert unusual_count(WNIDS, "train", 1_281_167) == unusual_count(WNIDS, "val", 50_000) == ""
    assert unusual_count(WNIDS, "train", 1_281_166) == "1,281,166 train images where ImageNet-1k has 1,281,167"
    assert unusual_count(WNIDS[:10], "val", 3) == ""


def test_differences_are_named_a_few_at_a_time() -> None:
    assert difference(WNIDS, WNIDS) == ""
    assert difference(WNIDS, WNIDS[7:]) == "lacks n00000000, n00000001, n00000002, n00000003, n00000004 and 2 more"
