"""Checkpoints: whole or absent, verified before use.

    <run>/checkpoints/step_00001234/{model.safetensors, ema.safetensors, state.pt, manifest.json}
    <run>/checkpoints/best/           the same files of the best step, independent of the others

A checkpoint is written under a temporary name, synced, and renamed; nothing in it changes afterwards. One process
writes: the one that holds the run's lock.
"""

import errno
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from vim_train.engine.durable import PARTIAL, HashedFile, link_dir, make_dir, remove_dir, replace_dir, sync
from vim_train.engine.manifest import (
    EMA,
    MANIFEST,
    MODEL,
    STATE,
    CheckpointError,
    Entry,
    Manifest,
    NoEmaError,
    read_file,
    read_manifest,
    verify,
    write_manifest,
)
from vim_train.engine.weights import (
    check_compatible,
    check_finite,
    leaves,
    read_meta,
    read_state,
    read_weights,
    write_state,
    write_weights,
)

__all__ = [
    "CheckpointError",
    "Found",
    "Loaded",
    "NoEmaError",
    "PassedOver",
    "bytes_needed",
    "check_compatible",
    "check_disk",
    "latest",
    "load",
    "load_weights",
    "save",
    "step_dir",
]

FOLDER, BEST = "checkpoints", "best"
ALWAYS_KEPT = 2

_STEP = re.compile(r"step_(\d{8,})")
_OVERHEAD = 1 << 16  # bytes: headers and the manifest
_OVERHEAD_PER_VALUE = 512  # names, shapes, alignment


@dataclass(frozen=True)
class PassedOver:
    """A checkpoint that does not verify."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Found:
    """The newest checkpoint that verifies; `sha256` is that of its manifest."""

    step: int
    path: Path
    sha256: str
    passed_over: list[PassedOver]


@dataclass(frozen=True)
class Loaded:
    """A checkpoint's content, tensors on the CPU."""

    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    state: dict[str, Any]
    meta: dict[str, Any]


def step_dir(run_dir: Path, step: int) -> Path:
    return run_dir / FOLDER / f"step_{step:08d}"


def save(
    run_dir: Path,
    step: int,
    *,
    model: Mapping[str, Tensor],
    ema: Mapping[str, Tensor] | None,
    state: dict[str, Any],
    meta: dict[str, Any],
    keep: int,
    best: bool,
) -> Path:
    """Write ``checkpoints/step_<step>``, durable when this returns, then delete what is older than the `keep` newest.

    At least two are kept, and only checkpoints that verify count. With `best` the same content also becomes
    ``checkpoints/best``: first, since a crash between the two then leaves a run that meets the same best step again.

    Args:
        state: plain containers and tensors. meta: what JSON can hold.

    Raises:
        CheckpointError: no room, weights that are not finite, or an I/O error; nothing half-written is left behind,
            and what was there stays.
        TypeError: `state` holds what could not be loaded again.
    """
    final = step_dir(run_dir, step)
    folder = final.parent
    weights = {MODEL: model} | ({} if ema is None else {EMA: ema})
    needed = bytes_needed([*weights.values()], state)
    try:
        for name, tensors in weights.items():
            check_finite(tensors, name)
    except ValueError as error:
        raise CheckpointError(final, f"not saved: {error}") from error

    partial, partial_best = folder / f"{PARTIAL}{final.name}", folder / f"{PARTIAL}{BEST}"
    try:
        make_dir(folder)
        if shutil.disk_usage(folder).free < needed:
            raise OSError(errno.ENOSPC, "no room")
        for leftover in (partial, partial_best):
            remove_dir(leftover)
        partial.mkdir()
        _write(partial, step, weights, state, meta)
        if best:
            link_dir(partial, partial_best)
            replace_dir(partial_best, folder / BEST)
        replace_dir(partial, final)
    except OSError as error:
        raise CheckpointError(final, f"not saved: {_explain(error, folder, needed)}") from error
    finally:
        remove_dir(partial)
        remove_dir(partial_best)
    _prune(folder, step, keep)
    return final


def check_disk(run_dir: Path, needed: int) -> None:
    """Whether a checkpoint of `needed` bytes could be written now.

    Raises:
        CheckpointError: the folder cannot be written, or has no room.
    """
    folder, probe = run_dir / FOLDER, run_dir / FOLDER / f"{PARTIAL}probe"
    try:
        make_dir(folder)
        try:
            probe.write_bytes(b"probe")
            sync(probe)
        finally:
            probe.unlink(missing_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise CheckpointError(folder, f"cannot be written: {error.strerror or error}") from error
    if free < needed:
        raise CheckpointError(folder, f"takes {needed:,} bytes a checkpoint and {free:,} are free")


def _write(directory: Path, step: int, weights: Mapping[str, Mapping[str, Tensor]], state: Any, meta: Any) -> None:
    files: dict[str, Entry] = {}
    for name, tensors in weights.items():
        with HashedFile(directory / name) as file:
            write_weights(file, tensors, {**meta, "step": step})
        files[name] = Entry(file.size, file.sha256)
    with HashedFile(directory / STATE) as file:
        write_state(file, state)
    files[STATE] = Entry(file.size, file.sha256)
    write_manifest(directory, step, meta, files)
    sync(directory)


def bytes_needed(weights: Sequence[Mapping[str, Tensor]], state: dict[str, Any]) -> int:
    """An upper bound of what a checkpoint takes on the disk, without long texts in `state`."""
    values = [value for _, value in leaves(state)]
    storages = {v.untyped_storage().data_ptr(): v.untyped_storage().nbytes() for v in values if isinstance(v, Tensor)}
    tensors = [tensor for group in weights for tensor in group.values()]
    content = sum(storages.values()) + sum(tensor.nbytes for tensor in tensors)
    return content + _OVERHEAD + _OVERHEAD_PER_VALUE * (len(values) + len(tensors))


def _explain(error: OSError, folder: Path, needed: int) -> str:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return f"it takes {needed:,} bytes and there is no room"
    if free < needed:
        return f"it takes {needed:,} bytes and {free:,} are free"
    return f"{error.strerror}, though {free:,} bytes are free (no inodes left, or room for this user?)"


def _prune(folder: Path, saved: int, keep: int) -> None:
    """Delete what is older than the newest `keep` that verify. The one just saved counts as it is."""
    whole = 0
    for step, path in _steps(folder):
        if whole < max(keep, ALWAYS_KEPT):
            whole += step == saved or _verifies(path, step)
        elif step != saved:
            remove_dir(path)


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """Finished checkpoints by number, newest first; best and anything else that lies there are left out."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), entry) for entry in folder.iterdir() if (match := _STEP.fullmatch(entry.name))]
    return sorted(found, reverse=True)


def _verify_step(path: Path, step: int) -> Manifest:
    manifest = verify(path)
    if manifest.step != step:
        raise CheckpointError(path, f"holds step {manifest.step}")
    return manifest


def _verifies(path: Path, step: int) -> bool:
    try:
        _verify_step(path, step)
    except CheckpointError:
        return False
    return True


def latest(run_dir: Path) -> Found | None:
    """The newest checkpoint that verifies; the best one if no other does; None if none was ever finished.

    Raises:
        CheckpointError: there are checkpoints, and every one is damaged.
    """
    folder = run_dir / FOLDER
    passed_over: list[PassedOver] = []
    for step, path in _steps(folder):
        try:
            return Found(step, path, _verify_step(path, step).sha256, passed_over)
        except CheckpointError as error:
            passed_over.append(PassedOver(path, error.reason))
    best = folder / BEST
    if best.is_dir():
        try:
            manifest = verify(best)
            return Found(manifest.step, best, manifest.sha256, passed_over)
        except CheckpointError as error:
            passed_over.append(PassedOver(best, error.reason))
    if not passed_over:
        return None
    reasons = "; ".join(f"{each.path.name}: {each.reason}" for each in passed_over[:3])
    raise CheckpointError(
        folder, f"all {len(passed_over)} are damaged ({reasons}); to start afresh take another run.name"
    )


def load(path: Path, sha256: str | None = None) -> Loaded:
    """Read a checkpoint directory; what is returned is exactly what was verified.

    Args:
        sha256: of the manifest that is meant; another rank may see another file system.

    Raises:
        CheckpointError: not a checkpoint, or anything in it missing or different from what was written.
    """
    manifest = read_manifest(path)
    if sha256 not in (None, manifest.sha256):
        raise CheckpointError(path, "is not the one that rank 0 found")
    data = {name: read_file(path, manifest, name) for name in manifest.files}
    try:
        model = read_weights(data[MODEL])
        ema = read_weights(data[EMA]) if EMA in data else None
        return Loaded(manifest.step, model, ema, read_state(data[STATE]), manifest.meta)
    except ValueError as error:
        raise CheckpointError(path, str(error)) from error


def load_weights(
    path: str | Path, which: Literal["model", "ema"] = "model"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights alone, and the checkpoint's meta with its `step` and the `path` they came from.

    `path` is a run directory (its best checkpoint, where there is one, else its newest that verifies), a checkpoint
    directory, or a .safetensors file, for which `which` is of no account: of any program, and checked against the
    manifest where it lies beside one.

    Raises:
        NoEmaError: no averaged weights in it.
        CheckpointError: missing, damaged, or none of these.
    """
    path = Path(path)
    if not path.is_dir():
        return _load_file(path)
    if (path / FOLDER).is_dir():
        path = _choose(path)
    if not (path / MANIFEST).exists():
        raise CheckpointError(path, f"neither a run nor a checkpoint: no {FOLDER}/ and no {MANIFEST} in it")
    manifest = read_manifest(path)
    name = {"model": MODEL, "ema": EMA}[which]
    if name not in manifest.files:
        raise NoEmaError(path, "holds no averaged (ema) weights, only model")
    return _parse(path / name, read_file(path, manifest, name))


def _choose(run_dir: Path) -> Path:
    best = run_dir / FOLDER / BEST
    if best.is_dir():
        return best
    found = latest(run_dir)
    if found is None:
        raise CheckpointError(run_dir, "the run has saved none yet")
    return found.path


def _load_file(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if not path.exists():
        raise CheckpointError(path, "no such file or directory")
    if path.suffix != ".safetensors" or not path.is_file():
        raise CheckpointError(path, "expected a run directory, a checkpoint directory or a .safetensors file")
    if (path.parent / MANIFEST).is_file():
        manifest = read_manifest(path.parent)
        if path.name in manifest.files:
            return _parse(path, read_file(path.parent, manifest, path.name))
    try:
        return _parse(path, path.read_bytes())
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}") from error


def _parse(path: Path, data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        return read_weights(data), {**read_meta(data), "path": str(path)}
    except ValueError as error:
        raise CheckpointError(path, str(error)) from error
