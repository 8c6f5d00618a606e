"""Predictions on disk: what comes back is what went in, or one line that says why not."""

import os
import random
from pathlib import Path

import numpy as np
import pytest

from vim_train.tasks.predictions import Predictions, made_of


def predictions(images: int = 5, classes: int = 3) -> Predictions:
    drawn = np.random.default_rng(0)
    return Predictions(
        "c/fog/3",
        [f"ü/{os.fsdecode(b'n-' + bytes([200 + i]))}.JPEG" for i in range(images)],
        drawn.integers(-1, classes, images),
        drawn.standard_normal((images, classes), dtype=np.float32),
        [f"n0000000{i}" for i in range(classes)],
    )


@pytest.mark.parametrize("images", [0, 1, 5])
def test_predictions_survive_the_disk(images: int, tmp_path: Path) -> None:
    file, was = tmp_path / "deep" / "c" / "fog.npz", predictions(images)
    was.save(file, "these weights")
    again = Predictions.load(file)
    assert (again.suite, again.names, again.classes) == (was.suite, was.names, was.classes)
    assert again.labels.dtype == np.int64
    assert again.logits.dtype == np.float32
    assert (again.labels == was.labels).all()
    assert again.logits.tobytes() == was.logits.tobytes()
    assert made_of(file) == "these weights"
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_equal_predictions_are_equal_files(tmp_path: Path) -> None:
    for name in "ab":
        predictions().save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "val.npz"
    predictions().save(file)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OSError, match="No space left"):
        predictions(2).save(file)
    assert len(Predictions.load(file).names) == 5
    assert [entry.name for entry in tmp_path.iterdir()] == ["val.npz"]


def test_whatever_is_damaged_is_one_line(tmp_path: Path) -> None:
    file, bad = tmp_path / "val.npz", tmp_path / "bad.npz"
    predictions(20).save(file)
    whole, random_ = file.read_bytes(), random.Random(0)
    first = whole.index(b"NUMPY")
    tried = [whole[: len(whole) * i // 20] for i in range(20)] + [b"text", whole[1:]]
    for _ in range(40):
        spoilt = bytearray(whole)
        spoilt[random_.randrange(first, whole.rindex(b"PK\x01\x02") - 300)] ^= 1 << random_.randrange(8)
        tried.append(bytes(spoilt))
    for data in tried:
        bad.write_bytes(data)
        try:
            found = Predictions.load(bad)
        except ValueError as error:
            assert str(bad) in str(error)  # noqa: PT017
        else:  # a bit that means nothing, such as a time in a header of the archive
            assert found.logits.tobytes() == Predictions.load(file).logits.tobytes()
            assert made_of(bad) == ""
    bad.write_bytes(whole[1:])
    with pytest.raises(ValueError, match=r"bad\.npz: damaged, or no file of predictions"):
        made_of(bad)
    assert made_of(tmp_path / "none.npz") is None


def test_arrays_that_do_not_fit_one_another_are_refused(tmp_path: Path) -> None:
    was = predictions()
    cases = [
        (was.names[1:], was.labels, was.logits, "for 4 names and 3 classes"),
        (was.names, was.labels[:, None], was.logits, r"labels of shape \(5, 1\)"),
        (was.names, was.labels + 3, was.logits, "labels from 3 to 5 for 3 classes"),
    ]
    for names, labels, logits, why in cases:
        Predictions("val", names, labels, logits, was.classes).save(tmp_path / "x.npz")
        with pytest.raises(ValueError, match=why):
            Predictions.load(tmp_path / "x.npz")
