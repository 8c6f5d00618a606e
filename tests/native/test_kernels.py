"""Every kernel, run on the host, meets float64, and gives the same bits in whatever order its threads run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import hostbuild
import hostcases
import pytest
import torch
from hostbuild import Variant
from hostcases import DTYPES, ScanCase
from hosterrors import Result, examine
from hostrun import HostLibrary

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def _assert_right(results: Iterable[Result]) -> None:
    wrong = [result for result in results if not result.right]
    assert not wrong, "\n".join(map(str, wrong[:5]))


@dtypes
def test_scans(host_library: HostLibrary, dtype: torch.dtype) -> None:
    _assert_right(examine(host_library, hostcases.scan_cases(dtype), hostcases.scan_task))


@dtypes
def test_convolutions(host_library: HostLibrary, dtype: torch.dtype) -> None:
    _assert_right(examine(host_library, hostcases.conv_cases(dtype), hostcases.conv_task))


@dtypes
def test_norms(host_library: HostLibrary, dtype: torch.dtype) -> None:
    _assert_right(examine(host_library, hostcases.norm_cases(dtype), hostcases.norm_task))


@pytest.mark.full
@dtypes
@pytest.mark.parametrize("variant", [hostbuild.LARGE, hostbuild.CHUNKED], ids=lambda variant: variant.name)
def test_many_scans(build_host: Callable[..., list[Path]], variant: Variant, dtype: torch.dtype) -> None:
    library = HostLibrary(*build_host(variant))
    _assert_right(examine(library, hostcases.scan_cases(dtype, count=150), hostcases.scan_task))


@pytest.mark.full
@pytest.mark.parametrize(
    "case",
    [
        ScanCase(batch=400, length=18, channels=63, dtype=torch.bfloat16),  # a large batch
        ScanCase(batch=1, length=1500, channels=9, dtype=torch.bfloat16),  # chunks
    ],
)
def test_sizes_that_choose_a_kernel_in_earnest(build_host: Callable[..., list[Path]], case: ScanCase) -> None:
    _assert_right(examine(HostLibrary(*build_host(hostbuild.PLAIN)), [case], hostcases.scan_task))
