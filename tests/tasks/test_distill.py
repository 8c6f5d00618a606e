"""Distillation: the loss, whose weights teach, and runs that go on in the middle of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
from processes import arguments
from safetensors.torch import save_file

from vim_train.config.checks import peak_lr
from vim_train.config.compose import compose_config, save_config
from vim_train.config.errors import UserError
from vim_train.config.schema import Distill, TrainConfig
from vim_train.engine import checkpoint
from vim_train.engine.loop import Trainer
from vim_train.engine.ranks import Ranks
from vim_train.engine.schedule import Schedule
from vim_train.engine.stopping import StopRequest
from vim_train.report.report import NullReport
from vim_train.tasks.classification import Classification
from vim_train.tasks.distill import open_teacher
from vim_train.tasks.run import _check_same_teacher

CPU = torch.device("cpu")


def trainer(cfg: TrainConfig, run_dir: Path) -> Trainer:
    task = Classification(cfg, Ranks(CPU))
    schedule = Schedule(cfg.schedule, peak_lr(cfg.optim, cfg.data.batch_size), task.steps_per_epoch)
    meta = {"classes": task.classes}
    return Trainer(cfg, task, schedule, Ranks(CPU), run_dir, meta, NullReport(), StopRequest())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A short run to teach others."""
    root = tmp_path_factory.mktemp("teacher")
    short = ("schedule.epochs=2", "schedule.warmup_epochs=0", "eval.every=2ep", "optim.lr=3e-3", "optim.accumulate=1")
    cfg, plain = compose_config(arguments(root, photos, "data.workers=0", "device=cpu", *short))
    save_config(plain, root / "config.yaml")
    made = trainer(cfg, root)
    made.train()
    made.task.close()
    return root


@pytest.fixture
def cfg(run: Path, photos: Path, tmp_path: Path) -> TrainConfig:
    """A student of that run."""
    keys = ("data.workers=0", "device=cpu", "schedule.epochs=3", "eval.every=3ep", "checkpoint.every=2st")
    return compose_config(arguments(tmp_path, photos, *keys, "task.distill=soft", f"task.teacher={run}"))[0]


@pytest.fixture
def classes(photos: Path) -> Iterator[list[str]]:
    return sorted(path.name for path in photos.iterdir() if path.is_dir())


def test_the_loss_is_that_of_the_papers(cfg: TrainConfig, classes: list[str]) -> None:
    logits, images = torch.randn(8, 4), torch.randn(8, 3, 32, 32)
    teacher = open_teacher(cfg, classes, CPU)
    taught = teacher.model(images).double()
    cfg.task.distill_alpha, cfg.task.distill_tau = 0.3, 2.0
    p, q = (taught / 2).softmax(1), (logits.double() / 2).softmax(1)
    divergence = 4 * (p * (p / q).log()).sum(1).mean()
    assert teacher.loss(torch.tensor(5.0), logits, images).item() == pytest.approx(0.7 * 5 + 0.3 * divergence.item())
    cfg.task.distill = Distill.hard
    chosen = -logits.double().log_softmax(1)[range(8), taught.argmax(1)].mean()
    assert teacher.loss(torch.tensor(5.0), logits, images).item() == pytest.approx(0.7 * 5 + 0.3 * chosen.item())
    assert not teacher.model.training
    assert not any(p.requires_grad for p in teacher.model.parameters())


def test_the_teacher_sees_images_normalised_as_in_its_own_training(cfg: TrainConfig, classes: list[str]) -> None:
    own = [torch.tensor(each)[:, None, None] for each in (cfg.data.mean, cfg.data.std)]
    cfg.data.mean, cfg.data.std = [0.1, 0.5, 0.4], [0.5, 0.3, 0.2]
    other = [torch.tensor(each)[:, None, None] for each in (cfg.data.mean, cfg.data.std)]
    teacher = open_teacher(cfg, classes, CPU)
    pixels = torch.rand(2, 3, 8, 8)
    seen = (pixels - other[0]) / other[1] * teacher.scale + teacher.shift
    torch.testing.assert_close(seen, (pixels - own[0]) / own[1])


@pytest.mark.parametrize("distill", [Distill.soft, Distill.hard])
def test_a_student_resumed_in_the_middle_equals_an_uninterrupted_one(
    cfg: TrainConfig, tmp_path: Path, distill: Distill
) -> None:
    """With sizes that rise, mixing that ends and a rate that decays while it learns from the teacher."""
    cfg.task.distill, cfg.checkpoint.keep = distill, 100
    cfg.data.img_size_schedule, cfg.augment.mix_off_epoch = ["0:16", "1:24", "2:32"], 2
    cfg.schedule.name, cfg.schedule.decay_epochs = "wsd", 1.5
    whole = trainer(cfg, tmp_path / "whole")
    whole.train()
    assert whole.schedule.steps_per_epoch == 3
    resumed = trainer(cfg, tmp_path / "resumed")
    resumed.restore(checkpoint.load(tmp_path / "whole" / "checkpoints" / "step_00000004"))
    resumed.train()
    for a, b in zip(whole.state.weights(), resumed.state.weights(), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)

    cfg.task.distill = Distill.none
    alone = trainer(cfg, tmp_path / "alone")
    alone.train()
    assert not torch.equal(alone.task.model.head.weight, whole.task.model.head.weight)


def test_a_teacher_of_other_classes_or_channels_is_refused(cfg: TrainConfig, classes: list[str], run: Path) -> None:
    lacking = rf"^task\.teacher={run}: its classes are not those of the data: it lacks tool and has also zebra$"
    with pytest.raises(UserError, match=lacking):
        open_teacher(cfg, [*(set(classes) - {"tool"}), "zebra"], CPU)
    cfg.model.in_chans = 1
    with pytest.raises(UserError, match=r"takes images of 3 channels, not model\.in_chans=1"):
        open_teacher(cfg, classes, CPU)


@pytest.mark.parametrize(
    ("teacher", "why"),
    [
        ("resnet18q", "no model of timm, and no run: checkpoint resnet18q: no such file or directory"),
        ("resnet10t", "timm's weights are for 1000 classes, not 4"),
        ("vim_nano_patch7_28", "timm has no weights for it; set task.teacher_checkpoint=..."),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(cfg: TrainConfig, classes: list[str], teacher: str, why: str) -> None:
    cfg.task.teacher = teacher
    with pytest.raises(UserError) as caught:
        open_teacher(cfg, classes, CPU)
    assert str(caught.value).startswith(f"task.teacher={teacher}: {why}")


def test_a_timm_teacher_takes_weights_from_a_file_or_timms_own(
    cfg: TrainConfig, classes: list[str], run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg.task.teacher = "resnet10t"
    file = tmp_path / "resnet10t.safetensors"
    save_file(timm.create_model("resnet10t", num_classes=4).state_dict(), file)
    cfg.task.teacher_checkpoint = str(file)
    teacher = open_teacher(cfg, classes, CPU)
    assert teacher.model(torch.zeros(1, 3, 32, 32)).shape == (1, 4)
    assert teacher.scale.flatten().tolist() == [1.0] * 3
    cfg.task.teacher_checkpoint = str(run)
    with pytest.raises(UserError):
        open_teacher(cfg, classes, CPU)

    cfg.task.teacher_checkpoint = None
    thousand = [f"class{i}" for i in range(1000)]

    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", unreachable)
    with pytest.raises(UserError, match=r"timm's weights cannot be had \(no route\); task.teacher_checkpoint=\.\.\."):
        open_teacher(cfg, thousand, CPU)
    weights = timm.create_model("resnet10t").state_dict()
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", lambda *_, **__: weights)
    found = open_teacher(cfg, thousand, CPU)
    assert all(torch.equal(weights[name], value) for name, value in found.model.state_dict().items())


def test_other_weights_of_the_teacher_are_seen_when_a_run_goes_on(cfg: TrainConfig) -> None:
    assert _check_same_teacher({"teacher": "1"}, {"teacher": "1"}, cfg) == []
    assert _check_same_teacher({}, {"teacher": None}, cfg) == []
    with pytest.raises(UserError, match="are not those that the checkpoint learnt from; put them back"):
        _check_same_teacher({"teacher": "1"}, {"teacher": "2"}, cfg)
    cfg.run.allow = ["task"]
    [note] = _check_same_teacher({"teacher": "1"}, {"teacher": "2"}, cfg)
    assert note.endswith("goes on all the same")
