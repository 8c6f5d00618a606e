"""What a worker does: a request for positions in, their decoded and augmented pixels out."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset, get_worker_info

from vim_train.data.decode import BadImage, Mode
from vim_train.data.order import Stream, key, permutation, position_keys
from vim_train.data.rng import preserved, seed_globals
from vim_train.data.sources import Source
from vim_train.data.transforms import Transform, to_chw


class Request(NamedTuple):
    """Images of one batch: `indices` (n,) into the source stand at `positions` (n,) of `epoch`."""

    epoch: int
    positions: NDArray[np.int64]
    indices: NDArray[np.int64]


class Bad(NamedTuple):
    """An image that could not be decoded."""

    source_index: int
    path: str
    reason: str


class Fetched(NamedTuple):
    """The answer to `request`: `images` (n, C, H, W) uint8, or None where `bad` ended the work."""

    request: Request
    images: torch.Tensor | None
    bad: list[Bad]


class Fetch(Dataset[Fetched]):
    """Answers requests, in a worker or in the training process alike; a function of the request alone.

    Args:
        source: the images.
        transform: applied to each, with the global generators seeded by the key of its position.
        mode: RGB or L.
        img_size: side of what `transform` returns.
        seed: of the run; None: `transform` draws nothing.
        replacements: candidates to try in place of an image that cannot be decoded; 0: give up at the first.
    """

    def __init__(
        self, source: Source, transform: Transform, mode: Mode, img_size: int, seed: int | None, replacements: int
    ) -> None:
        self.source = source
        self._transform = transform
        self._mode = mode
        self._shape = (len(mode), img_size, img_size)
        self._seed = seed
        self._replacements = replacements
        self.reading = np.full(1, -1, dtype=np.int64)
        """Index being read, for messages about a dead or hung worker; workers put shared memory here."""

    def __getitem__(self, request: Request) -> Fetched:
        n = len(request.indices)
        images = torch.empty((n, *self._shape), dtype=torch.uint8)
        if get_worker_info() is not None:
            images.share_memory_()  # here: in the queue's own thread a full /dev/shm would go unnoticed
        rows = images.numpy()
        keys = self._keys(request)
        bad: list[Bad] = []
        with preserved():
            for row in range(n):
                image = self._read(int(request.indices[row]), bad) or self._replace(request, row, bad)
                if image is None:
                    return Fetched(request, None, bad)
                if keys is not None:
                    seed_globals(keys[row])
                rows[row] = to_chw(self._transform(image))
        self.reading[0] = -1
        return Fetched(request, images, bad)

    def _keys(self, request: Request) -> list[int] | None:
        if self._seed is None:
            return None
        keys: list[int] = position_keys(self._seed, Stream.AUGMENT, request.epoch, request.positions).tolist()
        return keys

    def _read(self, index: int, bad: list[Bad]) -> Image.Image | None:
        self.reading[0] = index
        try:
            return self.source.load(index, self._mode)
        except BadImage as error:
            bad.append(Bad(index, error.path, error.reason))
            return None

    def _replace(self, request: Request, row: int, bad: list[Bad]) -> Image.Image | None:
        """The first readable image of the same class, in an order drawn by the position; the label stays right."""
        if self._seed is None or self._replacements == 0:
            return None
        index = int(request.indices[row])
        of_class = np.flatnonzero(self.source.labels == self.source.labels[index])
        draw = key(self._seed, Stream.REPLACE, request.epoch, int(request.positions[row]))
        candidates = of_class[permutation(draw, len(of_class))]
        for candidate in candidates[candidates != index][: self._replacements].tolist():
            image = self._read(candidate, bad)
            if image is not None:
                return image
        return None
