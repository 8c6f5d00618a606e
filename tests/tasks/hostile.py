"""Files that are no checkpoint, or one that would harm: each with the end of the line that refuses it.

docs/checkpoints.md shows the same lines, and tests/tasks/test_hostile.py holds the two together.
"""

import argparse
import os
import pathlib
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch

WEIGHTS = {"layer.weight": torch.arange(6.0).reshape(2, 3)}
PLAIN = "a plain pickle, which could run code when loaded: takes .safetensors or what torch.save writes"
SAVE_AGAIN = "load it where it was made and save its weights alone"


class Evil:
    """Runs a command when a plain pickle of it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.mark}",)


def rewrite(source: Path, target: Path, **how: object) -> None:
    """A torch file with its records written again, as `how` tells ZipFile."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", **how) as new:  # type: ignore[arg-type]
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))


def with_pickle(source: Path, target: Path, pickled: bytes) -> None:
    """A torch file with another data.pkl."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for record in old.infolist():
            new.writestr(record.filename, pickled if record.filename.endswith("/data.pkl") else old.read(record))


def sound(path: Path, content: object = None) -> Path:
    torch.save({"model": WEIGHTS} if content is None else content, path)
    return path


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lfs_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 28000000\n")


def html_page(path: Path) -> None:
    path.write_text("\n<!DOCTYPE html><html><body>Not found</body></html>")


def flipped_bit(path: Path) -> None:
    whole = bytearray(sound(path).read_bytes())
    whole[whole.index(WEIGHTS["layer.weight"].numpy().tobytes()) + 2] ^= 1
    path.write_bytes(whole)


def plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": {"layer.weight": [1.0, 2.0]}}))


def evil_plain_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Evil(path.with_suffix(".run"))))


def evil_pickle(path: Path) -> None:
    sound(path, {"model": WEIGHTS, "args": Evil(path.with_suffix(".run"))})


def evil_buffer(path: Path) -> None:
    """Asks for a terabyte through a type that torch itself lets pass."""
    with_pickle(sound(path.with_suffix(".tmp")), path, b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\0\0\0\0\0\1\x85R.")


def library_object(path: Path) -> None:
    sound(path, {"model": WEIGHTS, "args": argparse.Namespace(output_dir=pathlib.PurePosixPath("/out"))})


def newer_pickle(path: Path) -> None:
    with_pickle(sound(path.with_suffix(".tmp")), path, pickle.dumps(argparse.Namespace(), protocol=4))


def legacy(path: Path) -> None:
    torch.save({"model": WEIGHTS}, path, _use_new_zipfile_serialization=False)


def script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))


def other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "no weights")


def noise(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 9)


def truncated(path: Path) -> None:
    path.write_bytes(sound(path).read_bytes()[:-100])


def compressed(path: Path) -> None:
    """A megabyte of zeros in a few kilobytes."""
    source = sound(path.with_suffix(".tmp"), {"model": {"layer.weight": torch.zeros(1 << 18)}})
    rewrite(source, path, compression=zipfile.ZIP_DEFLATED)


def overlapping(path: Path) -> None:
    """Declares a record larger than the file."""
    data = bytearray(sound(path).read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 20 : at + 28] = (1 << 30).to_bytes(4, "little") * 2
    path.write_bytes(data)


def stride_0(path: Path) -> None:
    """A trillion values over six."""
    sound(path, {"model": {"layer.weight": torch.zeros(1).expand(10**6, 10**6)}})


def many_names(path: Path) -> None:
    """Views of one storage that add up to more than it has."""
    block = torch.zeros(1 << 12)
    sound(path, {"model": {f"layer{i}.weight": block[i : i + (1 << 11)] for i in range(64)}})


def beyond_storage(path: Path) -> None:
    """A tensor of more values than its storage holds."""
    source = sound(path.with_suffix(".tmp"))
    with zipfile.ZipFile(source) as file:
        pickled = file.read(next(name for name in file.namelist() if name.endswith("data.pkl")))
    with_pickle(source, path, pickled.replace(b"K\x02K\x03\x86", b"K\x7fK\x7f\x86"))


def deep_pickle(path: Path) -> None:
    with_pickle(sound(path.with_suffix(".tmp")), path, b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")


def cut_pickle(path: Path) -> None:
    with_pickle(sound(path.with_suffix(".tmp")), path, b"\x80\x02}q\0X\5\0\0\0mod")


def a_list(path: Path) -> None:
    sound(path, [WEIGHTS])


def no_weights(path: Path) -> None:
    sound(path, {"epoch": 3, "optimizer": {}})


def other_values(path: Path) -> None:
    sound(path, {"model": {**WEIGHTS, "version": 3}})


def not_finite(path: Path) -> None:
    sound(path, {"model": {"layer.weight": torch.tensor([0.0, float("nan")])}})


HOSTILE: list[tuple[Callable[[Path], None], str]] = [
    (empty, "empty"),
    (lfs_pointer, "a Git LFS pointer, not the file it stands for: git lfs pull fetches it"),
    (html_page, "an HTML page, not a checkpoint: the download gave something else"),
    (noise, "neither .safetensors nor what torch.save writes"),
    (truncated, "truncated or damaged: not a whole torch.save file"),
    (flipped_bit, "damaged: its record weights/data/0 is not the one that was written (checksum)"),
    (plain_pickle, PLAIN),
    (evil_plain_pickle, PLAIN),
    (evil_pickle, f"asks for 'posix.system' beside tensors and plain values: {SAVE_AGAIN}"),
    (evil_buffer, f"asks for 'builtins.bytearray' beside tensors and plain values: {SAVE_AGAIN}"),
    (library_object, f"asks for 'pathlib.PurePosixPath' beside tensors and plain values: {SAVE_AGAIN}"),
    (newer_pickle, "its pickle has STACK_GLOBAL, which torch.save does not write"),
    (legacy, f"torch's format from before 1.6, which is not read: {SAVE_AGAIN}"),
    (script, f"a TorchScript program, not weights: {SAVE_AGAIN}"),
    (other_zip, "a zip file, but not one that torch.save writes"),
    (compressed, "compressed records, which torch.save does not write: a small file could fill the memory"),
    (overlapping, "its records claim more than the N bytes of the file"),
    (stride_0, "layer.weight claims shape (1000000, 1000000) over 4 bytes"),
    (many_names, "its tensors claim more values than the file holds"),
    (beyond_storage, "damaged: does not load as tensors and plain values"),
    (deep_pickle, "holds a list, expected a dictionary of weights"),
    (cut_pickle, "damaged: its pickle ends nowhere"),
    (a_list, "holds a list, expected a dictionary of weights"),
    (no_weights, "holds no weights: epoch, optimizer"),
    (other_values, "model holds other things than weights: version"),
    (not_finite, "model: layer.weight has 1 of 2 values that are not finite"),
]  # fmt: skip
