"""Listings are kept while files are what they were, rebuilt when not, and not believed when damaged."""

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from forms import Pictures, read_pictures, tar_of, write_devkit, write_parquet, write_shards, write_tars

from vim_train.config.errors import UserError
from vim_train.config.schema import DataConfig, DataName
from vim_train.data.decode import BadImage
from vim_train.data.sources import Source, cache, open_source, tar
from vim_train.data.sources.listing import as_names, stems


@pytest.fixture(scope="module")
def pictures(photos: Path) -> Pictures:
    return read_pictures(photos, 32)


@pytest.fixture
def tars(pictures: Pictures, tmp_path: Path) -> Path:
    write_tars(tmp_path / "tars", pictures)
    return tmp_path / "tars"


def opened(root: Path, split: str = "train", **more: object) -> Source:
    data = DataConfig(name=DataName.folder, root=str(root), **more)  # type: ignore[arg-type]
    return open_source(data, split)  # type: ignore[arg-type]


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Archives that were looked through."""
    seen: list[str] = []
    real = tar.scan

    def scan(fd: int, path: str, *args: object, **more: object) -> tar.Members:
        seen.append(path)
        return real(fd, path, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(tar, "scan", scan)
    return seen


def inner(scans: list[str]) -> int:
    return sum("/n" in path for path in scans)


def test_an_index_is_kept_and_gives_the_same_source(tars: Path, scans: list[str]) -> None:
    first = opened(tars)
    assert inner(scans) == 4
    scans.clear()
    second = opened(tars)
    assert inner(scans) == 0
    assert second.fingerprint() == first.fingerprint()
    assert np.array_equal(first.labels, second.labels)
    assert [first.name(i) for i in range(27)] == [second.name(i) for i in range(27)]
    assert [first.read(i) for i in range(27)] == [second.read(i) for i in range(27)]


def test_another_time_of_change_or_size_rebuilds_it(tars: Path, scans: list[str]) -> None:
    opened(tars)
    path = tars / "ILSVRC2012_img_train.tar"
    os.utime(path, ns=(1, 1))
    scans.clear()
    opened(tars)
    assert inner(scans) == 4
    data = DataConfig(name=DataName.folder, root=str(tars))
    scans.clear()
    open_source(data, "train", refresh=True)
    assert inner(scans) == 4


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "vim-train-cache" / "index").iterdir())


@pytest.mark.parametrize("length", [0, 5, 100, 1000, -1, -2])
def test_a_damaged_index_is_built_anew(tars: Path, tmp_path: Path, scans: list[str], length: int) -> None:
    before = opened(tars)
    [file] = kept(tmp_path)
    whole = file.read_bytes()
    if length < 0:  # a flipped bit in the labels would mislabel, and in the classes rename
        at = -200 if length == -1 else whole.index(b"n0") + 4
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    else:
        file.write_bytes(whole[:length])
    scans.clear()
    assert opened(tars).fingerprint() == before.fingerprint()
    assert inner(scans) == 4
    assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_costs_only_time(
    tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VIM_TRAIN_CACHE", str(tmp_path / "file"))
    assert len(opened(tars)) == 27
    assert capsys.readouterr().err.startswith("the index is not kept: ")


def test_the_cache_lies_where_the_user_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VIM_TRAIN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_dir() == tmp_path / "vim-train" / "index"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.cache_dir() == tmp_path / ".cache" / "vim-train" / "index"


@pytest.mark.parametrize("form", ["tars", "parquet"])
def test_sources_of_containers_travel_to_other_processes(form: str, pictures: Pictures, tmp_path: Path) -> None:
    {"tars": write_tars, "parquet": write_parquet}[form](tmp_path / form, pictures)
    source = opened(tmp_path / form)
    copy: Source = pickle.loads(pickle.dumps(source))
    assert [copy.read(i) for i in range(27)] == [source.read(i) for i in range(27)]


def test_an_archive_replaced_under_a_run_is_no_other_image(tars: Path) -> None:
    source = opened(tars)
    path = tars / "ILSVRC2012_img_train.tar"
    shutil.copyfile(path, path.with_name("other"))
    os.replace(path.with_name("other"), path)
    with pytest.raises(
        BadImage, match=r"n02512053_12.JPEG: .*ILSVRC2012_img_train.tar has changed since it was indexed"
    ):
        source.read(0)
    path.unlink()
    anew: Source = pickle.loads(pickle.dumps(source))
    with pytest.raises(BadImage, match=r"ILSVRC2012_img_train.tar is gone since it was indexed"):
        anew.read(0)


def test_an_archive_cut_short_under_a_run_is_a_bad_image(tars: Path) -> None:
    source = opened(tars)
    assert source.read(0)
    os.truncate(tars / "ILSVRC2012_img_train.tar", 2000)
    with pytest.raises(BadImage, match=r"only \d+ of \d+ bytes are there"):
        [source.read(i) for i in range(27)]


def test_the_order_does_not_follow_suffixes() -> None:
    names = [b"a/b.c/x.jpg", b"x", b".hidden", b"d/y.tar.gz", b"z."]
    assert stems(as_names(names)).tolist() == [b"x", b"x", b".hidden", b"y.tar", b"z"]


def test_class_tars_alone_are_a_data_set_without_validation_images(pictures: Pictures, tmp_path: Path) -> None:
    for wnid in {wnid for wnid, *_ in pictures.train}:
        members = [(f"{wnid}/{name}", data) for of, name, data in pictures.train if of == wnid]
        (tmp_path / f"{wnid}.tar").write_bytes(tar_of(members))
    train, val = (opened(tmp_path, split, val_fraction=0.3) for split in ("train", "val"))
    assert train.form == "a tar for each class split by data.val_fraction=0.3"
    assert len(train) + len(val) == 27
    assert train.classes == val.classes == sorted({wnid for wnid, *_ in pictures.train})


def test_numbers_without_names_keep_their_order(pictures: Pictures, tmp_path: Path) -> None:
    members = []
    for i, label in enumerate([3, 10, 2, 3]):
        members += [(f"{i}.jpg", pictures.train[i].data), (f"{i}.cls", str(label).encode())]
    (tmp_path / "set-train-0000.tar").write_bytes(tar_of(members))
    (tmp_path / "set-val-0000.tar").write_bytes(tar_of(members[:2]))
    source = opened(tmp_path, allow_empty_classes=True)
    assert source.classes == ["02", "03", "10"]
    assert source.labels.tolist() == [0, 1, 1, 2]
    val = opened(tmp_path, "val", allow_empty_classes=True)
    assert (val.classes, val.labels.tolist()) == (source.classes, [1])
    for i in range(3):
        members[2 * i + 1] = (f"{i}.cls", str(i).encode())
    (tmp_path / "set-train-0000.tar").write_bytes(tar_of(members[:6]))
    (tmp_path / "set-val-0000.tar").write_bytes(tar_of(members[:4]))
    assert "set-val-0000.tar has not: 2; remove what is no class" in refusal(tmp_path)


def refusal(root: Path, split: str = "train") -> str:
    with pytest.raises(UserError) as caught:
        opened(root, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_shards_are_checked(pictures: Pictures, tmp_path: Path) -> None:
    write_shards(tmp_path, pictures)
    shard = tmp_path / "imagenet1k-train-0001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-15000])
    assert refusal(tmp_path).startswith(f"{shard}: at byte ")
    shard.write_bytes(tar_of([("n02512053_1.jpg", b"x")]))
    assert "imagenet1k-train-0001.tar: n02512053_1.jpg has no label" in refusal(tmp_path)
    shard.write_bytes(tar_of([("n02512053_1.jpg", b"x"), ("n02512053_1.cls", b"3")]))
    assert "images of label 3 are named both" in refusal(tmp_path)
    shard.write_bytes((tmp_path / "imagenet1k-train-0000.tar").read_bytes())
    assert "images are in more than one place of its tar shards: n0" in refusal(tmp_path)
    shard.unlink()
    assert refusal(tmp_path).endswith("1 of its shards is missing: number 1")


@pytest.mark.parametrize("text", [b"-1", b"3.0", b"1e3", b"", b" \n", b"1" * 20])
def test_a_label_that_is_no_number_of_a_class_is_named_at_once(pictures: Pictures, tmp_path: Path, text: bytes) -> None:
    write_shards(tmp_path, pictures)
    shard = tmp_path / "imagenet1k-train-0001.tar"
    shard.write_bytes(tar_of([("a/7.jpg", b"x"), ("a/7.cls", text)]))
    shown = text.decode().strip() or "nothing"
    takes = "takes the number of a class, from 0, or its name"
    assert refusal(tmp_path) == f"{shard}: a/7.cls holds {shown}: {takes}"
    if text == b"-1":
        shard.write_bytes(tar_of([("a/7.jpg", b"x"), ("a/7.json", b'{"label": 3.0}')]))
        assert refusal(tmp_path) == f"{shard}: a/7.json holds 3.0: {takes}"


def test_a_name_among_numbers_is_named(pictures: Pictures, tmp_path: Path) -> None:
    write_shards(tmp_path, pictures)
    shard = tmp_path / "imagenet1k-train-0001.tar"
    members = [("1.jpg", b"x"), ("1.cls", b"0"), ("7.jpg", b"x"), ("7.cls", b"tench\nfish")]
    shard.write_bytes(tar_of(members))
    said = "7.jpg has the label tench fish where others have numbers, as "
    assert refusal(tmp_path).startswith(f"{shard}: {said}")


def test_a_number_among_names_is_named(pictures: Pictures, tmp_path: Path) -> None:
    names = {"1.jpg": b"x", "1.cls": b"tench", "2.jpg": b"x", "2.cls": b"tench", "3.jpg": b"x", "3.cls": b"3"}
    (tmp_path / "s-train-0000.tar").write_bytes(tar_of(list(names.items())))
    said = "3.jpg has the label 3 where others have names, as tench; takes numbers in all shards, or names in all"
    assert refusal(tmp_path) == f"{tmp_path}/s-train-0000.tar: {said}"


def test_validation_shards_of_another_numbering_are_refused(pictures: Pictures, tmp_path: Path) -> None:
    """What numbers mean is taken from the training images, and both must agree where both tell."""
    train = [
        ("a/n02512053_1.jpg", b"x"),
        ("a/n02512053_1.cls", b"0"),
        ("n03743902_1.jpg", b"x"),
        ("n03743902_1.cls", b"1"),
    ]
    (tmp_path / "s-train-0000.tar").write_bytes(tar_of(train))
    val = tmp_path / "s-val-0000.tar"
    val.write_bytes(tar_of([("1.jpg", b"x"), ("1.cls", b"1"), ("2.jpg", b"x"), ("2.cls", b"0")]))
    source = opened(tmp_path, "val")
    assert [(Path(source.name(i)).stem, source.classes[source.labels[i]]) for i in range(2)] == [
        ("2", "n02512053"), ("1", "n03743902")
    ]  # fmt: skip
    val.write_bytes(tar_of([("n02512053_9.jpg", b"x"), ("n02512053_9.cls", b"1")]))
    assert "label 1 is n02512053 here and n03743902 among the training images" in refusal(tmp_path, "val")
    val.write_bytes(tar_of([("1.jpg", b"x"), ("1.cls", b"7")]))
    assert "label 7, which no training image has" in refusal(tmp_path, "val")


def test_parquet_is_checked(pictures: Pictures, tmp_path: Path) -> None:
    write_parquet(tmp_path, pictures)
    file = tmp_path / "data" / "train-00000-of-00002.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    assert refusal(tmp_path).startswith(f"{file}: cannot be read as Parquet: ")
    file.unlink()
    assert refusal(tmp_path).endswith("1 of its shards is missing: number 0")


def test_parquet_without_pyarrow_is_one_line_with_the_cure(pictures: Pictures, tmp_path: Path) -> None:
    write_parquet(tmp_path, pictures)
    code = (
        "import sys; sys.modules['pyarrow'] = None; from vim_train.cli.data import main; "
        f"sys.exit(main(['index', 'data.root={tmp_path}']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.endswith("Parquet needs pyarrow: pip install 'vim-train[parquet]'\n")
    assert done.stderr.count("\n") == 1


def test_nothing_known_is_one_line_with_what_is_there(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip", "notes.txt"):
        (tmp_path / name).write_text("")
    line = refusal(tmp_path)
    assert line.startswith(f"{tmp_path} holds no class folder and no image, but 2 .zip, 1 .txt: takes train/ and val/")
    for form in ("ILSVRC2012_img_train.tar", "Kaggle", "NAME-train-0000.tar", "train-00000-of-00294.parquet"):
        assert form in line


def test_a_pipe_with_the_name_of_a_shard_is_never_opened(pictures: Pictures, tmp_path: Path) -> None:
    write_shards(tmp_path, pictures)
    os.mkfifo(tmp_path / "imagenet1k-train-0003.tar")
    assert len(opened(tmp_path)) == 27
    (tmp_path / "imagenet1k-train-0002.tar").unlink()
    os.mkfifo(tmp_path / "imagenet1k-train-0002.tar")
    assert len(opened(tmp_path)) == 18


def test_an_archive_that_is_still_growing_is_not_kept(
    tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tar.scan

    def scan(fd: int, path: str, *args: object, **more: object) -> tar.Members:
        os.utime(tars / "ILSVRC2012_img_train.tar")
        return real(fd, path, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(tar, "scan", scan)
    assert "ILSVRC2012_img_train.tar has changed while it was looked through" in refusal(tars)
    assert not (tmp_path / "vim-train-cache").exists()


def test_tars_without_labels_are_one_line(pictures: Pictures, tars: Path) -> None:
    (tars / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    for split in ("train", "val"):
        assert "ILSVRC2012_img_val.tar needs the labels of its images beside it: ILSVRC2012_devkit" in refusal(
            tars, split
        )


def test_a_devkit_of_other_images_is_one_line(tars: Path) -> None:
    ids = {"n04593866": 1, "n02512053": 2, "n04451818": 3, "n03743902": 4}
    write_devkit(tars / "ILSVRC2012_devkit_t12.tar.gz", ids, [1, 2, 3, 4, 1, 2, 3])
    assert "has no label for 1 image of" in refusal(tars, "val")
    write_devkit(tars / "ILSVRC2012_devkit_t12.tar.gz", ids, [1, 2, 3, 4, 1, 2, 3, 4, 1])
    assert "lacks 1 image that" in refusal(tars, "val")
    ids["n00000001"] = 5
    write_devkit(tars / "ILSVRC2012_devkit_t12.tar.gz", ids, [1, 2, 3, 4, 1, 2, 3, 5])
    assert "has classes that" in refusal(tars, "train")
