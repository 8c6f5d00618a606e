"""Distillation: a frozen teacher's logits beside the labels (Hinton et al. 2015; DeiT, arXiv:2012.12877, section 4)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vim_train.config.commands import Weights
from vim_train.config.errors import UserError
from vim_train.config.schema import DataConfig, Distill, ModelConfig, TrainConfig
from vim_train.data.sources.classes import difference, imagenet_wnids, is_imagenet_1k
from vim_train.engine.checkpoint import CheckpointError
from vim_train.engine.weights import digest_of
from vim_train.tasks.build import build_model, check_sizes
from vim_train.tasks.pretrained import open_pretrained
from vim_train.tasks.weights import load_into


@dataclass(frozen=True)
class Teacher:
    """A model in evaluation mode that trains another one, and how."""

    cfg: TrainConfig
    """Of the student."""
    model: nn.Module
    digest: str
    """Of its weights as they were saved."""
    scale: Tensor
    """(C, 1, 1): with `shift`, from images as the student has them to the teacher's mean and std."""
    shift: Tensor

    def loss(self, loss: Tensor, logits: Tensor, images: Tensor) -> Tensor:
        """The student's mean `loss` and, in its place as far as `distill_alpha` says, that against the teacher.

        Args:
            logits: (B, classes) of the student.
            images: (B, C, H, W) that it saw.
        """
        task = self.cfg.task
        with torch.no_grad():
            taught = self.model(images * self.scale + self.shift).float()
        if task.distill is Distill.hard:
            against = F.cross_entropy(logits, taught.argmax(1))
        else:
            student, teacher = ((each / task.distill_tau).log_softmax(1) for each in (logits, taught))
            divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
            against = task.distill_tau**2 * divergence
        return (1 - task.distill_alpha) * loss + task.distill_alpha * against


def open_teacher(cfg: TrainConfig, classes: Sequence[str], device: torch.device) -> Teacher | None:
    """The teacher that `cfg` names, for data of these classes; None where it names none.

    Raises:
        UserError: no such model or weights, or they are not for these classes, channels or image sizes.
    """
    if cfg.task.distill is Distill.none:
        return None
    name = str(cfg.task.teacher)
    model, digest, images = _of_timm(cfg, name, classes) if timm.is_model(name) else _of_run(cfg, name, classes)
    model = model.requires_grad_(False).to(device).eval()
    check_sizes(cfg, model, f"task.teacher={name}")
    own, theirs = (torch.tensor(each, device=device)[..., None, None] for each in (_normalised(cfg.data), images))
    return Teacher(cfg, model, digest, own[1] / theirs[1], (own[0] - theirs[0]) / theirs[1])


_Opened = tuple[nn.Module, str, list[list[float]]]
"""Model, digest of its weights, and mean and std by which its images are normalised."""


def _normalised(data: DataConfig) -> list[list[float]]:
    return [data.mean, data.std]


def _of_run(cfg: TrainConfig, name: str, classes: Sequence[str]) -> _Opened:
    """The averaged weights of a run where it has some, else the raw ones."""
    try:
        found = open_pretrained(name, Weights.both)
    except (UserError, CheckpointError) as error:
        raise UserError(f"task.teacher={name}: no model of timm, and no run: {error}") from error
    if found.classes is not None and (how := difference(found.classes, classes)):
        raise UserError(f"task.teacher={name}: its classes are not those of the data: it {how}")
    if found.cfg.model.in_chans != cfg.model.in_chans:
        theirs = f"takes images of {found.cfg.model.in_chans} channels"
        raise UserError(f"task.teacher={name}: {theirs}, not model.in_chans={cfg.model.in_chans}")
    data = replace(found.cfg.data, img_size_schedule=cfg.data.img_size_schedule)
    found = replace(found, cfg=replace(found.cfg, data=data))
    which = Weights.ema.value if Weights.ema.value in found.weights else Weights.model.value
    model = found.build(which, len(classes), cfg.data.img_size, torch.device("cpu"))
    return model, digest_of(found.weights[which]), _normalised(data)


def _of_timm(cfg: TrainConfig, name: str, classes: Sequence[str]) -> _Opened:
    """A model of timm, with timm's weights or those of `task.teacher_checkpoint`."""
    file = cfg.task.teacher_checkpoint
    if file is None:
        _check_timms_weights(cfg, name, classes)
    of_teacher = replace(cfg, model=ModelConfig(name=name, in_chans=cfg.model.in_chans))
    try:
        model = build_model(of_teacher, len(classes), pretrained=file is None)
    except UserError:
        raise
    except Exception as error:  # whatever a hub's client raises
        why = str(error).partition("\n")[0]
        cure = "task.teacher_checkpoint=... takes a file of them"
        raise UserError(f"task.teacher={name}: timm's weights cannot be had ({why}); {cure}") from error
    if file is not None and load_into(model, file).get("classes") is not None:
        raise UserError(f"task.teacher_checkpoint={file}: is a run's; give it as task.teacher, which says the rest too")
    known = timm.models.get_pretrained_cfg(name)
    if known is None or len(known.mean) != cfg.model.in_chans:
        return model, digest_of(model.state_dict()), _normalised(cfg.data)
    return model, digest_of(model.state_dict()), [list(known.mean), list(known.std)]


def _check_timms_weights(cfg: TrainConfig, name: str, classes: Sequence[str]) -> None:
    known = timm.models.get_pretrained_cfg(name)
    if known is None or not known.has_weights:
        raise UserError(f"task.teacher={name}: timm has no weights for it; set task.teacher_checkpoint=...")
    if known.num_classes != len(classes):
        raise UserError(f"task.teacher={name}: timm's weights are for {known.num_classes} classes, not {len(classes)}")
    if is_imagenet_1k(classes) and (how := difference(imagenet_wnids(), classes)):
        raise UserError(f"task.teacher={name}: its classes are not those of the data: it {how}")
    if cfg.model.in_chans != 3:
        raise UserError(f"task.teacher={name}: timm's weights take RGB images, not model.in_chans={cfg.model.in_chans}")
