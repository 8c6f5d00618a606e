"""Tab completion: Hydra knows groups and keys; the schema knows the values that an Enum or a switch takes."""

import os
import re
from collections.abc import Collection

from vim_train.config.errors import UserError
from vim_train.config.keys import any_of, schema_keys

FLAGS = ("-sc", "--shell-completion")
REQUESTS, SHELLS = ("install", "uninstall", "query"), ("bash", "fish", "zsh")


def asked(argv: list[str]) -> bool:
    """Whether the shell is asking, or a script for it is wanted."""
    return any(item in FLAGS for item in argv)


def check_request(argv: list[str]) -> None:
    """Raises UserError: Hydra would not know what is asked for, or for which shell."""
    asks = [item.partition("=") for item in argv if item not in FLAGS]
    if len(asks) != 1 or asks[0][0] not in REQUESTS or asks[0][2] not in SHELLS:
        shells = any_of([f"install={shell}" for shell in SHELLS])
        raise UserError(f"-sc takes {shells}, or uninstall= of these, and nothing beside it")
    if asks[0][0] == "query" and "COMP_LINE" not in os.environ:
        raise UserError("-sc query is what the shell asks, once -sc install has taught it to: it tells the line typed")


def word_candidates(words: Collection[str]) -> str | None:
    """Candidates for the first word of the line typed so far; None: it is past that, and a word of `words` is cut out.

    Hydra, which is asked then, takes every word for a key.
    """
    program, *typed = os.environ.get("COMP_LINE", "").split(" ")
    if len(typed) == 1:
        return " ".join(word for word in words if word.startswith(typed[0]))
    os.environ["COMP_LINE"] = " ".join([program, *(word for word in typed if word not in words)])
    return None


def value_candidates(argv: list[str], schema: type) -> str | None:
    """Candidates for the value after `key=` as the shell wants them; None: Hydra completes this one."""
    query = next((item.partition("=")[2] for item in argv if item.startswith("query=")), None)
    match = re.search(r"(?:^|\s)([\w.]+)=([\w-]*)$", os.environ.get("COMP_LINE", ""))
    key = schema_keys(schema).get(match[1]) if match else None
    if query is None or match is None or key is None or not key.choices:
        return None
    choices = [*key.choices, "null"] if key.optional else key.choices
    found = [f"{key.name}={choice}" for choice in choices if choice.startswith(match[2])]
    return ("\n" if query == "fish" else " ").join(found)
