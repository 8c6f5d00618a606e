"""The command line before Hydra sees it: flags apart from overrides, in the order that Hydra needs."""

import os
import re
from dataclasses import dataclass, field

from vim_train.config.errors import UserError
from vim_train.config.keys import any_of, schema_keys, suggest

SWITCHES = ("--resolve", "--run", "-r", "--multirun", "-m", "--hydra-help")
VALUED = {"--cfg": "-c", "--package": "-p", "--config-dir": "-cd"}
CHOICES = {
    "--cfg": ("job", "hydra", "all"),
    "--info": ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath"),
}


@dataclass
class Arguments:
    """What was typed."""

    flags: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    help: bool = False
    version: bool = False

    @property
    def multirun(self) -> bool:
        """Whether this is a sweep."""
        return "-m" in self.flags or "--multirun" in self.flags or "hydra.mode=MULTIRUN" in self.overrides

    @property
    def debug(self) -> bool:
        """Whether tracebacks are wanted, also of errors before there is a configuration."""
        return any(item.lower() == "debug=true" for item in self.overrides)


def read_arguments(argv: list[str], schema: type) -> Arguments:
    """Sort arguments; flags may stand anywhere.

    Raises:
        UserError: an unknown flag, one without its value, or a key given twice.
    """
    read = Arguments()
    rest = list(argv)
    while rest:
        item = rest.pop(0)
        if not item.startswith("-"):
            read.overrides.append(_expand_home(item))
        elif item in ("--help", "-h"):
            read.help = True
        elif item == "--version":
            read.version = True
        elif item in SWITCHES:
            read.flags.append(item)
        else:
            read.flags += _valued(item, rest, schema)
    _check_once(read.overrides)
    return read


def _check_once(overrides: list[str]) -> None:
    """Raises UserError: a key is given twice, of which Hydra would take the last without a word."""
    seen: dict[str, str] = {}
    for item in overrides:
        key, equals, _ = item.lstrip("+").partition("=")
        if not key or not equals:
            continue
        if key in seen:
            raise UserError(f"{key} is given twice, as {seen[key]} and as {item}: give it once")
        seen[key] = item


def _valued(item: str, rest: list[str], schema: type) -> list[str]:
    """A flag with its value, taken from `rest`."""
    name, equals, value = item.partition("=")
    name = {short: flag for flag, short in VALUED.items()}.get(name, "--info" if name == "-i" else name)
    if name not in VALUED and name != "--info":
        raise UserError(_unknown_flag(item, schema))
    if not equals:
        follows = rest and not rest[0].startswith("-") and (name != "--info" or rest[0] in CHOICES["--info"])
        value = rest.pop(0) if follows else "all" if name == "--info" else ""
    if not value or value not in CHOICES.get(name, (value,)):
        shown = f"{name} {value}:" if value else name
        raise UserError(f"{shown} takes {any_of(CHOICES[name]) if name in CHOICES else 'a value'}")
    return [name, value]


def _unknown_flag(item: str, schema: type) -> str:
    key, _, value = item.lstrip("-").partition("=")
    near = suggest(key, schema_keys(schema))
    cure = f"keys have no dashes, write {near[0]}={value or '...'}" if len(near) == 1 else "--help lists the flags"
    return f"unknown flag {item.partition('=')[0]}: {cure}"


def _expand_home(item: str) -> str:
    """`key=~/path` with the home folder in it, which neither bash nor Hydra's grammar puts there."""
    match = re.fullmatch(r"([+\w.]+=)(~(?:/[^,]*)?)", item)
    if match is None:
        return item
    path = os.path.expanduser(match[2])
    return match[1] + (path if re.fullmatch(r"[\w/.+-]+", path) else f'"{path}"')
