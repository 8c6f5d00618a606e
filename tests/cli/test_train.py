"""vim-train up to the point where training begins."""

from pathlib import Path

import pytest
import yaml

from vim_train.cli.train import main
from vim_train.config.files import options
from vim_train.config.keys import any_of
from vim_train.config.schema import Amp

QUIET = "ops.tune_malloc=false"


@pytest.fixture
def work(tmp_path: Path, calls: list) -> Path:
    """The working directory, to see that nothing is left in it."""
    return tmp_path


def test_a_valid_command_line_reaches_training_and_leaves_no_files(calls: list, work: Path) -> None:
    assert main([QUIET, "precision.amp=bf16", "optim.lr=0.5"]) == 0
    [(cfg, plain)] = calls
    assert (cfg.precision.amp, cfg.optim.lr) == (Amp.bf16, 0.5)
    assert plain["precision"] == {"amp": "bf16"}
    assert list(work.iterdir()) == []


def test_the_exit_code_is_that_of_training(calls) -> None:
    for code in (0, 3, 143):
        calls.code = code
        assert main([QUIET]) == code


MISTAKES = {
    "epoch=3": "unknown key epoch; did you mean schedule.epochs?",
    "+optim.lrr=3": "unknown key optim.lrr; did you mean optim.lr?",
    "optim.lr=-1": "optim.lr=-1: takes a number above 0",
    "schedule.epochs=abc": "schedule.epochs=abc: takes a whole number from 1",
    "data=folder": "set data.root=...",
    "data=folder data.root=/nope": "data.root=/nope: no such folder",
    "recipe=vim_tny": f"recipe=vim_tny: takes {any_of(options('recipe'))}; did you mean vim_tiny?",
    "data.root = /x": "'data.root' cannot be read: write key=value, without spaces around the =",
    "data.root= /x": "'/x' cannot be read: write key=value, without spaces around the =",
    "data.root=/x seed=1 data.root=/y": "data.root is given twice, as data.root=/x and as data.root=/y: give it once",
    "-m seed=1,2 +seed=3": "seed is given twice, as seed=1,2 and as +seed=3: give it once",
    "my/photos": "'my/photos': an argument is key=value, as in data.root=my/photos",
    "train": "'train': an argument is key=value, or a flag in front",
    "--data.root=/x": "unknown flag --data.root: keys have no dashes, write data.root=/x",
    "--epochs 3": "unknown flag --epochs: keys have no dashes, write schedule.epochs=...",
    "--foo": "unknown flag --foo: --help lists the flags",
    "--cfg": "--cfg takes job, hydra or all",
    "--cfg jobs": "--cfg jobs: takes job, hydra or all",
    "--config-dir /nope": "--config-dir /nope: no such folder",
    "--resolve": "The --resolve flag can only be used in conjunction with --cfg or --help",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(line: str, calls: list, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    captured = capsys.readouterr()
    assert captured.err == f"vim-train: {MISTAKES[line]}\n"
    assert captured.out == ""
    assert calls == []


def test_debug_shows_the_traceback_before_the_line(calls: list, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["debug=true", "epoch=3"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == "vim-train: unknown key epoch; did you mean schedule.epochs?"


def test_flags_may_stand_anywhere(calls: list, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["optim.lr=0.5", "--cfg", "job", "seed=3", "--resolve"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["optim"]["lr"], shown["seed"], shown["run"]["name"]) == (0.5, 3, "quickstart")
    assert calls == []


def test_recipes_of_the_users_own_folder(calls: list, work: Path) -> None:
    (work / "mine" / "recipe").mkdir(parents=True)
    (work / "mine" / "recipe" / "r.yaml").write_text("# @package _global_\nseed: 7\n")
    assert main(["--config-dir", "mine", "recipe=r", QUIET]) == 0
    assert calls[0][0].seed == 7


@pytest.mark.parametrize("home", ["home", "my home"])
def test_a_leading_tilde_is_the_home_folder(home: str, calls: list, work: Path, monkeypatch) -> None:
    (work / home / "data").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(work / home))
    assert main(["data=folder", "data.root=~/data", QUIET]) == 0
    assert calls[0][0].data.root == str(work / home / "data")


def test_help_and_version(calls: list, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("vim-train ")
    assert main(["seed=3", "--help", "seed"]) == 0
    assert capsys.readouterr().out.startswith("seed=3\n")
    assert main(["--help", "sed"]) == 2
    assert capsys.readouterr().err == "vim-train: unknown key sed; did you mean seed?\n"


def test_a_sweep_gives_each_job_its_own_run(calls: list, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "optim.lr=0.1,0.2", "seed=1", QUIET]) == 0
    names = [cfg.run.name for cfg, _ in calls]
    assert names == [f"quickstart-ops.tune_malloc=False,optim.lr={lr},seed=1" for lr in (0.1, 0.2)]
    assert "vim-train: job 1: optim.lr=0.2 seed=1" in capsys.readouterr().out


def test_a_sweep_keeps_a_name_made_from_the_values(calls: list) -> None:
    assert main(["-m", "optim.lr=0.1,0.2", "run.name=lr_${optim.lr}", QUIET]) == 0
    assert [cfg.run.name for cfg, _ in calls] == ["lr_0.1", "lr_0.2"]


def test_a_sweep_goes_on_after_a_failed_job_and_reports_it(calls) -> None:
    calls.code = 3
    assert main(["-m", "seed=1,2", QUIET]) == 3
    assert len(calls) == 2


def test_a_signal_ends_the_whole_sweep(calls) -> None:
    calls.code = 143
    assert main(["-m", "seed=1,2", QUIET]) == 143
    assert len(calls) == 1


def test_a_sweep_under_torchrun_is_refused(calls: list, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert main(["-m", "seed=1,2"]) == 2
    expected = "vim-train: -m under torchrun: every rank would sweep on its own; start the jobs one by one\n"
    assert capsys.readouterr().err == expected
