"""What may change in a run: the class of a key, and what `run.allow` lets through."""

import pytest

from vim_train.config.differences import CHANGES, Change, allowed, as_table, change, covers, differences
from vim_train.config.keys import schema_keys
from vim_train.config.schema import TrainConfig

KEYS = schema_keys(TrainConfig)


def test_every_entry_is_a_key_or_a_group() -> None:
    for name in CHANGES:
        assert any(covers(name, key) for key in KEYS), name


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("seed", Change.refused), ("model.depth", Change.refused), ("data.val_fraction", Change.refused),
        ("model.drop_path_rate", Change.named), ("optim.lr", Change.named), ("data.batch_size", Change.named),
        ("eval.every", Change.named), ("ema.decay", Change.named), ("data.root", Change.free),
        ("checkpoint.every", Change.free), ("logger.wandb.mode", Change.free), ("data.workers", Change.free),
        ("eval.patience", Change.free), ("task.teacher", Change.named), ("augment.mix_off_epoch", Change.named),
        ("gpus", Change.free), ("gone.in.a.later.version", Change.named),
    ],
)  # fmt: skip
def test_the_nearest_entry_decides(key: str, what: Change) -> None:
    assert change(key) is what


def test_a_name_allows_its_key_or_its_group_and_nothing_refused() -> None:
    assert not allowed("optim.lr", [])
    assert allowed("optim.lr", ["schedule", "optim.lr"])
    assert allowed("optim.lr", ["optim"])
    assert not allowed("optim.lr_batch_size", ["optim.lr"])
    assert not allowed("optim.name", ["optim"])
    assert not allowed("seed", ["seed"])
    assert allowed("debug", [])


def test_free_keys_are_no_difference_and_the_table_aligns() -> None:
    then = {"seed": 0, "debug": False, "optim": {"lr": 0.1, "betas": [0.9, 0.99], "old": None}}
    now = {"seed": 1, "debug": True, "optim": {"lr": 0.1, "betas": [0.9], "new": "x"}}
    found = differences(then, now)
    assert [str(each) for each in found] == [
        "seed was 0, is 1", "optim.betas was [0.9, 0.99], is [0.9]", "optim.new was absent, is x",
        "optim.old was null, is absent",
    ]  # fmt: skip
    assert as_table(found[:2], ["optim"]) == [
        "key          was          is     to go on",
        "seed         0            1      put it back",
        "optim.betas  [0.9, 0.99]  [0.9]  allowed",
    ]
