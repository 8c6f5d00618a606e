"""What a Vim's weights tell of the model they belong to.

Published state dicts carry no configuration. Widths and depth follow from shapes, most of the rest from the name under
which the published code created the model (`args.model`), such as
``vim_tiny_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2``; what neither says is assumed.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from vim_train.models.tokens import NUM_CLASS_TOKENS

ASSUMED_SIZE = 224
_D_CONV, _EXPAND, _CHANNELS_PER_RANK = 4, 2, 16


@dataclass(frozen=True)
class Told:
    """Arguments of the `Vim` that weights belong to."""

    img_size: int
    num_classes: int
    """0: no head."""
    arguments: dict[str, int | str | bool]
    """The others that the configuration has as keys of `model`."""
    certain: frozenset[str]
    """Those arguments that the weights or the name say; the others are assumed."""
    notes: list[str]
    """What was assumed, in words."""


def refuse_rope(names: Iterable[str]) -> None:
    """Raises ValueError: weights of the published code's variant with rotary position embeddings."""
    rope = [name for name in names if "rope" in name.lower()]
    if rope:
        raise ValueError(
            f"has rotary position embeddings ({', '.join(rope[:2])}), which no published result uses and this model"
            " does not have"
        )


_TELLING = ("patch_embed.proj.weight", "layers.0.mixer.A_log", "layers.0.mixer.A_b_log")


def is_vim(names: Iterable[str]) -> bool:
    return set(_TELLING) <= set(names)


def tell(
    weights: Mapping[str, Tensor],
    name: str | None = None,
    img_size: int | None = None,
    known: Mapping[str, object] | None = None,
) -> Told:
    """The model that `weights` belong to.

    Args:
        name: of the model in the published code, where known.
        img_size: side of its images in pixels, where known.
        known: `class_token`, `divide_out` and `pool`, where known; else from the name.

    Raises:
        ValueError: not a Vim's, or of one that cannot be built here.
    """
    refuse_rope([*weights, name or ""])
    if not is_vim(weights):
        lacks = ", ".join(name for name in _TELLING if name not in weights)
        has = ", ".join(list(weights)[:3])
        raise ValueError(f"not a Vim's weights, or not all of them: lacks {lacks}; has {has}, …")
    proj = weights["patch_embed.proj.weight"]
    embed_dim, in_chans, patch_size = proj.shape[:3]
    depth = 1 + max(int(match[1]) for match in (re.match(r"layers\.(\d+)\.", key) for key in weights) if match)
    _check_widths(weights, embed_dim)
    if "pos_embed" not in weights:
        raise ValueError("has no position embedding (pos_embed), without which no Vim is built here")
    notes: list[str] = []
    if known is None:
        known = _read_name(name)
        if name is not None and not known:
            notes.append(f"args.model passed over: {name[:40]!r} names no published Vim")
    certain = {"patch_size", "in_chans", "embed_dim", "depth", "d_state"}
    token = _class_token(weights, known, certain, notes)
    rows = weights["pos_embed"].shape[1] - NUM_CLASS_TOKENS[token]
    side, stride = _grid(rows, patch_size, img_size, notes)
    arguments: dict[str, int | str | bool] = {
        "in_chans": in_chans,
        "patch_size": patch_size,
        "stride": stride,
        "embed_dim": embed_dim,
        "depth": depth,
        "d_state": weights["layers.0.mixer.A_log"].shape[1],
        "class_token": token,
        "divide_out": _divide_out(known, certain, notes),
    }
    if token == "none":
        arguments["pool"] = _pool(known, certain, notes)
    classes = weights["head.weight"].shape[0] if "head.weight" in weights else 0
    return Told(side, classes, arguments, frozenset(certain), notes)


def _check_widths(weights: Mapping[str, Tensor], embed_dim: int) -> None:
    """Widths that no key of the configuration changes."""
    mixer = "layers.0.mixer."
    widths = {
        "expand": (weights[f"{mixer}A_log"].shape[0], _EXPAND * embed_dim),
        "d_conv": (weights[f"{mixer}conv1d.weight"].shape[-1], _D_CONV),
        "dt_rank": (weights[f"{mixer}dt_proj.weight"].shape[1], math.ceil(embed_dim / _CHANNELS_PER_RANK)),
    }
    for what, (found, expected) in widths.items():
        if found != expected:
            raise ValueError(f"its {what} gives a width of {found}, a Vim of {embed_dim} channels has {expected} here")


def _read_name(name: str | None) -> dict[str, object]:
    """What a model's name in the published code says; nothing where it is no such name."""
    if name is None or "bimamba" not in name:
        return {}
    said: dict[str, object] = {"class_token": "middle" if "midclstok" in name else "head", "divide_out": "div2" in name}
    if match := re.search(r"final_pool_(mean|max|last)", name):
        said["pool"] = match[1]
    return said


def _class_token(
    weights: Mapping[str, Tensor], known: Mapping[str, object], certain: set[str], notes: list[str]
) -> str:
    certain.add("class_token")
    if "cls_token_head" in weights:
        return "double"
    if "cls_token" not in weights:
        return "none"
    if known.get("class_token") in ("middle", "head"):
        return str(known["class_token"])
    certain.remove("class_token")
    notes.append("class token taken to be in the middle: the weights do not tell it from one at the head")
    return "middle"


def _divide_out(known: Mapping[str, object], certain: set[str], notes: list[str]) -> bool:
    if not isinstance(known.get("divide_out"), bool):
        notes.append("divide_out taken to be true, as in the published weights since July 2024: the weights do not say")
        return True
    certain.add("divide_out")
    if not known["divide_out"]:
        notes.append("trained without halving the sum of the two directions: divide_out=false")
    return bool(known["divide_out"])


def _pool(known: Mapping[str, object], certain: set[str], notes: list[str]) -> str:
    if known.get("pool") in ("mean", "max", "last"):
        certain.add("pool")
        return str(known["pool"])
    notes.append("pool taken to be mean: the weights do not say")
    return "mean"


def _grid(rows: int, patch: int, img_size: int | None, notes: list[str]) -> tuple[int, int]:
    """(image size, stride) of a square grid of `rows` patches."""
    side = math.isqrt(rows) if rows > 0 else 0
    if side == 0 or side * side != rows:
        raise ValueError(f"its {rows} position rows of patches are no square grid")
    size = ASSUMED_SIZE if img_size is None else img_size
    stride, rest = divmod(size - patch, side - 1) if side > 1 else (patch, size - patch)
    if rest == 0 and 1 <= stride <= patch:
        return size, stride
    if img_size is not None:
        raise ValueError(f"its {side}x{side} patches of {patch} pixels do not cover images of {img_size} pixels")
    notes.append(f"image size taken to be {side * patch}: {side}x{side} patches of {patch} pixels side by side")
    return side * patch, patch
