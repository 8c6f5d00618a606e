"""Vision Mamba (arXiv:2401.09417)."""

import math
from typing import Any, Literal

import torch
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vim_train.models.block import Add, AddRmsNorm, Block
from vim_train.models.mixer import BiMamba
from vim_train.models.patch_embed import PatchEmbed
from vim_train.models.stochastic_depth import draw_noise, drop, drop_rates, keep_scales
from vim_train.models.tokens import (
    NUM_CLASS_TOKENS,
    class_tokens_of,
    insert_class_tokens,
    patch_tokens_of,
    resize_pos_embed,
)

ClassToken = Literal["middle", "head", "double", "none"]
Pool = Literal["mean", "max", "last"]


class Vim(nn.Module):
    """Vision Mamba: patches, class token, position embedding, bidirectional Mamba blocks, linear head.

    State-dict names are those of the published checkpoints. Images of another size than `img_size` are accepted by
    every forward: the position embedding is interpolated to their grid.

    Args:
        img_size: side, or (height, width), that the position embedding is built for, pixels.
        patch_size: side of a patch, pixels.
        stride: distance between patches, pixels; None: patch_size. Patches overlap where it is smaller.
        in_chans: channels of the image.
        num_classes: outputs of the head; 0: no head, the forward returns pooled features.
        embed_dim: width D of a token.
        depth: number of blocks.
        d_state: states N per channel of the scan.
        class_token: in the middle of the patch tokens, at the head, at both ends (outputs averaged), or none.
        pool: without a class token, how tokens become features: their mean, the last one, or the maximum over
            tokens of the head's output.
        divide_out: halve the sum of the two directions (see `BiMamba`).
        drop_rate: dropout on the features ahead of the head.
        drop_path_rate: stochastic depth of the last addition; earlier ones rise to it linearly.
        init_reverse_dt_bias: see `BiMamba`.
        decay_a_log: whether weight decay reaches A_log and A_b_log (the published runs decay them).
        d_conv: width of the mixer's depthwise convolutions.
        expand: channels of the mixer as a multiple of D.
        dt_rank: rank of the step size's projection; None: ceil(D / 16).
        recompute_states: keep no scan states for backward (see `BiMamba`).

    Raises:
        ValueError: an argument out of range, or an image whose sides the patches do not cover exactly.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        stride: int | None = None,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 192,
        depth: int = 24,
        d_state: int = 16,
        class_token: ClassToken = "middle",
        pool: Pool = "mean",
        divide_out: bool = True,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        init_reverse_dt_bias: bool = False,
        decay_a_log: bool = True,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        recompute_states: bool = False,
    ) -> None:
        super().__init__()
        if class_token not in NUM_CLASS_TOKENS:
            raise ValueError(f"class_token '{class_token}': accepted are middle, head, double, none")
        _check_pool(pool)
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = self.embed_dim = embed_dim
        self.class_token, self.pool, self.divide_out = class_token, pool, divide_out
        self.decay_a_log = decay_a_log
        self.drop_path_rates = drop_rates(drop_path_rate, depth)
        self.grad_checkpointing = False

        sides = (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[1])
        stride = patch_size if stride is None else stride
        self.patch_embed = PatchEmbed(sides, patch_size, stride, in_chans, embed_dim)
        for name in self._class_token_names():
            self.register_parameter(name, nn.Parameter(torch.empty(1, 1, embed_dim)))
        rows = self.patch_embed.num_patches + NUM_CLASS_TOKENS[class_token]
        self.pos_embed = nn.Parameter(torch.empty(1, rows, embed_dim))
        mixer = (embed_dim, d_state, d_conv, expand, dt_rank, divide_out, init_reverse_dt_bias, depth, recompute_states)
        self.layers = nn.ModuleList(Block(embed_dim, BiMamba(*mixer)) for _ in range(depth))
        self.norm_f: nn.Module = AddRmsNorm(embed_dim)
        self.head_drop = nn.Dropout(drop_rate)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes > 0 else nn.Identity()
        self.feature_info = [{"module": f"layers.{i}", "num_chs": embed_dim, "reduction": stride} for i in range(depth)]
        self._init_weights()

    @torch.no_grad()
    def _init_weights(self) -> None:
        conv = self.patch_embed.proj
        # The published code draws LeCun's truncated normal but cuts it at +-2 instead of two standard deviations, so
        # the width that was to make up for the cut stays: 0.041 for patches of 16 pixels in RGB.
        nn.init.normal_(conv.weight, std=math.sqrt(1 / conv.weight[0].numel()) / 0.87962566103423978)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        for name in (*self._class_token_names(), "pos_embed"):
            nn.init.trunc_normal_(self.get_parameter(name), std=0.02)
        self._init_head()

    def _init_head(self) -> None:
        if isinstance(self.head, nn.Linear):
            nn.init.trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def _class_token_names(self) -> tuple[str, ...]:
        if self.class_token == "none":
            return ()
        return ("cls_token_head", "cls_token_tail") if self.class_token == "double" else ("cls_token",)

    # What trainers ask of a timm model

    @property
    def num_drop_paths(self) -> int:
        """Columns of `drop_path_noise`: depth + 1."""
        return len(self.drop_path_rates)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters of more than one dimension that weight decay must not reach (one-dimensional: none)."""
        names = {"pos_embed", *self._class_token_names()}
        if not self.decay_a_log:
            names |= {name for name, _ in self.named_parameters() if name.endswith((".A_log", ".A_b_log"))}
        return names

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that sort parameters into stem and blocks, as timm's layer-wise rates expect them."""
        return {
            "stem": r"^cls_token|^pos_embed|^patch_embed",
            "blocks": r"^layers\.(\d+)" if coarse else [(r"^layers\.(\d+)", None), (r"^norm_f", (99999,))],
        }

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the blocks' inputs for backward and compute their insides again: same gradients, less memory."""
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """The head: a linear layer, or identity without classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: Pool | None = None) -> None:
        """Puts a new head in place, on the old weights' device and in their dtype; `global_pool` also sets the pool."""
        if global_pool:
            _check_pool(global_pool)
            self.pool = global_pool
        self.num_classes = num_classes
        self.head = nn.Linear(self.embed_dim, num_classes) if num_classes > 0 else nn.Identity()
        self.head.to(device=self.pos_embed.device, dtype=self.pos_embed.dtype)
        self._init_head()

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes what the intermediates at `indices` do not need; returns the indices counted from the front."""
        take, last = feature_take_indices(len(self.layers), indices)
        self.layers = self.layers[: last + 1]
        if prune_norm:
            self.norm_f = Add()
        if prune_head:
            self.reset_classifier(0)
        return take

    # Forward

    def forward(self, x: Tensor, drop_path_noise: Tensor | None = None) -> Tensor:
        """Images (B, in_chans, H, W) -> logits (B, num_classes).

        Args:
            drop_path_noise: (B, num_drop_paths) uniform in [0, 1), deciding stochastic depth in training (see
                `keep_scales`); None: drawn from torch's generator. Ignored in evaluation.
        """
        return self.forward_head(self.forward_features(x, drop_path_noise))

    def forward_features(self, x: Tensor, drop_path_noise: Tensor | None = None) -> Tensor:
        """Images (B, in_chans, H, W) -> normalised tokens (B, M + n, D), class tokens in their places."""
        hidden = self._embed(x)
        keeps = self._keeps(hidden, drop_path_noise)
        residual = None
        for block, keep in zip(self.layers, keeps, strict=False):
            hidden, residual = self._run(block, hidden, residual, keep)
        normed: Tensor = self.norm_f(drop(hidden, keeps[len(self.layers)]), residual)[0]
        return normed

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens (B, M + n, D) -> logits (B, num_classes); `pre_logits`: pooled features (B, D) instead.

        With a class token that is its row (`double`: the mean of both). The `max` pool takes the maximum over tokens
        after the head, so that there the head of the pooled features is not the logits.
        """
        pool_after_head = self.class_token == "none" and self.pool == "max"
        if self.class_token != "none":
            x = class_tokens_of(x, self.class_token).mean(dim=1)
        elif not pool_after_head:
            x = x[:, -1] if self.pool == "last" else x.mean(dim=1)
        x = self.head_drop(x)
        x = x if pre_logits else self.head(x)
        return x.amax(dim=1) if pool_after_head else x

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        drop_path_noise: Tensor | None = None,
    ) -> list[Any] | tuple[Tensor, list[Any]]:
        """The residual stream after chosen blocks, class tokens taken out.

        Args:
            x: images (B, in_chans, H, W).
            indices: blocks to take: the last n for an integer, all for None.
            return_prefix_tokens: pair every intermediate with its class tokens (B, n, D), where the model has some.
            norm: apply the final norm to every intermediate.
            stop_early: leave out the blocks after the last one taken.
            output_fmt: NCHW (B, D, rows, columns) or NLC (B, M, D).
            intermediates_only: do not return the final tokens.
            drop_path_noise: as in `forward`.

        Returns:
            (tokens as `forward_features` gives them, intermediates), or the intermediates alone.

        Raises:
            ValueError: unknown `output_fmt`.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"output_fmt '{output_fmt}': accepted are NCHW, NLC")
        take, last = feature_take_indices(len(self.layers), indices)
        grid = self.patch_embed.grid(*x.shape[-2:])
        hidden = self._embed(x)
        keeps = self._keeps(hidden, drop_path_noise)
        blocks = self.layers[: last + 1] if stop_early else self.layers
        residual, taken = None, []
        for i, block in enumerate(blocks):
            hidden, residual = self._run(block, hidden, residual, keeps[i])
            if i in take:
                # The stream with this block's output, as the next entry adds it.
                output = drop(hidden, keeps[i + 1])
                taken.append(self.norm_f(output, residual)[0] if norm else residual + output)

        patches = [patch_tokens_of(tokens, self.class_token) for tokens in taken]
        if output_fmt == "NCHW":
            patches = [tokens.transpose(1, 2).reshape(len(x), -1, *grid).contiguous() for tokens in patches]
        intermediates: list[Any] = patches
        if return_prefix_tokens and self.class_token != "none":
            classes = [class_tokens_of(tokens, self.class_token) for tokens in taken]
            intermediates = list(zip(patches, classes, strict=True))
        if intermediates_only:
            return intermediates
        normed: Tensor = self.norm_f(drop(hidden, keeps[len(blocks)]), residual)[0]
        return normed, intermediates

    def _embed(self, x: Tensor) -> Tensor:
        grid = self.patch_embed.grid(*x.shape[-2:])
        tokens: Tensor = self.patch_embed(x)
        if self.class_token != "none":
            classes = torch.cat([self.get_parameter(name) for name in self._class_token_names()], dim=1)
            tokens = insert_class_tokens(tokens, classes.expand(len(x), -1, -1), self.class_token)
        return tokens + resize_pos_embed(self.pos_embed, self.class_token, self.patch_embed.grid_size, grid)

    def _keeps(self, hidden: Tensor, noise: Tensor | None) -> list[Tensor | None]:
        if not self.training or not any(self.drop_path_rates):
            return [None] * self.num_drop_paths
        noise = draw_noise(len(hidden), self.drop_path_rates, hidden.device) if noise is None else noise
        return keep_scales(noise, self.drop_path_rates)

    def _run(
        self, block: nn.Module, hidden: Tensor, residual: Tensor | None, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        state: tuple[Tensor, Tensor]
        if self.grad_checkpointing and self.training:
            # No draw happens inside a block, so that there is no generator state to keep.
            state = checkpoint(block, hidden, residual, keep, use_reentrant=False, preserve_rng_state=False)
        else:
            state = block(hidden, residual, keep)
        return state


def _check_pool(pool: str) -> None:
    if pool not in ("mean", "max", "last"):
        raise ValueError(f"pool '{pool}': accepted are mean, max, last")
