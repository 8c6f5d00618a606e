"""The native pixel library is used where its pixels are Pillow's, and nowhere else; a line says which."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import PIL
import pytest
from pixel_library import needs_library, private_copy

import vim_train
from vim_train.data import pixels
from vim_train.data.pixels import PixelLibrary
from vim_train.data.pixels_check import check

CSRC = Path(vim_train.__file__).parent / "data" / "csrc"
PILLOW = f"Pillow {PIL.__version__}"


@pytest.fixture
def asked_anew() -> Iterator[None]:
    """The question which library there is, without the answer of earlier tests."""
    pixels._status.cache_clear()
    pixels.pixel_library.cache_clear()
    yield
    pixels._status.cache_clear()
    pixels.pixel_library.cache_clear()


@needs_library
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_the_library_passes(isa: str, tmp_path: Path) -> None:
    found = private_copy(tmp_path, isa)
    library, line = check(found)
    assert library is not None
    assert library.operations
    assert line.startswith(f"native ({found.isa}), equal to {PILLOW}")
    if found.libjpeg is not None:
        assert line == f"native ({found.isa}), equal to {PILLOW}"
        assert library.libjpeg == found.libjpeg


class Wrong:
    """A library's functions, one of which gets one bit wrong in one of `every` calls."""

    def __init__(self, library: PixelLibrary, function: str, every: int) -> None:
        self._library, self._function, self._every, self._calls = library.handle, function, every, 0

    def __getattr__(self, name: str) -> object:
        function = getattr(self._library, name)
        return partial(self._spoil, function) if name == self._function else function

    def _spoil(self, function: Callable[..., int], *arguments: object) -> int:
        status = function(*arguments)
        self._calls += 1
        if self._calls % self._every == 0:
            out = ctypes.cast(arguments[-1], ctypes.POINTER(ctypes.c_uint8))  # type: ignore[arg-type]
            out[700] ^= 1
        return status


@needs_library
def test_one_wrong_bit_of_a_resize_refuses_the_library(tmp_path: Path) -> None:
    found = private_copy(tmp_path)
    library, line = check(replace(found, handle=Wrong(found, "vtp_from_pixels", every=30)))  # type: ignore[arg-type]
    assert library is None
    assert line == f"Pillow (the native library resizes to other pixels than {PILLOW})"


@needs_library
def test_one_wrong_bit_of_a_jpeg_leaves_decoding_to_pillow(tmp_path: Path) -> None:
    found = private_copy(tmp_path)
    if found.libjpeg is None:
        pytest.skip("no libjpeg-turbo here")
    library, line = check(replace(found, handle=Wrong(found, "vtp_from_jpeg", every=70)))  # type: ignore[arg-type]
    assert library is not None
    assert library.libjpeg is None
    assert (
        line == f"native ({found.isa}), equal to {PILLOW}; decoding by Pillow: libjpeg's pixels differ from {PILLOW}'s"
    )


MISTAKES = {
    "weights cut instead of rounded": (
        "weights.cpp",
        "scaled < 0.0 ? scaled - 0.5 : scaled + 0.5",
        "scaled",
        "resizes to",
    ),
    "sums rounded a 64th lower": ("kernels/simd.h", "1 << (kWeightBits - 1)", "(1 << 21) - (1 << 16)", "resizes to"),
    "grey rounded down": ("kernels/colour.h", " * 7471 + 0x8000", " * 7471", "augmentation by Pillow"),
    "no margin for chroma": ("jpeg.cpp", "kMargin = 8", "kMargin = 0", "decoding by Pillow"),
    "another order of colours": (
        "jpeg.cpp",
        "= jpeg::kRgbx",
        "= static_cast<jpeg::ColorSpace>(9)",
        "decoding by Pillow",
    ),
}


@pytest.mark.slow
@needs_library
@pytest.mark.parametrize("name", MISTAKES)
def test_a_library_with_one_constant_changed_is_found_out(name: str, compiled: Compiled, tmp_path: Path) -> None:
    file, right, wrong, said = MISTAKES[name]
    source = tmp_path / "csrc"
    shutil.copytree(CSRC, source)
    text = (source / file).read_text()
    assert text.count(right) == 1
    (source / file).write_text(text.replace(right, wrong))
    library = pixels.load(compiled.again(source, file, tmp_path))
    assert isinstance(library, PixelLibrary), library
    if library.libjpeg is None and "decoding" in said:
        pytest.skip("no libjpeg-turbo here")
    assert said in check(library)[1]


DOT_PRODUCTS = """
#include <immintrin.h>
#include <string.h>
static inline __m256i dot_products(__m256i sums, __m256i bytes, __m256i weights) {
  int sum[8];
  unsigned char byte[32];
  signed char weight[32];
  memcpy(sum, &sums, 32);
  memcpy(byte, &bytes, 32);
  memcpy(weight, &weights, 32);
  for (int i = 0; i < 32; ++i) sum[i / 4] += byte[i] * weight[i];
  memcpy(&sums, sum, 32);
  return sums;
}
#define _mm256_dpbusd_epi32 dot_products
#define __AVX512VNNI__ 1
#define __AVX512VL__ 1
#define __AVX512BW__ 1
"""


@pytest.mark.slow
@needs_library
def test_the_kernels_for_avx512_on_a_processor_without_it(
    compiled: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if private_copy(tmp_path, "avx2").isa != "avx2":
        pytest.skip("this processor has no avx2")
    monkeypatch.setenv("VIM_TRAIN_ISA", "avx512")
    library = pixels.load(compiled.emulated(tmp_path))
    assert isinstance(library, PixelLibrary), library
    assert library.isa == "avx512"
    assert check(library)[1].startswith(f"native (avx512), equal to {PILLOW}")
    assert "augmentation" not in check(library)[1]


class Compiled:
    """The library's objects, by the compiler of this machine: as CMakeLists.txt has them, but more quickly."""

    def __init__(self, compiler: str, folder: Path) -> None:
        self._compiler, self._folder = compiler, folder
        self._compile(sorted(CSRC.rglob("*.cpp")), folder)

    def again(self, source: Path, changed: str, folder: Path, *flags: str) -> Path:
        """A library from `source`, where the file `changed` is another; headers are only looked for in kernels/."""
        self._compile(sorted(source.glob(changed if changed.endswith(".cpp") else "kernels/*.cpp")), folder, flags)
        return self.link(folder)

    def link(self, folder: Path) -> Path:
        """A library from the objects in `folder`, and from ours for what is not there."""
        objects = [
            *folder.glob("*.o"),
            *(path for path in self._folder.glob("*.o") if not (folder / path.name).exists()),
        ]
        library = folder / "changed.so"
        subprocess.run([self._compiler, "-shared", "-o", str(library), *map(str, objects), "-ldl"], check=True)
        return library

    def emulated(self, folder: Path) -> Path:
        """The kernels for AVX-512 with its one instruction spelt out, and a processor that says it has it."""
        shim = folder / "shim.h"
        shim.write_text(DOT_PRODUCTS)
        self._compile([CSRC / "kernels" / "isa_avx512.cpp"], folder, ("-include", str(shim)), native=False)
        self._compile([CSRC / "pixels.cpp"], folder, ("-D__builtin_cpu_supports(isa)=true",))
        return self.link(folder)

    def _compile(self, files: list[Path], folder: Path, more: tuple[str, ...] = (), native: bool = True) -> None:
        flags = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-exceptions", "-w"]
        avx2 = ["-mavx2"]
        avx512 = [*avx2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512vnni"] if native else avx2

        def run(file: Path) -> None:
            extra = {"isa_avx2": avx2, "isa_avx512": avx512}.get(file.stem, [])
            arguments = [*flags, "-Wno-psabi", *more, *extra, "-c", str(file), "-o", str(folder / f"{file.stem}.o")]
            subprocess.run([self._compiler, *arguments], check=True)

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(run, files))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    compiler = next((found for tool in ("c++", "g++", "clang++") if (found := shutil.which(tool))), None)
    if compiler is None or platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("no C++ compiler whose flags are known here")
    return Compiled(compiler, tmp_path_factory.mktemp("compiled"))


@needs_library
def test_without_a_libjpeg_the_library_still_resizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_libjpegs", lambda: ["/nowhere/libjpeg.so", sys.executable, "libc.so.6"])
    found = private_copy(tmp_path)
    assert found.libjpeg is None
    library, line = check(found)
    assert line == f"native ({found.isa}), equal to {PILLOW}; decoding by Pillow: no libjpeg-turbo found"
    assert library is not None
    assert library.libjpeg is None


def test_without_the_library_pillow_does_it_all(asked_anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "find", lambda folders: None)
    assert pixels.pixel_library() is None
    assert pixels.pixel_status() == "Pillow (the native pixel library was not built: installed without a C++ compiler?)"


def test_pillow_may_be_asked_for(asked_anew: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIM_TRAIN_PIXELS", "pillow")
    assert pixels.pixel_library() is None
    assert pixels.pixel_status() == "Pillow, as VIM_TRAIN_PIXELS asks"


def test_a_library_that_cannot_be_loaded_is_told(
    asked_anew: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "vim_train_pixels.so"
    broken.write_bytes(b"nothing")
    monkeypatch.setattr(pixels, "find", lambda folders: broken)
    assert pixels.pixel_library() is None
    assert pixels.pixel_status().startswith(f"Pillow ({broken} cannot be loaded")
