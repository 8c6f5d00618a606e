"""Small decisions of a run and of an evaluation."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from safetensors.torch import save_file

from vim_train.config.commands import Weights
from vim_train.config.compose import compose_config, save_config
from vim_train.config.errors import UserError
from vim_train.data.sources.classes import imagenet_wnids
from vim_train.tasks.metrics.imagenet import variant_classes
from vim_train.tasks.pretrained import open_pretrained
from vim_train.tasks.run import _assignment, _check_same_data
from vim_train.tasks.suites import check_variant, labels_in

THEN = {"classes": ["a", "b"], "fingerprint": "1", "val_fingerprint": "1"}


@pytest.mark.parametrize("part", ["fingerprint", "val_fingerprint"])
def test_changed_images_need_a_word_changed_classes_are_refused(part: str) -> None:
    changed = THEN | {part: "2"}
    assert _check_same_data(THEN, THEN, []) == []
    with pytest.raises(UserError, match=r"run\.allow=\[data\.root\] to go on"):
        _check_same_data(THEN, changed, ["optim"])
    [note] = _check_same_data(THEN, changed, ["data.root"])
    assert note.endswith("goes on all the same")


@pytest.mark.parametrize(
    ("now", "how"),
    [
        (["a", "c"], "it lacks b and has also c"),
        (["a"], "it lacks b"),
        (["a", "b", "c"], "it has also c"),
        (["b", "a"], "it has the same ones in another order"),
    ],
)
def test_other_classes_than_the_checkpoints_are_refused_by_name(now: list[str], how: str) -> None:
    with pytest.raises(UserError, match=rf"^the classes of data\.root are not those of the checkpoint: {how}; take"):
        _check_same_data(THEN, THEN | {"classes": now}, ["data"])


def test_images_are_labelled_among_the_checkpoints_classes() -> None:
    trained, labels = ["a", "b", "c"], np.array([0, 1, 1])
    for now in (trained, None):
        found, notes = labels_in(now, trained, np.array([0, 1, 2]))
        assert (found.tolist(), notes) == ([0, 1, 2], [])
    for there, among in ((["c", "a"], [2, 0, 0]), (trained, [0, 1, 1])):  # a folder is not there, or is empty
        found, notes = labels_in(trained, there, labels)
        assert (found.tolist(), notes) == (among, ["classes without images there: 1 of the checkpoint's 3"])
    with pytest.raises(
        UserError, match=r"^data\.root: its classes are not the checkpoint's: it lacks a and has also d$"
    ):
        labels_in(trained, ["b", "c", "d"], labels)


def test_classes_that_a_variant_does_not_have_are_named_before_anything_is_computed() -> None:
    wnids = imagenet_wnids()
    inside = [wnids.index(name) for name in variant_classes("a") or []]
    outside = [label for label in range(1000) if label not in inside][:2]
    check_variant("a", wnids, np.array([*inside[:3], -1]))
    check_variant("sketch", wnids, np.array(outside))
    with pytest.raises(
        UserError, match=f"^roots.a: holds classes that ImageNet-A does not have: {wnids[outside[0]]}, "
    ):
        check_variant("a", wnids, np.array([inside[0], *outside]))


def test_a_file_is_evaluated_as_the_weights_it_holds(tmp_path: Path) -> None:
    _, plain = compose_config(["data.workers=0"])
    save_config(plain, tmp_path / "config.yaml")
    weights = {"layer.weight": torch.zeros(2, 2)}
    for name, held in (("model.safetensors", Weights.model), ("ema.safetensors", Weights.ema)):
        save_file(weights, tmp_path / name)
        file = str(tmp_path / name)
        assert list(open_pretrained(file).weights) == [held.value]
        other = Weights.ema if held is Weights.model else Weights.model
        with pytest.raises(UserError, match=f"holds the {held.value} weights"):
            open_pretrained(file, other)


@pytest.mark.parametrize(
    "name", ["run", "a-b_2.c", "quickstart-seed=0,gpus=2", 'with "quotes"', "back\\slash", "ü ö", "a:b"]
)
def test_a_suggested_run_name_is_read_as_it_was(name: str) -> None:
    override = OverridesParser.create().parse_override(_assignment("run.name", name))
    assert override.key_or_group == "run.name"
    value = override.value()
    assert (value.text if isinstance(value, QuotedString) else value) == name
