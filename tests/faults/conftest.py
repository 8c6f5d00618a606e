"""What the tests of faults share: fork servers, folders in memory, and counts that are told at the end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forks import Forks


@pytest.fixture(scope="session")
def server() -> Iterator[Forks]:
    with Forks() as forks:
        yield forks


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where possible: what is written survives a kill on any file system, and saves take less time."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as path:
        yield Path(path)


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Keeps a line for the end of the test session: how many faults there were, and what came of them."""
    return lambda line: record_property("count", line)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    lines = [
        (report.nodeid.partition("::")[2], value)
        for report in reports
        if report.when == "call"
        for name, value in report.user_properties
        if name == "count"
    ]
    if lines:
        terminalreporter.section("faults")
    for test, line in lines:
        terminalreporter.line(f"{test}: {line}")
