"""Images that cannot be decoded: named, or replaced by a rule that keeps the order a function."""

import copy
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from forms import read_pictures, write_parquet, write_tars

from vim_train.config.errors import UserError
from vim_train.config.schema import BadImages, TrainConfig
from vim_train.data.batch import Batch
from vim_train.data.sources import open_source
from vim_train.data.stream import EvalStream, TrainStream

CPU = torch.device("cpu")
Digests = Callable[[Iterable[Batch]], dict[tuple[int, int], str]]


@pytest.fixture
def spoilt(photo_config: TrainConfig, photo_root: Path) -> TrainConfig:
    """Four of 27 training images are bad, each in its way; skipped."""
    train = photo_root / "train"
    cut = train / "fish" / "fish28.jpg"
    cut.write_bytes(cut.read_bytes()[:3000])
    (train / "fish" / "fish4.jpg").write_bytes(b"")
    pipe = train / "tool" / "plier1.jpg"
    pipe.unlink()
    os.mkfifo(pipe)
    (train / "windmill" / "windmill4.jpg").write_text("<html></html>")
    photo_config.data.bad_images = BadImages.skip
    return photo_config


def train(cfg: TrainConfig, **data: object) -> TrainStream:
    cfg = copy.deepcopy(cfg)
    for name, value in data.items():
        setattr(cfg.data, name, value)
    return TrainStream(open_source(cfg.data, "train"), cfg, 4, CPU)


@pytest.mark.parametrize("workers", [0, 1])
def test_stop_names_path_class_and_reason(spoilt: TrainConfig, workers: int) -> None:
    one = train(spoilt, bad_images=BadImages.stop, workers=workers)
    with pytest.raises(UserError) as caught:
        list(one.batches(0, one.steps_per_epoch))
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("training image /")
    assert "cannot be decoded" in line
    assert "data.bad_images=skip" in line
    assert any(f"(class {name})" in line for name in ("fish", "tool", "windmill"))


def test_skip_replaces_by_position_whoever_loads_and_wherever_it_starts(spoilt: TrainConfig, digests: Digests) -> None:
    plain, workers = train(spoilt), train(spoilt, workers=2)
    last = 2 * plain.steps_per_epoch
    seen = digests(plain.batches(0, last))
    assert digests(workers.batches(0, last)) == seen
    tail = digests(train(spoilt, workers=1).batches(4, last))
    assert list(tail.items()) == list(seen.items())[4 * 8 :]
    assert plain.bad_images == workers.bad_images
    assert len(set(seen.values())) == len(seen)


def test_skip_keeps_the_labels_and_lists_each_image_once(spoilt: TrainConfig) -> None:
    spoilt.augment.mixup_alpha = spoilt.augment.cutmix_alpha = 0
    one = train(spoilt)
    batches = list(one.batches(0, 3 * one.steps_per_epoch))
    clean = train(spoilt, bad_images=BadImages.stop)
    labels = [clean._source.labels[request.indices].tolist() for request in clean._requests(0, 3 * one.steps_per_epoch)]
    assert [batch.labels.tolist() for batch in batches] == labels
    records = {os.path.basename(record.path): record for record in one.bad_images}
    assert set(records) == {"fish28.jpg", "fish4.jpg", "plier1.jpg", "windmill4.jpg"}
    assert records["fish4.jpg"].reason == "empty file"
    assert records["plier1.jpg"].reason == "not a regular file"
    assert records["windmill4.jpg"].class_name == "windmill"
    assert all(record.count >= 1 for record in records.values())
    assert sum(record.count for record in records.values()) > 4


def test_more_bad_images_than_allowed_stop(spoilt: TrainConfig) -> None:
    one = train(spoilt, bad_images_max=2)
    with pytest.raises(
        UserError, match=r"more than data.bad_images_max=2 training images cannot be decoded; the last: /"
    ):
        list(one.batches(0, 3 * one.steps_per_epoch))


def test_a_class_with_nothing_left_stops(spoilt: TrainConfig, photo_root: Path) -> None:
    for path in (photo_root / "train" / "tool").iterdir():
        path.unlink()
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"\(class tool\) cannot be decoded: .* none that was tried of its class"):
        list(train(spoilt).batches(0, 3))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_stops_whatever_the_policy(spoilt: TrainConfig, photo_root: Path, workers: int) -> None:
    (photo_root / "val" / "tool" / "hammer1.jpg").write_bytes(b"GIF89a")
    spoilt.data.workers = workers
    one = EvalStream(open_source(spoilt.data, "val"), spoilt, CPU)
    with pytest.raises(UserError, match=r"^evaluation image /.*hammer1.jpg \(class tool\) cannot be decoded: "):
        list(one)
    one.close()


def test_an_image_that_vanishes_is_a_bad_image(photo_config: TrainConfig, photo_root: Path) -> None:
    one = train(photo_config)
    (photo_root / "train" / "fish" / "fish28.jpg").unlink()
    with pytest.raises(UserError, match=r"fish28.jpg \(class fish\) cannot be decoded: No such file or directory"):
        list(one.batches(0, 3 * one.steps_per_epoch))


@pytest.mark.parametrize("policy", BadImages)
@pytest.mark.parametrize(("form", "workers"), [("tars", 0), ("tars", 1), ("parquet", 0)])
def test_an_archive_that_changed_is_no_bad_image(
    photo_config: TrainConfig, photos: Path, tmp_path: Path, form: str, workers: int, policy: BadImages
) -> None:
    root = tmp_path / form
    {"tars": write_tars, "parquet": write_parquet}[form](root, read_pictures(photos, 32))
    photo_config.data.root, photo_config.data.workers = str(root), workers
    photo_config.data.bad_images = policy
    one, evaluation = train(photo_config), EvalStream(open_source(photo_config.data, "val"), photo_config, CPU)
    batches = one.batches(0, 3 * one.steps_per_epoch)
    assert next(batches).labels.shape == (8,)
    for path in [*root.rglob("*.tar"), *root.rglob("*.parquet")]:  # in place: who has it open sees other bytes
        path.write_bytes(bytes(path.stat().st_size))
    changed = r"^/\S+(tar|parquet) has changed since it was indexed; start again: its index is made anew$"
    with pytest.raises(UserError, match=changed):
        list(batches)
    with pytest.raises(UserError, match=changed):
        list(evaluation)
    evaluation.close()
    assert one.bad_images == []
