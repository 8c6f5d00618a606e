"""What a bug report needs to know about a machine: versions, scan backends, GPUs."""

import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import vim_train
from vim_train.config.files import conf_dir

PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "hydra-core", "omegaconf", "wandb", "rich")


def main() -> int:
    """Print the report; always succeeds, for it is asked for where something does not work."""
    for name, value in report():
        print(f"{name:<15}{value}", flush=True)
    return 0


def report() -> Iterator[tuple[str, str]]:
    """Lines of the report, as (what, value)."""
    yield "vim-train", f"{vim_train.__version__} ({Path(vim_train.__file__).parent})"
    yield "configuration", str(conf_dir()) if conf_dir().is_dir() else f"{conf_dir()} (missing)"
    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "system", f"{platform.platform()}, {'-'.join(platform.libc_ver())}"
    yield "cpu", f"{_cpu_name()}, {_usable_cores()} of {os.cpu_count()} cores usable"
    if memory := _memory_gib():
        yield "memory", f"{memory:.1f} GiB"
    for package in PACKAGES:
        yield package, _version(package)
    yield from _torch_lines()
    yield "pixels", _pixels()
    for name in (
        "VIM_TRAIN_SCAN",
        "VIM_TRAIN_PIXELS",
        "VIM_TRAIN_ISA",
        "OMP_NUM_THREADS",
        "CUDA_VISIBLE_DEVICES",
        "WANDB_MODE",
    ):
        if name in os.environ:
            yield "environment", f"{name}={os.environ[name]}"


def _torch_lines() -> Iterator[tuple[str, str]]:
    try:
        import torch
    except Exception as error:  # a broken install is what the report is for
        yield "torch", f"cannot be imported: {error}"
        return
    yield "threads", str(torch.get_num_threads())
    yield "cuda", f"{torch.version.cuda or 'not in this torch'}, {torch.cuda.device_count()} GPUs"
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        yield f"gpu {index}", f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, sm_{gpu.major}{gpu.minor}"
    try:
        from vim_train.ops import backend_report
    except Exception as error:
        yield "scan", f"cannot be imported: {error}"
        return
    for backend in backend_report():
        yield f"scan {backend.name}", f"{'available' if backend.available else 'not usable'}: {backend.detail}"


def _pixels() -> str:
    """What decodes and augments images."""
    try:
        from vim_train.data.pixels import pixel_status

        return pixel_status()
    except Exception as error:
        return f"cannot be tested: {error}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gib() -> float | None:
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
