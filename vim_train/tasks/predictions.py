"""What a model said of a set of images, in one file: every metric is a function of this."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vim_train.engine.durable import make_dir, write_file

_ARRAYS = ("suite", "names", "labels", "logits", "classes")
_OF = "of"
_TIMELESS = (1980, 1, 1, 0, 0, 0)
"""In place of the time of day, so that equal predictions are equal files."""


@dataclass(frozen=True)
class Predictions:
    """What a model said of a set of images, and what they are; every metric is a function of this."""

    suite: str
    """"val", "real", "v2_matched_frequency", …, "c/gaussian_noise/3"."""
    names: list[str]
    """(N,) file name or path of each image, in the source's order."""
    labels: NDArray[np.int64]
    """(N,) index into `classes`; -1 where there is none."""
    logits: NDArray[np.float32]
    """(N, C) over all of the model's classes."""
    classes: list[str]
    """(C,) names by label."""

    def save(self, path: Path, of: str = "") -> None:
        """Write one .npz file, whole or not at all; `of` says what made them, for `made_of`. Raises OSError."""
        arrays = {
            "suite": np.array(self.suite),
            "names": _texts(self.names),
            "labels": self.labels.astype("<i8"),
            "logits": self.logits.astype("<f4"),
            "classes": _texts(self.classes),
            _OF: np.array(of),
        }
        make_dir(path.parent)
        with write_file(path) as file, zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy", _TIMELESS), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    @staticmethod
    def load(path: Path) -> "Predictions":
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: damaged, or no file of predictions.
        """
        suite, names, labels, logits, classes = _read(path, _ARRAYS)
        found = Predictions(str(suite), names.tolist(), labels, logits, classes.tolist())
        if why := _unfit(found):
            raise ValueError(f"{path}: no file of predictions: {why}")
        return found


def made_of(path: Path) -> str | None:
    """What `save` was told made the predictions; None: there is no such file.

    Raises:
        ValueError: damaged, or no file of predictions.
    """
    try:
        return str(_read(path, (_OF,))[0])
    except FileNotFoundError:
        return None


def _texts(words: list[str]) -> NDArray[np.str_]:
    return np.array(words, dtype=f"<U{max(map(len, words), default=1) or 1}")


def _read(path: Path, names: tuple[str, ...]) -> list[NDArray[Any]]:
    """Raises OSError where it cannot be opened, ValueError for whatever else may be wrong with it."""
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                if (damaged := archive.testzip()) is not None:
                    raise ValueError(f"{damaged} has changed since it was written")
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                return [stored[name] for name in names]
        except Exception as error:  # BadZipFile, KeyError, EOFError, OSError, MemoryError, zlib.error, …
            raise ValueError(f"{path}: damaged, or no file of predictions: {error}") from error


def _unfit(found: Predictions) -> str:
    """What does not hold together; nothing where all does."""
    labels, logits = found.labels, found.logits
    if labels.dtype != np.int64 or logits.dtype != np.float32:
        return f"labels of {labels.dtype} and logits of {logits.dtype}"
    if labels.shape != (len(found.names),) or logits.shape != (len(found.names), len(found.classes)):
        counts = f"{len(found.names)} names and {len(found.classes)} classes"
        return f"labels of shape {labels.shape} and logits of {logits.shape} for {counts}"
    if len(labels) and not (labels.min() >= -1 and labels.max() < len(found.classes)):
        return f"labels from {labels.min()} to {labels.max()} for {len(found.classes)} classes"
    return ""
