"""metrics.jsonl: valid at any moment, cut at resume, read back."""

import json
import math
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vim_train.report.jsonl import MetricsFile, read_metrics


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def write(path: Path, steps: range, resumed_step: int | None = None) -> None:
    file = MetricsFile(path, resumed_step)
    for step in steps:
        file.write("train", step, step // 3, {"train/loss": 1 / (step + 1)})
    file.close()


def test_a_line_holds_kind_step_epoch_and_time_then_the_numbers(path: Path) -> None:
    write(path, range(2))
    lines = path.read_text().splitlines()
    assert [list(json.loads(line)) for line in lines] == [["kind", "step", "epoch", "time", "train/loss"]] * 2


def test_each_line_is_in_the_file_before_the_next_call(path: Path) -> None:
    file = MetricsFile(path, None)
    file.write("eval", 3, 1, {"eval/top1": 81.5})
    assert read_metrics(path)[0]["eval/top1"] == 81.5
    file.close()


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.floats())
def test_finite_floats_come_back_bit_for_bit_and_others_as_null(path: Path, value: float) -> None:
    file = MetricsFile(path, None)
    file.write("train", 1, 0, {"x": value})
    file.close()
    text = path.read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert read_metrics(path)[0]["x"] == (value if math.isfinite(value) else None)


def test_scalars_of_arrays_and_tensors_are_numbers(path: Path) -> None:
    file = MetricsFile(path, None)
    file.write("train", 1, 0, {"a": np.float32(0.5), "b": torch.tensor(2), "c": np.float64("nan"), "d": [np.int64(3)]})
    file.close()
    record = read_metrics(path)[0]
    assert (record["a"], record["b"], record["c"], record["d"]) == (0.5, 2, None, [3])


def test_resuming_cuts_later_steps_and_keeps_the_others_byte_for_byte(path: Path) -> None:
    write(path, range(10))
    before = path.read_bytes().splitlines(keepends=True)
    write(path, range(5, 7), resumed_step=4)
    after = path.read_bytes().splitlines(keepends=True)
    assert after[:5] == before[:5]
    assert [r["step"] for r in read_metrics(path)] == [0, 1, 2, 3, 4, 5, 6]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(end=st.integers(0, 600))
def test_a_file_torn_anywhere_is_read_and_resumed(path: Path, end: int) -> None:
    path.unlink(missing_ok=True)
    write(path, range(8))
    whole = path.read_bytes()
    path.write_bytes(whole[:end])
    complete = whole[:end].count(b"\n")
    assert len(read_metrics(path)) == complete
    write(path, range(complete, 8), resumed_step=complete - 1)
    assert [(r["step"], r["train/loss"]) for r in read_metrics(path)] == [(s, 1 / (s + 1)) for s in range(8)]


def test_a_fresh_start_empties_the_file(path: Path) -> None:
    write(path, range(4))
    write(path, range(0))
    assert read_metrics(path) == []


def test_a_damaged_line_in_the_middle_is_named(path: Path) -> None:
    write(path, range(3))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{torn\n" + lines[2])
    with pytest.raises(ValueError, match="line 2"):
        read_metrics(path)
    write(path, range(0), resumed_step=9)
    assert [r["step"] for r in read_metrics(path)] == [0, 2]


def test_no_temporary_file_is_left(path: Path) -> None:
    write(path, range(3))
    write(path, range(3), resumed_step=1)
    assert [p.name for p in path.parent.iterdir() if p.is_file()] == ["metrics.jsonl"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_raises() -> None:
    file = MetricsFile.__new__(MetricsFile)
    file._fd = __import__("os").open("/dev/full", 1)
    with pytest.raises(OSError, match="No space left"):
        file.write("train", 1, 0, {})
    file.close()


def test_a_disk_that_fills_up_in_a_line_leaves_whole_lines_and_takes_more_later(path: Path) -> None:
    file = MetricsFile(path, None)
    step = 0

    def fill() -> None:
        nonlocal step
        while True:
            file.write("train", step, 0, {"train/loss": 0.5})
            step += 1

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # the write that crosses it is cut short, as on a full disk
    try:
        with pytest.raises(OSError, match="disk full"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [record["step"] for record in read_metrics(path)] == list(range(step))
    assert path.read_bytes().endswith(b"\n")
    file.write("train", 100, 0, {"train/loss": 0.5})
    file.close()
    assert [record["step"] for record in read_metrics(path)] == [*range(step), 100]
