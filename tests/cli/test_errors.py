"""Exit codes, and who gets a traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import vim_train
from vim_train.cli.errors import guarded
from vim_train.config.errors import UserError


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


def outcome(error: BaseException, capsys: pytest.CaptureFixture[str], debug: bool = False) -> tuple[int, str]:
    def work() -> int:
        raise error

    return guarded("vim-train", debug, work), capsys.readouterr().err


def test_a_users_mistake_is_one_line_even_if_its_text_has_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(UserError("a\n  b"), capsys) == (2, "vim-train: a b\n")


def test_a_table_stands_above_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    error = UserError("two differ", table=["key  was", "a    1"])
    assert outcome(error, capsys) == (2, "key  was\na    1\nvim-train: two differ\n")


def test_debug_adds_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = outcome(UserError("a"), capsys, debug=True)
    assert code == 2
    assert text.startswith("Traceback")
    assert text.endswith("vim-train: a\n")


def test_ctrl_c_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(KeyboardInterrupt(), capsys) == (130, "vim-train: interrupted\n")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGHUP"])
def test_a_signal_that_nobody_waits_for_is_143(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)

    def work() -> int:
        return guarded("vim-train", False, inner)  # as one job of a command

    def inner() -> int:
        os.kill(os.getpid(), number)
        time.sleep(60)
        return 0

    assert guarded("vim-train", False, work) == 143
    assert capsys.readouterr().err == f"vim-train: ended by {name}\n"
    assert signal.getsignal(number) == before


def test_a_signal_that_others_handle_is_left_to_them() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        assert guarded("vim-train", False, lambda: os.kill(os.getpid(), signal.SIGTERM) or 0) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_a_bug_is_1_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = outcome(ValueError("bug"), capsys)
    assert code == 1
    assert text.startswith("Traceback")
    assert text.endswith("ValueError: bug\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_is_full_is_1_and_one_line(tmp_path: Path) -> None:
    script = "import sys; from vim_train.cli.train import main; sys.exit(main(['--help']))"
    environ = {**os.environ, "PYTHONPATH": str(Path(vim_train.__file__).parent.parent)}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True, env=environ
        )
    assert (done.returncode, done.stderr) == (1, "vim-train: where the output goes: no space left\n")


def test_out_of_memory_is_1_with_the_cure(capsys: pytest.CaptureFixture[str]) -> None:
    cure = "out of GPU memory: lower data.micro_batch_size, which keeps the batch, or data.eval_batch_size"
    assert outcome(OutOfMemoryError("CUDA ..."), capsys) == (1, f"vim-train: {cure}\n")


def test_what_ops_refuse_is_the_users_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    from vim_train import ops

    def work() -> int:
        ops.set_backend("quantum")
        return 0

    assert guarded("vim-train", False, work) == 2
    text = capsys.readouterr().err
    assert text.startswith("vim-train: ")
    assert "quantum" in text
    assert text.count("\n") == 1


def test_a_failing_tensor_operation_in_the_models_is_a_bug_not_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from vim_train.models import Vim

    model = Vim(img_size=32, patch_size=16, stride=16, embed_dim=16, depth=1, num_classes=2)

    def work() -> int:
        model.head(torch.zeros(2, 3))
        return 0

    assert guarded("vim-train", False, work) == 1
    assert capsys.readouterr().err.startswith("Traceback")
