"""What the number of ranks changes in the result, and what `determinism=strict` costs so that it changes nothing.

The quickstart's model and images, one thread a rank, real runs of `vim-train`: once for each determinism and number of
ranks. Compared are the weights after --steps steps with those of one rank: the relative distance ‖a - b‖ / ‖b‖ over
all of them, and their sha256. Speed is the median of train/images_per_s in metrics.jsonl, without the first third.

    python benchmarks/ranks.py
    python benchmarks/ranks.py --steps 60 --ranks 1 2
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from vim_train.engine.checkpoint import load_weights

BATCH, STEPS_PER_EPOCH = 64, 98


def run(root: Path, determinism: str, ranks: int, steps: int, *, device: str) -> Path:
    """Train; returns the run's folder."""
    name = f"{determinism}-{ranks}"
    command = [
        sys.executable, "-m", "vim_train.cli.train", "recipe=quickstart", "logger.wandb.mode=disabled",
        f"run.root={root}", f"run.name={name}", f"determinism={determinism}", f"device={device}", "ops.threads=1",
        "data.lane=16", "data.workers=0", "logger.every=10st", f"checkpoint.every={steps}st", "checkpoint.keep=100",
        "eval.every=1000ep",
        f"schedule.epochs={-(-steps // STEPS_PER_EPOCH)}", *([f"gpus={ranks}"] if ranks > 1 else []),
    ]  # fmt: skip
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise SystemExit(f"{name}:\n{done.stdout[-2000:]}")
    return root / name


def weights(folder: Path, steps: int) -> dict[str, Tensor]:
    return load_weights(folder / "checkpoints" / f"step_{steps:08d}")[0]


def digest(tensors: dict[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(tensors[name].contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Relative, in double precision."""
    of = {name: (a[name].double(), b[name].double()) for name in b if b[name].is_floating_point()}
    difference = sum(float((x - y).square().sum()) for x, y in of.values())
    return float((difference / sum(float(y.square().sum()) for _, y in of.values())) ** 0.5)


def speed(folder: Path) -> float:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    found = [line["train/images_per_s"] for line in lines if line["kind"] == "train"]
    return statistics.median(found[len(found) // 3 :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()

    where = platform.processor() or platform.machine()
    print(f"{where}, {os.cpu_count()} cores, torch {torch.__version__}; batch {BATCH}, lanes of 16")
    print("determinism  ranks  images/s  sha256 of the weights  distance to one rank")
    with tempfile.TemporaryDirectory() as root:
        speeds: dict[tuple[str, int], float] = {}
        for determinism in ("exact", "strict"):
            alone: dict[str, Tensor] | None = None
            for ranks in arguments.ranks:
                folder = run(Path(root), determinism, ranks, arguments.steps, device=arguments.device)
                found, speeds[determinism, ranks] = weights(folder, arguments.steps), speed(folder)
                alone = alone or found
                line = f"{determinism:11}  {ranks:5}  {speeds[determinism, ranks]:8.0f}  {digest(found):>21}"
                print(f"{line}  {distance(found, alone):.1e}", flush=True)
        for ranks in arguments.ranks:
            print(f"strict takes {speeds['exact', ranks] / speeds['strict', ranks]:.2f} times as long, {ranks} ranks")


if __name__ == "__main__":
    main()
