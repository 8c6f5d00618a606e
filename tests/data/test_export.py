"""An exported folder reads back as what it came from."""

import copy
import os
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forms import read_pictures, write_tars

from vim_train.config.commands import ExportCommand, ExportFormat
from vim_train.config.errors import UserError
from vim_train.config.schema import BadImages, DataConfig, DataName, TrainConfig
from vim_train.data.batch import Batch
from vim_train.data.export import export
from vim_train.data.sources import open_source
from vim_train.data.stream import TrainStream

CPU = torch.device("cpu")
FASHION = DataConfig(name=DataName.fashion)


def export_folder(data: DataConfig, out: Path, progress: Callable[[int, int], None] | None = None) -> int:
    return export(ExportCommand(out=str(out), data=data), progress).images


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "fashion"
    calls: list[tuple[int, int]] = []
    assert export_folder(FASHION, out, lambda done, total: calls.append((done, total))) == 7000
    assert calls[-1] == (7000, 7000)
    assert len(calls) == 28
    return out


@pytest.mark.parametrize("split", ["train", "val"])
def test_fashion_reads_back_with_the_same_classes_order_and_pixels(exported: Path, split: str) -> None:
    before = open_source(FASHION, split)  # type: ignore[arg-type]
    after = open_source(DataConfig(name=DataName.folder, root=str(exported)), split)  # type: ignore[arg-type]
    assert after.classes == before.classes
    assert np.array_equal(after.labels, before.labels)
    for i in range(0, len(before), 7):
        for mode in ("L", "RGB"):
            assert np.array_equal(np.asarray(after.load(i, mode)), np.asarray(before.load(i, mode)))  # type: ignore[arg-type]


def test_training_on_the_export_sees_the_same_batches(
    exported: Path, fashion_config: TrainConfig, digests: Callable[[Iterable[Batch]], dict[tuple[int, int], str]]
) -> None:
    folder = copy.deepcopy(fashion_config)
    folder.data.name, folder.data.root = DataName.folder, str(exported)
    seen = [
        digests(TrainStream(open_source(cfg.data, "train"), cfg, 10, CPU).batches(0, 2))
        for cfg in (fashion_config, folder)
    ]
    assert seen[0] == seen[1]


def test_an_interrupted_export_goes_on(photo_root: Path, tmp_path: Path) -> None:
    data, out = DataConfig(name=DataName.folder, root=str(photo_root)), tmp_path / "out"

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_folder(data, out, interrupt)
    files = sorted(out.glob("*/*/*.jpg"))
    files[0].unlink()
    kept = files[1].stat().st_mtime_ns
    (files[0].parent / f".{files[0].name}.part").write_bytes(b"half")
    assert export_folder(data, out) == 35
    assert files[1].stat().st_mtime_ns == kept
    assert sorted(path for path in out.glob("*/*/*.jpg")) == sorted(
        out / path.relative_to(photo_root) for path in photo_root.glob("*/*/*.jpg")
    )
    assert not list(out.glob("*/*/.*"))
    before, after = (open_source(one, "train") for one in (data, DataConfig(name=DataName.folder, root=str(out))))
    assert [after.read(i) for i in range(len(after))] == [before.read(i) for i in range(len(before))]
    assert before.fingerprint() == after.fingerprint()


def test_an_export_does_not_mix_with_anything_else(photo_root: Path, tmp_path: Path) -> None:
    data = DataConfig(name=DataName.folder, root=str(photo_root))
    (tmp_path / "taken" / "mine").mkdir(parents=True)
    with pytest.raises(UserError, match="is not empty; choose a new folder"):
        export_folder(data, tmp_path / "taken")
    with pytest.raises(UserError, match=r"lies in data\.root"):
        export_folder(data, photo_root / "out")
    export_folder(data, tmp_path / "out")
    with pytest.raises(UserError, match="holds an export of other data"):
        export_folder(FASHION, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export_folder(data, tmp_path / "file")


@pytest.fixture
def spoilt(photo_root: Path) -> DataConfig:
    """Of 35 images, four are bad, each in its way."""
    html, cut, pipe = (photo_root / "train" / name for name in ("fish/fish4.jpg", "fish/fish28.jpg", "tool/plier1.jpg"))
    html.write_text("<html></html>")
    cut.write_bytes(cut.read_bytes()[:3000])
    pipe.unlink()
    os.mkfifo(pipe)
    (photo_root / "val" / "fish" / "fish1.jpg").write_bytes(b"")
    return DataConfig(name=DataName.folder, root=str(photo_root))


FORMATS = [
    {"format": form, "max_side": side, "shard_images": 10} for form in ExportFormat for side in (None, 40)
]  # fmt: skip


@pytest.mark.parametrize("how", FORMATS, ids=str)
def test_a_bad_image_stops_an_export_or_is_left_out(spoilt: DataConfig, tmp_path: Path, how: dict[str, Any]) -> None:
    command = ExportCommand(out=str(tmp_path / "out"), data=spoilt, **how)
    with pytest.raises(
        UserError, match=r"\.jpg cannot be decoded: [^;]+; data.bad_images=skip leaves such images out$"
    ):
        export(command)
    assert not [path for path in (tmp_path / "out").rglob(".*") if path.name.endswith(".part")]
    spoilt.bad_images = BadImages.skip
    found = export(command)
    assert found.images == 31
    assert {os.path.basename(path): why.partition(": ")[2] for path, why in found.left_out.items()} == {
        "fish4.jpg": "not an image Pillow can identify",
        "fish28.jpg": found.left_out[f"{spoilt.root}/train/fish/fish28.jpg"].partition(": ")[2],
        "plier1.jpg": "not a regular file",
        "fish1.jpg": "empty file",
    }
    out = DataConfig(name=DataName.folder, root=str(tmp_path / "out"))
    for split, count in (("train", 24), ("val", 7)):
        source = open_source(out, split)  # type: ignore[arg-type]
        assert len([source.load(i) for i in range(len(source))]) == count
    again = export(command)
    assert (again.images, again.left_out, again.rewritten) == (31, found.left_out, [])
    spoilt.bad_images_max = 3
    with pytest.raises(UserError, match=r"^more than data.bad_images_max=3 images cannot be decoded; the last: /"):
        export(command)
    assert len(open_source(out, "train")) == 24


@pytest.mark.parametrize("how", FORMATS, ids=str)
def test_an_export_given_again_mends_what_was_changed(photo_root: Path, tmp_path: Path, how: dict[str, Any]) -> None:
    out = tmp_path / "out"
    command = ExportCommand(out=str(out), data=DataConfig(name=DataName.folder, root=str(photo_root)), **how)
    assert export(command).rewritten == []
    files = sorted(path for path in out.rglob("*") if path.suffix in (".jpg", ".tar"))
    whole = {path: path.read_bytes() for path in files}
    emptied, flipped, longer, gone = files[:4]
    emptied.write_bytes(b"")
    flipped.write_bytes(whole[flipped][:1000] + bytes([whole[flipped][1000] ^ 1]) + whole[flipped][1001:])
    longer.write_bytes(whole[longer] + b"more")
    gone.unlink()
    assert sorted(export(command).rewritten) == [emptied, flipped, longer]
    assert {path: path.read_bytes() for path in files} == whole
    assert export(command).rewritten == []


@pytest.mark.parametrize("max_side", [None, 20])
def test_an_archive_that_changes_under_an_export_stops_it(photos: Path, tmp_path: Path, max_side: int | None) -> None:
    write_tars(tmp_path / "tars", read_pictures(photos, 32))
    archive = tmp_path / "tars" / "ILSVRC2012_img_train.tar"

    def overwrite(done: int, total: int) -> None:
        archive.write_bytes(bytes(archive.stat().st_size))

    data = DataConfig(name=DataName.folder, root=str(tmp_path / "tars"))
    with pytest.raises(UserError, match=f"^{archive} has changed since it was indexed; remove {tmp_path}/out and"):
        export(ExportCommand(out=str(tmp_path / "out"), data=data, max_side=max_side), overwrite)
    with pytest.raises(UserError, match="is an export that has not finished"):
        open_source(DataConfig(name=DataName.folder, root=str(tmp_path / "out")), "train")


@pytest.mark.parametrize(("letters", "fits"), [(244, True), (245, False)])
def test_a_name_too_long_for_a_file_is_told_before_anything_is_written(
    photos: Path, tmp_path: Path, letters: int, fits: bool
) -> None:
    """A tar's names may be longer than a file system's, which has 255 bytes for .NAME.part."""
    pictures = read_pictures(photos, 32)
    pictures.train[3] = pictures.train[3]._replace(name="a" * letters + ".JPEG")
    write_tars(tmp_path / "tars", pictures)
    data, out = DataConfig(name=DataName.folder, root=str(tmp_path / "tars")), tmp_path / "new" / "out"
    if fits:
        assert export_folder(data, out) == 35
        return
    with pytest.raises(UserError) as caught:
        export_folder(data, out)
    where = f"{tmp_path}/tars/ILSVRC2012_img_train.tar/{pictures.train[3].wnid}.tar/{pictures.train[3].name}"
    assert str(caught.value) == f"{where}: its name is too long for a file under {out}; format=shards takes it"
    assert not out.parent.exists()
    assert export(shards(data, out)).images == 35


def test_an_export_cut_off_is_no_data_set(photo_root: Path, tmp_path: Path) -> None:
    """Its first class folders or shards would pass for a smaller one."""
    bad = photo_root / "val" / "fish" / "fish1.jpg"
    whole, out = bad.read_bytes(), tmp_path / "out"
    data = DataConfig(name=DataName.folder, root=str(photo_root))
    bad.write_bytes(b"")
    with pytest.raises(UserError, match="cannot be decoded"):
        export_folder(data, out)
    bad.write_bytes(whole)
    for root in (out, out / "train"):
        with pytest.raises(UserError, match=f"{out} is an export that has not finished"):
            open_source(DataConfig(name=DataName.folder, root=str(root)), "train")


def shards(data: DataConfig, out: Path, **more: object) -> ExportCommand:
    return ExportCommand(out=str(out), data=data, format=ExportFormat.shards, shard_images=10, **more)  # type: ignore[arg-type]


def test_shards_read_back_as_what_they_came_from(photo_root: Path, tmp_path: Path) -> None:
    data, out = DataConfig(name=DataName.folder, root=str(photo_root)), tmp_path / "out"
    assert export(shards(data, out)).images == 35
    assert sorted(path.name for path in out.glob("*.tar")) == [
        "images-train-0000.tar", "images-train-0001.tar", "images-train-0002.tar", "images-validation-0000.tar"
    ]  # fmt: skip
    for split in ("train", "val"):
        before, after = (
            open_source(one, split)  # type: ignore[arg-type]
            for one in (data, DataConfig(name=DataName.folder, root=str(out)))
        )
        assert after.classes == before.classes
        assert after.fingerprint() == before.fingerprint()
        assert [after.read(i) for i in range(len(after))] == [before.read(i) for i in range(len(before))]
    with tarfile.open(out / "images-train-0000.tar") as archive:
        assert archive.getnames()[:3] == ["fish/fish18.jpg", "fish/fish18.cls", "fish/fish18.json"]


def test_an_interrupted_export_of_shards_goes_on_after_the_last_whole_one(photo_root: Path, tmp_path: Path) -> None:
    data, out = DataConfig(name=DataName.folder, root=str(photo_root)), tmp_path / "out"

    def interrupt(done: int, total: int) -> None:
        if done > 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(shards(data, out), interrupt)
    first = out / "images-train-0000.tar"
    assert sorted(out.glob("*.tar")) == [first]
    kept = first.stat().st_mtime_ns
    assert export(shards(data, out)).images == 35
    assert first.stat().st_mtime_ns == kept
    assert not list(out.glob(".*.part"))
    (out / "images-train-0001.tar").unlink()
    with pytest.raises(UserError, match="1 of its shards is missing: number 1"):
        open_source(DataConfig(name=DataName.folder, root=str(out)), "train")
    (out / "images-train-0002.tar").unlink()
    with pytest.raises(UserError, match=r"_info.json tells of 27 images of train, the shards hold 10"):
        open_source(DataConfig(name=DataName.folder, root=str(out)), "train")


def test_smaller_images_are_said_to_be_so(photo_root: Path, tmp_path: Path) -> None:
    data, out = DataConfig(name=DataName.folder, root=str(photo_root)), tmp_path / "out"
    export(shards(data, out, max_side=40))
    before, after = (open_source(one, "train") for one in (data, DataConfig(name=DataName.folder, root=str(out))))
    assert after.form == "3 tar shards, shrunk to 40 px by vim-data export"
    for i in range(len(before)):
        width, height = before.load(i).size
        scale = min(40 / max(width, height), 1)
        assert after.load(i).size == (round(width * scale), round(height * scale))
    assert np.array_equal(before.labels, after.labels)
    with pytest.raises(UserError, match="or of another kind"):
        export(shards(data, out, max_side=41))
