"""A checkpoint comes back as it was; what cannot be saved is refused and leaves the earlier ones alone."""

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from disks import tmpfs
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from saving import META, holds, names, save, weights

from vim_train.engine import checkpoint, durable
from vim_train.engine.checkpoint import CheckpointError, latest, load


def test_everything_saved_comes_back(tmp_path: Path) -> None:
    path = save(tmp_path, 7)
    assert path == tmp_path / "checkpoints" / "step_00000007"
    assert sorted(entry.name for entry in path.iterdir()) == [
        "ema.safetensors", "manifest.json", "model.safetensors", "state.pt",
    ]  # fmt: skip
    assert holds(path, 7)
    assert load(path).meta == META


def test_without_ema_none_is_written(tmp_path: Path) -> None:
    path = save(tmp_path, 7, ema=None)
    assert not (path / "ema.safetensors").exists()
    assert load(path).ema is None


def test_real_optimizer_and_scaler_state_resume_bit_for_bit(tmp_path: Path) -> None:
    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer, torch.amp.GradScaler]:
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 3)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu")

    def train(model: Any, optimizer: Any, scaler: Any, seed: int) -> None:
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        scaler.scale(model(x).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()

    straight, resumed = build(), build()
    train(*straight, seed=1)
    state = {"optimizer": straight[1].state_dict(), "scaler": straight[2].state_dict()}
    path = save(tmp_path, 1, model=straight[0].state_dict(), ema=None, state=state)
    train(*straight, seed=2)

    loaded = load(path)
    resumed[0].load_state_dict(loaded.model)
    resumed[1].load_state_dict(loaded.state["optimizer"])
    resumed[2].load_state_dict(loaded.state["scaler"])
    train(*resumed, seed=2)
    for name, tensor in straight[0].state_dict().items():
        assert torch.equal(tensor, resumed[0].state_dict()[name])
    assert straight[2].state_dict() == resumed[2].state_dict()


def test_views_tied_empty_and_half_precision_tensors(tmp_path: Path) -> None:
    base = torch.randn(6, 4)
    model = {
        "transposed": base.t(), "tied": base, "again": base, "row": base[2], "empty": torch.zeros(0, 3),
        "bf16": base.bfloat16(), "count": torch.tensor(3), "parameter": torch.nn.Parameter(base[:2]),
    }  # fmt: skip
    path = save(tmp_path, 1, model=model, ema=None)
    by_others = safetensors.torch.load_file(path / "model.safetensors")
    assert by_others.keys() == model.keys()
    for name, tensor in model.items():
        assert torch.equal(by_others[name], tensor)
        assert by_others[name].dtype == tensor.dtype
        assert torch.equal(load(path).model[name], tensor)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


@hypothesis_settings(max_examples=25, deadline=None)
@given(state=st.dictionaries(st.text(max_size=5), plain, max_size=4))
def test_any_plain_state_comes_back(tmp_path_factory: pytest.TempPathFactory, state: dict[str, Any]) -> None:
    run = tmp_path_factory.mktemp("run")
    assert load(save(run, 0, state=state, ema=None)).state == state


@pytest.mark.parametrize("value", [np.float64(1.0), Path("x"), np.zeros(2), b"bytes", {1, 2}, object()])
def test_state_that_would_not_load_again_is_refused_at_once(tmp_path: Path, value: object) -> None:
    with pytest.raises(TypeError, match=r"state\['counters'\]\['best'\] is a "):
        save(tmp_path, 1, state={"counters": {"best": value}})
    assert latest(tmp_path) is None


def test_equal_content_gives_equal_files(tmp_path: Path) -> None:
    first, second = save(tmp_path / "a", 5), save(tmp_path / "b", 5)
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()


def test_manifest_names_every_file(tmp_path: Path) -> None:
    path = save(tmp_path, 7)
    manifest = json.loads((path / "manifest.json").read_text())
    assert list(manifest) == ["format", "step", "meta", "files", "sha256"]
    for name, entry in manifest["files"].items():
        assert entry["bytes"] == (path / name).stat().st_size
        digest = subprocess.run(["sha256sum", path / name], capture_output=True, text=True, check=True).stdout
        assert digest.split()[0] == entry["sha256"]


def test_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power can fail at any time: contents first, then the names in the directory, the rename, the name's directory."""
    save(tmp_path, 1)
    events: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_sync(fd: int) -> None:
        events.append("sync " + os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    def note_rename(source: Path, target: Path) -> None:
        events.append("rename " + Path(target).name)
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "rename", note_rename)
    save(tmp_path, 2)
    assert events == [
        "sync model.safetensors", "sync ema.safetensors", "sync state.pt", "sync manifest.json",
        "sync .tmp-step_00000002", "rename step_00000002", "sync checkpoints",
    ]  # fmt: skip


# --- what is kept


def test_the_newest_are_kept_by_number(tmp_path: Path) -> None:
    for step in (9, 10, 100, 1000):
        save(tmp_path, step, keep=3)
    os.utime(tmp_path / "checkpoints" / "step_00000010")  # time says nothing
    assert names(tmp_path) == ["step_00000010", "step_00000100", "step_00001000"]


@pytest.mark.parametrize("keep", [-1, 0, 1, 2])
def test_two_are_kept_at_least(tmp_path: Path, keep: int) -> None:
    for step in range(4):
        save(tmp_path, step, keep=keep)
    assert names(tmp_path) == ["step_00000002", "step_00000003"]


def test_a_damaged_one_does_not_count(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (save(tmp_path, 2) / "state.pt").write_bytes(b"")
    save(tmp_path, 3)
    assert names(tmp_path) == ["step_00000001", "step_00000002", "step_00000003"]
    save(tmp_path, 4)
    assert names(tmp_path) == ["step_00000003", "step_00000004"]


def test_the_one_just_saved_stays_whatever_else_is_there(tmp_path: Path) -> None:
    for step in (5, 6, 7):
        save(tmp_path, step, keep=3)
    assert save(tmp_path, 4).is_dir()


def test_a_failed_deletion_is_no_failed_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)

    def refuse(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        save(tmp_path, 3)
    found = latest(tmp_path)
    assert found is not None
    assert found.step == 3
    assert durable.sweep(tmp_path / "checkpoints") == [".tmp-step_00000001"]


def test_saved_again_at_the_same_step(tmp_path: Path) -> None:
    (save(tmp_path, 3) / "model.safetensors").write_bytes(b"damaged")
    assert holds(save(tmp_path, 3), 3)
    assert names(tmp_path) == ["step_00000003"]


@pytest.fixture(params=[True, False], ids=["exchange", "rename"])
def exchange(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """With and without a file system that can exchange two directories."""
    if not request.param:
        monkeypatch.setattr(durable, "_exchange", lambda a, b: False)
    return bool(request.param)


@pytest.mark.usefixtures("exchange")
def test_best_is_kept_apart(tmp_path: Path) -> None:
    best = tmp_path / "checkpoints" / "best"
    save(tmp_path, 1, best=True)
    assert holds(best, 1)
    for step in (2, 3, 4):
        save(tmp_path, step)
    assert holds(best, 1)
    save(tmp_path, 5, best=True)
    assert holds(best, 5)
    assert names(tmp_path) == ["best", "step_00000004", "step_00000005"]


def test_best_stays_where_its_replacement_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1, best=True)
    rename = os.rename

    def fail(source: Path, target: Path) -> None:
        if Path(source).name == ".tmp-best":
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "_exchange", lambda a, b: False)
        patch.setattr(os, "rename", fail)
        with pytest.raises(CheckpointError, match="Input/output error"):
            save(tmp_path, 2, best=True)
    assert names(tmp_path) == ["best", "step_00000001"]
    assert holds(tmp_path / "checkpoints" / "best", 1)


def test_best_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    save(tmp_path, 1, best=True)
    assert holds(tmp_path / "checkpoints" / "best", 1)


def test_linux_exchanges_directories_in_one_step(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    for path in (a, b):
        path.mkdir()
        (path / path.name).touch()
    if not durable._exchange(a, b):
        pytest.skip("this file system cannot exchange two names")
    assert (a / "b").exists()
    assert (b / "a").exists()


# --- what is refused


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", ["model", "ema"])
def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, which: str, value: float) -> None:
    save(tmp_path, 1)
    broken = weights(2)
    broken["head.weight"][1, 1] = value
    with pytest.raises(CheckpointError) as raised:
        save(tmp_path, 2, **{which: broken})
    assert str(raised.value) == (
        f"checkpoint {tmp_path}/checkpoints/step_00000002: not saved:"
        f" {which}.safetensors: head.weight has 1 of 6 values that are not finite"
    )
    assert names(tmp_path) == ["step_00000001"]


@pytest.mark.parametrize("call", ["fsync", "mkdir", "rename"])
def test_an_io_error_leaves_the_earlier_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    save(tmp_path, 1, best=True)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(CheckpointError, match="step_00000002: not saved: Input/output error"):
            save(tmp_path, 2, best=False)
    assert "step_00000001" in names(tmp_path)
    durable.sweep(tmp_path / "checkpoints")
    assert names(tmp_path) == ["best", "step_00000001"]
    assert holds(tmp_path / "checkpoints" / "best", 1)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    with tmpfs(tmp_path / "disk", "size=1m") as disk:
        yield disk


@pytest.mark.parametrize("checked_before", [True, False], ids=["before", "while"])
@pytest.mark.parametrize("best", [True, False])
def test_a_full_disk_keeps_the_earlier_one(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch, checked_before: bool, best: bool
) -> None:
    """Whether it is seen before writing, or happens while: another process may have taken the room."""
    size = 3000  # 192 kB a tensor, about 580 kB a checkpoint
    save(small_disk, 1, size=size)
    usage, calls = shutil.disk_usage, []

    def optimistic(path: Path) -> Any:
        calls.append(path)
        return usage("/") if len(calls) == 1 and not checked_before else usage(path)

    monkeypatch.setattr(checkpoint.shutil, "disk_usage", optimistic)
    with pytest.raises(CheckpointError) as raised:
        save(small_disk, 2, size=size, best=best)
    free = usage(small_disk).free
    text = str(raised.value)
    assert text.startswith(f"checkpoint {small_disk}/checkpoints/step_00000002: not saved: it takes ")
    if checked_before:
        assert text.endswith(f" bytes and {free:,} are free")
    assert names(small_disk) == ["step_00000001"]
    found = latest(small_disk)
    assert found is not None
    assert holds(found.path, 1, size)


def test_the_room_asked_for_is_a_close_upper_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = sum(file.stat().st_size for file in save(tmp_path, 1, size=3000).iterdir())
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage._replace(free=taken))
    with pytest.raises(CheckpointError, match="it takes"):
        save(tmp_path, 2, size=3000)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage._replace(free=taken + 100_000))
    save(tmp_path, 2, size=3000)
