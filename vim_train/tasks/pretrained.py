"""A trained model from a checkpoint, with what it was trained on: for all that judges images and trains nothing."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from vim_train.config.commands import Weights
from vim_train.config.compose import load_config
from vim_train.config.errors import UserError
from vim_train.config.evaluation import find_run
from vim_train.config.schema import TrainConfig
from vim_train.engine.checkpoint import NoEmaError, load_weights
from vim_train.engine.manifest import EMA
from vim_train.tasks.build import build_model
from vim_train.tasks.weights import fit_into


@dataclass(frozen=True)
class Pretrained:
    """Weights by name (`model`, `ema`), on the CPU, and the configuration of their run."""

    checkpoint: str
    """As it was given."""
    path: str
    """Where the weights lie."""
    step: int | None
    cfg: TrainConfig
    """Model and data as trained; the data may have moved since."""
    classes: list[str] | None
    """Names by label; None: not known."""
    weights: dict[str, dict[str, Tensor]]

    def build(self, which: str, num_classes: int, img_size: int, device: torch.device) -> nn.Module:
        """The model with the weights `which`, in evaluation mode; a Vim's position embedding is fitted to `img_size`.

        Raises:
            UserError: weights that do not fit the model.
        """
        cfg = replace(self.cfg, data=replace(self.cfg.data, img_size=img_size))
        model = build_model(cfg, num_classes)
        fit_into(model, self.weights[which], self.path)
        return model.to(device).eval()


def open_pretrained(checkpoint: str, wanted: Weights = Weights.both) -> Pretrained:
    """Read a run, a checkpoint directory, or a .safetensors file in one.

    Raises:
        UserError: no configuration above it, or no such weights in it.
        CheckpointError: missing or damaged.
    """
    saved = load_config(find_run(checkpoint))
    cfg = replace(saved, model=replace(saved.model, checkpoint=None))
    weights, meta = _read(Path(checkpoint), wanted)
    classes, step = meta.get("classes"), meta.get("step")
    return Pretrained(
        checkpoint,
        str(meta["path"]),
        step if isinstance(step, int) else None,
        cfg,
        [str(name) for name in classes] if isinstance(classes, list) else None,
        weights,
    )


def _read(path: Path, wanted: Weights) -> tuple[dict[str, dict[str, Tensor]], dict[str, object]]:
    if path.is_file():  # one file holds one set of weights
        held = Weights.ema if path.name == EMA else Weights.model
        if wanted not in (held, Weights.both):
            raise UserError(f"weights={wanted.value}: {path} holds the {held.value} weights")
        weights, meta = load_weights(path)
        return {held.value: weights}, meta
    found: dict[str, dict[str, Tensor]] = {}
    meta = {}
    if wanted is not Weights.ema:
        found[Weights.model.value], meta = load_weights(path, "model")
    if wanted is not Weights.model:
        try:
            found[Weights.ema.value], meta = load_weights(path, "ema")
        except NoEmaError:
            if wanted is Weights.ema:
                raise
    return found, meta
