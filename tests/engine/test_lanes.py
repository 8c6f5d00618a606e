"""Strict gradients: one order of addition, whoever adds."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy import toy_config, toy_trainer

from vim_train.config.schema import Determinism
from vim_train.engine.lanes import Node, add_up


@given(lanes=st.integers(1, 40), cuts=st.lists(st.integers(0, 40), max_size=5), seed=st.integers(0, 2**32))
def test_sums_do_not_depend_on_who_has_which_lanes(lanes: int, cuts: list[int], seed: int) -> None:
    values = torch.randn(lanes, 3, generator=torch.Generator().manual_seed(seed)) * 1e3
    [whole] = add_up({(0, i): row.clone() for i, row in enumerate(values)}, lanes).values()
    torch.testing.assert_close(whole.double(), values.double().sum(0), rtol=1e-5, atol=1e-2)

    ends = [0, *sorted(min(cut, lanes) for cut in cuts), lanes]
    gathered: dict[Node, torch.Tensor] = {}
    for first, last in pairwise(ends):
        gathered |= add_up({(0, i): values[i].clone() for i in range(first, last)}, lanes)
    [shared] = add_up(gathered, lanes).values()
    assert torch.equal(shared, whole)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_strict_training_does_not_depend_on_passes(tmp_path: Path, accumulate: int) -> None:
    def final(passes: int, determinism: Determinism) -> dict[str, torch.Tensor]:
        cfg = toy_config()
        cfg.determinism, cfg.data.lane, cfg.optim.accumulate = determinism, 2, passes
        trainer = toy_trainer(cfg, tmp_path / f"{passes}{determinism}")
        trainer.train()
        return trainer.task.model.state_dict()

    strict = final(accumulate, Determinism.strict)
    for name, value in final(1, Determinism.strict).items():
        assert torch.equal(strict[name], value)
    for name, value in final(1, Determinism.relaxed).items():
        torch.testing.assert_close(strict[name], value, rtol=1e-4, atol=1e-6)
