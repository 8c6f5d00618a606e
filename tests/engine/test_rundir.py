"""Which folder a run gets: the rules of run.name and run.resume, config.yaml, and one process a folder."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from disks import tmpfs
from omegaconf import OmegaConf
from saving import save, spawn, wait

from vim_train.config.errors import UserError
from vim_train.config.schema import Resume
from vim_train.engine import lock
from vim_train.engine.rundir import Run, open_run

CONFIG: dict[str, Any] = {
    "seed": 0,
    "debug": False,
    "run": {"root": "runs", "name": "x", "resume": "auto"},
    "data": {"workers": 2, "batch_size": 128, "mean": [0.5, 0.25]},
    "optim": {"lr": 1e-6, "grad_clip_norm": None},
    "ops": {"threads": None, "tune_malloc": True, "backend": "auto"},
    "checkpoint": {"every": "1ep", "keep": 2},
    "logger": {"every": "50st", "wandb": {"mode": "auto", "tags": ["1e3", "${x}"]}},
}


def config(**changes: object) -> dict[str, Any]:
    """CONFIG with dotted keys (dots as __) changed."""
    changed = deepcopy(CONFIG)
    for dotted, value in changes.items():
        *groups, key = dotted.split("__")
        node = changed
        for group in groups:
            node = node[group]
        node[key] = value
    return changed


def start(
    root: Path, name: str = "x", resume: Resume = Resume.auto, allow: Sequence[str] = (), **changes: object
) -> Run:
    """Open a run and leave it again, as if the process had ended."""
    with open_run(root, name, resume, config(**changes), allow) as run:
        return run


def finish(run: Run) -> None:
    (run.path / "summary.json").write_text(json.dumps({"finished": True, "eval/top1": 85.0}))


@contextmanager
def refused(*parts: str) -> Iterator[None]:
    with pytest.raises(UserError) as raised:
        yield
    text = str(raised.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_a_new_run_gets_its_folder_and_config(tmp_path: Path) -> None:
    run = start(tmp_path / "deep" / "runs")
    assert run.path == tmp_path / "deep" / "runs" / "x"
    assert (run.resume_from, run.notes) == (None, [])
    assert [entry.name for entry in run.path.iterdir() if not entry.name.startswith(".")] == ["config.yaml"]
    assert OmegaConf.to_container(OmegaConf.load(run.path / "config.yaml")) == CONFIG


def test_an_unfinished_run_goes_on_from_its_newest_checkpoint(tmp_path: Path) -> None:
    first = start(tmp_path)
    for step in (5, 10):
        save(first.path, step)
    again = start(tmp_path)
    assert again.path == first.path
    assert again.resume_from is not None
    assert again.resume_from.step == 10
    assert again.notes == [f"goes on from step 10 ({first.path}/checkpoints/step_00000010)"]


def test_a_damaged_checkpoint_is_passed_over_in_a_note(tmp_path: Path) -> None:
    first = start(tmp_path)
    save(first.path, 5)
    (save(first.path, 10) / "state.pt").unlink()
    again = start(tmp_path)
    assert again.resume_from is not None
    assert again.resume_from.step == 5
    assert again.notes[0] == f"passed over {first.path}/checkpoints/step_00000010: state.pt is missing"


def test_a_run_killed_before_its_first_checkpoint_starts_again_in_place(tmp_path: Path) -> None:
    first = start(tmp_path)
    again = start(tmp_path)
    assert (again.path, again.resume_from) == (first.path, None)
    assert again.notes == [f"{first.path} was started before and has no checkpoint: starts from the beginning"]


def test_leftovers_of_a_crash_are_cleared(tmp_path: Path) -> None:
    first = start(tmp_path)
    save(first.path, 5, best=True)
    folder = first.path / "checkpoints"
    shutil.copytree(folder / "step_00000005", folder / ".tmp-step_00000006")
    (folder / "best").rename(folder / ".old-best")
    (first.path / ".tmp-config.yaml").write_text("half a conf")
    again = start(tmp_path)
    assert again.notes[0] == f"cleared what an unfinished save had left in {folder}"
    assert sorted(entry.name for entry in folder.iterdir()) == ["best", "step_00000005"]
    assert not (first.path / ".tmp-config.yaml").exists()


def test_a_crash_before_config_yaml_leaves_a_folder_that_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / ".lock").touch()
    (tmp_path / "x" / ".tmp-config.yaml").touch()
    run = start(tmp_path)
    assert (run.path, run.resume_from, run.notes) == (tmp_path / "x", None, [])


def test_a_finished_run_gets_a_successor_with_a_number(tmp_path: Path) -> None:
    first = start(tmp_path)
    finish(first)
    second = start(tmp_path, optim__lr=0.5)
    assert second.path == tmp_path / "x-2"
    assert second.notes == [f"{tmp_path}/x is finished: this run is {tmp_path}/x-2"]
    save(second.path, 5)
    resumed = start(tmp_path, optim__lr=0.5)  # the successor was killed
    assert (resumed.path, resumed.resume_from and resumed.resume_from.step) == (second.path, 5)
    finish(second)
    assert start(tmp_path).path == tmp_path / "x-3"


@pytest.mark.parametrize("summary", ["", '{"finished": tr', "[1]", '{"finished": false}', "{}"])
def test_only_a_summary_that_says_so_makes_a_run_finished(tmp_path: Path, summary: str) -> None:
    (start(tmp_path).path / "summary.json").write_text(summary)
    assert start(tmp_path).path == tmp_path / "x"


def test_a_run_without_a_checkpoint_starts_again_with_another_configuration(tmp_path: Path) -> None:
    start(tmp_path)
    again = start(tmp_path, optim__lr=1e-3)
    assert again.path == tmp_path / "x"
    assert again.resume_from is None
    assert OmegaConf.load(again.path / "config.yaml").optim.lr == 1e-3


def test_another_configuration_is_refused_by_its_keys(tmp_path: Path) -> None:
    save(start(tmp_path).path, 5)
    with refused(
        f"{tmp_path}/x was started with another configuration:",
        "data.mean was [0.5, 0.25], is [0.5]; optim.lr was 1e-06, is 0.001",
        "take another run.name",
        "run.allow=[data.mean,optim.lr]",
    ):
        start(tmp_path, optim__lr=1e-3, data__mean=[0.5])
    with refused("optim.grad_clip_norm was null, is 1.0; optim.new was absent, is true; ops.backend was auto, is cpu"):
        start(tmp_path, optim__new=True, optim__grad_clip_norm=1.0, ops__backend="cpu")
    with refused("data.mean was", "; and 2 more; put it back"):
        start(tmp_path, data__crop=1, data__mean=[1], optim__lr=1, optim__grad_clip_norm=1, ops__backend="b")


def test_what_to_allow_is_said_by_group_where_several_of_one_differ(tmp_path: Path) -> None:
    save(start(tmp_path).path, 5)
    with refused("run.allow=[optim,ops.backend]"):
        start(tmp_path, optim__a=1, optim__lr=1, optim__grad_clip_norm=1, ops__backend="b")


def test_a_key_younger_than_the_run_had_its_default(tmp_path: Path) -> None:
    save(start(tmp_path).path, 5)
    assert start(tmp_path, optim__non_finite="stop").resume_from is not None
    with refused("optim.non_finite was stop, is skip"):
        start(tmp_path, optim__non_finite="skip")


def test_the_table_says_what_to_do_about_each(tmp_path: Path) -> None:
    save(start(tmp_path).path, 5)
    with pytest.raises(UserError) as raised:
        start(tmp_path, allow=["ops.backend"], seed=5, optim__lr=1e-3, ops__backend="cpu", data__workers=9)
    assert raised.value.table == [
        "key          was    is     to go on",
        "seed         0      5      put it back",
        "optim.lr     1e-06  0.001  run.allow=[optim.lr]",
        "ops.backend  auto   cpu    allowed",
    ]
    assert "a run cannot change seed: put it back or take another run.name" in str(raised.value)


@pytest.mark.parametrize("allow", [["seed"], ["seed", "optim"]])
@pytest.mark.parametrize("resume", [Resume.auto, Resume.must])
def test_another_seed_is_another_run_whatever_is_allowed(tmp_path: Path, allow: list[str], resume: Resume) -> None:
    save(start(tmp_path).path, 5)
    with refused("seed was 0, is 5; a run cannot change seed"):
        start(tmp_path, resume=resume, allow=allow, seed=5)


def test_the_line_to_go_on_with_keeps_what_is_allowed_already(tmp_path: Path) -> None:
    save(start(tmp_path).path, 5)
    with refused("configuration: ops.backend was auto, is cpu;", "run.allow=[optim,ops.backend]"):
        start(tmp_path, allow=["optim"], optim__lr=1e-3, ops__backend="cpu")


def test_keys_that_change_no_number_may_differ(tmp_path: Path) -> None:
    save(start(tmp_path).path, 5)
    again = start(
        tmp_path, debug=True, run__root="elsewhere", run__resume="must", data__workers=0, ops__threads=4,
        ops__tune_malloc=False, checkpoint__every="10st", checkpoint__keep=9, logger__every="1st",
        logger__wandb__mode="disabled", logger__wandb__tags=[], data__root="/moved",
    )  # fmt: skip
    assert again.resume_from is not None
    left = OmegaConf.load(again.path / "config.yaml")
    assert left.data.workers == 2  # as it was at the start
    assert left.data.root == "/moved"
    assert again.notes[0] == "data.root is now /moved"


def test_what_is_allowed_goes_on_and_keeps_the_old_configuration(tmp_path: Path) -> None:
    first = start(tmp_path)
    save(first.path, 5)
    with refused("optim.lr was 1e-06, is 0.5"):
        start(tmp_path, resume=Resume.must, optim__lr=0.5)
    again = start(tmp_path, allow=["optim.lr", "schedule"], optim__lr=0.5)
    assert again.resume_from is not None
    assert again.notes[0] == (
        "goes on with another configuration: optim.lr was 1e-06, is 0.5;"
        " the earlier one is config.until_step_00000005.yaml"
    )
    assert OmegaConf.load(first.path / "config.yaml").optim.lr == 0.5
    assert OmegaConf.load(first.path / "config.until_step_00000005.yaml").optim.lr == 1e-6
    assert start(tmp_path, optim__lr=0.5).path == first.path


def test_must_has_something_to_resume(tmp_path: Path) -> None:
    with refused("run.resume=must: no unfinished run", "/x"):
        start(tmp_path, resume=Resume.must)
    assert not (tmp_path / "x").exists()
    first = start(tmp_path)
    with refused(f"run.resume=must: {tmp_path}/x has no checkpoint"):
        start(tmp_path, resume=Resume.must, seed=7)
    assert OmegaConf.load(first.path / "config.yaml").seed == 0
    finish(first)
    with refused("run.resume=must: no unfinished run"):
        start(tmp_path, resume=Resume.must)
    second = start(tmp_path)
    save(second.path, 5)
    assert start(tmp_path, resume=Resume.must).path == second.path


def test_never_takes_a_folder_of_its_own(tmp_path: Path) -> None:
    save(start(tmp_path).path, 5)
    (tmp_path / "x-2").mkdir()
    run = start(tmp_path, resume=Resume.never)
    assert (run.path, run.resume_from) == (tmp_path / "x-3", None)
    assert run.notes == [f"{tmp_path}/x exists: this run is {tmp_path}/x-3"]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.tex").touch()
    with refused(f"{tmp_path}/x is not a run (no config.yaml in it) and not empty"):
        start(tmp_path)
    assert [entry.name for entry in (tmp_path / "x").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("text", ["a: [", "- 1"])
def test_a_damaged_config_is_named(tmp_path: Path, text: str) -> None:
    (start(tmp_path).path / "config.yaml").write_text(text)
    with refused(f"{tmp_path}/x/config.yaml is damaged"):
        start(tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/x", "a/b", ".hidden", "a\0b"])
def test_a_name_that_is_no_folder_name(tmp_path: Path, name: str) -> None:
    with refused(f"run.name={name}: takes a folder name under run.root"):
        start(tmp_path, name=name)


# --- folders that cannot be written


def test_root_under_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file" / "runs", Path("/dev/null/runs"), Path("/proc/runs")):
        with refused(f"run.root={root}: cannot use "):
            start(root)


def test_a_file_in_place_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with refused(f"run.root={tmp_path}: cannot use {tmp_path}/x"):
        start(tmp_path)


@pytest.mark.parametrize("started", [True, False])
def test_a_read_only_file_system(tmp_path: Path, started: bool) -> None:
    with tmpfs(tmp_path / "disk") as disk:
        if started:
            start(disk)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with refused(f"run.root={disk}: cannot use {disk}/x", os.strerror(errno.EROFS)):
            start(disk)


# --- one process a folder


def hold(root: Path, also_fork: bool = False) -> int:
    """A child process that has the run open; returns its pid."""
    reader, writer = os.pipe()

    def body() -> None:
        os.close(reader)
        run = open_run(root, "x", Resume.auto, CONFIG)
        if also_fork and os.fork() == 0:
            os.close(writer)
            time.sleep(60)
            os._exit(0)
        os.write(writer, b"!" if run.path.exists() else b"?")
        os.close(writer)
        time.sleep(60)

    pid = spawn(body)
    os.close(writer)
    assert os.read(reader, 1) == b"!"
    os.close(reader)
    return pid


def test_a_living_run_is_named_and_a_killed_one_is_free(tmp_path: Path) -> None:
    pid = hold(tmp_path)
    try:
        with refused(f"{tmp_path}/x is in use by process {pid} on {socket.gethostname()} since 20", "run.name"):
            start(tmp_path)
        with refused(f"process {pid}"):
            start(tmp_path, resume=Resume.must, seed=5)
        assert start(tmp_path, resume=Resume.never).path == tmp_path / "x-2"
    finally:
        os.kill(pid, signal.SIGKILL)
        assert wait(pid) == -signal.SIGKILL
    assert start(tmp_path).path == tmp_path / "x"


def test_the_workers_of_a_killed_run_do_not_hold_its_folder(tmp_path: Path) -> None:
    """A forked data worker has every descriptor of its parent and may outlive it."""
    subreaper = hold(tmp_path, also_fork=True)
    children = Path(f"/proc/{subreaper}/task/{subreaper}/children").read_text().split()
    os.kill(subreaper, signal.SIGKILL)
    wait(subreaper)
    try:
        assert start(tmp_path).path == tmp_path / "x"
    finally:
        for child in children:
            os.kill(int(child), signal.SIGKILL)


def test_within_one_process_too(tmp_path: Path) -> None:
    with open_run(tmp_path, "x", Resume.auto, CONFIG), refused(f"process {os.getpid()} on"):
        start(tmp_path)
    start(tmp_path)


def test_a_refused_start_frees_the_folder(tmp_path: Path) -> None:
    save(start(tmp_path).path, 5)
    for _ in range(2):
        with refused("another configuration"):
            start(tmp_path, seed=1)
    assert start(tmp_path).resume_from is not None


def test_an_unknown_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_PATIENCE_S", 0.1)
    with open_run(tmp_path, "x", Resume.auto, CONFIG) as run:
        (run.path / ".owner.json").write_text("{")
        with refused(f"{run.path} is in use by another process"):
            start(tmp_path)
        (run.path / ".owner.json").write_text(json.dumps({"host": "far-away", "pid": 1, "since": "today"}))
        with refused(f"{run.path} is in use by process 1 on far-away since today"):
            start(tmp_path)
