"""From one image size and stride to another, on the embedded images."""

from pathlib import Path

import pytest
import torch
from processes import finish, start

from vim_train.config.compose import compose_config
from vim_train.config.schema import Amp
from vim_train.engine.evaluation import evaluate
from vim_train.engine.precision import set_precision
from vim_train.engine.ranks import Ranks
from vim_train.tasks.classification import Classification
from vim_train.tasks.weights import start_from

MODEL = ["model.depth=1", "model.embed_dim=48", "data.workers=0"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An epoch at 28 pixels, patches side by side."""
    root = tmp_path_factory.mktemp("trained")
    quiet = ["logger.wandb.mode=disabled", "ops.threads=1", "schedule.epochs=1"]
    code, output = finish(start("train", *MODEL, *quiet, f"run.root={root}", "run.name=source"))
    assert code == 0, output
    return root / "source"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "rows", "least"),
    [([], 17, 50.0), (["model.stride=3"], 65, 20.0), (["model.stride=4", "data.img_size=35"], 65, 17.0)],
    ids=["the same", "another stride", "another size and stride"],
)
def test_a_run_starts_from_another_one_better_than_chance(
    other: list[str], rows: int, least: float, trained: Path
) -> None:
    """Ten classes, 1,000 images: chance is 10 %, give or take 1."""
    cfg, _ = compose_config([*MODEL, f"model.checkpoint={trained}", *other])
    device = torch.device("cpu")
    task = Classification(cfg, Ranks(device))
    notes = start_from(task.model, cfg.model)
    carried = [f"position embedding carried from 17 to {rows} rows (aligned)"] if rows != 17 else []
    assert notes[1:] == carried
    metrics = evaluate(task, task.model, set_precision(Amp.fp32, device), Ranks(device))
    assert metrics is not None
    assert metrics["top1"] >= least
