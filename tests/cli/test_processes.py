"""What only a real process shows: what is imported, what the shell gets, what the allocator is told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent

HEAVY = """
import sys
from vim_train.cli.train import main
code = main({argv})
heavy = [name for name in ("torch", "timm", "numpy", "PIL", "wandb", "rich", "matplotlib") if name in sys.modules]
print(code, heavy, file=sys.stderr)
"""


def python(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("argv", "code"),
    [(["--help"], 0), (["--help", "optim"], 0), (["epoch=3"], 2), (["--cfg", "job"], 0), (["-sc", "query=bash"], 0)],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_nothing_heavy_is_imported(argv: list[str], code: int, tmp_path: Path) -> None:
    done = python("-c", HEAVY.format(argv=argv), cwd=tmp_path, COMP_LINE="vim-train optim.")
    assert done.stderr.splitlines()[-1] == f"{code} []"


@pytest.mark.parametrize(
    ("line", "candidates"),
    [
        ("vim-train precision.amp=", "precision.amp=fp32 precision.amp=tf32 precision.amp=bf16 precision.amp=fp16"),
        ("vim-train seed=3 ops.tune_malloc=t", "ops.tune_malloc=true"),
        ("vim-train model.pool=n", "model.pool=null"),
        ("vim-train recipe=q", "recipe=quickstart recipe=quickstart_deit"),
        ("vim-train optim.grad_cl", "optim.grad_clip_norm= optim.grad_clip_value="),
        ("vim-train sch", "schedule. schedule="),
    ],
)
def test_completion_knows_groups_keys_and_values(line: str, candidates: str, tmp_path: Path) -> None:
    done = python("-m", "vim_train.cli.train", "-sc", "query=bash", cwd=tmp_path, COMP_LINE=line)
    assert done.stdout.split() == candidates.split()


@pytest.mark.parametrize(
    ("line", "candidates"),
    [
        ("vim-data ", "index verify count export"),
        ("vim-data ex", "export"),
        ("vim-data export data=", "data=fashion data=folder"),
        ("vim-data index refresh=t", "refresh=true"),
        ("vim-data export out='a", ""),
    ],
)
def test_the_first_word_of_vim_data_is_completed_too(line: str, candidates: str, tmp_path: Path) -> None:
    done = python("-m", "vim_train.cli.data", "-sc", "query=bash", cwd=tmp_path, COMP_LINE=line)
    assert (done.stdout.split(), done.stderr) == (candidates.split(), "")


@pytest.mark.parametrize("request_", ["", "query=bash", "install=tcsh", "bogus"])
def test_a_completion_that_nobody_knows_is_one_line(request_: str, tmp_path: Path) -> None:
    done = python("-m", "vim_train.cli.train", "-sc", *request_.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("vim-train: -sc ")


def test_the_completion_script_loads_in_a_shell(tmp_path: Path) -> None:
    done = python("-m", "vim_train.cli.train", "-sc", "install=bash", cwd=tmp_path)
    assert done.returncode == 0
    assert subprocess.run(["bash", "-n"], input=done.stdout, text=True, check=False).returncode == 0


def test_a_mistake_is_exit_code_2_and_one_line(tmp_path: Path) -> None:
    done = python("-m", "vim_train.cli.train", "epoch=3", cwd=tmp_path)
    expected = "vim-train: unknown key epoch; did you mean schedule.epochs?\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)
    assert list(tmp_path.iterdir()) == []


def test_a_process_without_streams_says_nothing_and_does_its_work(tmp_path: Path) -> None:
    (tmp_path / "show.py").write_text("import os; from vim_train.cli.train import main; os._exit(main(['--version']))")
    command = f"{sys.executable} show.py <&- >&- && {sys.executable} show.py >&- 2>&-"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_environment_report_names_versions_and_backends(tmp_path: Path) -> None:
    done = python("-m", "vim_train", cwd=tmp_path)
    assert done.returncode == 0
    for word in ("vim-train", "configuration", "python", "torch", "scan reference", "scan cuda", "pixels"):
        assert f"\n{word} " in f"\n{done.stdout}", done.stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_malloc_keeps_freed_memory(tmp_path: Path) -> None:
    """A freed 64 MiB block stays in the process where it would otherwise be returned."""
    program = """
import ctypes, sys
from pathlib import Path
from vim_train.cli.malloc import keep_freed_memory
if "tune" in sys.argv:
    assert keep_freed_memory()
def pages():
    return int(Path("/proc/self/statm").read_text().split()[1])
before = pages()
block = bytearray(64 << 20)
del block
print((pages() - before) * 4096 >> 20)
"""
    kept, returned = (int(python("-c", program, word, cwd=tmp_path).stdout) for word in ("tune", "leave"))
    assert kept >= 60
    assert returned <= 4
