"""Builds the CUDA library for the host: its .cu files unchanged, by g++, with the threads of host/fibres.cpp.

The result has the same C ABI as the library that nvcc makes, and works on tensors in ordinary memory.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CSRC = ROOT / "vim_train" / "ops" / "csrc"
HOST = HERE / "host"
CACHE = ROOT / "build" / "host"  # objects and libraries, named after all that goes into them
CACHE_DAYS = 3

FLAGS = ("-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-Wfatal-errors")


@dataclass(frozen=True)
class Edit:
    """A change to the kernels' text before it is compiled; `old` stands there once."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Variant:
    """One way to build the library."""

    name: str
    edits: tuple[Edit, ...] = ()
    flags: tuple[str, ...] = ()
    traced: bool = False  # with host/trace.cpp, which sees races and counts bytes


def _plans(large_batch: int, chunk_windows: int) -> tuple[Edit, ...]:
    """Large-batch kernels from so many samples x channels x directions on, and chunks of at least so many windows."""
    return (
        Edit("scan_schedule.cuh", "kLargeBatch = 49152;", f"kLargeBatch = {large_batch};"),
        Edit("scan_schedule.cuh", "kMinChunkWindows = 8;", f"kMinChunkWindows = {chunk_windows};"),
    )


PLAIN = Variant("plain")
# What is quick to run here is too small for the kernels of large batches and for chunks. In this one sizes still choose
# between the kernels, but much smaller ones: large batches begin at MIXED_LARGE, chunks have at least two windows.
MIXED_LARGE, MIXED_CHUNK = 128, 2
MIXED = Variant("mixed", _plans(MIXED_LARGE, MIXED_CHUNK))
# And in these all sizes choose one kernel, but for what is too short for two chunks.
LARGE = Variant("large", _plans(0, 8))
CHUNKED = Variant("chunked", _plans(49152, 1))

_ELEMENTS = {"float": "VT_F32", "bf16": "VT_BF16", "f16": "VT_F16"}
# Without optimisation, as with it g++ takes long; but for pointer-overflow, as pointers to absent tensors are null, and
# moved along although no one follows them.
_SANITIZERS = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize=pointer-overflow", "-fno-sanitize-recover=all")


def only(element: str) -> tuple[Edit, ...]:
    """Kernels for one element type, "float", "bf16" or "f16", which are quicker to compile."""
    cases = {name: f"    case {value}: return body({name}{{}});\n" for name, value in _ELEMENTS.items()}
    return tuple(Edit("element.cuh", text, "") for name, text in cases.items() if name != element)


def sanitized(variant: Variant, element: str) -> Variant:
    """With AddressSanitizer and UndefinedBehaviorSanitizer, for a process with :func:`sanitizers_environment`."""
    return Variant(f"{variant.name}-{element}-sanitized", (*variant.edits, *only(element)), _SANITIZERS)


def sanitizers_environment() -> dict[str, str]:
    """With libasan before all else and libstdc++ after it (it looks for what it intercepts). Leaks are not looked for:
    Python leaves its memory lying."""
    libraries = (_run_gxx(f"-print-file-name={name}").strip() for name in ("libasan.so", "libstdc++.so"))
    return {"LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": "detect_leaks=0"}


def traced(variant: Variant) -> Variant:
    """With every load and store of the kernels seen by host/trace.cpp."""
    return Variant(f"{variant.name}-traced", variant.edits, traced=True)


class BuildError(Exception):
    """The compiler refused; the message is its own."""


def missing() -> str | None:
    """Why the library cannot be built here, or None."""
    if sys.platform != "linux":
        return "the fibres of tests/native need Linux"
    return None if shutil.which("g++") else "no g++ on PATH"


def build(*variants: Variant) -> list[Path]:
    """The libraries of these variants; what the cache holds is not built again.

    Raises:
        BuildError: something does not compile, or an edit does not fit.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    plans = [_plan(variant) for variant in variants]
    compilations = {job.output: job for plan in plans for job in plan.objects}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_make, compilations.values()))
        list(pool.map(_make, (plan.library for plan in plans)))
    _forget_old()
    return [plan.library.output for plan in plans]


@dataclass(frozen=True)
class _Job:
    output: Path
    arguments: Sequence[str]


@dataclass(frozen=True)
class _Plan:
    objects: list[_Job] = field(default_factory=list)
    library: _Job = _Job(Path(), ())


def _plan(variant: Variant) -> _Plan:
    folder = edited(variant.edits)
    flags = (*FLAGS, *_machine_flags(), *variant.flags)
    shim = "".join(path.read_text() for path in sorted(HOST.iterdir()))
    jobs = []
    for source in sorted((folder / "cuda").glob("*.cu")):
        options = [*flags, *(["-fsanitize=thread"] if variant.traced else []), '-DVT_CUDA_ARCHS="the host"']
        key = _digest(shim, *(path.read_text() for path in included(source)), *options)
        options += ["-I", str(HOST), "-x", "c++"]
        jobs.append(_Job(CACHE / f"{source.stem}-{key}.o", [*options, "-c", str(source)]))
    for name in ("fibres.cpp", "trace.cpp") if variant.traced else ("fibres.cpp",):
        jobs.append(_Job(CACHE / f"{Path(name).stem}-{_digest(shim, *flags)}.o", [*flags, "-c", str(HOST / name)]))
    objects = [str(job.output) for job in jobs]
    # The sanitizers' own functions are in the process already, or in trace.o.
    options = ["-shared", *variant.flags, *([] if variant.flags else ["-Wl,-z,lazy"]), *objects]
    return _Plan(jobs, _Job(CACHE / f"{variant.name}-{_digest(*objects)}.so", options))


def included(source: Path) -> list[Path]:
    """The file and all of ours that it includes, however indirectly."""
    found, waiting = [], [source.resolve()]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.append(path)
            waiting += [(path.parent / name).resolve() for name in re.findall(r'#include "(.+)"', path.read_text())]
    return sorted(found)


def edited(edits: Sequence[Edit]) -> Path:
    """A folder with the sources as they are now, and the edits made in them."""
    texts = {path.relative_to(CSRC): path.read_text() for path in _sources()}
    for edit in edits:
        path = Path("cuda") / edit.file
        if texts[path].count(edit.old) != 1:
            raise BuildError(f"{edit.file} has not exactly one {edit.old!r}")
        texts[path] = texts[path].replace(edit.old, edit.new)
    folder = CACHE / f"sources-{_digest(*(text for _, text in sorted(texts.items())))}"
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def _sources() -> list[Path]:
    return sorted((*(CSRC / "cuda").glob("*.cu*"), *(CSRC / "include").glob("*.h")))


def _machine_flags() -> list[str]:
    """The instructions that make the kernels' fmaf() and half precision one instruction each, where there are such."""
    try:
        known = set(re.findall(r"\w+", Path("/proc/cpuinfo").read_text()))
    except OSError:
        return []
    return [f"-m{name}" for name in ("fma", "f16c") if name in known]


def _make(job: _Job) -> None:
    """g++, unless its output is there; whoever else makes the same at the same time makes the same."""
    if job.output.exists():
        os.utime(job.output)
        return
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        made = Path(folder) / job.output.name
        _run_gxx(*job.arguments, "-o", str(made))
        made.replace(job.output)


def _run_gxx(*arguments: str) -> str:
    run = subprocess.run(["g++", *arguments], capture_output=True, text=True)
    if run.returncode:
        raise BuildError(f"g++ {' '.join(arguments)}\n{run.stderr}")
    return run.stdout


def _forget_old() -> None:
    for path in CACHE.iterdir():
        if path.is_file() and path.stat().st_mtime < time.time() - CACHE_DAYS * 86400:
            path.unlink(missing_ok=True)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


if __name__ == "__main__":
    print(*build(PLAIN, MIXED), sep="\n")
