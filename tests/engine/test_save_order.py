"""The order in which a save reaches the disk, as the kernel saw it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from rich.console import Console
from saving import spawn, wait
from toy import toy_config, toy_trainer

from vim_train.config.schema import WandbMode
from vim_train.report import open_report

CALL = re.compile(r'(fsync|rename)[^(]*\(.*[/<"]([^/<>"]+)[>"]')
"""The call, and the last name among its arguments; not whether it is one line of the log or split in two."""


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_all_is_synced_before_it_gets_its_name(tmp_path: Path) -> None:
    """Files, then the names in the directory, then the rename, then the name's directory; the numbers before all."""
    cfg = toy_config()
    cfg.schedule.epochs, cfg.checkpoint.every, cfg.eval.every = 2, "5st", "2ep"
    cfg.logger.wandb.mode = WandbMode.disabled
    run, log = tmp_path / "run", tmp_path / "strace.txt"
    run.mkdir()

    def body() -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        with open(os.devnull, "w") as nowhere:
            trainer = toy_trainer(cfg, run)
            trainer.report = trainer.saver.report = open_report(cfg, {}, run, console=Console(file=nowhere))
            trainer.train()

    child = spawn(body)
    os.waitpid(child, os.WUNTRACED)
    command = ["strace", "-f", "-y", "-qq", "-o", str(log), "-p", str(child), "-e", "trace=fsync,/^rename"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        while tracer.poll() is None and "TracerPid:\t0\n" in Path(f"/proc/{child}/status").read_text():
            time.sleep(0.001)
        refused = tracer.poll() is not None
        os.kill(child, signal.SIGCONT)
        assert wait(child) == 0
        if refused:
            pytest.skip(f"strace may not attach here: {tracer.stderr.read().strip()}")  # type: ignore[union-attr]

    matches = filter(None, map(CALL.search, log.read_text().splitlines()))
    calls = [f"{match[1]} {match[2]}" for match in matches]

    def save(step: int, best: list[str]) -> list[str]:
        name = f"step_{step:08d}"
        files = ["model.safetensors", "ema.safetensors", "state.pt", "manifest.json"]
        written = [f"fsync {file}" for file in ("metrics.jsonl", *files, f".tmp-{name}")]
        return [*written, *best, f"rename {name}", "fsync checkpoints"]

    best = ["fsync .tmp-best", "rename best", "fsync checkpoints"]
    saves = calls[calls.index("fsync metrics.jsonl") :]
    assert saves.pop(1) == "fsync run"  # where checkpoints/ is new
    assert saves == [*save(5, []), *save(10, []), *save(10, best)]  # before and after the first evaluation
