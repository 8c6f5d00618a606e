"""Help and the reference page, made from the schema."""

from collections.abc import Callable
from pathlib import Path

import pytest

from vim_train.config.commands import EvalCommand, PredictCommand
from vim_train.config.errors import UserError
from vim_train.config.keys import schema_keys, suggest
from vim_train.config.reference import (
    DATA_COMMANDS,
    count_help,
    eval_help,
    export_help,
    index_help,
    page,
    predict_help,
    train_help,
    verify_help,
)
from vim_train.config.schema import TrainConfig

DOCS = Path(__file__).parent.parent.parent / "docs" / "config.md"


@pytest.mark.parametrize("schema", [TrainConfig, EvalCommand, PredictCommand, *DATA_COMMANDS.values()])
def test_every_key_has_a_sentence_and_says_what_it_takes(schema: type) -> None:
    for key in schema_keys(schema).values():
        assert key.doc.endswith("."), f"{key.name} has no sentence under it"
        assert "\n" not in key.doc
        assert key.accepts


@pytest.mark.parametrize(
    "help_of", [train_help, eval_help, predict_help, export_help, index_help, verify_help, count_help]
)
def test_help_fits_a_screen(help_of: Callable[[list[str]], str]) -> None:
    lines = help_of([]).splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 81


def test_help_of_a_key_shows_value_meaning_and_what_it_takes() -> None:
    assert train_help(["recipe=vim_tiny", "optim.lr"]) == (
        "optim.lr=0.0005\n  Peak learning rate, for a global batch of `lr_batch_size`.\n  Takes a number above 0."
    )


def test_help_of_a_group_lists_its_options_and_keys() -> None:
    text = train_help(["precision"])
    assert "precision=OPTION\n  bf16 " in text
    assert "precision.amp=fp32\n" in text


def test_help_of_a_required_key_shows_that_it_has_no_value() -> None:
    assert eval_help(["checkpoint"]).startswith("checkpoint=...\n")


def test_help_of_an_unknown_key_suggests() -> None:
    with pytest.raises(UserError, match=r"^unknown key optim\.learning; did you mean|^unknown key optim\.learning$"):
        train_help(["optim.learning"])
    with pytest.raises(UserError, match=r"^unknown key lrr; did you mean optim\.lr\?$"):
        train_help(["lrr"])


def test_the_reference_page_is_fresh() -> None:
    assert DOCS.read_text() == page(), "run `python -m vim_train.config.reference > docs/config.md`"


def test_suggestions_prefer_the_name_itself_then_its_last_part_then_what_resembles_it() -> None:
    words = ["a.lr", "b.every", "c.every", "model", "x.mode"]
    assert suggest("a.lr", words) == ["a.lr"]
    assert suggest("every", words) == ["b.every", "c.every"]
    assert suggest("modle", words) == ["model"]
    assert suggest("lrr", words) == ["a.lr"]
    assert suggest("zebra", words) == []
