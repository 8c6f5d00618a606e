"""What may differ between the configuration of a run and the one it goes on with."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from vim_train.config.schema import TrainConfig


class Change(Enum):
    """What it takes to go on with another value."""

    refused = auto()
    """It would be another run: the state does not fit, or its numbers would mean nothing beside the earlier ones."""
    named = auto()
    """`run.allow` names it: training goes on, and computes something else from here on."""
    free = auto()
    """Nothing: training computes the same with any value (with other threads or another device: up to rounding)."""


CHANGES = {
    **dict.fromkeys(("seed", "task.name", "model", "data.name", "optim.name"), Change.refused),
    **dict.fromkeys(("data.img_size", "data.val_fraction"), Change.refused),
    **dict.fromkeys(
        ("model.drop_path_rate", "model.recompute_states", "model.grad_checkpointing", "model.sync_bn"), Change.named
    ),
    **dict.fromkeys(("run", "debug", "replay", "dry_run", "device", "gpus", "logger", "checkpoint"), Change.free),
    "data.root": Change.free,  # the images themselves are compared
    **dict.fromkeys(("data.workers", "data.bad_images", "data.bad_images_max"), Change.free),
    **dict.fromkeys(("ops.threads", "ops.tune_malloc", "eval.patience"), Change.free),
}
"""Keys and groups; a key's own entry goes before its group's, and all others are to be named. `eval.every` is not free,
as it decides which step can be the best."""

_SHOWN, _GROUPED = 3, 3


@dataclass(frozen=True)
class Difference:
    """A key whose value is another than it was."""

    key: str
    was: str
    now: str

    def __str__(self) -> str:
        return f"{self.key} was {self.was}, is {self.now}"


def change(key: str) -> Change:
    """What it takes to go on with another value of `key`."""
    while key not in CHANGES:
        key, dot, _ = key.rpartition(".")
        if not dot:
            return Change.named
    return CHANGES[key]


def covers(name: str, key: str) -> bool:
    """Whether `name` is `key` or a group it is in."""
    return key == name or key.startswith(f"{name}.")


def allowed(key: str, allow: Sequence[str]) -> bool:
    """Whether a run may go on with another value of `key`, given `run.allow`."""
    return change(key) is Change.free or (change(key) is Change.named and any(covers(name, key) for name in allow))


def differences(then: object, now: object) -> list[Difference]:
    """Keys that differ and are not free, of configurations in plain containers.

    A key that `then` is too old to know has the schema's default.
    """
    a, b = dict(_flat(then)), dict(_flat(now))
    a = {key: value for key, value in _defaults().items() if key in b} | a
    return [
        Difference(key, _shown(a, key), _shown(b, key))
        for key in [*b, *(key for key in a if key not in b)]
        if change(key) is not Change.free and (key not in a or key not in b or a[key] != b[key])
    ]


def as_table(differing: Sequence[Difference], allow: Sequence[str]) -> list[str]:
    """One line a difference, under a line of titles, with what to do about each."""
    rows = [("key", "was", "is", "to go on")]
    for each in differing:
        if allowed(each.key, allow):
            cure = "allowed"
        else:
            cure = f"run.allow=[{each.key}]" if change(each.key) is Change.named else "put it back"
        rows.append((each.key, each.was, each.now, cure))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def to_allow(differing: Sequence[Difference]) -> list[str]:
    """The shortest `run.allow` for these: the group's name where several of one differ, else the keys."""
    groups = Counter(each.key.partition(".")[0] for each in differing)
    names = (group if groups[group := each.key.partition(".")[0]] >= _GROUPED else each.key for each in differing)
    return list(dict.fromkeys(names))


def some(differing: Sequence[Difference]) -> str:
    """The first few in a line."""
    more = len(differing) - _SHOWN
    return "; ".join(map(str, differing[:_SHOWN])) + (f"; and {more} more" if more > 0 else "")


@cache
def _defaults() -> dict[str, Any]:
    return dict(_flat(OmegaConf.to_container(OmegaConf.structured(TrainConfig), enum_to_str=True)))


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def _shown(values: Mapping[str, Any], key: str) -> str:
    value = values.get(key, "absent")
    return value if isinstance(value, str) else json.dumps(value)
