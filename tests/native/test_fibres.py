"""The fibres see what is wrong with kernels."""

from __future__ import annotations

import ctypes
import subprocess

import hostbuild
import pytest

KERNEL = r"""
#include <cuda_runtime.h>

namespace vt {
namespace {

// Sums 64 numbers, in each of two blocks.
__global__ void sum_kernel(float* out, int wrong) {
  extern __shared__ __align__(16) unsigned char shared[];
  float* numbers = (float*)shared;
  int thread = (int)threadIdx.x, lane = thread % 32;
  if (wrong == 1 && thread == 5) return;
  if (wrong == 2 && thread < 32) __syncthreads();
  if (wrong == 3 && lane == 0) __syncwarp();
  if (wrong == 4 && lane == 0) __shfl_sync(~0u, thread, 0);
  numbers[wrong == 5 ? thread + 1 : thread] = (float)thread;
  if (wrong != 6) __syncthreads();
  float sum = numbers[lane] + numbers[lane + 32];
  for (int mask = 1; mask < 32; mask *= 2) sum += __shfl_xor_sync(~0u, sum, mask);
  if (wrong == 7) numbers[thread] = 0.0f;
  if (thread == 0) out[wrong == 8 ? 0 : blockIdx.x] = sum;
}

}  // namespace
}  // namespace vt

extern "C" __attribute__((visibility("default"))) const char* run(float* out, int wrong) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(2);
  config.blockDim = dim3(64);
  config.dynamicSmemBytes = 64 * sizeof(float);
  return cudaGetErrorString(cudaLaunchKernelEx(&config, vt::sum_kernel, out, wrong));
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if reason := hostbuild.missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("fibres")
    (folder / "kernel.cu").write_text(KERNEL)
    flags = ["g++", "-std=c++17", "-O1", "-g1", "-fPIC", "-shared", "-I", str(hostbuild.HOST)]
    kernel = [*flags, "-c", "-fsanitize=thread", "-x", "c++", str(folder / "kernel.cu"), "-o", str(folder / "kernel.o")]
    subprocess.run(kernel, check=True)
    sources = [str(hostbuild.HOST / name) for name in ("fibres.cpp", "trace.cpp")]
    library = folder / "kernel.so"
    subprocess.run([*flags, str(folder / "kernel.o"), *sources, "-o", str(library)], check=True)
    handle = ctypes.CDLL(str(library))
    handle.run.restype = handle.host_first_race.restype = ctypes.c_char_p
    return handle


def _run(library: ctypes.CDLL, wrong: int, order: int) -> tuple[str, str, list[float]]:
    """The launch's error, the first race, and the sums of both blocks."""
    out = (ctypes.c_float * 2)()
    library.host_set_order(order, 1)
    library.host_trace(0, None, None)
    error = library.run(out, wrong).decode()
    return error, library.host_first_race().decode(), list(out)


@pytest.mark.parametrize("order", [0, 1, 2], ids=["forward", "reverse", "random"])
def test_what_is_right_is_left_alone(library: ctypes.CDLL, order: int) -> None:
    assert _run(library, 0, order) == ("no error", "", [64 * 63 / 2] * 2)


@pytest.mark.parametrize("order", [0, 1, 2], ids=["forward", "reverse", "random"])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (1, "1 threads have exited"),
        (2, "divergent __syncthreads: thread 0 waits at line"),
        (3, "2 threads wait at __syncwarp"),
        (4, "threads 0 and 1 come to a barrier with different numbers of shuffles"),
    ],
)
def test_threads_that_do_not_meet(library: ctypes.CDLL, wrong: int, order: int, said: str) -> None:
    assert said in _run(library, wrong, order)[0]
    assert _run(library, 0, order)[0] == "no error"  # the next launch is not harmed


@pytest.mark.parametrize("order", [0, 1, 2], ids=["forward", "reverse", "random"])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (5, "stores to shared memory beyond what the launch asked for"),
        (6, "shared memory while another thread may be at it"),
        (7, "shared memory while another thread may be at it"),
        (8, "stores to global memory while another thread may be at it"),
    ],
)
def test_accesses_that_race(library: ctypes.CDLL, wrong: int, order: int, said: str) -> None:
    assert said in _run(library, wrong, order)[1]


def test_unwritten_shared_memory_is_not_a_number(library: ctypes.CDLL) -> None:
    assert all(value != value for value in _run(library, 5, 0)[2])
