"""AddressSanitizer and UndefinedBehaviorSanitizer find nothing in the kernels."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import hostbuild
import pytest

HERE = Path(__file__).parent


@pytest.mark.parametrize("element", ["bf16", pytest.param("float", marks=pytest.mark.full)])
def test_sanitizers_find_nothing(build_host: Callable[..., list[Path]], element: str) -> None:
    (library,) = build_host(hostbuild.sanitized(hostbuild.MIXED, element))
    path = os.pathsep.join(map(str, (HERE, hostbuild.ROOT)))
    run = subprocess.run(
        [sys.executable, str(HERE / "sanitized.py"), str(library), element],
        env=os.environ | hostbuild.sanitizers_environment() | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-6000:]
    assert "clean" in run.stdout
