"""From overrides to a checked configuration. Hydra composes; the schema and the checks decide."""

import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vim_train.config.checks import check_train
from vim_train.config.command_checks import check_data_command, check_eval, check_export, check_predict
from vim_train.config.commands import (
    CountCommand,
    EvalCommand,
    ExportCommand,
    IndexCommand,
    PredictCommand,
    VerifyCommand,
)
from vim_train.config.errors import UserError
from vim_train.config.explain import explain
from vim_train.config.files import conf_dir
from vim_train.config.schema import TrainConfig

Plain = dict[str, object]
"""A configuration of plain containers, Enum members by name: for YAML, W&B and checkpoints."""

T = TypeVar("T")

_CHECKS = {
    TrainConfig: check_train,
    EvalCommand: check_eval,
    PredictCommand: check_predict,
    ExportCommand: check_export,
    IndexCommand: check_data_command,
    VerifyCommand: check_data_command,
    CountCommand: check_data_command,
}


@cache
def register_schemas() -> None:
    """Name the schemas that conf/*.yaml put first in their defaults lists."""
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="eval_schema", node=EvalCommand)
    store.store(name="predict_schema", node=PredictCommand)
    store.store(name="export_schema", node=ExportCommand)
    store.store(name="index_schema", node=IndexCommand)
    store.store(name="verify_schema", node=VerifyCommand)
    store.store(name="count_schema", node=CountCommand)


def compose_config(overrides: Iterable[str] = (), config_dir: str | Path | None = None) -> tuple[TrainConfig, Plain]:
    """What `vim-train OVERRIDES` would train, for Python callers; `config_dir` as `--config-dir`.

    Raises:
        UserError: anything wrong with the overrides or the files they name.
    """
    overrides = list(overrides)
    if config_dir is not None:
        overrides.append(f"hydra.searchpath=[{Path(config_dir).resolve()}]")
    return validate(_compose("train", TrainConfig, overrides), TrainConfig)


def compose_plain(config: str, schema: type, overrides: Iterable[str] = ()) -> Plain:
    """conf/CONFIG.yaml composed but not checked, with `???` for what has to be given: to be shown to a reader.

    Raises:
        UserError: overrides that do not compose.
    """
    plain = OmegaConf.to_container(_compose(config, schema, list(overrides)), enum_to_str=True)
    assert isinstance(plain, dict)
    return plain  # type: ignore[return-value]


def _compose(config: str, schema: type, overrides: list[str]) -> DictConfig:
    register_schemas()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose(config, overrides)
    except Exception as error:
        raise UserError(explain(error, schema, overrides)) from error


def validate(cfg: DictConfig, schema: type[T]) -> tuple[T, Plain]:
    """A composed configuration as an object of the schema, checked, and as plain containers.

    Merging into a fresh schema catches what Hydra lets through: keys added with `+`, and whole files composed
    without the schema.

    Raises:
        UserError: a missing value, an unknown key, a wrong type, a value or combination out of range.
    """
    try:
        if missing := sorted(OmegaConf.missing_keys(cfg)):
            raise UserError("set " + " ".join(f"{key}=..." for key in missing))
        resolved = _expand_home(OmegaConf.to_container(cfg, resolve=True))
        merged = OmegaConf.merge(OmegaConf.structured(schema), resolved)
        typed = OmegaConf.to_object(merged)
        plain = OmegaConf.to_container(merged, enum_to_str=True)
    except OmegaConfBaseException as error:
        raise UserError(explain(error, schema)) from error
    assert isinstance(typed, schema)
    assert isinstance(plain, dict)
    _CHECKS[schema](typed)  # type: ignore[operator]
    _settle_root(typed, plain)
    return typed, plain  # type: ignore[return-value]


def _settle_root(typed: object, plain: dict[Any, Any]) -> None:
    """Make `data.root` absolute, so that the saved configuration means the same from any working directory."""
    data, section = getattr(typed, "data", None), plain.get("data")
    if getattr(data, "root", None) is not None and isinstance(section, dict):
        data.root = section["root"] = os.path.abspath(data.root)  # type: ignore[union-attr]


def _expand_home(node: object) -> object:
    """Replace a leading `~/` in every text: shells leave it in `key=~/path`."""
    if isinstance(node, dict):
        return {key: _expand_home(value) for key, value in node.items()}
    return os.path.expanduser(node) if isinstance(node, str) and node.startswith("~/") else node


def load_config(path: str | Path) -> TrainConfig:
    """The configuration that a run saved; `path` is its config.yaml or the run's folder.

    Types are checked, ranges and paths are not: the data may have moved since.

    Raises:
        UserError: no such file, or not a configuration of this version.
    """
    file = Path(path)
    file = file / "config.yaml" if file.is_dir() else file
    return restore_config(lambda: OmegaConf.load(file), file)


def restore_config(read: Callable[[], object], file: Path) -> TrainConfig:
    """The configuration in the plain containers that `read` finds in `file`; else as `load_config`."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(TrainConfig), read())
        typed = OmegaConf.to_object(merged)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}") from error
    except Exception as error:
        raise UserError(f"{file}: {explain(error, TrainConfig)}") from error
    assert isinstance(typed, TrainConfig)
    return typed


def save_config(plain: Plain, path: Path) -> None:
    """Write a resolved configuration so that `load_config` reads it back."""
    OmegaConf.save(OmegaConf.create(plain), path)
