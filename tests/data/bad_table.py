"""Every kind of odd image and of fault of a class tree, under each policy. Run: python tests/data/bad_table.py PHOTOS.

Prints what happened and the line that was printed, as a table in Markdown.
"""

import os
import re
import shutil
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, PngImagePlugin

from vim_train.config.errors import UserError
from vim_train.config.schema import AugmentConfig, BadImages, DataConfig, DataName, TrainConfig
from vim_train.data.sources import open_source
from vim_train.data.stream import EvalStream, TrainStream

SIDE = 32
POLICIES = ("train, stop", "train, skip", "evaluation")


class Outcome(NamedTuple):
    what: str
    """read, replaced or stopped"""
    line: str


def tree(photos: Path, root: Path) -> None:
    """train/ and val/ of the photographs, two of each class to validate."""
    for folder in sorted(path for path in photos.iterdir() if path.is_dir()):
        for i, file in enumerate(sorted(folder.glob("*.jpg"))):
            target = root / ("val" if i < 2 else "train") / folder.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def config(root: Path, bad_images: BadImages, workers: int = 0) -> TrainConfig:
    cfg = TrainConfig(seed=3)
    cfg.augment = AugmentConfig(mixup_alpha=0, cutmix_alpha=0)
    cfg.data = DataConfig(
        name=DataName.folder, root=str(root), img_size=SIDE, batch_size=1, eval_batch_size=8, lane=1, workers=workers
    )
    cfg.data.bad_images = bad_images
    return cfg


def look(root: Path, policy: str, workers: int = 0) -> Outcome:
    """One pass over all training, or all validation, images of `root`."""
    cfg = config(root, BadImages.skip if "skip" in policy else BadImages.stop, workers)
    try:
        if policy == "evaluation":
            stream = EvalStream(open_source(cfg.data, "val"), cfg, torch.device("cpu"))
            try:
                labels = [int(label) for batch in stream for label in batch.labels]
            finally:
                stream.close()
            assert labels == stream._source.labels.tolist(), "mislabelled"
            return Outcome("read", "")
        source = open_source(cfg.data, "train")
        train = TrainStream(source, cfg, len(source.classes), torch.device("cpu"))
        seen = [int(batch.labels[0]) for batch in train.batches(0, train.steps_per_epoch)]
        assert sorted(seen) == sorted(source.labels.tolist()), "mislabelled"
    except UserError as error:
        return Outcome("stopped", str(error))
    if not train.bad_images:
        return Outcome("read", "")
    [bad] = train.bad_images
    return Outcome("replaced", f"replaced {bad.path} (class {bad.class_name}): {bad.reason}")


def png(mode: str, path: Path, **more: object) -> None:
    with Image.open(path) as image:
        picture = image.convert("RGB").convert(mode) if mode != "I;16" else sixteen(image)
        picture.save(path, "PNG", **more)


def sixteen(image: Image.Image) -> Image.Image:
    grey = image.convert("L")
    return Image.frombytes("I;16", grey.size, b"".join(struct.pack("<H", 257 * value) for value in grey.tobytes()))


def as_format(kind: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with Image.open(path) as image:
            image.convert("RGB").save(path, kind)

    return write


def animated(path: Path) -> None:
    with Image.open(path) as image:
        frames = [image.convert("P"), image.rotate(90).convert("P")]
    frames[0].save(path, "GIF", save_all=True, append_images=frames[1:])


def cut(share: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])  # type: ignore[func-returns-value]


def bytes_of(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data)  # type: ignore[func-returns-value]


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 2, len(data) // 2 + 5):
        data[place] = 0x55
    path.write_bytes(data)


def jpeg(mode: str, **more: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with Image.open(path) as image:
            image.convert(mode).save(path, "JPEG", **more)

    return write


def rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    jpeg("RGB", exif=exif)(path)


def huge(side: int) -> Callable[[Path], None]:
    """A header that promises `side` squared pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return bytes_of(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b""))


def text_bomb(path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("key", "x" * 3_000_000, zip=True)
    png("RGB", path, pnginfo=info)


def instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.unlink()
        make(path)

    return write


def loop(path: Path) -> None:
    path.symlink_to(path.with_name("other.lnk"))
    path.with_name("other.lnk").symlink_to(path)


SOUND: dict[str, Callable[[Path], None]] = {
    "5 bytes changed in the scan": flipped,
    "junk behind the end": lambda path: path.write_bytes(path.read_bytes() + b"junk" * 99),  # type: ignore[func-returns-value]
    "PNG named .jpg": as_format("PNG"),
    "WEBP named .jpg": as_format("WEBP"),
    "GIF named .jpg": as_format("GIF"),
    "animated GIF": animated,
    "CMYK JPEG": jpeg("CMYK"),
    "grey JPEG": jpeg("L"),
    "progressive JPEG": jpeg("RGB", progressive=True),
    "EXIF orientation 6": rotated,
    "LA PNG": lambda path: png("LA", path),
    "RGBA PNG": lambda path: png("RGBA", path),
    "P PNG with transparency": lambda path: png("P", path, transparency=0),
    "1-bit PNG": lambda path: png("1", path),
    "16-bit grey PNG": lambda path: png("I;16", path),
    "folder named .jpg": instead(os.mkdir),
}
"""Odd, but a picture: read under every policy."""
BAD: dict[str, Callable[[Path], None]] = {
    "zero bytes": bytes_of(b""),
    "HTML": bytes_of(b"<html><body>404</body></html>"),
    "text": bytes_of(b"no picture\n"),
    "cut at 5 %": cut(0.05),
    "cut at 50 %": cut(0.5),
    "cut at 90 %": cut(0.9),
    "cut at 99.9 %": cut(0.999),
    "60,000 x 60,000 header": huge(60_000),
    "13,000 x 13,000 header": huge(13_000),
    "text chunk of 3 MB": text_bomb,
    "32-bit float TIFF": lambda path: Image.new("F", (40, 40), 0.5).save(path, "TIFF"),
    "dangling link": instead(lambda path: path.symlink_to("nowhere")),
    "link loop": instead(loop),
    "FIFO": instead(os.mkfifo),
    "device": instead(lambda path: path.symlink_to("/dev/zero")),
    "gone in mid-epoch": instead(lambda path: None),
}
"""No picture that can be trusted: stops, or is replaced where that is asked for."""


def picture_outcome(photos: Path, kind: str, policy: str, workers: int = 0) -> Outcome:
    """What happens with one image of this kind among sound ones."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "data"
        tree(photos, root)
        path = root / ("val/tool/hammer1.jpg" if policy == "evaluation" else "train/tool/plier1.jpg")
        if not path.exists():  # another set of photographs
            path = sorted((root / ("val" if policy == "evaluation" else "train")).glob("*/*.jpg"))[-1]
        if kind == "gone in mid-epoch":
            return _gone(root, path, policy, workers)
        {**SOUND, **BAD}[kind](path)
        found = look(root, policy, workers)
        return found._replace(line=found.line.replace(name, ""))


def _gone(root: Path, path: Path, policy: str, workers: int) -> Outcome:
    """The file is there when the data set is opened."""
    real = Path.exists
    cfg = config(root, BadImages.skip if "skip" in policy else BadImages.stop, workers)
    assert real(path)
    source = open_source(cfg.data, "val" if policy == "evaluation" else "train")
    path.unlink()
    try:
        if policy == "evaluation":
            stream = EvalStream(source, cfg, torch.device("cpu"))
            list(stream)
            return Outcome("read", "")
        train = TrainStream(source, cfg, len(source.classes), torch.device("cpu"))
        seen = [int(batch.labels[0]) for batch in train.batches(0, train.steps_per_epoch)]
    except UserError as error:
        return Outcome("stopped", str(error).replace(str(root.parent), ""))
    assert sorted(seen) == sorted(source.labels.tolist()), "mislabelled"
    [bad] = train.bad_images
    return Outcome(
        "replaced", f"replaced {bad.path.replace(str(root.parent), '')} (class {bad.class_name}): {bad.reason}"
    )


def flat(root: Path, lines: Callable[[list[str]], list[str]]) -> None:
    """val/ without class folders, with the lines of its labels as `lines` makes them."""
    labels = []
    for file in sorted((root / "val").glob("*/*.jpg")):
        labels.append(f"{file.name} {file.parent.name}")
        file.rename(root / "val" / file.name)
    for folder in (path for path in (root / "val").iterdir() if path.is_dir()):
        folder.rmdir()
    (root / "val_labels.txt").write_text("\n".join(lines(labels)) + "\n")


def copied(root: Path, name: str) -> None:
    first = sorted(path for path in root.iterdir() if path.is_dir())[0]
    shutil.copytree(first, root / name)


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


TREES: dict[str, Callable[[Path], object]] = {
    "class folder missing in val": lambda root: shutil.rmtree(root / "val" / "tool"),
    "class folder missing in train": lambda root: shutil.rmtree(root / "train" / "tool"),
    "class folder empty in train": lambda root: emptied(root / "train" / "tool"),
    "class folder empty in val": lambda root: emptied(root / "val" / "tool"),
    "stray class folder in train": lambda root: copied(root / "train", "copy"),
    "stray class folder in val": lambda root: copied(root / "val", "copy"),
    "dot-directory in train": lambda root: copied(root / "train", ".ipynb_checkpoints"),
    "names that differ in case, train and val": lambda root: (root / "val" / "tool").rename(root / "val" / "Tool"),
    "names that differ in case, both in train": lambda root: (
        copied(root / "train", "TOOL"), copied(root / "val", "TOOL")
    ),
    "images beside the class folders": lambda root: shutil.copyfile(
        next((root / "val").glob("*/*.jpg")), root / "val" / "stray.jpg"
    ),
    "flat val without labels": lambda root: (flat(root, list), (root / "val_labels.txt").unlink()),
    "label file lacks an image": lambda root: flat(root, lambda lines: lines[1:]),
    "label file names an unknown image": lambda root: flat(root, lambda lines: [*lines, "other.jpg tool"]),
    "label file names an unknown class": lambda root: flat(root, lambda lines: [lines[0] + "s", *lines[1:]]),
    "label file of bare numbers": lambda root: flat(root, lambda lines: [line.split()[0] + " 3" for line in lines]),
}  # fmt: skip
ACCEPTED = {"dot-directory in train"}
EVALUATED_ALL_THE_SAME = {"class folder empty in train", "images beside the class folders"}


def tree_outcome(photos: Path, fault: str, policy: str) -> Outcome:
    """What happens with this fault in a sound tree."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "data"
        tree(photos, root)
        TREES[fault](root)
        found = look(root, policy)
        return found._replace(line=found.line.replace(name, ""))


def main(photos: Path) -> None:
    print("| image or tree | policy | what happened | s | line printed |\n|---|---|---|---|---|")
    for kinds, outcome in (({**SOUND, **BAD}, picture_outcome), (TREES, tree_outcome)):
        for kind in kinds:
            rows: dict[Outcome, list[str]] = {}
            begun = time.perf_counter()
            for policy in POLICIES:
                rows.setdefault(outcome(photos, kind, policy), []).append(policy)
            seconds = (time.perf_counter() - begun) / len(POLICIES)
            for found, policies in rows.items():
                who = "all" if len(policies) == len(POLICIES) else " and ".join(policies)
                print(
                    f"| {kind} | {who} | {found.what} | {seconds:.1f} | {re.sub('[|]', '/', found.line)} |", flush=True
                )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
