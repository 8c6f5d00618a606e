"""W&B: what is logged can be read back, and no failure of it reaches training."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from short_run import STEPS, Run

from vim_train.config.schema import WandbMode
from vim_train.report import read_metrics
from vim_train.report.wandb_logger import choose_mode, has_key

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


def test_a_resumed_run_keeps_its_id_and_may_log_steps_again(run: Run) -> None:
    run.cfg.logger.wandb.mode = WandbMode.offline
    report = run.open()
    run.train(report, last=20)
    state = report.state()
    report.close()
    report = run.open(resumed_step=10)
    report.load_state(state)
    run.train(report, first=10)
    assert report.state()["wandb_id"] == state["wandb_id"]
    report.finish({}, [])
    report.close()
    files = list(run.run_dir.glob("wandb/offline-run-*/run-*.wandb"))
    assert [file.name for file in files] == [f"run-{state['wandb_id']}.wandb"] * 2
    assert [r["step"] for r in read_metrics(run.metrics) if r["kind"] == "eval"] == [10, 20, 30, 40]


@pytest.mark.parametrize("where", ["init", "log", "finish"])
def test_a_failure_is_one_warning_and_changes_nothing_else(
    make_run: Callable[[str], Run], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    import wandb

    without, failing = make_run("without"), make_run("failing")
    plain = without.whole().replace("without", "failing")
    failing.cfg.logger.wandb.mode = WandbMode.offline

    def fail(*args: object, **kwargs: object) -> None:
        raise ConnectionResetError("wandb-core is gone\nand a second line")

    if where == "init":
        monkeypatch.setattr(wandb, "init", fail)
    else:
        real = wandb.init

        def init(**kwargs: Any) -> Any:
            run = real(**kwargs)
            finish = run.finish
            monkeypatch.setattr(run, where, fail)
            opened.append(finish)
            return run

        monkeypatch.setattr(wandb, "init", init)
    opened: list[Callable[[], None]] = []
    shown = failing.whole()
    for finish in opened:
        finish()
    warnings = [line for line in shown.splitlines() if line.startswith("warning:")]
    assert len(warnings) == 1
    assert "W&B is off" in warnings[0]
    assert "wandb-core is gone" in warnings[0]
    rest = [line for line in shown.splitlines() if line not in warnings and "wandb sync" not in line]
    assert rest == plain.splitlines()
    assert len(read_metrics(failing.metrics)) == STEPS // 5 + STEPS // 10


def test_an_unreachable_server_means_offline_with_one_warning(tmp_path: Path) -> None:
    key = "0123456789abcdef" * 2 + "01234567"
    server = {"WANDB_API_KEY": key, "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "1"}
    env = {name: value for name, value in os.environ.items() if name not in ("WANDB_MODE", "WANDB_SILENT")}
    env |= {"PYTHONPATH": str(ROOT), **server}
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    command = [sys.executable, SCRIPT, run_dir, "auto", "0"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
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
