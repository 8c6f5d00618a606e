"""What is printed and written of an evaluation."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vim_train.config.errors import UserError
from vim_train.data.sources.classes import imagenet_wnids
from vim_train.tasks.eval_report import report
from vim_train.tasks.metrics.corruptions import ALEXNET
from vim_train.tasks.predictions import Predictions

CLASSES = imagenet_wnids()[:12]


def some(suite: str, images: int = 60) -> Predictions:
    labels = np.arange(images) % 11  # the last class has no image
    logits = np.random.default_rng(0).normal(size=(images, 12)).astype(np.float32)
    logits[np.arange(images), labels] += 1.5
    return Predictions(suite, [f"{suite}/{i}.png" for i in range(images)], labels, logits, CLASSES)


def test_tables_and_files_of_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corruption = next(iter(ALEXNET))
    outliers = Predictions("o", ["x"] * 5, np.full(5, -1), np.zeros((5, 12), np.float32), CLASSES)
    suites = [
        some("val"),
        outliers,
        some(f"c/{corruption}/1"),
        some(f"c/{corruption}/2"),
    ]
    out = tmp_path / "deep" / "eval"
    rates: dict[tuple[str, str], float | None] = {}
    notes: dict[str, list[str]] = {}

    def passes() -> Iterator[Predictions]:
        for predictions in suites:
            yield predictions
            rates[predictions.suite, "model"] = 1000.0 if predictions.suite.endswith("1") else 3000.0
            notes[predictions.suite] = [f"{predictions.suite.split('/')[0]} at 224 px"]

    weights = {"model": passes(), "ema": suites[:1]}
    found = report(weights, "runs/x", out, {"step": 7}, notes, rates, {"a": "roots.a is null"})
    text = capsys.readouterr().out
    table = text[: text.index("\n\n")]
    assert max(map(len, table.splitlines())) <= 80
    assert [line.split()[:2] for line in table.splitlines()[3:]] == [
        ["val", "model"], ["val", "ema"], ["o", "model"], ["c", "model"],
    ]  # fmt: skip
    assert text.count("c at 224 px") == 1
    for line in (
        "val: val at 224 px",
        "c: c at 224 px",
        "a is not here: roots.a is null",
        "no mCE",
        "AUPR 100.00 %",
        "tench",
    ):
        assert line in text

    held = json.loads((out / "results.json").read_text(), parse_constant=pytest.fail)
    assert (held["checkpoint"], held["step"], held["absent"]) == ("runs/x", 7, {"a": "roots.a is null"})
    assert held["suites"]["val"]["model"]["top1"] == found["suites"]["val"]["model"]["top1"]  # type: ignore[index]

    assert held["suites"]["c"]["model"]["images_per_s"] == 2000
    assert "images_per_s" not in held["suites"]["val"]["ema"]
    with (out / "per_class_val_ema.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == CLASSES
    assert rows[0]["name"] == "tench, Tinca tinca"
    val = suites[0]
    of_first = val.logits[val.labels == 0].argmax(1)
    assert float(rows[0]["top1"]) == pytest.approx(100 * (of_first == 0).mean(), abs=1e-3)
    assert (rows[11]["images"], rows[11]["top1"], rows[11]["most_confused_with"]) == ("0", "", "")

    pictures = {path.stem for path in out.glob("*.png")}
    kinds = {f"{kind}_{of}" for kind in ("reliability", "per_class", "confusion") for of in ("val_model", "val_ema")}
    assert kinds | {"corruptions_c_model"} == pictures
    for path in out.glob("*.png"):
        with Image.open(path) as image:
            image.load()
    assert not list(out.glob(".*"))

    (out / "per_class_mine.csv").write_text("kept")
    report({"ema": [some("sketch")]}, "runs/x", out)
    assert json.loads((out / "results.json").read_text())["suites"].keys() == {"sketch"}
    of_sketch = {f"{kind}_sketch_ema.png" for kind in ("reliability", "per_class", "confusion")}
    left = {"results.json", "per_class_sketch_ema.csv", "per_class_mine.csv"}
    assert {path.name for path in out.iterdir()} == of_sketch | left


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^out=.*file/out: Not a directory$"):
        report({"model": [some("val")]}, "x", tmp_path / "file" / "out")
