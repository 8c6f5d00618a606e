"""Optimisers by name, and which parameters they decay."""

import json
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import vim_train.models  # noqa: F401
from vim_train.config.errors import UserError
from vim_train.config.schema import OptimConfig
from vim_train.engine.optim import create_optimizer, head_parameters, set_lr


def decayed(model: nn.Module, optimizer: torch.optim.Optimizer) -> set[str]:
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)] for group in optimizer.param_groups if group["weight_decay"] > 0 for p in group["params"]}


@pytest.mark.parametrize(("table", "token"), [("mid", "middle"), ("double", "double")])
@pytest.mark.parametrize("decay_a_log", [True, False])
def test_weight_decay_groups_are_the_published_ones(golden: Path, table: str, token: str, decay_a_log: bool) -> None:
    expected = json.loads((golden / "weight_decay_groups.json").read_text())[table]
    model = timm.create_model(
        "vim_tiny_patch16_224", img_size=32, embed_dim=32, depth=1, num_classes=10, class_token=token
    )
    optimizer = create_optimizer(model, OptimConfig(decay_a_log=decay_a_log), lr=1e-3)
    a_log = {name for name in expected["decay"] if name.endswith(("A_log", "A_b_log"))}
    # The reverse direction's x_proj_b and so on follow their forward twins; the table lists every name of block 0.
    published = set(expected["decay"]) - (set() if decay_a_log else a_log)
    listed = set(expected["decay"]) | set(expected["no_decay"])
    assert decayed(model, optimizer) & listed == published
    assert {name for name, _ in model.named_parameters()} == listed


def test_unknown_optimiser_is_named_with_alternatives() -> None:
    with pytest.raises(UserError, match=r"optim.name=adamx: timm has no such optimiser; try one of .*adam"):
        create_optimizer(nn.Linear(2, 2), OptimConfig(name="adamx"), 0.1)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb", "lion", "adan", "muon", "adafactor"])
def test_timm_optimisers_are_created_and_step(name: str) -> None:
    model = nn.Linear(4, 4)
    betas = [0.9, 0.95, 0.99] if name == "adan" else [0.8, 0.95]
    optimizer = create_optimizer(model, OptimConfig(name=name, betas=betas), 1e-3)
    assert all(group.get("betas", tuple(betas)) == tuple(betas) for group in optimizer.param_groups)
    set_lr(optimizer, 1e-2)
    assert all(group["lr"] == 1e-2 for group in optimizer.param_groups)
    before = model.weight.detach().clone()
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(before, model.weight)


def test_as_many_betas_as_the_optimiser_takes() -> None:
    with pytest.raises(UserError, match=r"optim.betas=\[0.9, 0.999\]: optim.name=adan takes 3 numbers"):
        create_optimizer(nn.Linear(2, 2), OptimConfig(name="adan"), 0.1)


def rates(model: nn.Module, layer_decay: float | None) -> dict[str, float]:
    """The learning rate of every parameter by name, where the head's is 1."""
    optimizer = create_optimizer(model, OptimConfig(layer_decay=layer_decay), lr=1e-3)
    set_lr(optimizer, 1.0)
    by_id = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    return {name: by_id[id(p)] for name, p in model.named_parameters()}


def test_layer_decay_gives_every_block_a_rate_of_its_own() -> None:
    model = timm.create_model("vim_nano_patch7_28", depth=4, num_classes=3)
    layers = {"patch_embed": 0, "cls_token": 0, "pos_embed": 0, "norm_f": 4, "head": 5}
    for name, rate in rates(model, 0.5).items():
        first, _, rest = name.partition(".")
        layer = 1 + int(rest.partition(".")[0]) if first == "layers" else layers[first]
        assert rate == 0.5 ** (5 - layer), name
    assert set(rates(model, None).values()) == {1.0}


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "resnet10t"])
def test_layer_decay_knows_the_layers_of_timms_models(name: str) -> None:
    model = timm.create_model(name, num_classes=3)
    found = rates(model, 0.5)
    assert len(set(found.values())) > 4
    assert {found[name] for name, p in model.named_parameters() if any(p is h for h in head_parameters(model))} == {1.0}


def test_layer_decay_without_layers_is_refused() -> None:
    with pytest.raises(UserError, match=r"optim.layer_decay=0.7: takes null where all that trains is in one layer"):
        create_optimizer(nn.Linear(2, 2), OptimConfig(layer_decay=0.7), 0.1)
