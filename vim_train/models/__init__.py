"""Vision Mamba as plain modules; importing this registers the named variants with timm."""

from vim_train.models import variants
from vim_train.models.checkpoints import checkpoint_filter_fn
from vim_train.models.mixer import BiMamba
from vim_train.models.tokens import resize_pos_embed
from vim_train.models.vim import Vim

__all__ = ["BiMamba", "Vim", "checkpoint_filter_fn", "resize_pos_embed", "variants"]
