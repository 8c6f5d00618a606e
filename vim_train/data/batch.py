"""What a stream yields."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass
class Batch:
    """n images at consecutive positions of one epoch, ready for the model. Tensors are on the stream's device."""

    images: torch.Tensor
    """(n, C, H, W) float32, normalised, erased and mixed."""
    targets: torch.Tensor
    """(n,) int64, or (n, num_classes) float32 where mixing (in this epoch) or label smoothing is on."""
    labels: torch.Tensor
    """(n,) int64: what the images show, before mixing."""
    epoch: int
    positions: NDArray[np.int64]
    """(n,) positions in the epoch."""

    def split(self, size: int) -> list["Batch"]:
        """Batches of that many images, in order."""
        return [
            Batch(
                self.images[i : i + size],
                self.targets[i : i + size],
                self.labels[i : i + size],
                self.epoch,
                self.positions[i : i + size],
            )
            for i in range(0, len(self.images), size)
        ]


@dataclass
class BadRecord:
    """A training image that could not be decoded and was replaced."""

    path: str
    class_name: str
    reason: str
    count: int
    """How often it came up."""
