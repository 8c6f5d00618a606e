"""Checkpoints of other programs in torch.save's format, read without running anything in them.

What such a file may hold is settled before torch sees it: its records are stored as they are and no larger than the
file, and its pickle names tensors, plain containers and ``argparse.Namespace`` (the arguments in the published files).
"""

import argparse
import pickletools
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vim_train.engine.manifest import CheckpointError

_ALLOWED = {
    "argparse Namespace",
    "collections OrderedDict",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    *(
        f"torch {kind}Storage"
        for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
    ),
}
_OTHER_NAMES = {"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"}
"""Opcodes that name or make objects and that torch.save does not write."""
_MAX_PICKLE = 32 << 20  # bytes; that of Vim-B's published file takes well under one
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_SAVE_AGAIN = "load it where it was made and save its weights alone"


def read_torch_file(path: Path) -> dict[str, object]:
    """The dictionary that torch.save wrote; tensors on the CPU, mapped from the file.

    Raises:
        CheckpointError: not such a file, a damaged one, or one that holds more than weights and plain values.
    """
    try:
        _check_start(path)
        _check_names(path, _read_pickle(path))
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}") from error
    except zipfile.BadZipFile as error:
        raise CheckpointError(path, "truncated or damaged: not a whole torch.save file") from error
    except Exception as error:  # torch.load has no exception of its own
        raise CheckpointError(path, "damaged: does not load as tensors and plain values") from error
    if not isinstance(content, dict):
        raise CheckpointError(path, f"holds a {type(content).__name__}, expected a dictionary of weights")
    return content


def copy_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that need the file no more; each tensor has as many values as it shows.

    Raises:
        CheckpointError: tensors that claim more values than the file holds.
    """
    room = path.stat().st_size
    copies: dict[tuple[object, ...], Tensor] = {}
    copied: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        if tensor.numel() * tensor.element_size() > storage.nbytes():
            shape = tuple(tensor.shape)
            raise CheckpointError(path, f"{name} claims shape {shape} over {storage.nbytes():,} bytes")
        key = (storage.data_ptr(), tensor.storage_offset(), tensor.dtype, tensor.shape, tensor.stride())
        if key not in copies:
            room -= tensor.nbytes
            if room < 0:
                raise CheckpointError(path, "its tensors claim more values than the file holds")
            copies[key] = tensor.detach().clone(memory_format=torch.contiguous_format)
        copied[name] = copies[key]
    return copied


def _check_start(path: Path) -> None:
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
        raise CheckpointError(path, "is not a file")
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        reason = "empty"
    elif start.startswith(b"version https://git-lfs"):
        reason = "a Git LFS pointer, not the file it stands for: git lfs pull fetches it"
    elif start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        reason = "an HTML page, not a checkpoint: the download gave something else"
    elif start.startswith(_LEGACY):
        reason = f"torch's format from before 1.6, which is not read: {_SAVE_AGAIN}"
    elif start.startswith(b"\x80"):
        reason = "a plain pickle, which could run code when loaded: takes .safetensors or what torch.save writes"
    elif start[8:9] == b"{":
        reason = "looks like .safetensors: give it that name"
    elif not start.startswith(b"PK\x03\x04"):
        reason = "neither .safetensors nor what torch.save writes"
    else:
        return
    raise CheckpointError(path, reason)


def _read_pickle(path: Path) -> bytes:
    """The record that says what the file holds, once its records are found sound."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as file:
        records = file.infolist()
        if any(record.filename.endswith("/constants.pkl") for record in records):
            raise CheckpointError(path, f"a TorchScript program, not weights: {_SAVE_AGAIN}")
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise CheckpointError(path, "compressed records, which torch.save does not write: a small file could fill"
                                  " the memory")  # fmt: skip
        if sum(record.file_size for record in records) > size or any(
            record.header_offset + record.file_size > size for record in records
        ):
            raise CheckpointError(path, f"its records claim more than the {size:,} bytes of the file")
        pickles = [record for record in records if record.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointError(path, "a zip file, but not one that torch.save writes")
        if pickles[0].file_size > _MAX_PICKLE:
            raise CheckpointError(path, f"its pickle has {pickles[0].file_size:,} bytes, too many for weights")
        if (broken := file.testzip()) is not None:
            raise CheckpointError(path, f"damaged: its record {broken} is not the one that was written (checksum)")
        return file.read(pickles[0])


def _check_names(path: Path, pickle: bytes) -> None:
    try:
        for opcode, argument, _ in pickletools.genops(pickle):
            if opcode.name in _OTHER_NAMES:
                raise CheckpointError(path, f"its pickle has {opcode.name}, which torch.save does not write")
            if opcode.name == "GLOBAL" and argument not in _ALLOWED:
                name = str(argument).replace(" ", ".")
                raise CheckpointError(path, f"asks for {name!a} beside tensors and plain values: {_SAVE_AGAIN}")
    except ValueError as error:
        raise CheckpointError(path, "damaged: its pickle ends nowhere") from error
