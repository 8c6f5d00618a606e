"""Standard output that goes away stops nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vim_train.report import read_metrics
from vim_train.report.stream import SafeStream

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("told_run.py")


@pytest.mark.parametrize("shell_end", ["| head -1", "> /dev/full"])
def test_a_run_goes_on_when_nobody_reads(tmp_path: Path, shell_end: str) -> None:
    if shell_end == "> /dev/full" and not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    command = f"set -o pipefail; {sys.executable} {SCRIPT} {tmp_path} disabled 0.005 {shell_end}"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, timeout=60)
    assert (tmp_path / "summary.json").exists(), done.stderr
    assert (tmp_path / "report" / "curves.png").exists()
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 22
    assert "vim-eval checkpoint=runs/told" in (tmp_path / "log.txt").read_text()
    if shell_end != "> /dev/full":  # there the script's own print fails at exit
        assert done.returncode == 0
        assert done.stderr == ""


def test_letters_the_encoding_lacks_are_replaced(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="ascii") as file:
        stream = SafeStream(file)
        stream.write("1 → 2\n")
        stream.flush()
    assert (tmp_path / "out").read_text() == "1 ? 2\n"


def test_a_process_without_standard_output_is_silent() -> None:
    stream = SafeStream(None)
    assert stream.write("lost") == 4
    stream.flush()
    assert not stream.isatty()


def test_a_closed_file_is_silent(tmp_path: Path) -> None:
    file = (tmp_path / "out").open("w")
    file.close()
    stream = SafeStream(file)
    assert stream.write("lost") == 4
    stream.flush()
    assert not stream.isatty()
