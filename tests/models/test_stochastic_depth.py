"""Stochastic depth: published rates, and a pure function of the noise it is given."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vim_train.models.stochastic_depth import drop_rates, keep_scales


@pytest.mark.parametrize(("depth", "rate"), [(24, 0.05), (24, 0.1), (4, 0.2)])
def test_rates_are_the_published_ones(depth: int, rate: float, golden: Path) -> None:
    table = json.loads((golden / "drop_path.json").read_text())[f"depth{depth}_rate{rate}"]
    *entries, final = drop_rates(rate, depth)
    assert entries == pytest.approx(table["block_input_rates"], abs=1e-7)
    assert final == table["final_add"]


def test_keeps_where_noise_reaches_the_rate() -> None:
    noise = torch.tensor([[0.0, 0.5, 0.49], [0.9, 0.0, 0.99]])
    keeps = keep_scales(noise, (0.0, 0.5, 0.5))
    assert keeps[0] is None
    assert keeps[1].flatten().tolist() == [2.0, 0.0]
    assert keeps[2].flatten().tolist() == [0.0, 2.0]


def test_noise_of_another_width_is_refused(small: Callable) -> None:
    model = small(drop_path_rate=0.5)
    with pytest.raises(ValueError, match=r"shape \(1, 2\), accepted is \(batch, 3\)"):
        model(torch.randn(1, 3, 16, 16), drop_path_noise=torch.rand(1, 2))


def test_model_is_a_function_of_the_noise_alone(small: Callable) -> None:
    model = small(depth=4, drop_path_rate=0.6)
    assert model.num_drop_paths == 5
    x, noise = torch.randn(3, 3, 16, 16), torch.rand(3, 5)
    torch.manual_seed(1)
    first = model(x, drop_path_noise=noise)
    torch.manual_seed(2)
    assert torch.equal(model(x, drop_path_noise=noise), first)
    # A sample's result depends on its own row.
    other = torch.cat((noise[:1], 1 - noise[1:]))
    assert torch.allclose(model(x, drop_path_noise=other)[0], first[0], atol=1e-6)
    assert not torch.allclose(model(x, drop_path_noise=other)[1:], first[1:], atol=1e-6)


def test_dropped_additions_leave_the_stream(small: Callable) -> None:
    model = small(depth=3, drop_path_rate=0.5)
    x = torch.randn(1, 3, 16, 16)
    all_kept = torch.ones(1, 4).mul(0.999)
    last_dropped = torch.tensor([[0.0, 0.999, 0.999, 0.1]])
    _, kept = model.forward_intermediates(x, output_fmt="NLC", drop_path_noise=all_kept)
    _, dropped = model.forward_intermediates(x, output_fmt="NLC", drop_path_noise=last_dropped)
    torch.testing.assert_close(dropped[1], kept[1])
    torch.testing.assert_close(dropped[2], dropped[1])
    # Kept additions are scaled by 1 / keep: rate 0.25 at block 1's output, 0.5 at block 2's.
    _, plain = model.eval().forward_intermediates(x, output_fmt="NLC")
    torch.testing.assert_close(kept[0], plain[0])
    torch.testing.assert_close(kept[1] - kept[0], (plain[1] - plain[0]) / 0.75)


def test_evaluation_ignores_noise_and_training_draws_its_own(small: Callable) -> None:
    model = small(drop_path_rate=0.9)
    x = torch.randn(4, 3, 16, 16)
    torch.manual_seed(3)
    first = model(x)
    torch.manual_seed(3)
    assert torch.equal(model(x), first)
    model.eval()
    assert torch.equal(model(x, drop_path_noise=torch.zeros(4, 3)), model(x))
