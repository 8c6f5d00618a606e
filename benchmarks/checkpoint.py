"""What saving costs training: how long a save holds it up, and how much slower steps are while one is written.

Vim-tiny with averaged weights and AdamW's moments, real steps on random images. In each round one save is written while
training stands still, as `checkpoint.save` alone does it, and one beside training, by `Writer`; both end durable. Steps
are timed apart while one is being written and while none is. Medians over the rounds, and of the ratio in a round.

    python benchmarks/checkpoint.py
    python benchmarks/checkpoint.py --rounds 15 --dir /data/tmp    # the disk that is written to
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import nn

import vim_train  # noqa: F401  (registers the models)
from vim_train.config.schema import Amp, Device, EmaConfig, OptimConfig
from vim_train.engine import checkpoint
from vim_train.engine.optim import create_optimizer
from vim_train.engine.precision import set_precision
from vim_train.engine.setup import choose_device
from vim_train.engine.state import TrainState, create_ema
from vim_train.engine.writer import Writer

MB = 1e6


def build(device: torch.device, size: int) -> TrainState:
    torch.manual_seed(0)
    model = timm.create_model("vim_tiny_patch16_224", img_size=size).to(device)
    optimizer = create_optimizer(model, OptimConfig(), 1e-3)
    return TrainState(model, optimizer, set_precision(Amp.fp32, device), create_ema(model, EmaConfig(decay=0.999)))


def step(state: TrainState, images: torch.Tensor) -> float:
    """Seconds of one update."""
    began = time.perf_counter()
    nn.functional.cross_entropy(
        state.model(images), torch.zeros(len(images), dtype=torch.long, device=images.device)
    ).backward()
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.update_ema(False)
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - began


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(folder: Path, rounds: int, batch: int, size: int) -> None:
    device = choose_device(Device.auto)
    state, images = build(device, size), torch.randn(batch, 3, size, size, device=device)
    writer = Writer(folder / "beside", keep=2)
    quiet: list[float] = []
    beside: list[float] = []
    alone: list[float] = []
    stalls: list[float] = []
    writes: list[float] = []
    steps: list[int] = []

    def content() -> dict[str, object]:
        model, ema = state.weights()
        return {"model": model, "ema": ema, "state": state.rest(), "meta": {}, "best": False}

    for number in range(rounds + 2):  # the first two also allocate
        quiet += [step(state, images) for _ in range(3)]
        alone.append(timed(lambda: checkpoint.save(folder / "alone", number, keep=2, **content())))  # type: ignore[arg-type]  # noqa: B023
        quiet += [step(state, images) for _ in range(3)]
        began = time.perf_counter()
        stalls.append(timed(lambda: writer.submit(number, first=lambda: None, **content())))  # type: ignore[arg-type]  # noqa: B023
        done = 0
        while (outcome := writer.poll()) is None:
            beside.append(step(state, images))
            done += 1
        assert outcome.error is None
        writes.append(time.perf_counter() - began)
        steps.append(done)
    writer.close()

    alone, stalls, writes, steps = alone[2:], stalls[2:], writes[2:], steps[2:]
    bytes_ = sum(file.stat().st_size for file in checkpoint.step_dir(folder / "beside", rounds + 1).iterdir())
    ratios = [100 * stall / save for stall, save in zip(stalls, alone, strict=True)]
    rows = [
        ("checkpoint", f"{bytes_ / MB:.1f} MB"),
        ("save while training stands still", spread(alone)),
        ("stall of a save beside training", spread(stalls)),
        ("stall / save, in a round", f"{statistics.median(ratios):.1f} %   {min(ratios):.1f}-{max(ratios):.1f}"),
        ("from the stall to durable, at most", spread(writes)),
        ("steps done meanwhile", f"{statistics.median(steps):.0f}   {min(steps)}-{max(steps)}"),
        ("step, nothing being written", spread(quiet[6:])),
        ("step while one is written", spread(beside)),
        ("slow-down of those steps", f"{100 * (statistics.median(beside) / statistics.median(quiet[6:]) - 1):.0f} %"),
    ]
    print(f"{describe(device)}\ntorch {torch.__version__}, batch {batch}, {size} pixels, {rounds} rounds, {folder}\n")
    print("\n".join(f"{name:<38}{value}" for name, value in rows))


def spread(seconds: list[float]) -> str:
    low, median, high = (1e3 * value for value in (min(seconds), statistics.median(seconds), max(seconds)))
    return f"{median:.0f} ms   {low:.0f}-{high:.0f}"


def describe(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines() if device.type == "cpu" else []:
        if line.startswith("model name"):
            name = line.partition(": ")[2]
    return f"{name}, {torch.get_num_threads()} threads, {platform.system()} {platform.machine()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--dir", type=Path, help="where to write; left out: the system's temporary folder")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.dir) as folder:
        measure(Path(folder), asked.rounds, asked.batch, asked.size)


if __name__ == "__main__":
    main()
