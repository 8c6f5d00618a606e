"""Compiled training: the numbers of training without, the same bits after a resume, plain names, few graphs."""

from pathlib import Path

import pytest
import torch
from test_loop import assert_same, weights
from torch._dynamo.utils import counters
from toy import toy_config, toy_trainer

from vim_train.config.schema import Compile, TrainConfig
from vim_train.engine import checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture
def cfg(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """The toy run, compiled, its 16 images an evaluation batch taken for the smaller rest of one of 20."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "inductor"))
    torch._dynamo.reset()
    counters.clear()
    made = toy_config()
    made.ops.compile, made.data.eval_batch_size, made.checkpoint.keep = Compile.default, 20, 100
    return made


def test_compiled_training_is_that_without_and_resumes_exactly(cfg: TrainConfig, tmp_path: Path) -> None:
    whole = toy_trainer(cfg, tmp_path / "whole")
    compiled_metrics = whole.train()
    assert counters["stats"]["unique_graphs"] == 1 + 3  # of the trial, in training, for weights and their average
    assert not counters["graph_break"]
    resumed = toy_trainer(cfg, tmp_path / "resumed")
    resumed.restore(checkpoint.load(tmp_path / "whole" / "checkpoints" / "step_00000004"))
    resumed.train()
    assert_same(weights(whole), weights(resumed))
    assert set(whole.state.model.state_dict()) == {"weight", "bias"}

    cfg.ops.compile = Compile.none
    plain = toy_trainer(cfg, tmp_path / "plain")
    assert plain.train() == pytest.approx(compiled_metrics)
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(whole)[name], value)


def test_without_a_compiler_training_goes_on_and_says_so(
    cfg: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", (None, "/no/such/compiler"))
    trainer = toy_trainer(cfg, tmp_path)
    [line] = trainer.report.lines
    assert line["text"].startswith("ops.compile=default: goes on without, as nothing can be compiled here: ")
    assert "\n" not in line["text"]
    assert trainer.forward is trainer.task.model
