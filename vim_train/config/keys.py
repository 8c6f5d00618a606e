"""What the schema says about itself: each key with its type and its sentence."""

import ast
import difflib
import inspect
import sys
from collections.abc import Collection
from dataclasses import dataclass, is_dataclass
from enum import Enum
from functools import cache
from types import NoneType, UnionType
from typing import Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Key:
    """One leaf of a schema, such as `optim.lr`."""

    name: str
    annotation: object
    doc: str

    @property
    def optional(self) -> bool:
        """Whether null is accepted."""
        return NoneType in _members(self.annotation)

    @property
    def base(self) -> object:
        """The annotation without null."""
        return next(member for member in _members(self.annotation) if member is not NoneType)

    @property
    def choices(self) -> list[str]:
        """Names of an Enum's members, true and false for a switch, else nothing."""
        if isinstance(self.base, type) and issubclass(self.base, Enum):
            return [member.name for member in self.base]
        return ["true", "false"] if self.base is bool else []

    @property
    def accepts(self) -> str:
        """What the key takes, in words."""
        if self.choices:
            words = self.choices
        elif get_origin(self.base) is list:
            words = [{float: "a list of numbers, [0.5,0.9]", str: "a list of words, [a,b]"}[get_args(self.base)[0]]]
        else:
            words = [{int: "a whole number", float: "a number", str: "text"}[self.base]]  # type: ignore[index]
        return any_of([*words, "null"] if self.optional else words)


def _members(annotation: object) -> tuple[object, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def any_of(words: Collection[str]) -> str:
    """`a, b or c`."""
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


@cache
def _docs(module: str) -> dict[tuple[str, str], str]:
    """(class, field) -> the string under the field."""
    found = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, below in zip(node.body, node.body[1:], strict=False):
            is_text = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
                found[node.name, field.target.id] = inspect.cleandoc(below.value.value)  # type: ignore[attr-defined]
    return found


def schema_keys(schema: type) -> dict[str, Key]:
    """Every leaf of a schema by its full name, in the schema's order."""
    found: dict[str, Key] = {}
    docs = _docs(schema.__module__)
    for name, annotation in get_type_hints(schema).items():
        if isinstance(annotation, type) and is_dataclass(annotation):
            below = schema_keys(annotation)
            found |= {f"{name}.{key}": Key(f"{name}.{key}", leaf.annotation, leaf.doc) for key, leaf in below.items()}
        else:
            found[name] = Key(name, annotation, docs.get((schema.__name__, name), ""))
    return found


def schema_sections(schema: type) -> list[str]:
    """Names of the inner nodes, such as `optim` and `logger.wandb`."""
    sections = [name.rpartition(".")[0] for name in schema_keys(schema)]
    return [section for section in dict.fromkeys(sections) if section]


def suggest(word: str, words: Collection[str]) -> list[str]:
    """What `word` was probably meant to be: a similar name, or those whose last part is, or resembles, its own."""
    if word in words:
        return [word]
    last = word.rpartition(".")[2]
    by_last: dict[str, list[str]] = {}
    for candidate in dict.fromkeys(words):
        by_last.setdefault(candidate.rpartition(".")[2], []).append(candidate)
    if last in by_last:
        return by_last[last]
    peers = [candidate for candidate in words if candidate.count(".") == word.count(".")]
    if near := difflib.get_close_matches(word, peers, n=1, cutoff=0.75):
        return near
    near = difflib.get_close_matches(last, by_last, n=1, cutoff=0.75)
    return by_last[near[0]] if near else []
