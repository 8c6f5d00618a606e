"""A loss that is not finite in one rank alone: all ranks know before the update."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from processes import finish, start_toy

pytestmark = pytest.mark.slow


def test_all_ranks_stop_at_the_same_step(tmp_path: Path) -> None:
    code, output = finish(start_toy(tmp_path, 2, "nan", 1, 4))
    assert code == 3, output
    for rank in range(2):
        assert f"rank {rank}: loss nan and gradient norm nan at step 4 (epoch 0): no update was made" in output
    kept = json.loads((tmp_path / "replay" / "step_00000004.json").read_text())
    assert (kept["step"], kept["loss"], kept["world"]) == (4, "nan", 2)


@pytest.mark.full
def test_with_strict_all_ranks_skip_the_same_step(tmp_path: Path) -> None:
    """Each rank has two lanes a step here, so that the seventh loss is of step 3."""
    code, output = finish(start_toy(tmp_path, 2, "nan", 1, 6, keys="strict skip"))
    assert code == 0, output
    assert "step 3: update skipped: loss nan" in output
    assert output.count("skipped 1") == 2
