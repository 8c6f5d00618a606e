"""Fixtures of the report's tests."""

from collections.abc import Callable
from pathlib import Path

import pytest
from short_run import Run


@pytest.fixture
def make_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Run]:
    """Runs in folders of their own; the picture, which takes a second, is left to the tests that look at it."""
    monkeypatch.setattr("vim_train.report.report.draw_curves", lambda *args: None)

    def make(name: str) -> Run:
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        return Run(folder)

    return make


@pytest.fixture
def run(make_run: Callable[[str], Run]) -> Run:
    return make_run("short")
