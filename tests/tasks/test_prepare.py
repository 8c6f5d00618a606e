"""What is done to a model before it trains: what it changes, what it leaves, and that runs still resume exactly."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from small_run import same, small_trainer, trained, weights
from torch import nn

import vim_train.models  # noqa: F401
from vim_train.config.errors import UserError
from vim_train.config.schema import Freeze, ModelConfig
from vim_train.engine.optim import head_parameters
from vim_train.tasks.prepare import prepare
from vim_train.tasks.weights import start_from

CPU = torch.device("cpu")
RESNET = ("model=timm", "model.name=test_resnet", *(f"model.{key}=null" for key in ("patch_size", "stride")))
RESNET += ("model.embed_dim=null", "model.depth=null")
STRICT = ("determinism=strict", "optim.accumulate=1")


def config(**settings: object) -> ModelConfig:
    return ModelConfig(name="the model", **settings)


@pytest.mark.parametrize(
    "keys",
    [
        ("model.freeze=backbone",),
        (*RESNET, "model.freeze=backbone", "model.channels_last=true"),
        (*RESNET, "model.channels_last=true", "optim.layer_decay=0.7", "optim.agc=0.1", "optim.grad_clip_norm=null"),
        (*RESNET, "model.channels_last=true", *STRICT),
        ("model.grad_checkpointing=true", "optim.layer_decay=0.7", *STRICT),
        ("task.loss=bce", "task.bce_threshold=0.2", "task.bce_sum=true"),
    ],
    ids=["probe", "probe of a convnet", "convnet", "strict convnet", "strict", "bce"],
)
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path, photos: Path, keys: tuple[str, ...]) -> None:
    whole = trained(tmp_path / "whole", photos, *keys)
    resumed = trained(tmp_path / "resumed", photos, *keys, after=tmp_path / "whole")
    assert same(weights(whole), weights(resumed)) == weights(whole).keys()


@pytest.mark.parametrize("keys", [(), RESNET], ids=["vim", "convnet"])
def test_of_a_frozen_model_only_the_head_changes(tmp_path: Path, photos: Path, keys: tuple[str, ...]) -> None:
    before = small_trainer(tmp_path / "before", photos, *keys, "model.freeze=backbone")
    after = trained(tmp_path / "after", photos, *keys, "model.freeze=backbone")
    head = {name for name, p in before.task.model.named_parameters() if p.requires_grad}
    assert {name.partition(".")[0] for name in head} <= {"head", "fc"}
    assert weights(before).keys() - same(weights(before), weights(after)) == head | {f"ema.{name}" for name in head}
    assert len(after.state.optimizer.state) == len(head)


def test_a_linear_probe_of_a_frozen_model_learns(tmp_path: Path, photos: Path) -> None:
    keys = ("model.freeze=backbone", "schedule.epochs=6", "augment=none", "optim.lr=0.02", "task.label_smoothing=0")
    trainer = trained(tmp_path, photos, *keys)
    losses = [line["train/loss"] for line in trainer.report.lines if line["kind"] == "train"]
    assert losses[-1] < losses[0]


def test_activation_checkpointing_of_vim_changes_no_bit(tmp_path: Path, photos: Path) -> None:
    plain = trained(tmp_path / "plain", photos)
    again = trained(tmp_path / "again", photos, "model.grad_checkpointing=true")
    assert again.task.model.grad_checkpointing
    assert same(weights(plain), weights(again)) == weights(plain).keys()


def test_channels_last_changes_the_format_and_the_numbers_by_rounding_alone(tmp_path: Path, photos: Path) -> None:
    """Also where gradients are made whole again, lane by lane: a fused optimiser reads memory in its own order."""
    keys = (*RESNET, *STRICT, "optim.lr=1e-4", "schedule.epochs=1", "schedule.warmup_epochs=0")
    plain = trained(tmp_path / "plain", photos, *keys)
    last = trained(tmp_path / "last", photos, *keys, "model.channels_last=true")
    convolutions = [m.weight for m in last.task.model.modules() if isinstance(m, nn.Conv2d)]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in convolutions)
    changed = small_trainer(tmp_path / "start", photos, *keys)
    for name, start in weights(changed).items():
        moved = (weights(plain)[name] - start).abs().amax() if start.is_floating_point() else 0
        torch.testing.assert_close(weights(last)[name], weights(plain)[name], rtol=1e-3, atol=float(moved) / 10)


def test_batch_norms_are_synchronised_on_gpus_under_the_same_names(monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm.create_model("resnet10t", num_classes=3)
    names = list(model.state_dict())
    with pytest.raises(UserError, match=r"^model\.sync_bn=true: takes false on a CPU; torch has it for GPUs alone$"):
        prepare(model, config(sync_bn=True), CPU)
    monkeypatch.setattr(nn.Module, "to", lambda self, *_: self)  # there may be no GPU to move it to
    synchronised = prepare(model, config(sync_bn=True), torch.device("cuda"))
    assert list(synchronised.state_dict()) == names
    norms = [m for m in synchronised.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(m, nn.SyncBatchNorm) for m in norms)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("grad_checkpointing", True, "model.grad_checkpointing=true: takes false with model.name=the model, which"),
        ("freeze", Freeze.backbone, "model.freeze=backbone: takes none with model.name=the model, which names no"),
    ],
)
def test_what_a_model_does_not_have_is_refused(key: str, value: object, why: str) -> None:
    with pytest.raises(UserError, match=why):
        prepare(nn.Linear(2, 2), config(**{key: value}), CPU)


def test_a_head_starts_afresh_where_it_is_to_though_its_classes_are_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, other = (timm.create_model("vim_nano_patch7_28", depth=1, num_classes=3) for _ in range(2))
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    weight, bias = (p.detach().clone() for p in head_parameters(model))
    notes = start_from(model, config(checkpoint=str(tmp_path / "other.safetensors"), reset_head=True))
    assert any(note.startswith("head made anew") for note in notes)
    new_weight, new_bias = (p.detach() for p in head_parameters(model))
    assert torch.equal(new_weight.flatten().sort()[0], weight.flatten().sort()[0])  # as it is initialised,
    assert (
        abs(torch.nn.functional.cosine_similarity(new_weight.flatten(), weight.flatten(), 0)) < 0.2
    )  # in other places
    assert torch.equal(new_bias, bias)
    assert torch.equal(model.layers[0].mixer.A_log, other.layers[0].mixer.A_log)
