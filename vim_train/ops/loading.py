"""The native libraries: where they lie, and which of them can be used with this torch.

Neither knows of PyTorch. The CPU library gets the address of torch's own `torch_parallel_for`, so that
`torch.set_num_threads` holds for it too; the CUDA library gets torch's current stream and its memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vim_train.ops import abi

CPU, CUDA = "cpu", "cuda"
RECORD = "_build.txt"
SUFFIX = "dll" if sys.platform == "win32" else "so"
_REINSTALL = "run `pip install .` again (`pip install -e .` in a checkout)"
_CURES = {
    CPU: "install a C++ compiler (`apt install g++`, or Xcode's command line tools), then " + _REINSTALL,
    CUDA: "install a CUDA toolkit (nvcc), or set VIM_TRAIN_CUDA=pip to take nvcc from PyPI, then " + _REINSTALL,
}
_NOT_BUILT = {CPU: "installed without a C++ compiler?", CUDA: "installed without nvcc?"}


@dataclass(frozen=True)
class NativeLibrary:
    """A native library as it was found at import, or why there is none."""

    handle: ctypes.CDLL | None
    detail: str  # the code it holds; or in one line why it cannot be used, and what to do
    cuda_version: int = 0  # of the CUDA runtime inside, as 13000; 0: the CPU library

    @property
    def loaded(self) -> bool:
        return self.handle is not None


def package_folders() -> list[str]:
    """Where the package lies: source tree and site-packages both, for an editable install."""
    return list(sys.modules["vim_train.ops"].__path__)


def find(name: str, folders: Sequence[str]) -> Path | None:
    """The library called `name` ("cpu" or "cuda") in the first of the folders that has it."""
    file = f"vim_train_{name}.{SUFFIX}"
    return next((path for folder in folders if (path := Path(folder) / file).is_file()), None)


def load(name: str, folders: Sequence[str]) -> NativeLibrary:
    """The library called `name` in `folders`; never raises."""
    path = find(name, folders)
    if path is None:
        return NativeLibrary(None, _why_missing(name, folders))
    if cut_short(path):
        return NativeLibrary(None, f"{path} is damaged, its end is missing: {_REINSTALL}")
    try:
        handle = ctypes.CDLL(str(path))
        abi.declare(handle)
    except (OSError, AttributeError) as error:
        why = str(error).removeprefix(f"{path}: ")
        return NativeLibrary(None, f"{path} cannot be loaded ({why}): {_REINSTALL}")
    version = handle.vt_abi_version()
    if version != abi.ABI_VERSION:
        return NativeLibrary(None, f"{path} has ABI version {version}, not {abi.ABI_VERSION}: {_REINSTALL}")
    target, cuda = handle.vt_target().decode(), int(handle.vt_cuda_version())
    if (name == CUDA) != bool(cuda):
        return NativeLibrary(None, f"{path} is not the {name} library: {_REINSTALL}")
    if not cuda:
        return NativeLibrary(handle, f"instruction set {target}")
    detail = f"{target}; CUDA {_dotted(cuda)}"
    mismatch = cuda_mismatch(cuda, torch.version.cuda)
    return NativeLibrary(None if mismatch else handle, f"built for {detail}, {mismatch}" if mismatch else detail, cuda)


def cut_short(path: Path) -> bool:
    """Whether a 64-bit ELF file ends before its headers say. Loading such a file can kill the process."""
    with contextlib.suppress(OSError, struct.error), open(path, "rb") as file:
        header = file.read(64)
        if header[:5] != b"\x7fELF\x02":
            return False
        order = "<" if header[5] == 1 else ">"
        table, sections = struct.unpack_from(f"{order}Q", header, 40)[0], struct.unpack_from(f"{order}HH", header, 58)
        return path.stat().st_size < table + sections[0] * sections[1]
    return False


def _why_missing(name: str, folders: Sequence[str]) -> str:
    """What the installation wrote down, in lines such as "cuda: not built: no nvcc …: …"."""
    for folder in folders:
        try:
            lines = (Path(folder) / RECORD).read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        for line in lines:
            library, _, said = line.partition(": ")
            if library == name and said.startswith("not built: "):
                return f"the native {name} library was {said}"
            if library == name:
                return f"the native {name} library was {said}, but is not in {folder}: {_REINSTALL}"
    return f"the native {name} library was not built ({_NOT_BUILT[name]}): {_CURES[name]}"


def cuda_mismatch(built: int, torch_cuda: str | None) -> str | None:
    """Why a library built with CUDA `built` (13000, say) cannot serve a torch for `torch_cuda` ("13.0"); None: it can.

    Both bring a CUDA runtime of their own, and the driver must be as new as the newer of the two: only within one
    major version is what torch needs enough for the library too.
    """
    if torch_cuda is None:
        return f"but this torch ({torch.__version__}) is without CUDA: install a CUDA build of torch"
    if built // 1000 == int(torch_cuda.split(".")[0]):
        return None
    major = torch_cuda.split(".")[0]
    return (
        f"but this torch is for CUDA {torch_cuda}: put an nvcc of CUDA {major} on PATH (or set VIM_TRAIN_CUDA=pip), "
        f"then {_REINSTALL}"
    )


def gpu_problem() -> str | None:
    """Why torch can use no GPU here, or None. Starts CUDA's driver, so it is asked for only where it matters."""
    return None if torch.cuda.is_available() else "torch sees no GPU here"


def torch_parallel_for() -> int | None:
    """Address of torch's parallel_for (exported since torch 2.10), or None: the CPU library then works serially."""
    suffix = {"win32": "torch_cpu.dll", "darwin": "libtorch_cpu.dylib"}.get(sys.platform, "libtorch_cpu.so")
    try:
        torch_cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / suffix))
        return ctypes.cast(torch_cpu.torch_parallel_for, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"
