"""What timm and its users expect of a model."""

import subprocess
import sys
from collections.abc import Callable

import pytest
import timm
import torch

import vim_train.models  # noqa: F401
from vim_train.models import Vim

TOKENS = ["middle", "head", "double", "none"]


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_neither_torch_nor_timm_and_registers_later() -> None:
    out = run_python(
        "import sys, vim_train, importlib.util\n"
        "assert not {'torch', 'timm', 'hydra', 'rich'} & set(sys.modules)\n"
        "assert importlib.util.find_spec('timm')\n"  # a mere question must not use the hook up
        "assert isinstance(vim_train.__version__, str)\n"
        "import timm.layers\n"
        "print(timm.is_model('vim_tiny_patch16_224'), type(timm.__loader__).__name__)\n"
        "assert not any(type(f).__module__ == 'vim_train._timm_hook' for f in sys.meta_path)"
    )
    assert out == "True SourceFileLoader"


def test_registers_at_once_where_timm_came_first() -> None:
    out = run_python("import timm, vim_train; print(timm.list_models('vim_*patch*'))")
    assert "vim_tiny_patch16_stride8_224" in out


def test_models_imported_before_timm_register_and_stand_alone() -> None:
    out = run_python(
        "from vim_train.models import Vim; import sys, timm\n"
        "print(timm.is_model('vim_base_patch16_224'))\n"
        "above = ('config', 'cli', 'tasks', 'engine', 'data', 'report')\n"
        "assert not [m for m in sys.modules if m.startswith(tuple(f'vim_train.{name}' for name in above))]"
    )
    assert out == "True"


def test_create_model_passes_overrides() -> None:
    model = timm.create_model(
        "vim_tiny_patch16_224", num_classes=7, in_chans=1, img_size=32, patch_size=8, drop_path_rate=0.2,
        embed_dim=32, depth=3, class_token="double",
    )  # fmt: skip
    assert isinstance(model, Vim)
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 7)
    assert model.drop_path_rates[-1] == 0.2
    assert model.get_classifier() is model.head
    assert model.pretrained_cfg["crop_pct"] == 0.875
    assert model.pretrained_cfg["interpolation"] == "bicubic"


def test_nano_variant_classifies_small_images() -> None:
    assert timm.create_model("vim_nano_patch7_28")(torch.randn(2, 3, 28, 28)).shape == (2, 10)


def test_loads_a_checkpoint_of_another_size_by_path(tmp_path, small: Callable) -> None:
    source = timm.create_model("vim_nano_patch7_28", depth=1)
    torch.save({"model": source.state_dict()}, tmp_path / "weights.pth")
    loaded = timm.create_model(
        "vim_nano_patch7_28", depth=1, img_size=42, pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "weights.pth")},
    )  # fmt: skip
    x = torch.randn(1, 3, 42, 42)
    torch.testing.assert_close(loaded(x), source(x))


@pytest.mark.parametrize("token", TOKENS)
def test_intermediates_have_the_grid_and_the_class_tokens(token: str, small: Callable) -> None:
    model = small(img_size=(8, 20), class_token=token, depth=3).eval()
    x = torch.randn(2, 3, 12, 20)
    final, maps = model.forward_intermediates(x)
    torch.testing.assert_close(final, model.forward_features(x))
    assert [tuple(m.shape) for m in maps] == [(2, 16, 3, 5)] * 3

    (last,) = model.forward_intermediates(x, indices=1, norm=True, output_fmt="NLC", intermediates_only=True)
    assert last.shape == (2, 15, 16)
    if token == "none":
        torch.testing.assert_close(last, final)
        return
    _, [(patches, classes)] = model.forward_intermediates(
        x, indices=[-1], norm=True, output_fmt="NLC", return_prefix_tokens=True
    )
    torch.testing.assert_close(patches, last)
    pooled = model.forward_head(final, pre_logits=True)
    torch.testing.assert_close(classes.mean(1), pooled)


def test_intermediate_maps_keep_rows_and_columns(small: Callable) -> None:
    model = small().eval()
    x = torch.randn(1, 3, 16, 16)
    _, (tokens,) = model.forward_intermediates(x, indices=[0], output_fmt="NLC")
    _, (grid,) = model.forward_intermediates(x, indices=[0])
    assert torch.equal(grid[0, :, 2, 3], tokens[0, 2 * 4 + 3])


def test_stopping_early_runs_no_further_block(small: Callable) -> None:
    model = small(depth=3).eval()
    x = torch.randn(1, 3, 16, 16)
    calls = []
    for i, block in enumerate(model.layers):
        block.register_forward_hook(lambda *_, i=i: calls.append(i))
    whole = model.forward_intermediates(x, indices=[0, 1], intermediates_only=True)
    early = model.forward_intermediates(x, indices=[0, 1], intermediates_only=True, stop_early=True)
    assert calls == [0, 1, 2, 0, 1]
    assert all(torch.equal(a, b) for a, b in zip(whole, early, strict=True))


def test_unknown_output_format_is_refused(small: Callable) -> None:
    with pytest.raises(ValueError, match="accepted are NCHW, NLC"):
        small().forward_intermediates(torch.randn(1, 3, 16, 16), output_fmt="NHWC")


def test_features_only_gives_feature_maps() -> None:
    model = timm.create_model("vim_nano_patch7_28", features_only=True, out_indices=(0, 2))
    maps = model(torch.randn(2, 3, 28, 28))
    assert [tuple(m.shape) for m in maps] == [(2, 96, 4, 4)] * 2
    assert model.feature_info.channels() == [96, 96]
    assert model.feature_info.reduction() == [7, 7]


def test_pruning_keeps_the_intermediates(small: Callable) -> None:
    model = small(depth=3).eval()
    x = torch.randn(1, 3, 16, 16)
    expected = model.forward_intermediates(x, indices=[1], intermediates_only=True)[0]
    assert model.prune_intermediate_layers([1], prune_norm=True) == [1]
    assert len(model.layers) == 2
    assert torch.equal(model.forward_intermediates(x, indices=[1], intermediates_only=True)[0], expected)
    assert model(x).shape == (1, 16)


def test_reset_classifier(small: Callable) -> None:
    model = small(class_token="none")
    model.reset_classifier(9, global_pool="last")
    assert (model.num_classes, model.pool) == (9, "last")
    assert model(torch.randn(2, 3, 16, 16)).shape == (2, 9)
    assert not model.head.bias.any()
    model.reset_classifier(0)
    features = model(torch.randn(2, 3, 16, 16))
    assert features.shape == (2, model.num_features)


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("pool", ["mean", "max", "last"])
def test_without_classes_the_forward_gives_pooled_features(token: str, pool: str, small: Callable) -> None:
    model = small(class_token=token, pool=pool, num_classes=0)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(model(x), model.forward_head(model.forward_features(x), pre_logits=True))
