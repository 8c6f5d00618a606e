"""Labels with probabilities for images that have none."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import timm
from torch import Tensor, nn

from vim_train.config.commands import ExplainMethod, PredictCommand, PredictDataConfig, PredictWeights, Weights
from vim_train.config.errors import UserError
from vim_train.config.schema import DataConfig
from vim_train.data.paths import find_images
from vim_train.engine.precision import set_precision
from vim_train.engine.setup import choose_device, configure_torch
from vim_train.models.explain import saliency, similarity
from vim_train.report.sheet import EXPLAINED, PLAIN, Cell, Sheet
from vim_train.tasks.metrics.imagenet import short_name, words
from vim_train.tasks.predictor import Explain, Prediction, Predictor
from vim_train.tasks.pretrained import Pretrained, open_pretrained

_PREFIX = {"model": "eval", "ema": "ema"}
"""Of the metrics of weights in the run's own evaluation."""


def speaking_for(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """`saliency` without what speaks against the class."""
    return saliency(model, images, labels).clamp_min(0)


def like_the_class_token(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """`similarity`, which asks for no class."""
    return similarity(model, images)


EXPLAIN: dict[ExplainMethod, tuple[Explain, str]] = {
    ExplainMethod.saliency: (speaking_for, "gradient x input of each patch for the first label"),
    ExplainMethod.similarity: (like_the_class_token, "each patch's likeness to the class token"),
}
"""Methods, and what a picture says of them."""


def predict(command: PredictCommand, progress: Callable[[int, int], None]) -> int:
    """Write a JSON line an image, and a sheet where one is wanted; returns the exit code.

    Raises:
        UserError: no such checkpoint or weights, no image at all, or a file that cannot be written.
    """
    names = find_images(command.images, sys.stdin.buffer)
    if not names:
        raise UserError(f"images={command.images[0]}: holds no names")
    found, which = _open(command)
    classes, predictor = _predictor(found, which, command)
    lines, sheet = Lines(classes, command.topk), _sheet(command, found, which, len(names))
    done, bad, heard = 0, 0, True
    try:
        with _output(command.out) as write:
            progress(0, len(names))
            for batch in predictor(names):
                write("".join(lines.of(prediction) + "\n" for prediction in batch))
                for prediction in batch:
                    if prediction.error is not None:
                        bad += 1
                        _tell(f"{prediction.path}: {prediction.error}")
                    if sheet is not None:
                        with _written(f"sheet={command.sheet}"):
                            sheet.add(_cell(prediction, lines, sheet.form.bars))
                done += len(batch)
                progress(done, len(names))
    except BrokenPipeError:  # the reader of our lines has left: a quiet end
        heard = False
        raise
    finally:  # what was done is shown, also when interrupted
        if sheet is not None:
            with _written(f"sheet={command.sheet}"):
                sheet.close()
            if sheet.written:
                ends = dict.fromkeys((sheet.written[0], sheet.written[-1]))
                _tell(f"wrote {' to '.join(map(str, ends))}")
        if heard:
            good = f"{done - bad:,} image{'s' * (done - bad != 1)}"
            _tell(f"{good}, {bad:,} bad" + ("" if done == len(names) else f", of {len(names):,} names"))
    if bad == done:
        raise UserError("images: none of these can be read" if done > 1 else "images: the only one cannot be read")
    return 0


def _tell(line: str) -> None:
    print("vim-predict: " + line.replace("\n", "\\n"), file=sys.stderr, flush=True)


@contextmanager
def _written(what: str) -> Iterator[None]:
    """Raises UserError: a file, named as the user did, cannot be written."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{what}: {error.strerror}") from error


def _open(command: PredictCommand) -> tuple[Pretrained, str]:
    """The checkpoint, and which of its weights to take."""
    wanted = Weights.both if command.weights is PredictWeights.auto else Weights[command.weights.name]
    found = open_pretrained(command.checkpoint, wanted)
    which = better_weights(found)
    for note in found.notes:
        _tell(note)
    if command.weights is PredictWeights.auto:
        top1 = [f"{key} {found.metrics[f'{prefix}/top1']:.2f} %" for key, prefix in _PREFIX.items()
                if f"{prefix}/top1" in found.metrics]  # fmt: skip
        why = f"top-1 in the run's evaluation: {', '.join(top1)}" if len(top1) == 2 else "model and ema never compared"
        _tell(f"weights={which} ({why if len(found.weights) > 1 else 'it has no others'})")
    return found, which


def better_weights(found: Pretrained) -> str:
    """`ema` where it was the better in the run's own evaluation, or is all there is; else `model`."""
    if len(found.weights) == 1:
        return next(iter(found.weights))
    model, ema = (found.metrics.get(f"{prefix}/top1") for prefix in _PREFIX.values())
    return "ema" if model is not None and ema is not None and ema > model else "model"


def _predictor(found: Pretrained, which: str, command: PredictCommand) -> tuple[list[str], Predictor]:
    """Names of the classes by label, and the model."""
    device = choose_device(command.device)
    configure_torch(command.ops, found.cfg.determinism, device)
    data = _data(found.cfg.data, command.data)
    classes = found.classes or [f"class {i}" for i in range(_num_classes(found, which))]
    model = found.build(which, len(classes), data.img_size, device).requires_grad_(False)
    explained = command.explain
    side = (EXPLAINED if explained else PLAIN).side if explained or command.sheet is not None else None
    return classes, Predictor(
        model,
        data,
        "L" if found.cfg.model.in_chans == 1 else "RGB",
        device,
        set_precision(command.precision.amp, device),
        command.topk,
        side,
        EXPLAIN[command.explain_method][0] if explained else None,
        found.cfg.run.hang_timeout_s,
    )


def _data(saved: DataConfig, wanted: PredictDataConfig) -> DataConfig:
    return replace(saved, **{key: value for key, value in asdict(wanted).items() if value is not None})


def _num_classes(found: Pretrained, which: str) -> int:
    """Rows of the head's weight, where a checkpoint names no classes."""
    pretrained = timm.models.get_pretrained_cfg(found.cfg.model.name)
    head = (pretrained and pretrained.classifier) or "head"
    weight = found.weights[which].get(f"{head}.weight") if isinstance(head, str) else None
    if weight is None:
        raise UserError(f"checkpoint={found.checkpoint}: names no classes, and has no {head}.weight to count them by")
    return len(weight)


class Lines:
    """JSON lines of predictions."""

    def __init__(self, classes: Sequence[str], topk: int) -> None:
        self._classes, self._names, self._topk = classes, [words().get(name, name) for name in classes], topk

    def of(self, prediction: Prediction) -> str:
        """An object: path, and label, class, name, prob and topk, or error."""
        if prediction.error is not None:
            return json.dumps({"path": prediction.path, "error": prediction.error})
        topk = [self._named(*pair) for pair in zip(prediction.labels, prediction.probs, strict=True)]
        return json.dumps({"path": prediction.path, **topk[0], "topk": topk[: self._topk]})

    def _named(self, label: int, prob: float) -> dict[str, object]:
        return {"label": label, "class": self._classes[label], "name": self._names[label], "prob": prob}

    def short(self, label: int) -> str:
        """A name for a narrow place."""
        return short_name(self._classes[label])


def _sheet(command: PredictCommand, found: Pretrained, which: str, images: int) -> Sheet | None:
    if command.sheet is None and not command.explain:
        return None
    path = Path(command.sheet or "explain.png")
    note = f"{images:,} images" + (f"; {EXPLAIN[command.explain_method][1]}" if command.explain else "")
    step = "" if found.step is None else f", step {found.step:,}"
    title = f"{found.checkpoint}{step}, {which} weights"
    return Sheet(path, images, EXPLAINED if command.explain else PLAIN, title, note)


def _cell(prediction: Prediction, lines: Lines, bars: int) -> Cell:
    name = Path(prediction.path).name
    if prediction.error is not None:
        return Cell(name, None, problem=prediction.error)
    pairs = zip(prediction.labels[:bars], prediction.probs, strict=False)
    return Cell(name, prediction.view, [(lines.short(label), prob) for label, prob in pairs], prediction.heat)


@contextmanager
def _output(path: str | None) -> Iterator[Callable[[str], None]]:
    """Writes at once, to standard output or the file. Raises UserError: it cannot be written."""
    if path is None:
        yield partial(print, end="", flush=True)
        return
    with _written(f"out={path}"):
        file = open(path, "w", encoding="utf-8")  # noqa: SIM115

    def write(text: str) -> None:
        with _written(f"out={path}"):
            file.write(text)
            file.flush()

    try:
        yield write
    finally:
        with suppress(OSError):  # told already
            file.close()
