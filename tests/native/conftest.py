"""The libraries that run the CUDA kernels on the host."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import hostbuild
import pytest
from hostrun import HostLibrary, TracedLibrary


@pytest.fixture(scope="session")
def build_host() -> Callable[..., list[Path]]:
    """hostbuild.build, skipping where it cannot."""
    if reason := hostbuild.missing():
        pytest.skip(reason)
    return hostbuild.build


@pytest.fixture(scope="session")
def host_library(build_host: Callable[..., list[Path]]) -> HostLibrary:
    """With all kernels, chosen by sizes that are quick to run."""
    return HostLibrary(*build_host(hostbuild.MIXED))


@pytest.fixture(scope="session")
def traced_library(build_host: Callable[..., list[Path]]) -> TracedLibrary:
    """The same, where every load and store is seen."""
    return TracedLibrary(*build_host(hostbuild.traced(hostbuild.MIXED)))
