"""Runs of several ranks, as real processes over gloo: the same training, and nobody left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from disks import tmpfs
from processes import arguments, finish, last_of_each_key, metrics, numbers, start, wait_for_step, weights

from vim_train.engine.checkpoint import latest

pytestmark = pytest.mark.slow

TWO = ("gpus=2", "device=cpu", "optim.accumulate=1")


def test_two_ranks_train_as_one_with_two_passes(tmp_path: Path, photos: Path) -> None:
    """The same images in the same order with the same draws: losses and gradients differ by rounding alone."""
    short = ("schedule.epochs=3", "eval.every=1ep", "data.eval_batch_size=3")
    one, two = tmp_path / "one", tmp_path / "two"
    for root, more in ((one, ()), (two, TWO)):
        code, output = finish(start("train", *arguments(root, photos, *short, *more)))
        assert code == 0, output
    assert output.count("done in") == 1  # one voice
    a, b = numbers(one / "test"), numbers(two / "test")
    assert [(line["kind"], line["step"]) for line in a] == [(line["kind"], line["step"]) for line in b]
    for left, right in zip(a, b, strict=True):
        for name in left.keys() - {"kind", "step", "epoch"}:
            assert right[name] == pytest.approx(left[name], rel=2e-3, abs=1e-4), (left["step"], name)
    seen = [json.loads((root / "test" / "summary.json").read_text())["images_seen"] for root in (one, two)]
    assert seen[0] == seen[1]


def test_stopped_on_two_ranks_and_going_on_alone(tmp_path: Path, photos: Path) -> None:
    args = arguments(tmp_path, photos, "schedule.epochs=8", *TWO)
    process = start("train", *args)
    wait_for_step(tmp_path / "test", 6, process)
    workers = children(process.pid)
    assert len(workers) == 2
    process.send_signal(signal.SIGUSR1)
    code, output = finish(process)
    assert code == 143, output
    assert output.count("SIGUSR1: saved at step") == 1
    assert "Traceback" not in output
    assert gone(workers)
    code, output = finish(start("train", *args, "gpus=null"))
    assert code == 0, output
    assert "goes on from step" in output
    steps = [line["step"] for line in metrics(tmp_path / "test") if line["kind"] == "train"]
    assert steps == sorted(set(steps))
    assert weights(tmp_path / "test")


@pytest.mark.full
def test_a_full_disk_stops_all_ranks_in_one_line(tmp_path: Path, photos: Path) -> None:
    """The second save finds no room, as something else has filled the disk; rank 0 alone knows."""
    with tmpfs(tmp_path / "disk", "size=8m") as disk:
        keys = ("checkpoint.on_error=stop", "checkpoint.every=4st", "eval.every=20ep", *TWO)
        process = start("train", *arguments(disk, photos, *keys))
        while process.poll() is None and not list(disk.glob("test/checkpoints/step_*")):
            time.sleep(0.005)
        workers = children(process.pid)
        with (disk / "other").open("wb", buffering=0) as other, suppress(OSError):  # until it is full
            while other.write(bytes(1 << 12)):
                pass
        code, output = finish(process)
        assert code == 1, output
        [line] = [line for line in output.splitlines() if "stopped" in line]
        assert re.search(r"stopped: .*step_\d+: not saved: it takes [\d,]+ bytes and [\d,]+ are free", line)
        assert "Traceback" not in output
        assert gone(workers)
        found = latest(disk / "test")
        assert found is not None
        assert found.step % 4 == 0

        os.truncate(disk / "other", (disk / "other").stat().st_size - (1 << 17))  # room for a lock, for no checkpoint
        code, output = finish(start("train", *arguments(disk, photos, *keys)))
        assert code == 2, output
        assert re.search(r"checkpoints: takes [\d,]+ bytes a checkpoint and [\d,]+ are free$", output.strip())


def test_a_killed_rank_ends_the_run_and_is_named(tmp_path: Path, photos: Path) -> None:
    process = start("train", *arguments(tmp_path, photos, "schedule.epochs=200", *TWO))
    wait_for_step(tmp_path / "test", 6, process)
    workers = children(process.pid)
    os.kill(next(pid for pid in workers if rank_of(pid) == "1"), signal.SIGKILL)
    killed = time.monotonic()
    code, output = finish(process)
    assert code == 128 + signal.SIGKILL, output
    assert time.monotonic() - killed < 20
    assert "vim-train: rank 1 was killed by SIGKILL; the others end" in output
    assert "Traceback" not in output
    assert gone(workers)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 143)])
def test_a_signal_while_ranks_start_ends_all_and_blames_none(
    number: signal.Signals, code: int, tmp_path: Path, photos: Path
) -> None:
    process = start("train", *arguments(tmp_path, photos, *TWO))
    while len(children(process.pid)) < 2:
        time.sleep(0.01)
    workers = children(process.pid)
    process.send_signal(number)
    assert finish(process) == (code, f"vim-train: ended by {number.name}\n")
    assert gone(workers)


def test_ranks_end_with_their_launcher(tmp_path: Path, photos: Path) -> None:
    process = start("train", *arguments(tmp_path, photos, "schedule.epochs=200", *TWO))
    wait_for_step(tmp_path / "test", 3, process)
    workers = children(process.pid)
    process.kill()
    finish(process)
    assert gone(workers)


def test_a_mistake_is_one_line_of_one_rank(tmp_path: Path, photos: Path) -> None:
    for more, words in (
        (("data.lane=8",), "data.batch_size=8: takes a multiple of 16 (2 ranks x data.lane=8)"),
        (("run.resume=must",), "run.resume=must: no unfinished run"),
        ((f"model.checkpoint={photos}",), str(photos)),
    ):
        code, output = finish(start("train", *arguments(tmp_path, photos, *TWO, *more)))
        assert code == 2, output
        assert [line for line in output.splitlines() if line.startswith("vim-train: ")] == output.splitlines()[-1:]
        assert words in output.splitlines()[-1]
        assert "Traceback" not in output


def test_torchrun_starts_the_same_run(tmp_path: Path, photos: Path) -> None:
    args = arguments(tmp_path, photos, "schedule.epochs=2", "device=cpu", "optim.accumulate=1")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, "-m", "vim_train.cli.train", *last_of_each_key(args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "test" / "summary.json").read_text())["finished"] is True


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def rank_of(pid: int) -> str:
    settings = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(item.removeprefix(b"RANK=").decode() for item in settings if item.startswith(b"RANK="))


def gone(pids: list[int]) -> bool:
    """Whether the processes are, or soon will be, no more."""
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() and "State:\tZ" not in status(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "State:\tZ"
