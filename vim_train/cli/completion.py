"""Tab completion: Hydra knows groups and keys; the schema knows the values that an Enum or a switch takes."""

import os
import re

from vim_train.config.keys import schema_keys

FLAGS = ("-sc", "--shell-completion")


def asked(argv: list[str]) -> bool:
    """Whether the shell is asking, or a script for it is wanted."""
    return any(item in FLAGS for item in argv)


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
