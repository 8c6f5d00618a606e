"""Whole runs in real processes: killed, stopped, resumed, evaluated."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

TIMELESS = ("kind", "step", "epoch", "train/loss", "train/lr", "train/grad_norm")


def arguments(root: Path, photos: Path, *more: str) -> list[str]:
    """Everything that draws random numbers or keeps state is on, in a model of two narrow blocks."""
    return [
        "data=folder", f"data.root={photos}", "data.img_size=32", "data.crop_pct=1.0", "data.val_fraction=0.2",
        "data.batch_size=8", "data.lane=4", "data.repeats=2", "data.workers=1", "augment=strong",
        "model.patch_size=8", "model.stride=8", "model.embed_dim=32", "model.depth=2", "model.drop_path_rate=0.2",
        "optim.accumulate=2", "task.label_smoothing=0.1", "ema.decay=0.9",
        "schedule.epochs=20", "schedule.warmup_epochs=1", "checkpoint.every=4st", "logger.every=3st", "eval.every=5ep",
        "logger.wandb.mode=disabled", "ops.threads=1", f"run.root={root}", "run.name=test", *more,
    ]  # fmt: skip


def start(module: str, *args: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", f"vim_train.cli.{module}", *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def wait_for_step(run: Path, step: int, process: "subprocess.Popen[str]") -> None:
    """Return once metrics.jsonl holds a training line of `step` or later."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        lines = metrics(run)
        if any(line["kind"] == "train" and line["step"] >= step for line in lines):
            return
        time.sleep(0.005)
    raise AssertionError(f"no step {step} in {run}: {finish(process)[1]}")


def metrics(run: Path) -> list[dict[str, object]]:
    try:
        whole = (run / "metrics.jsonl").read_text().split("\n")[:-1]
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in whole]


def numbers(run: Path) -> list[dict[str, object]]:
    """What metrics.jsonl says of training and evaluation, without times and rates."""
    kept = [line for line in metrics(run) if line["kind"] != "event"]
    return [{k: v for k, v in line.items() if k in TIMELESS or k.startswith(("eval/", "ema/"))} for line in kept]


def weights(run: Path) -> dict[str, bytes]:
    """Bits of every tensor of the newest checkpoint, raw and averaged."""
    newest = max((run / "checkpoints").glob("step_*"))
    return {
        f"{file.stem} {name}": tensor.numpy().tobytes()
        for file in newest.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A run that nobody interrupted."""
    root = tmp_path_factory.mktemp("whole")
    code, output = finish(start("train", *arguments(root, photos)))
    assert code == 0, output
    return root / "test"


def test_a_run_leaves_its_files_and_says_where(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["finished"] is True
    assert summary["step"] == numbers(whole)[-1]["step"]
    assert {"config.yaml", "log.txt", "metrics.jsonl", "summary.json"} <= {file.name for file in whole.iterdir()}
    assert (whole / "report" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert (whole / "checkpoints" / "best" / "model.safetensors").is_file()
    assert any(name.startswith("ema ") for name in weights(whole))


def test_killed_and_started_again_equals_never_killed(whole: Path, tmp_path: Path, photos: Path) -> None:
    """kill -9 in mid-epoch, twice; the second and third parts use other numbers of workers."""
    run = tmp_path / "test"
    for step, workers in ((10, 1), (34, 0)):
        process = start("train", *arguments(tmp_path, photos, f"data.workers={workers}"))
        wait_for_step(run, step, process)
        process.kill()
        finish(process)
    code, output = finish(start("train", *arguments(tmp_path, photos, "data.workers=2")))
    assert code == 0, output
    assert "goes on from step" in output
    assert numbers(run) == numbers(whole)
    assert weights(run) == weights(whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_rest_follows_exactly(
    whole: Path, tmp_path: Path, photos: Path, number: signal.Signals, code: int
) -> None:
    process = start("train", *arguments(tmp_path, photos))
    wait_for_step(tmp_path / "test", 9, process)
    os.kill(process.pid, number)
    stopped, output = finish(process)
    assert stopped == code, output
    assert f"{number.name}: saved at step" in output
    assert "Traceback" not in output
    code, output = finish(start("train", *arguments(tmp_path, photos)))
    assert code == 0, output
    assert numbers(tmp_path / "test") == numbers(whole)
    assert weights(tmp_path / "test") == weights(whole)


def test_vim_eval_repeats_the_best_evaluation(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "metrics.json"
    code, output = finish(start("eval", f"checkpoint={whole}", f"json={out}", "ops.threads=1"))
    assert code == 0, output
    found = json.loads(out.read_text())
    evaluations = {line["step"]: line for line in numbers(whole) if line["kind"] == "eval"}
    expected = evaluations[found["step"]]
    for which, prefix in (("raw", "eval"), ("ema", "ema")):
        assert {f"{prefix}/{name}": value for name, value in found[which].items()} == {
            name: value for name, value in expected.items() if name.startswith(f"{prefix}/")
        }


def test_mistakes_of_data_and_checkpoint_are_one_line(whole: Path, tmp_path: Path, photos: Path) -> None:
    """What only shows once the data or a checkpoint is read; the configuration's own mistakes are tested in cli/."""
    broken = tmp_path / "photos"
    for folder in ("a", "b"):
        (broken / "train" / folder).mkdir(parents=True)
        (broken / "val" / folder).mkdir(parents=True)
        for i, photo in enumerate(sorted((photos / "tool").glob("*.jpg"))[:4]):
            for split in ("train", "val"):
                (broken / split / folder / f"{i}.jpg").write_bytes(photo.read_bytes())
    (broken / "train" / "a" / "torn.jpg").write_bytes((broken / "train" / "a" / "0.jpg").read_bytes()[:2000])
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes((whole / "checkpoints" / "best" / "model.safetensors").read_bytes()[:-100])
    model = whole / "checkpoints" / "best" / "model.safetensors"

    base = arguments(tmp_path, photos)
    cases = [
        (["train", *base, f"data.root={broken}"], "torn.jpg"),
        (["train", *base, "data.img_size=30"], "data.img_size=30"),
        (["train", *base, f"model.checkpoint={torn}"], "torn.safetensors"),
        (["train", *base, f"model.checkpoint={model}", "model.depth=1"], "another model"),
        (["train", *base, f"model.checkpoint={model}", f"data.root={broken}", "data.bad_images=skip"], "4 classes"),
        (["train", *base, "optim.name=adamx"], "optim.name=adamx"),
        (["train", *base, "run.resume=must"], "no unfinished run"),
        (["train", *arguments(whole.parent, photos), "run.root=/dev/null/x"], "/dev/null"),
        (["eval", f"checkpoint={whole}", f"data.root={broken}"], "lacks fish, monument, tool, windmill and"),
        (["eval", f"checkpoint={tmp_path / 'none'}"], "none"),
    ]

    def outcome(number: int) -> tuple[int, str]:
        args = cases[number][0]
        return finish(start(*args, *([f"run.name=mistake{number}"] if args[0] == "train" else [])))

    with ThreadPoolExecutor(2) as pool:
        for (_, words), (code, output) in zip(cases, pool.map(outcome, range(len(cases))), strict=True):
            assert (code, output.count("Traceback")) == (2, 0), output
            assert words in output.splitlines()[-1]


def test_a_mistake_leaves_nothing_in_the_way_of_its_correction(tmp_path: Path, photos: Path) -> None:
    args = arguments(tmp_path, photos, "schedule.epochs=2")
    code, output = finish(start("train", *args, f"model.checkpoint={tmp_path}/none.safetensors"))
    assert code == 2, output
    code, output = finish(start("train", *args))
    assert code == 0, output


def test_divergence_leaves_with_3_and_no_broken_checkpoint(tmp_path: Path, photos: Path) -> None:
    args = arguments(tmp_path, photos, "optim.name=sgd", "optim.lr=1e30", "schedule.warmup_epochs=0")
    code, output = finish(start("train", *args))
    assert code == 3, output
    assert "stopped: loss" in output
    assert "Traceback" not in output
    for file in tmp_path.glob("test/checkpoints/*/*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(file).values())
