"""One forward pass over each set of images, shared by the ranks; predictions that were kept are not made again."""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vim_train.config.commands import TtaConfig
from vim_train.config.errors import UserError
from vim_train.config.schema import Compile, TrainConfig
from vim_train.data.stream import EvalStream
from vim_train.engine.compiling import compile_forward
from vim_train.engine.precision import Precision
from vim_train.engine.ranks import Ranks
from vim_train.engine.weights import digest_of
from vim_train.tasks.predictions import Predictions, made_of
from vim_train.tasks.pretrained import Pretrained
from vim_train.tasks.suites import Opened, Plan, Planned, as_real, open_planned

_FORMAT = 1
"""Of what is hashed for kept predictions."""

Share = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Positions (n,) and their logits (n, C)."""


@dataclass(frozen=True)
class Setting:
    """What all passes of one evaluation have in common."""

    found: Pretrained
    cfg: TrainConfig
    tta: TtaConfig
    precision: Precision
    compile: Compile
    ranks: Ranks
    out: Path | None
    """Where predictions are kept."""
    refresh: bool


@dataclass(frozen=True)
class Passed:
    """Predictions of one suite, and what is to be said beside them."""

    predictions: Predictions
    images_per_s: float | None
    """Of the whole pass, from disk to logits; None: they were kept, and nothing was computed."""
    notes: list[str]


def eval_passes(setting: Setting, plan: Plan, which: str) -> Iterator[Passed]:
    """Predictions of the weights `which` for each suite of `plan`, in turn. All ranks take part, the first gets them.

    Raises:
        UserError: images that cannot be decoded, or do not fit the checkpoint; `out` cannot be written.
    """
    ranks, digest = setting.ranks, ""
    if setting.out is not None and ranks.first:
        digest = digest_of(setting.found.weights[which])

    @cache
    def model(classes: int) -> nn.Module:
        built = setting.found.build(which, classes, setting.cfg.data.img_size, ranks.device)
        return compile_forward(built, setting.compile, setting.cfg.data.eval_batch_size)

    every = [_open(setting, planned) for planned in plan.sets]  # what is wrong with the last shows before the first
    for planned, opened in zip(plan.sets, every, strict=True):
        classes = setting.found.classes or list(opened.source.classes)
        file = None if setting.out is None else setting.out / "predictions" / which / f"{planned.name}.npz"
        made = _made_of(setting, opened, classes, digest) if file is not None and ranks.first else ""
        predictions, rate = None, None
        if ranks.once(partial(_is_kept, setting, file, made)):
            predictions = Predictions.load(file) if file is not None and ranks.first else None
        else:
            built, began = model(len(classes)), time.perf_counter()
            logits = _logits(setting, opened, built)
            rate = len(opened.names) / (time.perf_counter() - began)
            if logits is not None:
                predictions = Predictions(planned.name, opened.names, opened.labels, logits, classes)
            ranks.together(partial(_keep, predictions, file, made))
        if predictions is not None:
            for suite in planned.suites:
                yield Passed(as_real(predictions) if suite == "real" else predictions, rate, opened.notes)


def _open(setting: Setting, planned: Planned) -> Opened:
    """The first rank looks through the images; the others find the index it has left."""
    ranks = setting.ranks

    def look() -> Opened:
        return open_planned(planned, setting.cfg, setting.found.classes, setting.tta.crops)

    opened = ranks.together(lambda: look() if ranks.first else None)
    return ranks.together(lambda: opened or look())


def _logits(setting: Setting, opened: Opened, model: nn.Module) -> NDArray[np.float32] | None:
    """(N, C) of all images in the source's order, in the first rank.

    Raises:
        UserError: an image cannot be decoded.
        RuntimeError: not every image came exactly once.
    """
    ranks = setting.ranks
    stream = EvalStream(
        opened.source, setting.cfg, ranks.device, rank=ranks.rank, world=ranks.world, views=opened.views
    )
    try:
        share = ranks.together(lambda: _share(setting, stream, len(opened.views), model))
    finally:
        stream.close()
    shares = ranks.collect(share)
    return None if shares is None else _in_order(shares, len(opened.source))


def _share(setting: Setting, stream: EvalStream, views: int, model: nn.Module) -> list[Share]:
    """This rank's batches."""
    flip = setting.tta.hflip or setting.tta.crops == 10
    found: list[Share] = []
    with torch.inference_mode(), setting.precision.autocast():
        for batch in stream:
            logits = view_logits(model, batch.images, views, flip)
            found.append((batch.positions, logits.cpu().numpy()))
    return found


def view_logits(model: nn.Module, images: Tensor, views: int, flip: bool) -> Tensor:
    """(n, C) float32 logits of n images, whose views (n * views, ...) stand behind one another.

    Of one view, the model's own; of several, the logarithm of the mean of their softmax outputs (Krizhevsky et al.
    2012, section 4.1), whose softmax is that mean.
    """
    seen = [images[view::views].contiguous() for view in range(views)]
    if flip:
        seen = [each for image in seen for each in (image, image.flip(-1))]
    logits = [model(each).float() for each in seen]
    if len(logits) == 1:
        return logits[0]
    outputs = torch.stack([each.log_softmax(1) for each in logits])
    return outputs.logsumexp(0) - torch.tensor(float(len(logits))).log().item()


def _in_order(shares: list[list[Share]], images: int) -> NDArray[np.float32]:
    batches = [batch for share in shares for batch in share]
    positions = np.concatenate([each for each, _ in batches])
    if not np.array_equal(np.sort(positions), np.arange(images)):
        raise RuntimeError(f"{len(positions)} predictions for {images} images, or an image twice")
    logits = np.empty((images, batches[0][1].shape[1]), np.float32)
    for each, rows in batches:
        logits[each] = rows
    return logits


def _made_of(setting: Setting, opened: Opened, classes: list[str], weights: str) -> str:
    """Everything that predictions are a function of, but for the machine, as a hash."""
    cfg, source = setting.cfg, opened.source
    data = {name: getattr(cfg.data, name) for name in ("img_size", "crop_pct", "mean", "std")}
    said = [_FORMAT, weights, classes, asdict(cfg.model), data, asdict(setting.tta), cfg.precision.amp.value]
    digest = hashlib.sha256(json.dumps([*said, source.fingerprint()], default=str).encode())
    digest.update(opened.labels.astype("<i8").tobytes())
    digest.update("\0".join(opened.names).encode(errors="surrogateescape"))
    return digest.hexdigest()


def _is_kept(setting: Setting, file: Path | None, made: str) -> bool:
    if file is None or setting.refresh:
        return False
    try:
        return made_of(file) == made
    except (OSError, ValueError) as error:
        print(f"{error}; computed again", flush=True)
        return False


def _keep(predictions: Predictions | None, file: Path | None, made: str) -> None:
    """Raises UserError."""
    try:
        if predictions is not None and file is not None:
            predictions.save(file, made)
    except OSError as error:
        raise UserError(f"out: {file} cannot be written: {error.strerror or error}") from error
