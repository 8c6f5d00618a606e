"""vim-eval's sets on a tree of twenty classes: each image once, with its label and the logits of a pass by hand."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from imagenet_tree import IN_A, IN_O, IN_R, SIDE, WNIDS, write_run, write_tree
from PIL import Image
from processes import finish, start
from torchvision.transforms import CenterCrop, FiveCrop, InterpolationMode, Resize
from torchvision.transforms.functional import normalize, pil_to_tensor

from vim_train.config.command_checks import check_eval
from vim_train.config.commands import SUITES, EvalCommand, EvalDataConfig, RootsConfig, TtaConfig, Weights
from vim_train.config.errors import UserError
from vim_train.config.schema import DataConfig, Device
from vim_train.data.sets import find_sets, open_set
from vim_train.data.sources.classes import imagenet_wnids
from vim_train.data.views import stored_crop
from vim_train.tasks import eval_passes
from vim_train.tasks.evaluate import evaluate
from vim_train.tasks.predictions import Predictions
from vim_train.tasks.pretrained import Pretrained, open_pretrained
from vim_train.tasks.suites import plan, real_names

C = [f"c/{corruption}/{severity}" for corruption in ("fog", "shot_noise") for severity in (1, 5)]
IMAGES = {
    "val": 43, "v2_matched_frequency": 12, "v2_threshold0.7": 7, "a": 6, "r": 6, "sketch": 20, "o": 4,
} | dict.fromkeys(C, 10)  # fmt: skip
FOLDERS = {"v2": "v2", "a": "imagenet-a", "r": "imagenet-r", "sketch": "sketch", "c": "imagenet-c", "o": "imagenet-o"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    root = tmp_path_factory.mktemp("imagenet")
    write_tree(photos, root)
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tree: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    write_run(tree, folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _torch_as_it_was() -> Iterator[None]:
    exact, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(exact)
    torch.backends.cudnn.benchmark = benchmark


def judge(run: Path, suite: list[str], **keys: Any) -> None:
    """vim-eval without its command line."""
    command = EvalCommand(str(run), suite=suite, device=Device.cpu, **keys)
    check_eval(command)
    assert evaluate(command, {}) == 0


@pytest.fixture(scope="module")
def whole(run: Path, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process wrote of all sets."""
    out = tmp_path_factory.mktemp("whole")
    roots = RootsConfig(**{name: str(tree / folder) for name, folder in FOLDERS.items()})
    judge(run, list(SUITES), roots=roots, out=str(out))
    return out


def load(out: Path, name: str, which: str = "model") -> Predictions:
    return Predictions.load(out / "predictions" / which / f"{name}.npz")


def pixels(image: Image.Image) -> torch.Tensor:
    scaled = pil_to_tensor(image).float() / 255
    return normalize(scaled, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def resized(file: Path) -> Image.Image:
    return Resize(int(SIDE / 0.875), InterpolationMode.BICUBIC)(Image.open(file).convert("RGB"))


def model_of(found: Pretrained, which: str, img_size: int = SIDE) -> torch.nn.Module:
    return found.build(which, 20, img_size, torch.device("cpu"))


def test_every_set_is_gone_through_once(whole: Path, tree: Path) -> None:
    results = json.loads((whole / "results.json").read_text())
    counted = {name: row["model"]["images"] for name, row in results["suites"].items()}
    real = results["suites"]["real"]["model"]
    assert counted.pop("real") + real["skipped"] == IMAGES["val"]
    assert counted == {name: images for name, images in IMAGES.items() if name not in C} | {"c": 10 * len(C)}
    assert results["absent"] == {"v2_top_images": f"no imagenetv2-top-images-format-val in roots.v2={tree / 'v2'}"}
    for name, images in IMAGES.items():
        for which in ("model", "ema"):
            found = load(whole, name, which)
            assert (found.suite, len(set(found.names)), found.classes) == (name, images, WNIDS)
            assert found.logits.shape == (images, 20)
            assert np.isfinite(found.logits).all()
    assert (load(whole, "val").logits != load(whole, "val", "ema").logits).all()


def test_labels_are_of_the_checkpoints_classes(whole: Path) -> None:
    for name in ("val", "a", "r", "sketch", *C):
        found = load(whole, name)
        of_folder = [WNIDS.index(image.split("/")[-2]) for image in found.names]
        assert found.labels.tolist() == of_folder
    assert set(load(whole, "a").labels.tolist()) == {WNIDS.index(wnid) for wnid in IN_A}
    assert set(load(whole, "r").labels.tolist()) == {WNIDS.index(wnid) for wnid in IN_R}
    outliers = load(whole, "o")
    assert set(outliers.labels.tolist()) == {-1}
    assert [name.split("/")[0] for name in outliers.names] == sorted(IN_O)


def test_v2_labels_are_the_numbers_of_its_folders_and_not_their_order(whole: Path) -> None:
    found = load(whole, "v2_matched_frequency")
    assert dict(zip(found.names, found.labels.tolist(), strict=True)) == {
        f"{number}/{number}-matched-frequency.jpeg": number for number in range(12)
    }


def test_metrics_of_a_and_r_are_among_their_own_classes(whole: Path) -> None:
    suites = json.loads((whole / "results.json").read_text())["suites"]
    outside = 0
    for name, own in (("a", IN_A), ("r", IN_R)):
        found = load(whole, name)
        columns = [WNIDS.index(wnid) for wnid in own]
        guesses = np.array(columns)[found.logits[:, columns].argmax(1)]
        assert suites[name]["model"]["top1"] == pytest.approx(100 * (guesses == found.labels).mean())
        outside += (~np.isin(found.logits.argmax(1), columns)).sum()
    assert outside


@pytest.mark.parametrize("which", ["model", "ema"])
def test_logits_are_those_of_a_pass_by_hand(whole: Path, run: Path, tree: Path, which: str) -> None:
    model = model_of(open_pretrained(str(run)), which)
    val, fog = load(whole, "val", which), load(whole, "c/fog/5", which)
    centre = [CenterCrop(SIDE)(resized(tree / name)) for name in val.names]
    stored = [Image.open(tree / "imagenet-c" / "fog" / "5" / name) for name in fog.names]
    with torch.inference_mode():
        for found, images in ((val, centre), (fog, stored)):
            expected = model(torch.stack([pixels(image) for image in images]))
            torch.testing.assert_close(torch.from_numpy(found.logits), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("tta", "crops", "flip"),
    [(TtaConfig(hflip=True), False, True), (TtaConfig(crops=5), True, False), (TtaConfig(crops=10), True, True)],
)
def test_views_are_averaged_as_by_hand(
    tta: TtaConfig, crops: bool, flip: bool, run: Path, tree: Path, tmp_path: Path
) -> None:
    size = 40 if crops else SIDE  # at another resolution, too
    data, roots = EvalDataConfig(img_size=size, workers=int(flip)), RootsConfig(c=str(tree))
    judge(run, ["val", "c"], weights=Weights.model, data=data, roots=roots, tta=tta, out=str(tmp_path))
    model, found = model_of(open_pretrained(str(run)), "model", size), load(tmp_path, "val")

    def views(file: Path) -> list[torch.Tensor]:
        image = Resize(int(size / 0.875), InterpolationMode.BICUBIC)(Image.open(file).convert("RGB"))
        seen = [pixels(each) for each in (FiveCrop(size)(image) if crops else [CenterCrop(size)(image)])]
        return [*seen, *(each.flip(2) for each in seen)] if flip else seen

    with torch.inference_mode():
        expected = torch.stack([model(torch.stack(views(tree / name))).softmax(1).mean(0) for name in found.names])
    torch.testing.assert_close(torch.from_numpy(found.logits).softmax(1), expected, rtol=1e-4, atol=1e-6)
    assert load(tmp_path, "c/fog/1").logits.shape == (10, 20)
    assert json.loads((tmp_path / "results.json").read_text())["tta"] == asdict(tta)


def test_corrupted_images_are_cropped_and_not_resized() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (250, 240, 3), dtype=np.uint8))
    shown = stored_crop(DataConfig(img_size=224))(noise)
    assert np.array_equal(np.asarray(shown), np.asarray(CenterCrop(224)(noise)))
    assert stored_crop(DataConfig(img_size=96))(noise).size == (96, 96)
    assert np.array_equal(np.asarray(stored_crop(DataConfig(img_size=224))(shown)), np.asarray(shown))


def test_two_ranks_write_what_one_process_wrote(whole: Path, run: Path, tree: Path, tmp_path: Path) -> None:
    """Also where a set has fewer batches than there are ranks, and the last batch is short."""
    roots = [f"roots.{name}={tree / folder}" for name, folder in FOLDERS.items()]
    line = [f"checkpoint={run}", f"suite=[{','.join(SUITES)}]", "device=cpu", *roots]
    code, output = finish(start("eval", *line, f"out={tmp_path}", "gpus=2"))
    assert code == 0, output
    assert output.count("step 10") == 1
    files = sorted(file.relative_to(whole) for file in whole.rglob("*.npz"))
    assert len(files) == 2 * len(IMAGES)
    for file in files:
        assert (whole / file).read_bytes() == (tmp_path / file).read_bytes(), file
    one, two = (json.loads(file.read_text())["suites"] for file in (whole / "results.json", tmp_path / "results.json"))
    for found in (one, two):
        for row in found.values():
            for weights in row.values():
                del weights["images_per_s"]
    assert one == two


def test_predictions_are_kept_until_something_they_depend_on_changes(
    whole: Path, run: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, made = shutil.copytree(whole, tmp_path / "out"), []
    compute = eval_passes._logits
    monkeypatch.setattr(eval_passes, "_logits", lambda setting, *rest: made.append(1) or compute(setting, *rest))

    def passes_of(checkpoint: Path = run, **keys: Any) -> int:
        made.clear()
        roots = RootsConfig(sketch=str(tree / "sketch"))
        judge(checkpoint, ["val", "sketch"], weights=Weights.model, roots=roots, out=str(out), **keys)
        return len(made)

    assert passes_of(data=EvalDataConfig(eval_batch_size=5, workers=1)) == 0
    assert passes_of(data=EvalDataConfig(crop_pct=0.9)) == 2
    assert passes_of() == 2
    (out / "predictions" / "model" / "val.npz").write_bytes(b"torn")
    assert passes_of() == 1
    assert passes_of(refresh=True) == 2
    write_run(tree, tmp_path / "other", seed=1)
    assert passes_of(tmp_path / "other") == 2
    assert passes_of(tmp_path / "other") == 0


def test_real_is_val_by_the_names_that_imagenet_gave() -> None:
    names = ["val/n0/ILSVRC2012_val_00000007.JPEG", "ILSVRC2012_val_00050000_n01440764.JPEG"]
    assert real_names(names) == ["ILSVRC2012_val_00000007.JPEG", "ILSVRC2012_val_00050000.JPEG"]
    for lost in ("shard-0000.tar/000001.jpg", "val/n0/ILSVRC2012_val_7.JPEG", "val/a/ILSVRC2012_val_000000071.JPEG"):
        with pytest.raises(UserError, match=f"ReaL knows images as .*, not as {lost}; give"):
            real_names([*names, lost])


def test_a_set_without_a_root_is_passed_over(tree: Path) -> None:
    found = plan(EvalCommand("x", suite=["o", "v2", "real"], roots=RootsConfig(o=str(tree / "imagenet-o"))))
    assert [each.name for each in found.sets] == ["val", "o"]
    assert found.sets[0].suites == ("real",)
    assert found.skipped == {"v2": "roots.v2 is not given"}


def test_a_root_may_be_the_folder_of_a_set_or_hold_it(tree: Path, tmp_path: Path) -> None:
    assert find_sets("a", tree)[0] == find_sets("a", tree / "imagenet-a")[0] == {"a": tree / "imagenet-a"}
    assert list(find_sets("c", tree)[0]) == list(find_sets("c", tree / "imagenet-c")[0]) == C
    (tmp_path / "noise").symlink_to(tree / "imagenet-c")
    assert list(find_sets("c", tmp_path)[0]) == C
    one = tree / "v2" / "imagenetv2-threshold0.7-format-val"
    assert find_sets("v2", one) == ({"v2_threshold0.7": one}, {})
    (tmp_path / "mine").symlink_to(one)
    assert list(find_sets("v2", tmp_path / "mine")[0]) == ["v2"]
    for name in ("v2", "c"):
        with pytest.raises(UserError, match=rf"^roots\.{name}=.*: takes "):
            find_sets(name, tree / "val")


def labels_in(folder: Path, name: str, classes: list[str]) -> tuple[dict[str, int], list[str]]:
    found = open_set(name, folder, classes, 10**8, lambda *_: None)
    images = [os.path.relpath(found.source.name(i), folder) for i in range(len(found.source))]
    return {image.split("/")[0]: label for image, label in zip(images, found.labels.tolist(), strict=True)}, found.notes


def test_a_model_of_other_classes_is_judged_by_those_it_has(tree: Path, tmp_path: Path) -> None:
    few = [*WNIDS[:3], "zebra"]
    labels, notes = labels_in(tree / "sketch", "sketch", few)
    assert labels == {wnid: label for label, wnid in enumerate(few[:3])}
    assert notes == ["17 of its 20 classes are not the checkpoint's: their images are left out"]
    with pytest.raises(UserError, match="are none of the checkpoint's classes"):
        labels_in(tree / "sketch", "sketch", ["cat", "dog"])
    # ImageNetV2 numbers all thousand classes, whatever part of them a model has.
    for number in ("0", "50", "100", "999"):
        shutil.copytree(tree / "sketch" / WNIDS[0], tmp_path / number)
    assert labels_in(tmp_path, "v2", WNIDS)[0] == {"0": 0, "50": 1, "100": 2}
    labels, notes = labels_in(tmp_path, "v2", imagenet_wnids())
    assert labels == {"0": 0, "50": 50, "100": 100, "999": 999}
    assert notes == ["4 images where 10,000 were published"]
    # A model whose own classes are numbers in the order of the alphabet.
    assert labels_in(tmp_path, "v2", ["0", "100", "50", "999"])[0] == {"0": 0, "100": 1, "50": 2, "999": 3}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"suite": ["val", "v3"]}, "suite=[val,v3]: v3 is none of val, real, v2, a, r, sketch, c, o"),
        ({"suite": ["vale"]}, "suite=[vale]: vale is none of val, real, v2, a, r, sketch, c, o; did you mean val?"),
        ({"suite": []}, "suite=[]: takes some of [val,real,v2,a,r,sketch,c,o]"),
        ({"suite": ["a"], "roots": RootsConfig(a="/nope")}, "roots.a=/nope: no such folder"),
        ({"suite": ["a"], "roots": RootsConfig(a=__file__)}, f"roots.a={__file__}: is a file"),
        ({"roots": RootsConfig(a="/")}, "roots.a=/: goes with a in suite=[...]"),
        (
            {"suite": ["a"], "data": EvalDataConfig(root="/")},
            "data.root=/: goes with val or real in suite=[...]; is roots.a meant?",
        ),
        ({"tta": TtaConfig(crops=3)}, "tta.crops=3: takes 1, 5 or 10"),
        (
            {"tta": TtaConfig(crops=5), "data": EvalDataConfig(crop_pct=1.0)},
            "tta.crops=5: takes data.crop_pct=... below 1; at 1 the crops",
        ),
        ({"tta": TtaConfig(crops=10, hflip=True)}, "tta.crops=10: has the mirrored views already"),
        ({"refresh": True}, "refresh=true: goes with out=DIR"),
        ({"out": __file__}, f"out={__file__}: takes a folder"),
        ({"out": "/proc/x"}, "out: /proc/x/predictions/model/val.npz cannot be written: "),
    ],
)
def test_a_mistake_is_one_line(given: dict[str, Any], expected: str, run: Path) -> None:
    with pytest.raises(UserError) as caught:
        judge(run, **({"suite": ["val"]} | given))
    assert str(caught.value).startswith(expected)


def test_an_image_that_cannot_be_decoded_is_one_line(run: Path, tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree / "imagenet-o", tmp_path / "o")
    torn = tmp_path / "o" / IN_O[1] / "imagenet-o_1.jpg"
    torn.write_bytes(torn.read_bytes()[:300])
    for crops in (1, 5):
        with pytest.raises(UserError, match=rf"^evaluation image {torn} \(class {IN_O[1]}\) cannot be decoded: "):
            judge(run, ["val", "o"], roots=RootsConfig(o=str(tmp_path / "o")), tta=TtaConfig(crops=crops))


def test_folders_without_images_are_one_line(run: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=rf"^{tmp_path} holds no class folder and no image: images belong in one folder"
    ):
        plan(EvalCommand("x", suite=["val", "sketch"], roots=RootsConfig(sketch=str(tmp_path))))
    (tmp_path / WNIDS[0]).mkdir()
    with pytest.raises(UserError, match=rf"^{tmp_path}: no image in any of its 1 class folders$"):
        judge(run, ["sketch"], roots=RootsConfig(sketch=str(tmp_path)))


def test_the_runs_own_images_are_not_needed_for_other_sets(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    write_run(gone, tmp_path / "run")
    gone.rmdir()
    judge(tmp_path / "run", ["sketch", "r"], roots=RootsConfig(sketch=str(tree)))
    assert "\nr is not here: roots.r is not given\n" in capsys.readouterr().out
    with pytest.raises(UserError, match=rf"^data\.root={gone}: no such folder$"):
        judge(tmp_path / "run", ["val"])


def test_shares_are_put_in_order_and_must_be_whole() -> None:
    def share(*positions: int) -> tuple[np.ndarray, np.ndarray]:
        return np.array(positions), np.array([[position] * 2 for position in positions], np.float32)

    assert eval_passes._in_order([[share(0, 1), share(4)], [share(2, 3)]], 5)[:, 0].tolist() == [0, 1, 2, 3, 4]
    for shares in ([[share(0, 1)]], [[share(0, 1)], [share(1)]], [[share(0, 1)], [share(1, 2)]]):
        with pytest.raises(RuntimeError, match="predictions for 3 images, or an image twice"):
            eval_passes._in_order(shares, 3)
