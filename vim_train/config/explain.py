"""What Hydra and OmegaConf report in paragraphs, said in one line: what, where, and what is accepted."""

import re
from collections.abc import Sequence

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, InterpolationResolutionError, ValidationError
from yaml import MarkedYAMLError  # type: ignore[import-untyped]

from vim_train.config.checks import accepts
from vim_train.config.files import groups
from vim_train.config.keys import any_of, schema_keys, schema_sections, suggest
from vim_train.config.schema import TrainConfig

QUOTES = "\"'"


def explain(error: Exception, schema: type, overrides: Sequence[str] = ()) -> str:
    """One line for an error of composition; `overrides` are the command line's own."""
    return " ".join(_explain(error, schema, overrides).split())


def _explain(error: Exception, schema: type, overrides: Sequence[str]) -> str:
    if isinstance(error, OverrideParseException):
        return _syntax(error.override, overrides, schema)
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: {error.problem}" if mark else str(error)
    if isinstance(error, MissingConfigException):
        return _missing_option(error, overrides)
    text = "\n".join(str(part) for part in (error, error.__cause__) if part is not None)
    return _defaults_list(text, overrides, schema) or _value(text, error, schema, overrides) or _fold(text)


def _syntax(override: str, overrides: Sequence[str], schema: type) -> str:
    """An argument that Hydra's grammar does not read."""
    key, equals, value = override.partition("=")
    alone = any(item == "=" or item.startswith("=") or item.endswith("=") for item in overrides)
    if not equals or not key or key != key.strip():
        spaced = alone or key != key.strip()
        if not equals and not spaced and "/" in override:
            keys = schema_keys(schema)
            meant = next(key for key in ("images", "checkpoint", "data.root") if key in keys)
            return f"{override!r}: an argument is key=value, as in {meant}={override}"
        hint = "without spaces around the =" if spaced else "an argument is key=value, or a flag in front"
        return f"{override!r} cannot be read: write key=value, {hint}" if spaced else f"{override!r}: {hint}"
    if "=" in value or re.search(r"""[\s(){}\[\],:;'"~&|!?*<>]""", value):
        return f"{override!r} cannot be read: quote the value twice, '{key}=\"{value}\"'"
    return f"{override!r} cannot be read: write key=value"


def _missing_option(error: MissingConfigException, overrides: Sequence[str]) -> str:
    group, _, option = (error.missing_cfg_file or "").partition("/")
    if not option:
        return f"no configuration named {group!r} on the search path"
    given = any(item.lstrip("+").startswith(f"{group}=") for item in overrides)
    what = f"{group}={option}" if given else f"{group}: {option} (in a defaults list)"
    if not error.options:
        return f"{what}: no such option"
    return f"{what}: takes {any_of(error.options)}{_did_you_mean(suggest(option, error.options))}"


def _defaults_list(text: str, overrides: Sequence[str], schema: type) -> str | None:
    """Errors about groups and their options."""
    if match := re.match(r"Could not override '(\w+)'\.\s*No match in the defaults list", text):
        own = [key for key in schema_keys(schema) if key.startswith(f"{match[1]}.")][:3]
        given = next((item for item in overrides if item.startswith(f"{match[1]}=")), match[1])
        return f"{given}: is no group here; takes its keys, such as {', '.join(own)}" if own else None
    if match := re.search(r"Ambiguous value for argument '(.*?)'\n", text):
        key, _, value = match[1].partition("=")
        return f"{match[1]}: a comma sweeps over values, which needs -m; a list is {key}=[{value}]"
    if match := re.search(r"Multiple values for (\S+)\. To override a value use 'override \S+ (\S+)'", text):
        group, option = match[1], match[2]
        if f"+{group}={option}" in overrides:
            return f"+{group}={option}: {group} is set already; write {group}={option}"
        return f"{group}: {option} in a defaults list: a recipe writes `- override /{group}: {option}`"
    if match := re.search(r"In '(.*?)': Could not override '(.*?)'\. No match in the defaults list", text):
        return f"{match[1]}.yaml: unknown group {match[2]}{_did_you_mean(suggest(match[2], groups()))}"
    if match := re.search(r"Could not override '(\w+)@", text):
        return f"{match[1]}@...: a group cannot be placed elsewhere; write {match[1]}=..."
    if "Config group override must be a string or a list" in text:
        for item in overrides:
            if item.partition("=")[0] in groups():
                return f"{item}: takes the name of an option; ~{item.partition('=')[0]} leaves the group out"
    if match := re.search(r"Could not delete from config\. '(.*?)' does not exist", text):
        return f"~{match[1]}: no such key or group"
    if match := re.search(r"Additional config directory '(.*?)' not found", text):
        return f"--config-dir {match[1]}: no such folder"
    return None


def _value(text: str, error: Exception, schema: type, overrides: Sequence[str]) -> str | None:
    """Errors about a key or its value."""
    where = re.search(r"In '(.*?)': \w+ raised while composing config", text)
    place = f"{where[1]}.yaml: " if where else ""
    if where and "Cannot merge DictConfig with ListConfig" in text:
        return f"{place}is a list; takes keys with their values"
    found = re.search(r"full_key: (.*)", text)
    if found is None:
        return None
    full_key = found[1]
    if "does not support deletion" in text:
        return f"~{full_key}: a key cannot be taken away, only set"
    if isinstance(error, InterpolationResolutionError):
        reason = _fold(text).removeprefix("KeyError raised while resolving interpolation: ")
        return f"{full_key}: {reason.strip(QUOTES)}"
    if re.search(r"^Key '.*' not in '", text, re.MULTILINE) or isinstance(error, ConfigAttributeError | ConfigKeyError):
        if where and full_key == where[1].partition("/")[0] == "recipe":
            return f"{place}the first line of a recipe must be `# @package _global_`"
        typed = (item.lstrip("+").partition("=")[0] for item in overrides)  # more than the first unknown part of it
        return place + _unknown_key(next((key for key in typed if key.startswith(f"{full_key}.")), full_key), schema)
    name = re.sub(r"\[\d+\]$", "", full_key)
    key = schema_keys(schema).get(name)
    if key is not None and (isinstance(error, ValidationError) or "Error merging override" in text or where):
        if below := [item for item in overrides if item.lstrip("+").startswith(f"{name}.")]:
            return f"unknown key {below[-1].partition('=')[0]}; {name} takes {accepts(key)}"
        given = [item.lstrip("+") for item in overrides if item.lstrip("+").startswith(f"{name}=") and not where]
        swept = given and "," in given[-1] and not given[-1].startswith(f"{name}=[")
        shown = given[-1] if given and not swept else f"{name}={_culprit(text)}"
        return f"{place}{shown}: takes {accepts(key)}"
    if name in schema_sections(schema):
        return f"{place}{name} is a group of keys, not a value: {_keys_of(name, schema)}"
    return None


def _unknown_key(name: str, schema: type) -> str:
    keys, sections = list(schema_keys(schema)), schema_sections(schema)
    section, _, last = name.rpartition(".")
    if section in sections:
        elsewhere = [key for key in keys if key.rpartition(".")[2] == last]
        siblings = [key.rpartition(".")[2] for key in keys if key.rpartition(".")[0] == section]
        if near := elsewhere or [f"{section}.{sibling}" for sibling in suggest(last, siblings)]:
            return f"unknown key {name}{_did_you_mean(near)}"
        return f"unknown key {name}; {_keys_of(section, schema)}"
    near = suggest(name, [*keys, *sections, *(groups() if schema is TrainConfig else [])])
    return f"unknown key {name}{_did_you_mean(near) or '; --help lists the groups of keys'}"


def _keys_of(section: str, schema: type) -> str:
    prefix = f"{section}."
    names = [key.removeprefix(prefix) for key in schema_keys(schema) if key.startswith(prefix)]
    return f"{section} has {', '.join(names)}"


def _culprit(text: str) -> str:
    """The value that an OmegaConf message complains about."""
    if "is not Optional" in text:
        return "null"
    match = re.search(r"[Vv]alue '(.*?)'", text)
    return match[1] if match else "..."


def _did_you_mean(near: Sequence[str]) -> str:
    return f"; did you mean {any_of(near)}?" if near else ""


def _fold(text: str) -> str:
    """All that a message says in one line, without its technical annex."""
    annex = ("full_key:", "reference_type=", "object_type=", "See https:", "Set the environment variable")
    lines = [line.strip() for line in text.splitlines()]
    return ". ".join(line.rstrip(".") for line in lines if line and not line.startswith(annex))
