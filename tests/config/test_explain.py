"""Every mistake in a configuration is one line that names key, value and what is accepted."""

from pathlib import Path

import pytest

from vim_train.config.compose import compose_config
from vim_train.config.errors import UserError
from vim_train.config.files import options
from vim_train.config.keys import any_of

MODELS = "timm, vim_base, vim_nano, vim_small or vim_tiny"
RECIPES = any_of(options("recipe"))

OVERRIDES = {
    # keys
    "epoch=3": "unknown key epoch; did you mean schedule.epochs?",
    "epochs=3": "unknown key epochs; did you mean schedule.epochs?",
    "every=1ep": "unknown key every; did you mean eval.every, checkpoint.every or logger.every?",
    "optim.lrr=3": "unknown key optim.lrr; did you mean optim.lr?",
    "+optim.lrr=3": "unknown key optim.lrr; did you mean optim.lr?",
    "++optim.lrr=3": "unknown key optim.lrr; did you mean optim.lr?",
    "optim.epochs=3": "unknown key optim.epochs; did you mean schedule.epochs?",
    "checkpoint.foo=3": "unknown key checkpoint.foo; checkpoint has every, keep, on_error",
    "quux=3": "unknown key quux; --help lists the groups of keys",
    "optim.lr.x=3": "unknown key optim.lr.x; optim.lr takes a number above 0",
    "ema={foo:1}": "unknown key ema.foo; ema has decay, warmup",
    "~optim.lr": "~optim.lr: a key cannot be taken away, only set",
    "~foo": "~foo: no such key or group",
    # types
    "schedule.epochs=abc": "schedule.epochs=abc: takes a whole number from 1",
    "schedule.epochs=3.5": "schedule.epochs=3.5: takes a whole number from 1",
    "seed=": "seed=: takes a whole number from 0 to 2^63 - 1",
    "optim.lr=null": "optim.lr=null: takes a number above 0",
    "optim.lr=[1]": "optim.lr=[1]: takes a number above 0",
    "optim.betas=3": "optim.betas=3: takes a list of numbers, [0.5,0.9]",
    "optim.betas=[a,b]": "optim.betas=[a,b]: takes a list of numbers, [0.5,0.9]",
    "debug=maybe": "debug=maybe: takes true or false",
    "precision.amp=bf17": "precision.amp=bf17: takes fp32, tf32, bf16 or fp16",
    "model.class_token=mid": "model.class_token=mid: takes middle, head, double, none or null",
    "model.name=null": "model.name=null: takes text",
    "ema=3": "ema is a group of keys, not a value: ema has decay, warmup",
    # groups
    "model=vim_huge": f"model=vim_huge: takes {MODELS}",
    "model=vim_tny": f"model=vim_tny: takes {MODELS}; did you mean vim_tiny?",
    "recipe=vim_tny": f"recipe=vim_tny: takes {RECIPES}; did you mean vim_tiny?",
    "modle=vim_tiny": "unknown key modle; did you mean model?",
    "+model=vim_tiny": "+model=vim_tiny: model is set already; write model=vim_tiny",
    "optim=1": "optim=1: takes the name of an option; ~optim leaves the group out",
    "recipe=null": "recipe=null: takes the name of an option; ~recipe leaves the group out",
    "optim@foo=adamw": "optim@...: a group cannot be placed elsewhere; write optim=...",
    "model=timm": "set model.name=...",
    # grammar
    "data.root = /x": "'data.root = /x' cannot be read: write key=value, without spaces around the =",
    "data.root": "'data.root': an argument is key=value, or a flag in front",
    "data.root=/a b(1)": "'data.root=/a b(1)' cannot be read: quote the value twice, 'data.root=\"/a b(1)\"'",
    "run.name=a=b": "'run.name=a=b' cannot be read: quote the value twice, 'run.name=\"a=b\"'",
    "optim.lr=1,2": "optim.lr=1,2: a comma sweeps over values, which needs -m; a list is optim.lr=[1,2]",
    # interpolation
    "data.root=${oc.env:NOPE}": "data.root: Environment variable 'NOPE' not found",
    "data.root=${foo.bar}": "data.root: Interpolation key 'foo.bar' not found",
}

RECIPES = {
    "optim: {lrr: 3}": "recipe/mine.yaml: unknown key optim.lrr; did you mean optim.lr?",
    "optim: {lr: abc}": "recipe/mine.yaml: optim.lr=abc: takes a number above 0",
    "optim: {lr: -1}": "optim.lr=-1: takes a number above 0",
    "optim: {lr: 1": "{dir}/recipe/mine.yaml, line 3: expected ',' or '}', but got '<stream end>'",
    "- optim": "recipe/mine.yaml: is a list; takes keys with their values",
    "defaults: [{/model: vim_tiny}]": "model: vim_tiny in a defaults list: "
    "a recipe writes `- override /model: vim_tiny`",
    "defaults: [{override /modell: vim_tiny}]": "recipe/mine.yaml: unknown group modell; did you mean model?",
    "defaults: [{override /model: vim_tinyy}]": f"model: vim_tinyy (in a defaults list): takes {MODELS}; "
    "did you mean vim_tiny?",
}


def message(overrides: list[str], config_dir: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        compose_config(overrides, config_dir)
    return str(caught.value)


@pytest.mark.parametrize("override", OVERRIDES)
def test_a_mistaken_override_is_one_line(override: str) -> None:
    assert message([override]) == OVERRIDES[override]


@pytest.mark.parametrize("text", RECIPES)
def test_a_mistaken_recipe_file_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    assert message(["recipe=mine"], tmp_path) == RECIPES[text].replace("{dir}", str(tmp_path))


def test_a_recipe_without_its_package_line_says_so(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text("optim: {lr: 1}\n")
    expected = "recipe/mine.yaml: the first line of a recipe must be `# @package _global_`"
    assert message(["recipe=mine"], tmp_path) == expected


def test_options_of_a_users_own_folder_are_offered_too(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text("# @package _global_\n")
    expected = f"recipe=mime: takes {any_of(sorted(['mine', *options('recipe')]))}; did you mean mine?"
    assert message(["recipe=mime"], tmp_path) == expected


def test_several_missing_values_are_listed_at_once() -> None:
    assert message(["model=timm", "~data"]) == "set data.name=... model.name=..."
