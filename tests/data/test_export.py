"""An exported folder reads back as what it came from."""

import copy
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from vim_train.config.errors import UserError
from vim_train.config.schema import DataConfig, DataName, TrainConfig
from vim_train.data.batch import Batch
from vim_train.data.export import export_folder
from vim_train.data.sources import open_source
from vim_train.data.stream import TrainStream

CPU = torch.device("cpu")
FASHION = DataConfig(name=DataName.fashion)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "fashion"
    calls: list[tuple[int, int]] = []
    assert export_folder(FASHION, out, lambda done, total: calls.append((done, total))) == 7000
    assert calls[-1] == (7000, 7000)
    assert len(calls) == 70
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
    files = sorted(out.glob("*/*/*.png"))
    files[0].unlink()
    kept = files[1].stat().st_mtime_ns
    (files[0].parent / ".00000000.part").write_bytes(b"half")
    assert export_folder(data, out) == 35
    assert files[1].stat().st_mtime_ns == kept
    assert sorted(out.glob("*/*/*.png")) == files
    assert not list(out.glob("*/*/.*"))
    before, after = (open_source(one, "train") for one in (data, DataConfig(name=DataName.folder, root=str(out))))
    for i in range(len(before)):
        assert np.array_equal(np.asarray(before.load(i)), np.asarray(after.load(i)))


def test_an_export_does_not_mix_with_anything_else(photo_root: Path, tmp_path: Path) -> None:
    data = DataConfig(name=DataName.folder, root=str(photo_root))
    with pytest.raises(UserError, match="is not empty; choose a new folder"):
        export_folder(data, photo_root)
    export_folder(data, tmp_path / "out")
    with pytest.raises(UserError, match="holds the export of other data"):
        export_folder(FASHION, tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export_folder(data, tmp_path / "file")


def test_a_bad_image_stops_an_export_by_name(photo_root: Path, tmp_path: Path) -> None:
    (photo_root / "val" / "fish" / "fish1.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"fish1.jpg cannot be decoded: empty file"):
        export_folder(DataConfig(name=DataName.folder, root=str(photo_root)), tmp_path / "out")
