"""What has been told as saved is still there after the power fails at that moment.

A run saves to a file system of its own, an ext4 in a file in memory. When "saved" is told, the file is copied as it is:
what the kernel had not yet written to it is lost, as in a power cut. The copy is mounted, which recovers its journal.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console
from saving import spawn, wait
from toy import toy_config, toy_trainer

from vim_train.config.schema import TrainConfig, WandbMode
from vim_train.engine.checkpoint import CheckpointError, latest
from vim_train.report import open_report
from vim_train.report.jsonl import MetricsFile, read_metrics

pytestmark = pytest.mark.full

MEMORY = Path("/dev/shm")
SAVES = 20


def call(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"needs root, loop devices and ext4: {' '.join(map(str, command))}: {done.stderr.strip()}")


@contextmanager
def mounted(image: Path) -> Iterator[Path]:
    place = image.with_suffix(".mounted")
    place.mkdir()
    call("mount", "-o", "loop", image, place)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)
        place.rmdir()


@pytest.fixture
def folder() -> Iterator[Path]:
    if not os.access(MEMORY, os.W_OK) or shutil.which("mkfs.ext4") is None:
        pytest.skip("needs /dev/shm and mkfs.ext4")
    with tempfile.TemporaryDirectory(dir=MEMORY) as path:
        yield Path(path)


def config() -> TrainConfig:
    cfg = toy_config()
    cfg.schedule.epochs, cfg.checkpoint.every, cfg.logger.every = SAVES // 5, "1st", "1st"
    cfg.logger.wandb.mode = WandbMode.disabled
    return cfg


def train(run: Path, told: int, go_on: int) -> None:
    """A run that stands still from when it has told "saved" until it is answered."""
    run.mkdir()
    with open(os.devnull, "w") as nowhere:
        report = open_report(config(), {}, run, console=Console(file=nowhere))
        trainer = toy_trainer(config(), run)
        trainer.report = trainer.saver.report = report

        def saved(step: int) -> None:
            os.write(told, step.to_bytes(4, "little"))
            os.read(go_on, 1)

        report.saved = saved  # type: ignore[method-assign]
        trainer.train()


def cut_at_every_save(folder: Path, synced: bool) -> dict[int, tuple[int | None, list[object]]]:
    """For every step told as saved: the newest step that verifies after the cut, and those that metrics.jsonl has."""
    disk = folder / "disk"
    call("truncate", "-s", "64M", disk)
    call("mkfs.ext4", "-q", disk)
    (told, tell), (answered, answer) = os.pipe(), os.pipe()
    found: dict[int, tuple[int | None, list[object]]] = {}
    with mounted(disk) as place:
        os.sync()

        def body() -> None:
            os.close(told)
            if not synced:
                os.fsync = lambda fd: None
            train(place / "run", tell, answered)

        child = spawn(body)
        os.close(tell)
        try:
            while step := int.from_bytes(os.read(told, 4), "little"):
                copy = folder / f"cut-{step}"
                shutil.copyfile(disk, copy)
                found[step] = after_the_cut(copy)
                copy.unlink()
                os.write(answer, b"!")
            assert wait(child) == 0
        except BaseException:
            os.kill(child, signal.SIGKILL)
            wait(child)
            raise
        finally:
            for fd in (told, answered, answer):
                os.close(fd)
    return found


def after_the_cut(copy: Path) -> tuple[int | None, list[object]]:
    with mounted(copy) as place:
        run = place / "run"
        try:
            newest = latest(run)
        except CheckpointError:  # there are some, all damaged
            newest = None
        if newest is None:
            return None, []
        MetricsFile(run / "metrics.jsonl", newest.step).close()  # as the run that goes on opens it
        lines = read_metrics(run / "metrics.jsonl")
        return newest.step, [line["step"] for line in lines if line["kind"] == "train"]


def test_what_was_told_as_saved_outlives_a_power_cut(folder: Path) -> None:
    found = cut_at_every_save(folder, synced=True)
    assert sorted(found) == list(range(1, SAVES + 1))
    for step, (newest, recorded) in found.items():
        assert newest == step
        assert recorded == list(range(1, step + 1))


def test_without_syncing_the_same_cut_loses_it(folder: Path) -> None:
    """The cut is a cut: where nothing waits for the disk, what was told is not there."""
    found = cut_at_every_save(folder, synced=False)
    assert len(found) == SAVES
    assert sum(newest != step for step, (newest, _) in found.items()) > SAVES // 2
