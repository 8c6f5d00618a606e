"""Image classification: one label an image, or a mixture of two."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from timm.loss import BinaryCrossEntropy
from torch import Tensor, nn

from vim_train.config.errors import UserError
from vim_train.config.schema import DataConfig, Loss, TaskConfig, TrainConfig
from vim_train.data.batch import BadRecord, Batch
from vim_train.data.images import open_images
from vim_train.data.order import Stream, key, uniform
from vim_train.data.sources import Source, Split
from vim_train.data.stream import EvalStream, TrainStream, merge_records
from vim_train.engine.ranks import Ranks
from vim_train.models.vim import Vim
from vim_train.tasks.build import build_model, check_sizes
from vim_train.tasks.distill import open_teacher
from vim_train.tasks.prepare import prepare

OpenSplit = Callable[[DataConfig, Split], Source]


class Classification:
    """Implements ``engine.task.Task`` for class folders and the embedded images.

    Raises:
        UserError: data or model that the configuration does not fit.
    """

    headline = "top1"

    def __init__(self, cfg: TrainConfig, ranks: Ranks, open_split: OpenSplit = open_images) -> None:
        self.cfg, self.ranks, self.device = cfg, ranks, ranks.device
        self.train_source: Source = open_split(cfg.data, "train")
        if len(self.train_source.classes) < 2:
            only = self.train_source.classes[0]
            raise UserError(
                f"data.root={cfg.data.root}: all images are of one class, {only}; training takes two or more"
            )
        classes = len(self.train_source.classes)
        self.train_stream = TrainStream(
            self.train_source, cfg, classes, self.device, rank=ranks.rank, world=ranks.world
        )
        self.steps_per_epoch = self.train_stream.steps_per_epoch
        self.val_source: Source = open_split(cfg.data, "val")
        self.classes = self.val_source.classes
        self._eval_stream = EvalStream(self.val_source, cfg, ranks.device, rank=ranks.rank, world=ranks.world)
        self.model: nn.Module = prepare(build_model(cfg, len(self.classes)), cfg.model, self.device)
        check_sizes(cfg, self.model, f"model.name={cfg.model.name}")
        self.teacher = open_teacher(cfg, self.classes, self.device)
        self.criterion = _criterion(cfg.task)

    def train_batches(self, first_step: int, last_step: int) -> Iterator[Batch]:
        return self.train_stream.batches(first_step, last_step)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean loss of (B, C, H, W) images against (B,) labels or (B, classes) mixed targets, and against a teacher."""
        cfg, keywords = self.cfg, {}
        if isinstance(self.model, Vim) and cfg.model.drop_path_rate > 0:
            width = self.model.num_drop_paths
            noise = uniform(cfg.seed, batch.epoch, batch.positions, Stream.DROP_PATH, width)
            keywords["drop_path_noise"] = torch.from_numpy(noise).to(self.device)
        else:
            # timm's models draw from torch's generators: tie these to the place in the data.
            _seed_generators(self.device, key(cfg.seed, Stream.DROP_PATH, batch.epoch, int(batch.positions[0])))
        logits = model(batch.images, **keywords).float()
        loss: Tensor = self.criterion(logits, batch.targets)
        return loss if self.teacher is None else self.teacher.loss(loss, logits, batch.images)

    def eval_batches(self) -> EvalStream:
        return self._eval_stream

    def eval_counts(self, model: nn.Module, batch: Batch) -> Tensor:
        """[images, right, right among five, summed cross-entropy], float64: exact beyond 2^50 images."""
        return classification_counts(model(batch.images).float(), batch.labels)

    def eval_metrics(self, counts: Tensor) -> dict[str, float]:
        """Mean cross-entropy, top-1 and top-5 in per cent."""
        images, top1, top5, loss = counts.tolist()
        if images != len(self.val_source):
            raise RuntimeError(f"evaluated {images:.0f} images of {len(self.val_source)}")
        return {"loss": loss / images, "top1": 100 * top1 / images, "top5": 100 * top5 / images}

    def step_images(self, step: int) -> dict[str, object]:
        return self.train_stream.step_images(step)

    def notes(self) -> list[str]:
        return [
            f"replaced {bad.path} (class {bad.class_name}): {bad.reason}" for bad in self.train_stream.new_bad_images()
        ]

    def bad_images(self) -> list[BadRecord]:
        """Of all ranks; all have to ask."""
        return merge_records(self.ranks.gather(self.train_stream.bad_images))

    def state(self) -> dict[str, object]:
        return {"bad_images": [asdict(record) for record in self.bad_images()]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        if self.ranks.first:  # or they would be counted once a rank
            self.train_stream.load_bad_images(BadRecord(**record) for record in state["bad_images"])

    def data_wait(self) -> float:
        return self.train_stream.wait_s

    def close(self) -> None:
        self._eval_stream.close()
        self.train_stream.close()


def classification_counts(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, classes) fp32 logits and (B,) labels → [images, top-1, top-5, summed cross-entropy], (4,) float64.

    An image counts as right among k if fewer than k other classes score at least as high as its own. Ties and NaN count
    against the model, so that constant or broken logits score 0 and not 100.
    """
    own = logits.gather(1, labels[:, None])
    rank = (~(logits < own)).sum(1) - 1
    right = [(rank < min(k, logits.shape[1])).sum() for k in (1, 5)]
    loss = F.cross_entropy(logits, labels, reduction="none").double().sum()
    return torch.stack([torch.full_like(loss, len(labels)), *(count.double() for count in right), loss])


def _criterion(cfg: TaskConfig) -> nn.Module:
    if cfg.loss is Loss.bce:
        return BinaryCrossEntropy(smoothing=0.0, target_threshold=cfg.bce_threshold, sum_classes=cfg.bce_sum)
    return nn.CrossEntropyLoss()


def _seed_generators(device: torch.device, seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
