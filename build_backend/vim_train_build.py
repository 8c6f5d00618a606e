"""PEP 517 backend: scikit-build-core, building what the machine has compilers for.

Without a C++ compiler that is a pure Python wheel, which runs the reference backend of vim_train.ops; without nvcc, the
CPU library alone. One line says so. pip shows it with -v only, so vim_train/ops/_build.txt in the wheel says it too.
"""

import contextlib
import functools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import vim_train_toolchain as toolchain
from scikit_build_core import build as _build
from scikit_build_core.build import build_sdist, get_requires_for_build_sdist
from vim_train_toolchain import Toolchain

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

RECORD = Path("build/_build.txt")  # pyproject.toml's tool.scikit-build.generate takes it into the wheel


def get_requires_for_build_wheel(config_settings: "Settings | None" = None) -> list[str]:
    return [*_nvcc_requirements(), *_build.get_requires_for_build_wheel(_with_cxx_or_pure(config_settings))]


def get_requires_for_build_editable(config_settings: "Settings | None" = None) -> list[str]:
    return [*_nvcc_requirements(), *_build.get_requires_for_build_editable(_with_cxx_or_pure(config_settings))]


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: "Settings | None" = None) -> str:
    return _build.prepare_metadata_for_build_wheel(metadata_directory, _with_cxx_or_pure(config_settings))


def prepare_metadata_for_build_editable(metadata_directory: str, config_settings: "Settings | None" = None) -> str:
    return _build.prepare_metadata_for_build_editable(metadata_directory, _with_cxx_or_pure(config_settings))


def build_wheel(
    wheel_directory: str, config_settings: "Settings | None" = None, metadata_directory: "str | None" = None
) -> str:
    build = functools.partial(_build.build_wheel, wheel_directory, metadata_directory=metadata_directory)
    return _build_what_can_be(build, config_settings)


def build_editable(
    wheel_directory: str, config_settings: "Settings | None" = None, metadata_directory: "str | None" = None
) -> str:
    build = functools.partial(_build.build_editable, wheel_directory, metadata_directory=metadata_directory)
    return _build_what_can_be(build, config_settings)


def _nvcc_requirements() -> list[str]:
    return toolchain.pip_requirements() if toolchain.cuda_mode() == "pip" else []


def _with_cxx_or_pure(config_settings: "Settings | None") -> Settings:
    """The settings, with CMake switched off where there is nothing to compile with."""
    try:
        toolchain.find_cxx()
    except toolchain.Unusable:
        return {**(config_settings or {}), "wheel.cmake": "false"}
    return dict(config_settings or {})


def _build_what_can_be(build: Callable[[Settings], str], config_settings: "Settings | None") -> str:
    tools = toolchain.find_toolchain()
    settings = dict(config_settings or {})
    if tools.nvcc is not None and toolchain.cuda_mode() == "auto":
        output: list[bytes] = []
        try:
            with _copied(output):
                return _build_with(tools, build, settings)
        except SystemExit:  # scikit-build-core's, when CMake fails
            why = toolchain.last_error(b"".join(output).decode(errors="replace"))
            tools = tools.without_cuda(f"{tools.nvcc} failed ({why}): VIM_TRAIN_CUDA=on shows all it prints")
    return _build_with(tools, build, settings)


def _build_with(tools: Toolchain, build: Callable[[Settings], str], settings: Settings) -> str:
    lacking = [f"{library} library {line}" for library, line in tools.record.items() if line.startswith("not built")]
    if lacking:
        print(f"vim-train: {lacking[0]}", file=sys.stderr, flush=True)
    try:
        RECORD.parent.mkdir(exist_ok=True)
        RECORD.write_text(
            tools.record_text().replace("$", "$$"), encoding="utf-8"
        )  # scikit-build-core takes a template
    except OSError as error:
        raise SystemExit(f"vim-train: {RECORD.absolute()} cannot be written ({error.strerror})") from None
    os.environ.update(tools.environment)
    if tools.cxx is None:
        settings["wheel.cmake"] = "false"
    elif tools.nvcc is None:
        settings["cmake.define.VIM_TRAIN_CUDA"] = "OFF"
    else:
        settings.update({"cmake.define.VIM_TRAIN_CUDA": "ON", "cmake.define.CMAKE_CUDA_COMPILER": tools.nvcc})
    return build(settings)


@contextlib.contextmanager
def _copied(output: list[bytes]) -> Iterator[None]:
    """Everything that this process and its children print, shown as ever and kept in `output`."""
    sys.stdout.flush()
    sys.stderr.flush()
    shown, shown_errors = os.dup(1), os.dup(2)
    reader, writer = os.pipe()

    def copy() -> None:
        while chunk := os.read(reader, 65536):
            os.write(shown, chunk)
            output.append(chunk)

    copier = threading.Thread(target=copy)
    copier.start()
    os.dup2(writer, 1)
    os.dup2(writer, 2)
    os.close(writer)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(shown, 1)
        os.dup2(shown_errors, 2)
        copier.join()
        for descriptor in (reader, shown, shown_errors):
            os.close(descriptor)
