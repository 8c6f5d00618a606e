"""Predictions of a small Vim, compared with what evaluation computes of the same images."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vim_train.cli.predict import main
from vim_train.config.compose import compose_config, save_config
from vim_train.config.schema import TrainConfig
from vim_train.data.sources import open_source
from vim_train.data.stream import EvalStream
from vim_train.engine.checkpoint import save
from vim_train.tasks.build import build_model
from vim_train.tasks.predict import better_weights
from vim_train.tasks.pretrained import open_pretrained

CPU = torch.device("cpu")
PHOTOS = ["data=folder", "data.img_size=32", "data.val_fraction=0.5", "data.eval_batch_size=4"]
SMALL = ["model.patch_size=8", "model.stride=8", "model.embed_dim=16", "model.depth=2", "data.workers=0"]

MakeRun = Callable[..., tuple[Path, TrainConfig, torch.nn.Module]]


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeRun:
    """A run that saved a Vim of random weights with a head that has an opinion, and averaged weights of another."""

    def make(*overrides: str, classes: list[str], metrics: dict[str, float] | None = None):
        cfg, plain = compose_config([*overrides, *SMALL, "run.name=small"])
        run = tmp_path / "runs" / "small"
        run.mkdir(parents=True)
        save_config(plain, run / "config.yaml")
        model = build_model(cfg, len(classes)).eval()
        torch.manual_seed(1)
        torch.nn.init.normal_(model.head.weight)
        ema = {name: tensor * 0.5 for name, tensor in model.state_dict().items()}
        meta = {"classes": classes, "metrics": metrics or {}}
        save(run, 7, model=model.state_dict(), ema=ema, state={}, meta=meta, keep=2, best=False)
        monkeypatch.chdir(tmp_path)
        return run, cfg, model

    return make


def lines(path: Path | str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def evaluated(cfg: TrainConfig, model: torch.nn.Module) -> tuple[list[str], Tensor]:
    """Paths or names, and probabilities, of validation images by the stream that vim-eval takes them from."""
    source = open_source(cfg.data, "val")
    stream = EvalStream(source, cfg, CPU)
    with torch.inference_mode():
        probs = torch.cat([model(batch.images).softmax(1) for batch in stream])
    return [source.name(i) for i in range(len(source))], probs


def test_photographs_are_judged_as_evaluation_judges_them(
    make_run: MakeRun, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = ["fish", "monument", "tool", "windmill"]
    run, cfg, model = make_run(*PHOTOS, f"data.root={photos}", classes=classes)
    paths, probs = evaluated(cfg, model)
    Path("list.txt").write_text("\n".join(paths))
    code = main([f"checkpoint={run}", "images=@list.txt", "weights=model", "out=o.jsonl", "sheet=s.png", "topk=3"])
    assert code == 0
    found = lines("o.jsonl")
    assert [record["path"] for record in found] == paths
    assert len(set(probs.argmax(1).tolist())) > 1
    for record, row in zip(found, probs, strict=True):
        best, labels = row.topk(3)
        assert [entry["label"] for entry in record["topk"]] == labels.tolist()
        assert [entry["prob"] for entry in record["topk"]] == best.tolist()
        assert record["topk"][0] == {key: record[key] for key in ("label", "class", "name", "prob")}
        assert record["name"] == record["class"] == classes[record["label"]]
        assert set(record) == {"path", "label", "class", "name", "prob", "topk"}
    shown = capsys.readouterr()
    assert "looking" not in shown.err
    assert f"vim-predict: wrote s.png\nvim-predict: {len(paths)} images, 0 bad\n" in shown.err
    sheet = np.asarray(Image.open("s.png"))
    corners = [sheet[92:292, 40 + i * 228 : 240 + i * 228].astype(int) for i in range(6)]
    for one, other in pairwise(corners):
        assert np.abs(one - other).mean() > 10


def test_embedded_images_written_as_files_are_judged_as_evaluation_judges_them(make_run: MakeRun) -> None:
    source = open_source(compose_config()[0].data, "val")
    run, cfg, model = make_run("data.img_size=32", "data.eval_batch_size=64", classes=source.classes)
    chosen = range(0, 1000, 13)
    stream = EvalStream(source, cfg, CPU)
    with torch.inference_mode():
        probs = torch.cat([model(batch.images).softmax(1) for batch in stream])[list(chosen)]
    Path("files").mkdir()
    for i in chosen:
        source.load(i, "L").save(f"files/{i:04d}.png")
    assert main([f"checkpoint={run}", "images=files", "weights=model", "out=o.jsonl", "data.workers=1"]) == 0
    found = lines("o.jsonl")
    assert [record["label"] for record in found] == probs.argmax(1).tolist()
    # Other neighbours in a batch, another order of sums.
    np.testing.assert_allclose([record["prob"] for record in found], probs.amax(1).numpy(), rtol=1e-5)


def bad_files(folder: Path, photo: Path) -> dict[str, str]:
    """Names of files that are no images, and why."""
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("not an image")
    (folder / "cut.jpg").write_bytes(photo.read_bytes()[:3000])
    Image.new("L", (400, 400)).save(folder / "large.png")
    (folder / "folder.jpg").mkdir()
    (folder / "loop.jpg").symlink_to("loop.jpg")
    return {
        "empty.jpg": "empty file",
        "text.jpg": "not an image Pillow can identify",
        "cut.jpg": "image file is truncated",
        "large.png": "400x400 pixels, more than data.pixel_limit=159999",
        "folder.jpg": "a folder; only images= takes one",
        "loop.jpg": "Too many levels of symbolic links",
        "gone.jpg": "No such file or directory",
        "two\nlines.jpg": "No such file or directory",
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_files_are_told_and_the_rest_is_judged(
    workers: int, make_run: MakeRun, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _, _ = make_run(*PHOTOS, f"data.root={photos}", classes=["a", "b", "c", "d"])
    good = sorted((photos / "fish").glob("*.jpg"))
    reasons = bad_files(tmp_path, good[0])
    # A batch without an image, one without a bad one, and some of both.
    names = [*list(reasons)[:5], *map(str, good[:6]), *list(reasons)[5:], str(good[6])]
    Path("names").write_text("\0".join(names))
    line = [f"checkpoint={run}", "weights=ema", f"data.workers={workers}", "data.pixel_limit=159999", "out=o.jsonl"]
    assert main([*line, "images=@names", "sheet=s.png"]) == 0
    found = lines("o.jsonl")
    assert [record["path"] for record in found] == names
    for record in found:
        reason = reasons.get(record["path"])
        assert (reason is None) == ("topk" in record)
        if reason is not None:
            assert set(record) == {"path", "error"}
            assert record["error"].startswith(reason)
    err = capsys.readouterr().err
    for name, reason in reasons.items():
        assert f"vim-predict: {name}: {reason}".replace("\n", "\\n") in err
    assert err.endswith("vim-predict: 7 images, 8 bad\n")
    assert main([*line, f"images=[{','.join(map(str, good[:7]))}]"]) == 0
    assert [record for record in found if "topk" in record] == lines("o.jsonl")
    assert main([*line, "images=[gone.jpg,empty.jpg]"]) == 2
    assert capsys.readouterr().err.endswith("0 images, 2 bad\nvim-predict: images: none of these can be read\n")
    assert [set(record) for record in lines("o.jsonl")] == [{"path", "error"}] * 2


@pytest.mark.parametrize("method", ["similarity", "saliency"])
def test_explain_draws_heat_beside_each_image(method: str, make_run: MakeRun, photos: Path) -> None:
    run, _, _ = make_run(*PHOTOS, f"data.root={photos}", classes=["a", "b", "c", "d"])
    line = [f"checkpoint={run}", f"images={photos / 'tool'}", "out=o.jsonl", "explain=true", f"explain_method={method}"]
    assert main([*line, "data.img_size=64"]) == 0  # a grid of 8x8 where the run had 4x4
    page = np.asarray(Image.open("explain.png")).astype(int)
    for i in range(3):
        left = 40 + i * (454 + 28)
        image, heat = page[92:316, left : left + 224], page[92:316, left + 230 : left + 454]
        assert np.abs(image - heat).mean() > 10
    assert len(lines("o.jsonl")) == 9


def test_the_better_weights_are_taken_and_named(
    make_run: MakeRun, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _, _ = make_run(
        *PHOTOS, f"data.root={photos}", classes=["a", "b", "c", "d"], metrics={"eval/top1": 50.0, "ema/top1": 62.5}
    )
    found = open_pretrained(str(run))
    assert better_weights(found) == "ema"
    found.metrics["ema/top1"] = 50.0
    assert better_weights(found) == "model"
    found.metrics.clear()
    assert better_weights(found) == "model"
    del found.weights["model"]
    assert better_weights(found) == "ema"
    image = f"images={photos}/fish/fish1.jpg"
    for weights, said in {
        "auto": "vim-predict: weights=ema (top-1 in the run's evaluation: model 50.00 %, ema 62.50 %)\n",
        "ema": "",
        "model": "",
    }.items():
        assert main([f"checkpoint={run}", image, f"weights={weights}", f"out={weights}"]) == 0
        assert capsys.readouterr().err.startswith(said or "predict: 1, ")
    assert lines("auto") == lines("ema") != lines("model")


def test_outputs_that_are_not_finite_are_no_answer(make_run: MakeRun, photos: Path) -> None:
    run, _, _ = make_run(*PHOTOS, f"data.root={photos}", classes=["a", "b", "c", "d"])
    image = f"images={photos}/fish/fish1.jpg"
    file = next((run / "checkpoints").glob("*/model.safetensors"))
    from safetensors.torch import load_file, save_file

    weights = load_file(file)
    weights["head.weight"][:] = 3e38
    save_file(weights, run / "broken.safetensors")
    assert main([f"checkpoint={run / 'broken.safetensors'}", image, "out=o.jsonl"]) == 2
    assert [record["error"] for record in lines("o.jsonl")] == ["the model's output is not finite"]


def test_without_names_classes_are_numbered(make_run: MakeRun, photos: Path) -> None:
    run, _, model = make_run(*PHOTOS, f"data.root={photos}", classes=["a", "b", "c", "d"])
    from safetensors.torch import save_file

    save_file(model.state_dict(), run / "bare.safetensors")
    assert main([f"checkpoint={run / 'bare.safetensors'}", f"images={photos}/fish/fish1.jpg", "out=o.jsonl"]) == 0
    [record] = lines("o.jsonl")
    assert sorted(entry["name"] for entry in record["topk"]) == ["class 0", "class 1", "class 2", "class 3"]
