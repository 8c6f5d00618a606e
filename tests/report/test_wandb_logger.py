"""W&B: what is logged can be read back, and no failure of it reaches training."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from short_run import STEPS, Run

from vim_train.config.schema import WandbMode
from vim_train.report import read_metrics, wandb_logger
from vim_train.report.wandb_run import choose_mode, has_key, run_id

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("told_run.py")


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key, and the environment that the logger adds to is put back."""
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)


def read_back(run_dir: Path) -> list[dict[str, Any]]:
    """All records of the one offline run in a run directory, with W&B's own reader."""
    (file,) = run_dir.glob("wandb/offline-run-*/run-*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", file]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_an_offline_run_holds_the_config_and_the_scalars_of_metrics_jsonl(run: Run) -> None:
    run.cfg.logger.wandb.mode = WandbMode.offline
    shown = run.whole()
    records = read_back(run.run_dir)

    (start,) = [r["run"] for r in records if r["type"] == "run"]
    assert {k: v for k, v in start["config"]["update"].items() if k != "_wandb"} == run.config
    assert (start["display_name"], start["project"]) == ("short", "vim-train")

    logged = [{k: v for k, v in r["history"]["item"].items() if k[0] != "_"} for r in records if r["type"] == "history"]
    written = [{k: v for k, v in r.items() if k not in ("kind", "time")} for r in read_metrics(run.metrics)]
    assert logged == written

    axes = [r["metric"] for r in records if r["type"] == "metric" and r["metric"].get("glob_name") == "*"]
    assert axes[0]["step_metric"] == "step"
    assert records[-1]["exit"].get("exit_code", 0) == 0
    assert "wandb sync " in shown
    assert "warning" not in shown


def test_a_run_that_is_started_again_keeps_its_id(run: Run) -> None:
    run.cfg.logger.wandb.mode = WandbMode.offline
    for resumed_step in (None, 10):
        report = run.open(resumed_step)
        run.train(report, first=resumed_step or 0, last=20)
        report.close()
    first, second = run.run_dir.glob("wandb/offline-run-*/run-*.wandb")
    assert first.name == second.name == f"run-{run_id(run.run_dir)}.wandb"


def test_an_id_is_made_once_and_another_where_it_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run_id(tmp_path)
    assert run_id(tmp_path) == made
    (tmp_path / "wandb" / "id").write_bytes(b"\xff\0")
    assert run_id(tmp_path) == run_id(tmp_path) != made
    monkeypatch.setenv("WANDB_RUN_ID", "asked")
    assert run_id(tmp_path) == "asked"


class StandIn:
    """A W&B run without W&B; `log` and `finish` do what the test says."""

    dir, url = "files", "https://wandb.example.org/run"

    def __init__(self) -> None:
        self.settings = SimpleNamespace(mode="online")
        self.summary: dict[str, object] = {}
        self.lines: list[dict[str, object]] = []
        self.exit_code: int | None = None

    def define_metric(self, *args: object, **kwargs: object) -> None: ...

    def log(self, line: dict[str, object]) -> None:
        self.lines.append(line)

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


@pytest.fixture
def stand_in(run: Run, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    import wandb

    found = StandIn()
    monkeypatch.setattr(wandb, "init", lambda **kwargs: found)
    monkeypatch.setattr(wandb, "teardown", lambda code: None)
    run.cfg.logger.wandb.mode = WandbMode.offline
    return found


def warnings_in(shown: str) -> list[str]:
    return [line for line in shown.splitlines() if line.startswith("warning:")]


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_failure_is_one_warning_and_changes_nothing_else(
    run: Run, make_run: Callable[[str], Run], stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    import wandb

    def fail(*args: object, **kwargs: object) -> None:
        raise ConnectionResetError("wandb-core is gone\nand a second line")

    monkeypatch.setattr(wandb if where == "init" else stand_in, where, fail)
    plain = make_run("without").whole().replace("without", "short")
    shown = run.whole()
    (warning,) = warnings_in(shown)
    assert warning == f"warning: W&B is off, {where.replace('init', 'start')} failed: wandb-core is gone"
    assert [line for line in shown.splitlines() if line != warning] == plain.splitlines()
    assert len(read_metrics(run.metrics)) == STEPS // 5 + STEPS // 10


@pytest.mark.parametrize("where", ["init", "log"])
def test_training_does_not_wait_and_lines_that_find_no_room_are_counted_once(
    run: Run, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    import wandb

    goes_on = threading.Event()
    real = wandb.init if where == "init" else stand_in.log

    def slow(*args: Any, **kwargs: Any) -> Any:
        goes_on.wait()
        return real(*args, **kwargs)

    monkeypatch.setattr(wandb if where == "init" else stand_in, where, slow)
    monkeypatch.setattr(wandb_logger, "_WAITING_MAX", 5)
    report = run.open()
    run.train(report)  # to the end, with W&B at its first call
    assert warnings_in(run.shown) == []
    goes_on.set()
    report.finish({}, [])
    report.close()
    (warning,) = warnings_in(run.shown)
    got = len(stand_in.lines)
    assert 5 <= got <= 6  # the sixth may have been taken out of the queue
    assert f"W&B was too slow; {12 - got} lines are missing there" in warning
    assert [line["step"] for line in stand_in.lines] == [5, 10, 10, 15, 20, 20][:got]
    assert stand_in.exit_code == 0
    assert "https://wandb.example.org/run" in run.shown


def test_the_end_does_not_wait_for_ever(run: Run, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on = threading.Event()
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "0.1")
    monkeypatch.setattr(stand_in, "log", lambda line: goes_on.wait())
    shown = run.whole()
    goes_on.set()
    (warning,) = warnings_in(shown)
    assert warning.startswith("warning: W&B is left alone, it was not done after 0 s; 11 lines are missing there")
    assert len(read_metrics(run.metrics)) == STEPS // 5 + STEPS // 10


def test_no_secret_is_told_to_wandb_or_written(run: Run, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    secret, told = "canary-of-the-hub", []

    def init(**kwargs: object) -> StandIn:
        told.append((kwargs, list(sys.argv)))
        return stand_in

    monkeypatch.setenv("HF_TOKEN", secret)
    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(sys, "argv", ["vim-train", f"logger.wandb.tags=[{secret}]"])
    run.cfg.logger.wandb.project, run.cfg.logger.wandb.tags = secret, [f"a-{secret}"]
    run.config["note"] = f"https://me:{secret}@host"
    report = run.open()
    report.start({"data": secret})
    report.start_training(10, 10)
    report.event(0, secret, detail=[secret])
    report.finish({"where": secret}, [f"vim-eval {secret}"])
    report.close()
    assert len(told) == 1
    assert sys.argv[1] == f"logger.wandb.tags=[{secret}]"
    written = [file.read_text() for file in run.run_dir.rglob("*") if file.is_file()]
    assert not any(secret in text for text in [str(told), run.shown, *written])


def test_hooks_of_wandb_leave_pythons_exit_and_others_stay() -> None:
    code = """if True:
        import atexit
        from vim_train.report.wandb_run import forget
        def of_wandb(): print("waits")
        def of_another(): print("runs")
        of_wandb.__module__ = "wandb.sdk.lib.service"
        for hook in (of_another, of_wandb):
            atexit.register(hook)
        forget()
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["runs"]


def test_an_unreachable_server_means_offline_with_one_warning(tmp_path: Path) -> None:
    key = "0123456789abcdef" * 2 + "01234567"
    server = {
        "WANDB_API_KEY": key,
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "WANDB_INIT_TIMEOUT": "1",
        "WANDB_FINISH_TIMEOUT": "90",
    }
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    env |= {"PYTHONPATH": str(ROOT), **server}
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    command = [sys.executable, SCRIPT, run_dir, "auto", "0"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    warnings = [line for line in done.stdout.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("warning: W&B is offline: ")
    assert list(run_dir.glob("wandb/offline-run-*"))
    assert len(read_metrics(run_dir / "metrics.jsonl")) == 22
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or key.encode() not in file.read_bytes(), file


def test_disabled_never_imports_wandb(tmp_path: Path) -> None:
    code = "import sys, told_run, pathlib; told_run.main(pathlib.Path(sys.argv[1]), 'disabled', 0)\n"
    code += "assert 'wandb' not in sys.modules and 'torch' not in sys.modules"
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{SCRIPT.parent}"}
    subprocess.run([sys.executable, "-c", code, tmp_path], env=env, check=True, timeout=60)
    assert not (tmp_path / "wandb").exists()


def test_auto_asks_the_environment_then_for_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    assert choose_mode(WandbMode.auto) is WandbMode.offline
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert choose_mode(WandbMode.auto) is WandbMode.online
    for value, mode in {"offline": "offline", "dryrun": "offline", "disabled": "disabled", "online": "online"}.items():
        monkeypatch.setenv("WANDB_MODE", value)
        assert choose_mode(WandbMode.auto) is WandbMode[mode]
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert choose_mode(WandbMode.offline) is WandbMode.offline


def test_a_key_is_found_in_netrc_and_in_the_settings_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert not has_key()
    netrc = tmp_path / "netrc"
    netrc.write_text("machine api.wandb.ai login user password " + "k" * 40 + "\n")
    netrc.chmod(0o600)
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_key()
    config = tmp_path / "config"
    config.mkdir()
    (config / "settings").write_text("[default]\napi_key = " + "k" * 40 + "\n")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(config))
    assert has_key()
