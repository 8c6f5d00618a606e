"""vim-eval and vim-data up to the point where work begins; the export for real."""

import sys
from pathlib import Path

import pytest

from vim_train.cli import data as data_command
from vim_train.cli import eval as eval_command
from vim_train.cli import train as train_command
from vim_train.config.compose import compose_config, save_config
from vim_train.config.schema import DataName, Weights


@pytest.fixture
def run(tmp_path: Path, calls: list) -> str:
    folder = tmp_path / "runs" / "quickstart"
    folder.mkdir(parents=True)
    save_config(compose_config()[1], folder / "config.yaml")
    return "runs/quickstart"


def test_eval_hands_over_what_it_was_told(run: str, calls: list) -> None:
    assert eval_command.main([f"checkpoint={run}", "weights=ema", "data.workers=0", "ops.tune_malloc=false"]) == 0
    [(cfg, plain)] = calls
    assert (cfg.checkpoint, cfg.weights, cfg.data.workers, cfg.data.root) == (run, Weights.ema, 0, None)
    assert plain["weights"] == "ema"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "set checkpoint=..."),
        ("checkpoint=runs/nope", "checkpoint=runs/nope: no such file or folder"),
        ("checkpoint=.", "checkpoint=.: no config.yaml there or above; takes a run's folder or what lies in it"),
        ("checkpoint=runs/quickstart data.root=/nope", "data.root=/nope: no such folder"),
        ("checkpoint=runs/quickstart weights=raww", "weights=raww: takes raw, ema or both"),
        ("checkpoint=runs/quickstart optim.lr=1", "unknown key optim.lr; --help lists the groups of keys"),
        ("checkpoint=runs/quickstart data.img_size=0", "data.img_size=0: takes a whole number from 1"),
        ("checkpoint=runs/quickstart json=/nope/x.json", "json=/nope/x.json: no such folder"),
    ],
)
def test_a_mistake_in_eval_is_one_line(
    line: str, expected: str, run: str, calls: list, capsys: pytest.CaptureFixture[str]
) -> None:
    assert eval_command.main(line.split()) == 2
    assert capsys.readouterr().err == f"vim-eval: {expected}\n"
    assert calls == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", "what to do? vim-data export data=fashion out=DIR writes a data set as an image folder"),
        ("data=fashion", "what to do? vim-data export data=fashion out=DIR writes a data set as an image folder"),
        ("export", "set out=..."),
        ("export data=fashoin out=x", "data=fashoin: takes fashion or folder; did you mean fashion?"),
        ("export data=folder out=x", "set data.root=..."),
    ],
)
def test_a_mistake_in_data_is_one_line(
    line: str, expected: str, calls: list, capsys: pytest.CaptureFixture[str]
) -> None:
    assert data_command.main(line.split()) == 2
    assert capsys.readouterr().err == f"vim-data: {expected}\n"


def test_export_calls_the_data_part_and_reports_progress(
    monkeypatch: pytest.MonkeyPatch, calls: list, capsys: pytest.CaptureFixture[str]
) -> None:
    import vim_train.data.export

    seen = []

    def export_folder(data, out, progress) -> int:
        seen.append((data.name, out))
        progress(1, 2)
        progress(2, 2)
        return 2

    monkeypatch.setattr(vim_train.data.export, "export_folder", export_folder)
    assert data_command.main(["export", "data=fashion", "out=there"]) == 0
    assert seen == [(DataName.fashion, Path("there"))]
    assert capsys.readouterr().out == "export fashion to there: 2, done\n"


@pytest.mark.parametrize("command", [train_command, eval_command, data_command])
def test_a_console_script_reads_its_own_arguments(
    command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["program", "--version"])
    assert command.main() == 0
    assert capsys.readouterr().out.startswith("vim-")
