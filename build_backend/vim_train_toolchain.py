"""What can be compiled here: with which C++ compiler, and with which nvcc, as VIM_TRAIN_CUDA says.

auto  the CUDA library too where an nvcc is found and works, else the CPU library alone and a line that says why
on    the CUDA library, or the build fails
off   no CUDA library
pip   the CUDA library, by an nvcc that is installed into the build environment from the package index
"""

import ast
import importlib.util
import os
import re
import shutil
import site
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

MODES = ("auto", "on", "off", "pip")
USUAL_CUDA_HOME = "/usr/local/cuda"
PIP_PACKAGES = ("nvidia-cuda-nvcc", "nvidia-cuda-runtime", "nvidia-cuda-crt", "nvidia-nvvm")
PIP_CUDA = (13, 0)  # where no PyTorch is seen to match: its code runs with every driver for CUDA 13
OLDEST_CUDA = 12  # PyTorch's own is no older
FIRST_PIP_CUDA = 13  # the packages for CUDA 12 have ptxas in them, but no nvcc

_CXX_TRIAL = "#include <cmath>\nint main() { return static_cast<int>(std::floor(0.5)); }\n"
_CUDA_TRIAL = (
    "#include <cuda_runtime.h>\n__global__ void trial() {}\n"
    "int run() { trial<<<1, 1>>>(); return cudaGetLastError(); }\n"
)
_NO_NVCC_CURE = "install a CUDA toolkit or name its nvcc in CUDACXX, or set VIM_TRAIN_CUDA=pip, and reinstall"
_BAD_NVCC_CURE = "name another nvcc in CUDACXX, or for this one another C++ compiler in CUDAHOSTCXX, and reinstall"


class Unusable(Exception):
    """Why a compiler is missing and what to do, in one line."""


@dataclass(frozen=True)
class Toolchain:
    """The compilers of a build."""

    cxx: "str | None"  # None: neither library
    nvcc: "str | None" = None  # None: no CUDA library
    environment: "dict[str, str]" = field(default_factory=dict)  # what CMake has to see
    record: "dict[str, str]" = field(default_factory=dict)  # library -> what it is built by, or "not built: why"

    def without_cuda(self, why: str) -> "Toolchain":
        return replace(self, nvcc=None, environment={}, record={**self.record, "cuda": f"not built: {why}"})

    def record_text(self) -> str:
        """The text that is installed beside the libraries: a line "library: what it is built by" for each."""
        return "".join(f"{library}: {line}\n" for library, line in self.record.items())


def cuda_mode() -> str:
    """The value of VIM_TRAIN_CUDA; exits with one line where it is none of MODES."""
    mode = os.environ.get("VIM_TRAIN_CUDA") or "auto"
    if mode not in MODES:
        raise SystemExit(f"vim-train: VIM_TRAIN_CUDA={mode}: accepted are {', '.join(MODES)}")
    return mode


def find_toolchain() -> Toolchain:
    """The compilers that work; exits with one line where VIM_TRAIN_CUDA demands a CUDA library that cannot be."""
    mode = cuda_mode()
    try:
        cxx = find_cxx()
    except Unusable as error:
        _exit_if_demanded(mode, error)
        return Toolchain(None, record={"cpu": f"not built: {error}", "cuda": "not built: nvcc needs a C++ compiler"})
    tools = Toolchain(cxx, record={"cpu": f"built by {cxx}"})
    if mode == "off":
        return tools.without_cuda("VIM_TRAIN_CUDA=off")
    try:
        return _with_nvcc(tools, cxx, mode)
    except Unusable as error:
        _exit_if_demanded(mode, error)
        return tools.without_cuda(str(error))


def _exit_if_demanded(mode: str, error: Unusable) -> None:
    if mode in ("on", "pip"):
        raise SystemExit(f"vim-train: VIM_TRAIN_CUDA={mode}: {error}")


def find_cxx() -> str:
    """The C++ compiler, as it is called; CMake finds the same.

    Raises:
        Unusable: none works.
    """
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for candidate in candidates:
        if _compiles(candidate):
            return candidate
    raise Unusable(
        f"no working C++ compiler ({', '.join(candidates)}), without which training is slow: `apt install g++` (or "
        "Xcode's command line tools) or name a compiler in CXX, and reinstall"
    )


def _compiles(compiler: str) -> bool:
    """Whether it takes C++17 with the standard library; macOS has a c++ that is only a pointer to Xcode."""
    command = compiler.split()
    if shutil.which(command[0]) is None:
        return False
    check = [*command, "-std=c++17", "-fsyntax-only", "-x", "c++", "-"]
    return subprocess.run(check, input=_CXX_TRIAL, text=True, capture_output=True, check=False).returncode == 0


def _with_nvcc(tools: Toolchain, cxx: str, mode: str) -> Toolchain:
    environment = {}
    if not os.environ.get("CUDAHOSTCXX") and not os.environ.get("NVCC_CCBIN") and len(cxx.split()) == 1:
        environment["CUDAHOSTCXX"] = shutil.which(cxx) or cxx  # else nvcc takes g++, whatever CXX says
    if mode == "pip":
        nvcc = pip_nvcc()
        library_path = [str(Path(nvcc).parent.parent / "lib"), os.environ.get("LIBRARY_PATH", "")]
        environment["LIBRARY_PATH"] = os.pathsep.join(filter(None, library_path))  # nvcc looks in lib64
    else:
        nvcc = find_nvcc()
    version = try_nvcc(nvcc, environment)
    return replace(
        tools, nvcc=nvcc, environment=environment, record={**tools.record, "cuda": f"built by nvcc {version}"}
    )


def find_nvcc() -> str:
    """The first of $CUDACXX, nvcc on PATH, in $CUDA_HOME, in $CUDA_PATH and in USUAL_CUDA_HOME.

    Raises:
        Unusable: there is none.
    """
    if not sys.platform.startswith("linux"):
        raise Unusable("the CUDA library is for Linux")
    if named := os.environ.get("CUDACXX"):
        if found := shutil.which(named):
            return found
        raise Unusable(f"CUDACXX={named} is no program: {_NO_NVCC_CURE}")
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), USUAL_CUDA_HOME]
    for folder in (None, *(os.path.join(home, "bin") for home in homes if home)):
        if found := shutil.which("nvcc", path=folder):
            return found
    raise Unusable(f"no nvcc on PATH, in CUDA_HOME, CUDA_PATH or {USUAL_CUDA_HOME}: {_NO_NVCC_CURE}")


def pip_nvcc() -> str:
    """The nvcc of PIP_PACKAGES, where they are installed.

    Raises:
        Unusable: they are not.
    """
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        for nvcc in sorted(Path(folder).glob("cu*/bin/nvcc"), reverse=True):
            return str(nvcc)
    raise Unusable(f"no nvcc is installed; without build isolation, first `pip install {' '.join(pip_requirements())}`")


def pip_requirements(folders: "Iterable[str] | None" = None) -> "list[str]":
    """PIP_PACKAGES of the CUDA version of the PyTorch in `folders` (by default, those of this environment).

    Exits with one line where that CUDA version has no nvcc among its packages.
    """
    major, minor = torch_cuda(site_folders() if folders is None else folders) or PIP_CUDA
    if major < FIRST_PIP_CUDA:
        raise SystemExit(
            f"vim-train: VIM_TRAIN_CUDA=pip: the installed PyTorch is for CUDA {major}.{minor}, whose packages have no "
            f"nvcc in them: install that CUDA toolkit and set VIM_TRAIN_CUDA=on, or a PyTorch for CUDA {FIRST_PIP_CUDA}"
        )
    return [f"{package}=={major}.{minor}.*" for package in PIP_PACKAGES]


def site_folders() -> "list[str]":
    """Where packages are installed for this Python; pip's build environment takes them off sys.path only."""
    return [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]


def torch_cuda(folders: "Iterable[str]") -> "tuple[int, int] | None":
    """(major, minor) of the CUDA that an installed PyTorch is built with; None without PyTorch or without CUDA."""
    for folder in folders:
        path = Path(folder, "torch", "version.py")
        if path.is_file():
            line = re.search(r"^cuda\b[^=\n]*=\s*(.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            version = ast.literal_eval(line[1].strip()) if line else None
            if version is None:
                return None
            major, minor = version.split(".")[:2]
            return int(major), int(minor)
    return None


def try_nvcc(nvcc: str, environment: "dict[str, str]") -> str:
    """The version of an nvcc that makes a small library together with the C++ compiler.

    Raises:
        Unusable: it does not.
    """
    environment = {**os.environ, **environment}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "trial.cu")
        source.write_text(_CUDA_TRIAL)
        command = [nvcc, "-shared", "-Xcompiler=-fPIC", "-o", str(source.with_suffix(".so")), str(source)]
        if host := environment.get("CUDAHOSTCXX"):
            command.append(f"-ccbin={host}")
        trial = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    if trial.returncode:
        raise Unusable(f"{nvcc} does not work ({last_error(trial.stdout + trial.stderr)}): {_BAD_NVCC_CURE}")
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, env=environment, check=False).stdout
    version = re.search(r"\bV(\d+)([\d.]*)", said)
    if version is None:
        raise Unusable(f"{nvcc} --version names no version of nvcc: {_BAD_NVCC_CURE}")
    if int(version[1]) < OLDEST_CUDA:
        raise Unusable(f"{nvcc} is of CUDA {version[1]}{version[2]}, older than {OLDEST_CUDA}: {_BAD_NVCC_CURE}")
    return version[1] + version[2]


def last_error(output: str) -> str:
    """The last line of a compiler's output that reports an error, at most 160 characters of it."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\b(error|fatal)\s*:", line, re.IGNORECASE)]
    return textwrap.shorten((errors or lines or ["it printed nothing"])[-1], 160, placeholder=" …")
