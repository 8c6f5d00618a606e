"""Batches for training and evaluation."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray

from vim_train.config.errors import UserError
from vim_train.config.passes import passes
from vim_train.config.schema import BadImages, TrainConfig
from vim_train.config.sizes import train_sizes
from vim_train.data.batch import BadRecord, Batch
from vim_train.data.decode import Mode
from vim_train.data.fetch import Bad, Fetch, Fetched, Request
from vim_train.data.mixing import Mix
from vim_train.data.order import Stream, block_order, draw_index, epoch_order, position_keys
from vim_train.data.pool import Pool
from vim_train.data.sources import Source, check_unchanged
from vim_train.data.transforms import Erase, Normalize, Transform, eval_transform, train_transform
from vim_train.data.views import FetchViews


class TrainStream:
    """Training images by global step: a function of configuration and step, whatever came before and whoever loads.

    Step k holds the positions [i G, (i + 1) G) of epoch k // steps_per_epoch, where i = k % steps_per_epoch and
    G = data.batch_size. Each of its passes is divided evenly among the ranks.

    `cfg` has passed `config.checks.check_train`.

    Raises:
        UserError: fewer images than a batch, or a batch that ranks cannot share; later, an image cannot be decoded.
        RuntimeError: later, a worker died.
        HungError: later, the workers gave nothing for `run.hang_timeout_s`.
    """

    def __init__(
        self,
        source: Source,
        cfg: TrainConfig,
        num_classes: int,
        device: torch.device,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._passes = passes(cfg, world)
        self._rank, self._world = rank, world
        if cfg.data.batch_size > len(source):
            few = f"data.batch_size={cfg.data.batch_size} is more than the {len(source)} training images"
            raise UserError(f"{few}; {_fitting_batch(cfg, len(source), world)}")
        self._source, self._cfg, self._device = source, cfg, device
        skip = cfg.data.bad_images is BadImages.skip
        stages = [(epoch, side, train_transform(cfg.data, cfg.augment, side)) for epoch, side in train_sizes(cfg.data)]
        (_, side, transform), *later = stages
        self._fetch = Fetch(
            source,
            transform,
            _mode(cfg),
            side,
            cfg.seed,
            # One more than the limit ends the run anyway.
            replacements=cfg.data.bad_images_max + 1 if skip else 0,
            pixel_limit=cfg.data.pixel_limit,
            later=later,
        )
        self._normalize = Normalize(cfg.data.mean, cfg.data.std, device)
        self._erase = Erase(cfg.augment) if cfg.augment.erase_prob > 0 else None
        self._mix = Mix(cfg.augment, cfg.seed, cfg.data.lane, num_classes, cfg.task.label_smoothing)
        self._bad: dict[str, BadRecord] = {}
        self._untold: list[BadRecord] = []
        self._pool: Pool | None = None
        self._waited_s = 0.0

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches an epoch; what is left over differs from epoch to epoch."""
        return len(self._source) // self._cfg.data.batch_size

    @property
    def wait_s(self) -> float:
        """Seconds spent waiting for images so far."""
        return self._waited_s + (self._pool.wait_s if self._pool else 0.0)

    @property
    def bad_images(self) -> list[BadRecord]:
        """Images that could not be decoded and were replaced so far, one record a path."""
        return list(self._bad.values())

    def fingerprint(self) -> str:
        """Hash of what decides which image stands where, beside seed and sizes."""
        digest = self._source.fingerprint()
        if self._cfg.data.shuffle_block == 0:
            return digest
        places = self._source.storage_order().astype("<i8").tobytes()
        return f"{digest}-{hashlib.blake2b(places, digest_size=8).hexdigest()}"

    def new_bad_images(self) -> list[BadRecord]:
        """Those of `bad_images` that came up since this was last asked."""
        told, self._untold = self._untold, []
        return told

    def load_bad_images(self, records: Iterable[BadRecord]) -> None:
        """Go on counting from there. Order and draws need no state."""
        self._bad = {record.path: record for record in records}

    def batches(self, first_step: int, last_step: int) -> Iterator[Batch]:
        """The rank's micro-batches of the steps [first_step, last_step), one a pass, by position."""
        self.close()
        self._pool = pool = Pool(
            self._fetch,
            self._requests(first_step, last_step),
            self._cfg.data.workers,
            pin_memory=self._device.type == "cuda",
            timeout_s=self._cfg.run.hang_timeout_s,
        )
        try:
            for fetched in pool:
                yield self._finish(fetched)
        finally:
            pool.close()

    def distinct_images(self, epoch: int) -> int:
        """How many different images the steps of an epoch draw."""
        positions = np.arange(self.steps_per_epoch * self._cfg.data.batch_size, dtype=np.int64)
        return len(np.unique(self._images_at(self._order(epoch), positions)))

    def step_images(self, step: int) -> dict[str, object]:
        """Epoch, positions [first, end) and image names of the global batch of a step, as plain containers."""
        data, epoch = self._cfg.data, step // self.steps_per_epoch
        first = step % self.steps_per_epoch * data.batch_size
        positions = np.arange(first, first + data.batch_size, dtype=np.int64)
        indices = self._images_at(self._order(epoch), positions)
        names = [self._source.name(index) for index in indices.tolist()]
        return {"epoch": epoch, "positions": [first, first + data.batch_size], "images": names}

    def close(self) -> None:
        """End the workers of an iteration that was left before its end."""
        if self._pool is not None:
            self._waited_s += self._pool.wait_s
            self._pool.close()
            self._pool = None

    def _requests(self, first_step: int, last_step: int) -> Iterator[Request]:
        data, spe = self._cfg.data, self.steps_per_epoch
        micro = data.batch_size // (self._passes * self._world)
        epoch, order = -1, np.empty(0, dtype=np.int64)
        for step in range(first_step, last_step):
            if step // spe != epoch:
                epoch = step // spe
                order = self._order(epoch)
            start = step % spe * data.batch_size
            for first in range(start + self._rank * micro, start + data.batch_size, self._world * micro):
                positions = np.arange(first, first + micro, dtype=np.int64)
                yield Request(epoch, positions, self._images_at(order, positions))

    def _images_at(self, order: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
        data = self._cfg.data
        return order[draw_index(positions, data.batch_size, data.lane) // data.repeats]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        seed, images, block = self._cfg.seed, len(self._source), self._cfg.data.shuffle_block
        if block == 0:
            return epoch_order(seed, epoch, images)
        return self._source.storage_order()[block_order(seed, epoch, images, block)]

    def _finish(self, fetched: Fetched) -> Batch:
        epoch, positions, indices = fetched.request
        if fetched.bad:
            check_unchanged(self._source)
        self._record(fetched.bad)
        if fetched.images is None:
            if self._cfg.data.bad_images is BadImages.skip:
                more = "and none that was tried of its class can replace it"
            else:
                more = "data.bad_images=skip replaces such images"
            raise UserError(f"training {_undecodable(self._source, fetched.bad[-1])}; {more}")
        images = self._normalize(fetched.images)
        if self._erase is not None:
            self._erase(images, position_keys(self._cfg.seed, Stream.ERASE, epoch, positions))
        labels = torch.from_numpy(self._source.labels[indices]).to(self._device, non_blocking=True)
        targets = self._mix(images, labels, epoch, positions)
        return Batch(images, targets, labels, epoch, positions)

    def _record(self, bad: list[Bad]) -> None:
        limit = self._cfg.data.bad_images_max
        if self._cfg.data.bad_images is not BadImages.skip:
            return
        for index, path, reason in bad:
            class_name = self._source.classes[self._source.labels[index]]
            if path not in self._bad:
                self._bad[path] = BadRecord(path, class_name, reason, 0)
                self._untold.append(self._bad[path])
            self._bad[path].count += 1
            if len(self._bad) > limit:
                count = f"more than data.bad_images_max={limit} training images"
                raise UserError(f"{count} cannot be decoded; the last: {path}: {reason}")


class EvalStream:
    """Every image of `source` once an iteration, in order, in batches of data.eval_batch_size, the last one shorter.

    Ranks take turns at the batches. The length is that of the largest share.

    Args:
        views: by which an image is seen, each (n,) of a batch's images (n * views, C, H, W), those of an image behind
            one another; none: by the centre crop of `eval_transform`.

    Raises:
        UserError: while iterating, an image cannot be decoded.
        RuntimeError: while iterating, a worker died.
        HungError: while iterating, the workers gave nothing for `run.hang_timeout_s`.
    """

    def __init__(
        self,
        source: Source,
        cfg: TrainConfig,
        device: torch.device,
        *,
        rank: int = 0,
        world: int = 1,
        views: Sequence[Transform] = (),
    ) -> None:
        self._source, self._device = source, device
        fetches = [
            Fetch(
                source,
                view,
                _mode(cfg),
                cfg.data.img_size,
                seed=None,
                replacements=0,
                pixel_limit=cfg.data.pixel_limit,
            )
            for view in views or [eval_transform(cfg.data)]
        ]
        self._normalize = Normalize(cfg.data.mean, cfg.data.std, device)
        size = cfg.data.eval_batch_size
        whole = np.arange(len(source), dtype=np.int64)
        every = [Request(0, whole[i : i + size], whole[i : i + size]) for i in range(0, len(source), size)]
        self._requests, self._rounds = every[rank::world], -(-len(every) // world)
        self._pool = Pool(
            fetches[0] if len(fetches) == 1 else FetchViews(fetches),
            self._requests,
            min(cfg.data.workers, len(self._requests)),
            pin_memory=device.type == "cuda",
            persistent=True,
            timeout_s=cfg.run.hang_timeout_s,
        )

    def __len__(self) -> int:
        """Batches an iteration, of the first rank; later ones may have one fewer."""
        return self._rounds

    def __iter__(self) -> Iterator[Batch]:
        for fetched in self._pool:
            if fetched.images is None:
                check_unchanged(self._source)
                what = f"evaluation {_undecodable(self._source, fetched.bad[-1])}"
                raise UserError(f"{what}; replace or remove it, then give the same command")
            epoch, positions, indices = fetched.request
            images = self._normalize(fetched.images)
            labels = torch.from_numpy(self._source.labels[indices]).to(self._device, non_blocking=True)
            yield Batch(images, labels, labels, epoch, positions)

    def close(self) -> None:
        """End the workers."""
        self._pool.close()


def merge_records(by_rank: Iterable[Iterable[BadRecord]]) -> list[BadRecord]:
    """One record a path, the counts added up."""
    merged: dict[str, BadRecord] = {}
    for record in chain.from_iterable(by_rank):
        before = merged.get(record.path)
        merged[record.path] = record if before is None else replace(before, count=before.count + record.count)
    return list(merged.values())


def _fitting_batch(cfg: TrainConfig, images: int, world: int) -> str:
    """What makes a batch of no more than `images` that the checks of configuration and `world` ranks accept."""
    if images < 2 * world > 2:
        return f"take fewer GPUs than {world}"
    # Two a pass, as mixing pairs them.
    asked = passes(cfg, world)
    count = asked if 2 * asked * world <= images else 1
    share = 1 << min(images // (count * world), cfg.data.micro_batch_size or images).bit_length() - 1
    found = [f"data.batch_size={count * world * share}"]
    if share % cfg.data.lane:
        found.append(f"data.lane={share}")
    if cfg.optim.accumulate not in (None, count):
        found.append(f"optim.accumulate={count}")
    return f"add {' '.join(found)}"


def _mode(cfg: TrainConfig) -> Mode:
    return "L" if cfg.model.in_chans == 1 else "RGB"


def _undecodable(source: Source, bad: Bad) -> str:
    class_name = source.classes[source.labels[bad.source_index]]
    return f"image {bad.path} (class {class_name}) cannot be decoded: {bad.reason}"
