"""On a terminal: a live panel that fits, and gives the terminal back."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.console import Console
from short_run import Run

from vim_train.report.plain import PlainScreen
from vim_train.report.screen import open_screen

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("told_run.py")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def run_on_terminal(run_dir: Path, columns: int, **environ: str) -> str:
    """Run the script on a pseudo-terminal; everything it wrote."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **environ}
    env = {name: value for name, value in env.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    command = [sys.executable, SCRIPT, run_dir, "disabled", "0.04"]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=env, cwd=run_dir)
    os.close(slave)
    written = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        written += part
    os.close(master)
    assert process.wait(30) == 0, written.decode(errors="replace")
    return written.decode()


def test_the_panel_fits_the_terminal_and_gives_it_back(tmp_path: Path) -> None:
    written = run_on_terminal(tmp_path, 80)
    lines = ESCAPE.sub("", written).replace("\r", "\n").splitlines()
    boxes = [line for line in lines if line[:1] in set("╭│╰")]
    assert len(boxes) > 20
    assert {len(line) for line in boxes} == {80}
    assert any("epoch 2/2" in line and "100 %" in line for line in boxes)
    assert lines.count("a line from elsewhere") == 2
    assert "    vim-eval checkpoint=runs/told" in lines
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1  # the cursor
    assert "Traceback" not in written


def test_a_terminal_without_unicode_gets_ascii(tmp_path: Path) -> None:
    written = run_on_terminal(tmp_path, 120, PYTHONIOENCODING="ascii")
    panel = [line for line in ESCAPE.sub("", written).splitlines() if "epoch 2/2" in line]
    assert panel
    assert all(line.isascii() and "?" not in line for line in panel)


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_dumb_terminal_gets_plain_lines(term: str) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": term})
    assert isinstance(open_screen(console), PlainScreen)


def test_a_new_best_shines(run: Run) -> None:
    report = run.open(terminal=True)
    run.train(report)
    report.close()
    assert re.search(r"\x1b\[1;32m +57\.00\x1b", run.shown)


def test_forked_workers_get_the_plain_streams(run: Run) -> None:
    before = sys.stdout, sys.stderr
    report = run.open(terminal=True)
    report.start_training(10, 5)
    assert sys.stdout is not before[0]
    child = os.fork()
    if child == 0:
        os._exit(0 if (sys.stdout, sys.stderr) == before else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    report.close()
    assert (sys.stdout, sys.stderr) == before
