"""Every fault of the table: one line says it, the exit code is the one meant, nobody is left, and the run goes on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from bench import Bench, Row, open_bench
from rows import ROWS, shown

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Iterator[Bench]:
    with open_bench(tmp_path_factory.mktemp("bench"), photos) as opened:
        yield opened


@pytest.mark.parametrize("row", ROWS, ids=[row.fault for row in ROWS])
def test_fault(bench: Bench, row: Row, count: Callable[[str], None]) -> None:
    if row.needs_root and os.geteuid() != 0:
        pytest.skip("needs root for mounts of its own")
    outcome = row.work(bench)
    found = shown(row, outcome)
    count(" | ".join(found))
    assert not found[2].startswith("NOT SAID"), outcome.text
    assert outcome.code == row.code, outcome.text
    assert outcome.orphans == 0
    assert outcome.after == row.after
    assert "Traceback" not in outcome.text
