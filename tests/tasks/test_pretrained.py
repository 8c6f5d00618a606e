"""Published checkpoints and bare weights, opened without a configuration beside them."""

import json
from pathlib import Path

import pytest
import torch
from published import load, model_name, save_like_published, state_of
from safetensors.torch import save_file

from vim_train.config.commands import Weights
from vim_train.config.errors import UserError
from vim_train.models.published import tell
from vim_train.tasks.pretrained import open_pretrained

CPU = torch.device("cpu")
VIMS = ["mid_cls", "head_cls", "double_cls", "mean_pool", "max_pool_tokens", "overlap_stride4"]


def near(logits: torch.Tensor, golden: torch.Tensor) -> bool:
    return bool((logits - golden).abs().max() <= 2e-5 * golden.abs().max())


@pytest.mark.parametrize("name", VIMS)
def test_a_look_alike_of_a_published_file_gives_the_golden_logits(name: str, golden: Path, tmp_path: Path) -> None:
    tensors, metadata = load(golden, f"vim_{name}")
    state = state_of(tensors)
    halved = {key: tensor / 2 for key, tensor in state.items()}
    size = json.loads(metadata["config"])["img_size"]
    args = {"model": model_name(metadata["config"]), "input_size": size}
    for which, sets in {"model": (state, halved), "ema": (halved, state)}.items():
        path = save_like_published(tmp_path / f"{which}.pth", *sets, **args)
        found = open_pretrained(str(path))
        assert list(found.weights) == ["model", "ema"]
        assert found.notes == ["left aside: optimizer, lr_scheduler, epoch, scaler"]
        assert found.classes is None
        assert found.cfg.data.img_size == size
        model = found.build(which, 10, size, CPU)
        assert not model.training
        with torch.no_grad():
            assert near(model(tensors["input"]), tensors["logits"])
        only = open_pretrained(str(path), Weights(which))
        assert list(only.weights) == [which]


def test_it_is_carried_to_another_image_size(golden: Path, tmp_path: Path) -> None:
    tensors, metadata = load(golden, "pos_64to96_mid")
    path = save_like_published(
        tmp_path / "w.pth", state_of(tensors), model=model_name(metadata["config"]), input_size=64
    )
    with torch.no_grad():
        assert near(open_pretrained(str(path)).build("model", 10, 96, CPU)(tensors["input"]), tensors["logits_aligned"])


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".bin"])
def test_a_bare_state_dict_is_told_by_its_shapes(suffix: str, golden: Path, tmp_path: Path) -> None:
    tensors, _ = load(golden, "vim_mid_cls")
    path, state = tmp_path / f"weights{suffix}", state_of(tensors)
    prefixed = {f"module._orig_mod.{key}": tensor for key, tensor in state.items()}
    (save_file if suffix == ".safetensors" else torch.save)(prefixed, path)
    found = open_pretrained(str(path))
    assert found.notes == [
        "prefix module. taken off every name",
        "prefix _orig_mod. taken off every name",
        "class token taken to be in the middle: the weights do not tell it from one at the head",
        "image size taken to be 32: 4x4 patches of 8 pixels side by side",
        "divide_out taken to be true, as in the published weights since July 2024: the weights do not say",
    ]
    with torch.no_grad():
        assert near(found.build("model", 10, 32, CPU)(tensors["input"]), tensors["logits"])
    with pytest.raises(UserError, match=r"holds (no ema|the model) weights"):
        open_pretrained(str(path), Weights.ema)


def tiny(side: int = 14, classes: int = 1000) -> dict[str, torch.Tensor]:
    """Names and shapes of a published Vim, of one block."""
    mixer = {
        "in_proj.weight": (768, 192), "conv1d.weight": (384, 1, 4), "conv1d.bias": (384,), "x_proj.weight": (44, 384),
        "dt_proj.weight": (384, 12), "dt_proj.bias": (384,), "A_log": (384, 16), "D": (384,),
        "conv1d_b.weight": (384, 1, 4), "conv1d_b.bias": (384,), "x_proj_b.weight": (44, 384),
        "dt_proj_b.weight": (384, 12), "dt_proj_b.bias": (384,), "A_b_log": (384, 16), "D_b": (384,),
        "out_proj.weight": (192, 384),
    }  # fmt: skip
    shapes = {
        "cls_token": (1, 1, 192), "pos_embed": (1, side * side + 1, 192), "patch_embed.proj.weight": (192, 3, 16, 16),
        "patch_embed.proj.bias": (192,), "layers.0.norm.weight": (192,), "norm_f.weight": (192,),
        "head.weight": (classes, 192), "head.bias": (classes,),
        **{f"layers.0.mixer.{name}": shape for name, shape in mixer.items()},
    }  # fmt: skip
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


PUBLISHED = "vim_tiny_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok"


@pytest.mark.parametrize(("side", "stride"), [(14, 16), (27, 8)])
def test_the_stride_follows_from_the_position_rows(side: int, stride: int) -> None:
    told = tell(tiny(side), f"{PUBLISHED}_div2")
    assert (told.img_size, told.num_classes, told.notes) == (224, 1000, [])
    assert told.arguments == {
        "in_chans": 3, "patch_size": 16, "stride": stride, "embed_dim": 192, "depth": 1, "d_state": 16,
        "class_token": "middle", "divide_out": True,
    }  # fmt: skip
    assert told.certain == set(told.arguments) - {"stride"}


@pytest.mark.parametrize(
    ("args", "note"),
    [
        ({"input_size": "big"}, "args.input_size passed over: 'big' is no size"),
        ({"model": "resnet50"}, "args.model passed over: 'resnet50' names no published Vim"),
    ],
)
def test_what_a_file_says_of_itself_and_is_not_used_is_told(args: dict, note: str, tmp_path: Path) -> None:
    said = {"model": f"{PUBLISHED}_div2", "input_size": 224} | args
    assert note in open_pretrained(str(save_like_published(tmp_path / "odd.pth", tiny(), **said))).notes


def test_a_name_without_div2_does_not_halve(tmp_path: Path) -> None:
    found = open_pretrained(str(save_like_published(tmp_path / "old.pth", tiny(), model=PUBLISHED)))
    assert found.cfg.model.divide_out is False
    assert found.notes[1] == "trained without halving the sum of the two directions: divide_out=false"
    assert not found.build("model", 1000, 224, CPU).layers[0].mixer.divide_out


def test_a_published_head_has_imagenets_classes(tmp_path: Path) -> None:
    found = open_pretrained(str(save_like_published(tmp_path / "w.pth", tiny(), model=f"{PUBLISHED}_div2")))
    assert found.classes is not None
    assert (len(found.classes), found.classes[0]) == (1000, "n01440764")
    assert (found.cfg.data.crop_pct, found.cfg.data.mean[0], found.cfg.model.name) == (
        0.875,
        0.485,
        "vim_tiny_patch16_224",
    )


@pytest.mark.parametrize(
    ("change", "name", "reason"),
    [
        ({"rope.freqs_cos": torch.zeros(196, 64)}, None, r"has rotary position embeddings \(rope\.freqs_cos\)"),
        ({}, f"{PUBLISHED}_rope_also_residual", "has rotary position embeddings"),
        ({"layers.0.mixer.A_b_log": None}, None, "lacks layers.0.mixer.A_b_log; has cls_token, pos_embed, "),
        ({"pos_embed": torch.zeros(1, 200, 192)}, None, "199 position rows of patches are no square grid"),
        ({"pos_embed": None}, None, "has no position embedding"),
        ({"layers.0.mixer.conv1d.weight": torch.zeros(384, 1, 3)}, None, "its d_conv gives a width of 3"),
        ({"head.weight": None, "head.bias": None}, None, "has no head"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_reason(
    change: dict[str, torch.Tensor | None], name: str | None, reason: str, tmp_path: Path
) -> None:
    weights = {key: tensor for key, tensor in (tiny() | change).items() if tensor is not None}
    path = save_like_published(tmp_path / "w.pth", weights, model=name)
    with pytest.raises(UserError, match=rf"^{path}: .*{reason}"):
        open_pretrained(str(path))


def test_a_file_of_another_name_is_told_the_names(tmp_path: Path) -> None:
    (tmp_path / "weights.npz").touch()
    with pytest.raises(
        UserError, match=r"weights\.npz: expected a run, .* or a file named \.safetensors, \.pth, \.pt, "
    ):
        open_pretrained(str(tmp_path / "weights.npz"))


def test_arguments_of_the_file_are_plain_values_and_nothing_else(tmp_path: Path) -> None:
    args = {"model": ["vim"], "input_size": {"a": 1}, "__class__": "x", "update": 3}
    found = open_pretrained(str(save_like_published(tmp_path / "w.pth", tiny(), **args)))
    assert found.cfg.data.img_size == 224
    assert found.cfg.model.class_token is not None
