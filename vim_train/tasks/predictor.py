"""A model, from names of image files to labels with probabilities."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vim_train.config.schema import DataConfig
from vim_train.data.decode import Mode
from vim_train.data.fetch import Fetch, Fetched, Request
from vim_train.data.paths import Named, NamedImages
from vim_train.data.pool import Pool
from vim_train.data.transforms import Normalize, eval_transform
from vim_train.engine.precision import Precision

Explain = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Model, images and their classes to a map of patches, (B, rows, columns), larger where the model looks."""

_EXPLAINED_AT_ONCE = 16
"""Images: a map may take a backward pass, which keeps what a forward pass alone does not."""
_SCALE = (0.05, 0.95)
"""Shares of an image's patches between which its map is stretched: a few extreme ones would darken all others."""


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image."""

    path: str
    labels: list[int]
    """The most probable first."""
    probs: list[float]
    error: str | None = None
    """Why it is no image; then there are no labels."""
    view: NDArray[np.uint8] | None = None
    """(side, side, 3): what the model saw, larger and in colour."""
    heat: NDArray[np.float32] | None = None
    """(rows, columns) of patches, in [0, 1]."""


@dataclass(frozen=True)
class Predictor:
    """A model and how images reach it."""

    model: nn.Module
    """In evaluation mode, on `device`."""
    data: DataConfig
    mode: Mode
    device: torch.device
    precision: Precision
    topk: int = 5
    view_side: int | None = None
    """Side of `Prediction.view`, in pixels; None: none."""
    explain: Explain | None = None
    timeout_s: float | None = None

    def __call__(self, names: Sequence[str | Named]) -> Iterator[list[Prediction]]:
        """Batches of predictions, in the order of `names`; one for each name, be it an image or not.

        Raises:
            WorkerError, HungError: as `Pool`.
            ValueError: a model that `explain` does not know.
        """
        source = NamedImages([Named(name) if isinstance(name, str) else name for name in names])
        normalize = Normalize(self.data.mean, self.data.std, self.device)
        with ExitStack() as stack:
            batches = stack.enter_context(self._batches(source, self.data.img_size, self.mode))
            views: Iterator[Fetched | None] = iter(lambda: None, 0)
            if self.view_side is not None:
                views = stack.enter_context(self._batches(source, self.view_side, "RGB"))
            for fetched, view in zip(batches, views, strict=False):
                yield self._predict(source, normalize, fetched, view)

    @contextmanager
    def _batches(self, source: NamedImages, side: int, mode: Mode) -> Iterator[Iterator[Fetched]]:
        transform = eval_transform(replace(self.data, img_size=side))
        fetch = Fetch(source, transform, mode, side, None, 0, self.data.pixel_limit, leave_black=True)
        every, size = np.arange(len(source), dtype=np.int64), self.data.eval_batch_size
        requests = [Request(0, every[i : i + size], every[i : i + size]) for i in range(0, len(source), size)]
        workers = min(self.data.workers, len(requests))
        pool = Pool(fetch, requests, workers, pin_memory=self.device.type == "cuda", timeout_s=self.timeout_s)
        try:
            yield iter(pool)
        finally:
            pool.close()

    def _predict(
        self, source: NamedImages, normalize: Normalize, fetched: Fetched, view: Fetched | None
    ) -> list[Prediction]:
        assert fetched.images is not None
        bad = {index: reason for index, _, reason in fetched.bad}
        indices: list[int] = fetched.request.indices.tolist()
        if len(bad) == len(indices):
            return [Prediction(source.name(index), [], [], bad[index]) for index in indices]
        images = normalize(fetched.images)
        with torch.inference_mode(), self.precision.autocast():
            logits = self.model(images).float()
            probs, labels = logits.softmax(1).topk(min(self.topk, logits.shape[1]))
        finite = logits.isfinite().all(1).tolist()
        heat = None if self.explain is None else self._heat(self.explain, images, labels[:, 0].clone())
        found = []
        for row, index in enumerate(indices):
            if index in bad or not finite[row]:
                found.append(Prediction(source.name(index), [], [], bad.get(index, "the model's output is not finite")))
                continue
            seen = None if view is None or view.images is None else view.images[row].permute(1, 2, 0).numpy()
            found.append(
                Prediction(
                    source.name(index), labels[row].tolist(), probs[row].tolist(), None, seen,
                    None if heat is None else heat[row],
                )
            )  # fmt: skip
        return found

    def _heat(self, explain: Explain, images: Tensor, labels: Tensor) -> NDArray[np.float32]:
        parts = zip(images.split(_EXPLAINED_AT_ONCE), labels.split(_EXPLAINED_AT_ONCE), strict=True)
        with self.precision.autocast():
            maps = torch.cat([explain(self.model, *part) for part in parts]).cpu()
        low, high = (maps.flatten(1).quantile(share, dim=1)[:, None, None] for share in _SCALE)
        heat: NDArray[np.float32] = ((maps - low) / (high - low).clamp_min(1e-12)).clamp(0, 1).numpy()
        return heat
