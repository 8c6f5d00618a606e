"""Named models, created by `timm.create_model` once `vim_train` is imported."""

from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn

from vim_train.models.checkpoints import checkpoint_filter_fn
from vim_train.models.vim import Vim


def _cfg(**changes: Any) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        "license": "apache-2.0",
        **changes,
    }


default_cfgs = generate_default_cfgs(
    {
        "vim_nano_patch7_28": _cfg(num_classes=10, input_size=(3, 28, 28), crop_pct=1.0),
        "vim_tiny_patch16_224": _cfg(),
        "vim_tiny_patch16_stride8_224": _cfg(),
        "vim_small_patch16_224": _cfg(),
        "vim_small_patch16_stride8_224": _cfg(),
        "vim_base_patch16_224": _cfg(),
        "vim_base_patch16_stride8_224": _cfg(),
    }
)


def _create(variant: str, pretrained: bool, kwargs: dict[str, Any], **defaults: Any) -> Vim | nn.Module:
    """`kwargs` of the caller win over the variant's `defaults`. With features_only: a module returning feature maps."""
    feature_cfg = {"out_indices": kwargs.pop("out_indices", 3), "feature_cls": "getter"}
    return build_model_with_cfg(
        Vim,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=feature_cfg,
        **{**defaults, **kwargs},
    )


@register_model
def vim_nano_patch7_28(pretrained: bool = False, **kwargs: Any) -> Vim | nn.Module:
    """For small images on a laptop: 28 pixels a side, 16 patches of 7 pixels."""
    return _create("vim_nano_patch7_28", pretrained, kwargs, img_size=28, patch_size=7, embed_dim=96, depth=4)


@register_model
def vim_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> Vim | nn.Module:
    """Vim-Ti, 7.1 M parameters; 76.1 % top-1 in the paper."""
    return _create("vim_tiny_patch16_224", pretrained, kwargs, embed_dim=192)


@register_model
def vim_tiny_patch16_stride8_224(pretrained: bool = False, **kwargs: Any) -> Vim | nn.Module:
    """Vim-Ti with overlapping patches, for fine-tuning; 78.3 % top-1 in the paper."""
    return _create("vim_tiny_patch16_stride8_224", pretrained, kwargs, embed_dim=192, stride=8)


@register_model
def vim_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> Vim | nn.Module:
    """Vim-S, 25.8 M parameters; 80.3 % top-1 in the paper."""
    return _create("vim_small_patch16_224", pretrained, kwargs, embed_dim=384)


@register_model
def vim_small_patch16_stride8_224(pretrained: bool = False, **kwargs: Any) -> Vim | nn.Module:
    """Vim-S with overlapping patches, for fine-tuning; 81.4 % top-1 in the paper."""
    return _create("vim_small_patch16_stride8_224", pretrained, kwargs, embed_dim=384, stride=8)


@register_model
def vim_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> Vim | nn.Module:
    """Vim-B, 97.6 M parameters; 81.9 % top-1 published with the code."""
    return _create("vim_base_patch16_224", pretrained, kwargs, embed_dim=768)


@register_model
def vim_base_patch16_stride8_224(pretrained: bool = False, **kwargs: Any) -> Vim | nn.Module:
    """Vim-B with overlapping patches, for fine-tuning."""
    return _create("vim_base_patch16_stride8_224", pretrained, kwargs, embed_dim=768, stride=8)
