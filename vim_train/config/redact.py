"""Keep keys and passwords of the environment out of everything that is written or shown."""

import os
import re
from collections.abc import Mapping
from typing import TypeVar

# As a word of the name, or at the end of one: API_KEY, PGPASSWORD, GITHUB_TOKEN_2; but no KEYBOARD or TOKENIZERS.
_SECRET_NAME = re.compile(
    r"((KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL)S?|(^|_)PASS)(?![A-Z])", re.IGNORECASE
)
_PLACE_NAME = re.compile(r"_(FILE|DIR|FOLDER|PATH)$", re.IGNORECASE)  # where a key lies is none
_USER_IN_URL = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_SHORTEST = 8  # a shorter value would match by accident

T = TypeVar("T")


def find_secrets(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Values of environment variables whose name says key, token, secret or password; longest first."""
    values = {
        value
        for name, value in environ.items()
        if _SECRET_NAME.search(name) and not _PLACE_NAME.search(name) and len(value) >= _SHORTEST
    }
    return sorted(values, key=len, reverse=True)


def redact(value: T, secrets: list[str]) -> T:
    """A copy of text, or of containers of text, with every secret replaced by ``***``, and who logs in in a URL.

    Secrets are known by their value, not by the key they stand under: ``class_token`` is no secret, while
    ``tags=[${oc.env:API_KEY}]`` holds one.
    """
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***")  # type: ignore[assignment]
        return _USER_IN_URL.sub("***", value)  # type: ignore[return-value]
    if isinstance(value, Mapping):
        return {redact(key, secrets): redact(item, secrets) for key, item in value.items()}  # type: ignore[return-value]
    if isinstance(value, list | tuple):
        return type(value)(redact(item, secrets) for item in value)
    return value
