"""What a worker does: a request for positions in, their decoded and augmented pixels out."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset, get_worker_info

from vim_train.data.decode import BadImage, Mode, decode_bytes
from vim_train.data.order import Stream, permutation, position_keys
from vim_train.data.order import key as order_key
from vim_train.data.pixels import PixelLibrary, acceptable_header, pixel_library
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

    The native library decodes and augments where it can, Pillow where it cannot; the pixels are the same.

    Args:
        source: the images.
        transform: applied to each, with the global generators seeded by the key of its position.
        mode: RGB or L.
        img_size: side of what `transform` returns.
        seed: of the run; None: `transform` draws nothing.
        replacements: candidates to try in place of an image that cannot be decoded; 0: give up at the first.
        leave_black: do not give up: the row of an image that cannot be decoded is 0.
        pixel_limit: images of more pixels are not decoded.
        later: what takes over from an epoch on: the epoch, its `img_size` and `transform`; by epoch.
    """

    def __init__(
        self,
        source: Source,
        transform: Transform,
        mode: Mode,
        img_size: int,
        seed: int | None,
        replacements: int,
        pixel_limit: int = 100_000_000,
        later: Sequence[tuple[int, int, Transform]] = (),
        leave_black: bool = False,
    ) -> None:
        self.source = source
        self._transforms = {img_size: transform} | {side: other for _, side, other in later}
        self._sides = [(0, img_size), *((epoch, side) for epoch, side, _ in later)]
        self._mode = mode
        self._seed = seed
        self._replacements = replacements
        self._pixel_limit = pixel_limit
        self._leave_black = leave_black
        self.reading = np.full(1, -1, dtype=np.int64)
        """Index being read, for messages about a dead or hung worker; workers put shared memory here."""
        pixel_library()  # found and tested here, once, and not in every worker

    def __getitem__(self, request: Request) -> Fetched:
        n = len(request.indices)
        side = [side for epoch, side in self._sides if epoch <= request.epoch][-1]
        images = torch.empty((n, len(self._mode), side, side), dtype=torch.uint8)
        if get_worker_info() is not None:
            images.share_memory_()  # here: in the queue's own thread a full /dev/shm would go unnoticed
        rows = images.numpy()
        keys = self._keys(request)
        bad: list[Bad] = []
        with preserved():
            for row in range(n):
                key = None if keys is None else keys[row]
                if not self._fill(rows[row], int(request.indices[row]), key, bad) and not self._replace(
                    rows[row], request, row, key, bad
                ):
                    if not self._leave_black:
                        return Fetched(request, None, bad)
                    rows[row] = 0
        self.reading[0] = -1
        return Fetched(request, images, bad)

    def _keys(self, request: Request) -> list[int] | None:
        if self._seed is None:
            return None
        keys: list[int] = position_keys(self._seed, Stream.AUGMENT, request.epoch, request.positions).tolist()
        return keys

    def _fill(self, out: NDArray[np.uint8], index: int, key: int | None, bad: list[Bad]) -> bool:
        """Image `index`, augmented by the draws of `key`, to `out` (C, H, W); False: it is bad, and noted in `bad`."""
        self.reading[0] = index
        try:
            library, data = pixel_library(), self.source.read(index)
            if library is not None and library.libjpeg and data is not None:
                header = acceptable_header(library, data, self._pixel_limit)
                if header is not None:
                    decode = partial(library.from_jpeg, data, mode=self._mode)
                    if self._by_plan(out, (header.width, header.height), key, library, decode):
                        return True
            if data is None:
                image = self.source.load(index, self._mode)
            else:
                image = decode_bytes(data, self.source.name(index), self._mode, self._pixel_limit)
        except BadImage as error:
            bad.append(Bad(index, error.path, error.reason))
            return False
        if library is None or not self._by_plan(out, image.size, key, library, partial(library.from_image, image)):
            _seed(key)
            out[...] = to_chw(self._transforms[out.shape[-1]](image))
        return True

    def _by_plan(
        self,
        out: NDArray[np.uint8],
        size: tuple[int, int],
        key: int | None,
        library: PixelLibrary,
        carry_out: Callable[..., bool],
    ) -> bool:
        """By the native library, and by Pillow from where a plan ends; False: no plan can say it, or it is refused."""
        _seed(key)
        sketched = self._transforms[out.shape[-1]].sketch(size, self._mode, library.operations)
        if sketched is None:
            return False
        plan, rest = sketched
        if not rest:
            return carry_out(plan=plan, out=out)
        pixels = np.empty((*plan.window[:1:-1], 4), dtype=np.uint8)
        if not carry_out(plan=plan, out=pixels):
            return False
        image = Image.frombytes("RGB", plan.window[2:], pixels.tobytes(), "raw", "RGBX")
        if self._mode == "L":
            image = image.getchannel(0)
        for step in rest:
            image = step(image)
        out[...] = to_chw(image)
        return True

    def _replace(self, out: NDArray[np.uint8], request: Request, row: int, key: int | None, bad: list[Bad]) -> bool:
        """The first readable image of the same class, in an order drawn by the position; the label stays right."""
        if self._seed is None or self._replacements == 0:
            return False
        index = int(request.indices[row])
        of_class = np.flatnonzero(self.source.labels == self.source.labels[index])
        draw = order_key(self._seed, Stream.REPLACE, request.epoch, int(request.positions[row]))
        candidates = of_class[permutation(draw, len(of_class))]
        tried = candidates[candidates != index][: self._replacements].tolist()
        return any(self._fill(out, candidate, key, bad) for candidate in tried)


def _seed(key: int | None) -> None:
    if key is not None:
        seed_globals(key)
