"""The manifest of a checkpoint directory: what belongs in it, to the byte.

manifest.json holds the format's version, the step, `meta`, and size and sha256 of every file. Its last line is the
sha256 of all the text before that line, so a damaged manifest is found like any other damaged file.
"""

import hashlib
import json
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vim_train.config.errors import UserError
from vim_train.engine.durable import HashedFile

FORMAT = 1
MANIFEST = "manifest.json"
MODEL, EMA, STATE = "model.safetensors", "ema.safetensors", "state.pt"

_CHUNK = 1 << 20
_END = re.compile(r',\n "sha256": "([0-9a-f]{64})"\n}\n')
_END_LENGTH = len(',\n "sha256": ""\n}\n') + 64


class CheckpointError(UserError):
    """A checkpoint that could not be written, or cannot be used: one line with its path and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"checkpoint {self.path}: {self.reason}"


class NoEmaError(CheckpointError):
    """A sound checkpoint without averaged weights, where those were asked for."""


@dataclass(frozen=True)
class Entry:
    """A file as it was written."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """`sha256` is that of the manifest itself and so names the content of the whole checkpoint."""

    step: int
    meta: dict[str, Any]
    files: dict[str, Entry]
    sha256: str


def write_manifest(directory: Path, step: int, meta: dict[str, Any], files: dict[str, Entry]) -> None:
    """Write manifest.json; the files themselves are written already."""
    entries = {name: {"bytes": entry.bytes, "sha256": entry.sha256} for name, entry in files.items()}
    body = {"format": FORMAT, "step": step, "meta": meta, "files": entries}
    text = json.dumps(body, indent=1).removesuffix("\n}")
    digest = hashlib.sha256(text.encode()).hexdigest()
    with HashedFile(directory / MANIFEST) as file:
        file.write(f'{text},\n "sha256": "{digest}"\n}}\n'.encode())


def read_manifest(directory: Path) -> Manifest:
    """Read and check manifest.json alone.

    Raises:
        CheckpointError: it is missing, damaged or of another format.
    """
    if not directory.is_dir():
        raise CheckpointError(directory, "not a directory" if directory.exists() else "no such directory")
    raw = b"".join(_chunks(directory, MANIFEST))
    text, end = raw[:-_END_LENGTH], _END.fullmatch(raw[-_END_LENGTH:].decode("latin-1"))
    if end is None or hashlib.sha256(text).hexdigest() != end[1]:
        raise CheckpointError(directory, f"{MANIFEST} is damaged")
    try:
        body = json.loads(raw)
        if body["format"] != FORMAT:
            raise CheckpointError(directory, f"has format {body['format']}, this version reads format {FORMAT}")
        files = {name: Entry(**entry) for name, entry in body["files"].items()}
        manifest = Manifest(int(body["step"]), body["meta"], files, end[1])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(directory, f"{MANIFEST} is not a checkpoint's") from error
    if not {MODEL, STATE} <= set(files) <= {MODEL, EMA, STATE}:
        raise CheckpointError(directory, f"{MANIFEST} lists {', '.join(files) or 'no files'}")
    return manifest


def read_file(directory: Path, manifest: Manifest, name: str) -> bytes:
    """The content of a listed file: exactly the bytes that were checked.

    Raises:
        CheckpointError: the file is missing or differs from what was written.
    """
    data = b"".join(_chunks(directory, name))
    _compare(directory, name, Entry(len(data), hashlib.sha256(data).hexdigest()), manifest.files[name])
    return data


def verify(directory: Path) -> Manifest:
    """Check a whole checkpoint directory.

    Raises:
        CheckpointError: anything missing or different from what was written.
    """
    manifest = read_manifest(directory)
    for name, written in manifest.files.items():
        digest, size = hashlib.sha256(), 0
        for chunk in _chunks(directory, name):
            digest.update(chunk)
            size += len(chunk)
        _compare(directory, name, Entry(size, digest.hexdigest()), written)
    return manifest


def _compare(directory: Path, name: str, found: Entry, written: Entry) -> None:
    if found.bytes != written.bytes:
        raise CheckpointError(directory, f"{name} has {found.bytes} bytes, {written.bytes} were written")
    if found.sha256 != written.sha256:
        raise CheckpointError(directory, f"{name} is damaged: its sha256 is not the one written")


def _chunks(directory: Path, name: str) -> Iterator[bytes]:
    path = directory / name
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
            raise CheckpointError(directory, f"{name} is not a file")
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
    except FileNotFoundError as error:
        raise CheckpointError(directory, f"{name} is missing") from error
    except OSError as error:
        raise CheckpointError(directory, f"{name} cannot be read: {error.strerror}") from error
