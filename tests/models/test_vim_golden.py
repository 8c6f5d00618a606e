"""Whole models against tensors of the published implementation."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

CASES = ["mid_cls", "head_cls", "double_cls", "mean_pool", "max_pool_tokens", "overlap_stride4"]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest magnitude; a tensor that is all zero must be met exactly."""
    scale = expected.abs().max().item()
    error = (actual - expected).abs().max().item()
    return error / scale if scale else error


@pytest.mark.parametrize("case", CASES)
def test_matches_published_model(case: str, backend: str, load_golden: Callable, build: Callable) -> None:
    tensors, metadata = load_golden(f"vim_{case}")
    state = {key.removeprefix("state."): t for key, t in tensors.items() if key.startswith("state.")}
    model = build(metadata["config"], state)

    tokens = model.forward_features(tensors["input"])
    features = tokens if case == "max_pool_tokens" else model.forward_head(tokens, pre_logits=True)
    logits = model.forward_head(tokens)
    loss = F.cross_entropy(logits, tensors["target"])
    loss.backward()

    assert relative_error(features, tensors["features"]) <= 2e-5
    assert relative_error(logits, tensors["logits"]) <= 2e-5
    assert loss.item() == pytest.approx(tensors["loss"].item(), abs=2e-5)
    errors = {
        name: relative_error(parameter.grad, tensors[f"grad.{name}"]) for name, parameter in model.named_parameters()
    }
    assert {name: e for name, e in errors.items() if not e <= 5e-5} == {}


@pytest.mark.parametrize("case", CASES)
def test_state_dict_has_exactly_the_published_names(case: str, load_golden: Callable, build: Callable) -> None:
    tensors, metadata = load_golden(f"vim_{case}")
    published = {key.removeprefix("state."): t.shape for key, t in tensors.items() if key.startswith("state.")}
    assert {name: t.shape for name, t in build(metadata["config"]).state_dict().items()} == published


def test_divide_out_halves_the_mixer(small: Callable) -> None:
    halved, summed = small().layers[0].mixer, small(divide_out=False).layers[0].mixer
    x = torch.randn(2, 7, 16)
    torch.testing.assert_close(halved(x) * 2, summed(x))


def test_double_class_token_averages_both_ends(small: Callable) -> None:
    model = small(class_token="double")
    tokens = torch.randn(3, 18, 16)
    expected = (tokens[:, 0] + tokens[:, -1]) / 2
    torch.testing.assert_close(model.forward_head(tokens, pre_logits=True), expected)


def test_last_pool_takes_the_last_token(small: Callable) -> None:
    model = small(class_token="none", pool="last")
    tokens = torch.randn(3, 16, 16)
    torch.testing.assert_close(model.forward_head(tokens), model.head(tokens[:, -1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_token": "front"}, "class_token 'front': accepted are middle, head, double, none"),
        ({"pool": "avg"}, "pool 'avg': accepted are mean, max, last"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate 1.0 is outside \[0, 1\)"),
        ({"stride": 5}, r"stride 5 is outside 1..4"),
    ],
)
def test_refuses_options_out_of_range(options: dict, message: str, small: Callable) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)
