"""Initial weights, sizes and weight-decay groups against the published trainer's tables."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.optim import create_optimizer_v2

import vim_train.models  # noqa: F401


@pytest.fixture(scope="module")
def tiny() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vim_tiny_patch16_224")


def test_initial_weights_follow_the_published_distributions(tiny: torch.nn.Module, golden: Path) -> None:
    table = json.loads((golden / "init_stats_tiny.json").read_text())
    state = tiny.state_dict()
    for name, published in table.items():
        if name.startswith("_"):
            continue
        tensor = state[name].double()
        assert list(tensor.shape) == published["shape"], name
        spread, count = published["std"], tensor.numel()
        # Both are samples: five standard errors of the difference of means, and of the spread (normal or narrower).
        assert abs(tensor.mean() - published["mean"]) <= 5 * spread * (2 / count) ** 0.5 + 1e-7, name
        assert abs(tensor.std(correction=0) - spread) <= 5 * spread / count**0.5 + 1e-7, name
        width = published["max"] - published["min"]
        assert abs(tensor.max() - published["max"]) <= 0.3 * width, name
        assert abs(tensor.min() - published["min"]) <= 0.3 * width, name


def test_bounded_draws_stay_in_their_bounds(tiny: torch.nn.Module) -> None:
    for layer in tiny.layers:
        mixer = layer.mixer
        assert mixer.dt_proj.weight.abs().max() <= 12**-0.5
        assert mixer.out_proj.weight.abs().max() <= 384**-0.5 / 24**0.5
        step = F.softplus(mixer.dt_proj.bias.double())
        assert step.min() >= 1e-3 * 0.999
        assert step.max() <= 1e-1 * 1.001


def test_reverse_step_starts_at_zero_bias_unless_asked(small: Callable) -> None:
    assert not small().layers[0].mixer.dt_proj_b.bias.any()
    step = F.softplus(small(init_reverse_dt_bias=True).layers[0].mixer.dt_proj_b.bias)
    assert ((step > 9.9e-4) & (step < 0.101)).all()


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
@pytest.mark.parametrize("stride", ["", "_stride8"])
def test_parameter_counts(size: str, stride: str, golden: Path) -> None:
    name = f"vim_{size}_patch16{stride}_224"
    with torch.device("meta"):
        model = timm.create_model(name)
    table = json.loads((golden / "param_counts.json").read_text())
    published = [counts for key, counts in table.items() if key.startswith(f"{name}_")]
    if not published:
        assert (size, stride) == ("base", "_stride8")
        assert model.pos_embed.shape == (1, 730, 768)
        return
    count = {
        "total": sum(p.numel() for p in model.parameters()),
        "per_block": sum(p.numel() for p in model.layers[0].parameters()),
        "pos_embed": list(model.pos_embed.shape),
        "buffers": len(list(model.buffers())),
        "head": sum(p.numel() for p in model.head.parameters()),
        "patch": sum(p.numel() for p in model.patch_embed.parameters()),
    }
    assert count == published[0]


def decayed(model: torch.nn.Module, **options: float) -> dict[str, bool]:
    """Parameter name -> whether the optimiser that timm makes decays it."""
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.1, **options)
    decay = {id(p): group["weight_decay"] > 0 for group in optimizer.param_groups for p in group["params"]}
    return {name: decay[id(p)] for name, p in model.named_parameters()}


@pytest.mark.parametrize(("case", "token"), [("mid", "middle"), ("double", "double")])
def test_weight_decay_groups(case: str, token: str, golden: Path, small: Callable) -> None:
    published = json.loads((golden / "weight_decay_groups.json").read_text())[case]
    expected = dict.fromkeys(published["decay"], True) | dict.fromkeys(published["no_decay"], False)
    assert decayed(small(class_token=token, depth=1)) == expected
    assert decayed(small(class_token=token, depth=1), layer_decay=0.75) == expected


def test_decay_a_log_switch_spares_the_state_matrices(small: Callable) -> None:
    spared = {name for name, decay in decayed(small()).items() if decay}
    spared -= {name for name, decay in decayed(small(decay_a_log=False)).items() if decay}
    assert spared == {f"layers.{i}.mixer.{a}" for i in (0, 1) for a in ("A_log", "A_b_log")}


def test_layer_wise_rates_rise_from_stem_to_head(small: Callable) -> None:
    model = small()
    optimizer = create_optimizer_v2(model, "adamw", lr=1.0, weight_decay=0.1, layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    rates = {name: scale[id(p)] for name, p in model.named_parameters()}
    assert rates["pos_embed"] == rates["cls_token"] == rates["patch_embed.proj.weight"] == 0.125
    assert rates["layers.0.mixer.D"] == 0.25
    assert rates["layers.1.mixer.D"] == rates["norm_f.weight"] == 0.5
    assert rates["head.weight"] == 1.0
