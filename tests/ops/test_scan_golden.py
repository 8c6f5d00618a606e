"""The scans meet tensors that other code computed, forward and backward."""

from __future__ import annotations

from pathlib import Path

import problems
import pytest


@pytest.mark.parametrize("case", problems.GOLDEN)
@pytest.mark.parametrize("reverse", [False, True])
def test_scan_meets_the_golden_tensors(golden: Path, backend: str, case: str, reverse: bool) -> None:
    problems.check_golden(backend, "cpu", golden, case, reverse)
