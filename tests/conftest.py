"""Fixtures shared by all tests."""

import os
import signal
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: as the commands have it

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test writes to the user's home, talks to W&B or sees another one's command line."""
    for name in ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))
    monkeypatch.setenv("VIM_TRAIN_CACHE", str(tmp_path / "vim-train-cache"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("VIM_TRAIN_SCAN", raising=False)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # a run that was asked to stop leaves it ignored
    HydraConfig.instance().cfg = None  # of a command line that an earlier test gave in this process


@pytest.fixture(scope="session", autouse=True)
def _signals_are_heard() -> None:
    """Under nohup, and behind a shell, a process hands down to its children that they ignore SIGHUP or SIGINT."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of golden tensors and tables."""
    return HERE / "golden"


@pytest.fixture(scope="session")
def photos() -> Path:
    """Folder of real JPEG photographs in class folders."""
    return HERE / "photos"
