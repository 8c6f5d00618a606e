"""Hostile and broken files: one line each, and nothing in them is run."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hostile import HOSTILE, WEIGHTS, sound
from safetensors.torch import save_file

from vim_train.cli.eval import main
from vim_train.config.commands import Weights
from vim_train.engine.manifest import CheckpointError
from vim_train.tasks.weight_files import read_weight_file


@pytest.mark.parametrize(("write", "end"), HOSTILE, ids=lambda each: getattr(each, "__name__", ""))
def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(
    write: Callable[[Path], None], end: str, tmp_path: Path
) -> None:
    path = tmp_path / "weights.pth"
    write(path)
    with pytest.raises(CheckpointError) as raised:
        read_weight_file(str(path), Weights.both)
    line = re.sub(r"than the [\d,]+ bytes", "than the N bytes", str(raised.value))
    assert line == f"checkpoint {path}: {end}"
    assert "weights_only" not in line
    assert not path.with_suffix(".run").exists()


def test_the_command_says_it_and_leaves_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write, end = HOSTILE[0]
    write(tmp_path / "weights.pth")
    assert main([f"checkpoint={tmp_path / 'weights.pth'}", "data.name=fashion"]) == 2
    assert capsys.readouterr().err == f"vim-eval: checkpoint {tmp_path / 'weights.pth'}: {end}\n"


def test_weights_that_are_not_finite_are_refused_in_any_form(tmp_path: Path) -> None:
    save_file({"layer.weight": torch.tensor([1.0, torch.nan])}, tmp_path / "bare.safetensors")
    with pytest.raises(CheckpointError, match=r"model: layer\.weight has 1 of 2 values that are not finite$"):
        read_weight_file(str(tmp_path / "bare.safetensors"), Weights.both)


def test_files_that_bear_the_others_name_are_told_so(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r": looks like \.safetensors: give it that name$"):
        read_weight_file(str(tmp_path / "weights.pth"), Weights.both)
    sound(tmp_path / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"not a safetensors file: what torch\.save writes\? Then name it \.pth$"):
        read_weight_file(str(tmp_path / "weights.safetensors"), Weights.both)


def test_the_sound_file_loads(tmp_path: Path) -> None:
    read = read_weight_file(str(sound(tmp_path / "weights.pth")), Weights.both)
    assert read.weights["model"]["layer.weight"].equal(WEIGHTS["layer.weight"])


def test_the_documented_table_has_every_line() -> None:
    table = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()
    for write, end in HOSTILE:
        assert f"| {write.__name__.replace('_', ' ')} |" in table
        assert f"| `{end}` |" in table
