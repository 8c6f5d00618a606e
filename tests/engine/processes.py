"""Whole runs in real processes, for the tests that stop, kill and compare them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from safetensors.torch import load_file

TIMELESS = ("kind", "step", "epoch", "train/loss", "train/lr", "train/grad_norm")


def arguments(root: Path, photos: Path, *more: str) -> list[str]:
    """Everything that draws random numbers or keeps state is on, in a model of two narrow blocks."""
    common = [
        "data=folder", f"data.root={photos}", "data.img_size=32", "data.crop_pct=1.0", "data.val_fraction=0.2",
        "data.batch_size=8", "data.lane=4", "data.repeats=2", "data.workers=1", "augment=strong",
        "model.patch_size=8", "model.stride=8", "model.embed_dim=32", "model.depth=2", "model.drop_path_rate=0.2",
        "optim.accumulate=2", "task.label_smoothing=0.1", "ema.decay=0.9",
        "schedule.epochs=20", "schedule.warmup_epochs=1", "checkpoint.every=4st", "logger.every=3st", "eval.every=5ep",
        "logger.wandb.mode=disabled", "ops.threads=1", f"run.root={root}", "run.name=test",
    ]  # fmt: skip
    return last_of_each_key([*common, *more])


def last_of_each_key(args: Iterable[str]) -> list[str]:
    """What stands behind the common arguments takes their place: a command line with both is refused."""
    return list({item.partition("=")[0]: item for item in args}.values())


def start(module: str, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", f"vim_train.cli.{module}", *last_of_each_key(args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start_toy(
    run_dir: Path,
    ranks: int,
    fault: str,
    rank: int,
    step: int,
    launcher: Sequence[str] = (sys.executable,),
    keys: str = "",
) -> subprocess.Popen[str]:
    """faulty_run.py, which says what the arguments mean."""
    script = Path(__file__).with_name("faulty_run.py")
    command = [*launcher, str(script), str(run_dir), str(ranks), fault, str(rank), str(step), *keys.split()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=300)
    return process.returncode, output


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
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
