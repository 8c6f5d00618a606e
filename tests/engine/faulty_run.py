"""A toy run in real processes with a fault in one rank: python faulty_run.py RUN_DIR RANKS FAULT RANK STEP [KEY ...].

FAULT is what RANK does as it computes the loss of STEP: nan, raise, kill, stop (SIGSTOP), hang (in Python) or flip (one
bit of a weight). RANKS above 1 starts that many, as `gpus=N` does; 0: another launcher has started them.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from toy import Recorder, ToyBatch, ToyTask, toy_config

from vim_train.cli.errors import guarded
from vim_train.config.checks import peak_lr
from vim_train.config.errors import DIVERGED, FAILED
from vim_train.config.schema import Determinism, Device, GradCompression, NonFinite, TrainConfig
from vim_train.engine.drift import DriftError
from vim_train.engine.launch import launch, launched
from vim_train.engine.loop import Trainer
from vim_train.engine.ranks import Ranks, join_ranks
from vim_train.engine.schedule import Schedule
from vim_train.engine.state import DivergedError
from vim_train.engine.stopping import StopRequest
from vim_train.engine.watchdog import Watchdog


class Teller(Recorder):
    """Says what the loop reports."""

    def event(self, step: int, text: str, **fields: object) -> None:
        print(f"step {step}: {text}", flush=True)


class FaultyTask(ToyTask):
    def __init__(self, cfg: TrainConfig, ranks: Ranks, fault: str, where: int, step: int) -> None:
        super().__init__(cfg)
        self.ranks, self.fault, self.where, self.at, self.calls = ranks, fault, where, step, 0
        self.micro = max(1, self.micro // ranks.world)

    def loss(self, model: nn.Module, batch: ToyBatch) -> Tensor:
        due = self.ranks.rank == self.where and self.calls == self.at
        self.calls += 1
        if due:
            self._fail()
        loss = super().loss(model, batch)
        return loss * float("nan") if due and self.fault == "nan" else loss

    def _fail(self) -> None:
        if self.fault == "raise":
            raise RuntimeError("out of luck")
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if self.fault == "hang":
            time.sleep(1000)
        if self.fault == "flip":
            self.model.weight.data.view(torch.int32)[1, 2] ^= 1 << 20


def config(fault: str, keys: list[str]) -> TrainConfig:
    cfg = toy_config()
    cfg.data.lane = 8
    cfg.run.hang_timeout_s = 8.0 if fault in ("hang", "stop") else 100.0  # a busy machine hangs for seconds
    if "strict" in keys:
        cfg.determinism = Determinism.strict
    if "bf16" in keys:
        cfg.optim.grad_compression = GradCompression.bf16
    if "skip" in keys:
        cfg.optim.non_finite = NonFinite.skip
    return cfg


def run(run_dir: Path, ranks: int, fault: str, where: int, step: int, keys: list[str]) -> int:
    if ranks > 1 and not launched():
        return launch(ranks, Device.cpu, [sys.executable, *sys.argv], "vim-train")
    torch.set_num_threads(1)
    cfg = config(fault, keys)
    cfg.data.batch_size += cfg.data.batch_size // 2 if ranks == 3 else 0  # which three can share
    with join_ranks(Device.cpu, cfg.run.hang_timeout_s) as joined:
        task = FaultyTask(cfg, joined, fault, where, step)
        schedule = Schedule(cfg.schedule, peak_lr(cfg.optim, cfg.data.batch_size), task.steps_per_epoch)
        report = Teller() if joined.first else Recorder()
        trainer = Trainer(cfg, task, schedule, joined, run_dir, {}, report, StopRequest())
        try:
            with Watchdog(joined.heart, joined.rank, joined.world, cfg.run.hang_timeout_s, run_dir):
                trainer.train()
        except DivergedError as error:
            print(f"rank {joined.rank}: {error}", flush=True)
            return DIVERGED
        except DriftError as error:
            print(f"rank {joined.rank}: {error}", flush=True)
            return FAILED
        print(f"rank {joined.rank}: skipped {trainer.state.counters.skipped}", flush=True)
        return 0


if __name__ == "__main__":
    directory, count, what, who, when, *more = sys.argv[1:]
    sys.exit(guarded("vim-train", False, lambda: run(Path(directory), int(count), what, int(who), int(when), more)))
