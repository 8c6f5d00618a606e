"""The same images in every form that ImageNet comes in are the same data set: labels, order, pixels, fingerprints."""

import copy
import hashlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from forms import FORMS, WNIDS, read_pictures

from vim_train.config.errors import UserError
from vim_train.config.schema import DataConfig, DataName, TrainConfig
from vim_train.data.batch import Batch
from vim_train.data.fetch import Fetch, Request
from vim_train.data.order import draw_index, epoch_order
from vim_train.data.sources import Source, open_source
from vim_train.data.stream import EvalStream, TrainStream
from vim_train.data.transforms import train_transform

CPU = torch.device("cpu")
Digests = Callable[[Iterable[Batch]], dict[tuple[int, int], str]]
OTHERS = [form for form in FORMS if form != "folders"]


@pytest.fixture(scope="module")
def roots(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each form under a root of its own."""
    pictures = read_pictures(photos, 64)
    found = {form: tmp_path_factory.mktemp("forms") / form for form in FORMS}
    for form, write in FORMS.items():
        write(found[form], pictures)
    return found


def config(cfg: TrainConfig, root: Path, **data: object) -> TrainConfig:
    cfg = copy.deepcopy(cfg)
    cfg.data.root = str(root)
    for name, value in data.items():
        setattr(cfg.data, name, value)
    return cfg


def stream(cfg: TrainConfig, root: Path, **data: object) -> TrainStream:
    cfg = config(cfg, root, **data)
    return TrainStream(open_source(cfg.data, "train"), cfg, 4, CPU)


def opened(root: Path, split: str) -> Source:
    return open_source(DataConfig(name=DataName.folder, root=str(root)), split)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS)
def test_classes_are_the_sorted_wnids_and_every_label_is_right(roots: dict[str, Path], form: str, photos: Path) -> None:
    truth = {hashlib.sha256(data).digest(): wnid for some in read_pictures(photos, 64) for wnid, _, data in some}
    for split, count in (("train", 27), ("val", 8)):
        source = opened(roots[form], split)
        assert source.classes == sorted(WNIDS[name] for name in ("fish", "monument", "tool", "windmill"))
        assert len(source) == count
        for i in range(count):
            data = source.read(i)
            assert data is not None
            assert source.classes[source.labels[i]] == truth[hashlib.sha256(data).digest()]


@pytest.mark.parametrize("form", OTHERS)
def test_images_stand_in_the_same_order_under_the_same_base_names(roots: dict[str, Path], form: str) -> None:
    for split in ("train", "val"):
        here, there = opened(roots["folders"], split), opened(roots[form], split)
        assert np.array_equal(here.labels, there.labels)
        assert [here.read(i) for i in range(len(here))] == [there.read(i) for i in range(len(here))]
        assert [Path(here.name(i)).stem for i in range(len(here))] == [
            Path(there.name(i)).stem for i in range(len(here))
        ]


def test_a_run_can_change_to_another_form_that_tells_sizes(roots: dict[str, Path]) -> None:
    for split in ("train", "val"):
        found = {form: opened(root, split).fingerprint() for form, root in roots.items()}
        assert found.pop("parquet") not in found.values()
        assert len(set(found.values())) == 1


@pytest.fixture
def expected(photo_config: TrainConfig, roots: dict[str, Path], digests: Digests) -> dict[tuple[int, int], str]:
    """Two epochs of the image folders."""
    one = stream(photo_config, roots["folders"])
    return digests(one.batches(0, 2 * one.steps_per_epoch))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.parametrize("form", OTHERS)
def test_two_epochs_are_the_same_and_so_is_the_rest_after_a_resume(
    form: str, photo_config: TrainConfig, roots: dict[str, Path], digests: Digests, expected: dict[tuple[int, int], str]
) -> None:
    steps = 6
    for workers in (0, 1):
        one = stream(photo_config, roots[form], workers=workers)
        assert 2 * one.steps_per_epoch == steps
        assert digests(one.batches(0, steps)) == expected
    tail = digests(stream(photo_config, roots[form], workers=3).batches(2, steps))
    assert list(tail.items()) == list(expected.items())[2 * photo_config.data.batch_size :]
    assert len(set(expected.values())) == len(expected) == 48


@pytest.mark.parametrize("form", FORMS)
def test_evaluation_is_the_same(form: str, photo_config: TrainConfig, roots: dict[str, Path], digests: Digests) -> None:
    found = []
    for root, workers in ((roots["folders"], 0), (roots[form], 1)):
        cfg = config(photo_config, root, workers=workers)
        one = EvalStream(open_source(cfg.data, "val"), cfg, CPU)
        found.append(digests(one))
        one.close()
    assert found[0] == found[1]


@pytest.mark.parametrize("form", FORMS)
def test_ranks_share_the_same_images_out(form: str, photo_config: TrainConfig, roots: dict[str, Path]) -> None:
    """The slices of 1, 2 and 4 ranks, of one step in each of two epochs, hold what one rank of the folders has."""
    data = photo_config.data

    def pixels(root: Path, ranks: int) -> list[str]:
        source = open_source(config(photo_config, root).data, "train")
        fetch = Fetch(
            source, train_transform(data, photo_config.augment), "RGB", data.img_size, photo_config.seed, replacements=0
        )
        found = []
        share = data.batch_size // ranks
        for epoch, first in ((0, 8), (1, 16)):
            order = epoch_order(photo_config.seed, epoch, len(source))
            for rank in range(ranks):
                positions = np.arange(first + rank * share, first + (rank + 1) * share)
                indices = order[draw_index(positions, data.batch_size, data.lane)]
                fetched = fetch[Request(epoch, positions, indices)]
                assert fetched.images is not None
                for image, label in zip(fetched.images, source.labels[indices], strict=True):
                    found.append(f"{label} {hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()}")
        return found

    expected = pixels(roots["folders"], 1)
    for ranks in (1, 2, 4):
        assert pixels(roots[form], ranks) == expected


@pytest.mark.parametrize("form", FORMS)
def test_shuffling_in_blocks_reads_neighbours_together(
    roots: dict[str, Path], form: str, photo_config: TrainConfig, digests: Digests
) -> None:
    streams = [stream(photo_config, roots[form], shuffle_block=2, workers=workers) for workers in (0, 2)]
    seen = [digests(one.batches(1, 5)) for one in streams]
    assert seen[0] == seen[1]
    source = opened(roots[form], "train")
    order = source.storage_order()
    assert sorted(order.tolist()) == list(range(len(source)))
    if form in ("tars", "shards", "parquet"):
        places = [(source._listing.container[i], source._listing.offsets[i]) for i in order]  # type: ignore[attr-defined]
        assert places == sorted(places)
    assert streams[0].fingerprint() != stream(photo_config, roots[form]).fingerprint()


def test_shuffling_in_blocks_knows_where_images_lie(roots: dict[str, Path], photo_config: TrainConfig) -> None:
    """A run may move from form to form, but in blocks only where they are stored in the same order."""
    prints = [{stream(photo_config, roots[form], shuffle_block=n).fingerprint() for form in FORMS} for n in (0, 2)]
    assert len(prints[0]) == 2  # the tables' own
    assert len(prints[1]) > len(prints[0])


def test_forms_are_called_by_name(roots: dict[str, Path]) -> None:
    found = {form: (opened(root, "train").form, opened(root, "val").form) for form, root in roots.items()}
    parquet = "2 Parquet shards (slow at random: vim-data export)"
    assert found == {
        "folders": ("image folders", "image folders"),
        "flat_val": ("image folders", "flat folder, labels of val_labels.txt"),
        "tars": (
            "tar of tars ILSVRC2012_img_train.tar",
            "tar ILSVRC2012_img_val.tar, labels of ILSVRC2012_devkit_t12.tar.gz",
        ),
        "kaggle": ("Kaggle's tree", "Kaggle's tree, labels of LOC_val_solution.csv"),
        "shards": ("3 tar shards", "3 tar shards"),
        "parquet": (parquet, parquet),
    }


@pytest.mark.parametrize("form", FORMS)
def test_validation_images_alone_have_the_same_labels(roots: dict[str, Path], form: str, tmp_path: Path) -> None:
    root = Path(shutil.copytree(roots[form], tmp_path / form))
    for path in [*root.rglob("*train*.tar"), *root.rglob("train*.parquet")]:
        path.unlink()
    for path in list(root.rglob("train")):
        shutil.rmtree(path)
    whole, alone = opened(roots[form], "val"), opened(root, "val")
    if form == "shards":  # only their numbers are left, and the names in .json
        assert alone.fingerprint() == whole.fingerprint()
    assert alone.classes == whole.classes
    assert alone.labels.tolist() == whole.labels.tolist()
    with pytest.raises(UserError, match=r"is for validation, and .* has no training images beside it"):
        opened(root, "train")


@pytest.mark.parametrize("below", ["ILSVRC", "ILSVRC/Data/CLS-LOC"])
def test_kaggles_tree_is_known_from_its_inner_folders_too(roots: dict[str, Path], below: str) -> None:
    for split in ("train", "val"):
        whole, inner = opened(roots["kaggle"], split), opened(roots["kaggle"] / below, split)
        assert (inner.form, inner.fingerprint()) == (whole.form, whole.fingerprint())


def test_splits_may_come_in_different_forms(roots: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "train").symlink_to(roots["folders"] / "train")
    for name in ("ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"):
        (tmp_path / name).symlink_to(roots["tars"] / name)
    for split in ("train", "val"):
        assert opened(tmp_path, split).fingerprint() == opened(roots["folders"], split).fingerprint()


def test_the_whole_of_imagenet_21k_is_a_tar_of_tars(roots: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "fall11_whole.tar").symlink_to(roots["tars"] / "ILSVRC2012_img_train.tar")
    data = DataConfig(name=DataName.folder, root=str(tmp_path), val_fraction=0.3)
    train, val = open_source(data, "train"), open_source(data, "val")
    assert train.form == "tar of tars fall11_whole.tar split by data.val_fraction=0.3"
    assert len(train) + len(val) == 27


def test_shards_may_lie_in_folders_of_the_splits(roots: dict[str, Path], tmp_path: Path) -> None:
    for path in roots["shards"].iterdir():
        split = "train" if "train" in path.name else "val"
        (tmp_path / split).mkdir(exist_ok=True)
        (tmp_path / split / path.name.rpartition("-")[2]).symlink_to(path)
    for split in ("train", "val"):
        assert opened(tmp_path, split).fingerprint() == opened(roots["folders"], split).fingerprint()


def test_classes_half_unpacked_are_refused(roots: dict[str, Path], tmp_path: Path) -> None:
    root = Path(shutil.copytree(roots["folders"], tmp_path / "folders"))
    (root / "train" / "n00000001.tar").write_bytes(b"")
    with pytest.raises(UserError, match=r"train holds class folders and 1 class tar not yet unpacked: n00000001.tar"):
        opened(root, "train")
