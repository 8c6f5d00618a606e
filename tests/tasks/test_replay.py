"""A kept step computed again gives the numbers it had; what is missing is one line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from processes import arguments
from torch import nn

from vim_train.config.checks import peak_lr
from vim_train.config.compose import compose_config
from vim_train.config.errors import UserError
from vim_train.config.schema import TrainConfig
from vim_train.engine.loop import Trainer
from vim_train.engine.ranks import Ranks
from vim_train.engine.replay import BadStep, keep, plain
from vim_train.engine.schedule import Schedule
from vim_train.engine.stopping import StopRequest
from vim_train.report.report import NullReport
from vim_train.tasks.classification import Classification
from vim_train.tasks.replay import first_not_finite, replay

STEP = 4


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Iterator[tuple[Path, BadStep]]:
    """A step of a run, kept as though it had been one of two ranks with one pass instead of one rank with two."""
    root = tmp_path_factory.mktemp("kept")
    cfg, _ = compose_config(arguments(root, photos, "data.workers=0", "device=cpu"))
    ranks = Ranks(torch.device("cpu"))
    task = Classification(cfg, ranks)
    schedule = Schedule(cfg.schedule, peak_lr(cfg.optim, cfg.data.batch_size), task.steps_per_epoch)
    meta = {"fingerprint": task.train_stream.fingerprint()}
    trainer = Trainer(cfg, task, schedule, ranks, root, meta, NullReport(), StopRequest())
    loss, norm = map(float, trainer.loss_and_norm(task.train_batches(STEP, STEP + 1)))
    config = plain(replace(cfg, optim=replace(cfg.optim, accumulate=1)))
    bad = BadStep(STEP, loss, norm, 1e-3, cfg.seed, 1.0, 2, task.step_images(STEP), meta, config)
    file = keep(root, bad, task.model.state_dict())
    assert file is not None
    yield file, bad
    task.close()


def command(file: Path) -> TrainConfig:
    return TrainConfig(replay=str(file))


def again(kept: tuple[Path, BadStep], folder: Path, **changes: object) -> Path:
    """The same step with something changed."""
    file = keep(folder, replace(kept[1], **changes), torch_weights(kept[0]))
    assert file is not None
    return file


def torch_weights(file: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(file.with_suffix(".safetensors"))


def test_a_replay_gives_the_numbers_of_the_step(kept: tuple[Path, BadStep], capsys: pytest.CaptureFixture[str]) -> None:
    file, bad = kept
    assert replay(command(file)) == 0
    output = capsys.readouterr().out
    numbers = f"loss {bad.loss:.6g}, gradient norm {bad.grad_norm:.6g}"
    assert f"recorded: {numbers}\nreplayed: {numbers}: the same\n" in output
    assert "all outputs finite" in output
    assert output.count("lane: ") == 2
    images = [line for line in output.splitlines() if line.startswith("image: ")]
    assert len(images) == 4
    assert all(any(name in line for name in bad.batch["images"]) for line in images)


def test_other_numbers_are_said_to_be_others(
    kept: tuple[Path, BadStep], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay(command(again(kept, tmp_path, loss=math.nan))) == 1
    assert "NOT the same" in capsys.readouterr().out


def test_what_is_missing_is_one_line(kept: tuple[Path, BadStep], tmp_path: Path) -> None:
    bad = kept[1]
    (tmp_path / "x.json").write_text("{}")
    elsewhere = {**bad.config, "data": {**bad.config["data"], "root": str(tmp_path / "gone")}}
    older = {**bad.config, "optim": {**bad.config["optim"], "lrr": 1}}
    for path, words in (
        (tmp_path / "none.json", "No such file"),
        (tmp_path / "x.json", "not a step that a run kept"),
        (again(kept, tmp_path / "a", config=elsewhere), "gone: no such folder"),
        (again(kept, tmp_path / "b", config=older), "lrr"),
        (
            again(kept, tmp_path / "c", meta={"fingerprint": "other"}),
            "the images of data.root are not those of the run",
        ),
    ):
        with pytest.raises(UserError, match=words) as caught:
            replay(command(path))
        assert "\n" not in str(caught.value)


def test_what_has_changed_since_is_refused(kept: tuple[Path, BadStep], tmp_path: Path) -> None:
    file = again(kept, tmp_path / "replay")
    weights = file.with_suffix(".safetensors")
    text, held = file.read_text(), weights.read_bytes()
    other = bytearray(held)
    other[-9] ^= 1
    for edited, bytes_, words in (
        (text.replace(f'"step": {STEP}', '"step": -5'), held, r"step_\d+\.json: has changed since the run wrote it"),
        (text.replace('"batch"', '"batches"'), held, "has changed since"),
        (text[: len(text) // 2], held, "not a step that a run kept"),
        ("[1, 2]", held, "not a step that a run kept"),
        (text, bytes(other), r"step_\d+\.safetensors has changed since the run wrote it"),
    ):
        file.write_text(edited)
        weights.write_bytes(bytes_)
        with pytest.raises(UserError, match=words):
            replay(command(file))
    weights.unlink()
    file.write_text(text)
    with pytest.raises(UserError, match=r"step_\d+\.safetensors: No such file"):
        replay(command(file))


def test_a_kept_step_holds_no_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_PASSWORD", "canary-of-the-replay")
    cfg = TrainConfig()
    cfg.logger.wandb.tags = ["of-canary-of-the-replay"]
    assert "canary" not in str(plain(cfg))
    assert "of-***" in str(plain(cfg))


def test_the_first_module_that_goes_wrong_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2))
    with torch.no_grad():
        model[1][0].bias.fill_(math.inf)
    with first_not_finite(model) as found:
        model(torch.ones(1, 2))
    assert found == ["1.0", "1.1", "1", "2", "the model"]
