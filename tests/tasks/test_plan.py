"""`dry_run=true`: the plan of the published recipes through the real command, on a model made small."""

import json
import re
from pathlib import Path

import pytest
from torch import nn

from vim_train.cli.train import main
from vim_train.tasks.plan import patterns

SMALL = (
    "dry_run=true", "model.depth=1", "data.img_size=32", "data.lane=4", "data.micro_batch_size=4", "data.workers=0",
    "ops.tune_malloc=false", "device=cpu", "ops.threads=1",
)  # fmt: skip


def sections(output: str) -> dict[str, list[list[str]]]:
    """Rows of the plan by the title above them; cells lie two blanks apart, a wrapped one is a row of its own."""
    found: dict[str, list[list[str]]] = {}
    for line in output.splitlines():
        if not line.startswith("  "):
            rows = found.setdefault(line, [])
        else:
            rows.append(re.split(r" {2,}", line.strip()))
    return found


def facts(rows: list[list[str]]) -> dict[str, str]:
    return {name: " ".join(rest) for name, *rest in rows}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("recipe", "table", "steps", "batch"),
    [
        ("vim_tiny", "tiny_pretrain", 1251, "1,024 = 1 rank x 256 passes of 4"),
        ("vim_small", "small_pretrain", 2502, "512 = 1 rank x 128 passes of 4"),
        ("vim_tiny_stride8", "finetune_stride8", 1251, "1,024 = 1 rank x 256 passes of 4"),
    ],
)
def test_the_plan_of_a_published_recipe_is_the_published_one(
    recipe: str, table: str, steps: int, batch: str, place: Path, golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = json.loads((golden / "lr_schedule.json").read_text())[table]
    weights = ("model.checkpoint=null",) if "stride8" in recipe else ()
    assert main([f"recipe={recipe}", *SMALL, *weights]) == 0
    plan = sections(capsys.readouterr().out)

    [head, *rates] = plan["learning rate, at the first step of an epoch"]
    assert head == ["epoch", "step", "rate"]
    assert len(rates) >= 10
    for epoch, step, rate in rates:
        assert int(step.replace(",", "")) == int(epoch) * steps
        assert float(rate) == pytest.approx(published["lr_by_epoch"][int(epoch)], rel=1e-6)
    assert int(rates[-1][0]) == published["epochs"] - 1

    told = facts(plan[f"dry run of {recipe}: no run folder is made"])
    assert told["steps"] == f"{published['epochs'] * steps:,} = {published['epochs']} epochs of {steps:,}"
    assert told["batch"] == batch
    assert "synthetic images" in told["data"]
    assert "1,281,167 + 50,000 images, 1000 classes" in told["data"]
    images = facts(plan["an epoch"])["images"]
    assert images.startswith("1,281,024 drawn, 427,008 distinct, each 3 times")
    assert list(place.iterdir()) == []


def test_the_groups_of_a_plan_are_the_published_ones(
    place: Path, golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = json.loads((golden / "weight_decay_groups.json").read_text())["mid"]
    assert main(["recipe=vim_tiny", *SMALL]) == 0
    [_, *rows] = sections(capsys.readouterr().out)["parameters"]
    shown: dict[str, str] = {}
    decay = ""
    for row in rows:
        decay = row[0] if len(row) == 5 else decay
        shown[decay] = shown.get(decay, "") + " " + row[-1]
    for decay, group in (("0.1", "decay"), ("0", "no_decay")):
        listed = {name.strip().replace(".*.", ".0.") for name in shown[decay].split(",")}
        # The reverse direction's biases follow their forward twins in the published table.
        assert listed == set(published[group])


def test_a_plan_with_images_evaluates_times_and_leaves_nothing(
    place: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = (
        "data.val_fraction=0.2",
        "data.img_size=28",
        "data.batch_size=8",
        "data.lane=4",
        "run.root=deep/runs",
        "ema.decay=null",
    )
    assert main(["data=folder", f"data.root={photos}", *SMALL[:2], *SMALL[5:], *keys]) == 0
    plan = sections(capsys.readouterr().out)
    assert "synthetic" not in str(plan)
    assert facts(plan["an epoch"])["images"].startswith("24 drawn, 24 distinct")
    memory, times = facts(plan["memory"]), facts(plan["time, estimated from the last trial step"])
    assert memory["averaged weights"] == "0 MB"
    assert {"weights", "gradients", "optimiser", "peak"} <= set(memory)
    assert times["an evaluation"].partition(": ")[2].startswith("weights on ")
    assert times["an evaluation"].endswith("; 16 of them")
    assert list(place.iterdir()) == []


def test_a_trial_that_diverges_ends_with_3(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loss = nn.CrossEntropyLoss.forward
    monkeypatch.setattr(nn.CrossEntropyLoss, "forward", lambda self, *given: loss(self, *given) * float("nan"))
    assert main([*SMALL[:2], *SMALL[3:]]) == 3
    assert "stopped: loss nan" in capsys.readouterr().out
    assert list(place.iterdir()) == []


def test_a_plan_still_asks_for_what_trains_nothing_without(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe=vim_tiny", *SMALL[1:]]) == 2
    assert capsys.readouterr().err == "vim-train: set data.root=...\n"
    assert main(["recipe=vim_tiny", *SMALL, "data.root=/nope"]) == 2
    assert capsys.readouterr().err == "vim-train: data.root=/nope: no such folder\n"


def test_patterns_name_all_blocks_at_once() -> None:
    names = ["cls_token", "layers.0.mixer.D", "layers.11.mixer.D", "stages.1.blocks.0.norm.weight", "head.0.bias"]
    assert patterns(names) == "cls_token, layers.*.mixer.D, stages.*.blocks.*.norm.weight, head.*.bias"
