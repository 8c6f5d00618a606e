"""Weights that have drifted apart between ranks are noticed, and the rank that holds the odd ones is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import finish, start_toy
from torch import nn

from vim_train.engine.drift import _who, checksums, replicated

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64])


@given(dtype=DTYPES, size=st.integers(1, 50), data=st.data())
def test_any_flipped_bit_changes_the_checksum(dtype: torch.dtype, size: int, data: st.DataObject) -> None:
    tensor = torch.arange(size).to(dtype)
    before = checksums([tensor])
    bytes_ = tensor.view(torch.uint8)
    place, bit = data.draw(st.integers(0, len(bytes_) - 1)), data.draw(st.integers(0, 7))
    bytes_[place] ^= 1 << bit
    assert not torch.equal(checksums([tensor]), before)


def test_an_exchange_of_two_values_changes_it_too() -> None:
    assert not torch.equal(checksums([torch.tensor([1.0, 2.0])]), checksums([torch.tensor([2.0, 1.0])]))


def test_statistics_of_a_ranks_own_batches_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.register_buffer("table", torch.ones(3))
    assert set(replicated(model)) == {"0.weight", "0.bias", "1.weight", "1.bias", "table"}


def test_the_minority_is_named() -> None:
    assert _who([[1, 1], [1, 1], [2, 1], [1, 1]]) == "rank 2 holds other weights"
    assert _who([[1, 1], [3, 1], [2, 1], [1, 1], [1, 1]]) == "ranks 1, 2 hold other weights"
    assert _who([[1, 1], [2, 1]]) == "ranks 0 and 1 hold different weights"


@pytest.mark.slow
def test_a_flipped_bit_in_one_of_three_ranks_stops_the_run(tmp_path: Path) -> None:
    """Before the checkpoint of that step: none holds such weights."""
    code, output = finish(start_toy(tmp_path, 3, "flip", 1, 6))
    assert code == 1, output
    assert output.count("rank 1 holds other weights at step 8: weight is the first that differs; ") == 3
    assert max(file.name for file in (tmp_path / "checkpoints").glob("step_*")) == "step_00000006"
