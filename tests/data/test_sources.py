"""Sources know classes, labels and files, and say in one line what is wrong with a folder."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vim_train.config.errors import UserError
from vim_train.config.schema import DataConfig, DataName
from vim_train.data.sources import Source, open_source

CLASSES = ["fish", "monument", "tool", "windmill"]


def folder(root: Path, **more: object) -> DataConfig:
    return DataConfig(name=DataName.folder, root=str(root), **more)  # type: ignore[arg-type]


def names(source: Source, root: Path) -> list[str]:
    return [os.path.relpath(source.name(i), root) for i in range(len(source))]


def test_fashion_is_balanced_sorted_and_stable() -> None:
    train, val = (open_source(DataConfig(name=DataName.fashion), split) for split in ("train", "val"))
    assert (len(train), len(val)) == (6000, 1000)
    assert train.classes == val.classes == sorted(train.classes)
    assert np.bincount(train.labels).tolist() == [600] * 10
    assert np.bincount(val.labels).tolist() == [100] * 10
    assert np.array_equal(train.labels, np.sort(train.labels))
    assert train.fingerprint() == "b4b37c885b4f7e06747c3df20b410f7f"
    assert train.load(0).mode == "RGB"
    assert train.load(0, "L").size == (28, 28)


def test_train_and_val_folders(photo_root: Path) -> None:
    train, val = (open_source(folder(photo_root), split) for split in ("train", "val"))
    assert train.classes == val.classes == CLASSES
    assert (len(train), len(val)) == (27, 8)
    assert train.labels.dtype == np.int64
    assert names(train, photo_root) == sorted(names(train, photo_root))
    for i in range(len(train)):
        assert Path(train.name(i)).parent.name == train.classes[train.labels[i]]
    assert train.load(0).mode == "RGB"


def test_an_unsplit_folder_is_divided_without_loss(photos: Path) -> None:
    train, val = (open_source(folder(photos, val_fraction=0.3), split) for split in ("train", "val"))
    every = sorted(str(path.relative_to(photos)) for path in photos.glob("*/*.jpg"))
    assert sorted(names(train, photos) + names(val, photos)) == every
    assert 0 < len(val) < len(train)
    assert train.classes == val.classes == CLASSES


def test_adding_files_moves_no_other_between_the_splits(photo_root: Path, tmp_path: Path) -> None:
    root = photo_root / "train"
    before = {split: names(open_source(folder(root, val_fraction=0.4), split), root) for split in ("train", "val")}
    for i in range(20):
        shutil.copyfile(root / "fish" / "fish28.jpg", root / "fish" / f"new{i}.jpg")
    for split, had in before.items():
        now = names(open_source(folder(root, val_fraction=0.4), split), root)
        assert [name for name in now if "new" not in name] == had


def test_train_without_val_is_split_the_same_as_the_folder_itself(photo_root: Path) -> None:
    shutil.rmtree(photo_root / "val")
    for split in ("train", "val"):
        outer, inner = (
            open_source(folder(root, val_fraction=0.4), split) for root in (photo_root, photo_root / "train")
        )
        assert names(outer, photo_root) == names(inner, photo_root)


def test_dot_names_and_strays_are_passed_over_links_and_depth_are_not(photo_root: Path) -> None:
    before = names(open_source(folder(photo_root), "train"), photo_root)
    fish = photo_root / "train" / "fish"
    (photo_root / "train" / ".cache").mkdir()
    (photo_root / "train" / "README.txt").write_text("about")
    (fish / "._fish1.jpg").write_bytes(b"resource fork")
    (fish / "notes.txt").write_text("about")
    assert names(open_source(folder(photo_root), "train"), photo_root) == before
    (fish / "deep").mkdir()
    shutil.copyfile(fish / "fish28.jpg", fish / "deep" / "a.PNG")
    (fish / "deep" / "loop").symlink_to("..")
    (fish / "zz.jpg").symlink_to("fish28.jpg")
    added = set(names(open_source(folder(photo_root), "train"), photo_root)) - set(before)
    assert added == {"train/fish/deep/a.PNG", "train/fish/zz.jpg"}


def test_evaluation_needs_no_train(photo_root: Path) -> None:
    shutil.rmtree(photo_root / "train")
    assert open_source(folder(photo_root), "val").classes == CLASSES
    with pytest.raises(UserError, match=r"is for validation, and .* has no training images beside it"):
        open_source(folder(photo_root), "train")


def test_a_fingerprint_follows_names_and_sizes_only(photo_root: Path, tmp_path: Path) -> None:
    first = open_source(folder(photo_root), "train").fingerprint()
    moved = tmp_path / "elsewhere"
    shutil.move(photo_root, moved)
    assert open_source(folder(moved), "train").fingerprint() == first
    file = moved / "train" / "fish" / "fish28.jpg"
    file.write_bytes(file.read_bytes() + b"!")
    second = open_source(folder(moved), "train").fingerprint()
    file.rename(file.with_name("fish29.jpg"))
    third = open_source(folder(moved), "train").fingerprint()
    assert len({first, second, third}) == 3


def test_sources_travel_to_other_processes(photo_root: Path) -> None:
    source = open_source(folder(photo_root), "train")
    copy: Source = pickle.loads(pickle.dumps(source))
    assert copy.name(5) == source.name(5)


def remove(path: Path) -> None:
    shutil.rmtree(path)


def clear(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def flatten(path: Path) -> None:
    for file in sorted(path.glob("*/*.jpg")):
        file.rename(path / file.name)
    for child in path.iterdir():
        if child.is_dir():
            child.rmdir()


def add_class(path: Path) -> None:
    shutil.copytree(path / "fish", path / "whale")


def rename_class(path: Path) -> None:
    (path / "fish").rename(path / "fishes")


@pytest.mark.parametrize(
    ("spoil", "where", "split", "line"),
    [
        (remove, "", "train", "does not exist"),
        (clear, "", "train", "no class folder and no image"),
        (clear, "train", "train", "no class folder and no image"),
        (clear, "val/fish", "val", "val: no image in class folder fish"),
        (clear, "train/fish", "train", "no image in class folder fish (data.allow_empty_classes=true accepts that)"),
        (flatten, "val", "val", "val holds 8 images but no class folder"),
        (flatten, "val", "train", "val holds 8 images but no class folder"),
        (flatten, "train", "train", "train holds 27 images but no class folder"),
        (remove, "val/fish", "train", "photos/val has not: fish; remove what is no class from the one, or add images"),
        (add_class, "train", "train", "photos/train has class folders that "),
        (add_class, "val", "train", "has class folders that"),
        (rename_class, "val", "val", "fishes, and lacks fish"),
    ],
)
def test_a_wrong_layout_is_one_line(photo_root: Path, spoil: object, where: str, split: str, line: str) -> None:
    spoil(photo_root / where)  # type: ignore[operator]
    with pytest.raises(UserError) as caught:
        open_source(folder(photo_root), split)  # type: ignore[arg-type]
    assert line in str(caught.value)
    assert str(photo_root) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_flat_folder_without_val_is_one_line(photo_root: Path) -> None:
    remove(photo_root / "val")
    flatten(photo_root / "train")
    for root in (photo_root, photo_root / "train"):
        with pytest.raises(UserError, match="train holds 27 images but no class folder"):
            open_source(folder(root), "train")


def test_a_root_must_be_named_and_a_folder(photo_root: Path) -> None:
    with pytest.raises(UserError, match=r"data\.root is not set"):
        open_source(DataConfig(name=DataName.folder), "train")
    with pytest.raises(UserError, match="is not a folder"):
        open_source(folder(photo_root / "train" / "fish" / "fish28.jpg"), "train")


def test_empty_classes_are_accepted_when_allowed(photo_root: Path) -> None:
    clear(photo_root / "train" / "fish")
    remove(photo_root / "val" / "tool")
    for split in ("train", "val"):
        source = open_source(folder(photo_root, allow_empty_classes=True), split)
        assert source.classes == CLASSES
        assert 2 not in source.labels or split == "train"


def test_a_split_that_starves_either_side_is_one_line(photos: Path) -> None:
    with pytest.raises(UserError, match="leaves none of its 10 images to train on"):
        open_source(folder(photos, val_fraction=0.999999), "train")
    with pytest.raises(UserError, match="holds out none of 35 images"):
        open_source(folder(photos, val_fraction=0.000001), "val")


def test_opening_a_source_does_not_import_torch(photo_root: Path) -> None:
    code = (
        "import sys; from vim_train.config.schema import *; from vim_train.data.sources import open_source; "
        f"open_source(DataConfig(name=DataName.folder, root={str(photo_root)!r}), 'train').load(0); "
        "open_source(DataConfig(name=DataName.fashion), 'val'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_root_one_level_too_high_is_said_to_be(photo_root: Path) -> None:
    root = photo_root.parent / "above"
    root.mkdir()
    photo_root.rename(root / "photos")
    with pytest.raises(UserError, match=f"{root / 'photos'} has train, val: is data.root={root / 'photos'} meant"):
        open_source(folder(root), "train")


def test_packed_training_images_beside_validation_are_named(photo_root: Path) -> None:
    (photo_root / "train").rename(photo_root.parent / "away")
    (photo_root / "ILSVRC2012_img_train.tar.gz").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"; ILSVRC2012_img_train\.tar\.gz is not read: takes ILSVRC2012_img_train\.tar,"
    ):
        open_source(folder(photo_root), "train")


def test_splits_with_other_names_are_no_classes(photo_root: Path) -> None:
    (photo_root / "train").rename(photo_root / "Train")
    (photo_root / "val").rename(photo_root / "Val")
    with pytest.raises(UserError, match="has Train, Val among its classes; call the splits train and val"):
        open_source(folder(photo_root), "train")


@pytest.mark.parametrize("name", ["validation", "valid"])
def test_other_names_of_val_are_known(photo_root: Path, name: str) -> None:
    want = open_source(folder(photo_root), "val").fingerprint()
    (photo_root / "val").rename(photo_root / name)
    assert open_source(folder(photo_root), "val").fingerprint() == want


def test_a_link_up_brings_no_images_of_other_classes(photo_root: Path) -> None:
    want = open_source(folder(photo_root), "train").labels.tolist()
    (photo_root / "train" / "fish" / "up").symlink_to("..")
    assert open_source(folder(photo_root), "train").labels.tolist() == want


@pytest.mark.parametrize("name", ["train", "val", "validation", "valid"])
def test_a_split_that_is_no_folder_is_not_taken_as_none(photo_root: Path, name: str) -> None:
    old = photo_root / ("train" if name == "train" else "val")
    shutil.rmtree(old)
    split = photo_root / name
    for spoil, what in (
        (lambda: split.write_bytes(b""), "is a file, not a folder of images"),
        (lambda: split.symlink_to("/nowhere/val"), "is a link to /nowhere/val, which leads nowhere"),
        (lambda: split.symlink_to(name), f"is a link to {name}, which leads nowhere"),
    ):
        spoil()
        with pytest.raises(UserError) as caught:
            open_source(folder(photo_root, val_fraction=0.4), "train")
        assert str(caught.value) == f"{split} {what}; mend or remove it"
        split.unlink()


@pytest.mark.parametrize("direct", [False, True])
def test_a_class_whose_link_is_broken_is_named(photo_root: Path, direct: bool) -> None:
    root = photo_root / "train" if direct else photo_root
    (photo_root / "train" / "about.txt").symlink_to("nowhere.txt")
    want = open_source(folder(root, val_fraction=0.4), "train").fingerprint()
    (photo_root / "train" / "whale").symlink_to("/nowhere/whale")
    with pytest.raises(UserError) as caught:
        open_source(folder(root, val_fraction=0.4), "train")
    said = f"{photo_root}/train/whale is a link to /nowhere/whale, which leads nowhere; mend or remove it"
    assert str(caught.value) == said
    (photo_root / "train" / "whale").unlink()
    assert open_source(folder(root, val_fraction=0.4), "train").fingerprint() == want
