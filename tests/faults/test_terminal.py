"""A terminal or a reader that goes away in mid-run: a hang-up stops with a checkpoint, anything else goes on."""

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import arguments, metrics
from terminals import Terminal

pytestmark = pytest.mark.full

STEPS = 120


@pytest.fixture
def command(tmp_path: Path, photos: Path) -> list[str]:
    run = arguments(tmp_path, photos, "schedule.epochs=40", "logger.every=1st", "eval.every=20ep")
    return [sys.executable, "-m", "vim_train.cli.train", *run]


@pytest.fixture
def open_terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_terminal(command: list[str], controlling: bool = True) -> Terminal:
        opened.append(Terminal(command, tmp_path, controlling))
        return opened[-1]

    yield open_terminal
    for terminal in opened:
        terminal.close()
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.process.wait()


def at_step(run: Path, step: int) -> Callable[[], bool]:
    return lambda: any(line["kind"] == "train" and int(str(line["step"])) >= step for line in metrics(run))


def log_lines(run: Path) -> list[str]:
    """The lines of log.txt: each whole, with date and time."""
    text = (run / "log.txt").read_text()
    assert text.endswith("\n")
    lines = text.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in lines)
    return lines


def saved_step(run: Path) -> int:
    """The step that the last line of log.txt says was saved; it is the newest checkpoint's."""
    last = log_lines(run)[-1]
    match = re.search(r"SIGHUP: saved at step (\d+) of 120; the same command goes on from there$", last)
    assert match is not None, last
    newest = max((run / "checkpoints").glob("step_*")).name
    assert newest == f"step_{int(match[1]):08d}"
    return int(match[1])


def test_closing_the_window_saves_and_stops(
    open_terminal: Callable[..., Terminal], command: list[str], tmp_path: Path
) -> None:
    terminal = open_terminal(command)
    terminal.read_until(at_step(tmp_path / "test", 10))
    terminal.close()
    assert terminal.process.wait(300) == 143
    assert 10 <= saved_step(tmp_path / "test") < STEPS
    assert terminal.errors.read_text() == ""


def test_closing_the_window_of_an_interactive_shell_saves_and_stops(
    open_terminal: Callable[..., Terminal], command: list[str], tmp_path: Path
) -> None:
    terminal = open_terminal(["bash", "--norc", "--noprofile", "-i"])
    pid = tmp_path / "pid"
    errors = tmp_path / "of_the_run.txt"
    script = f"echo $$ > {pid}; exec {shlex.join(command)} 2> {errors}"
    (tmp_path / "go.sh").write_text(script)
    terminal.type("sh go.sh\n")
    terminal.read_until(at_step(tmp_path / "test", 10))
    terminal.close()  # bash passes the hang-up on, and the kernel sends another when bash has gone
    terminal.process.wait(300)
    deadline = time.monotonic() + 300
    while Path("/proc", pid.read_text().strip()).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert 10 <= saved_step(tmp_path / "test") < STEPS
    assert errors.read_text() == ""


def test_nohup_goes_on(open_terminal: Callable[..., Terminal], command: list[str], tmp_path: Path) -> None:
    terminal = open_terminal(["nohup", *command])
    terminal.read_until(at_step(tmp_path / "test", 10))
    terminal.close()
    assert terminal.process.wait(600) == 0
    assert (tmp_path / "test" / "summary.json").exists()
    assert any("  next:" in line for line in log_lines(tmp_path / "test"))
    assert "Traceback" not in terminal.errors.read_text()
    assert "done in" in (tmp_path / "nohup.out").read_text()


def test_a_terminal_that_only_takes_no_more_is_no_reason_to_stop(
    open_terminal: Callable[..., Terminal], command: list[str], tmp_path: Path
) -> None:
    terminal = open_terminal(command, controlling=False)
    terminal.read_until(at_step(tmp_path / "test", 10))
    terminal.close()
    assert terminal.process.wait(600) == 0
    assert (tmp_path / "test" / "summary.json").exists()
    assert any("  next:" in line for line in log_lines(tmp_path / "test"))
    assert terminal.errors.read_text() == ""


def test_a_reader_of_one_line_is_no_reason_to_stop(command: list[str], tmp_path: Path) -> None:
    shell = f"set -o pipefail; {shlex.join(command)} | head -1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    assert (tmp_path / "test" / "summary.json").exists()
    assert any("  next:" in line for line in log_lines(tmp_path / "test"))
