"""A source written out as an image folder, which reads back with the same classes, order and pixels."""

import json
import os
from collections.abc import Callable
from pathlib import Path

from vim_train.config.errors import UserError
from vim_train.config.schema import DataConfig
from vim_train.data.decode import BadImage
from vim_train.data.sources import Source, Split, open_source

_MARK = ".export.json"
_SPLITS: tuple[Split, ...] = ("train", "val")


def export_folder(data: DataConfig, out_dir: Path, progress: Callable[[int, int], None] | None = None) -> int:
    """Write both splits of `data` as out_dir/{train,val}/CLASS/INDEX.png, lossless. Started again, it goes on.

    Args:
        progress: called with (images there, images in all) now and then, and at the end.

    Returns:
        Number of images.

    Raises:
        UserError: `out_dir` holds something else or cannot be written, or an image cannot be decoded.
    """
    sources = {split: open_source(data, split) for split in _SPLITS}
    total = sum(len(source) for source in sources.values())
    done = 0
    try:
        _claim(out_dir, {split: source.fingerprint() for split, source in sources.items()})
        for split, source in sources.items():
            for name in source.classes:
                (out_dir / split / name).mkdir(parents=True, exist_ok=True)
            for index in range(len(source)):
                _write(source, index, out_dir / split)
                done += 1
                if progress is not None and (done % 100 == 0 or done == total):
                    progress(done, total)
    except BadImage as error:
        raise UserError(f"{error.path} cannot be decoded: {error.reason}") from error
    except OSError as error:
        raise UserError(f"{out_dir} cannot be written: {error.strerror or error}") from error
    return total


def _claim(out_dir: Path, fingerprints: dict[str, str]) -> None:
    """Mark `out_dir` as this export's, unless it is another's."""
    out_dir.mkdir(parents=True, exist_ok=True)
    mark = out_dir / _MARK
    if mark.exists():
        if json.loads(mark.read_text()) != fingerprints:
            raise UserError(f"{out_dir} holds the export of other data; choose a new folder or remove it")
    elif any(out_dir.iterdir()):
        raise UserError(f"{out_dir} is not empty; choose a new folder")
    else:
        mark.write_text(json.dumps(fingerprints))


def _write(source: Source, index: int, base: Path) -> None:
    """Whole or absent: under a dot-name, which readers skip, until it is complete."""
    folder = base / source.classes[source.labels[index]]
    target, part = folder / f"{index:08d}.png", folder / f".{index:08d}.part"
    if target.exists():
        return
    source.load(index, source.native_mode).save(part, format="PNG")
    os.replace(part, target)
