"""Real runs beside a W&B that fails, hangs or is killed: each ends with the bits of a run without it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import arguments, finish, metrics, numbers, wait_for_step, weights

pytestmark = pytest.mark.full

SERVER = {"WANDB_API_KEY": "0123456789" * 4, "WANDB_BASE_URL": "http://127.0.0.1:9"}  # the discard port: nobody there
LINES = 24  # for W&B, of a run of 60 steps
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(photos: Path, tmp_path: Path) -> Start:
    """Starts a run in tmp_path/ROOT/test, with W&B in a mode and what the environment is to have besides."""

    def start(
        root: str, mode: str, *more: str, first: str = "", prefix: tuple[str, ...] = (), **env: str
    ) -> subprocess.Popen[str]:
        code = f"{first}\nfrom vim_train.cli.train import main\nmain()"
        run = arguments(tmp_path / root, photos, f"logger.wandb.mode={mode}", *more)
        ours = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
        return subprocess.Popen(
            [*prefix, sys.executable, "-c", code, *run], env=ours | {"WANDB_FINISH_TIMEOUT": "3"} | env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    return start


@pytest.fixture(scope="module")
def without(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with W&B off."""
    root = tmp_path_factory.mktemp("without")
    command = [sys.executable, "-m", "vim_train.cli.train", *arguments(root, photos)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return root / "test"


def same(run: Path, other: Path) -> bool:
    return weights(run) == weights(other) and numbers(run) == numbers(other)


def warnings_in(shown: str) -> list[str]:
    return [line for line in shown.splitlines() if "warning" in line or "Traceback" in line]


def core_of(process: subprocess.Popen[str]) -> int:
    """Process id of its wandb-core, once there is one."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                pid, rest = stat.read_text().split(" (", 1)
            except OSError:
                continue
            name, rest = rest.rsplit(") ", 1)
            if name.startswith("wandb-core") and int(rest.split()[1]) == process.pid:
                return int(pid)
        time.sleep(0.01)
    raise AssertionError(f"no wandb-core: {finish(process)[1]}")


def steps_in(folder: Path) -> list[dict[str, Any]]:
    """The lines of an offline run, with W&B's own reader."""
    (file,) = folder.glob("run-*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return [
        {key: value for key, value in record["history"]["item"].items() if not key.startswith("_")}
        for record in records
        if record["type"] == "history"
    ]


@pytest.mark.parametrize(
    ("call", "limit", "warning"),
    [
        ("raise OSError('no route')", "60", "W&B is off, log failed: no route"),
        ("time.sleep(10)", "3", "W&B is left alone, it was not done after 3 s; "),
    ],
)
def test_log_that_raises_or_sleeps(
    start: Start, without: Path, tmp_path: Path, call: str, limit: str, warning: str
) -> None:
    patch = f"import time, wandb\ndef log(*args):\n    {call}\nwandb.Run.log = log"
    code, shown = finish(start("run", "offline", first=patch, WANDB_FINISH_TIMEOUT=limit))
    assert code == 0
    (told,) = warnings_in(shown)
    assert told.startswith(f"warning: {warning}")
    assert same(tmp_path / "run" / "test", without)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_core_that_is_killed_or_hangs(start: Start, without: Path, tmp_path: Path, number: signal.Signals) -> None:
    process = start("run", "offline")
    core = core_of(process)
    try:
        os.kill(core, number)
        process.wait(300)  # not for the end of its output, which the core holds open
    finally:
        if number is signal.SIGSTOP:
            os.kill(core, signal.SIGKILL)
    code, shown = finish(process)
    assert code == 0
    (warning,) = warnings_in(shown)
    assert warning.startswith("warning: W&B is ")
    assert same(tmp_path / "run" / "test", without)


def test_a_server_out_of_reach_means_offline(start: Start, without: Path, tmp_path: Path) -> None:
    code, shown = finish(start("run", "auto", WANDB_INIT_TIMEOUT="2", WANDB_FINISH_TIMEOUT="60", **SERVER))
    assert code == 0
    (warning,) = warnings_in(shown)
    assert warning.startswith("warning: W&B is offline: ")
    assert same(tmp_path / "run" / "test", without)
    (folder,) = (tmp_path / "run" / "test" / "wandb").glob("offline-run-*")
    assert len(steps_in(folder)) == LINES


def test_training_does_not_wait_for_the_server(start: Start, without: Path, tmp_path: Path) -> None:
    code, shown = finish(start("run", "online", WANDB_INIT_TIMEOUT="1000", **SERVER))
    assert code == 0
    (warning,) = warnings_in(shown)
    assert warning.startswith(f"warning: W&B is left alone, it was not done after 3 s; {LINES} lines are missing")
    assert same(tmp_path / "run" / "test", without)


def test_without_any_network(start: Start, without: Path, tmp_path: Path) -> None:
    alone = ("unshare", "--net")
    try:
        subprocess.run([*alone, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs unshare --net, as root")
    server = {"WANDB_API_KEY": SERVER["WANDB_API_KEY"], "WANDB_INIT_TIMEOUT": "2", "WANDB_FINISH_TIMEOUT": "60"}
    code, shown = finish(start("run", "online", prefix=alone, **server))
    assert code == 0
    (warning,) = warnings_in(shown)
    assert warning.startswith("warning: W&B is offline: ")
    assert same(tmp_path / "run" / "test", without)
    assert list((tmp_path / "run" / "test" / "wandb").glob("offline-run-*/*.wandb"))


def test_online_without_a_key_asks_nobody(start: Start, without: Path, tmp_path: Path) -> None:
    code, shown = finish(start("run", "online", NETRC=str(tmp_path / "none"), WANDB_FINISH_TIMEOUT="60"))
    assert code == 0
    assert warnings_in(shown) == ["warning: W&B is offline: no key is set; `wandb login` sets one"]
    assert same(tmp_path / "run" / "test", without)


def wait_for_files(run: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(list(run.glob("wandb/offline-run-*/run-*.wandb"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_killed_twice_is_one_run_without_gaps(start: Start, tmp_path: Path) -> None:
    run = tmp_path / "run" / "test"
    long = ("logger.every=1st", "schedule.epochs=300")
    process = start("run", "offline", *long, "checkpoint.every=300ep", "eval.every=300ep")
    wait_for_files(run, 1)
    wait_for_step(run, 10, process)
    process.kill()  # before the first checkpoint
    finish(process)
    process = start("run", "offline", *long, "eval.every=300ep")
    wait_for_files(run, 2)
    wait_for_step(run, 40, process)
    process.kill()
    finish(process)
    code, shown = finish(start("run", "offline", *long, "eval.every=300ep", WANDB_FINISH_TIMEOUT="60"))
    assert (code, warnings_in(shown)) == (0, [])

    first, second, third = sorted((run / "wandb").glob("offline-run-*"))
    names = {next(folder.glob("run-*.wandb")).name for folder in (first, second, third)}
    assert names == {f"run-{(run / 'wandb' / 'id').read_text().strip()}.wandb"}
    resumed = next(line["text"] for line in metrics(run) if "goes on from step" in str(line.get("text", "")))
    from_step = int(str(resumed).split("from step ")[1].split()[0])
    assert [line["step"] for line in steps_in(third)][:-1] == list(range(from_step + 1, 901))  # evaluated at the end
    written = {line["step"]: line["train/loss"] for line in numbers(run) if line["kind"] == "train"}
    for folder in (first, second):
        kept = steps_in(folder)
        assert [line["step"] for line in kept] == list(range(1, len(kept) + 1))
        assert all(line["train/loss"] == pytest.approx(written[line["step"]]) for line in kept)
