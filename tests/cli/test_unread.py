"""A reader of the output that leaves before the work has begun."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from processes import arguments


def test_a_run_whose_reader_has_gone_before_the_first_line_trains_all_the_same(tmp_path: Path, photos: Path) -> None:
    command = [sys.executable, "-m", "vim_train.cli.train", *arguments(tmp_path, photos, "schedule.epochs=2")]
    shell = f"set -o pipefail; {shlex.join(command)} 2>&1 | true"
    done = subprocess.run(["bash", "-c", shell], env=os.environ, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "test" / "summary.json").exists()
