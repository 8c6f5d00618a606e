"""Fine-tuning: what a model starts from, what is dropped, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from published import load, model_name, save_like_published, state_of
from safetensors.torch import save_file

from vim_train.config.compose import compose_config
from vim_train.config.errors import UserError
from vim_train.config.references import check_checkpoint
from vim_train.config.schema import ClassToken, ModelConfig, PosEmbed, WeightSet
from vim_train.models import Vim
from vim_train.tasks.build import build_model
from vim_train.tasks.pretrained import open_pretrained
from vim_train.tasks.run import _identity
from vim_train.tasks.weights import start_from


def vim(**options: object) -> Vim:
    """Of the golden models' shapes."""
    defaults = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_classes": 10}
    return Vim(**{**defaults, **options})  # type: ignore[arg-type]


@pytest.fixture
def write(golden: Path, tmp_path: Path) -> Callable[..., ModelConfig]:
    """`model` of a run that starts from a look-alike of a published file; `change` gives or takes (None) weights."""

    def write(change: dict[str, torch.Tensor | None] | None = None, case: str = "vim_mid_cls", **keys: object):
        tensors, metadata = load(golden, case)
        state = {name: t for name, t in (state_of(tensors) | (change or {})).items() if t is not None}
        args = {"model": keys.pop("name", model_name(metadata["config"]))}
        path = save_like_published(tmp_path / "w.pth", state, keys.pop("ema", None), **args)
        return ModelConfig("vim", checkpoint=str(path), **keys)

    return write


@pytest.mark.parametrize("token", ["mid", "head"])
@pytest.mark.parametrize(("mode", "suffix"), [("aligned", "aligned"), ("published", "upstream")])
def test_position_embeddings_are_carried_as_asked(
    token: str, mode: str, suffix: str, golden: Path, write: Callable
) -> None:
    tensors, _ = load(golden, f"pos_64to96_{token}")
    class_token = {"mid": "middle", "head": "head"}[token]
    model = vim(img_size=96, patch_size=16, class_token=class_token)
    notes = start_from(model, write(case=f"pos_64to96_{token}", pos_embed=PosEmbed(mode)))
    assert notes[-1] == f"position embedding carried from 17 to 37 rows ({mode})"
    torch.testing.assert_close(model.pos_embed, tensors[f"pos_embed_{suffix}"], rtol=0, atol=1e-6)
    with torch.no_grad():
        logits, golden_logits = model(tensors["input"]), tensors[f"logits_{suffix}"]
    assert (logits - golden_logits).abs().max() <= 2e-5 * golden_logits.abs().max()


def test_the_head_of_other_classes_is_made_anew_and_said(write: Callable) -> None:
    model = vim(num_classes=7)
    own = model.head.weight.clone()
    notes = start_from(model, write())
    assert notes[1:] == [
        "left aside: optimizer, lr_scheduler, epoch, scaler",
        "head made anew, head.weight (7, 32), head.bias (7,); dropped: head.weight (10, 32), head.bias (10,)",
    ]
    assert torch.equal(model.head.weight.flatten().sort()[0], own.flatten().sort()[0])
    notes = start_from(vim(), write({"head.weight": None, "head.bias": None}))
    assert notes[-1].endswith("dropped: nothing, the checkpoint has none")


def test_the_set_of_weights_is_chosen(write: Callable, golden: Path, tmp_path: Path) -> None:
    tensors, _ = load(golden, "vim_mid_cls")
    doubled = {name: 2 * tensor for name, tensor in state_of(tensors).items()}
    model = vim()
    notes = start_from(model, write(ema=doubled, checkpoint_weights=WeightSet.ema))
    assert notes[0] == f"starts from the ema weights of {tmp_path / 'w.pth'}"
    assert torch.equal(model.head.weight, doubled["head.weight"])
    torch.save({"model": doubled}, tmp_path / "alone.pth")
    alone = ModelConfig("vim", checkpoint=str(tmp_path / "alone.pth"), checkpoint_weights=WeightSet.ema)
    with pytest.raises(UserError, match=r"holds no ema weights, only model$"):
        start_from(model, alone)


def test_unknown_and_missing_weights_are_all_listed(write: Callable) -> None:
    extra = {f"extra.{i}": torch.zeros(2) for i in range(5)}
    with pytest.raises(UserError) as raised:
        start_from(vim(), write({**extra, "layers.0.mixer.D_b": None}))
    assert "1 missing (layers.0.mixer.D_b); 5 unknown to the model (extra.0, extra.1, extra.2 and 2 more)" in str(
        raised.value
    )
    assert raised.value.table == [
        "missing: layers.0.mixer.D_b", *(f"unknown to the model: extra.{i}" for i in range(5))
    ]  # fmt: skip
    with pytest.raises(UserError, match="of another model"):  # a new head hides nothing
        start_from(vim(num_classes=3), write(extra))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"class_token": "head"},
            "was trained with class_token=middle, the model has head; give model.class_token=middle",
        ),
        ({"divide_out": False}, "was trained with divide_out=true, the model has false; give model.divide_out=true"),
    ],
)
def test_options_that_shapes_do_not_show_have_to_agree(options: dict, line: str, write: Callable) -> None:
    with pytest.raises(UserError, match=rf"w\.pth: {line}$"):
        start_from(vim(**options), write())
    start_from(vim(**options), write(name="unknown"))  # nothing says what it was


def test_rotary_embeddings_are_refused_with_the_reason(write: Callable) -> None:
    with pytest.raises(UserError, match=r"rotary position embeddings \(rope\.freqs_cos\)"):
        start_from(vim(), write({"rope.freqs_cos": torch.zeros(4)}))


def test_another_kind_of_model_is_told_by_what_differs(write: Callable) -> None:
    model = timm.create_model("deit_tiny_patch16_224", depth=1, img_size=32)
    with pytest.raises(UserError, match=r"is of another model: .* missing \(blocks\.0\."):
        start_from(model, write())


def test_our_own_file_found_alone_says_how_it_was_trained(tmp_path: Path) -> None:
    cfg, _ = compose_config(["model.class_token=head", "model.divide_out=false", "model.depth=1"])
    meta = {"config": _identity(cfg), "classes": list("abcdefghij"), "step": 7}
    save_file(build_model(cfg, 10).state_dict(), tmp_path / "model.safetensors", {"vim_train": json.dumps(meta)})
    found = open_pretrained(str(tmp_path / "model.safetensors"))
    assert found.notes == ["trained without halving the sum of the two directions: divide_out=false"]
    assert (found.step, found.classes) == (7, list("abcdefghij"))
    assert (found.cfg.model.class_token, found.cfg.model.divide_out) == (ClassToken.head, False)
    assert (found.cfg.data.img_size, found.cfg.data.mean) == (28, cfg.data.mean)
    assert (found.cfg.model.patch_size, found.cfg.model.stride, found.cfg.data.crop_pct) == (7, 7, 1.0)


def test_names_of_elsewhere_are_no_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cfg, _ = compose_config(["model.checkpoint=hf:me/vim@main:a.pth"])  # as typed, without quotes
    assert cfg.model.checkpoint == "hf:me/vim@main:a.pth"
    for name in ("hf:vim_tiny", "timm:deit_tiny_patch16_224.fb_in1k"):
        check_checkpoint("checkpoint", name)
    with pytest.raises(UserError, match=r"no such file or folder; the published weights are hf:vim_tiny$"):
        check_checkpoint("checkpoint", "vim_tiny")
    with pytest.raises(UserError, match=r"^checkpoint=timm:a/b: takes timm:NAME or timm:NAME\.TAG$"):
        check_checkpoint("checkpoint", "timm:a/b")
