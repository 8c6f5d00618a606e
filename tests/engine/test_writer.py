"""Saving beside training: what is written, when it is told, and that nothing leaves before it has ended."""

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from disks import tmpfs
from saving import META, holds, names, weights
from toy import toy_config, toy_trainer

from vim_train.config.schema import OnError
from vim_train.engine import checkpoint
from vim_train.engine.checkpoint import CheckpointError, latest, load
from vim_train.engine.state import DivergedError
from vim_train.engine.weights import leaves
from vim_train.engine.writer import Snapshot, Writer


def content(step: int) -> dict[str, Any]:
    state = {"optimizer": {"state": {0: {"exp_avg": torch.full((64, 16), -float(step))}}}, "step": step}
    return {"model": weights(step), "ema": weights(step + 1000), "state": state, "meta": dict(META), "best": False}


def test_what_changes_while_it_is_written_is_not_in_it(tmp_path: Path) -> None:
    changed = threading.Event()
    writer, given = Writer(tmp_path, 2), content(1)
    writer.submit(1, **given, first=lambda: None if changed.wait(30) else pytest.fail("never"))
    for tensor in (
        *given["model"].values(),
        *given["ema"].values(),
        given["state"]["optimizer"]["state"][0]["exp_avg"],
    ):
        tensor.zero_()
    given["state"]["optimizer"]["state"].clear()
    given["meta"].clear()
    assert writer.poll() is None
    changed.set()
    outcome = writer.close()
    assert outcome is not None
    assert (outcome.step, outcome.error) == (1, None)
    assert holds(tmp_path / "checkpoints" / "step_00000001", 1)
    assert load(tmp_path / "checkpoints" / "step_00000001").meta == META


def test_the_memory_of_a_copy_is_used_again() -> None:
    snapshot, tensor = Snapshot(), torch.randn(5, 3)
    first = snapshot.take({"a": [tensor, {"b": 1}], "t": tensor.t()})
    tensor += 1
    second = snapshot.take({"a": [tensor, {"b": 2}], "t": tensor.t()})
    assert second["a"][0].data_ptr() == first["a"][0].data_ptr() != tensor.data_ptr()
    assert torch.equal(second["a"][0], tensor)
    assert torch.equal(second["t"], tensor.t())
    assert (first["a"][1], second["a"][1]) == ({"b": 1}, {"b": 2})
    larger = snapshot.take({"a": [torch.ones(7)]})
    assert torch.equal(larger["a"][0], torch.ones(7))


def test_what_cannot_be_made_durable_first_is_no_checkpoint(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError(errno.EIO, "Input/output error")

    writer = Writer(tmp_path, 2)
    writer.submit(1, **content(1), first=fail)
    outcome = writer.close()
    assert outcome is not None
    assert "step_00000001: not saved: " in str(outcome.error)
    assert latest(tmp_path) is None


# --- beside training


@pytest.fixture
def slow_saves(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Saves that take many steps' time; what they do, in order."""
    log: list[str] = []
    save = checkpoint.save

    def slowly(run_dir: Path, step: int, **rest: Any) -> Path:
        log.append(f"begin {step}")
        time.sleep(0.05)
        path = save(run_dir, step, **rest)
        log.append(f"end {step}")
        return path

    monkeypatch.setattr(checkpoint, "save", slowly)
    return log


def test_one_save_at_a_time_and_all_of_them_before_the_end(tmp_path: Path, slow_saves: list[str]) -> None:
    cfg = toy_config()
    cfg.checkpoint.every, cfg.checkpoint.keep = "3st", 100
    trainer = toy_trainer(cfg, tmp_path)
    trainer.train()
    saved = trainer.report.saves
    assert set(saved) >= {3, 6, 9, 12, 15, 18, 20}
    assert slow_saves == [f"{what} {step}" for step in saved for what in ("begin", "end")]
    found = latest(tmp_path)
    assert found is not None
    assert found.step == 20


def test_training_goes_on_while_a_save_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg, save = toy_config(), checkpoint.save
    cfg.checkpoint.every, cfg.eval.every = "3st", "4ep"
    trainer = toy_trainer(cfg, tmp_path)
    at_five = threading.Event()
    progress = trainer.report.progress

    def note(step: int, *rest: float) -> None:
        progress(step, *rest)
        if step == 5:
            assert trainer.report.saves == []  # not told before it is durable
            at_five.set()

    def save_late(run_dir: Path, step: int, **rest: Any) -> Path:
        assert at_five.wait(30)
        return save(run_dir, step, **rest)

    trainer.report.progress = note  # type: ignore[method-assign]
    monkeypatch.setattr(checkpoint, "save", save_late)
    trainer.train()
    assert trainer.report.saves == [3, 6, 9, 12, 15, 18, 20, 20]  # before and after the first evaluation


@pytest.mark.parametrize("error", [DivergedError, KeyboardInterrupt, RuntimeError])
def test_an_exception_leaves_after_the_save_in_flight(
    tmp_path: Path, slow_saves: list[str], error: type[BaseException]
) -> None:
    trainer = toy_trainer(toy_config(), tmp_path)
    finite = trainer._finite

    def raise_at_two(*numbers: float) -> bool:
        if trainer.state.counters.step == 2:
            raise error
        return finite(*numbers)

    trainer._finite = raise_at_two  # type: ignore[method-assign]
    with pytest.raises(error):
        trainer.train()
    assert slow_saves == ["begin 2", "end 2"]
    assert trainer.report.saves == [2]
    assert "checkpoint" not in " ".join(thread.name for thread in threading.enumerate())
    assert names(tmp_path) == ["step_00000002"]


# --- saves that fail


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[int]], None]:
    """Let the renames of some steps fail, as on a disk that goes bad."""
    rename = os.rename

    def at(steps: set[int]) -> None:
        def fail(source: Path, target: Path) -> None:
            if Path(target).name in {f"step_{step:08d}" for step in steps}:
                raise OSError(errno.EIO, "Input/output error")
            rename(source, target)

        monkeypatch.setattr(os, "rename", fail)

    return at


def test_warn_tells_it_and_tries_again(tmp_path: Path, failing: Callable[[set[int]], None]) -> None:
    failing({4, 6})
    trainer = toy_trainer(toy_config(), tmp_path)
    trainer.train()
    told = [line["text"] for line in trainer.report.lines if line["kind"] == "event"]
    folder = tmp_path / "checkpoints"
    assert told == [f"checkpoint {folder}/step_{n:08d}: not saved: Input/output error" for n in (4, 6)]
    assert trainer.report.saves[:4] == [2, 5, 5, 8]  # 5: before and after the first evaluation
    assert trainer.report.saves[-1] == 20
    assert names(tmp_path)[-1] == "step_00000020"


def test_stop_leaves_with_the_earlier_one(tmp_path: Path, failing: Callable[[set[int]], None]) -> None:
    failing({8})
    cfg = toy_config()
    cfg.checkpoint.on_error, cfg.eval.every = OnError.stop, "4ep"
    trainer = toy_trainer(cfg, tmp_path)
    with pytest.raises(CheckpointError, match="step_00000008: not saved: Input/output error"):
        trainer.train()
    assert trainer.report.saves == [2, 4, 6]
    found = latest(tmp_path)
    assert found is not None
    assert found.step == 6


@pytest.mark.parametrize("policy", OnError)
def test_the_last_one_must_succeed(tmp_path: Path, failing: Callable[[set[int]], None], policy: OnError) -> None:
    failing({20})
    cfg = toy_config()
    cfg.checkpoint.on_error = policy
    trainer = toy_trainer(cfg, tmp_path)
    with pytest.raises(CheckpointError, match="step_00000020: not saved"):
        trainer.train()
    found = latest(tmp_path)
    assert found is not None
    assert found.step == 18


def test_a_best_that_could_not_be_saved_is_to_be_beaten_by_nobody(
    tmp_path: Path, failing: Callable[[set[int]], None]
) -> None:
    whole = toy_trainer(toy_config(), tmp_path / "whole")
    whole.train()
    doomed = whole.state.counters.best_step
    assert doomed is not None
    assert doomed < whole.total_steps
    failing({doomed})
    trainer = toy_trainer(toy_config(), tmp_path)
    trainer.train()
    best = tmp_path / "checkpoints" / "best"
    held = load(best).step if best.is_dir() else None
    assert trainer.state.counters.best_step == held != doomed


def test_running_statistics_that_are_not_finite_are_named_and_not_saved(tmp_path: Path) -> None:
    cfg = toy_config()
    cfg.ema.decay = None
    trainer = toy_trainer(cfg, tmp_path)
    norm = torch.nn.BatchNorm1d(4)
    norm.running_mean[1] = float("nan")  # type: ignore[index]
    trainer.state.model = torch.nn.Sequential(norm, trainer.task.model)
    with pytest.raises(CheckpointError, match=r"model.safetensors: 0.running_mean has 1 of 4 values"):
        trainer.train()
    events = [line for line in trainer.report.lines if line["kind"] == "event"]
    assert len(events) > 5  # every save of the ten before was refused, and training went on
    assert latest(tmp_path) is None


def test_a_disk_without_room_is_told_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = toy_trainer(toy_config(), tmp_path)
    trainer.saver.check_disk()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage._replace(free=70_000))
    with pytest.raises(CheckpointError, match=r"checkpoints: takes [0-9,]+ bytes a checkpoint and 70,000 are free"):
        trainer.saver.check_disk()


def test_a_read_only_folder_is_told_before_the_first_step(tmp_path: Path) -> None:
    told = pytest.raises(CheckpointError, match=r"checkpoints: cannot be written: Read-only file system")
    with tmpfs(tmp_path / "checkpoints", "ro"), told:
        toy_trainer(toy_config(), tmp_path).saver.check_disk()


def test_the_room_foreseen_is_that_of_a_checkpoint(tmp_path: Path) -> None:
    """Before there is any state of the optimiser, whose buffers are as large as the weights."""
    for name in ("adamw", "sgd"):
        cfg = toy_config()
        cfg.optim.name = name
        trainer = toy_trainer(cfg, tmp_path / name)
        trainer.state.optimizer.add_param_group({"params": [big := torch.nn.Parameter(torch.zeros(300_000))]})
        foreseen = trainer.saver.bytes_foreseen()
        big.grad = torch.ones_like(big)
        trainer.state.optimizer.step()
        tensors = [value for _, value in leaves(trainer.state.rest()) if isinstance(value, torch.Tensor)]
        assert foreseen >= sum(tensor.nbytes for tensor in tensors)
        assert foreseen < sum(tensor.nbytes for tensor in tensors) + 200_000
