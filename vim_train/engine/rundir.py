"""The run directory: which folder a run gets, and whether it starts or goes on there."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import chain, count
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import BaseFileLock
from omegaconf import DictConfig, OmegaConf

from vim_train.config.differences import Change, Difference, allowed, as_table, change, differences, some, to_allow
from vim_train.config.errors import UserError
from vim_train.config.schema import Resume
from vim_train.engine.checkpoint import FOLDER, Found, latest
from vim_train.engine.durable import make_dir, sweep, sync, write_text
from vim_train.engine.lock import lock_dir, unlock_dir

CONFIG, SUMMARY = "config.yaml", "summary.json"
_ROOT = "data.root"


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


def open_run(root: str | Path, name: str, resume: Resume, config: Mapping[str, Any], allow: Sequence[str] = ()) -> Run:
    """Choose, make and lock the folder of a run.

    auto: the first of `name`, `name`-2, `name`-3 … that is not finished; one that has a checkpoint goes on, if its
    configuration is this one but for keys that are free or allowed; one that has none starts again with the new
    configuration. must: the same, but it has to have a checkpoint. never: the first that does not exist.

    Args:
        config: the resolved configuration in plain containers; written to config.yaml at the start.
        allow: keys and groups that may differ from the run's, where `config.differences` lets them be named; the
            earlier configuration stays beside the new one.

    Raises:
        UserError: `name` is not a folder name; another configuration, or another living process, or something that is
            not a run is in the folder; nothing to resume with must; every checkpoint is damaged; the folder cannot be
            written.
    """
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise UserError(f"run.name={name}: takes a folder name under run.root, without / and not starting with a dot")
    try:
        return _open(Path(root), name, resume, OmegaConf.create(dict(config)), allow)
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


def _open(root: Path, name: str, resume: Resume, config: DictConfig, allow: Sequence[str]) -> Run:
    for path in chain([root / name], (root / f"{name}-{number}" for number in count(2))):
        kind = _look(path)
        if kind is _Kind.absent and resume is Resume.must:
            raise UserError(f"run.resume=must: no unfinished run {root / name}")
        if kind is _Kind.finished or (kind is not _Kind.absent and resume is Resume.never):
            continue
        run = _enter(path, resume, config, allow)
        if run is not None:
            if path.name != name:
                taken = "exists" if resume is Resume.never else "is finished"
                run.notes.insert(0, f"{root / name} {taken}: this run is {path}")
            return run
    raise AssertionError("numbers do not end")


def _enter(path: Path, resume: Resume, config: DictConfig, allow: Sequence[str]) -> Run | None:
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
            found, notes = _prepare(path, resume, config, allow)
            return Run(path, found, notes, lock)
    except BaseException:
        unlock_dir(path, lock)
        raise
    unlock_dir(path, lock)
    return None


def _prepare(path: Path, resume: Resume, config: DictConfig, allow: Sequence[str]) -> tuple[Found | None, list[str]]:
    """Clear what a crash left, compare and write config.yaml, find the checkpoint; returns it with notes."""
    file = path / CONFIG
    started = file.exists()
    differing = differences(OmegaConf.to_container(_read(file)), OmegaConf.to_container(config)) if started else []
    sweep(path)
    leftovers = sweep(path / FOLDER) if (path / FOLDER).is_dir() else []
    found = latest(path)
    if found is not None:
        _check_allowed(path, differing, allow)
    if found is None and resume is Resume.must:
        raise UserError(f"run.resume=must: {path} has no checkpoint")

    notes = [f"cleared what an unfinished save had left in {path / FOLDER}"] if leftovers else []
    if differing and found is not None:
        before = path / f"config.until_step_{found.step:08d}.yaml"
        write_text(before, file.read_text(encoding="utf-8"))
        notes.append(f"goes on with another configuration: {some(differing)}; the earlier one is {before.name}")
    if differing or not started:
        write_text(file, OmegaConf.to_yaml(config))
    elif OmegaConf.select(was := _read(file), _ROOT) != (root := OmegaConf.select(config, _ROOT)):
        OmegaConf.update(was, _ROOT, root)  # vim-eval looks for the images there
        write_text(file, OmegaConf.to_yaml(was))
        notes.append(f"{_ROOT} is now {root}")
    if found is not None:
        notes += [f"passed over {each.path}: {each.reason}" for each in found.passed_over]
        notes.append(f"goes on from step {found.step} ({found.path})")
    elif started:
        notes.append(f"{path} was started before and has no checkpoint: starts from the beginning")
    return found, notes


def _check_allowed(path: Path, differing: list[Difference], allow: Sequence[str]) -> None:
    """Raises UserError, with all that differs in a table, where something may not or is not allowed to."""
    open_ = [each for each in differing if not allowed(each.key, allow)]
    if not open_:
        return
    refused = [each.key for each in open_ if change(each.key) is Change.refused]
    named = [*allow, *to_allow([each for each in open_ if change(each.key) is Change.named])]
    what = f"{path} was started with another configuration: {some(open_)}"
    if refused:
        cure = f"a run cannot change {', '.join(refused)}: put it back or take another run.name"
    else:
        cure = f"put it back, take another run.name, or go on all the same with run.allow=[{','.join(named)}]"
    raise UserError(f"{what}; {cure}", table=as_table(differing, allow))


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
