"""Composition: what the shipped files make of a command line."""

from dataclasses import is_dataclass
from pathlib import Path

import pytest
import yaml

from vim_train.config.checks import peak_lr
from vim_train.config.commands import EvalCommand
from vim_train.config.compose import compose_config, compose_plain, load_config, save_config
from vim_train.config.errors import UserError
from vim_train.config.files import conf_dir, groups, options
from vim_train.config.keys import schema_keys
from vim_train.config.reference import DATA_COMMANDS
from vim_train.config.schema import Amp, DataName, EraseMode, Interpolation, Loss, StepPer, TrainConfig

ROOT = ["recipe=vim_tiny", "data.root=."]


def needs(recipe: str) -> list[str]:
    """What a recipe has to be given; `.` stands for a folder of images and for weights."""
    given = [] if recipe.startswith("quickstart") else ["data.root=."]
    return [*given, "model.checkpoint=."] if "stride8" in recipe else given


def leaves(node: dict, prefix: str = "") -> dict[str, object]:
    """Values of a nested dict by full name."""
    found: dict[str, object] = {}
    for name, value in node.items():
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def test_nothing_given_is_the_quickstart() -> None:
    cfg, plain = compose_config()
    assert cfg.run.name == "quickstart"
    assert cfg.data.name is DataName.fashion
    assert plain["data"]["name"] == "fashion"


def test_vim_tiny_is_the_published_pretraining() -> None:
    cfg, _ = compose_config(ROOT)
    assert (cfg.model.name, cfg.model.drop_path_rate) == ("vim_tiny_patch16_224", 0.0)
    assert cfg.model.patch_size is cfg.model.class_token is None
    assert (cfg.model.divide_out, cfg.model.init_reverse_dt_bias) == (True, False)
    assert (cfg.task.loss, cfg.task.label_smoothing) == (Loss.cross_entropy, 0.1)

    optim = cfg.optim
    assert (optim.name, optim.weight_decay, optim.betas, optim.eps) == ("adamw", 0.1, [0.9, 0.999], 1e-8)
    assert (optim.lr, optim.lr_batch_size, cfg.data.batch_size) == (5e-4, 512, 1024)
    assert optim.decay_a_log
    assert (optim.grad_clip_norm, optim.accumulate) == (None, None)

    schedule = cfg.schedule
    assert (schedule.name, schedule.epochs, schedule.warmup_epochs) == ("cosine", 300, 5)
    assert (schedule.warmup_lr, schedule.min_lr, schedule.step_per) == (1e-6, 1e-5, StepPer.epoch)

    data = cfg.data
    assert (data.name, data.img_size, data.crop_pct, data.lane, data.repeats) == (DataName.folder, 224, 0.875, 128, 3)
    assert (data.mean, data.std) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])

    augment = cfg.augment
    assert augment.auto_augment == "rand-m9-mstd0.5-inc1"
    assert (augment.crop_scale, augment.crop_ratio) == ([0.08, 1.0], [3 / 4, 4 / 3])
    assert (augment.hflip, augment.vflip, augment.interpolation) == (0.5, 0.0, Interpolation.bicubic)
    assert (augment.erase_prob, augment.erase_mode, augment.erase_count) == (0.25, EraseMode.pixel, 1)
    assert (augment.mixup_alpha, augment.cutmix_alpha, augment.mix_prob, augment.mix_switch_prob) == (
        0.8,
        1.0,
        1.0,
        0.5,
    )

    assert (cfg.ema.decay, cfg.ema.warmup, cfg.precision.amp) == (0.99996, False, Amp.fp32)


@pytest.mark.parametrize("recipe", options("recipe"))
def test_every_recipe_composes(recipe: str) -> None:
    assert compose_config([f"recipe={recipe}", *needs(recipe)])[0].run.name == recipe


@pytest.mark.parametrize(
    ("recipe", "changed"),
    [
        ("vim_small", {"optim.lr": 1e-3, "optim.weight_decay": 0.05, "data.batch_size": 512, "data.lane": 64}),
        ("vim_base", {"optim.weight_decay": 0.05, "data.lane": 64}),
        ("deit_tiny", {"optim.weight_decay": 0.05}),
        ("deit_small", {"optim.weight_decay": 0.05}),
        ("vit_tiny", {}),
    ],
)
def test_a_recipe_differs_from_vim_tinys_in_what_it_says(recipe: str, changed: dict[str, float]) -> None:
    """In the model too; and a pass is of one lane."""
    tiny, other = (leaves(compose_config([f"recipe={name}", *needs(name)])[1]) for name in ("vim_tiny", recipe))
    changed = changed | {"data.micro_batch_size": other["data.lane"]}
    differ = {key: other[key] for key in other if other[key] != tiny[key] and not key.startswith(("model.", "run."))}
    assert differ == {key: value for key, value in changed.items() if value != tiny[key]}
    assert other["data.micro_batch_size"] == other["data.lane"]


@pytest.mark.parametrize("size", ["small", "base"])
def test_vit_differs_from_vim_in_the_model_alone(size: str) -> None:
    vim, vit = (leaves(compose_config([f"recipe={name}_{size}", *needs(name)])[1]) for name in ("vim", "vit"))
    rate = vim["model.drop_path_rate"]
    assert vit["model.drop_path_rate"] == rate
    assert {key for key in vim if vim[key] != vit[key]} == {
        "run.name", "model.name", "model.divide_out", "model.init_reverse_dt_bias",
    }  # fmt: skip


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_fine_tuning_at_stride_8_is_the_published_one(size: str) -> None:
    recipe = f"vim_{size}_stride8"
    cfg, _ = compose_config([f"recipe={recipe}", *needs(recipe)])
    assert (cfg.model.name, cfg.model.drop_path_rate) == (f"vim_{size}_patch16_stride8_224", 0.0)
    assert (cfg.schedule.name, cfg.schedule.epochs, cfg.schedule.warmup_epochs) == ("constant", 30, 0)
    assert peak_lr(cfg.optim, cfg.data.batch_size) == 1e-5
    assert (cfg.optim.weight_decay, cfg.data.batch_size, cfg.data.lane, cfg.data.repeats) == (1e-8, 1024, 128, 3)
    cure = f"; the published weights are hf:vim_{size}"
    with pytest.raises(UserError, match=rf"^model.checkpoint=runs/vim_{size}: no such file or folder{cure}$"):
        compose_config([f"recipe={recipe}", "data.root=."])


@pytest.mark.parametrize("choice", [f"{group}={option}" for group in groups() for option in options(group)])
def test_every_option_composes_with_the_default_recipe(choice: str) -> None:
    extra = {"data=folder": ["data.root=."], "model=timm": ["model.name=resnet18"]}
    group, _, option = choice.partition("=")
    compose_config([choice, *(needs(option) if group == "recipe" else extra.get(choice, []))])


@pytest.mark.parametrize(
    ("config", "schema", "overrides"),
    [
        ("train", TrainConfig, ["~recipe"]),
        ("eval", EvalCommand, []),
        *((config, schema, []) for config, schema in DATA_COMMANDS.items()),
    ],
)
def test_conf_names_every_key_of_the_schema(config: str, schema: type, overrides: list[str]) -> None:
    named: set[str] = set()
    for file in [conf_dir() / f"{config}.yaml", *conf_dir().glob("*/*.yaml")]:
        prefix = "" if file.parent == conf_dir() else f"{file.parent.name}."
        named |= set(leaves(yaml.safe_load(file.read_text()), prefix))
    assert set(schema_keys(schema)) <= named
    assert set(leaves(compose_plain(config, schema, overrides))) == set(schema_keys(schema))


@pytest.mark.parametrize("group", [group for group in groups() if group != "recipe"])
def test_every_option_of_a_group_sets_the_same_keys(group: str) -> None:
    files = [conf_dir() / group / f"{option}.yaml" for option in options(group)]
    keys = [set(leaves(yaml.safe_load(file.read_text()))) for file in files]
    assert all(each == keys[0] for each in keys)


def test_plain_form_survives_yaml_and_loads_back_equal(tmp_path: Path) -> None:
    cfg, plain = compose_config(
        [*ROOT, "model.class_token=none", "logger.wandb.tags=[a,b]", "data.img_size_schedule=[0:16,10:48]"]
    )
    save_config(plain, tmp_path / "config.yaml")
    assert load_config(tmp_path) == load_config(tmp_path / "config.yaml") == cfg
    assert leaves(yaml.safe_load((tmp_path / "config.yaml").read_text()))["precision.amp"] == "fp32"


def test_a_saved_config_without_a_newer_key_loads_with_its_default(tmp_path: Path) -> None:
    _, plain = compose_config()
    del plain["ops"]
    save_config(plain, tmp_path / "config.yaml")
    assert load_config(tmp_path).ops == TrainConfig().ops


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "{file}: No such file or directory"),
        ("optim: {lrr: 1}", "{file}: unknown key optim.lrr; did you mean optim.lr?"),
        ("optim: {lr: fast}", "{file}: optim.lr=fast: takes a number above 0"),
        ("optim: {lr: 1", "{file}: {file}, line 1: expected ',' or '}}', but got '<stream end>'"),
    ],
)
def test_a_saved_config_that_does_not_load_says_why(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "config.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(file)
    assert str(caught.value) == message.format(file=file)


def test_home_is_expanded_wherever_a_value_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text("# @package _global_\nrun: {root: ~/runs}\n")
    cfg, _ = compose_config(["recipe=mine"], config_dir=tmp_path)
    assert cfg.run.root == f"{tmp_path}/runs"


def test_sections_of_the_schema_are_dataclasses_with_a_default() -> None:
    assert all(is_dataclass(getattr(TrainConfig(), name)) for name in ("run", "optim", "logger"))
