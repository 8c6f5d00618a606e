"""Ranges and combinations."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from omegaconf import OmegaConf

from vim_train.config.checks import CHOICES, DURATIONS, RANGES, accepts, check_train, peak_lr
from vim_train.config.commands import EvalCommand, ExportCommand, PredictCommand
from vim_train.config.compose import compose_config
from vim_train.config.errors import UserError
from vim_train.config.keys import schema_keys
from vim_train.config.schema import OptimConfig, TrainConfig

KEYS = schema_keys(TrainConfig)


@pytest.fixture(scope="module")
def quickstart() -> dict[str, object]:
    """What the default recipe composes to, once for all."""
    return compose_config()[1]


@pytest.fixture
def check(quickstart: dict[str, object]) -> Callable[..., None]:
    """Check the quickstart's configuration with some values changed, without composing it anew."""

    def run(*changes: str) -> None:
        cfg = OmegaConf.merge(OmegaConf.structured(TrainConfig), quickstart, OmegaConf.from_dotlist(list(changes)))
        check_train(OmegaConf.to_object(cfg))

    return run


def refused(check: Callable[..., None], *changes: str) -> str:
    with pytest.raises(UserError) as caught:
        check(*changes)
    return str(caught.value)


def test_every_number_of_the_schema_has_a_range() -> None:
    numbers = {
        name
        for name, key in (
            schema_keys(ExportCommand) | schema_keys(EvalCommand) | schema_keys(PredictCommand) | KEYS
        ).items()
        if {int, float} & {key.base, *get_args(key.base)}
    }
    assert numbers == set(RANGES)
    assert {*CHOICES, *DURATIONS} <= set(KEYS)


SINGLE = {
    "run.hang_timeout_s=0": "run.hang_timeout_s=0: takes a number above 0",
    "run.drift_every=5": "run.drift_every=5: takes 5ep, 200st or 1000000im (epochs, steps, images)",
    "seed=-1": "seed=-1: takes a whole number from 0 to 2^63 - 1",
    "optim.lr=0": "optim.lr=0: takes a number above 0",
    "optim.lr=nan": "optim.lr=nan: takes a number above 0, finite",
    "optim.lr=inf": "optim.lr=inf: takes a number above 0, finite",
    "model.drop_path_rate=1": "model.drop_path_rate=1: takes a number from 0 to below 1",
    "model.in_chans=2": "model.in_chans=2: takes 1 or 3",
    "data.std=[0.2,0,0.2]": "data.std=[0.2,0,0.2]: takes a number above 0, each",
    "ema.decay=1": "ema.decay=1: takes a number between 0 and 1",
    "checkpoint.keep=1": "checkpoint.keep=1: takes a whole number from 2",
    "task.name=detection": "task.name=detection: takes classification",
    "schedule.name=cosin": "schedule.name=cosin: takes cosine, constant, wsd or poly",
    "eval.every=5": "eval.every=5: takes 5ep, 200st or 1000000im (epochs, steps, images)",
    "eval.patience=3": "eval.patience=3: takes 5ep, 200st or 1000000im (epochs, steps, images)",
    "run.name=../x": "run.name=../x: takes a folder name under run.root, without / and not starting with a dot",
    "run.name=''": "run.name=: takes a folder name under run.root, without / and not starting with a dot",
    "data.name=folder": "set data.root=...",
    "data.root=/tmp": "data.root=/tmp: goes with data=folder; data=fashion has its own images",
    "data.mean=[0.5]": "data.mean=[0.5]: takes one number for each of model.in_chans=3 channels",
    "model.in_chans=1": "data.mean=[0.286,0.286,0.286]: takes one number for each of model.in_chans=1 channels",
    "augment.crop_scale=[1,0.5]": "augment.crop_scale=[1,0.5]: takes [smallest,largest]",
    "augment.crop_ratio=[1]": "augment.crop_ratio=[1]: takes [smallest,largest]",
    "optim.betas=[0.9]": "optim.betas=[0.9]: takes two numbers, three for optimisers such as adan",
    "optim.betas=[0.9,1]": "optim.betas=[0.9,1]: takes a number from 0 to below 1, each",
    "model.checkpoint=/nope": "model.checkpoint=/nope: no such file or folder",
}


@pytest.mark.parametrize("override", SINGLE)
def test_a_value_out_of_range_is_refused(override: str, check: Callable[..., None]) -> None:
    assert refused(check, override) == SINGLE[override]


COMBINATIONS = [
    (
        ("data.batch_size=96", "data.lane=64"),
        "data.lane=64: takes a divisor of the 96 images of a pass (data.batch_size=96): "
        "1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48 or 96",
    ),
    (
        ("data.batch_size=64", "optim.accumulate=4", "data.lane=32"),
        "data.lane=32: takes a divisor of the 16 images of a pass (data.batch_size=64 / optim.accumulate=4): "
        "1, 2, 4, 8 or 16",
    ),
    (
        ("data.batch_size=64", "optim.accumulate=3"),
        "optim.accumulate=3: takes a divisor of data.batch_size=64: 1, 2, 4, 8, 16, 32 or 64",
    ),
    (("data.micro_batch_size=16",), "data.micro_batch_size=16: takes data.lane=32 or more: a lane is not split"),
    (
        ("data.lane=1", "augment.cutmix_alpha=1"),
        "data.lane=1: takes an even number with mixup or cutmix, which pair the images of a lane",
    ),
    (
        ("schedule.epochs=3", "schedule.warmup_epochs=3"),
        "schedule.warmup_epochs=3: takes less than schedule.epochs=3",
    ),
    (
        ("schedule.name=wsd", "schedule.epochs=4", "schedule.warmup_epochs=1", "schedule.decay_epochs=3.5"),
        "schedule.decay_epochs=3.5: takes at most the 3 epochs after warm-up",
    ),
    (
        ("schedule.name=wsd", "optim.lr=1e-6"),
        "schedule.min_lr=1e-05: takes at most the peak learning rate, 1e-06",
    ),
    (("optim.lr=1e-6",), "schedule.min_lr=1e-05: takes at most the peak learning rate, 1e-06"),
    (
        ("optim.lr=1e-7", "schedule.name=constant"),
        "schedule.warmup_lr=1e-06: takes at most the peak learning rate, 1e-07",
    ),
    (("task.distill=soft",), "set task.teacher=..., from which task.distill=soft learns"),
    (("task.teacher=resnet18",), "task.teacher=resnet18: goes with task.distill=soft or hard"),
    (
        ("task.teacher_checkpoint=a.safetensors",),
        "task.teacher_checkpoint=a.safetensors: goes with task.distill=soft or hard",
    ),
    (("device=cpu", "ops.backend=cuda"), "ops.backend=cuda: takes auto, reference or cpu with device=cpu"),
    (
        ("determinism=strict", "optim.grad_compression=bf16"),
        "optim.grad_compression=bf16: takes none with determinism=strict, whose gradients are exchanged whole",
    ),
    (("task.bce_threshold=0.2",), "task.bce_threshold=0.2: takes null but with task.loss=bce"),
    (("task.bce_sum=true",), "task.bce_sum=true: takes false but with task.loss=bce"),
    (("model.reset_head=true",), "model.reset_head=true: takes false without model.checkpoint: all weights are fresh"),
    (
        ("model.freeze=backbone", "optim.grad_clip_norm=null", "optim.agc=0.01"),
        "optim.agc=0.01: takes null with model.freeze=backbone: it leaves the head out",
    ),
    (
        ("ops.compile=max_autotune", "determinism=exact"),
        "ops.compile=max_autotune: takes another mode with determinism=exact: it picks kernels by time",
    ),
    (
        ("model.sync_bn=true", "determinism=strict"),
        "model.sync_bn=true: takes false with determinism=strict, whose lanes have statistics of their own",
    ),
    (
        ("optim.grad_clip_norm=null", "optim.grad_clip_value=0.1", "optim.agc=0.01"),
        "optim.agc=0.01: takes null with optim.grad_clip_value: gradients are clipped in one way",
    ),
    (("data.name=folder", "data.root=/nope"), "data.root=/nope: no such folder"),
    (("data.name=folder", f"data.root={__file__}"), f"data.root={__file__}: is a file; takes a folder of images"),
]


@pytest.mark.parametrize(("overrides", "expected"), COMBINATIONS)
def test_a_combination_that_does_not_fit_is_refused(
    overrides: tuple[str, ...], expected: str, check: Callable[..., None]
) -> None:
    assert refused(check, *overrides) == expected


def test_batches_of_whole_lanes_are_accepted(check: Callable[..., None]) -> None:
    check("data.batch_size=192", "optim.accumulate=3", "data.lane=32")
    check("data.batch_size=192", "optim.accumulate=3", "data.lane=64", "augment.mixup_alpha=0.8")


def test_a_missing_data_root_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        compose_config(["data=folder"])
    assert list(tmp_path.iterdir()) == []


def test_peak_learning_rate_follows_the_batch_only_where_asked() -> None:
    assert peak_lr(OptimConfig(lr=5e-4, lr_batch_size=512), 1024) == 1e-3
    assert peak_lr(OptimConfig(lr=5e-4), 1024) == 5e-4


def test_what_a_key_accepts_is_said_as_narrowly_as_it_is_checked() -> None:
    assert accepts(KEYS["optim.lr"]) == "a number above 0"
    assert accepts(KEYS["optim.grad_clip_norm"]) == "a number above 0 or null"
    assert accepts(KEYS["optim.betas"]) == "a list of numbers, [0.5,0.9]"
    assert accepts(KEYS["schedule.name"]) == "cosine, constant, wsd or poly"
    assert accepts(KEYS["logger.every"]) == "5ep, 200st or 1000000im (epochs, steps, images)"
    assert accepts(KEYS["logger.wandb.tags"]) == "a list of words, [a,b]"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("sed", "run.allow=sed: takes keys and groups, such as optim.lr or schedule"),
        ("seed", "run.allow=seed: a run cannot change it; take another run.name, with model.checkpoint=..."),
        ("model.depth", "run.allow=model.depth: a run cannot change it"),
    ],
)
def test_what_run_allow_names(check: Callable[..., None], name: str, why: str) -> None:
    check("run.allow=[optim.lr,schedule,model,data.workers]")
    assert refused(check, f"run.allow=[{name}]").startswith(why)


@pytest.mark.parametrize("stages", ["1:160", "0:160,10:192,10:224", "0:160,192", "0:0", "0-160"])
def test_an_image_size_schedule_that_cannot_be_followed_is_refused(check: Callable[..., None], stages: str) -> None:
    check(f"data.img_size_schedule={['0:14', '5:21', '10:28']}")
    wanted = "EPOCH:SIZE, each, with epochs that rise from 0, as in [0:160,10:192]; in a file in quotes"
    message = refused(check, f"data.img_size_schedule={stages.split(',')}")
    assert message == f"data.img_size_schedule=[{stages}]: takes {wanted}"


def test_what_begins_after_the_last_epoch_is_refused(check: Callable[..., None]) -> None:
    check("augment.mix_off_epoch=3", "schedule.epochs=4")
    before = "takes an epoch before schedule.epochs=4"
    told = refused(check, "augment.mix_off_epoch=4", "schedule.epochs=4")
    assert told == f"augment.mix_off_epoch=4: {before} or null"
    told = refused(check, f"data.img_size_schedule={['0:14', '4:28']}", "schedule.epochs=4")
    assert told == f"data.img_size_schedule=[0:14,4:28]: {before} for its last size"
