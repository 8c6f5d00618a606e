"""PEP 517 backend: scikit-build-core, or where no C++ compiler works, a pure Python wheel with one line that says so.

That wheel runs the reference backend of vim_train.ops, which names the same cure when it is first used.
"""

import os
import shutil
import subprocess
import sys

from scikit_build_core import build as _build
from scikit_build_core.build import build_sdist, get_requires_for_build_sdist

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

Settings = dict[str, "str | list[str]"]

NO_COMPILER = (
    "vim-train: no working C++ compiler found ({tried}): installed without the native scan, training will be slow; "
    "`apt install g++` (or Xcode's command line tools) and reinstall, or name a compiler in CXX"
)


def get_requires_for_build_wheel(config_settings: "Settings | None" = None) -> list[str]:
    return _build.get_requires_for_build_wheel(_with_compiler_or_pure(config_settings))


def get_requires_for_build_editable(config_settings: "Settings | None" = None) -> list[str]:
    return _build.get_requires_for_build_editable(_with_compiler_or_pure(config_settings))


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: "Settings | None" = None) -> str:
    return _build.prepare_metadata_for_build_wheel(metadata_directory, _with_compiler_or_pure(config_settings))


def prepare_metadata_for_build_editable(metadata_directory: str, config_settings: "Settings | None" = None) -> str:
    return _build.prepare_metadata_for_build_editable(metadata_directory, _with_compiler_or_pure(config_settings))


def build_wheel(
    wheel_directory: str, config_settings: "Settings | None" = None, metadata_directory: "str | None" = None
) -> str:
    settings = _with_compiler_or_pure(config_settings, say=True)
    return _build.build_wheel(wheel_directory, settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: "Settings | None" = None, metadata_directory: "str | None" = None
) -> str:
    settings = _with_compiler_or_pure(config_settings, say=True)
    return _build.build_editable(wheel_directory, settings, metadata_directory)


def _with_compiler_or_pure(config_settings: "Settings | None", *, say: bool = False) -> Settings:
    """The settings, with CMake switched off where there is nothing to compile with."""
    settings = dict(config_settings or {})
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    if any(_compiles(candidate) for candidate in candidates):
        return settings
    if say:
        print(NO_COMPILER.format(tried=", ".join(candidates)), file=sys.stderr, flush=True)
    return {**settings, "wheel.cmake": "false"}


def _compiles(compiler: str) -> bool:
    """Whether it takes C++17 with the standard library; macOS has a c++ that is only a pointer to Xcode."""
    command = compiler.split()
    if shutil.which(command[0]) is None:
        return False
    program = "#include <cmath>\nint main() { return static_cast<int>(std::floor(0.5)); }\n"
    check = [*command, "-std=c++17", "-fsyntax-only", "-x", "c++", "-"]
    return subprocess.run(check, input=program, text=True, capture_output=True, check=False).returncode == 0
