"""vim-eval takes the run's own configuration, but for what it is told."""

from pathlib import Path

import pytest

from vim_train.config.commands import EvalCommand, EvalDataConfig
from vim_train.config.compose import compose_config, save_config
from vim_train.config.errors import UserError
from vim_train.config.evaluation import find_run, run_config
from vim_train.config.schema import Amp, DataName, Device, OpsConfig, PrecisionConfig


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with its configuration and one checkpoint."""
    _, plain = compose_config(["data.workers=7", "precision.amp=bf16"])
    folder = tmp_path / "quickstart"
    (folder / "checkpoints" / "step_00000010").mkdir(parents=True)
    (folder / "checkpoints" / "step_00000010" / "model.safetensors").touch()
    save_config(plain, folder / "config.yaml")
    return folder


@pytest.mark.parametrize("below", [".", "checkpoints", "checkpoints/step_00000010/model.safetensors"])
def test_the_run_is_found_from_anything_in_it(run: Path, below: str) -> None:
    assert find_run(run / below) == run


def test_a_file_outside_a_run_needs_images_named(tmp_path: Path) -> None:
    stray = tmp_path / "a" / "b" / "c" / "d" / "model.safetensors"
    stray.parent.mkdir(parents=True)
    stray.touch()
    assert find_run(stray) is None
    with pytest.raises(UserError, match=r"^set data\.root=\.\.\.: .* does not say on which images to evaluate it$"):
        run_config(EvalCommand(str(stray)))
    assert run_config(EvalCommand(str(stray), data=EvalDataConfig(root=str(tmp_path)))) is None
    assert run_config(EvalCommand(str(stray), suite=["sketch"])) is None  # has a root of its own


def test_only_our_own_forms_belong_to_the_run_above_them(run: Path) -> None:
    (run / "published.pth").touch()
    assert find_run(run / "published.pth") is None


def test_the_runs_own_data_and_model_stand(run: Path) -> None:
    cfg = run_config(EvalCommand(checkpoint=str(run)))
    assert (cfg.data.name, cfg.data.workers, cfg.model.name) == (DataName.fashion, 7, "vim_nano_patch7_28")


def test_what_the_command_says_wins(run: Path) -> None:
    data = EvalDataConfig(img_size=56, eval_batch_size=3, workers=0)
    command = EvalCommand(str(run), device=Device.cpu, data=data, ops=OpsConfig(threads=1))
    cfg = run_config(command)
    assert (cfg.data.img_size, cfg.data.eval_batch_size, cfg.data.workers) == (56, 3, 0)
    assert (cfg.device, cfg.ops.threads) == (Device.cpu, 1)
    assert run_config(EvalCommand(str(run), precision=PrecisionConfig(Amp.fp16))).precision.amp is Amp.fp16


def test_another_data_root_means_a_folder(run: Path, tmp_path: Path) -> None:
    cfg = run_config(EvalCommand(str(run), data=EvalDataConfig(root=str(tmp_path))))
    assert (cfg.data.name, cfg.data.root) == (DataName.folder, str(tmp_path))


def test_another_data_set_does_not_keep_the_old_root(run: Path, tmp_path: Path) -> None:
    _, plain = compose_config(["data=folder", f"data.root={tmp_path}"])
    save_config(plain, run / "config.yaml")
    assert run_config(EvalCommand(str(run), data=EvalDataConfig(name=DataName.fashion))).data.root is None


def test_data_that_moved_is_named(run: Path, tmp_path: Path) -> None:
    _, plain = compose_config(["data=folder", f"data.root={tmp_path}"])
    plain["data"]["root"] = "/gone"
    save_config(plain, run / "config.yaml")
    with pytest.raises(UserError, match=r"^data\.root=/gone: no such folder$"):
        run_config(EvalCommand(str(run)))
