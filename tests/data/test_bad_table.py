"""Each odd image and each fault of a class tree has its outcome under each policy; none mislabels, none hangs."""

from pathlib import Path

import pytest
from bad_table import ACCEPTED, BAD, POLICIES, SOUND, TREES, picture_outcome, tree_outcome


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", SOUND)
def test_a_picture_is_a_picture_however_it_is_stored(photos: Path, kind: str, policy: str) -> None:
    assert picture_outcome(photos, kind, policy).what == "read"


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("kind", BAD)
def test_a_bad_image_stops_or_is_replaced_by_name(photos: Path, kind: str, policy: str) -> None:
    what, line = picture_outcome(photos, kind, policy)
    assert what == ("replaced" if policy == "train, skip" else "stopped")
    assert "\n" not in line
    path = "/data/val/tool/hammer1.jpg" if policy == "evaluation" else "/data/train/tool/plier1.jpg"
    assert f"{path} (class tool)" in line
    assert line.partition(": ")[2]


@pytest.mark.parametrize("policy", ["train, skip", "evaluation"])
@pytest.mark.parametrize("kind", ["FIFO", "60,000 x 60,000 header", "gone in mid-epoch", "cut at 50 %"])
def test_workers_meet_the_same_end(photos: Path, kind: str, policy: str) -> None:
    assert picture_outcome(photos, kind, policy, workers=1) == picture_outcome(photos, kind, policy)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("fault", TREES)
def test_a_faulty_tree_stops_whatever_the_policy(photos: Path, fault: str, policy: str) -> None:
    what, line = tree_outcome(photos, fault, policy)
    if fault in ACCEPTED:
        assert (what, line) == ("read", "")
        return
    if policy == "evaluation" and what == "read":
        # Only the training images are at fault, and evaluation does not look at those.
        assert fault in ("class folder empty in train",)
        return
    if policy != "evaluation" and what == "read":
        # Nothing but opening the validation images finds these; a run opens both before it trains.
        assert tree_outcome(photos, fault, "evaluation").what == "stopped"
        return
    assert what == "stopped"
    assert "\n" not in line
    assert "/data/" in line
