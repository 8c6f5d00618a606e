"""summary.json: the final numbers of a finished run and what produced them."""

import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from vim_train.report.jsonl import to_json

_PACKAGES = ("vim-train", "torch", "torchvision", "timm", "numpy", "pillow", "hydra-core", "safetensors", "wandb")


def versions() -> dict[str, str]:
    """Python, the platform and the packages that decide the numbers; one that is not installed is left out."""
    found = {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_summary(path: Path, summary: Mapping[str, object]) -> None:
    """Write JSON that is whole or absent. Non-finite numbers become null. Raises OSError."""
    write_whole(path, to_json(summary, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file that has all of `text`, or what it had before, at any moment. Raises OSError."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
