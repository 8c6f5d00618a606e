"""The run directory: which folder a run gets, and whether it starts or goes on there."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import chain, count
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import BaseFileLock
from omegaconf import DictConfig, OmegaConf

from vim_train.config.errors import UserError
from vim_train.config.schema import Resume
from vim_train.engine.checkpoint import FOLDER, Found, latest
from vim_train.engine.durable import make_dir, sweep, sync, write_text
from vim_train.engine.lock import lock_dir, unlock_dir

CONFIG, SUMMARY = "config.yaml", "summary.json"

FREE_KEYS = (
    "run",
    "debug",
    "gpus",
    "logger",
    "data.workers",
    "data.bad_images",
    "data.bad_images_max",
    "ops.threads",
    "ops.tune_malloc",
    "checkpoint.every",
    "checkpoint.keep",
)
"""Keys and groups that may differ when a run goes on: training computes the same with any value of them (with another
number of threads: up to rounding). `eval.every` is none of them, as it decides which step can be the best."""

_SHOWN = 4


@dataclass
class Run:
    """An opened run directory, locked for this process; close it or use it as a context.

    `resume_from` is None for a start at step 0. `notes` are lines for the user, in order.
    """

    path: Path
    resume_from: Found | None
    notes: list[str]
    _lock: BaseFileLock = field(repr=False)

    def close(self) -> None:
        unlock_dir(self.path, self._lock)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


def open_run(root: str | Path, name: str, resume: Resume, config: Mapping[str, Any]) -> Run:
    """Choose, make and lock the folder of a run.

    auto: the first of `name`, `name`-2, `name`-3 … that is not finished; one that has a checkpoint goes on, if its
    configuration is this one but for `FREE_KEYS`; one that has none starts again with the new configuration. must: the
    same, but it has to have a checkpoint, and its configuration may be another; the old one stays beside the new.
    never: the first that does not exist.

    Args:
        config: the resolved configuration in plain containers; written to config.yaml at the start.

    Raises:
        UserError: `name` is not a folder name; another configuration, or another living process, or something that is
            not a run is in the folder; nothing to resume with must; every checkpoint is damaged; the folder cannot be
            written.
    """
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise UserError(f"run.name={name}: takes a folder name under run.root, without / and not starting with a dot")
    try:
        return _open(Path(root), name, resume, OmegaConf.create(dict(config)))
    except OSError as error:
        what = error.filename or Path(root, name)
        raise UserError(f"run.root={root}: cannot use {what}: {error.strerror or error}") from error


class _Kind(Enum):
    absent = auto()
    new = auto()
    started = auto()
    finished = auto()


def _look(path: Path) -> _Kind:
    """What is at `path`.

    Raises:
        UserError: something that is not a run.
    """
    if not path.is_dir():
        return _Kind.absent
    if (path / CONFIG).exists():
        return _Kind.finished if _finished(path / SUMMARY) else _Kind.started
    if any(not entry.name.startswith(".") for entry in path.iterdir()):
        raise UserError(f"{path} is not a run (no {CONFIG} in it) and not empty; take another run.name or run.root")
    return _Kind.new


def _finished(summary: Path) -> bool:
    try:
        content = json.loads(summary.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(content, dict) and content.get("finished") is True


def _open(root: Path, name: str, resume: Resume, config: DictConfig) -> Run:
    for path in chain([root / name], (root / f"{name}-{number}" for number in count(2))):
        kind = _look(path)
        if kind is _Kind.absent and resume is Resume.must:
            raise UserError(f"run.resume=must: no unfinished run {root / name}")
        if kind is _Kind.finished or (kind is not _Kind.absent and resume is Resume.never):
            continue
        run = _enter(path, resume, config)
        if run is not None:
            if path.name != name:
                taken = "exists" if resume is Resume.never else "is finished"
                run.notes.insert(0, f"{root / name} {taken}: this run is {path}")
            return run
    raise AssertionError("numbers do not end")


def _enter(path: Path, resume: Resume, config: DictConfig) -> Run | None:
    """Lock the folder and make it ready; None if another process was quicker and it is no longer ours to take."""
    make_dir(path.parent)
    try:
        path.mkdir()
        sync(path.parent)
    except FileExistsError:
        if resume is Resume.never:
            return None
    lock = lock_dir(path)
    try:
        if _look(path) is not _Kind.finished:
            found, notes = _prepare(path, resume, config)
            return Run(path, found, notes, lock)
    except BaseException:
        unlock_dir(path, lock)
        raise
    unlock_dir(path, lock)
    return None


def _prepare(path: Path, resume: Resume, config: DictConfig) -> tuple[Found | None, list[str]]:
    """Clear what a crash left, compare and write config.yaml, find the checkpoint; returns it with notes."""
    file = path / CONFIG
    started = file.exists()
    differing = _differing(_read(file), config) if started else []
    sweep(path)
    leftovers = sweep(path / FOLDER) if (path / FOLDER).is_dir() else []
    found = latest(path)
    if found is not None and differing and resume is not Resume.must:
        raise UserError(
            f"{path} was started with another configuration: {_some(differing)};"
            " take another run.name, or run.resume=must to go on all the same"
        )
    if found is None and resume is Resume.must:
        raise UserError(f"run.resume=must: {path} has no checkpoint")

    notes = [f"cleared what an earlier crash had left in {path / FOLDER}"] if leftovers else []
    if differing and found is not None:
        before = path / f"config.until_step_{found.step:08d}.yaml"
        write_text(before, file.read_text(encoding="utf-8"))
        notes.append(f"goes on with another configuration: {_some(differing)}; the earlier one is {before.name}")
    if differing or not started:
        write_text(file, OmegaConf.to_yaml(config))
    if found is not None:
        notes += [f"passed over {each.path}: {each.reason}" for each in found.passed_over]
        notes.append(f"goes on from step {found.step} ({found.path})")
    elif started:
        notes.append(f"{path} was started before and has no checkpoint: starts from the beginning")
    return found, notes


def _read(file: Path) -> DictConfig:
    try:
        config = OmegaConf.load(file)
    except OSError:
        raise
    except Exception as error:  # whatever the YAML parser raises
        raise UserError(f"{file} is damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(config, DictConfig):
        raise UserError(f"{file} is damaged: not a mapping")
    return config


def _differing(then: DictConfig, now: DictConfig) -> list[str]:
    """Keys whose difference matters, each with both values."""
    a, b = dict(_flat(OmegaConf.to_container(then))), dict(_flat(OmegaConf.to_container(now)))
    return [
        f"{key} was {_shown(a, key)}, is {_shown(b, key)}"
        for key in [*b, *(key for key in a if key not in b)]
        if not _free(key) and (key not in a or key not in b or a[key] != b[key])
    ]


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def _shown(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key, "absent")
    return value if isinstance(value, str) else json.dumps(value)


def _free(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in FREE_KEYS)


def _some(differing: list[str]) -> str:
    more = len(differing) - _SHOWN
    return "; ".join(differing[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
