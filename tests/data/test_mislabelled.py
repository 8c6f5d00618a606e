"""What would train on wrong labels, or on another split than was meant, is refused in one line that names it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from forms import Pictures, read_pictures, tar_of, write_flat_val, write_folders, write_kaggle, write_shards, write_tars

from vim_train.config.errors import UserError
from vim_train.config.schema import DataConfig, DataName
from vim_train.data.sources import Source, open_source

Write = Callable[[Path, Pictures], None]


@pytest.fixture(scope="module")
def pictures(photos: Path) -> Pictures:
    return read_pictures(photos, 16)


def opened(root: Path, split: str = "train", **more: object) -> Source:
    data = DataConfig(name=DataName.folder, root=str(root), **more)  # type: ignore[arg-type]
    return open_source(data, split)  # type: ignore[arg-type]


def refusal(root: Path, split: str = "train", **more: object) -> str:
    with pytest.raises(UserError) as caught:
        opened(root, split, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def shard(path: Path, *samples: tuple[bytes, dict[str, object]]) -> Path:
    members = []
    for i, (label, said) in enumerate(samples):
        members += [(f"{i}.jpg", b"x"), (f"{i}.cls", label), (f"{i}.json", json.dumps(said).encode())]
    path.write_bytes(tar_of(members))
    return path


def test_two_labels_of_a_sample_must_agree(tmp_path: Path) -> None:
    path = shard(tmp_path / "s-train-0000.tar", (b"0", {"label": 0}), (b"1", {"label": "01"}), (b"2", {"label": 1}))
    said = f"{path}: 2.jpg has two labels: its .cls says 2, its .json label=1; mend the wrong one"
    assert refusal(tmp_path) == said
    shard(path, (b"cat", {"label": 0}), (b"dog", {"label": 1, "class_name": "cat"}))
    assert "1.jpg has two labels: its .cls says dog, its .json class_name=cat" in refusal(tmp_path)


def test_another_word_for_a_class_is_no_other_label(tmp_path: Path) -> None:
    said = [(b"n01440764", {"label": "tench"}), (b"n01443537", {"label": 7, "class_name": "goldfish"})]
    shard(tmp_path / "s-train-0000.tar", *said)
    shard(tmp_path / "s-val-0000.tar", *said)
    assert opened(tmp_path).classes == ["n01440764", "n01443537"]
    digits = [(b"0", {"label": 0, "class_name": "7"}), (b"1", {"class_name": "8"})]  # class folders 7/ and 8/, exported
    for split in ("train", "val"):
        shard(tmp_path / f"s-{split}-0000.tar", *digits)
    assert opened(tmp_path).classes == ["7", "8"]


def test_numbers_of_classes_begin_at_0_unless_they_have_names(tmp_path: Path, pictures: Pictures) -> None:
    for split in ("train", "val"):
        shard(tmp_path / f"s-{split}-0000.tar", (b"1", {}), (b"2", {}))
    for split in ("train", "val"):
        line = refusal(tmp_path, split)
        assert line.startswith(f"{tmp_path}/s-train-0000.tar: labels from 1 to 2, and class ids start at 0: write them")
    assert opened(tmp_path, allow_empty_classes=True).classes == ["1", "2"]
    for split in ("train", "val"):
        shard(tmp_path / f"s-{split}-0000.tar", (b"1", {"class_name": "cat"}), (b"2", {"class_name": "dog"}))
    assert opened(tmp_path).classes == ["cat", "dog"]


def test_class_folders_and_labels_beside_them_must_agree(tmp_path: Path, pictures: Pictures) -> None:
    write_flat_val(tmp_path, pictures)
    shutil.rmtree(tmp_path / "val")
    write_folders(tmp_path, pictures)
    whole = opened(tmp_path, "val").fingerprint()
    labels = tmp_path / "val_labels.txt"
    first, *rest = labels.read_text().splitlines()
    name, here = first.split()
    there = next(line.split()[1] for line in rest if line.split()[1] != here)
    labels.write_text("\n".join([f"{name} {there}", *rest]))
    assert refusal(tmp_path, "val") == (
        f"{tmp_path}/val and {labels} differ in 1 image: {name.removesuffix('.JPEG')} is {here} in the one and {there} "
        "in the other; remove the wrong one"
    )
    labels.write_text("\n".join(f"{line.split()[0]} 7" for line in [first, *rest]))  # Caffe's numbers say nothing
    assert opened(tmp_path, "val").fingerprint() == whole


def test_labels_without_their_images_do_not_become_a_split(tmp_path: Path, pictures: Pictures) -> None:
    write_tars(tmp_path, pictures)
    devkit = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    (tmp_path / "ILSVRC2012_img_val.tar").unlink()
    for split in ("train", "val"):
        line = refusal(tmp_path, split)
        assert line.startswith(f"{tmp_path} holds {devkit.name}, but no ILSVRC2012_img_val.tar or val/; put that there")
        assert "to hold out data.val_fraction of the training images instead, move it away" in line
    devkit.unlink()
    assert opened(tmp_path, val_fraction=0.4).form.endswith("split by data.val_fraction=0.4")


def test_a_share_without_an_image_of_a_class_is_refused(photos: Path) -> None:
    for split in ("train", "val"):
        line = f"{photos}: data.val_fraction=0.1 holds out no image of monument, tool; take data.val_fraction=0.16 or"
        assert refusal(photos, split).startswith(line)
    assert set(opened(photos, "val", val_fraction=0.16).labels.tolist()) == {0, 1, 2, 3}
    assert set(opened(photos, "val", allow_empty_classes=True).labels.tolist()) == {0, 3}


def test_one_split_in_two_forms_is_refused(tmp_path: Path, pictures: Pictures) -> None:
    write_tars(tmp_path, pictures)
    write_folders(tmp_path, pictures._replace(val=[]))
    said = f"{tmp_path} holds training images in two forms, {tmp_path}/train and {tmp_path}/ILSVRC2012_img_train.tar: "
    for split in ("train", "val"):
        assert refusal(tmp_path, split).startswith(said)
    (tmp_path / "ILSVRC2012_img_train.tar").unlink()
    assert len(opened(tmp_path)) == 27
    write_shards(tmp_path, pictures, shards=1)
    (tmp_path / "imagenet1k-train-0000.tar").unlink()
    assert f"validation images in two forms, {tmp_path}/ILSVRC2012_img_val.tar and " in refusal(tmp_path)


@pytest.mark.parametrize("where", ["train", "val", "."])
def test_a_class_that_is_folder_and_tar_may_be_half_unpacked(tmp_path: Path, pictures: Pictures, where: str) -> None:
    write_folders(tmp_path, pictures)
    root, folder = (tmp_path / "train",) * 2 if where == "." else (tmp_path, tmp_path / where)
    (folder / "n02512053.tar").write_bytes(tar_of([("a.JPEG", b"x")]))
    assert refusal(root) == (
        f"{folder} holds 1 tar with a folder of the same name: n02512053.tar; which has all the images cannot be told: "
        "unpack again what may be half unpacked, then move the tars away"
    )
    (folder / "n02512053.tar").rename(folder / "n02512054.tar")
    assert refusal(root) == f"{folder} holds class folders and 1 class tar not yet unpacked: n02512054.tar"
    (folder / "n02512054.tar").rename(folder / "notes.tar")
    assert len(opened(root, val_fraction=0.4)) > 0


@pytest.mark.parametrize("suffix", ["part", "partial", "crdownload", "download", "filepart", "tmp", "aria2"])
@pytest.mark.parametrize(
    "name",
    [
        "imagenet1k-train-0000.tar",
        "imagenet1k-train-0001.tar",
        "imagenet1k-validation-00.tar",
        "ILSVRC2012_img_train.tar",
        "ILSVRC2012_img_val.tar",
        "ILSVRC2012_devkit_t12.tar.gz",
        "LOC_val_solution.csv",
        "n02512053.tar",
        "data/train-00001-of-00002.parquet",
    ],
)
def test_an_unfinished_download_is_named(tmp_path: Path, name: str, suffix: str) -> None:
    for split in ("train", "validation"):
        shard(tmp_path / f"imagenet1k-{split}-00.tar", (b"0", {}), (b"1", {}))
    part = tmp_path / f"{name}.{suffix}"
    part.parent.mkdir(exist_ok=True)
    part.write_bytes(b"")
    said = f"{part.parent} holds an unfinished download: {part.name}; finish it, or move it away"
    assert refusal(tmp_path) == refusal(tmp_path, "val") == said


def test_downloads_of_other_things_do_not_matter(tmp_path: Path, pictures: Pictures) -> None:
    write_folders(tmp_path, pictures)
    for name in ("ILSVRC2012_img_test_v10102019.tar.part", "weights.pth.tmp", "notes.download", "imagenet.tar.partly"):
        (tmp_path / name).write_bytes(b"")
    assert (len(opened(tmp_path)), len(opened(tmp_path, "val"))) == (27, 8)


def write_kaggle_beside(root: Path, pictures: Pictures) -> None:
    write_kaggle(root, pictures)
    (root / "train" / "run").mkdir(parents=True)
    (root / "train" / "run" / "log.txt").write_text("no image")
    assert (len(opened(root)), len(opened(root, "val"))) == (27, 8)


def test_kaggles_labels_may_lie_in_ilsvrc(tmp_path: Path, pictures: Pictures) -> None:
    write_kaggle(tmp_path, pictures)
    want = opened(tmp_path, "val").fingerprint()
    (tmp_path / "LOC_val_solution.csv").rename(tmp_path / "ILSVRC" / "LOC_val_solution.csv")
    for root in (tmp_path, tmp_path / "ILSVRC", tmp_path / "ILSVRC" / "Data" / "CLS-LOC"):
        assert opened(root, "val").fingerprint() == want


@pytest.mark.parametrize("write", [write_folders, write_tars, write_shards])
def test_kaggles_tree_beside_another_form_is_refused(tmp_path: Path, pictures: Pictures, write: Write) -> None:
    write_kaggle_beside(tmp_path, pictures)
    write(tmp_path, pictures)
    said = f"{tmp_path} holds training images in two forms, {tmp_path}/ILSVRC/Data/CLS-LOC and {tmp_path}/"
    assert refusal(tmp_path).startswith(said)
    assert refusal(tmp_path, "val").startswith(said)


@pytest.mark.parametrize("write", [write_kaggle_beside, write_folders, write_tars, write_shards])
def test_class_folders_in_the_root_beside_another_form_are_refused(
    tmp_path: Path, pictures: Pictures, write: Write
) -> None:
    write(tmp_path, pictures)
    write_folders(tmp_path / "away", pictures)
    (tmp_path / "away" / "train" / "n02512053").rename(tmp_path / "n02512053")
    for split in ("train", "val"):
        line = refusal(tmp_path, split)
        assert line.startswith(f"{tmp_path} holds training images in two forms, {tmp_path}/")
        assert " and its class folders n02512053: move one of them away" in line


def test_other_folders_beside_the_images_do_not_matter(tmp_path: Path, pictures: Pictures) -> None:
    """Kaggle's and ImageNet's test sets, figures, annotations by class, and a class with the name of a split."""
    write_folders(tmp_path, pictures)
    for split in ("train", "val"):
        shutil.copytree(tmp_path / split / "n02512053", tmp_path / split / "test")
        for image in (tmp_path / split / "test").iterdir():
            image.rename(image.with_stem(f"again_{image.stem}"))
    image = pictures.train[0].data
    for name in ("test/a.JPEG", "figures/a.jpg", "README.md", ".git/a.jpg", "extra/n02512053/a.JPEG"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(image)
    (tmp_path / "n02512053").mkdir()
    (tmp_path / "n02512053" / "a.xml").write_text("")
    assert opened(tmp_path).classes == opened(tmp_path, "val").classes
    assert len(opened(tmp_path).classes) == 5


def test_class_folders_beside_val_are_said_to_belong_into_train(tmp_path: Path, pictures: Pictures) -> None:
    write_folders(tmp_path, pictures)
    for folder in (tmp_path / "train").iterdir():
        folder.rename(tmp_path / folder.name)
    (tmp_path / "train").rmdir()
    assert refusal(tmp_path).endswith(
        f"; move its class folders (n02512053, n03743902, n04451818, n04593866) into {tmp_path}/train"
    )
    assert len(opened(tmp_path, "val")) == 8
