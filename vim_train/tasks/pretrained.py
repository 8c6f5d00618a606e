"""A trained model from a checkpoint, with what it was trained on: for all that judges images and trains nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from vim_train.config.commands import Weights
from vim_train.config.compose import load_config
from vim_train.config.errors import UserError
from vim_train.config.evaluation import find_run
from vim_train.config.references import TIMM
from vim_train.config.schema import (
    AugmentConfig,
    ClassToken,
    DataConfig,
    DataName,
    ModelConfig,
    Pool,
    RunConfig,
    TrainConfig,
)
from vim_train.data.sources.classes import imagenet_wnids
from vim_train.tasks.build import build_model
from vim_train.tasks.weight_files import WeightFile, read_weight_file
from vim_train.tasks.weights import fit_into, tell_model


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
    notes: list[str] = field(default_factory=list)
    """What the user should know of how they were read, and what was assumed."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the run's own evaluation at that step, such as eval/top1 and ema/top1; empty: not known."""

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
    """Read a checkpoint in any form that `read_weight_file` takes.

    The configuration is that of the run it lies in; else the model is told from the weights, and the rest are defaults
    (224 pixels where nothing says otherwise, ImageNet's mean, deviation and class names for 1,000 outputs).

    Raises:
        UserError: no such weights in it, or not a model that can be told.
        CheckpointError: missing or damaged.
    """
    found = read_weight_file(checkpoint, wanted)
    run = find_run(checkpoint)
    if run is None:
        cfg, classes, notes = _tell(found)
    else:
        saved = load_config(run)
        cfg, classes, notes = replace(saved, model=replace(saved.model, checkpoint=None)), None, []
    named, step, metrics = (found.meta.get(name) for name in ("classes", "step", "metrics"))
    return Pretrained(
        checkpoint,
        found.path,
        step if isinstance(step, int) else None,
        cfg,
        [str(name) for name in named] if isinstance(named, list) else classes,
        found.weights,
        found.notes + notes,
        metrics if isinstance(metrics, dict) else {},
    )


def _tell(found: WeightFile) -> tuple[TrainConfig, list[str] | None, list[str]]:
    """Configuration and classes of weights that belong to no run of ours, and what was assumed."""
    if found.timm is not None:
        model, data, num_classes = _of_timm(found.path, found.timm)
        how = found.timm["interpolation"]
        notes = (
            [] if how == "bicubic" else [f"timm evaluates it on images resized {how}, here they are resized bicubic"]
        )
        return _config(model, data), imagenet_classes(num_classes), notes
    try:
        told = tell_model(found)
    except ValueError as error:
        raise UserError(f"{found.path}: {error}") from error
    if told.num_classes == 0:
        raise UserError(f"{found.path}: has no head, so that there is nothing to evaluate")
    names = {384: "vim_small_patch16_224", 768: "vim_base_patch16_224"}
    name = names.get(int(told.arguments["embed_dim"]), "vim_tiny_patch16_224")
    model = ModelConfig(name=name, **told.arguments)  # type: ignore[arg-type]
    model.class_token = ClassToken(told.arguments["class_token"])
    model.pool = Pool(told.arguments["pool"]) if "pool" in told.arguments else None
    data = DataConfig(name=DataName.folder, img_size=told.img_size, **_preprocessing(found.meta.get("config")))
    if len(data.mean) != model.in_chans:
        data.mean, data.std = [sum(data.mean) / len(data.mean)], [sum(data.std) / len(data.std)]
    return _config(model, data), imagenet_classes(told.num_classes), told.notes


def _config(model: ModelConfig, data: DataConfig) -> TrainConfig:
    return TrainConfig(run=RunConfig(name="pretrained"), model=model, data=data, augment=AugmentConfig(name="none"))


def _preprocessing(identity: object) -> dict[str, Any]:
    """Of our own files: what images were turned into. Ranges are checked with the configuration."""
    said = identity if isinstance(identity, dict) else {}
    numbers = {key: said[key] for key in ("mean", "std") if _is_numbers(said.get(key))}
    crop = said.get("crop_pct")
    return numbers | ({"crop_pct": crop} if isinstance(crop, float) else {})


def _is_numbers(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(each, float) for each in value)


def _of_timm(checkpoint: str, told: Mapping[str, Any]) -> tuple[ModelConfig, DataConfig, int]:
    channels, height, width = told["input_size"]
    if height != width:
        raise UserError(f"{checkpoint}: takes images of {height} x {width} pixels, only square ones are evaluated")
    model = ModelConfig(name=checkpoint.removeprefix(TIMM).partition(".")[0], in_chans=channels)
    data = DataConfig(
        name=DataName.folder,
        img_size=height,
        mean=list(told["mean"]),
        std=list(told["std"]),
        crop_pct=float(told["crop_pct"]),
    )
    return model, data, int(told["num_classes"])


def imagenet_classes(num_classes: int) -> list[str] | None:
    """WordNet ids by label where there are 1,000 outputs."""
    return imagenet_wnids() if num_classes == 1000 else None
