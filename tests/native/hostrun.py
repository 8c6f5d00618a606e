"""Runs the ops of the "cpu" backend through a library that hostbuild.py built, and looks at what it did."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from vim_train.ops import abi, native
from vim_train.ops.loading import CPU, NativeLibrary

FORWARD, REVERSE, RANDOM = 0, 1, 2  # which of the threads that can go on does
ORDERS = (FORWARD, REVERSE, RANDOM)
_ALIGNMENT = 256


class HostLibrary:
    """A library of hostbuild.build()."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle = ctypes.CDLL(str(path))
        abi.declare(self.handle)

    def set_order(self, order: int, seed: int = 0) -> None:
        self.handle.host_set_order(order, seed)

    @contextmanager
    def without_barrier(self, file: str, line: int) -> Iterator[None]:
        """Kernels run as if the barrier in this line were not there."""
        self.handle.host_remove_barrier(file.encode(), line)
        try:
            yield
        finally:
            self.handle.host_remove_barrier(b"", 0)

    def passed_barrier(self, file: str, line: int) -> bool:
        """Whether a block has come by the barrier in this line, since the library was loaded."""
        return bool(self.handle.host_passed_barrier(file.encode(), line))


class Bytes(NamedTuple):
    loaded: int
    stored: int
    distinct: int  # of both, but bytes that a launch loads (or stores) more than once count once for it


class TracedLibrary(HostLibrary):
    """One that sees every load and store."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.handle.host_races.restype = ctypes.c_int64
        self.handle.host_first_race.restype = ctypes.c_char_p

    def trace(self, tensors: Sequence[Tensor] = ()) -> None:
        """Forget races; from now on count the bytes of these contiguous tensors."""
        spans = [(t.data_ptr(), t.data_ptr() + t.nbytes) for t in tensors]
        self._place = sorted(range(len(spans)), key=lambda i: spans[i])
        array = ctypes.c_uint64 * len(spans)
        begins, ends = (array(*(spans[i][side] for i in self._place)) for side in (0, 1))
        self.handle.host_trace(len(spans), begins, ends)

    def bytes_of(self, index: int) -> Bytes:
        """Of tensor `index` of those traced; -1: of all other global memory."""
        counts = [ctypes.c_uint64() for _ in Bytes._fields]
        self.handle.host_bytes(self._place.index(index) if index >= 0 else -1, *map(ctypes.byref, counts))
        return Bytes(*(count.value for count in counts))

    def race(self) -> str | None:
        """The first of the races since trace(), with its place in the source."""
        if not self.handle.host_races():
            return None
        text = self.handle.host_first_race().decode()
        address = hex(int(text.split("+")[-1], 16) - 1)  # of the call, not of what comes after it
        line = subprocess.run(["addr2line", "-e", str(self.path), address], capture_output=True, text=True).stdout
        place = Path(line.split()[0]).name
        return f"{text.split(' at +')[0]}, at {place}, one of {self.handle.host_races()}"


@contextmanager
def serving(library: HostLibrary) -> Iterator[None]:
    """The ops of the cpu backend run this library; memory that it must write, or must not rely on, holds NaN."""
    described = NativeLibrary(library.handle, "CUDA kernels run on the host", library.handle.vt_cuda_version())
    library.set_order(FORWARD)
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # fills what torch.empty gives
    try:
        with patch.dict(native.libraries, {CPU: described}), patch.object(native, "_workspace", _poisoned_workspace):
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)


def _poisoned_workspace(
    library: NativeLibrary, function: str, args: ctypes.Structure, device: torch.device
) -> Tensor | None:
    if function not in abi.WITH_WORKSPACE:
        return None
    size = getattr(library.handle, f"{function}_workspace")(ctypes.byref(args))
    if not size:
        return None
    room = torch.full((size + _ALIGNMENT,), 0xFF, dtype=torch.uint8)
    skipped = _ALIGNMENT - room.data_ptr() % _ALIGNMENT  # its end is near that of the room, for sanitizers to see
    return room[skipped : skipped + size]
